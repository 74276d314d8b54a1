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
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

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

    /// Where the session's memory comes from.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
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
    let _inside = super::ending::enter()?;
    WANT.take();
    let result = work();
    match WANT.take() {
        Some(error) => Err(error),
        None => result,
    }
}

/// More than this is not taken from the system for a moment: it may be all that the machine has.
const MOST_IN_WANT: usize = 64 << 20;

/// ONNX Runtime does not look whether it was given memory, and crashes if it was not. So it goes on for the moment with
/// the system's, and what it does fails in the end; or at once, if that is much.
///
/// # Safety
/// As `throw_bad_alloc`.
#[cold]
unsafe fn in_want(error: Error, size: usize) -> *mut c_void {
    let _ = WANT.try_with(|want| {
        want.borrow_mut().get_or_insert(error);
    });
    if size > MOST_IN_WANT {
        // SAFETY: promised by the caller.
        unsafe { throw_bad_alloc() };
    }
    // SAFETY: promised by the caller.
    unsafe { from_system(size) }
}

type Thrower = unsafe extern "C-unwind" fn();

/// The C++ library's function that throws `std::bad_alloc`; null: not found.
static THROWER: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Says that there is no memory as C++ does, and as ONNX Runtime's own allocators do: its calls catch that, and return an error.
/// Returns if it is not known how to.
///
/// # Safety
/// Called on behalf of ONNX Runtime only, with nothing on the stack up to there that needs to be dropped.
#[cold]
unsafe fn throw_bad_alloc() {
    let thrower = THROWER.load(Ordering::Relaxed);
    if !thrower.is_null() {
        // SAFETY: it is `std::__throw_bad_alloc()`, and all frames up to ONNX Runtime's may be unwound.
        unsafe { std::mem::transmute::<*mut c_void, Thrower>(thrower)() };
    }
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
///
/// `thrower` is what ONNX Runtime's C++ library calls to throw `std::bad_alloc`, if it was found.
pub fn register(environment: &Environment, thrower: Option<*mut c_void>) -> Result<(), ort::Error> {
    // Where panics do not unwind, nothing does: a C++ exception would end the process here. Then the system's memory is taken for
    // the moment, however much it is.
    let thrower = thrower.filter(|_| cfg!(panic = "unwind"));
    THROWER.store(thrower.unwrap_or(ptr::null_mut()), Ordering::Relaxed);
    let api = ort::api();
    let mut info = ptr::null_mut();
    let (kind, memory) = (sys::OrtAllocatorType::OrtDeviceAllocator, sys::OrtMemType::OrtMemTypeDefault);
    // SAFETY: `info` is written on success, and never released.
    check(unsafe { (api.CreateCpuMemoryInfo)(kind, memory, &mut info) })?;
    // SAFETY: only fields are set.
    let mut functions = unsafe { sys::OrtAllocator::default() };
    // SAFETY: the types differ only in that these two may unwind, which their caller, C++, knows of.
    unsafe {
        functions.Alloc =
            Some(std::mem::transmute::<Allocate, Plain<*mut sys::OrtAllocator>>(allocate as Allocate));
        functions.Reserve =
            Some(std::mem::transmute::<Reserve, Plain<*const sys::OrtAllocator>>(reserve as Reserve));
    }
    functions.Free = Some(free);
    functions.Info = Some(describe);
    let allocator = Box::leak(Box::new(Allocator { functions, info }));
    // SAFETY: both live as long as the process.
    check(unsafe { (api.RegisterAllocator)(environment.ptr().cast_mut(), &raw mut allocator.functions) })
}

type Allocate = unsafe extern "system-unwind" fn(*mut sys::OrtAllocator, usize) -> *mut c_void;
/// The same as ONNX Runtime's header says it, which knows nothing of unwinding.
type Plain<This> = unsafe extern "system" fn(This, usize) -> *mut c_void;

type Reserve = unsafe extern "system-unwind" fn(*const sys::OrtAllocator, usize) -> *mut c_void;

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
unsafe extern "system-unwind" fn allocate(_: *mut sys::OrtAllocator, size: usize) -> *mut c_void {
    // What no memory holds is refused as such.
    let total = size.saturating_add(HEADER).min(isize::MAX as usize - HEADER);
    // SAFETY: ONNX Runtime calls, and nothing here is to be dropped.
    unsafe {
        match Account::current() {
            Some(account) => match account.pool.take(total) {
                Ok(block) => with_header(block, Owner::Pool),
                Err(error) => in_want(error, total),
            },
            None => from_system(total),
        }
    }
}

/// Memory that stays for as long as the session.
unsafe extern "system-unwind" fn reserve(_: *const sys::OrtAllocator, size: usize) -> *mut c_void {
    let total = size.saturating_add(2 * HEADER - 1).min(isize::MAX as usize - HEADER) / HEADER * HEADER;
    // SAFETY: ONNX Runtime calls, and nothing here is to be dropped.
    let Some(account) = Account::current() else { return unsafe { from_system(total) } };
    // What was reserved for it before becomes what it takes.
    account.room.spend(total as u64);
    let block = match account.pool.take_exact(total, Kind::Models) {
        Ok(block) => block,
        // SAFETY: as above.
        Err(error) => return unsafe { in_want(error, total) },
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

/// # Safety
/// As `throw_bad_alloc`.
unsafe fn from_system(size: usize) -> *mut c_void {
    // SAFETY: the size is at least a header's.
    let Some(base) = layout(size).and_then(|layout| NonNull::new(unsafe { alloc(layout) })) else {
        // SAFETY: promised by the caller.
        unsafe { throw_bad_alloc() };
        return ptr::null_mut();
    };
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
