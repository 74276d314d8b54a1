//! The strategy `adaptive`: learns what a call to each target takes, as a line over the calls that are with it, and how
//! many calls fail; asks the one where the next call costs least, and now and then one of which little was heard.

use super::random::{mix, unit};
use super::strategy::{Choice, Strategy, Turn};
use super::target::Target;
use crate::sync::{AtomicU64, Mutex, Ordering, try_lock};

/// KNOBS
pub static KNOBS: [std::sync::atomic::AtomicU32; 12] = [const { std::sync::atomic::AtomicU32::new(0) }; 12];
fn knob(i: usize) -> f32 {
    f32::from_bits(KNOBS[i].load(Ordering::Relaxed))
}

/// What a batch of calls has taken, and what is left.
#[derive(Clone, Copy, Debug)]
pub struct Lesson {
    /// On average.
    pub latency_ns: f32,
    pub calls: u32,
    pub failed: u32,
    /// Calls that were with the target, these among them.
    pub in_flight: u32,
    /// Calls that were ever begun, less those under way; wraps around.
    pub ended: u32,
    pub now_ns: u64,
    pub memory_ns: u64,
}

/// What `adaptive` knows of one target.
///
/// Few things are learned from what calls took and how many were with the target when they ended: those that take long
/// have more come after them, so long calls would seem to be those with many others, whichever the cause. So one call at a
/// time is followed from its beginning, with the number that it found: the mark.
#[derive(Default)]
pub struct Arm {
    fit: Mutex<Fit>,
    /// Nanoseconds at no call and for each call, as two `f32`; 0: nothing is known.
    line: AtomicU64,
    alone: AtomicU64,
    /// The share of calls that fail, as `f32`.
    failing: AtomicU64,
    /// When calls last ended; 0: none have.
    heard_ns: AtomicU64,
    /// The mark: which of all calls it is (low half), and how many there were with it, itself among them; 0: none.
    mark: AtomicU64,
    mark_ns: AtomicU64,
    /// When the run that is under way began, as far as can be told: when calls last ended, or when the first came after a pause.
    run_ns: AtomicU64,
}

/// Sums over calls, of which old ones count less.
#[derive(Default)]
struct Fit {
    weight: f32,
    calls: f32,
    ns: f32,
    calls_calls: f32,
    calls_ns: f32,
    /// How far the latest calls are off the line, as a factor.
    level: f32,
    ended: f32,
    failed: f32,
    marked_ns: u64,
    failed_ns: u64,
    alone: f32,
    alone_ns: f32,
}

fn halves(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

impl Fit {
    fn line(&self) -> (f32, f32) {
        if self.weight == 0.0 {
            return (0.0, self.alone_ns / self.alone);
        }
        let (mean_calls, mean_ns) = (self.calls / self.weight, self.ns / self.weight);
        // The steepest line that makes sense has nothing at no call.
        let steepest = mean_ns / mean_calls.max(1.0);
        let spread = (self.calls_calls - self.calls * mean_calls).max(0.0);
        let together = self.calls_ns - self.calls * mean_ns;
        let prior = knob(0) * mean_calls * mean_calls;
        let slope = (together + prior * knob(1) * steepest) / (spread + prior);
        let slope = slope.clamp(knob(2) * steepest, steepest);
        (mean_ns - slope * mean_calls, slope)
    }

    fn alone(&self) -> f32 {
        let (fixed, slope) = self.line();
        if self.alone > 0.0 { self.alone_ns / self.alone } else { fixed + slope }
    }

    fn add(&mut self, calls: f32, ns: f32, now_ns: u64, memory_ns: u64) -> (f32, f32, f32) {
        if self.weight > 0.0 || self.alone > 0.0 {
            let (fixed, slope) = self.line();
            let line = if calls > 1.0 { fixed + slope * calls } else { self.alone() };
            let off = ns / line.max(1.0);
            self.level += (off.clamp(0.02, 50.0) - self.level) * knob(3);
        } else {
            self.level = 1.0;
        }
        let age = now_ns.saturating_sub(self.marked_ns);
        self.marked_ns = now_ns;
        let memory = memory_ns.max(1) as f32;
        let keep = (memory / (memory + age as f32)).min(1.0 - 1.0 / knob(4));
        if calls > 1.0 {
            for sum in [&mut self.weight, &mut self.calls, &mut self.ns, &mut self.calls_calls, &mut self.calls_ns] {
                *sum *= keep;
            }
            self.weight += 1.0;
            self.calls += calls;
            self.ns += ns;
            self.calls_calls += calls * calls;
            self.calls_ns += calls * ns;
        } else {
            self.alone = self.alone * keep + 1.0;
            self.alone_ns = self.alone_ns * keep + ns;
        }
        let (fixed, slope) = self.line();
        (fixed * self.level, slope * self.level, self.alone() * self.level)
    }

    fn failures(&mut self, calls: f32, failed: f32, now_ns: u64, memory_ns: u64) -> f32 {
        let age = now_ns.saturating_sub(self.failed_ns);
        self.failed_ns = now_ns;
        let memory = memory_ns.max(1) as f32;
        let keep = (memory / (memory + age as f32)).min((1.0 - calls / knob(5)).max(0.0));
        self.ended = self.ended * keep + calls;
        self.failed = self.failed * keep + failed;
        // As if a few more had ended well, so that one failure is not the end.
        self.failed / (self.ended + knob(6))
    }
}

impl Arm {
    /// Takes in how a batch of calls ended. What comes in the same moment from elsewhere is lost.
    pub fn learn(&self, lesson: &Lesson) {
        let Lesson { now_ns, memory_ns, .. } = *lesson;
        let Some(mut fit) = try_lock(&self.fit) else { return };
        let calls = lesson.calls.max(1) as f32;
        let failing = fit.failures(calls, lesson.failed as f32, now_ns, memory_ns);
        self.failing.store(failing.to_bits().into(), Ordering::Relaxed);
        self.heard_ns.store(now_ns.max(1), Ordering::Relaxed);
        self.run_ns.store(now_ns, Ordering::Relaxed);
        let mark = self.mark.load(Ordering::Relaxed);
        let sample = match mark {
            // Not picked here: better than nothing.
            0 if now_ns.saturating_sub(fit.marked_ns) > memory_ns || fit.weight == 0.0 => {
                Some((lesson.in_flight.max(1) as f32, lesson.latency_ns))
            }
            0 => None,
            // Calls end in the order of their beginning, nearly.
            _ if (lesson.ended.wrapping_sub(mark as u32) as i32) < 0 => None,
            _ => {
                let taken = now_ns.saturating_sub(self.mark_ns.load(Ordering::Relaxed));
                Some(((mark >> 32) as f32, taken as f32))
            }
        };
        if let Some((calls, ns)) = sample {
            let ns = if ns.is_finite() { ns.max(1.0) } else { 1.0 };
            let (fixed, slope, alone) = fit.add(calls, ns, now_ns, memory_ns);
            self.alone.store(alone.to_bits().into(), Ordering::Relaxed);
            self.line.store(halves(fixed.to_bits(), slope.to_bits()), Ordering::Relaxed);
            self.mark.store(0, Ordering::Relaxed);
        }
    }

    fn line(&self) -> Option<(f32, f32)> {
        let line = self.line.load(Ordering::Relaxed);
        (line != 0).then(|| (f32::from_bits((line >> 32) as u32), f32::from_bits(line as u32)))
    }

    /// What a call is expected to take that has so many with it, itself among them, in nanoseconds; 0: nothing is known.
    pub fn cost_ns(&self, in_flight: u32) -> f32 {
        if in_flight <= 1 {
            return f32::from_bits(self.alone.load(Ordering::Relaxed) as u32);
        }
        self.line().map_or(0.0, |(fixed, slope)| fixed + slope * in_flight as f32)
    }

    /// The share of calls that fail.
    pub fn failing(&self) -> f32 {
        f32::from_bits(self.failing.load(Ordering::Relaxed) as u32)
    }

    /// Follows the call that begins now, unless another one is followed.
    fn follow(&self, target: &Target, now_ns: u64) {
        let in_flight = target.in_flight();
        if in_flight == 0 {
            self.run_ns.store(now_ns, Ordering::Relaxed);
        }
        if self.mark.load(Ordering::Relaxed) != 0 {
            return;
        }
        let run = (now_ns - self.run_ns.load(Ordering::Relaxed).min(now_ns)) as f32;
        let run = run * knob(10);
        self.mark_ns.store(now_ns - run as u64, Ordering::Relaxed);
        let mark = halves(in_flight + 1, (target.requests() as u32).wrapping_add(1));
        // Who comes second has its call followed another time.
        let _ = self.mark.compare_exchange(0, mark, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// How many times longer than expected the followed call takes already; from 1.
    fn stalled(&self, now_ns: u64) -> f32 {
        let mark = self.mark.load(Ordering::Relaxed);
        if mark == 0 {
            return 1.0;
        }
        let taken = now_ns.saturating_sub(self.mark_ns.load(Ordering::Relaxed)) as f32;
        (taken / (knob(7) * self.cost_ns((mark >> 32) as u32)).max(1.0)).max(1.0)
    }

    fn age_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.heard_ns.load(Ordering::Relaxed))
    }
}

/// So many times what calls usually take a failure costs.
const FAILURE_FACTOR: f32 = 10.0;

/// The least expected cost, and some exploration.
pub(super) struct Adaptive {
    explore: f64,
    memory_ns: u64,
    turn: Turn,
}

impl Adaptive {
    pub(super) fn new(explore: f64, memory_ns: u64) -> Self {
        Adaptive { explore, memory_ns, turn: Turn::default() }
    }

    /// What a call takes that has no others with it, on average over targets and over calls that do not fail.
    fn usual(choice: &Choice<'_>) -> f32 {
        let arms = choice.candidates().filter_map(|index| choice.targets.get(index)).map(|target| &target.arm);
        let known = arms.filter(|arm| arm.line().is_some());
        let (sum, weight) = known.fold((0.0, 0.0), |(sum, weight), arm| {
            let good = (1.0 - arm.failing()).max(0.01);
            (sum + arm.cost_ns(1) * good, weight + good)
        });
        if weight > 0.0 { sum / weight } else { 1.0 }
    }

    fn cost(&self, target: &Target, usual: f32, now_ns: u64) -> f32 {
        let calls = target.in_flight() as f32 + 1.0;
        let Some((fixed, slope)) = target.arm.line() else {
            // One call finds out, further ones are for what others would take.
            return if calls == 1.0 { 0.0 } else { usual * calls };
        };
        let line = if calls > 1.0 { fixed + slope * (calls + knob(8) * (calls - 1.0)) } else { target.arm.cost_ns(1) };
        let run = now_ns.saturating_sub(target.arm.run_ns.load(Ordering::Relaxed)) as f32;
        let run = if calls > 1.0 { run * knob(10) } else { 0.0 };
        let line = (line - run).max(line * knob(11));
        let cost = line * target.arm.stalled(now_ns);
        let cost = cost + target.arm.failing() * FAILURE_FACTOR * usual;
        if calls > 1.0 {
            return cost;
        }
        // Who was bad is tried again some time.
        let memory = self.memory_ns.max(1) as f32;
        cost * (memory / (memory + target.arm.age_ns(now_ns) as f32))
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
            let age = |index: usize| -(choice.targets[index].arm.age_ns(choice.now_ns) as f32);
            let silent = choice.smallest(turn, age);
            // The worse it was, the rarer it is tried: all trials together cost no more than the share `explore`.
            if unit(mix(random)) * f64::from(cost(silent)) * f64::from(knob(9)) <= f64::from(cost(picked)) {
                picked = silent;
            }
        }
        if let Some(target) = choice.targets.get(picked) {
            target.arm.follow(target, choice.now_ns);
        }
        picked
    }
}
