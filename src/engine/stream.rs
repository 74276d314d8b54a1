//! What requests of stepwise models say before they end: text and progress, which their hosts get as events.
//!
//! A request has one such event in its completion queue at most, for which it holds a place there until it ends. What is
//! said until the host takes that event goes with it, so that a slow host gets fewer and larger ones, all that was said before
//! the end comes before the terminal event, and nothing is lost. If too much waits, nothing more is taken: the request is left
//! out of its model's steps until the host has taken what there is.
#![allow(unsafe_code)]

use super::batch::Batch;
use super::completion::{CompletionQueue, Link};
use super::event::{Event, EventFlags, EventKind, Payload, Timing};
use super::model::Model;
use super::table::{Table, ticket};
use super::{ModelId, Ticket};
use crate::backend::Sink;
use crate::clock::now_ns;
use crate::error::{Error, Result, Status};
use crate::sync::{AtomicBool, Mutex, Ordering, lock};
use std::ptr::NonNull;
use std::sync::Arc;

/// So many bytes may wait for the host.
pub const MOST_BYTES: usize = 1 << 20;
/// When so many do, the request is left out of steps.
const CROWDED_BYTES: usize = MOST_BYTES / 2;

/// In the number of a text: it came with the terminal event, which is released with it.
const TERMINAL: u32 = 1 << 31;

/// What a request and its further attempts have said.
#[derive(Default)]
pub struct Stream(Mutex<State>);

#[derive(Default)]
struct State {
    /// What the host has not taken yet.
    text: Vec<u8>,
    progress: f32,
    has_news: bool,
    /// The event that tells is in the queue, or about to be.
    queued: bool,
    /// The request has ended.
    over: bool,
    /// Something was not taken, for lack of room.
    refused: bool,
    /// The attempt that has said something, or ended well; 0: none. No other one may.
    speaker: Ticket,
    /// When it did.
    spoke_ns: u64,
    /// Whose it is.
    model: ModelId,
    /// Who waits for the host to take what there is.
    waits: Option<Arc<Waker>>,
    /// Texts that the host has and has not released, by number.
    given: Vec<(u32, Box<[u8]>)>,
    last: u32,
}

/// What wakes a model's stepping thread: when a request is not wanted any more, or its host has taken what it said.
pub struct Waker {
    stirred: AtomicBool,
    ring: Box<dyn Fn() + Send + Sync>,
}

impl Waker {
    pub fn new(ring: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Waker { stirred: AtomicBool::new(false), ring: Box::new(ring) })
    }

    pub fn wake(&self) {
        self.stirred.store(true, Ordering::SeqCst);
        (self.ring)();
    }

    /// Before a look at everything: what changes from here on is seen by `is_stirred`.
    pub fn settle(&self) {
        self.stirred.store(false, Ordering::SeqCst);
    }

    pub fn is_stirred(&self) -> bool {
        self.stirred.load(Ordering::SeqCst)
    }
}

impl State {
    fn claim(&mut self, attempt: Ticket) -> bool {
        if self.speaker == 0 {
            (self.speaker, self.spoke_ns) = (attempt, now_ns());
        }
        self.speaker == attempt
    }

    fn give(&mut self, mut text: Vec<u8>, terminal: bool) -> u32 {
        self.last = ((self.last + 1) & !TERMINAL).max(1); // 0 means none
        let number = self.last | if terminal { TERMINAL } else { 0 };
        text.push(0);
        self.given.push((number, text.into_boxed_slice()));
        number
    }
}

impl Stream {
    /// Makes an attempt the one that answers; false if another one is. It has the ticket of its own.
    pub fn claim(&self, attempt: Ticket) -> bool {
        lock(&self.0).claim(attempt)
    }

    /// Whether an attempt is to be left out of steps: too much of what it has said waits for the host. If so, `waker` is woken
    /// when that has been taken.
    pub fn is_crowded(&self, attempt: Ticket, waker: &Arc<Waker>) -> bool {
        let mut state = lock(&self.0);
        let crowded =
            !state.over && state.speaker == attempt && (state.refused || state.text.len() >= CROWDED_BYTES);
        if crowded {
            state.waits = Some(Arc::clone(waker));
        }
        crowded
    }

    /// Whether another attempt is the one that answers.
    pub fn is_of_another(&self, attempt: Ticket) -> bool {
        let speaker = lock(&self.0).speaker;
        speaker != 0 && speaker != attempt
    }

    fn has_spoken(&self) -> bool {
        lock(&self.0).speaker != 0
    }
}

/// What a sequence says it to.
pub struct Voice {
    pub table: Arc<Table>,
    pub model: Arc<Model>,
    pub stream: Arc<Stream>,
    /// The attempt's own ticket, and the one that the host has; 0: there is no host.
    pub own: Ticket,
    pub listener: Ticket,
}

fn unwanted() -> Error {
    Error::new(Status::Cancelled, "nobody wants the result")
}

impl Sink for Voice {
    fn emit(&self, text: &[u8], progress: Option<f32>) -> Result<()> {
        if text.len() > MOST_BYTES {
            let text = format!("text_bytes: {} is more than {MOST_BYTES}", text.len());
            return Err(Error::new(Status::InvalidArgument, text));
        }
        if !self.is_wanted() {
            return Err(unwanted());
        }
        let counts = || self.model.traffic.here().tokens.add(u64::from(!text.is_empty()));
        if text.is_empty() && progress.is_none() {
            return Ok(());
        }
        if self.listener == 0 {
            counts();
            return match self.stream.claim(self.own) {
                true => Ok(()),
                false => Err(unwanted()),
            };
        }
        let Some((pin, member)) = self.table.pin(self.listener) else { return Err(unwanted()) };
        {
            let mut state = lock(&self.stream.0);
            if state.over || !state.claim(self.own) {
                return Err(unwanted());
            }
            let room = MOST_BYTES - state.text.len().min(MOST_BYTES);
            // Who unloads the model waits for its requests, and may be the one who would take what they say.
            if text.len() > room && !self.model.queue.is_closed() {
                state.refused = true;
                let text = format!("{} bytes wait for the consumer", state.text.len());
                return Err(Error::new(Status::QueueFull, text));
            }
            if state.text.try_reserve(text.len()).is_err() {
                return Err(Error::new(Status::OutOfMemory, "there is no memory for the text"));
            }
            state.text.extend_from_slice(text);
            state.progress = progress.unwrap_or(state.progress);
            state.has_news = true;
            state.model = self.model.queue.lines.model_id();
            counts();
            if std::mem::replace(&mut state.queued, true) {
                return Ok(());
            }
            // Under the lock, so that the terminal event comes after it.
            pin.push_stream(member);
        }
        // Not under the lock: it may fall to this thread to take what nobody else does.
        pin.announce_stream(member);
        Ok(())
    }

    fn ended(&self) {
        if let Some(stepping) = self.model.stepping() {
            stepping.wake();
        }
    }

    fn is_wanted(&self) -> bool {
        let is_unresolved = |ticket| self.table.is_unresolved(ticket);
        is_unresolved(self.own)
            && (self.listener == 0 || self.listener == self.own || is_unresolved(self.listener))
    }
}

impl Batch {
    /// What a member says; `None`: it is no stepwise request. For who has a hold on the batch.
    pub fn stream(&self, member: usize) -> Option<Arc<Stream>> {
        lock(&self.cold(member).stream).clone()
    }

    /// The ticket that the host has of a member: its own, or its parent's; 0: there is none. For who has a hold on the batch.
    pub fn listener(&self, member: usize, own: Ticket) -> Ticket {
        let is_child = self.flags(member).is_some_and(|flags| flags.child);
        if is_child { self.cold(member).hop.parent() } else { own }
    }

    /// Gives a member that is not written yet a stream: its parent's, or its own, for which there is a place in its queue.
    pub fn begin_stream(&self, member: usize, parent: Option<Ticket>) {
        let inherited = || {
            let (pin, at) = self.table.pin(parent?)?;
            pin.stream(at)
        };
        let stream = inherited().unwrap_or_default();
        *lock(&self.cold(member).stream) = Some(stream);
        if parent.is_none() {
            self.table.idle_places(1);
        }
    }

    /// Whether an attempt has answered for a member, at least in part. For who has a hold on the batch.
    pub fn has_spoken(&self, member: usize) -> bool {
        self.flags(member).is_some_and(|flags| flags.streams)
            && self.stream(member).is_some_and(|stream| stream.has_spoken())
    }

    /// When something was first said, if it was. How long all of it takes is the request's own matter, and says nothing about
    /// who answers it.
    pub fn answered_ns(&self, member: usize) -> Option<u64> {
        let spoke_ns = lock(&self.stream(member)?.0).spoke_ns;
        (spoke_ns != 0).then_some(spoke_ns)
    }

    /// Whether it is this attempt that has.
    pub fn speaks(&self, member: usize, attempt: Ticket) -> bool {
        self.flags(member).is_some_and(|flags| flags.streams)
            && self.stream(member).is_some_and(|stream| lock(&stream.0).speaker == attempt)
    }

    /// Whether another attempt may be made at this model.
    pub fn check_kind(&self, member: usize, model: &Model) -> Result<()> {
        let streams = self.flags(member).is_some_and(|flags| flags.streams);
        match streams == model.is_stepwise() {
            true => Ok(()),
            false => Err(Error::new(Status::Unsupported, "one of the two targets advances by steps")),
        }
    }

    fn queue_of(&self, member: usize) -> Option<&CompletionQueue> {
        // SAFETY: written, and held, as the callers say; queues live as long as the table.
        unsafe { self.request(member).queue.as_ref() }
    }

    /// Puts the event into the queue that tells what a member has said, which is not there. For who has a hold on the batch.
    fn push_stream(&self, member: usize) {
        let Some(queue) = self.queue_of(member) else { return };
        self.table.idle_places(-1);
        self.table.slot(self.index).life().hold(None);
        queue.push(Link::stream(self.index, member), &self.cold(member).stream_link);
    }

    fn announce_stream(&self, member: usize) {
        if let Some(queue) = self.queue_of(member) {
            queue.announce(&self.table);
        }
    }

    /// A member with a stream is about to have its terminal event: what it says is refused from here on, and its place in the
    /// queue is given back, unless it is taken. For who has a hold on the batch.
    pub fn end_stream(&self, member: usize) {
        let Some(stream) = self.stream(member) else { return };
        let gives_back = {
            let mut state = lock(&stream.0);
            !std::mem::replace(&mut state.over, true) && !state.queued
        };
        if let (true, Some(queue)) = (gives_back, self.queue_of(member)) {
            self.table.idle_places(-1);
            queue.unreserve(1);
        }
    }
}

/// For the consumer: the event that tells what a member has said, if that is news, and whether its place in the queue stays the
/// member's.
///
/// # Safety
/// The event is published, and made once.
pub unsafe fn event(table: &Table, batch: &Batch, member: usize) -> (Option<Event>, bool) {
    let ticket = ticket(table.slot(batch.index).life().generation(), batch.index, member);
    // SAFETY: written, and held for the event.
    let user_data = unsafe { batch.request(member) }.user_data;
    let Some(stream) = batch.stream(member) else {
        table.let_go(batch.index, 1);
        return (None, false);
    };
    let (text, progress, model, keeps, waits) = {
        let mut state = lock(&stream.0);
        (state.queued, state.refused) = (false, false);
        let text = std::mem::take(&mut state.text);
        let news = std::mem::take(&mut state.has_news);
        let number = if news && !text.is_empty() { state.give(text, false) } else { 0 };
        (news.then_some(number), state.progress, state.model, !state.over, state.waits.take())
    };
    if keeps {
        table.idle_places(1);
    }
    if let Some(waker) = waits {
        waker.wake();
    }
    let event = |number: u32, payload| Event {
        kind: if number > 0 { EventKind::Token } else { EventKind::Progress },
        status: Status::Ok,
        flags: EventFlags { more: true, buffers_released: false },
        ticket,
        user_data,
        model,
        timing: Timing::default(),
        outputs_count: 0,
        stage: None,
        progress,
        payload,
    };
    let event = match text {
        // The link's hold on the batch goes over to the text.
        Some(number) if number > 0 => {
            return (Some(event(number, Some(Payload::of_text(table, ticket, number)))), keeps);
        }
        Some(number) => Some(event(number, None)),
        None => None,
    };
    table.let_go(batch.index, 1);
    (event, keeps)
}

impl Table {
    /// Gives a request's terminal event a text. The batch is held.
    pub fn give_text(&self, ticket: Ticket, text: Vec<u8>) -> Option<u32> {
        let (pin, member) = self.pin(ticket)?;
        let number = lock(&pin.stream(member)?.0).give(text, true);
        self.slot(pin.index).life().hold(None);
        Some(number)
    }

    /// Reads a text that the host has and has not released, without its NUL.
    pub fn with_given<R>(&self, ticket: Ticket, number: u32, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (pin, member) = self.pin(ticket)?;
        let stream = pin.stream(member)?;
        let state = lock(&stream.0);
        let (_, text) = state.given.iter().find(|(other, _)| *other == number)?;
        text.split_last().map(|(_, text)| read(text))
    }

    /// As `release_at`, for an event with the text of this number, if it is not 0.
    ///
    /// # Safety
    /// As `release_at`.
    #[inline]
    pub unsafe fn release_event(this: NonNull<Table>, ticket: Ticket, number: u32) {
        // SAFETY: promised by the caller.
        unsafe {
            match number {
                0 => Table::release_at(this, ticket),
                number => Table::release_text(this, ticket, number),
            }
        }
    }

    #[cold]
    unsafe fn release_text(this: NonNull<Table>, ticket: Ticket, number: u32) {
        // SAFETY: promised by the caller.
        let table = unsafe { this.as_ref() };
        // Until the end: with the last hold the table may go.
        let Some((pin, member)) = table.pin(ticket) else { return };
        let text = pin.stream(member).and_then(|stream| {
            let mut state = lock(&stream.0);
            let at = state.given.iter().position(|(other, _)| *other == number)?;
            Some(state.given.swap_remove(at))
        });
        if text.is_some() {
            table.let_go(pin.index, 1);
        }
        if number & TERMINAL != 0 {
            // SAFETY: promised by the caller.
            unsafe { Table::release_at(this, ticket) };
        }
    }
}

/// All that a request has said, for whoever waits for its end.
#[derive(Default)]
pub struct Said {
    text: Vec<u8>,
    /// Keeps the batch, which the terminal event may not.
    latest: Option<Payload>,
}

impl Said {
    pub fn add(&mut self, event: Event) {
        let text = event.payload.as_ref().and_then(Payload::said).unwrap_or_default();
        self.text.extend(text);
        self.latest = event.payload;
    }

    /// The terminal event, with the text if it has ended well.
    pub fn with(self, mut event: Event, table: &Table) -> Event {
        if event.status == Status::Ok
            && self.latest.is_some()
            && let Some(number) = table.give_text(event.ticket, self.text)
        {
            match &mut event.payload {
                Some(payload) => payload.add_text(number),
                none => *none = Some(Payload::of_text(table, event.ticket, number)),
            }
        }
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_attempt_speaks() {
        let stream = Stream::default();
        assert!(!stream.has_spoken());
        assert!(stream.claim(7) && stream.claim(7) && !stream.claim(8));
        assert!(stream.has_spoken());
    }

    #[test]
    fn a_stream_is_crowded_until_what_waits_is_taken() {
        let (stream, waker) = (Stream::default(), Waker::new(|| ()));
        assert!(stream.claim(1) && !stream.is_crowded(1, &waker));
        lock(&stream.0).text = vec![b'a'; CROWDED_BYTES];
        assert!(!stream.is_crowded(2, &waker) && lock(&stream.0).waits.is_none(), "it has said nothing");
        assert!(stream.is_crowded(1, &waker) && lock(&stream.0).waits.is_some());
        lock(&stream.0).over = true;
        assert!(!stream.is_crowded(1, &waker), "nobody will take it");
    }

    #[test]
    fn texts_have_numbers_of_their_own() {
        let mut state = State::default();
        let first = state.give(b"one".to_vec(), false);
        let second = state.give(b"two".to_vec(), true);
        assert_eq!((first, second), (1, 2 | TERMINAL));
        state.last = !TERMINAL;
        assert_eq!(state.give(Vec::new(), false), 1, "0 means none");
        assert_eq!(&*state.given[0].1, b"one\0");
    }
}
