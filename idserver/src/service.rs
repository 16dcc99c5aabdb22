//! The ID server's one command: the next number of a key.

use tnv_common::error::Result;
use tnv_common::framed::{Handler, Request};
use tnv_common::wire::tnv::{ID_KEY_BYTES_MAX, REPLY_ID, command, decode_id_key};

use crate::globals::{Numbers, Source};

/// The commands.
pub struct Service<S> {
    numbers: Numbers<S>,
}

impl<S: Source> Service<S> {
    /// The commands on the numbers.
    pub fn new(numbers: Numbers<S>) -> Service<S> {
        Service { numbers }
    }

    /// Command 40.
    fn get_id(&self, request: &mut Request<'_, ()>) -> Result<()> {
        let key = decode_id_key(&request.small(ID_KEY_BYTES_MAX + 1)?)?;
        let value = self.numbers.next(&key)?;
        request.reply(&value.to_be_bytes());
        Ok(())
    }
}

impl<S: Source> Handler for Service<S> {
    type Conn = ();

    const REPLY: u8 = REPLY_ID;

    fn handle(&self, request: &mut Request<'_, ()>) -> Result<()> {
        match request.command() {
            command::GET_ID => self.get_id(request),
            _ => Err(request.unknown_command()),
        }
    }
}
