//! Strategies that send the same key to the same target: weighted rendezvous hashing (Thaler and Ravishankar, 1998), and
//! with bounded loads (Mirrokni, Thorup and Zadimoghaddam, 2018).

use super::random::{mix, unit};
use super::strategy::{Choice, Strategy, Turn};
use super::target::Target;
use crate::sync::Ordering;
use std::sync::Arc;

/// The targets as keys see them. Names decide, so the same key finds the same target after a restart, in another process,
/// and wherever in the list the target stands.
struct Ring {
    places: Box<[Place]>,
    /// Then hashes may be compared as they are.
    equal: bool,
    turn: Turn,
}

struct Place {
    name: u64,
    weight: f64,
}

/// FNV-1a, mixed: a hash that never changes.
fn hash(name: &str) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    mix(name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, step))
}

impl Ring {
    fn new(targets: &[Arc<Target>]) -> Self {
        let place = |target: &Arc<Target>| Place {
            name: hash(&target.name),
            weight: target.weight.load(Ordering::Relaxed).max(1).into(),
        };
        let places: Box<[Place]> = targets.iter().map(place).collect();
        let equal = places.windows(2).all(|two| two[0].weight == two[1].weight);
        Ring { places, equal, turn: Turn::default() }
    }

    /// How much a target is meant for a key.
    fn score(&self, index: usize, key: u64) -> f64 {
        let Some(place) = self.places.get(index) else { return 0.0 };
        let hash = mix(place.name ^ mix(key));
        if self.equal {
            return unit(hash);
        }
        // Above 0, so that the logarithm is finite, and below 1, so that it is not 0.
        let unit = unit(hash) + 1e-17;
        -place.weight / unit.min(1.0 - 1e-16).ln()
    }

    fn weight(&self, index: usize) -> f64 {
        self.places.get(index).map_or(1.0, |place| place.weight)
    }

    /// The target that a key is meant for, of those that pass; if none does, of all.
    fn find(&self, choice: &Choice<'_>, key: u64, passes: impl Fn(usize) -> bool) -> usize {
        let mut best = (false, -1.0, 0);
        for index in choice.candidates() {
            let (passes, score) = (passes(index), self.score(index, key));
            if (passes && !best.0) || (passes == best.0 && score > best.1) {
                best = (passes, score, index);
            }
        }
        best.2
    }
}

/// A key's target, unless that has too much to do: then the key's next one.
pub(super) struct ConsistentHash {
    ring: Ring,
    load_factor: f64,
}

impl ConsistentHash {
    pub(super) fn new(targets: &[Arc<Target>], load_factor: f64) -> Self {
        ConsistentHash { ring: Ring::new(targets), load_factor }
    }
}

impl Strategy for ConsistentHash {
    fn pick(&self, choice: &Choice<'_>) -> usize {
        if choice.key == 0 {
            return choice.power_of_two(self.ring.turn.random());
        }
        let in_flight = |index: usize| choice.targets.get(index).map_or(0, |target| target.in_flight());
        let add = |(calls, weight): (f64, f64), index: usize| {
            (calls + f64::from(in_flight(index)), weight + self.ring.weight(index))
        };
        let (calls, weights) = choice.candidates().fold((1.0, 0.0), add);
        self.ring.find(choice, choice.key, |index| {
            let share = calls * self.ring.weight(index) / weights;
            f64::from(in_flight(index)) < (self.load_factor * share).ceil()
        })
    }
}

/// A tenant's target, however much that has to do.
pub(super) struct ClientHash(Ring);

impl ClientHash {
    pub(super) fn new(targets: &[Arc<Target>]) -> Self {
        ClientHash(Ring::new(targets))
    }
}

impl Strategy for ClientHash {
    fn pick(&self, choice: &Choice<'_>) -> usize {
        match choice.tenant {
            0 => choice.power_of_two(self.0.turn.random()),
            tenant => self.0.find(choice, tenant, |_| true),
        }
    }
}
