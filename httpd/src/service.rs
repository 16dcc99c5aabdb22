//! From a request to its answer: finds the file, judges the conditions and the ranges, and plans the content,
//! of which the first piece is read at once: should that fail, there is still another answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tnv_common::auth::signed_link::{LinkFault, LinkSecrets};
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::http::refusal::Refusal;
use tnv_common::http::request_head::RequestHead;
use tnv_common::http::response::{self, Response, header};
use tnv_common::http::{Header, Method, StatusCode, status_code};
use tnv_common::limits::COPY_BYTES;
use tnv_common::proto::tnv::file_key::Triple;
use tnv_common::proto::tnv::storage::Stat;

use crate::conditional::{Conditions, Validator, Verdict};
use crate::content::{Content, Piece, Source};
use crate::files::Files;
use crate::globals::Owner;
use crate::kind::{Kind, SNIFF_BYTES};
use crate::media::{self, Remembered};
use crate::pieces::{self, Buffer, Buffers, PIECE_BYTES};
use crate::range::{self, Part, Selection};
use crate::status_code::refusal_of;
use crate::target::{self, Target};

/// The service, on files from wherever.
pub struct FileService<F> {
    files: F,
    owner: Owner,
    /// What links must be signed with, where they must be.
    links: Option<LinkSecrets>,
    kinds: Remembered,
    buffers: Buffers,
    /// How many answers are worked on.
    under_way: AtomicUsize,
}

/// The header lines of a request that the service uses.
pub const HEADERS_USED: [&str; 6] =
    ["Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"];

/// A request, as the service uses it.
#[derive(Clone, Copy, Debug, Default)]
struct Request<'a> {
    is_head: bool,
    target: &'a str,
    range: Option<&'a str>,
    conditions: Conditions<'a>,
    /// It asks for all of the file without a condition.
    is_plain: bool,
}

impl<'a> Request<'a> {
    fn new(head: &'a RequestHead) -> Request<'a> {
        let is_head = head.method == Method::Head;
        Request {
            is_head,
            target: &head.target,
            range: head.value("Range"),
            conditions: Conditions {
                if_match: head.value("If-Match"),
                if_none_match: head.value("If-None-Match"),
                if_modified_since: head.value("If-Modified-Since"),
                if_unmodified_since: head.value("If-Unmodified-Since"),
                if_range: head.value("If-Range"),
            },
            is_plain: head.headers.is_empty() && !is_head,
        }
    }
}

/// A file that was looked up, and its first bytes where they were read together with that.
struct OpenFile<I> {
    info: I,
    first: Option<(Buffer, usize)>,
}

/// An answer that is worked on, until this is dropped.
pub struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
            buffers: Buffers::default(),
            under_way: AtomicUsize::new(0),
        }
    }

    /// The same where links must be signed with one of these secrets.
    pub fn with_links(self, links: Option<LinkSecrets>) -> FileService<F> {
        FileService { links, ..self }
    }

    /// Whether the link counts. Asked before the file is: whoever has none learns nothing of it.
    fn check_link(&self, request: &Request<'_>, file: &Triple) -> std::result::Result<(), Refusal> {
        let Some(links) = self.links.as_ref() else { return Ok(()) };
        let query = request.target.split_once('?').map_or("", |(_, query)| query);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        links.check(file, query, now).map_err(|fault| match fault {
            LinkFault::Forged(why) => Refusal::new(status_code::FORBIDDEN, why),
            LinkFault::Expired => Refusal::new(status_code::GONE, "the link has expired; ask for a new one"),
        })
    }

    /// Counts an answer as worked on: many at once get smaller pieces.
    pub fn enter(&self) -> Counted<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Counted(&self.under_way)
    }

    /// Answers a GET or HEAD.
    pub fn answer(&self, head: &RequestHead) -> std::result::Result<(Response, Content<F::Info>), Refusal> {
        let request = Request::new(head);
        let target = target::parse(request.target, &self.owner)?;
        self.check_link(&request, &target.file)?;
        let failed = |error| refusal(&target.file, &error);
        let OpenFile { info, first } = self.find(&request, &target.file).map_err(failed)?;
        let (size, now) = (F::size(&info), SystemTime::now());
        let validator = F::stat(&info).map(|stat| Validator::new(&stat, now));
        let mut headers = validator_headers(validator.as_ref());
        let (status, pieces) = match request.conditions.judge(validator.as_ref()) {
            Verdict::NotModified => (status_code::NOT_MODIFIED, vec![]),
            Verdict::Failed => {
                return Err(Refusal::new(
                    status_code::PRECONDITION_FAILED,
                    "the file is not the one that was meant",
                ));
            }
            Verdict::Proceed => {
                let kind = self.kind(&target, &info, first.as_ref()).map_err(failed)?;
                headers.extend(kind_headers(&target, kind));
                // Ranges are defined for GET alone.
                let range = request.range.filter(|_| !request.is_head);
                let range = range.filter(|_| request.conditions.range_counts(validator.as_ref(), now));
                content(range, size, kind, &mut headers)?
            }
        };
        let body_bytes = pieces.iter().map(Piece::bytes).sum();
        let response = response::with_length(status, headers, body_bytes);
        if request.is_head || pieces.is_empty() {
            return Ok((response, Content::none()));
        }
        let file = target.file.clone();
        let mut content = Content::of(pieces, Source { file, info });
        match first {
            Some((buffer, bytes)) => content = content.with_first(buffer, bytes),
            None => self.load(&mut content, PIECE_BYTES).map_err(failed)?,
        }
        Ok((response, content))
    }

    /// Looks the file up; where all of it is asked for, its first piece comes with that.
    fn find(&self, request: &Request<'_>, file: &Triple) -> Result<OpenFile<F::Info>> {
        if !request.is_plain {
            return Ok(OpenFile { info: self.files.look_up(file)?, first: None });
        }
        let mut buffer = self.buffers.take(self.piece_bytes(COPY_BYTES));
        let (info, bytes) = self.files.open(file, &mut buffer)?;
        Ok(OpenFile { info, first: Some((buffer, bytes)) })
    }

    /// Loads the next bytes of an answer's content, at most so many at once.
    pub fn load(&self, content: &mut Content<F::Info>, bytes: usize) -> Result<()> {
        let left = usize::try_from(content.left()).unwrap_or(usize::MAX);
        content.load(&self.files, self.buffers.take(self.piece_bytes(bytes).min(left)))
    }

    fn piece_bytes(&self, bytes: usize) -> usize {
        let others = self.under_way.load(Ordering::Relaxed).saturating_sub(1);
        pieces::piece_bytes(bytes, others)
    }

    /// What the file is: by the name it is asked for, else by its first bytes.
    fn kind(&self, target: &Target, info: &F::Info, first: Option<&(Buffer, usize)>) -> Result<Kind> {
        match target.name.as_deref().and_then(Kind::of_name) {
            Some(named) if named.is_text() => Ok(named.with_content(self.looked_into(target, info, first)?)),
            Some(named) => Ok(named),
            None => self.looked_into(target, info, first),
        }
    }

    /// What its first bytes say. They are looked at once an upload.
    fn looked_into(&self, target: &Target, info: &F::Info, first: Option<&(Buffer, usize)>) -> Result<Kind> {
        let stat = F::stat(info);
        if let Some(kind) = stat.and_then(|stat| self.kinds.get(&stat.unique)) {
            return Ok(kind);
        }
        let kind = match first {
            Some((buffer, bytes)) => Kind::of_content(&buffer[..SNIFF_BYTES.min(*bytes)]),
            None => {
                let bytes = SNIFF_BYTES.min(usize::try_from(F::size(info)).unwrap_or(SNIFF_BYTES));
                let mut first = vec![0; bytes];
                if !first.is_empty() {
                    self.files.read(&target.file, info, 0, &mut first)?;
                }
                Kind::of_content(&first)
            }
        };
        if let Some(Stat { unique, .. }) = stat {
            self.kinds.put(unique, kind);
        }
        Ok(kind)
    }
}

/// What a failure means to the viewer; what is nobody's mistake is logged in full.
fn refusal(file: &Triple, error: &Error) -> Refusal {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Invalid => log::debug!("{error}"),
        _ => log::warn!("file {} of {}: {error}", file.fileid, file.userid),
    }
    refusal_of(error)
}

/// The header lines that say which upload it is. What a client keeps it must ask about each time:
/// the same ID may stand for another upload tomorrow, or for none.
fn validator_headers(validator: Option<&Validator>) -> Vec<Header> {
    let mut headers = vec![header("Cache-Control", "no-cache")];
    if let Some(validator) = validator {
        headers.push(header("ETag", validator.etag.as_str()));
        if let Some(modified) = validator.modified {
            headers.push(header("Last-Modified", httpdate::fmt_http_date(modified)));
        }
    }
    headers
}

/// The header lines that say what it is, and keep a browser from running it.
fn kind_headers(target: &Target, kind: Kind) -> Vec<Header> {
    let is_attachment = target.download || !kind.is_shown;
    let named;
    let name = match &target.name {
        Some(name) => name,
        None if kind.extension.is_empty() => target.file.fileid.as_str(),
        None => {
            named = format!("{}.{}", target.file.fileid, kind.extension);
            &named
        }
    };
    let mut headers = vec![
        header("X-Content-Type-Options", "nosniff"),
        header("Content-Disposition", media::disposition(is_attachment, name)),
    ];
    if !kind.is_shown {
        // Should a browser show it in spite of all that, then as nobody's, and without scripts.
        headers.push(header("Content-Security-Policy", "sandbox; default-src 'none'"));
    }
    headers
}

/// Status and content, with the header lines that tell of it.
pub fn content(
    range: Option<&str>,
    size: u64,
    kind: Kind,
    headers: &mut Vec<Header>,
) -> std::result::Result<(StatusCode, Vec<Piece>), Refusal> {
    let selection = range.map_or(Selection::Whole, |range| range::select(range, size));
    let (status, content_type, content) = match selection {
        Selection::Unsatisfiable => {
            let text = format!("the file has {size} bytes, and none of those that the Range asks for");
            let refusal = Refusal::new(status_code::RANGE_NOT_SATISFIABLE, text);
            return Err(refusal.with_header(header("Content-Range", format!("bytes */{size}"))));
        }
        Selection::Whole => {
            let whole = size.checked_sub(1).map(|last| Piece::File(Part { first: 0, last }));
            (status_code::OK, kind.content_type(), whole.into_iter().collect())
        }
        Selection::Parts(parts) => match parts[..] {
            [part] => {
                headers.push(header("Content-Range", content_range(part, size)));
                (status_code::PARTIAL_CONTENT, kind.content_type(), vec![Piece::File(part)])
            }
            _ => {
                let boundary = format!("tnv{:032x}", rand::random::<u128>());
                let content_type = format!("multipart/byteranges; boundary={boundary}");
                (status_code::PARTIAL_CONTENT, content_type, multipart(&parts, size, kind, &boundary))
            }
        },
    };
    headers.push(header("Accept-Ranges", "bytes"));
    headers.push(header("Content-Type", content_type));
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
