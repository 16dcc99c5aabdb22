//! The benchmark that users keep: what it prints, what it finds, and that it leaves nothing behind.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tnv_tests::bins::bin;
use tnv_tests::{Builder, Cluster, Dir, Output, PATIENCE, http, patient};

/// The fields of each row, as scripts read them.
const FIELDS: [&str; 12] = [
    "op",
    "size_bytes",
    "threads",
    "count",
    "ops_per_s",
    "mb_per_s",
    "p50_ms",
    "p95_ms",
    "p99_ms",
    "p999_ms",
    "max_ms",
    "errors",
];

fn bench(cluster: &Cluster, args: &str) -> Output {
    let args: Vec<_> = std::iter::once("bench").chain(args.split_whitespace()).collect();
    cluster.tnv(&args)
}

/// What it printed as JSON, which must be one object with the rows asked for.
#[track_caller]
fn parsed(out: &Output, ops: &[&str]) -> Value {
    let text = out.text();
    assert_eq!(text.lines().count(), 1, "{text}{}", out.stderr);
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let rows = report["rows"].as_array().expect("rows");
    let found: Vec<_> = rows.iter().map(|row| row["op"].as_str().expect("op")).collect();
    assert_eq!(found, ops);
    for row in rows {
        let fields: Vec<_> = row.as_object().expect("a row").keys().map(String::as_str).collect();
        assert_eq!(fields.len(), FIELDS.len(), "{fields:?}");
        for field in &FIELDS[1..] {
            assert!(row[field].is_number(), "{field}: {row}");
        }
        let ms = ["p50_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms"].map(|name| row[name].as_f64().unwrap());
        assert!(ms.is_sorted(), "{row}");
        if row["count"] != row["errors"] {
            assert!(row["ops_per_s"].as_f64().unwrap() > 0.0 && ms[4] > 0.0, "{row}");
        }
    }
    report
}

#[track_caller]
fn assert_nothing_stays(cluster: &Cluster) {
    assert_eq!(cluster.file_rows(), 0);
    // A row goes before its file.
    patient("no content", PATIENCE, || cluster.content_files("group001").is_empty());
}

#[test]
fn each_operation_has_a_row_and_nothing_stays() {
    let cluster = Builder::new("bench").start();
    let out = bench(&cluster, "--threads 4 --count 60 --size 10000 --op upload,download,mixed,delete");
    let table = out.success();
    assert_eq!(out.stderr, "");
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0][..3], ["op", "size", "threads"]);
    assert_eq!(
        lines.iter().skip(1).map(|line| line[0]).collect::<Vec<_>>(),
        ["upload", "download", "mixed", "delete"]
    );
    for line in &lines[1..] {
        assert_eq!(line[1..4], ["10000", "4", "60"]);
        assert_eq!(line.last(), Some(&"0"));
    }
    assert_nothing_stays(&cluster);

    let out = bench(&cluster, "--threads 4 --count 60 --size 10000 --op upload,download,mixed,delete --json");
    out.success();
    let report = parsed(&out, &["upload", "download", "mixed", "delete"]);
    for row in report["rows"].as_array().unwrap() {
        assert_eq!((&row["size_bytes"], &row["threads"]), (&10_000.into(), &4.into()));
        assert_eq!((&row["count"], &row["errors"]), (&60.into(), &0.into()));
    }
    assert_eq!(report["rows"][3]["mb_per_s"], 0.0, "a delete moves no content");
    // All that was uploaded, in the row and by a quarter of the mixed ones.
    assert_eq!((&report["verified"], &report["wrong"], &report["left"]), (&75.into(), &0.into(), &0.into()));
    assert_eq!(report["protocol"], "tnv");
    assert_nothing_stays(&cluster);
}

#[test]
fn what_a_row_needs_is_made_before_it() {
    let cluster = Builder::new("bench-makes").start();
    for (op, verified) in [("download", 40), ("mixed", 50), ("delete", 40)] {
        let out = bench(&cluster, &format!("--threads 3 --count 40 --size 1k --op {op} --warm-up 0 --json"));
        out.success();
        let report = parsed(&out, &[op]);
        assert_eq!(report["rows"][0]["count"], 40);
        assert_eq!(report["verified"], verified, "{op}");
        assert_nothing_stays(&cluster);
    }
    let out = bench(&cluster, "--count 5 --size 1k --op delete,delete,download --no-verify --json");
    out.success();
    assert_eq!(parsed(&out, &["delete", "delete", "download"])["verified"], 0);
    assert_nothing_stays(&cluster);
}

#[test]
fn a_mix_of_sizes_has_its_mean() {
    let cluster = Builder::new("bench-mix").start();
    let out = bench(&cluster, "--threads 2 --count 20 --size 4k:7,1m:3 --op upload,download --json");
    out.success();
    let report = parsed(&out, &["upload", "download"]);
    let mean = (7 * 4096 + 3 * (1 << 20)) / 10;
    for row in report["rows"].as_array().unwrap() {
        assert_eq!(row["size_bytes"], mean);
        // Twice the pack of ten: what was moved is exactly what the mix says.
        let per_op = row["mb_per_s"].as_f64().unwrap() * 1e6 / row["ops_per_s"].as_f64().unwrap();
        assert!((per_op / f64::from(mean) - 1.0).abs() < 0.01, "{row}");
    }
    assert_nothing_stays(&cluster);
}

#[test]
fn downloads_may_come_over_http_and_any_url_can_be_measured() {
    let cluster = Builder::new("bench-http").httpds(1).start();
    let url = format!("http://{}/", cluster.httpd());
    let out =
        bench(&cluster, &format!("--threads 3 --count 50 --size 300k --http {url} --userid o'b@x.y --json"));
    out.success();
    let report = parsed(&out, &["upload", "download", "delete"]);
    assert_eq!((&report["protocol"], &report["verified"]), (&"http".into(), &50.into()));
    assert_nothing_stays(&cluster);

    let id = cluster.upload("tnvideo", "tnv001", &tnv_tests::sample(100_000, 1));
    let get = |path: &str| {
        let url = format!("http://{}/files/tnvideo/tnv001/{path}", cluster.httpd());
        let args = ["bench", "--get", &url, "--threads", "3", "--count", "50", "--json"];
        Output::of(Command::new(bin("tnv")).args(args))
    };
    let out = get(&id);
    out.success();
    let row = &parsed(&out, &["get"])["rows"][0];
    assert_eq!((&row["size_bytes"], &row["count"], &row["errors"]), (&100_000.into(), &50.into(), &0.into()));
    let out = get("absent");
    assert_eq!((out.code, out.text()), (1, String::new()));
    assert!(out.stderr.contains("answered with status 404, want 200"), "{}", out.stderr);
}

/// Passes each request on to the HTTP server and spoils a byte in the middle of what comes.
fn spoiler(httpd: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            thread::spawn(move || spoil(stream, httpd));
        }
    });
    address
}

fn spoil(mut stream: TcpStream, httpd: SocketAddr) {
    let mut request = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        request.extend_from_slice(&piece[..count]);
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        request.clear();
        let mut body = http::get(httpd, text.split(' ').nth(1).expect("a target"), &[]).body;
        let middle = body.len() / 2;
        body[middle] ^= 1;
        let mut answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        answer.extend_from_slice(&body);
        if stream.write_all(&answer).is_err() {
            return;
        }
    }
}

#[test]
fn content_that_is_not_what_was_uploaded_is_found() {
    let cluster = Builder::new("bench-verify").httpds(1).start();
    let url = format!("http://{}", spoiler(cluster.httpd()));
    let out = bench(&cluster, &format!("--threads 2 --count 12 --size 4k --http {url} --warm-up 0 --json"));
    assert_eq!(out.code, 1);
    let report = parsed(&out, &["upload", "download", "delete"]);
    assert_eq!((&report["verified"], &report["wrong"]), (&12.into(), &12.into()));
    assert!(out.stderr.contains("the content differs from what was uploaded at byte 2048"), "{}", out.stderr);
    assert_nothing_stays(&cluster);
}

#[test]
fn files_are_kept_where_that_is_wanted() {
    let cluster = Builder::new("bench-keep").start();
    bench(&cluster, "--count 10 --size 1k --op upload --keep").success();
    assert_eq!(cluster.file_rows(), 10);
    assert_eq!(cluster.content_files("group001").len(), 10);
}

/// A run that has begun to upload.
fn under_way(cluster: &Cluster, args: &[&str]) -> Child {
    let child = cluster
        .tnv_command(&[&["bench", "--op", "upload", "--warm-up", "0", "--json"], args].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start the benchmark");
    patient("the first files", PATIENCE, || cluster.file_rows() > 0);
    child
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("send a signal");
}

fn ended(child: Child) -> Output {
    let output = child.wait_with_output().expect("wait for the benchmark");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[test]
fn what_an_interrupted_run_has_uploaded_is_removed() {
    let cluster = Builder::new("bench-interrupted").start();
    for (signal_sent, size) in [(Signal::INT, "1k"), (Signal::TERM, "10m")] {
        let child = under_way(&cluster, &["--count", "1000000", "--size", size]);
        signal(&child, signal_sent);
        let out = ended(child);
        assert_eq!(out.code, 1);
        let report = parsed(&out, &["upload"]);
        assert_eq!((&report["rows"][0]["errors"], &report["left"]), (&0.into(), &0.into()));
        assert_eq!(out.stderr, "tnv: interrupted\n");
        assert_nothing_stays(&cluster);
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let cluster = Builder::new("bench-second").start();
    let child = under_way(&cluster, &["--count", "1000000", "--size", "1k"]);
    cluster.storages[0].signal(Signal::STOP);
    signal(&child, Signal::INT);
    // Not at once: two threads could each take one for the first.
    thread::sleep(Duration::from_millis(500));
    signal(&child, Signal::TERM);
    let out = ended(child);
    cluster.storages[0].signal(Signal::CONT);
    assert_eq!((out.code, out.text()), (1, String::new()));
}

#[test]
fn errors_are_counted_and_what_cannot_be_removed_is_named() {
    let mut cluster = Builder::new("bench-errors").start();
    let child =
        under_way(&cluster, &["--threads", "16", "--count", "1000000", "--size", "1k", "--seconds", "20"]);
    cluster.storages[0].kill();
    let out = ended(child);
    assert_eq!(out.code, 1);
    let report = parsed(&out, &["upload"]);
    assert!(report["rows"][0]["errors"].as_u64().unwrap() > 0, "{report}");
    let left = report["left"].as_u64().unwrap();
    assert!(left > 0);
    let told = format!("{left} files of tnvideo tnvbench could not be removed");
    assert!(out.stderr.contains(&told), "{}", out.stderr);
    // A killed storage may have stored files whose replies never came.
    assert!(cluster.file_rows() as u64 >= left);
}

#[test]
fn without_servers_it_says_so_once() {
    let dir = Dir::new("bench-nobody");
    let nobody = tnv_tests::cluster::free_address().to_string();
    for args in
        [&[&nobody, "bench"][..], &[&nobody, "bench", "--fdfs"], &["bench", "--get", "http://127.0.0.1:1/"]]
    {
        let out = Output::of(Command::new(bin("tnv")).args(args).current_dir(dir.path()));
        assert_eq!((out.code, out.text()), (1, String::new()), "{args:?}");
        assert!(out.stderr.contains("refused"), "{}", out.stderr);
    }
}

#[test]
fn wrong_arguments_are_told_with_what_is_allowed() {
    for (args, says) in [
        (&["a", "bench", "--threads", "0"][..], "invalid --threads, got '0', want a whole number, 1 to 1024"),
        (&["a", "bench", "--size", "4x"], "invalid --size, got '4x'"),
        (&["a", "bench", "--op", "all"], "invalid --op, got 'all', want upload, download, mixed or delete"),
        (&["a", "bench", "--http", "https://b/"], "HTTPS"),
        (&["a", "bench", "more"], "more"),
        (&["bench"], "want 'tnv TRACKERS bench ...'"),
        (&["a;b:c:d", "bench"], "invalid address 'b:c:d'"),
    ] {
        let out = Output::of(Command::new(bin("tnv")).args(args));
        assert_eq!((out.code, out.text()), (2, String::new()), "{args:?}");
        assert!(out.stderr.contains(says), "{}", out.stderr);
    }
    let help = Output::of(Command::new(bin("tnv")).args(["a", "bench", "--help"])).success();
    assert!(help.starts_with("Usage: tnv TRACKERS bench"), "{help}");
}

/// A FastDFS of one process, from its protocol's description: a tracker that always names one storage, and
/// that storage, which keeps files in memory. Each request is held against what a client sends.
#[derive(Default)]
struct FakeFdfs {
    files: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
    /// Most files it ever had.
    peak: Mutex<usize>,
}

/// `group1`, in its 16 bytes.
const GROUP: &[u8; 16] = b"group1\0\0\0\0\0\0\0\0\0\0";

impl FakeFdfs {
    fn start() -> (Arc<FakeFdfs>, SocketAddr) {
        let fake = Arc::new(FakeFdfs::default());
        let listen = || TcpListener::bind("127.0.0.1:0").expect("listen");
        let (tracker, storage) = (listen(), listen());
        let addresses = [&tracker, &storage].map(|listener| listener.local_addr().expect("an address"));
        for listener in [tracker, storage] {
            let fake = Arc::clone(&fake);
            thread::spawn(move || {
                for stream in listener.incoming().filter_map(Result::ok) {
                    let fake = Arc::clone(&fake);
                    thread::spawn(move || fake.serve(stream, addresses[1]));
                }
            });
        }
        (fake, addresses[0])
    }

    fn serve(&self, mut stream: TcpStream, storage: SocketAddr) {
        let mut header = [0; 10];
        while stream.read_exact(&mut header).is_ok() {
            let bytes = u64::from_be_bytes(header[..8].try_into().expect("8 bytes"));
            let mut body = vec![0; usize::try_from(bytes).expect("a small body")];
            stream.read_exact(&mut body).expect("the body");
            assert_eq!(header[9], 0, "a request has no status");
            let (status, answer) = self.answer(header[8], &body, storage);
            let mut reply = (answer.len() as u64).to_be_bytes().to_vec();
            reply.extend_from_slice(&[100, status]);
            reply.extend_from_slice(&answer);
            stream.write_all(&reply).expect("answer");
        }
    }

    fn answer(&self, command: u8, body: &[u8], storage: SocketAddr) -> (u8, Vec<u8>) {
        let mut files = self.files.lock().expect("the files");
        let mut place = GROUP.to_vec();
        place.extend_from_slice(storage.ip().to_string().as_bytes());
        place.resize(16 + 15, 0);
        place.extend_from_slice(&u64::from(storage.port()).to_be_bytes());
        match command {
            101 => {
                assert_eq!(body, b"");
                place.push(0);
                (0, place)
            }
            102 | 103 => {
                assert_eq!(body[..16], GROUP[..]);
                (0, place)
            }
            11 => {
                let (head, content) = body.split_at(15);
                assert_eq!(head[0], 0);
                assert_eq!(head[1..9], (content.len() as u64).to_be_bytes());
                assert_eq!(&head[9..], b"bin\0\0\0");
                let mut name = GROUP.to_vec();
                name.extend_from_slice(format!("M00/00/00/{:034}", rand::random::<u32>()).as_bytes());
                files.insert(name.clone(), content.to_vec());
                let mut peak = self.peak.lock().expect("the peak");
                *peak = files.len().max(*peak);
                (0, name)
            }
            12 => match files.remove(body) {
                Some(_) => (0, Vec::new()),
                None => (2, Vec::new()),
            },
            14 => {
                assert_eq!(body[..16], [0; 16], "all of it");
                match files.get(&body[16..]) {
                    Some(content) => (0, content.clone()),
                    None => (2, Vec::new()),
                }
            }
            other => panic!("command {other}"),
        }
    }
}

#[test]
fn a_fastdfs_is_measured_by_the_same_loop() {
    let (fake, tracker) = FakeFdfs::start();
    let tracker = tracker.to_string();
    let args = ["--fdfs", "--threads", "3", "--count", "30", "--size", "1k:2,700k:1", "--json"];
    let run = |ops: &str| {
        let mut command = Command::new(bin("tnv"));
        Output::of(command.args([&tracker, "bench"]).args(args).args(["--op", ops]))
    };
    let out = run("upload,download,mixed,delete");
    out.success();
    let report = parsed(&out, &["upload", "download", "mixed", "delete"]);
    assert_eq!((&report["protocol"], &report["wrong"]), (&"fdfs".into(), &0.into()));
    assert!(fake.files.lock().unwrap().is_empty(), "nothing stays");
    assert!(*fake.peak.lock().unwrap() >= 30);
    assert_eq!(out.stderr, "");
}

/// A row that takes too long is ended, and says so.
#[test]
fn a_row_ends_when_its_time_is_over() {
    let cluster = Builder::new("bench-seconds").start();
    let out = bench(&cluster, "--count 1000000 --size 1k --op upload --seconds 1 --no-verify --json");
    out.success();
    let row = &parsed(&out, &["upload"])["rows"][0];
    let count = row["count"].as_u64().unwrap();
    assert!((1..1_000_000).contains(&count), "{row}");
    assert!(out.stderr.contains(&format!("and {count} of 1000000 operations")), "{}", out.stderr);
    assert_nothing_stays(&cluster);
}
