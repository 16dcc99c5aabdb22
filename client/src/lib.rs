//! The TNV client: uploads media to a TNV deployment, reads them back, and deletes them.
//!
//! A [`Client`] asks a tracker for a user's storages and then sends its requests to one of them. It is cheap
//! to clone, threads share it, and it keeps idle connections to each server. Attempts, waits and memory are
//! bounded: a large file is never in memory as a whole.
//!
//! ```no_run
//! use std::path::Path;
//! use tnv_client::{AppId, Client, Options, Result, FileKey, UserId};
//!
//! fn main() -> Result<()> {
//!     let client = Client::new(&["127.0.0.1:21000".to_owned()], Options::default())?;
//!     let appid = AppId::new("tnvideo")?;
//!     let userid = UserId::new("tnv001")?;
//!     let fileid = client.upload_file(&appid, &userid, Path::new("holiday.mp4"))?;
//!     let file = FileKey { appid, userid, fileid };
//!     println!("{} has {} bytes", file.fileid, client.file_size(&file)?);
//!     client.download_file(&file, 0, 0, Path::new("copy.mp4"))?;
//!     client.delete(&file)
//! }
//! ```
//!
//! # Failures
//!
//! - When a server is unreachable, overloaded or failing, the next one of the list is tried, and the failed
//!   one is tried last for some seconds. When all have failed, a tracker is asked for new storages, once. The
//!   error names each server and its message.
//! - A failure that no other server can avoid (an unknown file, an invalid name) is returned at once with its
//!   [`ErrorKind`]. Legacy servers send one error number for everything. If the text of their message is
//!   known, it gives the kind; otherwise the next server is tried.
//! - **Uploads happen exactly once.** All attempts of one upload carry the same new file ID, which is unique
//!   in the database of the group, so at most one succeeds. After a lost reply the file's size and checksum
//!   are looked up before and after the next attempt, so an attempt that succeeded is found. If no storage
//!   can confirm the outcome, the error is [`ErrorKind::OutcomeUnknown`] and names the file ID.
//! - **Downloads are the bytes of one upload.** When a storage is lost during a transfer, another one that
//!   has the same version of the file continues. A legacy storage has no versions, and then the download
//!   fails.
//!
//! # Modules
//!
//! From the top down; a module imports only from those below it:
//!
//! 1. [`Client`], the public methods.
//! 2. `upload`, `download`: what each needs beyond one request. `publish`: files that appear complete or not
//!    at all.
//! 3. `storages`: one storage after another until one succeeds. `trackers`: addresses and routes.
//! 4. `mngr`: connections, and which servers failed lately. `pool`: idle connections.
//! 5. `conn`: one function a command. `attempt`: a failed attempt, and the log of them. `file_id`,
//!    `options`.

mod attempt;
mod client;
mod conn;
mod download;
mod file_id;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod mngr;
mod options;
mod pool;
mod publish;
mod storages;
mod trackers;
mod upload;

pub use client::Client;
pub use file_id::make_file_id;
pub use options::Options;
pub use publish::remove_temporaries;
pub use storages::FileInfo;
pub use tnv_common::auth::app_key::AppKeys;
pub use tnv_common::auth::secret::Secret;
pub use tnv_common::error::{Error, ErrorKind, Result};
pub use tnv_common::proto::tnv::file_key::FileKey;
pub use tnv_common::proto::tnv::storage::{Stat, VersionId};
pub use tnv_common::proto::tnv::tracker::Route;
pub use tnv_common::proto::{AppId, FileId, GroupName, UserId};

/// The default port of a tracker.
pub const TRACKER_PORT: u16 = 21000;
