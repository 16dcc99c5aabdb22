//! Answers a GET or HEAD: finds the file, evaluates conditions and ranges, and plans the content. The first
//! piece is read before the response is sent: if that fails, the viewer still gets an error.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tnv_common::auth::signed_link::{LinkError, LinkSecrets};
use tnv_common::error::{Error, ErrorKind, Result};
use tnv_common::http::refusal::Refusal;
use tnv_common::http::request_head::RequestHead;
use tnv_common::http::response::{self, Response, header};
use tnv_common::http::{Header, Method, status_code};
use tnv_common::limits::COPY_BYTES;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::Stat;

use crate::download::buffers::{self, Buffer, Buffers, PIECE_BYTES};
use crate::download::conditional::{Conditions, Validator, Verdict};
use crate::download::content::{Content, Piece, Source};
use crate::download::disposition::disposition;
use crate::download::files::Files;
use crate::download::kind_cache::KindCache;
use crate::download::media::{Kind, SNIFF_BYTES};
use crate::download::partial;
use crate::download::target::{self, Target};
use crate::globals::Owner;
use crate::status_code::refusal_of;

/// Serves files from `files`.
pub struct FileService<F> {
    files: F,
    owner: Owner,
    /// The secrets of signed links, if links must be signed.
    links: Option<LinkSecrets>,
    kinds: KindCache,
    buffers: Buffers,
    /// The number of responses that are worked on.
    active: AtomicUsize,
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

/// A file that was looked up, with its first bytes if they were read together with that.
struct OpenFile<I> {
    info: I,
    first: Option<(Buffer, usize)>,
}

/// Counts a response as worked on until it is dropped.
pub struct ActiveResponse<'a>(&'a AtomicUsize);

impl Drop for ActiveResponse<'_> {
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
            kinds: KindCache::default(),
            buffers: Buffers::default(),
            active: AtomicUsize::new(0),
        }
    }

    /// The same; links must be signed with one of these secrets, if there are any.
    pub fn with_links(self, links: Option<LinkSecrets>) -> FileService<F> {
        FileService { links, ..self }
    }

    /// Checks the link's signature. It is checked before the file is looked up, so that an unsigned link
    /// reveals nothing.
    fn check_link(&self, request: &Request<'_>, file: &FileKey) -> std::result::Result<(), Refusal> {
        let Some(links) = self.links.as_ref() else { return Ok(()) };
        let query = request.target.split_once('?').map_or("", |(_, query)| query);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        links.check(file, query, now).map_err(|fault| match fault {
            LinkError::Forged(why) => Refusal::new(status_code::FORBIDDEN, why),
            LinkError::Expired => Refusal::new(status_code::GONE, "the link has expired; ask for a new one"),
        })
    }

    /// Counts a response as worked on: many at once get smaller pieces.
    pub fn enter(&self) -> ActiveResponse<'_> {
        self.active.fetch_add(1, Ordering::Relaxed);
        ActiveResponse(&self.active)
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
        let (status, pieces) = match request.conditions.evaluate(validator.as_ref()) {
            Verdict::NotModified => (status_code::NOT_MODIFIED, vec![]),
            Verdict::Failed => {
                return Err(Refusal::new(
                    status_code::PRECONDITION_FAILED,
                    "the file does not meet the request's condition",
                ));
            }
            Verdict::Proceed => {
                let kind = self.kind(&target, &info, first.as_ref()).map_err(failed)?;
                headers.extend(kind_headers(&target, kind));
                // Ranges are defined for GET alone.
                let range = request.range.filter(|_| !request.is_head);
                let range = range.filter(|_| request.conditions.range_applies(validator.as_ref(), now));
                partial::plan(range, size, kind, &mut headers)?
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

    /// Looks the file up. A plain request gets the first piece with the same round trip.
    fn find(&self, request: &Request<'_>, file: &FileKey) -> Result<OpenFile<F::Info>> {
        if !request.is_plain {
            return Ok(OpenFile { info: self.files.look_up(file)?, first: None });
        }
        let mut buffer = self.buffers.take(self.piece_bytes(COPY_BYTES));
        let (info, bytes) = self.files.open(file, &mut buffer)?;
        Ok(OpenFile { info, first: Some((buffer, bytes)) })
    }

    /// Loads the next bytes of a response's content, at most so many.
    pub fn load(&self, content: &mut Content<F::Info>, bytes: usize) -> Result<()> {
        let left = usize::try_from(content.left()).unwrap_or(usize::MAX);
        content.load(&self.files, self.buffers.take(self.piece_bytes(bytes).min(left)))
    }

    fn piece_bytes(&self, bytes: usize) -> usize {
        let others = self.active.load(Ordering::Relaxed).saturating_sub(1);
        buffers::piece_bytes(bytes, others)
    }

    /// The file's kind: by the requested name, else by its first bytes.
    fn kind(&self, target: &Target, info: &F::Info, first: Option<&(Buffer, usize)>) -> Result<Kind> {
        match target.name.as_deref().and_then(Kind::of_name) {
            Some(named) if named.is_text() => Ok(named.with_content(self.sniffed(target, info, first)?)),
            Some(named) => Ok(named),
            None => self.sniffed(target, info, first),
        }
    }

    /// The kind by the first bytes. They are read once an upload.
    fn sniffed(&self, target: &Target, info: &F::Info, first: Option<&(Buffer, usize)>) -> Result<Kind> {
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

/// The refusal for a failure. A failure of the deployment is logged in full.
fn refusal(file: &FileKey, error: &Error) -> Refusal {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Invalid => log::debug!("{error}"),
        _ => log::warn!("file {} of user {} is unavailable: {error}", file.fileid, file.userid),
    }
    refusal_of(error)
}

/// The header lines that identify the upload. Caches must revalidate: the same ID may name another upload
/// tomorrow, or none.
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

/// The header lines that say what the file is, and keep a browser from running it.
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
        header("Content-Disposition", disposition(is_attachment, name)),
    ];
    if !kind.is_shown {
        // If a browser shows it anyway: in an origin of its own, without scripts.
        headers.push(header("Content-Security-Policy", "sandbox; default-src 'none'"));
    }
    headers
}
