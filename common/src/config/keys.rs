//! The one table of keys: what each is called, which servers have it, its form, its default and its
//! meaning. The parser, the typed look-ups, the shipped files and the documentation all come from
//! here.

use super::kinds::*;
use super::part::Part;
use crate::db::{Charset, TlsMode};
use crate::proto::names::{AppId, GroupName, UserId};

/// A key, and with its kind the type of its value.
pub struct Key<K> {
    name: &'static str,
    parts: &'static [Part],
    pub(super) kind: K,
    /// `{port}` stands for the default port of the server.
    default: &'static str,
    /// Shipped as a comment with this value, where there is one, instead of set to the default.
    example: Option<&'static str>,
    /// Shipped set to this, where what is safe for a new deployment differs from what leaving the key
    /// out means for those that exist.
    shipped: Option<&'static str>,
    doc: &'static str,
}

/// A key of any kind.
pub trait AnyKey: Sync {
    /// What it is called in the files.
    fn name(&self) -> &'static str;
    /// The servers that have it.
    fn parts(&self) -> &'static [Part];
    /// What it stands at where nothing else is said; empty means that it is not set.
    fn default(&self, part: Part) -> String;
    /// A value to show in a comment, where setting it to the default would say nothing.
    fn example(&self) -> Option<&'static str>;
    /// What the shipped file sets it to, where that is not the default.
    fn shipped(&self) -> Option<&'static str>;
    /// What it means: one paragraph.
    fn doc(&self) -> String;
    /// The form of its value, in words.
    fn form(&self) -> String;
    /// What is wrong with a value, if anything.
    fn check(&self, value: &str) -> Result<(), String>;
}

impl<K: Kind> AnyKey for Key<K> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn parts(&self) -> &'static [Part] {
        self.parts
    }

    fn default(&self, part: Part) -> String {
        self.default.replace("{port}", &part.default_port().to_string())
    }

    fn example(&self) -> Option<&'static str> {
        self.example
    }

    fn shipped(&self) -> Option<&'static str> {
        self.shipped
    }

    fn doc(&self) -> String {
        self.doc.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn form(&self) -> String {
        self.kind.form()
    }

    fn check(&self, value: &str) -> Result<(), String> {
        self.kind.parse(value).map(drop)
    }
}

/// Makes each key a static of its own, and the list of all.
macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $key:ident: $kind:ty = $make:expr, $name:literal, $parts:expr, $default:literal, $example:expr $(, shipped $shipped:literal)?;)+) => {
        $(
            $(#[doc = $doc])+
            pub static $key: Key<$kind> = Key {
                name: $name,
                parts: $parts,
                kind: $make,
                default: $default,
                example: $example,
                shipped: [$($shipped)?].first().copied(),
                doc: concat!($($doc, "\n"),+),
            };
        )+

        /// Every key, in the order of the documentation.
        pub static ALL: &[&dyn AnyKey] = &[$(&$key),+];
    };
}

const SERVERS: &[Part] = &Part::ALL;
const TRACKER: &[Part] = &[Part::Tracker];
const ID: &[Part] = &[Part::IdServer];
const STORAGE: &[Part] = &[Part::Storage];
const HTTPD: &[Part] = &[Part::Httpd];
const CALLERS: &[Part] = &[Part::Storage, Part::Httpd];
const CACHES: &[Part] = &[Part::Tracker, Part::Storage];
const DATABASES: &[Part] = &[Part::Tracker, Part::IdServer, Part::Storage];

/// Generous: it is there to catch milliseconds and typing mistakes.
const DAY: u64 = 86_400;

keys! {
    /// The address to listen on. Without a port it is the server's default one. A storage also
    /// calls its trackers from this address, since they take its address from the connection.
    TNV_BIND: Listen = Listen, "tnv_bind", SERVERS, "127.0.0.1:{port}", None;

    /// The hosts that may connect; all others are closed without an answer. It is the address of the
    /// connection that counts: behind a proxy that is the proxy's. Left out, everybody may;
    /// `0.0.0.0/0;::/0` says so and means it. Servers and clients all need to be in it: storages in
    /// their trackers' and ID servers', HTTP servers in the trackers' and storages'.
    TNV_ALLOW_HOSTS: Networks = Networks, "tnv_allow_hosts", SERVERS, "", None, shipped "127.0.0.0/8;::1/128";

    /// The hosts that may join this tracker as storages and send heartbeats, of those that may
    /// connect. Clients are sent to whoever has joined. Left out, all that may connect may join.
    TNV_ALLOW_JOIN: Networks = Networks, "tnv_allow_join", TRACKER, "", None, shipped "127.0.0.0/8;::1/128";

    /// The applications that this tracker serves.
    TNV_APPS_ID: Names<AppId> = Names::<AppId>::KIND, "tnv_apps_id", TRACKER, "tnvideo", None;

    /// Groups that exist from the start. Those that t_groups_info lacks are added to it; none is
    /// ever removed. Left out, the default is added only where t_groups_info has no group at all. A storage
    /// may join a group that t_groups_info has, or that a user of t_router belongs to.
    TNV_GROUPS: Names<GroupName> = Names::<GroupName>::KIND, "tnv_groups", TRACKER, "group001", Some("group001");

    /// A storage is taken for dead when it has not been heard of for three of its heartbeat
    /// intervals, and at the latest after this time.
    CHECK_ACTIVE_INTERVAL: Seconds = Seconds(1, DAY), "check_active_interval", TRACKER, "120", None;

    /// How many numbers the server takes from the database at once. It counts in memory, and the
    /// database learns of every step; a restart skips at most two steps.
    IDINC_MAX_STEP: Count = Count(1, 1_000_000), "idinc_max_step", ID, "100", None;

    /// The directory where the server keeps what it must not forget, made when it is missing: for each
    /// key the number that it has reached, so that a database that fell back never makes it repeat one.
    /// Several servers may share it: each has a file named after its address. Those of one embedded database
    /// should, since they read each other's. Keep it with the server.
    TNV_STATE_PATH: FilePath = FilePath, "tnv_state_path", ID, "../state", None;

    /// The group that this storage belongs to. All storages of a group keep the same files.
    TNV_GROUP_NAME: Name<GroupName> = Name::<GroupName>::KIND, "tnv_group_name", STORAGE, "group001", None;

    /// What this storage is called whatever its host is: set it where the host name or the address may change, as
    /// with containers. Its journals and its lists of damaged files in the store paths are named by it instead of
    /// by host name, address and port, and trackers show it as HOSTNAME. Each storage of a group needs one of its
    /// own; keep it for as long as its files are there.
    TNV_STORAGE_ID: StorageId = StorageId, "tnv_storage_id", STORAGE, "", Some("storage1");

    /// The directories that files are kept in; each new file goes where there is room. All storages
    /// of a group must have the very same texts here, and see the same files under them: the path
    /// stands in the database as it is written here.
    TNV_STORE_PATHS: StorePaths = StorePaths, "tnv_store_paths", STORAGE, "../data", None;

    /// Whether the storages of this group see the same files under their store paths. Each then reports to its
    /// trackers which volumes it has, and one that has others than the members before it gets no clients until it has the
    /// same. With `no` nothing is compared: for groups whose files are replicated in another way. All
    /// storages of a group need the same.
    TNV_SHARED_STORE: YesNo = YesNo, "tnv_shared_store", STORAGE, "yes", None;

    /// Space that is kept free on the file system of each store path, as a number of bytes or as a
    /// percentage of its size. A store path with less than this is passed over.
    TNV_RESERVED_SPACE: Size = Size, "tnv_reserved_space", STORAGE, "5%", None;

    /// Whether an upload is acknowledged only when its content, its name and, in an embedded database, its
    /// row are on stable storage. With `no` the kernel writes them when it sees fit: faster on slow disks,
    /// but a power cut or a crash of the host can take files that were acknowledged, bring back ones that
    /// were deleted, and leave rows without a file and files without a row, which `--fsck` finds. The
    /// database itself stays whole, only its last commits may be gone. A crash of the storage alone takes
    /// nothing either way. What a MySQL server does is set there.
    TNV_FSYNC: YesNo = YesNo, "tnv_fsync", STORAGE, "yes", None;

    /// How many bytes a second the storage reads again of what it has, to find content that its disk has
    /// damaged: such a file is told in the log and taken out of service here, until its copy here is
    /// sound again; readers go to another storage of the group. Files of existing storages have no
    /// checksum, only their size is compared. The default is a tenth of what one hard disk can do, and
    /// reads 800 GB a day. 0 turns it off.
    TNV_SCRUB_RATE: Rate = Rate, "tnv_scrub_rate", STORAGE, "10M", None;

    /// The least time from the beginning of one round through all files to that of the next.
    TNV_SCRUB_INTERVAL: Seconds = Seconds(1, 365 * DAY), "tnv_scrub_interval", STORAGE, "86400", None;

    /// The trackers. A storage joins each of them; the HTTP server asks one at random, and the next
    /// one when that fails. The port is 21000 where none is given.
    TNV_TRACKER_ADDRS: Addresses<1> = Addresses, "tnv_tracker_addrs", CALLERS, "127.0.0.1:21000", None;

    /// The ID servers: one is asked at random, and the next one when that fails. The port is 22000
    /// where none is given.
    TNV_IDS_ADDRS: Addresses<1> = Addresses, "tnv_ids_addrs", STORAGE, "127.0.0.1:22000", None;

    /// The port to listen on. Where it is given it wins over the port of `tnv_bind`; where it is
    /// not, that one counts.
    TNV_STORAGE_PORT: Count = Count(1, 65_535), "tnv_storage_port", STORAGE, "23000", Some("23000");

    /// The time between two heartbeats to a tracker.
    TNV_HEART_BEAT_INTERVAL: Seconds = Seconds(1, DAY), "tnv_heart_beat_interval", STORAGE, "10", None;

    /// A file of keys, `APPID KEY` a line. Uploads and deletes of an application that has a key here need
    /// proof of it; others need none. Several lines of one application are keys that all count, so that
    /// one can be changed; at most four. SIGHUP has the file read again. All storages of a group need
    /// the same file, and a file that everybody may read is refused. A key is 16 to 512 visible ASCII
    /// characters, as `openssl rand -hex 32` prints them.
    TNV_APP_KEYS_FILE: OptionalPath = OptionalPath, "tnv_app_keys_file", STORAGE, "", Some("/etc/tnv/app.keys");

    /// The least bytes a second that the sender of an upload must keep to, on the whole. A sender below it is
    /// refused once it has used up the time of `tnv_upload_pause_max`. 0 turns this off: each byte then gives that
    /// time anew.
    TNV_UPLOAD_RATE_MIN: Rate = Rate, "tnv_upload_rate_min", STORAGE, "1K", None;

    /// The longest pause of the sender of an upload. A sender that is slower than `tnv_upload_rate_min` uses up this
    /// time, too, and a faster one gets it back.
    TNV_UPLOAD_PAUSE_MAX: Seconds = Seconds(1, DAY), "tnv_upload_pause_max", STORAGE, "60", None;

    /// The application that `/files/FILEID` stands for; any other is asked for by
    /// `/files/APPID/USERID/FILEID`.
    TNV_HTTP_APPID: Name<AppId> = Name::<AppId>::KIND, "tnv_http_appid", HTTPD, "tnvideo", None;

    /// The user that `/files/FILEID` stands for.
    TNV_HTTP_USERID: Name<UserId> = Name::<UserId>::KIND, "tnv_http_userid", HTTPD, "tnv001", None;

    /// Where it is set, each GET and HEAD needs a link that is signed with it and has not expired:
    /// `?expires=SECONDS&sig=SIGNATURE`, as `tnv sign` makes them. Nobody but the server should be able to
    /// read this file; `tnv_http_secret_file` is better.
    TNV_HTTP_SECRET: Secret = Secret, "tnv_http_secret", HTTPD, "", Some("what-openssl-rand-hex-32-prints");

    /// A file with such secrets, one a line, instead of `tnv_http_secret`. Links of each of them count,
    /// so that an old one can stay below the new one until its links have expired; at most four. A file
    /// that everybody may read is refused.
    TNV_HTTP_SECRET_FILE: OptionalPath = OptionalPath, "tnv_http_secret_file", HTTPD, "", Some("/etc/tnv/http.secret");

    /// The directory of the embedded database, made when it is missing. It is used where
    /// `mysql_addrs` is not set. Several servers of one host may share it.
    TNV_DB_PATH: FilePath = FilePath, "tnv_db_path", DATABASES, "../db", None;

    /// The MySQL or MariaDB servers, tried in turn; the port is 3306 where none is given. All of
    /// them must have the same data. Where this is not set the embedded database is used.
    MYSQL_ADDRS: Addresses<0> = Addresses, "mysql_addrs", DATABASES, "", Some("127.0.0.1:3306");

    /// The MySQL user. It needs the right to create the databases and tables that are missing.
    MYSQL_USER: Text = Text, "mysql_user", DATABASES, "root", Some("root");

    /// The MySQL password. Blanks at its ends are not part of it, and nobody but the server should
    /// be able to read this file; `mysql_pass_file` is better.
    MYSQL_PASS: Secret = Secret, "mysql_pass", DATABASES, "", Some("secret");

    /// A file with the MySQL password as its first line, instead of `mysql_pass`.
    MYSQL_PASS_FILE: OptionalPath = OptionalPath, "mysql_pass_file", DATABASES, "", Some("/etc/tnv/mysql.pass");

    /// The longest wait for MySQL to answer a statement.
    MYSQL_RW_TIMEOUT: Seconds = Seconds(1, DAY), "mysql_rw_timeout", DATABASES, "30", None;

    /// Whether connections to MySQL are encrypted. `off`: not. `required`: with TLS, without a check of
    /// the server's certificate; enough for an account that has REQUIRE SSL. `verify`: with TLS, and the server's
    /// certificate must be valid and for the host that `mysql_addrs` names. With both, a server without TLS is
    /// refused.
    MYSQL_TLS: Choice<TlsMode> = Choice(TlsMode::CHOICES), "mysql_tls", DATABASES, "off", None;

    /// A file with certificates (PEM) that the certificate of the MySQL server may be signed with, beside the
    /// public ones. For `mysql_tls = verify`.
    MYSQL_TLS_CA_FILE: OptionalPath = OptionalPath, "mysql_tls_ca_file", DATABASES, "", Some("/etc/tnv/mysql-ca.pem");

    /// The character set in which the other servers of the deployment talk to MySQL. `latin1` where existing
    /// servers run, or ran, with the client library of MySQL 5.7 or before and its default: names beyond ASCII
    /// then stand in the tables byte by byte, and are found and written so. All servers of a database need the same.
    MYSQL_CHARSET: Choice<Charset> = Choice(Charset::CHOICES), "mysql_charset", DATABASES, "utf8mb4", Some("latin1");

    /// How long an entry of the cache is good for. The cache is in the server's memory; the key has
    /// its name from the Redis that existing servers need. 0 turns the cache off.
    REDIS_KEY_TIMEOUT: Seconds = Seconds(0, 365 * DAY), "redis_key_timeout", CACHES, "60", Some("60");

    /// The most requests that are worked on at once. Threads come on demand; idle connections
    /// hold none.
    TNV_THREADS: Count = Count(1, 65_536), "tnv_threads", SERVERS, "1024", None;

    /// The most connections at once; those beyond it are refused. Not set, it is 20000, or less
    /// where the limit of open files (`ulimit -Hn`) does not allow that many.
    TNV_MAX_CONNS: Count = Count(1, 1_000_000), "tnv_max_conns", SERVERS, "20000", Some("20000");

    /// What is under way when the server is told to stop may take this long to finish.
    TNV_STOP_TIMEOUT: Seconds = Seconds(0, DAY), "tnv_stop_timeout", SERVERS, "30", None;

    /// The file that the log is appended to; SIGHUP opens it anew, after it was renamed. Not set,
    /// the log goes to standard error. RUST_LOG sets how much is logged: `info` by default.
    TNV_LOG_FILE: OptionalPath = OptionalPath, "tnv_log_file", SERVERS, "", Some("/var/log/tnv.log");
}

/// What a key is called now that had another name in earlier files.
pub(super) fn renamed(name: &str) -> Option<&'static str> {
    (name == "tnv_store_reserve").then_some(TNV_RESERVED_SPACE.name)
}

/// What became of a key of the existing servers that ours do without.
pub(super) fn replacement(name: &str) -> Option<&'static str> {
    match name {
        "redis_key_timeout" => Some("this server has no cache, so it sets nothing here"),
        "redis_addrs" => Some("the cache is in the server's memory and needs no Redis"),
        "redis_max_conn_num" | "redis_conn_timeout" | "redis_rw_timeout" => {
            Some("the cache is in the server's memory and makes no connections")
        }
        "use_redis_session" => Some("the HTTP server keeps no sessions"),
        "ioctl_max_threads" => Some("tnv_threads replaces it"),
        "ioctl_use_limit" => Some("tnv_max_conns bounds the connections, and a server need not restart"),
        "ioctl_idle_timeout" | "ioctl_rw_timeout" => Some("the deadlines are fixed"),
        "master_log" => Some("tnv_log_file replaces it"),
        "master_debug" | "master_debugs" => Some("RUST_LOG sets how much is logged"),
        "master_service" | "master_bind" | "master_addr" => Some("tnv_bind sets the address"),
        "master_owner" => Some("systemd or the init script sets the user (TNV_USER)"),
        // The existing servers are built on the acl library, which has keys of its own in the same file.
        _ if name.starts_with("master_") => {
            Some("there is no master process (acl_master); systemd or the init script starts the server")
        }
        _ if name.starts_with("mempool_") => Some("it has no effect, memory comes from the system"),
        _ if name.starts_with("redis_") => {
            Some("there is no Redis; redis_key_timeout sets the cache's lifetime")
        }
        _ if name.starts_with("ioctl_") => {
            Some("tnv_threads, tnv_max_conns and tnv_stop_timeout are what can be set")
        }
        _ => None,
    }
}

/// What an unknown key should have been: the words after "want".
pub(super) fn suggestion(part: Part, name: &str) -> String {
    if let Some(key) = ALL.iter().find(|key| key.name() == name) {
        let owners: Vec<_> = key.parts().iter().map(|part| part.binary()).collect();
        return format!("a key of {part}; this one belongs to {}", owners.join(", "));
    }
    let own = ALL.iter().filter(|key| key.parts().contains(&part)).map(|key| key.name());
    let name: String = name.chars().take(NAME_CHARS_MAX).collect::<String>().to_ascii_lowercase();
    let (changes, nearest) =
        own.map(|known| (strsim::levenshtein(&name, known), known)).min().unwrap_or_default();
    match changes * 2 <= nearest.len() {
        true => format!("'{nearest}'"),
        false => format!("one of the keys of {part} in CONFIGURATION.md, the nearest is '{nearest}'"),
    }
}

/// The distance costs the product of the lengths, and no name of a key is longer.
const NAME_CHARS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        for (index, key) in ALL.iter().enumerate() {
            assert!(ALL[..index].iter().all(|other| other.name() != key.name()), "{} twice", key.name());
            for part in key.parts() {
                assert_eq!(key.check(&key.default(*part)), Ok(()), "default of {}", key.name());
            }
            assert_eq!(key.example().map_or(Ok(()), |example| key.check(example)), Ok(()), "{}", key.name());
            assert_eq!(key.shipped().map_or(Ok(()), |shipped| key.check(shipped)), Ok(()), "{}", key.name());
            assert!(key.example().is_none() || key.shipped().is_none(), "{}", key.name());
            let is_shown = key.example().or(key.shipped()).is_some();
            assert!(!key.default(Part::Tracker).is_empty() || is_shown, "{}", key.name());
            assert!(key.doc().ends_with('.'), "{}", key.name());
        }
    }

    #[test]
    fn a_typing_mistake_gets_the_key_that_was_meant() {
        assert_eq!(suggestion(Part::Tracker, "tnv_app_id"), "'tnv_apps_id'");
        assert_eq!(suggestion(Part::Storage, "tnv_heartbeat_interval"), "'tnv_heart_beat_interval'");
        assert_eq!(
            suggestion(Part::Tracker, "tnv_store_paths"),
            "a key of tnv-tracker; this one belongs to tnv-storage"
        );
    }
}
