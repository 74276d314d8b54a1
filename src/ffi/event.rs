//! Events: outputs and release.

use super::guard::{guard, guard_value};
use super::handles::{blaze_model, blaze_ticket};
use super::read::{declared_size, reference, sized, write_sized};
use super::status::blaze_status;
use super::tensor::{BLAZE_MEMORY_CUDA, BLAZE_MEMORY_HOST, blaze_tensor};
use crate::engine::{Event, Table};
use crate::error::{Error, Status};
use std::ffi::{c_char, c_void};
use std::ptr::NonNull;

/// What an event says.
pub type blaze_event_kind = u32;

/// The ticket's work has ended: the one terminal event that every accepted ticket has; its status says how.
pub const BLAZE_EVENT_DONE: blaze_event_kind = 1;
/// Some of it is done: a load in the background whose model has "progress": true has come further. `progress` says how
/// far, `text` what comes next: "waiting" (for its turn and for room), "reading", "checking", "warming up", "loaded".
/// Stages that pass before the host looks are left out. Or a request of a stepwise model has come further, without text.
pub const BLAZE_EVENT_PROGRESS: blaze_event_kind = 2;
/// A request of a stepwise model has text, in `text`: all that it has said since the event before, so that a host which
/// looks seldom gets fewer and longer ones. BLAZE_EVENT_FLAG_MORE is set; the status is OK. Release it like any.
pub const BLAZE_EVENT_TOKEN: blaze_event_kind = 3;
/// Buffers lent with a request that was resolved early while it ran (cancelled, expired, shut down) are the host's
/// again. Its status is OK, and it has no outputs.
pub const BLAZE_EVENT_BUFFERS_RELEASED: blaze_event_kind = 4;

/// Another event for this ticket will follow: keep polling, also after a shutdown.
pub const BLAZE_EVENT_FLAG_MORE: u32 = 1;
/// Borrowed inputs and output buffers are the host's again.
pub const BLAZE_EVENT_FLAG_BUFFERS_RELEASED: u32 = 2;

/// Where a request's time went, in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_timing {
    /// From submit until a lane took the request.
    pub queued_ns: u64,
    /// From there until the run started.
    pub batched_ns: u64,
    /// Inside the backend.
    pub computed_ns: u64,
    /// Rows in the batch, the request's own among them.
    pub batch_rows: u32,
    /// The library's own.
    pub reserved: u32,
}

/// Something that happened to a ticket. Written by blaze_poll, blaze_wait and blaze_infer; give it back with
/// blaze_event_release.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct blaze_event {
    /// Written by the library; set it to sizeof(blaze_event) (BLAZE_EVENT_INIT) for blaze_infer.
    pub struct_size: u32,
    /// BLAZE_EVENT_DONE and so on.
    pub kind: blaze_event_kind,
    /// For BLAZE_EVENT_DONE how the work ended; otherwise OK.
    pub status: blaze_status,
    /// BLAZE_EVENT_FLAG_MORE, BLAZE_EVENT_FLAG_BUFFERS_RELEASED
    pub flags: u32,
    /// Whose event it is.
    pub ticket: blaze_ticket,
    /// The request's.
    pub user_data: u64,
    /// The model that ran; for blaze_model_load_async the model that was loaded.
    pub model: blaze_model,
    /// Where the time went; zeroes for what is not a request.
    pub timing: blaze_timing,
    /// What went wrong; for blaze_model_unload the receipt; in an event of a load's progress its stage; what a stepwise
    /// request has said, of which blaze_infer gives all. NUL-terminated, or NULL. Valid until the event is released.
    pub text: *const c_char,
    /// The length of `text`, without its NUL.
    pub text_bytes: usize,
    /// From 0 to 1, in events of progress and of text; 0: not known.
    pub progress: f32,
    /// How many outputs blaze_event_output can return.
    pub outputs_count: u32,
    /// The library's own.
    pub internal: *mut c_void,
}

sized!(blaze_event);

/// Returns a view of an output. Name, shape and data stay valid and unchanged until the event is released. The data is
/// in the caller's own buffer if the request gave one for this output, and in a device's memory (`memory` says so) if the
/// request asked for that.
///
/// @param event  A BLAZE_EVENT_DONE with status OK from blaze_poll, blaze_wait or blaze_infer, not released.
/// @param index  The output, in the order of the model, from 0 to outputs_count - 1.
/// @param view   Receives the view; set its struct_size (BLAZE_TENSOR_INIT).
///
/// Never blocks. Threads: any.
/// Returns OK; NULL_POINTER; INVALID_STRUCT; NOT_FOUND if there is no such output, or the event was released.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_event_output(
    event: *const blaze_event,
    index: u32,
    view: *mut blaze_tensor,
) -> blaze_status {
    // SAFETY: the header says what the pointers must be.
    unsafe {
        guard(std::ptr::null_mut(), || {
            let event = reference(event, "event")?;
            let size = declared_size(view, "view")?;
            let is_done = event.kind == BLAZE_EVENT_DONE;
            let table = if is_done { event.internal.cast::<Table>().cast_const() } else { std::ptr::null() };
            if table.as_ref().is_some_and(|table| !table.is_of_this_process()) {
                return Err(Error::new(
                    Status::InvalidState,
                    "the event came before this process was forked",
                ));
            }
            let output = table.as_ref().and_then(|table| table.output(event.ticket, index));
            let output =
                output.ok_or_else(|| Error::new(Status::NotFound, format!("there is no output {index}")))?;
            let tensor = blaze_tensor {
                struct_size: size as u32,
                dtype: output.dtype.code(),
                name: output.name,
                shape: output.shape,
                rank: output.rank as u32,
                memory: output.device.map_or(BLAZE_MEMORY_HOST, |_| BLAZE_MEMORY_CUDA),
                device: output.device.unwrap_or(0),
                reserved: 0,
                data: output.data.cast_mut().cast(),
                size_bytes: output.size_bytes,
            };
            write_sized(view, size, &tensor);
            Ok(())
        })
    }
}

/// Gives back what an event holds: its outputs and text. Every event may be released, also one that holds nothing, and
/// releasing it twice does nothing more. Works after blaze_engine_destroy too; but a copy of an event that was released
/// must not be used then.
///
/// @param event  The event; NULL is fine.
///
/// Never blocks, but for outputs in a backend's memory: their release may call its `free`, and after blaze_engine_destroy its
/// `close`. Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blaze_event_release(event: *mut blaze_event) {
    guard_value((), || {
        // SAFETY: the header says what the pointer must be.
        let Some(event) = (unsafe { event.as_mut() }) else { return Ok(()) };
        let table = event.internal.cast::<Table>().cast_const();
        event.internal = std::ptr::null_mut();
        event.text = std::ptr::null();
        event.text_bytes = 0;
        event.outputs_count = 0;
        let number = std::mem::take(&mut event.timing.reserved);
        // SAFETY: the table lives for as long as an event that holds on to it, or its engine.
        if unsafe { table.as_ref() }.is_some_and(|table| !table.is_of_this_process()) {
            return Ok(());
        }
        if let Some(table) = NonNull::new(table.cast_mut()) {
            // SAFETY: written by `write_event`; the table lives for as long as an event that holds on to it, or its
            // engine. The ticket tells an event that was released through a copy.
            unsafe { Table::release_event(table, event.ticket, number) };
        }
        Ok(())
    });
}

/// Writes an event to a caller whose version of it has `size` bytes.
///
/// # Safety
/// `size` bytes at `to` are writable.
pub unsafe fn write_event(to: *mut blaze_event, size: usize, event: Event) {
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    let mut out = blaze_event {
        struct_size: size as u32,
        kind: event.kind as u32,
        status: event.status.code(),
        flags: flag(event.flags.more, BLAZE_EVENT_FLAG_MORE)
            | flag(event.flags.buffers_released, BLAZE_EVENT_FLAG_BUFFERS_RELEASED),
        ticket: event.ticket,
        user_data: event.user_data,
        model: event.model,
        timing: blaze_timing {
            queued_ns: event.timing.queued_ns,
            batched_ns: event.timing.batched_ns,
            computed_ns: event.timing.computed_ns,
            batch_rows: event.timing.batch_rows,
            reserved: 0,
        },
        text: std::ptr::null(),
        text_bytes: 0,
        progress: event.stage.map_or(event.progress, |stage| stage.fraction()),
        outputs_count: event.outputs_count,
        internal: std::ptr::null_mut(),
    };
    if let Some(stage) = event.stage {
        (out.text, out.text_bytes) = (stage.text().as_ptr(), stage.text().to_bytes().len());
    }
    if let Some((table, ticket, number)) = event.payload.and_then(crate::engine::Payload::into_parts) {
        if number != 0 {
            out.timing.reserved = number;
            // SAFETY: the event holds the table.
            let said =
                unsafe { table.as_ref() }.with_given(ticket, number, |text| (text.as_ptr(), text.len()));
            let (text, text_bytes) = said.unwrap_or((std::ptr::null(), 0));
            (out.text, out.text_bytes) = (text.cast(), text_bytes);
        } else if out.status != Status::Ok.code() || out.outputs_count == 0 {
            // SAFETY: the event holds the table.
            let text =
                unsafe { table.as_ref() }.with_text(ticket, |text| (text.as_ptr(), text.to_bytes().len()));
            (out.text, out.text_bytes) = text.unwrap_or((std::ptr::null(), 0));
        }
        out.internal = table.as_ptr().cast();
    }
    // SAFETY: promised by the caller.
    unsafe { write_sized(to, size, &out) };
}
