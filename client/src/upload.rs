//! Uploads: content from a file or any reader, sent with its checksum, stored exactly once.
//!
//! Why exactly once: all attempts carry one file ID, new and never used before. A storage makes a file
//! visible by inserting its row, and the ID is the row's key in the database that the group shares.
//! So of all attempts, those still on their way somewhere included, at most one gets through, and
//! what is stored under the ID is ours. What remains is to find out whether one did:
//!
//! - An attempt whose content was not sent whole did not: a storage stores nothing less.
//! - One that was acknowledged did. One that was refused did not, but for a refusal that says the outcome
//!   is unknown, and for what an existing storage gives no reason for.
//! - In all other cases (the reply was lost) the file is asked for: before the next attempt, which
//!   it may save; after one that was refused, since "exists already" then means that we succeeded
//!   before; and at the end, when attempts are over. Its size and checksum must be ours.
//! - Where nobody can tell, the error says so and names the file ID.
//!
//! An upload whose checksum the caller knows is held against it three times: here, before the last piece is
//! sent; by the storage, before it acknowledges; and where the storage cannot do that, against what it
//! gives back afterwards.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crc32fast::Hasher;
use tnv_common::error::{Context, Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::limits::COPY_BYTES;
use tnv_common::proto::FileId;
use tnv_common::proto::tnv::file_key::Triple;
use tnv_common::proto::tnv::storage::{CheckedUpload, Download, Upload};
use tnv_common::rpc::client::Conn;

use crate::client::Client;
use crate::conn;
use crate::fileid::make_file_id;
use crate::mngr::Owner;
use crate::trail::{Failure, Progress, Tried, Turn};

/// When attempts are over and a reply was lost, the file is asked for after each of these pauses: the
/// storage may still be flushing it.
const SETTLE_PAUSES: [Duration; 4] =
    [Duration::ZERO, Duration::from_millis(300), Duration::from_millis(1000), Duration::from_millis(3000)];

/// A storage whose upload was broken off gets a delete after each of these pauses, as long as it knows no
/// such file: an existing one may be writing its row.
const BREAK_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(200), Duration::from_millis(800)];

/// And it is waited for so long each time: the upload has failed already.
const BREAK_WAIT_MAX: Duration = Duration::from_secs(5);

/// What is uploaded.
pub(crate) trait Content {
    /// How many bytes it has.
    fn size(&self) -> u64;

    /// Reads the piece of so many bytes that is at `position`. Positions only go on, or back to 0 where this
    /// [is possible](Content::is_repeatable).
    fn read(&mut self, position: u64, bytes: usize) -> Result<()>;

    /// The piece that was read last.
    fn piece(&self) -> &[u8];

    /// Fails where there is more than `size` bytes. Asked before the last piece is sent, so that the
    /// storage never has what would be half a file.
    fn check_end(&mut self) -> Result<()>;

    /// Whether it may be sent again, after what has been taken of it so far.
    fn is_repeatable(&self) -> bool;

    /// Whether it may be sent again even after all of it has been sent.
    fn is_always_repeatable(&self) -> bool;
}

/// A regular file.
pub(crate) struct FileContent {
    file: File,
    path: PathBuf,
    size: u64,
    piece: Vec<u8>,
}

impl FileContent {
    /// The first `size` bytes of a file, which must be all of it. `path` is what it is called in errors.
    pub(crate) fn new(file: File, path: &Path, size: u64) -> FileContent {
        FileContent { file, path: path.to_owned(), size, piece: Vec::new() }
    }

    /// The size is not what it was, or never was what the file gives.
    fn changed<T>(&self, now: impl Display) -> Result<T> {
        let (path, size) = (self.path.display(), self.size);
        fail!(Invalid, "{path} changed while it was read: it had {size} bytes, now {now}")
    }
}

impl Content for FileContent {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, position: u64, bytes: usize) -> Result<()> {
        self.piece.resize(bytes, 0);
        match self.file.read_exact_at(&mut self.piece, position) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                match self.file.metadata().map_or(0, |found| found.len()) {
                    now if now == self.size => self.changed("it gives fewer"),
                    now => self.changed(now),
                }
            }
            outcome => outcome.context(|| format!("read {}", self.path.display())),
        }
    }

    fn piece(&self) -> &[u8] {
        &self.piece
    }

    fn check_end(&mut self) -> Result<()> {
        let now = self.file.metadata().context(|| format!("read {}", self.path.display()))?.len();
        if now != self.size {
            return self.changed(now);
        }
        // The size is what the file system says, and what counts is what it gives.
        match self.file.read_at(&mut [0], self.size) {
            Ok(0) => Ok(()),
            Ok(_) => self.changed("it gives more"),
            Err(error) => Err(error).context(|| format!("read {}", self.path.display())),
        }
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    fn is_always_repeatable(&self) -> bool {
        true
    }
}

/// What comes from a reader. Its first piece is read before any storage is asked and is kept, so that
/// a storage that is away or refuses at once costs nothing.
pub(crate) struct ReaderContent<'a> {
    reader: &'a mut dyn Read,
    first: Vec<u8>,
    /// The piece that was read last, unless that is the first.
    later: Vec<u8>,
    size: u64,
    /// How much the reader has yielded.
    position: u64,
    ended: bool,
}

impl<'a> ReaderContent<'a> {
    pub(crate) fn new(reader: &'a mut dyn Read, size: u64) -> Result<ReaderContent<'a>> {
        if size > i64::MAX.cast_unsigned() {
            return fail!(Invalid, "invalid size, got {size}, want at most {}", i64::MAX);
        }
        let first = vec![0; usize::try_from(size).unwrap_or(COPY_BYTES).min(COPY_BYTES)];
        let later = Vec::new();
        let mut content = ReaderContent { reader, first, later, size, position: 0, ended: false };
        let mut first = std::mem::take(&mut content.first);
        content.take(&mut first)?;
        content.first = first;
        Ok(content)
    }

    /// The next bytes of the reader.
    fn take(&mut self, piece: &mut [u8]) -> Result<()> {
        let mut filled = 0;
        while filled < piece.len() {
            match self.reader.read(&mut piece[filled..]) {
                Ok(0) => {
                    let got = self.position + filled as u64;
                    return fail!(Invalid, "the content ended after {got} bytes, want {}", self.size);
                }
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(|| "read the content"),
            }
        }
        self.position += filled as u64;
        Ok(())
    }
}

impl Content for ReaderContent<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, position: u64, bytes: usize) -> Result<()> {
        let mut later = std::mem::take(&mut self.later);
        // Pieces are of one size, so one that begins in the first is the first.
        if position > 0 {
            assert_eq!(position, self.position, "a reader does not go back");
            later.resize(bytes, 0);
            self.take(&mut later)?;
            self.later = later;
        }
        Ok(())
    }

    fn piece(&self) -> &[u8] {
        if self.later.is_empty() { &self.first } else { &self.later }
    }

    fn check_end(&mut self) -> Result<()> {
        while !self.ended {
            match self.reader.read(&mut [0]) {
                Ok(0) => self.ended = true,
                Ok(_) => return fail!(Invalid, "the content goes on after {} bytes", self.size),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context(|| "read the content"),
            }
        }
        Ok(())
    }

    fn is_repeatable(&self) -> bool {
        self.position == self.first.len() as u64
    }

    fn is_always_repeatable(&self) -> bool {
        self.size == self.first.len() as u64
    }
}

/// An attempt that failed, and what it may have done all the same.
enum Broken {
    /// The content itself is at fault; `begun` where a part of it was sent.
    Content { error: Error, begun: bool },
    /// No connection was made.
    Connect(Error),
    /// On the way, or by the storage.
    Sent {
        error: Error,
        /// The storage has answered.
        replied: bool,
        /// It has, or may have, all of the content.
        whole: bool,
        /// The connection had idled before.
        reused: bool,
    },
}

/// Whether an earlier attempt got through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Landed {
    Yes,
    /// The file is not there.
    No,
    /// There is one, with another size or checksum.
    Other,
    /// Nobody could tell.
    Unknown,
}

/// One upload, with all its attempts.
struct Sending<'a> {
    client: &'a Client,
    content: &'a mut dyn Content,
    request: Upload,
    /// The checksum that the content must have, where the caller knows it.
    expected: Option<u32>,
    /// The storage that acknowledged it has held it against that.
    checked: bool,
    /// The storages of the group, for asking about the file.
    members: Vec<SocketAddr>,
    /// The checksum, once all content has been read.
    crc32: Option<u32>,
    /// An attempt may have got through.
    doubtful: bool,
    /// An attempt's outcome was not told.
    lost: bool,
    /// All content was read and has the expected checksum.
    proven: bool,
}

/// Uploads; `what` begins the error. Content with another checksum than the expected one is not stored.
pub(crate) fn upload(
    client: &Client,
    owner: Owner,
    content: &mut dyn Content,
    expected: Option<u32>,
    what: &str,
) -> Result<FileId> {
    let fileid = make_file_id(&owner.1)?;
    let members = client.mngr().route_for_upload(&owner)?.addresses;
    let (appid, userid) = owner.clone();
    let file = Triple { appid, userid, fileid: fileid.clone() };
    let request = Upload { file, size: content.size() };
    let mut sending = Sending {
        client,
        content,
        request,
        expected,
        checked: false,
        members: members.clone(),
        crc32: None,
        doubtful: false,
        lost: false,
        proven: false,
    };
    let outcome = client.try_each(what, &owner, members, |address, turn| sending.attempt(address, turn));
    let Err(error) = outcome else { return sending.verified(&owner, what).map(|()| fileid) };
    match sending.settle() {
        Landed::Yes => sending.verified(&owner, what).map(|()| fileid),
        Landed::No if !sending.lost => Err(error),
        Landed::Other => fail!(
            Internal,
            "{}; what is stored as {fileid} has another size or checksum than what was sent",
            error.message()
        ),
        _ => fail!(OutcomeUnknown, "{}; it may have been stored as {fileid} all the same", error.message()),
    }
}

impl Sending<'_> {
    /// One attempt at one storage.
    fn attempt(&mut self, address: SocketAddr, turn: Turn) -> Tried<()> {
        if !self.members.contains(&address) {
            self.members.push(address);
        }
        if self.doubtful && self.landed() == Landed::Yes {
            return Ok(());
        }
        let checks = self.expected.is_some() && self.client.mngr().checks_uploads(address, turn)?;
        if !checks {
            self.prove_first().map_err(Failure::here)?;
        }
        let broken = match self.send(address, turn, true, checks) {
            // An idle connection that was dead is no failure of the storage.
            Err(Broken::Sent { error, replied: false, whole, reused: true })
                if error.kind() == ErrorKind::Unavailable && self.content.is_repeatable() =>
            {
                self.doubtful |= whole;
                self.lost |= whole;
                if whole && self.landed() == Landed::Yes {
                    return Ok(());
                }
                self.send(address, turn, false, checks)
            }
            outcome => outcome,
        };
        let failure = match broken {
            Ok(()) => {
                self.checked = checks;
                return Ok(());
            }
            Err(Broken::Content { error, begun }) => {
                let left = match (self.doubtful, begun) {
                    // An earlier attempt may have got through: the last word on it is still to come.
                    (true, _) => return Err(Failure::here(error)),
                    (false, true) => self.left_at(address),
                    (false, false) => "nothing was sent".to_owned(),
                };
                return Err(Failure::here(Error::new(error.kind(), format!("{error}; {left}"))));
            }
            Err(Broken::Connect(error)) => return Err(Failure::connect(error)),
            Err(Broken::Sent { error, replied, whole, .. }) => {
                if replied && self.doubtful && self.landed() == Landed::Yes {
                    return Ok(());
                }
                let unknown = error.kind() == ErrorKind::OutcomeUnknown;
                self.lost |= whole && (!replied || unknown);
                self.doubtful |= whole && (!replied || unknown || error.kind() == ErrorKind::Internal);
                Failure::judge(replied, error)
            }
        };
        // What a reader has yielded beyond its first piece is gone.
        let last = failure.last || !self.content.is_repeatable();
        let progress = if self.request.size > COPY_BYTES as u64 { Progress::Moved } else { Progress::None };
        Err(Failure { last, progress, ..failure })
    }

    /// Sends everything on one connection and waits for the answer. `checks` where the storage can hold
    /// it against the expected checksum.
    fn send(
        &mut self,
        address: SocketAddr,
        turn: Turn,
        reuse: bool,
        checks: bool,
    ) -> std::result::Result<(), Broken> {
        // Only what can be sent again is trusted to a connection that may be dead.
        let pooled = match reuse && self.content.is_always_repeatable() {
            true => self.client.mngr().pooled(address),
            false => None,
        };
        let reused = pooled.is_some();
        let mut conn = match pooled {
            Some(conn) => conn,
            None => self.client.mngr().connect(address).map_err(Broken::Connect)?,
        };
        // Content that cannot be sent again has no other storage to go to.
        let wait_max = match self.content.is_repeatable() {
            true => turn.to_change(conn::flush_time(self.request.size)),
            false => None,
        };
        conn.set_wait_max(wait_max);
        if let Err(error) = self.client.mngr().prove(&mut conn, &self.request.file.appid) {
            let replied = conn.replied();
            let failure = Failure::judge(replied, error.clone());
            let is_dead = reused && !replied;
            if is_dead || !self.client.mngr().lacks_proofs(address, &failure) {
                return Err(Broken::Sent { error, replied, whole: false, reused });
            }
            conn = self.client.mngr().connect(address).map_err(Broken::Connect)?;
            conn.set_wait_max(wait_max);
        }
        let mut whole = false;
        let outcome = self.send_on(&mut conn, checks, &mut whole);
        match outcome {
            Ok(()) => {
                self.client.mngr().put(conn);
                Ok(())
            }
            Err(SendError::Content { error, begun }) => Err(Broken::Content { error, begun }),
            Err(SendError::Server(error)) => {
                Err(Broken::Sent { error, replied: conn.replied(), whole, reused })
            }
        }
    }

    fn send_on(
        &mut self,
        conn: &mut Conn,
        checks: bool,
        whole: &mut bool,
    ) -> std::result::Result<(), SendError> {
        let size = self.request.size;
        let mut hasher = Hasher::new();
        let mut position = 0;
        loop {
            let count = usize::try_from(size - position).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            let broken = |error| SendError::Content { error, begun: position > 0 };
            self.content.read(position, count).map_err(broken)?;
            hasher.update(self.content.piece());
            if position + count as u64 == size {
                self.check_end(&hasher).map_err(broken)?;
            }
            let piece = self.content.piece();
            match position {
                0 => self.begin(conn, checks, piece),
                _ if conn.early_reply() => return conn::early_upload_reply(conn).map_err(SendError::Server),
                _ => conn.send_content(piece),
            }
            .map_err(SendError::Server)?;
            position += count as u64;
            if position == size {
                break;
            }
        }
        self.crc32 = Some(hasher.finalize());
        *whole = true;
        conn::upload_reply(conn, size).map_err(SendError::Server)
    }

    /// Sends the request with its first piece of content.
    fn begin(&self, conn: &mut Conn, checks: bool, first: &[u8]) -> Result<()> {
        match self.expected.filter(|_| checks) {
            Some(crc32) => {
                let request = CheckedUpload { upload: self.request.clone(), crc32 };
                conn::upload_checked(conn, &request, first)
            }
            None => conn::upload(conn, &self.request, first),
        }
    }

    /// Fails where the content, all of which has been read, is not what it should be: before the last
    /// piece is sent, so that nothing is stored.
    fn check_end(&mut self, hasher: &Hasher) -> Result<()> {
        self.content.check_end()?;
        let crc32 = hasher.clone().finalize();
        match self.expected.filter(|expected| *expected != crc32) {
            None => Ok(()),
            Some(expected) => {
                fail!(Invalid, "the content has the CRC-32 {crc32:08x}, want {expected:08x}")
            }
        }
    }

    /// Reads all content before a storage gets any of it that cannot hold it against its checksum. An existing
    /// storage keeps what it has of an upload that is broken off, so one that is known to be wrong never begins.
    /// What can only be read once is left to [`check_end`](Sending::check_end).
    fn prove_first(&mut self) -> Result<()> {
        let size = self.request.size;
        if self.proven || self.expected.is_none() || !self.content.is_always_repeatable() {
            return Ok(());
        }
        let mut hasher = Hasher::new();
        let mut position = 0;
        loop {
            let count = usize::try_from(size - position).unwrap_or(COPY_BYTES).min(COPY_BYTES);
            let read = self.content.read(position, count);
            read.map_err(|error| Error::new(error.kind(), format!("{error}; nothing was sent")))?;
            hasher.update(self.content.piece());
            position += count as u64;
            if position == size {
                break;
            }
        }
        let checked = self.check_end(&hasher);
        checked.map_err(|error| Error::new(error.kind(), format!("{error}; nothing was sent")))?;
        self.proven = true;
        Ok(())
    }

    /// What a storage has of an upload that was broken off here, in words. Ours stores nothing less than the
    /// whole. An existing one may keep what came, with a row or without: it gets a delete.
    fn left_at(&self, address: SocketAddr) -> String {
        let file = &self.request.file;
        let wait_max = Some(BREAK_WAIT_MAX);
        // An existing storage does not know this command.
        let asked = self.client.mngr().exchange(address, wait_max, |conn| conn::stat(conn, file));
        if asked.is_err_and(|failure| failure.error.kind() == ErrorKind::NotFound) {
            return "nothing was stored".to_owned();
        }
        let mut deleted = Ok(());
        for pause in BREAK_PAUSES {
            thread::sleep(pause);
            let deletes = |conn: &mut Conn| conn::delete(conn, file);
            deleted = self.client.mngr().exchange_proven(address, wait_max, &file.appid, deletes);
            if !matches!(&deleted, Err(failure) if failure.error.kind() == ErrorKind::NotFound) {
                break;
            }
        }
        let fileid = &file.fileid;
        match deleted {
            Ok(()) => format!("{address} had stored a part of it as {fileid}, which was removed again"),
            Err(failure) if failure.error.kind() == ErrorKind::NotFound => format!(
                "{address} knows no file {fileid}, but may keep a part of it in its store path, as existing storages do"
            ),
            Err(failure) => format!(
                "{address} may have stored a part of it as {fileid}, which could not be removed: {}",
                failure.error
            ),
        }
    }

    /// The last word on an upload that was stored: where nobody has held it against the expected checksum,
    /// what is stored is asked for. What differs is removed.
    fn verified(&self, owner: &Owner, what: &str) -> Result<()> {
        let Some(expected) = self.expected.filter(|_| !self.checked) else { return Ok(()) };
        let file = &self.request.file;
        let stored = self
            .client
            .try_each("compare", owner, self.members.clone(), |address, turn| self.sum_at(address, turn));
        let crc32 = match stored {
            Ok(crc32) => crc32,
            Err(error) => {
                return fail!(
                    OutcomeUnknown,
                    "{what}: it is stored as {}, but could not be held against its checksum: {error}",
                    file.fileid
                );
            }
        };
        if crc32 == expected {
            return Ok(());
        }
        let gone = match self.client.delete(file) {
            Ok(()) => "and was removed again".to_owned(),
            Err(error) => format!("and is still there, since it could not be removed: {error}"),
        };
        fail!(
            Mismatch,
            "{what}: what was stored as {} has the CRC-32 {crc32:08x}, want {expected:08x}, {gone}",
            file.fileid
        )
    }

    /// The checksum of what a storage has stored: as it says, or else of what it gives back.
    fn sum_at(&self, address: SocketAddr, turn: Turn) -> Tried<u32> {
        let file = &self.request.file;
        if let Some(crc32) = self.client.stat_at(address, turn, file)?.and_then(|stat| stat.crc32) {
            return Ok(crc32);
        }
        let request = Download { file: file.clone(), offset: 0, size: 0 };
        self.client.mngr().exchange(address, turn.to_find(), |conn| {
            let mut rest = conn::download(conn, &request)?;
            let mut hasher = Hasher::new();
            let mut piece = vec![0; COPY_BYTES];
            while rest > 0 {
                let count = piece.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
                conn.read_body(&mut piece[..count])?;
                hasher.update(&piece[..count]);
                rest -= count as u64;
            }
            Ok(hasher.finalize())
        })
    }

    /// Whether an earlier attempt got through, asked of the group's storages until one knows.
    fn landed(&self) -> Landed {
        let members = self.client.mngr().order(self.members.clone());
        for (index, &address) in members.iter().enumerate() {
            match self.landed_at(address, Turn::of(index, members.len())) {
                Ok(landed) => return landed,
                Err(failure) if failure.error.kind() == ErrorKind::NotFound => return Landed::No,
                Err(failure) => {
                    self.client.mngr().note_failure(address, &failure);
                    log::info!("ask for {}: {}", self.request.file.fileid, failure.error);
                }
            }
        }
        Landed::Unknown
    }

    fn landed_at(&self, address: SocketAddr, turn: Turn) -> Tried<Landed> {
        let file = &self.request.file;
        let (size, crc32) = match self.client.stat_at(address, turn, file)? {
            Some(stat) => (stat.size, stat.crc32),
            None => (self.client.size_at(address, turn, file)?, None),
        };
        // A checksum that either side does not know cannot differ.
        let same =
            size == self.request.size && crc32.zip(self.crc32).is_none_or(|(theirs, ours)| theirs == ours);
        Ok(if same { Landed::Yes } else { Landed::Other })
    }

    /// The last word on an upload whose attempts are over.
    fn settle(&self) -> Landed {
        if !self.doubtful {
            return Landed::No;
        }
        let mut landed = Landed::Unknown;
        for pause in SETTLE_PAUSES {
            thread::sleep(pause);
            landed = self.landed();
            // Only where a reply was lost may the file still come.
            if matches!(landed, Landed::Yes | Landed::Other) || !self.lost {
                break;
            }
        }
        landed
    }
}

enum SendError {
    Content { error: Error, begun: bool },
    Server(Error),
}
