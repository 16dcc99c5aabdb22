//! The content of the files, and its verification. All content is cut from one random block: file number `n`
//! starts at its own offset in the block and wraps around. So making content takes no time, files with near
//! numbers differ, and the content of a file is known without keeping it.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tnv_client::{Error, ErrorKind, Result};
use tnv_common::fail;

/// The size of the block. It is a power of two, so that a mask wraps an offset.
const BLOCK_BYTES: usize = 1 << 20;

/// The distance of the starts of two successive files. It is odd, so the first `BLOCK_BYTES` files start at
/// different offsets.
const STRIDE: u64 = 40_503;

/// How much of the start and of the end of each piece is compared while time is measured: enough to
/// distinguish two files, and too little to affect the figures.
const EDGE_BYTES: usize = 32;

/// The block, twice in a row, so that `BLOCK_BYTES` bytes follow each offset.
pub(super) struct Block {
    bytes: Vec<u8>,
}

impl Block {
    /// The block of a seed.
    pub(super) fn new(seed: u64) -> Block {
        let mut bytes = vec![0; BLOCK_BYTES];
        StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
        bytes.extend_from_within(..);
        Block { bytes }
    }

    /// The content of file `number` at `position`: `count` bytes, at most the size of the block.
    fn piece(&self, number: u64, position: u64, count: usize) -> &[u8] {
        let offset = number.wrapping_mul(STRIDE).wrapping_add(position) & (BLOCK_BYTES as u64 - 1);
        // A masked number fits.
        let offset = usize::try_from(offset).unwrap_or_default();
        &self.bytes[offset..offset + count.min(BLOCK_BYTES)]
    }
}

/// The content of one file, for one upload.
pub(super) struct Payload<'a> {
    block: &'a Block,
    number: u64,
    size: u64,
    position: u64,
    halt: &'a AtomicBool,
}

impl<'a> Payload<'a> {
    /// The content of file `number`. Once `halt` is set it fails, so that a large upload ends.
    pub(super) fn new(block: &'a Block, number: u64, size: u64, halt: &'a AtomicBool) -> Payload<'a> {
        Payload { block, number, size, position: 0, halt }
    }

    /// Its bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes, without a copy; empty at the end.
    pub(super) fn next(&mut self, max: usize) -> io::Result<&'a [u8]> {
        if self.halt.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        let count = max.min(usize::try_from(self.size - self.position).unwrap_or(usize::MAX));
        let piece = self.block.piece(self.number, self.position, count);
        self.position += piece.len() as u64;
        Ok(piece)
    }
}

impl Read for Payload<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.next(buffer.len())?;
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

/// How thoroughly downloaded content is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thoroughness {
    /// Each byte.
    Full,
    /// The length, and the edges of each received piece. This takes no time.
    Edges,
    /// Only the length, for content of unknown origin.
    Length,
}

/// Compares the content of a download while it is received.
pub(super) struct Verifier<'a> {
    block: &'a Block,
    number: u64,
    size: u64,
    thoroughness: Thoroughness,
    halt: &'a AtomicBool,
    position: u64,
    mismatch: Option<Error>,
}

impl<'a> Verifier<'a> {
    pub(super) fn new(
        block: &'a Block,
        number: u64,
        size: u64,
        thoroughness: Thoroughness,
        halt: &'a AtomicBool,
    ) -> Verifier<'a> {
        Verifier { block, number, size, thoroughness, halt, position: 0, mismatch: None }
    }

    /// The expected bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Compares the next bytes.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<()> {
        if self.halt.load(Ordering::Relaxed) {
            return fail!(Unavailable, "interrupted");
        }
        if piece.len() as u64 > self.size - self.position {
            return fail!(Mismatch, "more than the {} bytes that were uploaded came back", self.size);
        }
        match self.thoroughness {
            Thoroughness::Length => {}
            Thoroughness::Full => self.compare(0, piece)?,
            Thoroughness::Edges if piece.len() <= 2 * EDGE_BYTES => self.compare(0, piece)?,
            Thoroughness::Edges => {
                let end = piece.len() - EDGE_BYTES;
                self.compare(0, &piece[..EDGE_BYTES])?;
                self.compare(end as u64, &piece[end..])?;
            }
        }
        self.position += piece.len() as u64;
        Ok(())
    }

    /// Compares bytes that are `ahead` of the position.
    fn compare(&self, ahead: u64, got: &[u8]) -> Result<()> {
        let mut from = self.position + ahead;
        for got in got.chunks(BLOCK_BYTES) {
            let want = self.block.piece(self.number, from, got.len());
            if want != got {
                let at = want.iter().zip(got).position(|(want, got)| want != got).unwrap_or_default();
                return fail!(
                    Mismatch,
                    "the content differs from what was uploaded at byte {}",
                    from + at as u64
                );
            }
            from += got.len() as u64;
        }
        Ok(())
    }

    /// Fails if content is missing.
    pub(super) fn end(self) -> Result<()> {
        match self.mismatch {
            Some(error) => Err(error),
            None if self.position < self.size => {
                fail!(Mismatch, "{} bytes came back of the {} that were uploaded", self.position, self.size)
            }
            None => Ok(()),
        }
    }

    /// The mismatch, if there is one. It says more than the writer's error that it causes.
    pub(super) fn mismatch(&mut self) -> Option<Error> {
        self.mismatch.take()
    }
}

impl Write for Verifier<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        match self.take(piece) {
            Ok(()) => Ok(piece.len()),
            Err(error) => {
                let kind = match error.kind() {
                    ErrorKind::Mismatch => io::ErrorKind::InvalidData,
                    _ => io::ErrorKind::Other,
                };
                let wrapped = io::Error::new(kind, error.to_string());
                self.mismatch = Some(error);
                Err(wrapped)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static ON: AtomicBool = AtomicBool::new(false);

    fn content(block: &Block, number: u64, size: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        Payload::new(block, number, size, &ON).read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn each_file_has_its_own_content_and_size() {
        let block = Block::new(7);
        let first = content(&block, 0, 3_000_001);
        assert_eq!(first.len(), 3_000_001);
        assert!(first[..BLOCK_BYTES] == first[BLOCK_BYTES..2 * BLOCK_BYTES], "it wraps around");
        assert!(content(&block, 1, 100) != first[..100]);
        assert!(content(&block, 1, 100)[..] == first[40_503..40_603]);
        assert!(content(&block, 7, 100) == content(&block, 7, 5000)[..100]);
        assert!(content(&block, u64::MAX, 0).is_empty());
    }

    #[test]
    fn content_is_compared_in_pieces_of_any_size() {
        let block = Block::new(7);
        let bytes = content(&block, 5, 2_500_000);
        for thoroughness in [Thoroughness::Full, Thoroughness::Edges, Thoroughness::Length] {
            for cut in [1, 63, 64, 65, 4096, 2_000_000] {
                let mut verifier = Verifier::new(&block, 5, 2_500_000, thoroughness, &ON);
                bytes.chunks(cut).for_each(|piece| verifier.take(piece).unwrap());
                verifier.end().unwrap();
            }
        }
        let mut wrong = bytes.clone();
        wrong[2_000_123] ^= 1;
        let mut verifier = Verifier::new(&block, 5, 2_500_000, Thoroughness::Full, &ON);
        let wrapped = verifier.write_all(&wrong).unwrap_err();
        assert_eq!(wrapped.kind(), io::ErrorKind::InvalidData);
        assert_eq!(verifier.mismatch().unwrap().kind(), ErrorKind::Mismatch);

        let mut verifier = Verifier::new(&block, 6, 2_500_000, Thoroughness::Edges, &ON);
        assert!(verifier.take(&bytes).is_err(), "the edges show another file's content");
        let mut verifier = Verifier::new(&block, 5, 100, Thoroughness::Length, &ON);
        assert_eq!(verifier.take(&bytes[..101]).unwrap_err().kind(), ErrorKind::Mismatch);
        verifier.take(&bytes[..99]).unwrap();
        assert_eq!(verifier.end().unwrap_err().kind(), ErrorKind::Mismatch);
    }

    #[test]
    fn an_interrupt_ends_the_content() {
        let (block, halt) = (Block::new(7), AtomicBool::new(true));
        assert!(Payload::new(&block, 0, 10, &halt).read(&mut [0; 10]).is_err());
        assert!(Verifier::new(&block, 0, 10, Thoroughness::Full, &halt).write(&[0; 10]).is_err());
    }
}
