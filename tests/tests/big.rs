//! Round trips of every size in bounded memory, the largest over 4 GiB.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};
use std::time::Instant;

use tnv_tests::process::status_kib;
use tnv_tests::tools::{free_bytes, heavy, this_test};
use tnv_tests::{Builder, Cluster, http, sample, skipped};

/// No part may ever be larger than this, whatever the size of a file: a copy buffer for each of its
/// connections, the databases' caches and the stacks fit many times over.
const PEAK_MIB: u64 = 128;

fn round_trip(cluster: &Cluster, content: &[u8]) {
    let id = cluster.upload("tnvideo", "tnv001", content);
    let out = cluster.tnv(&["download", "tnvideo", "tnv001", &id, "0", "0", "-"]);
    out.success();
    assert!(out.stdout == content, "client: {} bytes of {}", out.stdout.len(), content.len());
    let response = http::get(cluster.httpd(), &format!("/files/{id}"), &[]);
    assert_eq!(response.status, 200);
    assert!(response.body == content, "HTTP: {} bytes of {}", response.body.len(), content.len());
}

#[test]
fn files_of_0_and_1_byte_64_kib_and_5_mib_come_back_as_they_went_in() {
    let mut cluster = Builder::new("sizes").httpds(1).start();
    for size in [0, 1, 64 << 10, 5 << 20] {
        round_trip(&cluster, &sample(size, size as u64));
    }
    cluster.assert_peaks_below(PEAK_MIB);
}

/// The largest: sparse, with marks on both sides of every boundary that a 32-bit number has.
#[test]
fn a_file_over_4_gib_comes_back_in_bounded_memory() {
    let _heavy = heavy();
    const SIZE: u64 = (4 << 30) + (64 << 20) + 1;
    const MARKS: [u64; 8] =
        [0, 1 << 20, (2 << 30) - 4, (2 << 30) + 4, (4 << 30) - 4, (4 << 30) + 4, (4 << 30) + 12, SIZE - 8];
    let mut cluster = Builder::new("big").httpds(1).start();
    if free_bytes(cluster.dir()) < 12 << 30 {
        return skipped(&this_test(), "less than 12 GiB of disk are free");
    }
    let path = cluster.path("big");
    let file = File::create(&path).expect("create");
    file.set_len(SIZE).expect("size");
    for at in MARKS {
        file.write_all_at(format!("<{:06x}>", at & 0xFF_FFFF).as_bytes(), at).expect("mark");
    }
    drop(file);

    let start = Instant::now();
    let said = watched(&mut cluster.tnv_command(&["upload", "tnvideo", "tnv001", "big"]), "upload");
    let id = said.strip_prefix("Upload success: ").expect("the line").trim().to_owned();
    println!("upload of {SIZE} bytes in {:?}", start.elapsed());
    assert_eq!(
        cluster.tnv(&["filesize", "tnvideo", "tnv001", &id]).success(),
        format!("Get filesize success: {SIZE}\n")
    );

    let start = Instant::now();
    let said = watched(
        &mut cluster.tnv_command(&["download", "tnvideo", "tnv001", &id, "0", "0", "back"]),
        "download",
    );
    assert_eq!(said, format!("Download success: {SIZE}\n"));
    println!("download in {:?}", start.elapsed());
    same(&mut File::open(&path).expect("open"), &mut File::open(cluster.path("back")).expect("open"));
    std::fs::remove_file(cluster.path("back")).expect("remove");

    let start = Instant::now();
    let mut conn = http::Http::connect(cluster.httpd());
    conn.request("GET", &format!("/files/{id}"), &[]);
    let head = conn.head().expect("a head");
    assert_eq!((head.status, head.want("Content-Length")), (200, SIZE.to_string().as_str()));
    let mut wanted = File::open(&path).expect("open");
    let mut left = SIZE;
    while left > 0 {
        let piece = left.min(1 << 20);
        let got = conn.body(piece as usize).expect("content");
        let mut want = vec![0; got.len()];
        wanted.read_exact(&mut want).expect("the input");
        assert!(got == want, "HTTP differs before byte {}", SIZE - left);
        left -= piece;
    }
    println!("HTTP in {:?}", start.elapsed());

    for at in MARKS {
        let range = format!("bytes={at}-{}", at + 7);
        let response = http::get(cluster.httpd(), &format!("/files/{id}"), &[("Range", &range)]);
        assert_eq!(
            (response.status, response.want("Content-Range")),
            (206, format!("bytes {at}-{}/{SIZE}", at + 7).as_str())
        );
        assert_eq!(response.text(), format!("<{:06x}>", at & 0xFF_FFFF));
        let out = cluster.tnv(&["download", "tnvideo", "tnv001", &id, &at.to_string(), "8", "-"]);
        assert_eq!(out.stdout, response.body);
    }
    cluster.assert_peaks_below(PEAK_MIB);
    assert_eq!(
        cluster.tnv(&["delete", "tnvideo", "tnv001", &id]).success(),
        format!("Delete success: {id}\n")
    );
    assert!(cluster.content_files("group001").is_empty());
}

/// Runs the client and watches its memory; gives what it printed.
fn watched(command: &mut Command, what: &str) -> String {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("run the client");
    let mut peak = 0;
    let status = loop {
        peak = status_kib(child.id(), "VmHWM:").unwrap_or(peak);
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    assert!(status.success(), "{what}: {status}");
    println!("peak resident of tnv {what}: {:.1} MiB", peak as f64 / 1024.0);
    assert!(peak < PEAK_MIB << 10, "tnv {what} had {peak} KiB resident");
    let mut said = String::new();
    child.stdout.take().expect("its output").read_to_string(&mut said).expect("read");
    said
}

fn same(one: &mut File, other: &mut File) {
    let (mut a, mut b) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    assert_eq!(one.metadata().expect("size").len(), other.metadata().expect("size").len());
    loop {
        let count = one.read(&mut a).expect("read");
        if count == 0 {
            return;
        }
        other.read_exact(&mut b[..count]).expect("read");
        assert!(a[..count] == b[..count], "the download differs");
    }
}

#[test]
fn many_uploads_at_once_take_bounded_memory() {
    let _heavy = heavy();
    let mut cluster = Builder::new("many-uploads").httpds(1).start();
    let path = cluster.path("many");
    File::create(&path).expect("create").write_all(&sample(24 << 20, 5)).expect("write");
    let children: Vec<_> = (0..8)
        .map(|_| {
            cluster
                .tnv_command(&["upload", "tnvideo", "tnv001", "many"])
                .stdout(Stdio::null())
                .spawn()
                .expect("run")
        })
        .collect();
    children.into_iter().for_each(|mut child| assert!(child.wait().expect("wait").success()));
    assert_eq!(cluster.file_rows(), 8);
    cluster.assert_peaks_below(PEAK_MIB);
}
