//! Reading what C hands in: pointers, strings, and structs that may be older or newer than this library's.

use super::handles::OfProcess;
use crate::error::{Error, Result, Status};
use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

/// The longest string that is read, in bytes.
const MAX_STRING: usize = crate::config::MAX_JSON_BYTES;

/// A struct that begins with its size, and may grow at the end.
///
/// # Safety
/// The type is `repr(C)`, its first field is `struct_size: u32`, and all zeroes is a valid value.
pub unsafe trait Sized32: Copy {
    /// The name in C.
    const NAME: &'static str;
    /// Its size in the first version of the ABI.
    const FIRST_SIZE: usize;
}

/// Declares structs of the header that begin with their size.
macro_rules! sized {
    // A struct whose first version ended before `field`.
    ($name:ident since $field:ident) => {
        // SAFETY: as below.
        unsafe impl $crate::ffi::read::Sized32 for $name {
            const NAME: &'static str = stringify!($name);
            const FIRST_SIZE: usize = std::mem::offset_of!($name, $field);
        }
    };
    ($($name:ident),*) => { $(
        // SAFETY: whoever lists a struct here has made it `repr(C)`, with `struct_size: u32` first and only
        // fields in which zeroes are valid.
        unsafe impl $crate::ffi::read::Sized32 for $name {
            const NAME: &'static str = stringify!($name);
            const FIRST_SIZE: usize = size_of::<$name>();
        }
    )* };
}
pub(super) use sized;

/// The object behind a pointer, or an error that names the parameter.
///
/// # Safety
/// `pointer` is NULL or valid for the lifetime chosen.
pub unsafe fn reference<'a, T>(pointer: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: promised by the caller.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(name))
}

/// The object behind a handle, if this process has made it; an error that names the parameter otherwise.
///
/// # Safety
/// As `reference`.
#[inline]
pub unsafe fn handle<'a, T: OfProcess>(pointer: *const T, name: &str) -> Result<&'a T> {
    // SAFETY: promised by the caller.
    let object = unsafe { reference(pointer, name) }?;
    object.check_process(name).map(|()| object)
}

/// Checks that an output can be written.
pub fn output<T>(pointer: *mut T, name: &str) -> Result<()> {
    if pointer.is_null() { Err(null(name)) } else { Ok(()) }
}

fn null(name: &str) -> Error {
    Error::new(Status::NullPointer, format!("{name} is NULL"))
}

/// A slice from a pointer and a count; NULL is fine when the count is 0.
///
/// # Safety
/// `pointer` is NULL or has `count` elements for the lifetime chosen.
pub unsafe fn slice<'a, T>(pointer: *const T, count: usize, name: &str) -> Result<&'a [T]> {
    if count == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(null(name));
    }
    if count.checked_mul(size_of::<T>()).is_none_or(|bytes| isize::try_from(bytes).is_err()) {
        return Err(Error::new(
            Status::InvalidSize,
            format!("{name}: {count} elements are more than memory holds"),
        ));
    }
    if !pointer.is_aligned() {
        let text = format!("{name} is not aligned to {} bytes", align_of::<T>());
        return Err(Error::new(Status::InvalidArgument, text));
    }
    // SAFETY: promised by the caller, and checked for what can be checked.
    Ok(unsafe { std::slice::from_raw_parts(pointer, count) })
}

/// A C string.
///
/// # Safety
/// `pointer` is NULL or NUL-terminated for the lifetime chosen.
pub unsafe fn string<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: promised by the caller.
    unsafe { optional_string(pointer, name) }?.ok_or_else(|| null(name))
}

/// A C string that may be NULL.
///
/// # Safety
/// As `string`.
pub unsafe fn optional_string<'a>(pointer: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: promised by the caller.
    let text = unsafe { CStr::from_ptr(pointer) };
    if text.to_bytes().len() > MAX_STRING {
        return Err(Error::new(Status::InvalidSize, format!("{name} has more than {MAX_STRING} bytes")));
    }
    text.to_str()
        .map(Some)
        .map_err(|error| Error::new(Status::InvalidArgument, format!("{name} is not UTF-8: {error}")))
}

/// A sized struct where it is, if it is of this version and aligned; otherwise a copy of it, made in `copy`.
///
/// # Safety
/// As `read_sized`, for the lifetime chosen.
#[inline]
pub unsafe fn sized_reference<'a, T: Sized32>(
    pointer: *const T,
    name: &str,
    copy: &'a mut MaybeUninit<T>,
) -> Result<&'a T> {
    if !pointer.is_null() && pointer.is_aligned() {
        // SAFETY: the first field of a `Sized32` is its size.
        let size = unsafe { pointer.cast::<u32>().read() } as usize;
        if size == size_of::<T>() {
            // SAFETY: promised by the caller: the struct has `size` bytes.
            return Ok(unsafe { &*pointer });
        }
    }
    // SAFETY: promised by the caller.
    Ok(copy.write(unsafe { read_sized(pointer, name)? }))
}

/// Reads a sized struct. One from an older header is filled up with zeroes; one from a newer header must have
/// zeroes where this library knows nothing.
///
/// # Safety
/// `pointer` is NULL or has at least 4 bytes, and as many as they say.
pub unsafe fn read_sized<T: Sized32>(pointer: *const T, name: &str) -> Result<T> {
    if pointer.is_null() {
        return Err(null(name));
    }
    // SAFETY: the first field of a `Sized32` is its size.
    let size = unsafe { pointer.cast::<u32>().read_unaligned() } as usize;
    if size == size_of::<T>() {
        // SAFETY: promised by the caller: the struct has `size` bytes.
        return Ok(unsafe { pointer.read_unaligned() });
    }
    check_size::<T>(size, name)?;
    let mut value = MaybeUninit::<T>::zeroed();
    let bytes = pointer.cast::<u8>();
    // SAFETY: `size` bytes are readable; no more than the value has room for are copied.
    unsafe { std::ptr::copy_nonoverlapping(bytes, value.as_mut_ptr().cast(), size.min(size_of::<T>())) };
    // SAFETY: promised by the caller: the struct has `size` bytes.
    let tail = (size_of::<T>()..size).map(|at| unsafe { bytes.add(at).read() });
    if tail.into_iter().any(|byte| byte != 0) {
        return Err(Error::new(
            Status::InvalidStruct,
            format!("{name}: {} of {size} bytes has fields set that this version does not know", T::NAME),
        ));
    }
    // SAFETY: all zeroes is valid, and so is what C wrote over it.
    Ok(unsafe { value.assume_init() })
}

/// The size that the caller's struct at `pointer` says it has.
///
/// # Safety
/// `pointer` is NULL or has at least 4 bytes.
pub unsafe fn declared_size<T: Sized32>(pointer: *const T, name: &str) -> Result<usize> {
    if pointer.is_null() {
        return Err(null(name));
    }
    // SAFETY: the first field of a `Sized32` is its size.
    let size = unsafe { pointer.cast::<u32>().read_unaligned() } as usize;
    check_size::<T>(size, name)?;
    Ok(size)
}

/// Checks a size given for a struct.
pub fn check_size<T: Sized32>(size: usize, name: &str) -> Result<()> {
    const LARGEST: usize = 4096;
    if (T::FIRST_SIZE..=LARGEST).contains(&size) {
        return Ok(());
    }
    Err(Error::new(
        Status::InvalidStruct,
        format!("{name}: {size} is no size of a {}; set struct_size to sizeof({})", T::NAME, T::NAME),
    ))
}

/// Writes a struct to a caller whose version of it has `size` bytes. What a newer version has more is zeroed.
///
/// # Safety
/// `size` bytes at `pointer` are writable. `value.struct_size` is set by the caller.
pub unsafe fn write_sized<T: Sized32>(pointer: *mut T, size: usize, value: &T) {
    let (to, from) = (pointer.cast::<u8>(), std::ptr::from_ref(value).cast::<u8>());
    if size == size_of::<T>() {
        // SAFETY: promised by the caller.
        return unsafe { pointer.write_unaligned(*value) };
    }
    let known = size.min(size_of::<T>());
    // SAFETY: promised by the caller.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, known);
        std::ptr::write_bytes(to.add(known), 0, size - known);
    }
}

/// The two-call pattern: says how many bytes the text takes with its NUL, and writes it if it fits.
///
/// # Safety
/// `buffer` is NULL or has `capacity` writable bytes; `needed` is NULL or writable.
pub unsafe fn return_text(
    text: &str,
    buffer: *mut c_char,
    capacity: usize,
    needed: *mut usize,
) -> Result<()> {
    if buffer.is_null() && needed.is_null() {
        return Err(Error::new(Status::NullPointer, "buffer and needed are both NULL"));
    }
    let size = text.len() + 1;
    // SAFETY: promised by the caller.
    if let Some(needed) = unsafe { needed.as_mut() } {
        *needed = size;
    }
    if buffer.is_null() && capacity == 0 {
        return Ok(());
    }
    output(buffer, "buffer")?;
    if capacity < size {
        let text = format!("the text takes {size} bytes, the buffer has {capacity}");
        return Err(Error::new(Status::BufferTooSmall, text));
    }
    // SAFETY: there is room for the text and its NUL.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buffer, text.len());
        buffer.add(text.len()).write(0);
    }
    Ok(())
}
