//! What slices and streams share: building a request, making a `READ`, and what a failed `FETCH` means.

use std::net::SocketAddr;

use tnv_common::error::{ErrorKind, Result};
use tnv_common::fail;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::Download;
use tnv_common::rpc::client::Conn;

use crate::attempt::{Attempt, Candidate, Failure, Stage};
use crate::mngr::Manager;

/// A request for `size` bytes at `offset`; a size of 0 is all of the rest.
pub(super) fn request(file: &FileKey, offset: u64, size: u64) -> Result<Download> {
    match (i64::try_from(offset), i64::try_from(size)) {
        (Ok(offset), Ok(size)) => Ok(Download { file: file.clone(), offset, size }),
        _ => fail!(Invalid, "invalid offset or size, got {offset} and {size}, want at most {}", i64::MAX),
    }
}

/// Fails unless a reply announces `want` bytes of content.
pub(super) fn expect_bytes(conn: &Conn, got: u64, want: u64) -> Result<()> {
    match got == want {
        true => Ok(()),
        false => fail!(Protocol, "{} sent {got} bytes of content, want {want}", conn.peer()),
    }
}

/// Makes a `READ`. That a storage does not find the upload is not final: a replicated file system may be a
/// second behind, and a legacy storage lacks the command.
pub(super) fn read_at(
    mngr: &Manager,
    candidate: Candidate,
    request: impl FnMut(&mut Conn) -> Result<()>,
) -> Attempt<()> {
    mngr.look_up(candidate, request).map_err(|failure| match failure.error.kind() {
        ErrorKind::Unsupported => {
            mngr.note_legacy(candidate.address);
            Failure { is_final: false, ..failure }
        }
        ErrorKind::NotFound => Failure { is_final: false, ..failure },
        _ => failure,
    })
}

/// Whether a `FETCH` may have failed because the storage lacks it. A storage without it refuses and closes,
/// so its refusal may be lost, and its message may be unknown. Only a clear refusal is remembered.
pub(super) fn may_lack_fetch(mngr: &Manager, address: SocketAddr, failure: &Failure) -> bool {
    match failure.error.kind() {
        ErrorKind::Unsupported => {
            mngr.note_no_fetch(address);
            true
        }
        ErrorKind::Internal => true,
        ErrorKind::Unavailable => failure.stage == Stage::NoReply,
        _ => false,
    }
}
