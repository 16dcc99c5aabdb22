//! The database goes away, hangs, or is another one from now on: what needs it says so in time, what
//! does not goes on, and all is well again by itself.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use tnv_tests::cluster::Part;
use tnv_tests::mariadb::MariaDb;
use tnv_tests::raw::{self, Raw};
use tnv_tests::{Builder, Cluster, Db, PATIENCE, patient, sample};

/// No answer takes longer than what a server itself waits for, with room for a machine that stands still:
/// 20 s for the writer's turn, 30 s for its group, 10 s for a lock, and twice the few seconds that
/// `mysql_rw_timeout` is set to here.
const ANSWER_MAX: Duration = Duration::from_secs(100);

fn ids(cluster: &Cluster, count: usize) -> Vec<i64> {
    let mut raw = Raw::connect(cluster.id());
    (0..count)
        .map(|_| {
            let number = raw.ask(&raw::get_id("numbers")).success(101);
            i64::from_be_bytes(number.try_into().expect("8 bytes"))
        })
        .collect()
}

fn get(cluster: &Cluster, id: &str) -> raw::Frame {
    raw::ask(cluster.storage(), &raw::download("tnvideo", "tnv001", id, 0, 0))
}

/// What goes on without a database, and what fails without it: clearly, and within its time.
fn without_database(cluster: &Cluster, round: &str, known_numbers: &mut HashSet<i64>) {
    let start = Instant::now();
    for _ in 0..5 {
        assert_eq!(get(cluster, "known").success(102), b"content");
        raw::ask(cluster.storage(), &raw::filesize("tnvideo", "tnv001", "known")).success(102);
        raw::ask(cluster.tracker(), &raw::addresses("tnvideo", "tnv001")).success(100);
    }
    for number in ids(cluster, 20) {
        assert!(known_numbers.insert(number), "{number} again");
    }
    println!("{round}: what needs no database took {:?}", start.elapsed());
    let questions = [
        (cluster.storage(), raw::filesize("tnvideo", "tnv001", "unknown"), 102),
        (
            cluster.storage(),
            raw::upload("tnvideo", "tnv001", &format!("during-{round}"), &sample(5000, 1)),
            102,
        ),
        (cluster.storage(), raw::delete("tnvideo", "tnv001", "kept"), 102),
        (cluster.tracker(), raw::addresses("tnvideo", &format!("new-{round}")), 100),
    ];
    std::thread::scope(|scope| {
        for (address, question, command) in questions {
            scope.spawn(move || {
                let start = Instant::now();
                let text = raw::ask(address, &question).failure(command);
                println!("{round}: after {:?}: {text}", start.elapsed());
                assert!(start.elapsed() < ANSWER_MAX, "{text}");
                assert!(!text.contains("no such file"), "nobody could know: {text}");
            });
        }
    });
    // The wait of one is not the wait of all.
    let start = Instant::now();
    assert_eq!(get(cluster, "known").success(102), b"content");
    println!("{round}: a known file after that {:?}", start.elapsed());
}

/// All is as before, and what failed left nothing but what it said.
fn with_database_again(cluster: &mut Cluster, round: &str) {
    let after = format!("after-{round}");
    let took = patient("uploads work again", PATIENCE, || {
        raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", &after, b"after")).status == 0
    });
    println!("{round}: uploads again after {took:?}");
    for (id, content) in [("known", &b"content"[..]), (&after, b"after")] {
        assert_eq!(get(cluster, id).success(102), content);
    }
    patient("a new user", PATIENCE, || {
        raw::ask(cluster.tracker(), &raw::addresses("tnvideo", &format!("then-{round}"))).status == 0
    });
    // A delete whose outcome was not known may have happened; an upload as well.
    patient("a file for each row", PATIENCE, || {
        cluster.content_files("group001").len() == cluster.file_rows()
    });
    assert!(cluster.parts().all(|part| part.runs()));
}

fn begin(cluster: &Cluster) {
    cluster.put("tnv001", "kept", b"to be deleted, perhaps");
    cluster.put("tnv001", "known", b"content");
    get(cluster, "known").success(102);
}

fn patient_parts<'a>(name: &str) -> Builder<'a> {
    [Part::Tracker, Part::Id, Part::Storage].into_iter().fold(Builder::new(name), |builder, part| {
        let builder = builder.set(part, "mysql_rw_timeout", 3);
        match part {
            Part::Id => builder,
            // Longer than any of this takes: what is remembered at the start is remembered at the end.
            part => builder.set(part, "redis_key_timeout", 3600),
        }
    })
}

#[test]
fn a_mariadb_that_hangs_or_is_killed_stops_only_what_needs_it_and_for_as_long() {
    let Some(mut server) = MariaDb::start() else { return };
    let mut cluster = patient_parts("db-away").db(Db::Maria(&server)).start();
    begin(&cluster);
    let mut numbers: HashSet<_> = ids(&cluster, 5).into_iter().collect();
    server.pause();
    without_database(&cluster, "paused", &mut numbers);
    server.resume();
    with_database_again(&mut cluster, "paused");
    if raw::ask(cluster.storage(), &raw::filesize("tnvideo", "tnv001", "kept")).status != 0 {
        cluster.put("tnv001", "kept", b"once more");
    }
    server.kill();
    without_database(&cluster, "killed", &mut numbers);
    server.restart();
    with_database_again(&mut cluster, "killed");
    for number in ids(&cluster, 300) {
        assert!(numbers.insert(number), "{number} again");
    }
}

#[test]
fn an_embedded_database_that_another_process_locks_stops_only_what_needs_it_and_for_as_long() {
    let mut cluster = patient_parts("db-locked").start();
    begin(&cluster);
    let mut numbers: HashSet<_> = ids(&cluster, 5).into_iter().collect();
    let lock = |name: &str| {
        let path = cluster.path("db").join(name);
        let connection = rusqlite::Connection::open(&path).expect("open a database");
        connection.busy_timeout(PATIENCE).expect("a timeout");
        connection.execute_batch("BEGIN EXCLUSIVE").expect("lock a database");
        connection
    };
    let locked = ["tnv_storagedb.db", "tnv_trackerdb.db", "tnv_idsdb.db"].map(lock);
    let start = Instant::now();
    for _ in 0..5 {
        assert_eq!(get(&cluster, "known").success(102), b"content");
        raw::ask(cluster.tracker(), &raw::addresses("tnvideo", "tnv001")).success(100);
    }
    for number in ids(&cluster, 20) {
        assert!(numbers.insert(number), "{number} again");
    }
    // Readers of the embedded database are not kept by a writer.
    raw::ask(cluster.storage(), &raw::filesize("tnvideo", "tnv001", "unknown")).failure(102);
    println!("what needs no lock took {:?}", start.elapsed());
    let start = Instant::now();
    let text = raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", "during", b"x")).failure(102);
    println!("after {:?}: {text}", start.elapsed());
    assert!(start.elapsed() < ANSWER_MAX);
    for connection in locked {
        connection.execute_batch("ROLLBACK").expect("unlock");
    }
    with_database_again(&mut cluster, "locked");
    assert_eq!(get(&cluster, "during").status, -3, "an upload that failed for certain is not there");
}

/// The primary dies under traffic, the replica is promoted, and nobody restarts or tells anything: uploads
/// go on there, and what was acknowledged before is there, since replication was what docs/mysql.md asks for.
#[test]
fn a_promoted_replica_is_followed_and_has_everything_that_was_acknowledged() {
    let Some((mut primary, replica)) = MariaDb::start_pair() else { return };
    let both = format!("{}; {}", primary.addr(), replica.addr());
    let mut builder = Builder::new("promoted").groups(&["group001"], 2).db(Db::Maria(&replica));
    for part in [Part::Tracker, Part::Id, Part::Storage] {
        builder = builder.set(part, "mysql_addrs", &both).set(part, "mysql_user", MariaDb::PLAIN_USER);
    }
    // Small segments, so that the table is asked often.
    let mut cluster = builder.set(Part::Id, "idinc_max_step", 10).start();
    let address = cluster.storage();
    raw::ask(cluster.tracker(), &raw::addresses("tnvideo", "tnv001")).success(100);
    let uploaders: Vec<_> = (0..4)
        .map(|thread| {
            std::thread::spawn(move || {
                let mut done = Vec::new();
                let Ok(mut raw) = Raw::try_connect(address) else { return done };
                for index in 0..2000 {
                    let id = format!("t{thread}-{index}");
                    let request = raw::upload("tnvideo", "tnv001", &id, id.as_bytes());
                    match raw.try_send(&request).and_then(|()| raw.try_frame()) {
                        Ok(Some(frame)) if frame.status == 0 => done.push(id),
                        _ => break,
                    }
                }
                done
            })
        })
        .collect();
    let mut numbers: HashSet<_> = ids(&cluster, 200).into_iter().collect();
    std::thread::sleep(Duration::from_millis(500));
    primary.kill();
    let killed = Instant::now();
    let done: Vec<_> = uploaders.into_iter().flat_map(|thread| thread.join().expect("uploads")).collect();
    println!("{} uploads were acknowledged before the primary died", done.len());
    assert!(done.len() > 10);
    // Not yet writable: an upload is refused, or its outcome is unknown.
    raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", "between", b"x")).failure(102);
    replica.promote();
    let took = patient("uploads go on", PATIENCE, || {
        raw::ask(cluster.storage(), &raw::upload("tnvideo", "tnv001", "after", b"after")).status == 0
    });
    println!("uploads again {took:?} after the promotion, {:?} after the kill", killed.elapsed());
    for member in &cluster.storages {
        // The second member has none of these in its memory.
        patient("the other member reads again", PATIENCE, || {
            raw::ask(member.address(), &raw::filesize("tnvideo", "tnv001", "after")).status == 0
        });
        let mut raw = Raw::connect(member.address());
        for id in &done {
            let back = raw.ask(&raw::download("tnvideo", "tnv001", id, 0, 0)).success(102);
            assert!(back == id.as_bytes(), "{id} has other content");
        }
    }
    patient("numbers again", PATIENCE, || raw::ask(cluster.id(), &raw::get_id("numbers")).status == 0);
    for number in ids(&cluster, 200) {
        assert!(numbers.insert(number), "{number} again");
    }
    patient("new users again", PATIENCE, || {
        raw::ask(cluster.tracker(), &raw::addresses("tnvideo", "new")).status == 0
    });
    // The uploads that were under way had no answer to their COMMIT: what has a row here is settled, and
    // what has none stays, since the dead server may have it.
    let (files, rows) = (cluster.content_files("group001").len(), cluster.file_rows());
    println!("{files} files, {rows} rows");
    assert!(rows > done.len() && rows <= files && files <= rows + 4, "{files} files, {rows} rows");
    assert!(cluster.parts().all(|part| part.runs()));
}
