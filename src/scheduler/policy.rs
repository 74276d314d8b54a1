//! The batching policy: a pure function of what is queued and of the clock.

use crate::config::BatchingConfig;

/// Priority levels, lowest first.
pub const LEVELS: usize = 4;

/// What a lane sees when it looks at its queue.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// Rows waiting; not 0.
    pub rows: usize,
    /// When the oldest of them came.
    pub oldest_ns: u64,
    /// The lane had nothing to do when the first of them came.
    pub lane_was_idle: bool,
    /// Rows of the batch before.
    pub previous_rows: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Dispatch,
    /// Look again when the clock reads this, or when more has come.
    WaitUntil(u64),
}

/// Dispatches at once from an idle lane; under load, when the batch is full, when as many rows have come as
/// were in the batch before (a closed loop of clients sends no more than that), or after the delay.
pub fn decide(view: &View, limits: &BatchingConfig, now_ns: u64) -> Decision {
    let enough = view.previous_rows.clamp(1, limits.max_rows as usize);
    let due_ns = view.oldest_ns.saturating_add(u64::from(limits.max_delay_us) * 1000);
    if view.lane_was_idle || view.rows >= enough || now_ns >= due_ns {
        Decision::Dispatch
    } else {
        Decision::WaitUntil(due_ns)
    }
}

/// How urgent a request is: its level, plus one for every ageing period that it has waited, in nanoseconds.
/// What waits long enough overtakes any level, so nothing starves.
pub fn urgency(level: usize, enqueued_ns: u64, limits: &BatchingConfig, now_ns: u64) -> u64 {
    let aging_ns = u64::from(limits.priority_aging_ms) * 1_000_000;
    (level as u64).saturating_mul(aging_ns).saturating_add(now_ns.saturating_sub(enqueued_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BatchingConfig = BatchingConfig { max_rows: 8, max_delay_us: 100, priority_aging_ms: 10 };

    fn view(rows: usize, previous_rows: usize, lane_was_idle: bool) -> View {
        View { rows, oldest_ns: 1_000, lane_was_idle, previous_rows }
    }

    #[test]
    fn an_idle_lane_dispatches_at_once() {
        assert_eq!(decide(&view(1, 8, true), &LIMITS, 1_000), Decision::Dispatch);
    }

    #[test]
    fn a_busy_lane_waits_for_as_many_rows_as_before_but_not_longer_than_the_delay() {
        assert_eq!(decide(&view(3, 4, false), &LIMITS, 1_000), Decision::WaitUntil(101_000));
        assert_eq!(decide(&view(4, 4, false), &LIMITS, 1_000), Decision::Dispatch);
        assert_eq!(decide(&view(3, 4, false), &LIMITS, 101_000), Decision::Dispatch);
        assert_eq!(decide(&view(8, 500, false), &LIMITS, 1_000), Decision::Dispatch);
        assert_eq!(decide(&view(1, 0, false), &LIMITS, 1_000), Decision::Dispatch);
    }

    #[test]
    fn waiting_raises_urgency_past_any_level() {
        let now = 100_000_000;
        let fresh_top = urgency(3, now, &LIMITS, now);
        assert!(urgency(0, now, &LIMITS, now) < fresh_top);
        assert!(urgency(0, now - 29_000_000, &LIMITS, now) < fresh_top);
        assert!(urgency(0, now - 31_000_000, &LIMITS, now) > fresh_top);
    }
}
