//! What a profile has recorded, as plain data, and what it comes to.

use super::operators::Sums;
use super::recorder::Counts;
use super::span::{Kind, Span};
use crate::config::ProfileConfig;
use crate::platform::ThreadTime;
use std::collections::{BTreeMap, HashMap};

/// Something rare, which is recorded with its names.
#[derive(Clone, Debug, PartialEq)]
pub struct Rare {
    pub kind: Kind,
    pub start_ns: u64,
    pub end_ns: u64,
    /// The model, `name:version`; or what else it is about.
    pub name: String,
    /// The stage of a load, or why a model left.
    pub detail: String,
    pub bytes: u64,
    /// As in the ABI.
    pub status: i32,
    pub thread: u32,
}

impl Rare {
    pub fn ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }
}

/// What memory was used for at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemorySample {
    pub at_ns: u64,
    pub used: u64,
    pub models: u64,
    pub buffers: u64,
    /// Of the buffers.
    pub idle: u64,
    pub caches: u64,
    pub heap: Option<u64>,
    pub resident: Option<u64>,
    /// Blocks that were taken from the pool while it counted, and found there; and those that had to be allocated.
    pub pool_hits: u64,
    pub pool_misses: u64,
    pub evictions: u64,
    pub queue_depth: u64,
    pub in_flight: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    pub config: ProfileConfig,
    pub running: bool,
    pub started_ns: u64,
    /// When it was stopped, or is reported.
    pub ended_ns: u64,
    pub counts: Counts,
    /// Batches that were run meanwhile, recorded or not, and requests that ended.
    pub batches: u64,
    pub requests: u64,
    pub spans: Vec<Span>,
    pub rare: Vec<Rare>,
    /// Rare ones that found no room.
    pub rare_dropped: u64,
    /// Models' names by their handles, of those that left too.
    pub names: HashMap<u64, String>,
    /// CPU time that threads have taken meanwhile.
    pub threads: Vec<ThreadTime>,
    pub process_cpu_ns: Option<u64>,
    pub memory: Vec<MemorySample>,
    /// By the models' names.
    pub operators: BTreeMap<String, Sums>,
    /// What could not be recorded, and why.
    pub notes: Vec<String>,
}

/// A request, put together from its spans and those of its batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub ticket: u64,
    pub model: u64,
    pub rows: u32,
    pub status: i32,
    pub start_ns: u64,
    pub end_ns: u64,
    /// First those that follow each other, then those that are parts of them.
    pub spans: Vec<Span>,
}

impl Request {
    pub fn ns(&self) -> u64 {
        self.end_ns.saturating_sub(self.start_ns)
    }

    pub fn part(&self, kind: Kind) -> u64 {
        self.spans.iter().filter(|span| span.kind == kind).map(Span::ns).sum()
    }
}

/// What many durations come to, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    pub count: u64,
    pub total: u64,
    pub mean: f64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub max: u64,
}

impl Summary {
    pub fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let total: u64 = values.iter().sum();
        Summary {
            count: values.len() as u64,
            total,
            mean: total as f64 / values.len().max(1) as f64,
            p50: quantile(&values, 0.5),
            p90: quantile(&values, 0.9),
            p99: quantile(&values, 0.99),
            max: values.last().copied().unwrap_or(0),
        }
    }
}

/// The value below which this share of all lies. The values are sorted; 0 without any.
pub fn quantile(values: &[u64], share: f64) -> u64 {
    let rank = (share * values.len() as f64).ceil() as usize;
    values.get(rank.clamp(1, values.len().max(1)) - 1).copied().unwrap_or(0)
}

/// What a profile says of one model.
#[derive(Clone, Debug, Default)]
pub struct ModelSummary {
    pub name: String,
    /// From submit until the event was taken, of requests that ended well, sorted.
    pub totals: Vec<u64>,
    pub total: Summary,
    /// Of the kinds that occurred.
    pub kinds: Vec<(Kind, Summary)>,
    /// What requests' time went to, in nanoseconds over all recorded requests.
    pub time: Vec<(Kind, u64)>,
    /// Recorded requests that failed.
    pub failed: u64,
    pub rows_per_batch: f64,
}

impl Recording {
    /// A model's name, or its handle if nobody knows any more.
    pub fn name(&self, model: u64) -> String {
        self.names.get(&model).cloned().unwrap_or_else(|| format!("model {model:#x}"))
    }

    pub fn duration_ns(&self) -> u64 {
        self.ended_ns.saturating_sub(self.started_ns)
    }

    /// The recorded requests, by their start. A request of which some spans were overwritten is left out.
    pub fn requests(&self) -> Vec<Request> {
        let mut batches: HashMap<u64, Vec<&Span>> = HashMap::new();
        let mut own: HashMap<u64, Vec<&Span>> = HashMap::new();
        for span in &self.spans {
            match (span.ticket, span.batch) {
                (0, 0) => (),
                (0, batch) => batches.entry(batch).or_default().push(span),
                (ticket, _) => own.entry(ticket).or_default().push(span),
            }
        }
        let mut requests = Vec::new();
        for (ticket, mut spans) in own {
            let Some(queue) = spans.iter().find(|span| span.kind == Kind::Queue).copied() else { continue };
            if queue.batch != 0 {
                let Some(batch) = batches.get(&queue.batch) else { continue };
                if ![Kind::Copy, Kind::Compute, Kind::Scatter]
                    .iter()
                    .all(|kind| batch.iter().any(|span| span.kind == *kind))
                {
                    continue;
                }
                spans.extend(batch);
            }
            let follows = |span: &&&Span| Kind::OF_REQUESTS.contains(&span.kind);
            let end_ns = spans.iter().filter(follows).map(|span| span.end_ns).max();
            let mut spans: Vec<Span> = spans.into_iter().copied().collect();
            spans.sort_by_key(|span| (!Kind::OF_REQUESTS.contains(&span.kind), span.start_ns, span.kind));
            requests.push(Request {
                ticket,
                model: queue.model,
                rows: queue.rows,
                status: queue.status,
                start_ns: queue.start_ns,
                end_ns: end_ns.unwrap_or(queue.end_ns),
                spans,
            });
        }
        requests.sort_by_key(|request| (request.start_ns, request.ticket));
        requests
    }

    /// Model by model, by name.
    pub fn models(&self, requests: &[Request]) -> Vec<ModelSummary> {
        let mut models: BTreeMap<String, (ModelSummary, BTreeMap<Kind, Vec<u64>>, Vec<u64>)> =
            BTreeMap::new();
        for span in &self.spans {
            if span.model == 0 {
                continue;
            }
            let entry = models.entry(self.name(span.model)).or_default();
            entry.1.entry(span.kind).or_default().push(span.ns());
            if span.kind == Kind::Compute {
                entry.2.push(span.rows.into());
            }
        }
        for rare in &self.rare {
            if matches!(rare.kind, Kind::Load | Kind::Evict) {
                let entry = models.entry(rare.name.clone()).or_default();
                entry.1.entry(rare.kind).or_default().push(rare.ns());
            }
        }
        for request in requests {
            let (model, ..) = models.entry(self.name(request.model)).or_default();
            match request.status {
                0 => model.totals.push(request.ns()),
                _ => model.failed += 1,
            }
            for kind in Kind::OF_REQUESTS {
                let ns = request.part(kind);
                match model.time.iter_mut().find(|(other, _)| *other == kind) {
                    Some((_, sum)) => *sum += ns,
                    None => model.time.push((kind, ns)),
                }
            }
        }
        let summed =
            |(name, (mut model, kinds, rows)): (String, (ModelSummary, BTreeMap<_, _>, Vec<u64>))| {
                model.name = name;
                model.totals.sort_unstable();
                model.total = Summary::of(model.totals.clone());
                model.kinds = kinds.into_iter().map(|(kind, values)| (kind, Summary::of(values))).collect();
                model.rows_per_batch = rows.iter().sum::<u64>() as f64 / rows.len().max(1) as f64;
                model
            };
        models.into_iter().map(summed).collect()
    }
}

/// The slowest of some requests, slowest first.
pub fn slowest(requests: &[Request], count: usize) -> Vec<&Request> {
    let mut all: Vec<&Request> = requests.iter().collect();
    all.sort_by_key(|request| std::cmp::Reverse(request.ns()));
    all.truncate(count);
    all
}
