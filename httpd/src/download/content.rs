//! The content of one response and its position. It is read from storages in pieces, each whole before any of
//! it is sent: a paused viewer occupies no storage, and what is loaded can be dropped and read again, so it
//! needs no memory.

use std::ops::Range;

use tnv_common::error::Result;
use tnv_common::proto::tnv::file_key::FileKey;

use crate::download::buffers::Buffer;
use crate::download::files::Files;
use crate::download::range::Part;

/// Most memory of a source: the file's names and its storages.
const SOURCE_BYTES: usize = 1 << 10;

/// A piece of the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Bytes between parts of the file.
    Text(String),
    /// A part of the file.
    File(Part),
}

impl Piece {
    /// Its length.
    pub fn bytes(&self) -> u64 {
        match self {
            Piece::Text(text) => text.len() as u64,
            Piece::File(part) => part.bytes(),
        }
    }
}

/// The file of a response, as it was looked up.
pub struct Source<I> {
    /// Its owner and ID.
    pub file: FileKey,
    /// The upload.
    pub info: I,
}

/// The content of a response.
pub struct Content<I> {
    pieces: Vec<Piece>,
    source: Option<Source<I>>,
    /// The piece that is sent next, and how much of it was sent.
    at: usize,
    sent: u64,
    left: u64,
    /// The next bytes, if they are loaded.
    loaded: Option<(Buffer, Range<usize>)>,
}

impl<I> Content<I> {
    /// No content.
    pub fn none() -> Content<I> {
        Content { pieces: Vec::new(), source: None, at: 0, sent: 0, left: 0, loaded: None }
    }

    /// These pieces of this file.
    pub fn of(pieces: Vec<Piece>, source: Source<I>) -> Content<I> {
        let left = pieces.iter().map(Piece::bytes).sum();
        Content { pieces, source: Some(source), left, ..Content::none() }
    }

    /// The same with its first bytes loaded: so many of this buffer.
    pub fn with_first(mut self, buffer: Buffer, bytes: usize) -> Content<I> {
        self.loaded = Some((buffer, 0..bytes));
        self
    }

    /// The number of bytes that are not sent yet.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The loaded ones of them.
    pub fn ready(&self) -> &[u8] {
        self.loaded.as_ref().map_or(&[], |(buffer, range)| &buffer[range.clone()])
    }

    /// So many of the loaded bytes were sent.
    pub fn advance(&mut self, count: usize) {
        if let Some((_, range)) = &mut self.loaded {
            range.start += count;
            if range.start == range.end {
                self.loaded = None;
            }
        }
        self.left -= count as u64;
        self.sent += count as u64;
        while let Some(bytes) = self.pieces.get(self.at).map(Piece::bytes).filter(|&bytes| bytes <= self.sent)
        {
            self.sent -= bytes;
            self.at += 1;
        }
    }

    /// Drops the loaded bytes. They are loaded again later.
    pub fn unload(&mut self) {
        self.loaded = None;
    }

    /// The memory that it holds when nothing is loaded.
    pub fn held_bytes(&self) -> usize {
        let texts = self.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => text.capacity(),
            Piece::File(_) => 0,
        });
        let pieces = self.pieces.capacity() * size_of::<Piece>();
        texts.sum::<usize>() + pieces + self.source.as_ref().map_or(0, |_| SOURCE_BYTES)
    }

    /// Loads the next bytes: as many as fit into this buffer, or all that are left.
    pub fn load<F: Files<Info = I>>(&mut self, files: &F, mut buffer: Buffer) -> Result<()> {
        let (mut filled, mut skip) = (0, self.sent);
        for piece in &self.pieces[self.at..] {
            let room = &mut buffer[filled..];
            let bytes = usize::try_from(piece.bytes() - skip).unwrap_or(usize::MAX).min(room.len());
            match (piece, &self.source) {
                (Piece::Text(text), _) => {
                    let start = usize::try_from(skip).unwrap_or(usize::MAX);
                    room[..bytes].copy_from_slice(&text.as_bytes()[start..start + bytes]);
                }
                (Piece::File(part), Some(source)) => {
                    files.read(&source.file, &source.info, part.first + skip, &mut room[..bytes])?;
                }
                // Only content with a source has such pieces.
                (Piece::File(_), None) => break,
            }
            (filled, skip) = (filled + bytes, 0);
            if filled == buffer.len() {
                break;
            }
        }
        self.loaded = Some((buffer, 0..filled));
        Ok(())
    }
}
