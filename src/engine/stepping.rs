//! Models that advance by steps. One thread for each such model, or the host's that pumps, holds the requests that live, takes
//! in new ones between steps, drops those that nobody wants any more, and advances all others together.
#![allow(unsafe_code)]

use super::batch::Batch;
use super::execute::{Lane, Ran};
use super::lifecycle::Core;
use super::model::Model;
use super::queue::Alarm;
use super::spans::Probe;
use super::stream::{Stream, Voice, Waker};
use crate::backend::{Sequence, Stepwise};
use crate::clock::now_ns;
use crate::config::ModelConfig;
use crate::error::{Error, Result, Status};
use crate::panics::catch;
use crate::scheduler::jobs::spawn;
use crate::sync::{Mutex, lock, try_lock};
use crate::tensor::Tensor;
use std::sync::Arc;

/// What a stepwise model has besides.
pub struct Stepping {
    /// Held for a slice of work.
    live: Mutex<Vec<Live>>,
    waker: Arc<Waker>,
}

/// A request that was begun and has not ended.
struct Live {
    opened: Opened,
    started_ns: u64,
    stream: Arc<Stream>,
    sequence: Box<dyn Sequence>,
    backend: Arc<dyn Stepwise>,
}

impl Stepping {
    /// The alarm wakes the model's thread.
    pub fn new(alarm: &Arc<Alarm>) -> Self {
        let alarm = Arc::clone(alarm);
        Stepping { live: Mutex::default(), waker: Waker::new(move || alarm.bell.ring_all()) }
    }

    /// Has the model's thread look again.
    pub fn wake(&self) {
        self.waker.wake();
    }

    /// For a thread of the host's: takes in what waits, and makes one step. False: there was nothing to do, or another
    /// thread does it.
    pub fn pump(&self, core: &Arc<Core>, model: &Arc<Model>) -> bool {
        try_lock(&self.live).is_some_and(|mut live| self.slice(core, model, &mut live, None))
    }

    /// Starts the model's thread.
    pub fn start(core: &Arc<Core>, model: &Arc<Model>) -> Result<()> {
        let (core, own) = (Arc::clone(core), Arc::clone(model));
        let run = move || {
            if let Some(stepping) = own.stepping() {
                stepping.work(&core, &own);
            }
        };
        lock(&model.lanes).push(spawn(&format!("blaze-steps-{}", model.config.name), run)?);
        Ok(())
    }

    fn work(&self, core: &Arc<Core>, model: &Arc<Model>) {
        let queue = &model.queue;
        let mut live = lock(&self.live);
        loop {
            let mut first = None;
            if live.is_empty() {
                // Places to compute are taken for each slice.
                let next = queue.next(core.free_gate(), &core.spinning, &core.rest());
                let Some((index, _pass)) = next else { return };
                first = Some(index);
            }
            if !self.slice(core, model, &mut live, first) {
                // All of them wait for their hosts.
                queue.sleep(|| self.waker.is_stirred() || queue.is_ready() || queue.is_closed());
            }
        }
    }

    /// Takes in what waits, drops what is not wanted, and makes one step; whether there was anything to do.
    fn slice(&self, core: &Arc<Core>, model: &Arc<Model>, live: &mut Vec<Live>, first: Option<u32>) -> bool {
        self.waker.settle();
        let queue = &model.queue;
        if first.is_none() && live.is_empty() && !queue.is_ready() {
            return false;
        }
        let Some(_pass) = core.gate_of(model).enter(&queue.share, || true) else { return false };
        let _active = core.spinning.compute();
        let (mut worked, mut next) = (false, first);
        // No more than may live: what fails at once, and makes room by it, must not keep the others waiting.
        for _ in 0..queue.lanes() {
            let Some(index) = next.take().or_else(|| queue.try_next()) else { break };
            live.extend(self.begin(core, model, index));
            worked = true;
        }
        let now = now_ns();
        live.iter().for_each(|live| core.table.expire_for(live.opened.batch(core), now));
        let before = live.len();
        let unwanted: Vec<Live> = live.extract_if(.., |live| live.is_unwanted(core)).collect();
        unwanted.into_iter().for_each(|live| live.end(core, model, Err(nobody()), false));
        Self::end_finished(core, model, live); // by a thread of the backend's own, between steps
        worked |= live.len() < before;
        self.step(core, model, live) || worked
    }

    /// Ends those that have finished.
    fn end_finished(core: &Arc<Core>, model: &Arc<Model>, live: &mut Vec<Live>) {
        let mut results = Vec::new();
        let over = |live: &mut Live| live.take_end().map(|result| results.push(result)).is_some();
        let over: Vec<Live> = live.extract_if(.., over).collect();
        for (live, result) in over.into_iter().zip(results) {
            live.end(core, model, result, true);
        }
    }

    /// Begins a request that the queue has given out; `None`: it has ended already.
    fn begin(&self, core: &Arc<Core>, model: &Arc<Model>, index: u32) -> Option<Live> {
        let mut lane = Lane::open(core, model, index);
        let waker = Arc::clone(&self.waker);
        lane.batch.interrupt.set_stopper(Some(Box::new(move || waker.wake())));
        let taken_in = lane.take_in();
        let started_ns = now_ns();
        let begun = if taken_in { Live::begin_in(&lane, model) } else { Err(nobody()) };
        let opened = Opened::of(lane);
        match begun {
            Ok((stream, sequence, backend)) => {
                let mut live = Live { opened, started_ns, stream, sequence, backend };
                let Some(result) = live.take_end() else { return Some(live) };
                live.end(core, model, result, true);
            }
            Err(error) => close(core, model, opened, started_ns, Err(error), true),
        }
        None
    }

    /// Advances all that can be; whether there were any.
    fn step(&self, core: &Arc<Core>, model: &Arc<Model>, live: &mut Vec<Live>) -> bool {
        let closing = model.queue.is_closed();
        let started_ns = now_ns();
        let mut going: Vec<&mut dyn Sequence> = Vec::with_capacity(live.len());
        let mut backend = None;
        for live in live.iter_mut().filter(|live| closing || !live.is_crowded(core, &self.waker)) {
            backend.get_or_insert_with(|| Arc::clone(&live.backend));
            going.push(&mut *live.sequence);
        }
        let Some(backend) = backend else { return false };
        let rows = going.len();
        let stepped = catch(|| backend.step(&mut going));
        drop((going, backend));
        let ended_ns = now_ns();
        model.residence.used_at(ended_ns);
        model.count_step(rows, ended_ns.saturating_sub(started_ns));
        if let Err(error) = stepped {
            let mut counts = true; // it is one failure, however many requests it ends
            for live in live.drain(..) {
                live.end(core, model, Err(error.clone()), std::mem::take(&mut counts));
            }
            return true;
        }
        Self::end_finished(core, model, live);
        true
    }
}

/// What is left of a lane between steps.
struct Opened {
    index: u32,
    taken_ns: u64,
    written_ns: u64,
    has_lent: bool,
    probe: Probe,
}

impl Opened {
    fn of(lane: Lane<'_>) -> Self {
        let Lane { batch, taken_ns, written_ns, has_lent, probe, .. } = lane;
        Opened { index: batch.index, taken_ns, written_ns, has_lent, probe }
    }

    fn batch<'a>(&self, core: &'a Core) -> &'a Batch {
        // SAFETY: the lane's hold goes with this.
        unsafe { core.table.batch(self.index) }
    }

    fn lane<'a>(self, core: &'a Arc<Core>, model: &'a Model) -> Lane<'a> {
        let batch = self.batch(core);
        let Opened { taken_ns, written_ns, has_lent, probe, .. } = self;
        Lane { core, model, batch, members: 1, rows: 1, taken_ns, probe, has_lent, written_ns }
    }
}

type Begun = (Arc<Stream>, Box<dyn Sequence>, Arc<dyn Stepwise>);

impl Live {
    /// Has the backend begin a request.
    fn begin_in(lane: &Lane<'_>, model: &Arc<Model>) -> Result<Begun> {
        let (table, batch) = (&lane.core.table, lane.batch);
        let stream =
            batch.stream(0).ok_or_else(|| Error::new(Status::Internal, "a request has no stream"))?;
        let own = table.ticket_of(batch, 0);
        let voice = Voice {
            table: Arc::clone(table),
            model: Arc::clone(model),
            stream: Arc::clone(&stream),
            own,
            listener: batch.listener(0, own),
        };
        let (inputs, places) = (lane.bare_inputs(), lane.places().unwrap_or_default());
        catch(|| {
            let backend = model.backend()?.stepwise().ok_or_else(|| {
                let text = "the model was loaded anew, and does not advance by steps any more";
                Error::new(Status::BackendFailed, text)
            })?;
            let sequence = Arc::clone(&backend).begin(inputs, places, Arc::new(voice))?;
            Ok((stream, sequence, backend))
        })
    }

    fn is_unwanted(&self, core: &Core) -> bool {
        let batch = self.opened.batch(core);
        batch.resolved.is_set(0) || self.stream.is_of_another(core.table.ticket_of(batch, 0))
    }

    fn is_crowded(&self, core: &Core, waker: &Arc<Waker>) -> bool {
        self.stream.is_crowded(core.table.ticket_of(self.opened.batch(core), 0), waker)
    }

    fn take_end(&mut self) -> Option<Result<Vec<Tensor>>> {
        catch(|| Ok(self.sequence.take_end())).unwrap_or_else(|error| Some(Err(error)))
    }

    fn end(self, core: &Arc<Core>, model: &Arc<Model>, result: Result<Vec<Tensor>>, counts: bool) {
        let Live { opened, started_ns, sequence, backend, .. } = self;
        // Before the host hears of the end, with which its memory is its own again; and with its backend, which may leave.
        drop((sequence, backend));
        close(core, model, opened, started_ns, result, counts);
    }
}

/// What a stepwise model's configuration may not say.
pub fn check(config: &ModelConfig) -> Result<()> {
    let wrong = |text| Err(Error::new(Status::InvalidConfig, text));
    match () {
        () if config.lanes != 1 => wrong("lanes: must be 1 for a model that advances by steps"),
        () if !config.batching.axes.is_empty() => {
            wrong("batching.axes: requests of a model that advances by steps are not padded")
        }
        () => Ok(()),
    }
}

fn nobody() -> Error {
    Error::new(Status::Cancelled, "nobody wants the result")
}

/// Resolves a request, unless it is, and lets go of it. A failure `counts` as one of the model's.
fn close(
    core: &Arc<Core>,
    model: &Arc<Model>,
    opened: Opened,
    started_ns: u64,
    result: Result<Vec<Tensor>>,
    counts: bool,
) {
    let lane = opened.lane(core, model);
    let own = core.table.ticket_of(lane.batch, 0);
    let answers = || lane.batch.stream(0).is_none_or(|stream| stream.claim(own));
    let checked = result.and_then(|tensors| lane.check(tensors, None));
    let result: Ran = match checked {
        Ok(_) if !answers() => Err(nobody()),
        checked => checked.map(Some),
    };
    match &result {
        Ok(_) => lane.record_outcome(None),
        // The host's memory on a device may be too small for an output.
        Err(error) if !counts || matches!(error.status, Status::Cancelled | Status::BufferTooSmall) => (),
        Err(error) => lane.record_outcome(Some(error)),
    }
    lane.batch.interrupt.set_stopper(None);
    lane.finish(result, started_ns, now_ns());
    lane.close();
    model.queue.finished();
}
