//! Tests of the pool.

use super::super::space::{HostSpace, Supplied};
use super::*;
use crate::memory::Relief;
use std::alloc::Layout;
use std::ffi::c_void;
use std::sync::Weak;
use std::sync::atomic::AtomicUsize;

fn pool(limit: Option<u64>) -> (Arc<Pool>, Arc<Ledger>) {
    let ledger = Ledger::new(limit);
    (Pool::new(Arc::clone(&ledger), Box::new(HostSpace)), ledger)
}

/// Drops blocks of these sizes, one after the other in time.
fn leave(pool: &Arc<Pool>, sizes: &[usize]) {
    let blocks: Vec<Block> = sizes.iter().map(|&size| pool.take(size).unwrap()).collect();
    for block in blocks {
        let before = now_ns();
        while now_ns() == before {}
        drop(block);
    }
}

fn fill(block: &Block, byte: u8) {
    // SAFETY: the block is the test's alone.
    unsafe { block.address().write_bytes(byte, block.size()) };
}

fn bytes(block: &Block) -> &[u8] {
    // SAFETY: the block is the test's alone.
    unsafe { std::slice::from_raw_parts(block.address(), block.size()) }
}

#[test]
fn a_block_is_used_again_by_its_class_the_last_one_first() {
    let (pool, ledger) = pool(None);
    let (first, second) = (pool.take(1000).unwrap(), pool.take(1000).unwrap());
    assert!(first.address().addr().is_multiple_of(64) && first.is_zeroed() && first.size() == 1000);
    assert!(bytes(&first).iter().all(|&byte| byte == 0));
    let (older, newer) = (first.address(), second.address());
    drop(first);
    drop(second);
    assert_eq!((pool.idle_bytes(), ledger.used_by(Kind::Buffers)), (2048, 2048));
    let again = pool.take(897).unwrap();
    assert_eq!((again.address(), again.size(), again.is_zeroed()), (newer, 897, false));
    assert_eq!(pool.take(1024).unwrap().address(), older);
    assert_ne!(pool.take(896).unwrap().address(), older, "another class");
    drop(again);
    drop(pool);
    assert_eq!(ledger.used(), 0);
}

#[test]
fn exact_blocks_are_never_pooled() {
    let (pool, ledger) = pool(Some(10_000));
    let block = pool.take_exact(1025, Kind::Models).unwrap();
    assert!(bytes(&block).iter().all(|&byte| byte == 0));
    assert_eq!((ledger.used_by(Kind::Models), block.size()), (1088, 1025));
    drop(block);
    assert_eq!((ledger.used(), pool.idle_bytes()), (0, 0));
    leave(&pool, &[4096, 4096]);
    drop(pool.take_exact(9000, Kind::Models).unwrap());
    assert_eq!((ledger.used(), pool.idle_bytes()), (0, 0), "idle blocks have made room");
    assert_eq!(pool.take_exact(10_001, Kind::Caches).err().unwrap().status, Status::OverBudget);
}

#[test]
fn trimming_frees_what_was_unused_the_longest() {
    let (pool, ledger) = pool(None);
    leave(&pool, &[1024, 64, 1024, 128, 1024]);
    assert_eq!(pool.trim(1 << 20), 0);
    assert_eq!(pool.trim(2240), 1024);
    assert_eq!(pool.trim(2239), 64, "from another class");
    assert_eq!(pool.trim(1025), 1024 + 128);
    assert_eq!((pool.idle_bytes(), ledger.used()), (1024, 1024));
    assert_eq!((pool.trim(0), ledger.used()), (1024, 0));
}

#[test]
fn what_is_kept_is_kept_in_order() {
    let (pool, _) = pool(None);
    let blocks = [(); 4].map(|()| pool.take(512).unwrap());
    let addresses = blocks.each_ref().map(Block::address);
    for block in blocks {
        let before = now_ns();
        while now_ns() == before {}
        drop(block);
    }
    assert_eq!(pool.trim(1536), 512);
    let again = [(); 4].map(|()| pool.take(512).unwrap());
    assert_eq!(again.each_ref().map(Block::address)[..3], [addresses[3], addresses[2], addresses[1]]);
    assert!(again[3].is_zeroed());
}

#[test]
fn trimming_by_age_leaves_what_was_used_lately() {
    let (pool, ledger) = pool(None);
    leave(&pool, &[64, 128]);
    let then = now_ns();
    while now_ns() == then {}
    leave(&pool, &[256]);
    assert_eq!(pool.trim_older(then, u64::MAX), 0);
    assert_eq!(pool.trim_older(then + 1000, 1000), 192);
    assert_eq!((pool.trim_older(now_ns(), 0), ledger.used()), (256, 0));
}

#[test]
fn idle_bytes_keep_to_their_limit() {
    let (pool, ledger) = pool(None);
    pool.set_limit(4096);
    leave(&pool, &[1024; 4]);
    assert_eq!((pool.idle_bytes(), ledger.used()), (4096, 4096));
    let larger = pool.take(2048).unwrap();
    assert_eq!(ledger.used(), 6144);
    drop(larger);
    assert_eq!((pool.idle_bytes(), ledger.used()), (4096, 4096), "the oldest two have gone");
    drop(pool.take(8192).unwrap());
    assert_eq!((pool.idle_bytes(), ledger.used()), (4096, 4096), "there was never room for it");
    pool.set_limit(2048);
    assert_eq!(ledger.used(), 2048);
    pool.set_limit(0);
    drop(pool.take(1).unwrap());
    assert_eq!((pool.idle_bytes(), ledger.used()), (0, 0));
}

#[test]
fn idle_blocks_go_before_the_ledger_refuses() {
    let (pool, ledger) = pool(Some(4096));
    leave(&pool, &[1024, 512, 1024]);
    let block = pool.take(2048).unwrap();
    assert_eq!((ledger.used(), pool.idle_bytes()), (512 + 1024 + 2048, 1536));
    let rest = pool.take(2048).unwrap();
    assert_eq!((ledger.used(), pool.idle_bytes()), (4096, 0), "exactly the limit fits");
    let error = pool.take(1).err().unwrap();
    assert_eq!(error.status, Status::OverBudget);
    drop((block, rest));
    drop(pool.take(1).unwrap());
    assert_eq!(ledger.used(), 2048 + 64);
}

struct OtherPool(Weak<Pool>);

impl Relief for OtherPool {
    fn relieve(&self, bytes: u64) -> bool {
        let pool = self.0.upgrade().unwrap();
        pool.trim(pool.idle_bytes().saturating_sub(bytes));
        false
    }
}

#[test]
fn relief_may_trim_pools() {
    let (pool, ledger) = pool(Some(4096));
    let other = Pool::new(Arc::clone(&ledger), Box::new(HostSpace));
    ledger.set_relief(Box::new(OtherPool(Arc::downgrade(&other))));
    leave(&other, &[1024; 4]);
    let block = pool.take(2048).unwrap();
    assert_eq!((ledger.used(), other.idle_bytes()), (4096, 2048));
    assert_eq!(pool.take(2049).err().unwrap().status, Status::OverBudget);
    drop(block);
}

#[test]
fn too_much_is_an_error_that_names_the_bytes() {
    let (pool, ledger) = pool(None);
    for size in [isize::MAX as usize - 4096, usize::MAX / 2] {
        let error = pool.take(size).err().unwrap();
        assert_eq!(error.status, Status::OutOfMemory);
        assert!(error.message.contains(&format!("cannot allocate {size} bytes")), "{error}");
        assert_eq!(pool.take_exact(size, Kind::Models).err().unwrap().status, Status::OutOfMemory);
    }
    assert_eq!(ledger.used(), 0);
}

#[test]
fn a_block_can_be_taken_apart() {
    assert!(size_of::<RawBlock>() <= 48, "it goes into a header of 64 bytes, beside other things");
    let (pool, ledger) = pool(None);
    let raws = [pool.take(100).unwrap(), pool.take_exact(100, Kind::Caches).unwrap()].map(Block::into_raw);
    drop(pool);
    assert_eq!((ledger.used(), raws[0].size()), (256, 100));
    for raw in raws {
        // SAFETY: taken apart just now.
        let block = unsafe { Block::from_raw(raw) };
        assert_eq!((block.address(), block.size()), (raw.address(), 100));
    }
    assert_eq!(ledger.used(), 0, "the last block has ended the pool");
}

/// What callbacks of the host's have counted.
#[derive(Default)]
struct Counts {
    allocated: AtomicUsize,
    freed: AtomicUsize,
    /// Added to addresses.
    offset: AtomicUsize,
    is_empty: AtomicUsize,
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size + 64, 64).unwrap()
}

unsafe extern "C" fn allocate(user: *mut c_void, size: usize, alignment: usize) -> *mut c_void {
    assert_eq!(alignment, 64);
    // SAFETY: the test's own counts.
    let counts = unsafe { &*user.cast::<Counts>() };
    if counts.is_empty.load(Ordering::SeqCst) != 0 {
        return std::ptr::null_mut();
    }
    counts.allocated.fetch_add(size, Ordering::SeqCst);
    // SAFETY: not of size 0, and with room for the offset.
    unsafe {
        let address = std::alloc::alloc(layout(size));
        address.write_bytes(0xAA, size + 64);
        address.add(counts.offset.load(Ordering::SeqCst)).cast()
    }
}

unsafe extern "C" fn free(user: *mut c_void, address: *mut c_void, size: usize) {
    // SAFETY: the test's own counts.
    let counts = unsafe { &*user.cast::<Counts>() };
    counts.freed.fetch_add(size, Ordering::SeqCst);
    // SAFETY: allocated above with the same size and offset.
    unsafe {
        std::alloc::dealloc(address.cast::<u8>().sub(counts.offset.load(Ordering::SeqCst)), layout(size))
    };
}

#[test]
fn memory_may_be_supplied() {
    let counts = Counts::default();
    let both = || (counts.allocated.load(Ordering::SeqCst), counts.freed.load(Ordering::SeqCst));
    let ledger = Ledger::new(None);
    // SAFETY: the functions may be called from anywhere, and the counts outlive the pool.
    let space = unsafe { Supplied::new((&raw const counts).cast_mut().cast(), allocate, free) };
    let pool = Pool::new(Arc::clone(&ledger), Box::new(space));
    let block = pool.take(1000).unwrap();
    assert!(block.is_zeroed() && bytes(&block).iter().all(|&byte| byte == 0));
    fill(&block, 1);
    drop(block);
    assert_eq!((bytes(&pool.take(1000).unwrap())[0], both()), (1, (1024, 0)));

    counts.is_empty.store(1, Ordering::SeqCst);
    assert_eq!(pool.take(1025).err().unwrap().status, Status::OutOfMemory);
    assert_eq!((both(), ledger.used()), ((1024, 1024), 0), "what was idle was tried");
    counts.is_empty.store(0, Ordering::SeqCst);

    counts.offset.store(32, Ordering::SeqCst);
    assert_eq!(pool.take(64).err().unwrap().status, Status::OutOfMemory);
    assert_eq!((both(), ledger.used()), ((1088, 1088), 0), "misaligned");
    counts.offset.store(0, Ordering::SeqCst);

    drop(pool.take(64).unwrap());
    drop(pool);
    assert_eq!((both(), ledger.used()), ((1152, 1152), 0));
}

#[test]
fn no_two_owners_have_the_same_block() {
    let (pool, ledger) = pool(Some(1 << 20));
    pool.set_limit(256 << 10);
    let rounds = if cfg!(miri) { 50 } else { 20_000 };
    std::thread::scope(|scope| {
        for thread in 1..=4u64 {
            let (pool, ledger) = (&pool, &ledger);
            scope.spawn(move || {
                let mut state = thread.wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let mut held: Vec<(Block, u64)> = Vec::new();
                for round in 0..rounds {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let random = (state >> 33) as usize;
                    if held.len() > 6 || random.is_multiple_of(3) && !held.is_empty() {
                        let (block, canary) = held.swap_remove(random % held.len());
                        let size = block.size();
                        for offset in [0, size - 8] {
                            // SAFETY: within the block, which is this thread's.
                            let read = unsafe { block.address().add(offset).cast::<u64>().read_unaligned() };
                            assert_eq!(read, canary);
                        }
                    } else {
                        // A few classes, of which the last is mapped.
                        let size = [64, 100, 1000, 20_000, 130_000][random / 8 % 5];
                        if let Ok(block) = pool.take(size) {
                            let canary = thread << 32 | round;
                            for offset in [0, size - 8] {
                                // SAFETY: as above.
                                unsafe { block.address().add(offset).cast::<u64>().write_unaligned(canary) };
                            }
                            held.push((block, canary));
                        }
                    }
                    match random % 512 {
                        0 => drop(pool.trim(random as u64 % 4096)),
                        1 => drop(pool.trim_older(now_ns(), 100_000)),
                        _ => {}
                    }
                    assert!(ledger.used() <= 1 << 20);
                }
            });
        }
    });
    assert!(pool.idle_bytes() <= 256 << 10);
    assert_eq!(pool.idle_bytes(), ledger.used(), "all are idle");
    pool.trim(0);
    assert_eq!((pool.idle_bytes(), ledger.used()), (0, 0));
    leave(&pool, &[64, 130_000]);
    drop(pool);
    assert_eq!(ledger.used(), 0);
}
