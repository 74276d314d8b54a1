//! Events: what a request produces, and the payload that the host holds until it releases it.

use super::requests::RequestTable;
use super::{ModelId, Ticket};
use crate::error::Status;
use crate::tensor::DType;
use std::sync::Arc;

/// What an event says. The numbers are those of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// The request has ended; the status says how. Exactly one for each ticket.
    Done = 1,
    /// The buffers lent with the request are the host's again. Only after a `Done` that said `MORE`.
    BuffersReleased = 4,
}

/// Bits of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventFlags {
    /// Another event for this ticket will follow.
    pub more: bool,
    /// Borrowed inputs and caller-provided outputs are the host's again.
    pub buffers_released: bool,
}

/// Where a request's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// From submit until a lane took the request.
    pub queued_ns: u64,
    /// From there until the run started: joining the batch, and waiting for a place to compute.
    pub batched_ns: u64,
    /// Inside the backend.
    pub computed_ns: u64,
    /// Rows in the batch, the request's own among them.
    pub batch_rows: u32,
}

/// One event.
pub struct Event {
    pub kind: EventKind,
    pub status: Status,
    pub flags: EventFlags,
    pub ticket: Ticket,
    pub user_data: u64,
    pub model: ModelId,
    pub timing: Timing,
    pub outputs_count: u32,
    /// Outputs and text; freed when dropped. `None`: the event has neither.
    pub payload: Option<Payload>,
}

/// The host's hold on what a request left behind; released on drop.
pub struct Payload {
    /// Always there, but for the moment between `into_parts` and drop.
    hold: Option<(Arc<RequestTable>, Ticket)>,
}

impl Drop for Payload {
    fn drop(&mut self) {
        if let Some((table, ticket)) = self.hold.take() {
            table.release(ticket);
        }
    }
}

/// Where an output is. Valid until the payload is released.
#[derive(Clone, Copy, Debug)]
pub struct OutputRef {
    pub name: *const std::ffi::c_char,
    pub dtype: DType,
    pub shape: *const i64,
    pub rank: usize,
    /// Elements, or an array of string slices for strings.
    pub data: *const u8,
    pub size_bytes: usize,
}

impl Payload {
    /// A hold on what `ticket` left behind in `table`.
    pub fn new(table: Arc<RequestTable>, ticket: Ticket) -> Self {
        Payload { hold: Some((table, ticket)) }
    }

    /// Passes the hold on unreleased: whoever gets the parts makes a `Payload` of them again.
    pub fn into_parts(mut self) -> Option<(Arc<RequestTable>, Ticket)> {
        self.hold.take()
    }

    /// Where output `index` is; `None` if there is no such output.
    pub fn output(&self, index: u32) -> Option<OutputRef> {
        let (table, ticket) = self.hold.as_ref()?;
        table.output(*ticket, index)
    }

    /// What went wrong, if anything did.
    pub fn text(&self) -> Option<String> {
        let (table, ticket) = self.hold.as_ref()?;
        table.with_text(*ticket, |text| text.to_string_lossy().into_owned())
    }
}
