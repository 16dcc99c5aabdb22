-- What the server makes by itself where its account may; this script is for accounts that may not. It
-- leaves alone what is there. To tables that existing servers made the server adds its columns and
-- indexes when it starts; where its account may not, run the commented statements once.
CREATE DATABASE IF NOT EXISTS `tnv_idsdb` DEFAULT CHARACTER SET utf8mb4;
USE `tnv_idsdb`;

CREATE TABLE IF NOT EXISTS `t_id_gen` (
  `id` varchar(64) NOT NULL PRIMARY KEY,
  `id_value` bigint,
  `create_time` timestamp NULL DEFAULT CURRENT_TIMESTAMP,
  `update_time` timestamp NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
  `own_value` bigint NULL,
  `upper_value` bigint NULL,
  `server_id` bigint NULL
) ENGINE=InnoDB DEFAULT CHARACTER SET=utf8mb4 ROW_FORMAT=DYNAMIC;
-- ALTER TABLE `t_id_gen` ADD COLUMN `own_value` bigint NULL;
-- ALTER TABLE `t_id_gen` ADD COLUMN `upper_value` bigint NULL;
-- ALTER TABLE `t_id_gen` ADD COLUMN `server_id` bigint NULL;
