//! One error in a configuration file: where it is, what was found, and what would be right.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::text::shown;

/// `FILE:LINE: what, got what, want what`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, where one is wrong. A setting that the file lacks points to the `service` line.
    pub line: Option<usize>,
    /// What is wrong, most often the key.
    pub what: String,
    /// What was found.
    pub got: String,
    /// What would be right.
    pub want: String,
}

impl ConfigError {
    pub(super) fn new(
        file: &Path,
        line: impl Into<Option<usize>>,
        what: impl fmt::Display,
        got: impl fmt::Display,
        want: impl fmt::Display,
    ) -> ConfigError {
        ConfigError {
            file: file.to_owned(),
            line: line.into(),
            what: what.to_string(),
            got: got.to_string(),
            want: want.to_string(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(out, "{line}:")?;
        }
        write!(out, " {}, got {}, want {}", self.what, self.got, self.want)
    }
}

/// `?` on one error ends a function that collects several.
impl From<ConfigError> for Vec<ConfigError> {
    fn from(error: ConfigError) -> Vec<ConfigError> {
        vec![error]
    }
}

/// A text in quotes, shortened and without control characters.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", shown(text.as_bytes()))
}
