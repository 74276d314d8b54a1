//! What the engine's memory amounts to: one ledger in bytes, and an optional limit on it.

use crate::error::{Error, Result, Status};
use crate::sync::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// What bytes are taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// What models say that they take.
    Models,
    /// All blocks of pools, in use or idle.
    Buffers,
    Caches,
}

const KINDS: usize = 3;
const NO_LIMIT: u64 = u64::MAX;

/// An engine's ledger: bytes taken, by kind and in all.
pub struct Ledger {
    /// The setting that the limit comes from.
    setting: String,
    limit: AtomicU64,
    used: [AtomicU64; KINDS],
    total: AtomicU64,
    relief: OnceLock<Box<dyn Relief>>,
}

/// Makes room when the limit is reached.
pub trait Relief: Send + Sync {
    /// `bytes` do not fit: frees what can be freed at once without waiting, and says whether as much will be free soon,
    /// so that going over the limit for a moment is right.
    fn relieve(&self, bytes: u64) -> bool;
}

impl Ledger {
    /// A ledger with at most `limit` bytes; `None`: no limit.
    pub fn new(limit: Option<u64>) -> Arc<Self> {
        Ledger::named(limit, "memory.budget_bytes".to_owned())
    }

    /// The same, whose limit errors call by the name of this setting.
    pub fn named(limit: Option<u64>, setting: String) -> Arc<Self> {
        Arc::new(Ledger {
            setting,
            limit: AtomicU64::new(limit.unwrap_or(NO_LIMIT)),
            used: Default::default(),
            total: AtomicU64::new(0),
            relief: OnceLock::new(),
        })
    }

    /// The limit, if there is one.
    pub fn limit(&self) -> Option<u64> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|&limit| limit != NO_LIMIT)
    }

    /// Sets the limit. What is taken stays taken, even if it is more.
    pub fn set_limit(&self, limit: Option<u64>) {
        self.limit.store(limit.unwrap_or(NO_LIMIT), Ordering::Relaxed);
    }

    /// Bytes taken now.
    pub fn used(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Bytes taken now for one kind of thing.
    pub fn used_by(&self, kind: Kind) -> u64 {
        self.used[kind as usize].load(Ordering::Relaxed)
    }

    /// Says who makes room; once, later calls do nothing. It is called by threads that take bytes, while they hold no
    /// lock of the ledger's or of a pool's.
    pub fn set_relief(&self, relief: Box<dyn Relief>) {
        let _ = self.relief.set(relief);
    }

    /// How many of `bytes` are beyond the limit.
    pub fn missing(&self, bytes: u64) -> u64 {
        self.used().saturating_add(bytes).saturating_sub(self.limit.load(Ordering::Relaxed))
    }

    /// Takes bytes, if they fit under the limit.
    pub fn try_take(&self, kind: Kind, bytes: u64) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        let mut total = self.used();
        loop {
            let Some(new) = total.checked_add(bytes).filter(|&new| new <= limit) else { return false };
            match self.total.compare_exchange_weak(total, new, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => total = now,
            }
        }
        self.used[kind as usize].fetch_add(bytes, Ordering::Relaxed);
        true
    }

    /// Takes bytes. If they do not fit, what can make room is asked to; they go over the limit only if it says so.
    pub fn take(&self, kind: Kind, bytes: u64) -> Result<()> {
        if self.try_take(kind, bytes) { Ok(()) } else { self.take_after_relief(kind, bytes) }
    }

    #[cold]
    fn take_after_relief(&self, kind: Kind, bytes: u64) -> Result<()> {
        let can_ever_fit = bytes <= self.limit.load(Ordering::Relaxed);
        if let Some(relief) = self.relief.get().filter(|_| can_ever_fit) {
            // More than once: others may be quicker to take what was freed.
            for _ in 0..3 {
                let is_freed_soon = relief.relieve(self.missing(bytes));
                if self.try_take(kind, bytes) {
                    return Ok(());
                }
                if is_freed_soon {
                    self.force(kind, bytes);
                    return Ok(());
                }
            }
        }
        let (limit, used) = (self.limit.load(Ordering::Relaxed), self.used());
        Err(Error::new(
            Status::OverBudget,
            format!("{} is {limit}: {used} bytes are taken, {bytes} more do not fit", self.setting),
        ))
    }

    /// Takes bytes, whatever the limit.
    pub fn force(&self, kind: Kind, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
        self.used[kind as usize].fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives back bytes that were taken.
    pub fn give(&self, kind: Kind, bytes: u64) {
        self.used[kind as usize].fetch_sub(bytes, Ordering::Relaxed);
        self.total.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes bytes until the reservation is dropped.
    pub fn reserve(self: &Arc<Self>, kind: Kind, bytes: u64) -> Result<Reservation> {
        self.take(kind, bytes)?;
        Ok(Reservation { ledger: Arc::clone(self), kind, bytes })
    }
}

/// Bytes taken from a ledger; given back on drop.
pub struct Reservation {
    ledger: Arc<Ledger>,
    kind: Kind,
    bytes: u64,
}

impl Reservation {
    /// For bytes that were taken from the ledger already.
    pub fn taken(ledger: &Arc<Ledger>, kind: Kind, bytes: u64) -> Self {
        Reservation { ledger: Arc::clone(ledger), kind, bytes }
    }

    /// Takes `bytes`, whatever the limit.
    pub fn forced(ledger: &Arc<Ledger>, kind: Kind, bytes: u64) -> Self {
        ledger.force(kind, bytes);
        Reservation::taken(ledger, kind, bytes)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it `bytes` in all, whatever the limit.
    pub fn resize_forced(&mut self, bytes: u64) {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.ledger.force(self.kind, more),
            None => self.ledger.give(self.kind, self.bytes - bytes),
        }
        self.bytes = bytes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.ledger.give(self.kind, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Weak;

    #[test]
    fn a_ledger_holds_its_limit_and_takes_back() {
        let ledger = Ledger::new(Some(100));
        let mut first = ledger.reserve(Kind::Models, 60).unwrap();
        let error = ledger.reserve(Kind::Buffers, 41).err().unwrap();
        assert_eq!(error.status, Status::OverBudget);
        assert!(error.message.contains("is 100: 60 bytes are taken, 41 more"), "{error}");
        let second = ledger.reserve(Kind::Caches, 40).unwrap();
        assert_eq!(
            (ledger.used(), ledger.used_by(Kind::Models), ledger.used_by(Kind::Caches)),
            (100, 60, 40)
        );
        first.resize_forced(70);
        assert_eq!((ledger.used(), ledger.try_take(Kind::Models, 0)), (110, false));
        first.resize_forced(10);
        assert_eq!(ledger.used(), 50);
        drop(first);
        assert_eq!((ledger.used(), ledger.used_by(Kind::Models)), (40, 0));
        drop(second);
        assert_eq!(ledger.used(), 0);
        assert!(Ledger::new(None).reserve(Kind::Models, u64::MAX / 2).is_ok());
    }

    #[test]
    fn limits_come_and_go() {
        let ledger = Ledger::new(None);
        assert_eq!(ledger.limit(), None);
        ledger.force(Kind::Caches, 50);
        ledger.set_limit(Some(40));
        assert_eq!((ledger.limit(), ledger.try_take(Kind::Caches, 1)), (Some(40), false));
        ledger.give(Kind::Caches, 50);
        assert!(ledger.try_take(Kind::Caches, 40));
        ledger.set_limit(None);
        assert!(ledger.try_take(Kind::Caches, 1));
    }

    /// Gives back 10 bytes each time, and promises whatever it was told to.
    struct Tens {
        ledger: Weak<Ledger>,
        asked: Arc<AtomicU64>,
        promises: bool,
    }

    impl Relief for Tens {
        fn relieve(&self, bytes: u64) -> bool {
            self.asked.fetch_add(bytes, Ordering::Relaxed);
            self.ledger.upgrade().unwrap().give(Kind::Caches, 10);
            self.promises
        }
    }

    fn relieved(promises: bool) -> (Arc<Ledger>, Arc<AtomicU64>) {
        let (ledger, asked) = (Ledger::new(Some(100)), Arc::<AtomicU64>::default());
        ledger.set_relief(Box::new(Tens { ledger: Arc::downgrade(&ledger), asked: asked.clone(), promises }));
        ledger.force(Kind::Caches, 100);
        (ledger, asked)
    }

    #[test]
    fn relief_is_asked_for_what_is_missing() {
        let (ledger, asked) = relieved(false);
        ledger.take(Kind::Buffers, 20).unwrap();
        assert_eq!((ledger.used(), asked.load(Ordering::Relaxed)), (100, 20 + 10));
        assert_eq!(ledger.take(Kind::Buffers, 40).err().unwrap().status, Status::OverBudget);
        assert_eq!((ledger.used(), asked.load(Ordering::Relaxed)), (70, 30 + 40 + 30 + 20));
    }

    #[test]
    fn what_will_be_free_soon_is_taken_at_once() {
        let (ledger, asked) = relieved(true);
        ledger.take(Kind::Buffers, 50).unwrap();
        assert_eq!((ledger.used(), asked.load(Ordering::Relaxed)), (140, 50));
        assert!(ledger.take(Kind::Buffers, 101).is_err(), "it can never fit");
        assert_eq!(ledger.used(), 140);
    }
}
