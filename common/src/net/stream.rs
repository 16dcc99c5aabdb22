//! Sockets with deadlines. A [`Stream`] is non-blocking inside and each wait is a poll(2) with a
//! bound, so that the usual case, data that is there already, costs one system call.

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::error::{Context, Result};
use crate::fail;
use crate::limits::LISTEN_BACKLOG;

/// sendfile moves at most this much a call, so that progress is seen in between.
const SEND_FILE_BYTES: u64 = 1 << 20;

/// What the kernel holds of what was written and is not on its way yet. It would hold megabytes for
/// each slow reader, and a thousand of them would use up the memory that all of TCP shares.
const UNSENT_BYTES_MAX: u32 = 256 << 10;

/// The same of a reader that keeps up: its sender need not wake so often.
const AMPLE_UNSENT_BYTES_MAX: u32 = 1 << 20;

/// Readers that may have so much at the same time. A large file at full speed is for a few.
const AMPLE_MAX: usize = 32;

/// How many have it.
static AMPLE: AtomicUsize = AtomicUsize::new(0);

/// A TCP or unix stream. Its methods take `&self`: one thread may shut down what another waits on.
pub struct Stream {
    fd: OwnedFd,
    peer: Option<SocketAddr>,
    /// Whether it is one of those that the kernel may hold more for.
    is_ample: AtomicBool,
}

impl Stream {
    /// Connects within `timeout`, from the local address `from` where one is given.
    pub fn connect(address: SocketAddr, from: Option<IpAddr>, timeout: Duration) -> Result<Stream> {
        let connect = || -> io::Result<Stream> {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            if let Some(ip) = from.filter(|ip| !ip.is_unspecified() && ip.is_ipv4() == address.is_ipv4()) {
                socket.bind(&SocketAddr::new(ip, 0).into())?;
            }
            socket.connect_timeout(&address.into(), timeout)?;
            Stream::from_tcp(socket.into())
        };
        connect().context(|| format!("connect to {address}"))
    }

    /// Takes over a connected TCP socket; small messages leave at once.
    pub fn from_tcp(socket: TcpStream) -> io::Result<Stream> {
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
        let peer = socket.peer_addr()?;
        Ok(Stream { fd: socket.into(), peer: Some(peer), is_ample: AtomicBool::new(false) })
    }

    /// Takes over a connected unix socket.
    pub fn from_unix(socket: UnixStream) -> io::Result<Stream> {
        socket.set_nonblocking(true)?;
        Ok(Stream { fd: socket.into(), peer: None, is_ample: AtomicBool::new(false) })
    }

    /// The other end's address; a unix socket has none.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Lets the kernel find out that a silent peer is gone: first asked after 30 s, lost after 60 s.
    pub fn keep_alive(&self) -> io::Result<()> {
        rustix::net::sockopt::set_tcp_keepidle(&self.fd, Duration::from_secs(30))?;
        rustix::net::sockopt::set_tcp_keepintvl(&self.fd, Duration::from_secs(10))?;
        rustix::net::sockopt::set_tcp_keepcnt(&self.fd, 3)?;
        rustix::net::sockopt::set_socket_keepalive(&self.fd, true)?;
        Ok(())
    }

    /// Reads what there is, waiting for it until `deadline`; 0 is the end of the stream.
    pub fn read_some(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.fd, &mut *buffer) {
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline)?,
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Reads what there is, without waiting: where there is nothing it is `WouldBlock`. 0 is the end of the stream.
    pub fn read_now(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.fd, &mut *buffer) {
                Err(Errno::INTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Fills the buffer before `deadline`, or fails.
    pub fn read_full(&self, buffer: &mut [u8], deadline: Instant) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&mut buffer[filled..], deadline)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Writes all of it; `progress` is the longest wait without a byte taken.
    pub fn write_full(&self, bytes: &[u8], progress: Duration) -> io::Result<()> {
        self.write_two(bytes, &[], progress)
    }

    /// Writes two pieces as if they were one, in one system call where the socket takes them.
    pub fn write_two(&self, head: &[u8], body: &[u8], progress: Duration) -> io::Result<()> {
        let mut written = 0;
        while written < head.len() + body.len() {
            let head_left = &head[written.min(head.len())..];
            let body_left = &body[written.saturating_sub(head.len())..];
            match rustix::io::writev(&self.fd, &[IoSlice::new(head_left), IoSlice::new(body_left)]) {
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, Instant::now() + progress)?,
                Err(Errno::INTR) => {}
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                result => written += result?,
            }
        }
        Ok(())
    }

    /// Writes what the socket takes without waiting, which may be nothing; returns how much. Where
    /// `more` follows at once, what is written may wait to share a segment with it.
    pub fn write_now(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        let flags = if more { SendFlags::MORE | SendFlags::NOSIGNAL } else { SendFlags::NOSIGNAL };
        let mut written = 0;
        while written < bytes.len() {
            match rustix::net::send(&self.fd, &bytes[written..], flags) {
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                result => written += result?,
            }
        }
        Ok(written)
    }

    /// The same of two pieces as if they were one, in one system call where the socket takes them.
    pub fn write_two_now(&self, head: &[u8], body: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < head.len() + body.len() {
            let head_left = &head[written.min(head.len())..];
            let body_left = &body[written.saturating_sub(head.len())..];
            match rustix::io::writev(&self.fd, &[IoSlice::new(head_left), IoSlice::new(body_left)]) {
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                result => written += result?,
            }
        }
        Ok(written)
    }

    /// Sends what the socket takes of a part of a file without waiting, and without copying it
    /// through this process; the part then begins where it stopped.
    pub fn send_file_now(
        &self,
        file: &File,
        part: &mut Range<u64>,
    ) -> std::result::Result<(), SendFileError> {
        while part.start < part.end {
            let count = usize::try_from((part.end - part.start).min(SEND_FILE_BYTES)).unwrap_or(usize::MAX);
            match rustix::fs::sendfile(&self.fd, file, Some(&mut part.start), count) {
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Ok(0) => {
                    let early = io::Error::new(io::ErrorKind::UnexpectedEof, "the file ends early");
                    return Err(SendFileError::File(early));
                }
                Ok(_) => {}
                Err(error) if is_of_socket(error) => return Err(SendFileError::Socket(error.into())),
                Err(error) => return Err(SendFileError::File(error.into())),
            }
        }
        Ok(())
    }

    /// Lets the kernel hold more of what is written while the peer keeps up with it, unless it does so for
    /// many others; no more than usual otherwise.
    pub fn set_keeps_up(&self, keeps_up: bool) -> io::Result<()> {
        if self.is_ample.load(Ordering::Relaxed) == keeps_up {
            return Ok(());
        }
        if !keeps_up {
            self.give_up_ample();
            return SockRef::from(&self.fd).set_tcp_notsent_lowat(UNSENT_BYTES_MAX);
        }
        let more = |count| (count < AMPLE_MAX).then_some(count + 1);
        if AMPLE.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return Ok(());
        }
        self.is_ample.store(true, Ordering::Relaxed);
        SockRef::from(&self.fd).set_tcp_notsent_lowat(AMPLE_UNSENT_BYTES_MAX)
    }

    fn give_up_ample(&self) {
        if self.is_ample.swap(false, Ordering::Relaxed) {
            AMPLE.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether data, the end or an error is waiting.
    pub fn readable_now(&self) -> bool {
        self.wait_readable(Duration::ZERO).unwrap_or(true)
    }

    /// Waits for data, the end or an error; false when the time is over first.
    pub fn wait_readable(&self, timeout: Duration) -> io::Result<bool> {
        match self.wait(PollFlags::IN, Instant::now() + timeout) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Waits until the socket takes more, or an error; false when the time is over first.
    pub fn wait_writable(&self, timeout: Duration) -> io::Result<bool> {
        match self.wait(PollFlags::OUT, Instant::now() + timeout) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the connection was reset, or closed in both directions: nothing more can be sent on it.
    pub fn is_gone(&self) -> bool {
        let mut polled = [PollFd::new(&self.fd, PollFlags::empty())];
        let is_told =
            poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|count| count > 0);
        is_told && polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
    }

    /// Tells the peer that nothing more will come.
    pub fn shutdown_write(&self) {
        // It fails only on a connection that is gone already.
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Write);
    }

    /// Ends both directions: a thread that waits on this stream wakes.
    pub fn shutdown(&self) {
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
    }

    fn wait(&self, flags: PollFlags, deadline: Instant) -> io::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            match poll(&mut [PollFd::new(&self.fd, flags)], Some(&left)) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::TimedOut, "timed out")),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.give_up_ample();
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Why a part of a file could not be sent.
#[derive(Debug)]
pub enum SendFileError {
    /// The connection is gone.
    Socket(io::Error),
    /// The file cannot be read.
    File(io::Error),
}

/// Whether an error of sendfile(2), which has one for both of its ends, is that of a socket: what tcp(7), ip(7) and
/// socket(7) name for a connection that ended.
fn is_of_socket(error: Errno) -> bool {
    matches!(
        error,
        Errno::PIPE
            | Errno::CONNRESET
            | Errno::CONNABORTED
            | Errno::NOTCONN
            | Errno::TIMEDOUT
            | Errno::HOSTUNREACH
            | Errno::HOSTDOWN
            | Errno::NETUNREACH
            | Errno::NETDOWN
            | Errno::NETRESET
            | Errno::PROTO
            | Errno::NOBUFS
            | Errno::NOMEM
    )
}

/// The addresses of `host`, `host:port`, `[v6]` or `[v6]:port`, looked up where it is a name.
pub fn resolve(host_port: &str, default_port: u16) -> Result<Vec<SocketAddr>> {
    let port_of = |port: &str| match port.parse::<u16>() {
        Ok(port) => Ok(port),
        Err(_) => fail!(Invalid, "invalid address '{host_port}', port '{port}', want 0 to 65535"),
    };
    let (host, port) = match host_port.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, default_port),
            Some((host, port)) => (host, port_of(port.strip_prefix(':').unwrap_or(port))?),
            None => {
                return fail!(Invalid, "invalid address '{host_port}', want a ']' after the IPv6 address");
            }
        },
        None => match host_port.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return fail!(
                    Invalid,
                    "invalid address '{host_port}', want an IPv6 address in brackets, [{host_port}]"
                );
            }
            Some((host, port)) => (host, port_of(port)?),
            None => (host_port, default_port),
        },
    };
    if host.is_empty() {
        return fail!(Invalid, "invalid address '{host_port}', want host:port");
    }
    let found: Vec<SocketAddr> = match (host, port).to_socket_addrs() {
        Ok(found) => found.collect(),
        Err(error) => return fail!(Unavailable, "look up the host '{host}': {error}"),
    };
    match found.is_empty() {
        false => Ok(found),
        true => fail!(Unavailable, "the host '{host}' has no address"),
    }
}

/// Listens there, with a backlog that a burst of connects fits in. Non-blocking.
pub fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listen = || -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    match listen() {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            fail!(Unavailable, "listen on {address}: the port is taken by another program")
        }
        Err(error) => Err(error).context(|| format!("listen on {address}")),
    }
}

/// This host's name, as storages show it to trackers and as failure replies begin.
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_holds_more_for_a_few_who_keep_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect =
            || Stream::from_tcp(TcpStream::connect(listener.local_addr().unwrap()).unwrap()).unwrap();
        let streams: Vec<_> = (0..AMPLE_MAX + 8).map(|_| connect()).collect();
        let unsent = |stream: &Stream| SockRef::from(stream).tcp_notsent_lowat().unwrap();
        let ample = || streams.iter().filter(|stream| unsent(stream) == AMPLE_UNSENT_BYTES_MAX).count();
        for stream in streams.iter().chain(&streams) {
            stream.set_keeps_up(true).unwrap();
        }
        assert_eq!(ample(), AMPLE_MAX);
        // A reader that does not keep up any more makes room for another.
        streams[0].set_keeps_up(false).unwrap();
        assert_eq!((ample(), unsent(&streams[0])), (AMPLE_MAX - 1, UNSENT_BYTES_MAX));
        streams[AMPLE_MAX].set_keeps_up(true).unwrap();
        assert_eq!(ample(), AMPLE_MAX);
        drop(streams);
        let next = connect();
        next.set_keeps_up(true).unwrap();
        assert_eq!(unsent(&next), AMPLE_UNSENT_BYTES_MAX);
    }
}
