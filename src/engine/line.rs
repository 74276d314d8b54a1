//! Lines: where requests of the same shapes meet. Each has an open batch for each priority, and batches to use again.

use super::batch::Batch;
use super::table::{OPEN_HOLDS, Table};
use crate::backend::{Layout, Memory, Part};
use crate::clock::now_ns;
use crate::error::Result;
use crate::memory::Pool;
use crate::metrics::Traffic;
use crate::router::Limits;
use crate::scheduler::policy::LEVELS;
use crate::scheduler::roster::{Claim, Counts, MAX_MEMBERS};
use crate::stack::FreeList;
use crate::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering, lock};
use crate::tensor::{DType, Dim, Shape, Signature, size_bytes};
use smallvec::SmallVec;
use std::sync::{Arc, OnceLock};

/// What tells lines of a model apart: how requests are run, and the sizes of all axes that are not joined.
pub type Key = SmallVec<[i64; 16]>;

/// How the requests of a line are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rows of several requests are joined.
    Joined,
    /// One request at a time, in memory of the batch's.
    Single,
    /// One request at a time, with tensors of its own.
    Bare,
    /// Jobs, such as loading a model: nothing is run.
    Jobs,
}

pub struct Line {
    kind: Kind,
    key: Key,
    layout: Option<Arc<Layout>>,
    /// The most rows in one batch, as it is just now; of its model.
    max_rows: Arc<AtomicUsize>,
    /// The layout of the batches that were made last, if theirs is not `layout`.
    resized: Mutex<Option<Arc<Layout>>>,
    signature: Arc<Signature>,
    pub traffic: Arc<Traffic>,
    /// Of its model.
    pub limits: Option<Arc<Limits>>,
    model_id: AtomicU64,
    shape_room: usize,
    /// The batch that members may join, by priority: generation and index plus one; 0: none.
    open: [AtomicU64; LEVELS],
    /// Batches to use again.
    pub free: FreeList,
    retired: AtomicBool,
    /// Its model is not in memory: nothing that is made for the model is kept.
    away: AtomicBool,
    /// Where its batches have their memory, if not in the engine's pool.
    pool: OnceLock<Arc<Pool>>,
}

/// What a lane sees of a batch that members may still join.
#[derive(Clone, Copy)]
pub struct OpenBatch {
    pub level: usize,
    /// To close it by.
    pub word: u64,
    pub rows: usize,
    pub oldest_ns: u64,
}

/// A place in a batch, claimed and not yet written.
pub struct Seat {
    pub index: u32,
    pub generation: u32,
    pub member: usize,
    pub first_row: usize,
}

fn pack(generation: u32, index: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index + 1)
}

fn unpack(word: u64) -> Option<(u32, u32)> {
    Some(((word >> 32) as u32, (word as u32).checked_sub(1)?))
}

impl Line {
    pub fn new(
        kind: Kind,
        key: Key,
        layout: Option<Layout>,
        signature: &Arc<Signature>,
        traffic: &Arc<Traffic>,
        limits: Option<&Arc<Limits>>,
        max_rows: &Arc<AtomicUsize>,
    ) -> Arc<Self> {
        let joined = layout.as_ref().filter(|layout| layout.joined);
        Arc::new(Line {
            shape_room: joined.map_or(0, |_| signature.outputs.iter().map(|spec| spec.dims.len()).sum()),
            kind,
            key,
            layout: layout.map(Arc::new),
            max_rows: Arc::clone(max_rows),
            resized: Mutex::new(None),
            signature: Arc::clone(signature),
            traffic: Arc::clone(traffic),
            limits: limits.cloned(),
            model_id: AtomicU64::new(0),
            open: Default::default(),
            free: FreeList::default(),
            retired: AtomicBool::new(false),
            away: AtomicBool::new(false),
            pool: OnceLock::new(),
        })
    }

    /// Has batches made in this pool, rather than in the engine's. Before there are any.
    pub fn use_pool(&self, pool: &Arc<Pool>) {
        let _ = self.pool.set(Arc::clone(pool));
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn key(&self) -> &Key {
        &self.key
    }

    pub fn is_for_jobs(&self) -> bool {
        self.kind == Kind::Jobs
    }

    /// The layout of its batches, but for how many rows each has room for: see `Batch::layout`.
    pub fn layout(&self) -> Option<&Arc<Layout>> {
        self.layout.as_ref()
    }

    /// The most rows in one batch, as it is just now.
    #[inline]
    pub fn max_rows(&self) -> usize {
        match &self.layout {
            Some(layout) if layout.joined => self.max_rows.load(Ordering::Relaxed),
            _ => 1,
        }
    }

    /// The layout of batches with room for so many rows.
    fn layout_of(&self, max_rows: usize) -> Option<Arc<Layout>> {
        let layout = self.layout.as_ref()?;
        if !layout.joined || layout.max_rows == max_rows {
            return Some(Arc::clone(layout));
        }
        let mut resized = lock(&self.resized);
        if let Some(known) = resized.as_ref().filter(|known| known.max_rows == max_rows) {
            return Some(Arc::clone(known));
        }
        let new = Arc::new(Layout { max_rows, ..Layout::clone(layout) });
        *resized = Some(Arc::clone(&new));
        Some(new)
    }

    /// Bytes of memory that each of its new batches has.
    pub fn memory_bytes(&self) -> u64 {
        self.layout.as_ref().map_or(0, |layout| layout.block_bytes_of(self.max_rows()))
    }

    pub fn signature(&self) -> &Arc<Signature> {
        &self.signature
    }

    pub fn outputs_count(&self) -> u32 {
        self.signature.outputs.len() as u32
    }

    /// Sizes to keep for each member: those of all its outputs.
    pub fn shape_room(&self) -> usize {
        self.shape_room
    }

    pub fn model_id(&self) -> u64 {
        self.model_id.load(Ordering::Relaxed)
    }

    pub fn set_model_id(&self, id: u64) {
        self.model_id.store(id, Ordering::Relaxed);
    }

    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::SeqCst)
    }

    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::SeqCst)
    }

    /// Says whether the model is in memory. When it leaves, free batches are freed.
    pub fn set_away(&self, away: bool, table: &Table) {
        self.away.store(away, Ordering::SeqCst);
        if away {
            table.free_batches(self);
        }
    }

    /// Frees the batches that are free, and has the others freed when they are. Nobody joins any more.
    pub fn retire(&self, table: &Table) {
        self.retired.store(true, Ordering::SeqCst);
        for open in &self.open {
            if let Some((generation, index)) = unpack(open.swap(0, Ordering::SeqCst))
                && table.slot(index).claims.close_empty(generation)
            {
                table.let_go(index, OPEN_HOLDS);
            }
        }
        table.free_batches(self);
    }

    /// Frees free batches, but for `keep` of them that are of the right size.
    pub fn trim(&self, table: &Table, keep: usize) {
        let mut kept: SmallVec<[u32; 16]> = SmallVec::new();
        while kept.len() < keep
            && let Some(index) = table.take_free(&self.free)
        {
            match table.room(index) == self.max_rows() {
                true => kept.push(index),
                false => table.free_batch(index),
            }
        }
        table.free_batches(self);
        // In the same order as before: the last one used is the first one used again.
        kept.iter().rev().for_each(|&index| table.put_free(&self.free, index));
        if self.is_retired() || self.is_away() {
            table.free_batches(self);
        }
    }

    /// A free batch with room for so many rows at least, which the caller owns: one that was used before, or a new one.
    fn take(self: &Arc<Self>, table: &Arc<Table>, pool: &Arc<Pool>, rows: usize) -> Result<u32> {
        let most = self.max_rows().max(rows);
        while let Some(index) = table.take_free(&self.free) {
            if table.room(index) >= most {
                return Ok(index);
            }
            table.free_batch(index); // from when batches had fewer rows
        }
        self.make(table, pool, most).or_else(|error| match &self.layout {
            // There is no room for batches as large as they are to be now; but for those that the model began with, there
            // was.
            Some(layout) if layout.max_rows < most && layout.max_rows >= rows => {
                self.make(table, pool, layout.max_rows)
            }
            _ => Err(error),
        })
    }

    #[cold]
    fn make(self: &Arc<Self>, table: &Arc<Table>, pool: &Arc<Pool>, max_rows: usize) -> Result<u32> {
        let layout = self.layout_of(max_rows);
        let memory = match &layout {
            Some(layout) => Some(Memory::new(layout, self.pool.get().unwrap_or(pool))?),
            None => None,
        };
        let index = table.allocate()?;
        let batch = Batch::new(Arc::clone(table), index, Arc::clone(self), layout, memory);
        table.install(Box::new(batch));
        Ok(index)
    }

    /// Claims a place for a request of so many rows in the open batch. Batches that are full are handed to `closed`,
    /// with one hold for the lane.
    pub fn join(
        self: &Arc<Self>,
        table: &Arc<Table>,
        pool: &Arc<Pool>,
        level: usize,
        rows: usize,
        closed: impl Fn(u32),
    ) -> Result<Seat> {
        let open = &self.open[level];
        loop {
            let word = open.load(Ordering::SeqCst);
            let Some((generation, index)) = unpack(word) else {
                let index = self.take(table, pool, rows)?;
                let generation = table.begin(index, level, OPEN_HOLDS, None);
                let new = pack(generation, index);
                if open.compare_exchange(0, new, Ordering::SeqCst, Ordering::Relaxed).is_err() {
                    // Somebody else was faster.
                    table.slot(index).claims.close_empty(generation);
                    table.let_go(index, OPEN_HOLDS);
                }
                continue;
            };
            let unlink = || {
                let _ = open.compare_exchange(word, 0, Ordering::SeqCst, Ordering::Relaxed);
            };
            // What was admitted when batches had more rows goes all the same, as far as there is room.
            let room = table.room(index);
            let max_rows = self.max_rows().max(rows).min(room);
            match table.slot(index).claims.claim(generation, rows, max_rows, room.min(MAX_MEMBERS)) {
                Claim::Place { member, first_row, closed: full } => {
                    if let Some(counts) = full {
                        unlink();
                        settle_holds(table, index, counts);
                        closed(index);
                    }
                    return Ok(Seat { index, generation, member, first_row });
                }
                Claim::Closed(counts) if counts.members == 0 => {
                    unlink(); // it is too small for this request
                    table.let_go(index, OPEN_HOLDS);
                }
                Claim::Closed(counts) => {
                    unlink();
                    settle_holds(table, index, counts);
                    closed(index);
                }
                Claim::Gone => unlink(),
            }
        }
    }

    /// A batch for one request alone, which nobody else can join; the caller is its lane.
    pub fn alone(
        self: &Arc<Self>,
        table: &Arc<Table>,
        pool: &Arc<Pool>,
        level: usize,
        rows: usize,
    ) -> Result<Seat> {
        let index = self.take(table, pool, rows)?;
        let generation = table.begin(index, level, 2, Some(Counts { members: 1, rows }));
        Ok(Seat { index, generation, member: 0, first_row: 0 })
    }

    /// Whether somebody has joined an open batch.
    pub fn has_members(&self, table: &Table) -> bool {
        self.open.iter().any(|open| {
            unpack(open.load(Ordering::SeqCst)).is_some_and(|(generation, index)| {
                table.slot(index).claims.peek(generation).is_some_and(|counts| counts.members > 0)
            })
        })
    }

    /// The open batches that somebody has joined.
    pub fn each_open(&self, table: &Table, mut look: impl FnMut(OpenBatch)) {
        for (level, open) in self.open.iter().enumerate() {
            let word = open.load(Ordering::SeqCst);
            let Some((generation, index)) = unpack(word) else { continue };
            let slot = table.slot(index);
            let Some(counts) = slot.claims.peek(generation).filter(|counts| counts.members > 0) else {
                continue;
            };
            let oldest_ns = slot.oldest_ns.load(Ordering::Relaxed);
            // Somebody who has claimed and not yet written has come just now.
            let oldest_ns = if oldest_ns == u64::MAX { now_ns() } else { oldest_ns };
            look(OpenBatch { level, word, rows: counts.rows, oldest_ns });
        }
    }

    /// Closes an open batch, unless somebody else has. The caller gets the lane's hold.
    pub fn close(&self, table: &Table, open: OpenBatch) -> Option<u32> {
        let (level, word) = (open.level, open.word);
        let (generation, index) = unpack(word)?;
        let counts = table.slot(index).claims.close(generation)?;
        let _ = self.open[level].compare_exchange(word, 0, Ordering::SeqCst, Ordering::Relaxed);
        settle_holds(table, index, counts);
        Some(index)
    }
}

/// Gives back the holds of a closed batch that no member has taken; the lane's and the members' are left.
fn settle_holds(table: &Table, index: u32, counts: Counts) {
    table.let_go(index, OPEN_HOLDS - counts.members as u32 - 1);
}

/// The sizes of the symbolic axes that a request's inputs give, by name.
type Sizes<'a> = SmallVec<[(&'a str, i64); 8]>;

/// The layout of requests with these input shapes (`None`: not given). Joined ones have any number of rows.
pub fn layout(
    signature: &Signature,
    shapes: &[Option<Shape>],
    kind: Kind,
    max_rows: usize,
) -> Result<Layout> {
    let joined = kind == Kind::Joined;
    let mut sizes: Sizes<'_> = SmallVec::new();
    let mut inputs = Vec::new();
    for (index, (spec, shape)) in signature.inputs.iter().zip(shapes).enumerate() {
        let Some(shape) = shape else { continue };
        let mut shape = shape.clone();
        if joined {
            shape[0] = 1;
        }
        for (dim, &size) in spec.dims.iter().zip(&shape).skip(usize::from(joined)) {
            if let Dim::Symbolic(name) = dim
                && !name.is_empty()
            {
                sizes.push((name, size));
            }
        }
        inputs.push(Part { index, dtype: spec.dtype, row_bytes: size_bytes(spec.dtype, &shape)?, shape });
    }
    // The same name with two sizes, which models in the wild have, says nothing.
    let size_of_name = |name: &str| -> Option<i64> {
        let mut found = sizes.iter().filter(|(other, _)| *other == name).map(|(_, size)| *size);
        let first = found.next()?;
        found.all(|size| size == first).then_some(first)
    };
    let output = |(index, spec): (usize, &crate::tensor::TensorSpec)| -> Option<Part> {
        let shape: Option<Shape> = spec
            .dims
            .iter()
            .enumerate()
            .map(|(axis, dim)| match dim {
                _ if joined && axis == 0 => Some(1),
                Dim::Fixed(size) => Some(*size),
                Dim::Symbolic(name) if name.is_empty() => None,
                Dim::Symbolic(name) => size_of_name(name),
            })
            .collect();
        let shape = shape.filter(|_| spec.dtype != DType::String && spec.dtype.whole_bytes().is_some())?;
        let row_bytes = size_bytes(spec.dtype, &shape).ok()?;
        Some(Part { index, dtype: spec.dtype, row_bytes, shape })
    };
    let outputs = signature.outputs.iter().enumerate().map(output).collect();
    Ok(Layout { inputs, outputs, max_rows: if joined { max_rows } else { 1 }, joined })
}
