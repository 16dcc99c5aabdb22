//! Plans the content of a response: the whole file, one part (206), or several parts as multipart/byteranges.

use tnv_common::http::refusal::Refusal;
use tnv_common::http::response::header;
use tnv_common::http::{Header, StatusCode, status_code};

use crate::download::content::Piece;
use crate::download::media::Kind;
use crate::download::range::{self, Part, Selection};

/// The status and the content of a response. Adds the header lines that describe them.
pub fn plan(
    range: Option<&str>,
    size: u64,
    kind: Kind,
    headers: &mut Vec<Header>,
) -> Result<(StatusCode, Vec<Piece>), Refusal> {
    let selection = range.map_or(Selection::Whole, |range| range::select(range, size));
    let (status, content_type, content) = match selection {
        Selection::Unsatisfiable => {
            let text = format!("the file has {size} bytes and none of the requested range");
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
