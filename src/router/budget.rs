//! How many retries there may be: a share of the requests of the last seconds, so that failing targets are not also asked
//! more than the others (as in Finagle's `RetryBudget`).

use crate::sync::{Mutex, lock};

const SECOND_NS: u64 = 1_000_000_000;
/// Seconds that are looked back at, the present one included.
const SECONDS: usize = 10;

#[derive(Clone, Copy, Default)]
struct Second {
    requests: f64,
    retries: f64,
}

struct State {
    share: f64,
    reserve: u32,
    seconds: [Second; SECONDS],
    /// Of the present second.
    reserve_used: u32,
    /// Of the latest question.
    now_ns: u64,
    requests_total: u64,
}

/// Bounds retries, or other second requests. Ordinary requests do not come by here: their number is asked for when it
/// is needed, and they count as having come evenly since it was last.
pub struct RetryBudget {
    state: Mutex<State>,
}

impl RetryBudget {
    /// Allows `reserve` retries each second, and besides them `share` of the requests of the last ten.
    pub fn new(share: f64, reserve: u32, requests_total: u64, now_ns: u64) -> Self {
        let seconds = [Second::default(); SECONDS];
        let state = State { share, reserve, seconds, reserve_used: 0, now_ns, requests_total };
        RetryBudget { state: Mutex::new(state) }
    }

    /// Takes a changed configuration over.
    pub fn set(&self, share: f64, reserve: u32) {
        let mut state = lock(&self.state);
        (state.share, state.reserve) = (share, reserve);
    }

    /// Whether there may be a retry, which then counts. `requests_total` is how many requests there ever were.
    pub fn try_take(&self, requests_total: u64, now_ns: u64) -> bool {
        let mut state = lock(&self.state);
        state.go_on(requests_total, now_ns);
        if state.reserve_used < state.reserve {
            state.reserve_used += 1;
            return true;
        }
        let may = state.left() >= 1.0;
        if may {
            state.present().retries += 1.0;
        }
        may
    }

    /// There was no retry after all.
    pub fn give_back(&self) {
        let mut state = lock(&self.state);
        if state.present().retries >= 1.0 {
            state.present().retries -= 1.0;
        } else {
            state.reserve_used = state.reserve_used.saturating_sub(1);
        }
    }

    /// Retries that there may be just now.
    pub fn left(&self, requests_total: u64, now_ns: u64) -> u64 {
        let mut state = lock(&self.state);
        state.go_on(requests_total, now_ns);
        state.left().max(0.0) as u64 + u64::from(state.reserve.saturating_sub(state.reserve_used))
    }
}

impl State {
    fn present(&mut self) -> &mut Second {
        &mut self.seconds[(self.now_ns / SECOND_NS) as usize % SECONDS]
    }

    /// Of what the requests allow. A little more, because sums of fractions come out a little less.
    fn left(&self) -> f64 {
        let sum = |part: fn(&Second) -> f64| self.seconds.iter().map(part).sum::<f64>();
        self.share * sum(|second| second.requests) - sum(|second| second.retries) + 1e-6
    }

    /// Goes on to the present, and spreads the requests since the last time over the seconds since then.
    fn go_on(&mut self, requests_total: u64, now_ns: u64) {
        let (before_ns, now_ns) = (self.now_ns, now_ns.max(self.now_ns));
        let requests = requests_total.saturating_sub(self.requests_total) as f64;
        let elapsed_ns = (now_ns - before_ns).max(1) as f64;
        let (before, present) = (before_ns / SECOND_NS, now_ns / SECOND_NS);
        self.now_ns = now_ns;
        self.requests_total = requests_total.max(self.requests_total);
        if present == before {
            self.present().requests += requests;
            return;
        }
        self.reserve_used = 0;
        for second in before.max((present + 1).saturating_sub(SECONDS as u64))..=present {
            let from_ns = before_ns.max(second * SECOND_NS);
            let until_ns = now_ns.min((second + 1) * SECOND_NS);
            let slot = &mut self.seconds[second as usize % SECONDS];
            if second != before {
                *slot = Second::default();
            }
            slot.requests += requests * (until_ns - from_ns) as f64 / elapsed_ns;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &RetryBudget, requests_total: u64, now_ns: u64) -> u64 {
        std::iter::repeat_with(|| budget.try_take(requests_total, now_ns)).take_while(|may| *may).count()
            as u64
    }

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let budget = RetryBudget::new(0.2, 0, 0, 5 * SECOND_NS);
        assert!(!budget.try_take(0, 5 * SECOND_NS));
        assert_eq!(budget.left(100, 5 * SECOND_NS), 20);
        assert_eq!(taken(&budget, 100, 5 * SECOND_NS), 20);
        assert_eq!(taken(&budget, 110, 6 * SECOND_NS), 2);
        budget.give_back();
        assert_eq!(taken(&budget, 110, 6 * SECOND_NS), 1);
        // What was long ago allows nothing any more.
        assert_eq!(taken(&budget, 110, 30 * SECOND_NS), 0);
    }

    #[test]
    fn a_reserve_is_there_each_second_and_not_saved_up() {
        let budget = RetryBudget::new(0.0, 3, 0, 5 * SECOND_NS);
        assert_eq!(taken(&budget, 0, 5 * SECOND_NS), 3);
        assert_eq!(taken(&budget, 0, 5 * SECOND_NS + SECOND_NS / 2), 0);
        assert_eq!(taken(&budget, 0, 6 * SECOND_NS), 3);
        assert_eq!(taken(&budget, 0, 90 * SECOND_NS), 3);
        budget.give_back();
        budget.give_back();
        assert_eq!(taken(&budget, 0, 90 * SECOND_NS), 2);
        budget.set(0.0, 5);
        assert_eq!(taken(&budget, 0, 90 * SECOND_NS), 2);
    }

    #[test]
    fn requests_of_an_hour_without_retries_do_not_all_count() {
        let budget = RetryBudget::new(0.1, 0, 0, 0);
        let hour_ns = 3600 * SECOND_NS;
        // 100 per second: some 900 to 1000 in the last ten seconds.
        let retries = taken(&budget, 360_000, hour_ns - 1);
        assert!((90..=100).contains(&retries), "{retries}");
    }

    #[test]
    fn a_failing_target_gets_that_share_more_and_not_more() {
        let budget = RetryBudget::new(0.2, 1, 0, 0);
        let (mut requests, mut retries) = (0u64, 0);
        for step in 0..100_000u64 {
            requests += 1;
            retries += u64::from(budget.try_take(requests, step * 1_000_000));
        }
        assert!((20_000..=20_100).contains(&retries), "{retries}");
    }

    #[test]
    fn clocks_and_counts_that_go_back_do_no_harm() {
        let budget = RetryBudget::new(0.5, 0, 100, 5 * SECOND_NS);
        assert_eq!(taken(&budget, 104, 4 * SECOND_NS), 2);
        assert_eq!(taken(&budget, 102, 3 * SECOND_NS), 0);
        assert_eq!(taken(&budget, 106, 5 * SECOND_NS), 1);
    }
}
