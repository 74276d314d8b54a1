//! Measures Blaze through its C ABI against ONNX Runtime alone, side by side in one process: see `benches/README.md`.
//!
//!     cargo bench --bench throughput -- [--quick] [FILTER]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod abi;
mod allocations;
mod batching;
mod costs;
mod direct;
mod growth;
mod latency;
mod load;
mod models;
mod open;
mod picture;
mod report;
mod stats;
mod sweep;
#[path = "../common/table.rs"]
mod table;

use report::{Goal, Row};
use stats::{Pairs, Plan};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: allocations::Counting = allocations::Counting;

const USAGE: &str = "usage: throughput [--quick] [FILTER]
  --quick  fewer and shorter rounds: about 40 s instead of 4 minutes
  FILTER   only rows whose name contains this; \"picture\" draws the picture";

/// A run: what was asked for, and the rows so far.
pub struct Bench {
    quick: bool,
    filter: Option<String>,
    start: Instant,
    rows: Vec<Row>,
}

impl Bench {
    fn from_arguments() -> Result<Bench, String> {
        let mut bench = Bench { quick: false, filter: None, start: Instant::now(), rows: Vec::new() };
        for argument in std::env::args().skip(1) {
            match argument.as_str() {
                // Cargo adds it.
                "--bench" => (),
                "--quick" => bench.quick = true,
                _ if argument.starts_with('-') || bench.filter.is_some() => return Err(USAGE.into()),
                _ => bench.filter = Some(argument),
            }
        }
        Ok(bench)
    }

    /// Whether a row is wanted. Ask before measuring.
    fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter))
    }

    /// How to measure in alternation.
    fn plan(&self) -> Plan {
        match self.quick {
            true => Plan { rounds: 3, slice: Duration::from_millis(100) },
            false => Plan { rounds: 7, slice: Duration::from_millis(300) },
        }
    }

    /// `quick` in a quick run, `full` otherwise.
    fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    fn add(&mut self, row: Row) {
        let verdict = row.met().map_or("", |met| if met { ": met" } else { ": missed" });
        eprintln!(
            "[{:5.1} s] {}: {} {}{verdict}",
            self.start.elapsed().as_secs_f64(),
            row.name,
            table::short(row.blaze),
            row.unit
        );
        self.rows.push(row);
    }

    fn add_pairs(&mut self, name: String, pairs: &Pairs, goal: Goal, unit: &'static str) {
        let (baseline, ratio) = (Some(pairs.baseline), Some(pairs.ratio));
        self.add(Row { name, blaze: pairs.blaze, baseline, ratio, goal, unit });
    }
}

fn main() {
    let mut bench = Bench::from_arguments().unwrap_or_else(|usage| {
        eprintln!("{usage}");
        std::process::exit(2);
    });
    // One engine first, so that Blaze loads ONNX Runtime, as it would in any host.
    abi::Engine::new().load_as(&models::TINY, "first");

    batching::measure(&mut bench);
    latency::measure(&mut bench);
    costs::measure(&mut bench);
    open::measure(&mut bench);
    growth::measure(&mut bench);
    let panels = bench.wants("picture").then(|| sweep::measure(&bench));
    finish(&bench, panels.as_deref());
}

/// Writes and prints the results. A run with a filter does not replace the files of a whole one.
fn finish(bench: &Bench, panels: Option<&[picture::Panel]>) {
    let stem = if bench.filter.is_some() { "throughput-filtered" } else { "throughput" };
    let file = |extension| models::root().join(format!("target/bench/{stem}.{extension}"));
    let how =
        bench.pick("a quick run, fit for smoke tests only", "a full run, medians of alternating rounds");
    if let Some(panels) = panels {
        table::write(&file("svg"), &picture::draw(panels));
    }
    if !bench.rows.is_empty() {
        table::write(&file("json"), &report::json(&bench.rows));
        table::write(&file("md"), &report::markdown(&bench.rows, panels.is_some(), how));
        println!("{}", report::table(&bench.rows).text());
    }
    if bench.rows.is_empty() && panels.is_none() {
        abi::fail("no row has a name that contains this");
    }
    let (met, held) = bench
        .rows
        .iter()
        .filter_map(Row::met)
        .fold((0, 0), |(met, all), one| (met + i32::from(one), all + 1));
    println!("{met} of {held} targets met; results: target/bench/{stem}.*");
}
