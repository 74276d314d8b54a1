//! Points of a search: settings with what was measured, and which of them is the best.

use super::Settings;
use crate::config::Objective;
use serde_json::{Value, json};

/// What is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    pub objective: Objective,
    /// The p99 must be below; 0: there is no goal.
    pub p99_ns: u64,
}

impl Goal {
    pub fn new(objective: Objective, p99_ms: Option<f64>) -> Self {
        Goal { objective, p99_ns: p99_ms.map_or(0, |ms| (ms * 1e6) as u64) }
    }

    pub fn p99_ms(&self) -> Option<f64> {
        (self.p99_ns > 0).then_some(self.p99_ns as f64 / 1e6)
    }
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    pub requests_per_second: f64,
    pub rows_per_second: f64,
    /// Of the batch that a request was in, in the mean.
    pub batch_rows: f64,
    pub p50_ns: u64,
    pub p99_ns: u64,
}

/// Settings, and what was measured with them.
#[derive(Clone, Debug)]
pub struct Point {
    pub settings: Settings,
    pub runs: Vec<Run>,
    /// Why it could not be measured.
    pub error: Option<String>,
}

/// The middle one; of an even number the mean of the two in the middle. NaN, if there are none.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => f64::NAN,
        (count, middle) if count % 2 == 1 => values[middle],
        (_, middle) => (values[middle - 1] + values[middle]) / 2.0,
    }
}

impl Point {
    pub fn new(settings: Settings) -> Self {
        Point { settings, runs: Vec::new(), error: None }
    }

    fn median(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().map(figure).collect())
    }

    pub fn requests_per_second(&self) -> f64 {
        self.median(|run| run.requests_per_second)
    }

    pub fn rows_per_second(&self) -> f64 {
        self.median(|run| run.rows_per_second)
    }

    pub fn p99_ns(&self) -> f64 {
        self.median(|run| run.p99_ns as f64)
    }

    /// As JSON.
    pub fn report(&self) -> Value {
        let us = |ns: f64| (ns.is_finite()).then_some((ns / 10.0).round() / 100.0);
        let round = |value: f64| value.is_finite().then_some((value * 10.0).round() / 10.0);
        json!({
            "settings": self.settings,
            "requests_per_second": round(self.requests_per_second()),
            "rows_per_second": round(self.rows_per_second()),
            "batch_rows": round(self.median(|run| run.batch_rows)),
            "p50_us": us(self.median(|run| run.p50_ns as f64)),
            "p99_us": us(self.p99_ns()),
            "runs": self.runs.len(),
            "error": self.error,
        })
    }
}

/// The places of the points that were measured, the best first: those within the goal by their throughput, then others
/// by their p99.
pub fn ranked(points: &[Point], goal: &Goal) -> Vec<usize> {
    let within = |point: &Point| match (goal.objective, goal.p99_ns) {
        (Objective::Throughput, 0) => true,
        (Objective::Latency, 0) => false,
        (_, p99_ns) => point.p99_ns() <= p99_ns as f64,
    };
    let mut places: Vec<usize> = (0..points.len()).filter(|&at| !points[at].runs.is_empty()).collect();
    places.sort_by(|&one, &other| {
        let (one, other) = (&points[one], &points[other]);
        match (within(one), within(other)) {
            (true, true) => other.requests_per_second().total_cmp(&one.requests_per_second()),
            (false, false) => one.p99_ns().total_cmp(&other.p99_ns()),
            (within, _) => {
                if within {
                    std::cmp::Ordering::Less
                } else {
                    std::cmp::Ordering::Greater
                }
            }
        }
    });
    places
}

/// How far repeated measurements of one point lie apart, as a part of their middle: half the range, in the mean over the
/// points. `None`, if nothing was repeated.
pub fn noise(points: &[Point]) -> Option<f64> {
    let spreads: Vec<f64> = points
        .iter()
        .filter(|point| point.runs.len() > 1)
        .map(|point| {
            let values = || point.runs.iter().map(|run| run.requests_per_second);
            let (low, high) = (values().fold(f64::INFINITY, f64::min), values().fold(0.0, f64::max));
            (high - low) / 2.0 / point.requests_per_second()
        })
        .collect();
    (!spreads.is_empty()).then(|| spreads.iter().sum::<f64>() / spreads.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(max_rows: u32, runs: &[(f64, u64)]) -> Point {
        let run = |&(requests_per_second, p99_ns): &(f64, u64)| {
            let rows_per_second = requests_per_second;
            Run { requests_per_second, rows_per_second, batch_rows: 1.0, p50_ns: p99_ns / 2, p99_ns }
        };
        let settings = Settings { max_rows, max_delay_us: 0, lanes: 1, intra_op_threads: 1 };
        Point { runs: runs.iter().map(run).collect(), ..Point::new(settings) }
    }

    #[test]
    fn the_best_is_what_is_wanted() {
        let points = [
            point(8, &[(100.0, 3_000_000)]),
            point(16, &[(300.0, 9_000_000), (310.0, 9_000_000), (900.0, 9_000_000)]),
            point(32, &[]),
            point(64, &[(200.0, 4_000_000)]),
        ];
        assert_eq!(ranked(&points, &Goal::new(Objective::Throughput, None)), [1, 3, 0]);
        assert_eq!(ranked(&points, &Goal::new(Objective::Latency, None)), [0, 3, 1]);
        assert_eq!(ranked(&points, &Goal::new(Objective::Latency, Some(5.0))), [3, 0, 1]);
        assert_eq!(ranked(&points, &Goal::new(Objective::Throughput, Some(1.0))), [0, 3, 1]);
        assert!((noise(&points).unwrap() - 300.0 / 310.0).abs() < 1e-9);
        assert_eq!(noise(&points[..1]), None);
    }
}
