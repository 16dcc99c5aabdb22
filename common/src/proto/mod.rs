//! The wire: every byte layout of the protocols, in one place, used by both ends. Nothing here
//! knows a socket or a file; what is decoded here needs no second check inside the house.

pub mod fdfs;
pub mod field;
pub mod names;
pub mod tnv;

pub use names::{AppId, FileId, GroupName, HostName, IdKey, UserId};
