//! Log-linear histograms: 16 buckets for each power of two, so that a quantile is off by at most 3.2 %.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets for each power of two.
const STEPS: u64 = 16;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Values of 2^42 (of nanoseconds: 73 minutes) and more share the last bucket.
const MAX_BITS: u32 = 42;
const BUCKETS: usize = ((MAX_BITS - STEP_BITS + 1) as usize) * STEPS as usize;

/// Buckets that have values in them are mostly fewer.
const USUAL: usize = 96;

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

/// The bucket of a value: below 16 one for each value, above it 16 for each power of two.
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

/// The value that stands for all those of a bucket: the one in its middle.
fn middle(bucket: usize) -> u64 {
    let lower = bucket.checked_sub(1).map_or(0, |below| upper(below) + 1);
    lower + (upper(bucket) - lower) / 2
}

impl Histogram {
    pub fn record(&self, value: u64) {
        self.add((bucket(value), 1));
        self.add_sum(value, value);
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
        self.add_sum(sum, most);
    }

    fn add(&self, (bucket, count): (usize, u64)) {
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.fetch_add(count, Ordering::Relaxed);
        }
    }

    fn add_sum(&self, sum: u64, most: u64) {
        self.sum.fetch_add(sum, Ordering::Relaxed);
        if most > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(most, Ordering::Relaxed);
        }
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// The value below which this share (0 to 1) of all values lies; 0 without values. Allocates nothing.
    pub fn quantile(&self, share: f64) -> u64 {
        let counts = || self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).enumerate();
        quantile(counts(), counts().map(|(_, count)| count).sum(), share)
            .min(self.max.load(Ordering::Relaxed))
    }

    /// What it holds now.
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        self.add_to(&mut counts);
        counts
    }

    /// Adds what it holds now to `counts`.
    pub fn add_to(&self, counts: &mut Counts) {
        let buckets = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).enumerate();
        counts.add_buckets(buckets.filter(|&(_, count)| count > 0).map(|(at, count)| (at as u16, count)));
        counts.sum = counts.sum.wrapping_add(self.sum.load(Ordering::Relaxed));
        counts.max = counts.max.max(self.max.load(Ordering::Relaxed));
    }
}

fn quantile(counts: impl Iterator<Item = (usize, u64)>, total: u64, share: f64) -> u64 {
    let rank = ((share * total as f64).ceil() as u64).clamp(1, total.max(1));
    let mut below = 0;
    for (bucket, count) in counts {
        below += count;
        if below >= rank {
            return middle(bucket);
        }
    }
    0
}

/// What a histogram held at a moment, or between two, or several of them together: only buckets with values in them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Rising.
    buckets: Vec<(u16, u64)>,
    sum: u64,
    max: u64,
}

impl Counts {
    fn add_buckets(&mut self, others: impl Iterator<Item = (u16, u64)>) {
        if self.buckets.is_empty() {
            self.buckets.reserve(USUAL);
            self.buckets.extend(others);
            return;
        }
        for (bucket, count) in others {
            match self.buckets.binary_search_by_key(&bucket, |&(at, _)| at) {
                Ok(found) => self.buckets[found].1 += count,
                Err(place) => self.buckets.insert(place, (bucket, count)),
            }
        }
    }

    pub fn add(&mut self, other: &Counts) {
        self.add_buckets(other.buckets.iter().copied());
        self.sum = self.sum.wrapping_add(other.sum);
        self.max = self.max.max(other.max);
    }

    /// What has come since it held `earlier`.
    pub fn since(&self, earlier: &Counts) -> Counts {
        let before = |bucket: u16| {
            let found = earlier.buckets.binary_search_by_key(&bucket, |&(at, _)| at);
            found.map_or(0, |found| earlier.buckets[found].1)
        };
        let newer = self.buckets.iter().map(|&(at, count)| (at, count.saturating_sub(before(at))));
        let buckets: Vec<(u16, u64)> = newer.filter(|&(_, count)| count > 0).collect();
        let max = buckets.last().map_or(0, |&(at, _)| upper(at.into())).min(self.max);
        Counts { buckets, sum: self.sum.wrapping_sub(earlier.sum), max }
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|&(_, count)| count).sum()
    }

    pub fn sum(&self) -> u64 {
        self.sum
    }

    pub fn max(&self) -> u64 {
        self.max
    }

    /// 0 without values.
    pub fn mean(&self) -> f64 {
        self.sum as f64 / self.count().max(1) as f64
    }

    /// The value below which this share (0 to 1) of all values lies; 0 without values.
    pub fn quantile(&self, share: f64) -> u64 {
        let counts = self.buckets.iter().map(|&(at, count)| (usize::from(at), count));
        quantile(counts, self.count(), share).min(self.max)
    }

    pub fn quantiles<const N: usize>(&self, shares: [f64; N]) -> [u64; N] {
        shares.map(|share| self.quantile(share))
    }

    /// How many values are at most `value`, or in the same bucket; below 32 every number has its own.
    pub fn at_most(&self, value: u64) -> u64 {
        let last = bucket(value);
        self.buckets.iter().filter(|&&(at, _)| usize::from(at) <= last).map(|&(_, count)| count).sum()
    }

    /// How many values are below each power of two given as an exponent.
    pub fn cumulative<const N: usize>(&self, exponents: [u32; N]) -> [u64; N] {
        exponents.map(|exponent| {
            let below = self.buckets.iter().filter(|&&(at, _)| upper(at.into()) < (1 << exponent));
            below.map(|&(_, count)| count).sum()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_within_its_bucket_and_close_to_what_stands_for_it() {
        for value in (0..2000).chain((11..42).map(|bits| (1u64 << bits) + 12_345)).chain([u64::MAX]) {
            let at = bucket(value);
            let value = value.min((1 << MAX_BITS) - 1);
            assert!(upper(at) >= value, "{value}");
            assert!(at == 0 || upper(at - 1) < value, "{value}");
            let off = (middle(at) as f64 - value as f64).abs();
            assert!(off <= value as f64 * 0.032, "{value} {}", middle(at));
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
        assert_eq!(one.counts(), all.counts());
        assert_eq!(one.quantile(0.5), all.counts().quantile(0.5));
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let histogram = Histogram::default();
        assert_eq!(histogram.counts().quantiles([0.5, 0.99]), [0, 0]);
        (1..=1000).for_each(|value| histogram.record(value * 1000));
        let counts = histogram.counts();
        let [p50, p99, all] = counts.quantiles([0.5, 0.99, 1.0]);
        assert!((484_000..=516_000).contains(&p50), "{p50}");
        assert!((958_000..=1_000_000).contains(&p99), "{p99}");
        assert!(all <= 1_000_000 && counts.max() == 1_000_000 && counts.count() == 1000);
        assert_eq!(counts.cumulative([9, 42]), [0, 1000]);
    }

    #[test]
    fn differences_and_sums_are_exact() {
        let histogram = Histogram::default();
        [3, 40, 40].into_iter().for_each(|value| histogram.record(value));
        let before = histogram.counts();
        [40, 700].into_iter().for_each(|value| histogram.record(value));
        let newer = histogram.counts().since(&before);
        assert_eq!((newer.count(), newer.sum(), newer.max()), (2, 740, 700));
        let mut again = before.clone();
        again.add(&newer);
        assert_eq!(again, histogram.counts());
        assert_eq!(before.since(&before), Counts { max: 0, ..Counts::default() });
    }
}
