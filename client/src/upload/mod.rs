//! Uploads, stored exactly once. `spool` makes content of a file, a pipe or a reader; `content` reads it in
//! pieces; `attempts` sends it to one storage after another; `outcome` finds out whether an attempt stored
//! it.
//!
//! Why exactly once: all attempts of one upload carry one new file ID. A storage makes a file visible by
//! inserting its row, and the ID is the row's key in the database that the group shares. So at most one
//! attempt succeeds, late ones included, and what is stored under the ID is this upload. It remains to find
//! out whether one did:
//!
//! ```text
//! state       event                                      next
//! attempt     success                                    stored
//!             refused, or content not sent completely    attempt at the next storage
//!             reply lost or OutcomeUnknown               doubtful
//! doubtful    lookup: same size and checksum             stored
//!             lookup: anything else                      attempt at the next storage
//! end         not doubtful                               the last error
//!             lookup: same size and checksum             stored
//!             lookup: another size or checksum           Internal
//!             lookup: absent, and no reply was lost      the last error
//!             lookup: absent, or no reply                OutcomeUnknown
//! ```
//!
//! A legacy storage's failure without a kind makes an upload doubtful, too. A doubtful upload is also looked
//! up after a refusal: "exists already" then means that an earlier attempt succeeded.
//!
//! A checksum that the caller knows is compared three times: here before the last piece is sent, by the
//! storage before it acknowledges, and with a legacy storage afterwards against the content that it returns.

mod attempts;
mod content;
mod outcome;
mod spool;

pub(crate) use attempts::upload;
pub(crate) use content::ReaderContent;
pub(crate) use spool::Source;
