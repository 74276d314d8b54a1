//! What would be changed if tuning were on, by what runs have cost so far: an estimate, since nothing is tried.

use super::{Seen, Settings};
use serde_json::{Value, json};
use std::fmt;

/// A gain that is worth saying.
const WORTH: f64 = 1.1;
/// Lanes that are so busy have no time left.
const BUSY: f64 = 0.85;
/// Batches that are so full would be larger if they could.
const FULL: f64 = 0.8;

#[derive(Clone, Debug)]
pub struct Advice {
    pub settings: Settings,
    /// Times what there is now.
    pub expected_gain: f64,
    pub because: String,
}

impl Advice {
    /// `cost` says what a run of so many rows takes, as far as that was learned.
    pub fn new(seen: &Seen, cost: impl Fn(usize) -> Option<u64>) -> Option<Self> {
        let (now, window, bounds) = (seen.settings, &seen.window, &seen.bounds);
        let mut found: Option<Advice> = None;
        let mut offer = |settings: Settings, expected_gain: f64, because: String| {
            let better = found.as_ref().is_none_or(|best| best.expected_gain < expected_gain);
            if expected_gain >= WORTH && better && settings != now && bounds.allow(&settings) {
                found = Some(Advice { settings, expected_gain, because });
            }
        };
        let is_busy = window.busy >= BUSY * f64::from(now.lanes);
        if is_busy && window.batch_rows >= FULL * f64::from(now.max_rows) {
            let rows = now.max_rows as usize;
            // A straight line through what half as many rows take, and what these do.
            let line = cost(rows).zip(cost((rows / 2).max(1))).filter(|_| rows > 1).map(|(whole, half)| {
                let row = (whole as f64 - half as f64).max(0.0) / (rows - rows / 2) as f64;
                let fixed = (whole as f64 - row * rows as f64).max(0.0);
                (fixed, row)
            });
            let mut larger = now.max_rows;
            while let Some((fixed, row)) = line
                && larger <= bounds.max_rows[1] / 2
            {
                larger *= 2;
                let per_row = |rows: f64| fixed / rows + row;
                let gain = per_row(rows as f64) / per_row(f64::from(larger)).max(1e-9);
                let because = format!(
                    "batches are full; a run takes about {:.0} us and {:.2} us for each row",
                    fixed / 1e3,
                    row / 1e3
                );
                offer(bounds.clamp(&Settings { max_rows: larger, ..now }), gain, because);
            }
        }
        if is_busy && now.lanes < bounds.lanes[1] {
            let lanes = now.lanes + 1;
            // It has other cores to itself, at best.
            let gain = f64::from(lanes) / f64::from(now.lanes);
            let because = format!(
                "its lanes are busy for {:.0} % of the time",
                window.busy * 100.0 / f64::from(now.lanes)
            );
            offer(Settings { lanes, ..now }, gain, because);
        }
        found
    }

    pub fn report(&self) -> Value {
        json!({
            "settings": self.settings,
            "expected_gain": (self.expected_gain * 100.0).round() / 100.0,
            "because": self.because,
        })
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} may be {:.2} times as fast: {}", self.settings, self.expected_gain, self.because)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TuningLimits;
    use crate::tuning::{Bounds, Window};

    fn seen(batch_rows: f64, busy: f64) -> Seen {
        let settings = Settings { max_rows: 4, max_delay_us: 0, lanes: 1, intra_op_threads: 1 };
        let bounds = Bounds::new(&TuningLimits::default(), &settings, 2);
        Seen { settings, bounds, window: Window { batch_rows, busy, ..Window::default() } }
    }

    #[test]
    fn what_would_pay_is_said() {
        let cost = |rows: usize| Some(10_000 + 100 * rows as u64);
        let advice = Advice::new(&seen(3.9, 0.95), cost).unwrap();
        assert!(advice.settings.max_rows == 512 && advice.expected_gain > 10.0, "{advice}");
        let linear = Advice::new(&seen(3.9, 0.95), |rows| Some(1_000 * rows as u64)).unwrap();
        assert_eq!((linear.settings.lanes, linear.settings.max_rows), (2, 4));
        assert!(Advice::new(&seen(3.9, 0.2), cost).is_none());
        assert!(Advice::new(&seen(1.0, 0.95), |_| None).unwrap().settings.lanes == 2);
    }
}
