//! A token bucket in one atomic word: the generic cell rate algorithm (ITU-T I.371, 1993).
//!
//! What is kept is not how many tokens there are but when the bucket will be full again, so nothing has to refill it.

use crate::sync::{AtomicU64, Mutex, Ordering, lock};

/// Times are kept in units of 1/64 ns, in which a word lasts for nine years since the machine's start. A token's time is
/// rounded up to them: a rate of 10^9 per second is exact, others near it are up to 1.6 % too strict, one of 10^6 0.002 %.
const UNITS_PER_NS: u64 = 64;
/// A bucket that would take longer than 2.3 years to fill is smaller than was asked for.
const MOST_TOLERANCE: u64 = 1 << 62;

#[derive(Default, PartialEq)]
struct Setting {
    rate_per_second: Option<f64>,
    tokens: u64,
    /// Times that it was changed.
    changes: u64,
}

/// Lets so many through per second, and so many at once after a silence. Without a rate it lets everything through, at the
/// cost of one relaxed load.
///
/// Callers bring the time along; theirs may differ, and go back, by what it takes to get here.
#[repr(align(64))]
#[derive(Default)]
pub struct Bucket {
    /// When the bucket will be full again; in the past: it is full.
    full_at: AtomicU64,
    /// The time in which one token comes; 0: no limit.
    interval: AtomicU64,
    /// How many there are at most. Whoever reads this and a rate of before or after sees at least a possible bucket.
    tokens: AtomicU64,
    setting: Mutex<Setting>,
}

impl Bucket {
    /// Changes the rate, and how many may pass at once: `None` is what a tenth of a second allows, and at least
    /// `default_burst_min`. If that is anything new the bucket is full afterwards, as one that has just been made.
    pub fn set(&self, rate_per_second: Option<f64>, burst: Option<u32>, default_burst_min: u32) {
        let tenth = rate_per_second.map_or(0, |rate| (rate / 10.0).min(u32::MAX.into()) as u32);
        let tokens = u64::from(burst.unwrap_or(tenth.max(default_burst_min)).max(1));
        let mut setting = lock(&self.setting);
        if setting.rate_per_second == rate_per_second && setting.tokens == tokens {
            return;
        }
        *setting = Setting { rate_per_second, tokens, changes: setting.changes + 1 };
        let interval = rate_per_second.map_or(0, |rate| {
            let units = (1e9 * UNITS_PER_NS as f64 / rate.max(1e-9)).ceil();
            (units as u64).clamp(1, MOST_TOLERANCE)
        });
        let tokens = MOST_TOLERANCE.checked_div(interval).map_or(tokens, |most| tokens.min(most));
        self.tokens.store(tokens, Ordering::Relaxed);
        self.interval.store(interval, Ordering::Relaxed);
        // Last, and each time another number (all of them long past): whoever has read what was before finds that out when
        // it writes, and begins anew.
        self.full_at.swap(setting.changes, Ordering::AcqRel);
    }

    #[inline]
    pub fn is_unlimited(&self) -> bool {
        self.interval.load(Ordering::Relaxed) == 0
    }

    /// Takes `count` tokens. An error says after how many nanoseconds it would succeed; `u64::MAX`: never.
    #[inline]
    pub fn take(&self, count: u32, now_ns: u64) -> Result<(), u64> {
        if self.is_unlimited() { Ok(()) } else { self.take_limited(count, now_ns) }
    }

    fn take_limited(&self, count: u32, now_ns: u64) -> Result<(), u64> {
        let now = now_ns.saturating_mul(UNITS_PER_NS);
        let mut full_at = self.full_at.load(Ordering::Acquire);
        loop {
            let interval = self.interval.load(Ordering::Relaxed);
            let tokens = self.tokens.load(Ordering::Relaxed);
            let cost = interval.saturating_mul(u64::from(count));
            if interval == 0 || count == 0 {
                return Ok(());
            }
            if u64::from(count) > tokens {
                return Err(u64::MAX);
            }
            let tolerance = interval.saturating_mul(tokens);
            let new = full_at.max(now).saturating_add(cost);
            let excess = new.saturating_sub(now.saturating_add(tolerance));
            if excess > 0 {
                return Err(excess.div_ceil(UNITS_PER_NS));
            }
            match self.full_at.compare_exchange_weak(full_at, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }

    /// Gives tokens back that were taken a moment ago. If the bucket has filled up meanwhile, so many more may pass than should.
    pub fn give_back(&self, count: u32) {
        let mut full_at = self.full_at.load(Ordering::Acquire);
        loop {
            let cost = self.interval.load(Ordering::Relaxed).saturating_mul(u64::from(count));
            if cost == 0 {
                return;
            }
            let new = full_at.saturating_sub(cost);
            match self.full_at.compare_exchange_weak(full_at, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(other) => full_at = other,
            }
        }
    }

    /// Whether nothing is missing, so that it is as good as a new one.
    pub fn is_full(&self, now_ns: u64) -> bool {
        self.is_unlimited() || self.full_at.load(Ordering::Relaxed) <= now_ns.saturating_mul(UNITS_PER_NS)
    }

    /// Tokens that could be taken now; `None`: as many as one likes.
    pub fn left(&self, now_ns: u64) -> Option<u64> {
        let interval = self.interval.load(Ordering::Relaxed);
        let missing =
            self.full_at.load(Ordering::Relaxed).saturating_sub(now_ns.saturating_mul(UNITS_PER_NS));
        let tolerance = interval.saturating_mul(self.tokens.load(Ordering::Relaxed));
        tolerance.saturating_sub(missing).checked_div(interval)
    }
}
