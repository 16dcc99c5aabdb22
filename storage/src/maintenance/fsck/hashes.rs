//! A set of hashes of paths, small enough for all rows of a large database.

use crate::path;

/// Row hashes in one sorted piece.
pub(super) const PIECE_HASHES: usize = 1 << 20;

/// Many hashes in little space: sorted pieces, so that nothing is ever copied to grow. That two paths
/// of ten million have one hash has a chance of one in a hundred thousand; it would hide an orphan.
#[derive(Default)]
pub(super) struct Hashes {
    pieces: Vec<Vec<u64>>,
    open: Vec<u64>,
}

impl Hashes {
    pub(super) fn add(&mut self, hash: u64) {
        self.open.push(hash);
        if self.open.len() >= PIECE_HASHES {
            self.finish();
        }
    }

    pub(super) fn finish(&mut self) {
        let mut piece = std::mem::take(&mut self.open);
        piece.sort_unstable();
        self.pieces.push(piece);
    }

    pub(super) fn has(&self, hash: u64) -> bool {
        self.pieces.iter().any(|piece| piece.binary_search(&hash).is_ok())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.iter().all(Vec::is_empty)
    }
}

pub(super) fn hash(path: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = path::unique(path).0;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}
