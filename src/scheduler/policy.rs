//! The batching policy: a pure function of what has come so far, of what runs cost, and of the clock.

use crate::sync::{AtomicU64, Ordering};

/// Priority levels, lowest first.
pub const LEVELS: usize = 4;

/// How a model's requests are joined, as it is just now.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_rows: usize,
    pub max_delay_us: u32,
    pub priority_aging_ms: u32,
}

/// What a lane sees when it looks at the batch that it would run next.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Rows that have come; not 0.
    pub rows: usize,
    /// When the first of them came, and when the lane last saw one come.
    pub oldest_ns: u64,
    pub latest_ns: u64,
    /// Rows to expect from what went before: those that the batch before had, and those that had come when it ended.
    /// A closed loop of clients sends no more than that.
    pub expected_rows: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Dispatch,
    /// Look again when the clock reads this, or when more has come.
    WaitUntil(u64),
}

/// Nobody is believed to send any more after this many times the mean gap between arrivals, and this long, …
const QUIET_GAPS: u64 = 4;
const QUIET_NS: u64 = 400;
/// … and this part of the time that it takes to run what has come: so much is lost if nobody does.
const QUIET_PART: u64 = 8;
/// Waiting must promise this much more throughput, in percent, since promises are not always kept.
const GAIN_PERCENT: u64 = 110;

/// Decides whether to run what has come, or to wait for more.
///
/// What has been alone for long is alone: if no more rows are expected than have come, it is dispatched at once. If
/// more are, waiting pays when the rows come fast compared with what a larger batch saves: when the expected rows, over
/// the time that they take to come and to run together, are more per second than those here now over their run alone.
/// It ends when the batch is full, when nobody sends any more, or after the configured delay.
pub fn decide(view: &View, limits: &Limits, costs: &Costs, now_ns: u64) -> Decision {
    let expected = view.expected_rows.min(limits.max_rows);
    let due_ns = view.oldest_ns.saturating_add(u64::from(limits.max_delay_us) * 1000);
    if view.rows >= expected || now_ns >= due_ns {
        return Decision::Dispatch;
    }
    let rows = view.rows as u64;
    let gap_ns = view.latest_ns.saturating_sub(view.oldest_ns) / rows;
    let (Some(alone), Some(together)) = (costs.of(view.rows), costs.of(expected)) else {
        return Decision::Dispatch;
    };
    let quiet_ns = QUIET_GAPS * gap_ns + QUIET_NS.max(alone / QUIET_PART);
    let quiet_at_ns = view.latest_ns.saturating_add(quiet_ns);
    let together = together.saturating_add((expected as u64 - rows) * gap_ns);
    // expected / together > gain × rows / alone, without dividing
    let pays = u128::from(expected as u64 * 100) * u128::from(alone)
        > u128::from(rows * GAIN_PERCENT) * u128::from(together);
    if !pays || now_ns >= quiet_at_ns {
        return Decision::Dispatch;
    }
    Decision::WaitUntil(due_ns.min(quiet_at_ns))
}

/// How urgent a request is: its level, plus one for every ageing period that it has waited, in nanoseconds.
/// What waits long enough overtakes any level, so nothing starves.
pub fn urgency(level: usize, enqueued_ns: u64, limits: &Limits, now_ns: u64) -> u64 {
    let aging_ns = u64::from(limits.priority_aging_ms) * 1_000_000;
    (level as u64).saturating_mul(aging_ns).saturating_add(now_ns.saturating_sub(enqueued_ns))
}

/// What a run of so many rows takes, learned from runs: one figure for each power of two.
#[derive(Default)]
pub struct Costs([AtomicU64; 17]);

impl Costs {
    /// Takes note of a run. Others at the same time may be lost, which does no harm.
    pub fn record(&self, rows: usize, ns: u64) {
        if rows == 0 {
            return;
        }
        // Sizes between two powers of two would blur both.
        let at = rows.ilog2() as usize;
        if !rows.is_power_of_two() || at >= self.0.len() {
            return;
        }
        let before = self.0[at].load(Ordering::Relaxed);
        // Slow runs are mostly other programs' doing: the figure falls fast and rises slowly.
        let after = match before {
            0 => ns,
            _ if ns < before => before - (before - ns) / 4,
            _ => before + (ns - before).min(before) / 32,
        };
        self.0[at].store(after.max(1), Ordering::Relaxed);
    }

    /// What runs of just as many rows have taken, of a power of two.
    pub fn known(&self, rows: usize) -> Option<u64> {
        let cost = self.0.get(rows.checked_ilog2()? as usize)?.load(Ordering::Relaxed);
        (cost > 0).then_some(cost)
    }

    /// What a run of `rows` takes, in nanoseconds; `None` if too little is known.
    pub fn of(&self, rows: usize) -> Option<u64> {
        let known =
            |at: usize| self.0.get(at).map(|cost| cost.load(Ordering::Relaxed)).filter(|&cost| cost > 0);
        let below = (rows.max(1).ilog2() as usize).min(self.0.len() - 1);
        let (low_rows, low) = (0..=below).rev().find_map(|at| Some((1u64 << at, known(at)?)))?;
        let rows = rows as u64;
        if rows == low_rows {
            return Some(low);
        }
        let high = (below + 1..self.0.len()).find_map(|at| Some((1u64 << at, known(at)?)));
        match high {
            // Larger batches are at least as good as smaller ones, row for row.
            None => Some(low.saturating_mul(rows) / low_rows),
            Some((high_rows, high)) => {
                let part = high.saturating_sub(low).saturating_mul(rows - low_rows) / (high_rows - low_rows);
                Some(low + part)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits { max_rows: 64, max_delay_us: 100, priority_aging_ms: 10 }
    }

    fn view(rows: usize, expected_rows: usize) -> View {
        View { rows, oldest_ns: 10_000, latest_ns: 10_000 + 100 * rows as u64, expected_rows }
    }

    /// A model whose runs take `fixed` and something for each row, in nanoseconds.
    fn costs(fixed: u64, row: u64) -> Costs {
        let costs = Costs::default();
        (0..7).for_each(|at| costs.record(1 << at, fixed + (row << at)));
        costs
    }

    #[test]
    fn what_is_expected_is_dispatched_at_once() {
        assert_eq!(decide(&view(1, 1), &limits(), &costs(5_000, 100), 10_100), Decision::Dispatch);
        assert_eq!(decide(&view(8, 8), &limits(), &costs(5_000, 100), 10_800), Decision::Dispatch);
        assert_eq!(decide(&view(64, 900), &limits(), &costs(5_000, 100), 16_400), Decision::Dispatch);
    }

    #[test]
    fn waiting_is_for_runs_that_cost_more_than_the_wait() {
        let waits = |costs: &Costs, rows: usize, now| match decide(&view(rows, 64), &limits(), costs, now) {
            Decision::Dispatch => false,
            Decision::WaitUntil(until) => until > now,
        };
        // 64 rows come in 6.4 µs.
        assert!(waits(&costs(60_000, 1_000), 20, 12_000));
        assert!(!waits(&costs(2_000, 30), 40, 14_000));
        assert!(waits(&costs(2_000, 30), 4, 10_400));
    }

    #[test]
    fn waiting_ends_when_nobody_sends_or_after_the_delay() {
        let slow = costs(60_000, 1_000);
        assert_eq!(decide(&view(20, 64), &limits(), &slow, 12_000), Decision::WaitUntil(22_400));
        assert_eq!(decide(&view(20, 64), &limits(), &slow, 22_400), Decision::Dispatch);
        let steady = View { latest_ns: 110_000, ..view(20, 64) };
        assert_eq!(decide(&steady, &limits(), &slow, 110_000), Decision::Dispatch);
    }

    #[test]
    fn costs_are_interpolated_and_follow_slowly() {
        let costs = Costs::default();
        assert_eq!(costs.of(3), None);
        costs.record(1, 100);
        assert_eq!((costs.of(1), costs.of(8)), (Some(100), Some(800)));
        costs.record(16, 400);
        assert_eq!((costs.of(4), costs.of(16), costs.of(32)), (Some(160), Some(400), Some(800)));
        costs.record(16, 1_000_000);
        assert_eq!(costs.of(16), Some(412));
        costs.record(16, 12);
        assert_eq!(costs.of(16), Some(312));
        costs.record(3, 1); // between two powers
        assert_eq!(costs.of(4), Some(142));
    }

    #[test]
    fn waiting_raises_urgency_past_any_level() {
        let (now, limits) = (100_000_000, limits());
        let fresh_top = urgency(3, now, &limits, now);
        assert!(urgency(0, now, &limits, now) < fresh_top);
        assert!(urgency(0, now - 29_000_000, &limits, now) < fresh_top);
        assert!(urgency(0, now - 31_000_000, &limits, now) > fresh_top);
    }
}
