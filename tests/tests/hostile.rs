//! A robot of hostile clients against the real servers: what strangers may send kills nothing, stays
//! within bounded memory, keeps no honest client from being served, and forges no line of a log. What it
//! does is decided by `TNV_SEED`, for how long by `TNV_HOSTILE_SECONDS`.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tnv_tests::fuzz::Random;
use tnv_tests::http::{self, Http};
use tnv_tests::process::{Process, status_kib};
use tnv_tests::raw::{self, Raw};
use tnv_tests::tools::{heavy, knob, more_descriptors, this_test};
use tnv_tests::{Builder, Cluster, PATIENCE, patient, sample, skipped};

/// No server may ever have more resident.
const RESIDENT_MIB_MAX: u64 = 256;

/// How long a hostile client waits for whatever the server says to it.
const HOSTILE_PATIENCE: Duration = Duration::from_secs(1);

/// What a name may hold that would begin a line, move a cursor, or turn the text round.
const FORGERY: &str = "x\n2026-01-01T00:00:00.000Z ERROR [main] [-] FORGED\r\u{1b}[2J\u{7f}\u{85}\u{9b}2J\u{2028}\u{2029}\u{202e}\u{2066}";

/// What follows a head that ends its connection: it must never be answered.
const SMUGGLED: &str = "GET /files/SMUGGLED HTTP/1.1\r\nHost: h\r\n\r\n";

fn addresses(cluster: &Cluster) -> [SocketAddr; 4] {
    [cluster.tracker(), cluster.id(), cluster.storage(), cluster.httpd()]
}

/// The reply commands of the three that speak the native protocol.
const REPLIES: [u8; 3] = [100, 101, 102];

/// Connects from one of many addresses of this host, so that the ports of none of them run out. A
/// server that is busy may drop the first packet, which the kernel sends again after a second: on a
/// loaded machine one of ten thousand connections was given up in that time.
fn dial(random: &mut Random, address: SocketAddr) -> io::Result<TcpStream> {
    let from = [127, 0, 1 + random.below(200) as u8, 1 + random.below(250) as u8];
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((from, 0)).into())?;
    // Nothing that this end does not read is taken off the server's hands.
    socket.set_recv_buffer_size(1)?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(HOSTILE_PATIENCE))?;
    stream.set_write_timeout(Some(HOSTILE_PATIENCE))?;
    Ok(stream)
}

/// Reads until the server closes or says nothing for a while, at most 1 MiB.
fn hear(stream: &mut TcpStream) -> Vec<u8> {
    let mut heard = Vec::new();
    let _ = stream.take(1 << 20).read_to_end(&mut heard);
    heard
}

/// Closes with a reset.
fn reset(stream: TcpStream) {
    let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
}

/// Bytes that mean nothing, up to 64 KiB.
fn garbage(random: &mut Random) -> Vec<u8> {
    let bytes = 1 << random.below(17);
    random.bytes(bytes)
}

/// A message that is wrong in one way or another.
fn native_message(random: &mut Random) -> Vec<u8> {
    const COMMANDS: [u8; 15] = [10, 11, 12, 13, 40, 70, 71, 72, 73, 120, 121, 122, 123, 124, 125];
    let command = match random.below(3) {
        0 => random.number() as u8,
        _ => *random.pick(&COMMANDS),
    };
    let width = *random.pick(&[0, 1, 65, 146, 171, 400, 408, 416, 432, 4096]);
    match random.below(9) {
        0 => raw::head(command, -1 - random.below(1000) as i64),
        1 => [raw::head(command, i64::MAX), random.bytes(4096)].concat(),
        2 => [raw::head(command, i64::MIN), random.bytes(100)].concat(),
        // Shorter and longer than it says.
        3 => [raw::head(command, 400), random.bytes(100)].concat(),
        4 => [raw::head(command, 10), random.bytes(5000)].concat(),
        // No field has its NUL.
        5 => raw::message(command, &vec![b'a'; width]),
        6 => raw::message(command, &random.bytes(width)),
        7 => garbage(random),
        _ => {
            let name = &FORGERY[..*random.pick(&[1, 2, 60])];
            raw::message(command, &raw::triple("tnvideo", name, &format!("{}{name}", random.number())))
        }
    }
}

/// One attack on a server of the native protocol. What is given back is held open for a while.
fn attack_native(random: &mut Random, address: SocketAddr) -> io::Result<Option<TcpStream>> {
    let mut stream = dial(random, address)?;
    match random.below(9) {
        0 => {}
        1 => {
            stream.write_all(&native_message(random))?;
            stream.shutdown(Shutdown::Write)?;
            hear(&mut stream);
            return Ok(None);
        }
        2 => {
            stream.shutdown(Shutdown::Read)?;
            for _ in 0..50 {
                stream.write_all(&raw::filesize("tnvideo", "tnv001", "nothing"))?;
            }
        }
        // Requests by the hundred, and nobody reads the answers.
        3 => {
            stream.set_write_timeout(Some(Duration::from_millis(200)))?;
            stream.write_all(&raw::filesize("tnvideo", "tnv001", "nothing").repeat(500))?;
            stream.write_all(&raw::message(13, &[]).repeat(500))?;
        }
        // An upload that ends in the middle.
        4 => {
            let size = *random.pick(&[1 << 20, 1 << 30, 1 << 40, i64::MAX - 408]);
            let id = format!("broken{}", random.number());
            stream.write_all(&raw::head(70, 408_i64.wrapping_add(size)))?;
            stream.write_all(&raw::upload_head("tnvideo", "tnv001", &id, size))?;
            stream.write_all(&garbage(random))?;
            reset(stream);
            return Ok(None);
        }
        5 => {
            stream.write_all(&native_message(random))?;
            reset(stream);
            return Ok(None);
        }
        // A storage that nobody knows, and that never beats.
        6 => {
            let (host, port) = (format!("stranger{}", random.below(100)), 1 + random.below(60_000) as u16);
            stream
                .write_all(&raw::message(10, &raw::join("group001", &host, port, random.number() as i64)))?;
        }
        // A download that nobody takes.
        7 => stream.write_all(&raw::download("tnvideo", "tnv001", "large", 0, 0))?,
        _ => stream.write_all(&native_message(random))?,
    }
    Ok(Some(stream))
}

/// Heads that RFC 9112 has a server refuse, or whose body leaves it nothing but to close: the status,
/// 0 standing for any refusal. None of what follows them is a request.
fn closing_heads() -> Vec<(u16, String)> {
    let get = |lines: &str| format!("GET /files/f HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
    let post = |lines: &str| format!("POST /files/f HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
    let mut heads = vec![
        (400, get("Content-Length: 5\r\nContent-Length: 6\r\n")),
        (400, get("Content-Length: 5, 6\r\n")),
        (400, get("Content-Length: +5\r\n")),
        (400, get("Content-Length: 0x5\r\n")),
        (400, get("Content-Length: 5 5\r\n")),
        (400, get("Content-Length:\r\n")),
        (400, get("Content-Length: -5\r\n")),
        (400, get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n")),
        (400, get("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n")),
        (400, get("Transfer-Encoding: chunked, identity\r\n")),
        (400, get("Transfer-Encoding: xchunked\r\n")),
        (400, get("Transfer-Encoding: \"chunked\"\r\n")),
        (400, get("Transfer-Encoding: \u{b}chunked\r\n")),
        (400, get("Transfer-Encoding : chunked\r\n")),
        (400, get("Transfer-Encoding\r\n : chunked\r\n")),
        (400, get("X: y\r\n folded\r\n")),
        (400, get("X: y\nContent-Length: 9\r\n")),
        (400, get("X: y\rContent-Length: 9\r\n")),
        (400, get("X: a\0b\r\n")),
        (400, get(": no name\r\n")),
        (400, get("no colon\r\n")),
        (400, get("Host: i\r\n")),
        (400, "GET /files/f HTTP/1.1\nHost: h\n\n".to_owned()),
        (400, "GET /files/f HTTP/1.1\r\nHost: h\n\r\n".to_owned()),
        (400, "GET /files/f HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET /files/f\r\n".to_owned()),
        (400, "GET /files/f http/1.1\r\nHost: h\r\n\r\n".to_owned()),
        (400, "GET\t/files/f\tHTTP/1.1\r\nHost: h\r\n\r\n".to_owned()),
        (400, " GET /files/f HTTP/1.1\r\nHost: h\r\n\r\n".to_owned()),
        (400, "GET /files/f HTTP/1.1 \r\nHost: h\r\n\r\n".to_owned()),
        (400, "GET /files/\0 HTTP/1.1\r\nHost: h\r\n\r\n".to_owned()),
        (0, "GET /files/f HTTP/0.9\r\nHost: h\r\n\r\n".to_owned()),
        (505, "GET /files/f HTTP/1.2\r\nHost: h\r\n\r\n".to_owned()),
        (505, "GET /files/f HTTP/2.0\r\nHost: h\r\n\r\n".to_owned()),
        (0, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        (0, "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\r\n\r\n".to_owned()),
        // Well-formed, but with a body: what follows belongs to it, or to nobody.
        (200, get("Content-Length: 41\r\n")),
        (200, get("Content-Length: 41\r\nContent-Length: 41\r\n")),
        (200, get("Transfer-Encoding: chunked\r\n") + "0\r\n\r\n"),
        (200, get("Transfer-Encoding: gzip, chunked\r\n")),
        (405, post("Content-Length: 1000000000000000\r\n")),
        (405, post("Content-Length: 99999999999999999999999999\r\n")),
        (405, post("Expect: 100-continue\r\nContent-Length: 5\r\n")),
        (405, post("Transfer-Encoding: chunked\r\n") + "5\r\nhello\r\n0\r\n\r\n"),
        (405, post("Transfer-Encoding: chunked\r\n") + "FFFFFFFFFFFFFFFFF\r\n"),
        // Too long.
        (431, get(&format!("X: {}\r\n", "x".repeat(30_000)))),
        (431, get(&"X: y\r\n".repeat(1000))),
        (414, format!("GET /files/{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(10_000))),
    ];
    // A method that no one has, with and without the end of its line.
    heads
        .push((405, format!("{} /files/f HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "M".repeat(99))));
    heads
}

/// One attack on the HTTP server. What is given back is held open for a while.
fn attack_http(random: &mut Random, address: SocketAddr) -> io::Result<Option<TcpStream>> {
    let mut stream = dial(random, address)?;
    let get = |target: &str, lines: &str| format!("GET {target} HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
    match random.below(12) {
        0 => {}
        1 => {
            let heads = closing_heads();
            stream.write_all((random.pick(&heads).1.clone() + SMUGGLED).as_bytes())?;
            hear(&mut stream);
            return Ok(None);
        }
        // A header line without end.
        2 => {
            stream.write_all(b"GET /files/f HTTP/1.1\r\nHost: h\r\nX: ")?;
            let piece = vec![b'x'; 64 << 10];
            let _ = (0..64).try_for_each(|_| stream.write_all(&piece));
        }
        3 => {
            let lines: String = (0..1000).map(|index| format!("H{index}: v\r\n")).collect();
            stream.write_all(get("/files/f", &lines).as_bytes())?;
        }
        4 => {
            stream.set_write_timeout(Some(Duration::from_millis(200)))?;
            stream.write_all(get("/files/f", "").repeat(500).as_bytes())?;
        }
        5 => {
            let ranges: Vec<String> = (0..300).map(|_| format!("{}-", random.below(1 << 20))).collect();
            let lines = format!("Range: bytes={}\r\n", ranges.join(","));
            stream.write_all(get("/files/large", &lines).as_bytes())?;
        }
        6 => {
            let ranges: Vec<String> =
                (0..16).map(|at| format!("{}-{}", at << 18, (at << 18) + 99_999)).collect();
            let lines = format!("Range: bytes={}\r\n", ranges.join(","));
            stream.write_all(get("/files/large", &lines).as_bytes())?;
        }
        7 => {
            let target = *random.pick(&[
                "/files/../../etc/passwd",
                "/files/..%2f..%2fetc%2fpasswd",
                "/files/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
                "/files/f%00.mp4",
                "/files/f/%0d%0aSet-Cookie:%20x=1.mp4",
                "/files/tnvideo/%0a%1b%5b2J/%e2%80%ae",
                "/files/%ff%fe",
                "http://evil/files/f",
                "//evil/files/f",
                "/files/f/..\\..\\x",
            ]);
            stream.write_all(get(target, "").as_bytes())?;
            let heard = String::from_utf8_lossy(&hear(&mut stream)).into_owned();
            assert!(!heard.contains("root:") && !heard.contains("\nSet-Cookie"), "{target}: {heard}");
            return Ok(None);
        }
        // Downloads that nobody takes, and half-closed ones.
        8 => stream.write_all(get("/files/large", "").as_bytes())?,
        9 => {
            stream.write_all(get("/files/large", "").as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
        }
        10 => {
            stream.write_all(&garbage(random))?;
            reset(stream);
            return Ok(None);
        }
        _ => {
            stream.write_all(
                b"POST /files/f HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000000000\r\n\r\n",
            )?;
            let piece = vec![b'x'; 64 << 10];
            let _ = (0..16).try_for_each(|_| stream.write_all(&piece));
        }
    }
    Ok(Some(stream))
}

/// Attacks all four servers, one attack after another, until told to stop.
fn attack(seed: u64, addresses: [SocketAddr; 4], stop: &AtomicBool, attacks: &AtomicU64) {
    /// Connections that one attacker leaves open.
    const HELD_MAX: usize = 150;
    let mut random = Random::new(seed);
    let mut held = VecDeque::new();
    while !stop.load(Ordering::Relaxed) {
        let at = random.below(addresses.len());
        let attacked = match at {
            3 => attack_http(&mut random, addresses[at]),
            _ => attack_native(&mut random, addresses[at]),
        };
        attacks.fetch_add(1, Ordering::Relaxed);
        // That a server closes on an attacker is its right.
        held.extend(attacked.ok().flatten());
        if held.len() > HELD_MAX {
            held.pop_front();
        }
        // The attackers are elsewhere: their own use of this machine's processors is no attack.
        thread::sleep(Duration::from_millis(2));
    }
}

/// A byte a second to each server, on many connections.
fn drip(seed: u64, addresses: [SocketAddr; 4], stop: &AtomicBool) {
    let mut random = Random::new(seed);
    let texts = [
        raw::addresses("tnvideo", "tnv001"),
        raw::get_id(&"k".repeat(60)),
        raw::upload("tnvideo", "tnv001", "drip", &[0; 1000]),
        format!("GET /files/{} HTTP/1.1\r\n", "x".repeat(1000)).into_bytes(),
    ];
    let mut dripping = Vec::new();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        for (at, address) in addresses.into_iter().enumerate() {
            dripping.extend((0..5).filter_map(|_| Some((dial(&mut random, address).ok()?, at, round))));
        }
        dripping.retain_mut(|(stream, at, since)| {
            texts[*at].get(round - *since).is_some_and(|byte| stream.write_all(&[*byte]).is_ok())
        });
        thread::sleep(Duration::from_secs(1));
    }
}

/// Honest clients in a process of their own.
struct Honest(Child);

impl Honest {
    fn start(cluster: &Cluster, tag: &str) -> Honest {
        let mut command = Command::new(env!("CARGO_BIN_EXE_honest_client"));
        command.arg(tag).args(addresses(cluster).map(|address| address.to_string()));
        Honest(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start honest clients"))
    }

    /// Whether one of them has failed.
    fn failed(&mut self) -> bool {
        self.0.try_wait().expect("look at honest clients").is_some()
    }

    /// How long the requests to each server took. Each must have succeeded.
    fn end(mut self) -> [Vec<Duration>; 4] {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().expect("wait for honest clients");
        assert!(output.status.success(), "an honest client was not served: {}", output.status);
        let text = String::from_utf8(output.stdout).expect("figures");
        let micros = |word: &str| Duration::from_micros(word.parse().expect("a figure"));
        let took: Vec<_> = text.lines().map(|line| line.split(' ').map(micros).collect()).collect();
        took.try_into().expect("a line for each server")
    }
}

/// So many connections to each server that hold a part of a message, a new one for each that is given up; returns
/// the most that there were at a time.
fn hold_parts(seed: u64, addresses: [SocketAddr; 4], each: usize, stop: &AtomicBool) -> usize {
    let mut random = Random::new(seed);
    let texts = [
        raw::addresses("tnvideo", "tnv001"),
        raw::get_id(&"k".repeat(60)),
        raw::filesize("tnvideo", "tnv001", "x"),
        b"GET /files/x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec(),
    ];
    let mut held: Vec<(usize, Instant, TcpStream)> = Vec::new();
    let mut most = 0;
    while !stop.load(Ordering::Relaxed) {
        // A server gives them up after ten seconds.
        held.retain(|(_, since, _)| since.elapsed() < Duration::from_secs(9));
        for at in 0..addresses.len() {
            let missing = each - held.iter().filter(|(of, ..)| *of == at).count();
            for _ in 0..missing {
                let Ok(mut stream) = dial(&mut random, addresses[at]) else { continue };
                let part = 1 + random.below(texts[at].len() - 1);
                if stream.write_all(&texts[at][..part]).is_ok() {
                    held.push((at, Instant::now(), stream));
                }
                most = held.len().max(most);
                if stop.load(Ordering::Relaxed) {
                    return most;
                }
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
    most
}

fn median(latencies: &mut [Duration]) -> Duration {
    latencies.sort_unstable();
    latencies.get(latencies.len() / 2).copied().unwrap_or_default()
}

/// Watches the memory of servers until told to stop; tells the most that each had.
fn watch(pids: [u32; 4], stop: &AtomicBool) -> [u64; 4] {
    let mut most = [0; 4];
    while !stop.load(Ordering::Relaxed) {
        for (pid, most) in pids.iter().zip(&mut most) {
            *most = status_kib(*pid, "VmRSS:").unwrap_or(0).max(*most);
        }
        thread::sleep(Duration::from_millis(20));
    }
    most
}

fn pids(cluster: &mut Cluster) -> [u32; 4] {
    let pids: Vec<u32> = cluster.parts().map(|part| part.pid()).collect();
    pids.try_into().expect("four servers")
}

/// Each line has the form of the log's, and nothing in it that would break or rearrange it.
fn assert_lines(part: &Process) {
    let log = part.log();
    assert!(log.ends_with('\n'), "the log of {} ends within a line", part.binary());
    for line in log.lines() {
        let (time, rest) = line.split_once(' ').unwrap_or_else(|| panic!("no time: {line:?}"));
        let digits = |text: &str| text.bytes().filter(u8::is_ascii_digit).count();
        assert!(time.len() == 24 && digits(time) == 17 && time.ends_with('Z'), "no time: {line:?}");
        let (level, rest) = rest.split_at_checked(6).unwrap_or_else(|| panic!("no level: {line:?}"));
        let levels = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
        assert!(levels.contains(&level.trim_end()) && rest.starts_with('['), "no level: {line:?}");
        assert_eq!(rest.split_once("] [").map(|(_, rest)| rest.contains("] ")), Some(true), "{line:?}");
        let harmful =
            |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
        assert!(!line.contains(harmful), "{}: {line:?}", part.binary());
        assert!(!rest.starts_with("[main] [-] FORGED"), "{line:?}");
    }
}

/// What is asserted of a deployment after strangers had their way with it.
fn assert_unharmed(cluster: &mut Cluster, before: [u32; 4]) {
    assert_eq!(pids(cluster), before);
    assert!(cluster.parts().all(|part| part.runs()), "a server died");
    let id = cluster.upload("tnvideo", "tnv001", b"served in the end");
    assert_eq!(http::get(cluster.httpd(), &format!("/files/{id}"), &[]).body, b"served in the end");
    raw::ask(cluster.id(), &raw::get_id("k")).success(101);
    cluster.assert_peaks_below(RESIDENT_MIB_MAX);
    cluster.parts().for_each(|part| assert_lines(part));
}

#[test]
fn strangers_kill_nothing_take_little_and_keep_nobody_from_being_served() {
    const ATTACKERS: u64 = 16;
    /// Connections to each server that hold a part of a message.
    const PARTS: usize = 1000;
    let _heavy = heavy();
    more_descriptors();
    let mut cluster = Builder::new("hostile").httpds(1).start();
    cluster.put("tnv001", "f", b"content");
    cluster.put("tnv001", "large", &sample(8 << 20, 1));
    let (addresses, before) = (addresses(&cluster), pids(&mut cluster));
    let seconds = Duration::from_secs(knob("TNV_HOSTILE_SECONDS", 30));
    let seed = knob("TNV_SEED", 1);
    let honest = Honest::start(&cluster, "quiet");
    thread::sleep(seconds / 4);
    let quiet = honest.end();
    let (stop, attacks) = (AtomicBool::new(false), AtomicU64::new(0));
    let (beside, most) = thread::scope(|scope| {
        let (stop, attacks) = (&stop, &attacks);
        for attacker in 0..ATTACKERS {
            scope.spawn(move || attack(seed * 1000 + attacker, addresses, stop, attacks));
        }
        scope.spawn(move || drip(seed, addresses, stop));
        let parts = scope.spawn(move || hold_parts(seed, addresses, PARTS, stop));
        let watcher = scope.spawn(move || watch(before, stop));
        let mut honest = Honest::start(&cluster, "beside");
        let start = Instant::now();
        // Should an honest client fail, all of this ends at once.
        while start.elapsed() < seconds && !honest.failed() {
            thread::sleep(Duration::from_millis(50));
        }
        stop.store(true, Ordering::Relaxed);
        println!("{} connections held a part of a message", parts.join().expect("parts of messages"));
        (honest.end(), watcher.join().expect("the watcher"))
    });
    println!("{} attacks in {seconds:?}", attacks.into_inner());
    let strict = knob("TNV_HOSTILE_STRICT", 0) > 0;
    for ((part, mut quiet), (mut beside, kib)) in ["tracker", "ID server", "storage", "HTTP server"]
        .into_iter()
        .zip(quiet)
        .zip(beside.into_iter().zip(most))
    {
        let (calm, attacked) = (median(&mut quiet), median(&mut beside));
        let ratio = attacked.as_secs_f64() / calm.as_secs_f64();
        println!(
            "{part}: median {calm:?} of {}, beside the attack {attacked:?} of {}, ratio {ratio:.2}, slowest {:?}, \
             most resident {:.1} MiB",
            quiet.len(),
            beside.len(),
            beside.last(),
            kib as f64 / 1024.0
        );
        assert!(beside.len() > 10, "{part}: {} honest requests", beside.len());
        assert!(!strict || ratio <= 3.0, "{part}: {ratio:.2} times as long beside the attack");
        let slowest = beside.last().copied().unwrap_or_default();
        assert!(!strict || slowest <= Duration::from_secs(1), "{part}: one request took {slowest:?}");
        assert!(kib < RESIDENT_MIB_MAX << 10, "{part} had {kib} KiB resident");
    }
    assert_unharmed(&mut cluster, before);
    // Nothing of the uploads that ended in the middle stays: there are f, large, and the last one.
    patient("no file of a broken upload", PATIENCE, || cluster.content_files("group001").len() == 3);
    assert_eq!(cluster.file_rows(), 3);
}

#[test]
fn every_command_to_every_server_is_answered_or_refused() {
    let mut cluster = Builder::new("commands").httpds(1).start();
    let before = pids(&mut cluster);
    let mut random = Random::new(knob("TNV_SEED", 1));
    for (address, reply) in addresses(&cluster).into_iter().zip(REPLIES) {
        for command in 0..=u8::MAX {
            for width in [0, 1 + random.below(500), 400, 4096] {
                let mut raw = Raw::connect(address);
                let _ = raw.try_send(&raw::message(command, &random.bytes(width)));
                let Ok(Some(frame)) = raw.try_frame() else { continue };
                match frame.status {
                    0 => println!("{reply}: {command} with {width} bytes is answered"),
                    _ => drop(frame.failure(reply)),
                }
            }
        }
    }
    assert_unharmed(&mut cluster, before);
}

/// Each head is followed by a request of its own. Were the server to see another end of the head or of its
/// body than some proxy before it, that request would be a stranger's in somebody else's name.
#[test]
fn nothing_is_smuggled_past_the_gate() {
    let mut cluster = Builder::new("smuggled").httpds(1).start();
    cluster.put("tnv001", "f", b"content");
    let before = pids(&mut cluster);
    let mut random = Random::new(1);
    for (want, head) in closing_heads() {
        let mut stream = dial(&mut random, cluster.httpd()).expect("connect");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let _ = stream.write_all((head.clone() + SMUGGLED).as_bytes());
        let mut heard = Vec::new();
        // A reset after the answer is an end as well.
        let _ = stream.read_to_end(&mut heard);
        let heard = String::from_utf8_lossy(&heard);
        let shown: String = head.chars().take(200).collect();
        assert!(is_one_answer(&heard), "{shown:?} was answered with {heard:?}");
        let status: u16 = heard[9..12].parse().expect("a status");
        assert!(status == want || (want == 0 && matches!(status, 400 | 505)), "{shown:?}: {status}");
        assert!(heard.contains("Connection: close\r\n"), "{shown:?}: {heard:?}");
    }
    let log = cluster.httpds[0].log();
    assert!(!log.contains("GET /files/SMUGGLED"), "it was taken for a request");
    assert_unharmed(&mut cluster, before);
}

/// Whether it is one answer with its body, and nothing behind it.
fn is_one_answer(heard: &str) -> bool {
    let Some((head, body)) = heard.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    head.starts_with("HTTP/1.1 ") && length == Some(&body.len().to_string())
}

#[test]
fn no_name_forges_a_line_of_a_log() {
    let mut cluster = Builder::new("forged").httpds(1).env("RUST_LOG", "debug").start();
    cluster.put("tnv001", "f", b"content");
    let before = pids(&mut cluster);
    let [tracker, id, storage, httpd] = addresses(&cluster);
    let whole = |command: u8, body: &[u8], address: SocketAddr| {
        let mut raw = Raw::connect(address);
        let _ = raw.try_send(&raw::message(command, body));
        raw.try_frame()
    };
    for at in 0..FORGERY.len() {
        let Some(name) = FORGERY.get(at..) else { continue };
        let short = name.get(..name.floor_char_boundary(15)).unwrap_or_default();
        for (appid, userid, fileid) in
            [(short, "tnv001", "f"), ("tnvideo", name, "f"), ("tnvideo", "tnv001", name)]
        {
            let file = raw::triple(appid, userid, fileid);
            for command in [12, 122] {
                let _ = whole(command, &file, tracker);
            }
            for command in [71, 73, 120] {
                let _ = whole(command, &file, storage);
            }
            let _ = whole(72, &[file.as_slice(), &[0xFF; 16]].concat(), storage);
            let _ = whole(70, &[file.as_slice(), &5_i64.to_be_bytes(), b"hello"].concat(), storage);
        }
        let _ = whole(10, &raw::join(short, name, 23000, 0), tracker);
        let _ = whole(10, &raw::join("group001", name, 23000, 0), tracker);
        let _ = whole(11, &raw::beat("group001", name), tracker);
        let _ = whole(40, &[&name.as_bytes()[..name.len().min(64)], &[0]].concat(), id);
        let escaped: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for (target, header) in [
            (format!("/files/{escaped}"), "v"),
            (format!("/files/tnvideo/{escaped}/f/{escaped}?{escaped}"), "v"),
            (format!("/files/{}", name.replace(char::is_whitespace, "")), "v"),
            ("/files/f".to_owned(), name),
        ] {
            let mut stream = TcpStream::connect(httpd).expect("connect");
            stream.set_read_timeout(Some(HOSTILE_PATIENCE)).expect("a timeout");
            let lines = format!("Host: h\r\nRange: {header}\r\nIf-Match: {header}\r\nConnection: close\r\n");
            let _ = stream.write_all(format!("GET {target} HTTP/1.1\r\n{lines}\r\n").as_bytes());
            hear(&mut stream);
        }
    }
    // The names were there, as what they are: a part of a line.
    for part in [&cluster.trackers[0], &cluster.ids[0], &cluster.storages[0]] {
        assert!(part.log().contains("FORGED"), "no line of {} has what was asked", part.binary());
    }
    assert!(cluster.httpds[0].log().contains("%46%4f%52%47%45%44"), "no line of what was asked");
    assert_unharmed(&mut cluster, before);
}

/// To each server in turn.
#[test]
fn ten_thousand_idle_connections_are_no_burden_to_64_busy_ones() {
    const IDLE: usize = 10_000;
    const BUSY: usize = 64;
    let _heavy = heavy();
    if more_descriptors() < IDLE + 1000 {
        return skipped(&this_test(), "the limit of open files (ulimit -Hn) is too low");
    }
    let mut cluster = Builder::new("idle").httpds(1).start();
    cluster.put("tnv001", "f", b"content");
    let before = pids(&mut cluster);
    let rounds = knob("TNV_HOSTILE_SECONDS", 30) as usize;
    for (at, address) in addresses(&cluster).into_iter().enumerate() {
        let took = |rounds: usize| {
            let all = Mutex::new(Vec::new());
            thread::scope(|scope| {
                for _ in 0..BUSY {
                    scope.spawn(|| {
                        let took = busy(at, address, rounds);
                        all.lock().expect("the latencies").extend(took);
                    });
                }
            });
            median(&mut all.into_inner().expect("the latencies"))
        };
        let quiet = took(rounds);
        let mut random = Random::new(1);
        let idle: Vec<TcpStream> =
            (0..IDLE).map(|_| dial(&mut random, address).expect("one more connection")).collect();
        patient("all of them are accepted", PATIENCE, || open_files(before[at]) > IDLE);
        let beside = took(rounds);
        println!(
            "server {at}: median of {BUSY} busy ones {quiet:?}, beside {IDLE} idle ones {beside:?}; {} MiB resident",
            status_kib(before[at], "VmRSS:").unwrap_or(0) >> 10
        );
        assert!(open_files(before[at]) > IDLE, "the idle ones had to go");
        drop(idle);
    }
    assert_unharmed(&mut cluster, before);
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the descriptors of a server").count()
}

/// One busy client of a server; how long each of its requests took.
fn busy(at: usize, address: SocketAddr, rounds: usize) -> Vec<Duration> {
    let request = [
        raw::addresses("tnvideo", "tnv001"),
        raw::get_id("k"),
        raw::download("tnvideo", "tnv001", "f", 0, 0),
    ];
    let timed = |ask: &mut dyn FnMut()| {
        let start = Instant::now();
        ask();
        start.elapsed()
    };
    match at {
        3 => {
            let mut conn = Http::connect(address);
            let mut ask = || assert_eq!(conn.ask("GET", "/files/f", &[]).body, b"content");
            (0..rounds).map(|_| timed(&mut ask)).collect()
        }
        _ => {
            let mut raw = Raw::connect(address);
            let mut ask = || drop(raw.ask(&request[at]).success(REPLIES[at]));
            (0..rounds).map(|_| timed(&mut ask)).collect()
        }
    }
}

/// The story: each connection may hold a head that is not whole, and each viewer who paused held what was not
/// taken of a small answer. Ten thousand of the latter had 521 MiB resident.
#[test]
fn ten_thousand_who_wait_in_the_middle_take_little_memory_of_the_http_server() {
    const CROWD: usize = 10_000;
    let _heavy = heavy();
    if more_descriptors() < CROWD + 1000 {
        return skipped(&this_test(), "the limit of open files (ulimit -Hn) is too low");
    }
    let mut cluster = Builder::new("crowd").httpds(1).start();
    cluster.put("tnv001", "f", b"content");
    cluster.put("tnv001", "small", &sample(120 << 10, 1));
    cluster.put("tnv001", "large", &sample(8 << 20, 1));
    let before = pids(&mut cluster);
    let part_of_head = format!("GET /files/f HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(24_000));
    let whole = "GET /files/small HTTP/1.1\r\nHost: h\r\n\r\n".to_owned();
    // An answer of several ranges has the most to be remembered of it.
    let ranges =
        "GET /files/large HTTP/1.1\r\nHost: h\r\nRange: bytes=0-4000000,5000000-6000000\r\n\r\n".to_owned();
    for request in [part_of_head, ranges, whole] {
        let mut random = Random::new(1);
        let mut crowd = Vec::new();
        for _ in 0..CROWD {
            let Ok(mut stream) = dial(&mut random, cluster.httpd()) else { continue };
            // Whoever is refused beside these is refused.
            if stream.write_all(request.as_bytes()).is_ok() {
                crowd.push(stream);
            }
        }
        println!("{} connections, {} MiB resident", crowd.len(), cluster.httpds[0].peak_kib() >> 10);
        assert_eq!(http::get(cluster.httpd(), "/files/f", &[]).body, b"content");
        assert_eq!(http::get(cluster.httpd(), "/files/small", &[]).body.len(), 120 << 10);
    }
    assert_unharmed(&mut cluster, before);
}

/// The story: the content of an upload is read by a worker into a buffer of 256 KiB, and there may be a
/// thousand workers: 262 MiB were resident.
#[test]
fn a_thousand_uploads_that_stall_take_little_memory_of_a_storage() {
    const CROWD: usize = 1024;
    let _heavy = heavy();
    if more_descriptors() < CROWD + 1000 {
        return skipped(&this_test(), "the limit of open files (ulimit -Hn) is too low");
    }
    let mut cluster = Builder::new("stalled").httpds(1).start();
    cluster.put("tnv001", "f", b"content");
    let before = pids(&mut cluster);
    let (size, part) = (1 << 19, sample(260 << 10, 1));
    let mut crowd = Vec::new();
    for upload in 0..CROWD {
        let mut raw = Raw::connect(cluster.storage());
        raw.send(&raw::head(70, 408 + size));
        raw.send(&raw::upload_head("tnvideo", "tnv001", &format!("stalled{upload}"), size));
        raw.send(&part);
        crowd.push(raw);
    }
    let began = |cluster: &Cluster| cluster.content_files("group001").len() - 1;
    patient("most of them are begun", PATIENCE, || began(&cluster) > CROWD - 100);
    println!("{} uploads, {} MiB resident", began(&cluster), cluster.storages[0].peak_kib() >> 10);
    drop(crowd);
    patient("no file of a broken upload", PATIENCE, || began(&cluster) == 0);
    assert_unharmed(&mut cluster, before);
}
