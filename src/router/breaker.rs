//! A circuit breaker: closed, open, half open. Asking it costs one read; only a change of its state takes a lock.

use super::random::{mix, unit};
use super::window::{Calls, Window};
use crate::config::BreakerConfig;
use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, lock};

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Calls pass.
    Closed = 0,
    /// No calls pass, until a time.
    Open = 1,
    /// A few calls pass, to see how they do.
    HalfOpen = 2,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        }
    }
}

/// A breaker has changed its state, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub from: State,
    pub to: State,
    pub reason: String,
}

pub struct Breaker {
    config: BreakerConfig,
    state: AtomicU32,
    /// When an open one lets calls pass again.
    open_until_ns: AtomicU64,
    /// Calls under way while half open.
    probing: AtomicU32,
    consecutive: AtomicU32,
    /// Calls in a row that ended well, and late.
    slow_in_a_row: AtomicU32,
    window: Window,
    inner: Mutex<Inner>,
    /// How often it has opened.
    openings: AtomicU64,
}

#[derive(Default)]
struct Inner {
    /// Calls that have succeeded in a row while half open.
    successes: u32,
    /// How often it has opened in a row.
    repeated: u32,
    closed_since_ns: u64,
}

const MS: u64 = 1_000_000;

impl Breaker {
    pub fn new(config: BreakerConfig) -> Self {
        Breaker {
            state: AtomicU32::new(State::Closed as u32),
            open_until_ns: AtomicU64::new(0),
            probing: AtomicU32::new(0),
            consecutive: AtomicU32::new(0),
            slow_in_a_row: AtomicU32::new(0),
            window: Window::new(u64::from(config.window_ms) * MS),
            inner: Mutex::default(),
            openings: AtomicU64::new(0),
            config,
        }
    }

    #[inline]
    pub fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            0 => State::Closed,
            1 => State::Open,
            _ => State::HalfOpen,
        }
    }

    #[inline]
    pub fn is_closed(&self) -> bool {
        self.state.load(Ordering::Relaxed) == State::Closed as u32
    }

    /// How often it has opened.
    pub fn openings(&self) -> u64 {
        self.openings.load(Ordering::Relaxed)
    }

    /// How long an open one stays so, from now.
    pub fn open_ns(&self, now_ns: u64) -> u64 {
        match self.state() {
            State::Open => self.open_until_ns.load(Ordering::Relaxed).saturating_sub(now_ns),
            _ => 0,
        }
    }

    /// The calls that it looks back at.
    pub fn calls(&self, now_ns: u64) -> Calls {
        self.window.calls(now_ns)
    }

    /// Takes one of the few places that a breaker gives that is not closed. It must be given back with `probed`. An open
    /// one whose time is over is half open then.
    pub fn try_probe(&self, now_ns: u64) -> (bool, Option<Change>) {
        let mut change = None;
        match self.state() {
            State::Closed => return (false, None),
            State::Open if now_ns < self.open_until_ns.load(Ordering::Relaxed) => return (false, None),
            State::Open => {
                let mut inner = lock(&self.inner);
                if self.state() == State::Open {
                    inner.successes = 0;
                    self.state.store(State::HalfOpen as u32, Ordering::SeqCst);
                    let reason = "its time is over".to_owned();
                    change = Some(Change { from: State::Open, to: State::HalfOpen, reason });
                }
            }
            State::HalfOpen => (),
        }
        let place = |probing: u32| (probing < self.config.probes).then_some(probing + 1);
        (self.probing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, place).is_ok(), change)
    }

    /// Gives a place back.
    pub fn probed(&self) {
        self.probing.fetch_sub(1, Ordering::SeqCst);
    }

    /// Calls have ended well; so many of them were slow. `may_open` gives a guard if others
    /// can take what comes.
    pub fn succeeded<G>(
        &self,
        count: u32,
        slow: u32,
        now_ns: u64,
        may_open: impl FnOnce() -> Option<G>,
    ) -> Option<Change> {
        if !self.config.enabled {
            return None;
        }
        // Slow ones among the failures do not speak for it.
        if slow < count && self.consecutive.load(Ordering::Relaxed) != 0 {
            self.consecutive.store(0, Ordering::Relaxed);
        }
        self.window.add(now_ns, Calls { total: count.into(), failed: 0, slow: slow.into() });
        if slow == count {
            self.slow_in_a_row.fetch_add(count, Ordering::Relaxed);
        } else if self.slow_in_a_row.load(Ordering::Relaxed) != 0 {
            self.slow_in_a_row.store(0, Ordering::Relaxed);
        }
        match self.state() {
            State::Closed if slow > 0 => self.open_if_slow(now_ns, may_open),
            State::HalfOpen if slow < count => self.close_if_proved(count - slow, now_ns),
            State::HalfOpen => self.open(now_ns, "a call was slow", true, || Some(())),
            _ => None,
        }
    }

    /// Calls have failed.
    pub fn failed<G>(
        &self,
        count: u32,
        now_ns: u64,
        why: &str,
        may_open: impl FnOnce() -> Option<G>,
    ) -> Option<Change> {
        if !self.config.enabled {
            return None;
        }
        let consecutive = self.consecutive.fetch_add(count, Ordering::Relaxed).saturating_add(count);
        self.window.add(now_ns, Calls { total: count.into(), failed: count.into(), slow: 0 });
        match self.state() {
            State::HalfOpen => self.open(now_ns, &format!("a call failed again: {why}"), true, || Some(())),
            State::Open => None,
            State::Closed => {
                let most = self.config.consecutive_failures;
                if most > 0 && consecutive >= most {
                    let reason = format!("{consecutive} calls in a row failed: {why}");
                    return self.open(now_ns, &reason, false, may_open);
                }
                let calls = self.window.calls(now_ns);
                let rate = calls.failed as f64 / calls.total.max(1) as f64;
                if calls.total >= u64::from(self.config.minimum_calls) && rate >= self.config.error_rate {
                    let (failed, total) = (calls.failed, calls.total);
                    let reason = format!("{failed} of {total} calls failed: {why}");
                    return self.open(now_ns, &reason, false, may_open);
                }
                None
            }
        }
    }

    /// Failures that turned out to be the requests' own.
    pub fn forgive(&self, count: u32, now_ns: u64) {
        if self.config.enabled {
            self.window.forgive(now_ns, count.into());
            let less = |consecutive: u32| Some(consecutive.saturating_sub(count));
            let _ = self.consecutive.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    fn open_if_slow<G>(&self, now_ns: u64, may_open: impl FnOnce() -> Option<G>) -> Option<Change> {
        let in_a_row = self.slow_in_a_row.load(Ordering::Relaxed);
        if in_a_row >= self.config.minimum_calls && self.config.slow_rate <= 1.0 {
            // Who turns slow has many fast ones in its window still.
            let reason = format!("{in_a_row} calls in a row were slow");
            return self.open(now_ns, &reason, false, may_open);
        }
        let calls = self.window.calls(now_ns);
        let rate = calls.slow as f64 / calls.total.max(1) as f64;
        if calls.total < u64::from(self.config.minimum_calls) || rate < self.config.slow_rate {
            return None;
        }
        let reason = format!("{} of {} calls were slow", calls.slow, calls.total);
        self.open(now_ns, &reason, false, may_open)
    }

    fn open<G>(
        &self,
        now_ns: u64,
        reason: &str,
        again: bool,
        may_open: impl FnOnce() -> Option<G>,
    ) -> Option<Change> {
        let from = if again { State::HalfOpen } else { State::Closed };
        if self.state() != from {
            return None;
        }
        // The guard keeps others from opening until this one has.
        let _alone = may_open()?;
        let mut inner = lock(&self.inner);
        if self.state() != from {
            return None;
        }
        let max_ns = u64::from(self.config.backoff_max_ms) * MS;
        // One that was well for long begins anew.
        if !again
            && now_ns.saturating_sub(inner.closed_since_ns)
                > max_ns.max(u64::from(self.config.window_ms) * MS)
        {
            inner.repeated = 0;
        }
        let base_ns = u64::from(self.config.backoff_ms) * MS;
        let backoff_ns = base_ns.saturating_mul(1 << inner.repeated.min(20)).min(max_ns);
        inner.repeated += 1;
        let openings = self.openings.fetch_add(1, Ordering::Relaxed);
        let spread = 1.0 + self.config.jitter * (unit(mix(now_ns ^ openings)) - 0.5) * 2.0;
        let backoff_ns = (backoff_ns as f64 * spread) as u64;
        self.open_until_ns.store(now_ns.saturating_add(backoff_ns), Ordering::Relaxed);
        self.state.store(State::Open as u32, Ordering::SeqCst);
        let reason = format!("{reason}; for {:.1} ms", backoff_ns as f64 / MS as f64);
        Some(Change { from, to: State::Open, reason })
    }

    fn close_if_proved(&self, count: u32, now_ns: u64) -> Option<Change> {
        let mut inner = lock(&self.inner);
        if self.state() != State::HalfOpen {
            return None;
        }
        inner.successes += count;
        if inner.successes < self.config.successes {
            return None;
        }
        inner.closed_since_ns = now_ns;
        self.window.clear();
        self.consecutive.store(0, Ordering::Relaxed);
        self.slow_in_a_row.store(0, Ordering::Relaxed);
        self.state.store(State::Closed as u32, Ordering::SeqCst);
        let reason = format!("{} calls in a row succeeded", inner.successes);
        Some(Change { from: State::HalfOpen, to: State::Closed, reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(change: impl FnOnce(&mut BreakerConfig)) -> Breaker {
        let mut config = BreakerConfig { jitter: 0.0, ..BreakerConfig::default() };
        change(&mut config);
        Breaker::new(config)
    }

    const START: u64 = 1_000_000 * MS;

    #[test]
    fn failures_in_a_row_open_it_and_successes_in_a_row_close_it() {
        let breaker = breaker(|_| ());
        for _ in 0..4 {
            assert_eq!(breaker.failed(1, START, "no", || Some(())), None);
        }
        assert_eq!(breaker.succeeded(1, 0, START, || Some(())), None);
        for _ in 0..4 {
            assert_eq!(breaker.failed(1, START, "no", || Some(())), None);
        }
        let change = breaker.failed(1, START, "no", || Some(())).unwrap();
        assert_eq!((change.from, change.to), (State::Closed, State::Open));
        assert_eq!(change.reason, "5 calls in a row failed: no; for 50.0 ms");
        assert_eq!(breaker.try_probe(START + 49 * MS), (false, None));
        let (probes, change) = breaker.try_probe(START + 50 * MS);
        assert!(probes && change.unwrap().to == State::HalfOpen);
        assert_eq!(breaker.try_probe(START + 50 * MS), (false, None)); // one at a time
        for round in 0..3 {
            assert_eq!(breaker.state(), State::HalfOpen, "{round}");
            let change = breaker.succeeded(1, 0, START + 51 * MS, || Some(()));
            breaker.probed();
            assert_eq!(change.is_some(), round == 2);
            assert_eq!(breaker.try_probe(START + 51 * MS).0, round < 2);
        }
        assert!(breaker.is_closed());
    }

    #[test]
    fn it_waits_longer_each_time_and_forgets_that_when_all_was_well_for_long() {
        let breaker = breaker(|_| ());
        let mut now = START;
        for wait_ms in [50, 100, 200, 400, 500, 500] {
            match breaker.state() {
                State::Closed => drop(breaker.failed(5, now, "no", || Some(()))),
                _ => drop(breaker.failed(1, now, "no", || Some(()))),
            }
            assert_eq!(breaker.open_ns(now), wait_ms * MS);
            now += wait_ms * MS;
            assert!(breaker.try_probe(now).0);
            breaker.probed();
        }
        breaker.succeeded(3, 0, now, || Some(())).unwrap();
        breaker.failed(5, now + 100 * MS, "no", || Some(())).unwrap();
        assert_eq!(breaker.open_ns(now + 100 * MS), 500 * MS); // it flaps
        now += 2000 * MS;
        assert!(breaker.try_probe(now).0);
        breaker.succeeded(3, 0, now, || Some(())).unwrap();
        now += 2000 * MS;
        breaker.failed(5, now, "no", || Some(())).unwrap();
        assert_eq!(breaker.open_ns(now), 50 * MS);
    }

    #[test]
    fn a_share_of_failures_or_of_slow_calls_opens_it() {
        let failing = breaker(|config| config.consecutive_failures = 0);
        for _ in 0..7 {
            assert_eq!(failing.succeeded(1, 0, START, || Some(())), None);
        }
        for round in 0..7 {
            assert_eq!(failing.failed(1, START, "no", || Some(())).is_some(), round == 6);
        }
        let slow = breaker(|_| ());
        assert_eq!(slow.succeeded(9, 4, START, || Some(())), None);
        let change = slow.succeeded(1, 1, START, || Some(())).unwrap();
        assert!(change.reason.starts_with("5 of 10 calls were slow"), "{}", change.reason);
        assert!(slow.try_probe(START + 1000 * MS).0);
        assert_eq!(slow.succeeded(1, 1, START + 1000 * MS, || Some(())).unwrap().to, State::Open);
    }

    #[test]
    fn it_does_not_open_when_nobody_else_is_left_or_when_it_is_off() {
        let last = breaker(|_| ());
        (0..100).for_each(|_| assert_eq!(last.failed(1, START, "no", || None::<()>), None));
        assert!(last.is_closed());
        let off = breaker(|config| config.enabled = false);
        (0..100).for_each(|_| assert_eq!(off.failed(1, START, "no", || Some(())), None));
        assert_eq!(off.calls(START), Calls::default());
    }

    #[test]
    fn one_that_turns_slow_is_noticed_though_it_was_fast_a_moment_ago() {
        let breaker = breaker(|_| ());
        assert_eq!(breaker.succeeded(1000, 0, START, || Some(())), None);
        for _ in 0..9 {
            assert_eq!(breaker.succeeded(1, 1, START, || Some(())), None);
        }
        assert_eq!(breaker.succeeded(2, 1, START, || Some(())), None);
        for round in 0..10 {
            let change = breaker.succeeded(1, 1, START, || Some(()));
            assert_eq!(change.is_some(), round == 9, "{round}");
        }
        assert_eq!(breaker.state(), State::Open);
    }

    #[test]
    fn failures_that_were_the_requests_own_are_forgiven() {
        let breaker = breaker(|_| ());
        for _ in 0..100 {
            assert_eq!(breaker.failed(1, START, "no", || Some(())), None);
            breaker.forgive(1, START);
            assert_eq!(breaker.succeeded(1, 0, START, || Some(())), None);
        }
    }
}
