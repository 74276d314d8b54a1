//! The strategy `adaptive`: learns what a call to each target takes, by the number of calls that are with it, and how
//! many calls fail; asks the one where the next call costs least, and now and then one of which little was heard.

use super::random::{mix, unit};
use super::strategy::{Choice, FAILURE_FACTOR, Strategy, Turn};
use super::target::Target;
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, try_lock};

/// What a batch of calls has taken, and what is left.
#[derive(Clone, Copy, Debug)]
pub struct Lesson {
    /// On average, from beginning to end.
    pub latency_ns: f32,
    pub longest_ns: u64,
    pub calls: u32,
    pub failed: u32,
    /// Calls that were with the target, these among them.
    pub in_flight: u32,
    /// Calls that have ever ended; wraps around.
    pub ended: u32,
    pub now_ns: u64,
    pub memory_ns: u64,
}

/// What `adaptive` knows of one target.
///
/// Little can be learned from what calls took and how many were with the target when they ended: while a call takes long,
/// many others come, so the number follows from the time rather than the time from the number. So one call at a time is
/// followed, the mark: how many it found, and what it took.
///
/// Calls that find others wait first for the run that is under way. How long that goes on already is known, so it is the
/// time from that run's beginning that is learned, and when a target is picked what has passed of it is taken off.
#[derive(Default)]
pub struct Arm {
    fit: Mutex<Fit>,
    /// What a call takes that finds others: nanoseconds at no call, and for each call, as two `f32`. 0: nothing is known.
    line: AtomicU64,
    /// What a call takes that finds none, as `f32`.
    alone: AtomicU32,
    /// The share of calls that fail, as `f32`.
    failing: AtomicU32,
    /// When calls last ended; 0: none have.
    heard_ns: AtomicU64,
    /// When the run under way began, as far as can be told: when calls last ended, or when one came after a pause.
    run_ns: AtomicU64,
    /// Which of all calls the mark is (low half), and how many there were, itself among them (high half). 0: no mark.
    mark: AtomicU64,
    mark_ns: AtomicU64,
    /// How long the run had gone on then.
    mark_run_ns: AtomicU64,
}

/// Calls that count: each one makes the earlier ones count less, by this part, …
const CALLS: f32 = 200.0;
/// … and those of which one looks whether they fail.
const CALLS_FAILING: f32 = 100.0;
/// As if so many more had ended well, so that one failure is not the end.
const CALLS_TRUSTED: f32 = 5.0;
/// How much the line believes that a call adds `PRIOR_SLOPE` of the mean for each call, before it has seen different.
const PRIOR: f32 = 0.1;
const PRIOR_SLOPE: f32 = 0.2;
/// The flattest line, as a part of the steepest one.
const FLATTEST: f32 = 0.02;
/// How fast the whole moves when calls take longer or less than expected.
const LEVEL: f32 = 0.1;

/// Sums over calls, of which old ones count less.
#[derive(Default)]
struct Fit {
    /// Of calls that found others.
    weight: f32,
    calls: f32,
    ns: f32,
    calls_calls: f32,
    calls_ns: f32,
    /// Of calls that found none.
    alone: f32,
    alone_ns: f32,
    /// What the latest calls took, over what was expected.
    level: f32,
    marked_ns: u64,
    /// Of all calls.
    ended: f32,
    failed: f32,
    ended_ns: u64,
}

/// How much of what was known still counts, of which the latest is this old.
fn left(age_ns: u64, memory_ns: u64) -> f32 {
    let memory = memory_ns.max(1) as f32;
    memory / (memory + age_ns as f32)
}

fn halves(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

impl Fit {
    /// The line through calls that found others, by least squares.
    fn line(&self) -> (f32, f32) {
        if self.weight == 0.0 {
            return (0.0, self.alone_ns / self.alone.max(1.0));
        }
        let (mean_calls, mean_ns) = (self.calls / self.weight, self.ns / self.weight);
        // The steepest line that makes sense starts from nothing.
        let steepest = mean_ns / mean_calls.max(1.0);
        let spread = (self.calls_calls - self.calls * mean_calls).max(0.0);
        let together = self.calls_ns - self.calls * mean_ns;
        let prior = PRIOR * mean_calls * mean_calls;
        let slope = (together + prior * PRIOR_SLOPE * steepest) / (spread + prior);
        let slope = slope.clamp(FLATTEST * steepest, steepest);
        ((mean_ns - slope * mean_calls).max(0.0), slope)
    }

    fn alone(&self) -> f32 {
        if self.alone > 0.0 {
            return self.alone_ns / self.alone;
        }
        let (fixed, slope) = self.line();
        fixed + slope
    }

    fn expected(&self, calls: f32) -> f32 {
        let (fixed, slope) = self.line();
        if calls > 1.0 { fixed + slope * calls } else { self.alone() }
    }

    /// Takes a call in that made it so many.
    fn add(&mut self, calls: f32, ns: f32, now_ns: u64, memory_ns: u64) {
        if self.weight + self.alone > 0.0 {
            let off = ns / self.expected(calls).max(1.0);
            self.level += (off.clamp(0.02, 50.0) - self.level) * LEVEL;
        } else {
            self.level = 1.0;
        }
        let age_ns = now_ns.saturating_sub(self.marked_ns);
        self.marked_ns = now_ns;
        let keep = left(age_ns, memory_ns).min(1.0 - 1.0 / CALLS);
        if calls <= 1.0 {
            self.alone = self.alone * keep + 1.0;
            self.alone_ns = self.alone_ns * keep + ns;
            return;
        }
        self.weight = self.weight * keep + 1.0;
        self.calls = self.calls * keep + calls;
        self.ns = self.ns * keep + ns;
        self.calls_calls = self.calls_calls * keep + calls * calls;
        self.calls_ns = self.calls_ns * keep + calls * ns;
    }

    /// Takes in how calls ended; returns the share that fails.
    fn failures(&mut self, calls: f32, failed: f32, now_ns: u64, memory_ns: u64) -> f32 {
        let age_ns = now_ns.saturating_sub(self.ended_ns);
        self.ended_ns = now_ns;
        let keep = left(age_ns, memory_ns).min((1.0 - calls / CALLS_FAILING).max(0.0));
        self.ended = self.ended * keep + calls;
        self.failed = self.failed * keep + failed;
        self.failed / (self.ended + CALLS_TRUSTED)
    }
}

impl Arm {
    /// Takes in how a batch of calls ended. If another thread does the same just now, this batch is lost.
    pub fn learn(&self, lesson: &Lesson) {
        let Lesson { now_ns, memory_ns, .. } = *lesson;
        let Some(mut fit) = try_lock(&self.fit) else { return };
        let calls = lesson.calls.max(1) as f32;
        let failing = fit.failures(calls, lesson.failed.min(lesson.calls) as f32, now_ns, memory_ns);
        self.failing.store(failing.to_bits(), Ordering::Relaxed);
        self.heard_ns.store(now_ns.max(1), Ordering::Relaxed);
        self.run_ns.store(now_ns, Ordering::Relaxed);
        let Some((calls, ns)) = self.sample(lesson, fit.marked_ns) else { return };
        fit.add(calls, if ns.is_finite() { ns.clamp(1.0, 1e15) } else { 1.0 }, now_ns, memory_ns);
        let (fixed, slope) = fit.line();
        let line = halves((fixed * fit.level).to_bits(), (slope * fit.level).to_bits());
        self.alone.store((fit.alone() * fit.level).to_bits(), Ordering::Relaxed);
        self.line.store(line, Ordering::Relaxed);
        self.mark.store(0, Ordering::Relaxed);
    }

    /// How many calls the mark made it, and what it took, if it has ended.
    fn sample(&self, lesson: &Lesson, marked_ns: u64) -> Option<(f32, f32)> {
        let mark = self.mark.load(Ordering::Relaxed);
        if mark == 0 {
            // Calls that `adaptive` has not sent tell something only if there are no others.
            let silent = lesson.now_ns.saturating_sub(marked_ns) > lesson.memory_ns;
            return silent.then_some((lesson.in_flight.max(1) as f32, lesson.latency_ns));
        }
        // Calls end in the order of their beginning, nearly.
        if (lesson.ended.wrapping_sub(mark as u32) as i32) < 0 {
            return None;
        }
        let taken_ns = lesson.now_ns.saturating_sub(self.mark_ns.load(Ordering::Relaxed));
        // One that hangs makes later ones seem to end late.
        let taken_ns = taken_ns.min(lesson.longest_ns);
        let run_ns = self.mark_run_ns.load(Ordering::Relaxed);
        Some(((mark >> 32) as f32, taken_ns.saturating_add(run_ns) as f32))
    }

    fn line(&self) -> Option<(f32, f32)> {
        let line = self.line.load(Ordering::Relaxed);
        (line != 0).then(|| (f32::from_bits((line >> 32) as u32), f32::from_bits(line as u32)))
    }

    /// What a call is expected to take that makes it so many, in nanoseconds from the beginning of the run under way; 0:
    /// nothing is known.
    pub fn cost_ns(&self, in_flight: u32) -> f32 {
        match self.line() {
            None => 0.0,
            Some(_) if in_flight <= 1 => f32::from_bits(self.alone.load(Ordering::Relaxed)),
            Some((fixed, slope)) => fixed + slope * in_flight as f32,
        }
    }

    /// The share of calls that fail, from 0 to 1.
    pub fn failing(&self) -> f32 {
        f32::from_bits(self.failing.load(Ordering::Relaxed))
    }

    /// Follows the call that is about to begin, unless another one is followed.
    fn follow(&self, target: &Target, now_ns: u64) {
        let in_flight = target.in_flight();
        if in_flight == 0 {
            // If there is a mark, its call has ended otherwise, or never began.
            self.mark.store(0, Ordering::Relaxed);
            self.run_ns.store(now_ns, Ordering::Relaxed);
        }
        if self.mark.load(Ordering::Relaxed) != 0 {
            return;
        }
        // A pause that nobody has seen the end of is not a long run.
        let most_ns = self.cost_ns(in_flight + 1) as u64;
        let run_ns = now_ns.saturating_sub(self.run_ns.load(Ordering::Relaxed)).min(most_ns);
        self.mark_ns.store(now_ns, Ordering::Relaxed);
        self.mark_run_ns.store(run_ns, Ordering::Relaxed);
        let mark = halves(in_flight.saturating_add(1), (target.requests() as u32).wrapping_add(1));
        // Of two at once only one is followed.
        let _ = self.mark.compare_exchange(0, mark, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// How many times longer than it ever should the followed call takes already; from 1.
    fn stalled(&self, now_ns: u64) -> f32 {
        let mark = self.mark.load(Ordering::Relaxed);
        if mark == 0 {
            return 1.0;
        }
        let taken_ns = now_ns.saturating_sub(self.mark_ns.load(Ordering::Relaxed)) as f32;
        (taken_ns / (STALLED * self.cost_ns((mark >> 32) as u32)).max(1.0)).max(1.0)
    }

    fn age_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.heard_ns.load(Ordering::Relaxed))
    }
}

/// A call is stalled that takes so many times what was expected.
const STALLED: f32 = 2.0;
/// What a call costs those that come after it, over what it waits for those before it.
const FOR_OTHERS: f32 = 0.8;
/// What is left of the expected time at least, however long the run under way has gone on.
const REST: f32 = 0.3;

/// The least expected cost, and some exploration. Weights are not looked at: what they are meant to say is learned.
pub(super) struct Adaptive {
    explore: f64,
    memory_ns: u64,
    turn: Turn,
}

impl Adaptive {
    pub(super) fn new(explore: f64, memory_ns: u64) -> Self {
        Adaptive { explore, memory_ns, turn: Turn::default() }
    }

    /// What a call takes that finds no others, on average over targets, of which those that fail count less.
    fn usual(choice: &Choice<'_>) -> f32 {
        let arms =
            choice.candidates().filter_map(|index| choice.targets.get(index)).map(|target| &target.arm);
        let known = arms.filter(|arm| arm.line().is_some());
        let (sum, weight) = known.fold((0.0, 0.0), |(sum, weight), arm| {
            let good = (1.0 - arm.failing()).max(0.01);
            (sum + arm.cost_ns(1) * good, weight + good)
        });
        if weight > 0.0 { sum / weight } else { 1.0 }
    }

    fn cost(&self, target: &Target, usual: f32, now_ns: u64) -> f32 {
        let arm = &target.arm;
        let calls = target.in_flight() as f32 + 1.0;
        let failures = arm.failing() * FAILURE_FACTOR * usual;
        match arm.line() {
            // One call finds out, further ones are for what others would take.
            None if calls == 1.0 => 0.0,
            None => usual * calls,
            // Who was bad is tried again some time, but with one call.
            Some(_) if calls == 1.0 => (arm.cost_ns(1) + failures) * left(arm.age_ns(now_ns), self.memory_ns),
            Some((fixed, slope)) => {
                let whole = fixed + slope * (calls + FOR_OTHERS * (calls - 1.0));
                let run = now_ns.saturating_sub(arm.run_ns.load(Ordering::Relaxed)) as f32;
                (whole - run).max(REST * whole) * arm.stalled(now_ns) + failures
            }
        }
    }

    /// The one of which nothing was heard for longest.
    fn silent(choice: &Choice<'_>, turn: u64) -> usize {
        let age =
            |index: usize| choice.targets.get(index).map_or(0, |target| target.arm.age_ns(choice.now_ns));
        choice.smallest(turn, |index| std::cmp::Reverse(age(index)))
    }
}

impl Strategy for Adaptive {
    fn pick(&self, choice: &Choice<'_>) -> usize {
        let usual = Self::usual(choice);
        let cost = |index: usize| {
            choice.targets.get(index).map_or(f32::INFINITY, |target| self.cost(target, usual, choice.now_ns))
        };
        let turn = self.turn.next();
        let random = mix(turn);
        let mut picked = choice.smallest(turn, cost);
        if unit(random) < self.explore {
            let silent = Self::silent(choice, turn);
            // The worse it was the rarer it is tried, so that all trials together cost no more than the share `explore`.
            if unit(mix(random)) * f64::from(cost(silent)) <= f64::from(cost(picked)) {
                picked = silent;
            }
        }
        if let Some(target) = choice.targets.get(picked) {
            target.arm.follow(target, choice.now_ns);
        }
        picked
    }
}
