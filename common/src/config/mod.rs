//! The configuration: where a server's file is, what it says, and what is wrong with it. [`keys`]
//! is the one table of settings; [`Config::get`] looks a key of it up and gives a value of the key's
//! own type; [`doc`] writes the shipped files and the documentation from it.

pub mod doc;
mod error;
pub mod keys;
pub mod kinds;
mod parse;
mod part;
mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use error::ConfigError;
use error::quoted;
use keys::{AnyKey, Key};
use kinds::Kind;
use parse::{ERRORS_MAX, Entry, FILE_BYTES_MAX, parse};
pub use part::Part;
pub use settings::CommonSettings;

/// Where a server looks for its file when none is named.
pub const DIRECTORIES: [&str; 3] = ["./etc", "../etc", "/etc/tnv"];

/// A server's file, read and found to be in order. It has no `Debug`: a password may be in it.
pub struct Config {
    part: Part,
    file: PathBuf,
    /// The line of `service`.
    service_line: usize,
    entries: BTreeMap<String, Entry>,
}

impl Config {
    /// Reads the file that is named, or the first one of [`DIRECTORIES`], and checks every setting
    /// in it by itself. All errors are reported, in the order of their lines.
    pub fn load(part: Part, file: Option<&Path>) -> Result<Config, Vec<ConfigError>> {
        let file = match file {
            Some(file) => file.to_owned(),
            None => find(part)?,
        };
        let text = read(&file, FILE_BYTES_MAX).map_err(|error| {
            ConfigError::new(&file, None, "cannot read the configuration", error, "a file that can be read")
        })?;
        Config::from_text(part, &file, &text)
    }

    /// The same from the text of a file.
    pub fn from_text(part: Part, file: &Path, text: &[u8]) -> Result<Config, Vec<ConfigError>> {
        let (mut parsed, mut errors) = parse(file, text);
        errors.extend(rename(file, &mut parsed.entries));
        let config = Config {
            part,
            file: file.to_owned(),
            service_line: parsed.service_line,
            entries: parsed.entries,
        };
        errors.extend(config.entries.iter().filter_map(|(name, entry)| config.check(name, entry)));
        errors.sort_by_key(|error| error.line);
        errors.truncate(ERRORS_MAX);
        if errors.is_empty() { Ok(config) } else { Err(errors) }
    }

    /// What is wrong with one setting.
    fn check(&self, name: &str, entry: &Entry) -> Option<ConfigError> {
        let error = |what, got, want| Some(ConfigError::new(&self.file, entry.line, what, got, want));
        match known(self.part, name) {
            Some(_) if entry.value.is_empty() => None,
            Some(key) => key.check(&entry.value).err().and_then(|got| error(name, got, key.form())),
            None if keys::replacement(name).is_some() => None,
            None => error("unknown key", quoted(name), keys::suggestion(self.part, name)),
        }
    }

    /// The server that it is for.
    pub fn part(&self) -> Part {
        self.part
    }

    /// The file that it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The value of a key: what the file says, or else its default. It fails for no key of this
    /// part, since the file was checked and the defaults are valid; `?` is there for the types.
    pub fn get<K: Kind>(&self, key: &Key<K>) -> Result<K::Value, ConfigError> {
        let text = self.text(key).map_or_else(|| key.default(self.part), str::to_owned);
        key.kind.parse(&text).map_err(|got| self.error(key, got, key.form()))
    }

    /// Whether the file gives this key a value of its own.
    pub fn is_set(&self, key: &dyn AnyKey) -> bool {
        self.text(key).is_some()
    }

    /// An error of a setting that only its server can see: `got` was found, `want` would be right.
    pub fn error(&self, key: &dyn AnyKey, got: impl fmt::Display, want: impl fmt::Display) -> ConfigError {
        ConfigError::new(&self.file, self.line(key), key.name(), got, want)
    }

    /// Something that the operator should know of a key.
    fn notice(&self, key: &dyn AnyKey, text: &str) -> String {
        format!("{}:{}: {}: {text}", self.file.display(), self.line(key), key.name())
    }

    /// What the operator should know though it is no error, a line each: keys of existing servers
    /// that mean nothing or something else here, and settings that others overrule.
    pub fn notices(&self) -> Vec<String> {
        let legacy = self.entries.iter().filter_map(|(name, entry)| {
            let text = match known(self.part, name) {
                Some(key) if key.name() == "redis_key_timeout" => {
                    "there is no Redis; it sets the lifetime of the cache in the server's memory"
                }
                Some(_) => return None,
                None => keys::replacement(name)?,
            };
            Some((entry.line, format!("{name}: {text}")))
        });
        let overruled = self
            .overruled()
            .into_iter()
            .map(|(key, text)| (self.line(key), format!("{}: {text}", key.name())));
        let mut notices: Vec<_> = legacy.chain(overruled).collect();
        notices.sort();
        notices.into_iter().map(|(line, text)| format!("{}:{line}: {text}", self.file.display())).collect()
    }

    /// The text that the file gives to a key; an empty one counts as none.
    pub(crate) fn text(&self, key: &dyn AnyKey) -> Option<&str> {
        self.entries.get(key.name()).map(|entry| entry.value.as_str()).filter(|value| !value.is_empty())
    }

    /// The line of a key, or where it would be added.
    fn line(&self, key: &dyn AnyKey) -> usize {
        self.entries.get(key.name()).map_or(self.service_line, |entry| entry.line)
    }
}

/// Moves values from old names of keys to the present ones. A file with both is an error.
fn rename(file: &Path, entries: &mut BTreeMap<String, Entry>) -> Vec<ConfigError> {
    let old: Vec<_> = entries.keys().filter_map(|name| Some((name.clone(), keys::renamed(name)?))).collect();
    let mut errors = Vec::new();
    for (name, now) in old {
        let Some(entry) = entries.remove(&name) else { continue };
        match entries.get(now) {
            Some(other) => {
                let got = format!("it beside {now} on line {}", other.line);
                errors.push(ConfigError::new(
                    file,
                    entry.line,
                    name,
                    got,
                    "one of the two: they are one key",
                ));
            }
            None => drop(entries.insert(now.to_owned(), entry)),
        }
    }
    errors
}

/// The key of this name, where this part has it.
fn known(part: Part, name: &str) -> Option<&'static dyn AnyKey> {
    keys::ALL.iter().copied().find(|key| key.name() == name && key.parts().contains(&part))
}

/// The first file of [`DIRECTORIES`] that is there, readable or not.
fn find(part: Part) -> Result<PathBuf, ConfigError> {
    let places = DIRECTORIES.map(|directory| Path::new(directory).join(part.file_name()));
    match places.iter().find(|place| place.symlink_metadata().is_ok()) {
        Some(place) => Ok(place.clone()),
        None => {
            let places = places.map(|place| place.display().to_string()).join(", ");
            let got = format!("none of {places}");
            Err(ConfigError::new(
                Path::new(part.file_name()),
                None,
                "no configuration",
                got,
                "one of them, or -c FILE",
            ))
        }
    }
}

/// A file's bytes, at most one more than `bytes_max`, so that the caller sees that it is longer.
fn read(file: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(bytes_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
