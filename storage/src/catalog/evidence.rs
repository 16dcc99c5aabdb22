//! Which disk a store path leads to, as far as the rows know: a sample of them names files under the store path, and
//! one whose file is there shows that it is the right one (see `volume::identity`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tnv_common::error::Result;

use crate::db::{Db, Entry, Next, TABLES};
use crate::file::{StoredFile, verify};
use crate::path;
use crate::volume::identity::{Evidence, Finding};

/// Rows whose files are looked for before the disk counts as the wrong one. Rows that existing storages wrote
/// say nothing of their group, so that in a deployment of ten groups nine of ten may be elsewhere.
const SAMPLE_MAX: usize = 256;

/// Most of them from one page: the first and the last pages of all tables have their share. File IDs often
/// begin with a time, so that where a group joined later the first rows are all of others.
const OF_PAGE_MAX: usize = SAMPLE_MAX / (2 * TABLES);

/// The rows of the sample may have been deleted meanwhile: it is taken anew after this time, and seldom,
/// since all rows may have to be read for it.
const SAMPLE_LIFETIME: Duration = Duration::from_secs(600);

/// A row that may name a file of this group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The file.
    pub file: StoredFile,
    /// The row says that it is this group's. Rows that existing storages wrote name no group.
    pub is_own: bool,
}

/// Some of the rows, as they follow each other.
pub struct Page {
    /// The key of the last one; none where no row is left.
    pub last: Option<String>,
    /// Those that are this group's, or of no group, and live.
    pub claims: Vec<Claim>,
}

/// Gives the next page of a table.
pub type Pages = dyn Fn(usize, Next<'_>) -> Result<Page> + Send + Sync;

/// A search for rows under a store path. It reads page after page, in slices, since no index finds a path:
/// where there are few, all rows have to be read. Each table is read from both ends, in turn with the others,
/// until they meet or the sample is full.
#[derive(Default)]
pub struct Search {
    tables: [Walk; TABLES],
    /// Counts the pages: the table and the end of the next one follow from it.
    turn: usize,
    /// Rows whose files were not there.
    sample: Vec<Claim>,
    begun: Option<Instant>,
}

/// How far a table was read.
#[derive(Default)]
struct Walk {
    after: Option<String>,
    before: Option<String>,
    is_done: bool,
}

impl Walk {
    /// The next page, and whether it is one from the end. The first page comes first: it gives the lower bound.
    fn next(&self, from_end: bool) -> (Next<'_>, bool) {
        let before = self.before.as_deref();
        match self.after.as_deref() {
            None => (Next::First, false),
            Some(after) if from_end => (Next::Last(after, before), true),
            Some(after) => (Next::After(after, before), false),
        }
    }
}

impl Search {
    /// Goes on until it knows, or until `deadline`.
    pub fn go_on(&mut self, store_path: &str, pages: &Pages, deadline: Instant) -> Result<Finding> {
        if self.begun.is_some_and(|begun| begun.elapsed() > SAMPLE_LIFETIME) && self.is_finished() {
            *self = Search::default();
        }
        self.begun.get_or_insert_with(Instant::now);
        if self.sample.iter().any(is_here) {
            return Ok(Finding::Right);
        }
        while !self.is_finished() {
            let walk = &mut self.tables[self.turn / 2 % TABLES];
            if !walk.is_done {
                let (next, from_end) = walk.next(self.turn % 2 == 1);
                let Page { last, claims } = pages(self.turn / 2 % TABLES, next)?;
                walk.is_done = last.is_none();
                *(if from_end { &mut walk.before } else { &mut walk.after }) = last;
                if self.sample_has_here(store_path, claims) {
                    return Ok(Finding::Right);
                }
            }
            self.turn += 1;
            if Instant::now() >= deadline && !self.is_finished() {
                return Ok(Finding::Unfinished);
            }
        }
        match self.sample.len() {
            0 => Ok(Finding::NoRows),
            rows => {
                let own = self.sample.iter().filter(|claim| claim.is_own).count();
                Ok(Finding::Wrong { rows, own })
            }
        }
    }

    /// Takes rows of a page into the sample; true where one of them has its file here.
    fn sample_has_here(&mut self, store_path: &str, claims: Vec<Claim>) -> bool {
        let below = |claim: &Claim| path::is_below(store_path, &claim.file.path);
        let mut claims: Vec<_> = claims.into_iter().filter(below).collect();
        // What names no group may be another one's.
        claims.sort_by_key(|claim| !claim.is_own);
        claims.truncate(OF_PAGE_MAX.min(SAMPLE_MAX - self.sample.len()));
        let found = claims.iter().any(is_here);
        self.sample.append(&mut claims);
        found
    }

    fn is_finished(&self) -> bool {
        self.tables.iter().all(|walk| walk.is_done) || self.sample.len() >= SAMPLE_MAX
    }
}

/// Whether a row's file is there with its size.
fn is_here(claim: &Claim) -> bool {
    verify::look(&claim.file).is_ok()
}

/// The search of one store path.
pub struct RowSearch {
    search: Search,
    pages: Arc<Pages>,
}

impl RowSearch {
    /// A search that has not begun.
    pub fn new(pages: Arc<Pages>) -> RowSearch {
        RowSearch { search: Search::default(), pages }
    }
}

impl Evidence for RowSearch {
    fn look(&mut self, store_path: &str, deadline: Instant) -> Result<Finding> {
        self.search.go_on(store_path, &*self.pages, deadline)
    }
}

/// The rows by which a store path is known: live ones of this group, and of no group, which existing storages
/// wrote.
pub fn pages(db: &Db, group: &str) -> Arc<Pages> {
    let (db, group) = (db.clone(), group.to_owned());
    Arc::new(move |table, next: Next<'_>| {
        let page = db.next(table, next)?;
        let last = page.last().map(|entry| entry.id.clone());
        let may_be_own =
            |entry: &Entry| entry.live && entry.group.as_ref().is_none_or(|other| *other == group);
        let claim = |entry: Entry| Claim { is_own: entry.group.is_some(), file: entry.file };
        Ok(Page { last, claims: page.into_iter().filter(may_be_own).map(claim).collect() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use std::fs;

    fn text(scratch: &Scratch) -> &str {
        scratch.path().to_str().unwrap()
    }

    /// Rows of a table of so many pages of one row; those that `is_mine` says lie under the store path.
    fn pages(count: usize, store: &str, is_mine: fn(usize) -> bool) -> Box<Pages> {
        let own = store.to_owned();
        Box::new(move |table, next| {
            let number = |key: &str| key.parse::<usize>().unwrap();
            let (least, end) = match next {
                Next::First => (0, count),
                Next::After(after, before) | Next::Last(after, before) => {
                    (number(after) + 1, before.map_or(count, number))
                }
            };
            if table > 0 || least >= end {
                return Ok(Page { last: None, claims: Vec::new() });
            }
            let number = if matches!(next, Next::Last(..)) { end - 1 } else { least };
            let store = if is_mine(number) { own.as_str() } else { "/elsewhere" };
            let path = format!("{store}/000/000/000/1_{number:03X}");
            let file = StoredFile { path, size: 1, crc32: None };
            Ok(Page { last: Some(number.to_string()), claims: vec![Claim { file, is_own: false }] })
        })
    }

    fn search(store: &str, pages: &Pages) -> Finding {
        Search::default().go_on(store, pages, Instant::now() + Duration::from_secs(60)).unwrap()
    }

    fn wrong(rows: usize) -> Finding {
        Finding::Wrong { rows, own: 0 }
    }

    #[test]
    fn a_disk_is_right_when_one_of_its_rows_has_its_file() {
        let scratch = Scratch::new();
        let store = text(&scratch).to_owned();
        assert_eq!(search(&store, &pages(0, &store, |_| true)), Finding::NoRows);
        assert_eq!(search(&store, &pages(1000, &store, |_| false)), Finding::NoRows);
        assert_eq!(search(&store, &pages(1000, &store, |number| number > 990)), wrong(9));
        assert_eq!(search(&store, &pages(1000, &store, |_| true)), wrong(SAMPLE_MAX));
        fs::create_dir_all(scratch.path().join("000/000/000")).unwrap();
        fs::write(scratch.path().join("000/000/000/1_1E0"), "12").unwrap();
        let mine = |number| number > 400 && number < 600;
        assert_eq!(search(&store, &pages(1000, &store, mine)), wrong(199), "of another size");
        fs::write(scratch.path().join("000/000/000/1_1E0"), "1").unwrap();
        assert_eq!(search(&store, &pages(1000, &store, mine)), Finding::Right);
    }

    /// A group joined later: the first rows under its store path were those of other groups, and its disk was
    /// refused.
    #[test]
    fn a_disk_whose_rows_are_the_newest_ones_is_right() {
        let scratch = Scratch::new();
        let store = text(&scratch).to_owned();
        fs::create_dir_all(scratch.path().join("000/000/000")).unwrap();
        fs::write(scratch.path().join("000/000/000/1_3E0"), "1").unwrap();
        assert_eq!(search(&store, &pages(1000, &store, |_| true)), Finding::Right);
    }

    /// A page of rows of other groups, which existing storages wrote, with some of this one's behind them.
    #[test]
    fn each_end_of_each_table_has_its_share_and_rows_of_this_group_come_before_those_of_none() {
        let scratch = Scratch::new();
        let store = text(&scratch).to_owned();
        let claim = |store: &str, name: String, is_own| {
            let path = format!("{store}/000/000/000/{name}");
            Claim { file: StoredFile { path, size: 1, crc32: None }, is_own }
        };
        let own = store.clone();
        let pages = move |table: usize, next: Next<'_>| {
            let end = match next {
                Next::First => 0,
                Next::Last(_, None) => 1,
                _ => return Ok(Page { last: None, claims: Vec::new() }),
            };
            let others = (0..1000).map(|number| claim(&own, format!("1_{number:03X}"), false));
            let claims = others.chain([claim(&own, format!("2_{end}0{table}"), true)]).collect();
            Ok(Page { last: Some(end.to_string()), claims })
        };
        let rows = 2 * TABLES * OF_PAGE_MAX;
        assert_eq!(search(&store, &pages), Finding::Wrong { rows, own: 2 * TABLES });
        fs::create_dir_all(scratch.path().join("000/000/000")).unwrap();
        for name in (0..TABLES).flat_map(|table| [0, 1].map(|end| format!("2_{end}0{table}"))) {
            let path = scratch.path().join("000/000/000").join(&name);
            fs::write(&path, "1").unwrap();
            assert_eq!(search(&store, &pages), Finding::Right, "{name}");
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_search_goes_on_where_it_stopped_and_notices_a_disk_that_is_mounted_later() {
        let scratch = Scratch::new();
        let store = text(&scratch).to_owned();
        let pages = pages(10, &store, |number| number == 7);
        let mut search = Search::default();
        // One page each time; of the other tables one shows that they are empty.
        let mut pauses = 0;
        while search.go_on(&store, &pages, Instant::now()).unwrap() == Finding::Unfinished {
            pauses += 1;
            assert!(pauses < 100);
        }
        assert!(pauses > 9, "{pauses}");
        let later = Instant::now() + Duration::from_secs(60);
        assert_eq!(search.go_on(&store, &pages, later).unwrap(), wrong(1));
        fs::create_dir_all(scratch.path().join("000/000/000")).unwrap();
        fs::write(scratch.path().join("000/000/000/1_007"), "1").unwrap();
        assert_eq!(search.go_on(&store, &pages, later).unwrap(), Finding::Right);
    }
}
