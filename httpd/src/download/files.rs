//! The service's view of the deployment: looks files up and reads them. The client does it; tests have
//! storages that fail at a chosen byte in its place.

use tnv_client::{Client, FileInfo};
use tnv_common::error::Result;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::Stat;

/// A source of files.
pub trait Files: Send + Sync + 'static {
    /// A file that was looked up.
    type Info: Send + 'static;

    /// Looks a file up.
    fn look_up(&self, file: &FileKey) -> Result<Self::Info>;

    /// Looks a file up and reads its first bytes, as many as fit into `buffer`. Returns their number.
    fn open(&self, file: &FileKey, buffer: &mut [u8]) -> Result<(Self::Info, usize)>;

    /// The file's size.
    fn size(info: &Self::Info) -> u64;

    /// The upload. Legacy storages do not report it.
    fn stat(info: &Self::Info) -> Option<Stat>;

    /// Fills `buffer` with the content at `offset` of that very upload. Occupies no storage when it returns.
    fn read(&self, file: &FileKey, info: &Self::Info, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

impl Files for Client {
    type Info = FileInfo;

    fn look_up(&self, file: &FileKey) -> Result<FileInfo> {
        Client::stat(self, file)
    }

    fn open(&self, file: &FileKey, buffer: &mut [u8]) -> Result<(FileInfo, usize)> {
        Client::open(self, file, 0, buffer)
    }

    fn size(info: &FileInfo) -> u64 {
        info.size
    }

    fn stat(info: &FileInfo) -> Option<Stat> {
        info.stat
    }

    fn read(&self, file: &FileKey, info: &FileInfo, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read_slice(file, info, offset, buffer)
    }
}
