//! More slow clients than workers, against each real server: a connection that sends a part of a message, or a
//! part of a content, or does not read, holds no worker, uses no processor time while it waits, and costs little
//! memory.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use tnv_tests::cluster::{Part, statuses};
use tnv_tests::raw::{self, Raw};
use tnv_tests::tools::{heavy, more_descriptors};
use tnv_tests::{Builder, Cluster, PATIENCE, http, patient, sample};

/// Workers of each server: far fewer than there are slow clients.
const THREADS: usize = 2;

/// Slow clients of each server.
const SLOW: usize = 60;

/// A message may take ten seconds. Where slow clients hold the workers, a request waits for that long at least.
const HELD: Duration = Duration::from_secs(5);

fn cluster(name: &str) -> Builder<'_> {
    [Part::Tracker, Part::Id, Part::Storage, Part::Httpd]
        .into_iter()
        .fold(Builder::new(name).httpds(1), |builder, part| builder.set(part, "tnv_threads", THREADS))
}

/// What every honest client does, once.
fn honest(cluster: &Cluster, number: usize) {
    let id = format!("honest{number}");
    raw::ask(cluster.tracker(), &raw::addresses("tnvideo", "tnv001")).success(100);
    raw::ask(cluster.id(), &raw::get_id("k")).success(101);
    let content = sample(100_000, number as u64);
    raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", &id, &content)).success(102);
    assert!(
        raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", &id, 0, 0)).success(102) == content
    );
    assert!(http::get(cluster.httpd(), &format!("/files/{id}"), &[]).body == content);
    raw::ask(cluster.storage(), &raw::delete("tnvideo", "tnv001", &id)).success(102);
}

/// Lets honest clients work beside the slow ones, once one of them is known to be served in any case.
fn assert_served(cluster: &Cluster, beside: &str) {
    // A machine that stands still for seconds shows nothing; where workers are held each try takes long.
    let took = (0..3).map(|number| {
        let start = Instant::now();
        honest(cluster, number);
        start.elapsed()
    });
    let fastest = took.min().expect("three of them");
    println!("honest clients beside {beside}: {fastest:?}");
    assert!(fastest < HELD, "{fastest:?} beside {beside}");
}

/// The story: a worker that had read a part of a message tried again at once, for ten seconds, instead of waiting
/// in epoll. With as many such messages as workers nobody else was served, and each of them used up a processor.
#[test]
fn parts_of_messages_hold_no_worker_and_use_no_processor() {
    let _heavy = heavy();
    more_descriptors();
    let mut cluster = cluster("parts").start();
    let parts = |whole: &[u8]| [1, 5, 10, whole.len() - 1].map(|bytes| whole[..bytes].to_vec());
    let cases: [(SocketAddr, [Vec<u8>; 4]); 4] = [
        (cluster.tracker(), parts(&raw::addresses("tnvideo", "tnv001"))),
        (cluster.id(), parts(&raw::get_id("some-key"))),
        (cluster.storage(), parts(&raw::filesize("tnvideo", "tnv001", "x"))),
        (cluster.httpd(), parts(b"GET /files/x HTTP/1.1\r\nHost: h\r\n\r\n")),
    ];
    let mut slow = Vec::new();
    for (address, parts) in &cases {
        for part in parts.iter().cycle().take(SLOW) {
            let mut raw = Raw::connect(*address);
            raw.send(part);
            slow.push(raw);
        }
    }
    // Let the servers read what came, then look at what they do with it.
    thread::sleep(Duration::from_millis(300));
    let before: Vec<_> = cluster.parts().map(|part| part.cpu_time()).collect();
    let watched = Duration::from_secs(2);
    thread::sleep(watched);
    for (part, before) in cluster.parts().zip(before) {
        let used = part.cpu_time() - before;
        println!("{} used {used:?} of a processor in {watched:?}", part.binary());
        assert!(used < watched / 8, "{} used {used:?} in {watched:?} for {SLOW} that wait", part.binary());
    }
    assert_served(&cluster, "parts of messages");
    // A second message that is not whole, behind one that is.
    let mut raw = Raw::connect(cluster.storage());
    let question = raw::filesize("tnvideo", "tnv001", "x");
    raw.send(&[&question[..], &question[..200]].concat());
    raw.frame().failure(102);
    raw.send(&question[200..]);
    raw.frame().failure(102);
    drop(slow);
}

/// The story: a worker answered the request behind a request as long as there was one. As many clients that send
/// without a pause as there are workers, and nobody else was served.
#[test]
fn clients_that_send_requests_without_end_leave_turns_to_others() {
    let _heavy = heavy();
    let cluster = cluster("eager").start();
    let cases = [
        (cluster.tracker(), raw::addresses("tnvideo", "tnv001")),
        (cluster.id(), raw::get_id("some-key")),
        (cluster.storage(), raw::filesize("tnvideo", "tnv001", "x")),
        (cluster.httpd(), b"GET /files/x HTTP/1.1\r\nHost: h\r\n\r\n".to_vec()),
    ];
    let eager =
        cases.iter().flat_map(|(address, request)| (0..2 * THREADS).map(move |_| (*address, request)));
    let eager: Vec<(TcpStream, Vec<u8>)> = eager
        .map(|(address, request)| (TcpStream::connect(address).expect("connect"), request.repeat(2_000)))
        .collect();
    thread::scope(|scope| {
        for (stream, requests) in &eager {
            let (mut reader, mut writer) = (stream, stream);
            scope.spawn(move || io::copy(&mut reader, &mut io::sink()));
            scope.spawn(move || while writer.write_all(requests).is_ok() {});
        }
        thread::sleep(Duration::from_millis(300));
        let served = scope.spawn(|| assert_served(&cluster, "requests without end")).join();
        eager.iter().for_each(|(stream, _)| drop(stream.shutdown(Shutdown::Both)));
        assert!(served.is_ok());
    });
}

/// The story: a worker read the content of an upload and waited for it, so that as many uploads as workers that
/// send nothing, or a byte a minute, stopped a storage.
#[test]
fn uploads_that_pause_hold_no_worker_and_go_on_later() {
    let _heavy = heavy();
    more_descriptors();
    let cluster = cluster("pausing").start();
    cluster.put("tnv001", "f", b"content");
    let content = sample(400_000, 7);
    let id = |number: usize| format!("paused{number}");
    // Some send nothing of the content, some a part of it.
    let mut paused: Vec<(Raw, usize)> = (0..SLOW)
        .map(|number| {
            let mut raw = Raw::connect(cluster.storage());
            let sent = [0, 1, 100_000, content.len() - 1][number % 4];
            raw.send(&raw::head(70, 408 + content.len() as i64));
            raw.send(&raw::upload_head("tnvideo", "tnv001", &id(number), content.len() as i64));
            raw.send(&content[..sent]);
            (raw, sent)
        })
        .collect();
    let begun = |cluster: &Cluster| cluster.content_files("group001").len() - 1;
    patient("all of them are begun", PATIENCE, || begun(&cluster) == SLOW);
    let before = cluster.storages[0].cpu_time();
    let watched = Duration::from_secs(2);
    thread::sleep(watched);
    let used = cluster.storages[0].cpu_time() - before;
    println!("the storage used {used:?} of a processor in {watched:?} for {SLOW} uploads that pause");
    assert!(used < watched / 8, "{used:?} in {watched:?}");
    assert_served(&cluster, "uploads that pause");
    // Half of them go on and are stored whole; the others go away and leave nothing.
    let gone = paused.split_off(SLOW / 2);
    drop(gone);
    for (number, (raw, sent)) in paused.iter_mut().enumerate() {
        raw.send(&content[*sent..]);
        assert_eq!(raw.frame().success(102), b"", "upload {number}");
        let back = raw.ask(&raw::download("tnvideo", "tnv001", &id(number), 0, 0)).success(102);
        assert!(back == content);
    }
    patient("no file of an upload that was given up", PATIENCE, || begun(&cluster) == SLOW / 2);
    assert_eq!(cluster.file_rows(), SLOW / 2 + 1);
}

/// The story: an upload that sends a byte from time to time was never given up.
#[test]
fn an_upload_below_the_least_rate_is_refused_and_leaves_nothing() {
    let cluster = Builder::new("drip-rate")
        .set(Part::Storage, "tnv_upload_rate_min", "1K")
        .set(Part::Storage, "tnv_upload_pause_max", 2)
        .start();
    cluster.put("tnv001", "f", b"content");
    let mut raw = Raw::connect(cluster.storage());
    raw.send(&raw::head(70, 408 + 1_000_000));
    raw.send(&raw::upload_head("tnvideo", "tnv001", "drip", 1_000_000));
    let start = Instant::now();
    let mut closed = false;
    // Each byte is progress, and a thousandth of the least rate.
    while !closed {
        assert!(start.elapsed() < PATIENCE, "a byte from time to time keeps it");
        closed = raw.try_send(b"x").is_err() || raw.stream().peek_ready();
        thread::sleep(Duration::from_millis(100));
    }
    println!("given up after {:?}", start.elapsed());
    let text = raw.frame().failure(102);
    println!("{text}");
    patient("no file of it", PATIENCE, || cluster.content_files("group001").len() == 1);
    assert_eq!(cluster.file_rows(), 1);
    // One that keeps to it is stored, however long it takes.
    let mut raw = Raw::connect(cluster.storage());
    raw.send(&raw::head(70, 408 + 60_000));
    raw.send(&raw::upload_head("tnvideo", "tnv001", "steady", 60_000));
    for _ in 0..6 {
        raw.send(&[7; 10_000]);
        thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(raw.frame().success(102), b"");
}

/// Whether something can be read, or the end, without waiting.
trait PeekReady {
    fn peek_ready(&self) -> bool;
}

impl PeekReady for TcpStream {
    fn peek_ready(&self) -> bool {
        self.set_nonblocking(true).expect("set a socket");
        let ready = self.peek(&mut [0]).is_ok();
        self.set_nonblocking(false).expect("set a socket");
        ready
    }
}

/// The story: each list was built for the one who asked, and kept until it was taken: 205 MiB for clients that
/// ask and do not read.
#[test]
fn group_lists_that_are_not_read_take_little_memory_of_a_tracker() {
    const MEMBERS: usize = 1000;
    const DEAF: usize = 1000;
    let _heavy = heavy();
    more_descriptors();
    let groups: Vec<String> = (0..MEMBERS / 50).map(|group| format!("g{group:03}")).collect();
    let listed = format!("group001;{}", groups.join(";"));
    let mut cluster = Builder::new("lists").set(Part::Tracker, "tnv_groups", listed).start();
    let mut members = Vec::new();
    for member in 0..MEMBERS {
        let mut raw = Raw::connect_from([127, 0, 7, (1 + member % 200) as u8], cluster.tracker());
        let group = &groups[member % groups.len()];
        raw.ask(&raw::message(10, &raw::join(group, &format!("host{member}"), 1000 + member as u16, 1)));
        members.push(raw);
    }
    let quiet = cluster.trackers[0].peak_kib() >> 10;
    let ask = raw::message(13, &[]);
    let list = raw::ask(cluster.tracker(), &ask).success(100);
    let mut deaf = Vec::new();
    for _ in 0..DEAF {
        let mut raw = Raw::connect(cluster.tracker());
        let _ = socket2::SockRef::from(&*raw.stream()).set_recv_buffer_size(1);
        raw.send(&ask);
        deaf.push(raw);
    }
    thread::sleep(Duration::from_secs(1));
    assert!(statuses(cluster.tracker()).len() > MEMBERS, "others are answered meanwhile");
    let peak = cluster.trackers[0].peak_kib() >> 10;
    println!(
        "a list of {} KiB, {DEAF} who do not read it: {quiet} MiB before, {peak} MiB at most",
        list.len() >> 10
    );
    // A worker for each who asks while a list is built has its stack; a list for each would be 280 MiB.
    assert!(peak < quiet + 128, "{peak} MiB, {quiet} before");
    assert!(cluster.trackers[0].runs());
    drop(deaf);
}
