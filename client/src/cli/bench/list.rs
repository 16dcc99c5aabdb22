//! Files that one run keeps and another one goes on with: a list on the disk, of what each is called and what
//! its content was made from.

use std::fs;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use tnv_client::{Error, Result};
use tnv_common::error::Context;
use tnv_common::fail;

use super::row::File;

/// The largest list that is read: some ten million files.
const LIST_BYTES_MAX: u64 = 1 << 30;

/// Files, and the seed of the block that their content is cut from.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct List {
    pub(super) seed: u64,
    pub(super) files: Vec<File>,
}

impl List {
    /// What an earlier run has kept; nothing where there is no such list.
    pub(super) fn read(path: &Path) -> Result<Option<List>> {
        let in_list = || format!("the list of files {}", path.display());
        let file = match fs::File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened.context(in_list)?,
        };
        let mut text = String::new();
        file.take(LIST_BYTES_MAX + 1).read_to_string(&mut text).context(in_list)?;
        if text.len() as u64 > LIST_BYTES_MAX {
            return fail!(Invalid, "{} has over {LIST_BYTES_MAX} bytes", in_list());
        }
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        let Some(seed) = first.strip_prefix("seed ").and_then(|seed| seed.parse().ok()) else {
            return fail!(Invalid, "{} begins with {first:?}, want 'seed NUMBER'", in_list());
        };
        let mut files = Vec::new();
        for line in lines {
            match entry(line) {
                Some(file) => files.push(file),
                None => return fail!(Invalid, "{} has {line:?}, want 'NUMBER SIZE ID'", in_list()),
            }
        }
        Ok(Some(List { seed, files }))
    }

    /// Leaves these files to another run.
    pub(super) fn write(path: &Path, seed: u64, files: &[File]) -> Result<()> {
        let write = || -> std::io::Result<()> {
            let mut out = BufWriter::new(fs::File::create(path)?);
            writeln!(out, "seed {seed}")?;
            for File { id, number, size } in files {
                writeln!(out, "{number} {size} {id}")?;
            }
            out.flush()
        };
        write().context(|| format!("the list of files {}", path.display()))
    }

    /// There are none to go on with.
    pub(super) fn remove(path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::from(error).context(format_args!("the list of files {}", path.display())))
            }
            _ => Ok(()),
        }
    }

    /// The number of the next file that is made: no two of one list have the same content.
    pub(super) fn next_number(&self) -> u64 {
        self.files.iter().map(|file| file.number.saturating_add(1)).max().unwrap_or(0)
    }
}

fn entry(line: &str) -> Option<File> {
    let (number, rest) = line.split_once(' ')?;
    let (size, id) = rest.split_once(' ')?;
    Some(File { id: id.into(), number: number.parse().ok()?, size: size.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_again() {
        let path = std::env::temp_dir().join(format!("tnv-bench-list-{}", std::process::id()));
        assert_eq!(List::read(&path).expect("no list"), None);
        let files = vec![
            File { id: "a".into(), number: 7, size: 4096 },
            File { id: "M00/b c".into(), number: 3, size: 1 },
        ];
        List::write(&path, 99, &files).expect("write a list");
        let list = List::read(&path).expect("read a list").expect("a list");
        assert_eq!(list, List { seed: 99, files });
        assert_eq!(list.next_number(), 8);
        for (text, says) in [
            ("seed x\n", "begins with \"seed x\""),
            ("", "begins with \"\""),
            ("seed 1\n1 2\n", "has \"1 2\""),
        ] {
            fs::write(&path, text).expect("write a file");
            let error = List::read(&path).expect_err(text).to_string();
            assert!(error.contains(says), "{error}");
        }
        List::remove(&path).expect("remove a list");
        List::remove(&path).expect("it is gone");
        assert_eq!(List::read(&path).expect("no list"), None);
    }
}
