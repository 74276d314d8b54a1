//! The shelves of `memory::pool`, one class of them: no block has two owners, none is lost, and the count of idle bytes
//! is right whenever nobody is at work.

use crate::shelves::{Shelves, Taken};
use crate::sync::{Seen, explore};
use crate::{Data, join, spawn};
use loom::sync::Arc;
use std::ptr::NonNull;

const BYTES: u64 = 64;
const NO_LIMIT: u64 = u64::MAX;

struct Pool<const COUNT: usize> {
    shelves: Shelves<1, COUNT, 1>,
    data: [Data; COUNT],
}

fn address(index: u32) -> NonNull<u8> {
    NonNull::without_provenance(std::num::NonZero::new(64 * (index as usize + 1)).unwrap())
}

impl<const COUNT: usize> Pool<COUNT> {
    /// With the first `idle` of `COUNT` blocks, the first one used last; the other slots are vacant.
    fn new(idle: u32) -> Arc<Self> {
        let pool = Pool { shelves: Shelves::new(), data: std::array::from_fn(|_| Data::new(0)) };
        for index in 0..idle {
            assert_eq!(pool.shelves.describe(address(index), 0, BYTES), Some(index));
        }
        for index in (0..idle).rev() {
            assert!(pool.put(index, u64::from(10 - index), NO_LIMIT));
        }
        Arc::new(pool)
    }

    /// Takes a block, and writes it as its owner.
    fn take(&self) -> Option<u32> {
        self.shelves.take(0).map(|taken| self.own(taken))
    }

    fn own(&self, Taken { index, address: found, bytes }: Taken) -> u32 {
        self.data[index as usize].write(index);
        assert_eq!((found, bytes), (address(index), BYTES));
        index
    }

    fn put(&self, index: u32, now_ns: u64, limit: u64) -> bool {
        self.data[index as usize].write(index);
        self.shelves.put(index, now_ns, limit)
    }

    /// As a pool does: a block from the shelf, or else a new one, and puts it back.
    fn use_one(&self, now_ns: u64) {
        let new = || {
            let index = self.shelves.describe(address(0), 0, BYTES)?;
            self.data[index as usize].write(index);
            Some(index)
        };
        if let Some(index) = self.shelves.take(0).map(|taken| taken.index).or_else(new) {
            assert!(self.put(index, now_ns, NO_LIMIT));
        }
    }

    /// Takes the oldest off the shelf and frees them.
    fn free_oldest(&self, needed: u64) -> usize {
        let taken = self.shelves.take_oldest(needed, u64::MAX);
        for taken in &taken {
            self.data[taken.index as usize].write(0);
            self.shelves.forget(taken.index);
        }
        taken.len()
    }

    /// Now that nobody is at work: so many blocks are idle, each is there once, and slots are neither lost nor shared.
    fn assert_idle(&self, count: usize) {
        assert_eq!(self.shelves.bytes(), count as u64 * BYTES);
        let idle = std::iter::from_fn(|| self.shelves.take(0).map(|taken| taken.index));
        let mut all: Vec<u32> = idle.collect();
        assert_eq!(all.len(), count);
        assert_eq!(self.shelves.bytes(), 0);
        all.extend(std::iter::from_fn(|| self.shelves.describe(address(0), 0, BYTES)));
        all.sort_unstable();
        assert!(all.iter().copied().eq(0..COUNT as u32), "{all:?}");
    }
}

#[test]
fn a_trim_frees_one_while_another_is_taken_and_put_back() {
    explore(Seen::AsLate, 3, || {
        let pool = Pool::<2>::new(2);
        let other = spawn(&pool, |pool| {
            if let Some(index) = pool.take() {
                assert!(pool.put(index, 20, NO_LIMIT));
            }
        });
        let freed = pool.free_oldest(BYTES);
        other.join().unwrap();
        pool.assert_idle(2 - freed);
    });
}

#[test]
fn a_trim_keeps_what_was_used_lately_and_its_order() {
    explore(Seen::AsLate, 3, || {
        let pool = Pool::<3>::new(3);
        let other = spawn(&pool, |pool| pool.take());
        let freed = pool.free_oldest(BYTES);
        let taken = other.join().unwrap();
        assert_ne!(taken, Some(2), "the oldest one is at the bottom, and goes first");
        let left: Vec<u32> = std::iter::from_fn(|| pool.take()).collect();
        assert!(left.is_sorted(), "{left:?}");
        assert_eq!(freed + left.len() + usize::from(taken.is_some()), 3);
    });
}

#[test]
fn two_users_and_a_trim_never_share_a_block() {
    explore(Seen::AsLate, 2, || {
        let pool = Pool::<3>::new(1);
        let users = [20, 30].map(|now_ns| spawn(&pool, move |pool| pool.use_one(now_ns)));
        let freed = pool.free_oldest(BYTES);
        join(users);
        let idle = (pool.shelves.bytes() / BYTES) as usize;
        assert!(freed <= 1 && (1..=3).contains(&(idle + freed)), "{idle} idle, {freed} freed");
        pool.assert_idle(idle);
    });
}

#[test]
fn idle_bytes_never_exceed_their_limit() {
    explore(Seen::AsLate, 3, || {
        let pool = Pool::<2>::new(2);
        assert_eq!((pool.take(), pool.take()), (Some(0), Some(1)));
        let put = |pool: &Pool<2>, index| {
            let kept = pool.put(index, 20, BYTES);
            if !kept {
                pool.shelves.forget(index);
            }
            kept
        };
        let other = spawn(&pool, move |pool| put(pool, 1));
        let kept = [put(&pool, 0), other.join().unwrap()].into_iter().filter(|&kept| kept).count();
        assert!(kept <= 1);
        pool.assert_idle(kept);
    });
}
