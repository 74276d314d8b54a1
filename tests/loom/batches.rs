//! The open batch: who joins it, who closes it, who resolves its members, and who frees it.

use crate::roster::{Claim, Claims, Counts, Held, Life, Marks};
use crate::stack::{FreeList, Inbox};
use crate::sync::{AtomicU32, AtomicU64, Ordering, Seen, explore};
use crate::{Data, join, spawn};
use loom::sync::Arc;

/// Asserts that these claims and closers have seen one and the same batch: places that touch and do not overlap, and
/// counts that are theirs. `refused` are the rows of claimers that had no room.
fn assert_one_batch(claims: &[(usize, Claim)], closed: Option<Counts>) {
    let mut places = Vec::new();
    let mut closers: Vec<Counts> = closed.into_iter().collect();
    for &(rows, claim) in claims {
        match claim {
            Claim::Place { member, first_row, closed } => {
                places.push((member, first_row, rows));
                closers.extend(closed);
            }
            Claim::Closed(counts) => closers.push(counts),
            Claim::Gone => (),
        }
    }
    places.sort_unstable();
    let mut next_row = 0;
    for (number, &(member, first_row, rows)) in places.iter().enumerate() {
        assert_eq!((member, first_row), (number, next_row));
        next_row += rows;
    }
    assert_eq!(closers, [Counts { members: places.len(), rows: next_row }]);
}

fn opened(lap: u32) -> Arc<Claims> {
    let claims = Claims::default();
    claims.open(lap);
    Arc::new(claims)
}

#[test]
fn places_are_disjoint_and_one_closes() {
    explore(Seen::AsLate, 3, || {
        let claims = opened(7);
        let claimers = [1, 2].map(|rows| spawn(&claims, move |claims| (rows, claims.claim(7, rows, 4, 4))));
        let own = (3, claims.claim(7, 3, 4, 4));
        let closed = claims.close(7);
        let [first, second] = claimers.map(|claimer| claimer.join().unwrap());
        // Those that were refused for want of room closed it, so that there is always somebody who did.
        assert_one_batch(&[first, second, own], closed);
        assert_eq!(claims.claim(7, 1, 4, 4), Claim::Gone);
        assert_eq!(claims.close(7), None);
        assert_eq!(claims.peek(7), None);
    });
}

/// Three who want one row each of a batch for two: one of them closes it, by filling it up.
#[test]
fn a_batch_that_is_full_is_closed_by_the_member_that_filled_it() {
    explore(Seen::AsLate, 3, || {
        let claims = opened(7);
        let claimers = [(); 2].map(|()| spawn(&claims, |claims| (1, claims.claim(7, 1, 8, 2))));
        let own = (1, claims.claim(7, 1, 8, 2));
        let [first, second] = claimers.map(|claimer| claimer.join().unwrap());
        let all = [first, second, own];
        assert_one_batch(&all, None);
        assert_eq!(all.iter().filter(|(_, claim)| *claim == Claim::Gone).count(), 1);
    });
}

/// The lane closes it and opens it for another lap; whoever comes late does not get into that by mistake.
#[test]
fn a_late_claimer_does_not_get_into_another_lap() {
    explore(Seen::AsLate, 3, || {
        let claims = opened(7);
        let late = spawn(&claims, |claims| (1, claims.claim(7, 1, 4, 4)));
        let closing = spawn(&claims, |claims| claims.close(7));
        let own = (2, claims.claim(7, 2, 4, 4));
        let mut closed = claims.close(7);
        let other = closing.join().unwrap();
        assert!(closed.is_none() || other.is_none());
        closed = closed.or(other);
        claims.open(8);
        let next = (3, claims.claim(8, 3, 4, 4));
        let late = late.join().unwrap();
        assert_one_batch(&[late, own], closed);
        assert_one_batch(&[next], claims.close(8));
    });
}

#[test]
fn an_empty_batch_is_retired_or_joined_but_not_both() {
    explore(Seen::AsLate, 4, || {
        let claims = opened(7);
        let claimer = spawn(&claims, |claims| claims.claim(7, 1, 4, 4));
        let retired = claims.close_empty(7);
        assert_eq!(claimer.join().unwrap() == Claim::Gone, retired);
    });
}

const OPEN_HOLDS: u32 = 1 << 16;
const LAP: u32 = 5;

/// A batch as in `engine`: members write their part, the lane reads all of them, and the last one out has it alone.
struct Batch {
    max_members: usize,
    claims: Claims,
    written: Marks,
    life: Life,
    parts: [Data; 2],
    full: Inbox,
    link: AtomicU64,
    freed: AtomicU32,
}

impl Batch {
    fn open(max_members: usize) -> Arc<Self> {
        let batch = Batch {
            max_members,
            claims: Claims::default(),
            written: Marks::new(2),
            life: Life::new(LAP - 1),
            parts: [Data::new(0), Data::new(0)],
            full: Inbox::default(),
            link: AtomicU64::new(0),
            freed: AtomicU32::new(0),
        };
        batch.claims.open(LAP);
        batch.life.begin(LAP, OPEN_HOLDS);
        Arc::new(batch)
    }

    /// As `Table::let_go`.
    fn let_go(&self, holds: u32) {
        if self.life.let_go(holds) {
            self.parts.iter().for_each(|part| part.write(0));
            assert_eq!(self.freed.fetch_add(1, Ordering::Relaxed), 0);
        }
    }

    fn settle_holds(&self, counts: Counts) {
        self.let_go(OPEN_HOLDS - counts.members as u32 - 1);
    }

    /// As `Line::join` and `submit`; returns whether there was a place.
    fn join(&self) -> bool {
        match self.claims.claim(LAP, 1, 8, self.max_members) {
            Claim::Place { member, closed, .. } => {
                if let Some(counts) = closed {
                    self.settle_holds(counts);
                    self.full.push_chain(1, &self.link);
                }
                self.parts[member].write(member as u32 + 1);
                self.written.set(member);
                self.let_go(1); // without waiting for the event: the lane has a hold of its own
                true
            }
            Claim::Closed(_) => panic!("one row always fits"),
            Claim::Gone => false,
        }
    }

    /// As `Queue::choose` and `execute`, once somebody has joined; returns how many had.
    fn run(&self) -> usize {
        while self.full.take() == 0 {
            if let Some(counts) = self.claims.close(LAP) {
                self.settle_holds(counts);
                break;
            }
            loom::thread::yield_now();
        }
        let members = self.claims.counts().members;
        while !self.written.all_set(members) {
            loom::thread::yield_now();
        }
        for member in 0..members {
            assert_eq!(self.parts[member].read(), member as u32 + 1);
        }
        self.let_go(1);
        members
    }
}

fn the_lane_reads_what_members_have_written(max_members: usize) {
    explore(Seen::AsLate, 3, move || {
        let batch = Batch::open(max_members);
        let joiners = [(); 2].map(|()| spawn(&batch, Batch::join));
        let members = batch.run();
        let joined = joiners.map(|joiner| joiner.join().unwrap());
        assert_eq!(joined.iter().filter(|joined| **joined).count(), members);
        assert_eq!(batch.freed.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn the_lane_reads_what_members_have_written_and_closes_itself() {
    the_lane_reads_what_members_have_written(4);
}

#[test]
fn the_lane_reads_what_members_have_written_of_a_batch_that_they_fill() {
    the_lane_reads_what_members_have_written(2);
}

#[test]
fn the_lane_reads_what_one_member_has_written_and_the_other_finds_no_room() {
    the_lane_reads_what_members_have_written(1);
}

/// Members and who has resolved them: 1 and 2 for those who cancel, 3 for the lane.
struct Resolution {
    resolved: Marks,
    by: [Data; 2],
}

impl Resolution {
    fn cancel(&self, member: usize, by: u32) {
        if self.resolved.set(member) {
            assert_eq!(self.by[member].read(), 0);
            self.by[member].write(by);
        }
    }
}

#[test]
fn each_member_is_resolved_by_one() {
    explore(Seen::AsLate, 4, || {
        let by = [Data::new(0), Data::new(0)];
        let resolution = Arc::new(Resolution { resolved: Marks::new(2), by });
        let first = spawn(&resolution, |resolution| resolution.cancel(0, 1));
        let second =
            spawn(&resolution, |resolution| [1, 0].iter().for_each(|&member| resolution.cancel(member, 2)));
        resolution.resolved.set_rest(
            2,
            |_| 0,
            |_, bits| {
                for member in (0..2).filter(|member| bits & 1 << member != 0) {
                    assert_eq!(resolution.by[member].read(), 0);
                    resolution.by[member].write(3);
                }
            },
        );
        join([first, second]);
        assert!(resolution.resolved.all_set(2));
        assert!(resolution.by.iter().all(|by| by.read() != 0));
    });
}

#[test]
fn what_the_host_holds_is_released_once() {
    explore(Seen::AsLate, 4, || {
        let held = Held::default();
        held.set(0);
        held.set(1);
        let held = Arc::new(held);
        let others = [(); 2].map(|()| spawn(&held, |held| held.unset(0)));
        assert!(held.unset(1));
        let [first, second] = others.map(|other| other.join().unwrap());
        assert!(first != second);
        assert!(!held.is_set(0) && !held.is_set(1));
    });
}

/// A batch that is used for one generation after the other; its data is the generation.
struct Laps {
    life: Life,
    generation: Data,
    free: FreeList,
    next: AtomicU32,
}

impl Laps {
    fn begun() -> Arc<Self> {
        let laps = Laps {
            life: Life::new(0),
            generation: Data::new(0),
            free: FreeList::default(),
            next: AtomicU32::new(0),
        };
        laps.free.push(0, &laps.next);
        laps.begin(1, 2);
        Arc::new(laps)
    }

    /// As `Line::take` and `Table::begin`; false if it is not free.
    fn begin(&self, generation: u32, holds: u32) -> bool {
        let free = self.free.pop(|_| &self.next).is_some();
        if free {
            self.generation.write(generation);
            self.life.begin(generation, holds);
        }
        free
    }

    /// As `Table::let_go`.
    fn let_go(&self, holds: u32) {
        if self.life.let_go(holds) {
            self.generation.write(0);
            self.free.push(0, &self.next);
        }
    }

    /// As `Table::pin`: looks at it while it is held.
    fn look(&self, generation: Option<u32>) {
        if let Some(held) = self.life.hold(generation) {
            assert!(generation.is_none_or(|wanted| wanted == held));
            assert!(self.life.is_held(held));
            assert_eq!(self.generation.read(), held);
            self.let_go(1);
        }
    }

    fn assert_free_once(&self) {
        assert!(self.begin(9, 1));
        assert!(!self.begin(9, 1));
    }
}

#[test]
fn a_pin_is_got_in_its_generation_only() {
    explore(Seen::AsLate, 3, || {
        let laps = Laps::begun();
        let late = spawn(&laps, |laps| laps.look(Some(1)));
        let holder = spawn(&laps, |laps| laps.let_go(1));
        laps.let_go(1);
        if laps.begin(2, 1) {
            laps.look(Some(2));
            laps.look(Some(1));
            laps.let_go(1);
        }
        join([late, holder]);
        laps.assert_free_once();
    });
}

#[test]
fn whoever_looks_at_all_batches_holds_them_meanwhile() {
    explore(Seen::AsLate, 3, || {
        let laps = Laps::begun();
        let keeper = spawn(&laps, |laps| laps.look(None));
        let other = spawn(&laps, |laps| laps.look(Some(2)));
        laps.let_go(2);
        if laps.begin(2, 2) {
            laps.let_go(2);
        }
        join([keeper, other]);
        laps.assert_free_once();
    });
}
