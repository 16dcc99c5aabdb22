//! The ID server's commands: the next number of a key, and several at once.

use tnv_common::error::Result;
use tnv_common::proto::names::ID_KEY_BYTES_MAX;
use tnv_common::proto::tnv::ids::{IdRange, decode_id_key};
use tnv_common::proto::tnv::{REPLY_ID, command};
use tnv_common::rpc::dialect::Tnv;
use tnv_common::rpc::server::{Handler, Request};

use crate::globals::{BlockSource, Numbers};

/// The commands.
pub struct Service<S> {
    numbers: Numbers<S>,
}

impl<S: BlockSource> Service<S> {
    /// The commands on the numbers.
    pub fn new(numbers: Numbers<S>) -> Service<S> {
        Service { numbers }
    }

    /// Command 40.
    fn get_id(&self, request: &mut Request<'_, ()>) -> Result<()> {
        let key = decode_id_key(&request.small(ID_KEY_BYTES_MAX + 1)?)?;
        let ids = self.numbers.next(&key, 1)?;
        request.reply(&ids.first.to_be_bytes());
        Ok(())
    }

    /// Command 127.
    fn get_ids(&self, request: &mut Request<'_, ()>) -> Result<()> {
        let range = IdRange::decode(&request.small(4 + ID_KEY_BYTES_MAX + 1)?)?;
        let ids = self.numbers.next(&range.key, range.count)?;
        request.reply(&ids.encode());
        Ok(())
    }
}

/// How an ID server on this host speaks.
pub fn dialect(host: String) -> Tnv {
    Tnv::new(REPLY_ID, host)
}

impl<S: BlockSource> Handler for Service<S> {
    type Conn = ();

    fn handle(&self, request: &mut Request<'_, ()>) -> Result<()> {
        match request.command() {
            command::GET_ID => self.get_id(request),
            command::GET_IDS => self.get_ids(request),
            _ => Err(request.unknown_command()),
        }
    }
}
