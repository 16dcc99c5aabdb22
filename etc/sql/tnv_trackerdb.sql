-- What the server makes by itself where its account may; this script is for accounts that may not. It
-- leaves alone what is there. To tables that existing servers made the server adds its columns and
-- indexes when it starts; where its account may not, run the commented statements once.
CREATE DATABASE IF NOT EXISTS `tnv_trackerdb` DEFAULT CHARACTER SET utf8mb4;
USE `tnv_trackerdb`;

CREATE TABLE IF NOT EXISTS `t_groups_info` (
  `id` int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY,
  `group_name` varchar(32),
  `create_time` timestamp NULL DEFAULT CURRENT_TIMESTAMP,
  `update_time` timestamp NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP
) ENGINE=InnoDB DEFAULT CHARACTER SET=utf8mb4 ROW_FORMAT=DYNAMIC;

CREATE TABLE IF NOT EXISTS `t_router` (
  `id` int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY,
  `appid` varchar(32),
  `userid` varchar(128),
  `group_name` varchar(32),
  `create_time` timestamp NULL DEFAULT CURRENT_TIMESTAMP,
  `update_time` timestamp NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
  `route_key` varbinary(255) NULL,
  UNIQUE KEY `route_key` (route_key),
  KEY `userid` (userid)
) ENGINE=InnoDB DEFAULT CHARACTER SET=utf8mb4 ROW_FORMAT=DYNAMIC;
-- ALTER TABLE `t_router` ADD COLUMN `route_key` varbinary(255) NULL;
-- ALTER TABLE `t_router` ADD UNIQUE INDEX `route_key` (route_key);
-- ALTER TABLE `t_router` ADD INDEX `userid` (userid);
