//! Memory that the engine does not own: the host's, lent for a while, and the backends'.
#![allow(unsafe_code)]

/// Host-readable memory of a backend, freed when the value is dropped.
pub trait HostBytes: Send + Sync {
    fn bytes(&self) -> &[u8];
}

/// Input bytes lent by the host until the event that says `BUFFERS_RELEASED`.
#[derive(Clone)]
pub struct BorrowedBytes {
    data: *const u8,
    size: usize,
}

// SAFETY: the host promised that nobody writes the bytes while they are lent, so any thread may read them.
unsafe impl Send for BorrowedBytes {}
// SAFETY: as above.
unsafe impl Sync for BorrowedBytes {}

impl BorrowedBytes {
    /// Lends `size` bytes at `data`.
    ///
    /// # Safety
    /// The bytes stay readable and unchanged for as long as the value lives.
    pub unsafe fn new(data: *const u8, size: usize) -> Self {
        BorrowedBytes { data, size }
    }

    pub fn bytes(&self) -> &[u8] {
        if self.size == 0 {
            return &[];
        }
        // SAFETY: promised by whoever called `new`.
        unsafe { std::slice::from_raw_parts(self.data, self.size) }
    }
}

/// Output memory lent by the host until the request's terminal event.
#[derive(Clone)]
pub struct CallerBuffer {
    data: *mut u8,
    capacity: usize,
}

// SAFETY: the host promised that nobody else touches the bytes while they are lent.
unsafe impl Send for CallerBuffer {}
// SAFETY: `write` takes `&mut self`, so there is no shared access through this type.
unsafe impl Sync for CallerBuffer {}

impl CallerBuffer {
    /// Lends `capacity` bytes at `data`.
    ///
    /// # Safety
    /// The bytes stay writable, and untouched by anyone else, for as long as the value lives.
    pub unsafe fn new(data: *mut u8, capacity: usize) -> Self {
        CallerBuffer { data, capacity }
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn address(&self) -> *mut u8 {
        self.data
    }

    /// Copies `bytes` to the start of the buffer; false, and nothing written, if they do not fit.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() > self.capacity {
            return false;
        }
        if !bytes.is_empty() {
            // SAFETY: promised by whoever called `new`; the size was checked above.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.data, bytes.len()) };
        }
        true
    }
}
