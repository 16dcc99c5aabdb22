//! The content of an upload, read piece by piece: a regular file, which can be sent again, or a reader, of
//! which only the first piece can.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tnv_common::error::{Context, Result};
use tnv_common::fail;
use tnv_common::limits::COPY_BYTES;

/// The content of an upload.
pub(crate) trait Content {
    /// Its bytes.
    fn size(&self) -> u64;

    /// Reads the piece of `bytes` bytes at `position`. Positions ascend, or restart at 0 if the content
    /// [is repeatable](Content::is_repeatable).
    fn read(&mut self, position: u64, bytes: usize) -> Result<()>;

    /// The last piece read.
    fn piece(&self) -> &[u8];

    /// Fails if there is more than `size` bytes. It is called before the last piece is sent, so that a
    /// storage never has a part of a file as if it were all.
    fn check_end(&mut self) -> Result<()>;

    /// Whether it can be sent again after what has been read so far.
    fn is_repeatable(&self) -> bool;

    /// Whether it can be sent again even after all of it has been read.
    fn is_always_repeatable(&self) -> bool;
}

/// A regular file.
pub(crate) struct FileContent {
    file: File,
    path: PathBuf,
    size: u64,
    piece: Vec<u8>,
}

impl FileContent {
    /// A file of `size` bytes. `path` is its name in errors.
    pub(crate) fn new(file: File, path: &Path, size: u64) -> FileContent {
        FileContent { file, path: path.to_owned(), size, piece: Vec::new() }
    }

    /// The size has changed, or the file never had the size that it reports.
    fn changed<T>(&self, now: impl Display) -> Result<T> {
        let (path, size) = (self.path.display(), self.size);
        fail!(Invalid, "{path} changed while it was read: it had {size} bytes, now {now}")
    }
}

impl Content for FileContent {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, position: u64, bytes: usize) -> Result<()> {
        self.piece.resize(bytes, 0);
        match self.file.read_exact_at(&mut self.piece, position) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                match self.file.metadata().map_or(0, |found| found.len()) {
                    now if now == self.size => self.changed("fewer"),
                    now => self.changed(now),
                }
            }
            outcome => outcome.context(|| format!("read {}", self.path.display())),
        }
    }

    fn piece(&self) -> &[u8] {
        &self.piece
    }

    fn check_end(&mut self) -> Result<()> {
        let now = self.file.metadata().context(|| format!("read {}", self.path.display()))?.len();
        if now != self.size {
            return self.changed(now);
        }
        // The reported size may be wrong, so a read decides.
        match self.file.read_at(&mut [0], self.size) {
            Ok(0) => Ok(()),
            Ok(_) => self.changed("more"),
            Err(error) => Err(error).context(|| format!("read {}", self.path.display())),
        }
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    fn is_always_repeatable(&self) -> bool {
        true
    }
}

/// A reader. Its first piece is read before the first attempt and kept, so that a storage that is unreachable
/// or refuses at once costs nothing.
pub(crate) struct ReaderContent<'a> {
    reader: &'a mut dyn Read,
    first: Vec<u8>,
    /// The last piece read, if it is not the first.
    later: Vec<u8>,
    size: u64,
    /// Bytes read so far.
    position: u64,
    ended: bool,
}

impl<'a> ReaderContent<'a> {
    pub(crate) fn new(reader: &'a mut dyn Read, size: u64) -> Result<ReaderContent<'a>> {
        if size > i64::MAX.cast_unsigned() {
            return fail!(Invalid, "invalid size, got {size}, want at most {}", i64::MAX);
        }
        let mut first = vec![0; usize::try_from(size).unwrap_or(COPY_BYTES).min(COPY_BYTES)];
        let mut content =
            ReaderContent { reader, first: Vec::new(), later: Vec::new(), size, position: 0, ended: false };
        content.fill(&mut first)?;
        content.first = first;
        Ok(content)
    }

    /// Reads the next bytes.
    fn fill(&mut self, piece: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < piece.len() {
            match self.reader.read(&mut piece[filled..]) {
                Ok(0) => {
                    let got = self.position + filled as u64;
                    return fail!(Invalid, "the content ended after {got} bytes, want {}", self.size);
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(|| "read the content"),
            }
        }
        self.position += filled as u64;
        Ok(())
    }
}

impl Content for ReaderContent<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, position: u64, bytes: usize) -> Result<()> {
        let mut later = std::mem::take(&mut self.later);
        // All pieces but the last have one size, so position 0 is the whole first piece.
        if position > 0 {
            assert_eq!(position, self.position, "a reader does not go back");
            later.resize(bytes, 0);
            self.fill(&mut later)?;
            self.later = later;
        }
        Ok(())
    }

    fn piece(&self) -> &[u8] {
        if self.later.is_empty() { &self.first } else { &self.later }
    }

    fn check_end(&mut self) -> Result<()> {
        while !self.ended {
            match self.reader.read(&mut [0]) {
                Ok(0) => self.ended = true,
                Ok(_) => return fail!(Invalid, "the content has over {} bytes", self.size),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(|| "read the content"),
            }
        }
        Ok(())
    }

    fn is_repeatable(&self) -> bool {
        self.position == self.first.len() as u64
    }

    fn is_always_repeatable(&self) -> bool {
        self.size == self.first.len() as u64
    }
}
