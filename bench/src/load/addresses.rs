//! The load of clients on a tracker: each has one connection and asks, before every operation, where
//! the files of a user are. The users are known to the tracker by then.

use std::net::SocketAddr;

use tnv_common::error::{Context, Result};
use tnv_common::proto::names::GROUP_BYTES;
use tnv_common::proto::tnv::tracker::{Addresses, Route};
use tnv_common::proto::tnv::{REPLY_TRACKER, command};
use tnv_common::proto::{AppId, UserId};

use super::caller::{Caller, request, unexpected};
use super::crowd::{self, Until};
use super::figures::Figures;

/// How many users are asked for in turn: the tracker remembers a hundred thousand.
const USERS: u64 = 1000;

/// A user: the question, and how each answer must begin.
struct User {
    question: Vec<u8>,
    group: [u8; GROUP_BYTES],
}

/// Asks over so many connections, so often or for so long. The users, a thousand, are made where the tracker
/// does not know them; nothing can remove them again.
pub fn run(server: SocketAddr, appid: &AppId, connections: usize, until: Until) -> Result<Figures> {
    crowd::check(connections, until)?;
    let mut callers: Vec<Caller> =
        (0..connections).map(|_| Caller::connect(server)).collect::<Result<_>>()?;
    let users = Users::warm(&mut callers, appid)?;
    Ok(crowd::run(&mut callers, until, |caller, number| users.ask(caller, number)))
}

/// The users that are asked for, all of them known to the tracker.
pub struct Users(Vec<User>);

impl Users {
    /// Asks for each once, on all connections.
    pub fn warm(callers: &mut [Caller], appid: &AppId) -> Result<Users> {
        let mut users = Vec::new();
        for number in 0..USERS {
            let userid = UserId::new(format!("bench{number:06}"))?;
            let addresses = Addresses { appid: appid.clone(), userid };
            let question = request(command::ADDRESSES, &addresses.encode());
            let index = number as usize % callers.len();
            let answer = callers[index].call(&question, REPLY_TRACKER);
            let answer = answer.context(|| format!("make the user {}", addresses.userid))?;
            Route::decode(answer)?;
            let group = *answer.first_chunk().ok_or_else(|| unexpected("an answer without a group"))?;
            users.push(User { question, group });
        }
        Ok(Users(users))
    }

    /// Asks for one of them.
    pub fn ask(&self, caller: &mut Caller, number: u64) -> Result<()> {
        let user = &self.0[number as usize % self.0.len()];
        let answer = caller.call(&user.question, REPLY_TRACKER)?;
        match answer.strip_prefix(&user.group) {
            Some(addresses) if addresses.ends_with(b";\0") => Ok(()),
            _ => Err(unexpected(format_args!(
                "an answer of {} bytes that names no storage of the group",
                answer.len()
            ))),
        }
    }
}
