//! What an operator may rely on when writing a configuration.

use super::keys::*;
use super::kinds::Space;
use super::*;
use crate::db::{Charset, Tls};
use std::time::Duration;

fn load(part: Part, settings: &str) -> Result<Config, Vec<String>> {
    let text = format!("service x {{\n{settings}\n}}\n");
    Config::from_text(part, Path::new("t.cfg"), text.as_bytes()).map_err(texts)
}

fn texts(errors: Vec<ConfigError>) -> Vec<String> {
    errors.iter().map(ConfigError::to_string).collect()
}

fn good(part: Part, settings: &str) -> Config {
    load(part, settings).unwrap_or_else(|errors| panic!("{errors:?}"))
}

fn bad(part: Part, settings: &str) -> Vec<String> {
    load(part, settings).err().expect("it has errors")
}

/// A file of this test's own, with these bytes.
fn temporary(name: &str, bytes: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tnv-config-{}-{name}", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn the_defaults_are_those_of_the_existing_system() {
    let tracker = good(Part::Tracker, "");
    assert_eq!(tracker.get(&TNV_APPS_ID).unwrap()[0].as_str(), "tnvideo");
    assert_eq!(tracker.get(&CHECK_ACTIVE_INTERVAL).unwrap(), Duration::from_secs(120));
    assert_eq!(tracker.get(&MYSQL_RW_TIMEOUT).unwrap(), Duration::from_secs(30));
    assert_eq!(tracker.get(&REDIS_KEY_TIMEOUT).unwrap(), Duration::from_secs(60));
    assert_eq!(tracker.get(&TNV_GROUPS).unwrap()[0].as_str(), "group001");
    assert_eq!(good(Part::IdServer, "").get(&IDINC_MAX_STEP).unwrap(), 100);
    let storage = good(Part::Storage, "");
    assert_eq!(storage.get(&TNV_GROUP_NAME).unwrap().as_str(), "group001");
    assert_eq!(storage.get(&TNV_STORE_PATHS).unwrap()[0].as_str(), "../data");
    assert_eq!(storage.get(&TNV_TRACKER_ADDRS).unwrap(), ["127.0.0.1:21000"]);
    assert_eq!(storage.get(&TNV_IDS_ADDRS).unwrap(), ["127.0.0.1:22000"]);
    assert_eq!(storage.get(&TNV_HEART_BEAT_INTERVAL).unwrap(), Duration::from_secs(10));
    assert_eq!(storage.get(&TNV_RESERVED_SPACE).unwrap(), Space::Percent(5));
    assert!(storage.get(&TNV_FSYNC).unwrap());
    let httpd = good(Part::Httpd, "");
    assert_eq!(httpd.get(&TNV_HTTP_APPID).unwrap().as_str(), "tnvideo");
    assert_eq!(httpd.get(&TNV_HTTP_USERID).unwrap().as_str(), "tnv001");
    for part in Part::ALL {
        let common = good(part, "").common().unwrap();
        assert_eq!(common.bind, ([127, 0, 0, 1], part.default_port()).into());
        assert_eq!((common.threads, common.stop_timeout), (1024, Duration::from_secs(30)));
        assert!(common.max_conns >= 1 && common.max_conns <= 20_000);
        assert_eq!(common.log_file, None);
    }
}

#[test]
fn a_key_that_was_renamed_is_still_known_by_its_old_name() {
    let config = good(Part::Storage, "tnv_store_reserve = 64M");
    assert_eq!(config.get(&TNV_RESERVED_SPACE).unwrap(), Space::Bytes(64 << 20));
    assert_eq!(
        bad(Part::Storage, "tnv_reserved_space = 1G\ntnv_store_reserve = 1G"),
        [
            "t.cfg:3: tnv_store_reserve, got it beside tnv_reserved_space on line 2, want one of the two: they \
             are one key"
        ]
    );
    assert!(
        bad(Part::Storage, "tnv_store_reserve = x")[0].starts_with("t.cfg:2: tnv_reserved_space, got 'x'")
    );
    assert!(bad(Part::Tracker, "tnv_store_reserve = 1G")[0].contains("belongs to tnv-storage"));
}

#[test]
fn an_empty_value_means_the_default() {
    let config = good(Part::Tracker, "tnv_apps_id =\nmysql_addrs = \ntnv_log_file =");
    assert_eq!(config.get(&TNV_APPS_ID).unwrap()[0].as_str(), "tnvideo");
    assert!(!config.is_set(&TNV_APPS_ID));
    assert_eq!(config.database().unwrap().addresses, Vec::<String>::new());
    assert_eq!(config.common().unwrap().log_file, None);
}

#[test]
fn every_bad_value_of_a_file_is_told_with_its_line() {
    let settings =
        "tnv_threads = 0\nnonsense\ntnv_groups = g1;g1\ncheck_active_interval = 2m\ntnv_bind = a:b";
    assert_eq!(
        bad(Part::Tracker, settings),
        [
            "t.cfg:2: tnv_threads, got '0', want a whole number from 1 to 65536",
            "t.cfg:3: missing '=', got 'nonsense', want 'key = value', or '}' at the end",
            "t.cfg:4: tnv_groups, got 'g1' twice, want group names of 1 to 16 ASCII letters and digits, separated \
             by ;, none twice",
            "t.cfg:5: check_active_interval, got '2m', want seconds from 1 to 86400, without a unit",
            "t.cfg:6: tnv_bind, got 'a:b', want host or host:port, an IPv6 address in [ ]",
        ]
    );
}

#[test]
fn an_unknown_key_gets_a_suggestion() {
    assert_eq!(
        bad(Part::IdServer, "idinc_maxstep = 5\ntnv_store_paths = /srv"),
        [
            "t.cfg:2: unknown key, got 'idinc_maxstep', want 'idinc_max_step'",
            "t.cfg:3: unknown key, got 'tnv_store_paths', want a key of tnv-idserver; this one belongs to tnv-storage",
        ]
    );
    let long = bad(Part::IdServer, &format!("{} = 5", "k".repeat(10_000)));
    assert!(long[0].len() < 300, "{long:?}");
}

#[test]
fn keys_of_existing_files_are_accepted_with_a_line_each() {
    let settings = "redis_addrs = 127.0.0.1:6379\nredis_key_timeout = 300\nioctl_max_threads = 250\n\
                    use_redis_session = on\nioctl_new = 1\nredis_new =";
    for part in Part::ALL {
        let notices = good(part, settings).notices();
        assert_eq!(notices.len(), 6, "{part}: {notices:?}");
        assert!(notices[2].starts_with("t.cfg:4: ioctl_max_threads: tnv_threads"), "{notices:?}");
    }
    let tracker = good(Part::Tracker, settings);
    assert_eq!(tracker.get(&REDIS_KEY_TIMEOUT).unwrap(), Duration::from_secs(300));
    assert!(bad(Part::Tracker, "redis_key_timeout = soon")[0].starts_with("t.cfg:2: redis_key_timeout"));
}

/// The story: operators tune the acl library with its own keys in the same file, and each was a fatal error whose
/// hint named some other key.
#[test]
fn keys_of_the_acl_library_are_accepted_with_a_line_each() {
    let settings = "master_log = /var/log/x.log\nmaster_args = -f\nmaster_debug = on\nmaster_maxproc = 1\n\
                    mempool_limit = 100\nmempool_use_mmap = 1\nmaster_of_anything =";
    for part in Part::ALL {
        let notices = good(part, settings).notices();
        assert_eq!(notices.len(), 7, "{part}: {notices:?}");
        assert!(notices[0].starts_with("t.cfg:2: master_log: tnv_log_file"), "{notices:?}");
    }
}

#[test]
fn a_storage_port_sets_the_port_of_the_address() {
    let bind = |settings: &str| good(Part::Storage, settings).common().unwrap().bind.to_string();
    assert_eq!(bind("tnv_bind = 127.0.0.2"), "127.0.0.2:23000");
    assert_eq!(bind("tnv_bind = 127.0.0.2:5"), "127.0.0.2:5");
    assert_eq!(bind("tnv_storage_port = 23001"), "127.0.0.1:23001");
    assert_eq!(bind("tnv_bind = [::1]:5\ntnv_storage_port = 23001"), "[::1]:23001");
    let notices = good(Part::Storage, "tnv_bind = 127.0.0.1:5\ntnv_storage_port = 23001").notices();
    assert_eq!(notices, ["t.cfg:2: tnv_bind: tnv_storage_port sets the port to 23001"]);
    assert!(good(Part::Tracker, "tnv_bind = localhost:0").common().unwrap().bind.is_ipv4());
}

#[test]
fn no_more_connections_are_promised_than_descriptors_allow() {
    let config = good(Part::Httpd, "tnv_max_conns = 1000000\ntnv_threads = 65536");
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit < 1_000_000 {
        assert!((config.common().unwrap().max_conns as u64) < limit);
        assert!(config.notices()[0].contains("the limit of open files"));
    }
}

#[test]
fn the_password_comes_from_the_file_or_from_its_own_file_and_is_never_shown() {
    let database = |settings: &str| good(Part::IdServer, settings).database().map_err(texts);
    let settings = database("mysql_addrs = db1;db2:3307\nmysql_user = tnv\nmysql_pass = a#b = c").unwrap();
    assert_eq!(settings.addresses, ["db1", "db2:3307"]);
    assert_eq!((settings.user.as_str(), settings.password.expose()), ("tnv", "a#b = c"));
    assert!(!format!("{settings:?}").contains("a#b"));

    let file = temporary("pass", b" hunter2 \r\nsecond line\n");
    let named = format!("mysql_pass_file = {}", file.display());
    assert_eq!(database(&named).unwrap().password.expose(), " hunter2 ");
    let both = database(&format!("mysql_pass = x\n{named}")).unwrap_err();
    assert_eq!(both, ["t.cfg:3: mysql_pass_file, got it beside mysql_pass on line 2, want one of the two"]);
    // As editors on Windows write it: the story is that the mark became part of the password.
    std::fs::write(&file, b"\xEF\xBB\xBFhunter2\r\n").unwrap();
    assert_eq!(database(&named).unwrap().password.expose(), "hunter2");
    std::fs::write(&file, b"\xFF\xFEh\0u\0").unwrap();
    assert!(database(&named).unwrap_err()[0].contains("UTF-16"));
    std::fs::write(&file, vec![b'x'; 5000]).unwrap();
    assert!(database(&named).unwrap_err()[0].contains("over 4096 bytes"));
    std::fs::remove_file(&file).unwrap();
    assert!(database(&named).unwrap_err()[0].starts_with("t.cfg:2: mysql_pass_file, got"));
}

#[test]
fn tls_to_mysql_is_off_unless_it_is_asked_for_and_what_would_not_be_checked_is_refused() {
    let database = |settings: &str| good(Part::Storage, settings).database().map_err(texts);
    let tls = |settings: &str| database(settings).map(|settings| settings.tls);
    assert_eq!(tls(""), Ok(Tls::Off));
    assert_eq!(tls("mysql_tls = required"), Ok(Tls::Required));
    assert_eq!(tls("mysql_tls = verify"), Ok(Tls::Verify { ca_file: None }));
    let file = temporary("ca.pem", b"-----BEGIN CERTIFICATE-----\n");
    let named = format!("mysql_tls_ca_file = {}", file.display());
    let verified = Tls::Verify { ca_file: Some(file.clone()) };
    assert_eq!(tls(&format!("mysql_tls = verify\n{named}")), Ok(verified));
    for mode in ["off", "required"] {
        let errors = tls(&format!("mysql_tls = {mode}\n{named}")).unwrap_err();
        assert!(errors[0].starts_with("t.cfg:3: mysql_tls_ca_file, got"), "{errors:?}");
    }
    for content in [&b"no certificate"[..], b"", &vec![b'x'; 5 << 20]] {
        std::fs::write(&file, content).unwrap();
        assert!(tls(&format!("mysql_tls = verify\n{named}")).is_err());
    }
    std::fs::remove_file(&file).unwrap();
    assert!(tls(&format!("mysql_tls = verify\n{named}")).is_err());
    assert_eq!(database("mysql_charset = latin1").map(|settings| settings.charset), Ok(Charset::Latin1));
}

#[test]
fn a_file_that_is_not_there_is_told_with_the_places() {
    let error = texts(Config::load(Part::Tracker, Some(Path::new("/nonexistent/x.cfg"))).err().unwrap());
    assert!(
        error[0].starts_with("/nonexistent/x.cfg: cannot read the configuration, got No such file"),
        "{error:?}"
    );
    assert!(Config::load(Part::Tracker, Some(Path::new("/"))).is_err(), "a directory");
    // The tests run in common/: it has no etc/, and ../etc/ is where the shipped files are.
    let config = Config::load(Part::Tracker, None).map_err(texts).unwrap();
    assert!(config.file().ends_with("etc/tracker.cfg"));
}

#[test]
fn a_setting_that_only_its_server_can_check_points_to_its_line() {
    let config = good(Part::Storage, "tnv_group_name = g\ntnv_store_paths = /nope");
    let error = config.error(&TNV_STORE_PATHS, "/nope: no such directory", "directories that can be written");
    assert_eq!(
        error.to_string(),
        "t.cfg:3: tnv_store_paths, got /nope: no such directory, want directories that can be written"
    );
    assert_eq!(config.error(&TNV_DB_PATH, "a", "b").line, Some(1), "where it would be added");
}
