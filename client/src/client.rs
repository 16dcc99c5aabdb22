//! The client's public methods. Each one is a few lines; the work is in `upload`, `download` and `storages`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use tnv_common::error::{Context, Result};
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::tracker::Route;
use tnv_common::proto::{AppId, FileId, UserId};

use crate::conn;
use crate::download;
use crate::mngr::Manager;
use crate::options::Options;
use crate::publish::TemporaryFile;
use crate::storages::{FileInfo, Storages};
use crate::trackers::{Trackers, owner};
use crate::upload::{self, ReaderContent, Source};

/// A client of one deployment. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    storages: Arc<Storages>,
}

impl Client {
    /// A client of the deployment of these trackers: `host[:port]` each, with the default port
    /// [`TRACKER_PORT`](crate::TRACKER_PORT). It connects at the first request.
    pub fn new(trackers: &[String], options: Options) -> Result<Client> {
        let trackers = Trackers::new(trackers, &options)?;
        let mngr = Manager::new(&options);
        Ok(Client { storages: Arc::new(Storages { mngr, trackers, options }) })
    }

    /// The table of groups and their storages, as the tracker prints it.
    pub fn groups(&self) -> Result<String> {
        let Storages { mngr, trackers, .. } = &*self.storages;
        trackers.ask(mngr, "list the groups", |candidate| mngr.look_up(candidate, conn::groups))
    }

    /// A user's group and up to three of its active storages, in random order. A user without an upload is
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound); only a legacy tracker gives such a user a group.
    pub fn route(&self, appid: &AppId, userid: &UserId) -> Result<Route> {
        self.storages.route(&(appid.clone(), userid.clone()))
    }

    /// Uploads `size` bytes from a reader. The reader must end there; limit a longer one with [`Read::take`].
    /// Content of more than 256 KiB cannot be sent twice, so a storage that fails during the transfer is an
    /// error.
    pub fn upload(
        &self,
        appid: &AppId,
        userid: &UserId,
        content: &mut dyn Read,
        size: u64,
    ) -> Result<FileId> {
        let mut content = ReaderContent::new(content, size)?;
        upload::upload(&self.storages, (appid.clone(), userid.clone()), &mut content, None, "upload")
    }

    /// The same with the known CRC-32 of the content (IEEE 802.3, as in zip and PNG). If the content has
    /// another checksum, nothing is stored and the error is
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid); if it was damaged in transit,
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch). A legacy storage cannot compare checksums, so all
    /// content is fetched back from it and compared.
    pub fn upload_checked(
        &self,
        appid: &AppId,
        userid: &UserId,
        content: &mut dyn Read,
        size: u64,
        crc32: u32,
    ) -> Result<FileId> {
        let mut content = ReaderContent::new(content, size)?;
        upload::upload(&self.storages, (appid.clone(), userid.clone()), &mut content, Some(crc32), "upload")
    }

    /// Uploads a reader of unknown size. All of it is read first: into memory up to 256 KiB, else into a file
    /// in TMPDIR (`/var/tmp`). So any storage can be tried again. `crc32` is the known checksum; see
    /// [`Client::upload_checked`].
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

    /// The same for the rest of an open file or pipe, such as standard input. `name` is its name in errors. A
    /// large regular file is not copied first.
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

    /// Uploads a regular file or a pipe. A file whose size changes during the upload is refused. A small file
    /// is stored as it was read, whatever size it reports.
    pub fn upload_file(&self, appid: &AppId, userid: &UserId, path: &Path) -> Result<FileId> {
        self.upload_path(appid, userid, path, None)
    }

    /// The same with the known CRC-32 of the file; see [`Client::upload_checked`].
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
            Source::File(mut content) => upload::upload(&self.storages, owner, &mut content, crc32, what),
            Source::Memory(bytes) => {
                let mut reader = bytes.as_slice();
                let mut content = ReaderContent::new(&mut reader, bytes.len() as u64)?;
                upload::upload(&self.storages, owner, &mut content, crc32, what)
            }
        }
    }

    /// The size of a file.
    pub fn file_size(&self, file: &FileKey) -> Result<u64> {
        let what = format!("get the size of {}", file.fileid);
        self.storages.ask(file, &what, |conn| conn::file_size(conn, file))
    }

    /// All that is known of a file without its content.
    pub fn stat(&self, file: &FileKey) -> Result<FileInfo> {
        let owner = owner(file);
        let route = self.storages.route(&owner)?.addresses;
        let what = format!("look up {}", file.fileid);
        self.storages.try_each(&what, &owner, route.clone(), |candidate| {
            self.storages.info_at(candidate, file, &route)
        })
    }

    /// The same, and the content from `offset` on as far as it exists and fits into `buffer`; returns how
    /// much that is. It takes one request if the storage has `FETCH`.
    pub fn open(&self, file: &FileKey, offset: u64, buffer: &mut [u8]) -> Result<(FileInfo, usize)> {
        download::open(&self.storages, file, offset, buffer)
    }

    /// Fills `buffer` with the content at `offset` of the very upload that `info` describes, from any storage
    /// that has it. If the upload is gone or replaced, the error is
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound). An `info` without a stat is from a legacy
    /// storage: only that storage is asked, and a replaced file is not noticed. No request is open when this
    /// returns.
    pub fn read_slice(&self, file: &FileKey, info: &FileInfo, offset: u64, buffer: &mut [u8]) -> Result<()> {
        download::read_slice(&self.storages, file, info, offset, buffer)
    }

    /// Writes the content from `offset` on to `out`: `size` bytes, or with 0 all that follow. Returns how
    /// many. If a storage fails during the transfer, another one with the same upload continues. A whole file
    /// is compared with its checksum if one is known; that error comes after `out` has received everything.
    pub fn download(&self, file: &FileKey, offset: u64, size: u64, out: &mut dyn Write) -> Result<u64> {
        download::download(&self.storages, file, offset, size, out)
    }

    /// The same into a file, which is complete and on disk when this returns, or absent. An older file is
    /// replaced only then. Damaged content is fetched again from other storages.
    pub fn download_file(&self, file: &FileKey, offset: u64, size: u64, path: &Path) -> Result<u64> {
        let temporary = TemporaryFile::create(path)?;
        let count = download::download_to_file(&self.storages, file, offset, size, temporary.file())?;
        temporary.publish().context(|| format!("download {}", file.fileid))?;
        Ok(count)
    }

    /// Removes a file. If a reply was lost and the file is then unknown, it counts as removed. If no storage
    /// can confirm that, the error is [`ErrorKind::OutcomeUnknown`](crate::ErrorKind::OutcomeUnknown).
    pub fn delete(&self, file: &FileKey) -> Result<()> {
        self.storages.delete(file)
    }
}
