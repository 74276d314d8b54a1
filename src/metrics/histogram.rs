//! A log-linear histogram of nanoseconds: 32 buckets for each power of two, so quantiles are off by at most 3 %.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets for each power of two.
const STEPS: u64 = 32;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Values of 2^42 ns (73 minutes) and more share the last bucket.
const MAX_BITS: u32 = 42;
const BUCKETS: usize = ((MAX_BITS - STEP_BITS + 1) as usize) * STEPS as usize;

/// Counts values; recording takes a few nanoseconds and no lock.
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        let buckets = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Histogram { buckets, sum: AtomicU64::new(0), max: AtomicU64::new(0) }
    }
}

/// The bucket of a value: below 32 one for each value, above it 32 for each power of two.
fn bucket(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let value = value.min((1 << MAX_BITS) - 1);
    let shift = value.ilog2() - STEP_BITS;
    (u64::from(shift) * STEPS + (value >> shift)) as usize
}

/// The largest value that falls into a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((bucket % STEPS + STEPS + 1) << shift) - 1
}

impl Histogram {
    pub fn record(&self, value: u64) {
        self.buckets[bucket(value)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
        if value > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(value, Ordering::Relaxed);
        }
    }

    /// Records many values that are likely to be close to each other: those in one bucket in a row cost one step.
    pub fn record_all(&self, values: impl Iterator<Item = u64>) {
        let (mut sum, mut most, mut run) = (0u64, 0, (usize::MAX, 0));
        for value in values {
            sum = sum.saturating_add(value);
            most = most.max(value);
            let at = bucket(value);
            if at != run.0 {
                self.add(run);
                run = (at, 0);
            }
            run.1 += 1;
        }
        self.add(run);
        self.sum.fetch_add(sum, Ordering::Relaxed);
        if most > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(most, Ordering::Relaxed);
        }
    }

    fn add(&self, (bucket, count): (usize, u64)) {
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// The value below which this share (0 to 1) of all values lies; 0 without values. Allocates nothing.
    pub fn quantile(&self, share: f64) -> u64 {
        let total = self.count();
        let rank = ((share * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut below = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            below += bucket.load(Ordering::Relaxed);
            if below >= rank {
                return upper(index).min(self.max());
            }
        }
        0
    }

    /// The values below which each of the `shares` (0 to 1, rising) of all values lie; 0 without values.
    pub fn quantiles<const N: usize>(&self, shares: [f64; N]) -> [u64; N] {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let total: u64 = counts.iter().sum();
        let mut quantiles = [0; N];
        for (quantile, share) in quantiles.iter_mut().zip(shares) {
            let rank = ((share * total as f64).ceil() as u64).clamp(1, total.max(1));
            let mut seen = 0;
            let found = counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            *quantile = found.map_or(0, |bucket| upper(bucket).min(self.max()));
        }
        quantiles
    }

    /// How many values are at most each power of two given as an exponent (5 to 42, rising).
    pub fn cumulative<const N: usize>(&self, exponents: [u32; N]) -> [u64; N] {
        let mut counts = [0; N];
        for (index, count) in self.buckets.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            for (total, exponent) in counts.iter_mut().zip(exponents) {
                if upper(index) <= (1 << exponent) {
                    *total += count;
                }
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_within_its_bucket_and_close_to_its_bound() {
        for value in (0..2000).chain((11..42).map(|bits| (1u64 << bits) + 12_345)).chain([u64::MAX]) {
            let bound = upper(bucket(value));
            let value = value.min((1 << MAX_BITS) - 1);
            assert!(bound >= value, "{value} {bound}");
            assert!(bound as f64 <= value as f64 * (1.0 + 1.0 / 32.0), "{value} {bound}");
            if bucket(value) > 0 {
                assert!(upper(bucket(value) - 1) < value);
            }
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn many_at_once_are_as_many_one_by_one() {
        let (one, all) = (Histogram::default(), Histogram::default());
        let values = [5, 5, 5, 70_000, 5, 70_001, 900];
        values.into_iter().for_each(|value| one.record(value));
        all.record_all(values.into_iter());
        all.record_all(std::iter::empty());
        let figures = |h: &Histogram| (h.count(), h.sum(), h.max(), h.quantiles([0.1, 0.5, 0.9]));
        assert_eq!(figures(&one), figures(&all));
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantiles([0.5, 0.99]), [0, 0]);
        (1..=1000).for_each(|value| histogram.record(value * 1000));
        let [p50, p99, all] = histogram.quantiles([0.5, 0.99, 1.0]);
        assert!((500_000..=516_000).contains(&p50), "{p50}");
        assert!((990_000..=1_000_000).contains(&p99), "{p99}");
        assert_eq!((all, histogram.max(), histogram.count()), (1_000_000, 1_000_000, 1000));
        assert_eq!(histogram.cumulative([9, 42]), [0, 1000]);
    }
}
