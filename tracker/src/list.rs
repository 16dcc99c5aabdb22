//! The group list, command 13's reply: a text that people read and scripts parse, as existing
//! trackers write it.

use std::collections::HashMap;
use std::fmt::{Display, Write};

use chrono::{DateTime, TimeZone};

use crate::groups::{Group, Groups, Member, MemberId};

/// Times that were written lately and are kept: a thousand storages beat in the same ten seconds.
const TIMES_MAX: usize = 1024;

/// The text, with times in `zone`; a block for each group and in it one for each storage. Each block shows one
/// moment; of thousands of storages the last blocks are some milliseconds younger than the first.
pub fn text<Z: TimeZone>(groups: &Groups, zone: &Z) -> String
where
    Z::Offset: Display,
{
    let mut text = String::new();
    let mut times = Times { zone, known: HashMap::new() };
    let names = groups.names();
    line(&mut text, "COUNT OF GROUPS", names.len());
    for name in names {
        line(&mut text, "GROUPNAME", &name);
        // One that was forgotten in between has no storage any more.
        block(&mut text, &groups.get(&name).unwrap_or_default(), &mut times);
    }
    text.pop(); // The last line has no newline.
    text
}

fn block<Z: TimeZone>(text: &mut String, group: &Group, times: &mut Times<'_, Z>)
where
    Z::Offset: Display,
{
    line(text, "COUNT OF STORAGES", group.count());
    line(text, "COUNT OF ACTIVE STORAGES", group.active_count());
    for (id, member) in group.members() {
        storage(text, id, member, times);
    }
}

fn storage<Z: TimeZone>(text: &mut String, id: &MemberId, member: &Member, times: &mut Times<'_, Z>)
where
    Z::Offset: Display,
{
    line(text, "VERSION", &member.version);
    line(text, "HOSTNAME", &id.host);
    line(text, "ADDRESS", id.address);
    line(text, "STARTUP TIME", times.of(member.started));
    line(text, "JOIN TIME", times.of(member.joined));
    // A storage that has not beaten yet shows the epoch: existing trackers print the zero they
    // have, and a script that parses times finds one.
    line(text, "BEAT TIME", times.of(member.beaten.unwrap_or(0)));
    line(text, "STATUS", member.state);
}

/// One line, its label aligned to the right of the longest one.
fn line(text: &mut String, label: &str, value: impl Display) {
    // Writing to a String does not fail.
    let _ = writeln!(text, "{label:>24}: {value}");
}

/// Times in words: working them out would be most of what a long list costs.
struct Times<'a, Z> {
    zone: &'a Z,
    known: HashMap<i64, String>,
}

impl<Z: TimeZone> Times<'_, Z>
where
    Z::Offset: Display,
{
    fn of(&mut self, seconds: i64) -> &str {
        if self.known.len() >= TIMES_MAX && !self.known.contains_key(&seconds) {
            self.known.clear();
        }
        self.known.entry(seconds).or_insert_with(|| time(seconds, self.zone))
    }
}

/// A time as C's ctime prints it. One that no calendar has is shown as the epoch: storages may send
/// any number.
fn time<Z: TimeZone>(seconds: i64, zone: &Z) -> String
where
    Z::Offset: Display,
{
    let time = DateTime::from_timestamp(seconds, 0).unwrap_or_default().with_timezone(zone);
    time.format("%a %b %e %H:%M:%S %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::{Groups, Now};
    use chrono::{FixedOffset, Utc};
    use std::time::Instant;
    use tnv_common::proto::GroupName;
    use tnv_common::proto::tnv::tracker::{Heartbeat, Join};

    const CAPTURE: &str = include_str!("../../tests/fixtures/wire/GROUPS.response.hex");
    const JOIN: &str = include_str!("../../tests/fixtures/wire/JOIN.request.hex");
    const BEAT: &str = include_str!("../../tests/fixtures/wire/BEAT.request.hex");

    fn bytes(hex: &str) -> Vec<u8> {
        let hex = hex.trim();
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_list_is_byte_for_byte_that_of_an_existing_tracker() {
        let groups = Groups::default();
        groups.set_listed(&[GroupName::new("group001").unwrap()]);
        let join = Join::decode(bytes(JOIN)[10..].try_into().unwrap()).unwrap();
        let beat = Heartbeat::decode(bytes(BEAT)[10..].try_into().unwrap()).unwrap();
        // The capture's storage listens on 23000 and beat ten seconds after it had joined.
        let now = Now { instant: Instant::now(), epoch: join.joined + 10 };
        let ip = [127, 0, 0, 1].into();
        groups.join(&Join { port: 23000, ..join }, ip, now).unwrap();
        groups.beat_from(&beat, ip, now).unwrap();
        let want = bytes(CAPTURE);
        let got = text(&groups, &Utc);
        assert_eq!(got.as_bytes(), &want[10..want.len() - 1]);
        assert_eq!(want.last(), Some(&0));
    }

    #[test]
    fn groups_without_storages_are_in_the_list() {
        let groups = Groups::default();
        let names = ["g2", "g1"].map(|name| GroupName::new(name).unwrap());
        groups.set_listed(&names);
        let want = "         COUNT OF GROUPS: 2\n               GROUPNAME: g1\n       COUNT OF STORAGES: 0\n\
                    COUNT OF ACTIVE STORAGES: 0\n               GROUPNAME: g2\n       COUNT OF STORAGES: 0\n\
                    COUNT OF ACTIVE STORAGES: 0";
        assert_eq!(text(&groups, &Utc), want);
    }

    #[test]
    fn times_are_those_of_ctime() {
        let tokyo = FixedOffset::east_opt(9 * 3600).unwrap();
        assert_eq!(time(0, &Utc), "Thu Jan  1 00:00:00 1970");
        assert_eq!(time(1_688_135_570, &tokyo), "Fri Jun 30 23:32:50 2023");
        assert_eq!(time(i64::MAX, &Utc), "Thu Jan  1 00:00:00 1970", "no calendar has it");
        assert_eq!(time(i64::MIN, &Utc), "Thu Jan  1 00:00:00 1970");
        // The edges of the calendar, where a zone's offset would leave it.
        for edge in [DateTime::<Utc>::MAX_UTC, DateTime::<Utc>::MIN_UTC] {
            assert!(!time(edge.timestamp(), &tokyo).is_empty());
        }
    }
}
