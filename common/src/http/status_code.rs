//! The status codes that are used, by name. Their reason phrases are tiny_http's.

#![expect(missing_docs, reason = "the names are those of RFC 9110")]

use tiny_http::StatusCode;

pub const OK: StatusCode = StatusCode(200);
pub const NO_CONTENT: StatusCode = StatusCode(204);
pub const PARTIAL_CONTENT: StatusCode = StatusCode(206);
pub const NOT_MODIFIED: StatusCode = StatusCode(304);
pub const BAD_REQUEST: StatusCode = StatusCode(400);
pub const FORBIDDEN: StatusCode = StatusCode(403);
pub const NOT_FOUND: StatusCode = StatusCode(404);
pub const METHOD_NOT_ALLOWED: StatusCode = StatusCode(405);
pub const GONE: StatusCode = StatusCode(410);
pub const PRECONDITION_FAILED: StatusCode = StatusCode(412);
pub const URI_TOO_LONG: StatusCode = StatusCode(414);
pub const RANGE_NOT_SATISFIABLE: StatusCode = StatusCode(416);
pub const HEAD_TOO_LARGE: StatusCode = StatusCode(431);
pub const BAD_GATEWAY: StatusCode = StatusCode(502);
pub const UNAVAILABLE: StatusCode = StatusCode(503);
pub const VERSION_NOT_SUPPORTED: StatusCode = StatusCode(505);
