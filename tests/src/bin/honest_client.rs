//! Honest clients of all four servers, one of each, as a process of their own: what the attackers of a test take of
//! their process's locks and scheduling says nothing about the servers.
//!
//! `honest_client TAG TRACKER ID STORAGE HTTPD` asks until its standard input ends, then prints a line for each
//! server: how long each request took, in microseconds. A request that fails ends it with a panic.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tnv_tests::http::Http;
use tnv_tests::raw::{self, Raw};
use tnv_tests::sample;

/// The pause after each request: it is the servers that are measured, not the machine at its limit.
const PAUSE: Duration = Duration::from_millis(5);

static STOP: AtomicBool = AtomicBool::new(false);

fn main() {
    let mut args = std::env::args().skip(1);
    let tag = args.next().expect("a tag");
    let addresses: Vec<SocketAddr> = args.map(|text| text.parse().expect("an address")).collect();
    let [tracker, id, storage, httpd] = addresses[..] else { panic!("want four addresses") };
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        STOP.store(true, Ordering::Relaxed);
    });
    let clients = [
        thread::spawn(move || {
            let mut raw = Raw::connect(tracker);
            until_stopped(|_| drop(raw.ask(&raw::addresses("tnvideo", "tnv001")).success(100)))
        }),
        thread::spawn(move || {
            let mut raw = Raw::connect(id);
            until_stopped(|_| drop(raw.ask(&raw::get_id("../data")).success(101)))
        }),
        thread::spawn(move || {
            let mut raw = Raw::connect(storage);
            until_stopped(|turn| {
                let (fileid, content) = (format!("honest{tag}{turn}"), sample(4096, turn));
                raw.ask(&raw::upload("tnvideo", "tnv001", &fileid, &content)).success(102);
                let back = raw.ask(&raw::download("tnvideo", "tnv001", &fileid, 0, 0)).success(102);
                assert!(back == content, "{fileid} came back otherwise");
                raw.ask(&raw::delete("tnvideo", "tnv001", &fileid)).success(102);
            })
        }),
        thread::spawn(move || {
            let mut conn = Http::connect(httpd);
            until_stopped(|turn| {
                // Now and then on a new connection.
                if turn % 8 == 0 {
                    conn = Http::connect(httpd);
                }
                assert_eq!(conn.ask("GET", "/files/f", &[]).body, b"content");
            })
        }),
    ];
    for client in clients {
        let took: Vec<_> = client.join().expect("an honest client").iter().map(u128::to_string).collect();
        println!("{}", took.join(" "));
    }
}

/// How long each request took.
fn until_stopped(mut request: impl FnMut(u64)) -> Vec<u128> {
    let mut took = Vec::new();
    for turn in 0.. {
        if STOP.load(Ordering::Relaxed) {
            break;
        }
        let start = Instant::now();
        request(turn);
        took.push(start.elapsed().as_micros());
        thread::sleep(PAUSE);
    }
    took
}
