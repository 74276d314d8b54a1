//! A batch: memory for rows, the requests that share it, and what became of them.
//!
//! Who may touch what, and when:
//! - A submitter that has claimed a member's place writes the member, its rows and its extras, and then marks it in
//!   `written`. From there on the member's request is only read.
//! - The lane that has closed the batch, once all members have written, owns the memory, what is prepared for it and
//!   the lap. It may move rows, and take the extras of members that it has resolved.
//! - Whoever sets a member's mark in `resolved` makes its terminal event. The lane writes results before the events
//!   are published; after that they are only read.
//! - When the last hold is let go, its holder owns all of it, and empties it for the next lap.
#![allow(unsafe_code)]

use super::completion::CompletionQueue;
use super::line::Line;
use super::outcome::OWN;
use super::relay::Hop;
use super::stream::Stream;
use super::table::Table;
use crate::backend::{Interrupt, Layout, Memory, Prepared};
use crate::error::{Error, Result, Status};
use crate::memory::Reservation;
use crate::scheduler::roster::{MAX_MEMBERS, Marks};
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering, lock};
use crate::tensor::{CallerBuffer, OutputPlace, Shape, Tensor};
use smallvec::SmallVec;
use std::cell::UnsafeCell;
use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

/// Inputs that a request brings as tensors of its own rather than as rows, in the order of the signature.
pub type Inputs = Vec<Option<Tensor>>;

/// Where a batch is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// In the free list, or being made ready.
    Free,
    /// Members may join, or wait for a lane.
    Queued,
    /// A lane has it.
    Running,
    /// The lane resolves and publishes.
    Finishing,
    /// All is published.
    Done,
}

const PHASES: [Phase; 5] = [Phase::Free, Phase::Queued, Phase::Running, Phase::Finishing, Phase::Done];

/// A request, as its submitter wrote it.
pub struct Request {
    pub submitted_ns: u64,
    /// 0: none.
    pub deadline_ns: u64,
    pub user_data: u64,
    /// Null: its submitter waits for the result itself.
    pub queue: *const CompletionQueue,
    pub rows: u32,
    /// A lane may move it.
    pub first_row: AtomicU32,
    pub flags: Flags,
}

/// Bits of a request.
#[derive(Clone, Copy, Default)]
pub struct Flags {
    /// It has caller's buffers for outputs, or something rare.
    pub extras: bool,
    /// It is a job rather than a request: not counted in the metrics.
    pub job: bool,
    /// It cannot be cancelled.
    pub fixed: bool,
    /// A backend reads the host's own memory while it runs.
    pub lends: bool,
    /// It came through a route, or is bound by a quota: see `relay`.
    pub routed: bool,
    /// It is an attempt for a request that has its ticket elsewhere, or for nobody.
    pub child: bool,
    /// Its model is a stepwise one: see `stream`.
    pub streams: bool,
    /// It has tensors in a device's memory, or wants some: it is run as it is, and once.
    pub on_device: bool,
}

#[repr(align(64))]
pub struct Member {
    request: UnsafeCell<Request>,
    /// The status of its own, if it did not end as the batch did; 0: as the batch.
    pub status: AtomicU32,
    pub link: AtomicU64,
}

/// What few requests need.
#[derive(Default)]
pub struct Cold {
    extras: UnsafeCell<Extras>,
    /// When it was resolved early.
    pub resolved_ns: AtomicU64,
    /// Who has the memory that it lends: see `Lent`.
    pub lent: AtomicU32,
    pub second_link: AtomicU64,
    pub hop: Hop,
    /// How far a job has come, and what its events say of it: see `job`.
    pub progress: AtomicU32,
    /// What it says before it ends.
    pub stream: Mutex<Option<Arc<Stream>>>,
    pub stream_link: AtomicU64,
}

/// States of memory that a request lends. It goes from `HOST` to `LANE` when a lane takes it, to `LET_GO` when the lane
/// is done with it, and to `GIVEN_UP` when the request is resolved early: who comes second finds who was first.
pub struct Lent;

impl Lent {
    pub const HOST: u32 = 0;
    pub const LANE: u32 = 1;
    pub const LET_GO: u32 = 2;
    pub const GIVEN_UP: u32 = 3;
}

#[derive(Default)]
pub struct Extras {
    /// The host's own output memory, by output index.
    pub outputs: SmallVec<[Option<CallerBuffer>; 1]>,
    pub rare: Option<Box<Rare>>,
}

#[derive(Default)]
pub struct Rare {
    /// Instead of rows.
    pub inputs: Option<Arc<Inputs>>,
    /// Where its outputs are to be, if not all of them in host memory.
    pub places: Option<Box<[OutputPlace]>>,
    /// The copied strings' share of the memory budget.
    pub reservation: Option<Reservation>,
    /// The model that the job was about.
    pub model: u64,
    /// Sizes of padded axes as the request gave them: input, axis, size.
    pub sizes: Option<SmallVec<[(usize, usize, i64); 4]>>,
    /// The shapes of its outputs, where they are not those of the batch.
    pub shapes: Option<Vec<Shape>>,
    /// What came out of a run of its own.
    pub text: Option<CString>,
    pub tensors: Option<Vec<Tensor>>,
}

/// What a lane notes down about one use of the batch.
pub struct Lap {
    pub taken_ns: u64,
    pub started_ns: u64,
    pub ended_ns: u64,
    /// Rows in the run.
    pub rows: u32,
    pub status: Status,
    pub text: Option<CString>,
    /// The outputs, unless they are in the batch's memory.
    pub tensors: Option<Vec<Tensor>>,
}

impl Default for Lap {
    fn default() -> Self {
        let status = Status::Ok;
        Lap { taken_ns: 0, started_ns: 0, ended_ns: 0, rows: 0, status, text: None, tensors: None }
    }
}

/// What a backend has made ready for a batch's memory.
struct Ready {
    /// Which backend of the model's it was.
    epoch: u32,
    runs: Box<dyn Prepared>,
}

pub struct Batch {
    /// Kept alive by everything that is handed out of it.
    pub table: Arc<Table>,
    pub index: u32,
    pub line: Arc<Line>,
    layout: Option<Arc<Layout>>,
    pub memory: Option<Arc<Memory>>,
    prepared: UnsafeCell<Option<Ready>>,
    pub members: Box<[Member]>,
    cold: Box<[Cold]>,
    lap: UnsafeCell<Lap>,
    pub written: Marks,
    pub resolved: Marks,
    /// Members that are published with the batch.
    pub published: Marks,
    /// Shapes of outputs of several rows, for the host to look at.
    shapes: Box<[AtomicI64]>,
    phase: AtomicU32,
    pub level: AtomicU32,
    /// The earliest deadline of its members that are written and not resolved, for who looks through all batches.
    pub deadline_ns: AtomicU64,
    /// The earliest deadline that any member ever had, for its lane: there before the member is written.
    pub first_deadline_ns: AtomicU64,
    pub interrupt: Interrupt,
    /// It has routed members.
    routed: AtomicBool,
    /// Held while rows are moved together, and while a request's rows are copied for another attempt.
    pub moving: Mutex<()>,
    /// Which members are profiled, see `spans`; 0: none.
    pub probe: AtomicU64,
    /// Since when it was held open for more rows though a lane was free; 0: it was not.
    pub held_ns: AtomicU64,
    /// When its results were published.
    pub published_ns: AtomicU64,
    /// The member that is run alone just now.
    alone: Mutex<Option<usize>>,
    pub link: AtomicU64,
}

// SAFETY: the cells are shared by the protocol that the module's documentation states; the queue behind the pointer
// in a request lives as long as the table.
unsafe impl Sync for Batch {}
// SAFETY: as above; what is prepared is `Send`.
unsafe impl Send for Batch {}

impl Drop for Batch {
    fn drop(&mut self) {
        let bytes = self.layout.as_ref().map_or(0, |layout| layout.block_bytes());
        self.line.traffic.buffer_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Batch {
    pub fn new(
        table: Arc<Table>,
        index: u32,
        line: Arc<Line>,
        layout: Option<Arc<Layout>>,
        memory: Option<Arc<Memory>>,
    ) -> Self {
        let joined = layout.as_ref().filter(|layout| layout.joined);
        let count = joined.map_or(1, |layout| layout.max_rows.min(MAX_MEMBERS));
        let bytes = layout.as_ref().map_or(0, |layout| layout.block_bytes());
        line.traffic.buffer_bytes.fetch_add(bytes, Ordering::Relaxed);
        let request = || Request {
            submitted_ns: 0,
            deadline_ns: 0,
            user_data: 0,
            queue: std::ptr::null(),
            rows: 0,
            first_row: AtomicU32::new(0),
            flags: Flags::default(),
        };
        let member = |_| Member {
            request: UnsafeCell::new(request()),
            status: AtomicU32::new(0),
            link: AtomicU64::new(0),
        };
        Batch {
            members: (0..count).map(member).collect(),
            cold: (0..count).map(|_| Cold::default()).collect(),
            lap: UnsafeCell::default(),
            written: Marks::new(count),
            resolved: Marks::new(count),
            published: Marks::new(count),
            shapes: (0..count * line.shape_room()).map(|_| AtomicI64::new(0)).collect(),
            phase: AtomicU32::new(Phase::Free as u32),
            level: AtomicU32::new(0),
            deadline_ns: AtomicU64::new(u64::MAX),
            first_deadline_ns: AtomicU64::new(u64::MAX),
            interrupt: Interrupt::new(),
            routed: AtomicBool::new(false),
            moving: Mutex::new(()),
            alone: Mutex::new(None),
            probe: AtomicU64::new(0),
            held_ns: AtomicU64::new(0),
            published_ns: AtomicU64::new(0),
            link: AtomicU64::new(0),
            prepared: UnsafeCell::new(None),
            layout,
            memory,
            table,
            index,
            line,
        }
    }

    /// What is where in its memory; `None`: it has none.
    pub fn layout(&self) -> Option<&Arc<Layout>> {
        self.layout.as_ref()
    }

    pub fn phase(&self) -> Phase {
        PHASES[self.phase.load(Ordering::SeqCst) as usize]
    }

    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u32, Ordering::SeqCst);
    }

    /// Readies it for another lap. Only for its owner.
    pub fn reset(&self, level: usize) {
        for marks in [&self.written, &self.resolved, &self.published] {
            marks.clear();
        }
        self.level.store(level as u32, Ordering::Relaxed);
        self.deadline_ns.store(u64::MAX, Ordering::Relaxed);
        self.first_deadline_ns.store(u64::MAX, Ordering::Relaxed);
        self.interrupt.lower();
        self.routed.store(false, Ordering::Relaxed);
        self.probe.store(0, Ordering::Relaxed);
        self.held_ns.store(0, Ordering::Relaxed);
        self.phase.store(Phase::Queued as u32, Ordering::Relaxed);
    }

    /// Frees what the lap has left. Only for its owner.
    ///
    /// # Safety
    /// The caller is the owner: the last hold was let go by it.
    pub unsafe fn empty(&self, members: usize) {
        self.set_phase(Phase::Free);
        // SAFETY: promised by the caller.
        unsafe {
            let lap = &mut *self.lap.get();
            (lap.text, lap.tensors) = (None, None);
            for member in 0..members.min(self.members.len()) {
                let own = self.members[member].status.load(Ordering::Relaxed) & OWN != 0;
                let flags = (*self.members[member].request.get()).flags;
                if flags.streams {
                    *lock(&self.cold[member].stream) = None;
                }
                if own || flags.extras {
                    *self.cold[member].extras.get() = Extras::default();
                }
            }
        }
    }

    /// Writes a member's request and extras, before it is marked as written.
    ///
    /// # Safety
    /// The caller has claimed the place and has not yet marked it as written.
    #[inline]
    pub unsafe fn write_member(&self, member: usize, request: Request, extras: Option<Extras>) {
        let place = &self.members[member];
        if request.flags.routed || request.flags.child {
            self.routed.store(true, Ordering::Relaxed);
        }
        if request.flags.lends {
            self.cold[member].lent.store(Lent::HOST, Ordering::Relaxed);
        }
        // SAFETY: promised by the caller.
        unsafe {
            if let Some(extras) = extras {
                *self.cold[member].extras.get() = extras;
            }
            *place.request.get() = request;
        }
        place.status.store(0, Ordering::Relaxed);
    }

    /// Whether some members are routed. For whoever sees them as written.
    #[inline]
    pub fn has_routed(&self) -> bool {
        self.routed.load(Ordering::Relaxed)
    }

    /// A member's request.
    ///
    /// # Safety
    /// It is written, and the caller has a hold on the batch.
    #[inline]
    pub unsafe fn request(&self, member: usize) -> &Request {
        // SAFETY: promised by the caller.
        unsafe { &*self.members[member].request.get() }
    }

    /// The bits of a member's request, if it is written; for who has a hold on the batch.
    pub fn flags(&self, member: usize) -> Option<Flags> {
        // SAFETY: written, and held.
        self.written.is_set(member).then(|| unsafe { self.request(member) }.flags)
    }

    /// When a member that is written was submitted; for who has a hold on the batch.
    pub fn submitted_ns(&self, member: usize) -> u64 {
        // SAFETY: written, and held.
        unsafe { self.request(member) }.submitted_ns
    }

    /// The deadline of a member that is written; 0: none.
    pub fn deadline_of(&self, member: usize) -> u64 {
        // SAFETY: written, and held.
        unsafe { self.request(member) }.deadline_ns
    }

    /// Takes note of how much time a member with a deadline was given; for who has a hold on the batch.
    pub fn note_patience(&self, member: usize) {
        let (deadline_ns, submitted_ns) = (self.deadline_of(member), self.submitted_ns(member));
        if deadline_ns != 0
            && let Some(counted) = self.line.traffic.times()
        {
            counted.patience.record(deadline_ns.saturating_sub(submitted_ns));
        }
    }

    /// Members among the first ones that are children, and not resolved.
    pub fn unresolved_children(&self, members: usize) -> u64 {
        let is_child = |&member: &usize| {
            !self.resolved.is_set(member) && self.flags(member).is_some_and(|flags| flags.child)
        };
        (0..members).filter(is_child).count() as u64
    }

    pub fn cold(&self, member: usize) -> &Cold {
        &self.cold[member]
    }

    /// A member's extras, to read.
    ///
    /// # Safety
    /// The member is published, and the caller has a hold on the batch.
    pub unsafe fn extras(&self, member: usize) -> &Extras {
        // SAFETY: promised by the caller.
        unsafe { &*self.cold[member].extras.get() }
    }

    /// A member's extras, to change.
    ///
    /// # Safety
    /// The caller is the lane that runs the batch; the member was not resolved by anybody else, or nobody reads its
    /// extras.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn extras_mut(&self, member: usize) -> &mut Extras {
        // SAFETY: promised by the caller.
        unsafe { &mut *self.cold[member].extras.get() }
    }

    /// The lap's notes.
    ///
    /// # Safety
    /// The caller is the lane, or has a hold after publication.
    pub unsafe fn lap(&self) -> &Lap {
        // SAFETY: promised by the caller.
        unsafe { &*self.lap.get() }
    }

    /// The lap's notes, to write.
    ///
    /// # Safety
    /// The caller is the lane, and nothing is published yet.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn lap_mut(&self) -> &mut Lap {
        // SAFETY: promised by the caller.
        unsafe { &mut *self.lap.get() }
    }

    /// What the model's backend of this epoch has made ready, or makes ready now.
    ///
    /// # Safety
    /// The caller is the lane.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn prepared(
        &self,
        epoch: u32,
        make: impl FnOnce() -> Result<Box<dyn Prepared>>,
    ) -> Result<&mut dyn Prepared> {
        // SAFETY: promised by the caller.
        let place = unsafe { &mut *self.prepared.get() };
        if place.as_ref().is_none_or(|ready| ready.epoch != epoch) {
            self.interrupt.set_stopper(None);
            *place = None; // before the new one is made, so that there are never two
            let runs = make()?;
            self.interrupt.set_stopper(runs.stopper());
            *place = Some(Ready { epoch, runs });
        }
        match place {
            Some(ready) => Ok(&mut *ready.runs),
            None => Err(Error::new(Status::Internal, "a batch is not prepared")),
        }
    }

    /// Frees what was made ready, with whatever it keeps of the backend.
    ///
    /// # Safety
    /// The caller is the owner, or the model gives out no batches and the caller has a hold.
    pub unsafe fn forget_prepared(&self) {
        self.interrupt.set_stopper(None);
        // SAFETY: promised by the caller.
        unsafe { *self.prepared.get() = None };
    }

    /// The room for a member's output shapes.
    pub fn shape_room(&self, member: usize) -> &[AtomicI64] {
        let room = self.line.shape_room();
        &self.shapes[member * room..(member + 1) * room]
    }

    /// Says that `member` is run alone from now on, or that no one is.
    pub fn set_alone(&self, member: Option<usize>) {
        // Under the lock, so that nobody interrupts the run of one member for the sake of another.
        let mut alone = lock(&self.alone);
        *alone = member;
        self.interrupt.lower();
    }

    /// After `member` was resolved early: interrupts the run if nobody else wants it.
    pub fn interrupt_if_unwanted(&self, member: usize) {
        // Before the look at who has joined: of a batch that is open somebody may join, and have it run, in between. If
        // it runs from now on, its lane sees who is resolved.
        if self.phase() != Phase::Running {
            return;
        }
        let alone = lock(&self.alone);
        let counts = self.table.slot(self.index).claims.counts();
        let unwanted = match *alone {
            Some(running) => running == member,
            None => self.resolved.all_set(counts.members),
        };
        if unwanted && self.phase() == Phase::Running {
            self.interrupt.raise();
        }
    }
}
