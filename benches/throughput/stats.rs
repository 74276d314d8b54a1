//! Medians, quantiles, and measuring two things in alternation.

use std::time::Duration;

/// How long and how often to measure.
#[derive(Clone, Copy)]
pub struct Plan {
    pub rounds: usize,
    pub slice: Duration,
}

/// What alternating rounds came to.
pub struct Pairs {
    pub baseline: f64,
    pub blaze: f64,
    /// The median of the rounds' ratios, blaze / baseline: what slows both down in a round leaves it alone.
    pub ratio: f64,
}

/// Measures baseline, blaze, baseline, blaze …, after a short round of each that does not count.
pub fn alternate(
    plan: Plan,
    mut baseline: impl FnMut(Duration) -> f64,
    mut blaze: impl FnMut(Duration) -> f64,
) -> Pairs {
    baseline(plan.slice / 4);
    blaze(plan.slice / 4);
    let (mut baselines, mut blazes, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let pair = (baseline(plan.slice), blaze(plan.slice));
        baselines.push(pair.0);
        blazes.push(pair.1);
        ratios.push(pair.1 / pair.0);
    }
    Pairs { baseline: median(baselines), blaze: median(blazes), ratio: median(ratios) }
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

/// Durations in nanoseconds, in memory that is taken beforehand so that no page is touched first while measuring.
pub struct Samples {
    nanoseconds: Vec<u32>,
}

impl Samples {
    pub fn new() -> Samples {
        let mut nanoseconds = vec![1; 1 << 21];
        nanoseconds.clear();
        Samples { nanoseconds }
    }

    /// Keeps a duration; those beyond the room for samples are left out.
    #[inline]
    pub fn push(&mut self, nanoseconds: u64) {
        if self.nanoseconds.len() < self.nanoseconds.capacity() {
            self.nanoseconds.push(nanoseconds.min(u64::from(u32::MAX)) as u32);
        }
    }

    pub fn clear(&mut self) {
        self.nanoseconds.clear();
    }

    /// A quantile in microseconds.
    pub fn quantile_us(&mut self, quantile: f64) -> f64 {
        assert!(!self.nanoseconds.is_empty(), "nothing was measured");
        let index = ((self.nanoseconds.len() - 1) as f64 * quantile).round() as usize;
        f64::from(*self.nanoseconds.select_nth_unstable(index).1) / 1e3
    }
}
