//! Weighted round robin: every target its share of the turns, spread as evenly as they can be.

use super::strategy::{Choice, Strategy, Turn};
use super::target::Target;
use crate::sync::Ordering;
use std::sync::Arc;

/// The most turns before the sequence repeats. Weights that need more are rounded.
const MOST_TURNS: u64 = 1 << 14;

/// The smooth sequence of nginx's upstream module, worked out beforehand.
pub(super) struct WeightedRoundRobin {
    sequence: Box<[u8]>,
    weights: Box<[u64]>,
    turn: Turn,
    /// Turns of targets that could not be asked.
    spilled: Turn,
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The same proportions in small numbers.
fn reduced(weights: &[u64]) -> Vec<u64> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let sum = weights.iter().sum::<u64>() / divisor;
    let round = |weight: u64| match sum {
        0..=MOST_TURNS => weight / divisor,
        _ => (weight / divisor * MOST_TURNS / sum).max(1),
    };
    weights.iter().map(|&weight| round(weight)).collect()
}

/// In each turn all gain their weight, and the richest has the turn and pays what all have gained.
fn smooth(weights: &[u64]) -> Box<[u8]> {
    let sum = weights.iter().sum::<u64>() as i64;
    let mut credits = vec![0i64; weights.len()];
    let turn = |_| {
        let mut richest = 0;
        for (index, &weight) in weights.iter().enumerate() {
            credits[index] += weight as i64;
            if credits[index] > credits[richest] {
                richest = index;
            }
        }
        if let Some(credit) = credits.get_mut(richest) {
            *credit -= sum;
        }
        richest as u8
    };
    (0..sum).map(turn).collect()
}

impl WeightedRoundRobin {
    pub(super) fn new(targets: &[Arc<Target>]) -> Self {
        let weights: Vec<u64> =
            targets.iter().map(|target| target.weight.load(Ordering::Relaxed).max(1).into()).collect();
        WeightedRoundRobin {
            sequence: smooth(&reduced(&weights)),
            weights: weights.into(),
            turn: Turn::default(),
            spilled: Turn::default(),
        }
    }

    /// One of those that can be asked, by weight. What comes after it in the sequence would mostly be the same one.
    fn instead(&self, choice: &Choice<'_>) -> usize {
        let weight = |index: usize| self.weights.get(index).copied().unwrap_or(1);
        let sum: u64 = choice.candidates().map(weight).sum();
        // Multiples of the golden ratio, modulo 1: spread evenly however many there are of them.
        let point = self.spilled.next().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut left = ((u128::from(point) * u128::from(sum)) >> 64) as u64;
        let taken = choice.candidates().find(|&index| {
            let taken = left < weight(index);
            left = left.saturating_sub(weight(index));
            taken
        });
        taken.or_else(|| choice.candidates().next()).unwrap_or(0)
    }
}

impl Strategy for WeightedRoundRobin {
    fn pick(&self, choice: &Choice<'_>) -> usize {
        let turn = self.turn.next() % self.sequence.len().max(1) as u64;
        match self.sequence.get(turn as usize) {
            Some(&index) if choice.eligible >> index & 1 == 1 => usize::from(index),
            _ => self.instead(choice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_nginx() {
        assert_eq!(*smooth(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(*smooth(&[1, 1, 1]), [0, 1, 2]);
    }

    #[test]
    fn weights_are_made_small_and_none_of_them_0() {
        assert_eq!(reduced(&[100, 300, 200]), [1, 3, 2]);
        let mut many = vec![997; 63];
        many.push(1);
        let small = reduced(&many);
        assert!(small.iter().sum::<u64>() <= MOST_TURNS + 64 && small.iter().all(|&weight| weight > 0));
        assert!(smooth(&reduced(&[])).is_empty());
    }
}
