//! Whether the members of a group share their files. A storage reports, after it has joined and before it
//! beats, which volume each of its store paths leads to, and whose journals it sees there. Of two members
//! each store path that both have must lead to one volume, and the newcomer must see the other one's journal
//! there: a copied disk has the same marker, and not the journal of a process that began later.
//!
//! Who is ACTIVE first is right, as nothing else shows who is. Members of previous versions, and those with
//! `tnv_shared_store = no`, report nothing and are not compared.

use std::sync::Arc;

use tnv_common::proto::tnv::shares::{Id, Share};

/// A member that was refused so often in a row is logged: members that start at the same time see each
/// other's journals a moment later.
const REFUSALS_LOGGED: u32 = 3;

/// What is kept of a member.
#[derive(Clone, Debug)]
pub struct Report {
    /// As it was sent. Copies of the table share it.
    shares: Arc<[Share]>,
    /// How often in a row it did not agree with the members that agreed before.
    refusals: u32,
}

/// How much of two reports is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// The volumes, and whether the one that reports now sees the journal of the other one.
    Report,
    /// The volumes, and whether one of both sees the journal of the other one: the later report saw what was there
    /// already.
    Either,
    /// The volumes alone: the other one's journal may have ended.
    Volumes,
}

impl Report {
    /// What is to be kept of these, after what was kept before.
    pub fn new(shares: &[Share], agrees: bool, before: Option<&Report>) -> Report {
        let refused_before = before.map_or(0, |before| before.refusals);
        let refusals = if agrees { 0 } else { refused_before.saturating_add(1) };
        Report { shares: shares.into(), refusals }
    }

    /// Notes that it does not agree after all.
    pub fn refuse(&mut self) {
        self.refusals = self.refusals.saturating_add(1);
    }

    /// Whether it agrees with the members that agreed before.
    pub fn agrees(&self) -> bool {
        self.refusals == 0
    }

    /// Whether it is to be logged that it does not.
    pub fn is_to_be_logged(&self) -> bool {
        self.refusals == REFUSALS_LOGGED
    }

    /// What was reported.
    pub fn shares(&self) -> Arc<[Share]> {
        Arc::clone(&self.shares)
    }

    /// Why a newcomer does not share the files of this member; none where it does.
    pub fn difference(&self, newcomer: &[Share], compared: Compared) -> Option<String> {
        for share in newcomer {
            let Some(own) = self.shares.iter().find(|own| own.store_path == share.store_path) else {
                continue;
            };
            let store_path = &share.store_path;
            if own.volume != share.volume {
                return Some(format!(
                    "store path '{store_path}' is volume {} here and volume {} there",
                    hex(&share.volume),
                    hex(&own.volume)
                ));
            }
            let is_seen = match compared {
                Compared::Report => share.others.contains(&own.holder),
                Compared::Either => share.others.contains(&own.holder) || own.others.contains(&share.holder),
                Compared::Volumes => true,
            };
            if !is_seen {
                return Some(format!(
                    "store path '{store_path}' is volume {} for both, but the other one's journal is not seen here: is \
                     one a copy",
                    hex(&own.volume)
                ));
            }
        }
        None
    }
}

fn hex(id: &Id) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tnv_common::proto::IdKey;

    fn share(store_path: &str, volume: u8, holder: u8, others: &[u8]) -> Share {
        Share {
            store_path: IdKey::new(store_path).unwrap(),
            volume: [volume; 16],
            holder: [holder; 16],
            others: others.iter().map(|other| [*other; 16]).collect(),
        }
    }

    #[test]
    fn members_share_their_files_where_volume_and_journal_are_seen_by_both() {
        let report = Report::new(&[share("/a", 1, 10, &[]), share("/b", 2, 11, &[])], true, None);
        for (newcomer, shares_them) in [
            (vec![], true),
            (vec![share("/a", 1, 20, &[10])], true),
            (vec![share("/a", 1, 20, &[9, 10]), share("/b", 2, 21, &[11])], true),
            (vec![share("/c", 7, 20, &[])], true),
            (vec![share("/a", 3, 20, &[10])], false),
            (vec![share("/a", 1, 20, &[])], false),
            (vec![share("/a", 1, 20, &[10]), share("/b", 2, 21, &[10])], false),
        ] {
            assert_eq!(report.difference(&newcomer, Compared::Report).is_none(), shares_them, "{newcomer:?}");
        }
    }

    #[test]
    fn of_two_reports_the_later_one_must_see_the_other_ones_journal() {
        let report = Report::new(&[share("/a", 1, 10, &[20])], true, None);
        for (holder, others, compared, shares_them) in [
            (20, vec![], Compared::Report, false),
            (20, vec![], Compared::Either, true),
            (30, vec![10], Compared::Either, true),
            (30, vec![], Compared::Either, false),
            (30, vec![], Compared::Volumes, true),
        ] {
            let newcomer = [share("/a", 1, holder, &others)];
            assert_eq!(
                report.difference(&newcomer, compared).is_none(),
                shares_them,
                "{holder} {compared:?}"
            );
        }
        assert!(report.difference(&[share("/a", 2, 20, &[10])], Compared::Volumes).is_some());
    }

    #[test]
    fn a_refusal_is_logged_once_when_it_lasts() {
        let mut report = Report::new(&[], false, None);
        let mut logged = 0;
        for _ in 0..10 {
            logged += u32::from(report.is_to_be_logged());
            assert!(!report.agrees());
            report = Report::new(&[], false, Some(&report));
        }
        assert_eq!(logged, 1);
        assert!(Report::new(&[], true, Some(&report)).agrees());
    }
}
