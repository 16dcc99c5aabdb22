//! The client as others see it. Each request goes through [`Client::try_each`], which asks one storage
//! after another; what is particular to uploads and downloads stands in their rooms.

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tnv_common::error::{Context, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::proto::tnv::file_key::Triple;
use tnv_common::proto::tnv::storage::Stat;
use tnv_common::proto::tnv::tracker::Route;
use tnv_common::proto::{AppId, FileId, UserId};
use tnv_common::rpc::client::Conn;

use crate::conn;
use crate::download;
use crate::mngr::{Manager, Owner};
use crate::options::Options;
use crate::publish::Temporary;
use crate::source::Source;
use crate::trail::{At, Progress, Trail, Tried, Turn};
use crate::upload::{self, ReaderContent};

/// The pause before the tracker is asked anew, so that a server that restarts has a moment to.
const ROUND_PAUSE: Duration = Duration::from_millis(200);

/// A client of one deployment. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    mngr: Manager,
    options: Options,
}

/// What is known of a file, and of where it is.
#[derive(Clone, Debug)]
pub struct FileInfo {
    /// Bytes of the file.
    pub size: u64,
    /// Time, checksum and the value unique to this upload; `None` from an existing storage, which
    /// does not tell them.
    pub stat: Option<Stat>,
    /// The storages of its group; the one that answered is the first.
    members: Vec<SocketAddr>,
}

impl FileInfo {
    /// What the storage at `address`, one of these, has told.
    pub(crate) fn new(size: u64, stat: Option<Stat>, address: SocketAddr, route: &[SocketAddr]) -> FileInfo {
        let others = route.iter().copied().filter(|&other| other != address);
        FileInfo { size, stat, members: std::iter::once(address).chain(others).collect() }
    }

    /// The storages of its group, in the order in which they are asked for content.
    pub(crate) fn members(&self) -> &[SocketAddr] {
        &self.members
    }
}

impl Client {
    /// A client of the deployment that these trackers serve; `host[:port]` each, the port being
    /// [`TRACKER_PORT`](crate::TRACKER_PORT) where none is given. It connects when it is first used.
    pub fn new(trackers: &[String], options: Options) -> Result<Client> {
        let mngr = Manager::new(trackers, &options)?;
        Ok(Client { inner: Arc::new(Inner { mngr, options }) })
    }

    /// The table of groups and their storages, as the tracker prints it.
    pub fn groups(&self) -> Result<String> {
        let mngr = self.mngr();
        mngr.ask_trackers("list the groups", |address, turn| {
            mngr.exchange(address, turn.to_find(), conn::groups)
        })
    }

    /// A user's group and up to three of its active storages, in random order. A user who never uploaded
    /// is [`ErrorKind::NotFound`]; only an existing tracker gives such a user a group now.
    pub fn route(&self, appid: &AppId, userid: &UserId) -> Result<Route> {
        self.mngr().route(&(appid.clone(), userid.clone()))
    }

    /// Uploads `size` bytes from a reader, which must end there: a reader that goes on is wrapped in
    /// [`Read::take`]. Where it is longer than a piece (256 KiB) it cannot be sent twice, so that a
    /// storage that fails in the middle is an error.
    pub fn upload(
        &self,
        appid: &AppId,
        userid: &UserId,
        content: &mut dyn Read,
        size: u64,
    ) -> Result<FileId> {
        let mut content = ReaderContent::new(content, size)?;
        upload::upload(self, (appid.clone(), userid.clone()), &mut content, None, "upload")
    }

    /// The same of content whose CRC-32 (IEEE 802.3, as zip and PNG have it) is known: with another one it
    /// is [`ErrorKind::Invalid`] where it is so already, [`ErrorKind::Mismatch`] where it was damaged on
    /// the way, and nothing is stored. An existing storage cannot tell: from such a one all of it is
    /// fetched back and compared.
    pub fn upload_checked(
        &self,
        appid: &AppId,
        userid: &UserId,
        content: &mut dyn Read,
        size: u64,
        crc32: u32,
    ) -> Result<FileId> {
        let mut content = ReaderContent::new(content, size)?;
        upload::upload(self, (appid.clone(), userid.clone()), &mut content, Some(crc32), "upload")
    }

    /// Uploads all that comes of a reader. It is read to its end first and kept meanwhile, in memory where it fits
    /// into a piece, else in a file in TMPDIR (`/var/tmp`); so any storage can be tried again. `crc32` is the
    /// checksum that it must have, where that is known; see [`Client::upload_checked`].
    pub fn upload_to_end(
        &self,
        appid: &AppId,
        userid: &UserId,
        content: &mut dyn Read,
        crc32: Option<u32>,
    ) -> Result<FileId> {
        let name = Path::new("the content");
        self.upload_source(appid, userid, Source::read(content, name)?, crc32, "upload")
    }

    /// The same of what follows in a file or a pipe that is open, such as standard input; `name` is what it is
    /// called in errors. A large file is not read twice.
    pub fn upload_open_file(
        &self,
        appid: &AppId,
        userid: &UserId,
        file: File,
        name: &Path,
        crc32: Option<u32>,
    ) -> Result<FileId> {
        let what = format!("upload {}", name.display());
        self.upload_source(appid, userid, Source::of_file(file, name)?, crc32, &what)
    }

    /// Uploads a regular file, which must not change its size meanwhile, or all that comes of a pipe. What is
    /// stored is what was read: where a file has another size than it gives, that counts, or it is refused.
    pub fn upload_file(&self, appid: &AppId, userid: &UserId, path: &Path) -> Result<FileId> {
        self.upload_path(appid, userid, path, None)
    }

    /// The same of a file whose CRC-32 is known; see [`Client::upload_checked`].
    pub fn upload_file_checked(
        &self,
        appid: &AppId,
        userid: &UserId,
        path: &Path,
        crc32: u32,
    ) -> Result<FileId> {
        self.upload_path(appid, userid, path, Some(crc32))
    }

    fn upload_path(&self, appid: &AppId, userid: &UserId, path: &Path, crc32: Option<u32>) -> Result<FileId> {
        let what = format!("upload {}", path.display());
        self.upload_source(appid, userid, Source::open(path)?, crc32, &what)
    }

    fn upload_source(
        &self,
        appid: &AppId,
        userid: &UserId,
        source: Source,
        crc32: Option<u32>,
        what: &str,
    ) -> Result<FileId> {
        let owner = (appid.clone(), userid.clone());
        match source {
            Source::File(mut content) => upload::upload(self, owner, &mut content, crc32, what),
            Source::Memory(bytes) => {
                let mut reader = bytes.as_slice();
                let mut content = ReaderContent::new(&mut reader, bytes.len() as u64)?;
                upload::upload(self, owner, &mut content, crc32, what)
            }
        }
    }

    /// The size of a file.
    pub fn file_size(&self, file: &Triple) -> Result<u64> {
        self.ask(file, &format!("get the size of {}", file.fileid), |conn| conn::file_size(conn, file))
    }

    /// Everything that can be learnt of a file without its content.
    pub fn stat(&self, file: &Triple) -> Result<FileInfo> {
        let owner = owner(file);
        let route = self.mngr().route(&owner)?.addresses;
        let what = format!("look up {}", file.fileid);
        self.try_each(&what, &owner, route.clone(), |address, turn| self.info_at(address, turn, file, &route))
    }

    /// The same together with the content from `offset` on, as much as there is and fits into `buffer`: tells
    /// how much that is. It is one request where the storage knows it.
    pub fn open(&self, file: &Triple, offset: u64, buffer: &mut [u8]) -> Result<(FileInfo, usize)> {
        download::open(self, file, offset, buffer)
    }

    /// Fills `buffer` with the content at `offset` of the very upload that `info` tells of, from any
    /// storage that has it; with [`ErrorKind::NotFound`] where it is gone or another has its name.
    /// Where `info` has no validator only the storage that gave it is asked, and nothing tells
    /// whether the file is still the same. No storage is kept waiting when this returns.
    pub fn read_slice(&self, file: &Triple, info: &FileInfo, offset: u64, buffer: &mut [u8]) -> Result<()> {
        download::read_slice(self, file, info, offset, buffer)
    }

    /// Writes the content from `offset` on to `out`: `size` bytes, or with 0 all that follow. Returns
    /// how many. A storage that fails in the middle is replaced by another that has the same upload.
    /// A whole file is held against its checksum where one is known; the error then comes when `out`
    /// has had all of it.
    pub fn download(&self, file: &Triple, offset: u64, size: u64, out: &mut dyn Write) -> Result<u64> {
        download::download(self, file, offset, size, out)
    }

    /// The same into a file, which is whole and on disk when this returns, or not there at all; one
    /// that was there before is replaced only then. Content that is not what was stored is fetched anew
    /// from other storages.
    pub fn download_file(&self, file: &Triple, offset: u64, size: u64, path: &Path) -> Result<u64> {
        let temporary = Temporary::create(path)?;
        let count = download::download_again(self, file, offset, size, temporary.file())?;
        temporary.publish().context(|| format!("download {}", file.fileid))?;
        Ok(count)
    }

    /// Removes a file. Where a reply was lost and the file is then unknown, it counts as removed; where
    /// nobody can tell, the error is [`ErrorKind::OutcomeUnknown`].
    pub fn delete(&self, file: &Triple) -> Result<()> {
        let owner = owner(file);
        let route = self.mngr().route(&owner)?.addresses;
        // Whether an earlier request may have done it though its reply never came.
        let mut lost = false;
        let what = format!("delete {}", file.fileid);
        let outcome = self.try_each(&what, &owner, route, |address, turn| {
            let wait_max = turn.to_change(Duration::ZERO);
            let deleted = self.mngr().exchange_proven(address, wait_max, &file.appid, |conn| {
                let outcome = conn::delete(conn, file);
                if let Err(error) = &outcome {
                    lost |= !conn.replied() || error.kind() == ErrorKind::OutcomeUnknown;
                }
                outcome
            });
            match deleted {
                Err(failure) if lost && failure.error.kind() == ErrorKind::NotFound => Ok(()),
                deleted => deleted,
            }
        });
        match outcome {
            Err(error) if lost && error.kind() != ErrorKind::OutcomeUnknown => {
                fail!(OutcomeUnknown, "{}; it may have been removed all the same", error.message())
            }
            outcome => outcome,
        }
    }

    pub(crate) fn mngr(&self) -> &Manager {
        &self.inner.mngr
    }

    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    /// One small request that may be made twice, to any storage of the file's group.
    fn ask<T>(
        &self,
        file: &Triple,
        what: &str,
        mut request: impl FnMut(&mut Conn) -> Result<T>,
    ) -> Result<T> {
        let owner = owner(file);
        let route = self.mngr().route(&owner)?.addresses;
        self.try_each(what, &owner, route, |address, turn| {
            self.mngr().exchange(address, turn.to_find(), &mut request)
        })
    }

    /// Asks one storage for everything about a file; `None` where it lacks the command. An existing
    /// storage refuses and closes, and since it leaves the request unread, its refusal may be lost.
    pub(crate) fn stat_at(&self, address: SocketAddr, turn: Turn, file: &Triple) -> Tried<Option<Stat>> {
        if self.mngr().is_plain(address) {
            return Ok(None);
        }
        let failure = match self.mngr().exchange(address, turn.to_find(), |conn| conn::stat(conn, file)) {
            Ok(stat) => return Ok(Some(stat)),
            Err(failure) => failure,
        };
        match failure.error.kind() {
            ErrorKind::Unsupported => {
                self.mngr().note_plain(address);
                Ok(None)
            }
            // Closed without a word that arrived: if it knows the size, it lacks the command.
            ErrorKind::Unavailable if failure.at == At::Way => match self.size_at(address, turn, file) {
                Ok(_) => {
                    self.mngr().note_plain(address);
                    Ok(None)
                }
                Err(failure) => Err(failure),
            },
            // Words that are not known here: nothing is remembered, but the old way may do.
            ErrorKind::Internal => Ok(None),
            _ => Err(failure),
        }
    }

    /// Asks one storage, of those on this route, for what it can tell of a file without its content.
    pub(crate) fn info_at(
        &self,
        address: SocketAddr,
        turn: Turn,
        file: &Triple,
        route: &[SocketAddr],
    ) -> Tried<FileInfo> {
        let (size, stat) = match self.stat_at(address, turn, file)? {
            Some(stat) => (stat.size, Some(stat)),
            None => (self.size_at(address, turn, file)?, None),
        };
        Ok(FileInfo::new(size, stat, address, route))
    }

    /// Asks one storage for the size of a file.
    pub(crate) fn size_at(&self, address: SocketAddr, turn: Turn, file: &Triple) -> Tried<u64> {
        self.mngr().exchange(address, turn.to_find(), |conn| conn::file_size(conn, file))
    }

    /// Asks one storage after another until one does it, no other can, or the bounds are reached.
    /// When all have failed and that may pass, the tracker is asked for new ones, once. While another is
    /// left a silent one is given up early.
    pub(crate) fn try_each<T>(
        &self,
        what: &str,
        owner: &Owner,
        addresses: Vec<SocketAddr>,
        mut once: impl FnMut(SocketAddr, Turn) -> Tried<T>,
    ) -> Result<T> {
        let mut trail = Trail::default();
        let mut deadline = Instant::now() + self.options().deadline;
        let mut addresses = addresses;
        let mut refreshed = false;
        loop {
            let round = self.mngr().order(std::mem::take(&mut addresses));
            for (index, &address) in round.iter().enumerate() {
                if trail.tried() >= self.options().attempts || Instant::now() >= deadline {
                    return Err(trail.error(what));
                }
                let failure = match once(address, Turn::of(index, round.len())) {
                    Ok(value) => {
                        self.mngr().note_success(address);
                        return Ok(value);
                    }
                    Err(failure) => failure,
                };
                if failure.at == At::Here {
                    return Err(failure.error.context(what));
                }
                log::debug!("{what}: {address}: {}", failure.error);
                if failure.progress != Progress::None {
                    deadline = Instant::now() + self.options().deadline;
                }
                if failure.progress == Progress::Kept {
                    trail.clear();
                    refreshed = false;
                }
                trail.note(address, &failure);
                if failure.is_of_server() {
                    self.mngr().note_failure(address, &failure);
                    self.mngr().forget_route(owner);
                }
                if failure.last {
                    return Err(trail.error(what));
                }
            }
            if refreshed || !trail.is_passing() || trail.tried() >= self.options().attempts {
                return Err(trail.error(what));
            }
            refreshed = true;
            thread::sleep(ROUND_PAUSE);
            // After an upload's first route the user is a known one.
            match self.mngr().route(owner) {
                Ok(route) => addresses = route.addresses,
                Err(error) => {
                    trail.note_error(&error);
                    return Err(trail.error(what));
                }
            }
        }
    }
}

/// Whose file it is.
pub(crate) fn owner(file: &Triple) -> Owner {
    (file.appid.clone(), file.userid.clone())
}
