//! What the service needs of the deployment: to look a file up, and to read pieces of it. It is
//! the client's work; the seam is here so that the service can be tested on storages that fail at
//! a chosen byte.

use tnv_client::{Client, FileInfo};
use tnv_common::error::Result;
use tnv_common::proto::tnv::file_key::Triple;
use tnv_common::proto::tnv::storage::Stat;

/// Where files come from.
pub trait Files: Send + Sync + 'static {
    /// A file that was looked up.
    type Info: Send + 'static;

    /// Looks a file up.
    fn look_up(&self, file: &Triple) -> Result<Self::Info>;

    /// Looks a file up and reads its first bytes, as many as there are and fit into `buffer`: tells how many.
    fn open(&self, file: &Triple, buffer: &mut [u8]) -> Result<(Self::Info, usize)>;

    /// How long it is.
    fn size(info: &Self::Info) -> u64;

    /// Which upload it is; existing storages do not tell.
    fn stat(info: &Self::Info) -> Option<Stat>;

    /// Fills `buffer` with the content at `offset` of that very upload. Holds no storage when it
    /// returns.
    fn read(&self, file: &Triple, info: &Self::Info, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

impl Files for Client {
    type Info = FileInfo;

    fn look_up(&self, file: &Triple) -> Result<FileInfo> {
        Client::stat(self, file)
    }

    fn open(&self, file: &Triple, buffer: &mut [u8]) -> Result<(FileInfo, usize)> {
        Client::open(self, file, 0, buffer)
    }

    fn size(info: &FileInfo) -> u64 {
        info.size
    }

    fn stat(info: &FileInfo) -> Option<Stat> {
        info.stat
    }

    fn read(&self, file: &Triple, info: &FileInfo, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_slice(file, info, offset, buffer)
    }
}
