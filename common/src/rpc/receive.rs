//! The content of a request on its way in. What takes it waits in the connection's state while the sender pauses:
//! it holds no worker and no buffer then.

use std::io;
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::TURN_BYTES;
use crate::net::Stream;
use crate::net::buffer_pool::BufferPool;
use crate::rpc::header::Header;
use crate::rpc::pace::{Pace, PaceLimits};
use crate::rpc::reply::Reply;

/// Takes content as it comes. Dropped before [`Receiver::finish`] it undoes what it has done.
pub trait Receiver: Send {
    /// The next bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// All of it has come; returns the body of the reply.
    fn finish(self: Box<Self>) -> Result<Vec<u8>>;
}

/// A content that is being received.
pub struct Receiving {
    header: Header,
    /// Taken when all of it has come, or it failed.
    receiver: Option<Box<dyn Receiver>>,
    /// What came with the head and is still to be written.
    collected: Vec<u8>,
    /// What is still to be written, of it what was collected.
    left: u64,
    pace: Pace,
}

/// What came of it.
pub enum Received {
    /// All was taken, and this is the reply; or it failed.
    All(Result<Reply>),
    /// There is more to come.
    Part,
    /// The sender has used up its time.
    TooSlow,
    /// The sender has gone.
    Gone(io::Error),
}

impl Receiving {
    /// Of which so much is left, some of it collected already.
    pub fn new(
        receiver: Box<dyn Receiver>,
        header: Header,
        collected: Vec<u8>,
        left: u64,
        limits: PaceLimits,
    ) -> Receiving {
        let pace = Pace::new(limits, Instant::now());
        Receiving { header, receiver: Some(receiver), collected, left, pace }
    }

    /// The header of the request.
    pub fn header(&self) -> Header {
        self.header
    }

    /// How much is still to come from the sender.
    pub fn left(&self) -> u64 {
        self.left - self.collected.len() as u64
    }

    /// When the sender is given up, should nothing more come.
    pub fn deadline(&self) -> Instant {
        self.pace.deadline()
    }

    /// What it holds in memory while it waits.
    pub fn held_bytes(&self) -> usize {
        self.collected.capacity()
    }

    /// The failure of a sender that is given up.
    pub fn too_slow(&self) -> Error {
        let text = format!(
            "the content came too slowly, {} bytes were still to come: send it without long pauses, or raise \
             tnv_upload_pause_max or lower tnv_upload_rate_min on the storage",
            self.left()
        );
        Error::new(ErrorKind::Timeout, text)
    }

    /// Something has come, and is taken as soon as there is a worker for it: that wait is not the sender's. False
    /// where the sender has used up its time.
    pub fn news(&mut self) -> bool {
        self.pace.resume(Instant::now())
    }

    /// Takes what has come. `command` is the reply's.
    pub fn receive(&mut self, stream: &Stream, buffers: &BufferPool, command: u8) -> Received {
        if !self.news() {
            return Received::TooSlow;
        }
        let received = self.receive_some(stream, buffers, command);
        if !matches!(received, Received::Part) {
            self.receiver = None;
        }
        received
    }

    fn receive_some(&mut self, stream: &Stream, buffers: &BufferPool, command: u8) -> Received {
        if self.left > 0 {
            let mut buffer = buffers.take(self.left);
            let mut turn = 0;
            while self.left > 0 {
                if turn >= TURN_BYTES {
                    return Received::Part;
                }
                // What was collected is the first of the buffer, so that a small content is written at once.
                let collected = self.collected.len().min(buffer.len());
                buffer[..collected].copy_from_slice(&self.collected[..collected]);
                let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                let read = match stream.read_now(&mut buffer[collected..want]) {
                    Ok(0) if collected < want => return Received::Gone(io::ErrorKind::UnexpectedEof.into()),
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && collected == 0 => {
                        self.pace.pause(Instant::now());
                        return Received::Part;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(error) => return Received::Gone(error),
                };
                self.pace.received(read);
                self.collected.drain(..collected);
                self.left -= (collected + read) as u64;
                turn += collected + read;
                if let Some(receiver) = &mut self.receiver
                    && let Err(error) = receiver.write(&buffer[..collected + read])
                {
                    return Received::All(Err(error));
                }
            }
        }
        self.collected = Vec::new();
        let Some(receiver) = self.receiver.take() else {
            return Received::All(Err(Error::new(ErrorKind::Internal, "the content was received already")));
        };
        Received::All(receiver.finish().map(|body| Reply::success(command, &body)))
    }
}
