//! Proofs of application keys.

mod peer;

use peer::{Peer, Then, appid, file, tracker, userid};
use tnv_client::{AppKeys, Client, ErrorKind, Options, Secret};
use tnv_common::proto::names::APPID_BYTES;
use tnv_common::proto::tnv::auth::{NONCE_BYTES, Proof};
use tnv_common::proto::tnv::{REPLY_STORAGE, command};

const KEY: &str = "0123456789abcdef0123456789abcdef";
const CONTENT: &[u8] = b"content";

fn keys(text: &str) -> AppKeys {
    let mut keys = AppKeys::default();
    keys.insert(appid(), Secret::new(text).unwrap());
    keys
}

/// A storage that needs a proof on each connection, and closes a connection after `requests_max` requests.
fn protected(requests_max: usize) -> Peer {
    Peer::new(move |request| {
        let nonce = [u8::try_from(request.conn).unwrap(); NONCE_BYTES];
        let body = request.body();
        let is_last = (request.nth + 1).is_multiple_of(requests_max);
        match request.header.command {
            command::CHALLENGE => {
                assert_eq!(body.len(), APPID_BYTES);
                request.reply(REPLY_STORAGE, &nonce);
            }
            command::PROVE => {
                let proof = Proof::decode(body.as_slice().try_into().unwrap()).unwrap();
                if keys(KEY).proven(&proof.appid, &nonce, &proof.nonce, &proof.mac).is_none() {
                    request.refuse(ErrorKind::Forbidden, "no proof");
                    return Then::Close;
                }
                request.reply(REPLY_STORAGE, &[]);
            }
            _ => {
                request.reply(REPLY_STORAGE, &[]);
            }
        }
        if is_last { Then::Close } else { Then::Keep }
    })
}

fn client(storage: &Peer, key: &str) -> Client {
    let options = Options { app_keys: keys(key), ..Options::default() };
    Client::new(&[tracker(&[storage]).address.to_string()], options).unwrap()
}

fn change(client: &Client) -> tnv_client::Result<()> {
    client.upload(&appid(), &userid(), &mut &*CONTENT, CONTENT.len() as u64)?;
    client.delete(&file("f"))
}

#[test]
fn a_key_is_proven_once_a_connection_and_again_on_the_next() {
    use command::{CHALLENGE, DELETE, PROVE, UPLOAD};
    let storage = protected(usize::MAX);
    let client = client(&storage, KEY);
    (0..3).for_each(|_| change(&client).unwrap());
    assert_eq!(storage.commands(), [CHALLENGE, PROVE, UPLOAD, DELETE, UPLOAD, DELETE, UPLOAD, DELETE]);

    // It closes after four requests. The next request finds the idle connection closed and proves on a new
    // one.
    let storage = protected(4);
    let client = self::client(&storage, KEY);
    change(&client).unwrap();
    // On an open connection the upload would be sent completely, and looked up before it is sent again.
    while storage.closed() == 0 {
        std::thread::yield_now();
    }
    change(&client).unwrap();
    assert_eq!(storage.commands(), [CHALLENGE, PROVE, UPLOAD, DELETE].repeat(2));
}

#[test]
fn a_read_needs_no_proof() {
    let storage = protected(usize::MAX);
    let client = client(&storage, KEY);
    // The reply is no valid size. Only the requests matter.
    let _ = client.file_size(&file("f"));
    assert!(!storage.commands().contains(&command::CHALLENGE), "{:?}", storage.commands());
}

#[test]
fn a_wrong_key_fails_at_once() {
    let storage = protected(usize::MAX);
    let error = change(&client(&storage, "another-key-0123456789")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Forbidden, "{error}");
    assert_eq!(storage.commands(), [command::CHALLENGE, command::PROVE]);
}
