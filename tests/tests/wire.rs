//! The protocol as existing clients speak it: every captured message is replayed, leftover memory
//! included, and the answer held against the captured one; then every refusal that the document asks
//! for.

use std::time::Duration;

use rand::seq::SliceRandom;
use tnv_tests::cluster::{Part, free_address, statuses};
use tnv_tests::raw::{self, Frame, Raw, captured, message};
use tnv_tests::{Builder, Cluster, PATIENCE, patient};

/// How soon a server must have closed a connection whose framing is lost: long before it would close
/// one that is idle, after 300 s.
const CLOSE_BOUND: Duration = Duration::from_secs(100);

/// How each message is cut up: whole, byte by byte, in the middle of the header and after it.
const PIECES: [usize; 4] = [usize::MAX, 1, 7, 10];

/// A tracker alone, in the time zone of the capture.
fn tracker(name: &str) -> Cluster {
    Builder::new(name).ids(0).groups(&["group001"], 0).env("TZ", "UTC").start()
}

/// Replays a captured request in fragments and gives the reply.
fn replay(raw: &mut Raw, name: &str, piece: usize) -> Frame {
    raw.send_in_pieces(&captured(&format!("{name}.request")), piece, Duration::ZERO).frame()
}

/// The captured reply as a frame.
fn expected(name: &str) -> Frame {
    let bytes = captured(&format!("{name}.response"));
    Frame { command: bytes[8], status: bytes[9] as i8, body: bytes[10..].to_vec() }
}

#[test]
fn captured_join_beat_addresses_and_groups_are_answered_as_captured() {
    for piece in PIECES {
        let cluster = tracker("captured-tracker");
        let mut storage = Raw::connect(cluster.tracker());
        assert_eq!(replay(&mut storage, "JOIN", piece).bytes(), captured("JOIN.response"));
        assert_eq!(statuses(cluster.tracker())["127.0.0.1:23000"], "ONLINE");
        assert_eq!(replay(&mut storage, "BEAT", piece).bytes(), captured("BEAT.response"));
        let mut client = Raw::connect(cluster.tracker());
        assert_eq!(replay(&mut client, "SADDRS", piece).bytes(), captured("SADDRS.response"));
        let groups = replay(&mut client, "GROUPS", piece);
        let said = String::from_utf8(groups.success(100)).expect("UTF-8");
        let wanted = String::from_utf8(expected("GROUPS").body).expect("UTF-8");
        assert_eq!(said.lines().count(), wanted.lines().count(), "{said}");
        for (line, wanted) in said.lines().zip(wanted.lines()) {
            // The times of joining and beating are this run's; STARTUP TIME travels in the join.
            match wanted.contains("JOIN TIME: ") || wanted.contains("BEAT TIME: ") {
                true => assert_ctime(line, wanted),
                false => assert_eq!(line, wanted),
            }
        }
        // The next message on the same connection, both ways. A second beat shows so short an interval
        // that the storage would soon be OFFLINE: it comes last.
        assert_eq!(replay(&mut client, "SADDRS", piece).bytes(), captured("SADDRS.response"));
        assert_eq!(replay(&mut storage, "BEAT", piece).bytes(), captured("BEAT.response"));
    }
}

/// Holds a line's name against the captured one and its time against the form of `ctime`.
fn assert_ctime(line: &str, wanted: &str) {
    let at = wanted.find("TIME: ").expect("a time") + 6;
    assert_eq!(&line[..at], &wanted[..at]);
    let words: Vec<_> = line[at..].split_whitespace().collect();
    assert_eq!(line[at..].len(), 24, "{line:?}");
    assert_eq!(words.len(), 5, "{line:?}");
    assert!(words[0].len() == 3 && words[1].len() == 3 && words[3].len() == 8, "{line:?}");
    assert!(words[4].parse::<u32>().is_ok_and(|year| year > 2000), "{line:?}");
}

#[test]
fn captured_id_requests_are_answered_as_captured() {
    for piece in PIECES {
        let cluster = Builder::new("captured-id").trackers(0).groups(&["group001"], 0).start();
        let mut raw = Raw::connect(cluster.id());
        // The capture is of a key's second value.
        let first = replay(&mut raw, "ID_GET", piece);
        assert_eq!(first.success(101), 0_i64.to_be_bytes());
        assert_eq!(replay(&mut raw, "ID_GET", piece).bytes(), captured("ID_GET.response"));
    }
}

#[test]
fn captured_file_commands_are_answered_as_captured() {
    let cluster = Builder::new("captured-storage").start();
    for piece in PIECES {
        let mut raw = Raw::connect(cluster.storage());
        for name in ["UPLOAD", "FILESIZE", "DOWNLOAD", "DOWNLOAD_RANGE_6_9", "DELETE"] {
            let reply = replay(&mut raw, name, piece);
            assert_eq!(reply.bytes(), captured(&format!("{name}.response")), "{name} in pieces of {piece}");
        }
        assert_eq!(
            replay(&mut raw, "UPLOAD_ZERO_BYTES", piece).bytes(),
            captured("UPLOAD_ZERO_BYTES.response")
        );
        let size = raw.ask(&raw::filesize("tnvideo", "tnv001", "w6b023c51z"));
        assert_eq!(size.success(102), 0_i64.to_be_bytes());
        let content = raw.ask(&raw::download("tnvideo", "tnv001", "w6b023c51z", 0, 0));
        assert_eq!(content.success(102), b"");
        assert_eq!(raw.ask(&raw::delete("tnvideo", "tnv001", "w6b023c51z")).success(102), b"");
    }
}

#[test]
fn captured_failures_fail_with_a_reason_in_one_frame() {
    let cluster = Builder::new("captured-failures").start();
    for piece in PIECES {
        let mut raw = Raw::connect(cluster.storage());
        let text = replay(&mut raw, "ERROR", piece).failure(102);
        assert!(text.contains("6b02367106d0133ebe4b94347656a0000160"), "which file? {text}");

        // The captured duplicate: the ID exists with four bytes, and the second upload has six.
        cluster_put(&cluster, "w6b023c51", b"four");
        let mut raw = Raw::connect(cluster.storage());
        let text = replay(&mut raw, "ERROR_UPLOAD_DUPLICATE_TWO_FRAMES", piece).failure(102);
        assert!(text.contains("w6b023c51"), "which file? {text}");
        // One frame: the connection is closed now, or the very next thing on it is the next reply.
        let still_there =
            raw.try_send(&raw::filesize("tnvideo", "tnv001", "w6b023c51")).map(|()| raw.try_frame());
        if let Ok(Ok(Some(frame))) = still_there {
            assert_eq!(frame.success(102), 4_i64.to_be_bytes());
        }
        assert_eq!(
            raw::ask(cluster.storage(), &raw::delete("tnvideo", "tnv001", "w6b023c51")).success(102),
            b""
        );

        cluster_put(&cluster, "w6b023c51o", b"four");
        let mut raw = Raw::connect(cluster.storage());
        let text = replay(&mut raw, "ERROR_DOWNLOAD_BAD_OFFSET", piece).failure(102);
        assert!(text.contains("offset") && text.contains('5') && text.contains('4'), "{text}");
        assert_eq!(
            raw::ask(cluster.storage(), &raw::delete("tnvideo", "tnv001", "w6b023c51o")).success(102),
            b""
        );

        let mut raw = Raw::connect(cluster.id());
        let text = replay(&mut raw, "ERROR_ID_UNKNOWN_COMMAND", piece).failure(101);
        assert!(text.contains("99"), "{text}");
        assert!(raw.closes_within(CLOSE_BOUND), "an unknown command loses the framing");

        let mut raw = Raw::connect(cluster.tracker());
        let text = replay(&mut raw, "ERROR_SADDRS_UNKNOWN_APPID", piece).failure(100);
        assert!(text.contains("badapp"), "{text}");
    }
}

fn cluster_put(cluster: &Cluster, fileid: &str, content: &[u8]) {
    cluster.put("tnv001", fileid, content);
}

#[test]
fn captured_question_for_addresses_fails_while_no_storage_is_active() {
    let cluster = tracker("no-active");
    for piece in PIECES {
        replay(&mut Raw::connect(cluster.tracker()), "ERROR_SADDRS_NO_ACTIVE_STORAGE", piece).failure(100);
    }
    // One that joined and did not beat is ONLINE, which is not ACTIVE.
    let mut storage = Raw::connect(cluster.tracker());
    replay(&mut storage, "JOIN", usize::MAX).success(100);
    replay(&mut Raw::connect(cluster.tracker()), "ERROR_SADDRS_NO_ACTIVE_STORAGE", usize::MAX).failure(100);
}

#[test]
fn requests_sent_all_at_once_are_answered_in_order() {
    let cluster = Builder::new("pipelined").start();
    let mut raw = Raw::connect(cluster.storage());
    let mut all = Vec::new();
    for index in 0..20_u8 {
        all.extend(raw::upload("tnvideo", "tnv001", &format!("p{index}"), &vec![index; usize::from(index)]));
        all.extend(raw::filesize("tnvideo", "tnv001", &format!("p{index}")));
        all.extend(raw::download("tnvideo", "tnv001", &format!("p{index}"), 0, 0));
        all.extend(raw::delete("tnvideo", "tnv001", &format!("p{index}")));
    }
    raw.send(&all);
    for index in 0..20_u8 {
        assert_eq!(raw.frame().success(102), b"");
        assert_eq!(raw.frame().success(102), i64::from(index).to_be_bytes());
        assert_eq!(raw.frame().success(102), vec![index; usize::from(index)]);
        assert_eq!(raw.frame().success(102), b"");
    }
}

#[test]
fn a_wrong_body_length_is_refused_and_the_connection_closed() {
    let cluster = Builder::new("lengths").start();
    let triple = raw::triple("tnvideo", "tnv001", "x");
    let (tracker, id, storage) = (cluster.tracker(), cluster.id(), cluster.storage());
    let resized = |body: &[u8], bytes: usize| {
        let mut body = body.to_vec();
        body.resize(bytes, 0);
        body
    };
    let join = raw::join("group001", "h", 1, 1);
    let beat = raw::beat("group001", "h");
    let cases: Vec<(_, u8, u8, Vec<u8>)> = vec![
        (tracker, 100, 10, resized(&join, 170)),
        (tracker, 100, 10, resized(&join, 172)),
        (tracker, 100, 10, vec![]),
        (tracker, 100, 11, resized(&beat, 145)),
        (tracker, 100, 11, resized(&beat, 147)),
        (tracker, 100, 12, resized(&triple, 399)),
        (tracker, 100, 12, resized(&triple, 401)),
        (tracker, 100, 13, vec![0]),
        (id, 101, 40, vec![b'k'; 66]),
        (id, 101, 40, vec![b'k'; 5000]),
        (storage, 102, 70, resized(&triple, 400)),
        (storage, 102, 70, resized(&triple, 407)),
        (storage, 102, 71, resized(&triple, 399)),
        (storage, 102, 71, resized(&triple, 401)),
        (storage, 102, 72, resized(&triple, 415)),
        (storage, 102, 72, resized(&triple, 417)),
        (storage, 102, 73, resized(&triple, 399)),
        (storage, 102, 73, resized(&triple, 401)),
        (storage, 102, 73, vec![]),
    ];
    for (address, reply, command, body) in cases {
        let mut raw = Raw::connect(address);
        raw.ask(&message(command, &body)).failure(reply);
        assert!(raw.closes_within(CLOSE_BOUND), "command {command} with {} bytes", body.len());
    }
}

#[test]
fn an_upload_whose_lengths_disagree_is_refused_and_leaves_nothing() {
    let cluster = Builder::new("upload-lengths").start();
    for (said, sent) in [(5_i64, 4_usize), (3, 4), (-1, 4), (i64::MIN, 0), (i64::MAX, 4), (0, 1)] {
        let mut body = raw::upload_head("tnvideo", "tnv001", "odd", said);
        body.extend(vec![7; sent]);
        let mut raw = Raw::connect(cluster.storage());
        raw.ask(&message(70, &body)).failure(102);
        drop(raw);
        raw::ask(cluster.storage(), &raw::filesize("tnvideo", "tnv001", "odd")).failure(102);
    }
    assert_eq!(cluster.file_rows(), 0);
    assert_eq!(cluster.content_files("group001"), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_negative_length_is_refused_and_the_connection_closed() {
    let cluster = Builder::new("negative").start();
    for (address, reply, commands) in [
        (cluster.tracker(), 100, &[10_u8, 11, 12, 13][..]),
        (cluster.id(), 101, &[40]),
        (cluster.storage(), 102, &[70, 71, 72, 73]),
    ] {
        for &command in commands {
            for length in [-1, i64::MIN, i64::MIN + 1, -400] {
                let mut raw = Raw::connect(address);
                raw.ask(&raw::head(command, length)).failure(reply);
                assert!(raw.closes_within(CLOSE_BOUND), "command {command}, length {length}");
            }
        }
    }
}

#[test]
fn an_oversize_length_is_refused_before_anything_is_sent() {
    let mut cluster = Builder::new("oversize").start();
    for (address, reply, commands) in [
        (cluster.tracker(), 100, &[10_u8, 11, 12, 13][..]),
        (cluster.id(), 101, &[40]),
        (cluster.storage(), 102, &[71, 72, 73]),
    ] {
        for &command in commands {
            for length in [i64::MAX, 1 << 50, 1 << 31] {
                let mut raw = Raw::connect(address);
                raw.ask(&raw::head(command, length)).failure(reply);
                drop(raw);
            }
        }
    }
    cluster.assert_peaks_below(128);
}

#[test]
fn an_unknown_command_is_refused_and_the_connection_closed() {
    let cluster = Builder::new("unknown").start();
    for (address, reply, commands) in [
        (cluster.tracker(), 100, &[0_u8, 9, 14, 40, 70, 100, 139, 255][..]),
        (cluster.id(), 101, &[0, 10, 39, 41, 70, 255]),
        (cluster.storage(), 102, &[0, 10, 40, 69, 74, 139, 255]),
    ] {
        for &command in commands {
            let mut raw = Raw::connect(address);
            let text = raw.ask(&message(command, &[])).failure(reply);
            assert!(text.contains(&command.to_string()), "{text}");
            assert!(raw.closes_within(CLOSE_BOUND), "command {command}");
            let mut raw = Raw::connect(address);
            raw.ask(&message(command, &[0; 300])).failure(reply);
        }
    }
}

/// Each field of each command without its NUL: the existing servers die of it.
#[test]
fn a_field_without_its_nul_is_refused_and_the_server_lives() {
    let mut cluster = Builder::new("no-nul").start();
    let (tracker, id, storage) = (cluster.tracker(), cluster.id(), cluster.storage());
    let with = |body: &[u8], at: usize, width: usize| {
        let mut body = body.to_vec();
        body[at..at + width].fill(b'a');
        body
    };
    let triple = raw::triple("tnvideo", "tnv001", "x");
    let mut upload = raw::upload_head("tnvideo", "tnv001", "x", 3);
    upload.extend(b"abc");
    let mut download = triple.clone();
    download.extend([0; 16]);
    for (at, width) in [(0, 16), (16, 256), (272, 128)] {
        for (command, body) in [(70, &upload), (71, &triple), (72, &download), (73, &triple)] {
            raw::ask(storage, &message(command, &with(body, at, width))).failure(102);
        }
        raw::ask(tracker, &message(12, &with(&triple, at, width))).failure(100);
    }
    for (at, width) in [(0, 7), (7, 17), (24, 129)] {
        raw::ask(tracker, &message(10, &with(&raw::join("group001", "h", 5, 5), at, width))).failure(100);
    }
    for (at, width) in [(0, 17), (17, 129)] {
        raw::ask(tracker, &message(11, &with(&raw::beat("group001", "h"), at, width))).failure(100);
    }
    for length in [1, 5, 64, 65] {
        raw::ask(id, &message(40, &vec![b'k'; length])).failure(101);
    }
    // Everything without a NUL at all, to the end.
    for command in [10, 11, 12, 40, 70, 71, 72, 73] {
        for (address, reply) in [(tracker, 100), (id, 101), (storage, 102)] {
            for bytes in [65, 146, 171, 400, 408, 416, 432] {
                raw::ask(address, &message(command, &vec![0xFF; bytes])).failure(reply);
            }
        }
    }
    assert_eq!(cluster.file_rows(), 0);
    assert!(cluster.parts().all(|part| part.runs()));
}

#[test]
fn names_outside_their_bounds_are_refused() {
    let cluster = Builder::new("names").start();
    let file = |appid: &[u8], userid: &[u8], fileid: &[u8]| {
        let mut body = raw::text(appid, 16);
        body.extend(raw::text(userid, 256));
        body.extend(raw::text(fileid, 128));
        body
    };
    let long = "é".repeat(127);
    let too_long = "a".repeat(129);
    let refused: Vec<(&[u8], &[u8], &[u8])> = vec![
        (b"", b"u", b"f"),
        (b"tn video", b"u", b"f"),
        (b"tn/video", b"u", b"f"),
        ("tnvidéo".as_bytes(), b"u", b"f"),
        (b"tnvideo", b"", b"f"),
        (b"tnvideo", b"u", b""),
        (b"tnvideo", b"\xFF\xFE", b"f"),
        (b"tnvideo", b"u", b"\xC3"),
        // 129 characters: the tables hold 128, and nothing is ever cut.
        (b"tnvideo", too_long.as_bytes(), b"f"),
    ];
    for (appid, userid, fileid) in refused {
        let mut body = file(appid, userid, fileid);
        let text = raw::ask(cluster.storage(), &message(71, &body)).failure(102);
        raw::ask(cluster.storage(), &message(73, &body)).failure(102);
        body.extend(1_i64.to_be_bytes());
        body.push(b'x');
        raw::ask(cluster.storage(), &message(70, &body)).failure(102);
        assert_eq!(cluster.file_rows(), 0, "{text}");
    }
    // As long as the document allows, in characters of several bytes.
    let body = file(b"abcdefghij12345", long.as_bytes(), "ü".repeat(63).as_bytes());
    let mut upload = body.clone();
    upload.extend(2_i64.to_be_bytes());
    upload.extend(b"ok");
    assert_eq!(raw::ask(cluster.storage(), &message(70, &upload)).success(102), b"");
    assert_eq!(raw::ask(cluster.storage(), &message(71, &body)).success(102), 2_i64.to_be_bytes());
    // A tracker may be asked without a file, a storage may not.
    assert!(raw::ask(cluster.tracker(), &raw::addresses("tnvideo", "u")).success(100).len() > 17);
    for (appid, userid) in [("", "u"), ("tnvideo", ""), ("other", "u")] {
        raw::ask(cluster.tracker(), &raw::addresses(appid, userid)).failure(100);
    }
    raw::ask(cluster.tracker(), &raw::addresses("tnvideo", &too_long)).failure(100);
}

#[test]
fn after_a_failure_with_intact_framing_a_connection_that_stays_still_works() {
    let cluster = Builder::new("after-failure").start();
    cluster.put("tnv001", "there", b"here");
    let mut raw = Raw::connect(cluster.storage());
    raw.ask(&raw::filesize("tnvideo", "tnv001", "absent")).failure(102);
    if raw.try_send(&raw::filesize("tnvideo", "tnv001", "there")).is_ok()
        && let Ok(Some(frame)) = raw.try_frame()
    {
        assert_eq!(frame.success(102), 4_i64.to_be_bytes());
    }
}

#[test]
fn a_failure_text_is_at_most_1024_bytes_whatever_the_names() {
    let cluster = Builder::new("long-text").start();
    // Names that grow when they are escaped for a message.
    for fileid in ["\u{1}".repeat(127), "'".repeat(127), "\u{202e}".repeat(42), "%s%n".repeat(31)] {
        let userid = "\u{1b}".repeat(128);
        raw::ask(cluster.storage(), &raw::filesize("tnvideo", &userid, &fileid)).failure(102);
        raw::ask(cluster.storage(), &raw::delete("tnvideo", &userid, &fileid)).failure(102);
        raw::ask(cluster.tracker(), &raw::addresses("badapp", &userid)).failure(100);
    }
}

#[test]
fn download_takes_every_offset_and_size_inside_the_file_and_none_outside() {
    let cluster = Builder::new("ranges").start();
    let content = b"0123456789";
    cluster.put("tnv001", "f", content);
    let mut raw = Raw::connect(cluster.storage());
    for offset in 0..=10_usize {
        for size in 0..=10 - offset {
            let reply = raw.ask(&raw::download("tnvideo", "tnv001", "f", offset as i64, size as i64));
            let end = if size == 0 { 10 } else { offset + size };
            assert_eq!(reply.success(102), content[offset..end], "{offset}+{size}");
        }
    }
    for (offset, size) in
        [(11, 0), (-1, 0), (0, 11), (5, 6), (10, 1), (0, -1), (i64::MAX, i64::MAX), (i64::MIN, 1)]
    {
        raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", "f", offset, size)).failure(102);
    }
}

#[test]
fn an_id_key_counts_up_to_its_nul_and_each_key_for_itself() {
    let cluster = Builder::new("id-keys").trackers(0).groups(&["group001"], 0).start();
    let mut raw = Raw::connect(cluster.id());
    let ask = |raw: &mut Raw, body: &[u8]| {
        i64::from_be_bytes(raw.ask(&message(40, body)).success(101).try_into().expect("8 bytes"))
    };
    assert_eq!(ask(&mut raw, b"../data\0"), 0);
    assert_eq!(ask(&mut raw, b"../data\0left over"), 1);
    assert_eq!(ask(&mut raw, b"../data\0\0\0"), 2);
    assert_eq!(ask(&mut raw, b"../Data\0"), 0, "keys are compared byte by byte");
    let mut longest = vec![b'k'; 64];
    longest.push(0);
    assert_eq!(ask(&mut raw, &longest), 0);
    assert_eq!(ask(&mut raw, &longest), 1);
    for bad in [&b"\0"[..], b"\0rest", b"", b"nonul"] {
        raw::ask(cluster.id(), &message(40, bad)).failure(101);
    }
}

#[test]
fn join_is_refused_for_an_unknown_group_a_bad_name_and_port_zero() {
    let cluster = tracker("join-refused");
    for body in [
        raw::join("nogroup", "h", 23000, 1),
        raw::join("", "h", 23000, 1),
        raw::join("group 01", "h", 23000, 1),
        raw::join("group001", "", 23000, 1),
        raw::join("group001", "h", 0, 1),
        raw::join("GROUP001", "h", 23000, 1),
    ] {
        raw::ask(cluster.tracker(), &message(10, &body)).failure(100);
    }
    assert!(statuses(cluster.tracker()).is_empty());
}

#[test]
fn a_heartbeat_of_an_unknown_storage_or_group_fails() {
    let cluster = tracker("beat-unknown");
    for (group, host) in [("group001", "h"), ("nogroup", "h"), ("", "h"), ("group001", "")] {
        raw::ask(cluster.tracker(), &message(11, &raw::beat(group, host))).failure(100);
    }
}

#[test]
fn a_heartbeat_belongs_to_the_member_that_joined_on_its_connection() {
    let cluster = tracker("beat-whose");
    let mut first = Raw::connect(cluster.tracker());
    let mut second = Raw::connect(cluster.tracker());
    first.ask(&message(10, &raw::join("group001", "host", 23001, 1))).success(100);
    // While it is the only one of its group, host and address, any connection beats for it.
    raw::ask(cluster.tracker(), &message(11, &raw::beat("group001", "host"))).success(100);
    assert_eq!(statuses(cluster.tracker())["127.0.0.1:23001"], "ACTIVE");
    second.ask(&message(10, &raw::join("group001", "host", 23002, 1))).success(100);
    assert_eq!(statuses(cluster.tracker())["127.0.0.1:23002"], "ONLINE");
    second.ask(&message(11, &raw::beat("group001", "host"))).success(100);
    assert_eq!(statuses(cluster.tracker())["127.0.0.1:23002"], "ACTIVE");
    raw::ask(cluster.tracker(), &message(11, &raw::beat("group001", "host"))).failure(100);
    // From another address there is no such member.
    Raw::connect_from([127, 0, 0, 9], cluster.tracker())
        .ask(&message(11, &raw::beat("group001", "host")))
        .failure(100);
}

#[test]
fn a_storages_address_is_that_of_its_connection() {
    let cluster = tracker("peer-address");
    let mut storage = Raw::connect_from([127, 0, 0, 7], cluster.tracker());
    storage.ask(&message(10, &raw::join("group001", "host", 23001, 1))).success(100);
    storage.ask(&message(11, &raw::beat("group001", "host"))).success(100);
    let reply = raw::ask(cluster.tracker(), &raw::addresses("tnvideo", "tnv001")).success(100);
    assert_eq!(&reply[17..], b"127.0.0.7:23001;\0");
}

#[test]
fn addresses_are_at_most_three_of_the_active_ones_from_a_random_place() {
    let cluster = tracker("addresses");
    let mut ports: Vec<u16> = (1..=5).map(|index| 23_000 + index).collect();
    ports.shuffle(&mut rand::rng());
    let _connections: Vec<_> = ports
        .iter()
        .map(|&port| {
            let mut storage = Raw::connect(cluster.tracker());
            storage.ask(&message(10, &raw::join("group001", "host", port, 1))).success(100);
            storage.ask(&message(11, &raw::beat("group001", "host"))).success(100);
            storage
        })
        .collect();
    let mut firsts = std::collections::BTreeSet::new();
    let mut client = Raw::connect(cluster.tracker());
    for _ in 0..200 {
        let reply = client.ask(&raw::addresses("tnvideo", "tnv001")).success(100);
        assert_eq!(&reply[..17], b"group001\0\0\0\0\0\0\0\0\0", "zero filled");
        let text = std::str::from_utf8(&reply[17..]).expect("UTF-8").strip_suffix('\0').expect("a NUL");
        let list: Vec<_> = text.strip_suffix(';').expect("a ; after each").split(';').collect();
        assert_eq!(list.len(), 3, "{text}");
        let distinct: std::collections::BTreeSet<_> = list.iter().collect();
        assert_eq!(distinct.len(), 3, "{text}");
        firsts.insert(list[0].to_owned());
    }
    assert_eq!(firsts.len(), 5, "every storage comes first some time: {firsts:?}");
}

#[test]
fn a_rejoin_refreshes_the_record_instead_of_adding_one() {
    let cluster = tracker("rejoin");
    let mut storage = Raw::connect(cluster.tracker());
    for _ in 0..3 {
        storage.ask(&message(10, &raw::join("group001", "host", 23001, 1))).success(100);
        storage.ask(&message(11, &raw::beat("group001", "host"))).success(100);
    }
    assert_eq!(statuses(cluster.tracker()).len(), 1);
}

#[test]
fn a_storage_goes_offline_when_its_latest_joining_connection_closes_and_not_an_earlier_one() {
    let cluster = Builder::new("latest-join")
        .ids(0)
        .groups(&["group001"], 0)
        .set(Part::Tracker, "check_active_interval", 86_400)
        .start();
    let mut first = Raw::connect(cluster.tracker());
    let mut second = Raw::connect(cluster.tracker());
    for storage in [&mut first, &mut second] {
        storage.ask(&message(10, &raw::join("group001", "host", 23001, 1))).success(100);
        storage.ask(&message(11, &raw::beat("group001", "host"))).success(100);
    }
    drop(first);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(statuses(cluster.tracker())["127.0.0.1:23001"], "ACTIVE");
    drop(second);
    let took = patient("OFFLINE", PATIENCE, || statuses(cluster.tracker())["127.0.0.1:23001"] == "OFFLINE");
    println!("offline after {took:?}");
}

#[test]
fn the_group_list_shows_times_as_ctime_in_local_time() {
    let cluster = Builder::new("ctime").ids(0).groups(&["group001"], 0).env("TZ", "XYZ-5:30").start();
    let mut storage = Raw::connect(cluster.tracker());
    // 2023-06-05 23:59:07 UTC: a day of one figure, and the next day in that zone.
    storage.ask(&message(10, &raw::join("group001", "host", 23001, 1_686_009_547))).success(100);
    let list = tnv_tests::cluster::group_list(cluster.tracker());
    assert!(list.contains("            STARTUP TIME: Tue Jun  6 05:29:07 2023\n"), "{list}");
    assert!(list.starts_with("         COUNT OF GROUPS: 1\n               GROUPNAME: group001\n"), "{list}");
    assert!(list.ends_with("                  STATUS: ONLINE"), "{list}");
}

#[test]
fn groups_without_storages_and_of_several_storages_are_listed_in_the_form() {
    let cluster = Builder::new("list").ids(0).groups(&["alpha", "beta"], 0).start();
    let list = tnv_tests::cluster::group_list(cluster.tracker());
    let empty = |name: &str| {
        format!("               GROUPNAME: {name}\n       COUNT OF STORAGES: 0\nCOUNT OF ACTIVE STORAGES: 0")
    };
    assert_eq!(list, format!("         COUNT OF GROUPS: 2\n{}\n{}", empty("alpha"), empty("beta")));
}

#[test]
fn a_file_lies_where_the_document_says() {
    let cluster = Builder::new("placement").start();
    // The third number of the path: two are taken by hand.
    for _ in 0..2 {
        raw::ask(cluster.id(), &raw::get_id("../data")).success(101);
    }
    let before = now();
    cluster.put("tnv001", "placed", b"content");
    let row = cluster.file_row("tnv001", "placed").expect("a row in t_file_02");
    assert_eq!(raw::table_of("tnv001"), 2);
    assert_eq!((row[0].as_str(), row[1].as_str(), row[3].as_str()), ("tnvideo", "tnv001", "7"));
    let name = row[2].strip_prefix("../data/000/000/000/").unwrap_or_else(|| panic!("{}", row[2]));
    let (time, d0) = name.split_once('_').expect("time_d0");
    assert_eq!(d0, "002");
    assert_eq!(time, time.to_uppercase());
    let time = u64::from_str_radix(time, 16).expect("hex");
    assert!((before..=now()).contains(&time), "{time}");
    let path = cluster.storages[0].cwd().join(&row[2]);
    assert_eq!(std::fs::read(path).expect("the file"), b"content");
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock").as_secs()
}

#[test]
fn each_user_is_in_the_table_that_the_hash_of_existing_servers_names() {
    let cluster = Builder::new("tables").start();
    for userid in
        ["tnv001", "a", "b", "c", "zz", "o'brien", "дмитрий", "用户", "user-with-a-longer-name-0123456789"]
    {
        cluster.put(userid, &format!("of-{userid}"), b"x");
        assert!(cluster.file_row(userid, &format!("of-{userid}")).is_some(), "{userid}");
    }
    assert_eq!(cluster.file_rows(), 9);
}

#[test]
fn a_connection_to_each_server_may_idle_and_then_ask() {
    let cluster = Builder::new("idle").start();
    let mut conns: Vec<_> =
        [cluster.tracker(), cluster.id(), cluster.storage()].into_iter().map(Raw::connect).collect();
    // Longer than the deadline of a message once it has begun.
    std::thread::sleep(Duration::from_secs(12));
    conns[0].ask(&message(13, &[])).success(100);
    conns[1].ask(&raw::get_id("k")).success(101);
    conns[2].ask(&raw::filesize("tnvideo", "tnv001", "none")).failure(102);
}

/// The commands that ours add to the storage: 120 tells size (8), time (8), kind of checksum (1),
/// checksum (8) and the upload's unique value (16); 121 is a download that names that value. 126 is both in
/// one: what 120 tells, and then what was asked for of the content.
#[test]
fn the_added_commands_tell_one_upload_from_another() {
    let cluster = Builder::new("added").groups(&["group001"], 2).start();
    let triple = raw::triple("tnvideo", "tnv001", "f");
    let stat = |member: usize| raw::ask(cluster.storages[member].address(), &message(120, &triple));
    let read = |member: usize, offset: i64, size: i64, unique: &[u8]| {
        let mut body = triple.clone();
        body.extend(offset.to_be_bytes());
        body.extend(size.to_be_bytes());
        body.extend(unique);
        raw::ask(cluster.storages[member].address(), &message(121, &body))
    };
    let fetch = |member: usize, offset: i64, size: i64| {
        let body = [&triple[..], &offset.to_be_bytes(), &size.to_be_bytes()].concat();
        raw::ask(cluster.storages[member].address(), &message(126, &body))
    };
    stat(0).failure(102);
    fetch(0, 0, 0).failure(102);
    let before = now();
    cluster.put("tnv001", "f", b"123456789");
    let first = stat(0).success(102);
    assert_eq!(first.len(), 41);
    assert_eq!(first[..8], 9_i64.to_be_bytes());
    let time = i64::from_be_bytes(first[8..16].try_into().expect("8 bytes")).cast_unsigned();
    assert!((before..=now()).contains(&time), "{time}");
    // The check value of CRC-32, as every catalogue of checksums has it.
    assert_eq!((first[16], &first[17..25]), (1, &0xCBF4_3926_i64.to_be_bytes()[..]));
    assert_eq!(stat(1).success(102), first, "every member tells the same");
    for member in 0..2 {
        assert_eq!(read(member, 0, 0, &first[25..]).success(102), b"123456789");
        assert_eq!(read(member, 2, 3, &first[25..]).success(102), b"345");
        read(member, 10, 0, &first[25..]).failure(102);
        read(member, 0, 0, &[7; 16]).failure(102);
        assert_eq!(fetch(member, 0, 0).success(102), [&first[..], b"123456789"].concat());
        assert_eq!(fetch(member, 2, 3).success(102), [&first[..], b"345"].concat());
        assert_eq!(fetch(member, 9, 0).success(102), first);
        assert_eq!(fetch(member, 9, 1).success(102), first);
        assert_eq!(fetch(member, 7, 1000).success(102), [&first[..], b"89"].concat(), "what is left");
        fetch(member, 10, 0).failure(102);
        fetch(member, 0, -1).failure(102);
        fetch(member, -1, 0).failure(102);
    }
    raw::ask(cluster.storage(), &raw::delete("tnvideo", "tnv001", "f")).success(102);
    for member in 0..2 {
        stat(member).failure(102);
        read(member, 0, 0, &first[25..]).failure(102);
    }
    cluster.put("tnv001", "f", b"123456789");
    let second = stat(1).success(102);
    assert_ne!(second[25..], first[25..], "the same content, but another upload");
    for member in 0..2 {
        read(member, 0, 0, &first[25..]).failure(102);
        assert_eq!(read(member, 0, 0, &second[25..]).success(102), b"123456789");
    }
    for (command, bytes) in
        [(120, 399), (120, 401), (121, 431), (121, 433), (121, 400), (126, 415), (126, 417)]
    {
        let mut raw = Raw::connect(cluster.storage());
        raw.ask(&message(command, &vec![b'a'; bytes])).failure(102);
        assert!(raw.closes_within(CLOSE_BOUND), "{command} with {bytes} bytes");
    }
}

/// Large and small parts leave a storage in different ways: with the head in one piece, or as a file.
#[test]
fn files_of_every_size_come_back_whole_over_one_connection() {
    let cluster = Builder::new("sizes").start();
    let mut conn = Raw::connect(cluster.storage());
    for (number, size) in [0, 1, 4096, 65_400, 65_500, 65_536, 65_537, 300_000].into_iter().enumerate() {
        let content: Vec<u8> = (0..size).map(|at: usize| (at * 7 + at / 251) as u8).collect();
        let name = format!("f{number}");
        cluster.put("tnv001", &name, &content);
        let whole = conn.ask(&raw::download("tnvideo", "tnv001", &name, 0, 0)).success(102);
        assert!(whole == content, "{size} bytes");
        let rest = size / 3;
        let part = conn.ask(&raw::download("tnvideo", "tnv001", &name, rest as i64, 0)).success(102);
        assert!(part == content[rest..], "{size} bytes");
    }
}

#[test]
fn a_server_that_is_not_there_is_not_there() {
    // The harness itself: a port that it gives is free.
    assert!(Raw::try_connect(free_address()).is_err());
}
