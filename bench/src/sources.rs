//! Files of content that several columns send or store: made once, and in the page cache.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use tnv_tests::sample;

use crate::Result;

/// What is written at a time.
const PIECE_BYTES: usize = 1 << 20;

/// The directory of these files.
#[derive(Clone, Debug)]
pub(crate) struct Sources(PathBuf);

impl Sources {
    pub(crate) fn new(directory: &Path) -> Result<Sources> {
        std::fs::create_dir_all(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        Ok(Sources(directory.to_owned()))
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.0
    }

    /// The file of a size.
    pub(crate) fn of(&self, size: u64) -> Result<PathBuf> {
        let path = self.0.join(size.to_string());
        if !path.exists() {
            write(&path, size).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        Ok(path)
    }
}

fn write(path: &Path, size: u64) -> std::io::Result<()> {
    let piece = sample(PIECE_BYTES, size);
    let mut file = File::create_new(path)?;
    let mut left = size;
    while left > 0 {
        let now = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.write_all(&piece[..now])?;
        left -= now as u64;
    }
    file.sync_all()
}
