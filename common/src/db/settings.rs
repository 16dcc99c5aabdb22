//! What a database is opened with. `config` fills these in; nothing here reads a file.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Where a server's database is, and how it logs in there.
#[derive(Clone, Debug)]
pub struct DbSettings {
    /// MySQL or MariaDB servers as `host[:port]`, tried in turn: ways to one and the same database.
    /// Empty: the embedded database is used.
    pub addresses: Vec<String>,
    /// The account on those servers.
    pub user: String,
    /// And its password.
    pub password: Password,
    /// The longest wait for a server's answer, and for it to take what is sent.
    pub rw_timeout: Duration,
    /// The directory of the embedded databases.
    pub directory: PathBuf,
    /// Whether a commit to the embedded database is on stable storage before it is answered. Without that
    /// a power cut may take the last commits, and nothing else; the end of the process takes none. It says
    /// nothing to MySQL, whose own settings decide.
    pub durable: bool,
}

impl DbSettings {
    /// Whether the embedded database is meant.
    pub fn is_embedded(&self) -> bool {
        self.addresses.is_empty()
    }
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
            directory: PathBuf::from("../db"),
            durable: true,
        };
        assert!(!format!("{settings:?}").contains("s3cret"));
    }
}
