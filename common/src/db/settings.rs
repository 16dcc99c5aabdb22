//! What a database is opened with. `config` fills these in; nothing here reads a file.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::charset::Charset;

/// Where a server's database is, and how it logs in there.
#[derive(Clone, Debug)]
pub struct DbSettings {
    /// MySQL or MariaDB servers as `host[:port]`, tried in order: addresses of the same database.
    /// Empty: the embedded database is used.
    pub addresses: Vec<String>,
    /// The account on those servers.
    pub user: String,
    /// And its password.
    pub password: Password,
    /// The longest wait for a server's answer, and for it to take what is sent.
    pub rw_timeout: Duration,
    /// Whether connections are encrypted.
    pub tls: Tls,
    /// The character set in which the other servers of the deployment write names.
    pub charset: Charset,
    /// The directory of the embedded databases.
    pub directory: PathBuf,
    /// Whether a commit to the embedded database is on stable storage before it is answered. Without that
    /// a power cut may lose the last commits, and nothing else; the end of the process loses none. MySQL
    /// ignores it: its own settings decide.
    pub durable: bool,
}

impl DbSettings {
    /// The embedded database of this directory, whose commits are durable.
    pub fn embedded(directory: impl Into<PathBuf>) -> DbSettings {
        DbSettings {
            addresses: Vec::new(),
            user: String::new(),
            password: Password::default(),
            rw_timeout: Duration::from_secs(30),
            tls: Tls::Off,
            charset: Charset::Utf8mb4,
            directory: directory.into(),
            durable: true,
        }
    }

    /// Whether the embedded database is meant.
    pub fn is_embedded(&self) -> bool {
        self.addresses.is_empty()
    }
}

/// Whether connections to MySQL are encrypted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// They are not.
    #[default]
    Off,
    /// They are; the server's certificate is not checked.
    Required,
    /// They are, and the server's certificate must be valid, of the host of the address, and signed with one
    /// of the public certificates or of this file.
    Verify {
        /// More certificates.
        ca_file: Option<PathBuf>,
    },
}

/// The values of the key `mysql_tls`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// [`Tls::Off`].
    Off,
    /// [`Tls::Required`].
    Required,
    /// [`Tls::Verify`].
    Verify,
}

impl TlsMode {
    /// By their words.
    pub const CHOICES: &'static [(&'static str, TlsMode)] =
        &[("off", TlsMode::Off), ("required", TlsMode::Required), ("verify", TlsMode::Verify)];
}

/// A password, which no log and no debug output ever shows.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Wraps a password.
    pub fn new(password: impl Into<String>) -> Password {
        Password(password.into())
    }

    /// The password itself, for logging in and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(if self.0.is_empty() { "(none)" } else { "(hidden)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let settings = DbSettings {
            addresses: vec!["db1:3306".into()],
            user: "root".into(),
            password: Password::new("s3cret"),
            rw_timeout: Duration::from_secs(30),
            tls: Tls::Off,
            charset: Charset::Utf8mb4,
            directory: PathBuf::from("../db"),
            durable: true,
        };
        assert!(!format!("{settings:?}").contains("s3cret"));
    }
}
