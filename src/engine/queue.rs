//! A model's queue: its lines, the batches that wait for a lane, and the lanes' sleep. Submitting takes no lock here;
//! lanes share one that they take once for each batch.

use super::line::{Line, OpenBatch};
use super::lines::Lines;
use super::table::Table;
use crate::backend::Devices;
use crate::clock::now_ns;
use crate::config::BatchingConfig;
use crate::memory::Pool;
use crate::scheduler::bell::Bell;
use crate::scheduler::gate::{Gate, Pass, Share};
use crate::scheduler::policy::{Costs, Decision, LEVELS, Limits, View, decide, urgency};
use crate::scheduler::spin::{Spinning, Waits};
use crate::stack::{Inbox, in_order};
use crate::sync::{
    AtomicBool, AtomicU32, AtomicUsize, Condvar, Mutex, MutexGuard, Ordering, lock, try_lock, wait,
};
use std::collections::VecDeque;
use std::sync::Arc;

/// Free batches that the usual line keeps when its model has nothing to do, unless they are large.
const KEPT: u64 = 8;
/// So many bytes of them.
const KEPT_BYTES: u64 = 1 << 20;

/// How long to remember how many requests came together.
const FORGET_NS: u64 = 2_000_000;

/// Among the batches that run: the model cannot run any, because its backend is not in memory.
const AWAY: u32 = 1 << 31;

pub struct Queue {
    max_delay_us: AtomicU32,
    priority_aging_ms: u32,
    lanes: AtomicU32,
    table: Arc<Table>,
    pub lines: Lines,
    /// Batches that were closed because they are full.
    full: Inbox,
    /// Those of them that lanes have seen, and not yet taken.
    backlog: AtomicUsize,
    /// Batches that run, and `AWAY`.
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
    /// Batches were run since memory was last given back.
    used: AtomicBool,
}

/// What wakes the threads that serve a queue, or several.
#[derive(Default)]
pub struct Alarm {
    pub bell: Bell,
    /// Threads that are awake and look for work.
    looking: AtomicU32,
    waits: Waits,
    /// One sleeps only for so long, to give memory back then.
    resting: AtomicBool,
}

/// What an engine does when it has nothing to do: it gives memory back.
pub struct Rest<'a> {
    pub pool: &'a Pool,
    pub devices: &'a Devices,
    /// After so long.
    pub after_ns: u64,
}

impl Rest<'_> {
    /// Whether there is anything to give back.
    pub fn has_spare(&self) -> bool {
        self.pool.idle_bytes() > 0 || self.devices.has_spare()
    }

    pub fn give_back(&self) {
        self.pool.trim_older(now_ns(), self.after_ns);
        self.devices.trim_older(now_ns(), self.after_ns);
    }
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

    /// For a thread that looks: waits until `ready`, awake at first, and then asleep. When it has slept for a while, and
    /// whenever it has for another, it gives back what `has_spare`.
    pub fn wait(
        &self,
        spinning: &Spinning,
        rest: &Rest<'_>,
        ready: impl Fn() -> bool,
        has_spare: impl Fn() -> bool,
        give_back: impl Fn(),
    ) {
        let since = now_ns();
        if !spinning.until(self.waits.spin_ns(spinning), &ready) {
            while !ready() {
                // Before the look: whoever leaves something from here on rings.
                self.resting.store(false, Ordering::SeqCst);
                let spare = has_spare() || rest.has_spare();
                self.resting.store(spare, Ordering::SeqCst);
                if !spare {
                    self.sleep(u64::MAX, &ready);
                    continue;
                }
                let until = now_ns() + rest.after_ns;
                self.sleep(until, &ready);
                if now_ns() >= until && !ready() {
                    give_back();
                    rest.give_back();
                }
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
        batching: &BatchingConfig,
        lanes: u32,
        table: &Arc<Table>,
        lines: Lines,
        alarm: Arc<Alarm>,
    ) -> Self {
        Queue {
            max_delay_us: AtomicU32::new(batching.max_delay_us),
            priority_aging_ms: batching.priority_aging_ms,
            lanes: AtomicU32::new(lanes),
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
            used: AtomicBool::new(false),
        }
    }

    /// The most rows in one batch.
    pub fn max_rows(&self) -> usize {
        self.lines.max_rows()
    }

    /// The longest that a batch waits for more rows.
    pub fn max_delay_us(&self) -> u32 {
        self.max_delay_us.load(Ordering::Relaxed)
    }

    /// Batches that may be computed at once.
    pub fn lanes(&self) -> u32 {
        self.lanes.load(Ordering::SeqCst)
    }

    /// Changes how requests are joined and run, from the next batch on.
    pub fn set(&self, max_rows: usize, max_delay_us: u32, lanes: u32) {
        self.lines.set_max_rows(max_rows);
        self.max_delay_us.store(max_delay_us, Ordering::Relaxed);
        self.lanes.store(lanes, Ordering::SeqCst);
        // Who waits for rows, or for a lane, looks again.
        self.alarm.bell.ring_all();
    }

    fn limits(&self) -> Limits {
        let (max_rows, max_delay_us) = (self.max_rows(), self.max_delay_us());
        Limits { max_rows, max_delay_us, priority_aging_ms: self.priority_aging_ms }
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
    pub fn has_work(&self) -> bool {
        !self.full.is_empty()
            || self.backlog.load(Ordering::SeqCst) > 0
            || self.lines.any(|line| line.has_members(&self.table))
    }

    /// Batches that wait, run and fill.
    pub fn load(&self) -> f32 {
        let running = self.running.load(Ordering::Relaxed) & !AWAY;
        let mut batches =
            running as usize + self.backlog.load(Ordering::Relaxed) + usize::from(!self.full.is_empty());
        let mut rows = 0;
        self.lines.each(|line| line.each_open(&self.table, |open| rows += open.rows));
        let most = self.max_rows().max(1);
        batches += rows / most;
        batches as f32 + (rows % most) as f32 / most as f32
    }

    fn has_place(&self) -> bool {
        self.running.load(Ordering::SeqCst) < self.lanes()
    }

    /// Whether there is work, and a place to do it.
    pub fn is_ready(&self) -> bool {
        self.has_work() && self.has_place()
    }

    /// For a lane of its own: waits for a batch and a place to compute; `None` when the queue is closed and empty.
    /// Every batch must be followed by one `finished`.
    pub fn next<'a>(
        &'a self,
        gate: &'a Gate,
        spinning: &Spinning,
        rest: &Rest<'_>,
    ) -> Option<(u32, Pass<'a>)> {
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
                    rest,
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

    /// For the one thread that serves this queue, between batches: sleeps until `ready`, or until its alarm's bell is rung.
    pub fn sleep(&self, ready: impl Fn() -> bool) {
        self.alarm.bell.sleep(u64::MAX, ready);
    }

    /// Takes the best batch, and waits for it to fill up while that pays; `None` if there is none any more.
    fn take_or_wait(&self, spinning: &Spinning) -> Option<u32> {
        let mut held_since = 0;
        loop {
            let mut dispatch = lock(&self.dispatch);
            if !self.has_place() {
                return None;
            }
            let now = now_ns();
            let until = match self.choose(&mut dispatch, now, !self.closed.load(Ordering::SeqCst)) {
                Choice::Take(index) => {
                    if held_since != 0 {
                        if let Some(counted) = self.lines.traffic().times() {
                            counted.held.record(now - held_since);
                        }
                        self.table.note_held(index, held_since);
                    }
                    return Some(self.taken(dispatch, index));
                }
                Choice::WaitUntil(until) => until,
                Choice::Nothing => return None,
            };
            if held_since == 0 && until > now {
                held_since = now;
            }
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
        self.used.store(true, Ordering::Relaxed);
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

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Whether nothing is queued and nothing runs.
    pub fn is_drained(&self) -> bool {
        !self.has_work() && !self.is_running()
    }

    fn is_running(&self) -> bool {
        self.running.load(Ordering::SeqCst) & !AWAY > 0
    }

    /// Gives out no more batches until `come_back`, because the model is about to leave memory; false if one runs or
    /// waits, unless it is to leave all the same. Those that run then end first: see `wait_idle`.
    pub fn leave(&self, though_wanted: bool) -> bool {
        let _dispatch = lock(&self.dispatch);
        let running = self.running.load(Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) || running & AWAY != 0 {
            return false;
        }
        if !though_wanted && (running > 0 || self.has_work()) {
            return false;
        }
        self.running.fetch_or(AWAY, Ordering::SeqCst);
        true
    }

    /// After `leave`: waits until no batch runs, at most until the clock reads `until_ns`; whether that is so.
    pub fn wait_idle(&self, until_ns: u64) -> bool {
        while self.is_running() {
            if now_ns() >= until_ns {
                return false;
            }
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
        true
    }

    /// The end of `leave`.
    pub fn come_back(&self) {
        self.running.fetch_and(!AWAY, Ordering::SeqCst);
        if self.has_work() {
            self.alarm.ring();
        }
    }

    /// A batch of a model that is away, for who tells its requests that it does not come back. Must be followed by
    /// `finished`.
    pub fn take_in_vain(&self) -> Option<u32> {
        let mut dispatch = lock(&self.dispatch);
        loop {
            match self.choose(&mut dispatch, now_ns(), false) {
                Choice::Take(index) => return Some(self.taken(dispatch, index)),
                Choice::WaitUntil(_) => crate::sync::spin_loop(),
                Choice::Nothing => return None,
            }
        }
    }

    /// Waits until nothing is queued and nothing runs. Only when closed.
    pub fn wait_drained(&self) {
        let mut dispatch = lock(&self.dispatch);
        while self.has_work() || self.is_running() {
            dispatch = wait(&self.drained, dispatch);
        }
    }

    /// For threads of the host's that have run something: sees to it that somebody gives back what that has left.
    #[inline]
    pub fn see_to_rest(&self, rest: &Rest<'_>) {
        if !self.alarm.resting.load(Ordering::SeqCst) && (self.has_spare() || rest.has_spare()) {
            self.alarm.bell.ring();
        }
    }

    /// Whether more may be kept than a model needs that has nothing to do.
    pub fn has_spare(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Nothing to do: batches that were kept for more of the same are given back, but for a few of the usual line.
    pub fn give_back(&self) {
        if self.used.swap(false, Ordering::Relaxed) {
            let usual = self.lines.usual();
            self.lines.each(|line| {
                let is_usual = usual.is_some_and(|usual| Arc::ptr_eq(usual, line));
                let most = (KEPT_BYTES / line.memory_bytes().max(1)).clamp(1, KEPT) as usize;
                line.trim(&self.table, if is_usual { most } else { 0 });
            });
        }
    }

    /// Others need the room: every free batch is given back.
    pub fn give_all_back(&self) {
        self.lines.each(|line| line.trim(&self.table, 0));
    }

    /// The most urgent batch. With `patient`, an open one may be left to fill up.
    fn choose(&self, dispatch: &mut Dispatch, now: u64, patient: bool) -> Choice {
        self.collect(dispatch);
        let limits = self.limits();
        let urgency = |level: usize, oldest_ns: u64| urgency(level, oldest_ns, &limits, now);
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
            if let Decision::WaitUntil(until) = decide(&view, &limits, &self.costs, now) {
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
            self.backlog.fetch_add(1, Ordering::SeqCst);
        }
    }
}
