//! The fuzz target of replies: each command reads arbitrary bytes as its reply. cargo-fuzz calls it
//! (`fuzz/README.md`), and so does the test here, for a bounded time. No program contains it.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use tnv_common::error::Result;
use tnv_common::net::Stream;
use tnv_common::proto::tnv::failure::FAILURE_BYTES_MAX;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::{Download, Read, VersionId};
use tnv_common::proto::tnv::tracker::{Addresses, ROUTE_ADDRESSES_MAX};
use tnv_common::proto::{AppId, FileId, UserId};
use tnv_common::rpc::client::Conn;
use tnv_common::text::is_harmful;

use crate::conn;

/// What a socket buffers. More would block.
const REPLY_BYTES_MAX: usize = 64 << 10;

/// The first byte selects the command; the rest is all that the server sends.
pub fn client_replies(data: &[u8]) {
    let Some((command, sent)) = data.split_first() else { return };
    let sent = &sent[..sent.len().min(REPLY_BYTES_MAX)];
    let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
    theirs.write_all(sent).expect("the reply fits the socket");
    theirs.shutdown(Shutdown::Write).expect("shut down");
    let stream = Stream::from_unix(ours).expect("a stream");
    let mut conn = Conn::new(stream, ([127, 0, 0, 1], 23000).into());
    let appid = AppId::new("tnvideo").expect("an appid");
    let userid = UserId::new("tnv001").expect("a userid");
    let file = FileKey { appid, userid, fileid: FileId::new("f").expect("a fileid") };
    let user = Addresses { appid: file.appid.clone(), userid: file.userid.clone() };
    let download = || Download { file: file.clone(), offset: 0, size: 0 };
    let outcome = match command % 8 {
        0 => conn::groups(&mut conn).map(|text| {
            assert!(!text.replace('\n', "").contains(is_harmful), "{text:?}");
        }),
        1 => conn::addresses(&mut conn, &user).map(|route| {
            assert!((1..=ROUTE_ADDRESSES_MAX).contains(&route.addresses.len()));
        }),
        2 => conn::find_addresses(&mut conn, &user).map(drop),
        3 => conn::file_size(&mut conn, &file).map(|size| assert!(i64::try_from(size).is_ok())),
        4 => conn::stat(&mut conn, &file).map(drop),
        5 => conn::delete(&mut conn, &file),
        6 => conn::download(&mut conn, &download()).and_then(|bytes| content(&mut conn, bytes, sent)),
        _ => {
            let read = Read { download: download(), unique: VersionId([7; 16]) };
            conn::read(&mut conn, &read).and_then(|bytes| content(&mut conn, bytes, sent))
        }
    };
    match outcome {
        Ok(()) => assert!(conn.replied() && sent.len() >= 10, "a success without a reply"),
        Err(error) => {
            assert!(conn.is_broken() || conn.replied(), "a failure leaves no unread bytes on the connection");
            // An escaped byte takes three.
            assert!(error.message().len() <= 3 * FAILURE_BYTES_MAX, "{} bytes", error.message().len());
            assert!(!error.message().is_empty() && !error.message().contains(is_harmful), "{error:?}");
        }
    }
}

/// Reads content to its end. It must be what the server sent, and as long as announced.
fn content(conn: &mut Conn, bytes: u64, sent: &[u8]) -> Result<()> {
    let mut content = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match conn.read_body_some(&mut piece)? {
            0 => break,
            count => content.extend_from_slice(&piece[..count]),
        }
    }
    assert_eq!(content.len() as u64, bytes);
    assert!(sent[10..].starts_with(&content));
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_arbitrary_reply_causes_no_panic() {
        tnv_tests::fuzz::bounded("client_replies", super::client_replies);
    }
}
