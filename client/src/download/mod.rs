//! Downloads, always of one and the same upload: `stream` writes content to a destination, `slice` fills a
//! buffer, and both use `request`. A TNV storage gives each upload a version, so another storage can continue
//! a download. A legacy storage has none, so a download that began there ends there.

mod request;
mod slice;
mod stream;

pub(crate) use slice::{open, read_slice};
pub(crate) use stream::{download, download_to_file};
