//! A model's queue: four priorities in, batches out to at most `lanes` runners at once.

use super::policy::{Decision, LEVELS, View, decide, urgency};
use crate::clock::now_ns;
use crate::config::BatchingConfig;
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait, wait_until};
use smallvec::SmallVec;
use std::collections::VecDeque;

/// What two requests must have in common to be joined: the sizes of all axes but the first.
pub type JoinKey = SmallVec<[i64; 8]>;

/// One queued piece of work.
pub struct Item<T> {
    pub work: T,
    pub rows: usize,
    /// `None`: runs alone.
    pub key: Option<JoinKey>,
    /// Priority, 0 to 3; higher goes first.
    pub level: usize,
    pub enqueued_ns: u64,
}

/// How far past unsuitable items a batch looks for suitable ones.
const SCAN: usize = 256;

pub struct Queue<T> {
    limits: BatchingConfig,
    lanes: usize,
    inner: Mutex<Inner<T>>,
    /// Something came, a runner is free again, or the queue was closed.
    changed: Condvar,
    /// Nothing is queued and nothing runs.
    drained: Condvar,
}

struct Inner<T> {
    levels: [VecDeque<Item<T>>; LEVELS],
    rows: usize,
    items: usize,
    running: usize,
    previous_rows: usize,
    /// The size at which items that nobody wants any more are thrown out.
    purge_at: usize,
    closed: bool,
}

const PURGE_AT: usize = 1024;

impl<T: Copy> Queue<T> {
    pub fn new(limits: BatchingConfig, lanes: usize) -> Self {
        let inner = Inner {
            levels: Default::default(),
            rows: 0,
            items: 0,
            running: 0,
            previous_rows: 0,
            purge_at: PURGE_AT,
            closed: false,
        };
        Queue { limits, lanes, inner: Mutex::new(inner), changed: Condvar::new(), drained: Condvar::new() }
    }

    /// Adds an item; gives the work back if the queue is closed. Items that are resolved while they wait are
    /// thrown out now and then, so that they cannot pile up behind a lane that is stuck; `is_live` tells.
    pub fn push(&self, item: Item<T>, is_live: impl Fn(T) -> bool) -> Result<(), T> {
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Err(item.work);
        }
        if inner.items >= inner.purge_at {
            inner.purge(is_live);
        }
        inner.rows += item.rows;
        inner.items += 1;
        inner.levels[item.level.min(LEVELS - 1)].push_back(item);
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    /// For a lane's thread: waits for a batch; `None` when the queue is closed and empty.
    /// Every batch must be followed by one `finished`.
    pub fn next(&self) -> Option<Vec<Item<T>>> {
        let mut inner = lock(&self.inner);
        let mut lane_was_idle = false;
        loop {
            if inner.items == 0 && inner.closed {
                return None;
            }
            if inner.items == 0 || inner.running >= self.lanes {
                lane_was_idle |= inner.items == 0;
                inner = wait(&self.changed, inner);
                continue;
            }
            let now = now_ns();
            let view = View {
                rows: inner.rows,
                oldest_ns: inner.oldest_ns(),
                lane_was_idle: lane_was_idle || inner.closed,
                previous_rows: inner.previous_rows,
            };
            match decide(&view, &self.limits, now) {
                Decision::Dispatch => return Some(self.take(inner, now)),
                Decision::WaitUntil(until) => inner = wait_until(&self.changed, inner, until),
            }
        }
    }

    /// For a host's thread: a batch if there is one and a runner is free. Must be followed by `finished`.
    pub fn try_next(&self) -> Option<Vec<Item<T>>> {
        let inner = lock(&self.inner);
        if inner.items == 0 || inner.running >= self.lanes {
            return None;
        }
        Some(self.take(inner, now_ns()))
    }

    /// For a caller that would run its own request: whether the model is idle, and if so a runner's place,
    /// to be given back with `finished`.
    pub fn try_enter(&self) -> bool {
        let mut inner = lock(&self.inner);
        let idle = inner.items == 0 && inner.running < self.lanes && !inner.closed;
        inner.running += usize::from(idle);
        idle
    }

    /// A batch is done.
    pub fn finished(&self) {
        let mut inner = lock(&self.inner);
        inner.running = inner.running.saturating_sub(1);
        let (waiting, idle, closed) = (inner.items > 0, inner.items == 0 && inner.running == 0, inner.closed);
        drop(inner);
        if closed {
            self.changed.notify_all(); // every lane is to see that it is over
        } else if waiting {
            self.changed.notify_one();
        }
        if idle {
            self.drained.notify_all();
        }
    }

    /// Takes nothing more in. What is queued is still given out.
    pub fn close(&self) {
        lock(&self.inner).closed = true;
        self.changed.notify_all();
    }

    /// Whether nothing is queued and nothing runs.
    pub fn is_drained(&self) -> bool {
        let inner = lock(&self.inner);
        inner.items == 0 && inner.running == 0
    }

    /// Waits until nothing is queued and nothing runs.
    pub fn wait_drained(&self) {
        let mut inner = lock(&self.inner);
        while inner.items > 0 || inner.running > 0 {
            inner = wait(&self.drained, inner);
        }
    }

    fn take(&self, mut inner: MutexGuard<'_, Inner<T>>, now: u64) -> Vec<Item<T>> {
        let batch = inner.take_batch(&self.limits, now);
        inner.running += 1;
        inner.previous_rows = batch.iter().map(|item| item.rows).sum();
        let more = inner.items > 0 && inner.running < self.lanes;
        drop(inner);
        if more {
            self.changed.notify_one();
        }
        batch
    }
}

impl<T: Copy> Inner<T> {
    fn oldest_ns(&self) -> u64 {
        self.levels.iter().filter_map(|level| level.front()).map(|item| item.enqueued_ns).min().unwrap_or(0)
    }

    fn purge(&mut self, is_live: impl Fn(T) -> bool) {
        self.levels.iter_mut().for_each(|level| level.retain(|item| is_live(item.work)));
        let left = || self.levels.iter().flatten();
        (self.items, self.rows) = (left().count(), left().map(|item| item.rows).sum());
        self.purge_at = PURGE_AT.max(2 * self.items);
    }

    /// The most urgent item, and with it every item that may join it, most urgent level first.
    fn take_batch(&mut self, limits: &BatchingConfig, now: u64) -> Vec<Item<T>> {
        let mut order: SmallVec<[(u64, usize); LEVELS]> = self
            .levels
            .iter()
            .enumerate()
            .filter_map(|(level, items)| {
                Some((urgency(level, items.front()?.enqueued_ns, limits, now), level))
            })
            .collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        let Some(first) = order.first().and_then(|&(_, level)| self.levels[level].pop_front()) else {
            return Vec::new();
        };
        let (mut rows, max_rows, key) = (first.rows, limits.max_rows as usize, first.key.clone());
        let mut batch = vec![first];
        if key.is_some() {
            for (_, level) in order {
                let (items, mut index) = (&mut self.levels[level], 0);
                while rows < max_rows && index < SCAN.min(items.len()) {
                    let item = &items[index];
                    if item.key == key
                        && rows + item.rows <= max_rows
                        && let Some(item) = items.remove(index)
                    {
                        rows += item.rows;
                        batch.push(item);
                    } else {
                        index += 1;
                    }
                }
            }
        }
        self.items -= batch.len();
        self.rows -= rows;
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn limits(max_rows: u32) -> BatchingConfig {
        BatchingConfig { max_rows, max_delay_us: 1000, priority_aging_ms: 1000 }
    }

    fn item(work: u32, rows: usize, key: Option<i64>, level: usize) -> Item<u32> {
        let key = key.map(|key| JoinKey::from_slice(&[key]));
        Item { work, rows, key, level, enqueued_ns: now_ns() }
    }

    fn works(batch: Vec<Item<u32>>) -> Vec<u32> {
        batch.into_iter().map(|item| item.work).collect()
    }

    #[test]
    fn items_of_one_key_are_joined_up_to_the_limit() {
        let queue = Queue::new(limits(4), 9);
        for (work, rows, key) in [(1, 2, 7), (2, 1, 8), (3, 1, 7), (4, 3, 7), (5, 1, 7)] {
            queue.push(item(work, rows, Some(key), 1), |_| true).unwrap();
        }
        assert_eq!(works(queue.try_next().unwrap()), [1, 3, 5]);
        assert_eq!(works(queue.try_next().unwrap()), [2]);
        assert_eq!(works(queue.try_next().unwrap()), [4]);
        assert!(queue.try_next().is_none());
    }

    #[test]
    fn items_without_a_key_run_alone_and_large_ones_too() {
        let queue = Queue::new(limits(4), 9);
        queue.push(item(1, 1, None, 1), |_| true).unwrap();
        queue.push(item(2, 1, None, 1), |_| true).unwrap();
        queue.push(item(3, 9, Some(1), 1), |_| true).unwrap();
        queue.push(item(4, 1, Some(1), 1), |_| true).unwrap();
        for want in [1, 2, 3, 4] {
            assert_eq!(works(queue.try_next().unwrap()), [want]);
        }
    }

    #[test]
    fn higher_levels_go_first_and_lower_ones_fill_up() {
        let queue = Queue::new(limits(2), 9);
        queue.push(item(1, 1, Some(1), 0), |_| true).unwrap();
        queue.push(item(2, 1, Some(1), 1), |_| true).unwrap();
        queue.push(item(3, 1, Some(1), 3), |_| true).unwrap();
        assert_eq!(works(queue.try_next().unwrap()), [3, 2]);
        assert_eq!(works(queue.try_next().unwrap()), [1]);
    }

    #[test]
    fn no_more_run_at_once_than_there_are_lanes() {
        let queue = Queue::new(limits(1), 1);
        queue.push(item(1, 1, None, 1), |_| true).unwrap();
        queue.push(item(2, 1, None, 1), |_| true).unwrap();
        assert!(queue.try_next().is_some());
        assert!(queue.try_next().is_none());
        assert!(!queue.try_enter());
        queue.finished();
        assert!(queue.try_next().is_some());
        queue.finished();
        assert!(queue.try_enter());
        queue.finished();
        assert!(queue.is_drained());
    }

    #[test]
    fn every_lane_of_a_closed_queue_ends() {
        let queue = Arc::new(Queue::new(limits(1), 2));
        assert!(queue.try_enter() && queue.try_enter());
        queue.push(item(1, 1, None, 1), |_| true).unwrap();
        let lane = |queue: &Arc<Queue<u32>>| {
            let queue = Arc::clone(queue);
            std::thread::spawn(move || {
                while queue.next().is_some() {
                    queue.finished();
                }
            })
        };
        let lanes = [lane(&queue), lane(&queue)];
        queue.close();
        queue.finished();
        while lock(&queue.inner).items > 0 {
            std::thread::yield_now();
        }
        queue.finished();
        lanes.into_iter().for_each(|lane| lane.join().unwrap());
    }

    #[test]
    fn a_closed_queue_gives_out_what_it_has_and_then_ends() {
        let queue = Arc::new(Queue::new(limits(1), 1));
        queue.push(item(1, 1, None, 1), |_| true).unwrap();
        queue.close();
        assert_eq!(queue.push(item(2, 1, None, 1), |_| true), Err(2));
        let lane = Arc::clone(&queue);
        let ran = std::thread::spawn(move || {
            let mut ran = Vec::new();
            while let Some(batch) = lane.next() {
                ran.extend(works(batch));
                lane.finished();
            }
            ran
        });
        queue.wait_drained();
        assert_eq!(ran.join().unwrap(), [1]);
    }

    #[test]
    fn what_nobody_wants_does_not_pile_up() {
        let queue = Queue::new(limits(4), 1);
        for work in 0..100_000 {
            queue.push(item(work, 2, Some(1), 1), |old| old + 10 > work).unwrap();
        }
        let inner = lock(&queue.inner);
        assert!(inner.items <= PURGE_AT && inner.rows == 2 * inner.items, "{} {}", inner.items, inner.rows);
    }
}
