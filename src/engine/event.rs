//! Events: what a request produces, and the payload that the host holds until it releases it.
#![allow(unsafe_code)]

use super::load::Stage;
use super::table::Table;
use super::{ModelId, Ticket};
use crate::error::Status;
use crate::tensor::DType;
use std::ptr::NonNull;

/// What an event says. The numbers are those of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// The request has ended; the status says how. Exactly one for each ticket.
    Done = 1,
    /// A load or a request has come further.
    Progress = 2,
    /// A request has said something.
    Token = 3,
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
    /// From there until the run started.
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
    /// How far a load has come, in an event of progress.
    pub stage: Option<Stage>,
    /// How far a request has come, in events of progress and text.
    pub progress: f32,
    /// Outputs and text; freed when dropped. `None`: the event has neither.
    pub payload: Option<Payload>,
}

/// The host's hold on what a request left behind; released on drop.
pub struct Payload {
    /// The table lives for as long as the hold, which keeps the batch, which keeps the table.
    hold: Option<(NonNull<Table>, Ticket)>,
    /// The number of a text that is the event's alone; 0: none.
    text: u32,
}

// SAFETY: the table may be used from any thread, and it lives as long as the payload.
unsafe impl Send for Payload {}
// SAFETY: as above.
unsafe impl Sync for Payload {}

impl Drop for Payload {
    fn drop(&mut self) {
        if let Some((table, ticket)) = self.hold.take() {
            // SAFETY: the hold is still there.
            unsafe { Table::release_event(table, ticket, self.text) };
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
    /// The device in whose memory the data is; `None`: the host.
    pub device: Option<i32>,
    /// Elements, or an array of string slices for strings.
    pub data: *const u8,
    pub size_bytes: usize,
}

impl Payload {
    /// A hold on what `ticket` left behind in `table`.
    pub fn new(table: &Table, ticket: Ticket) -> Self {
        Payload { hold: Some((NonNull::from(table), ticket)), text: 0 }
    }

    /// A hold on a text that `ticket` has said.
    pub fn of_text(table: &Table, ticket: Ticket, number: u32) -> Self {
        Payload { hold: Some((NonNull::from(table), ticket)), text: number }
    }

    /// Has this hold, of a terminal event, be one on a text too.
    pub fn add_text(&mut self, number: u32) {
        self.text = number;
    }

    /// Passes the hold on unreleased: whoever gets the parts, with the text's number, calls `Table::release_event`.
    pub fn into_parts(mut self) -> Option<(NonNull<Table>, Ticket, u32)> {
        self.hold.take().map(|(table, ticket)| (table, ticket, self.text))
    }

    fn table(&self) -> Option<(&Table, Ticket)> {
        // SAFETY: the table lives as long as the payload.
        self.hold.map(|(table, ticket)| (unsafe { table.as_ref() }, ticket))
    }

    /// Where output `index` is; `None` if there is no such output.
    pub fn output(&self, index: u32) -> Option<OutputRef> {
        let (table, ticket) = self.table()?;
        table.output(ticket, index)
    }

    /// What was said, byte for byte, if this event has any of it.
    pub fn said(&self) -> Option<Vec<u8>> {
        let (table, ticket) = self.table()?;
        table.with_given(ticket, self.text, <[u8]>::to_vec)
    }

    /// What went wrong, if anything did, or what was said.
    pub fn text(&self) -> Option<String> {
        let (table, ticket) = self.table()?;
        if self.text != 0 {
            return table.with_given(ticket, self.text, |text| String::from_utf8_lossy(text).into_owned());
        }
        table.with_text(ticket, |text| text.to_string_lossy().into_owned())
    }
}
