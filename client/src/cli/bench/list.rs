//! The list of `--files`: the files that one run keeps for another, with their IDs and the numbers of their
//! content.

use std::fs;
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::path::Path;

use tnv_client::{Error, Result};
use tnv_common::error::Context;
use tnv_common::fail;

use super::driver::File;

/// The largest list: some ten million files.
const LIST_BYTES_MAX: u64 = 1 << 30;

/// The files, and the seed of their content.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct List {
    pub(super) seed: u64,
    pub(super) files: Vec<File>,
}

impl List {
    /// Reads the list of an earlier run; `None` if there is no list.
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
            return fail!(Invalid, "{} starts with {first:?}, want 'seed NUMBER'", in_list());
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

    /// Writes the list for a later run.
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

    /// Removes the list if there is one.
    pub(super) fn remove(path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::from(error).context(format_args!("the list of files {}", path.display())))
            }
            _ => Ok(()),
        }
    }

    /// The number of the next file. No two files of a list have the same content.
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
    fn a_written_list_is_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("list");
        assert_eq!(List::read(&path).expect("no list"), None);
        let files = vec![
            File { id: "a".into(), number: 7, size: 4096 },
            File { id: "M00/b c".into(), number: 3, size: 1 },
        ];
        List::write(&path, 99, &files).expect("write a list");
        let list = List::read(&path).expect("read a list").expect("a list");
        assert_eq!(list, List { seed: 99, files });
        assert_eq!(list.next_number(), 8);
        for text in ["seed x\n", "", "seed 1\n1 2\n"] {
            fs::write(&path, text).expect("write a file");
            assert_eq!(List::read(&path).expect_err(text).kind(), tnv_client::ErrorKind::Invalid);
        }
        List::remove(&path).expect("remove a list");
        List::remove(&path).expect("it is gone");
        assert_eq!(List::read(&path).expect("no list"), None);
    }
}
