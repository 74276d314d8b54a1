//! What a batch leaves for one of its members: its event, its outputs, and its reason if it failed.
#![allow(unsafe_code)]

use super::batch::Batch;
use super::event::{Event, EventFlags, EventKind, OutputRef, Payload, Timing};
use super::job;
use super::table::{Table, ticket};
use crate::error::{Error, Result, Status};
use crate::sync::{Ordering, lock};
use crate::tensor::{CallerBuffer, Data, Shape, StringSlice, Tensor, element_count};
use std::ffi::CStr;

/// In a member's status: it was resolved before its run was over.
pub const EARLY: u32 = 1 << 31;
/// In a member's status: another event follows.
pub const MORE: u32 = 1 << 30;

/// In a member's status: its extras say more, though the request brought none.
pub const OWN: u32 = 1 << 29;

/// In a member's status: another attempt has answered for it.
pub const ANSWERED: u32 = 1 << 27;

/// In a member's status: its first event of two is in its queue.
pub const ANNOUNCED: u32 = 1 << 28;

/// Which event of a member.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Terminal,
    Released,
}

/// Makes a member's event. The member's hold on the batch goes over to the event's payload, or is let go of.
///
/// # Safety
/// The event is published, and made once.
#[inline]
pub unsafe fn event(table: &Table, batch: &Batch, member: usize, which: Which) -> Event {
    let generation = table.slot(batch.index).life().generation();
    let ticket = ticket(generation, batch.index, member);
    let word = batch.members[member].status.load(Ordering::Relaxed);
    // SAFETY: published.
    let request = unsafe { batch.request(member) };
    let early = word & EARLY != 0;
    let mut event = Event {
        kind: EventKind::Done,
        status: Status::Ok,
        flags: EventFlags { more: false, buffers_released: true },
        ticket,
        user_data: request.user_data,
        model: batch.line.model_id(),
        timing: Timing::default(),
        outputs_count: 0,
        payload: None,
        stage: None,
        progress: 0.0,
    };
    if request.flags.job {
        // SAFETY: published.
        event.model = unsafe { batch.extras(member) }.rare.as_ref().map_or(0, |rare| rare.model);
        batch.cold(member).progress.fetch_or(job::OVER, Ordering::SeqCst);
    }
    if which == Which::Released {
        event.kind = EventKind::BuffersReleased;
        table.leave(1);
        table.let_go(batch.index, 1);
        return event;
    }
    if early {
        event.status = ended_early(batch, member).unwrap_or(Status::Internal);
        event.flags.more = word & MORE != 0;
        event.flags.buffers_released = !event.flags.more;
        let resolved_ns = batch.cold(member).resolved_ns.load(Ordering::Relaxed);
        event.timing.queued_ns = resolved_ns.saturating_sub(request.submitted_ns);
        if !event.flags.more {
            table.leave(1);
        }
        table.let_go(batch.index, 1);
        return event;
    }
    let (mut teller, mut at) = (batch, member);
    event.status = match word & ANSWERED {
        0 => status(batch, member),
        _ => {
            (teller, at) = table.kept(batch.cold(member).hop.answer());
            event.model = teller.line.model_id();
            Status::from_code((word & !ANSWERED) as i32).unwrap_or(Status::Internal)
        }
    };
    // SAFETY: published by the lane.
    let lap = unsafe { teller.lap() };
    event.timing = Timing {
        queued_ns: lap.taken_ns.saturating_sub(request.submitted_ns),
        batched_ns: lap.started_ns.saturating_sub(lap.taken_ns),
        computed_ns: lap.ended_ns.saturating_sub(lap.started_ns),
        batch_rows: lap.rows,
    };
    let has_payload = match event.status {
        _ if request.flags.job => text(batch, member).is_some(),
        Status::Ok => {
            event.outputs_count = teller.line.outputs_count();
            event.outputs_count > 0
        }
        _ => {
            let complains = word & ANSWERED != 0 && lock(&batch.cold(member).hop.complaint).is_some();
            complains || text(teller, at).is_some()
        }
    };
    debug_assert_eq!(has_payload, table.slot(batch.index).held().is_set(member));
    if has_payload {
        event.payload = Some(Payload::new(table, ticket));
    } else {
        if word & ANSWERED != 0 {
            table.let_go(teller.index, 1);
        }
        table.leave(1);
        table.let_go(batch.index, 1);
    }
    event
}

/// Whether a member's extras say anything.
fn has_extras(batch: &Batch, member: usize) -> bool {
    // SAFETY: published and held, as the callers say.
    let brought = unsafe { batch.request(member) }.flags.extras;
    brought || batch.members[member].status.load(Ordering::Relaxed) & OWN != 0
}

/// How a member ended that was not resolved early. The batch is held, and the lap's status is written.
fn status(batch: &Batch, member: usize) -> Status {
    let word = batch.members[member].status.load(Ordering::Relaxed);
    match word & !OWN {
        0 if word & OWN != 0 => Status::Ok,
        // SAFETY: published, or the caller is the lane.
        0 => unsafe { batch.lap() }.status,
        code => Status::from_code(code as i32).unwrap_or(Status::Internal),
    }
}

/// How a member ended before its run was over, if it did.
pub fn ended_early(batch: &Batch, member: usize) -> Option<Status> {
    let word = batch.members[member].status.load(Ordering::Relaxed);
    let code = (word & !(EARLY | MORE | OWN | ANNOUNCED)) as i32;
    (word & EARLY != 0).then(|| Status::from_code(code).unwrap_or(Status::Internal))
}

/// Why a member failed. The batch is held, and the member is published.
pub fn text(batch: &Batch, member: usize) -> Option<&CStr> {
    // SAFETY: published and held, as the caller says.
    unsafe {
        if status(batch, member) == Status::Ok && !batch.request(member).flags.job {
            return None; // its batch may have failed all the same
        }
        if has_extras(batch, member)
            && let Some(rare) = &batch.extras(member).rare
            && let Some(text) = &rare.text
        {
            return Some(text);
        }
        batch.lap().text.as_deref()
    }
}

/// Where a member's output is. The batch is held, and the member is published.
pub fn output(batch: &Batch, member: usize, index: usize) -> Option<OutputRef> {
    let spec = batch.line.signature().outputs.get(index)?;
    if status(batch, member) != Status::Ok {
        return None; // what is there is not its own
    }
    // SAFETY: published and held, as the caller says.
    let lap = unsafe { batch.lap() };
    let mut shape: Option<&[i64]> = None;
    let mut caller = None;
    let mut own: Option<&Tensor> = None;
    if has_extras(batch, member) {
        // SAFETY: as above.
        let extras = unsafe { batch.extras(member) };
        caller = extras.outputs.get(index).and_then(Option::as_ref);
        if let Some(rare) = &extras.rare {
            shape = rare.shapes.as_ref().map(|shapes| shapes[index].as_slice());
            own = rare.tensors.as_ref().and_then(|tensors| tensors.get(index));
        }
    }
    let place = place(batch, member, index, own.or_else(|| lap.tensors.as_ref()?.get(index)), own.is_some())?;
    let size_bytes = match shape {
        None => place.size,
        Some(shape) => crate::tensor::size_bytes(spec.dtype, shape).ok()?,
    };
    let shape = match shape {
        Some(shape) => shape,
        None if place.first_axis.is_none() => place.shape,
        None => write_shape(batch, member, index, place.shape, place.first_axis)?,
    };
    Some(OutputRef {
        name: spec.c_name.as_ptr(),
        dtype: spec.dtype,
        shape: shape.as_ptr(),
        rank: shape.len(),
        device: place.device,
        data: caller.map_or(place.data, |caller| caller.address().cast_const()),
        size_bytes,
    })
}

/// Where the backend left a member's output.
struct Place<'a> {
    data: *const u8,
    size: usize,
    shape: &'a [i64],
    /// The size of the first axis, if it is not as in `shape`.
    first_axis: Option<i64>,
    /// The device in whose memory it is.
    device: Option<i32>,
}

/// `own`: the tensor is the member's alone.
fn place<'a>(
    batch: &'a Batch,
    member: usize,
    index: usize,
    tensor: Option<&'a Tensor>,
    own: bool,
) -> Option<Place<'a>> {
    // SAFETY: published and held, as the caller of `output` says.
    let request = unsafe { batch.request(member) };
    let (first, rows) = (request.first_row.load(Ordering::Relaxed) as usize, request.rows as usize);
    let layout = batch.layout();
    let joined = layout.is_some_and(|layout| layout.joined) && !own;
    let Some(tensor) = tensor else {
        let (part, region) =
            (layout?.outputs.as_ref()?.get(index)?, batch.memory.as_ref()?.outputs.get(index)?);
        let joined = layout?.joined;
        let (offset, size) =
            if joined { (first * part.row_bytes, rows * part.row_bytes) } else { (0, part.row_bytes) };
        debug_assert!(offset + size <= region.size());
        let first_axis = (joined && rows != 1).then_some(rows as i64);
        return Some(Place {
            data: region.address().wrapping_add(offset),
            size,
            shape: &part.shape,
            first_axis,
            device: None,
        });
    };
    if let Data::Device(memory) = &tensor.data {
        let (range, shape) = (memory.range(), &tensor.shape);
        let (data, device) = (std::ptr::without_provenance(range.address), Some(range.device));
        return Some(Place { data, size: range.size, shape, first_axis: None, device });
    }
    let bytes = tensor.bytes();
    if !joined {
        let (data, size) = match &tensor.data {
            Data::Strings(strings) => (
                strings.slices().as_ptr().cast(),
                element_count(&tensor.shape).unwrap_or(0) * size_of::<StringSlice>(),
            ),
            _ => (bytes.as_ptr(), bytes.len()),
        };
        return Some(Place { data, size, shape: &tensor.shape, first_axis: None, device: None });
    }
    let row = bytes.len() / tensor.rows().max(1);
    let part = bytes.get(first * row..(first + rows) * row)?;
    let first_axis = Some(rows as i64);
    Some(Place { data: part.as_ptr(), size: part.len(), shape: &tensor.shape, first_axis, device: None })
}

/// Writes a shape with another first axis where it stays until the event is released. Twice the same does no harm.
fn write_shape<'a>(
    batch: &'a Batch,
    member: usize,
    index: usize,
    shape: &[i64],
    first_axis: Option<i64>,
) -> Option<&'a [i64]> {
    let start: usize = batch.line.signature().outputs.iter().take(index).map(|spec| spec.dims.len()).sum();
    let room = batch.shape_room(member).get(start..start + shape.len())?;
    for (place, &size) in room.iter().zip(shape) {
        place.store(size, Ordering::Relaxed);
    }
    if let (Some(place), Some(size)) = (room.first(), first_axis) {
        place.store(size, Ordering::Relaxed);
    }
    // SAFETY: an AtomicI64 is laid out as an i64, and only ever overwritten with the same value until the release.
    Some(unsafe { std::slice::from_raw_parts(room.as_ptr().cast(), room.len()) })
}

/// The lane: copies a member's outputs to the host's own memory, where it gave some. The member is resolved, and not
/// published.
pub fn copy_to_caller(batch: &Batch, member: usize) -> Result<()> {
    // SAFETY: the caller is the lane, and has resolved the member.
    let extras = unsafe { batch.extras_mut(member) };
    for index in 0..extras.outputs.len() {
        let Some(mut caller) = extras.outputs[index].take() else { continue };
        let Some(place) = output(batch, member, index) else { continue };
        // SAFETY: the output is there, and stays for as long as the batch is held.
        let bytes = unsafe { on_host(&place) }?;
        write_to_caller(&mut caller, bytes, batch, index)?;
        extras.outputs[index] = Some(caller);
    }
    Ok(())
}

/// How a member has ended that its lane has resolved.
///
/// # Safety
/// The caller is the lane, which has noted down how the run went.
pub unsafe fn ended_as(batch: &Batch, member: usize) -> Status {
    status(batch, member)
}

/// The host's own memory for a member's output, if it gave some.
///
/// # Safety
/// The member is published, and the batch held.
pub unsafe fn callers_memory(batch: &Batch, member: usize, index: usize) -> Option<*const u8> {
    // SAFETY: promised by the caller.
    let (request, extras) = unsafe { (batch.request(member), batch.extras(member)) };
    let caller = extras.outputs.get(index).filter(|_| request.flags.extras)?.as_ref()?;
    Some(caller.address().cast_const())
}

/// Copies what a child has answered to the memory that the host gave its parent.
///
/// # Safety
/// The child's outputs are there, and the caller has resolved the parent.
pub unsafe fn copy_answer(callers: &[Option<CallerBuffer>], child: &Batch, member: usize) -> Result<()> {
    for (index, caller) in callers.iter().enumerate() {
        let Some(mut caller) = caller.clone() else { continue };
        let Some(place) = output(child, member, index) else { continue };
        // SAFETY: promised by the caller.
        let bytes = unsafe { on_host(&place) }?;
        write_to_caller(&mut caller, bytes, child, index)?;
    }
    Ok(())
}

/// The bytes of an output, which must be in host memory.
///
/// # Safety
/// The output is there for as long as the slice lives.
unsafe fn on_host<'a>(place: &OutputRef) -> Result<&'a [u8]> {
    match (place.device, place.size_bytes) {
        (Some(device), _) => {
            Err(Error::new(Status::Internal, format!("an output is on device {device}, not on the host")))
        }
        (None, 0) => Ok(&[]),
        // SAFETY: promised by the caller.
        (None, size) => Ok(unsafe { std::slice::from_raw_parts(place.data, size) }),
    }
}

fn write_to_caller(caller: &mut CallerBuffer, bytes: &[u8], batch: &Batch, index: usize) -> Result<()> {
    if caller.write(bytes) {
        return Ok(());
    }
    let name = &batch.line.signature().outputs[index].name;
    let (size, room) = (bytes.len(), caller.capacity());
    let text = format!("output {name:?} has {size} bytes, the buffer given for it {room}");
    Err(Error::new(Status::BufferTooSmall, text))
}

/// Rows of an output moved together: what padding has put between them is taken out. `padded` and `shape` are one
/// request's shapes, of the same rank.
pub fn trim(bytes: &mut [u8], element: usize, padded: &[i64], shape: &Shape) {
    // Runs of elements that stay together: everything inside the innermost axis that differs.
    let Some(axis) = (0..shape.len()).rev().find(|&axis| padded[axis] != shape[axis]) else { return };
    let count = |sizes: &[i64]| sizes.iter().map(|&size| size.max(0) as usize).product::<usize>();
    let run = count(&shape[axis..]) * element;
    let mut to = 0;
    let mut place = vec![0i64; axis];
    loop {
        let mut from = 0;
        for (at, &position) in place.iter().enumerate() {
            from += position as usize * count(&padded[at + 1..]) * element;
        }
        if from != to {
            bytes.copy_within(from..from + run, to);
        }
        to += run;
        let Some(at) = (0..axis).rev().find(|&at| place[at] + 1 < shape[at]) else { return };
        place[at] += 1;
        place[at + 1..].fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trimming_takes_the_padding_out() {
        let mut bytes: Vec<u8> = (0..24).collect();
        trim(&mut bytes, 1, &[2, 3, 4], &Shape::from_slice(&[2, 2, 3]));
        assert_eq!(bytes[..12], [0, 1, 2, 4, 5, 6, 12, 13, 14, 16, 17, 18]);
        let mut bytes: Vec<u8> = (0..24).collect();
        trim(&mut bytes, 2, &[2, 3, 2], &Shape::from_slice(&[2, 2, 2]));
        assert_eq!(bytes[..16], [0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15, 16, 17, 18, 19]);
        let mut bytes: Vec<u8> = (0..4).collect();
        trim(&mut bytes, 1, &[4], &Shape::from_slice(&[3]));
        assert_eq!(bytes[..3], [0, 1, 2]);
    }
}
