//! What the engine records into while it is profiled: when it is whose turn, and rings that threads write to without a
//! lock. When nothing is profiled, a submit and a batch look at one word each.

use super::ring::Ring;
use super::span::{Span, WORDS};
use crate::config::{ProfileConfig, ProfileLevel, ProfileMode};
use crate::features::PROFILER;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};

/// Rings, of which a thread uses one, so that lanes do not get in each other's way.
const STRIPES: usize = 4;
/// A turn that nobody took for so long is taken at once; otherwise it passes by a few, since what comes first after a
/// moment has often waited for it.
const STALE_NS: u64 = 2;
/// A turn passes by so many at most.
const SKIPPED: u64 = 7;
const NEVER: u64 = u64::MAX;

/// When something is recorded next.
#[repr(align(64))]
struct Turns {
    /// When the next turn is; `NEVER`: nothing is recorded.
    due_ns: AtomicU64,
    interval_ns: AtomicU64,
    /// One of so many, if that is asked for; 0: by the clock.
    every: AtomicU32,
    /// How many more are passed by.
    left: AtomicU32,
    taken: AtomicU64,
}

impl Turns {
    fn new() -> Self {
        Turns {
            due_ns: AtomicU64::new(NEVER),
            interval_ns: AtomicU64::new(0),
            every: AtomicU32::new(0),
            left: AtomicU32::new(0),
            taken: AtomicU64::new(0),
        }
    }

    fn begin(&self, interval_ns: u64, every: u32) {
        self.interval_ns.store(interval_ns, Ordering::Relaxed);
        self.every.store(every, Ordering::Relaxed);
        self.left.store(0, Ordering::Relaxed);
        self.due_ns.store(0, Ordering::SeqCst);
    }

    fn end(&self) {
        self.due_ns.store(NEVER, Ordering::SeqCst);
    }

    #[inline]
    fn take(&self, now_ns: u64) -> bool {
        let due_ns = self.due_ns.load(Ordering::Relaxed);
        PROFILER.built && now_ns >= due_ns && self.take_due(now_ns, due_ns)
    }

    #[cold]
    fn take_due(&self, now_ns: u64, due_ns: u64) -> bool {
        let every = self.every.load(Ordering::Relaxed);
        if every > 0 {
            // Wraps after as many as nobody counts.
            let mine = self.left.fetch_add(1, Ordering::Relaxed).is_multiple_of(every);
            self.taken.fetch_add(u64::from(mine), Ordering::Relaxed);
            return mine;
        }
        let interval_ns = self.interval_ns.load(Ordering::Relaxed);
        let left = self.left.load(Ordering::Relaxed);
        if left > 0 && now_ns - due_ns < STALE_NS * interval_ns {
            // Several at once may pass by as one: that does no harm.
            self.left.store(left - 1, Ordering::Relaxed);
            return false;
        }
        let next = now_ns.saturating_add(interval_ns);
        let mine = self.due_ns.compare_exchange(due_ns, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if mine {
            // The clock's last digits are as good as dice.
            let skipped = if interval_ns == 0 { 0 } else { (now_ns ^ now_ns >> 9) & SKIPPED };
            self.left.store(skipped as u32, Ordering::Relaxed);
            self.taken.fetch_add(1, Ordering::Relaxed);
        }
        mine
    }
}

/// What to record, as bits: the level, and modes.
const RUNS: u32 = 1 << 8;

/// A ring of its own cache line.
#[repr(align(64))]
#[derive(Default)]
struct Stripe(RwLock<Option<Ring<WORDS>>>);

/// See the module.
pub struct Recorder {
    /// The level, the modes and `RUNS`; 0: nothing is recorded.
    how: AtomicU32,
    batches: Turns,
    admissions: Turns,
    stripes: [Stripe; STRIPES],
    /// Spans that came while a profile was started or read.
    missed: AtomicU64,
}

/// How many spans there were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub recorded: u64,
    /// Of which later ones have taken the place.
    pub overwritten: u64,
    /// Which found no place.
    pub dropped: u64,
    /// Batches and submits whose turn it was.
    pub batches: u64,
    pub admissions: u64,
    /// Bytes of all rings.
    pub bytes: u64,
}

impl Default for Recorder {
    fn default() -> Self {
        Recorder {
            how: AtomicU32::new(0),
            batches: Turns::new(),
            admissions: Turns::new(),
            stripes: Default::default(),
            missed: AtomicU64::new(0),
        }
    }
}

fn bit(mode: ProfileMode) -> u32 {
    1 << (16 + mode as u32)
}

impl Recorder {
    /// Whether anything is recorded.
    #[inline]
    pub fn runs(&self) -> bool {
        PROFILER.built && self.how.load(Ordering::Relaxed) != 0
    }

    pub fn level(&self) -> ProfileLevel {
        match self.how.load(Ordering::Relaxed) & 3 {
            0 => ProfileLevel::Basic,
            1 => ProfileLevel::Detailed,
            2 => ProfileLevel::Comprehensive,
            _ => ProfileLevel::Debug,
        }
    }

    /// Whether things of this mode are recorded.
    #[inline]
    pub fn records(&self, mode: ProfileMode) -> bool {
        let how = self.how.load(Ordering::Relaxed);
        PROFILER.built && how != 0 && how & (bit(mode) | bit(ProfileMode::Combined)) != 0
    }

    /// Begins, or goes on in another way. With `fresh`, what was recorded before is thrown away.
    pub fn start(&self, config: &ProfileConfig, fresh: bool) {
        if fresh {
            let places = config.capacity().div_ceil(STRIPES);
            for stripe in &self.stripes {
                *stripe.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Ring::new(places));
            }
            for count in [&self.missed, &self.batches.taken, &self.admissions.taken] {
                count.store(0, Ordering::Relaxed);
            }
        }
        let level = config.level();
        let (interval_ns, submits_ns) = match level {
            ProfileLevel::Basic => (1_000_000, 2_000_000),
            ProfileLevel::Detailed => (500_000, 500_000),
            ProfileLevel::Comprehensive | ProfileLevel::Debug => (0, 50_000),
        };
        let modes = config.modes.iter().map(|mode| bit(*mode)).fold(0, |all, mode| all | mode);
        self.how.store(level as u32 | modes | RUNS, Ordering::SeqCst);
        match config.has(ProfileMode::Cpu) {
            true => {
                let every = match level {
                    ProfileLevel::Comprehensive | ProfileLevel::Debug => config.sample.unwrap_or(1),
                    _ => config.sample.unwrap_or(0),
                };
                self.batches.begin(interval_ns, every);
                self.admissions.begin(submits_ns, 0);
            }
            false => self.stop_turns(),
        }
    }

    fn stop_turns(&self) {
        self.batches.end();
        self.admissions.end();
    }

    /// Ends. What was recorded stays until the next start that is fresh.
    pub fn stop(&self) {
        self.stop_turns();
        self.how.store(0, Ordering::SeqCst);
    }

    /// For a lane that begins with a batch: whether it is to be recorded.
    #[inline]
    pub fn takes_batch(&self, now_ns: u64) -> bool {
        self.batches.take(now_ns)
    }

    /// For a submit: whether it is to be recorded.
    #[inline]
    pub fn takes_submit(&self, now_ns: u64) -> bool {
        self.admissions.take(now_ns)
    }

    /// Requests of a batch with so many members that are recorded: every so many, beginning with the first number.
    pub fn members(&self, members: usize, now_ns: u64) -> (usize, usize) {
        let stride = match self.level() {
            ProfileLevel::Basic => members,
            ProfileLevel::Detailed => members.div_ceil(8),
            ProfileLevel::Comprehensive | ProfileLevel::Debug => 1,
        }
        .max(1);
        ((now_ns ^ now_ns >> 7) as usize % stride, stride)
    }

    /// Records a span. Never waits.
    pub fn record(&self, span: &Span) {
        let stripe = &self.stripes[span.thread as usize % STRIPES];
        match stripe.0.try_read().as_deref() {
            Ok(Some(ring)) => ring.push(span.pack()),
            _ => _ = self.missed.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// What was recorded, by its start; and since when nothing is missing, as one ring may go further back than another.
    pub fn spans(&self) -> (Vec<Span>, u64) {
        let (mut spans, mut complete_since_ns) = (Vec::new(), 0);
        for stripe in &self.stripes {
            if let Some(ring) = &*stripe.0.read().unwrap_or_else(PoisonError::into_inner) {
                let read = ring.read();
                if ring.counts().1 > 0 {
                    // They are written when they end.
                    let oldest = read.first().and_then(|words| Span::unpack(*words));
                    complete_since_ns = complete_since_ns.max(oldest.map_or(0, |oldest| oldest.end_ns));
                }
                spans.extend(read.into_iter().filter_map(Span::unpack));
            }
        }
        spans.retain(|span| span.end_ns >= complete_since_ns);
        spans.sort_by_key(|span| (span.start_ns, span.kind));
        (spans, complete_since_ns)
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts {
            dropped: self.missed.load(Ordering::Relaxed),
            batches: self.batches.taken.load(Ordering::Relaxed),
            admissions: self.admissions.taken.load(Ordering::Relaxed),
            ..Counts::default()
        };
        for stripe in &self.stripes {
            if let Some(ring) = &*stripe.0.read().unwrap_or_else(PoisonError::into_inner) {
                let (given, overwritten, dropped) = ring.counts();
                counts.recorded += given - dropped;
                counts.overwritten += overwritten;
                counts.dropped += dropped;
                counts.bytes += ring.bytes();
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::Kind;

    fn config(json: &str) -> ProfileConfig {
        ProfileConfig::from_json(json).unwrap()
    }

    fn span(start_ns: u64, thread: u32) -> Span {
        let kind = Kind::Queue;
        Span {
            kind,
            start_ns,
            end_ns: start_ns + 5,
            model: 1,
            ticket: 2,
            batch: 3,
            rows: 4,
            thread,
            status: 0,
        }
    }

    #[test]
    fn nothing_is_recorded_unless_it_was_started() {
        let recorder = Recorder::default();
        assert!(!recorder.runs() && !recorder.takes_batch(5) && !recorder.takes_submit(u64::MAX - 1));
        recorder.record(&span(1, 0));
        assert_eq!((recorder.spans().0, recorder.counts().dropped), (vec![], 1));
    }

    #[test]
    fn basic_takes_at_most_a_thousand_batches_a_second() {
        let recorder = Recorder::default();
        recorder.start(&config("{}"), true);
        // A batch every 3 µs for a second.
        let taken = (0..333_333u64).filter(|at| recorder.takes_batch(1_000_000_000 + at * 3_000)).count();
        assert!((900..=1001).contains(&taken), "{taken}");
        // Few are all taken, however long it was quiet before.
        let taken = (0..50u64).filter(|at| recorder.takes_batch(5_000_000_000 + at * 10_000_000)).count();
        assert_eq!(taken, 50);
        assert_eq!(recorder.counts().batches, recorder.batches.taken.load(Ordering::Relaxed));
    }

    #[test]
    fn which_batch_is_taken_does_not_follow_a_pattern() {
        let recorder = Recorder::default();
        recorder.start(&config("{}"), true);
        // Two kinds of batches in turn, one short and one long.
        let (mut now, mut taken) = (1_000_000, [0, 0]);
        for at in 0..200_000usize {
            taken[at % 2] += u32::from(recorder.takes_batch(now));
            now += if at % 2 == 0 { 2_017 } else { 30_011 };
        }
        assert!(taken[0] > taken[1] / 3 && taken[1] > taken[0] / 3, "{taken:?}");
    }

    #[test]
    fn one_of_so_many_is_exact() {
        let recorder = Recorder::default();
        recorder.start(&config(r#"{"sample": 10}"#), true);
        assert_eq!((0..1000).filter(|at| recorder.takes_batch(*at)).count(), 100);
        recorder.start(&config(r#"{"level": "comprehensive"}"#), false);
        assert_eq!((0..100).filter(|at| recorder.takes_batch(*at)).count(), 100);
        assert_eq!(recorder.members(64, 9).1, 1);
        recorder.start(&config(r#"{"level": "detailed"}"#), false);
        assert_eq!((recorder.members(64, 9).1, recorder.members(3, 9).1), (8, 1));
        recorder.stop();
        assert!(!recorder.takes_batch(u64::MAX - 1));
    }

    #[test]
    fn modes_choose_what_is_recorded() {
        let recorder = Recorder::default();
        recorder.start(&config(r#"{"modes": ["io"]}"#), true);
        assert!(recorder.records(ProfileMode::Io) && !recorder.records(ProfileMode::Memory));
        assert!(!recorder.takes_batch(5) && recorder.runs());
        recorder.start(&config("{}"), false);
        assert!(recorder.records(ProfileMode::Memory) && recorder.takes_batch(5));
    }

    #[test]
    fn what_was_recorded_stays_until_the_next_start() {
        let recorder = Recorder::default();
        recorder.start(&config(r#"{"spans": 1024}"#), true);
        (0..3000).for_each(|at| recorder.record(&span(at, 0)));
        recorder.record(&span(9_999, 1));
        recorder.stop();
        let counts = recorder.counts();
        assert_eq!((counts.recorded, counts.overwritten, counts.bytes), (3001, 3000 - 256, 1024 * 64));
        let (spans, since_ns) = recorder.spans();
        assert_eq!((spans.len(), spans[0].start_ns, spans[256].start_ns, since_ns), (257, 2744, 9_999, 2749));
        recorder.start(&config("{}"), true);
        assert_eq!(recorder.spans(), (vec![], 0));
    }
}
