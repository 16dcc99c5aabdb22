//! The attempts of one upload: what is sent, what an attempt's failure may have stored, and how the upload
//! ends.

use std::net::SocketAddr;

use crc32fast::Hasher;
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::limits::COPY_BYTES;
use tnv_common::proto::FileId;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::{CheckedUpload, Upload};
use tnv_common::rpc::client::Conn;

use super::content::Content;
use super::outcome::{self, Outcome};
use crate::attempt::{Attempt, Candidate, Failure, Progress};
use crate::conn;
use crate::file_id::make_file_id;
use crate::storages::Storages;
use crate::trackers::Owner;

/// A failed attempt, with what it may have stored.
enum SendError {
    /// The content is wrong; `partly_sent` if a part of it was sent.
    Content { error: Error, partly_sent: bool },
    /// No connection.
    Connect(Error),
    /// The network or the storage failed.
    Server {
        error: Error,
        /// The storage replied.
        replied: bool,
        /// All content was sent.
        fully_sent: bool,
        /// The connection had been idle.
        reused: bool,
    },
}

/// One upload with all its attempts.
struct PendingUpload<'a> {
    storages: &'a Storages,
    content: &'a mut dyn Content,
    request: Upload,
    /// The checksum that the content must have if the caller knows it.
    expected: Option<u32>,
    /// The content was compared with `expected` before it was sent.
    content_checked: bool,
    /// The storage compared it with `expected`.
    storage_checked: bool,
    /// The storages of the group, for lookups.
    members: Vec<SocketAddr>,
    /// The checksum, once all content has been read.
    crc32: Option<u32>,
    /// An attempt may have stored it.
    doubtful: bool,
    /// An attempt's result is unknown.
    reply_lost: bool,
}

/// Uploads content. `what` starts the error. If the content has another checksum than `expected`, nothing is
/// stored.
pub(crate) fn upload(
    storages: &Storages,
    owner: Owner,
    content: &mut dyn Content,
    expected: Option<u32>,
    what: &str,
) -> Result<FileId> {
    let fileid = make_file_id(&owner.1)?;
    let members = storages.trackers.route_for_upload(&storages.mngr, &owner)?.addresses;
    let (appid, userid) = owner.clone();
    let file = FileKey { appid, userid, fileid: fileid.clone() };
    let request = Upload { file, size: content.size() };
    let mut pending = PendingUpload {
        storages,
        content,
        request,
        expected,
        content_checked: false,
        storage_checked: false,
        members: members.clone(),
        crc32: None,
        doubtful: false,
        reply_lost: false,
    };
    let attempts = storages.try_each(what, &owner, members, |candidate| pending.attempt(candidate));
    let Err(error) = attempts else { return pending.check_stored(&owner, what).map(|()| fileid) };
    match pending.final_outcome() {
        Outcome::Stored => pending.check_stored(&owner, what).map(|()| fileid),
        Outcome::Absent if !pending.reply_lost => Err(error),
        Outcome::Different => fail!(
            Internal,
            "{}; what is stored as {fileid} has another size or checksum than the content",
            error.message()
        ),
        _ => fail!(OutcomeUnknown, "{}; it may have been stored as {fileid}", error.message()),
    }
}

impl PendingUpload<'_> {
    /// One attempt at one storage.
    fn attempt(&mut self, candidate: Candidate) -> Attempt<()> {
        let address = candidate.address;
        if !self.members.contains(&address) {
            self.members.push(address);
        }
        if self.is_stored() {
            return Ok(());
        }
        let checks = self.expected.is_some() && self.storages.mngr.checks_uploads(candidate)?;
        if !checks {
            self.check_content().map_err(Failure::local)?;
        }
        let sent = match self.send(candidate, true, checks) {
            // A dead idle connection is no failure of the storage.
            Err(SendError::Server { error, replied: false, fully_sent, reused: true })
                if error.kind() == ErrorKind::Unavailable && self.content.is_repeatable() =>
            {
                self.doubtful |= fully_sent;
                self.reply_lost |= fully_sent;
                if fully_sent && self.is_stored() {
                    return Ok(());
                }
                self.send(candidate, false, checks)
            }
            sent => sent,
        };
        let failure = match sent {
            Ok(()) => {
                self.storage_checked = checks;
                return Ok(());
            }
            Err(SendError::Content { error, partly_sent }) => {
                let left = match (self.doubtful, partly_sent) {
                    // An earlier attempt may have stored it: the final lookup decides.
                    (true, _) => return Err(Failure::local(error)),
                    (false, true) => outcome::remove_part(self.storages, address, &self.request.file),
                    (false, false) => "nothing was sent".to_owned(),
                };
                return Err(Failure::local(Error::new(error.kind(), format!("{error}; {left}"))));
            }
            Err(SendError::Connect(error)) => return Err(Failure::connect(error)),
            Err(SendError::Server { error, replied, fully_sent, .. }) => {
                if replied && self.is_stored() {
                    return Ok(());
                }
                let unknown = error.kind() == ErrorKind::OutcomeUnknown;
                self.reply_lost |= fully_sent && (!replied || unknown);
                self.doubtful |= fully_sent && (!replied || unknown || error.kind() == ErrorKind::Internal);
                Failure::classify(replied, error)
            }
        };
        // A reader cannot repeat what follows its first piece.
        let is_final = failure.is_final || !self.content.is_repeatable();
        let progress =
            if self.request.size > COPY_BYTES as u64 { Progress::Transferred } else { Progress::None };
        Err(Failure { is_final, progress, ..failure })
    }

    /// Whether an earlier attempt is known to have stored it.
    fn is_stored(&self) -> bool {
        self.doubtful
            && outcome::look_up(self.storages, &self.members, &self.request, self.crc32) == Outcome::Stored
    }

    /// Whether an attempt stored it, after the last one has failed.
    fn final_outcome(&self) -> Outcome {
        match self.doubtful {
            true => outcome::look_up_finally(
                self.storages,
                &self.members,
                &self.request,
                self.crc32,
                self.reply_lost,
            ),
            false => Outcome::Absent,
        }
    }

    /// Sends everything on one connection and waits for the reply. With `checks` the storage compares the
    /// checksum.
    fn send(
        &mut self,
        candidate: Candidate,
        reuse: bool,
        checks: bool,
    ) -> std::result::Result<(), SendError> {
        let (mngr, address) = (&self.storages.mngr, candidate.address);
        // A connection that may be dead gets only content that can be sent again.
        let pooled = match reuse && self.content.is_always_repeatable() {
            true => mngr.pooled(address),
            false => None,
        };
        let reused = pooled.is_some();
        let mut conn = match pooled {
            Some(conn) => conn,
            None => mngr.connect(address).map_err(SendError::Connect)?,
        };
        // Content that cannot be sent again cannot fail over.
        let wait_max = match self.content.is_repeatable() {
            true => candidate.change_timeout(conn::sync_time(self.request.size)),
            false => None,
        };
        conn.set_wait_max(wait_max);
        if let Err(error) = mngr.prove(&mut conn, &self.request.file.appid) {
            let replied = conn.replied();
            let failure = Failure::classify(replied, error.clone());
            let is_dead = reused && !replied;
            if is_dead || !mngr.lacks_proofs(address, &failure) {
                return Err(SendError::Server { error, replied, fully_sent: false, reused });
            }
            conn = mngr.connect(address).map_err(SendError::Connect)?;
            conn.set_wait_max(wait_max);
        }
        self.send_on(&mut conn, checks, reused)?;
        self.storages.mngr.put(conn);
        Ok(())
    }

    fn send_on(&mut self, conn: &mut Conn, checks: bool, reused: bool) -> std::result::Result<(), SendError> {
        let size = self.request.size;
        let mut hasher = Hasher::new();
        let mut position = 0;
        let failed = |conn: &Conn, error, fully_sent| SendError::Server {
            error,
            replied: conn.replied(),
            fully_sent,
            reused,
        };
        loop {
            let partly_sent = position > 0;
            let next = self.read_piece(position, &mut hasher);
            let next = next.map_err(|error| SendError::Content { error, partly_sent })?;
            let piece = self.content.piece();
            let sent = match position {
                0 => self.start(conn, checks, piece),
                _ if conn.early_reply() => {
                    return conn::early_upload_reply(conn).map_err(|error| failed(conn, error, false));
                }
                _ => conn.send_content(piece),
            };
            sent.map_err(|error| failed(conn, error, false))?;
            if next == size {
                break;
            }
            position = next;
        }
        self.crc32 = Some(hasher.finalize());
        conn::upload_reply(conn, size).map_err(|error| failed(conn, error, true))
    }

    /// Sends the request with its first piece of content.
    fn start(&self, conn: &mut Conn, checks: bool, first: &[u8]) -> Result<()> {
        match self.expected.filter(|_| checks) {
            Some(crc32) => {
                let request = CheckedUpload { upload: self.request.clone(), crc32 };
                conn::upload_checked(conn, &request, first)
            }
            None => conn::upload(conn, &self.request, first),
        }
    }

    /// Reads the next piece and returns where it ends. With the last piece the content is checked, so a wrong
    /// one is never sent completely and nothing is stored.
    fn read_piece(&mut self, position: u64, hasher: &mut Hasher) -> Result<u64> {
        let size = self.request.size;
        let count = usize::try_from(size - position).unwrap_or(COPY_BYTES).min(COPY_BYTES);
        self.content.read(position, count)?;
        hasher.update(self.content.piece());
        let next = position + count as u64;
        if next < size {
            return Ok(next);
        }
        self.content.check_end()?;
        let crc32 = hasher.clone().finalize();
        match self.expected.filter(|expected| *expected != crc32) {
            None => Ok(next),
            Some(expected) => {
                fail!(Invalid, "the content has the CRC-32 {crc32:08x}, want {expected:08x}")
            }
        }
    }

    /// Reads all content before it is sent to a storage that cannot compare checksums. A legacy storage keeps
    /// a part of an aborted upload, so a wrong one must not start. Content that can be read only once is
    /// checked with its last piece.
    fn check_content(&mut self) -> Result<()> {
        if self.content_checked || self.expected.is_none() || !self.content.is_always_repeatable() {
            return Ok(());
        }
        let mut hasher = Hasher::new();
        let mut position = 0;
        loop {
            position = self
                .read_piece(position, &mut hasher)
                .map_err(|error| Error::new(error.kind(), format!("{error}; nothing was sent")))?;
            if position == self.request.size {
                break;
            }
        }
        self.content_checked = true;
        Ok(())
    }

    /// Compares a stored upload with the expected checksum if no storage has done so. A different one is
    /// removed.
    fn check_stored(&self, owner: &Owner, what: &str) -> Result<()> {
        let Some(expected) = self.expected.filter(|_| !self.storage_checked) else { return Ok(()) };
        let file = &self.request.file;
        let fileid = &file.fileid;
        let stored = self.storages.try_each("compare", owner, self.members.clone(), |candidate| {
            outcome::stored_crc32(self.storages, candidate, file)
        });
        let crc32 = match stored {
            Ok(crc32) if crc32 == expected => return Ok(()),
            Ok(crc32) => crc32,
            Err(error) => {
                return fail!(
                    OutcomeUnknown,
                    "{what}: it is stored as {fileid}, but its checksum could not be verified: {error}"
                );
            }
        };
        let removed = match self.storages.delete(file) {
            Ok(()) => "and was removed again".to_owned(),
            Err(error) => format!("and could not be removed: {error}"),
        };
        fail!(
            Mismatch,
            "{what}: what was stored as {fileid} has the CRC-32 {crc32:08x}, want {expected:08x}, {removed}"
        )
    }
}
