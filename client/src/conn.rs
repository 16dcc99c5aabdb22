//! The commands, one function each: the request on a connection, and its reply. No retries.

use std::time::Duration;

use tnv_common::error::Result;
use tnv_common::fail;
use tnv_common::limits::{GROUP_LIST_BYTES_MAX, MESSAGE_TIMEOUT, REPLY_TIMEOUT};
use tnv_common::proto::AppId;
use tnv_common::proto::field::Reader;
use tnv_common::proto::tnv::auth::{NONCE_BYTES, Nonce, Proof, encode_challenge};
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::{CheckedUpload, Download, Read, STAT_BYTES, Stat, Upload};
use tnv_common::proto::tnv::tracker::{Addresses, ROUTE_BYTES_MAX, Route};
use tnv_common::proto::tnv::{REPLY_STORAGE, REPLY_TRACKER, command};
use tnv_common::rpc::client::Conn;
use tnv_common::text::one_line;

/// A storage acknowledges an upload after its fsync. In addition to the reply timeout it has a second for so
/// many bytes: a slower disk is failing.
const SYNC_BYTES_PER_SECOND: u64 = 16 << 20;

/// The reply timeout of a lookup. A storage answers from memory or after one query; if its database is
/// unresponsive, another member of the group can answer.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);

/// The table of groups.
pub(crate) fn groups(conn: &mut Conn) -> Result<String> {
    conn.set_reply_timeout(MESSAGE_TIMEOUT);
    let body = conn.call(command::GROUPS, &[], REPLY_TRACKER, GROUP_LIST_BYTES_MAX)?;
    let end = body.iter().position(|&byte| byte == 0).unwrap_or(body.len());
    // A legacy tracker prints any name that a storage gave, and terminals interpret escape sequences.
    let text = String::from_utf8_lossy(&body[..end]);
    Ok(text.split('\n').map(one_line).collect::<Vec<_>>().join("\n"))
}

/// A user's storages. The tracker gives a new user a group and records it.
pub(crate) fn addresses(conn: &mut Conn, user: &Addresses) -> Result<Route> {
    route(conn, command::ADDRESSES, user)
}

/// A user's storages. A new user is not found. Legacy trackers lack this command.
pub(crate) fn find_addresses(conn: &mut Conn, user: &Addresses) -> Result<Route> {
    route(conn, command::FIND_ADDRESSES, user)
}

fn route(conn: &mut Conn, command: u8, user: &Addresses) -> Result<Route> {
    conn.set_reply_timeout(MESSAGE_TIMEOUT);
    Route::decode(&conn.call(command, &user.encode(), REPLY_TRACKER, ROUTE_BYTES_MAX)?)
}

/// The nonce for a proof of an application's key; `None` if the storage needs no proof.
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
pub(crate) fn file_size(conn: &mut Conn, file: &FileKey) -> Result<u64> {
    conn.set_reply_timeout(LOOKUP_TIMEOUT);
    let body: [u8; 8] = conn.call_fixed(command::FILE_SIZE, &file.encode(), REPLY_STORAGE)?;
    Reader::new(&body).count("file size")
}

/// The stat of a file. Legacy storages lack this command.
pub(crate) fn stat(conn: &mut Conn, file: &FileKey) -> Result<Stat> {
    conn.set_reply_timeout(LOOKUP_TIMEOUT);
    Stat::decode(&conn.call_fixed(command::STAT, &file.encode(), REPLY_STORAGE)?)
}

/// Removes a file.
pub(crate) fn delete(conn: &mut Conn, file: &FileKey) -> Result<()> {
    conn.set_reply_timeout(REPLY_TIMEOUT);
    conn.call(command::DELETE, &file.encode(), REPLY_STORAGE, 0).map(drop)
}

/// Requests content and returns how many bytes of it follow on the connection.
pub(crate) fn download(conn: &mut Conn, request: &Download) -> Result<u64> {
    conn.set_reply_timeout(LOOKUP_TIMEOUT);
    conn.send(command::DOWNLOAD, &request.encode())?;
    conn.reply(REPLY_STORAGE, i64::MAX.cast_unsigned())
}

/// The same for one version of the file. Legacy storages lack this command.
pub(crate) fn read(conn: &mut Conn, request: &Read) -> Result<u64> {
    conn.set_reply_timeout(LOOKUP_TIMEOUT);
    conn.send(command::READ, &request.encode())?;
    conn.reply(REPLY_STORAGE, i64::MAX.cast_unsigned())
}

/// Requests the stat and the content at once, and returns how many bytes of content follow on the connection.
/// Legacy storages lack this command.
pub(crate) fn fetch(conn: &mut Conn, request: &Download) -> Result<(Stat, u64)> {
    conn.set_reply_timeout(LOOKUP_TIMEOUT);
    conn.send(command::FETCH, &request.encode())?;
    let bytes = conn.reply(REPLY_STORAGE, i64::MAX.cast_unsigned())?;
    let Some(content_bytes) = bytes.checked_sub(STAT_BYTES as u64) else {
        return fail!(Protocol, "{} sent a reply of {bytes} bytes, want at least {STAT_BYTES}", conn.peer());
    };
    let mut stat = [0; STAT_BYTES];
    conn.read_body(&mut stat)?;
    Ok((Stat::decode(&stat)?, content_bytes))
}

/// Starts an upload with its first piece of content. The rest of `request.size` bytes must follow.
pub(crate) fn upload(conn: &mut Conn, request: &Upload, first: &[u8]) -> Result<()> {
    conn.send_start(command::UPLOAD, &request.encode(), request.size, first)
}

/// The same with the checksum that the content must have. Legacy storages lack this command.
pub(crate) fn upload_checked(conn: &mut Conn, request: &CheckedUpload, first: &[u8]) -> Result<()> {
    conn.send_start(command::UPLOAD_CHECKED, &request.encode(), request.upload.size, first)
}

/// Asks whether a storage has `UPLOAD_CHECKED`. A legacy storage refuses and closes.
pub(crate) fn checks_uploads(conn: &mut Conn) -> Result<()> {
    conn.set_reply_timeout(MESSAGE_TIMEOUT);
    conn.call(command::UPLOAD_CHECKED, &[], REPLY_STORAGE, 0).map(drop)
}

/// How long the fsync of so many bytes may take.
pub(crate) fn sync_time(size: u64) -> Duration {
    Duration::from_secs(size / SYNC_BYTES_PER_SECOND)
}

/// Waits for the reply to an upload whose content has been sent.
pub(crate) fn upload_reply(conn: &mut Conn, size: u64) -> Result<()> {
    conn.set_reply_timeout(REPLY_TIMEOUT + sync_time(size));
    conn.reply(REPLY_STORAGE, 0).map(drop)
}

/// Reads a reply that came while content was being sent: a refusal, or a protocol error.
pub(crate) fn early_upload_reply(conn: &mut Conn) -> Result<()> {
    conn.reply(REPLY_STORAGE, 0)?;
    fail!(Protocol, "{} acknowledged an upload before all of it was sent", conn.peer())
}
