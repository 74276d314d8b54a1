//! Blocks that nobody uses, by class, the last used one on top. Putting and taking one takes no lock.

use crate::stack::{FreeList, following};
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, Ordering};
use std::ptr::NonNull;
use std::sync::OnceLock;

/// A block's description. Apart from the link, it is written only by the block's owner.
struct Slot {
    next: AtomicU32,
    class: AtomicU32,
    bytes: AtomicU64,
    address: AtomicPtr<u8>,
    /// When the block was put here; 0: it is in use.
    used_ns: AtomicU64,
}

/// Shelves for blocks of `CLASSES` classes, which are described in up to `CHUNKS` chunks of `CHUNK` slots.
pub struct Shelves<const CLASSES: usize, const CHUNK: usize, const CHUNKS: usize> {
    /// Idle blocks, by class.
    idle: [FreeList; CLASSES],
    /// Slots that describe no block.
    vacant: FreeList,
    chunks: [OnceLock<Box<[Slot]>>; CHUNKS],
    /// Slots in use or used before.
    made: AtomicU32,
    /// At least the bytes of all idle blocks.
    bytes: AtomicU64,
}

/// A block that was on a shelf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub index: u32,
    pub address: NonNull<u8>,
    pub bytes: u64,
}

impl<const CLASSES: usize, const CHUNK: usize, const CHUNKS: usize> Shelves<CLASSES, CHUNK, CHUNKS> {
    pub fn new() -> Self {
        Shelves {
            idle: std::array::from_fn(|_| FreeList::default()),
            vacant: FreeList::default(),
            chunks: std::array::from_fn(|_| OnceLock::new()),
            made: AtomicU32::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    #[inline]
    fn slot(&self, index: u32) -> &Slot {
        let chunk = self.chunks[index as usize / CHUNK].get_or_init(Self::new_chunk);
        &chunk[index as usize % CHUNK]
    }

    #[cold]
    fn new_chunk() -> Box<[Slot]> {
        let slot = |_| Slot {
            next: AtomicU32::new(0),
            class: AtomicU32::new(0),
            bytes: AtomicU64::new(0),
            address: AtomicPtr::new(std::ptr::null_mut()),
            used_ns: AtomicU64::new(0),
        };
        (0..CHUNK).map(slot).collect()
    }

    /// The bytes of idle blocks.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Finds a slot for a block that is in use; `None`: there is none left.
    pub fn describe(&self, address: NonNull<u8>, class: usize, bytes: u64) -> Option<u32> {
        let index = self.vacant.pop(|index| &self.slot(index).next).or_else(|| self.make_slot())?;
        let slot = self.slot(index);
        slot.class.store(class as u32, Ordering::Relaxed);
        slot.bytes.store(bytes, Ordering::Relaxed);
        slot.address.store(address.as_ptr(), Ordering::Relaxed);
        Some(index)
    }

    fn make_slot(&self) -> Option<u32> {
        let mut made = self.made.load(Ordering::Relaxed);
        while (made as usize) < CHUNK * CHUNKS {
            match self.made.compare_exchange_weak(made, made + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(made),
                Err(now) => made = now,
            }
        }
        None
    }

    /// Lets go of the slot of a block that its owner frees.
    pub fn forget(&self, index: u32) {
        self.vacant.push(index, &self.slot(index).next);
    }

    /// Takes the block of a class that was used last.
    #[inline]
    pub fn take(&self, class: usize) -> Option<Taken> {
        let index = self.idle[class].pop(|index| &self.slot(index).next)?;
        Some(self.taken(index))
    }

    fn taken(&self, index: u32) -> Taken {
        let slot = self.slot(index);
        slot.used_ns.store(0, Ordering::Relaxed);
        let bytes = slot.bytes.load(Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        // Never null: every slot on a shelf describes a block.
        let address = NonNull::new(slot.address.load(Ordering::Relaxed)).unwrap_or(NonNull::dangling());
        Taken { index, address, bytes }
    }

    /// Puts a block back that is no longer used, unless there would then be more than `limit` bytes. `now_ns` is not 0.
    #[inline]
    pub fn put(&self, index: u32, now_ns: u64, limit: u64) -> bool {
        let slot = self.slot(index);
        let bytes = slot.bytes.load(Ordering::Relaxed);
        // Counted first, so that there are never more.
        if self.bytes.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > limit {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        slot.used_ns.store(now_ns, Ordering::Relaxed);
        self.idle[slot.class.load(Ordering::Relaxed) as usize].push(index, &slot.next);
        true
    }

    /// Takes blocks that were last used at `until_ns` or before, those first that were unused the longest, until there
    /// are `needed` bytes of them. The others keep their order, but whoever takes one meanwhile may find none.
    ///
    /// What others do at the same time may make it take less, or not quite the oldest.
    pub fn take_oldest(&self, needed: u64, until_ns: u64) -> Vec<Taken> {
        let mut candidates: Vec<(u64, u64, u32)> = (0..self.made.load(Ordering::Relaxed))
            .filter_map(|index| {
                let slot = self.slot(index);
                let used_ns = slot.used_ns.load(Ordering::Relaxed);
                let class = slot.class.load(Ordering::Relaxed);
                (1..=until_ns)
                    .contains(&used_ns)
                    .then(|| (used_ns, slot.bytes.load(Ordering::Relaxed), class))
            })
            .collect();
        candidates.sort_unstable();
        let mut bytes = 0u64;
        let enough = candidates.iter().position(|candidate| {
            bytes = bytes.saturating_add(candidate.1);
            bytes >= needed
        });
        candidates.truncate(if needed == 0 { 0 } else { enough.map_or(candidates.len(), |last| last + 1) });
        let Some(&(last_ns, ..)) = candidates.last() else { return Vec::new() };
        let mut classes: Vec<u32> = candidates.iter().map(|&(_, _, class)| class).collect();
        classes.sort_unstable();
        classes.dedup();

        let (mut taken, mut bytes) = (Vec::new(), 0u64);
        for class in classes {
            let list = &self.idle[class as usize];
            let newest_first =
                std::iter::successors(list.take_all(), |&index| following(&self.slot(index).next));
            let all: Vec<u32> = newest_first.collect();
            for index in all.into_iter().rev() {
                let slot = self.slot(index);
                if bytes < needed && slot.used_ns.load(Ordering::Relaxed) <= last_ns {
                    bytes = bytes.saturating_add(slot.bytes.load(Ordering::Relaxed));
                    taken.push(self.taken(index));
                } else {
                    list.push(index, &slot.next);
                }
            }
        }
        taken
    }
}
