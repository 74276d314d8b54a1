//! ONNX Runtime's tensor memory. It comes from the engine's pool rather than from an arena for each session: weights are
//! counted to the byte, and what runs need in between is shared by all models, and given back.
//!
//! ONNX Runtime has one allocator for the process. Whose memory is wanted it is told by the thread that asks: whoever
//! loads or runs a session says so before. Each block remembers where it came from.
#![allow(unsafe_code)]

use super::value::check;
use crate::backend::Room;
use crate::error::Error;
use crate::memory::{Block, Kind, Pool, RawBlock};
use ort::AsPointer;
use ort::environment::Environment;
use ort::sys;
use std::alloc::{Layout, alloc, dealloc};
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// In front of every block, and as long as blocks are aligned.
#[repr(C, align(64))]
struct Header {
    owner: Owner,
}

const HEADER: usize = size_of::<Header>();
const _: () = assert!(HEADER == crate::memory::ALIGNMENT);

enum Owner {
    /// The system: nobody said whose memory is wanted.
    Nobody { size: usize },
    /// The engine's pool.
    Pool(RawBlock),
    /// The engine's pool, for a session's weights. The account is one that the block holds.
    Weights(RawBlock, *const Account),
}

/// What a session takes.
pub struct Account {
    pool: Arc<Pool>,
    weights: AtomicU64,
    /// What was reserved for the session before it was loaded.
    room: Room,
}

impl Account {
    pub fn new(pool: &Arc<Pool>, room: &Room) -> Arc<Self> {
        Arc::new(Account { pool: Arc::clone(pool), weights: AtomicU64::new(0), room: room.clone() })
    }

    /// Bytes of weights, prepacked ones among them.
    pub fn weights(&self) -> u64 {
        self.weights.load(Ordering::Relaxed)
    }

    /// While the guard lives, what this thread allocates in ONNX Runtime is for this account.
    pub fn enter(self: &Arc<Self>) -> Entered<'_> {
        Entered { before: CURRENT.replace(Arc::as_ptr(self)), account: PhantomData }
    }

    /// The account that this thread works for. Called by ONNX Runtime, so within the life of a guard if there is one.
    fn current<'a>() -> Option<&'a Account> {
        let current = CURRENT.try_with(Cell::get).ok()?;
        // SAFETY: the guard that has put it there borrows the account, and takes it away when it is dropped.
        unsafe { current.as_ref() }
    }
}

thread_local! {
    /// Not counted, since it is changed for every run; null: none.
    static CURRENT: Cell<*const Account> = const { Cell::new(ptr::null()) };
    /// Why memory was missing since `within_means` began.
    static WANT: RefCell<Option<Error>> = const { RefCell::new(None) };
}

/// Does something in ONNX Runtime, and fails if there was too little memory for it meanwhile.
pub fn within_means<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    WANT.take();
    let result = work();
    match WANT.take() {
        Some(error) => Err(error),
        None => result,
    }
}

/// ONNX Runtime does not look whether it was given memory, and crashes if it was not. So it goes on for the moment with
/// the system's, and what it does fails in the end.
#[cold]
fn in_want(error: Error, size: usize) -> *mut c_void {
    let _ = WANT.try_with(|want| {
        want.borrow_mut().get_or_insert(error);
    });
    from_system(size)
}

/// See `Account::enter`.
pub struct Entered<'a> {
    before: *const Account,
    account: PhantomData<&'a Account>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let _ = CURRENT.try_with(|current| current.set(self.before));
    }
}

/// Makes the allocator known to ONNX Runtime. It lives as long as the process, as the environment does.
pub fn register(environment: &Environment) -> Result<(), ort::Error> {
    let api = ort::api();
    let mut info = ptr::null_mut();
    let (kind, memory) = (sys::OrtAllocatorType::OrtDeviceAllocator, sys::OrtMemType::OrtMemTypeDefault);
    // SAFETY: `info` is written on success, and never released.
    check(unsafe { (api.CreateCpuMemoryInfo)(kind, memory, &mut info) })?;
    // SAFETY: only fields are set.
    let mut functions = unsafe { sys::OrtAllocator::default() };
    functions.Alloc = Some(allocate);
    functions.Free = Some(free);
    functions.Info = Some(describe);
    functions.Reserve = Some(reserve);
    let allocator = Box::leak(Box::new(Allocator { functions, info }));
    // SAFETY: both live as long as the process.
    check(unsafe { (api.RegisterAllocator)(environment.ptr().cast_mut(), &raw mut allocator.functions) })
}

#[repr(C)]
struct Allocator {
    /// First, so that a pointer to it is one to the whole.
    functions: sys::OrtAllocator,
    info: *const sys::OrtMemoryInfo,
}

unsafe extern "system" fn describe(this: *const sys::OrtAllocator) -> *const sys::OrtMemoryInfo {
    // SAFETY: ONNX Runtime hands back the pointer that was registered.
    unsafe { (*this.cast::<Allocator>()).info }
}

/// Memory for a run, or for a moment of a load.
unsafe extern "system" fn allocate(_: *mut sys::OrtAllocator, size: usize) -> *mut c_void {
    let Some(total) = size.checked_add(HEADER) else { return ptr::null_mut() };
    match Account::current() {
        Some(account) => match account.pool.take(total) {
            Ok(block) => with_header(block, Owner::Pool),
            Err(error) => in_want(error, total),
        },
        None => from_system(total),
    }
}

/// Memory that stays for as long as the session.
unsafe extern "system" fn reserve(_: *const sys::OrtAllocator, size: usize) -> *mut c_void {
    let total = size.checked_add(HEADER).and_then(|total| total.checked_next_multiple_of(HEADER));
    let Some(total) = total else { return ptr::null_mut() };
    let Some(account) = Account::current() else { return from_system(total) };
    // What was reserved for it before becomes what it takes.
    account.room.spend(total as u64);
    let block = match account.pool.take_exact(total, Kind::Models) {
        Ok(block) => block,
        Err(error) => return in_want(error, total),
    };
    account.weights.fetch_add(total as u64, Ordering::Relaxed);
    // SAFETY: it came from an `Arc` that is there: see `current`. The block holds a share of its own.
    unsafe { Arc::increment_strong_count(ptr::from_ref(account)) };
    with_header(block, |raw| Owner::Weights(raw, account))
}

fn with_header(block: Block, owner: impl FnOnce(RawBlock) -> Owner) -> *mut c_void {
    let base = block.address();
    let owner = owner(block.into_raw());
    // SAFETY: the block is larger than a header, and aligned as one.
    unsafe {
        base.cast::<Header>().write(Header { owner });
        base.add(HEADER).cast()
    }
}

fn layout(size: usize) -> Option<Layout> {
    Layout::from_size_align(size, HEADER).ok()
}

fn from_system(size: usize) -> *mut c_void {
    let Some(layout) = layout(size) else { return ptr::null_mut() };
    // SAFETY: the size is at least a header's.
    let Some(base) = NonNull::new(unsafe { alloc(layout) }) else { return ptr::null_mut() };
    // SAFETY: as in `with_header`.
    unsafe {
        base.as_ptr().cast::<Header>().write(Header { owner: Owner::Nobody { size } });
        base.as_ptr().add(HEADER).cast()
    }
}

unsafe extern "system" fn free(_: *mut sys::OrtAllocator, address: *mut c_void) {
    if address.is_null() {
        return;
    }
    // SAFETY: allocated above, with a header in front, and freed once.
    unsafe {
        let base = address.cast::<u8>().sub(HEADER);
        match base.cast::<Header>().read().owner {
            Owner::Nobody { size } => {
                if let Some(layout) = layout(size) {
                    dealloc(base, layout);
                }
            }
            Owner::Pool(raw) => drop(Block::from_raw(raw)),
            Owner::Weights(raw, account) => {
                let account = Arc::from_raw(account);
                let block = Block::from_raw(raw);
                account.weights.fetch_sub(block.size() as u64, Ordering::Relaxed);
                drop(block);
            }
        }
    }
}
