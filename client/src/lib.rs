//! The TNV client: uploads media to a TNV deployment, reads them back, and deletes them.
//!
//! A [`Client`] is given trackers; it asks one for a user's storages and then talks to one of these.
//! It is cheap to clone, shared freely between threads, and keeps idle connections to each server.
//! Everything has a bound: attempts, waits, memory. A file is never held in memory whole.
//!
//! ```no_run
//! use std::path::Path;
//! use tnv_client::{AppId, Client, Options, Result, Triple, UserId};
//!
//! fn main() -> Result<()> {
//!     let client = Client::new(&["127.0.0.1:21000".to_owned()], Options::default())?;
//!     let appid = AppId::new("tnvideo")?;
//!     let userid = UserId::new("tnv001")?;
//!     let fileid = client.upload_file(&appid, &userid, Path::new("holiday.mp4"))?;
//!     let file = Triple { appid, userid, fileid };
//!     println!("{} has {} bytes", file.fileid, client.file_size(&file)?);
//!     client.download_file(&file, 0, 0, Path::new("copy.mp4"))?;
//!     client.delete(&file)
//! }
//! ```
//!
//! # When something fails
//!
//! - A server that cannot be reached, is too busy or has trouble is passed over for the next one of
//!   the list, and is tried last for some seconds. When all have failed, the tracker is asked anew,
//!   once. The error names each server and what it said.
//! - What no other server can mend (an unknown file, an invalid name) is returned at once. Its
//!   [`ErrorKind`] says what it is. Existing servers give every failure the same number: where the
//!   words they use leave no doubt the kind is taken from these, else the next server is asked.
//! - **Uploads happen exactly once.** All attempts of one upload carry the same new file ID, which is
//!   unique in the database of the group: at most one of them can get through. Where a reply was
//!   lost, the file's size and checksum are asked for before and after the next attempt, so an
//!   attempt that did get through is found and counts as the success it was. Where nobody can tell,
//!   the error is [`ErrorKind::OutcomeUnknown`] and names the file ID.
//! - **Downloads are one upload's bytes.** When a storage is lost in the middle, the rest comes from
//!   another one that has the very same upload, by the value that storages of ours know it by. An
//!   existing storage has no such value, and then the download fails.
//!
//! # The rooms
//!
//! [`Client`] is what others see. Below it: `upload` (with `source`, content of unknown
//! size) and `download`, what each takes beyond one message; `mngr`, which servers to ask and in what order; `pool`, idle connections; `conn`, one
//! function for each command; `trail`, what was tried; `publish`, files that are whole or absent.

mod client;
mod conn;
mod download;
mod fileid;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
mod mngr;
mod options;
mod pool;
mod publish;
mod recent;
mod source;
mod trail;
mod upload;

pub use client::{Client, FileInfo};
pub use fileid::make_file_id;
pub use options::Options;
pub use publish::remove_temporaries;
pub use tnv_common::auth::app_key::AppKeys;
pub use tnv_common::auth::secret::Secret;
pub use tnv_common::error::{Error, ErrorKind, Result};
pub use tnv_common::proto::tnv::file_key::Triple;
pub use tnv_common::proto::tnv::storage::{Stat, Unique};
pub use tnv_common::proto::tnv::tracker::Route;
pub use tnv_common::proto::{AppId, FileId, GroupName, UserId};

/// The port of trackers that are named without one.
pub const TRACKER_PORT: u16 = 21000;
