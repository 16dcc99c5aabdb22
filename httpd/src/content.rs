//! The content of one answer, and how far its viewer has come. It is read from storages piece by piece, each
//! whole in this process before any of it goes to the viewer: who pauses keeps no storage waiting, and what is
//! here of the content can be forgotten and read again, so that he keeps no memory either.

use std::ops::Range;

use tnv_common::error::Result;
use tnv_common::proto::tnv::file_key::Triple;

use crate::files::Files;
use crate::pieces::Buffer;
use crate::range::Part;

/// What a file's name, its storages and the rest take of memory, at most.
const SOURCE_BYTES: usize = 1 << 10;

/// A piece of an answer's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    Text(String),
    /// These bytes of the file.
    File(Part),
}

impl Piece {
    /// How many they are.
    pub fn bytes(&self) -> u64 {
        match self {
            Piece::Text(text) => text.len() as u64,
            Piece::File(part) => part.bytes(),
        }
    }
}

/// The file of an answer, as it was looked up.
pub struct Source<I> {
    /// Whose it is, and its ID.
    pub file: Triple,
    /// Which upload.
    pub info: I,
}

/// The content of an answer.
pub struct Content<I> {
    pieces: Vec<Piece>,
    source: Option<Source<I>>,
    /// The piece that is next to be sent, and how much of it was.
    at: usize,
    sent: u64,
    left: u64,
    /// The next bytes, where they are here.
    loaded: Option<(Buffer, Range<usize>)>,
}

impl<I> Content<I> {
    /// No content at all.
    pub fn none() -> Content<I> {
        Content { pieces: Vec::new(), source: None, at: 0, sent: 0, left: 0, loaded: None }
    }

    /// These pieces, of this file.
    pub fn of(pieces: Vec<Piece>, source: Source<I>) -> Content<I> {
        let left = pieces.iter().map(Piece::bytes).sum();
        Content { pieces, source: Some(source), left, ..Content::none() }
    }

    /// The same whose first bytes have been read: so many of this buffer.
    pub fn with_first(mut self, buffer: Buffer, bytes: usize) -> Content<I> {
        self.loaded = Some((buffer, 0..bytes));
        self
    }

    /// Bytes that are still to be sent.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The next of them, those that are here.
    pub fn ready(&self) -> &[u8] {
        self.loaded.as_ref().map_or(&[], |(buffer, range)| &buffer[range.clone()])
    }

    /// Notes that so many of those were sent.
    pub fn took(&mut self, count: usize) {
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

    /// Forgets those that are here: they will be loaded again.
    pub fn forget(&mut self) {
        self.loaded = None;
    }

    /// What it holds in memory when nothing is loaded.
    pub fn held_bytes(&self) -> usize {
        let texts = self.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => text.capacity(),
            Piece::File(_) => 0,
        });
        let pieces = self.pieces.capacity() * size_of::<Piece>();
        texts.sum::<usize>() + pieces + self.source.as_ref().map_or(0, |_| SOURCE_BYTES)
    }

    /// Fills this buffer with the next bytes, or loads all that are left where these are fewer.
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
                // There are none without their file.
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
