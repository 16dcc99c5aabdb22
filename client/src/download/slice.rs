//! Content into a buffer: [`open`] looks a file up and reads its first bytes, [`read_slice`] reads any part
//! of it.

use std::net::SocketAddr;

use tnv_common::error::Result;
use tnv_common::fail;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::{Download, Read, Stat};
use tnv_common::rpc::client::Conn;

use super::request::{expect_bytes, may_lack_fetch, read_at, request};
use crate::attempt::{Attempt, AttemptLog, Candidate};
use crate::conn;
use crate::storages::{FileInfo, Storages};
use crate::trackers::owner;

/// See [`Client::open`](crate::Client::open).
pub(crate) fn open(
    storages: &Storages,
    file: &FileKey,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(FileInfo, usize)> {
    // On the wire a size of 0 is all of the rest.
    let wanted = (!buffer.is_empty()).then(|| request(file, offset, buffer.len() as u64)).transpose()?;
    let owner = owner(file);
    let route = storages.route(&owner)?.addresses;
    let what = format!("open {}", file.fileid);
    let (info, count) = storages.try_each(&what, &owner, route.clone(), |candidate| {
        let fetched = match &wanted {
            Some(wanted) if storages.mngr.may_fetch(candidate.address) => {
                fetch_at(storages, candidate, wanted, buffer)?
            }
            _ => None,
        };
        if let Some((stat, count)) = fetched {
            return Ok((FileInfo::new(stat.size, Some(stat), candidate.address, &route), Some(count)));
        }
        Ok((storages.info_at(candidate, file, &route)?, None))
    })?;
    if let Some(count) = count {
        return Ok((info, count));
    }
    let (_, count) = request(file, offset, buffer.len() as u64)?.clip(info.size)?;
    let count = usize::try_from(count).unwrap_or(buffer.len()).min(buffer.len());
    read_slice(storages, file, &info, offset, &mut buffer[..count])?;
    Ok((info, count))
}

/// One `FETCH`; `None` if the storage may lack it.
fn fetch_at(
    storages: &Storages,
    candidate: Candidate,
    wanted: &Download,
    buffer: &mut [u8],
) -> Attempt<Option<(Stat, usize)>> {
    let fetched = storages.mngr.look_up(candidate, |conn| {
        let (stat, count) = conn::fetch(conn, wanted)?;
        let (_, want) = wanted.clip(stat.size)?;
        let content = &mut buffer[..usize::try_from(want).unwrap_or(usize::MAX)];
        fill(conn, count, content)?;
        Ok((stat, content.len()))
    });
    match fetched {
        Err(failure) if may_lack_fetch(&storages.mngr, candidate.address, &failure) => Ok(None),
        outcome => outcome.map(Some),
    }
}

/// See [`Client::read_slice`](crate::Client::read_slice).
pub(crate) fn read_slice(
    storages: &Storages,
    file: &FileKey,
    info: &FileInfo,
    offset: u64,
    buffer: &mut [u8],
) -> Result<()> {
    // On the wire a size of 0 is all of the rest.
    if buffer.is_empty() {
        return Ok(());
    }
    let what = format!("read {} at {offset}", file.fileid);
    let request = request(file, offset, buffer.len() as u64)?;
    let Some(stat) = &info.stat else {
        return read_legacy(storages, info, &request, buffer).map_err(|error| error.context(what));
    };
    let request = Read { download: request, unique: stat.unique };
    storages.try_each(&what, &owner(file), members(storages, file, info), |candidate| {
        read_at(&storages.mngr, candidate, |conn| {
            let count = conn::read(conn, &request)?;
            fill(conn, count, buffer)
        })
    })
}

/// A slice from the legacy storage that replied with the size. Another storage may have another upload.
fn read_legacy(storages: &Storages, info: &FileInfo, request: &Download, buffer: &mut [u8]) -> Result<()> {
    let Some(&address) = info.members().first() else {
        return fail!(Internal, "the storage of the file is not known");
    };
    let outcome = storages.mngr.exchange(address, None, |conn| {
        let count = conn::download(conn, request)?;
        fill(conn, count, buffer)
    });
    outcome.map_err(|failure| {
        storages.mngr.note_failure(address, &failure);
        let mut log = AttemptLog::default();
        log.add(address, &failure);
        log.error("a legacy storage has no versions, so no other storage can be asked")
    })
}

/// The storages to ask for a slice. A cached route is newer than `info`; without a tracker `info` is enough.
fn members(storages: &Storages, file: &FileKey, info: &FileInfo) -> Vec<SocketAddr> {
    if storages.options.route_cache.is_zero() {
        return info.members().to_vec();
    }
    let mut members = match storages.route(&owner(file)) {
        Ok(route) => route.addresses,
        Err(error) => {
            log::info!("{error}; asking the storages known so far");
            return info.members().to_vec();
        }
    };
    // The storage that replied before has the file in its page cache. Legacy storages lack the command.
    members
        .sort_by_key(|&address| (storages.mngr.is_legacy(address), !info.members().starts_with(&[address])));
    members
}

/// Reads content that must fill the buffer exactly.
fn fill(conn: &mut Conn, count: u64, buffer: &mut [u8]) -> Result<()> {
    expect_bytes(conn, count, buffer.len() as u64)?;
    conn.read_body(buffer)
}
