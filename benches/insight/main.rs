//! Measures what looking inside costs, and what it is good for, through the C ABI: see `benches/README.md`.
//!
//!     cargo bench --bench insight -- [--quick] [FILTER]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

// Not every wrapper and goal is needed here.
#[allow(dead_code)]
#[path = "../router/abi.rs"]
mod abi;
mod host;
mod overhead;
mod pathologies;
#[allow(dead_code)]
#[path = "../memory/report.rs"]
mod report;
#[path = "../common/table.rs"]
mod table;
mod tuning;

use report::{Goal, Row};
use std::path::Path;
use std::time::Instant;

const USAGE: &str = "usage: insight [--quick] [FILTER]
  --quick  much shorter: about 5 minutes instead of 13
  FILTER   only one part: overhead, pathologies, tuning";

/// Adds its rows.
type Part = fn(&mut Bench);

/// A run: what was asked for, and the rows so far.
pub struct Bench {
    quick: bool,
    filter: Option<String>,
    start: Instant,
    rows: Vec<Row>,
    /// What not even a busy machine excuses.
    gross: Vec<String>,
}

impl Bench {
    fn from_arguments() -> Result<Bench, String> {
        let mut bench =
            Bench { quick: false, filter: None, start: Instant::now(), rows: Vec::new(), gross: Vec::new() };
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

    /// `quick` in a quick run, `full` otherwise.
    fn pick<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Has the run fail at its end if a value is far beyond its target, however busy the machine is.
    fn must_stay_below(&mut self, most: f64) {
        if let Some(row) = self.rows.last()
            && row.value > most
        {
            self.gross
                .push(format!("{}: {} {} is above {most}: {}", row.name, row.value, row.unit, row.note));
        }
    }

    fn add(&mut self, name: String, value: f64, goal: Goal, unit: &'static str, note: String) {
        let row = Row { name, value, goal, unit, note };
        let cells = row.cells();
        let verdict =
            if cells[4].is_empty() { String::new() } else { format!(" ({}: {})", cells[2], cells[4]) };
        let seconds = self.start.elapsed().as_secs_f64();
        eprintln!("[{seconds:5.1} s] {}: {} {}{verdict} {}", row.name, cells[1], row.unit, row.note);
        self.rows.push(row);
    }
}

fn main() {
    let mut bench = Bench::from_arguments().unwrap_or_else(|usage| {
        eprintln!("{usage}");
        std::process::exit(2);
    });
    abi::sleep_precisely();
    let parts: [(&str, Part); 3] =
        [("overhead", overhead::measure), ("pathologies", pathologies::measure), ("tuning", tuning::measure)];
    for (name, measure) in parts {
        if bench.filter.as_ref().is_none_or(|filter| name.contains(filter)) {
            measure(&mut bench);
        }
    }
    finish(&bench);
}

/// Writes and prints the results. A run with a filter does not replace the files of a whole one.
fn finish(bench: &Bench) {
    if bench.rows.is_empty() {
        abi::fail("no part has a name that contains this");
    }
    let stem = if bench.filter.is_some() { "insight-filtered" } else { "insight" };
    let file =
        |extension| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/bench/{stem}.{extension}"));
    let how = if bench.quick { "a quick run, fit for smoke tests only" } else { "a full run" };
    table::write(&file("json"), &report::json(&bench.rows));
    table::write(&file("md"), &report::table(&bench.rows).page("Measured insight", how));
    println!("{}", report::table(&bench.rows).text());
    let held: Vec<bool> = bench.rows.iter().filter_map(Row::met).collect();
    let met = held.iter().filter(|met| **met).count();
    println!("{met} of {} targets met; results: target/bench/{stem}.*", held.len());
    // What is no question of the machine's speed.
    let is_wrong = |row: &&Row| matches!(row.goal, Goal::Exactly(_)) && row.met() == Some(false);
    if let Some(row) = bench.rows.iter().find(is_wrong) {
        abi::fail(&format!("{}: {} {}", row.name, row.value, row.note));
    }
    if !bench.gross.is_empty() {
        abi::fail(&bench.gross.join("\n"));
    }
}
