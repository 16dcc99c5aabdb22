//! The server loop and the framing on it, with real sockets: who waits holds no worker, who
//! misbehaves loses only his own connection, and the end is graceful.

mod running;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tnv_common::error::{ErrorKind, Result};
use tnv_common::rpc::client::Conn;
use tnv_common::rpc::dialect::Tnv;
use tnv_common::rpc::server::{Handler, Request, RpcServer};
use tnv_common::{fail, limits};

use running::Running;

const ECHO: u8 = 1;
const SLOW: u8 = 2;
const PANIC: u8 = 3;
const REFUSE: u8 = 4;
const SILENT: u8 = 5;
const LONG: u8 = 6;
const PROMPT: u8 = 7;
const PROMPT_PANIC: u8 = 8;
const HOLD: u8 = 9;
const STEP: u8 = 10;
const PROMPT_STEP: u8 = 11;
const ENDLESS: u8 = 12;

/// How many prompt requests were answered.
static PROMPTS: AtomicU32 = AtomicU32::new(0);

/// How many requests that take a moment were answered.
static STEPS: AtomicUsize = AtomicUsize::new(0);
const REPLY: u8 = 200;

/// More than the socket buffers of a paused reader take.
const LONG_BYTES: u64 = 32 << 20;

/// More than anybody reads.
const ENDLESS_BYTES: u64 = 1 << 40;

/// A file of zeros without a name.
fn tempfile(bytes: u64) -> std::io::Result<std::fs::File> {
    let path = std::env::temp_dir().join(format!(
        "tnv-server-test-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let file = std::fs::File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
    std::fs::remove_file(&path)?;
    file.set_len(bytes)?;
    Ok(file)
}

/// A handler that shows every way a request can end.
struct Sample;

impl Handler for Sample {
    type Conn = u32;
    const PROMPT: &'static [u8] = &[PROMPT, PROMPT_PANIC, PROMPT_STEP];

    fn handle(&self, request: &mut Request<'_, u32>) -> Result<()> {
        *request.conn += 1;
        match request.command() {
            ECHO => {
                let body = request.small(limits::SMALL_BODY_BYTES_MAX)?;
                request.reply(&body);
                Ok(())
            }
            SLOW => {
                std::thread::sleep(Duration::from_millis(500));
                request.reply(b"slow");
                Ok(())
            }
            PROMPT => {
                PROMPTS.fetch_add(1, Ordering::Relaxed);
                request.reply(b"prompt");
                Ok(())
            }
            HOLD => {
                let (begun, prompts) = (Instant::now(), PROMPTS.load(Ordering::Relaxed));
                while PROMPTS.load(Ordering::Relaxed) == prompts {
                    if begun.elapsed() > Duration::from_secs(60) {
                        return fail!(Timeout, "no prompt request came");
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                request.reply(b"released");
                Ok(())
            }
            STEP | PROMPT_STEP => {
                STEPS.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
                request.reply(b"step");
                Ok(())
            }
            PANIC | PROMPT_PANIC => panic!("as asked"),
            REFUSE => fail!(Exists, "refused unread"),
            SILENT => Ok(()),
            command @ (LONG | ENDLESS) => {
                let bytes = if command == LONG { LONG_BYTES } else { ENDLESS_BYTES };
                let file = tempfile(bytes)?;
                let failed = Box::new(|error: &io::Error| io::Error::from(error.kind()).into());
                request.reply_file(&[], file, 0..bytes, failed);
                Ok(())
            }
            _ => Err(request.unknown_command()),
        }
    }
}

fn start(threads: usize, max_conns: usize) -> Running {
    Running::serve(RpcServer::new(Sample, Tnv::new(REPLY, "host"), max_conns), threads, max_conns)
}

fn connect(server: &Running) -> Conn {
    Conn::connect(server.address, None).unwrap()
}

fn echo(conn: &mut Conn) {
    assert_eq!(conn.call(ECHO, b"hello", REPLY, 100).unwrap(), b"hello");
}

#[test]
fn more_connections_than_workers_do_not_stall_the_busy_one() {
    let server = start(2, 1000);
    let mut idle: Vec<Conn> = (0..200).map(|_| connect(&server)).collect();
    let mut busy = connect(&server);
    (0..100).for_each(|_| echo(&mut busy));
    idle.iter_mut().for_each(echo);
}

#[test]
fn what_is_done_at_once_waits_for_no_worker() {
    let server = start(1, 10);
    let (mut held, mut prompt) = (connect(&server), connect(&server));
    held.send(HOLD, &[]).unwrap();
    // It has the only worker until one of these is answered.
    while !held.early_reply() {
        assert_eq!(prompt.call(PROMPT, &[], REPLY, 100).unwrap(), b"prompt");
    }
    assert_eq!(held.reply(REPLY, 100).unwrap(), 8);
    echo(&mut prompt);
}

#[test]
fn prompt_and_other_requests_in_one_piece_are_answered_in_their_order() {
    let server = start(2, 10);
    let mut stream = server.raw();
    let request = |command: u8| [&[0; 8][..], &[command, 0]].concat();
    let commands = [PROMPT, PROMPT, SLOW, PROMPT, ECHO, PROMPT];
    stream.write_all(&commands.map(request).concat()).unwrap();
    let mut replies = vec![0; 6 * 10 + 4 * 6 + 4];
    stream.read_exact(&mut replies).unwrap();
    let mut rest = replies.as_slice();
    for text in ["prompt", "prompt", "slow", "prompt", "", "prompt"] {
        let (reply, after) = rest.split_at(10 + text.len());
        assert_eq!((reply[7], reply[8], &reply[10..]), (text.len() as u8, REPLY, text.as_bytes()));
        rest = after;
    }
    // The rest of a message comes later.
    stream.write_all(&request(PROMPT)[..4]).unwrap();
    std::thread::sleep(Duration::from_millis(20));
    stream.write_all(&request(PROMPT)[4..]).unwrap();
    let mut reply = [0; 16];
    stream.read_exact(&mut reply).unwrap();
    assert!(reply.ends_with(b"prompt"));
}

#[test]
fn a_panic_in_what_is_done_at_once_costs_its_connection() {
    let server = start(1, 10);
    let mut other = connect(&server);
    assert!(connect(&server).call(PROMPT_PANIC, &[], REPLY, 100).is_err());
    echo(&mut other);
    assert_eq!(other.call(PROMPT, &[], REPLY, 100).unwrap(), b"prompt");
}

#[test]
fn a_request_in_single_bytes_is_served() {
    let server = start(2, 10);
    let mut stream = server.raw();
    for byte in b"\0\0\0\0\0\0\0\x02\x01\0hi" {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut reply = [0; 12];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"\0\0\0\0\0\0\0\x02\xC8\0hi");
}

#[test]
fn requests_sent_in_one_go_are_answered_in_order() {
    let server = start(2, 10);
    let mut stream = server.raw();
    stream.write_all(&b"\0\0\0\0\0\0\0\x01\x01\0a".repeat(50)).unwrap();
    let mut replies = [0; 550];
    stream.read_exact(&mut replies).unwrap();
    assert_eq!(replies.to_vec(), b"\0\0\0\0\0\0\0\x01\xC8\0a".repeat(50));
}

/// The story: a worker answered the message behind a message as long as there was one. As many connections that send
/// without a pause as there are workers, and nobody else was served.
#[test]
fn connections_that_send_many_requests_at_once_leave_turns_to_others() {
    const REQUESTS: usize = 200;
    for command in [STEP, PROMPT_STEP] {
        let server = start(1, 10);
        let before = STEPS.load(Ordering::Relaxed);
        let requests = [&[0; 8][..], &[command, 0]].concat().repeat(REQUESTS);
        let mut eager: Vec<TcpStream> = (0..3).map(|_| server.raw()).collect();
        eager.iter_mut().for_each(|stream| stream.write_all(&requests).unwrap());
        let mut other = connect(&server);
        (0..3).for_each(|_| echo(&mut other));
        let steps = STEPS.load(Ordering::Relaxed) - before;
        assert!(steps < REQUESTS, "{steps} requests of others were answered before");
        // They lose nothing by it.
        for mut stream in eager {
            let mut replies = vec![0; 14 * REQUESTS];
            stream.read_exact(&mut replies).unwrap();
            assert!(replies.chunks(14).all(|reply| reply.ends_with(b"step")));
        }
    }
}

/// A reader who takes each piece before the next one is sent never made its worker wait.
#[test]
fn readers_as_fast_as_the_server_leave_turns_to_others() {
    let server = start(1, 10);
    let readers: Vec<TcpStream> = (0..2).map(|_| server.raw()).collect();
    std::thread::scope(|scope| {
        for mut stream in &readers {
            stream.write_all(&[&[0; 8][..], &[ENDLESS, 0]].concat()).unwrap();
            scope.spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                while stream.read(&mut buffer).is_ok_and(|count| count > 0) {}
            });
        }
        let answered = scope.spawn(|| (0..5).for_each(|_| echo(&mut connect(&server)))).join();
        readers.iter().for_each(|stream| drop(stream.shutdown(std::net::Shutdown::Both)));
        answered.unwrap();
    });
}

#[test]
fn a_panic_costs_only_its_own_connection() {
    let server = start(1, 10);
    for _ in 0..3 {
        let mut conn = connect(&server);
        assert!(conn.call(PANIC, b"", REPLY, 0).is_err());
        assert!(!conn.replied());
    }
    echo(&mut connect(&server));
}

#[test]
fn a_refused_request_is_drained_and_its_sender_reads_why() {
    let server = start(2, 10);
    let mut stream = server.raw();
    let size: u64 = 64 << 20;
    stream.write_all(&size.to_be_bytes()).unwrap();
    stream.write_all(&[REFUSE, 0]).unwrap();
    let piece = vec![0; 1 << 20];
    (0..64).for_each(|_| stream.write_all(&piece).unwrap());
    let mut reply = vec![0; 10 + 2 + "[host] refused unread\0".len()];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply[8..12], &[REPLY, 0xFD, 0xFF, 0xEF]);
    assert!(reply.ends_with(b"[host] refused unread\0"));
    // The framing is intact: the connection serves on.
    stream.write_all(b"\0\0\0\0\0\0\0\x02\x01\0hi").unwrap();
    let mut reply = [0; 12];
    stream.read_exact(&mut reply).unwrap();
    assert!(reply.ends_with(b"hi"));
}

#[test]
fn an_endless_refused_request_is_cut() {
    let server = start(2, 10);
    let mut stream = server.raw();
    stream.write_all(&i64::MAX.to_be_bytes()).unwrap();
    stream.write_all(&[REFUSE, 0]).unwrap();
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).unwrap();
    assert!(reply.ends_with(b"refused unread\0"));
}

#[test]
fn bad_framing_is_answered_and_closed() {
    let server = start(2, 10);
    for message in [&[0xFF; 10][..], b"\0\0\0\0\0\0\0\0\x63\0", b"\0\0\0\0\x7F\0\0\0\x01\0"] {
        let mut stream = server.raw();
        stream.write_all(message).unwrap();
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).unwrap();
        assert_eq!(reply[8..10], [REPLY, 0xFD], "{message:?}");
    }
}

#[test]
fn a_handler_that_forgets_to_reply_is_found_out() {
    let server = start(2, 10);
    let error = connect(&server).call(SILENT, b"", REPLY, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
}

#[test]
fn a_connection_over_the_limit_is_told_so() {
    let server = start(2, 3);
    let mut conns: Vec<Conn> = (0..3).map(|_| connect(&server)).collect();
    conns.iter_mut().for_each(echo);
    let mut over = connect(&server);
    let error = over.call(ECHO, b"", REPLY, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    conns.pop();
    let deadline = Instant::now() + Duration::from_secs(10);
    while connect(&server).call(ECHO, b"", REPLY, 0).is_err() {
        assert!(Instant::now() < deadline, "the freed place was never given");
    }
}

#[test]
fn what_is_under_way_is_finished_at_the_stop() {
    let server = start(2, 10);
    let mut conn = connect(&server);
    conn.send(SLOW, b"").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    server.stop.set();
    let mut body = [0; 4];
    assert_eq!(conn.reply(REPLY, 4).unwrap(), 4);
    conn.read_body(&mut body).unwrap();
    assert_eq!(&body, b"slow");
}

/// A connection that asks for the long reply, and has read nothing of it.
fn pause(server: &Running) -> TcpStream {
    let mut stream = server.raw();
    stream.write_all(b"\0\0\0\0\0\0\0\0\x06\0").unwrap();
    stream
}

fn read_long(mut stream: TcpStream) {
    let mut reply = Vec::new();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    stream.read_to_end(&mut reply).unwrap();
    assert_eq!(reply.len() as u64, 10 + LONG_BYTES);
}

#[test]
fn who_pauses_in_a_reply_holds_no_worker_and_gets_the_rest_later() {
    let server = start(1, 100);
    let paused: Vec<TcpStream> = (0..20).map(|_| pause(&server)).collect();
    let begun = Instant::now();
    (0..100).for_each(|_| echo(&mut connect(&server)));
    assert!(begun.elapsed() < limits::MESSAGE_TIMEOUT, "twenty pauses held the one worker");
    paused.into_iter().for_each(read_long);
}

#[test]
fn who_asks_and_does_not_read_holds_no_worker() {
    // Group lists asked for without end, and never read, once took a whole tracker offline.
    let server = start(1, 100);
    let mut deaf: Vec<TcpStream> = (0..10).map(|_| server.raw()).collect();
    let question = [&b"\0\0\0\0\0\0\x0F\x00\x01\0"[..], &[b'x'; 0xF00]].concat();
    for stream in &mut deaf {
        stream.set_nonblocking(true).unwrap();
        while stream.write(&question).is_ok() {}
    }
    let begun = Instant::now();
    (0..100).for_each(|_| echo(&mut connect(&server)));
    assert!(begun.elapsed() < limits::MESSAGE_TIMEOUT);
}

#[test]
fn who_announces_much_and_sends_nothing_holds_no_worker() {
    let server = start(1, 100);
    let mut liars: Vec<TcpStream> = (0..20).map(|_| server.raw()).collect();
    liars.iter_mut().for_each(|stream| stream.write_all(b"\0\0\x01\0\0\0\0\0\x04\0").unwrap());
    let begun = Instant::now();
    (0..100).for_each(|_| echo(&mut connect(&server)));
    assert!(begun.elapsed() < limits::MESSAGE_TIMEOUT);
}

#[test]
fn a_paused_reply_is_under_way_and_finished_at_the_stop() {
    let server = start(1, 100);
    let paused = pause(&server);
    std::thread::sleep(Duration::from_millis(100));
    server.stop.set();
    std::thread::sleep(Duration::from_millis(100));
    read_long(paused);
}

#[test]
fn who_drips_a_message_holds_no_worker_and_is_given_up_after_the_deadline() {
    // The only test that waits for a deadline; it is the one that keeps drips from holding workers.
    let server = start(1, 100);
    let mut half_heads: Vec<TcpStream> = (0..20).map(|_| server.raw()).collect();
    let mut half_bodies: Vec<TcpStream> = (0..20).map(|_| server.raw()).collect();
    half_heads.iter_mut().for_each(|stream| stream.write_all(&[0; 5]).unwrap());
    half_bodies.iter_mut().for_each(|stream| stream.write_all(b"\0\0\0\0\0\0\0\x09\x01\0half").unwrap());
    let begun = Instant::now();
    (0..100).for_each(|_| echo(&mut connect(&server)));
    assert!(begun.elapsed() < limits::MESSAGE_TIMEOUT, "forty drips held the one worker");
    for stream in half_heads.iter_mut().chain(&mut half_bodies) {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty());
    }
    echo(&mut connect(&server));
}
