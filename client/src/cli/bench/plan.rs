//! The arguments after `bench`: they become a [`Plan`], or an error with what was wrong, what it was and what
//! is allowed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use lexopt::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tnv_client::{AppId, UserId};

use super::url::Url;

/// Most threads. Each has one or two connections, and servers accept a few thousand by default.
const THREADS_MAX: u64 = 1024;

/// Most operations of a row. Each keeps its latency, 8 bytes, and its file.
const COUNT_MAX: u64 = 1_000_000;

/// Most rows of a run. Each may make files, which are kept until the end.
const OPS_MAX: usize = 8;

/// Most sizes in a mix.
const SIZES_MAX: usize = 16;

/// The largest weight of a size in a mix. The sequence of sizes is as long as the sum of the weights.
const WEIGHT_MAX: u64 = 1000;

/// The largest file.
const SIZE_MAX: u64 = 1 << 40;

/// The longest time limit of a row: a day.
const SECONDS_MAX: u64 = 86_400;

/// The default time limit of a row.
const SECONDS_DEFAULT: u64 = 300;

/// Options that `--get` excludes, since it has no files.
const FILE_OPTIONS: [&str; 10] =
    ["size", "op", "no-verify", "keep", "files", "appid", "userid", "key-file", "http", "fdfs"];

/// The operation of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Upload,
    Download,
    /// Three downloads to an upload.
    Mixed,
    Delete,
    /// GETs of one URL.
    Get,
}

impl Op {
    pub(super) fn name(self) -> &'static str {
        match self {
            Op::Upload => "upload",
            Op::Download => "download",
            Op::Mixed => "mixed",
            Op::Delete => "delete",
            Op::Get => "get",
        }
    }
}

/// The protocol to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tnv,
    /// TNV with downloads from an HTTP server.
    Http(Url),
    Fdfs,
    /// HTTP GETs of one URL.
    Get(Url),
}

/// The sizes of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// Repeated without end. Each size occurs as often as its weight.
    sequence: Vec<u64>,
}

impl Sizes {
    /// The size of file `number`.
    pub(super) fn of(&self, number: u64) -> u64 {
        let at = usize::try_from(number % self.sequence.len() as u64).unwrap_or_default();
        self.sequence[at]
    }

    /// The mean size.
    pub(super) fn mean(&self) -> u64 {
        let sum: u128 = self.sequence.iter().map(|&size| u128::from(size)).sum();
        u64::try_from(sum / self.sequence.len() as u128).unwrap_or(u64::MAX)
    }
}

/// A run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Plan {
    pub(super) trackers: Vec<String>,
    pub(super) protocol: Protocol,
    pub(super) ops: Vec<Op>,
    pub(super) threads: usize,
    pub(super) count: u64,
    pub(super) sizes: Sizes,
    /// The time limit of a row.
    pub(super) time_max: Duration,
    pub(super) warm_up: u64,
    pub(super) verify: bool,
    pub(super) keep: bool,
    /// The list of the files of an earlier run and for a later one.
    pub(super) files: Option<PathBuf>,
    pub(super) json: bool,
    pub(in crate::cli) appid: AppId,
    pub(super) userid: UserId,
    pub(in crate::cli) key_file: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::cli) enum Action {
    Help,
    Run(Box<Plan>),
}

/// Parses what follows `bench`. `trackers` is what precedes it: all but `--get` need them.
pub(in crate::cli) fn parse(
    parser: &mut lexopt::Parser,
    trackers: Option<Vec<String>>,
    key_file: Option<PathBuf>,
) -> Result<Action, String> {
    let mut threads = 8;
    let mut count = 5000;
    let mut sizes = "64k".parse()?;
    let mut ops: Option<Vec<Op>> = None;
    let mut seconds = SECONDS_DEFAULT;
    let mut warm_up = None;
    let (mut verify, mut keep, mut json, mut fdfs) = (true, false, false, false);
    let mut http: Option<Url> = None;
    let mut get: Option<Url> = None;
    let mut files = None;
    let mut appid = None;
    let mut userid = None;
    let mut key_file = key_file;
    let mut file_option = None;
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        let name = match arg {
            Long(name) => name.to_owned(),
            Short('h') => return Ok(Action::Help),
            other => return Err(other.unexpected().to_string()),
        };
        let mut value = || parser.value().map_err(|error| error.to_string());
        if FILE_OPTIONS.contains(&name.as_str()) {
            file_option = Some(name.clone());
        }
        match name.as_str() {
            "help" => return Ok(Action::Help),
            "threads" => threads = number("--threads", &value()?, 1, THREADS_MAX)?,
            "count" => count = number("--count", &value()?, 1, COUNT_MAX)?,
            "size" => sizes = text("--size", value()?)?.parse()?,
            "op" => ops = Some(parse_ops(&text("--op", value()?)?)?),
            "seconds" => seconds = number("--seconds", &value()?, 1, SECONDS_MAX)?,
            "warm-up" => warm_up = Some(number("--warm-up", &value()?, 0, COUNT_MAX)?),
            "no-verify" => verify = false,
            "keep" => keep = true,
            "files" => files = Some(PathBuf::from(value()?)),
            "json" => json = true,
            "fdfs" => fdfs = true,
            "http" => http = Some(parsed("--http", value()?)?),
            "get" => get = Some(parsed("--get", value()?)?),
            "appid" => appid = Some(named("--appid", value()?)?),
            "userid" => userid = Some(named("--userid", value()?)?),
            "key-file" => key_file = Some(value()?.into()),
            other => {
                return Err(format!("invalid option '--{other}' of bench, see 'tnv TRACKERS bench --help'"));
            }
        }
    }
    let protocol = match (trackers.is_some(), get, http, fdfs) {
        (true, None, None, false) => Protocol::Tnv,
        (true, None, Some(url), false) => Protocol::Http(url),
        (true, None, None, true) => Protocol::Fdfs,
        (true, None, Some(_), true) => return Err("--http and --fdfs do not go together".to_owned()),
        (true, Some(_), ..) => {
            return Err("--get measures one URL and no trackers: 'tnv bench --get URL'".to_owned());
        }
        (false, Some(url), ..) => Protocol::Get(url),
        (false, None, ..) => {
            return Err("bench: want 'tnv TRACKERS bench ...', or 'tnv bench --get URL' without trackers; \
                        a tracker whose host is called 'bench' is bench:21000"
                .to_owned());
        }
    };
    let ops = match (&protocol, file_option) {
        (Protocol::Get(_), Some(option)) => return Err(format!("--{option} and --get do not go together")),
        (Protocol::Get(_), None) => vec![Op::Get],
        _ => ops.unwrap_or_else(|| vec![Op::Upload, Op::Download, Op::Delete]),
    };
    let default = |name: &str| format!("{name}: the default is invalid");
    Ok(Action::Run(Box::new(Plan {
        trackers: trackers.unwrap_or_default(),
        protocol,
        ops,
        threads: usize::try_from(threads).map_err(|error| error.to_string())?,
        count,
        sizes,
        time_max: Duration::from_secs(seconds),
        warm_up: warm_up.unwrap_or(2 * threads),
        verify,
        keep,
        files,
        json,
        appid: appid.map_or_else(|| AppId::new("tnvideo"), Ok).map_err(|_| default("--appid"))?,
        userid: userid.map_or_else(|| UserId::new("tnvbench"), Ok).map_err(|_| default("--userid"))?,
        key_file,
    })))
}

fn text(name: &str, value: OsString) -> Result<String, String> {
    value.into_string().map_err(|value| format!("{name} '{}' is not UTF-8", value.display()))
}

fn parsed<T: FromStr<Err = String>>(name: &str, value: OsString) -> Result<T, String> {
    text(name, value)?.parse().map_err(|error| format!("{name}: {error}"))
}

fn named<T: FromStr<Err = tnv_client::Error>>(name: &str, value: OsString) -> Result<T, String> {
    text(name, value)?.parse().map_err(|error| format!("{name}: {error}"))
}

fn number(name: &str, value: &OsString, min: u64, max: u64) -> Result<u64, String> {
    let number = value.to_str().and_then(|text| text.parse::<u64>().ok());
    number.filter(|number| (min..=max).contains(number)).ok_or_else(|| {
        format!("invalid {name}, got '{}', want a whole number, {min} to {max}", value.display())
    })
}

fn parse_ops(list: &str) -> Result<Vec<Op>, String> {
    let op = |name: &str| match name {
        "upload" => Ok(Op::Upload),
        "download" => Ok(Op::Download),
        "mixed" => Ok(Op::Mixed),
        "delete" => Ok(Op::Delete),
        other => Err(format!(
            "invalid --op, got '{other}', want upload, download, mixed or delete, several separated by ','"
        )),
    };
    let ops = list.split(',').map(op).collect::<Result<Vec<_>, _>>()?;
    match ops.len() {
        count if count <= OPS_MAX => Ok(ops),
        count => Err(format!("invalid --op, got {count} operations, want at most {OPS_MAX}")),
    }
}

/// A number of bytes; k, m, g and t are powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" => Some(1),
        "k" => Some(1 << 10),
        "m" => Some(1 << 20),
        "g" => Some(1 << 30),
        "t" => Some(1 << 40),
        _ => None,
    };
    let bytes = digits.parse::<u64>().ok().zip(unit).and_then(|(number, unit)| number.checked_mul(unit));
    bytes.filter(|bytes| (1..=SIZE_MAX).contains(bytes)).ok_or_else(|| {
        format!(
            "invalid --size, got '{text}', want bytes or 4k, 1m, 2g (powers of 1024), 1 to {SIZE_MAX} bytes"
        )
    })
}

impl FromStr for Sizes {
    type Err = String;

    /// `SIZE[:WEIGHT]`, several separated by commas.
    fn from_str(text: &str) -> Result<Sizes, String> {
        let parts: Vec<&str> = text.split(',').collect();
        if parts.len() > SIZES_MAX {
            return Err(format!(
                "invalid --size, got a mix of {}, want at most {SIZES_MAX} sizes",
                parts.len()
            ));
        }
        let mut sequence = Vec::new();
        for part in parts {
            let (bytes, weight) = match part.split_once(':') {
                None => (size(part)?, 1),
                Some((bytes, weight)) => {
                    let number =
                        weight.parse::<u64>().ok().filter(|number| (1..=WEIGHT_MAX).contains(number));
                    let want = || format!("invalid --size, got weight '{weight}', want 1 to {WEIGHT_MAX}");
                    (size(bytes)?, number.ok_or_else(want)?)
                }
            };
            sequence.extend((0..weight).map(|_| bytes));
        }
        // A fixed seed makes runs comparable.
        sequence.shuffle(&mut StdRng::seed_from_u64(1));
        Ok(Sizes { sequence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &str) -> Result<Plan, String> {
        let mut parser = lexopt::Parser::from_args(args.split(' ').filter(|arg| !arg.is_empty()));
        let trackers = (!args.contains("--get")).then(|| vec!["a".to_owned()]);
        match parse(&mut parser, trackers, None)? {
            Action::Run(plan) => Ok(*plan),
            Action::Help => Err("help".to_owned()),
        }
    }

    #[test]
    fn each_option_has_a_default() {
        let plan = plan("").unwrap();
        assert_eq!((plan.threads, plan.count, plan.sizes.mean(), plan.warm_up), (8, 5000, 65_536, 16));
        assert_eq!(plan.ops, [Op::Upload, Op::Download, Op::Delete]);
        assert_eq!((plan.verify, plan.keep, plan.json), (true, false, false));
        assert_eq!((plan.appid.as_str(), plan.userid.as_str()), ("tnvideo", "tnvbench"));
        assert_eq!(plan.time_max, Duration::from_secs(300));
        assert_eq!(plan.protocol, Protocol::Tnv);
    }

    #[test]
    fn each_option_is_parsed() {
        let plan = plan(
            "--threads=1024 --count 1000000 --size 4k:7,1m:3 --op mixed,delete --seconds 5 --warm-up 0 \
             --no-verify --keep --files f --json --appid app --userid u --key-file k --http http://h:1/x/",
        )
        .unwrap();
        assert_eq!((plan.threads, plan.count, plan.warm_up), (1024, 1_000_000, 0));
        assert_eq!(plan.ops, [Op::Mixed, Op::Delete]);
        assert_eq!((plan.verify, plan.keep, plan.json), (false, true, true));
        assert_eq!((plan.key_file, plan.files), (Some("k".into()), Some("f".into())));
        assert!(matches!(plan.protocol, Protocol::Http(_)));
        let sizes: Vec<_> = (0..20).map(|number| plan.sizes.of(number)).collect();
        assert_eq!(sizes[..10], sizes[10..]);
        assert_eq!(sizes.iter().filter(|&&size| size == 4096).count(), 14);
        assert_eq!(sizes.iter().filter(|&&size| size == 1 << 20).count(), 6);
        assert_eq!(plan.sizes.mean(), (7 * 4096 + 3 * (1 << 20)) / 10);
    }

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        for (text, bytes) in [("1", 1), ("65536", 65_536), ("4k", 4096), ("500M", 500 << 20), ("1t", 1 << 40)]
        {
            assert_eq!(size(text), Ok(bytes));
        }
    }

    #[test]
    fn one_url_needs_no_trackers() {
        let plan = plan("--get http://127.0.0.1:8080/x --threads 2").unwrap();
        assert_eq!(plan.ops, [Op::Get]);
        assert!(matches!(plan.protocol, Protocol::Get(_)));
    }

    #[test]
    fn a_wrong_argument_is_refused_with_what_is_allowed() {
        // An invalid value: the error has the option, the value and the allowed range.
        for (args, name, got) in [
            ("--threads 0", "--threads", "0"),
            ("--threads 1025", "--threads", "1025"),
            ("--count 1000001", "--count", "1000001"),
            ("--count x", "--count", "x"),
            ("--seconds 0", "--seconds", "0"),
            ("--warm-up -1", "--warm-up", "-1"),
            ("--size 0", "--size", "0"),
            ("--size 2t", "--size", "2t"),
            ("--size 4q", "--size", "4q"),
            ("--size 99999999999999999999t", "--size", "99999999999999999999t"),
            ("--size 4k:0", "--size", "0"),
            ("--size 4k:7,", "--size", ""),
            ("--op uplaod", "--op", "uplaod"),
        ] {
            let error = plan(args).unwrap_err();
            assert!(error.starts_with(&format!("invalid {name}, got ")), "{args}: {error}");
            assert!(error.contains(&format!("'{got}', want ")), "{args}: {error}");
        }
        for args in [
            "--size 1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1",
            "--op upload,upload,upload,upload,upload,upload,upload,upload,upload",
            "--appid tn-video",
            "--http https://h/",
            "--http http://h/ --fdfs",
            "--get http://h/ --op upload",
            "--frob",
            "x",
            "--threads",
        ] {
            assert!(plan(args).is_err(), "{args}");
        }
        assert!(parse(&mut lexopt::Parser::from_args([""; 0]), None, None).is_err(), "no trackers");
    }
}
