//! What a row needs of a protocol: a [`Driver`] knows the servers, and each thread has a [`Session`] of its
//! own.

use tnv_client::Result;

use super::payload::{Payload, Verifier};

/// A stored file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// Its ID in the protocol.
    pub(super) id: Box<str>,
    /// The number that determines its content.
    pub(super) number: u64,
    pub(super) size: u64,
}

/// A protocol and its servers.
pub(super) trait Driver: Sync {
    /// A new session. It opens the connections that belong to one thread.
    fn session(&self) -> Result<Box<dyn Session + '_>>;
}

/// The operations of one thread, one at a time.
pub(super) trait Session {
    /// Stores a file and returns its ID.
    fn upload(&mut self, payload: &mut Payload<'_>) -> Result<Box<str>>;

    /// Fetches a whole file.
    fn download(&mut self, file: &File, verifier: &mut Verifier<'_>) -> Result<()>;

    /// Removes a file.
    fn delete(&mut self, file: &File) -> Result<()>;
}
