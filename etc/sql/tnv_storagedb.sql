-- What the server makes by itself where its account may; this script is for accounts that may not. It
-- leaves alone what is there. To tables that existing servers made the server adds its columns and
-- indexes when it starts; where its account may not, run the commented statements once.
CREATE DATABASE IF NOT EXISTS `tnv_storagedb` DEFAULT CHARACTER SET utf8mb4;
USE `tnv_storagedb`;

CREATE TABLE IF NOT EXISTS `t_file_01` (
  `id` varchar(256) NOT NULL PRIMARY KEY,
  `appid` varchar(32),
  `userid` varchar(128),
  `status` tinyint,
  `file_path` varchar(512),
  `file_size` bigint,
  `create_time` timestamp NULL DEFAULT CURRENT_TIMESTAMP,
  `update_time` timestamp NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
  `checksum` bigint NULL,
  `group_name` varchar(32) NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET=utf8mb4 ROW_FORMAT=DYNAMIC;
-- ALTER TABLE `t_file_01` ADD COLUMN `checksum` bigint NULL;
-- ALTER TABLE `t_file_01` ADD COLUMN `group_name` varchar(32) NULL;

CREATE TABLE IF NOT EXISTS `t_file_02` (
  `id` varchar(256) NOT NULL PRIMARY KEY,
  `appid` varchar(32),
  `userid` varchar(128),
  `status` tinyint,
  `file_path` varchar(512),
  `file_size` bigint,
  `create_time` timestamp NULL DEFAULT CURRENT_TIMESTAMP,
  `update_time` timestamp NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
  `checksum` bigint NULL,
  `group_name` varchar(32) NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET=utf8mb4 ROW_FORMAT=DYNAMIC;
-- ALTER TABLE `t_file_02` ADD COLUMN `checksum` bigint NULL;
-- ALTER TABLE `t_file_02` ADD COLUMN `group_name` varchar(32) NULL;

CREATE TABLE IF NOT EXISTS `t_file_03` (
  `id` varchar(256) NOT NULL PRIMARY KEY,
  `appid` varchar(32),
  `userid` varchar(128),
  `status` tinyint,
  `file_path` varchar(512),
  `file_size` bigint,
  `create_time` timestamp NULL DEFAULT CURRENT_TIMESTAMP,
  `update_time` timestamp NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
  `checksum` bigint NULL,
  `group_name` varchar(32) NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET=utf8mb4 ROW_FORMAT=DYNAMIC;
-- ALTER TABLE `t_file_03` ADD COLUMN `checksum` bigint NULL;
-- ALTER TABLE `t_file_03` ADD COLUMN `group_name` varchar(32) NULL;
