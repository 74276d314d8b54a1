//! A completion queue: where events wait for the host, with room for each reserved before it can come.

use super::event::Event;
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::platform::ReadyFd;
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait_until};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Events of many requests, for one consumer at a time.
pub struct CompletionQueue {
    capacity: u32,
    /// Events promised or waiting: accepted requests reserve before they are queued.
    reserved: AtomicU32,
    inner: Mutex<Inner>,
    arrived: Condvar,
    /// A consumer is inside; a second one gets nothing.
    consuming: AtomicBool,
}

struct Inner {
    events: VecDeque<Event>,
    /// Consumers asleep in `wait`.
    sleeping: u32,
    /// No request will be added: waiting is pointless once nothing is outstanding.
    closed: bool,
    ready: Option<ReadyFd>,
}

impl CompletionQueue {
    /// The largest capacity, in events.
    pub const MAX_CAPACITY: u32 = 1 << 24;

    pub fn new(capacity: u32) -> Self {
        CompletionQueue {
            capacity,
            reserved: AtomicU32::new(0),
            inner: Mutex::new(Inner { events: VecDeque::new(), sleeping: 0, closed: false, ready: None }),
            arrived: Condvar::new(),
            consuming: AtomicBool::new(false),
        }
    }

    /// Makes room for `count` events, or says that the queue is full.
    pub fn reserve(&self, count: u32) -> Result<()> {
        let take = |reserved: u32| reserved.checked_add(count).filter(|&total| total <= self.capacity);
        self.reserved.fetch_update(Ordering::AcqRel, Ordering::Relaxed, take).map(|_| ()).map_err(
            |reserved| {
                Error::new(
                    Status::QueueFull,
                    format!(
                        "the completion queue has room for {} events and {reserved} are outstanding: poll it",
                        self.capacity
                    ),
                )
            },
        )
    }

    /// Gives reserved room back.
    pub fn unreserve(&self, count: u32) {
        self.reserved.fetch_sub(count, Ordering::AcqRel);
    }

    /// Events promised or waiting.
    pub fn outstanding(&self) -> u32 {
        self.reserved.load(Ordering::Acquire)
    }

    /// Adds events, for which room was reserved, and wakes the consumer once.
    pub fn publish(&self, events: impl IntoIterator<Item = Event>) {
        let mut inner = lock(&self.inner);
        inner.events.extend(events);
        if let Some(ready) = &mut inner.ready {
            ready.set();
        }
        let wake = inner.sleeping > 0;
        drop(inner);
        if wake {
            self.arrived.notify_one();
        }
    }

    /// Becomes the consumer; `None` if there is one already.
    pub fn enter(&self) -> Option<Consumer<'_>> {
        (!self.consuming.swap(true, Ordering::Acquire)).then(|| Consumer { queue: self })
    }

    /// Says that no request will be added, so that nobody waits for what cannot come.
    pub fn close(&self) {
        lock(&self.inner).closed = true;
        self.arrived.notify_all();
    }

    /// Whether nothing is there and nothing will come.
    pub fn is_over(&self) -> bool {
        lock(&self.inner).closed && self.outstanding() == 0
    }

    /// A descriptor that is readable while events wait.
    pub fn ready_fd(&self) -> Result<i32> {
        let mut inner = lock(&self.inner);
        let waiting = !inner.events.is_empty();
        let ready = match &mut inner.ready {
            Some(ready) => ready,
            empty => empty.insert(ReadyFd::new()?),
        };
        if waiting {
            ready.set();
        }
        Ok(ready.number())
    }
}

/// The right to take events, which one at a time has.
pub struct Consumer<'a> {
    queue: &'a CompletionQueue,
}

impl Consumer<'_> {
    /// Takes up to `limit` events without waiting.
    pub fn poll(&self, limit: usize, take: impl FnMut(Event)) -> usize {
        self.deliver(lock(&self.queue.inner), limit, take)
    }

    /// Takes up to `limit` events; waits until there is one or the clock reads `until_ns`, or until the queue is
    /// closed and nothing is outstanding.
    pub fn wait(&self, limit: usize, until_ns: u64, take: impl FnMut(Event)) -> usize {
        let mut inner = lock(&self.queue.inner);
        while inner.events.is_empty()
            && !(inner.closed && self.queue.outstanding() == 0)
            && (until_ns == u64::MAX || now_ns() < until_ns)
        {
            inner.sleeping += 1;
            inner = wait_until(&self.queue.arrived, inner, until_ns);
            inner.sleeping -= 1;
        }
        self.deliver(inner, limit, take)
    }

    fn deliver(&self, mut inner: MutexGuard<'_, Inner>, limit: usize, take: impl FnMut(Event)) -> usize {
        let count = limit.min(inner.events.len());
        let events: smallvec::SmallVec<[Event; 8]> = inner.events.drain(..count).collect();
        if inner.events.is_empty()
            && let Some(ready) = &mut inner.ready
        {
            ready.clear();
        }
        drop(inner);
        events.into_iter().for_each(take);
        self.queue.unreserve(count as u32);
        count
    }
}

impl Drop for Consumer<'_> {
    fn drop(&mut self) {
        self.queue.consuming.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::event::{EventFlags, EventKind, Timing};
    use std::sync::Arc;

    fn event(user_data: u64) -> Event {
        Event {
            kind: EventKind::Done,
            status: Status::Ok,
            flags: EventFlags::default(),
            ticket: 1,
            user_data,
            model: 1,
            timing: Timing::default(),
            outputs_count: 0,
            payload: None,
        }
    }

    fn taken(queue: &CompletionQueue, limit: usize) -> Vec<u64> {
        let mut taken = Vec::new();
        queue.enter().unwrap().poll(limit, |event| taken.push(event.user_data));
        taken
    }

    #[test]
    fn room_is_reserved_before_and_freed_after() {
        let queue = CompletionQueue::new(3);
        queue.reserve(2).unwrap();
        assert_eq!(queue.reserve(2).unwrap_err().status, Status::QueueFull);
        queue.reserve(1).unwrap();
        queue.publish([event(1), event(2), event(3)]);
        assert_eq!(taken(&queue, 2), [1, 2]);
        assert_eq!(queue.outstanding(), 1);
        assert_eq!(taken(&queue, 2), [3]);
        assert_eq!((taken(&queue, 2).len(), queue.outstanding()), (0, 0));
    }

    #[test]
    fn a_waiting_consumer_is_woken_and_a_second_one_gets_nothing() {
        let queue = Arc::new(CompletionQueue::new(3));
        queue.reserve(1).unwrap();
        let consumer = Arc::clone(&queue);
        let thread = std::thread::spawn(move || {
            let mut taken = Vec::new();
            consumer.enter().unwrap().wait(8, u64::MAX, |event| taken.push(event.user_data));
            taken
        });
        while lock(&queue.inner).sleeping == 0 {
            std::thread::yield_now();
        }
        for _ in 0..2 {
            assert!(queue.enter().is_none()); // also the second time
            assert!(queue.consuming.load(Ordering::Relaxed));
        }
        queue.publish([event(7)]);
        assert_eq!(thread.join().unwrap(), [7]);
    }

    #[test]
    fn waiting_ends_at_its_time() {
        let queue = CompletionQueue::new(1);
        let consumer = queue.enter().unwrap();
        assert_eq!(consumer.wait(1, now_ns() + 1_000_000, |_| ()), 0);
        assert_eq!(consumer.wait(1, 0, |_| ()), 0);
    }
}
