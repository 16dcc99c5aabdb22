//! What a kill may leave half done, noted in each store path so that the next start can undo it.
//!
//! A slot is taken before a file is created and released when its row is committed or the file is
//! gone again; a delete takes one before its row goes and releases it when the file has gone. So
//! whatever a killed storage leaves behind is named by a taken slot, and one rule resolves every
//! slot: **where the row is, the file stays; where the row certainly is not, the file goes.** A path
//! is made of a number that never repeats, so a slot speaks of one upload only, however late it is
//! resolved.
//!
//! The file is `.uploads-<member>` (see [`MemberName`]): storages that share a store path each have their
//! own, and a lock keeps two processes of the same name apart. It is not synced: a killed process's
//! writes are in the page cache and safe. A power loss may take a slot with it, and then a file that
//! never got its row can stay; what is acknowledged is safe regardless.
//!
//! What a storage left that has ended is taken over by any member that serves the store path, whatever the
//! name was (see [`Journal::adopt`]); that it has ended is shown by the rules in `heartbeat`. The open
//! journal is also what shows that a store path is still the disk that was opened: where it does not lie at
//! its path any more, the disk is not mounted (see [`Journal::check`]). Where the same volume is mounted anew the
//! journal is given up (see [`Journal::retire`]) and opened anew; who has a slot asks the journal that gave it.
//!
//! Slots of [`SLOT_BYTES`], the first of which is the head: [`MAGIC`], the holder's heartbeat, zeros. The
//! others are in [`entry`]; one is free where its checksum is wrong or its mark is not 1.
//!
//! - [`entry`]: an entry, and the slot that says it.
//! - `file`: the lock, the head, the slots and the space of the file.
//! - `slots`: the journal of this storage, its heartbeat and its slots.
//! - `adoption`: opening it, and taking over others.
//! - `scan`: what all journals of a store path say.

mod adoption;
pub mod entry;
mod file;
mod scan;
mod slots;
#[cfg(test)]
mod tests;

pub use entry::JournalEntry;
#[cfg(any(test, feature = "fuzz"))]
pub use entry::SLOT_BYTES;
pub use scan::{Journals, PREFIX, has_ended, holders, is_store};
pub use slots::{Journal, PendingOp, Slot};
