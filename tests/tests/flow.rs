//! The whole flow, a file in through the client and out again through the client and HTTP, on the
//! embedded database and on a real MariaDB: alone, and with two of everything.

use std::collections::BTreeSet;
use std::time::Instant;

use tnv_tests::cluster::{Part, active, statuses};
use tnv_tests::mariadb::MariaDb;
use tnv_tests::{Builder, Cluster, Db, PATIENCE, http, patient, raw, sample};

/// Each size of the issue but the largest, which `big.rs` has.
const SIZES: [usize; 6] = [0, 1, 4095, 64 << 10, (64 << 10) + 1, 5 << 20];

fn whole_flow(cluster: &Cluster, userids: &[&str]) {
    for (index, &userid) in userids.iter().enumerate() {
        for size in SIZES {
            let content = sample(size, (index * 7 + size) as u64 + 1);
            let id = cluster.upload("tnvideo", userid, &content);
            assert_eq!(
                cluster.tnv(&["filesize", "tnvideo", userid, &id]).success(),
                format!("Get filesize success: {size}\n")
            );
            let out = cluster.path("out");
            let said =
                cluster.tnv(&["download", "tnvideo", userid, &id, "0", "0", out.to_str().expect("UTF-8")]);
            assert_eq!(said.success(), format!("Download success: {size}\n"));
            assert_eq!(std::fs::read(&out).expect("OUT"), content);
            for httpd in &cluster.httpds {
                let escaped = userid.replace('\'', "%27");
                let response = http::get(httpd.address(), &format!("/files/tnvideo/{escaped}/{id}"), &[]);
                assert_eq!(response.status, 200);
                assert!(response.body == content, "over HTTP {} bytes, want {size}", response.body.len());
            }
            assert_eq!(
                cluster.tnv(&["delete", "tnvideo", userid, &id]).success(),
                format!("Delete success: {id}\n")
            );
            assert_eq!(cluster.tnv(&["filesize", "tnvideo", userid, &id]).code, 1);
            for httpd in &cluster.httpds {
                let escaped = userid.replace('\'', "%27");
                assert_eq!(
                    http::get(httpd.address(), &format!("/files/tnvideo/{escaped}/{id}"), &[]).status,
                    404
                );
            }
        }
    }
    assert_eq!(cluster.file_rows(), 0, "every delete removed its row");
}

/// Heartbeats of a storage so rare that nothing but its first one, its connection's end and what a
/// tracker is asked can change what the tracker knows of it.
fn no_beats(builder: Builder<'_>) -> Builder<'_> {
    builder.set(Part::Storage, "tnv_heart_beat_interval", 3600).set(
        Part::Tracker,
        "check_active_interval",
        86_400,
    )
}

fn two_of_everything(name: &str, db: Db<'_>) {
    let mut cluster = no_beats(Builder::new(name))
        .trackers(2)
        .ids(2)
        .groups(&["group001", "group002"], 2)
        .httpds(2)
        .db(db)
        .start();
    whole_flow(&cluster, &["tnv001", "o'brien"]);

    // Users spread over the groups, and both trackers answer alike.
    let mut groups = BTreeSet::new();
    for index in 0..24 {
        let asked: BTreeSet<_> = cluster
            .trackers
            .iter()
            .map(|tracker| {
                let reply = raw::ask(tracker.address(), &raw::addresses("tnvideo", &format!("user{index}")));
                reply.success(100)[..8].to_vec()
            })
            .collect();
        assert_eq!(asked.len(), 1, "the trackers disagree on user{index}");
        groups.extend(asked);
    }
    assert_eq!(groups, [b"group001".to_vec(), b"group002".to_vec()].into(), "24 users in one group");

    // What one member stored the other one has, and files lie under the group of their user.
    let content = sample(100_000, 5);
    let id = cluster.upload("tnvideo", "tnv001", &content);
    let route = raw::ask(cluster.tracker(), &raw::addresses("tnvideo", "tnv001")).success(100);
    let group = std::str::from_utf8(&route[..8]).expect("UTF-8").to_owned();
    for member in cluster.members(&group) {
        let reply = raw::ask(member.address(), &raw::download("tnvideo", "tnv001", &id, 0, 0));
        assert!(reply.success(102) == content);
    }
    assert_eq!(cluster.content_files(&group).len(), 1);

    // Half of it away: one tracker, one ID server, one member of each group, one HTTP server.
    cluster.trackers[0].kill();
    cluster.ids[1].kill();
    cluster.storages[0].kill();
    cluster.storages[3].kill();
    patient("the dead members OFFLINE", PATIENCE, || active(cluster.trackers[1].address()) == 2);
    for userid in ["tnv001", "user1", "user2", "user3"] {
        let content = sample(70_000, 9);
        let id = cluster.upload("tnvideo", userid, &content);
        let out = cluster.tnv(&["download", "tnvideo", userid, &id, "0", "0", "-"]);
        out.success();
        assert!(out.stdout == content);
        for httpd in &cluster.httpds {
            let response = http::get(httpd.address(), &format!("/files/tnvideo/{userid}/{id}"), &[]);
            assert_eq!(response.status, 200);
            assert!(response.body == content);
        }
    }
    // And back.
    cluster.trackers[0].start();
    cluster.ids[1].start();
    cluster.storages[0].start();
    cluster.storages[3].start();
    cluster.wait_active(4);
    let out = cluster.tnv(&["download", "tnvideo", "tnv001", &id, "0", "0", "-"]);
    out.success();
    assert!(out.stdout == content);
}

#[test]
fn the_whole_flow_works_on_the_embedded_database() {
    let cluster = Builder::new("flow").httpds(1).start();
    whole_flow(&cluster, &["tnv001", "o'brien"]);
}

#[test]
fn the_whole_flow_works_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    let cluster = Builder::new("flow-mariadb").httpds(1).db(Db::Maria(&server)).start();
    whole_flow(&cluster, &["tnv001", "o'brien"]);
    for part in ["tracker", "idserver", "storage"] {
        let log = std::fs::read_to_string(cluster.path(&format!("log/tnv-{part}-0.log"))).expect("a log");
        assert!(!log.contains(server.password()), "the password is in the log of {part}");
    }
}

#[test]
fn two_trackers_two_id_servers_and_two_groups_of_two_work_on_the_embedded_database() {
    two_of_everything("two", Db::Embedded);
}

#[test]
fn two_trackers_two_id_servers_and_two_groups_of_two_work_on_mariadb() {
    let Some(server) = MariaDb::start() else { return };
    two_of_everything("two-mariadb", Db::Maria(&server));
}

/// All at once, so that each finds the others away at first, and with the next heartbeat an hour
/// away: what joins and beats late would not do so while this test waits.
#[test]
fn a_cluster_is_usable_as_soon_as_it_is_started() {
    let mut cluster = no_beats(Builder::new("usable")).httpds(1).no_wait().prepare();
    let start = Instant::now();
    cluster.parts().for_each(|part| part.spawn());
    cluster.parts().for_each(|part| {
        part.wait_ready();
    });
    let ready = start.elapsed();
    let file = cluster.file("f", b"content");
    let file = file.to_str().expect("UTF-8").to_owned();
    patient("the first upload", PATIENCE, || cluster.tnv(&["upload", "tnvideo", "tnv001", &file]).code == 0);
    println!("all ready after {ready:?}, first upload done after {:?}", start.elapsed());
}

#[test]
fn the_start_says_which_database_is_used() {
    let cluster = Builder::new("which-db").start();
    for part in ["tracker", "idserver", "storage"] {
        let log = std::fs::read_to_string(cluster.path(&format!("log/tnv-{part}-0.log"))).expect("a log");
        let lines: Vec<_> = log.lines().filter(|line| line.contains("database")).collect();
        assert!(lines.iter().any(|line| line.contains("embedded")), "{part}: {log}");
    }
    assert!(cluster.path("db/tnv_trackerdb.db").exists());
    assert!(cluster.path("db/tnv_idsdb.db").exists());
    assert!(cluster.path("db/tnv_storagedb.db").exists());
}

#[test]
fn two_storages_on_one_host_are_two_members() {
    let cluster = Builder::new("members").groups(&["group001"], 2).start();
    let known = statuses(cluster.tracker());
    assert_eq!(known.len(), 2, "{known:?}");
    assert!(cluster.storages.iter().all(|storage| known[&storage.host_port()] == "ACTIVE"), "{known:?}");
}

#[test]
fn everything_survives_a_restart_of_every_server() {
    let mut cluster = Builder::new("restart").httpds(1).start();
    let content = sample(200_000, 3);
    let id = cluster.upload("tnvideo", "tnv001", &content);
    cluster.parts().for_each(|part| part.kill());
    cluster.start_all();
    let out = cluster.tnv(&["download", "tnvideo", "tnv001", &id, "0", "0", "-"]);
    out.success();
    assert!(out.stdout == content);
    assert!(http::get(cluster.httpd(), &format!("/files/{id}"), &[]).body == content);
}
