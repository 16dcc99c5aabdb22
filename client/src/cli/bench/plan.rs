//! What is to be measured: the arguments after `bench` become a [`Plan`], or a sentence that says what was
//! wrong, what it was and what is allowed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use lexopt::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use tnv_client::{AppId, UserId};

use super::http::Url;

/// Each thread is a connection or two; servers take a few thousand by default.
const THREADS_MAX: u64 = 1024;

/// Operations of one row. Their latencies are kept, 8 bytes each, and what is known of each file.
const COUNT_MAX: u64 = 1_000_000;

/// Rows of one run: each may make files, which are remembered until the end.
const OPS_MAX: usize = 8;

/// Different sizes in a mix.
const SIZES_MAX: usize = 16;

/// The largest share of one size in a mix; files are dealt from a pack of as many cards as all shares have.
const WEIGHT_MAX: u64 = 1000;

/// The largest file.
const SIZE_MAX: u64 = 1 << 40;

/// The longest that a row may be allowed to take: a day.
const SECONDS_MAX: u64 = 86_400;

/// How long a row may take where nothing is said.
const SECONDS_DEFAULT: u64 = 300;

/// What one row measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Upload,
    Download,
    /// Three downloads, an upload, and so on.
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

/// What is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Tnv,
    /// TNV, but downloads come from an HTTP server.
    Http(Url),
    Fdfs,
    /// HTTP alone, and one URL.
    Get(Url),
}

/// Which sizes files have, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// The pack that they are dealt from, round and round: as many of each size as its weight.
    pack: Vec<u64>,
}

impl Sizes {
    /// The size of a file.
    pub(super) fn of(&self, number: u64) -> u64 {
        let at = usize::try_from(number % self.pack.len() as u64).unwrap_or_default();
        self.pack[at]
    }

    /// What a file has on average.
    pub(super) fn mean(&self) -> u64 {
        let sum: u128 = self.pack.iter().map(|&size| u128::from(size)).sum();
        u64::try_from(sum / self.pack.len() as u128).unwrap_or(u64::MAX)
    }
}

/// Everything that a run needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Plan {
    pub(super) trackers: Vec<String>,
    pub(super) protocol: Protocol,
    pub(super) ops: Vec<Op>,
    pub(super) threads: usize,
    pub(super) count: u64,
    pub(super) sizes: Sizes,
    /// How long a row may take.
    pub(super) time_max: Duration,
    pub(super) warm_up: u64,
    pub(super) verify: bool,
    pub(super) keep: bool,
    /// The list of the files that are gone on with, and that are kept.
    pub(super) files: Option<PathBuf>,
    pub(super) json: bool,
    pub(in super::super) appid: AppId,
    pub(super) userid: UserId,
    pub(in super::super) key_file: Option<PathBuf>,
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Asked {
    Help,
    Run(Box<Plan>),
}

/// Makes sense of what follows `bench`. There are trackers before it, unless one URL is to be measured.
pub(in super::super) fn parse(
    parser: &mut lexopt::Parser,
    trackers: Option<Vec<String>>,
    key_file: Option<PathBuf>,
) -> Result<Asked, String> {
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
    // What has no meaning with --get.
    let mut of_files = None;
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        let name = match arg {
            Long(name) => name.to_owned(),
            Short('h') => return Ok(Asked::Help),
            other => return Err(other.unexpected().to_string()),
        };
        let mut value = || parser.value().map_err(|error| error.to_string());
        if matches!(
            name.as_str(),
            "size"
                | "op"
                | "no-verify"
                | "keep"
                | "files"
                | "appid"
                | "userid"
                | "key-file"
                | "http"
                | "fdfs"
        ) {
            of_files = Some(name.clone());
        }
        match name.as_str() {
            "help" => return Ok(Asked::Help),
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
    let ops = match (&protocol, of_files) {
        (Protocol::Get(_), Some(option)) => return Err(format!("--{option} and --get do not go together")),
        (Protocol::Get(_), None) => vec![Op::Get],
        _ => ops.unwrap_or_else(|| vec![Op::Upload, Op::Download, Op::Delete]),
    };
    let default = |name: &str| format!("{name}: the default is invalid");
    Ok(Asked::Run(Box::new(Plan {
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
        let mut pack = Vec::new();
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
            pack.extend((0..weight).map(|_| bytes));
        }
        // The same order in each run, so that runs can be compared.
        pack.shuffle(&mut StdRng::seed_from_u64(1));
        Ok(Sizes { pack })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(args: &str) -> Result<Plan, String> {
        let mut parser = lexopt::Parser::from_args(args.split(' ').filter(|arg| !arg.is_empty()));
        let trackers = (!args.contains("--get")).then(|| vec!["a".to_owned()]);
        match parse(&mut parser, trackers, None)? {
            Asked::Run(plan) => Ok(*plan),
            Asked::Help => Err("help".to_owned()),
        }
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let plan = plan("").unwrap();
        assert_eq!((plan.threads, plan.count, plan.sizes.mean(), plan.warm_up), (8, 5000, 65_536, 16));
        assert_eq!(plan.ops, [Op::Upload, Op::Download, Op::Delete]);
        assert_eq!((plan.verify, plan.keep, plan.json), (true, false, false));
        assert_eq!((plan.appid.as_str(), plan.userid.as_str()), ("tnvideo", "tnvbench"));
        assert_eq!(plan.time_max, Duration::from_secs(300));
        assert_eq!(plan.protocol, Protocol::Tnv);
    }

    #[test]
    fn all_of_it_can_be_said() {
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
        let dealt: Vec<_> = (0..20).map(|number| plan.sizes.of(number)).collect();
        assert_eq!(dealt[..10], dealt[10..]);
        assert_eq!(dealt.iter().filter(|&&size| size == 4096).count(), 14);
        assert_eq!(dealt.iter().filter(|&&size| size == 1 << 20).count(), 6);
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
    fn an_error_says_what_was_wrong_what_it_was_and_what_is_allowed() {
        for (args, says) in [
            ("--threads 0", "invalid --threads, got '0', want a whole number, 1 to 1024"),
            ("--threads 1025", "invalid --threads, got '1025'"),
            ("--count 1000001", "invalid --count, got '1000001', want a whole number, 1 to 1000000"),
            ("--count x", "invalid --count, got 'x'"),
            ("--seconds 0", "invalid --seconds, got '0'"),
            ("--warm-up -1", "invalid --warm-up, got '-1'"),
            ("--size 0", "invalid --size, got '0', want bytes or 4k, 1m, 2g (powers of 1024), 1 to"),
            ("--size 2t", "invalid --size, got '2t'"),
            ("--size 4q", "invalid --size, got '4q'"),
            ("--size 99999999999999999999t", "invalid --size"),
            ("--size 4k:0", "invalid --size, got weight '0', want 1 to 1000"),
            ("--size 4k:7,", "invalid --size, got ''"),
            ("--size 1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", "got a mix of 17, want at most 16 sizes"),
            ("--op uplaod", "invalid --op, got 'uplaod', want upload, download, mixed or delete"),
            ("--op upload,upload,upload,upload,upload,upload,upload,upload,upload", "got 9 operations"),
            ("--appid tn-video", "--appid: invalid appid, got 'tn-video'"),
            ("--http https://h/", "--http: 'https://h/' is HTTPS"),
            ("--http http://h/ --fdfs", "do not go together"),
            ("--get http://h/ --op upload", "--op and --get do not go together"),
            ("--frob", "invalid option '--frob' of bench"),
            ("x", "x"),
            ("--threads", "--threads"),
        ] {
            let error = plan(args).unwrap_err();
            assert!(error.contains(says), "{args}: {error}");
        }
        let none = parse(&mut lexopt::Parser::from_args([""; 0]), None, None).unwrap_err();
        assert!(none.contains("tnv bench --get URL"), "{none}");
    }
}
