//! A model's queue: its lines, the batches that wait for a lane, and the lanes' sleep. Submitting takes no lock here;
//! lanes share one that they take once for each batch.

use super::line::{Line, OpenBatch};
use super::lines::Lines;
use super::table::Table;
use crate::clock::now_ns;
use crate::config::BatchingConfig;
use crate::scheduler::bell::Bell;
use crate::scheduler::gate::{Gate, Pass, Share};
use crate::scheduler::policy::{Costs, Decision, LEVELS, View, decide, urgency};
use crate::scheduler::spin::{Spinning, Waits};
use crate::scheduler::stack::{Inbox, in_order};
use crate::sync::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, lock, try_lock, wait,
};
use std::collections::VecDeque;
use std::sync::Arc;

/// Free batches that a line keeps when its model has nothing to do.
const KEPT: usize = 8;

/// After so long without work memory is given back.
const REST_NS: u64 = 1_000_000_000;
/// How long to remember how many requests came together.
const FORGET_NS: u64 = 2_000_000;

pub struct Queue {
    limits: BatchingConfig,
    lanes: u32,
    table: Arc<Table>,
    pub lines: Lines,
    /// Batches that were closed because they are full.
    full: Inbox,
    /// Those of them that lanes have seen, and not yet taken.
    backlog: AtomicUsize,
    /// Batches that run.
    running: AtomicU32,
    alarm: Arc<Alarm>,
    closed: AtomicBool,
    dispatch: Mutex<Dispatch>,
    /// Nothing is queued and nothing runs.
    drained: Condvar,
    /// Rows to expect after the latest batch.
    expected_rows: AtomicUsize,
    pub costs: Costs,
    pub share: Share,
    /// Batches that have waited at once since memory was last given back.
    most_backlog: AtomicU64,
}

/// What wakes the threads that serve a queue, or several.
#[derive(Default)]
pub struct Alarm {
    pub bell: Bell,
    /// Threads that are awake and look for work.
    looking: AtomicU32,
    waits: Waits,
}

impl Alarm {
    /// Says that this thread is awake and will see whatever comes, until it says `look_away`. Whoever submits then need
    /// not wake another.
    pub fn look(&self) {
        self.looking.fetch_add(1, Ordering::SeqCst);
    }

    /// The end of `look`. What has come and is not for this thread must be looked for after it.
    pub fn look_away(&self) {
        self.looking.fetch_sub(1, Ordering::SeqCst);
    }

    /// For a thread that looks: waits until `ready`, awake at first, and then asleep. After a second of sleep it gives
    /// back what `has_spare`.
    pub fn wait(
        &self,
        spinning: &Spinning,
        ready: impl Fn() -> bool,
        has_spare: impl FnOnce() -> bool,
        give_back: impl FnOnce(),
    ) {
        let since = now_ns();
        if !spinning.until(self.waits.spin_ns(spinning), &ready) {
            if has_spare() {
                self.sleep(now_ns() + REST_NS, &ready);
                if !ready() && now_ns() - since >= REST_NS {
                    give_back();
                    self.sleep(u64::MAX, ready);
                }
            } else {
                self.sleep(u64::MAX, ready);
            }
        }
        self.waits.record(now_ns() - since, spinning);
    }

    /// For a thread that looks: sleeps until `ready`, or rung for, or the clock reads `until_ns`.
    fn sleep(&self, until_ns: u64, ready: impl Fn() -> bool) {
        self.look_away();
        self.bell.sleep(until_ns, ready);
        self.look();
    }

    /// Wakes a thread, unless one is awake: those look again before they sleep, after they have said that they do not
    /// look any more.
    #[inline]
    pub fn ring(&self) {
        if !self.is_looking() {
            self.bell.ring();
        }
    }

    #[inline]
    fn is_looking(&self) -> bool {
        self.looking.load(Ordering::SeqCst) > 0
    }
}

/// What lanes share.
#[derive(Default)]
struct Dispatch {
    /// Full batches by level: index, and when their first member came.
    full: [VecDeque<(u32, u64)>; LEVELS],
    /// The open batch that was looked at last, its rows then, and when they changed last.
    watched: (u64, usize, u64),
}

/// The batch to run next.
enum Choice {
    Take(u32),
    WaitUntil(u64),
    Nothing,
}

impl Queue {
    pub fn new(
        limits: BatchingConfig,
        lanes: u32,
        table: &Arc<Table>,
        lines: Lines,
        alarm: Arc<Alarm>,
    ) -> Self {
        Queue {
            limits,
            lanes,
            table: Arc::clone(table),
            lines,
            full: Inbox::default(),
            backlog: AtomicUsize::new(0),
            running: AtomicU32::new(0),
            alarm,
            closed: AtomicBool::new(false),
            dispatch: Mutex::default(),
            drained: Condvar::new(),
            expected_rows: AtomicUsize::new(1),
            costs: Costs::default(),
            share: Share::default(),
            most_backlog: AtomicU64::new(0),
        }
    }

    /// For submitters: hands a full batch over. It must be followed by `announce`.
    pub fn push_full(&self, index: u32) {
        self.full.push_chain(u64::from(index) + 1, self.table.lane_link(index));
    }

    /// For submitters: says that something was written.
    #[inline]
    pub fn announce(&self) {
        // A lane that is computing looks for more when it is done. Mostly one is looking, which is one cache line to
        // find out.
        if !self.alarm.is_looking() && self.has_place() {
            self.alarm.bell.ring();
        }
    }

    /// Whether anything waits for a lane.
    fn has_work(&self) -> bool {
        !self.full.is_empty()
            || self.backlog.load(Ordering::SeqCst) > 0
            || self.lines.any(|line| line.has_members(&self.table))
    }

    fn has_place(&self) -> bool {
        self.running.load(Ordering::SeqCst) < self.lanes
    }

    /// Whether there is work, and a place to do it.
    pub fn is_ready(&self) -> bool {
        self.has_work() && self.has_place()
    }

    /// For a lane of its own: waits for a batch and a place to compute; `None` when the queue is closed and empty.
    /// Every batch must be followed by one `finished`.
    pub fn next<'a>(&'a self, gate: &'a Gate, spinning: &Spinning) -> Option<(u32, Pass<'a>)> {
        let closed = || self.closed.load(Ordering::SeqCst);
        self.alarm.look();
        loop {
            if self.is_ready() {
                if let Some(taken) = self.take(gate, spinning) {
                    self.alarm.look_away();
                    if self.is_ready() {
                        self.alarm.ring(); // another lane's
                    }
                    return Some(taken);
                }
            } else if closed() && !self.has_work() {
                // A batch that a submitter has closed and not yet handed over is no work for a moment; but when the
                // queue is closed there are no submitters.
                self.alarm.look_away();
                return None;
            } else {
                let since = now_ns();
                self.alarm.wait(
                    spinning,
                    || self.is_ready() || (closed() && !self.has_work()),
                    || self.has_spare(),
                    || self.give_back(),
                );
                self.forget(now_ns() - since);
            }
        }
    }

    /// For a thread that looks, and serves several queues: a batch and a place to compute, if there is one still. It must be
    /// followed by `finished`.
    pub fn take<'a>(&'a self, gate: &'a Gate, spinning: &Spinning) -> Option<(u32, Pass<'a>)> {
        let pass = gate.enter(&self.share, || self.has_work())?;
        Some((self.take_or_wait(spinning)?, pass))
    }

    /// After so long without work the next request is believed to be alone.
    pub fn forget(&self, waited_ns: u64) {
        if waited_ns > FORGET_NS {
            self.expected_rows.store(1, Ordering::Relaxed);
        }
    }

    /// Takes the best batch, and waits for it to fill up while that pays; `None` if there is none any more.
    fn take_or_wait(&self, spinning: &Spinning) -> Option<u32> {
        loop {
            let mut dispatch = lock(&self.dispatch);
            if !self.has_place() {
                return None;
            }
            let now = now_ns();
            let until = match self.choose(&mut dispatch, now, !self.closed.load(Ordering::SeqCst)) {
                Choice::Take(index) => return Some(self.taken(dispatch, index)),
                Choice::WaitUntil(until) => until,
                Choice::Nothing => return None,
            };
            let (word, rows, _) = dispatch.watched;
            drop(dispatch);
            if until.saturating_sub(now) > spinning.time_ns() {
                // Who has joined since it was looked at found nobody asleep to ring for.
                let changed = || {
                    let mut same = false;
                    self.lines.each(|line| {
                        line.each_open(&self.table, |open| same |= (open.word, open.rows) == (word, rows));
                    });
                    !same || !self.full.is_empty()
                };
                self.alarm.sleep(until, || changed() || self.closed.load(Ordering::SeqCst));
            } else {
                // Looking takes the cache lines from those who submit.
                (0..16).for_each(|_| crate::sync::spin_loop());
            }
        }
    }

    /// For a host's thread: a batch if there is one and a lane's place is free. Must be followed by `finished`.
    pub fn try_next(&self) -> Option<u32> {
        if !self.has_work() || !self.has_place() {
            return None;
        }
        let mut dispatch = lock(&self.dispatch);
        if !self.has_place() {
            return None;
        }
        match self.choose(&mut dispatch, now_ns(), false) {
            Choice::Take(index) => Some(self.taken(dispatch, index)),
            _ => None,
        }
    }

    fn taken(&self, dispatch: MutexGuard<'_, Dispatch>, index: u32) -> u32 {
        self.running.fetch_add(1, Ordering::SeqCst);
        drop(dispatch);
        index
    }

    /// For a caller that would run its own request: whether the model is idle, and if so a lane's place, to be given
    /// back with `finished`.
    pub fn try_enter(&self) -> bool {
        if self.has_work() || !self.has_place() {
            return false;
        }
        let Some(_dispatch) = try_lock(&self.dispatch) else { return false };
        let idle = !self.has_work() && self.has_place() && !self.closed.load(Ordering::SeqCst);
        if idle {
            self.running.fetch_add(1, Ordering::SeqCst);
        }
        idle
    }

    /// A batch of so many rows was run, and its events are not yet published: as many rows will come again, if clients
    /// send one request after the other, besides those that have come meanwhile.
    pub fn expect_again(&self, rows: usize) {
        let mut waiting = rows;
        self.lines.each(|line| line.each_open(&self.table, |open| waiting += open.rows));
        self.expected_rows.store(waiting, Ordering::Relaxed);
    }

    /// A batch is done.
    pub fn finished(&self) {
        self.running.fetch_sub(1, Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            self.alarm.bell.ring_all(); // every lane is to see that it is over
            let _dispatch = lock(&self.dispatch);
            self.drained.notify_all();
        } else if self.has_work() {
            self.announce();
        }
    }

    /// Takes nothing more in: nobody submits any more. What is queued is still given out.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.alarm.bell.ring_all();
    }

    /// Whether nothing is queued and nothing runs.
    pub fn is_drained(&self) -> bool {
        !self.has_work() && self.running.load(Ordering::SeqCst) == 0
    }

    /// Waits until nothing is queued and nothing runs. Only when closed.
    pub fn wait_drained(&self) {
        let mut dispatch = lock(&self.dispatch);
        while self.has_work() || self.running.load(Ordering::SeqCst) > 0 {
            dispatch = wait(&self.drained, dispatch);
        }
    }

    /// Whether more is kept than a model needs that has nothing to do.
    pub fn has_spare(&self) -> bool {
        self.most_backlog.load(Ordering::Relaxed) > KEPT as u64
    }

    /// Nothing to do: what was kept for a burst is given back.
    pub fn give_back(&self) {
        if self.most_backlog.swap(0, Ordering::Relaxed) > KEPT as u64 {
            self.lines.each(|line| line.trim(&self.table, KEPT));
        }
    }

    /// The most urgent batch. With `patient`, an open one may be left to fill up.
    fn choose(&self, dispatch: &mut Dispatch, now: u64, patient: bool) -> Choice {
        self.collect(dispatch);
        let urgency = |level: usize, oldest_ns: u64| urgency(level, oldest_ns, &self.limits, now);
        let full = dispatch.full.iter().enumerate().filter_map(|(level, batches)| {
            let &(index, oldest_ns) = batches.front()?;
            Some((urgency(level, oldest_ns), level, index))
        });
        let full = full.max_by_key(|&(urgency, ..)| urgency);
        let mut most_urgent: Option<(u64, &Line, OpenBatch)> = None;
        self.lines.each(|line| {
            line.each_open(&self.table, |open| {
                let urgency = urgency(open.level, open.oldest_ns);
                if most_urgent.is_none_or(|(most, ..)| urgency > most) {
                    most_urgent = Some((urgency, line, open));
                }
            });
        });
        if let Some((first, level, index)) = full
            && most_urgent.is_none_or(|(urgency, ..)| urgency <= first)
        {
            dispatch.full[level].pop_front();
            self.backlog.fetch_sub(1, Ordering::SeqCst);
            return Choice::Take(index);
        }
        let Some((_, line, open)) = most_urgent else { return Choice::Nothing };
        let OpenBatch { word, rows, oldest_ns, .. } = open;
        if dispatch.watched.0 != word || dispatch.watched.1 != rows {
            dispatch.watched = (word, rows, now);
        }
        if patient {
            let expected_rows = self.expected_rows.load(Ordering::Relaxed);
            let view = View { rows, oldest_ns, latest_ns: dispatch.watched.2, expected_rows };
            if let Decision::WaitUntil(until) = decide(&view, &self.limits, &self.costs, now) {
                return Choice::WaitUntil(until);
            }
        }
        match line.close(&self.table, open) {
            Some(index) => Choice::Take(index),
            // A submitter has just filled it: it is in the inbox, or about to be.
            None => Choice::WaitUntil(now),
        }
    }

    /// Sorts full batches by level.
    fn collect(&self, dispatch: &mut Dispatch) {
        let mut link = in_order(self.full.take(), |link| self.table.lane_link((link - 1) as u32));
        while link != 0 {
            let index = (link - 1) as u32;
            link = self.table.lane_link(index).load(Ordering::Relaxed);
            let (level, oldest_ns) = self.table.queued(index);
            dispatch.full[level].push_back((index, oldest_ns));
            let backlog = self.backlog.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_backlog.fetch_max(backlog as u64, Ordering::Relaxed);
        }
    }
}
