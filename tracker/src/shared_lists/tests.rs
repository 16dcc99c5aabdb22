//! Unit tests of `shared_lists`.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

fn list(text: &str) -> SharedReply {
    SharedReply::success(100, text.as_bytes())
}

#[test]
fn few_lists_are_kept_while_slow_clients_have_them() {
    let lists = SharedLists::default();
    let mut built = 0;
    let mut get = || {
        lists.get(|| {
            built += 1;
            list(&built.to_string())
        })
    };
    let slow: Vec<_> = (0..5 * LISTS_MAX).map(|_| get()).collect();
    assert_eq!(lists.lock().len(), LISTS_MAX);
    drop(slow);
    get();
    assert_eq!(lists.lock().len(), 1, "what no client reads is forgotten");
    assert_eq!(built, LISTS_MAX + 1);
}

#[test]
fn many_who_ask_while_a_list_is_built_share_the_next_one() {
    let (lists, built) = (SharedLists::default(), AtomicUsize::new(0));
    let get = || {
        lists.get(|| {
            built.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(300));
            list("groups")
        })
    };
    thread::scope(|scope| (0..50).for_each(|_| drop(scope.spawn(get))));
    assert!(built.load(Ordering::Relaxed) < 50 / 2);
}

/// A list was given again for 20 ms: a storage that had just joined was not in it.
#[test]
fn a_list_has_what_was_there_before_it_was_asked_for() {
    let lists = SharedLists::default();
    for number in 0..100 {
        let mut built = false;
        drop(lists.get(|| {
            built = true;
            list(&number.to_string())
        }));
        assert!(built, "{number}");
    }
}
