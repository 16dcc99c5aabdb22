//! What the figures are to be: each target as a row of one column, and what it is held against, measured in the
//! same rounds.

use crate::table::{COLUMNS, Kind, ROWS, Work};

/// A row of a column, against something.
#[derive(Debug, PartialEq)]
pub(crate) struct Target {
    pub row: &'static str,
    pub column: &'static str,
    pub than: Than,
}

/// What it is held against.
#[derive(Debug, PartialEq)]
pub(crate) enum Than {
    /// So many times the same row of another column.
    Column(f64, &'static str),
    /// So many operations a second.
    Rate(f64),
}

/// Bytes that each server may have resident: idle, and at work; the HTTP server at work.
pub(crate) const IDLE_BYTES: u64 = 8_000_000;
pub(crate) const PEAK_BYTES: u64 = 32_000_000;
pub(crate) const HTTPD_PEAK_BYTES: u64 = 64_000_000;

/// Seconds from its start until a server is ready.
pub(crate) const START_S: f64 = 0.2;

/// Where the peer has no fsync, ours is off.
const PLAIN: &str = "embedded, no fsync";
const SYNCED: &str = "embedded, fsync";

const fn target(row: &'static str, column: &'static str, factor: f64, than: &'static str) -> Target {
    Target { row, column, than: Than::Column(factor, than) }
}

const AGAINST_OTHERS: [Target; 20] = [
    target("upload 4k", PLAIN, 1.0, "fastdfs"),
    target("upload 64k", PLAIN, 2.0, "fastdfs"),
    target("upload 1m", PLAIN, 3.0, "fastdfs"),
    target("upload 500m", PLAIN, 3.0, "fastdfs"),
    target("upload 500m", PLAIN, 0.8, "machine"),
    target("download 4k", PLAIN, 1.1, "fastdfs"),
    target("download 64k", PLAIN, 1.1, "fastdfs"),
    target("download 1m", PLAIN, 1.2, "fastdfs"),
    target("download 1m", PLAIN, 0.9, "machine"),
    target("download 500m", PLAIN, 1.2, "fastdfs"),
    target("download 500m", PLAIN, 0.9, "machine"),
    target("upload 4k", SYNCED, 0.8, "machine, fsync"),
    target("upload 64k", SYNCED, 0.8, "machine, fsync"),
    target("upload 1m", SYNCED, 0.8, "machine, fsync"),
    target("http 64k", PLAIN, 1.0, "nginx proxy"),
    target("http 64k", PLAIN, 1.0, "nginx proxy, unbuffered"),
    target("http 64k", PLAIN, 0.5, "nginx"),
    target("http 500m", PLAIN, 1.0, "nginx proxy"),
    target("http 500m", PLAIN, 1.0, "nginx proxy, unbuffered"),
    target("http 500m", PLAIN, 0.4, "nginx"),
];

const RATES: [Target; 4] = [
    Target { row: "ids", column: PLAIN, than: Than::Rate(50_000.0) },
    Target { row: "ids", column: "mariadb, no fsync", than: Than::Rate(50_000.0) },
    Target { row: "addresses", column: PLAIN, than: Than::Rate(60_000.0) },
    Target { row: "addresses", column: "mariadb, no fsync", than: Than::Rate(60_000.0) },
];

/// How much of the embedded database's rates is left with MariaDB.
const MARIADB: f64 = 0.7;

/// All of them.
pub(crate) fn all() -> Vec<Target> {
    let mut targets: Vec<_> = AGAINST_OTHERS.into_iter().collect();
    for fsync in [true, false] {
        let name = |wanted: bool| {
            let kind = Kind::Tnv { maria: wanted, fsync, slow: false };
            COLUMNS.iter().find(|column| column.kind == kind).map(|column| column.name)
        };
        let files = |work| matches!(work, Work::Upload | Work::Download | Work::Delete);
        for row in ROWS.iter().filter(|row| files(row.work)) {
            targets.extend(
                name(true)
                    .zip(name(false))
                    .map(|(maria, embedded)| target(row.name, maria, MARIADB, embedded)),
            );
        }
    }
    targets.extend(RATES);
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_names_rows_that_are_measured() {
        let measured = |row: &str, column: &str| {
            let spec = ROWS.iter().find(|spec| spec.name == row).expect(row);
            COLUMNS.iter().find(|known| known.name == column).expect(column).has(spec)
        };
        for target in all() {
            assert!(measured(target.row, target.column), "{target:?}");
            if let Than::Column(_, than) = target.than {
                assert!(measured(target.row, than), "{target:?}");
            }
        }
    }
}
