//! The completion queue in the small, with the steps of `engine::completion`: no event is lost, whoever takes it.

use crate::bell::Bell;
use crate::stack::{Inbox, in_order};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering, Seen, explore};
use crate::{Data, join, spawn};
use loom::sync::Arc;

/// A completion queue, and two events that are its links 1 and 2.
struct Completion {
    inbox: Inbox,
    bell: Bell,
    reserved: AtomicU32,
    closed: AtomicBool,
    woken: AtomicBool,
    abandoned: AtomicBool,
    consuming: AtomicBool,
    /// The consumer's: the next link.
    cursor: Data,
    cells: [AtomicU64; 2],
    events: [Data; 2],
}

impl Completion {
    fn new(reserved: u32) -> Arc<Self> {
        Arc::new(Completion {
            inbox: Inbox::default(),
            bell: Bell::default(),
            reserved: AtomicU32::new(reserved),
            closed: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            consuming: AtomicBool::new(false),
            cursor: Data::new(0),
            cells: [AtomicU64::new(0), AtomicU64::new(0)],
            events: [Data::new(0), Data::new(0)],
        })
    }

    fn cell(&self, link: u64) -> &AtomicU64 {
        &self.cells[link as usize - 1]
    }

    fn publish(&self, link: u64) {
        self.events[link as usize - 1].write(link as u32);
        self.inbox.push_chain(link, self.cell(link));
        self.bell.ring();
        if self.abandoned.load(Ordering::SeqCst) {
            self.discard();
        }
    }

    fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.bell.ring_all();
    }

    /// Gives room back for an event that does not come.
    fn unreserve(&self, count: u32) {
        self.reserved.fetch_sub(count, Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            self.bell.ring_all();
        }
    }

    fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        self.bell.ring_all();
    }

    fn is_over(&self) -> bool {
        self.closed.load(Ordering::SeqCst) && self.reserved.load(Ordering::SeqCst) == 0
    }

    fn abandon(&self) {
        self.abandoned.store(true, Ordering::SeqCst);
        self.discard();
    }

    fn discard(&self) {
        while !self.inbox.is_empty() {
            if !self.enter() {
                return;
            }
            self.poll();
            self.leave();
        }
    }

    fn enter(&self) -> bool {
        !self.consuming.swap(true, Ordering::SeqCst)
    }

    /// As the drop of a `Consumer`.
    fn leave(&self) {
        self.consuming.store(false, Ordering::SeqCst);
        if self.abandoned.load(Ordering::SeqCst) {
            self.discard();
        }
    }

    /// Takes what there is, as the consumer.
    fn poll(&self) -> u32 {
        let mut count = 0;
        loop {
            if self.cursor.read() == 0 {
                self.cursor.write(in_order(self.inbox.take(), |link| self.cell(link)) as u32);
            }
            let link = u64::from(self.cursor.read());
            if link == 0 {
                break;
            }
            self.cursor.write(self.cell(link).load(Ordering::Relaxed) as u32);
            let event = &self.events[link as usize - 1];
            assert_eq!(u64::from(event.read()), link);
            event.write(0); // it comes once, and then its memory is used for something else
            count += 1;
        }
        self.unreserve(count);
        count
    }

    /// Takes events as they come, until it is closed and nothing is outstanding; `rest` is what to do in between.
    fn drain(&self, rest: impl Fn(&Self)) -> u32 {
        let mut count = 0;
        while !self.is_over() {
            assert!(self.enter());
            count += self.poll();
            if !self.is_over() {
                rest(self);
            }
            self.leave();
        }
        count
    }

    fn sleep(&self) {
        self.bell.sleep(u64::MAX, || !self.inbox.is_empty() || self.is_over());
    }
}

#[test]
fn the_consumer_is_woken_for_each_event() {
    explore(Seen::AsOrdered, 3, || {
        let queue = Completion::new(2);
        queue.closed.store(true, Ordering::SeqCst);
        let publishers = [1, 2].map(|link| spawn(&queue, move |queue| queue.publish(link)));
        assert_eq!(queue.drain(Completion::sleep), 2);
        join(publishers);
    });
}

#[test]
fn the_consumer_is_woken_when_there_is_nothing_more_to_come() {
    explore(Seen::AsOrdered, 3, || {
        let queue = Completion::new(1);
        let publisher = spawn(&queue, |queue| queue.publish(1));
        let closer = spawn(&queue, Completion::close);
        assert_eq!(queue.drain(Completion::sleep), 1);
        join([publisher, closer]);
    });
}

/// Whether it sleeps already, or is about to, or comes only later.
#[test]
fn the_consumer_is_woken_when_the_host_wants_it_back() {
    explore(Seen::AsOrdered, 3, || {
        let queue = Completion::new(1);
        let waker = spawn(&queue, Completion::wake);
        let is_woken = || queue.woken.load(Ordering::SeqCst);
        while !is_woken() {
            queue.bell.sleep(u64::MAX, || !queue.inbox.is_empty() || queue.is_over() || is_woken());
        }
        assert!(queue.woken.swap(false, Ordering::SeqCst));
        join([waker]);
    });
}

/// As a job that is withdrawn, because the engine was shut down while it was being opened.
#[test]
fn the_consumer_is_woken_when_what_it_waits_for_does_not_come() {
    explore(Seen::AsOrdered, 3, || {
        let queue = Completion::new(1);
        let refused = spawn(&queue, |queue| queue.unreserve(1));
        let closer = spawn(&queue, Completion::close);
        assert_eq!(queue.drain(Completion::sleep), 0);
        join([refused, closer]);
    });
}

#[test]
fn the_consumer_reads_what_publishers_have_written() {
    explore(Seen::AsLate, 3, || {
        let queue = Completion::new(2);
        let publishers = [1, 2].map(|link| spawn(&queue, move |queue| queue.publish(link)));
        let mut count = 0;
        while count < 2 {
            assert!(queue.enter());
            count += queue.poll();
            queue.leave();
            loom::thread::yield_now();
        }
        join(publishers);
    });
}

/// One at a time is the consumer: it hands what is its own over to the next one.
#[test]
fn consumers_on_two_threads_take_turns() {
    explore(Seen::AsLate, 3, || {
        let queue = Completion::new(2);
        queue.publish(1);
        let poll = |queue: &Completion| -> u32 {
            if !queue.enter() {
                return 0;
            }
            let count = queue.poll();
            queue.leave();
            count
        };
        let publisher = spawn(&queue, |queue| queue.publish(2));
        let other = spawn(&queue, poll);
        let mut count = poll(&queue);
        publisher.join().unwrap();
        count += other.join().unwrap();
        assert_eq!(count + poll(&queue), 2);
    });
}

/// A queue that its host has dropped: publishers throw away what comes, and none leaves that to one who has left.
#[test]
fn nothing_is_left_in_an_abandoned_queue() {
    explore(Seen::AsOrdered, 3, || {
        let queue = Completion::new(2);
        queue.abandoned.store(true, Ordering::SeqCst);
        let other = spawn(&queue, |queue| queue.publish(1));
        queue.publish(2);
        other.join().unwrap();
        assert!(queue.inbox.is_empty());
        assert_eq!(queue.reserved.load(Ordering::Relaxed), 0);
    });
}

#[test]
fn nothing_is_left_in_a_queue_that_is_abandoned_while_events_come() {
    explore(Seen::AsOrdered, 3, || {
        let queue = Completion::new(2);
        let publishers = [1, 2].map(|link| spawn(&queue, move |queue| queue.publish(link)));
        queue.abandon();
        join(publishers);
        assert!(queue.inbox.is_empty());
        assert_eq!(queue.reserved.load(Ordering::Relaxed), 0);
    });
}
