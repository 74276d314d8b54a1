//! What the engine's memory amounts to: one ledger in bytes, and an optional limit on it.

use crate::error::{Error, Result, Status};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An engine's ledger: bytes taken by models and by copied inputs.
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// A ledger with at most `limit` bytes; `None`: no limit.
    pub fn new(limit: Option<u64>) -> Arc<Self> {
        Arc::new(Budget { limit: limit.unwrap_or(u64::MAX), used: AtomicU64::new(0) })
    }

    /// Bytes taken now.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The limit, if there is one.
    pub fn limit(&self) -> Option<u64> {
        (self.limit != u64::MAX).then_some(self.limit)
    }

    /// Takes `bytes` until the reservation is dropped.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation> {
        let take = |used: u64| used.checked_add(bytes).filter(|&total| total <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => Ok(Reservation { budget: Arc::clone(self), bytes }),
            Err(used) => Err(Error::new(
                Status::OverBudget,
                format!(
                    "memory.budget_bytes is {}: {used} bytes are taken, {bytes} more do not fit",
                    self.limit
                ),
            )),
        }
    }
}

/// Bytes taken from a budget; given back on drop.
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_holds_its_limit_and_takes_back() {
        let budget = Budget::new(Some(100));
        let first = budget.reserve(60).unwrap();
        assert_eq!(budget.reserve(41).err().unwrap().status, Status::OverBudget);
        let second = budget.reserve(40).unwrap();
        assert_eq!(budget.used(), 100);
        drop(first);
        assert_eq!(budget.used(), 40);
        drop(second);
        assert_eq!(budget.used(), 0);
        assert!(Budget::new(None).reserve(u64::MAX / 2).is_ok());
    }
}
