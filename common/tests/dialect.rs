//! The message layer knows no protocol: one handler, served in two dialects. The second one is FastDFS's: every
//! reply has command 100, a failure is an errno value as the status, without a body.

mod running;

use std::io::{Read, Write};
use std::net::TcpStream;

use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::fail;
use tnv_common::rpc::dialect::{Dialect, Tnv};
use tnv_common::rpc::receive::Receiver;
use tnv_common::rpc::server::{Handler, Request, RpcServer};

use running::Running;

const STORE: u8 = 11;
const FIND: u8 = 12;
const REFUSE: u8 = 13;

/// What comes before the content of [`STORE`].
const HEAD_BYTES: usize = 4;
const HEADS: &[(u8, usize)] = &[(STORE, HEAD_BYTES)];

struct Errno;

impl Dialect for Errno {
    fn reply_command(&self) -> u8 {
        100
    }

    fn failure(&self, error: &Error) -> (i8, Vec<u8>) {
        let errno = match error.kind() {
            ErrorKind::NotFound => 2,
            ErrorKind::Forbidden => 13,
            _ => 22,
        };
        (errno, Vec::new())
    }

    fn head_bytes(&self, command: u8) -> usize {
        if command == STORE { HEAD_BYTES } else { 0 }
    }
}

struct Files;

/// Adds up the bytes of a content.
struct Sum {
    head: [u8; HEAD_BYTES],
    sum: u64,
}

impl Receiver for Sum {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sum += bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Vec<u8>> {
        Ok([&self.head[..], &self.sum.to_be_bytes()].concat())
    }
}

impl Handler for Files {
    type Conn = ();

    fn handle(&self, request: &mut Request<'_, ()>) -> Result<()> {
        match request.command() {
            STORE => {
                let head = request.head()?;
                request.receive(Sum { head, sum: 0 });
                Ok(())
            }
            FIND => fail!(NotFound, "no such file"),
            REFUSE => fail!(Forbidden, "not yours"),
            _ => Err(request.unknown_command()),
        }
    }
}

fn start(dialect: impl Dialect) -> Running {
    Running::serve(RpcServer::new(Files, dialect, 10), 2, 10)
}

/// Sends a request and reads the whole reply: command, status, body.
fn exchange(stream: &mut TcpStream, command: u8, body: &[u8]) -> (u8, i8, Vec<u8>) {
    let length = (body.len() as u64).to_be_bytes();
    stream.write_all(&[&length[..], &[command, 0], body].concat()).unwrap();
    let mut header = [0; 10];
    stream.read_exact(&mut header).unwrap();
    let [length @ .., command, status] = header;
    let mut body = vec![0; usize::try_from(u64::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut body).unwrap();
    (command, status.cast_signed(), body)
}

/// A content that is longer than what is collected of a message.
fn upload() -> (Vec<u8>, Vec<u8>) {
    let content = vec![1; 1 << 20];
    let reply = [&b"head"[..], &(1_u64 << 20).to_be_bytes()].concat();
    ([&b"head"[..], &content].concat(), reply)
}

#[test]
fn a_service_speaks_the_dialect_that_it_brings_along() {
    let (tnv, fdfs) = (start(Tnv::new(102, "host").with_heads(HEADS)), start(Errno));
    let (mut tnv, mut fdfs) = (tnv.raw(), fdfs.raw());
    let (body, reply) = upload();
    for _ in 0..2 {
        assert_eq!(exchange(&mut tnv, STORE, &body), (102, 0, reply.clone()));
        assert_eq!(exchange(&mut fdfs, STORE, &body), (100, 0, reply.clone()));
        // A failure leaves the framing intact, so that the connection is kept.
        let (command, status, text) = exchange(&mut tnv, FIND, b"");
        assert_eq!((command, status, text.last()), (102, -3, Some(&0)));
        assert_eq!(exchange(&mut fdfs, FIND, b""), (100, 2, Vec::new()));
    }
}

#[test]
fn a_refused_connection_is_closed_in_every_dialect() {
    for (command, status) in [(REFUSE, 13), (99, 22)] {
        let server = start(Errno);
        let mut stream = server.raw();
        assert_eq!(exchange(&mut stream, command, b""), (100, status, Vec::new()));
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "it is closed");
    }
}
