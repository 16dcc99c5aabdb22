//! Downloads: content as a stream in pieces, or slice by slice, always of one and the same upload. The
//! validator that storages of ours give for an upload makes it safe to go on at another storage in
//! the middle; an existing storage gives none, and what was begun there ends there.

use std::fs::File;
use std::io::{Seek, Write};
use std::net::SocketAddr;

use crc32fast::Hasher;
use tnv_common::error::{Context, Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::limits::COPY_BYTES;
use tnv_common::proto::tnv::file_key::Triple;
use tnv_common::proto::tnv::storage::{Download, Read, Stat, Unique};
use tnv_common::rpc::client::Conn;

use crate::client::{Client, FileInfo, owner};
use crate::conn;
use crate::trail::{At, Failure, Progress, Trail, Tried, Turn};

/// Most storages that are found to have damaged content of one file before it is given up: more than
/// a group has.
const DAMAGED_MAX: usize = 16;

/// See [`Client::open`].
pub(crate) fn open(
    client: &Client,
    file: &Triple,
    offset: u64,
    buffer: &mut [u8],
) -> Result<(FileInfo, usize)> {
    // On the wire a size of 0 would be all of the rest.
    let asked = (!buffer.is_empty()).then(|| request(file, offset, buffer.len() as u64)).transpose()?;
    let owner = owner(file);
    let route = client.mngr().route(&owner)?.addresses;
    let what = format!("open {}", file.fileid);
    let (info, count) = client.try_each(&what, &owner, route.clone(), |address, turn| {
        let fetched = match &asked {
            Some(asked) if client.mngr().fetches(address) => open_at(client, address, turn, asked, buffer)?,
            _ => None,
        };
        if let Some((stat, count)) = fetched {
            return Ok((FileInfo::new(stat.size, Some(stat), address, &route), Some(count)));
        }
        Ok((client.info_at(address, turn, file, &route)?, None))
    })?;
    if let Some(count) = count {
        return Ok((info, count));
    }
    let (_, count) = request(file, offset, buffer.len() as u64)?.clip(info.size)?;
    let count = usize::try_from(count).unwrap_or(buffer.len()).min(buffer.len());
    read_slice(client, file, &info, offset, &mut buffer[..count])?;
    Ok((info, count))
}

/// One `FETCH`; `None` where the storage may lack it.
fn open_at(
    client: &Client,
    address: SocketAddr,
    turn: Turn,
    asked: &Download,
    buffer: &mut [u8],
) -> Tried<Option<(Stat, usize)>> {
    let fetched = client.mngr().exchange(address, turn.to_find(), |conn| {
        let (stat, count) = conn::fetch(conn, asked)?;
        let (_, want) = asked.clip(stat.size)?;
        let content = &mut buffer[..usize::try_from(want).unwrap_or(usize::MAX)];
        fill(conn, count, content)?;
        Ok((stat, content.len()))
    });
    match fetched {
        Err(failure) if may_lack_fetch(client, address, &failure) => Ok(None),
        outcome => outcome.map(Some),
    }
}

/// See [`Client::read_slice`].
pub(crate) fn read_slice(
    client: &Client,
    file: &Triple,
    info: &FileInfo,
    offset: u64,
    buffer: &mut [u8],
) -> Result<()> {
    // On the wire a size of 0 would be all of the rest.
    if buffer.is_empty() {
        return Ok(());
    }
    let what = format!("read {} at {offset}", file.fileid);
    let request = request(file, offset, buffer.len() as u64)?;
    let Some(stat) = &info.stat else {
        return read_plain(client, info, &request, buffer).map_err(|error| error.context(what));
    };
    let request = Read { download: request, unique: stat.unique };
    client.try_each(&what, &owner(file), members(client, file, info), |address, turn| {
        read_at(client, address, turn, |conn| {
            let count = conn::read(conn, &request)?;
            fill(conn, count, buffer)
        })
    })
}

/// A slice from the existing storage that told the size. Another may have another upload.
fn read_plain(client: &Client, info: &FileInfo, request: &Download, buffer: &mut [u8]) -> Result<()> {
    let Some(&address) = info.members().first() else {
        return fail!(Internal, "the storage that told the size is not known");
    };
    let outcome = client.mngr().exchange(address, None, |conn| {
        let count = conn::download(conn, request)?;
        fill(conn, count, buffer)
    });
    outcome.map_err(|failure| {
        client.mngr().note_failure(address, &failure);
        let mut trail = Trail::default();
        trail.note(address, &failure);
        trail.error("from an existing storage, which gives no validator to ask another by")
    })
}

/// One `READ`. What one member says of a certain upload another may see differently: a replicated
/// file system may be a second behind, and an existing storage does not know the command.
fn read_at(
    client: &Client,
    address: SocketAddr,
    turn: Turn,
    request: impl FnMut(&mut Conn) -> Result<()>,
) -> Tried<()> {
    client.mngr().exchange(address, turn.to_find(), request).map_err(|failure| match failure.error.kind() {
        ErrorKind::Unsupported => {
            client.mngr().note_plain(address);
            Failure { last: false, ..failure }
        }
        ErrorKind::NotFound => Failure { last: false, ..failure },
        _ => failure,
    })
}

/// The storages to ask for a slice. While the route is remembered it is fresher than what `info` had;
/// when no tracker answers, what `info` had will do.
fn members(client: &Client, file: &Triple, info: &FileInfo) -> Vec<SocketAddr> {
    if client.options().route_cache.is_zero() {
        return info.members().to_vec();
    }
    let mut members = match client.mngr().route(&owner(file)) {
        Ok(route) => route.addresses,
        Err(error) => {
            log::info!("{error}; the storages known so far are asked");
            return info.members().to_vec();
        }
    };
    // The one that answered before has the file in its page cache; existing ones cannot help.
    members
        .sort_by_key(|&address| (client.mngr().is_plain(address), !info.members().starts_with(&[address])));
    members
}

/// Reads a reply's content that must fill the buffer exactly.
fn fill(conn: &mut Conn, count: u64, buffer: &mut [u8]) -> Result<()> {
    if count != buffer.len() as u64 {
        return fail!(Protocol, "{} sent {count} bytes of content, want {}", conn.peer(), buffer.len());
    }
    conn.read_body(buffer)
}

fn request(file: &Triple, offset: u64, size: u64) -> Result<Download> {
    match (i64::try_from(offset), i64::try_from(size)) {
        (Ok(offset), Ok(size)) => Ok(Download { file: file.clone(), offset, size }),
        _ => fail!(Invalid, "invalid offset or size, got {offset} and {size}, want at most {}", i64::MAX),
    }
}

/// See [`Client::download`].
pub(crate) fn download(
    client: &Client,
    file: &Triple,
    offset: u64,
    size: u64,
    out: &mut dyn Write,
) -> Result<u64> {
    from_others(client, file, offset, size, out, &[]).map_err(|(error, _)| error)
}

/// The same to a file, which can be begun anew: where what came is not what was stored, from storages
/// that had no part in it.
pub(crate) fn download_again(
    client: &Client,
    file: &Triple,
    offset: u64,
    size: u64,
    mut out: &File,
) -> Result<u64> {
    let mut damaged = Vec::new();
    loop {
        match from_others(client, file, offset, size, &mut out, &damaged) {
            Err((error, more)) if !more.is_empty() && damaged.len() < DAMAGED_MAX => {
                log::warn!("{error}; asking another storage");
                damaged.extend(more);
                out.set_len(0).and_then(|()| out.rewind()).context(|| "begin the file anew")?;
            }
            // With no other left to ask, what was wrong before says more.
            outcome => return outcome.map_err(|(error, _)| error),
        }
    }
}

/// From storages that have not sent damaged content; an error comes with those that now have, at least
/// one more each time.
fn from_others(
    client: &Client,
    file: &Triple,
    offset: u64,
    size: u64,
    out: &mut dyn Write,
    damaged: &[SocketAddr],
) -> std::result::Result<u64, (Error, Vec<SocketAddr>)> {
    let only = |error| (error, Vec::new());
    let asked = request(file, offset, size).map_err(only)?;
    let owner = owner(file);
    let what = format!("download {}", file.fileid);
    let route = client.mngr().route(&owner).map_err(only)?.addresses;
    let mut transfer = Transfer::new(&asked, out);
    let mut sources = Vec::new();
    let fetched = client.try_each(&what, &owner, route, |address, turn| {
        if damaged.contains(&address) {
            let error = Error::new(ErrorKind::Internal, "its content of the file is damaged");
            return Err(Failure { error, at: At::Server, last: false, progress: Progress::None });
        }
        let before = transfer.done;
        let outcome = transfer.attempt(client, address, turn);
        if transfer.done > before {
            sources.push(address);
        }
        outcome
    });
    fetched.map_err(only)?;
    transfer.finish().map_err(|error| (error.context(what), sources))
}

/// Which upload is being fetched, and which part of it.
#[derive(Clone, Copy)]
struct Part {
    offset: u64,
    bytes: u64,
    unique: Unique,
    /// What the content must have, where it is all of the file and this is known.
    crc32: Option<u32>,
}

/// Whether a storage may have failed because it lacks `FETCH`, which is noted where it says so: it refuses and
/// closes, its refusal may be lost, and its words need not be known here.
fn may_lack_fetch(client: &Client, address: SocketAddr, failure: &Failure) -> bool {
    match failure.error.kind() {
        ErrorKind::Unsupported => {
            client.mngr().note_no_fetch(address);
            true
        }
        ErrorKind::Internal => true,
        ErrorKind::Unavailable => failure.at == At::Way,
        _ => false,
    }
}

/// A download under way.
struct Transfer<'a> {
    asked: &'a Download,
    out: &'a mut dyn Write,
    /// Known once a storage with validators has answered.
    part: Option<Part>,
    done: u64,
    hasher: Hasher,
    piece: Vec<u8>,
    /// `out` failed: no storage can mend that.
    local: Option<Error>,
}

impl<'a> Transfer<'a> {
    fn new(asked: &'a Download, out: &'a mut dyn Write) -> Transfer<'a> {
        Transfer { asked, out, part: None, done: 0, hasher: Hasher::new(), piece: Vec::new(), local: None }
    }

    /// Fetches what is missing from one storage.
    fn attempt(&mut self, client: &Client, address: SocketAddr, turn: Turn) -> Tried<()> {
        let before = self.done;
        let outcome = match self.part {
            Some(part) => self.read(client, address, turn, part),
            None => self.begin(client, address, turn),
        };
        outcome.map_err(|failure| match self.local.take() {
            Some(error) => Failure::here(error),
            // Crumbs do not count, lest they make the tries endless.
            None if self.done - before >= COPY_BYTES as u64 => {
                Failure { progress: Progress::Kept, ..failure }
            }
            None => failure,
        })
    }

    fn part_of(&self, stat: &Stat) -> Result<Part> {
        let (offset, bytes) = self.asked.check(stat.size)?;
        let crc32 = stat.crc32.filter(|_| bytes == stat.size);
        Ok(Part { offset, bytes, unique: stat.unique, crc32 })
    }

    /// From the first storage that answers: everything in one request, where it knows that one.
    fn begin(&mut self, client: &Client, address: SocketAddr, turn: Turn) -> Tried<()> {
        if client.mngr().fetches(address) {
            let asked = self.asked;
            let fetched = client.mngr().exchange(address, turn.to_find(), |conn| {
                let (stat, count) = conn::fetch(conn, asked)?;
                // A size beyond the end, which the storage would clip, is a mistake here.
                let part = self.part_of(&stat)?;
                if count != part.bytes {
                    let (peer, want) = (conn.peer(), part.bytes);
                    return fail!(Protocol, "{peer} sent {count} bytes of content, want {want}");
                }
                self.part = Some(part);
                self.receive(conn)
            });
            match fetched {
                Err(failure) if self.part.is_none() && may_lack_fetch(client, address, &failure) => {}
                outcome => return outcome,
            }
        }
        match client.stat_at(address, turn, &self.asked.file)? {
            Some(stat) => {
                let part = self.part_of(&stat).map_err(Failure::here)?;
                self.part = Some(part);
                self.read(client, address, turn, part)
            }
            None => self.download(client, address),
        }
    }

    /// From a storage that knows validators: from where we are on.
    fn read(&mut self, client: &Client, address: SocketAddr, turn: Turn, part: Part) -> Tried<()> {
        if part.bytes == self.done {
            return Ok(());
        }
        read_at(client, address, turn, |conn| {
            let missing = part.bytes - self.done;
            let download = request(&self.asked.file, part.offset + self.done, missing)?;
            let count = conn::read(conn, &Read { download, unique: part.unique })?;
            if count != missing {
                return fail!(Protocol, "{} sent {count} bytes of content, want {missing}", conn.peer());
            }
            self.receive(conn)
        })
    }

    /// From an existing storage: all, or nothing more.
    fn download(&mut self, client: &Client, address: SocketAddr) -> Tried<()> {
        let asked = self.asked;
        // It cannot go on elsewhere, so it has all the time that there is.
        let outcome = client.mngr().exchange(address, None, |conn| {
            // An idle connection that dies in the middle must not begin again either.
            if self.done > 0 {
                return fail!(Unavailable, "the connection to {address} was lost");
            }
            let count = conn::download(conn, asked)?;
            if asked.size != 0 && count != asked.size.cast_unsigned() {
                return fail!(Protocol, "{} sent {count} bytes of content, want {}", conn.peer(), asked.size);
            }
            self.receive(conn)
        });
        outcome.map_err(|failure| match self.done {
            0 => failure,
            done => {
                let why = "an existing storage gives no validator to go on by elsewhere";
                let error = failure.error.context(format_args!("lost after {done} bytes, and {why}"));
                Failure { error, last: true, ..failure }
            }
        })
    }

    /// Passes on what comes on the connection.
    fn receive(&mut self, conn: &mut Conn) -> Result<()> {
        loop {
            let want = conn.unread().min(COPY_BYTES as u64) as usize;
            if self.piece.len() < want {
                self.piece.resize(want, 0);
            }
            let count = conn.read_body_some(&mut self.piece)?;
            if count == 0 {
                return Ok(());
            }
            let piece = &self.piece[..count];
            if let Err(error) = self.out.write_all(piece).context(|| "write the content") {
                self.local = Some(error.clone());
                return Err(error);
            }
            self.hasher.update(piece);
            self.done += count as u64;
        }
    }

    /// Holds the content against its checksum, and returns how much it was.
    fn finish(self) -> Result<u64> {
        let got = self.hasher.finalize();
        match self.part.and_then(|part| part.crc32) {
            Some(want) if want != got => {
                fail!(
                    Internal,
                    "the content is damaged: its checksum is {got:08x}, was {want:08x} when it was stored"
                )
            }
            _ => Ok(self.done),
        }
    }
}
