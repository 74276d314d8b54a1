//! The lists of `stack`: nothing is lost, and nothing comes twice.

use crate::stack::{FreeList, Inbox, in_order};
use crate::sync::{AtomicU32, AtomicU64, Ordering, Seen, explore};
use crate::{Data, join, spawn};
use loom::sync::Arc;

/// Numbered things, whose owner alone may write them.
struct Things<const COUNT: usize> {
    free: FreeList,
    next: [AtomicU32; COUNT],
    data: [Data; COUNT],
}

impl<const COUNT: usize> Things<COUNT> {
    /// All are in the list, the first one on top.
    fn all_free() -> Arc<Self> {
        let things = Things {
            free: FreeList::default(),
            next: std::array::from_fn(|_| AtomicU32::default()),
            data: std::array::from_fn(|_| Data::new(0)),
        };
        (0..COUNT as u32).rev().for_each(|number| things.push(number));
        Arc::new(things)
    }

    fn push(&self, number: u32) {
        self.free.push(number, &self.next[number as usize]);
    }

    /// Takes one, and writes it as its owner.
    fn pop(&self) -> Option<u32> {
        let number = self.free.pop(|number| &self.next[number as usize])?;
        self.data[number as usize].write(1);
        Some(number)
    }

    /// What is in the list now that nobody uses it must be all that nobody has taken.
    fn assert_whole(&self, taken: &[u32]) {
        let mut all: Vec<u32> = taken.iter().copied().chain(std::iter::from_fn(|| self.pop())).collect();
        all.sort_unstable();
        assert!(all.iter().copied().eq(0..COUNT as u32), "{all:?}");
    }
}

/// The number on top is the same again, but what is below it has gone.
#[test]
fn a_pop_that_was_overtaken_is_found_out() {
    explore(Seen::AsLate, 4, || {
        let things = Things::<3>::all_free();
        let slow = spawn(&things, |things| things.pop());
        let first = things.pop();
        let second = things.pop();
        first.iter().for_each(|&number| things.push(number));
        let taken: Vec<u32> = slow.join().unwrap().into_iter().chain(second).collect();
        things.assert_whole(&taken);
    });
}

#[test]
fn numbers_that_are_taken_and_given_back_are_all_there_at_the_end() {
    explore(Seen::AsLate, 3, || {
        let things = Things::<2>::all_free();
        let turn = |things: &Things<2>| {
            let taken = things.pop();
            taken.iter().for_each(|&number| things.push(number));
        };
        let others = [(); 2].map(|()| spawn(&things, turn));
        turn(&things);
        join(others);
        things.assert_whole(&[]);
    });
}

/// An inbox, and four things that are its links 1 to 4.
#[derive(Default)]
struct Letters {
    inbox: Inbox,
    cells: [AtomicU64; 4],
    data: [Option<Data>; 4],
}

impl Letters {
    fn new() -> Arc<Self> {
        Arc::new(Letters { data: std::array::from_fn(|_| Some(Data::new(0))), ..Letters::default() })
    }

    fn cell(&self, link: u64) -> &AtomicU64 {
        &self.cells[link as usize - 1]
    }

    fn data(&self, link: u64) -> &Data {
        self.data[link as usize - 1].as_ref().unwrap()
    }

    fn push(&self, link: u64) {
        self.data(link).write(link as u32);
        self.inbox.push_chain(link, self.cell(link));
    }

    /// Pushes two at once, of which `older` is to come first.
    fn push_two(&self, older: u64, newer: u64) {
        [older, newer].iter().for_each(|&link| self.data(link).write(link as u32));
        self.cell(newer).store(older, Ordering::Relaxed);
        self.inbox.push_chain(newer, self.cell(older));
    }

    /// Takes what there is, in the order in which it came.
    fn take(&self, taken: &mut Vec<u64>) {
        let mut link = in_order(self.inbox.take(), |link| self.cell(link));
        while link != 0 {
            assert_eq!(u64::from(self.data(link).read()), link);
            taken.push(link);
            link = self.cell(link).load(Ordering::Relaxed);
        }
    }
}

fn assert_all_once_and_in_order(mut taken: Vec<u64>) {
    let place = |link| taken.iter().position(|&other| other == link).unwrap();
    assert!(place(1) < place(2) && place(3) < place(4), "{taken:?}");
    taken.sort_unstable();
    assert_eq!(taken, [1, 2, 3, 4]);
}

#[test]
fn an_inbox_keeps_everything_and_the_order_of_each_pusher() {
    explore(Seen::AsLate, 3, || {
        let letters = Letters::new();
        let single = spawn(&letters, |letters| (1..=2).for_each(|link| letters.push(link)));
        let both = spawn(&letters, |letters| letters.push_two(3, 4));
        let mut taken = Vec::new();
        letters.take(&mut taken);
        letters.take(&mut taken);
        single.join().unwrap();
        both.join().unwrap();
        letters.take(&mut taken);
        assert_all_once_and_in_order(taken);
    });
}
