//! Completion queues: create, poll, wait, destroy.

use super::event::{blaze_event, write_event};
use super::guard::{guard, guard_value};
use super::handles::{blaze_engine, blaze_queue};
use super::read::{check_size, handle, output};
use super::status::{blaze_error, blaze_status};
use crate::error::{Error, Result, Status};

/// Makes a completion queue. An engine may have many.
///
/// @param engine    The engine.
/// @param capacity  Events that may be promised or waiting at once, 1 to 16777216: one for each request in flight, and one
///                  more for a borrowing one that is not joined with others, and for one of a stepwise model. Submit fails
///                  with QUEUE_FULL rather than overflow it.
/// @param out       Receives the queue; destroy it with blaze_queue_destroy.
/// @param err       Receives the reason of a failure; may be NULL.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_ARGUMENT; SHUT_DOWN.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_queue_create(
    engine: *mut blaze_engine,
    capacity: u32,
    out: *mut *mut blaze_queue,
    err: *mut blaze_error,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(err, || {
            output(out, "out")?;
            let queue = handle(engine, "engine")?.engine.create_queue(capacity)?;
            out.write(blaze_queue::give_out(queue));
            Ok(())
        })
    }
}

/// Destroys a completion queue, and closes its descriptor.
///
/// @param queue  The queue; NULL is fine. On BUSY it stays as it is.
///
/// Never blocks. Threads: any, exclusively.
/// Returns OK; BUSY while tickets target it or events wait in it, unless its engine is destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_queue_destroy(queue: *mut blaze_queue) -> blaze_status {
    if queue.is_null() {
        return Status::Ok.code();
    }
    // SAFETY: made by blaze_queue_create, and not used again, as the header demands.
    unsafe {
        guard(std::ptr::null_mut(), || {
            if handle(queue, "queue")?.queue.is_busy() {
                return Err(Error::new(Status::Busy, "events are outstanding"));
            }
            drop(Box::from_raw(queue));
            Ok(())
        })
    }
}

/// Takes events without waiting.
///
/// @param queue     The queue.
/// @param events    Receives up to `capacity` events, `stride` bytes apart. Release each.
/// @param stride    sizeof(blaze_event).
/// @param capacity  Room in `events`.
///
/// Never blocks. Threads: one at a time; a second one that comes meanwhile gets 0.
/// Returns the number of events written; 0 also for NULL or a wrong stride.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_poll(
    queue: *mut blaze_queue,
    events: *mut blaze_event,
    stride: usize,
    capacity: u32,
) -> u32 {
    guard_value(0, || {
        // SAFETY: the header says what the pointers must be.
        let (queue, mut events) = unsafe { consumer(queue, events, stride)? };
        let count = queue.queue.poll(capacity as usize, |event| events.push(event));
        Ok(count as u32)
    })
}

/// Takes events, and waits for the first one if there is none. On an engine made with "threads": 0 it works
/// meanwhile, as blaze_pump does.
///
/// @param queue       The queue.
/// @param events      Receives up to `capacity` events, `stride` bytes apart. Release each.
/// @param stride      sizeof(blaze_event).
/// @param capacity    Room in `events`.
/// @param timeout_ns  How long to wait at most, in nanoseconds; UINT64_MAX: for ever.
///
/// Blocks for at most about `timeout_ns`. Threads: one at a time; a second one that comes meanwhile gets 0 at once.
/// Returns the number of events written; 0 after the timeout, at once when the engine is shut down and nothing is
/// outstanding, after blaze_queue_wake, and for NULL or a wrong stride.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_wait(
    queue: *mut blaze_queue,
    events: *mut blaze_event,
    stride: usize,
    capacity: u32,
    timeout_ns: u64,
) -> u32 {
    guard_value(0, || {
        // SAFETY: the header says what the pointers must be.
        let (queue, mut events) = unsafe { consumer(queue, events, stride)? };
        if capacity == 0 {
            return Ok(0);
        }
        let count = queue.queue.wait(capacity as usize, timeout_ns, |event| events.push(event));
        Ok(count as u32)
    })
}

/// Has the thread that is in blaze_wait come back with what there is, if only 0 events; or, if none is, the next one that
/// would have to wait. For a host that ends its thread, or has something else for it to do. Several calls before a wait are
/// like one. blaze_poll and the descriptor take no notice.
///
/// @param queue  The queue.
///
/// Never blocks. Threads: any, also beside the consumer.
/// Returns OK; NULL_POINTER.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_queue_wake(queue: *mut blaze_queue) -> blaze_status {
    // SAFETY: the header says what the pointer must be.
    unsafe {
        guard(std::ptr::null_mut(), || {
            handle(queue, "queue")?.queue.wake();
            Ok(())
        })
    }
}

/// A descriptor that is readable while events wait, to put into epoll, kqueue, poll or select. Do not read from it or
/// close it: it follows the queue by itself, and is closed with it.
///
/// @param queue  The queue.
/// @param fd     Receives the descriptor, the same one every time.
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; OUT_OF_MEMORY if the process has no descriptors left.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_queue_fd(queue: *mut blaze_queue, fd: *mut std::ffi::c_int) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(std::ptr::null_mut(), || {
            output(fd, "fd")?;
            fd.write(handle(queue, "queue")?.queue.ready_fd()?);
            Ok(())
        })
    }
}

/// Where events are written, one after the other.
struct Events {
    next: *mut u8,
    stride: usize,
}

impl Events {
    fn push(&mut self, event: crate::engine::Event) {
        // SAFETY: the host gave room for as many events as are asked for, `stride` bytes each.
        unsafe {
            write_event(self.next.cast(), self.stride, event);
            self.next = self.next.add(self.stride);
        }
    }
}

/// # Safety
/// The pointers are NULL or what the header says.
unsafe fn consumer<'a>(
    queue: *mut blaze_queue,
    events: *mut blaze_event,
    stride: usize,
) -> Result<(&'a blaze_queue, Events)> {
    output(events, "events")?;
    check_size::<blaze_event>(stride, "stride")?;
    if !stride.is_multiple_of(align_of::<blaze_event>()) || !events.is_aligned() {
        return Err(Error::new(Status::InvalidArgument, "events are not aligned"));
    }
    // SAFETY: promised by the caller.
    Ok((unsafe { handle(queue, "queue")? }, Events { next: events.cast(), stride }))
}
