//! The attempts of one request: how many there were, how many are under way, and where the further ones are.
//!
//! Whoever ends the last attempt that is under way has to end the request. An attempt that is about to be made counts as
//! under way before it is, so that nobody takes the one before it for the last; if it cannot be made after all, whoever
//! withdraws it may find that the others have ended meanwhile, and then it was the last.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Attempts of one request besides its own.
pub const MOST_CHILDREN: usize = 3;

/// One that is under way.
const UNDERWAY: u32 = 1;
/// One that was ever begun.
const BEGUN: u32 = 1 << 16;

/// See the module's documentation.
#[derive(Default)]
pub struct Attempts {
    word: AtomicU32,
    /// Tickets of further attempts; 0: none.
    children: [AtomicU64; MOST_CHILDREN],
    /// How the latest one failed.
    failure: AtomicU32,
    /// A further one was refused.
    refused: AtomicU32,
}

impl Attempts {
    /// Begins anew, with `own` attempts under way, 0 or 1. For an exclusive owner.
    pub fn begin(&self, own: u32) {
        self.word.store(own * (UNDERWAY + BEGUN), Ordering::Relaxed);
        self.children.iter().for_each(|child| child.store(0, Ordering::Relaxed));
        self.failure.store(0, Ordering::Relaxed);
        self.refused.store(0, Ordering::Relaxed);
    }

    /// Attempts that were ever begun.
    pub fn begun(&self) -> u32 {
        self.word.load(Ordering::SeqCst) / BEGUN
    }

    /// Attempts that are under way.
    pub fn underway(&self) -> u32 {
        self.word.load(Ordering::SeqCst) & (BEGUN - 1)
    }

    /// Counts another attempt as under way, if there were fewer than `most`. Returns how many there were before.
    pub fn try_begin(&self, most: u32) -> Option<u32> {
        let more = |word: u32| (word / BEGUN < most).then_some(word + BEGUN + UNDERWAY);
        self.word.fetch_update(Ordering::SeqCst, Ordering::Relaxed, more).ok().map(|before| before / BEGUN)
    }

    /// An attempt has failed, or could not be made. True: it was the last one under way.
    pub fn end(&self, failure: u32) -> bool {
        if failure != 0 {
            self.failure.store(failure, Ordering::Relaxed);
        }
        self.word.fetch_sub(UNDERWAY, Ordering::AcqRel) & (BEGUN - 1) <= UNDERWAY
    }

    /// How the latest one failed; 0: none has.
    pub fn failure(&self) -> u32 {
        self.failure.load(Ordering::Relaxed)
    }

    /// Notes down that a further one was refused; whether one was before.
    pub fn was_refused(&self) -> bool {
        self.refused.swap(1, Ordering::Relaxed) != 0
    }

    /// Where a further attempt is written down, before others can see it.
    pub fn child(&self, place: u32) -> Option<&AtomicU64> {
        self.children.get(place as usize)
    }

    /// The tickets of further attempts. Whoever has ended the request ends those it finds here; whoever makes one looks
    /// afterwards whether the request has ended. If no more were begun than its own, there are none to look for.
    pub fn children(&self) -> impl Iterator<Item = u64> + '_ {
        self.children.iter().map(|child| child.load(Ordering::SeqCst)).filter(|&child| child != 0)
    }
}
