//! The arguments: they become a [`Command`] of valid names and numbers, or an error.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use lexopt::prelude::*;
use tnv_client::{AppId, FileId, FileKey, UserId};

use super::bench;

/// The usage, for usage errors and for `--help`.
macro_rules! usage {
    () => {
        "\
Usage: tnv TRACKERS groups
       tnv TRACKERS upload   APPID USERID FILE [--crc32 HEX] [--key-file FILE]
       tnv TRACKERS filesize APPID USERID FILEID
       tnv TRACKERS download APPID USERID FILEID OFFSET SIZE [OUT]
       tnv TRACKERS delete   APPID USERID FILEID [--key-file FILE]
       tnv TRACKERS bench    [--threads N] [--count N] [--size SIZE] [--op LIST] [...]
       tnv sign --secret-file FILE [--expires SECONDS] APPID USERID FILEID"
    };
}

/// The usage, which follows each usage error.
pub(crate) const USAGE: &str = usage!();

/// The text of `--help`.
pub(super) const HELP: &str = concat!(
    "tnv: the client of the TNV media store\n\n",
    usage!(),
    "
       tnv --help | --version

  TRACKERS     host[:port], several separated by ';' (quote them); the default port is 21000
  groups       print the table of groups and their storages
  upload       store a regular file or the content of a pipe; FILE '-' is standard input (./- is a file of
               that name); prints 'Upload success: FILEID'; with --crc32 only if the content has this
               CRC-32, before it is sent and where it is stored. The content of a pipe is first written to
               TMPDIR (/var/tmp)
  filesize     prints 'Get filesize success: BYTES'
  download     fetch SIZE bytes (0: all that follow) from OFFSET on; prints 'Download success: BYTES'
               OUT is a file, which appears complete or not at all, or '-' for standard output (the success
               line then goes to standard error); without OUT the bytes are counted and discarded
  delete       remove a file; prints 'Delete success: FILEID'
  bench        measure uploads, downloads and deletes; see 'tnv TRACKERS bench --help'

  sign         print the path and query of a signed HTTP link that is valid for SECONDS (3600 by default).
               It needs no tracker. The secret is the first one of FILE, the tnv_http_secret_file of the
               HTTP server. A tracker on a host named 'sign' is sign:21000

  --key-file   application keys, for uploads and deletes of an application that has one: a file like the
               storages' tnv_app_keys_file, 'APPID KEY' a line. Without it the key of APPID is the
               environment variable TNV_APP_KEY, if that is set

  '--' ends the options, for names that start with '-'.
  RUST_LOG=info or debug logs the attempts on standard error.

Exit codes: 0 done, 1 failed, 2 wrong usage."
);

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Help,
    Version,
    Run(Args),
    Sign(Sign),
    Bench(bench::Action),
}

/// The arguments of a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Args {
    pub(super) trackers: Vec<String>,
    pub(super) command: Command,
    /// A file of application keys.
    pub(super) key_file: Option<PathBuf>,
}

/// A link to sign.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sign {
    pub(super) secret_file: PathBuf,
    pub(super) file: FileKey,
    pub(super) lifetime: Duration,
}

/// The default validity of a link, in seconds.
const LIFETIME_DEFAULT: u64 = 3600;

/// A hundred years. More is a point in time or milliseconds by mistake.
const LIFETIME_MAX: u64 = 100 * 366 * 86_400;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Groups,
    Upload { appid: AppId, userid: UserId, file: PathBuf, crc32: Option<u32> },
    FileSize { file: FileKey },
    Download { file: FileKey, offset: u64, size: u64, out: Out },
    Delete { file: FileKey },
}

/// The destination of a download.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Out {
    Nowhere,
    Stdout,
    File(PathBuf),
}

/// Most arguments: those of a download, and one that is too many.
const ARGS_MAX: usize = 9;

pub(super) fn parse(mut parser: lexopt::Parser) -> Result<Action, String> {
    let mut given = Vec::new();
    let mut options = Options::default();
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        match arg {
            Value(value) if value == "bench" && given.len() < 2 => {
                return options.bench(parser, given.pop()).map(Action::Bench);
            }
            Value(value) if given.len() < ARGS_MAX => given.push(value),
            Long("crc32") => {
                let text = parser.value().map_err(|error| error.to_string())?;
                options.crc32 = Some(checksum(&text.to_string_lossy())?);
            }
            Long("help") | Short('h') => return Ok(Action::Help),
            Long("version") | Short('V') => return Ok(Action::Version),
            Long("secret-file") => {
                options.secret_file = Some(parser.value().map_err(|error| error.to_string())?.into());
            }
            Long("key-file") => {
                options.key_file = Some(parser.value().map_err(|error| error.to_string())?.into());
            }
            Long("expires") => {
                options.expires = Some(parser.value().map_err(|error| error.to_string())?);
            }
            Short('0'..='9') => return Err("OFFSET and SIZE must not be negative".to_owned()),
            other => return Err(other.unexpected().to_string()),
        }
    }
    match given.first() {
        Some(first) if first == "sign" => {
            if options.crc32.is_some() {
                return Err("--crc32 is an option of upload only".to_owned());
            }
            Rest { args: given.into_iter().skip(1).collect::<Vec<_>>().into_iter() }
                .sign(options)
                .map(Action::Sign)
        }
        _ if options.secret_file.is_some() || options.expires.is_some() => {
            Err("--secret-file and --expires are options of 'tnv sign' only".to_owned())
        }
        _ => {
            let mut args = Rest { args: given.into_iter() }.parse()?;
            match (&mut args.command, options.crc32) {
                (Command::Upload { crc32, .. }, given) => *crc32 = given,
                (_, Some(_)) => return Err("--crc32 is an option of upload only".to_owned()),
                (_, None) => {}
            }
            Ok(Action::Run(Args { key_file: options.key_file, ..args }))
        }
    }
}

/// A CRC-32 as tools print it.
fn checksum(text: &str) -> Result<u32, String> {
    let hex = (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    match u32::from_str_radix(text, 16) {
        Ok(crc32) if hex => Ok(crc32),
        _ => Err(format!("invalid --crc32, got '{text}', want 1 to 8 hex digits")),
    }
}

/// The options, whose position does not matter.
#[derive(Default)]
struct Options {
    key_file: Option<PathBuf>,
    secret_file: Option<PathBuf>,
    expires: Option<OsString>,
    crc32: Option<u32>,
}

impl Options {
    /// The benchmark parses what follows `bench`.
    fn bench(self, mut parser: lexopt::Parser, trackers: Option<OsString>) -> Result<bench::Action, String> {
        if self.crc32.is_some() || self.secret_file.is_some() || self.expires.is_some() {
            return Err("--crc32, --secret-file and --expires are no options of bench".to_owned());
        }
        let trackers = match trackers {
            Some(text) => Some(Rest { args: vec![text].into_iter() }.trackers()?),
            None => None,
        };
        bench::parse(&mut parser, trackers, self.key_file)
    }
}

/// The arguments that are not parsed yet.
struct Rest {
    args: std::vec::IntoIter<OsString>,
}

impl Rest {
    fn parse(mut self) -> Result<Args, String> {
        let trackers = self.trackers()?;
        let name = self.text("the command (groups, upload, filesize, download, delete or bench)")?;
        let command = self.command(&name)?;
        self.end(&name)?;
        Ok(Args { trackers, command, key_file: None })
    }

    fn trackers(&mut self) -> Result<Vec<String>, String> {
        let trackers = self.text("TRACKERS")?;
        let trackers: Vec<String> =
            trackers.split(';').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        match trackers.is_empty() {
            false => Ok(trackers),
            true => Err("TRACKERS is empty, want host[:port], several separated by ';'".to_owned()),
        }
    }

    fn sign(mut self, options: Options) -> Result<Sign, String> {
        let file = self.file()?;
        self.end("sign")?;
        let secret_file = options.secret_file.ok_or("--secret-file FILE is missing")?;
        let lifetime = match options.expires {
            None => LIFETIME_DEFAULT,
            Some(text) => {
                let number = text.to_str().and_then(|text| text.parse::<u64>().ok());
                let number = number.filter(|number| (1..=LIFETIME_MAX).contains(number));
                number.ok_or_else(|| {
                    format!(
                        "invalid --expires, got '{}', want seconds from now, 1 to {LIFETIME_MAX}",
                        text.display()
                    )
                })?
            }
        };
        Ok(Sign { secret_file, file, lifetime: Duration::from_secs(lifetime) })
    }

    /// Fails if there are more arguments.
    fn end(&mut self, name: &str) -> Result<(), String> {
        match self.args.next() {
            None => Ok(()),
            Some(more) => Err(format!("'{}' is one argument too many for {name}", more.display())),
        }
    }

    fn command(&mut self, name: &str) -> Result<Command, String> {
        Ok(match name {
            "groups" => Command::Groups,
            "upload" => Command::Upload {
                appid: self.parsed("APPID")?,
                userid: self.parsed("USERID")?,
                file: self.next("FILE")?.into(),
                crc32: None,
            },
            "filesize" => Command::FileSize { file: self.file()? },
            "delete" => Command::Delete { file: self.file()? },
            "download" => Command::Download {
                file: self.file()?,
                offset: self.number("OFFSET")?,
                size: self.number("SIZE")?,
                out: match self.args.next() {
                    None => Out::Nowhere,
                    Some(out) if out == "-" => Out::Stdout,
                    Some(out) if out.is_empty() => return Err("OUT is empty, want a file or '-'".to_owned()),
                    Some(out) => Out::File(out.into()),
                },
            },
            other => {
                return Err(format!(
                    "unknown command '{other}', want groups, upload, filesize, download, delete or bench"
                ));
            }
        })
    }

    fn next(&mut self, what: &str) -> Result<OsString, String> {
        self.args.next().ok_or_else(|| format!("{what} is missing"))
    }

    fn text(&mut self, what: &str) -> Result<String, String> {
        let text = self.next(what)?;
        text.into_string().map_err(|text| format!("{what} '{}' is not UTF-8", text.display()))
    }

    fn parsed<T: FromStr<Err = tnv_client::Error>>(&mut self, what: &str) -> Result<T, String> {
        self.text(what)?.parse().map_err(|error| format!("{what}: {error}"))
    }

    fn file(&mut self) -> Result<FileKey, String> {
        let (appid, userid) = (self.parsed("APPID")?, self.parsed("USERID")?);
        let fileid: FileId = self.parsed("FILEID")?;
        Ok(FileKey { appid, userid, fileid })
    }

    fn number(&mut self, what: &str) -> Result<u64, String> {
        let text = self.text(what)?;
        match text.parse::<u64>().ok().filter(|&number| number <= i64::MAX.cast_unsigned()) {
            Some(number) => Ok(number),
            None => Err(format!("invalid {what}, got '{text}', want 0 to {}", i64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &str) -> Result<Action, String> {
        parse(lexopt::Parser::from_args(args.split(' ').filter(|arg| !arg.is_empty())))
    }

    fn command(args: &str) -> Command {
        match parsed(args) {
            Ok(Action::Run(args)) => args.command,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_command_is_parsed() {
        let file = || FileKey {
            appid: AppId::new("tnvideo").unwrap(),
            userid: UserId::new("tnv001").unwrap(),
            fileid: FileId::new("f1").unwrap(),
        };
        let Ok(Action::Run(args)) = parsed("a:1;b;; groups") else { panic!() };
        assert_eq!(args.trackers, ["a:1", "b"]);
        assert_eq!(args.command, Command::Groups);
        assert_eq!(command("a filesize tnvideo tnv001 f1"), Command::FileSize { file: file() });
        assert_eq!(command("a delete tnvideo tnv001 f1"), Command::Delete { file: file() });
        let download = |out| Command::Download { file: file(), offset: 6, size: 9, out };
        assert_eq!(command("a download tnvideo tnv001 f1 6 9"), download(Out::Nowhere));
        assert_eq!(command("a download tnvideo tnv001 f1 6 9 -"), download(Out::Stdout));
        assert_eq!(command("a download tnvideo tnv001 f1 6 9 x"), download(Out::File("x".into())));
        let Command::Upload { file, .. } = command("a upload tnvideo tnv001 -- -x") else { panic!() };
        assert_eq!(file, PathBuf::from("-x"));
        for (args, want) in [("--crc32 cbf43926 ", Some(0xCBF4_3926)), ("--crc32=0 ", Some(0)), ("", None)] {
            let Command::Upload { crc32, .. } = command(&format!("a upload {args}tnvideo tnv001 x")) else {
                panic!()
            };
            assert_eq!(crc32, want, "{args}");
        }
        let Ok(Action::Run(args)) = parsed("a delete tnvideo tnv001 f1 --key-file k") else { panic!() };
        assert_eq!(args.key_file, Some(PathBuf::from("k")));
        assert_eq!(parsed("--help"), Ok(Action::Help));
        assert_eq!(parsed("a download --version"), Ok(Action::Version));
    }

    #[test]
    fn a_link_needs_no_tracker() {
        let Ok(Action::Sign(sign)) = parsed("sign --secret-file s tnvideo tnv001 f1") else { panic!() };
        assert_eq!((sign.secret_file.to_str(), sign.lifetime.as_secs()), (Some("s"), 3600));
        assert_eq!(sign.file.fileid.as_str(), "f1");
        let Ok(Action::Sign(sign)) = parsed("--expires=5 sign tnvideo tnv001 f1 --secret-file=s") else {
            panic!()
        };
        assert_eq!(sign.lifetime.as_secs(), 5);
        for args in [
            "sign",
            "sign tnvideo tnv001 f1",
            "sign --secret-file",
            "sign --secret-file s tnvideo tnv001",
            "sign --secret-file s tnvideo tnv001 f1 x",
            "sign --secret-file s --expires 0 tnvideo tnv001 f1",
            "sign --secret-file s --expires 1h tnvideo tnv001 f1",
            "sign --secret-file s --expires 1798761600000 tnvideo tnv001 f1",
            "a groups --expires 5",
        ] {
            assert!(parsed(args).is_err(), "{args}");
        }
    }

    /// The error names the argument that is missing or wrong, with its value.
    #[test]
    fn a_usage_error_names_the_argument() {
        for (args, names) in [
            ("", &["TRACKERS"][..]),
            ("; groups", &["TRACKERS"]),
            ("a", &["command"]),
            ("a uplaod", &["command", "'uplaod'"]),
            ("a groups x", &["'x'"]),
            ("a upload tnvideo", &["USERID"]),
            ("a upload tn-video u f", &["APPID", "'tn-video'"]),
            ("a download tnvideo u f 1", &["SIZE"]),
            ("a download tnvideo u f x 0", &["OFFSET", "'x'"]),
            ("a download tnvideo u f -5 0", &["OFFSET"]),
            ("a download tnvideo u f 0 9223372036854775808", &["SIZE", "'9223372036854775808'"]),
            ("a download tnvideo u f 0 0 o p", &["'p'"]),
            ("a groups --frob", &["--frob"]),
            ("a upload --crc32 cbf4392x tnvideo u f", &["--crc32", "'cbf4392x'"]),
            ("a upload --crc32 1cbf43926 tnvideo u f", &["--crc32", "'1cbf43926'"]),
            ("a upload --crc32 +1 tnvideo u f", &["--crc32", "'+1'"]),
            ("a upload tnvideo u f --crc32", &["--crc32"]),
            ("a groups --crc32 0", &["--crc32"]),
        ] {
            let error = parsed(args).unwrap_err();
            assert!(names.iter().all(|name| error.contains(name)), "{args}: {error}");
        }
    }
}
