//! A bounded memory of what an engine did: the last two minutes by the second, two hours by the minute, and three days
//! by the hour.

use crate::metrics::{Counts, OUTCOMES, Totals};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;

/// Names, lengths in seconds, and how many points are kept.
const LEVELS: [(&str, u64, usize); 3] = [("seconds", 1, 120), ("minutes", 60, 120), ("hours", 3600, 72)];

/// What is read about once a second.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    pub at_ns: u64,
    /// Seconds since 1970.
    pub unix_s: f64,
    /// Of all models, since the start.
    pub totals: Totals,
    /// Refused submits, since the start.
    pub rejected: u64,
    /// CPU time of the process, since its start.
    pub cpu_ns: u64,
    pub gauges: Levels,
}

/// What goes up and down.
#[derive(Clone, Copy, Debug, Default)]
pub struct Levels {
    pub in_flight: f64,
    pub queue_depth: f64,
    pub events_waiting: f64,
    pub memory_bytes: f64,
}

/// One period. Rates are by the second, durations in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Point {
    unix_s: f64,
    requests_per_s: f64,
    rows_per_s: f64,
    failed_per_s: f64,
    rejected_per_s: f64,
    rows_per_batch: f64,
    p50_ns: f64,
    p99_ns: f64,
    queued_p99_ns: f64,
    computed_p99_ns: f64,
    in_flight: f64,
    queue_depth: f64,
    events_waiting: f64,
    memory_bytes: f64,
    /// Cores that were busy with the process, on average.
    cpu_cores: f64,
}

impl Point {
    /// The main series, by name.
    fn series(&self) -> [(&'static str, f64); 14] {
        [
            ("requests_per_s", self.requests_per_s),
            ("rows_per_s", self.rows_per_s),
            ("failed_per_s", self.failed_per_s),
            ("rejected_per_s", self.rejected_per_s),
            ("rows_per_batch", self.rows_per_batch),
            ("p50_ns", self.p50_ns),
            ("p99_ns", self.p99_ns),
            ("queued_p99_ns", self.queued_p99_ns),
            ("computed_p99_ns", self.computed_p99_ns),
            ("in_flight", self.in_flight),
            ("queue_depth", self.queue_depth),
            ("events_waiting", self.events_waiting),
            ("memory_bytes", self.memory_bytes),
            ("cpu_cores", self.cpu_cores),
        ]
    }
}

/// Where a period began.
struct Mark {
    at_ns: u64,
    ended: [u64; OUTCOMES.len()],
    rows: u64,
    batches: u64,
    rejected: u64,
    cpu_ns: u64,
    total: Counts,
    queued: Counts,
    computed: Counts,
}

impl Mark {
    fn of(reading: &Reading) -> Self {
        let totals = &reading.totals;
        Mark {
            at_ns: reading.at_ns,
            ended: totals.outcomes,
            rows: totals.rows,
            batches: totals.batches,
            rejected: reading.rejected,
            cpu_ns: reading.cpu_ns,
            total: totals.total.clone(),
            queued: totals.queued.clone(),
            computed: totals.computed.clone(),
        }
    }

    /// What has been since.
    fn to(&self, reading: &Reading, gauges: Levels) -> Point {
        let (totals, seconds) = (&reading.totals, reading.at_ns.saturating_sub(self.at_ns) as f64 / 1e9);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds.max(1e-9);
        let outcome = |at: usize| rate(totals.outcomes[at], self.ended[at]);
        let total = totals.total.since(&self.total);
        let batches = totals.batches.saturating_sub(self.batches);
        let Levels { in_flight, queue_depth, events_waiting, memory_bytes } = gauges;
        Point {
            unix_s: reading.unix_s,
            requests_per_s: (0..OUTCOMES.len()).map(outcome).sum(),
            rows_per_s: rate(totals.rows, self.rows),
            failed_per_s: outcome(1),
            rejected_per_s: rate(reading.rejected, self.rejected),
            rows_per_batch: totals.rows.saturating_sub(self.rows) as f64 / batches.max(1) as f64,
            p50_ns: total.quantile(0.5) as f64,
            p99_ns: total.quantile(0.99) as f64,
            queued_p99_ns: totals.queued.since(&self.queued).quantile(0.99) as f64,
            computed_p99_ns: totals.computed.since(&self.computed).quantile(0.99) as f64,
            in_flight,
            queue_depth,
            events_waiting,
            memory_bytes,
            cpu_cores: rate(reading.cpu_ns, self.cpu_ns) / 1e9,
        }
    }
}

/// The periods of one length.
#[derive(Default)]
struct Level {
    began: Option<Mark>,
    /// The sum of what was read of the gauges since then, and how often.
    sums: Levels,
    readings: f64,
    points: VecDeque<Point>,
}

impl Level {
    fn begin(&mut self, reading: &Reading) {
        (self.began, self.sums, self.readings) = (Some(Mark::of(reading)), Levels::default(), 0.0);
    }

    fn add(&mut self, reading: &Reading, period_s: u64, most: usize) {
        let Some(began) = &self.began else { return self.begin(reading) };
        let gauges = &reading.gauges;
        self.sums.in_flight += gauges.in_flight;
        self.sums.queue_depth += gauges.queue_depth;
        self.sums.events_waiting += gauges.events_waiting;
        self.sums.memory_bytes += gauges.memory_bytes;
        self.readings += 1.0;
        // A reading comes a little early now and then.
        if reading.at_ns.saturating_sub(began.at_ns) < period_s * 950_000_000 {
            return;
        }
        let mean = Levels {
            in_flight: self.sums.in_flight / self.readings,
            queue_depth: self.sums.queue_depth / self.readings,
            events_waiting: self.sums.events_waiting / self.readings,
            memory_bytes: self.sums.memory_bytes / self.readings,
        };
        if self.points.len() == most {
            self.points.pop_front();
        }
        self.points.push_back(began.to(reading, mean));
        self.begin(reading);
    }
}

/// The memory.
#[derive(Default)]
pub struct Trends([Level; LEVELS.len()]);

impl Trends {
    /// Adds what was read, about a second after the reading before.
    pub fn add(&mut self, reading: &Reading) {
        for (level, (_, period_s, most)) in self.0.iter_mut().zip(LEVELS) {
            level.add(reading, period_s, most);
        }
    }

    /// Begins again after a time in which nothing was read, because nothing happened. Minutes and hours go on: they are
    /// means over all of that time.
    pub fn resume(&mut self, reading: &Reading) {
        self.0[0].begin(reading);
    }

    /// `{"seconds": {"requests_per_s": [[unix time, value], …], …}, "minutes": …, "hours": …}`, oldest first.
    pub fn to_json(&self) -> Value {
        let mut json = Map::new();
        for (level, (name, _, _)) in self.0.iter().zip(LEVELS) {
            let names = Point::default().series().map(|(name, _)| name);
            let series = names.into_iter().enumerate().map(|(at, name)| {
                let points = level.points.iter().map(|point| json!([point.unix_s, point.series()[at].1]));
                (name.to_owned(), Value::Array(points.collect()))
            });
            json.insert(name.to_owned(), Value::Object(series.collect()));
        }
        Value::Object(json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Status;
    use crate::metrics::Fleet;

    /// Readings of an engine that does 100 requests in a second, in batches of 10, with one request of 5 ms in each.
    fn after(seconds: u64) -> Trends {
        let (fleet, mut trends) = (Fleet::default(), Trends::default());
        let traffic = fleet.join();
        for second in 0..=seconds {
            let reading = Reading {
                at_ns: second * 1_000_000_000 + 1,
                unix_s: 1000.0 + second as f64,
                totals: fleet.totals(),
                rejected: 2 * second,
                cpu_ns: second * 1_500_000_000,
                gauges: Levels { in_flight: 4.0, memory_bytes: second as f64, ..Levels::default() },
            };
            trends.add(&reading);
            let stripe = traffic.here();
            stripe.ended(Status::Ok, 99);
            stripe.ended(Status::BackendFailed, 1);
            stripe.batches.add(10);
            stripe.rows.add(100);
            (0..98).for_each(|_| stripe.total.record(1_000_000));
            (0..2).for_each(|_| stripe.total.record(5_000_000));
        }
        trends
    }

    #[test]
    fn each_level_has_the_rates_of_its_periods() {
        let json = after(130).to_json();
        let last =
            |level: &str, series: &str| json[level][series].as_array().unwrap().last().unwrap().clone();
        let about = |level: &str, series: &str, value: f64| {
            let found = last(level, series)[1].as_f64().unwrap();
            assert!((found - value).abs() <= value * 0.04, "{level} {series}: {found} is not {value}");
        };
        for level in ["seconds", "minutes"] {
            about(level, "requests_per_s", 100.0);
            about(level, "failed_per_s", 1.0);
            about(level, "rejected_per_s", 2.0);
            about(level, "rows_per_batch", 10.0);
            about(level, "p50_ns", 1e6);
            about(level, "p99_ns", 5e6);
            about(level, "cpu_cores", 1.5);
            about(level, "in_flight", 4.0);
        }
        about("minutes", "memory_bytes", 87.5);
        assert_eq!(last("seconds", "requests_per_s")[0], 1130.0);
        assert_eq!(json["hours"]["p50_ns"], json!([]));
    }

    #[test]
    fn no_level_grows_without_bounds() {
        let json = after(8000).to_json();
        let length = |level: &str| json[level]["rows_per_s"].as_array().unwrap().len();
        assert_eq!((length("seconds"), length("minutes"), length("hours")), (120, 120, 2));
    }

    #[test]
    fn seconds_do_not_stretch_over_a_time_of_rest() {
        let mut trends = after(3);
        let reading = Reading { at_ns: 900_000_000_000, ..Reading::default() };
        trends.resume(&reading);
        trends.add(&Reading { at_ns: 900_500_000_000, ..Reading::default() });
        assert_eq!(trends.to_json()["seconds"]["rows_per_s"].as_array().unwrap().len(), 3);
    }
}
