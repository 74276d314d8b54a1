//! The table of batches, and with it of every ticket: who holds what, and the one place where a request is resolved.
//!
//! A ticket is a batch's place in the table, its lap, and the member's number. Slots of the table never move, so a
//! stale ticket can always be looked up, and is found out by the lap.
#![allow(unsafe_code)]

use super::batch::{Batch, Lent, Phase};
use super::completion::{CompletionQueue, Link};
use super::outcome;
use super::relay::abandon;
use super::spans::Spans;
use super::{Ticket, next_generation, random_generation};
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::metrics::Metrics;
use crate::platform::process_generation;
use crate::router::Tenants;
use crate::scheduler::bell::Bell;
use crate::scheduler::roster::{Claims, Counts, Held, Life};
use crate::stack::FreeList;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, lock};
use std::ops::Deref;
use std::ptr;
use std::sync::atomic::AtomicPtr;
use std::sync::{Arc, OnceLock};

mod deadlines;
mod holding;
mod unresolved;

/// Slots are allocated by the chunk, when first needed.
const CHUNK: u32 = 256;
/// Bits of a ticket for the member, and for the batch.
const MEMBER_BITS: u32 = 12;
const BATCH_BITS: u32 = 20;
/// Holds of an open batch, of which those that no member takes are given back when it is closed.
pub const OPEN_HOLDS: u32 = 1 << 16;

/// A place for a batch. What submitters write is in one cache line, what hosts write when they release in another.
#[repr(align(64))]
pub struct Slot {
    pub claims: Claims,
    /// When the first member came; `u64::MAX`: it is about to.
    pub oldest_ns: AtomicU64,
    /// Rows that its batch has room for.
    room: AtomicU32,
    hosts: Hosts,
    batch: AtomicPtr<Batch>,
}

#[repr(align(64))]
struct Hosts {
    life: Life,
    /// Members whose events the host has and has not released.
    held: Held,
    /// Link of the free list that it is in: its line's, or that of places without a batch.
    next: AtomicU32,
}

/// Somebody is about to publish what is resolved.
pub struct Publishing<'a>(&'a Table);

impl Drop for Publishing<'_> {
    fn drop(&mut self) {
        self.0.publishing.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Slot {
    /// Marks of members whose events the host gets with something in them.
    pub fn held(&self) -> &Held {
        &self.hosts.held
    }

    pub fn life(&self) -> &Life {
        &self.hosts.life
    }
}

/// All batches of an engine.
pub struct Table {
    capacity: u32,
    /// The process that has made it: in a child of that one nothing here is touched.
    made_in: u32,
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
    /// Slots that were never used begin here.
    fresh: AtomicU32,
    spare: FreeList,
    first_generation: u32,
    alive: Counter64,
    /// The earliest deadline of all, as far as the keeper does not know better.
    next_deadline_ns: AtomicU64,
    pub keeper: Bell,
    /// Threads that have resolved a request early and not yet published it.
    publishing: AtomicU32,
    closed: AtomicBool,
    /// Rung after every batch of a closed engine.
    settled: Bell,
    pub metrics: Arc<Metrics>,
    pub spans: Spans,
    pub tenants: Tenants,
    /// Rung when a request has ended elsewhere, or early, whose submitter waits for it without a completion queue.
    pub elsewhere: Bell,
    queues: Mutex<Queues>,
    /// Places in queues that requests keep for what they may say, and do not use just now.
    idle_places: AtomicU64,
}

#[repr(align(64))]
struct Counter64(AtomicU32);

#[derive(Default)]
struct Queues {
    all: Vec<Arc<CompletionQueue>>,
    spare: Vec<Arc<CompletionQueue>>,
}

/// A hold on a batch.
pub struct Pin<'a> {
    table: &'a Table,
    index: u32,
    batch: &'a Batch,
}

impl Deref for Pin<'_> {
    type Target = Batch;

    fn deref(&self) -> &Batch {
        self.batch
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.table.let_go(self.index, 1);
    }
}

/// The parts of a ticket: lap, batch, member.
fn parts(ticket: Ticket) -> (u32, u32, usize) {
    let low = ticket as u32;
    ((ticket >> 32) as u32, low >> MEMBER_BITS, (low & ((1 << MEMBER_BITS) - 1)) as usize)
}

/// The ticket of a member.
pub fn ticket(generation: u32, index: u32, member: usize) -> Ticket {
    u64::from(generation) << 32 | u64::from(index << MEMBER_BITS) | member as u64
}

impl Table {
    pub fn new(capacity: u32, metrics: Arc<Metrics>, tenants: Tenants) -> Arc<Self> {
        // Every request may be alone in its batch, and some batches are open or free besides.
        let slots = capacity.saturating_add(1 << 14).min(1 << BATCH_BITS);
        Arc::new(Table {
            capacity,
            made_in: process_generation(),
            chunks: (0..slots.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect(),
            fresh: AtomicU32::new(0),
            spare: FreeList::default(),
            first_generation: random_generation(),
            alive: Counter64(AtomicU32::new(0)),
            next_deadline_ns: AtomicU64::new(u64::MAX),
            keeper: Bell::default(),
            publishing: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            settled: Bell::default(),
            metrics,
            spans: Spans::default(),
            tenants,
            elsewhere: Bell::default(),
            queues: Mutex::default(),
            idle_places: AtomicU64::new(0),
        })
    }

    // ---- requests that are alive

    /// Makes room for one more request.
    #[inline]
    pub fn enter(&self) -> Result<()> {
        if self.alive.0.fetch_add(1, Ordering::Relaxed) < self.capacity {
            return Ok(());
        }
        self.leave(1);
        let capacity = self.capacity;
        let text =
            format!("queue.capacity is {capacity}, and as many requests are queued, running or not released");
        Err(Error::new(Status::QueueFull, text))
    }

    /// Requests are gone.
    #[inline]
    pub fn leave(&self, count: u32) {
        self.alive.0.fetch_sub(count, Ordering::Relaxed);
    }

    // ---- slots

    #[inline]
    pub fn slot(&self, index: u32) -> &Slot {
        let chunk = self.chunks[(index / CHUNK) as usize].get_or_init(|| self.new_chunk());
        &chunk[(index % CHUNK) as usize]
    }

    #[cold]
    fn new_chunk(&self) -> Box<[Slot]> {
        let slot = |_| Slot {
            claims: Claims::default(),
            oldest_ns: AtomicU64::new(u64::MAX),
            room: AtomicU32::new(0),
            hosts: Hosts {
                life: Life::new(self.first_generation),
                held: Held::default(),
                next: AtomicU32::new(0),
            },
            batch: AtomicPtr::new(ptr::null_mut()),
        };
        (0..CHUNK).map(slot).collect()
    }

    /// The batch in a slot.
    ///
    /// # Safety
    /// The caller has a hold on it, or owns it.
    #[inline]
    pub unsafe fn batch(&self, index: u32) -> &Batch {
        // SAFETY: a slot that somebody holds or owns has a batch.
        unsafe { &*self.slot(index).batch.load(Ordering::Acquire) }
    }

    /// A slot without a batch.
    pub fn allocate(&self) -> Result<u32> {
        if let Some(index) = self.spare.pop(|index| &self.slot(index).hosts.next) {
            return Ok(index);
        }
        let most = self.chunks.len() as u32 * CHUNK;
        let next = self
            .fresh
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |fresh| (fresh < most).then(|| fresh + 1));
        next.map_err(|_| {
            Error::new(Status::QueueFull, format!("{most} batches are in use, as many as there can be"))
        })
    }

    /// Puts a new batch, which the caller owns, into its slot.
    pub fn install(&self, batch: Box<Batch>) {
        let index = batch.index;
        let room = batch.layout().map_or(1, |layout| layout.max_rows);
        // Whoever reads it for the batch that was here before finds that gone when it claims a place.
        self.slot(index).room.store(room as u32, Ordering::SeqCst);
        self.slot(index).batch.store(Box::into_raw(batch), Ordering::Release);
    }

    /// Rows that the batch in a slot has room for.
    #[inline]
    pub fn room(&self, index: u32) -> usize {
        self.slot(index).room.load(Ordering::SeqCst) as usize
    }

    /// Gives a slot back that has no batch.
    pub fn give_back(&self, index: u32) {
        self.spare.push(index, &self.slot(index).hosts.next);
    }

    /// Begins another lap of a batch that the caller owns, and returns its generation. It is open for members to join,
    /// or closed with those that are in already.
    pub fn begin(&self, index: u32, level: usize, holds: u32, closed: Option<Counts>) -> u32 {
        let slot = self.slot(index);
        let generation = next_generation(slot.life().generation());
        // SAFETY: the caller owns it.
        unsafe { self.batch(index) }.reset(level);
        slot.oldest_ns.store(u64::MAX, Ordering::Relaxed);
        slot.hosts.held.clear();
        match closed {
            None => slot.claims.open(generation),
            Some(counts) => slot.claims.set_closed(generation, counts),
        }
        // From here on others find it, as it is now.
        slot.life().begin(generation, holds);
        generation
    }

    /// Where the link of a batch is kept while it waits for a lane.
    pub fn lane_link(&self, index: u32) -> &AtomicU64 {
        // SAFETY: what waits for a lane is held for it.
        unsafe { &self.batch(index).link }
    }

    /// Takes note of since when a batch was held open that a lane has just taken.
    pub fn note_held(&self, index: u32, since_ns: u64) {
        // SAFETY: the queue has given the lane's hold to the caller.
        unsafe { self.batch(index) }.held_ns.store(since_ns, Ordering::Relaxed);
    }

    /// The level, and when the first member came, of a batch that waits for a lane.
    pub fn queued(&self, index: u32) -> (usize, u64) {
        // SAFETY: what waits for a lane is held for it.
        let batch = unsafe { self.batch(index) };
        let level = batch.level.load(Ordering::Relaxed) as usize;
        let oldest_ns = self.slot(index).oldest_ns.load(Ordering::Relaxed);
        let oldest_ns = if oldest_ns == u64::MAX { now_ns() } else { oldest_ns };
        (level, oldest_ns)
    }

    /// Gives holds on a batch back; the last one frees it for another lap.
    #[inline]
    pub fn let_go(&self, index: u32, holds: u32) {
        if self.slot(index).life().let_go(holds) {
            self.recycle(index);
        }
    }

    fn recycle(&self, index: u32) {
        // SAFETY: the caller let the last hold go, so it owns the batch.
        let (line, table) = unsafe {
            let batch = self.batch(index);
            batch.empty(self.slot(index).claims.counts().members);
            // Once it is in the list, another thread may free it, and with it all that keeps the table.
            (Arc::clone(&batch.line), Arc::clone(&batch.table))
        };
        if line.is_away() {
            // SAFETY: as above.
            unsafe { self.batch(index).forget_prepared() };
        }
        line.free.push(index, &table.slot(index).hosts.next);
        // Again, since whoever said so may have looked through the list before.
        if line.is_retired() || line.is_away() {
            table.free_batches(&line);
        }
    }

    /// A free batch of a line, which the caller owns then.
    pub fn take_free(&self, list: &FreeList) -> Option<u32> {
        list.pop(|index| &self.slot(index).hosts.next)
    }

    /// Puts a batch that the caller owns into its line's free list.
    pub fn put_free(&self, list: &FreeList, index: u32) {
        list.push(index, &self.slot(index).hosts.next);
    }

    /// Frees the free batches of a line, with their memory.
    pub fn free_batches(&self, line: &super::line::Line) {
        // Batches keep the table, and the last one may be among these.
        let mut kept: Option<Arc<Table>> = None;
        while let Some(index) = self.take_free(&line.free) {
            let batch = self.uninstall(index);
            kept.get_or_insert_with(|| Arc::clone(&batch.table));
            drop(batch);
        }
    }

    /// Frees one that was in a line's free list, for a caller who keeps the table.
    pub fn free_batch(&self, index: u32) {
        drop(self.uninstall(index));
    }

    fn uninstall(&self, index: u32) -> Box<Batch> {
        let batch = self.slot(index).batch.swap(ptr::null_mut(), Ordering::AcqRel);
        self.give_back(index);
        // SAFETY: popped from the free list, so it is owned here; nobody finds it any more.
        unsafe { Box::from_raw(batch) }
    }

    /// The ticket of a member of a batch that is held.
    pub fn ticket_of(&self, batch: &Batch, member: usize) -> Ticket {
        ticket(self.slot(batch.index).life().generation(), batch.index, member)
    }

    /// Whether a ticket's request has not ended.
    pub fn is_unresolved(&self, ticket: Ticket) -> bool {
        self.pin(ticket).is_some_and(|(pin, member)| !pin.resolved.is_set(member))
    }

    /// A hold on a ticket's batch, if the ticket is not stale, and its member.
    #[inline]
    pub fn pin(&self, ticket: Ticket) -> Option<(Pin<'_>, usize)> {
        let (generation, index, member) = parts(ticket);
        if index >= self.fresh.load(Ordering::Acquire) {
            return None;
        }
        self.slot(index).life().hold(Some(generation))?;
        let pin = self.pinned(index);
        (member < pin.members.len()).then_some((pin, member))
    }

    fn pinned(&self, index: u32) -> Pin<'_> {
        // SAFETY: the caller has just taken a hold.
        Pin { table: self, index, batch: unsafe { self.batch(index) } }
    }

    /// Every batch that is in use, held while it is looked at.
    pub fn each(&self, mut look: impl FnMut(&Pin<'_>)) {
        for index in 0..self.fresh.load(Ordering::Acquire) {
            if self.slot(index).life().hold(None).is_some() {
                look(&self.pinned(index));
            }
        }
    }

    // ---- resolving

    /// Resolves a request before its run is over; false if it is unknown or resolved already.
    pub fn resolve_early(&self, ticket: Ticket, status: Status) -> bool {
        let Some((pin, member)) = self.pin(ticket) else { return false };
        pin.written.is_set(member) && self.resolve_member(&pin, member, status)
    }

    /// Resolves a member that is written; false if it is resolved already.
    fn resolve_member(&self, pin: &Pin<'_>, member: usize, status: Status) -> bool {
        let batch: &Batch = pin;
        // SAFETY: written, and held.
        let flags = unsafe { batch.request(member) }.flags;
        if flags.fixed && status == Status::Cancelled {
            return false;
        }
        let publishing = self.publishing();
        let won = batch.resolved.set(member);
        if won {
            let mut word = status.code() as u32 | outcome::EARLY;
            let cold = batch.cold(member);
            cold.resolved_ns.store(now_ns(), Ordering::Relaxed);
            if flags.lends && cold.lent.swap(Lent::GIVEN_UP, Ordering::AcqRel) == Lent::LANE {
                // The lane says when it has let go; the member stays until then.
                self.slot(batch.index).life().hold(None);
                word |= outcome::MORE;
            }
            batch.members[member].status.store(word, Ordering::Relaxed);
            if !flags.job && !flags.child {
                batch.line.traffic.here().ended(status, 1);
                if status == Status::Expired {
                    batch.note_patience(member);
                }
            }
            if flags.streams && !flags.child {
                batch.end_stream(member);
            }
            // Before the event: who gets it may count on there being room for another one.
            let lets_go = (flags.routed || flags.child) && abandon(self, batch, member, flags.child, status);
            // SAFETY: written, and held; queues live as long as the table.
            if let Some(queue) = unsafe { batch.request(member).queue.as_ref() } {
                if flags.lends && word & outcome::MORE == 0 {
                    queue.unreserve(1); // there will be no second event
                }
                // The batch's hold of the member goes over to the event.
                queue.publish(Link::member(batch.index, member), &batch.members[member].link, self);
            } else if flags.routed {
                self.elsewhere.ring_all();
            }
            if word & outcome::MORE != 0 {
                batch.members[member].status.fetch_or(outcome::ANNOUNCED, Ordering::AcqRel);
            }
            batch.interrupt_if_unwanted(member);
            if lets_go {
                self.let_go(batch.index, 1);
            }
        }
        drop(publishing);
        if won && self.is_closed() {
            self.settled.ring_all();
        }
        won
    }

    /// Says that something is resolved and not yet published, for as long as the guard lives.
    pub fn publishing(&self) -> Publishing<'_> {
        self.publishing.fetch_add(1, Ordering::SeqCst);
        Publishing(self)
    }

    // ---- the end

    /// Requests that are refused from now on are refused elsewhere; this one only remembers.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// A lane has published a batch.
    pub fn batch_is_done(&self) {
        if self.is_closed() {
            self.settled.ring_all();
        }
    }

    /// Whether the terminal event of every accepted ticket is in its queue.
    fn is_settled(&self) -> bool {
        let mut settled = true;
        self.each(|pin| {
            let members = self.slot(pin.index).claims.counts().members;
            settled &= pin.phase() != Phase::Finishing && pin.resolved.all_set(members);
        });
        settled && self.publishing.load(Ordering::SeqCst) == 0
    }

    /// Waits until every accepted ticket is resolved, or the clock reads `until_ns`.
    pub fn wait_settled(&self, until_ns: u64) {
        while !self.is_settled() && now_ns() < until_ns {
            // The bell may be rung before it is slept by, hence the slices.
            self.settled.sleep(until_ns.min(now_ns() + 1_000_000), || false);
        }
    }

    /// Resolves every request that is not.
    pub fn resolve_all(&self, status: Status) {
        self.each(|pin| {
            for member in 0..self.slot(pin.index).claims.counts().members {
                // It is written soon, unless it is nobody's: what a model is warmed up with.
                while !pin.written.is_set(member) && !pin.resolved.is_set(member) {
                    std::thread::yield_now();
                }
                if pin.written.is_set(member) {
                    self.resolve_member(pin, member, status);
                }
            }
        });
        self.wait_settled(u64::MAX);
    }

    // ---- completion queues, which live as long as the table

    /// A completion queue with this capacity.
    pub fn new_queue(&self, capacity: u32) -> Arc<CompletionQueue> {
        let mut queues = lock(&self.queues);
        if let Some(queue) = queues.spare.pop() {
            queue.begin(capacity);
            return queue;
        }
        let queue = Arc::new(CompletionQueue::new(capacity));
        queues.all.push(Arc::clone(&queue));
        queue
    }

    /// Takes a queue back that nobody uses any more, and to which nothing is outstanding.
    pub fn put_queue(&self, queue: &Arc<CompletionQueue>) {
        queue.end();
        lock(&self.queues).spare.push(Arc::clone(queue));
    }

    /// Takes a queue back that nobody uses any more; what is outstanding to it is thrown away when it comes.
    pub fn put_queue_when_done(&self, queue: &Arc<CompletionQueue>) {
        match queue.outstanding() {
            0 => self.put_queue(queue),
            _ => queue.abandon(self),
        }
    }

    /// There is one more place, or one less, that a request keeps and does not use.
    pub fn idle_places(&self, change: i64) {
        self.idle_places.fetch_add(change as u64, Ordering::Relaxed);
    }

    /// Every queue that was ever made.
    pub fn all_queues(&self) -> Vec<Arc<CompletionQueue>> {
        lock(&self.queues).all.clone()
    }
}
