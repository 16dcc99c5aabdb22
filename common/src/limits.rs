//! Every bound that a stranger or a fault meets, each with the reason for its number. What one
//! room alone needs stands in that room; what the operator may set stands in `config`.

use std::time::Duration;

/// A head or any small message must be whole within this: an honest peer needs less, and a slow
/// drip must not hold a worker.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Content may take as long as it likes, but not this long without one byte of progress.
pub const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a connection may idle between messages: existing clients pool theirs for 90 s.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long to wait for a TCP connection to a server.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client waits for the head of a reply: an upload's reply waits for the disk.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// The listen backlog; std's 128 makes a burst of connects wait for SYN retries.
pub const LISTEN_BACKLOG: i32 = 4096;

/// Small requests have at most this many bytes of body (the largest is a 416-byte download).
pub const SMALL_BODY_BYTES_MAX: usize = 4096;

/// A refused request's remaining content is read and dropped up to here, so that its sender reads
/// the refusal: existing clients send all of a film before they look, and after a reset they send
/// it again, up to ten times.
pub const DRAIN_BYTES_MAX: u64 = 16 << 30;

/// And for at most this long, which is the bound that counts on any but the fastest network.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// What all connections of a server together hold while they wait: messages that are not whole, and replies that are
/// not taken. Honest ones hold next to nothing, so it takes thousands who mean to fill it; and with it a server stays
/// below 256 MiB.
pub const HELD_BYTES_MAX: usize = 48 << 20;

/// A group list is at most this long: 512 groups of 64 members at about 300 bytes each.
pub const GROUP_LIST_BYTES_MAX: usize = 16 << 20;

/// Content is moved between a socket and a file in pieces of this size: large enough that system
/// calls do not matter, small enough for a thousand at once.
pub const COPY_BYTES: usize = 256 << 10;

/// A worker receives, sends or drains so much of one connection before others that wait for a worker have their turn.
pub const TURN_BYTES: usize = 8 << 20;

/// A worker's stack. Nothing recurses; the deepest is the embedded database.
pub const STACK_BYTES: usize = 512 << 10;

/// A worker with nothing to do for this long ends.
pub const WORKER_IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections over `tnv_max_conns` that are refused with a reply at the same time; more are just closed.
pub const REFUSED_CONNS_MAX: usize = 64;

/// Descriptors kept for files, databases and the log when the connection limit is taken from the
/// process's descriptor limit.
pub const RESERVED_FDS: u64 = 128;
