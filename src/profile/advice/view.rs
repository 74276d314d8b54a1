//! A picture as rules look at it: with the figures that several of them need.

use super::finding::Expected;
use crate::profile::{ModelPicture, Picture};

/// With fewer requests than this nothing is said of a model.
const FEW: u64 = 30;
/// A time shorter than this says nothing.
const SHORT_SECONDS: f64 = 0.5;

/// Of what a row costs in the largest batch that is known, what it costs in a far larger one at least.
const LEAST_ROW: f64 = 0.15;

/// A picture, and what follows from it.
pub struct View<'a> {
    pub picture: &'a Picture,
    pub seconds: f64,
    /// Cores that neither this process nor any other used.
    pub idle_cores: f64,
    /// Of the threads that models share, the part that was in a backend.
    shared_busy: f64,
    /// The time of all requests together.
    total_ns: f64,
}

/// A model with the figures that follow from its picture.
#[derive(Clone, Copy)]
pub struct Seen<'a> {
    pub model: &'a ModelPicture,
    /// Batches of it that may be computed at once.
    pub places: f64,
    /// Of those, the part that was in a backend, 0 to 1.
    pub busy: f64,
    /// Of the time of all requests of the engine, this model's part.
    pub weight: f64,
    pub rows_per_second: f64,
    pub rows_per_request: f64,
    /// Batches, as large as they mostly are, that could be made of what waits for a lane.
    pub backlog: f64,
}

impl<'a> View<'a> {
    pub fn new(picture: &'a Picture) -> Self {
        let seconds = picture.seconds.max(1e-9);
        let used = picture.process_cpu_seconds / seconds;
        let unused = (f64::from(picture.cores) - used).max(0.0);
        let computed = |model: &ModelPicture| model.computed.sum_ns as f64 / 1e9;
        let shared: f64 = picture.models.iter().filter(|model| model.on_shared_threads).map(computed).sum();
        View {
            picture,
            seconds,
            idle_cores: picture.machine_idle_cores.map_or(unused, |idle| unused.min(idle)),
            shared_busy: shared / seconds / f64::from(picture.threads.max(1)),
            total_ns: picture.models.iter().map(|model| model.total.sum_ns as f64).sum(),
        }
    }

    /// Whether the time is long enough to say anything of it.
    pub fn is_long(&self) -> bool {
        self.seconds >= SHORT_SECONDS
    }

    /// The models of which enough is known.
    pub fn models(&self) -> impl Iterator<Item = Seen<'a>> + '_ {
        let is_known =
            |model: &&ModelPicture| self.is_long() && model.ok + model.failed + model.expired >= FEW;
        self.picture.models.iter().filter(is_known).map(|model| self.see(model))
    }

    pub fn see(&self, model: &'a ModelPicture) -> Seen<'a> {
        let lanes = f64::from(model.settings.lanes.max(1));
        let threads = f64::from(self.picture.threads.max(1));
        let places = if model.on_shared_threads { lanes.min(threads) } else { lanes };
        let per_batch = (model.rows as f64 / model.batches.max(1) as f64).max(1.0);
        let rows_per_request = (model.rows as f64 / (model.ok + model.failed).max(1) as f64).max(1.0);
        let weight = match self.total_ns {
            0.0 => 1.0,
            total => model.total.sum_ns as f64 / total,
        };
        Seen {
            model,
            places,
            busy: (model.computed.sum_ns as f64 / 1e9 / self.seconds / places).min(1.0),
            weight,
            rows_per_second: model.rows as f64 / self.seconds,
            rows_per_request,
            backlog: model.queue_depth * rows_per_request / per_batch,
        }
    }

    /// Of the threads that models share, the part that was in a backend, 0 to 1.
    pub fn shared_busy(&self) -> f64 {
        self.shared_busy.min(1.0)
    }

    /// Refused submits with this reason.
    pub fn rejected(&self, reason: &str) -> u64 {
        let same = |name: &str| name.eq_ignore_ascii_case(reason);
        self.picture.rejected.iter().filter(|(name, _)| same(name)).map(|(_, count)| count).sum()
    }

    /// Requests that have ended in any way.
    pub fn ended(&self) -> u64 {
        self.picture
            .models
            .iter()
            .map(|model| model.ok + model.failed + model.expired + model.cancelled)
            .sum()
    }
}

impl Seen<'_> {
    /// What a row would cost in batches of `rows`, as a part of what it costs in those that there are now (of `now`).
    /// It goes by a straight line through what is known of runs; `None` if that is too little.
    pub fn row_cost_ratio(&self, now: u32, rows: u32) -> Option<f64> {
        let (fixed, row) = self.cost_line()?;
        let per_row = |rows: u32| fixed / f64::from(rows.max(1)) + row;
        Some(per_row(rows) / per_row(now))
    }

    /// What every run costs, and what every row does besides, in nanoseconds.
    pub fn cost_line(&self) -> Option<(f64, f64)> {
        let costs = &self.model.run_costs;
        let &(few, low) = costs.iter().min_by_key(|(rows, _)| *rows)?;
        let &(many, high) = costs.iter().max_by_key(|(rows, _)| *rows)?;
        if many < 2 * few || many == 0 {
            return None;
        }
        let slope = |rows: u32, cost: u64| (high as f64 - cost as f64).max(0.0) / f64::from(many - rows);
        // Kernels for many rows are others than those for few: the last step tells more of what is to come.
        let half = costs.iter().filter(|(rows, _)| *rows < many).max_by_key(|(rows, _)| *rows);
        let row = slope(few, low).max(half.map_or(0.0, |&(rows, cost)| slope(rows, cost)));
        // Nor is a row ever for nothing on a CPU, however it looks on a machine that others use too.
        let least = if self.is_on_cpu() { LEAST_ROW * high as f64 / f64::from(many) } else { 0.0 };
        let row = row.max(least);
        Some(((high as f64 - row * f64::from(many)).max(0.0), row))
    }

    /// The rate of rows if it became `times` as high.
    pub fn rate(&self, times: f64) -> Option<Expected> {
        Some(Expected {
            from: self.rows_per_second.round(),
            to: (self.rows_per_second * times).round(),
            unit: "rows/s",
        })
    }

    /// Whether batches are about as full as they may be.
    pub fn has_full_batches(&self) -> bool {
        !self.model.joins
            || self.model.rows_per_batch.p50 as f64 >= 0.8 * f64::from(self.model.settings.max_rows)
    }

    pub fn is_on_cpu(&self) -> bool {
        self.model.backend == "onnx" && self.model.provider.eq_ignore_ascii_case("cpu")
    }
}

/// A duration now, and what it should become.
pub fn duration(from_ns: f64, to_ns: f64) -> Option<Expected> {
    Some(Expected { from: from_ns.round(), to: to_ns.round(), unit: "ns" })
}

/// A share of requests now, and what it should become.
pub fn share(from: f64, to: f64) -> Option<Expected> {
    Some(Expected { from, to, unit: "share" })
}

/// The score of what makes a rate so many times as high.
pub fn score_of_speedup(times: f64) -> f64 {
    (1.0 - 1.0 / times.max(1.0)).clamp(0.0, 1.0)
}
