//! The commands, one function each, on a framed connection: what goes out, and what may come back.

use std::time::Duration;

use tnv_common::error::Result;
use tnv_common::fail;
use tnv_common::limits::{GROUP_LIST_BYTES_MAX, MESSAGE_TIMEOUT, REPLY_TIMEOUT};
use tnv_common::proto::AppId;
use tnv_common::proto::field::Reader;
use tnv_common::proto::tnv::auth::{NONCE_BYTES, Nonce, Proof, encode_challenge};
use tnv_common::proto::tnv::file_key::Triple;
use tnv_common::proto::tnv::storage::{CheckedUpload, Download, Read, STAT_BYTES, Stat, Upload};
use tnv_common::proto::tnv::tracker::{Addresses, ROUTE_BYTES_MAX, Route};
use tnv_common::proto::tnv::{REPLY_STORAGE, REPLY_TRACKER, command};
use tnv_common::rpc::client::Conn;
use tnv_common::text::one_line;

/// A storage acknowledges an upload only when it is on disk. Beyond the usual wait for a reply it is
/// given a second for so many bytes: a disk that flushes slower than this is failing.
const FLUSH_BYTES_A_SECOND: u64 = 16 << 20;

/// How long a storage may take to find a file: it answers from memory or after one query, and where
/// its database hangs another member of the group is asked.
const FIND_TIMEOUT: Duration = Duration::from_secs(20);

/// The table of groups.
pub(crate) fn groups(conn: &mut Conn) -> Result<String> {
    conn.set_reply_timeout(MESSAGE_TIMEOUT);
    let body = conn.call(command::GROUPS, &[], REPLY_TRACKER, GROUP_LIST_BYTES_MAX)?;
    let end = body.iter().position(|&byte| byte == 0).unwrap_or(body.len());
    // Existing trackers print whatever a storage called itself, and this is read in terminals.
    let text = String::from_utf8_lossy(&body[..end]);
    Ok(text.split('\n').map(one_line).collect::<Vec<_>>().join("\n"))
}

/// A user's storages; a new user is given a group, which the tracker records.
pub(crate) fn addresses(conn: &mut Conn, user: &Addresses) -> Result<Route> {
    route(conn, command::ADDRESSES, user)
}

/// A user's storages; a new user is not found. Existing trackers do not know this command.
pub(crate) fn find_addresses(conn: &mut Conn, user: &Addresses) -> Result<Route> {
    route(conn, command::FIND_ADDRESSES, user)
}

fn route(conn: &mut Conn, command: u8, user: &Addresses) -> Result<Route> {
    conn.set_reply_timeout(MESSAGE_TIMEOUT);
    Route::decode(&conn.call(command, &user.encode(), REPLY_TRACKER, ROUTE_BYTES_MAX)?)
}

/// What a storage wants the key of an application proven with; none where it wants no proof.
pub(crate) fn challenge(conn: &mut Conn, appid: &AppId) -> Result<Option<Nonce>> {
    conn.set_reply_timeout(MESSAGE_TIMEOUT);
    let body = conn.call(command::CHALLENGE, &encode_challenge(appid), REPLY_STORAGE, NONCE_BYTES)?;
    match Nonce::try_from(body.as_slice()) {
        Ok(nonce) => Ok(Some(nonce)),
        Err(_) if body.is_empty() => Ok(None),
        Err(_) => {
            fail!(Protocol, "{} sent a nonce of {} bytes, want {NONCE_BYTES}", conn.peer(), body.len())
        }
    }
}

/// Proves the key of an application.
pub(crate) fn prove(conn: &mut Conn, proof: &Proof) -> Result<()> {
    conn.set_reply_timeout(MESSAGE_TIMEOUT);
    conn.call(command::PROVE, &proof.encode(), REPLY_STORAGE, 0).map(drop)
}

/// The size of a file.
pub(crate) fn file_size(conn: &mut Conn, file: &Triple) -> Result<u64> {
    conn.set_reply_timeout(FIND_TIMEOUT);
    let body: [u8; 8] = conn.call_fixed(command::FILE_SIZE, &file.encode(), REPLY_STORAGE)?;
    Reader::new(&body).count("file size")
}

/// Everything about a file; existing storages do not know this command.
pub(crate) fn stat(conn: &mut Conn, file: &Triple) -> Result<Stat> {
    conn.set_reply_timeout(FIND_TIMEOUT);
    Stat::decode(&conn.call_fixed(command::STAT, &file.encode(), REPLY_STORAGE)?)
}

/// Removes a file.
pub(crate) fn delete(conn: &mut Conn, file: &Triple) -> Result<()> {
    conn.set_reply_timeout(REPLY_TIMEOUT);
    conn.call(command::DELETE, &file.encode(), REPLY_STORAGE, 0).map(drop)
}

/// Asks for content; returns how much of it follows on the connection.
pub(crate) fn download(conn: &mut Conn, request: &Download) -> Result<u64> {
    conn.set_reply_timeout(FIND_TIMEOUT);
    conn.send(command::DOWNLOAD, &request.encode())?;
    conn.reply(REPLY_STORAGE, i64::MAX.cast_unsigned())
}

/// The same of one certain upload; existing storages do not know this command.
pub(crate) fn read(conn: &mut Conn, request: &Read) -> Result<u64> {
    conn.set_reply_timeout(FIND_TIMEOUT);
    conn.send(command::READ, &request.encode())?;
    conn.reply(REPLY_STORAGE, i64::MAX.cast_unsigned())
}

/// Asks for everything about a file and for its content at once; returns how much content follows on the
/// connection. Existing storages do not know this command.
pub(crate) fn fetch(conn: &mut Conn, request: &Download) -> Result<(Stat, u64)> {
    conn.set_reply_timeout(FIND_TIMEOUT);
    conn.send(command::FETCH, &request.encode())?;
    let bytes = conn.reply(REPLY_STORAGE, i64::MAX.cast_unsigned())?;
    let Some(content_bytes) = bytes.checked_sub(STAT_BYTES as u64) else {
        return fail!(Protocol, "{} sent a reply of {bytes} bytes, want at least {STAT_BYTES}", conn.peer());
    };
    let mut stat = [0; STAT_BYTES];
    conn.read_body(&mut stat)?;
    Ok((Stat::decode(&stat)?, content_bytes))
}

/// Begins an upload, with the first of its content; the rest of `request.size` bytes is to follow.
pub(crate) fn upload(conn: &mut Conn, request: &Upload, first: &[u8]) -> Result<()> {
    conn.send_start(command::UPLOAD, &request.encode(), request.size, first)
}

/// The same of content that must have a certain checksum; existing storages do not know this command.
pub(crate) fn upload_checked(conn: &mut Conn, request: &CheckedUpload, first: &[u8]) -> Result<()> {
    conn.send_start(command::UPLOAD_CHECKED, &request.encode(), request.upload.size, first)
}

/// Asks a storage whether it can hold an upload against its checksum. Existing ones refuse and close.
pub(crate) fn checks_uploads(conn: &mut Conn) -> Result<()> {
    conn.set_reply_timeout(MESSAGE_TIMEOUT);
    conn.call(command::UPLOAD_CHECKED, &[], REPLY_STORAGE, 0).map(drop)
}

/// How long a disk may take to flush so much.
pub(crate) fn flush_time(size: u64) -> Duration {
    Duration::from_secs(size / FLUSH_BYTES_A_SECOND)
}

/// The answer to an upload whose content has been sent.
pub(crate) fn upload_reply(conn: &mut Conn, size: u64) -> Result<()> {
    conn.set_reply_timeout(REPLY_TIMEOUT + flush_time(size));
    conn.reply(REPLY_STORAGE, 0).map(drop)
}

/// The answer that came while content was still being sent: a refusal, or nonsense.
pub(crate) fn early_upload_reply(conn: &mut Conn) -> Result<()> {
    conn.reply(REPLY_STORAGE, 0)?;
    fail!(Protocol, "{} acknowledged an upload before it had all of it", conn.peer())
}
