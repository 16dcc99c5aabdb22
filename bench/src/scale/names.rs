//! The files and users that a database is filled with, by their numbers: each size of a database holds the
//! same first ones, and whoever measures knows what is in it without asking.

use tnv_common::error::Result;
use tnv_common::proto::tnv::file_key::FileKey;
use tnv_common::proto::tnv::storage::file_table;
use tnv_common::proto::{AppId, FileId, UserId};

/// The application of all of them.
pub const APPID: &str = "tnvideo";

/// When the first file was made; a file is made each millisecond.
const FIRST_SECOND: u64 = 0x6700_0000;

/// The user with this number. Users name themselves, in no order: the tables' indexes get each new one
/// anywhere.
pub fn user(number: u64) -> String {
    format!("u{:015x}", mixed(number) >> 4)
}

/// The ID of the file with this number, in the form that clients make, which begins with the time.
pub fn file_id(number: u64) -> String {
    let (second, micros) = (FIRST_SECOND + number / 1000, number % 1000 * 1000);
    format!("{second:08x}{micros:06x}{:016x}{:04}{:02}", mixed(!number), number % 8000 + 1, number % 100)
}

/// Each user of a filled database has one file, of the same number. Tells which table it is in, from 0.
pub fn table(number: u64) -> Result<usize> {
    Ok(usize::from(file_table(&UserId::new(user(number))?)) - 1)
}

/// The file with this number, and whose it is.
pub fn triple(number: u64) -> Result<FileKey> {
    Ok(FileKey {
        appid: AppId::new(APPID)?,
        userid: UserId::new(user(number))?,
        fileid: FileId::new(file_id(number))?,
    })
}

/// A number in which every bit depends on all of another's (splitmix64), so that neighbours are far apart, and
/// no two are the same.
pub fn mixed(number: u64) -> u64 {
    let mixed = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_files_or_users_are_the_same_and_files_are_in_the_order_of_their_making() {
        let files: Vec<_> = (0..20_000).map(file_id).collect();
        assert!(files.is_sorted_by(|one, next| one < next));
        assert!(files.iter().all(|file| file.len() == 36));
        let users: HashSet<_> = (0..20_000).map(user).collect();
        assert_eq!(users.len(), 20_000);
    }

    #[test]
    fn the_three_tables_get_about_a_third_each() {
        let mut counts = [0; 3];
        (0..30_000).for_each(|number| counts[table(number).unwrap()] += 1);
        assert!(counts.iter().all(|count| (9_000..11_000).contains(count)), "{counts:?}");
    }
}
