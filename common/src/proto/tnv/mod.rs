//! The TNV protocol's commands and bodies. Lengths count the NUL of text fields.
//!
//! | command | from → to | name | request body | reply | reply body |
//! |---|---|---|---|---|---|
//! | 10 | storage → tracker | join | [`Join`](tracker::Join), 171 | 100 | empty |
//! | 11 | storage → tracker | heartbeat | [`Heartbeat`](tracker::Heartbeat), 146 | 100 | empty |
//! | 12 | client → tracker | storage addresses | [`FileKey`](file_key::FileKey), 400 | 100 | [`Route`](tracker::Route) |
//! | 13 | client → tracker | group list | empty | 100 | text and its NUL |
//! | 40 | storage → ID server | get ID | key and its NUL, ≤ 65 | 101 | value, 8 |
//! | 70 | client → storage | upload | [`Upload`](storage::Upload), 408, then the content | 102 | empty |
//! | 71 | client → storage | file size | [`FileKey`](file_key::FileKey), 400 | 102 | size, 8 |
//! | 72 | client → storage | download | [`Download`](storage::Download), 416 | 102 | content |
//! | 73 | client → storage | delete | [`FileKey`](file_key::FileKey), 400 | 102 | empty |
//! | 120 | client → storage | stat (added) | [`FileKey`](file_key::FileKey), 400 | 102 | [`Stat`](storage::Stat), 41 |
//! | 121 | client → storage | read (added) | [`Read`](storage::Read), 432 | 102 | content |
//! | 122 | client → tracker | storage addresses of a known user (added) | [`FileKey`](file_key::FileKey), 400 | 100 | [`Route`](tracker::Route) |
//! | 123 | client → storage | upload with its checksum (added) | [`CheckedUpload`](storage::CheckedUpload), 416, then the content; or empty | 102 | empty |
//! | 124 | client → storage | challenge (added) | appid, 16 | 102 | nonce, 32; empty where no key is needed |
//! | 125 | client → storage | proof (added) | [`Proof`](auth::Proof), 80 | 102 | empty |
//! | 126 | client → storage | fetch (added) | [`Download`](storage::Download), 416 | 102 | [`Stat`](storage::Stat), 41, then the content |
//! | 127 | storage → ID server | get IDs (added) | [`IdRange`](ids::IdRange), ≤ 69 | 101 | first value, 8, and how many, 4 |
//! | 128 | storage → tracker | report volumes (added) | [`shares::Shares`] | 100 | empty |
//!
//! The added commands take numbers from 120 to 139, free in TNV and in FastDFS's client protocol.
//! An existing server answers them with a failure and closes. A fetch whose size is more than what is left
//! gives what is left: who asks does not know the size of the file yet.

pub mod auth;
pub mod failure;
pub mod file_key;
pub mod ids;
pub mod shares;
pub mod storage;
pub mod tracker;

/// Commands, as the header carries them.
pub mod command {
    /// A storage joins a tracker.
    pub const JOIN: u8 = 10;
    /// A storage is alive.
    pub const HEARTBEAT: u8 = 11;
    /// Where the files of a user are; a new user is given a group, which is recorded.
    pub const ADDRESSES: u8 = 12;
    /// The table of groups, as text.
    pub const GROUPS: u8 = 13;
    /// The next number of a key.
    pub const GET_ID: u8 = 40;
    /// Store a file.
    pub const UPLOAD: u8 = 70;
    /// The size of a file.
    pub const FILE_SIZE: u8 = 71;
    /// The content of a file, or a part of it.
    pub const DOWNLOAD: u8 = 72;
    /// Remove a file.
    pub const DELETE: u8 = 73;
    /// Added: size, time, checksum and the value unique to one upload.
    pub const STAT: u8 = 120;
    /// Added: a download that fails unless the file is still that same upload.
    pub const READ: u8 = 121;
    /// Added: where the files of a user are; nothing is recorded, and a new user is not found.
    pub const FIND_ADDRESSES: u8 = 122;
    /// Added: an upload that is refused unless its content has a certain checksum. With an empty body
    /// it asks whether the storage knows the command.
    pub const UPLOAD_CHECKED: u8 = 123;
    /// Added: asks for the nonce that the proof of an application's key is to be made with.
    pub const CHALLENGE: u8 = 124;
    /// Added: proves an application's key; uploads and deletes of it are then open to this connection.
    pub const PROVE: u8 = 125;
    /// Added: what [`STAT`] says and then what [`DOWNLOAD`] gives, of one and the same upload; where less is
    /// left than was asked for, what is left.
    pub const FETCH: u8 = 126;
    /// Added: several numbers of a key, one after another.
    pub const GET_IDS: u8 = 127;
    /// Added: which volumes a storage that has joined keeps its files on. It is refused, `Forbidden`, where other
    /// members of its group keep theirs elsewhere.
    pub const SHARES: u8 = 128;
}

/// The reply command of trackers.
pub const REPLY_TRACKER: u8 = 100;
/// The reply command of ID servers.
pub const REPLY_ID: u8 = 101;
/// The reply command of storages.
pub const REPLY_STORAGE: u8 = 102;
