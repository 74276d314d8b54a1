//! How many lines come through: so many a second of each module and level, so that a flood hides nothing else.

use super::{Level, MODULES, RateSettings};
use crate::sync::{AtomicU64, Ordering};

const LEVELS: usize = 5;

#[derive(Default)]
pub struct Rate {
    /// Between two lines, in the long run; 0: no limit.
    interval_ns: AtomicU64,
    /// How far ahead of the clock a bucket may be.
    ahead_ns: AtomicU64,
    buckets: [[Bucket; LEVELS]; MODULES.len()],
}

/// A token bucket as GCRA has it.
#[derive(Default)]
struct Bucket {
    /// When it is full again.
    full_ns: AtomicU64,
    /// Lines that were dropped since one came through.
    dropped: AtomicU64,
}

impl Rate {
    pub fn set(&self, settings: &RateSettings) {
        let interval_ns = 1_000_000_000u64.checked_div(settings.per_second.into()).unwrap_or(0);
        let burst = u64::from(settings.burst.unwrap_or(settings.per_second));
        self.ahead_ns.store(interval_ns * burst.saturating_sub(1), Ordering::Relaxed);
        self.interval_ns.store(interval_ns, Ordering::Relaxed);
    }

    /// Lets a line through, and says how many were dropped before it. `None`: it is dropped.
    pub fn take(&self, module: usize, level: Level, now_ns: u64) -> Option<u64> {
        let bucket = &self.buckets[module][level as usize - 1];
        let interval_ns = self.interval_ns.load(Ordering::Relaxed);
        let ahead_ns = self.ahead_ns.load(Ordering::Relaxed);
        let taken = bucket.full_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_ns| {
            let ahead = full_ns.saturating_sub(now_ns);
            (interval_ns == 0 || ahead <= ahead_ns).then(|| now_ns + ahead.min(ahead_ns) + interval_ns)
        });
        match taken {
            Ok(_) => Some(bucket.dropped.swap(0, Ordering::Relaxed)),
            Err(_) => {
                bucket.dropped.fetch_add(1, Ordering::Relaxed);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_and_then_so_many_a_second_for_each_module_and_level() {
        let rate = Rate::default();
        rate.set(&RateSettings { per_second: 2, burst: Some(3) });
        let now = 5 * SECOND;
        let through =
            |module, level, now| (0..10).filter(|_| rate.take(module, level, now).is_some()).count();
        assert_eq!(through(0, Level::Warn, now), 3);
        assert_eq!(through(0, Level::Error, now), 3);
        assert_eq!(through(1, Level::Warn, now), 3);
        assert_eq!(rate.take(0, Level::Warn, now + SECOND), Some(7));
        assert_eq!(rate.take(0, Level::Warn, now + SECOND), Some(0));
        assert_eq!(rate.take(0, Level::Warn, now + SECOND), None);
        assert_eq!(through(0, Level::Warn, now + 100 * SECOND), 3);
        rate.set(&RateSettings { per_second: 0, burst: None });
        assert_eq!(through(0, Level::Warn, now), 10);
        rate.set(&RateSettings { per_second: 10, burst: None });
        assert_eq!(through(0, Level::Warn, now + 200 * SECOND), 10);
        assert_eq!(through(0, Level::Warn, now + 200 * SECOND), 0);
    }
}
