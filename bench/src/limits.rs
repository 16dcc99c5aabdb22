//! What this machine does with no server in between: the disk's own rate of making files, `cat`, its own rate
//! of syncs, a bare sendfile loop, a bare relay and round trips over loopback. No server that does the same can be
//! faster.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::row::Row;
use crate::{Failure, Result, exec};

/// As many files in a directory as a storage puts there.
const FILES_PER_DIRECTORY: u64 = 512;

/// What the client reads at a time.
const READ_BYTES: usize = 256 << 10;

/// A command 12 and its reply are about this long.
const MESSAGE_BYTES: usize = 64;

/// How long a socket may be silent: it is loopback, and both ends are ours.
const SILENCE: Duration = Duration::from_secs(60);

/// How long a copy may take.
const COPY_BOUND: Duration = Duration::from_secs(300);

/// Threads that do operations until all are begun, each in turn the next one; what they took.
fn measure<S>(
    op: &str,
    size: u64,
    threads: usize,
    count: u64,
    session: impl Fn(usize) -> io::Result<S> + Sync,
    once: impl Fn(&mut S, u64) -> io::Result<()> + Sync,
) -> Result<Row> {
    let threads = threads.min(usize::try_from(count).unwrap_or(usize::MAX)).max(1);
    let (next, start) = (AtomicU64::new(0), Barrier::new(threads));
    let latencies: Mutex<Vec<Duration>> = Mutex::default();
    let (session, once, next, start, all) = (&session, &once, &next, &start, &latencies);
    let work = move |number: usize| -> io::Result<(Instant, Instant)> {
        let opened = session(number);
        start.wait();
        let mut opened = opened?;
        let begin = Instant::now();
        let (mut latencies, mut last) = (Vec::new(), begin);
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            if turn >= count {
                break;
            }
            once(&mut opened, turn)?;
            let now = Instant::now();
            latencies.push(now - last);
            last = now;
        }
        all.lock().unwrap_or_else(PoisonError::into_inner).append(&mut latencies);
        Ok((begin, last))
    };
    let times = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|number| scope.spawn(move || work(number))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("a thread of ours"))
            .collect::<io::Result<Vec<_>>>()
    });
    let times = times.map_err(|error| Failure::Failed(format!("{op}, with no server: {error}")))?;
    let begin = times.iter().map(|&(begin, _)| begin).min();
    let end = times.iter().map(|&(_, end)| end).max();
    let wall = begin.zip(end).map_or(Duration::ZERO, |(begin, end)| end - begin);
    let latencies = std::mem::take(&mut *latencies.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Row::of(op, size, threads, wall, latencies, 0))
}

/// Files are made and written in directories of 512; with `sync` each of them, and its directory after it, is
/// synced, as an upload must be before its reply.
pub(crate) fn make_files(place: &Path, size: u64, threads: usize, count: u64, sync: bool) -> Result<Row> {
    let content = vec![0x5A_u8; usize::try_from(size).unwrap_or(usize::MAX)];
    let directories: Mutex<Vec<Option<File>>> = Mutex::default();
    // Made once and held open, which is the least that anybody has to do.
    let directory = |index: usize| -> io::Result<(PathBuf, File)> {
        let path = place.join(index.to_string());
        let mut known = directories.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() <= index {
            known.resize_with(index + 1, || None);
        }
        if let Some(open) = &known[index] {
            return Ok((path, open.try_clone()?));
        }
        fs::create_dir(&path)?;
        let open = File::open(&path)?;
        if sync {
            File::open(place)?.sync_all()?;
        }
        known[index] = Some(open.try_clone()?);
        Ok((path, open))
    };
    measure(
        "upload",
        size,
        threads,
        count,
        |_| Ok(()),
        |(), number| {
            let index = usize::try_from(number / FILES_PER_DIRECTORY).unwrap_or(usize::MAX);
            let (path, directory) = directory(index)?;
            let mut file = File::create_new(path.join(number.to_string()))?;
            file.write_all(&content)?;
            if sync {
                file.sync_all()?;
                directory.sync_all()?;
            }
            Ok(())
        },
    )
}

/// `cat source > copy`, again and again; with `sync` each copy and its directory are synced.
pub(crate) fn copies(source: &Path, place: &Path, count: u64, sync: bool) -> Result<Row> {
    let failed = |error: io::Error| Failure::Failed(format!("copy {}: {error}", source.display()));
    let size = fs::metadata(source).map_err(failed)?.len();
    let mut latencies = Vec::new();
    for number in 0..count {
        let path = place.join(number.to_string());
        let start = Instant::now();
        let copy = File::create_new(&path).map_err(failed)?;
        cat(source, &copy)?;
        if sync {
            copy.sync_all().and_then(|()| File::open(place)?.sync_all()).map_err(failed)?;
        }
        latencies.push(start.elapsed());
    }
    let wall = latencies.iter().sum();
    for number in 0..count {
        fs::remove_file(place.join(number.to_string())).map_err(failed)?;
    }
    Ok(Row::of("upload", size, 1, wall, latencies, 0))
}

fn cat(source: &Path, copy: &File) -> Result<()> {
    let failed = |error: io::Error| Failure::Failed(format!("cat {}: {error}", source.display()));
    let child =
        Command::new("cat").arg(source).stdout(copy.try_clone().map_err(failed)?).spawn().map_err(failed)?;
    let mut child = exec::Running(child);
    // A wait that blocks, so that the end is seen at once; cat cannot hang on a local file.
    let start = Instant::now();
    let status = child.0.wait().map_err(failed)?;
    match status.success() && start.elapsed() < COPY_BOUND {
        true => Ok(()),
        false => Err(Failure::Failed(format!(
            "cat {} ended with {status} after {:?}",
            source.display(),
            start.elapsed()
        ))),
    }
}

/// Pages of one file for each thread are written over and synced.
pub(crate) fn syncs(place: &Path, size: u64, threads: usize, count: u64) -> Result<Row> {
    let page = vec![0x5A_u8; usize::try_from(size).unwrap_or(usize::MAX)];
    measure(
        "sync",
        size,
        threads,
        count,
        |number| {
            let file =
                OpenOptions::new().write(true).create_new(true).open(place.join(number.to_string()))?;
            file.write_all_at(&page, 0)?;
            file.sync_all()?;
            Ok(file)
        },
        |file, _| {
            file.write_all_at(&page, 0)?;
            file.sync_data()
        },
    )
}

/// Parts of a file, each of `size` bytes, are sent in turn, again and again, with nothing asked in between: each
/// connection has a thread that calls sendfile, and one that reads as the client does.
pub(crate) fn sendfiles(source: &Path, size: u64, connections: usize, count: u64) -> Result<Row> {
    let failed = |error: io::Error| Failure::Failed(format!("send {}: {error}", source.display()));
    let file = File::open(source).map_err(failed)?;
    let parts = (file.metadata().map_err(failed)?.len() / size).max(1);
    let next = AtomicU64::new(0);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    thread::scope(|scope| {
        let send = |stream: TcpStream| -> io::Result<()> {
            stream.set_write_timeout(Some(SILENCE))?;
            // Until the other end has enough and is closed, which is an error here.
            loop {
                let start = next.fetch_add(1, Ordering::Relaxed) % parts * size;
                send_part(&stream, &file, start..start + size)?;
            }
        };
        measure(
            "download",
            size,
            connections,
            count,
            |_| {
                let (stream, accepted) = connected(&listener)?;
                scope.spawn(move || send(accepted));
                Ok((stream, vec![0; READ_BYTES]))
            },
            |(stream, buffer), _| {
                let mut left = size;
                while left > 0 {
                    let piece = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    match stream.read(&mut buffer[..piece]) {
                        Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                        Ok(read) => left -= read as u64,
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(())
            },
        )
    })
}

/// A file is asked for again and again, through a relay as an HTTP server is one: it passes on the question, a
/// message, and copies the answer, which is sent with sendfile. Each of the three has a thread a connection.
pub(crate) fn relayed(source: &Path, connections: usize, count: u64) -> Result<Row> {
    let failed = |error: io::Error| Failure::Failed(format!("relay {}: {error}", source.display()));
    let file = File::open(source).map_err(failed)?;
    let size = file.metadata().map_err(failed)?.len();
    let content = || vec![0; usize::try_from(size).unwrap_or(usize::MAX)];
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let send = |mut stream: TcpStream| -> io::Result<()> {
        loop {
            stream.read_exact(&mut [0; MESSAGE_BYTES])?;
            send_part(&stream, &file, 0..size)?;
        }
    };
    let relay = |mut near: TcpStream, mut far: TcpStream| -> io::Result<()> {
        let (mut message, mut content) = ([0; MESSAGE_BYTES], content());
        loop {
            near.read_exact(&mut message)?;
            far.write_all(&message)?;
            far.read_exact(&mut content)?;
            near.write_all(&content)?;
        }
    };
    let (send, relay) = (&send, &relay);
    thread::scope(|scope| {
        measure(
            "download",
            size,
            connections,
            count,
            |_| {
                let ((reader, near), (far, sender)) = (connected(&listener)?, connected(&listener)?);
                // They end, with whatever error, when their other ends are closed.
                scope.spawn(move || send(sender));
                scope.spawn(move || relay(near, far));
                Ok((reader, content()))
            },
            |(stream, content), _| {
                stream.write_all(&[0; MESSAGE_BYTES])?;
                stream.read_exact(content)
            },
        )
    })
}

/// Sends a part of a file with as few calls as the socket lets it.
fn send_part(stream: &TcpStream, file: &File, mut part: Range<u64>) -> io::Result<()> {
    while part.start < part.end {
        let left = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
        match rustix::fs::sendfile(stream, file, Some(&mut part.start), left) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Both ends of a connection, or each of another one that is made at the same time.
fn connected(listener: &TcpListener) -> io::Result<(TcpStream, TcpStream)> {
    let ends = (TcpStream::connect(listener.local_addr()?)?, listener.accept()?.0);
    for end in [&ends.0, &ends.1] {
        end.set_nodelay(true)?;
        end.set_read_timeout(Some(SILENCE))?;
    }
    Ok(ends)
}

/// Small messages go there and back, one at a time on each connection, with a thread at each end.
pub(crate) fn round_trips(connections: usize, count: u64) -> Result<Row> {
    let failed = |error: io::Error| Failure::Failed(format!("round trips over loopback: {error}"));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    thread::scope(|scope| {
        measure(
            "round trip",
            0,
            connections,
            count,
            |_| {
                let (stream, mut accepted) = connected(&listener)?;
                scope.spawn(move || {
                    let mut message = [0; MESSAGE_BYTES];
                    // Until the other end has enough.
                    while accepted.read_exact(&mut message).is_ok() && accepted.write_all(&message).is_ok() {}
                });
                Ok(stream)
            },
            |stream, _| {
                let mut message = [0; MESSAGE_BYTES];
                stream.write_all(&message)?;
                stream.read_exact(&mut message)
            },
        )
    })
}

#[cfg(test)]
mod tests {
    use tnv_tests::Dir;

    use super::*;

    #[test]
    fn every_limit_is_measured() {
        let dir = Dir::new("limits");
        let place = |name: &str| {
            fs::create_dir(dir.join(name)).expect("make a directory");
            dir.join(name)
        };
        let source = dir.join("source");
        fs::write(&source, vec![7; 300_000]).expect("write a file");
        for sync in [false, true] {
            let row = make_files(&place(&format!("files {sync}")), 100, 8, 1030, sync).expect("files");
            assert_eq!((row.count, row.size_bytes, row.threads), (1030, 100, 8));
            assert_eq!(fs::read_dir(dir.join(&format!("files {sync}/2"))).expect("a directory").count(), 6);
            let row = copies(&source, &place(&format!("copies {sync}")), 3, sync).expect("copies");
            assert_eq!((row.count, row.size_bytes), (3, 300_000));
        }
        assert_eq!(syncs(&place("syncs"), 4096, 2, 5).expect("syncs").count, 5);
        let row = sendfiles(&source, 100_000, 4, 30).expect("sendfile");
        assert_eq!((row.count, row.size_bytes), (30, 100_000));
        assert_eq!(relayed(&source, 4, 30).expect("a relay").count, 30);
        let row = round_trips(4, 100).expect("round trips");
        assert!(row.count == 100 && row.ops_per_s > 0.0 && row.errors == 0, "{row:?}");
    }
}
