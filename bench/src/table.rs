//! The standard table: its rows in the order in which they are run, and its columns.
//!
//! Uploads come before deletes, which come after all rounds: on ext4 a mass delete slows the making of files for
//! a minute.

/// What one operation of a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A file is stored.
    Upload,
    /// A whole file is fetched.
    Download,
    /// A file is removed.
    Delete,
    /// A whole file is fetched over HTTP.
    Get,
    /// A storage fetches a number: command 40.
    Ids,
    /// A client asks a tracker where a user's files are: command 12.
    Addresses,
    /// A page is written and synced.
    Sync,
}

/// One row.
#[derive(Debug, PartialEq)]
pub(crate) struct Spec {
    pub name: &'static str,
    pub work: Work,
    /// Bytes of a file.
    pub size: u64,
    /// Each with a connection of its own.
    pub threads: usize,
    /// How many operations.
    pub count: u64,
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// The large file.
pub(crate) const LARGE: u64 = 500 * MIB;

/// All rows. The counts are what takes a second or two on two cores, so that short disturbances even out.
pub(crate) const ROWS: [Spec; 15] = [
    Spec { name: "upload 4k", work: Work::Upload, size: 4 * KIB, threads: 8, count: 20_000 },
    Spec { name: "download 4k", work: Work::Download, size: 4 * KIB, threads: 8, count: 40_000 },
    Spec { name: "upload 64k", work: Work::Upload, size: 64 * KIB, threads: 8, count: 4_000 },
    Spec { name: "download 64k", work: Work::Download, size: 64 * KIB, threads: 8, count: 40_000 },
    Spec { name: "upload 1m", work: Work::Upload, size: MIB, threads: 8, count: 320 },
    Spec { name: "download 1m", work: Work::Download, size: MIB, threads: 8, count: 8_000 },
    Spec { name: "upload 500m", work: Work::Upload, size: LARGE, threads: 1, count: 2 },
    Spec { name: "download 500m", work: Work::Download, size: LARGE, threads: 1, count: 6 },
    Spec { name: "http 64k", work: Work::Get, size: 64 * KIB, threads: 8, count: 40_000 },
    Spec { name: "http 500m", work: Work::Get, size: LARGE, threads: 1, count: 6 },
    Spec { name: "ids", work: Work::Ids, size: 0, threads: 8, count: 100_000 },
    Spec { name: "addresses", work: Work::Addresses, size: 0, threads: 8, count: 100_000 },
    Spec { name: "sync", work: Work::Sync, size: 4 * KIB, threads: 8, count: 4_000 },
    Spec { name: "sync alone", work: Work::Sync, size: 4 * KIB, threads: 1, count: 2_000 },
    Spec { name: "delete 4k", work: Work::Delete, size: 4 * KIB, threads: 8, count: 4_000 },
];

/// What a column measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A cluster of TNV.
    Tnv {
        /// On a MariaDB, otherwise on the embedded database.
        maria: bool,
        /// `tnv_fsync`.
        fsync: bool,
        /// A millisecond is added to each fsync of the storage and of its database.
        slow: bool,
    },
    /// What this machine does with no server in between; with `fsync` files and their directories are synced.
    Machine { fsync: bool },
    /// FastDFS.
    FastDfs,
    /// An nginx that sends files.
    Nginx,
    /// An nginx before that one, with the buffers that it has by default, or without.
    NginxProxy { buffered: bool },
}

/// One column.
#[derive(Debug, PartialEq)]
pub(crate) struct Column {
    pub name: &'static str,
    pub kind: Kind,
}

/// All columns, which take turns in each row.
pub(crate) const COLUMNS: [Column; 12] = [
    Column { name: "embedded, no fsync", kind: tnv(false, false, false) },
    Column { name: "fastdfs", kind: Kind::FastDfs },
    Column { name: "machine", kind: Kind::Machine { fsync: false } },
    Column { name: "mariadb, no fsync", kind: tnv(true, false, false) },
    Column { name: "embedded, fsync", kind: tnv(false, true, false) },
    Column { name: "machine, fsync", kind: Kind::Machine { fsync: true } },
    Column { name: "mariadb, fsync", kind: tnv(true, true, false) },
    Column { name: "nginx", kind: Kind::Nginx },
    Column { name: "nginx proxy", kind: Kind::NginxProxy { buffered: true } },
    Column { name: "nginx proxy, unbuffered", kind: Kind::NginxProxy { buffered: false } },
    Column { name: "embedded, fsync + 1 ms", kind: tnv(false, true, true) },
    Column { name: "mariadb, fsync + 1 ms", kind: tnv(true, true, true) },
];

const fn tnv(maria: bool, fsync: bool, slow: bool) -> Kind {
    Kind::Tnv { maria, fsync, slow }
}

impl Column {
    /// Whether a row is measured for this column.
    pub(crate) fn has(&self, row: &Spec) -> bool {
        match self.kind {
            // What syncs nothing is as it is without the added millisecond.
            Kind::Tnv { slow: true, .. } => matches!(row.work, Work::Upload | Work::Delete),
            Kind::Tnv { .. } => row.work != Work::Sync,
            Kind::FastDfs => matches!(row.work, Work::Upload | Work::Download | Work::Delete),
            Kind::Nginx | Kind::NginxProxy { .. } => row.work == Work::Get,
            Kind::Machine { fsync: true } => matches!(row.work, Work::Upload | Work::Sync),
            Kind::Machine { fsync: false } => {
                // Of small downloads it is the round trip that counts, which is the row of addresses.
                let streams = row.work == Work::Download && row.size >= MIB;
                let relayed = row.work == Work::Get && row.size < MIB;
                streams || relayed || matches!(row.work, Work::Upload | Work::Addresses)
            }
        }
    }
}

/// How thoroughly it is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// As in the docs.
    Full,
    /// A minute, to try something out.
    Quick,
    /// Nothing is measured: it is shown that every row works. The large file is small.
    Smoke,
}

impl Extent {
    /// How many operations of a row a column is given.
    pub(crate) fn count(self, row: &Spec, column: &Column) -> u64 {
        let count = match self {
            Extent::Full => row.count,
            Extent::Quick => row.count / 10,
            Extent::Smoke => row.count.min(16),
        };
        match column.kind {
            Kind::Tnv { slow: true, .. } if row.size < LARGE => (count / 10).max(1),
            _ => count.max(1),
        }
    }

    /// How large the files of a row are.
    pub(crate) fn size(self, row: &Spec) -> u64 {
        match self {
            Extent::Smoke => row.size.min(MIB),
            _ => row.size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_row_has_a_column() {
        for (at, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..at].iter().all(|other| other.name != row.name), "{}", row.name);
            assert!(COLUMNS.iter().any(|column| column.has(row)), "{}", row.name);
        }
        for (at, column) in COLUMNS.iter().enumerate() {
            assert!(COLUMNS[..at].iter().all(|other| other.name != column.name), "{}", column.name);
            assert!(ROWS.iter().any(|row| column.has(row)), "{}", column.name);
        }
    }

    #[test]
    fn deletes_come_last() {
        let first = ROWS.iter().position(|row| row.work == Work::Delete).expect("a delete");
        assert!(ROWS[first..].iter().all(|row| row.work == Work::Delete));
    }
}
