//! A completion queue: where events wait for the host, with room for each reserved before it can come.
//!
//! What is pushed are links: to a whole batch, whose members are then taken one by one, or to one member. Nothing is
//! allocated, and a batch costs one atomic step and at most one wake-up, however many events it brings.
#![allow(unsafe_code)]

use super::batch::Batch;
use super::event::Event;
use super::outcome::{self, Which};
use super::stream;
use super::table::Table;
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::platform::ReadyFd;
use crate::scheduler::bell::Bell;
use crate::scheduler::spin::{Spinning, Waits};
use crate::stack::{Inbox, in_order};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, lock};
use std::cell::{Cell, UnsafeCell};

/// A packed reference to what is published: never 0.
#[derive(Clone, Copy)]
pub struct Link(pub u64);

const PRESENT: u64 = 1 << 63;
const MEMBER: u64 = 1 << 32;
const RELEASED: u64 = 1 << 33;
const PROGRESS: u64 = MEMBER | RELEASED;
const STREAM: u64 = 1 << 34;
const KINDS: u64 = MEMBER | RELEASED | STREAM;

impl Link {
    /// All members of a batch that are marked as published.
    pub fn batch(index: u32) -> Self {
        Link(PRESENT | u64::from(index) << 12)
    }

    /// One member's terminal event.
    pub fn member(index: u32, member: usize) -> Self {
        Link(PRESENT | MEMBER | u64::from(index) << 12 | member as u64)
    }

    /// The event that a member's buffers are released.
    pub fn released(index: u32, member: usize) -> Self {
        Link(PRESENT | RELEASED | u64::from(index) << 12 | member as u64)
    }

    /// The event that a job has come further.
    pub fn progress(index: u32) -> Self {
        Link(PRESENT | PROGRESS | u64::from(index) << 12)
    }

    /// The event that tells what a member has said.
    pub fn stream(index: u32, member: usize) -> Self {
        Link(PRESENT | STREAM | u64::from(index) << 12 | member as u64)
    }

    fn index(self) -> u32 {
        (self.0 >> 12) as u32 & 0xF_FFFF
    }

    fn number(self) -> usize {
        self.0 as usize & 0xFFF
    }

    /// Where the link after this one is kept.
    ///
    /// # Safety
    /// The link is in a queue, so that what it refers to is held.
    unsafe fn cell(self, table: &Table) -> &AtomicU64 {
        // SAFETY: promised by the caller.
        let batch = unsafe { table.batch(self.index()) };
        match self.0 & KINDS {
            0 => &batch.link,
            MEMBER => &batch.members[self.number()].link,
            STREAM => &batch.cold(self.number()).stream_link,
            _ => &batch.cold(self.number()).second_link,
        }
    }
}

/// Events of many requests, for one consumer at a time.
pub struct CompletionQueue {
    inbox: Aligned<Inbox>,
    /// Events promised or waiting: accepted requests reserve before they are queued.
    reserved: Aligned<AtomicU32>,
    capacity: AtomicU32,
    bell: Bell,
    waits: Waits,
    /// No request will be added: waiting is pointless once nothing is outstanding.
    closed: AtomicBool,
    /// The host wants whoever waits to come back, though nothing has come.
    woken: AtomicBool,
    /// The host has dropped it while events were outstanding: nobody will take them.
    abandoned: AtomicBool,
    /// A consumer is inside; a second one gets nothing.
    consuming: AtomicBool,
    /// The consumer's.
    cursor: UnsafeCell<Cursor>,
    has_fd: AtomicBool,
    ready: Mutex<Option<ReadyFd>>,
}

#[repr(align(64))]
struct Aligned<T>(T);

/// How far the consumer has come in what it took from the inbox.
#[derive(Default)]
struct Cursor {
    /// The next link; 0: none.
    next: u64,
    /// The batch whose members are being taken: (index, word of marks, its bits that are left).
    batch: Option<(u32, usize, u64)>,
    /// Which of them are profiled.
    probe: u64,
}

// SAFETY: the cursor is only used by the consumer, of which there is one at a time.
unsafe impl Sync for CompletionQueue {}

impl CompletionQueue {
    /// The largest capacity, in events.
    pub const MAX_CAPACITY: u32 = 1 << 24;

    pub fn new(capacity: u32) -> Self {
        CompletionQueue {
            inbox: Aligned(Inbox::default()),
            reserved: Aligned(AtomicU32::new(0)),
            capacity: AtomicU32::new(capacity),
            bell: Bell::default(),
            waits: Waits::default(),
            closed: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            consuming: AtomicBool::new(false),
            cursor: UnsafeCell::default(),
            has_fd: AtomicBool::new(false),
            ready: Mutex::new(None),
        }
    }

    /// Makes a queue that was ended as new.
    pub fn begin(&self, capacity: u32) {
        self.capacity.store(capacity, Ordering::Relaxed);
        self.woken.store(false, Ordering::Relaxed);
        self.abandoned.store(false, Ordering::SeqCst);
        self.closed.store(false, Ordering::SeqCst);
    }

    /// Ends it: nothing is outstanding, and its host is gone.
    pub fn end(&self) {
        self.has_fd.store(false, Ordering::SeqCst);
        *lock(&self.ready) = None;
    }

    /// Makes room for `count` events, or says that the queue is full.
    #[inline]
    pub fn reserve(&self, count: u32) -> Result<()> {
        let capacity = self.capacity.load(Ordering::Relaxed);
        let before = self.reserved.0.fetch_add(count, Ordering::AcqRel);
        if before.saturating_add(count) <= capacity {
            return Ok(());
        }
        self.unreserve(count);
        Err(Error::new(
            Status::QueueFull,
            format!(
                "the completion queue has room for {capacity} events and {before} are outstanding: poll it"
            ),
        ))
    }

    /// Gives reserved room back.
    #[inline]
    pub fn unreserve(&self, count: u32) {
        self.reserved.0.fetch_sub(count, Ordering::SeqCst);
        if self.closed.load(Ordering::SeqCst) {
            self.bell.ring_all(); // a consumer may wait for just these
        }
    }

    /// Events promised or waiting.
    pub fn outstanding(&self) -> u32 {
        self.reserved.0.load(Ordering::SeqCst)
    }

    /// Adds what `link` stands for, for which room was reserved, and wakes the consumer once. `cell` is its link.
    pub fn publish(&self, link: Link, cell: &AtomicU64, table: &Table) {
        self.push(link, cell);
        self.announce(table);
    }

    /// As `publish`, but wakes nobody: to be followed by `announce`, when locks are let go of.
    pub fn push(&self, link: Link, cell: &AtomicU64) {
        self.inbox.0.push_chain(link.0, cell);
    }

    /// Adds a chain, newest first, whose last cell is given.
    pub fn publish_chain(&self, first: Link, last: &AtomicU64, table: &Table) {
        self.inbox.0.push_chain(first.0, last);
        self.announce(table);
    }

    /// Wakes the consumer of what was pushed.
    #[inline]
    pub fn announce(&self, table: &Table) {
        self.bell.ring();
        if self.has_fd.load(Ordering::SeqCst)
            && let Some(ready) = &mut *lock(&self.ready)
        {
            ready.set();
        }
        if self.abandoned.load(Ordering::SeqCst) {
            self.discard(table);
        }
    }

    /// Becomes the consumer; `None` if there is one already.
    pub fn enter<'a>(&'a self, table: &'a Table) -> Option<Consumer<'a>> {
        let free = !self.consuming.swap(true, Ordering::SeqCst);
        free.then(|| Consumer { queue: self, table, kept: Cell::new(0) }) // not then_some: a consumer that is dropped lets the next one in
    }

    /// Nobody will take what is outstanding: it is thrown away now, and when it comes.
    pub fn abandon(&self, table: &Table) {
        self.abandoned.store(true, Ordering::SeqCst);
        // Also what was taken from the inbox and not yet given out, which `discard` does not see. If somebody is inside,
        // it is one who discards: the host's consumers are gone.
        if let Some(consumer) = self.enter(table) {
            consumer.poll(usize::MAX, drop);
        }
        self.discard(table);
    }

    fn discard(&self, table: &Table) {
        while !self.inbox.0.is_empty() {
            let Some(consumer) = self.enter(table) else { return };
            consumer.poll(usize::MAX, drop);
        }
    }

    /// Says that no request will be added, so that nobody waits for what cannot come.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.bell.ring_all();
    }

    /// Has the consumer that waits, or else the next one, come back with nothing.
    pub fn wake(&self) {
        self.woken.store(true, Ordering::SeqCst);
        self.bell.ring_all();
    }

    /// Whether somebody was to be woken, once.
    pub fn take_wake(&self) -> bool {
        self.woken.load(Ordering::SeqCst) && self.woken.swap(false, Ordering::SeqCst)
    }

    /// Whether nothing is there and nothing will come.
    pub fn is_over(&self) -> bool {
        self.closed.load(Ordering::SeqCst) && self.outstanding() == 0
    }

    /// A descriptor that is readable while events wait.
    pub fn ready_fd(&self) -> Result<i32> {
        let mut ready = lock(&self.ready);
        let number = match &mut *ready {
            Some(ready) => ready.number(),
            empty => empty.insert(ReadyFd::new()?).number(),
        };
        self.has_fd.store(true, Ordering::SeqCst);
        // What the consumer has taken from the inbox and not yet given out waits too: nobody but the host knows.
        if let Some(ready) = &mut *ready
            && (!self.inbox.0.is_empty() || self.outstanding() > 0)
        {
            ready.set();
        }
        Ok(number)
    }
}

/// The right to take events, which one at a time has.
pub struct Consumer<'a> {
    queue: &'a CompletionQueue,
    table: &'a Table,
    /// Events that were taken whose places stay with their requests.
    kept: Cell<u32>,
}

impl Consumer<'_> {
    /// Takes up to `limit` events without waiting.
    pub fn poll(&self, limit: usize, mut take: impl FnMut(Event)) -> usize {
        let mut count = 0;
        while count < limit
            && let Some(event) = self.next()
        {
            take(event);
            count += 1;
        }
        if count > 0 {
            self.queue.unreserve(count as u32 - self.kept.take());
        }
        if self.queue.has_fd.load(Ordering::SeqCst) {
            self.clear_fd();
        }
        count
    }

    /// Takes up to `limit` events; waits until there is one or the clock reads `until_ns`, until the queue is
    /// closed and nothing is outstanding, or until it is woken, which the caller takes note of.
    pub fn wait(
        &self,
        limit: usize,
        until_ns: u64,
        spinning: &Spinning,
        mut take: impl FnMut(Event),
    ) -> usize {
        let mut began_ns = 0;
        loop {
            let count = self.poll(limit, &mut take);
            if count > 0 || self.queue.is_over() || self.queue.woken.load(Ordering::SeqCst) {
                if began_ns != 0 {
                    self.queue.waits.record(now_ns() - began_ns, spinning);
                }
                return count;
            }
            let now = now_ns();
            if began_ns == 0 {
                began_ns = now;
            }
            if now >= until_ns && until_ns != u64::MAX {
                self.queue.waits.record(now - began_ns, spinning);
                return 0;
            }
            let ready = || {
                let queue = self.queue;
                !queue.inbox.0.is_empty() || queue.is_over() || queue.woken.load(Ordering::SeqCst)
            };
            let spin_ns = self.queue.waits.spin_ns(spinning).min(until_ns.saturating_sub(now));
            if !spinning.until(spin_ns, ready) {
                self.queue.bell.sleep(until_ns, ready);
            }
        }
    }

    #[inline]
    fn next(&self) -> Option<Event> {
        // SAFETY: this is the one consumer.
        let cursor = unsafe { &mut *self.queue.cursor.get() };
        loop {
            if let Some((index, at, bits)) = cursor.batch {
                let member = 64 * at + bits.trailing_zeros() as usize;
                // SAFETY: the member is published, and so held until the event is made.
                let batch = unsafe { self.table.batch(index) };
                if cursor.probe != 0 {
                    self.table.spans.delivered(self.table, batch, member, cursor.probe);
                }
                // Before the event is given out: with its last event the batch may be gone.
                cursor.batch = next_marks(batch, at, bits & (bits - 1));
                // SAFETY: as above.
                return Some(unsafe { outcome::event(self.table, batch, member, Which::Terminal) });
            }
            if cursor.next == 0 {
                let taken = self.queue.inbox.0.take();
                // SAFETY: what is in the inbox is held.
                cursor.next = in_order(taken, |link| unsafe { Link(link).cell(self.table) });
                if cursor.next == 0 {
                    return None;
                }
            }
            let link = Link(cursor.next);
            // SAFETY: what the link refers to is held until its event is made.
            unsafe {
                cursor.next = link.cell(self.table).load(Ordering::Relaxed);
                let batch = self.table.batch(link.index());
                let which = match link.0 & KINDS {
                    0 => {
                        cursor.batch = next_marks(batch, 0, batch.published.word(0));
                        cursor.probe = batch.probe.load(Ordering::Relaxed);
                        continue;
                    }
                    MEMBER => Which::Terminal,
                    PROGRESS => match super::job::progress_event(self.table, batch) {
                        Some(event) => return Some(event),
                        None => {
                            self.queue.unreserve(1);
                            continue;
                        }
                    },
                    STREAM => match stream::event(self.table, batch, link.number()) {
                        (Some(event), keeps) => {
                            self.kept.set(self.kept.get() + u32::from(keeps));
                            return Some(event);
                        }
                        (None, keeps) => {
                            self.queue.unreserve(u32::from(!keeps));
                            continue;
                        }
                    },
                    _ => Which::Released,
                };
                let probe = batch.probe.load(Ordering::Relaxed);
                if probe != 0 && which == Which::Terminal {
                    self.table.spans.delivered(self.table, batch, link.number(), probe);
                }
                return Some(outcome::event(self.table, batch, link.number(), which));
            }
        }
    }

    fn has_more(&self) -> bool {
        // SAFETY: this is the one consumer.
        let cursor = unsafe { &*self.queue.cursor.get() };
        cursor.batch.is_some() || cursor.next != 0 || !self.queue.inbox.0.is_empty()
    }

    fn clear_fd(&self) {
        if let Some(ready) = &mut *lock(&self.queue.ready) {
            // Whoever publishes pushes first and then sets, under the same lock: nothing is missed.
            match self.has_more() {
                true => ready.set(),
                false => ready.clear(),
            }
        }
    }
}

/// Where the next mark from word `at` on is, of which `bits` are left.
fn next_marks(batch: &Batch, mut at: usize, mut bits: u64) -> Option<(u32, usize, u64)> {
    let words = batch.members.len().div_ceil(64);
    while bits == 0 {
        at += 1;
        if at >= words {
            return None;
        }
        bits = batch.published.word(at);
    }
    Some((batch.index, at, bits))
}

impl Drop for Consumer<'_> {
    fn drop(&mut self) {
        // `SeqCst`: whoever pushes and finds this one still inside leaves what was pushed to the look that follows.
        self.queue.consuming.store(false, Ordering::SeqCst);
        if self.queue.abandoned.load(Ordering::SeqCst) {
            // What was pushed while this one was inside.
            self.queue.discard(self.table);
        }
    }
}
