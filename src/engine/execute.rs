//! Execution of one batch by the lane that has taken it: leave out what nobody wants, run, resolve, publish.
#![allow(unsafe_code)]

use super::batch::{Batch, Lent, Phase};
use super::completion::{CompletionQueue, Link};
use super::lifecycle::Core;
use super::line::Kind;
use super::model::Model;
use super::outcome::{self, OWN};
use super::settle::{Marked, Settled};
use super::spans::Probe;
use crate::backend::{Layout, Memory, View};
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::panics::catch;
use crate::sync::{Ordering, lock, spin_loop};
use crate::tensor::Tensor;
use std::ffi::CString;
use std::ptr;
use std::sync::Arc;

/// What a run came to: the outputs, if they are not in the batch's memory.
pub type Ran = Result<Option<Vec<Tensor>>>;

/// Runs a batch that a queue has given out, and lets go of the lane's hold on it. Every request in it is resolved when
/// this returns.
pub fn execute(core: &Arc<Core>, model: &Model, index: u32) {
    let mut lane = Lane::open(core, model, index);
    if let Err(error) = catch(|| {
        lane.work();
        Ok(())
    }) {
        // A bug of the engine's own: the batch fails, the lane goes on.
        lane.finish(Err(error), lane.taken_ns, now_ns());
    }
    lane.close();
}

/// A batch and whoever runs it.
pub struct Lane<'a> {
    pub core: &'a Arc<Core>,
    pub model: &'a Model,
    pub batch: &'a Batch,
    pub members: usize,
    pub rows: usize,
    pub taken_ns: u64,
    pub probe: Probe,
    /// The backend has had memory that the request lends.
    pub has_lent: bool,
    /// When all members had written.
    pub written_ns: u64,
}

impl<'a> Lane<'a> {
    /// Takes a batch over that a queue has given out, with the lane's hold on it.
    pub fn open(core: &'a Arc<Core>, model: &'a Model, index: u32) -> Self {
        // SAFETY: the queue has given the lane's hold to the caller.
        let batch = unsafe { core.table.batch(index) };
        batch.set_phase(Phase::Running);
        core.observer.notice();
        let counts = core.table.slot(index).claims.counts();
        let taken_ns = now_ns();
        let probe = core.table.spans.probe(core, model, batch, counts.members, taken_ns);
        let mut looks = 0u32;
        while !batch.written.all_set(counts.members) {
            // Somebody has claimed a place and is still writing: mostly for less than a microsecond.
            looks += 1;
            if looks < 200 { spin_loop() } else { std::thread::yield_now() }
        }
        let written_ns = if looks == 0 { taken_ns } else { now_ns() };
        let (members, rows) = (counts.members, counts.rows);
        Lane { core, model, batch, members, rows, taken_ns, probe, has_lent: false, written_ns }
    }

    /// Lets go of the batch, whose requests are all resolved.
    pub fn close(&self) {
        self.probe.end(self.core, self.model, self.batch, self.members);
        self.core.table.let_go(self.batch.index, 1);
        self.core.table.batch_is_done();
        self.core.tuning.notice();
    }

    /// Leaves out what is overdue or resolved before the run; whether anything is left.
    pub fn take_in(&mut self) -> bool {
        self.expire(self.taken_ns);
        self.take_lent();
        self.leave_out_resolved() > 0
    }

    fn work(&mut self) {
        if !self.take_in() {
            return self.finish(
                Err(Error::new(Status::Cancelled, "nobody wants the result")),
                self.taken_ns,
                0,
            );
        }
        self.fetch();
        let started_ns = now_ns();
        let result = self.run();
        let ended_ns = now_ns();
        self.model.residence.used_at(ended_ns);
        if self.batch.line.kind() == Kind::Joined {
            self.model.queue.expect_again(self.rows);
        }
        self.count_run(self.request_rows(), ended_ns.saturating_sub(started_ns));
        let given_up = self.batch.interrupt.is_raised();
        match &result {
            Ok(_) => {
                self.model.queue.costs.record(self.request_rows(), ended_ns.saturating_sub(started_ns));
                self.record_outcome(None);
            }
            Err(error) if error.status == Status::BackendFailed && self.members > 1 && !given_up => {
                let error = error.clone();
                return self.run_one_by_one(error, started_ns, ended_ns);
            }
            Err(_) if given_up => (),
            // The host's memory on a device is too small for an output.
            Err(error) if error.status == Status::BufferTooSmall => (),
            Err(error) => self.record_outcome(Some(error)),
        }
        self.finish(result, started_ns, ended_ns);
    }

    fn expire(&self, now: u64) {
        self.core.table.expire_for(self.batch, now);
    }

    /// Takes memory that the request lends, unless it was resolved before.
    fn take_lent(&mut self) {
        // SAFETY: written, and held by the lane. Requests that lend are alone in their batch.
        if unsafe { self.batch.request(0) }.flags.lends {
            let lent = &self.batch.cold(0).lent;
            let taken = lent.compare_exchange(Lent::HOST, Lent::LANE, Ordering::AcqRel, Ordering::Acquire);
            self.has_lent = taken.is_ok();
        }
    }

    /// The requests' rows in the run.
    fn request_rows(&self) -> usize {
        match self.batch.layout() {
            Some(layout) if layout.joined => self.rows,
            // SAFETY: written, and held by the lane.
            _ => unsafe { self.batch.request(0) }.rows as usize,
        }
    }

    /// Moves the rows of members that are not resolved together, and returns how many members that are.
    fn leave_out_resolved(&mut self) -> usize {
        let resolved = self.batch.resolved.count(self.members);
        let joined = self.batch.layout().filter(|layout| layout.joined);
        let (Some(layout), Some(memory), true) = (joined, &self.batch.memory, resolved > 0) else {
            return self.members - resolved;
        };
        let _moving = lock(&self.batch.moving);
        let (mut to, mut live) = (0, 0);
        for member in 0..self.members {
            if self.batch.resolved.is_set(member) {
                continue;
            }
            // SAFETY: written, and held by the lane.
            let request = unsafe { self.batch.request(member) };
            let (from, rows) = (request.first_row.load(Ordering::Relaxed) as usize, request.rows as usize);
            if from != to {
                for (part, region) in layout.inputs.iter().zip(&memory.inputs) {
                    let size = (from + rows) * part.row_bytes;
                    // SAFETY: all members have written, so the lane owns the memory.
                    let bytes = unsafe { region.bytes_mut(0, size) };
                    bytes.copy_within(from * part.row_bytes..size, to * part.row_bytes);
                }
                request.first_row.store(to as u32, Ordering::Relaxed);
            }
            to += rows;
            live += 1;
        }
        self.rows = to;
        live
    }

    /// Brings what submitters have written into this core's cache, all lines at once: the backend and `finish`, which
    /// go through it in order, would wait for one after the other.
    fn fetch(&self) {
        const LINE: usize = 64;
        const MOST: usize = 256 << 10;
        let mut seen = 0u8;
        if let (Some(layout), Some(memory)) = (self.batch.layout(), &self.batch.memory) {
            for (part, region) in layout.inputs.iter().zip(&memory.inputs) {
                let size = (self.rows * part.row_bytes).min(region.size());
                if size <= MOST {
                    // SAFETY: all members have written, so the lane owns the memory.
                    let bytes = unsafe { region.bytes(0, size) };
                    seen = bytes.iter().step_by(LINE).fold(seen, |seen, byte| seen ^ byte);
                }
            }
        }
        for member in &self.batch.members[..self.members] {
            seen ^= member.status.load(Ordering::Relaxed) as u8;
        }
        std::hint::black_box(seen);
    }

    fn run(&self) -> Ran {
        match (self.batch.layout(), &self.batch.memory) {
            (Some(layout), Some(memory)) => {
                let rows = self.padded_rows(layout, memory);
                let tensors = self.run_rows(layout, memory, 0, rows)?;
                tensors.map(|tensors| self.check(tensors, layout.joined.then_some(rows))).transpose()
            }
            _ => self.run_bare().map(Some),
        }
    }

    /// The rows to run: those there are, filled up with zeros to the next bucket.
    fn padded_rows(&self, layout: &Layout, memory: &Memory) -> usize {
        let buckets = &self.model.config().batching.buckets;
        let Some(&bucket) = buckets
            .iter()
            .find(|&&bucket| (self.rows..=layout.max_rows).contains(&(bucket as usize)))
            .filter(|_| layout.joined)
        else {
            return self.rows;
        };
        let bucket = bucket as usize;
        let row_bytes: usize = layout.inputs.iter().map(|part| part.row_bytes).sum();
        let padding = ((bucket - self.rows) * row_bytes) as u64;
        let counted = self.batch.line.traffic.here();
        counted.input_bytes.add(padding);
        counted.padding_bytes.add(padding);
        for (part, region) in layout.inputs.iter().zip(&memory.inputs) {
            let (from, size) = (self.rows * part.row_bytes, (bucket - self.rows) * part.row_bytes);
            // SAFETY: all members have written, so the lane owns the memory.
            unsafe { region.bytes_mut(from, size) }.fill(0);
        }
        bucket
    }

    fn run_rows(&self, layout: &Arc<Layout>, memory: &Arc<Memory>, first: usize, rows: usize) -> Ran {
        catch(|| {
            // SAFETY: all members have written, so the lane owns the memory.
            let mut view = unsafe { View::new(memory, layout, first, rows) };
            let prepare = || self.model.prepare(memory, layout, &self.core.pool);
            // SAFETY: this is the lane.
            let prepared = unsafe { self.batch.prepared(self.model.residence.epoch(), prepare) }?;
            self.probe.prepare(prepared);
            prepared.run(&mut view, &self.batch.interrupt)
        })
    }

    /// After a joined run has failed, for which one request may be to blame: runs each alone, and publishes it at once,
    /// since another may take long. However many fail again, it is one failure of one batch.
    fn run_one_by_one(&self, error: Error, started_ns: u64, ended_ns: u64) {
        let (Some(layout), Some(memory)) = (self.batch.layout(), &self.batch.memory) else { return };
        let failure = error.clone();
        self.note(Err(error), started_ns, ended_ns);
        let mut failed = false;
        for member in 0..self.members {
            self.batch.set_alone(Some(member));
            if self.batch.resolved.is_set(member) {
                continue;
            }
            // SAFETY: written, and held by the lane.
            let request = unsafe { self.batch.request(member) };
            let (first, rows) = (request.first_row.load(Ordering::Relaxed) as usize, request.rows as usize);
            if self.is_tripped(member) {
                // Enough is known of this target: another one is asked at once.
                self.finish_alone(member, Err(failure.clone()));
                continue;
            }
            let run_ns = now_ns();
            let result = self.run_rows(layout, memory, first, rows);
            let result =
                result.and_then(|tensors| tensors.map(|tensors| self.check(tensors, Some(rows))).transpose());
            self.count_run(rows, now_ns().saturating_sub(run_ns));
            match &result {
                Ok(_) => self.record_outcome(None),
                Err(_) if self.batch.interrupt.is_raised() => (),
                Err(error) if !std::mem::replace(&mut failed, true) => {
                    self.record_outcome(Some(error));
                }
                Err(_) => (),
            }
            self.finish_alone(member, result);
        }
        self.batch.set_alone(None);
        self.batch.set_phase(Phase::Done);
    }

    /// Resolves a member that was run alone, unless it is, and publishes its event.
    fn finish_alone(&self, member: usize, result: Ran) {
        let (batch, table) = (self.batch, &self.core.table);
        let _publishing = table.publishing();
        self.expire(now_ns());
        // SAFETY: written, and held by the lane; queues live as long as the table.
        let request = unsafe { batch.request(member) };
        let routed = request.flags.routed || request.flags.child;
        if routed && !batch.resolved.is_set(member) && self.settle_alone(member, &result) {
            return;
        }
        if !batch.resolved.set(member) {
            return;
        }
        // SAFETY: this is the lane, and the member is not published yet.
        let extras = unsafe { batch.extras_mut(member) };
        let rare = extras.rare.get_or_insert_default();
        (rare.text, rare.tensors) = (None, None);
        let code = match result {
            Ok(tensors) => {
                rare.tensors = tensors;
                0
            }
            Err(error) => {
                rare.text = c_text(error.message);
                error.status.code() as u32
            }
        };
        batch.members[member].status.store(code | OWN, Ordering::Relaxed);
        let status = self.finish_unusual(member, Status::Ok);
        if request.flags.child {
            return self.core.child_has_ended(batch, member);
        }
        if routed {
            table.conclude(batch, member, status);
        }
        self.count(status, 1);
        if batch.line.outputs_count() > 0 || status != Status::Ok {
            table.slot(batch.index).held().set(member);
        }
        if status == Status::Ok {
            if let Some(counted) = batch.line.traffic.times() {
                counted.total.record(now_ns().saturating_sub(request.submitted_ns));
                counted.queued.record(self.taken_ns.saturating_sub(request.submitted_ns));
            }
            batch.note_patience(member);
        }
        batch.published.set(member);
        self.probe.publish(batch);
        // SAFETY: queues live as long as the table.
        if let Some(queue) = unsafe { request.queue.as_ref() } {
            queue.publish(Link::member(batch.index, member), &batch.members[member].link, table);
        }
    }

    /// Notes down how the run went. Nothing is published yet.
    fn note(&self, result: Ran, started_ns: u64, ended_ns: u64) -> Status {
        // SAFETY: this is the lane, and nothing is published yet.
        let lap = unsafe { self.batch.lap_mut() };
        (lap.taken_ns, lap.started_ns, lap.ended_ns) = (self.taken_ns, started_ns, ended_ns.max(started_ns));
        lap.rows = self.request_rows() as u32;
        match result {
            Ok(tensors) => (lap.status, lap.text, lap.tensors) = (Status::Ok, None, tensors),
            Err(error) => {
                (lap.status, lap.text, lap.tensors) = (error.status, c_text(error.message), None);
            }
        }
        lap.status
    }

    /// Resolves every member that is not, and publishes their events.
    pub fn finish(&self, result: Ran, started_ns: u64, ended_ns: u64) {
        let (batch, table) = (self.batch, &self.core.table);
        batch.set_phase(Phase::Finishing);
        let now = ended_ns.max(started_ns);
        // Without threads nobody looked at the clock during the run: what is overdue has expired all the same.
        self.expire(now);
        let settled = if batch.has_routed() { self.settle(&result) } else { Settled::default() };
        let batch_status = self.note(result, started_ns, now);
        let (mut newly, mut children) = (0, Marked::new());
        batch.resolved.set_rest(
            self.members,
            |at| settled.relayed.get(at).copied().unwrap_or(0),
            |at, bits| {
                let of_children = bits & settled.children.get(at).copied().unwrap_or(0);
                if of_children != 0 {
                    children.push((at, of_children));
                }
                // Nobody is told of children.
                batch.published.store(at, bits & !of_children);
                newly += (bits & !of_children).count_ones() as u64;
            },
        );
        if newly == 0 && children.is_empty() {
            // Nobody will look at the outputs, and the memory that requests lend may keep the batch for long.
            // SAFETY: this is the lane, and nothing of the lap is published.
            unsafe { batch.lap_mut() }.tensors = None;
        }
        let mut counted = 0;
        let (mut first_queue, mut same) = (ptr::null::<CompletionQueue>(), true);
        for member in self.published() {
            // SAFETY: written, and held by the lane.
            let request = unsafe { batch.request(member) };
            if counted == 0 {
                first_queue = request.queue;
            }
            same &= ptr::eq(request.queue, first_queue);
            counted += 1;
            let word = batch.members[member].status.load(Ordering::Relaxed);
            if request.deadline_ns != 0 {
                batch.note_patience(member);
            }
            let mut own_status = batch_status;
            if request.flags.extras || word != 0 || request.flags.lends {
                let status = self.finish_unusual(member, batch_status);
                if status != batch_status {
                    self.count(status, 1);
                    newly -= 1;
                }
                own_status = status;
            }
            if request.flags.routed {
                table.conclude(batch, member, own_status);
            }
        }
        self.count(batch_status, newly);
        // All of them at once, rather than one by one when they are taken: the host gets something to release with each,
        // outputs or a reason.
        let outputs = batch.line.outputs_count() > 0;
        if outputs || batch_status != Status::Ok {
            let held = table.slot(batch.index).held();
            for at in 0..self.members.div_ceil(64) {
                match batch.published.word(at) {
                    0 => (),
                    bits => held.add(at, bits),
                }
            }
        }
        self.release_lent();
        self.record_times();
        self.probe.publish(batch);
        if counted > 0 && !first_queue.is_null() && same {
            // SAFETY: queues live as long as the table.
            unsafe { &*first_queue }.publish(Link::batch(batch.index), &batch.link, table);
        } else if counted > 0 {
            self.publish_by_queue();
        }
        if batch.has_routed() {
            self.see_off(children, batch_status);
        }
        batch.set_phase(Phase::Done);
    }

    fn count(&self, status: Status, count: u64) {
        if count > 0 {
            self.batch.line.traffic.here().ended(status, count);
        }
    }

    /// What few members need when they end. Returns the member's own status.
    pub fn finish_unusual(&self, member: usize, batch_status: Status) -> Status {
        let place = &self.batch.members[member].status;
        let word = place.load(Ordering::Relaxed);
        let mut status = match word & !OWN {
            0 if word & OWN != 0 => Status::Ok,
            0 => batch_status,
            code => Status::from_code(code as i32).unwrap_or(Status::Internal),
        };
        // SAFETY: written, and held by the lane.
        let request = unsafe { self.batch.request(member) };
        if status == Status::Ok && request.flags.extras {
            // A panic here must not take the events of the whole batch with it.
            let copied = catch(|| {
                self.trim(member)?;
                outcome::copy_to_caller(self.batch, member)
            });
            if let Err(error) = copied {
                status = error.status;
                // SAFETY: this is the lane, and the member is not published yet.
                let extras = unsafe { self.batch.extras_mut(member) };
                extras.rare.get_or_insert_default().text = c_text(error.message);
                place.store(status.code() as u32 | OWN, Ordering::Relaxed);
            }
        }
        if request.flags.streams && !request.flags.child {
            self.batch.end_stream(member);
        }
        if request.flags.lends {
            // Before any event says that the host's memory is its own again.
            // SAFETY: as above.
            if let Some(rare) = &mut unsafe { self.batch.extras_mut(member) }.rare {
                rare.inputs = None;
            }
            // SAFETY: queues live as long as the table.
            if let Some(queue) = unsafe { request.queue.as_ref() } {
                queue.unreserve(1); // there is no second event
            }
        }
        status
    }

    /// Says that memory is the host's again that was lent by a request which was resolved while it ran.
    fn release_lent(&self) {
        if !self.has_lent {
            return;
        }
        let (batch, cold) = (self.batch, self.batch.cold(0));
        if cold.lent.swap(Lent::LET_GO, Ordering::AcqRel) == Lent::LANE {
            return; // whoever resolves it, or has, finds that the memory is the host's again
        }
        // It was promised another event, which must not come before the first.
        while batch.members[0].status.load(Ordering::Acquire) & outcome::ANNOUNCED == 0 {
            std::thread::yield_now();
        }
        let table = &self.core.table;
        // SAFETY: written, and held by the lane; queues live as long as the table.
        match unsafe { batch.request(0).queue.as_ref() } {
            Some(queue) => queue.publish(Link::released(batch.index, 0), &cold.second_link, table),
            None => {
                table.leave(1);
                table.let_go(batch.index, 1);
            }
        }
    }

    /// Publishes members one by one, but those of one queue together.
    fn publish_by_queue(&self) {
        let batch = self.batch;
        let mut left: smallvec::SmallVec<[usize; 64]> = self.published().collect();
        while let Some(&first) = left.first() {
            // SAFETY: written, and held by the lane.
            let queue_of = |member: usize| unsafe { batch.request(member) }.queue;
            let queue = queue_of(first);
            let mut newest: Option<Link> = None;
            let mut oldest = first;
            left.retain(|member| {
                let same = ptr::eq(queue_of(*member), queue);
                if same {
                    match newest {
                        // The newest comes first in the chain.
                        Some(link) => batch.members[*member].link.store(link.0, Ordering::Relaxed),
                        None => oldest = *member,
                    }
                    newest = Some(Link::member(batch.index, *member));
                }
                !same
            });
            // SAFETY: queues live as long as the table.
            if let (Some(newest), Some(queue)) = (newest, unsafe { queue.as_ref() }) {
                queue.publish_chain(newest, &batch.members[oldest].link, &self.core.table);
            }
        }
    }
}

/// Text for C: without NULs, which would cut it.
pub fn c_text(text: String) -> Option<CString> {
    CString::new(text.replace('\0', " ")).ok()
}
