//! Lock-free lists of things that are numbered and never move: a free list, and an inbox.
//!
//! Both keep their links outside, in cells that belong to the things, so that nothing is allocated. The cells must
//! outlive the list and be used by one list at a time.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// A last-in-first-out list of numbers that any thread may push to and pop from.
#[derive(Default)]
pub struct FreeList {
    /// A tag that changes with every push, so that a pop which was overtaken is found out, and the number plus one.
    top: AtomicU64,
}

impl FreeList {
    /// Adds `number`; `next` is its link.
    pub fn push(&self, number: u32, next: &AtomicU32) {
        let mut top = self.top.load(Ordering::Relaxed);
        loop {
            next.store(top as u32, Ordering::Relaxed);
            let tag = (top >> 32).wrapping_add(1) << 32;
            let new = tag | u64::from(number + 1);
            match self.top.compare_exchange_weak(top, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// Takes the number that was added last; `link` finds the link of any number.
    pub fn pop<'a>(&self, link: impl Fn(u32) -> &'a AtomicU32) -> Option<u32> {
        let mut top = self.top.load(Ordering::Acquire);
        loop {
            let number = (top as u32).checked_sub(1)?;
            // May be stale, if another thread has popped this number; the tag then differs.
            let next = link(number).load(Ordering::Relaxed);
            let new = (top >> 32) << 32 | u64::from(next);
            match self.top.compare_exchange_weak(top, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(number),
                Err(now) => top = now,
            }
        }
    }

    /// Takes all numbers: the one that was added last, from whose link the others follow with `following`.
    pub fn take_all(&self) -> Option<u32> {
        let mut top = self.top.load(Ordering::Acquire);
        loop {
            let number = (top as u32).checked_sub(1)?;
            let empty = top >> 32 << 32;
            match self.top.compare_exchange_weak(top, empty, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Some(number),
                Err(now) => top = now,
            }
        }
    }
}

/// The number after the one with this link, among those that `FreeList::take_all` gave.
pub fn following(next: &AtomicU32) -> Option<u32> {
    next.load(Ordering::Relaxed).checked_sub(1)
}

/// A list that any thread may push to, and of which one thread at a time takes everything.
#[derive(Default)]
pub struct Inbox {
    /// The link that was pushed last; 0: none.
    top: AtomicU64,
}

impl Inbox {
    /// Adds a chain of links: `last` is followed by whatever was there, through its cell `next`. A chain of one has
    /// the same `first` and `last`. The write is `SeqCst`, so that a `Bell` may be rung after it.
    pub fn push_chain(&self, first: u64, next_of_last: &AtomicU64) {
        let mut top = self.top.load(Ordering::Relaxed);
        loop {
            next_of_last.store(top, Ordering::Relaxed);
            match self.top.compare_exchange_weak(top, first, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// Takes everything: the link that was pushed last, from which the others follow; 0: none.
    pub fn take(&self) -> u64 {
        // A look first: taking nothing should not take the cache line from those who push.
        if self.is_empty() { 0 } else { self.top.swap(0, Ordering::Acquire) }
    }

    pub fn is_empty(&self) -> bool {
        self.top.load(Ordering::SeqCst) == 0
    }
}

/// Turns what `Inbox::take` gave around, so that it begins with the link that was pushed first.
pub fn in_order<'a>(mut link: u64, cell: impl Fn(u64) -> &'a AtomicU64) -> u64 {
    let mut reversed = 0;
    while link != 0 {
        let cell = cell(link);
        let next = cell.load(Ordering::Relaxed);
        cell.store(reversed, Ordering::Relaxed);
        reversed = link;
        link = next;
    }
    reversed
}
