//! What a setting may look like: each kind checks a text and makes a value of it, and says in words
//! what it wants, for the errors and for the documentation.

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::error::quoted;
use crate::db::Password;
use crate::error::Error;
use crate::net::allow::{AllowList, Network};
use crate::proto::names::{AppId, GroupName, HostName, IdKey, UserId};

/// A list has at most this many items; no deployment comes near.
const LIST_ITEMS_MAX: usize = 1024;

/// The form of a setting.
pub trait Kind: Sync + 'static {
    /// What a valid text becomes.
    type Value;

    /// What is wanted, in words that fit after "want".
    fn form(&self) -> String;

    /// The value of a text without blanks around it, or what was found in it that is not wanted.
    /// An empty text stands for "not set".
    fn parse(&self, text: &str) -> Result<Self::Value, String>;
}

/// Any text.
pub struct Text;

impl Kind for Text {
    type Value = String;

    fn form(&self) -> String {
        "text".to_owned()
    }

    fn parse(&self, text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }
}

/// A text that must not be seen in any log.
pub struct Secret;

impl Kind for Secret {
    type Value = Password;

    fn form(&self) -> String {
        "text".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Password, String> {
        Ok(Password::new(text.to_owned()))
    }
}

/// A whole number between two others, both included.
pub struct Count(pub u64, pub u64);

impl Kind for Count {
    type Value = u64;

    fn form(&self) -> String {
        format!("a whole number from {} to {}", self.0, self.1)
    }

    fn parse(&self, text: &str) -> Result<u64, String> {
        digits(text).filter(|number| (self.0..=self.1).contains(number)).ok_or_else(|| quoted(text))
    }
}

/// A time in whole seconds between two others, both included.
pub struct Seconds(pub u64, pub u64);

impl Kind for Seconds {
    type Value = Duration;

    fn form(&self) -> String {
        format!("seconds from {} to {}, without a unit", self.0, self.1)
    }

    fn parse(&self, text: &str) -> Result<Duration, String> {
        Count(self.0, self.1).parse(text).map(Duration::from_secs)
    }
}

/// Something that is done or left undone.
pub struct YesNo;

impl Kind for YesNo {
    type Value = bool;

    fn form(&self) -> String {
        "yes or no".to_owned()
    }

    fn parse(&self, text: &str) -> Result<bool, String> {
        match text {
            "yes" => Ok(true),
            "no" => Ok(false),
            _ => Err(quoted(text)),
        }
    }
}

/// One of a few words, each with what it stands for.
pub struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

impl<T: Copy + Sync + 'static> Kind for Choice<T> {
    type Value = T;

    fn form(&self) -> String {
        let words: Vec<_> = self.0.iter().map(|(word, _)| *word).collect();
        words.join(" or ")
    }

    fn parse(&self, text: &str) -> Result<T, String> {
        self.0.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| quoted(text))
    }
}

/// A number of bytes, or a share of something.
pub struct Size;

/// The value of a [`Size`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths.
    Percent(u8),
}

impl Space {
    /// The bytes that it comes to, where the whole has `total`.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Space::Bytes(bytes) => bytes,
            Space::Percent(percent) => (u128::from(total) * u128::from(percent) / 100) as u64,
        }
    }
}

impl Kind for Size {
    type Value = Space;

    fn form(&self) -> String {
        "bytes, a number with K, M or G (of 1024), or a percentage from 0% to 100%".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Space, String> {
        let unit = text.chars().next_back().filter(|unit| !unit.is_ascii_digit());
        let number = digits(unit.map_or(text, |unit| &text[..text.len() - unit.len_utf8()]).trim_end());
        let shifted = |bits: u32| number.and_then(|number| number.checked_mul(1 << bits)).map(Space::Bytes);
        match unit {
            None => shifted(0),
            Some('K' | 'k') => shifted(10),
            Some('M' | 'm') => shifted(20),
            Some('G' | 'g') => shifted(30),
            Some('%') => number.filter(|number| *number <= 100).map(|number| Space::Percent(number as u8)),
            Some(_) => None,
        }
        .ok_or_else(|| quoted(text))
    }
}

/// A number of bytes a second; 0 is none at all.
pub struct Rate;

impl Kind for Rate {
    type Value = u64;

    fn form(&self) -> String {
        "bytes a second, a number with K, M or G (of 1024)".to_owned()
    }

    fn parse(&self, text: &str) -> Result<u64, String> {
        match Size.parse(text)? {
            Space::Bytes(bytes) => Ok(bytes),
            Space::Percent(_) => Err(quoted(text)),
        }
    }
}

/// A directory or file, relative to the working directory.
pub struct FilePath;

impl Kind for FilePath {
    type Value = PathBuf;

    fn form(&self) -> String {
        "a path, relative to the working directory unless it begins with /".to_owned()
    }

    fn parse(&self, text: &str) -> Result<PathBuf, String> {
        match text {
            "" => Err("nothing".to_owned()),
            path => Ok(PathBuf::from(path)),
        }
    }
}

/// The same, where there need be none.
pub struct OptionalPath;

impl Kind for OptionalPath {
    type Value = Option<PathBuf>;

    fn form(&self) -> String {
        FilePath.form()
    }

    fn parse(&self, text: &str) -> Result<Option<PathBuf>, String> {
        Ok((!text.is_empty()).then(|| PathBuf::from(text)))
    }
}

/// An address to listen on; port 0 takes any free one.
pub struct Listen;

impl Kind for Listen {
    type Value = Address;

    fn form(&self) -> String {
        "host or host:port, an IPv6 address in [ ]".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Address, String> {
        Address::parse(text).ok_or_else(|| quoted(text))
    }
}

/// A host, as a name or a number, and the port, where it has one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// An IPv6 address keeps its brackets.
    pub host: String,
    /// The default port where it is missing.
    pub port: Option<u16>,
}

impl Address {
    /// `host`, `host:port`, `[v6]` or `[v6]:port`.
    fn parse(text: &str) -> Option<Address> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !text.ends_with(']') => (host, Some(digits(port)?.try_into().ok()?)),
            _ => (text, None),
        };
        let known = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(number) => number.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '[', ']', '/', ' ', '\t']),
        };
        known.then(|| Address { host: host.to_owned(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.host)?;
        self.port.map_or(Ok(()), |port| write!(out, ":{port}"))
    }
}

/// Servers to be called: at least `MIN` of them, none twice.
pub struct Addresses<const MIN: usize>;

impl<const MIN: usize> Kind for Addresses<MIN> {
    type Value = Vec<String>;

    fn form(&self) -> String {
        "host[:port] each, an IPv6 address in [ ], separated by ;".to_owned()
    }

    fn parse(&self, text: &str) -> Result<Vec<String>, String> {
        let items = list(text, |item| match Address::parse(item) {
            Some(address) if address.port != Some(0) => Ok(address),
            _ => Err(quoted(item)),
        })?;
        if items.len() < MIN {
            return Err("none".to_owned());
        }
        Ok(items.iter().map(Address::to_string).collect())
    }
}

/// Networks; without any, everybody.
pub struct Networks;

impl Kind for Networks {
    type Value = AllowList;

    fn form(&self) -> String {
        "networks as ADDRESS/BITS or hosts as ADDRESS, IPv4 and IPv6, separated by ;".to_owned()
    }

    fn parse(&self, text: &str) -> Result<AllowList, String> {
        if text.is_empty() {
            return Ok(AllowList::everybody());
        }
        let network = |item: &str| item.parse::<Network>().map_err(|error| error.message().to_owned());
        let networks = list(text, network)?;
        if networks.is_empty() { Err("none".to_owned()) } else { Ok(AllowList::only(networks)) }
    }
}

/// A name of the wire, with what it is in words.
pub struct Name<T>(PhantomData<fn() -> T>, &'static str);

/// At least one of them, none twice.
pub struct Names<T>(PhantomData<fn() -> T>, &'static str);

macro_rules! names {
    ($($name:ty, $one:literal, $many:literal;)+) => {$(
        impl Name<$name> {
            /// The only one there is.
            pub const KIND: Name<$name> = Name(PhantomData, $one);
        }

        impl Names<$name> {
            /// The only one there is.
            pub const KIND: Names<$name> = Names(PhantomData, $many);
        }
    )+};
}

names! {
    AppId, "1 to 15 ASCII letters and digits", "application IDs of 1 to 15 ASCII letters and digits";
    GroupName, "1 to 16 ASCII letters and digits", "group names of 1 to 16 ASCII letters and digits";
    UserId, "1 to 128 characters, in at most 255 bytes", "user IDs of 1 to 128 characters";
    IdKey, "a path of 1 to 64 bytes", "paths of 1 to 64 bytes";
}

impl<T: FromStr<Err = Error> + 'static> Kind for Name<T> {
    type Value = T;

    fn form(&self) -> String {
        self.1.to_owned()
    }

    fn parse(&self, text: &str) -> Result<T, String> {
        text.parse().map_err(|_| quoted(text))
    }
}

impl<T: FromStr<Err = Error> + Clone + Eq + Hash + 'static> Kind for Names<T> {
    type Value = Vec<T>;

    fn form(&self) -> String {
        format!("{}, separated by ;, none twice", self.1)
    }

    fn parse(&self, text: &str) -> Result<Vec<T>, String> {
        let names = list(text, |item| item.parse::<T>().map_err(|_| quoted(item)))?;
        if names.is_empty() { Err("none".to_owned()) } else { Ok(names) }
    }
}

/// Store paths. They are told apart as directories, too: `../data` and `../data/` would be two
/// sequences of numbers in one directory.
pub struct StorePaths;

impl Kind for StorePaths {
    type Value = Vec<IdKey>;

    fn form(&self) -> String {
        Names::<IdKey>::KIND.form()
    }

    fn parse(&self, text: &str) -> Result<Vec<IdKey>, String> {
        let keys = Names::<IdKey>::KIND.parse(text)?;
        let mut seen = HashSet::new();
        match keys.iter().find(|key| !seen.insert(Path::new(key.as_str()))) {
            Some(key) => Err(format!("the directory {} twice", quoted(key.as_str()))),
            None => Ok(keys),
        }
    }
}

/// What a storage is called whatever its host is, where it is called so: a name that is plain in a file's name and
/// on the wire.
pub struct StorageId;

/// A longer one would be hard to read in a list.
const STORAGE_ID_BYTES_MAX: usize = 64;

impl Kind for StorageId {
    type Value = Option<HostName>;

    fn form(&self) -> String {
        format!(
            "1 to {STORAGE_ID_BYTES_MAX} ASCII letters, digits, '-', '_' and '.', beginning with a letter or digit"
        )
    }

    fn parse(&self, text: &str) -> Result<Option<HostName>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let begins = text.starts_with(|first: char| first.is_ascii_alphanumeric());
        match begins && text.len() <= STORAGE_ID_BYTES_MAX && text.bytes().all(plain) {
            true => HostName::new(text).map(Some).map_err(|_| quoted(text)),
            false => Err(quoted(text)),
        }
    }
}

/// A whole number in decimal digits and nothing else: `u64::from_str` takes a sign.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The items of a list; blanks around them and empty ones do not count, none may be there twice.
fn list<T: Clone + Eq + Hash>(
    text: &str,
    item: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let mut items = Vec::new();
    let mut seen = HashSet::new();
    for text in text.split(';').map(str::trim).filter(|text| !text.is_empty()) {
        let value = item(text)?;
        if !seen.insert(value.clone()) {
            return Err(format!("{} twice", quoted(text)));
        }
        if items.len() == LIST_ITEMS_MAX {
            return Err(format!("more than {LIST_ITEMS_MAX} items"));
        }
        items.push(value);
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_held_to_their_range() {
        assert_eq!(Count(1, 65_536).parse("65536"), Ok(65_536));
        for bad in ["0", "65537", "-1", "+5", "1e3", "", "5 s", "99999999999999999999999"] {
            assert_eq!(Count(1, 65_536).parse(bad), Err(format!("'{bad}'")));
        }
        assert_eq!(Seconds(0, 10).parse("7"), Ok(Duration::from_secs(7)));
    }

    #[test]
    fn yes_and_no_are_the_only_answers() {
        assert_eq!((YesNo.parse("yes"), YesNo.parse("no")), (Ok(true), Ok(false)));
        for bad in ["", "Yes", "1", "true", "off", "yes no"] {
            assert_eq!(YesNo.parse(bad), Err(format!("'{bad}'")));
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, want) in [("0", 0), ("4096", 4096), ("8K", 8 << 10), ("64M", 64 << 20), ("2 g", 2 << 30)] {
            assert_eq!(Size.parse(text), Ok(Space::Bytes(want)), "{text}");
        }
        assert_eq!(Size.parse("5%"), Ok(Space::Percent(5)));
        assert_eq!((Rate.parse("10M"), Rate.parse("0")), (Ok(10 << 20), Ok(0)));
        assert_eq!(Rate.parse("5%"), Err("'5%'".to_owned()));
        for bad in ["", "K", "%", "101%", "-1M", "1.5G", "1T", "10ü", "99999999999G"] {
            assert_eq!(Size.parse(bad), Err(format!("'{bad}'")));
        }
        assert_eq!(Space::Percent(5).of(u64::MAX), u64::MAX / 20);
        assert_eq!(Space::Bytes(9).of(0), 9);
    }

    #[test]
    fn addresses_are_told_from_nonsense() {
        let address = |host: &str, port| Ok(Address { host: host.to_owned(), port });
        assert_eq!(Listen.parse("0.0.0.0"), address("0.0.0.0", None));
        assert_eq!(Listen.parse("localhost:0"), address("localhost", Some(0)));
        assert_eq!(Listen.parse("[::1]:21000"), address("[::1]", Some(21000)));
        assert_eq!(Listen.parse("[::1]"), address("[::1]", None));
        for bad in ["", ":80", "a:b", "a:65536", "::1", "a:1:2", "http://a", "[x]:1", "a b", "a:"] {
            assert!(Listen.parse(bad).is_err(), "{bad}");
        }
        let two = vec!["a".to_owned(), "[::1]:5".to_owned()];
        assert_eq!(Addresses::<1>.parse("a; [::1]:5 ;"), Ok(two));
        assert_eq!(Addresses::<0>.parse(""), Ok(vec![]));
        assert_eq!(Addresses::<1>.parse("a:1;a:1"), Err("'a:1' twice".to_owned()));
        assert_eq!(Addresses::<1>.parse("a:0"), Err("'a:0'".to_owned()));
    }

    #[test]
    fn names_are_valid_and_none_is_there_twice() {
        let groups = Names::<GroupName>::KIND;
        assert_eq!(groups.parse("g1;g2").map(|groups| groups.len()), Ok(2));
        assert_eq!(groups.parse(" ; "), Err("none".to_owned()));
        assert_eq!(groups.parse("g1;g-2"), Err("'g-2'".to_owned()));
        assert_eq!(groups.parse("g1;g1"), Err("'g1' twice".to_owned()));
        let many: Vec<String> = (0..=LIST_ITEMS_MAX).map(|n| format!("g{n}")).collect();
        assert_eq!(groups.parse(&many.join(";")), Err("more than 1024 items".to_owned()));
    }

    #[test]
    fn networks_are_checked_one_by_one_and_an_empty_list_is_no_list() {
        assert_eq!(Networks.parse(""), Ok(AllowList::everybody()));
        let allowed = Networks.parse("10.0.0.0/8; ::1 ;").unwrap();
        assert!(allowed.is_set() && allowed.allows([10, 1, 1, 1].into()));
        assert_eq!(Networks.parse(";"), Err("none".to_owned()), "a list that lets nobody in is a mistake");
        assert_eq!(
            Networks.parse("10.0.0.1/8"),
            Err("'10.0.0.1/8' has bits set behind its prefix, the network is 10.0.0.0/8".to_owned())
        );
        assert_eq!(Networks.parse("::1;::1/128"), Err("'::1/128' twice".to_owned()));
        assert!(Networks.parse(&"9".repeat(5000)).unwrap_err().len() < 200);
    }

    #[test]
    fn a_storage_id_is_plain_in_a_files_name() {
        assert_eq!(StorageId.parse(""), Ok(None));
        assert_eq!(
            StorageId.parse("media-1.a_b").map(|id| id.map(|id| id.to_string())),
            Ok(Some("media-1.a_b".into()))
        );
        for bad in ["a/b", ".a", "a b", "ü", &"x".repeat(65)] {
            assert_eq!(StorageId.parse(bad), Err(quoted(bad)));
        }
    }

    #[test]
    fn one_store_directory_is_not_given_under_two_names() {
        assert_eq!(StorePaths.parse("../data;/srv/b").map(|paths| paths.len()), Ok(2));
        assert_eq!(StorePaths.parse("../data;../data/"), Err("the directory '../data/' twice".to_owned()));
        assert!(StorePaths.parse(&"x".repeat(65)).is_err());
    }
}
