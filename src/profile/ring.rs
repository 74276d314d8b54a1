//! A ring of spans that many threads write and one reads meanwhile: no lock, and the newest overwrite the oldest.

use crate::sync::{AtomicU64, Ordering};

/// A place in the ring, one cache line. `turn` is odd while somebody writes, and twice the writer's number plus two
/// afterwards; 0: it was never written.
#[repr(align(64))]
struct Place<const WORDS: usize> {
    turn: AtomicU64,
    words: [AtomicU64; WORDS],
}

pub struct Ring<const WORDS: usize> {
    places: Box<[Place<WORDS>]>,
    /// The next writer's number.
    next: AtomicU64,
    /// Spans that were not written, because another thread was still at their place.
    dropped: AtomicU64,
}

impl<const WORDS: usize> Ring<WORDS> {
    /// A ring of so many places, at least one.
    pub fn new(places: usize) -> Self {
        let place = |_| Place { turn: AtomicU64::new(0), words: std::array::from_fn(|_| AtomicU64::new(0)) };
        let places = (0..places.max(1)).map(place).collect();
        Ring { places, next: AtomicU64::new(0), dropped: AtomicU64::new(0) }
    }

    /// Writes into the next place. If a thread is at it that came a whole round before, what is given is dropped.
    pub fn push(&self, words: [u64; WORDS]) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let place = &self.places[(number % self.places.len() as u64) as usize];
        let before = place.turn.load(Ordering::Relaxed);
        let free = before % 2 == 0 && before <= 2 * number;
        // Acquire: the words that another thread wrote here before are not written later than this one's.
        let taken = free
            && place
                .turn
                .compare_exchange(before, 2 * number + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok();
        if !taken {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        for (to, word) in place.words.iter().zip(words) {
            // Release: who reads it sees that the place was taken, too.
            to.store(word, Ordering::Release);
        }
        place.turn.store(2 * number + 2, Ordering::Release);
    }

    /// What is there, in the order in which it was written, without what is being written just now.
    pub fn read(&self) -> Vec<[u64; WORDS]> {
        let mut found: Vec<(u64, [u64; WORDS])> = Vec::new();
        for place in &self.places {
            let before = place.turn.load(Ordering::Acquire);
            if before == 0 || before % 2 == 1 {
                continue;
            }
            let words = std::array::from_fn(|at| place.words[at].load(Ordering::Acquire));
            if place.turn.load(Ordering::Relaxed) == before {
                found.push((before, words));
            }
        }
        found.sort_unstable_by_key(|(turn, _)| *turn);
        found.into_iter().map(|(_, words)| words).collect()
    }

    /// How many were given, of which so many were overwritten or dropped since.
    pub fn counts(&self) -> (u64, u64, u64) {
        let given = self.next.load(Ordering::Relaxed);
        let overwritten = given.saturating_sub(self.places.len() as u64);
        (given, overwritten, self.dropped.load(Ordering::Relaxed))
    }

    pub fn bytes(&self) -> u64 {
        size_of_val(&*self.places) as u64
    }
}
