//! A bound on what many connections together hold in memory while they wait. Each connection alone has a bound of
//! its own, but there may be twenty thousand of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many bytes for all who hold something.
pub struct MemoryBudget(Arc<AtomicUsize>);

/// What one of them holds of it, given back when this is dropped.
#[derive(Default)]
pub struct Held {
    bytes: usize,
    budget: Option<Arc<AtomicUsize>>,
}

impl MemoryBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> MemoryBudget {
        MemoryBudget(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Lets one hold so many bytes instead of what it held before. False where the budget has no room for them; it
    /// then holds nothing.
    pub fn hold(&self, held: &mut Held, bytes: usize) -> bool {
        if held.bytes == bytes {
            return true;
        }
        *held = Held::default();
        let left = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes));
        if left.is_ok() {
            *held = Held { bytes, budget: Some(Arc::clone(&self.0)) };
        }
        left.is_ok()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.fetch_add(self.bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_bounded_and_given_back() {
        const BYTES: usize = 48 << 20;
        let budget = MemoryBudget::new(BYTES);
        let mut held: Vec<Held> = (0..3).map(|_| Held::default()).collect();
        assert!(budget.hold(&mut held[0], BYTES / 2));
        assert!(budget.hold(&mut held[1], BYTES / 2));
        assert!(budget.hold(&mut held[1], BYTES / 2), "as much as before");
        assert!(!budget.hold(&mut held[2], 1));
        assert!(budget.hold(&mut held[1], 1000), "less than before");
        assert!(budget.hold(&mut held[2], 1));
        drop(held);
        assert!(budget.hold(&mut Held::default(), BYTES));
        assert!(budget.hold(&mut Held::default(), BYTES));
    }
}
