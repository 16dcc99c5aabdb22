//! `scale rows`: the same operations on deployments that differ in how many files and users their databases
//! hold. They run side by side and are measured in turn, so that what else this machine does meets all of them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tnv_common::error::{Error, ErrorKind};
use tnv_common::limits::REPLY_TIMEOUT;
use tnv_common::proto::tnv::storage::{Download, Upload};
use tnv_common::proto::tnv::tracker::Addresses;
use tnv_common::proto::tnv::{REPLY_STORAGE, REPLY_TRACKER, command};

use super::fill::{self, CONTENT_BYTES};
use super::names::{self, mixed, triple};
use super::subject::{Start, Subject};
use crate::Result;
use crate::load::caller::{Caller, request, unexpected};
use crate::load::crowd::{self, Until};
use crate::load::figures::Figures;
use crate::load::idle::median;

/// A prime: a walk in steps of it meets every row, and neighbours are far apart.
const STRIDE: u64 = 7_368_787;

/// The HTTP server remembers where a user's files are. So that it meets no user twice at any size, it is
/// asked less.
const HTTP_SHARE: u64 = 16;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    Upload,
    Download,
    Delete,
    OldUser,
    NewUser,
    HttpStat,
}

/// In this order in each round: what an upload makes the delete takes away.
const OPS: [Op; 6] = [Op::Upload, Op::Download, Op::Delete, Op::OldUser, Op::NewUser, Op::HttpStat];

impl Op {
    pub(super) fn name(self) -> &'static str {
        match self {
            Op::Upload => "upload 4k",
            Op::Download => "download 4k, any file",
            Op::Delete => "delete",
            Op::OldUser => "command 12, any user",
            Op::NewUser => "command 12, new user",
            Op::HttpStat => "HTTP HEAD, any file",
        }
    }
}

/// What is asked for.
pub(super) struct Plan {
    /// The databases' sizes, the smallest first.
    pub(super) sizes: Vec<u64>,
    /// How often everything is measured.
    pub(super) rounds: usize,
    /// Operations each time.
    pub(super) count: u64,
    pub(super) connections: usize,
    pub(super) fsync: bool,
    /// Where all of it lies.
    pub(super) directory: PathBuf,
    /// A file that is locked while something is measured, for those who share this machine.
    pub(super) lock: Option<PathBuf>,
}

/// One operation at one size, in all rounds.
#[derive(Default)]
pub(super) struct Series {
    pub(super) ops_per_s: Vec<f64>,
    pub(super) p50_ms: Vec<f64>,
    pub(super) p99_ms: Vec<f64>,
    /// Of all servers and the database's, for one operation.
    pub(super) cpu_us: Vec<f64>,
    /// What they had written to the disk for one operation.
    pub(super) written: Vec<f64>,
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
}

/// What was seen at one size.
pub(super) struct Sized {
    pub(super) rows: u64,
    pub(super) series: Vec<(Op, Series)>,
    pub(super) starts: Vec<Start>,
    pub(super) peaks: Vec<(&'static str, u64)>,
    /// Bytes of the tables of files and of users.
    pub(super) database: (u64, u64),
}

/// Measures on one kind of database; none where it is not installed.
pub(super) fn run(plan: &Plan, embedded: bool, say: &dyn Fn(&str)) -> Result<Option<Vec<Sized>>> {
    let mut subjects = Vec::new();
    for &rows in &plan.sizes {
        say(&format!("filling {rows} files and users"));
        match Subject::new(&plan.directory, embedded, rows, plan.fsync)? {
            Some(subject) => subjects.push(subject),
            None => return Ok(None),
        }
    }
    let mut all: Vec<Sized> = Vec::new();
    for subject in &mut subjects {
        let _turn = turn(plan.lock.as_deref())?;
        all.push(Sized {
            rows: subject.rows,
            series: OPS.iter().map(|&op| (op, Series::default())).collect(),
            database: subject.database_bytes(),
            starts: subject.starts(plan.rounds.min(5)),
            peaks: Vec::new(),
        });
    }
    for round in 0..=plan.rounds {
        let _turn = turn(plan.lock.as_deref())?;
        say(&format!("round {round} of {}", plan.rounds));
        for (index, op) in OPS.into_iter().enumerate() {
            // Nobody is always first.
            for place in 0..subjects.len() {
                let at = (place + round) % subjects.len();
                let measured = measure(&mut subjects[at], op, plan, round as u64)?;
                // The first round brings into memory what the others have there.
                if round > 0 {
                    all[at].series[index].1.add(measured);
                }
            }
        }
        subjects.iter().for_each(Subject::forget_new_users);
    }
    for (sized, subject) in all.iter_mut().zip(&mut subjects) {
        sized.peaks = subject.peaks();
    }
    Ok(Some(all))
}

/// Waits for this machine.
fn turn(lock: Option<&Path>) -> Result<Option<File>> {
    let Some(path) = lock else { return Ok(None) };
    let opened = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let locked = opened.and_then(|file| Ok(flock(&file, FlockOperation::LockExclusive).map(|()| file)?));
    Ok(Some(locked.map_err(|error| format!("lock {}: {error}", path.display()))?))
}

struct Measured {
    figures: Figures,
    cpu: Duration,
    written: u64,
}

impl Series {
    fn add(&mut self, measured: Measured) {
        let Measured { figures, cpu, written } = measured;
        let ops = figures.ops.max(1) as f64;
        self.ops_per_s.push(figures.ops_per_s);
        self.p50_ms.push(figures.p50_ms);
        self.p99_ms.push(figures.p99_ms);
        self.cpu_us.push(cpu.as_secs_f64() * 1e6 / ops);
        self.written.push(written as f64 / ops);
        self.errors += figures.errors;
        self.first_error = self.first_error.take().or(figures.first_error);
    }

    /// The median of what was seen.
    pub(super) fn median(values: &[f64]) -> f64 {
        median(values)
    }
}

fn measure(subject: &mut Subject, op: Op, plan: &Plan, round: u64) -> Result<Measured> {
    let (rows, count) =
        (subject.rows, if op == Op::HttpStat { plan.count.div_ceil(HTTP_SHARE) } else { plan.count });
    // Any of the files and users that were filled in, each one once before any comes again.
    let any = |turn: u64| (round * count + turn) % rows * STRIDE % rows;
    let content = fill::content();
    // Those of the round are behind all others.
    let fresh = rows + round * count;
    let failed = |error: Error| error.to_string();
    let body = |turn: u64| -> std::result::Result<Vec<u8>, Error> {
        Ok(match op {
            Op::Upload => {
                let file = uploaded(any_owner(rows, fresh + turn), fresh + turn)?;
                let head = Upload { file, size: CONTENT_BYTES as u64 }.encode();
                request(command::UPLOAD, &[head, content.clone()].concat())
            }
            Op::Delete => {
                let file = uploaded(any_owner(rows, fresh + turn), fresh + turn)?;
                request(command::DELETE, &file.encode())
            }
            Op::Download => {
                let download = Download { file: triple(any(turn))?, offset: 0, size: 0 };
                request(command::DOWNLOAD, &download.encode())
            }
            Op::OldUser | Op::NewUser => {
                let number = if op == Op::OldUser { any(turn) } else { fresh + turn };
                let file = triple(number)?;
                request(command::ADDRESSES, &Addresses { appid: file.appid, userid: file.userid }.encode())
            }
            Op::HttpStat => {
                let file = triple(any(turn))?;
                let (appid, userid, fileid) = (file.appid, file.userid, file.fileid);
                format!("HEAD /files/{appid}/{userid}/{fileid} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes()
            }
        })
    };
    let requests: Vec<Vec<u8>> =
        (0..count).map(body).collect::<std::result::Result<_, _>>().map_err(failed)?;
    let (server, reply, reply_bytes) = match op {
        Op::Upload | Op::Delete => (subject.cluster.storage(), REPLY_STORAGE, Some(0)),
        Op::Download => (subject.cluster.storage(), REPLY_STORAGE, Some(CONTENT_BYTES)),
        Op::OldUser | Op::NewUser => (subject.cluster.tracker(), REPLY_TRACKER, None),
        Op::HttpStat => (subject.cluster.httpd(), 0, None),
    };
    let (cpu, written) = (subject.cpu_time(), subject.written_bytes());
    let figures = match op {
        Op::HttpStat => {
            let mut callers = connect(plan.connections, || Http::connect(server))?;
            crowd::run(&mut callers, Until::Count(count), |caller, turn| {
                caller.call(&requests[turn as usize])
            })
        }
        _ => {
            let mut callers = connect(plan.connections, || Caller::connect(server))?;
            crowd::run(&mut callers, Until::Count(count), |caller, turn| {
                let body = caller.call(&requests[turn as usize], reply)?;
                match reply_bytes {
                    Some(bytes) if body.len() != bytes => {
                        Err(unexpected(format_args!("a reply of {} bytes, want {bytes}", body.len())))
                    }
                    _ => Ok(()),
                }
            })
        }
    };
    Ok(Measured { figures, cpu: subject.cpu_time() - cpu, written: subject.written_bytes() - written })
}

fn connect<C>(count: usize, one: impl Fn() -> std::result::Result<C, Error>) -> Result<Vec<C>> {
    (0..count).map(|_| one()).collect::<std::result::Result<_, _>>().map_err(|error| error.to_string().into())
}

/// Whose a new file is: anybody's of those who are there.
fn any_owner(rows: u64, number: u64) -> u64 {
    mixed(number) % rows
}

/// A new file.
fn uploaded(
    owner: u64,
    number: u64,
) -> std::result::Result<tnv_common::proto::tnv::file_key::FileKey, Error> {
    let mut file = triple(owner)?;
    file.fileid = tnv_common::proto::FileId::new(names::file_id(number))?;
    Ok(file)
}

/// A connection to the HTTP server on which heads alone are asked for.
struct Http {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Http {
    fn connect(server: SocketAddr) -> std::result::Result<Http, Error> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Http { stream, buffer: vec![0; 8 << 10] })
    }

    fn call(&mut self, request: &[u8]) -> std::result::Result<(), Error> {
        self.stream.write_all(request)?;
        let mut filled = 0;
        loop {
            let count = self.stream.read(&mut self.buffer[filled..])?;
            if count == 0 {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    "the connection was closed, or the head is too long",
                ));
            }
            filled += count;
            let head = &self.buffer[..filled];
            if head.ends_with(b"\r\n\r\n") {
                return match head.starts_with(b"HTTP/1.1 200 ") {
                    true => Ok(()),
                    false => Err(unexpected(String::from_utf8_lossy(&head[..head.len().min(64)]))),
                };
            }
        }
    }
}
