//! Uploads, stored exactly once. `spool` makes content of a file, a pipe or a reader; `content` reads it in pieces;
//! `attempts` sends it to one storage after another; `outcome` finds out whether an attempt stored it.
//!
//! Why exactly once: all attempts of one upload carry one new file ID. A storage makes a file visible by inserting
//! its row, and the ID is the row's key in the database that the group shares. So at most one attempt succeeds,
//! late ones included, and what is stored under the ID is this upload. It remains to find out whether one did:
//!
//! ```text
//!            ┌──── refused ─────────────────────────────────────────┐
//!            │                                                      ▼
//! attempt ───┼──── content not sent whole: nothing is stored ───▶ next attempt, until the bounds are reached
//!            │                                                      ▲           │
//!            ├──── reply lost or unknown ──▶ look the file up ──────┘           ▼
//!            │                                  │   not there             look it up, four times
//!            ▼                                  ▼                               │
//!         success ◀───────────────────────── stored ◀──────────────────── stored│not there: the last error
//!                                                                               └no answer: OutcomeUnknown
//! ```
//!
//! - A refused attempt did not succeed, except for `OutcomeUnknown` and a legacy storage's failure without a kind.
//! - After a refusal a doubtful upload is looked up, too: "exists already" then means that an earlier attempt
//!   succeeded.
//! - A lookup compares size and checksum.
//!
//! A checksum that the caller knows is compared three times: here before the last piece is sent, by the storage
//! before it acknowledges, and with a legacy storage afterwards against the content that it returns.

mod attempts;
mod content;
mod outcome;
mod spool;

pub(crate) use attempts::upload;
pub(crate) use content::ReaderContent;
pub(crate) use spool::Source;
