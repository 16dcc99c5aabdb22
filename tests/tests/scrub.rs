//! The scrub: a byte that a disk flipped is noticed, the file is out of service on that member, and readers
//! get it from another one whose copy is sound.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tnv_tests::cluster::Part;
use tnv_tests::fsck::fsck;
use tnv_tests::raw::{self, Raw};
use tnv_tests::{Builder, Cluster, Output, PATIENCE, Process, http, patient, sample};

const USER: &str = "tnv001";

/// A group of two members, each of which has its own copy of the files, under the same text.
fn two_copies(builder: Builder<'_>) -> Cluster {
    let mut cluster = builder.groups(&["group001"], 2).set(Part::Storage, "tnv_shared_store", "no").prepare();
    let cwd = cluster.path("second/run");
    fs::create_dir_all(&cwd).expect("make a directory");
    let (address, config) = (cluster.storages[1].address(), cluster.storages[1].config().to_owned());
    let log = cluster.path("log/second.log");
    cluster.storages[1] = Process::new("tnv-storage", address, &config, &cwd, &[], &log);
    cluster.start_all();
    cluster
}

/// Copies what the first member has to the second, as replication would.
fn replicate(cluster: &Cluster) {
    for file in cluster.content_files("group001") {
        let to = copy_of(cluster, &file);
        fs::create_dir_all(to.parent().expect("a directory")).expect("make a directory");
        fs::copy(&file, to).expect("copy a file");
    }
}

fn copy_of(cluster: &Cluster, file: &Path) -> PathBuf {
    let below = file.strip_prefix(cluster.path("group001/data")).expect("a file of the first member");
    cluster.path("second/data").join(below)
}

fn file_of(cluster: &Cluster, fileid: &str) -> PathBuf {
    let path = cluster.file_row(USER, fileid).expect("a row")[2].clone();
    cluster.path("group001").join(path.strip_prefix("../").expect("a relative path"))
}

fn flip(path: &Path) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).expect("open a stored file");
    let at = file.metadata().expect("its size").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read a byte");
    file.write_all_at(&[byte[0] ^ 0x10], at).expect("write a byte");
}

/// This host's name, as servers have it.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The requests that read a file: its size, all of it, everything about it.
fn reads(fileid: &str) -> [Vec<u8>; 3] {
    [
        raw::filesize("tnvideo", USER, fileid),
        raw::download("tnvideo", USER, fileid, 0, 0),
        raw::message(120, &raw::triple("tnvideo", USER, fileid)),
    ]
}

/// Every reader gets the content, whichever member it asks first.
fn assert_readable(cluster: &Cluster, fileid: &str, content: &[u8]) {
    let out = cluster.path("out");
    for round in 0..6 {
        cluster.tnv(&["download", "tnvideo", USER, fileid, "0", "0", out.to_str().expect("UTF-8")]).success();
        assert!(fs::read(&out).expect("read the download") == content, "download {round}");
        let response = http::get(cluster.httpd(), &format!("/files/{fileid}"), &[]);
        assert!(response.status == 200 && response.body == content, "GET {round}: {}", response.status);
    }
}

#[test]
fn a_flipped_byte_is_found_and_the_file_is_served_by_the_member_whose_copy_is_sound() {
    let mut cluster =
        two_copies(Builder::new("scrub").httpds(1).set(Part::Storage, "tnv_scrub_rate", "1G").set(
            Part::Storage,
            "tnv_scrub_interval",
            1,
        ));
    let content = sample(300_000, 7);
    for fileid in ["sound", "flipped", "deleted"] {
        cluster.put(USER, fileid, &content);
    }
    // It may have been looked at before it was copied; that it was missing says nothing later.
    replicate(&cluster);
    let (flipped, deleted) = (file_of(&cluster, "flipped"), file_of(&cluster, "deleted"));
    for file in [&flipped, &deleted] {
        // Read by the member, so that it is in its cache.
        flip(file);
    }
    for fileid in ["flipped", "deleted"] {
        let path = cluster.file_row(USER, fileid).expect("a row")[2].clone();
        cluster.storages[0]
            .wait_log(&format!("DAMAGED, out of service here: {path}: its checksum is"), PATIENCE);
        assert!(cluster.storages[0].log().contains(&format!("fileid: {fileid}, userid: {USER}")));
        for request in reads(fileid) {
            let refused = raw::ask(cluster.storage(), &request);
            assert!(refused.failure(102).contains("damaged"), "{refused:?}");
            // EAGAIN: another member may have it.
            assert_eq!(refused.body[..2], (-11_i16).to_be_bytes());
        }
    }
    let sound = raw::ask(cluster.storage(), &raw::download("tnvideo", USER, "sound", 0, 0));
    assert_eq!(sound.success(102), content);
    assert_readable(&cluster, "flipped", &content);
    assert!(!cluster.storages[1].log().contains("DAMAGED"));
    let report = fsck(&cluster, 0, &["--min-age", "0"]);
    assert_eq!((report.code, report.fileids("checksum")), (1, vec!["deleted", "flipped"]));

    // A restart forgets nothing, also where there is no scrub.
    let config = cluster.storages[0].config().to_owned();
    let text = fs::read_to_string(&config).expect("read the configuration");
    fs::write(&config, text.replace("tnv_scrub_rate = 1G", "tnv_scrub_rate = 0")).expect("write it");
    cluster.storages[0].restart();
    cluster.wait_active(2);
    raw::ask(cluster.storage(), &reads("flipped")[1]).failure(102);
    assert!(cluster.storages[0].log_of_run().contains("2 damaged files are out of service here"));
    assert_readable(&cluster, "flipped", &content);

    // What is damaged can be deleted; and a copy that is sound again is served again.
    assert_eq!(
        Raw::connect(cluster.storage()).ask(&raw::delete("tnvideo", USER, "deleted")).success(102),
        b""
    );
    assert!(!deleted.exists());
    fs::write(&flipped, &content).expect("restore the copy");
    cluster.storages[0].wait_log("sound again and back in service: ", PATIENCE);
    cluster.storages[0].wait_log("which was damaged, has been deleted, fileid: deleted", PATIENCE);
    let frame = raw::ask(cluster.storage(), &raw::download("tnvideo", USER, "flipped", 0, 0));
    assert!(frame.success(102) == content);
    let state = format!(".scrub-{}-127.0.0.1-{}", host(), cluster.storage().port());
    let state = cluster.path("group001/data").join(state.replace('/', "_"));
    patient("what is known is saved", PATIENCE, || {
        !String::from_utf8_lossy(&fs::read(&state).unwrap_or_default()).contains("000/000")
    });
    cluster.storages[0].restart();
    assert!(!cluster.storages[0].log_of_run().contains("damaged files are out of service"));
}

/// The scrub has not come there yet: what the client fetched is not what was stored.
#[test]
fn a_client_that_meets_a_damaged_copy_fetches_the_file_from_another_member() {
    let cluster = two_copies(Builder::new("scrub-off").set(Part::Storage, "tnv_scrub_rate", 0));
    let content = sample(700_000, 9);
    cluster.put(USER, "film", &content);
    replicate(&cluster);
    flip(&file_of(&cluster, "film"));
    let frame = raw::ask(cluster.storage(), &raw::download("tnvideo", USER, "film", 0, 0));
    assert!(frame.success(102) != content, "without a scrub nobody has noticed");
    let out = cluster.path("out");
    let mut met = 0;
    for _ in 0..12 {
        let mut command = cluster.tnv_command(&["download", "tnvideo", USER, "film", "0", "0"]);
        let output = Output::of(command.arg(&out).env("RUST_LOG", "warn"));
        output.success();
        met += usize::from(output.stderr.contains("damaged"));
        assert!(fs::read(&out).expect("read the download") == content);
    }
    println!("{met} of 12 downloads met the damaged copy first");
    assert!(met > 0, "one in 4096 runs meets the sound copy each time");
    // With no sound copy anywhere it is an error, and nothing is left.
    flip(&copy_of(&cluster, &file_of(&cluster, "film")));
    fs::remove_file(&out).expect("remove the download");
    let output = cluster.tnv(&["download", "tnvideo", USER, "film", "0", "0", out.to_str().expect("UTF-8")]);
    assert_eq!(output.code, 1);
    assert!(output.stderr.contains("damaged") && !out.exists(), "{output:?}");
}

/// Where the group shares one directory there is no other copy, and what is missing is told and no more.
#[test]
fn a_file_that_is_gone_is_told_and_what_existing_storages_wrote_is_held_against_its_size() {
    let cluster = Builder::new("scrub-gone")
        .set(Part::Storage, "tnv_scrub_rate", "1G")
        .set(Part::Storage, "tnv_scrub_interval", 1)
        .start();
    let table = raw::table_of(USER);
    for fileid in ["gone", "short", "plain", "other"] {
        cluster.put(USER, fileid, b"0123456789");
    }
    for (fileid, change) in [
        ("short", "checksum = NULL, group_name = NULL"),
        ("plain", "checksum = NULL, group_name = NULL"),
        ("other", "group_name = 'group002'"),
    ] {
        cluster.sql("tnv_storagedb", &format!("UPDATE t_file_0{table} SET {change} WHERE id = '{fileid}'"));
    }
    let (gone, short) = (file_of(&cluster, "gone"), file_of(&cluster, "short"));
    fs::remove_file(&gone).expect("remove a stored file");
    fs::write(&short, "0123").expect("shorten a stored file");
    flip(&file_of(&cluster, "plain"));
    flip(&file_of(&cluster, "other"));
    cluster.storages[0].wait_log("there is no file, fileid: gone", PATIENCE);
    cluster.storages[0].wait_log("it has 4 bytes, its row says 10, fileid: short", PATIENCE);
    let done = "scrub: read 0 files of 0 bytes, 1 more have no checksum, 1 are missing, 1 are damaged";
    patient("a whole round", PATIENCE, || cluster.storages[0].log().contains(done));
    let log = cluster.storages[0].log();
    assert!(!log.contains("fileid: plain") && !log.contains("fileid: other"), "{log}");
    let mut command = Command::new("ls");
    let listed = Output::of(command.arg("-A").arg(cluster.path("group001/data"))).success();
    assert!(listed.contains(".scrub-"), "{listed}");
}
