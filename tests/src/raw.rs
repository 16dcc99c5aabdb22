//! The protocol in raw bytes, written anew from its document: an encoder that leaves leftover memory
//! behind each text as existing clients do, and a connection that sends in any fragments and reads
//! whatever comes.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

/// Longest wait for a reply, and for anything else of a connection: past every time-out that a server
/// has, so that what comes is the server's own answer.
pub(crate) const REPLY_BOUND: Duration = Duration::from_secs(180);

/// A captured message, by the name of its file.
pub fn captured(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/wire").join(format!("{name}.hex"));
    let hex = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let hex = hex.trim();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

/// A message: header and body.
pub fn message(command: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = head(command, body.len() as i64);
    bytes.extend_from_slice(body);
    bytes
}

/// A header alone, with any length.
pub fn head(command: u8, length: i64) -> Vec<u8> {
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(&[command, 0]);
    bytes
}

/// A text field: the text, its NUL, and then what an existing client had in memory.
pub fn text(value: &[u8], width: usize) -> Vec<u8> {
    assert!(value.len() < width, "{} bytes do not fit a field of {width}", value.len());
    let mut field = value.to_vec();
    field.push(0);
    while field.len() < width {
        field.push(0x60 ^ (field.len() as u8).wrapping_mul(37));
    }
    field
}

/// The id triple, 400 bytes.
pub fn triple(appid: &str, userid: &str, fileid: &str) -> Vec<u8> {
    let mut body = text(appid.as_bytes(), 16);
    body.extend(text(userid.as_bytes(), 256));
    body.extend(text(fileid.as_bytes(), 128));
    body
}

/// A join's body.
pub fn join(group: &str, host: &str, port: u16, started: i64) -> Vec<u8> {
    let mut body = text(b"1.0", 7);
    body.extend(text(group.as_bytes(), 17));
    body.extend(text(host.as_bytes(), 129));
    body.extend(port.to_be_bytes());
    body.extend(started.to_be_bytes());
    body.extend(started.to_be_bytes());
    body
}

/// A heartbeat's body.
pub fn beat(group: &str, host: &str) -> Vec<u8> {
    let mut body = text(group.as_bytes(), 17);
    body.extend(text(host.as_bytes(), 129));
    body
}

/// An upload's body without the content.
pub fn upload_head(appid: &str, userid: &str, fileid: &str, size: i64) -> Vec<u8> {
    let mut body = triple(appid, userid, fileid);
    body.extend(size.to_be_bytes());
    body
}

/// A whole upload.
pub fn upload(appid: &str, userid: &str, fileid: &str, content: &[u8]) -> Vec<u8> {
    let mut body = upload_head(appid, userid, fileid, content.len() as i64);
    body.extend_from_slice(content);
    message(70, &body)
}

/// A whole upload with the checksum that its content must have.
pub fn upload_checked(appid: &str, userid: &str, fileid: &str, content: &[u8], crc32: u32) -> Vec<u8> {
    let mut body = upload_head(appid, userid, fileid, content.len() as i64);
    body.extend(u64::from(crc32).to_be_bytes());
    body.extend_from_slice(content);
    message(123, &body)
}

/// The CRC-32 of IEEE 802.3, bit by bit.
pub fn crc32(content: &[u8]) -> u32 {
    let step = |crc: u32, _| (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 };
    !content.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// A question for a size.
pub fn filesize(appid: &str, userid: &str, fileid: &str) -> Vec<u8> {
    message(71, &triple(appid, userid, fileid))
}

/// A download.
pub fn download(appid: &str, userid: &str, fileid: &str, offset: i64, size: i64) -> Vec<u8> {
    let mut body = triple(appid, userid, fileid);
    body.extend(offset.to_be_bytes());
    body.extend(size.to_be_bytes());
    message(72, &body)
}

/// A delete.
pub fn delete(appid: &str, userid: &str, fileid: &str) -> Vec<u8> {
    message(73, &triple(appid, userid, fileid))
}

/// A question for addresses.
pub fn addresses(appid: &str, userid: &str) -> Vec<u8> {
    message(12, &triple(appid, userid, ""))
}

/// A question for an ID.
pub fn get_id(key: &str) -> Vec<u8> {
    let mut body = key.as_bytes().to_vec();
    body.push(0);
    message(40, &body)
}

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which server replies.
    pub command: u8,
    /// 0 or -3.
    pub status: i8,
    /// The body.
    pub body: Vec<u8>,
}

impl Frame {
    /// The whole message again.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = (self.body.len() as i64).to_be_bytes().to_vec();
        bytes.extend_from_slice(&[self.command, self.status as u8]);
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// The body of a success.
    #[track_caller]
    pub fn success(self, command: u8) -> Vec<u8> {
        if self.status != 0 {
            panic!("a failure where a success was wanted: {}", self.failure(command));
        }
        assert_eq!(self.command, command, "the reply's command");
        self.body
    }

    /// The error number of a failure.
    #[track_caller]
    pub fn number(&self) -> i16 {
        assert_eq!(self.status, -3, "the status of a failure; body {:?}", self.body);
        i16::from_be_bytes([self.body[0], self.body[1]])
    }

    /// Holds a failure against the document and gives its text without the host's name.
    #[track_caller]
    pub fn failure(&self, command: u8) -> String {
        assert_eq!(self.status, -3, "the status of a failure; body {:?}", self.body);
        assert_eq!(self.command, command, "the reply's command");
        assert!(self.body.len() >= 3, "a failure says something: {:?}", self.body);
        assert!(self.body.len() <= 2 + 1024, "a failure of {} bytes", self.body.len());
        let number = i16::from_be_bytes([self.body[0], self.body[1]]);
        assert!(number < 0, "error number {number}");
        // An existing storage reads 18 bytes of an ID server's reply and takes the last 8 for the ID.
        if command == 101 {
            let id = i64::from_be_bytes(self.body[..8].try_into().expect("6 bytes of text at least"));
            assert!(id < 0, "read as an ID it is {id}");
        }
        let text = &self.body[2..];
        assert_eq!(text.last(), Some(&0), "the text's NUL");
        let text = std::str::from_utf8(text).expect("UTF-8").trim_end_matches('\0');
        assert!(!text.contains('\0'), "{text:?} has a NUL inside");
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("host name");
        let rest = text.strip_prefix(&format!("[{}] ", host.trim()));
        let rest = rest.unwrap_or_else(|| panic!("{text:?} has no [host] before it"));
        assert!(!rest.is_empty(), "an empty reason");
        rest.to_owned()
    }
}

/// A connection.
pub struct Raw {
    stream: TcpStream,
}

impl Raw {
    /// Connects.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Raw {
        match Raw::try_connect(address) {
            Ok(raw) => raw,
            Err(error) => panic!("connect to {address}: {error}"),
        }
    }

    /// Connects, or tells why not.
    pub fn try_connect(address: SocketAddr) -> io::Result<Raw> {
        let stream = TcpStream::connect_timeout(&address, REPLY_BOUND)?;
        Raw::of(stream)
    }

    /// Connects from a certain address of this host.
    pub fn connect_from(from: impl Into<IpAddr>, address: SocketAddr) -> Raw {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None).expect("socket");
        socket.bind(&SocketAddr::new(from.into(), 0).into()).expect("bind");
        socket.connect_timeout(&address.into(), REPLY_BOUND).expect("connect");
        Raw::of(socket.into()).expect("set up")
    }

    fn of(stream: TcpStream) -> io::Result<Raw> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_BOUND))?;
        stream.set_write_timeout(Some(REPLY_BOUND))?;
        Ok(Raw { stream })
    }

    /// The socket.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends bytes in one write.
    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) -> &mut Raw {
        if let Err(error) = self.stream.write_all(bytes) {
            panic!("send {} bytes: {error}", bytes.len());
        }
        self
    }

    /// Sends bytes of which the server may refuse to take more.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends bytes in pieces, each a packet of its own.
    #[track_caller]
    pub fn send_in_pieces(&mut self, bytes: &[u8], piece: usize, pause: Duration) -> &mut Raw {
        for piece in bytes.chunks(piece) {
            self.send(piece);
            if !pause.is_zero() {
                std::thread::sleep(pause);
            }
        }
        self
    }

    /// The next reply.
    #[track_caller]
    pub fn frame(&mut self) -> Frame {
        match self.try_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => panic!("the connection was closed instead of a reply"),
            Err(error) => panic!("no reply: {error}"),
        }
    }

    /// The next reply; none where the connection was closed in order.
    pub fn try_frame(&mut self) -> io::Result<Option<Frame>> {
        let Some((length, command, status)) = self.try_head()? else { return Ok(None) };
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Some(Frame { command, status, body }))
    }

    /// The next reply's header alone.
    pub fn try_head(&mut self) -> io::Result<Option<(usize, u8, i8)>> {
        let mut header = [0; 10];
        let mut have = 0;
        while have < header.len() {
            match self.stream.read(&mut header[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let length = i64::from_be_bytes(header[..8].try_into().expect("8 bytes"));
        let length = usize::try_from(length).map_err(|_| io::Error::other("a negative length"))?;
        assert!(length <= 64 << 20, "a reply of {length} bytes");
        Ok(Some((length, header[8], header[9] as i8)))
    }

    /// Sends a request and reads its reply.
    #[track_caller]
    pub fn ask(&mut self, request: &[u8]) -> Frame {
        self.send(request);
        self.frame()
    }

    /// Reads content that follows.
    pub fn read(&mut self, bytes: usize) -> io::Result<Vec<u8>> {
        let mut content = vec![0; bytes];
        self.stream.read_exact(&mut content)?;
        Ok(content)
    }

    /// Whether the server closes within a bound, saying nothing more. A reset counts as closed.
    pub fn closes_within(&mut self, bound: Duration) -> bool {
        self.stream.set_read_timeout(Some(bound)).expect("set a timeout");
        let mut byte = [0];
        let closed = match self.stream.read(&mut byte) {
            Ok(0) => true,
            Ok(_) => panic!("the server says more than one reply, beginning with byte {}", byte[0]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) => panic!("read: {error}"),
        };
        self.stream.set_read_timeout(Some(REPLY_BOUND)).expect("set a timeout");
        closed
    }
}

/// One request on a connection of its own.
#[track_caller]
pub fn ask(address: SocketAddr, request: &[u8]) -> Frame {
    Raw::connect(address).ask(request)
}

/// The number of the table that holds a user's files, computed as the document says, in the words of
/// the C that existing servers run.
pub fn table_of(userid: &str) -> u32 {
    let mut h: u32 = 0;
    for (i, byte) in userid.bytes().enumerate() {
        let c = (byte as i8) as i32 as u32;
        if i & 1 == 0 {
            h ^= (h << 7) ^ c ^ (h >> 3);
        } else {
            h ^= !((h << 11) ^ c ^ (h >> 5));
        }
    }
    (h & 0x7FFF_FFFF) % 3 + 1
}
