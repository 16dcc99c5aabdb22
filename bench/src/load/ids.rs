//! The load of storages on an ID server: each has one connection and asks for one number after
//! another, all of one store path, as the members of a deployment do whose store paths are called alike.

use std::net::SocketAddr;

use tnv_common::error::Result;
use tnv_common::fail;
use tnv_common::proto::IdKey;
use tnv_common::proto::tnv::ids::encode_id_key;
use tnv_common::proto::tnv::{REPLY_ID, command};

use super::caller::{Caller, request, unexpected};
use super::crowd::{self, Until};
use super::figures::Figures;

/// The store path whose numbers are taken. They are lost to it, which costs nothing.
const KEY: &str = "../bench";

/// A storage.
struct Storage {
    caller: Caller,
    numbers: Vec<i64>,
}

/// What is remembered of each number in the middle of a run would be measured if it grew.
const NUMBERS_MIN: usize = 1 << 20;

/// Takes numbers over so many connections, so many or for so long. That none came twice is made sure of afterwards.
pub fn run(server: SocketAddr, connections: usize, until: Until) -> Result<Figures> {
    crowd::check(connections, until)?;
    let request = request(command::GET_ID, &encode_id_key(&IdKey::new(KEY)?));
    let take = |storage: &mut Storage| -> Result<i64> {
        let body = storage.caller.call(&request, REPLY_ID)?;
        match body.try_into() {
            Ok(bytes) => Ok(i64::from_be_bytes(bytes)),
            Err(_) => Err(unexpected(format_args!("a number of {} bytes, want 8", body.len()))),
        }
    };
    let mut storages = Vec::with_capacity(connections);
    for _ in 0..connections {
        let numbers = Vec::with_capacity(NUMBERS_MIN);
        let mut storage = Storage { caller: Caller::connect(server)?, numbers };
        take(&mut storage)?;
        storages.push(storage);
    }
    let figures = crowd::run(&mut storages, until, |storage, _| {
        let number = take(storage)?;
        storage.numbers.push(number);
        Ok(())
    });
    let mut numbers: Vec<i64> = storages.into_iter().flat_map(|storage| storage.numbers).collect();
    numbers.sort_unstable();
    match numbers.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => fail!(Protocol, "{server} gave the number {} twice", pair[0]),
        None => Ok(figures),
    }
}
