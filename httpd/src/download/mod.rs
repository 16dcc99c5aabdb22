//! What a GET of a file needs, one job a file. The way of a request: `target` names the file, `files` looks
//! it up, `conditional` compares validators, `media` (with `sniff` and `kind_cache`) and `disposition` say
//! how it is presented, `range` selects bytes, `partial` plans the response, and `content` reads it into
//! `buffers`. No module here knows the connection.

pub mod buffers;
pub mod conditional;
pub mod content;
pub mod disposition;
pub mod files;
pub mod kind_cache;
pub mod media;
pub mod partial;
pub mod range;
mod sniff;
pub mod target;
