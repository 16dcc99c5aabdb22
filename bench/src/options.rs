//! What was typed after `scripts/bench table`.

use std::path::PathBuf;

use lexopt::prelude::*;
use tnv_tests::bins::profile_dir;

use crate::table::Extent;
use crate::{Failure, Result};

/// The text of `--help`.
pub(crate) const HELP: &str = "\
scripts/bench: the standard table on fresh clusters, beside the peers that are installed

Usage: scripts/bench [table] [--quick] [--rounds N] [--only ROWS] [--with COLUMNS] [--dir DIR]
                             [--json FILE] [--markdown FILE]

  --quick          a tenth of the operations in one round: to try something out
  --rounds N       medians are of so many rounds (3, or 1 with --quick)
  --only ROWS      rows whose name has this in it, several separated by '|': '4k|64k', 'upload', 'ids'
  --with COLUMNS   columns whose name has this in it: 'embedded|fastdfs', 'no fsync', 'machine'
  --dir DIR        the disk that is measured: a directory is made in DIR, and removed afterwards.
                   Without it the disk of the build
  --json FILE      all that was measured, each round of it
  --markdown FILE  what is printed, into a file as well
  --list           print the names of all rows and columns

Peers are nginx, MariaDB, FastDFS (fdfs_trackerd, fdfs_storaged) and, for the added millisecond, strace;
those that are missing are left out. Exit codes: 0 done, 1 something failed, 2 wrong usage.";

/// Rounds that a run may have, and has.
const ROUNDS_MAX: u32 = 100;
const ROUNDS: u32 = 3;

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Help,
    List,
    Run(Options),
}

/// What a run goes by.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub extent: Extent,
    pub rounds: u32,
    pub only: Pattern,
    pub with: Pattern,
    pub dir: PathBuf,
    pub json: Option<PathBuf>,
    pub markdown: Option<PathBuf>,
}

/// Parts of names, any of which will do; without any all names fit.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Pattern(Vec<String>);

impl Pattern {
    fn new(text: &str) -> Pattern {
        Pattern(
            text.split('|').map(|part| part.trim().to_lowercase()).filter(|part| !part.is_empty()).collect(),
        )
    }

    pub(crate) fn fits(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|part| name.contains(part.as_str()))
    }
}

pub(crate) fn parse(mut parser: lexopt::Parser) -> Result<Asked> {
    let mut options = Options {
        extent: Extent::Full,
        rounds: 0,
        only: Pattern::default(),
        with: Pattern::default(),
        dir: profile_dir().join("tmp"),
        json: None,
        markdown: None,
    };
    while let Some(arg) = parser.next()? {
        match arg {
            Short('h') | Long("help") => return Ok(Asked::Help),
            Long("list") => return Ok(Asked::List),
            Long("quick") => options.extent = Extent::Quick,
            // For the tests.
            Long("smoke") => options.extent = Extent::Smoke,
            Long("rounds") => options.rounds = parser.value()?.parse()?,
            Long("only") => options.only = Pattern::new(&parser.value()?.string()?),
            Long("with") => options.with = Pattern::new(&parser.value()?.string()?),
            Long("dir") => options.dir = parser.value()?.into(),
            Long("json") => options.json = Some(parser.value()?.into()),
            Long("markdown") => options.markdown = Some(parser.value()?.into()),
            other => return Err(other.unexpected().into()),
        }
    }
    match (options.rounds, options.extent) {
        (0, Extent::Full) => options.rounds = ROUNDS,
        (0, _) => options.rounds = 1,
        (1..=ROUNDS_MAX, _) => {}
        (got, _) => {
            return Err(Failure::Usage(format!("invalid --rounds, got {got}, want 1 to {ROUNDS_MAX}")));
        }
    }
    Ok(Asked::Run(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &str) -> Result<Options> {
        match parse(lexopt::Parser::from_args(args.split(' ').filter(|arg| !arg.is_empty())))? {
            Asked::Run(options) => Ok(options),
            other => Err(Failure::Failed(format!("{other:?}"))),
        }
    }

    #[test]
    fn a_pattern_is_parts_of_names() {
        let options = parsed("--only 4K|64k --rounds 5").expect("options");
        assert!(options.only.fits("upload 4k") && options.only.fits("http 64k"));
        assert!(!options.only.fits("upload 1m") && options.with.fits("anything"));
        assert_eq!((options.rounds, options.extent), (5, Extent::Full));
    }

    #[test]
    fn a_quick_run_has_one_round() {
        assert_eq!(parsed("--quick").expect("options").rounds, 1);
        assert_eq!(parsed("--quick --rounds 2").expect("options").rounds, 2);
        assert_eq!(parsed("").expect("options").rounds, 3);
        for wrong in ["--rounds 101", "--rounds x", "--frob", "x"] {
            assert!(matches!(parsed(wrong), Err(Failure::Usage(_))), "{wrong}");
        }
    }
}
