//! Content into a writer or a file. When a storage fails, the next one continues where it ended.

use std::fs::File;
use std::io::{Seek, Write};
use std::net::SocketAddr;

use crc32fast::Hasher;
use tnv_common::error::{Context, Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::limits::COPY_BYTES;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::{Download, Read, Stat, VersionId};
use tnv_common::rpc::client::Conn;

use super::request::{expect_bytes, may_lack_fetch, read_at, request};
use crate::attempt::{Attempt, Candidate, Failure, Progress, Stage};
use crate::conn;
use crate::storages::Storages;
use crate::trackers::owner;

/// After so many storages with damaged content a download fails: more than a group has.
const DAMAGED_MAX: usize = 16;

/// See [`Client::download`](crate::Client::download).
pub(crate) fn download(
    storages: &Storages,
    file: &FileKey,
    offset: u64,
    size: u64,
    out: &mut dyn Write,
) -> Result<u64> {
    download_without(storages, file, offset, size, out, &[]).map_err(|(error, _)| error)
}

/// The same to a file. If the content is damaged, the file is truncated and the content comes from storages
/// that sent none of it.
pub(crate) fn download_to_file(
    storages: &Storages,
    file: &FileKey,
    offset: u64,
    size: u64,
    mut out: &File,
) -> Result<u64> {
    let mut damaged = Vec::new();
    loop {
        match download_without(storages, file, offset, size, &mut out, &damaged) {
            Err((error, sources)) if !sources.is_empty() && damaged.len() < DAMAGED_MAX => {
                log::warn!("{error}; asking another storage");
                damaged.extend(sources);
                out.set_len(0).and_then(|()| out.rewind()).context(|| "truncate the file")?;
            }
            outcome => return outcome.map_err(|(error, _)| error),
        }
    }
}

/// Downloads from storages that are not in `damaged`. The error comes with the storages that sent damaged
/// content.
fn download_without(
    storages: &Storages,
    file: &FileKey,
    offset: u64,
    size: u64,
    out: &mut dyn Write,
    damaged: &[SocketAddr],
) -> std::result::Result<u64, (Error, Vec<SocketAddr>)> {
    let undamaged = |error| (error, Vec::new());
    let wanted = request(file, offset, size).map_err(undamaged)?;
    let owner = owner(file);
    let what = format!("download {}", file.fileid);
    let route = storages.route(&owner).map_err(undamaged)?.addresses;
    let mut transfer = Transfer::new(&wanted, out);
    let mut sources = Vec::new();
    let fetched = storages.try_each(&what, &owner, route, |candidate| {
        if damaged.contains(&candidate.address) {
            let error = Error::new(ErrorKind::Internal, "its content of the file is damaged");
            return Err(Failure { error, stage: Stage::Reply, is_final: false, progress: Progress::None });
        }
        let before = transfer.done;
        let outcome = transfer.attempt(storages, candidate);
        if transfer.done > before {
            sources.push(candidate.address);
        }
        outcome
    });
    fetched.map_err(undamaged)?;
    transfer.finish().map_err(|error| (error.context(what), sources))
}

/// The upload that is fetched, and which part of it.
#[derive(Clone, Copy)]
struct Part {
    offset: u64,
    bytes: u64,
    unique: VersionId,
    /// The checksum of the part, if it is the whole file and its checksum is known.
    crc32: Option<u32>,
}

/// A download in progress.
struct Transfer<'a> {
    wanted: &'a Download,
    out: &'a mut dyn Write,
    /// Known once a storage with versions has replied.
    part: Option<Part>,
    done: u64,
    hasher: Hasher,
    piece: Vec<u8>,
    /// The error of `out`, which no storage can avoid.
    write_error: Option<Error>,
}

impl<'a> Transfer<'a> {
    fn new(wanted: &'a Download, out: &'a mut dyn Write) -> Transfer<'a> {
        Transfer {
            wanted,
            out,
            part: None,
            done: 0,
            hasher: Hasher::new(),
            piece: Vec::new(),
            write_error: None,
        }
    }

    /// Fetches what is missing from one storage.
    fn attempt(&mut self, storages: &Storages, candidate: Candidate) -> Attempt<()> {
        let before = self.done;
        let outcome = match self.part {
            Some(part) => self.read(storages, candidate, part),
            None => self.start(storages, candidate),
        };
        outcome.map_err(|failure| match self.write_error.take() {
            Some(error) => Failure::local(error),
            // A few bytes are no progress, else the attempts would never end.
            None if self.done - before >= COPY_BYTES as u64 => {
                Failure { progress: Progress::Resumable, ..failure }
            }
            None => failure,
        })
    }

    fn part_of(&self, stat: &Stat) -> Result<Part> {
        let (offset, bytes) = self.wanted.check(stat.size)?;
        let crc32 = stat.crc32.filter(|_| bytes == stat.size);
        Ok(Part { offset, bytes, unique: stat.unique, crc32 })
    }

    /// Fetches from the first storage: in one request if it has `FETCH`.
    fn start(&mut self, storages: &Storages, candidate: Candidate) -> Attempt<()> {
        if storages.mngr.may_fetch(candidate.address) {
            let wanted = self.wanted;
            let fetched = storages.mngr.look_up(candidate, |conn| {
                let (stat, count) = conn::fetch(conn, wanted)?;
                // The storage clips a size beyond the end; here it is an error.
                let part = self.part_of(&stat)?;
                expect_bytes(conn, count, part.bytes)?;
                self.part = Some(part);
                self.receive(conn)
            });
            match fetched {
                Err(failure)
                    if self.part.is_none() && may_lack_fetch(&storages.mngr, candidate.address, &failure) => {
                }
                outcome => return outcome,
            }
        }
        match storages.stat_at(candidate, &self.wanted.file)? {
            Some(stat) => {
                let part = self.part_of(&stat).map_err(Failure::local)?;
                self.part = Some(part);
                self.read(storages, candidate, part)
            }
            None => self.download_legacy(storages, candidate.address),
        }
    }

    /// Continues at a storage with versions.
    fn read(&mut self, storages: &Storages, candidate: Candidate, part: Part) -> Attempt<()> {
        if part.bytes == self.done {
            return Ok(());
        }
        read_at(&storages.mngr, candidate, |conn| {
            let missing = part.bytes - self.done;
            let download = request(&self.wanted.file, part.offset + self.done, missing)?;
            let count = conn::read(conn, &Read { download, unique: part.unique })?;
            expect_bytes(conn, count, missing)?;
            self.receive(conn)
        })
    }

    /// Fetches everything from a legacy storage. No other storage can continue, so it gets the full timeout.
    fn download_legacy(&mut self, storages: &Storages, address: SocketAddr) -> Attempt<()> {
        let wanted = self.wanted;
        let outcome = storages.mngr.exchange(address, None, |conn| {
            // After an idle connection was lost during the transfer, a new one must not start again.
            if self.done > 0 {
                return fail!(Unavailable, "the connection to {address} was lost");
            }
            let count = conn::download(conn, wanted)?;
            if wanted.size != 0 {
                expect_bytes(conn, count, wanted.size.cast_unsigned())?;
            }
            self.receive(conn)
        });
        outcome.map_err(|failure| match self.done {
            0 => failure,
            done => {
                let why = "a legacy storage has no versions, so no other storage can continue";
                let error = failure.error.context(format_args!("lost after {done} bytes, and {why}"));
                Failure { error, is_final: true, ..failure }
            }
        })
    }

    /// Writes the content of a reply to `out`.
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
                self.write_error = Some(error.clone());
                return Err(error);
            }
            self.hasher.update(piece);
            self.done += count as u64;
        }
    }

    /// Compares the checksum and returns how many bytes were written.
    fn finish(self) -> Result<u64> {
        let got = self.hasher.finalize();
        match self.part.and_then(|part| part.crc32) {
            Some(want) if want != got => {
                fail!(Internal, "the content is damaged: it has the CRC-32 {got:08x}, want {want:08x}")
            }
            _ => Ok(self.done),
        }
    }
}
