//! The wire against bytes that existing programs sent: what they send is understood, leftover
//! memory after each NUL included, and what they understand is what is sent.

use std::path::Path;

use tnv_common::error::ErrorKind;
use tnv_common::proto::tnv::command;
use tnv_common::proto::tnv::failure::decode_failure;
use tnv_common::proto::tnv::file_key::{FILE_KEY_BYTES, FileKey};
use tnv_common::proto::tnv::ids::{decode_id_key, encode_id_key};
use tnv_common::proto::tnv::storage::{
    CheckedUpload, DOWNLOAD_BYTES, Download, READ_BYTES, Read, STAT_BYTES, Stat, UPLOAD_BYTES,
    UPLOAD_CHECKED_BYTES, Upload, VersionId, file_table,
};
use tnv_common::proto::tnv::tracker::{Addresses, HEARTBEAT_BYTES, Heartbeat, JOIN_BYTES, Join, Route};
use tnv_common::proto::{AppId, FileId, GroupName, HostName, UserId};
use tnv_common::rpc::dialect::{Dialect, Tnv};
use tnv_common::rpc::header::{HEADER_BYTES, Header};

/// A captured message: its header and its body.
fn captured(name: &str) -> (Header, Vec<u8>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/wire").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let digits: Vec<u8> = text.trim().bytes().collect();
    let bytes: Vec<u8> = digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let (head, body) = bytes.split_first_chunk::<HEADER_BYTES>().expect("a header");
    let header = Header::decode(head).expect("a good header");
    (header, body.to_vec())
}

fn request<const N: usize>(name: &str, command: u8) -> [u8; N] {
    let (header, body) = captured(&format!("{name}.request.hex"));
    assert_eq!((header.command, header.status), (command, 0));
    assert_eq!(header.body_bytes, body.len() as u64);
    body[..N].try_into().unwrap()
}

fn tnv001(fileid: &str) -> FileKey {
    FileKey {
        appid: AppId::new("tnvideo").unwrap(),
        userid: UserId::new("tnv001").unwrap(),
        fileid: FileId::new(fileid).unwrap(),
    }
}

const FILE: &str = "6b02367106d0133ebe4b94347656a0000160";

#[test]
fn a_captured_join_is_understood() {
    let join = Join::decode(&request::<JOIN_BYTES>("JOIN", command::JOIN)).unwrap();
    assert_eq!((join.version.as_str(), join.group.as_str(), join.host.as_str()), ("1.0", "group001", "vm"));
    assert_eq!((join.port, join.started, join.joined), (23000, 0x6b02_3663, 0x6b02_3663));
    assert_eq!(join.encode(), request::<JOIN_BYTES>("JOIN", command::JOIN), "this one was zero filled");
}

#[test]
fn a_captured_heartbeat_is_understood() {
    let beat = Heartbeat::decode(&request::<HEARTBEAT_BYTES>("BEAT", command::HEARTBEAT)).unwrap();
    assert_eq!((beat.group.as_str(), beat.host.as_str()), ("group001", "vm"));
    assert_eq!(beat.encode().len(), HEARTBEAT_BYTES);
}

#[test]
fn a_captured_question_for_addresses_is_understood() {
    let asked = Addresses::decode(&request::<FILE_KEY_BYTES>("SADDRS", command::ADDRESSES)).unwrap();
    assert_eq!((asked.appid.as_str(), asked.userid.as_str()), ("tnvideo", "tnv001"));
    assert_eq!(Addresses::decode(asked.encode().as_slice().try_into().unwrap()).unwrap(), asked);
}

#[test]
fn a_captured_route_is_read_and_written_alike() {
    let (_, body) = captured("SADDRS.response.hex");
    let route = Route::decode(&body).unwrap();
    let expected = Route {
        group: GroupName::new("group001").unwrap(),
        addresses: vec!["127.0.0.1:23000".parse().unwrap()],
    };
    assert_eq!(route, expected);
    assert_eq!(route.encode(), body);
}

#[test]
fn captured_file_commands_are_understood_through_leftover_memory() {
    let upload = Upload::decode(&request::<UPLOAD_BYTES>("UPLOAD", command::UPLOAD), 0x1b3).unwrap();
    assert_eq!(upload, Upload { file: tnv001(FILE), size: 27 });
    assert_eq!(FileKey::decode(&request("FILESIZE", command::FILE_SIZE)).unwrap(), tnv001(FILE));
    assert_eq!(FileKey::decode(&request("DELETE", command::DELETE)).unwrap(), tnv001(FILE));
    let whole = Download::decode(&request::<DOWNLOAD_BYTES>("DOWNLOAD", command::DOWNLOAD)).unwrap();
    assert_eq!(whole, Download { file: tnv001(FILE), offset: 0, size: 0 });
    let range =
        Download::decode(&request::<DOWNLOAD_BYTES>("DOWNLOAD_RANGE_6_9", command::DOWNLOAD)).unwrap();
    assert_eq!(range, Download { file: tnv001(FILE), offset: 6, size: 9 });
}

#[test]
fn an_upload_whose_length_and_size_disagree_is_refused() {
    let body = request::<UPLOAD_BYTES>("UPLOAD", command::UPLOAD);
    for wrong in [0x1b2, 0x1b4, 0, u64::MAX >> 1] {
        assert_eq!(Upload::decode(&body, wrong).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn a_checked_upload_is_an_upload_with_its_checksum_behind_the_size() {
    let upload = Upload { file: tnv001(FILE), size: 27 };
    let checked = CheckedUpload { upload: upload.clone(), crc32: 0xCBF4_3926 };
    let mut body: [u8; UPLOAD_CHECKED_BYTES] = checked.encode().try_into().unwrap();
    assert_eq!(body[..UPLOAD_BYTES], upload.encode()[..]);
    assert_eq!(body[UPLOAD_BYTES..], [0, 0, 0, 0, 0xCB, 0xF4, 0x39, 0x26]);
    let bytes = UPLOAD_CHECKED_BYTES as u64 + 27;
    assert_eq!(CheckedUpload::decode(&body, bytes).unwrap(), checked);
    for wrong in [bytes - 8, bytes + 1, 0] {
        assert_eq!(CheckedUpload::decode(&body, wrong).unwrap_err().kind(), ErrorKind::Invalid);
    }
    body[UPLOAD_BYTES + 3] = 1;
    assert!(CheckedUpload::decode(&body, bytes).is_err(), "more than 32 bits");
}

#[test]
fn a_download_is_held_against_the_size_of_the_file() {
    let ask = |offset, size| Download { file: tnv001(FILE), offset, size }.check(27);
    assert_eq!(ask(0, 0), Ok((0, 27)));
    assert_eq!(ask(6, 9), Ok((6, 9)));
    assert_eq!(ask(27, 0), Ok((27, 0)));
    for (offset, size) in [(28, 0), (-1, 0), (0, 28), (0, -1), (20, 8), (i64::MIN, 0), (1, i64::MAX)] {
        assert!(ask(offset, size).is_err(), "{offset} {size}");
    }
}

#[test]
fn a_captured_id_key_is_understood() {
    let (header, body) = captured("ID_GET.request.hex");
    assert_eq!(header.command, command::GET_ID);
    let key = decode_id_key(&body).unwrap();
    assert_eq!((key.as_str(), encode_id_key(&key)), ("../data", body));
    assert!(decode_id_key(b"").is_err());
    assert!(decode_id_key(b"\0").is_err());
    assert!(decode_id_key(b"../data").is_err(), "no NUL");
    assert!(decode_id_key(&[b'k'; 66]).is_err());
    let longest = [&[b'k'; 64][..], b"\0"].concat();
    assert!(decode_id_key(&longest).is_ok());
}

#[test]
fn captured_failures_are_read_as_their_texts() {
    let (header, body) = captured("ERROR.response.hex");
    assert_eq!((header.command, header.status), (102, -3));
    let error = decode_failure(&body);
    assert_eq!(error.message(), "[vm] read database fail, fileid: 6b02367106d0133ebe4b94347656a0000160");
    assert_eq!(decode_failure(&[0xFF, 0xFF]).kind(), ErrorKind::Internal, "an empty text is accepted");
}

#[test]
fn a_failure_is_written_as_existing_clients_read_it() {
    let error = tnv_common::error::Error::new(ErrorKind::NotFound, "ü".repeat(2000));
    let message = Tnv::new(102, "vm").failure_reply(&error);
    let header = Header::decode(message[..10].try_into().unwrap()).unwrap();
    assert_eq!((header.command, header.status, header.body_bytes as usize), (102, -3, message.len() - 10));
    assert!(message.len() <= 10 + 2 + 1024);
    assert_eq!(message.last(), Some(&0));
    assert_eq!(decode_failure(&message[10..]).kind(), ErrorKind::NotFound);
}

#[test]
fn an_id_servers_failure_fills_the_18_bytes_that_existing_storages_read() {
    let message = Tnv::new(101, "").failure_reply(&tnv_common::error::Error::new(ErrorKind::Internal, ""));
    assert!(message.len() >= 18);
    assert!(
        i64::from_be_bytes(message[10..18].try_into().unwrap()) < 0,
        "the value they take must be refused"
    );
}

#[test]
fn what_was_added_is_read_as_it_was_written() {
    let stat =
        Stat { size: 5 << 30, time: 0x5F9E_3FA7, crc32: Some(0xDEAD_BEEF), unique: VersionId([7; 16]) };
    let bytes: [u8; STAT_BYTES] = stat.encode().try_into().unwrap();
    assert_eq!(Stat::decode(&bytes), Ok(stat));
    let read =
        Read { download: Download { file: tnv001("f"), offset: 1, size: 2 }, unique: VersionId([9; 16]) };
    let bytes: [u8; READ_BYTES] = read.encode().try_into().unwrap();
    assert_eq!(Read::decode(&bytes), Ok(read));
}

#[test]
fn a_field_without_nul_is_refused() {
    for field in [0..16, 16..272, 272..400] {
        let mut body = request::<FILE_KEY_BYTES>("FILESIZE", command::FILE_SIZE);
        body[field].fill(b'x');
        assert_eq!(FileKey::decode(&body).unwrap_err().kind(), ErrorKind::Invalid);
    }
}

#[test]
fn a_host_name_with_control_characters_is_refused() {
    assert!(HostName::new("a\nSTATUS: ACTIVE").is_err());
}

#[test]
fn users_are_in_the_tables_where_existing_servers_put_them() {
    // The example of the specification, and values computed apart from this code.
    assert_eq!(file_table(&UserId::new("tnv001").unwrap()), 2);
    assert_eq!(file_table(&UserId::new("ü").unwrap()), TABLE_OF_UMLAUT);
}

/// `ü` is C3 BC: -61 and -68 as signed bytes. h = 0xFFFFFFC3 after the first; then
/// h ^ !((h << 11) ^ 0xFFFFFFBC ^ (h >> 5)).
const TABLE_OF_UMLAUT: u8 = {
    let h = 0xFFFF_FFC3_u32;
    let h = h ^ !((h << 11) ^ 0xFFFF_FFBC ^ (h >> 5));
    ((h & 0x7FFF_FFFF) % 3) as u8 + 1
};
