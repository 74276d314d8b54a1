//! Spinning before sleeping: about as long as a wake-up costs, while a core is free, and not where it does not help.

use crate::clock::now_ns;
use crate::sync::{AtomicU64, AtomicUsize, Ordering, spin_loop};

/// The longest and the shortest time to spin, in nanoseconds.
const MOST_NS: u64 = 200_000;
const LEAST_NS: u64 = 100_000;
/// A wake-up costs the sleeper its latency, the waker a system call, and both their warm caches.
const WAKE_UPS: u64 = 3;
/// A thread that spins and finds that so much time has passed between two looks was put off its core: somebody else
/// needs it.
const PUT_OFF_NS: u64 = 200_000;
/// After that nobody spins for so long.
const REST_NS: u64 = 1_000_000;
/// How long to spin without telling the system that another thread may run.
const EAGER_NS: u64 = 20_000;

/// An engine's threads share one: no more of them compute or spin than there are cores.
pub struct Spinning {
    cores: usize,
    /// Threads that compute or spin.
    active: AtomicUsize,
    /// How long to spin, about what a wake-up costs here.
    time_ns: u64,
    /// Until when nobody spins.
    rest_until_ns: AtomicU64,
}

impl Spinning {
    pub fn new(cores: usize, wake_up_ns: u64) -> Self {
        Spinning {
            cores,
            active: AtomicUsize::new(0),
            time_ns: if cores > 1 { (WAKE_UPS * wake_up_ns).clamp(LEAST_NS, MOST_NS) } else { 0 },
            rest_until_ns: AtomicU64::new(0),
        }
    }

    /// How long to spin, in nanoseconds.
    pub fn time_ns(&self) -> u64 {
        self.time_ns
    }

    /// Says that this thread computes while the guard lives.
    pub fn compute(&self) -> Active<'_> {
        self.active.fetch_add(1, Ordering::Relaxed);
        Active(self)
    }

    /// Spins until `ready`, or until it is better to sleep; returns whether it is ready.
    pub fn until(&self, limit_ns: u64, mut ready: impl FnMut() -> bool) -> bool {
        if ready() {
            return true;
        }
        let start = now_ns();
        if limit_ns == 0 || self.time_ns == 0 || start < self.rest_until_ns.load(Ordering::Relaxed) {
            return false;
        }
        let _active = self.compute();
        let mut before = start;
        loop {
            for _ in 0..8 {
                spin_loop();
                if ready() {
                    return true;
                }
            }
            let now = now_ns();
            if now - before > PUT_OFF_NS {
                self.rest_until_ns.store(now + REST_NS, Ordering::Relaxed);
                return ready();
            }
            if now - start >= limit_ns || self.active.load(Ordering::Relaxed) > self.cores {
                return ready();
            }
            before = now;
            if now - start > EAGER_NS {
                std::thread::yield_now();
            }
        }
    }
}

/// How long somebody has waited of late. Who mostly waits for longer than spinning is worth does not spin.
#[derive(Default)]
pub struct Waits(AtomicU64);

/// Long waits count as this many times the time to spin, so that a few short ones outweigh one.
const LONG: u64 = 4;

impl Waits {
    /// How long to spin this time.
    pub fn spin_ns(&self, spinning: &Spinning) -> u64 {
        if self.0.load(Ordering::Relaxed) <= spinning.time_ns { spinning.time_ns } else { 0 }
    }

    /// Takes note of a wait.
    pub fn record(&self, waited_ns: u64, spinning: &Spinning) {
        let waited = waited_ns.min(LONG * spinning.time_ns);
        let mean = self.0.load(Ordering::Relaxed);
        self.0.store(mean - mean / 4 + waited / 4, Ordering::Relaxed);
    }
}

/// A thread that computes or spins.
pub struct Active<'a>(&'a Spinning);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Measures what waking a thread costs: the median of a few hand-overs to a thread that sleeps.
pub fn measure_wake_up_ns() -> u64 {
    const ROUNDS: usize = 7;
    let (sent, heard) = (AtomicU64::new(0), AtomicU64::new(0));
    let (asked, mut costs) = (AtomicUsize::new(0), Vec::new());
    let caller = std::thread::current();
    std::thread::scope(|scope| {
        let _blocked = crate::platform::block_signals();
        let Ok(thread) = std::thread::Builder::new().spawn_scoped(scope, || {
            for round in 1..=ROUNDS {
                while asked.load(Ordering::Acquire) < round {
                    std::thread::park();
                }
                heard.store(now_ns(), Ordering::Release);
                caller.unpark();
            }
        }) else {
            return;
        };
        for round in 1..=ROUNDS {
            std::thread::sleep(std::time::Duration::from_micros(100)); // so that it sleeps
            heard.store(0, Ordering::Relaxed);
            sent.store(now_ns(), Ordering::Relaxed);
            asked.store(round, Ordering::Release);
            thread.thread().unpark();
            while heard.load(Ordering::Acquire) == 0 {
                std::thread::park();
            }
            costs.push(heard.load(Ordering::Relaxed).saturating_sub(sent.load(Ordering::Relaxed)));
        }
    });
    costs.sort_unstable();
    costs.get(costs.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_ends_when_it_is_time() {
        let spinning = Spinning::new(2, 0);
        assert_eq!(spinning.time_ns(), LEAST_NS);
        assert!(!spinning.until(spinning.time_ns(), || false));
        let mut looks = 0;
        // Who is put off its core stops early: then again, with one that does not rest.
        assert!((0..1000).any(|_| {
            Spinning::new(2, 0).until(u64::MAX, || {
                looks += 1;
                looks > 100
            })
        }));
        assert_eq!(spinning.active.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn who_waits_long_does_not_spin_until_waits_are_short_again() {
        let (spinning, waits) = (Spinning::new(2, 0), Waits::default());
        assert_eq!(waits.spin_ns(&spinning), LEAST_NS);
        (0..3).for_each(|_| waits.record(1_000_000_000, &spinning));
        assert_eq!(waits.spin_ns(&spinning), 0);
        (0..5).for_each(|_| waits.record(1_000, &spinning));
        assert_eq!(waits.spin_ns(&spinning), LEAST_NS);
    }

    #[test]
    fn nobody_spins_without_a_free_core() {
        let spinning = Spinning::new(1, 50_000);
        assert!(!spinning.until(u64::MAX, || false));
        let spinning = Spinning::new(2, 50_000);
        let _busy = (spinning.compute(), spinning.compute());
        assert!(!spinning.until(u64::MAX, || false));
    }

    #[test]
    fn a_wake_up_takes_some_time() {
        assert!(measure_wake_up_ns() > 0);
    }
}
