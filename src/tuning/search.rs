//! One model's search: which settings to try next, by what was tried from here.

use super::{Bounds, Settings};
use crate::config::TuningLevel;

/// Delays to choose from, in microseconds.
const DELAYS: [u32; 8] = [0, 50, 100, 200, 500, 1_000, 2_000, 5_000];

/// What a level allows.
#[derive(Clone, Copy, Debug)]
pub struct Boldness {
    /// A step must pay so much more to be kept.
    pub gain: f64,
    /// The first factor by which rows change.
    pub factor: u32,
    /// How often a step is compared with what was before, at most.
    pub rounds: usize,
    /// Whether lanes change, and threads inside operators.
    pub lanes: bool,
    pub intra: bool,
}

impl Boldness {
    pub fn of(level: TuningLevel) -> Self {
        match level {
            TuningLevel::Conservative => {
                Boldness { gain: 0.06, factor: 2, rounds: 4, lanes: false, intra: false }
            }
            TuningLevel::Balanced => Boldness { gain: 0.04, factor: 2, rounds: 3, lanes: true, intra: true },
            TuningLevel::Aggressive => {
                Boldness { gain: 0.03, factor: 4, rounds: 2, lanes: true, intra: true }
            }
        }
    }
}

/// A direction to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    MoreLanes,
    MoreRows,
    /// More lanes with smaller batches: when all that is in flight is in one batch, nothing is left for another lane.
    Split,
    FewerRows,
    LessDelay,
    MoreDelay,
    FewerLanes,
    MoreThreads,
    FewerThreads,
}

const ALL: [Move; 9] = [
    Move::MoreRows,
    Move::MoreLanes,
    Move::Split,
    Move::FewerRows,
    Move::LessDelay,
    Move::MoreDelay,
    Move::FewerLanes,
    Move::MoreThreads,
    Move::FewerThreads,
];

impl Move {
    fn opposite(self) -> Option<Move> {
        match self {
            Move::MoreLanes => Some(Move::FewerLanes),
            Move::FewerLanes => Some(Move::MoreLanes),
            Move::MoreRows => Some(Move::FewerRows),
            Move::FewerRows => Some(Move::MoreRows),
            Move::LessDelay => Some(Move::MoreDelay),
            Move::MoreDelay => Some(Move::LessDelay),
            Move::MoreThreads => Some(Move::FewerThreads),
            Move::FewerThreads => Some(Move::MoreThreads),
            Move::Split => None,
        }
    }

    /// It gives the model more to work with.
    pub fn is_upward(self) -> bool {
        matches!(self, Move::MoreLanes | Move::MoreRows | Move::Split | Move::MoreThreads)
    }

    /// Its backend must be loaded again.
    pub fn is_costly(self) -> bool {
        matches!(self, Move::MoreThreads | Move::FewerThreads)
    }
}

/// What a search knows of how the model runs just now.
#[derive(Clone, Copy, Debug, Default)]
pub struct Hints {
    /// Rows in a batch, in the mean.
    pub batch_rows: f64,
    /// What a batch takes, in the mean.
    pub batch_ns: f64,
}

/// Threads inside operators are no use to batches that take less.
const WORTH_THREADS_NS: f64 = 200_000.0;

/// Where a search is.
#[derive(Clone, Debug)]
pub struct Search {
    /// The best settings so far.
    pub base: Settings,
    bounds: Bounds,
    boldness: Boldness,
    factor: u32,
    /// What did not pay from here.
    dead: Vec<Move>,
    /// What has paid last.
    last: Option<Move>,
    /// What matters most was tried twice from here: what is worth something may look as if it were not, once.
    again: bool,
}

impl Search {
    pub fn new(base: Settings, bounds: Bounds, boldness: Boldness) -> Self {
        Search { base, bounds, boldness, factor: boldness.factor, dead: Vec::new(), last: None, again: false }
    }

    /// Begins anew from these settings.
    pub fn restart(&mut self, base: Settings) {
        (self.base, self.factor, self.last, self.again) = (base, self.boldness.factor, None, false);
        self.dead.clear();
    }

    /// What to try next; `None`: all that there is was tried.
    pub fn next(&mut self, hints: &Hints) -> Option<(Move, Settings)> {
        // The host's limits first, whether or not that pays.
        let within = self.bounds.clamp(&self.base);
        if within != self.base {
            return Some((Move::FewerRows, within));
        }
        loop {
            let order = self.last.iter().copied().chain(ALL);
            for mv in order {
                if self.dead.contains(&mv) {
                    continue;
                }
                let to = self.to(mv, hints).filter(|to| *to != self.base && self.bounds.allow(to));
                match to {
                    Some(to) => return Some((mv, to)),
                    None => self.dead.push(mv),
                }
            }
            if self.factor <= 2 && self.again {
                return None;
            }
            // Once more, with smaller steps if there are.
            self.again = self.factor <= 2;
            self.factor = self.factor.min(2);
            let few = [Move::MoreLanes, Move::MoreRows, Move::FewerRows, Move::Split];
            self.dead.retain(|mv| !few.contains(mv));
        }
    }

    /// Whether settings are not the host's to have.
    pub fn is_outside(&self) -> bool {
        self.bounds.clamp(&self.base) != self.base
    }

    /// A step has paid.
    pub fn kept(&mut self, mv: Move, to: Settings) {
        (self.base, self.last, self.again) = (to, Some(mv), false);
        self.dead.clear();
        self.dead.extend(mv.opposite());
    }

    /// A step has not paid.
    pub fn reverted(&mut self, mv: Move) {
        self.dead.push(mv);
    }

    fn to(&self, mv: Move, hints: &Hints) -> Option<Settings> {
        let base = self.base;
        // Batches that do not fill up do not become smaller by being allowed less, until it is less than they are.
        let filled = (hints.batch_rows.ceil() as u32).clamp(1, base.max_rows).next_power_of_two();
        let filled = filled.min(base.max_rows);
        let clamp = |rows: u32| rows.clamp(self.bounds.max_rows[0], self.bounds.max_rows[1]);
        let (lanes, intra) = (self.boldness.lanes, self.boldness.intra);
        let to = match mv {
            Move::MoreLanes if lanes => {
                let more = (base.lanes * 2).min(self.bounds.lanes[1]);
                Settings { lanes: more, ..base }
            }
            Move::FewerLanes if lanes => {
                Settings { lanes: (base.lanes / 2).max(self.bounds.lanes[0]), ..base }
            }
            Move::Split if lanes => {
                let more = (base.lanes * 2).min(self.bounds.lanes[1]);
                Settings { lanes: more, max_rows: self.size(clamp(filled / 2), false), ..base }
            }
            // With batches that are half empty nothing waits for a place in them.
            Move::MoreRows if hints.batch_rows * 2.0 >= f64::from(base.max_rows) => {
                let rows = base.max_rows.saturating_mul(self.factor);
                Settings { max_rows: self.size(clamp(rows.max(2)), true), ..base }
            }
            Move::FewerRows => {
                Settings { max_rows: self.size(clamp((filled / self.factor).max(1)), false), ..base }
            }
            Move::LessDelay => {
                let [least, _] = self.bounds.max_delay_us;
                let mut shorter = DELAYS.iter().rev().copied().filter(|&delay| delay < base.max_delay_us);
                // The first step says whether waiting pays at all.
                let delay = if self.factor > 2 { Some(least) } else { shorter.next() };
                Settings { max_delay_us: delay?.max(least), ..base }
            }
            Move::MoreDelay => {
                let [_, most] = self.bounds.max_delay_us;
                let longer = DELAYS.iter().copied().find(|&delay| delay > base.max_delay_us)?;
                Settings { max_delay_us: longer.min(most), ..base }
            }
            Move::MoreThreads if intra && hints.batch_ns >= WORTH_THREADS_NS => {
                let threads = base.intra_op_threads * 2;
                let lanes = base.lanes.min((self.bounds.cores / threads).max(1)).max(self.bounds.lanes[0]);
                Settings { intra_op_threads: threads.min(self.bounds.intra_op_threads[1]), lanes, ..base }
            }
            Move::FewerThreads if intra => {
                let threads = (base.intra_op_threads / 2).max(self.bounds.intra_op_threads[0]);
                Settings { intra_op_threads: threads, ..base }
            }
            _ => return None,
        };
        Some(to)
    }

    /// A size that is possible, in this direction.
    fn size(&self, rows: u32, up: bool) -> u32 {
        let sizes = &self.bounds.sizes;
        if sizes.is_empty() {
            return rows;
        }
        let base = self.base.max_rows;
        let found = match up {
            true => sizes.iter().find(|&&size| size > base && size >= rows).or(sizes.last()),
            false => sizes.iter().rev().find(|&&size| size < base && size <= rows).or(sizes.first()),
        };
        found.copied().unwrap_or(base)
    }
}
