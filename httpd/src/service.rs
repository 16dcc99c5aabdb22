//! From a request to its answer: finds the file, judges the conditions and the ranges, and sends
//! head and content in pieces. Each piece is whole in this process before any of it goes to the
//! viewer, so that one who pauses keeps no storage waiting.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tiny_http::{Method, Request};
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::limits::COPY_BYTES;
use tnv_common::link::{LinkFault, LinkSecrets};
use tnv_common::wire::tnv::{Stat, Triple};

use crate::conditional::{Conditions, Validator, Verdict};
use crate::files::Files;
use crate::globals::Owner;
use crate::media::{self, Kind, Remembered, SNIFF_BYTES};
use crate::private::{Answer, REST_HEADER};
use crate::range::{self, Part, Selection};
use crate::room;
use crate::status::{Headers, Refusal, Status, head};
use crate::target::{self, Target};

/// What is gathered before it is written, beside a piece of content: the heads around it.
const HEADS_BYTES_MAX: usize = 4 << 10;

/// The service, on files from wherever.
pub struct FileService<F> {
    files: F,
    owner: Owner,
    /// What links must be signed with, where they must be.
    links: Option<LinkSecrets>,
    kinds: Remembered,
    /// How many answers are under way.
    under_way: AtomicUsize,
}

/// A request, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
struct Asked<'a> {
    is_head: bool,
    target: &'a str,
    range: Option<&'a str>,
    /// The rest of an answer that was begun is asked for.
    is_rest: bool,
    conditions: Conditions<'a>,
}

impl<'a> Asked<'a> {
    fn new(request: &'a Request) -> Asked<'a> {
        let value = |name: &'static str| {
            let header = request.headers().iter().find(|header| header.field.equiv(name));
            header.map(|header| header.value.as_str())
        };
        Asked {
            is_head: *request.method() == Method::Head,
            target: request.url(),
            range: value("Range"),
            is_rest: value(REST_HEADER).is_some(),
            conditions: Conditions {
                if_match: value("If-Match"),
                if_none_match: value("If-None-Match"),
                if_modified_since: value("If-Modified-Since"),
                if_unmodified_since: value("If-Unmodified-Since"),
                if_range: value("If-Range"),
            },
        }
    }
}

/// A piece of an answer's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    Text(String),
    /// These bytes of the file.
    File(Part),
}

impl Piece {
    /// How many they are.
    pub fn bytes(&self) -> u64 {
        match self {
            Piece::Text(text) => text.len() as u64,
            Piece::File(part) => part.bytes(),
        }
    }
}

/// An answer, before any content is read.
#[derive(Debug)]
struct Plan<I> {
    status: Status,
    headers: Headers,
    content: Vec<Piece>,
    file: Triple,
    info: I,
}

impl<F: Files> Answer for FileService<F> {
    fn answer(&self, request: Request) -> io::Result<()> {
        let asked = Asked::new(&request);
        let is_head = asked.is_head;
        let planned = self.plan(&asked);
        let others = self.under_way.fetch_add(1, Ordering::Relaxed);
        let _counted = Counted(&self.under_way);
        let mut out = Out::new(request.into_writer(), room::piece_bytes(COPY_BYTES, others));
        let sent = match planned {
            Ok(plan) => self.send(&plan, is_head, &mut out),
            Err(refusal) => Err(Ended::Refused(refusal)),
        };
        match sent {
            Ok(()) => out.finish(),
            Err(Ended::Refused(refusal)) => out.refuse(&refusal, is_head),
            Err(Ended::Cut(error)) => Err(error),
        }
    }
}

/// An answer that is under way, until this is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why an answer is not the one that was planned.
enum Ended {
    /// Nothing had been said yet, so another answer takes its place.
    Refused(Refusal),
    /// It can only be cut short.
    Cut(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Ended {
        Ended::Cut(error)
    }
}

impl<F: Files> FileService<F> {
    /// A service on these files.
    pub fn new(files: F, owner: Owner) -> FileService<F> {
        FileService {
            files,
            owner,
            links: None,
            kinds: Remembered::default(),
            under_way: AtomicUsize::new(0),
        }
    }

    /// The same where links must be signed with one of these secrets.
    pub fn with_links(self, links: Option<LinkSecrets>) -> FileService<F> {
        FileService { links, ..self }
    }

    /// Whether the link counts. Asked before the file is: whoever has none learns nothing of it.
    fn check_link(&self, asked: &Asked<'_>, file: &Triple) -> std::result::Result<(), Refusal> {
        let Some(links) = self.links.as_ref().filter(|_| !asked.is_rest) else { return Ok(()) };
        let query = asked.target.split_once('?').map_or("", |(_, query)| query);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        links.check(file, query, now).map_err(|fault| match fault {
            LinkFault::Forged(why) => Refusal::new(Status::FORBIDDEN, why),
            LinkFault::Expired => Refusal::new(Status::GONE, "the link has expired; ask for a new one"),
        })
    }

    /// Decides on the answer.
    fn plan(&self, asked: &Asked<'_>) -> std::result::Result<Plan<F::Info>, Refusal> {
        let target = target::parse(asked.target, &self.owner)?;
        self.check_link(asked, &target.file)?;
        let info = self.files.look_up(&target.file).map_err(|error| refusal(&target.file, &error))?;
        let (size, now) = (F::size(&info), SystemTime::now());
        let validator = F::stat(&info).map(|stat| Validator::new(&stat, now));
        let mut headers = validator_headers(validator.as_ref());
        let (status, content) = match asked.conditions.judge(validator.as_ref()) {
            Verdict::NotModified => (Status::NOT_MODIFIED, vec![]),
            Verdict::Failed => {
                return Err(Refusal::new(
                    Status::PRECONDITION_FAILED,
                    "the file is not the one that was meant",
                ));
            }
            Verdict::Proceed => {
                let kind = self.kind(&target, &info).map_err(|error| refusal(&target.file, &error))?;
                headers.extend(kind_headers(&target, kind));
                // Ranges are defined for GET alone.
                let range = asked.range.filter(|_| !asked.is_head);
                let range = range.filter(|_| asked.conditions.range_counts(validator.as_ref(), now));
                content(range, size, kind, &mut headers)?
            }
        };
        Ok(Plan { status, headers, content, file: target.file, info })
    }

    /// What the file is: by the name it is asked for, else by its first bytes.
    fn kind(&self, target: &Target, info: &F::Info) -> Result<Kind> {
        if let Some(kind) = target.name.as_deref().and_then(Kind::of_name) {
            return Ok(kind);
        }
        let stat = F::stat(info);
        if let Some(kind) = stat.and_then(|stat| self.kinds.get(&stat.unique)) {
            return Ok(kind);
        }
        let mut first = vec![0; SNIFF_BYTES.min(usize::try_from(F::size(info)).unwrap_or(SNIFF_BYTES))];
        if !first.is_empty() {
            self.files.read(&target.file, info, 0, &mut first)?;
        }
        let kind = Kind::of_content(&first);
        if let Some(Stat { unique, .. }) = stat {
            self.kinds.put(unique, kind);
        }
        Ok(kind)
    }

    /// Sends an answer.
    fn send(&self, plan: &Plan<F::Info>, is_head: bool, out: &mut Out) -> std::result::Result<(), Ended> {
        out.text(&head(plan.status, &plan.headers))?;
        out.text(b"\r\n")?;
        for piece in plan.content.iter().filter(|_| !is_head) {
            match piece {
                Piece::Text(text) => out.text(text.as_bytes())?,
                Piece::File(part) => self.send_part(plan, *part, out)?,
            }
        }
        Ok(())
    }

    fn send_part(&self, plan: &Plan<F::Info>, part: Part, out: &mut Out) -> std::result::Result<(), Ended> {
        let mut offset = part.first;
        while offset <= part.last {
            let bytes = usize::try_from(part.last - offset + 1).unwrap_or(usize::MAX).min(out.piece_bytes);
            let buffer = out.room(bytes)?;
            if let Err(error) = self.files.read(&plan.file, &plan.info, offset, buffer) {
                let refusal = refusal(&plan.file, &error);
                return Err(match out.has_begun {
                    false => Ended::Refused(refusal),
                    true => Ended::Cut(io::Error::other(error)),
                });
            }
            offset += bytes as u64;
        }
        Ok(())
    }
}

/// What a failure means to the viewer; what is nobody's mistake is logged in full.
fn refusal(file: &Triple, error: &Error) -> Refusal {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Invalid => log::debug!("{error}"),
        _ => log::warn!("file {} of {}: {error}", file.fileid, file.userid),
    }
    Refusal::from(error)
}

/// The header lines that say which upload it is. What a client keeps it must ask about each time:
/// the same ID may stand for another upload tomorrow, or for none.
fn validator_headers(validator: Option<&Validator>) -> Headers {
    let mut headers: Headers = vec![("Cache-Control", "no-cache".to_owned())];
    if let Some(validator) = validator {
        headers.push(("ETag", validator.etag.clone()));
        if let Some(modified) = validator.modified {
            headers.push(("Last-Modified", httpdate::fmt_http_date(modified)));
        }
    }
    headers
}

/// The header lines that say what it is, and keep a browser from running it.
fn kind_headers(target: &Target, kind: Kind) -> Headers {
    let is_attachment = target.download || !kind.is_shown();
    let named;
    let name = match &target.name {
        Some(name) => name,
        None if kind.extension.is_empty() => target.file.fileid.as_str(),
        None => {
            named = format!("{}.{}", target.file.fileid, kind.extension);
            &named
        }
    };
    let mut headers: Headers = vec![
        ("X-Content-Type-Options", "nosniff".to_owned()),
        ("Content-Disposition", media::disposition(is_attachment, name)),
    ];
    if !kind.is_shown() {
        // Should a browser show it in spite of all that, then as nobody's, and without scripts.
        headers.push(("Content-Security-Policy", "sandbox; default-src 'none'".to_owned()));
    }
    headers
}

/// Status and content, with the header lines that tell of it.
pub fn content(
    range: Option<&str>,
    size: u64,
    kind: Kind,
    headers: &mut Headers,
) -> std::result::Result<(Status, Vec<Piece>), Refusal> {
    let selection = range.map_or(Selection::Whole, |range| range::select(range, size));
    let (status, content_type, content) = match selection {
        Selection::Unsatisfiable => {
            let text = format!("the file has {size} bytes, and none of those that the Range asks for");
            let mut refusal = Refusal::new(Status::RANGE_NOT_SATISFIABLE, text);
            refusal.headers.push(("Content-Range", format!("bytes */{size}")));
            return Err(refusal);
        }
        Selection::Whole => {
            let whole = size.checked_sub(1).map(|last| Piece::File(Part { first: 0, last }));
            (Status::OK, kind.content_type(), whole.into_iter().collect())
        }
        Selection::Parts(parts) => match parts[..] {
            [part] => {
                headers.push(("Content-Range", content_range(part, size)));
                (Status::PARTIAL_CONTENT, kind.content_type(), vec![Piece::File(part)])
            }
            _ => {
                let boundary = format!("tnv{:032x}", rand::random::<u128>());
                let content_type = format!("multipart/byteranges; boundary={boundary}");
                (Status::PARTIAL_CONTENT, content_type, multipart(&parts, size, kind, &boundary))
            }
        },
    };
    headers.push(("Accept-Ranges", "bytes".to_owned()));
    headers.push(("Content-Type", content_type));
    headers.push(("Content-Length", content.iter().map(Piece::bytes).sum::<u64>().to_string()));
    Ok((status, content))
}

fn content_range(part: Part, size: u64) -> String {
    format!("bytes {}-{}/{size}", part.first, part.last)
}

/// The pieces of a multipart/byteranges body.
fn multipart(parts: &[Part], size: u64, kind: Kind, boundary: &str) -> Vec<Piece> {
    let mut pieces = Vec::with_capacity(parts.len() * 2 + 1);
    let mut before = "";
    for &part in parts {
        pieces.push(Piece::Text(format!(
            "{before}--{boundary}\r\nContent-Type: {}\r\nContent-Range: {}\r\n\r\n",
            kind.content_type(),
            content_range(part, size),
        )));
        pieces.push(Piece::File(part));
        before = "\r\n";
    }
    pieces.push(Piece::Text(format!("\r\n--{boundary}--\r\n")));
    pieces
}

/// The way out. What is small is gathered, so that an answer leaves in few large writes, and so
/// that one whose first piece fails can still be another answer.
struct Out {
    writer: Box<dyn Write + Send>,
    gathered: Vec<u8>,
    /// As much of a file is read at once.
    piece_bytes: usize,
    has_begun: bool,
}

impl Out {
    fn new(writer: Box<dyn Write + Send>, piece_bytes: usize) -> Out {
        Out { writer, gathered: Vec::new(), piece_bytes, has_begun: false }
    }

    fn text(&mut self, text: &[u8]) -> io::Result<()> {
        self.room(text.len())?.copy_from_slice(text);
        Ok(())
    }

    /// Room for the next bytes, to be filled at once.
    fn room(&mut self, bytes: usize) -> io::Result<&mut [u8]> {
        if self.gathered.len() + bytes > self.piece_bytes + HEADS_BYTES_MAX && !self.gathered.is_empty() {
            self.flush()?;
        }
        let start = self.gathered.len();
        // Exactly: an answer of a few bytes needs no more.
        self.gathered.reserve_exact(bytes);
        self.gathered.resize(start + bytes, 0);
        Ok(&mut self.gathered[start..])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.has_begun = true;
        self.writer.write_all(&self.gathered)?;
        self.gathered.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.writer.flush()
    }

    /// Says something else than what has been gathered.
    fn refuse(mut self, refusal: &Refusal, is_head: bool) -> io::Result<()> {
        let (mut answer, body) = refusal.response();
        answer.extend_from_slice(b"\r\n");
        if !is_head {
            answer.extend_from_slice(&body);
        }
        self.gathered = answer;
        self.finish()
    }
}
