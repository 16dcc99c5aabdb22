//! A real player's path: ffprobe and ffmpeg read the clip, whose index is at its end, through the
//! HTTP URL with seeks; curl and wget resume a download.

use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use tnv_tests::bins::workspace;
use tnv_tests::port::free_address;
use tnv_tests::tools::{installed, this_test};
use tnv_tests::{Builder, Cluster, Output, PATIENCE, http, patient, sample, skipped};

/// The clip of the repository, served; its URL and its bytes.
fn clip(cluster: &Cluster) -> (String, Vec<u8>) {
    let content = std::fs::read(workspace().join("scripts/sample.mp4")).expect("the clip");
    let at = |what: &[u8]| content.windows(4).position(|window| window == what).expect("a box");
    assert!(at(b"mdat") < at(b"moov"), "the clip's index is at its end, or no player has to seek");
    let id = cluster.upload("tnvideo", "tnv001", &content);
    (format!("http://{}/files/{id}/clip.mp4", cluster.httpd()), content)
}

#[test]
fn ffprobe_reads_the_clip_through_the_url() {
    if !installed("ffprobe") {
        return skipped(&this_test(), "ffprobe is not installed");
    }
    let cluster = Builder::new("ffprobe").httpds(1).start();
    let (url, _) = clip(&cluster);
    let said = Output::of(Command::new("ffprobe").args([
        "-v",
        "error",
        "-show_entries",
        "format=duration,format_name:stream=codec_name,width,height",
        "-of",
        "default=nw=1",
        &url,
    ]))
    .success();
    for line in ["codec_name=h264", "width=320", "height=240", "codec_name=aac"] {
        assert!(said.contains(line), "{said}");
    }
    let duration: f64 = said
        .lines()
        .find_map(|line| line.strip_prefix("duration="))
        .and_then(|text| text.parse().ok())
        .expect("a duration");
    assert!((7.5..8.5).contains(&duration), "{duration}");
    // It seeks: without ranges it could only read on.
    let traced = Output::of(Command::new("ffprobe").args(["-v", "trace", &url]));
    assert!(traced.stderr.contains("206 Partial Content"), "{}", traced.stderr);
}

#[test]
fn ffmpeg_seeks_into_the_clip_and_decodes_there() {
    if !installed("ffmpeg") {
        return skipped(&this_test(), "ffmpeg is not installed");
    }
    let cluster = Builder::new("ffmpeg").httpds(1).start();
    let (url, content) = clip(&cluster);
    let file = cluster.file("clip.mp4", &content);
    for seconds in ["0", "3.3", "7"] {
        let frame = |input: &str| {
            let args = ["-v", "error", "-ss", seconds, "-i", input, "-frames:v", "1", "-f", "rawvideo", "-"];
            Output::of(Command::new("ffmpeg").args(args))
        };
        let (served, local) = (frame(&url), frame(file.to_str().expect("UTF-8")));
        served.success();
        assert_eq!(served.stdout.len(), 320 * 240 * 3 / 2);
        assert!(served.stdout == local.stdout, "another picture at {seconds} s");
        assert_eq!(served.stderr, "");
    }
    // From the first to the last picture.
    let out = Output::of(Command::new("ffmpeg").args(["-v", "error", "-i", &url, "-f", "null", "-"]));
    out.success();
    assert_eq!(out.stderr, "");
}

#[test]
fn curl_takes_ranges_and_resumes() {
    if !installed("curl") {
        return skipped(&this_test(), "curl is not installed");
    }
    let cluster = Builder::new("curl").httpds(1).start();
    let (url, content) = clip(&cluster);
    let curl = |args: &[&str]| {
        Output::of(
            Command::new("curl").args(["-sS", "--fail"]).args(args).arg(&url).current_dir(cluster.dir()),
        )
    };
    for (range, wanted) in [
        ("0-9", &content[..10]),
        ("100-", &content[100..]),
        ("-100", &content[content.len() - 100..]),
        ("5-5", &content[5..6]),
    ] {
        let out = curl(&["-r", range]);
        out.success();
        assert!(out.stdout == wanted, "{range}: {} bytes", out.stdout.len());
    }
    cluster.file("part", &content[..70_001]);
    curl(&["-C", "-", "-o", "part"]).success();
    assert!(std::fs::read(cluster.path("part")).expect("the file") == content);
    let head = curl(&["-I"]).success().to_ascii_lowercase();
    assert!(head.contains(&format!("content-length: {}", content.len())), "{head}");
    // Only what is newer, by the validator that was sent.
    let tag = http::get(
        cluster.httpd(),
        url.splitn(4, '/').nth(3).map(|path| format!("/{path}")).expect("a path").as_str(),
        &[],
    )
    .want("ETag")
    .to_owned();
    let out = curl(&["-H", &format!("If-None-Match: {tag}"), "-w", "%{http_code}", "-o", "unchanged"]);
    assert_eq!(out.success(), "304");
}

#[test]
fn wget_resumes_a_download() {
    if !installed("wget") {
        return skipped(&this_test(), "wget is not installed");
    }
    let cluster = Builder::new("wget").httpds(1).start();
    let content = sample(3_000_000, 8);
    let id = cluster.upload("tnvideo", "tnv001", &content);
    let url = format!("http://{}/files/{id}/film.bin", cluster.httpd());
    cluster.file("film.bin", &content[..1_234_567]);
    let out =
        Output::of(Command::new("wget").args(["-c", "-nv", "--tries=1", &url]).current_dir(cluster.dir()));
    out.success();
    assert!(std::fs::read(cluster.path("film.bin")).expect("the file") == content);
    // And when it is whole there is nothing left to fetch.
    let again =
        Output::of(Command::new("wget").args(["-c", "-nv", "--tries=1", &url]).current_dir(cluster.dir()));
    assert_eq!(again.code, 0, "{again:?}");
    assert!(std::fs::read(cluster.path("film.bin")).expect("the file") == content);
}

/// An nginx that caches what the HTTP server has, slice by slice. It ends with this.
struct SlicingCache(std::process::Child);

impl SlicingCache {
    fn start(cluster: &Cluster, address: SocketAddr) -> SlicingCache {
        let config = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n access_log off;\n \
             client_body_temp_path body;\n proxy_temp_path proxy;\n fastcgi_temp_path f;\n uwsgi_temp_path u;\n \
             scgi_temp_path s;\n proxy_cache_path cache keys_zone=films:1m;\n server {{\n  listen {address};\n  \
             location / {{\n   slice 64k;\n   proxy_cache films;\n   proxy_cache_key $uri$slice_range;\n   \
             proxy_cache_valid 200 206 1h;\n   proxy_ignore_headers Cache-Control;\n   \
             proxy_set_header Range $slice_range;\n   proxy_http_version 1.1;\n   proxy_pass http://{};\n  }}\n }}\n}}\n",
            cluster.httpd()
        );
        let directory = cluster.path("nginx");
        std::fs::create_dir(&directory).expect("make a directory");
        let file = directory.join("nginx.conf");
        std::fs::write(&file, config).expect("write a configuration");
        let child = Command::new("nginx")
            .arg("-p")
            .arg(&directory)
            .arg("-c")
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .expect("start nginx");
        let cache = SlicingCache(child);
        patient("nginx listens", PATIENCE, || TcpStream::connect(address).is_ok());
        cache
    }
}

impl Drop for SlicingCache {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The story: nginx asks for the first slice of every file, and each empty one was a 416 for its viewers.
#[test]
fn a_cache_that_slices_serves_files_of_every_size() {
    let name = "a_cache_that_slices_serves_files_of_every_size";
    let slices = Command::new("nginx").arg("-V").output();
    let slices = slices.is_ok_and(|out| String::from_utf8_lossy(&out.stderr).contains("http_slice_module"));
    if !slices {
        return skipped(name, "there is no nginx with its slice module");
    }
    let cluster = Builder::new("slices").httpds(1).start();
    let address = free_address();
    let _cache = SlicingCache::start(&cluster, address);
    for bytes in [0, 1, 65_535, 65_536, 65_537, 300_000] {
        let content = sample(bytes, 9);
        let id = cluster.upload("tnvideo", "tnv001", &content);
        for _ in 0..2 {
            let response = http::get(address, &format!("/files/{id}"), &[]);
            assert_eq!((response.status, response.body.len()), (200, bytes));
            assert!(response.body == content, "{bytes} bytes");
        }
    }
}
