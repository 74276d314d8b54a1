//! How much may be asked for: requests and rows per second, and requests at once.

use super::bucket::Bucket;
use crate::config::LimitsConfig;
use crate::metrics::Counter;
use crate::sync::{AtomicU32, Ordering};

/// What kind of limit was in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// Too many per second: the same may be asked again later.
    Rate,
    /// Too many at once: the same may be asked again when others have ended.
    Quota,
    /// More in one request than may ever come at once.
    NeverFits,
}

/// Why a request may not come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: RefusalKind,
    /// The limit, as it is named in the configuration.
    pub what: &'static str,
    /// The same would pass after so long, if nobody else came; 0: not known.
    pub retry_after_ns: u64,
}

impl Refusal {
    fn rate(what: &'static str, retry_after_ns: u64) -> Self {
        match retry_after_ns {
            u64::MAX => Refusal { kind: RefusalKind::NeverFits, what, retry_after_ns: 0 },
            _ => Refusal { kind: RefusalKind::Rate, what, retry_after_ns },
        }
    }
}

/// Requests that were refused, by the limit.
#[derive(Default)]
pub struct Refused {
    pub requests_per_second: Counter,
    pub rows_per_second: Counter,
    pub concurrency: Counter,
}

impl Refused {
    pub fn total(&self) -> u64 {
        self.requests_per_second.get() + self.rows_per_second.get() + self.concurrency.get()
    }
}

/// The limits on a route, a model or a tenant. They may be changed at any time.
#[derive(Default)]
pub struct Limits {
    requests: Bucket,
    rows: Bucket,
    /// Whether there is any limit: all that an unlimited one looks at.
    limited: AtomicU32,
    /// The most requests at once; 0: no limit.
    concurrency: AtomicU32,
    in_use: AtomicU32,
    pub refused: Refused,
}

impl Limits {
    pub fn new(config: &LimitsConfig) -> Self {
        let limits = Limits::default();
        limits.set(config);
        limits
    }

    /// Takes a changed configuration over. Requests that have come in before there was a limit on `concurrency` do not count
    /// for it, and each makes room for one too many when it ends; all is exact when they have ended.
    pub fn set(&self, config: &LimitsConfig) {
        self.requests.set(config.requests_per_second, config.burst, 1);
        self.rows.set(config.rows_per_second, config.burst_rows, 64);
        let concurrency = config.concurrency.unwrap_or(0);
        self.concurrency.store(concurrency, Ordering::Relaxed);
        let limited = concurrency > 0 || !self.requests.is_unlimited() || !self.rows.is_unlimited();
        self.limited.store(u32::from(limited), Ordering::Release);
    }

    #[inline]
    pub fn is_unlimited(&self) -> bool {
        self.limited.load(Ordering::Relaxed) == 0
    }

    /// Whether requests have to `leave` in the end.
    #[inline]
    pub fn has_concurrency(&self) -> bool {
        self.concurrency.load(Ordering::Relaxed) > 0
    }

    /// Requests that are in, as far as they are counted.
    pub fn in_use(&self) -> u32 {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Whether they are as good as new: nobody is in, and nothing is missing.
    pub fn is_idle(&self, now_ns: u64) -> bool {
        self.in_use() == 0 && self.requests.is_full(now_ns) && self.rows.is_full(now_ns)
    }

    /// Lets a request in, or refuses it and takes nothing.
    #[inline]
    pub fn enter(&self, rows: u32, now_ns: u64) -> Result<(), Refusal> {
        if self.is_unlimited() {
            return Ok(());
        }
        self.occupy()?;
        self.take_rates(rows, now_ns).inspect_err(|_| self.leave(1))
    }

    /// The part of `enter` that a request which waits for its turn does when it comes.
    pub fn take_rates(&self, rows: u32, now_ns: u64) -> Result<(), Refusal> {
        if let Err(retry_after_ns) = self.requests.take(1, now_ns) {
            self.refused.requests_per_second.add(1);
            return Err(Refusal::rate("requests_per_second", retry_after_ns));
        }
        if let Err(retry_after_ns) = self.rows.take(rows, now_ns) {
            self.requests.give_back(1);
            self.refused.rows_per_second.add(1);
            return Err(Refusal::rate("rows_per_second", retry_after_ns));
        }
        Ok(())
    }

    /// The part of `enter` that a request which waits for its turn does when it has come. Counts it as refused if not.
    pub fn occupy(&self) -> Result<(), Refusal> {
        if self.try_occupy() {
            return Ok(());
        }
        self.refused.concurrency.add(1);
        Err(Refusal { kind: RefusalKind::Quota, what: "concurrency", retry_after_ns: 0 })
    }

    /// As `occupy`, for who waits if there is no room.
    pub fn try_occupy(&self) -> bool {
        let most = self.concurrency.load(Ordering::Relaxed);
        let more = |in_use| (in_use < most).then_some(in_use + 1);
        most == 0 || self.in_use.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok()
    }

    /// Requests have ended.
    #[inline]
    pub fn leave(&self, count: u32) {
        if self.in_use() > 0 {
            let fewer = |in_use: u32| Some(in_use.saturating_sub(count));
            let _ = self.in_use.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fewer);
        }
    }

    /// A request that was let in a moment ago was refused further on.
    pub fn undo(&self, rows: u32) {
        self.give_rates_back(rows);
        self.leave(1);
    }

    /// Undoes `take_rates`.
    pub fn give_rates_back(&self, rows: u32) {
        self.requests.give_back(1);
        self.rows.give_back(rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn config() -> LimitsConfig {
        LimitsConfig {
            requests_per_second: Some(10.0),
            burst: Some(3),
            rows_per_second: Some(100.0),
            burst_rows: Some(20),
            concurrency: Some(2),
            waiting: 0,
        }
    }

    fn outcome(limits: &Limits, rows: u32, now_ns: u64) -> Option<(RefusalKind, &'static str, u64)> {
        limits.enter(rows, now_ns).err().map(|r| (r.kind, r.what, r.retry_after_ns))
    }

    #[test]
    fn each_limit_refuses_by_its_name() {
        let limits = Limits::new(&config());
        assert_eq!(outcome(&limits, 21, SECOND), Some((RefusalKind::NeverFits, "rows_per_second", 0)));
        assert_eq!(outcome(&limits, 1, SECOND), None);
        assert_eq!(outcome(&limits, 1, SECOND), None);
        assert_eq!(outcome(&limits, 1, SECOND), Some((RefusalKind::Quota, "concurrency", 0)));
        limits.leave(2);
        assert_eq!(outcome(&limits, 20, SECOND), Some((RefusalKind::Rate, "rows_per_second", SECOND / 50)));
        assert_eq!(outcome(&limits, 1, SECOND), None);
        assert_eq!(
            outcome(&limits, 1, SECOND),
            Some((RefusalKind::Rate, "requests_per_second", SECOND / 10))
        );
        let refused = &limits.refused;
        let counts = [&refused.requests_per_second, &refused.rows_per_second, &refused.concurrency];
        assert_eq!(counts.map(Counter::get), [1, 2, 1]);
        assert_eq!(refused.total(), 4);
    }

    #[test]
    fn a_refusal_takes_nothing() {
        let limits = Limits::new(&LimitsConfig { concurrency: Some(1), ..config() });
        for _ in 0..100 {
            assert!(limits.enter(21, SECOND).is_err());
            assert_eq!(limits.in_use(), 0);
        }
        assert!(limits.is_idle(SECOND));
        assert_eq!(outcome(&limits, 20, SECOND), None);
        for _ in 0..100 {
            assert_eq!(outcome(&limits, 1, SECOND), Some((RefusalKind::Quota, "concurrency", 0)));
        }
        limits.undo(20);
        assert!(limits.is_idle(SECOND));
        assert_eq!(outcome(&limits, 20, SECOND), None);
    }

    #[test]
    fn nothing_is_limited_unless_said_and_that_can_change() {
        let limits = Limits::default();
        assert!(limits.is_unlimited() && !limits.has_concurrency());
        for _ in 0..1000 {
            assert_eq!(outcome(&limits, u32::MAX, 1), None);
        }
        limits.leave(10);
        limits.set(&config());
        assert!(!limits.is_unlimited() && limits.has_concurrency());
        assert_eq!(outcome(&limits, 1, SECOND), None);
        limits.leave(990); // from before there was a limit
        assert_eq!(limits.in_use(), 0);
        limits.set(&LimitsConfig::default());
        assert!(limits.is_unlimited());
        assert_eq!(outcome(&limits, u32::MAX, SECOND), None);
    }

    #[test]
    fn defaults_of_bursts_are_a_tenth_of_a_second() {
        let limits = |rate| {
            let rate = Some(rate);
            Limits::new(&LimitsConfig {
                requests_per_second: rate,
                rows_per_second: rate,
                ..Default::default()
            })
        };
        assert_eq!(limits(5.0).requests.left(SECOND), Some(1));
        assert_eq!(limits(5.0).rows.left(SECOND), Some(64));
        assert_eq!(limits(5000.0).requests.left(SECOND), Some(500));
        assert_eq!(limits(5000.0).rows.left(SECOND), Some(500));
    }

    #[test]
    fn never_more_are_in_than_may_be() {
        let limits = Limits::new(&LimitsConfig { concurrency: Some(3), ..Default::default() });
        let (inside, passed) = (AtomicU32::new(0), Counter::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if limits.enter(1, SECOND).is_ok() {
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                            passed.add(1);
                            inside.fetch_sub(1, Ordering::SeqCst);
                            limits.leave(1);
                        }
                    }
                });
            }
        });
        assert_eq!((passed.get() + limits.refused.total(), limits.in_use()), (80_000, 0));
    }
}
