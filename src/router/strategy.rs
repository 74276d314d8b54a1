//! Strategies: how one of a route's targets is picked. A pick takes no lock; what a strategy remembers is in atomics.

use super::adaptive::Adaptive;
use super::hashing::{ClientHash, ConsistentHash};
use super::random::mix;
use super::target::Target;
use super::weighted::WeightedRoundRobin;
use crate::config::StrategyConfig;
use crate::sync::{AtomicU64, Ordering};
use std::sync::Arc;

/// What a strategy looks at to pick a target.
pub struct Choice<'a> {
    /// At most 64.
    pub targets: &'a [Arc<Target>],
    /// Bit n: target n may be picked. Never 0.
    pub eligible: u64,
    pub now_ns: u64,
    /// What `consistent_hash` looks at, as the route's `hash_on` has chosen it; 0: the request has none.
    pub key: u64,
    /// What `client_hash` looks at; 0: the request has none.
    pub tenant: u64,
    /// The request's own, for strategies of the host's; 0: none.
    pub session: u64,
    pub route_key: u64,
    /// How full the model of a target is, for `least_loaded`: rows queued and running over what one batch holds, and what
    /// its memory adds to that; from 0.
    pub load: &'a dyn Fn(usize) -> f32,
}

impl Choice<'_> {
    /// The targets that may be picked.
    pub(super) fn candidates(&self) -> impl Iterator<Item = usize> + use<> {
        let known = match self.targets.len() {
            64.. => u64::MAX,
            count => (1 << count) - 1,
        };
        let mut left = self.eligible & known;
        std::iter::from_fn(move || {
            let next = (left != 0).then_some(left.trailing_zeros() as usize);
            left &= left.wrapping_sub(1);
            next
        })
    }

    /// The one with the smallest value; of equal ones any, as `salt` has it.
    pub(super) fn smallest<V: PartialOrd>(&self, salt: u64, value: impl Fn(usize) -> V) -> usize {
        let lot = |index: usize| mix(salt ^ (index as u64) << 58);
        let better = |best: (usize, V), index: usize| {
            let value = value(index);
            let wins = value < best.1 || (value == best.1 && lot(index) < lot(best.0));
            if wins { (index, value) } else { best }
        };
        let mut candidates = self.candidates();
        let first = candidates.next().unwrap_or(0);
        candidates.fold((first, value(first)), better).0
    }

    /// Calls under way with a target, for each of its weight.
    pub(super) fn busyness(&self, index: usize) -> f32 {
        self.targets.get(index).map_or(0.0, |target| target.in_flight() as f32 / weight(target))
    }

    /// The less busy one of two picked at random (Mitzenmacher: The power of two choices in randomized load balancing,
    /// 2001).
    pub(super) fn power_of_two(&self, random: u64) -> usize {
        let count = self.candidates().count().max(1);
        let at = |rank: usize| self.candidates().nth(rank).unwrap_or(0);
        let one = (random >> 32) as usize % count;
        if count == 1 {
            return at(one);
        }
        let other = (one + 1 + (random & 0xffff_ffff) as usize % (count - 1)) % count;
        let (one, other) = (at(one), at(other));
        if self.busyness(other) < self.busyness(one) { other } else { one }
    }
}

/// A target's weight, which is never 0.
pub(super) fn weight(target: &Target) -> f32 {
    target.weight.load(Ordering::Relaxed).max(1) as f32
}

/// How a target is picked. A new one is made whenever a route's targets or their weights change.
pub trait Strategy: Send + Sync {
    /// Picks one of the eligible targets. Takes no lock and allocates nothing.
    fn pick(&self, choice: &Choice<'_>) -> usize;
}

/// The names of the strategies that `make` knows.
pub const BUILT_IN: [&str; 9] = [
    "round_robin",
    "weighted_round_robin",
    "least_connections",
    "least_response_time",
    "least_loaded",
    "power_of_two",
    "consistent_hash",
    "client_hash",
    "adaptive",
];

/// Makes a strategy for these targets. `None`: there is no built-in one of that name.
pub fn make(config: &StrategyConfig, targets: &[Arc<Target>]) -> Option<Box<dyn Strategy>> {
    let memory_ns = u64::from(config.memory_ms) * 1_000_000;
    Some(match config.name.as_str() {
        "round_robin" => Box::new(RoundRobin::default()),
        "weighted_round_robin" => Box::new(WeightedRoundRobin::new(targets)),
        "least_connections" => Box::new(LeastConnections::default()),
        "least_response_time" => Box::new(LeastResponseTime { turn: Turn::default(), memory_ns }),
        "least_loaded" => Box::new(LeastLoaded::default()),
        "power_of_two" => Box::new(PowerOfTwo::default()),
        "consistent_hash" => Box::new(ConsistentHash::new(targets, config.load_factor)),
        "client_hash" => Box::new(ClientHash::new(targets)),
        "adaptive" => Box::new(Adaptive::new(config.explore, memory_ns)),
        _ => return None,
    })
}

/// Counts picks. Alone on its cache line, since every pick writes it.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Turn(AtomicU64);

impl Turn {
    #[inline]
    pub(super) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn random(&self) -> u64 {
        mix(self.next())
    }
}

/// One after the other.
#[derive(Default)]
struct RoundRobin(Turn);

impl Strategy for RoundRobin {
    fn pick(&self, choice: &Choice<'_>) -> usize {
        let count = choice.candidates().count().max(1) as u64;
        choice.candidates().nth((self.0.next() % count) as usize).unwrap_or(0)
    }
}

/// The one with the fewest calls under way, for its weight.
#[derive(Default)]
struct LeastConnections(Turn);

impl Strategy for LeastConnections {
    fn pick(&self, choice: &Choice<'_>) -> usize {
        choice.smallest(self.0.next(), |index| choice.busyness(index))
    }
}

/// The one whose model has the least to do.
#[derive(Default)]
struct LeastLoaded(Turn);

impl Strategy for LeastLoaded {
    fn pick(&self, choice: &Choice<'_>) -> usize {
        choice.smallest(self.0.next(), |index| ((choice.load)(index), choice.busyness(index)))
    }
}

/// The less busy one of two picked at random.
#[derive(Default)]
struct PowerOfTwo(Turn);

impl Strategy for PowerOfTwo {
    fn pick(&self, choice: &Choice<'_>) -> usize {
        choice.power_of_two(self.0.random())
    }
}

/// The one where a call is expected to end soonest, by the peak EWMA of its response times and the calls under way.
struct LeastResponseTime {
    turn: Turn,
    memory_ns: u64,
}

/// So many times longer a call counts that fails.
pub(super) const FAILURE_FACTOR: f32 = 10.0;

impl LeastResponseTime {
    /// What a call to a target takes, and what its failures make of that; 0: nothing is known.
    fn latency(&self, target: &Target, now_ns: u64) -> f32 {
        // One that was bad is tried again after a while, but with one call, not with all that come until that one ends.
        let (latency, failed) = match target.in_flight() {
            0 => {
                (target.latency.faded(now_ns, self.memory_ns), target.failures.faded(now_ns, self.memory_ns))
            }
            _ => (target.latency.get(), target.failures.get()),
        };
        latency * (1.0 + FAILURE_FACTOR * failed)
    }
}

impl Strategy for LeastResponseTime {
    fn pick(&self, choice: &Choice<'_>) -> usize {
        let latency = |index: usize| {
            choice.targets.get(index).map_or(0.0, |target| self.latency(target, choice.now_ns))
        };
        let known = choice.candidates().map(latency).filter(|&latency| latency > 0.0);
        let (sum, count) = known.fold((0.0, 0.0f32), |(sum, count), latency| (sum + latency, count + 1.0));
        let mean = if count > 0.0 { sum / count } else { 1.0 };
        choice.smallest(self.turn.next(), |index| {
            let Some(target) = choice.targets.get(index) else { return f32::INFINITY };
            let calls = target.in_flight() as f32 + 1.0;
            match latency(index) {
                // Nobody knows: one call finds out, further ones are for what others would take.
                0.0 if calls == 1.0 => 0.0,
                0.0 => mean * calls / weight(target),
                latency => latency * calls / weight(target),
            }
        })
    }
}
