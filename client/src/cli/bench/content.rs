//! What is uploaded, and whether it is what comes back. All content is cut from one random block that is
//! made once: file number `n` begins at a place of its own in it and goes round. So no time is spent on
//! making content, each file differs from every other one nearby, and what a file must have is known
//! without keeping it.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tnv_client::{Error, ErrorKind, Result};
use tnv_common::fail;

/// The block's size. A power of two, so that a place in it is a mask away.
const BLOCK_BYTES: usize = 1 << 20;

/// Where each file begins after the one before. It is odd, so the first `BLOCK_BYTES` files begin at as many
/// places.
const STRIDE: u64 = 40_503;

/// How much of each piece's beginning and end is compared while the clock runs: enough to tell two files
/// apart, too little to show in a figure.
const EDGE_BYTES: usize = 32;

/// The block, twice in a row: from each place on there are `BLOCK_BYTES` bytes without a seam.
pub(super) struct Block {
    bytes: Vec<u8>,
}

impl Block {
    /// The same one for the same seed.
    pub(super) fn new(seed: u64) -> Block {
        let mut bytes = vec![0; BLOCK_BYTES];
        StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
        bytes.extend_from_within(..);
        Block { bytes }
    }

    /// What file `number` has at `position`: `count` bytes, or as many as there are in one piece.
    fn piece(&self, number: u64, position: u64, count: usize) -> &[u8] {
        let place = number.wrapping_mul(STRIDE).wrapping_add(position) & (BLOCK_BYTES as u64 - 1);
        // A masked number fits.
        let place = usize::try_from(place).unwrap_or_default();
        &self.bytes[place..place + count.min(BLOCK_BYTES)]
    }
}

/// The content of one file, to be read once.
pub(super) struct Content<'a> {
    block: &'a Block,
    number: u64,
    size: u64,
    position: u64,
    halt: &'a AtomicBool,
}

impl<'a> Content<'a> {
    /// The content of a file. Once `halt` is set there is no more of it, so that a large upload ends.
    pub(super) fn new(block: &'a Block, number: u64, size: u64, halt: &'a AtomicBool) -> Content<'a> {
        Content { block, number, size, position: 0, halt }
    }

    /// How many bytes it has.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes, where they lie; empty at the end.
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

impl Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.next(buffer.len())?;
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}

/// How closely what comes is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closely {
    /// Each byte is compared.
    Whole,
    /// The length, and the edges of each piece that comes: it costs no time.
    Edges,
    /// The length alone, of content that is not ours.
    Length,
}

/// Takes a file's content as it comes, and tells whether it is what it should be.
pub(super) struct Check<'a> {
    block: &'a Block,
    number: u64,
    size: u64,
    closely: Closely,
    halt: &'a AtomicBool,
    position: u64,
    fault: Option<Error>,
}

impl<'a> Check<'a> {
    pub(super) fn new(
        block: &'a Block,
        number: u64,
        size: u64,
        closely: Closely,
        halt: &'a AtomicBool,
    ) -> Check<'a> {
        Check { block, number, size, closely, halt, position: 0, fault: None }
    }

    /// How many bytes must come.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Takes the next bytes.
    pub(super) fn take(&mut self, piece: &[u8]) -> Result<()> {
        if self.halt.load(Ordering::Relaxed) {
            return fail!(Unavailable, "interrupted");
        }
        if piece.len() as u64 > self.size - self.position {
            return fail!(Mismatch, "more than the {} bytes that were uploaded came back", self.size);
        }
        match self.closely {
            Closely::Length => {}
            Closely::Whole => self.compare(0, piece)?,
            Closely::Edges if piece.len() <= 2 * EDGE_BYTES => self.compare(0, piece)?,
            Closely::Edges => {
                let end = piece.len() - EDGE_BYTES;
                self.compare(0, &piece[..EDGE_BYTES])?;
                self.compare(end as u64, &piece[end..])?;
            }
        }
        self.position += piece.len() as u64;
        Ok(())
    }

    /// Compares with what should be so many bytes on.
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

    /// The last word, on content that has come whole.
    pub(super) fn end(self) -> Result<()> {
        match self.fault {
            Some(error) => Err(error),
            None if self.position < self.size => {
                fail!(Mismatch, "{} bytes came back of the {} that were uploaded", self.position, self.size)
            }
            None => Ok(()),
        }
    }

    /// What was wrong with it, where something was: it says more than the error of whoever wrote it.
    pub(super) fn fault(&mut self) -> Option<Error> {
        self.fault.take()
    }
}

impl Write for Check<'_> {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        match self.take(piece) {
            Ok(()) => Ok(piece.len()),
            Err(error) => {
                let kind = match error.kind() {
                    ErrorKind::Mismatch => io::ErrorKind::InvalidData,
                    _ => io::ErrorKind::Other,
                };
                let told = io::Error::new(kind, error.to_string());
                self.fault = Some(error);
                Err(told)
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
        Content::new(block, number, size, &ON).read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn each_file_has_its_own_content_of_its_own_size() {
        let block = Block::new(7);
        let first = content(&block, 0, 3_000_001);
        assert_eq!(first.len(), 3_000_001);
        assert!(first[..BLOCK_BYTES] == first[BLOCK_BYTES..2 * BLOCK_BYTES], "it goes round");
        assert!(content(&block, 1, 100) != first[..100]);
        assert!(content(&block, 1, 100)[..] == first[40_503..40_603]);
        assert!(content(&block, 7, 100) == content(&block, 7, 5000)[..100]);
        assert!(content(&block, u64::MAX, 0).is_empty());
    }

    #[test]
    fn what_comes_back_is_compared_however_it_is_cut() {
        let block = Block::new(7);
        let bytes = content(&block, 5, 2_500_000);
        for closely in [Closely::Whole, Closely::Edges, Closely::Length] {
            for cut in [1, 63, 64, 65, 4096, 2_000_000] {
                let mut check = Check::new(&block, 5, 2_500_000, closely, &ON);
                bytes.chunks(cut).for_each(|piece| check.take(piece).unwrap());
                check.end().unwrap();
            }
        }
        let mut wrong = bytes.clone();
        wrong[2_000_123] ^= 1;
        let mut check = Check::new(&block, 5, 2_500_000, Closely::Whole, &ON);
        let told = check.write_all(&wrong).unwrap_err();
        assert_eq!(told.to_string(), "the content differs from what was uploaded at byte 2000123");
        assert_eq!(check.fault().unwrap().kind(), ErrorKind::Mismatch);

        let mut check = Check::new(&block, 6, 2_500_000, Closely::Edges, &ON);
        assert!(check.take(&bytes).is_err(), "another file's content is seen at its edges");
        let mut check = Check::new(&block, 5, 100, Closely::Length, &ON);
        assert!(check.take(&bytes[..101]).unwrap_err().message().contains("more than the 100 bytes"));
        check.take(&bytes[..99]).unwrap();
        assert!(check.end().unwrap_err().message().contains("99 bytes came back of the 100"));
    }

    #[test]
    fn content_ends_when_it_is_interrupted() {
        let (block, halt) = (Block::new(7), AtomicBool::new(true));
        assert!(Content::new(&block, 0, 10, &halt).read(&mut [0; 10]).is_err());
        assert!(Check::new(&block, 0, 10, Closely::Whole, &halt).write(&[0; 10]).is_err());
    }
}
