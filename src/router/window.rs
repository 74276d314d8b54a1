//! Calls of the last while, and how many of them failed or were slow: a ring of eight slots, each one atomic word.

use crate::sync::{AtomicU64, Ordering};

const SLOTS: usize = 8;
/// Bits of a slot's word for each count; the rest says which turn of the clock they are of.
const BITS: u32 = 16;
const MOST: u64 = (1 << BITS) - 1;

/// Calls, and what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    pub total: u64,
    pub failed: u64,
    pub slow: u64,
}

impl Calls {
    fn unpack(word: u64) -> (u64, Self) {
        let part = |index: u32| word >> (index * BITS) & MOST;
        (part(3), Calls { total: part(0), failed: part(1), slow: part(2) })
    }

    /// Counts beyond what a word holds are halved together: what is asked for are shares.
    fn pack(mut self, turn: u64) -> u64 {
        while self.total > MOST {
            self = Calls { total: self.total / 2, failed: self.failed / 2, slow: self.slow / 2 };
        }
        let (failed, slow) = (self.failed.min(self.total), self.slow.min(self.total));
        turn << (3 * BITS) | slow << (2 * BITS) | failed << BITS | self.total
    }

    fn plus(self, other: Calls) -> Self {
        Calls {
            total: self.total + other.total,
            failed: self.failed + other.failed,
            slow: self.slow + other.slow,
        }
    }
}

/// A sliding window. Adding to it takes no lock.
pub struct Window {
    slot_ns: u64,
    slots: [AtomicU64; SLOTS],
}

impl Window {
    /// A window over the last `window_ns`, to an eighth.
    pub fn new(window_ns: u64) -> Self {
        Window { slot_ns: (window_ns / SLOTS as u64).max(1), slots: Default::default() }
    }

    /// Adds calls that ended now.
    pub fn add(&self, now_ns: u64, calls: Calls) {
        self.change(now_ns, |old| old.plus(calls));
    }

    /// Takes back failures that turned out to be nobody's here.
    pub fn forgive(&self, now_ns: u64, count: u64) {
        self.change(now_ns, |old| Calls { failed: old.failed.saturating_sub(count), ..old });
    }

    fn change(&self, now_ns: u64, change: impl Fn(Calls) -> Calls) {
        let turn = now_ns / self.slot_ns;
        let slot = &self.slots[(turn % SLOTS as u64) as usize];
        let turn = turn & MOST;
        let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let (old_turn, calls) = Calls::unpack(word);
            Some(change(if old_turn == turn { calls } else { Calls::default() }).pack(turn))
        });
    }

    /// The calls of the window that ends now.
    pub fn calls(&self, now_ns: u64) -> Calls {
        let turn = now_ns / self.slot_ns;
        let mut sum = Calls::default();
        for back in 0..(SLOTS as u64).min(turn + 1) {
            let slot = &self.slots[((turn - back) % SLOTS as u64) as usize];
            let (slot_turn, calls) = Calls::unpack(slot.load(Ordering::Relaxed));
            if slot_turn == (turn - back) & MOST {
                sum = sum.plus(calls);
            }
        }
        sum
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.slots.iter().for_each(|slot| slot.store(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALL: Calls = Calls { total: 1, failed: 0, slow: 0 };

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let window = Window::new(800);
        let start = 1_000_000;
        for step in 0..8 {
            window.add(start + step * 100, Calls { failed: step % 2, ..CALL });
        }
        assert_eq!(window.calls(start + 700), Calls { total: 8, failed: 4, slow: 0 });
        assert_eq!(window.calls(start + 900), Calls { total: 6, failed: 3, slow: 0 });
        assert_eq!(window.calls(start + 2000), Calls::default());
        window.add(start + 2000, CALL);
        assert_eq!(window.calls(start + 2000), CALL);
    }

    #[test]
    fn more_than_a_word_holds_keeps_its_shares() {
        let window = Window::new(8000);
        for _ in 0..100 {
            window.add(5000, Calls { total: 1000, failed: 250, slow: 100 });
        }
        let calls = window.calls(5000);
        assert!((calls.failed * 4).abs_diff(calls.total) < 100, "{calls:?}");
        assert!((calls.slow * 10).abs_diff(calls.total) < 200, "{calls:?}");
    }

    #[test]
    fn failures_can_be_taken_back() {
        let window = Window::new(8000);
        window.add(5000, Calls { failed: 1, ..CALL });
        window.forgive(5000, 1);
        window.forgive(5000, 1);
        assert_eq!(window.calls(5000), CALL);
        window.clear();
        assert_eq!(window.calls(5000), Calls::default());
    }
}
