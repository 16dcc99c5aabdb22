//! What the storages have of an upload: whether an attempt stored it, with which checksum, and whether a
//! legacy storage keeps a part of it. It asks, and removes parts; it sends no content.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crc32fast::Hasher;
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::limits::COPY_BYTES;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::{Download, Upload};
use tnv_common::rpc::client::Conn;

use crate::attempt::{Attempt, Candidate};
use crate::conn;
use crate::storages::Storages;

/// After the last attempt a file whose reply was lost is looked up after each of these pauses: the storage
/// may still be syncing it.
const LOOKUP_PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(300), Duration::from_millis(1000), Duration::from_millis(3000)];

/// A part of an upload is deleted after each of these pauses while the storage does not know the file: a
/// legacy storage may still be writing its row.
const REMOVE_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(200), Duration::from_millis(800)];

/// The longest wait for each of these deletes. The upload has failed already.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether an attempt stored the upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Stored,
    /// There is no such file.
    Absent,
    /// The file has another size or checksum.
    Different,
    /// No storage replied.
    Unknown,
}

/// Looks the file up at one storage after another until one knows. `crc32` is the checksum of the content if
/// all of it has been read.
pub(super) fn look_up(
    storages: &Storages,
    members: &[SocketAddr],
    request: &Upload,
    crc32: Option<u32>,
) -> Outcome {
    for candidate in storages.mngr.order(members.to_vec()) {
        let address = candidate.address;
        match look_up_at(storages, candidate, request, crc32) {
            Ok(outcome) => return outcome,
            Err(failure) if failure.error.kind() == ErrorKind::NotFound => return Outcome::Absent,
            Err(failure) => {
                storages.mngr.note_failure(address, &failure);
                log::info!("look up {}: storage {address}: {}", request.file.fileid, failure.error);
            }
        }
    }
    Outcome::Unknown
}

fn look_up_at(
    storages: &Storages,
    candidate: Candidate,
    request: &Upload,
    crc32_sent: Option<u32>,
) -> Attempt<Outcome> {
    let (size, crc32) = match storages.stat_at(candidate, &request.file)? {
        Some(stat) => (stat.size, stat.crc32),
        None => (storages.size_at(candidate, &request.file)?, None),
    };
    // A checksum that one side does not know cannot differ.
    let same = size == request.size && crc32.zip(crc32_sent).is_none_or(|(stored, sent)| stored == sent);
    Ok(if same { Outcome::Stored } else { Outcome::Different })
}

/// The last lookup, after the last attempt. Only after a lost reply may the file still appear.
pub(super) fn look_up_finally(
    storages: &Storages,
    members: &[SocketAddr],
    request: &Upload,
    crc32: Option<u32>,
    reply_lost: bool,
) -> Outcome {
    let mut outcome = Outcome::Unknown;
    for pause in LOOKUP_PAUSES {
        thread::sleep(pause);
        outcome = look_up(storages, members, request, crc32);
        if matches!(outcome, Outcome::Stored | Outcome::Different) || !reply_lost {
            break;
        }
    }
    outcome
}

/// The checksum of a stored file: from its row, or of the content that the storage returns.
pub(super) fn stored_crc32(storages: &Storages, candidate: Candidate, file: &FileKey) -> Attempt<u32> {
    if let Some(crc32) = storages.stat_at(candidate, file)?.and_then(|stat| stat.crc32) {
        return Ok(crc32);
    }
    let request = Download { file: file.clone(), offset: 0, size: 0 };
    storages.mngr.look_up(candidate, |conn| {
        conn::download(conn, &request)?;
        let mut hasher = Hasher::new();
        let mut piece = vec![0; COPY_BYTES];
        loop {
            match conn.read_body_some(&mut piece)? {
                0 => return Ok(hasher.finalize()),
                count => hasher.update(&piece[..count]),
            }
        }
    })
}

/// Removes what a storage has of an aborted upload, and describes the result. A TNV storage
/// stores all or nothing. A legacy storage may keep a part, with a row or without.
pub(super) fn remove_part(storages: &Storages, address: SocketAddr, file: &FileKey) -> String {
    let wait_max = Some(REMOVE_TIMEOUT);
    let is_absent = |error: &Error| error.kind() == ErrorKind::NotFound;
    // A legacy storage does not know this command.
    let stat = storages.mngr.exchange(address, wait_max, |conn| conn::stat(conn, file));
    if stat.is_err_and(|failure| is_absent(&failure.error)) {
        return "nothing was stored".to_owned();
    }
    let mut deleted = Ok(());
    for pause in REMOVE_PAUSES {
        thread::sleep(pause);
        let delete = |conn: &mut Conn| -> Result<()> { conn::delete(conn, file) };
        deleted = storages.mngr.exchange_proven(address, wait_max, &file.appid, delete);
        if !matches!(&deleted, Err(failure) if is_absent(&failure.error)) {
            break;
        }
    }
    let fileid = &file.fileid;
    match deleted {
        Ok(()) => format!("{address} had stored a part of it as {fileid}, which was removed again"),
        Err(failure) if is_absent(&failure.error) => {
            format!(
                "{address} does not know {fileid}, but as a legacy storage may keep a part of it on its disk"
            )
        }
        Err(failure) => format!(
            "{address} may have stored a part of it as {fileid}, which could not be removed: {}",
            failure.error
        ),
    }
}
