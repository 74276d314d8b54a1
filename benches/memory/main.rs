//! Measures what Blaze does to a process's memory, and what memory does to requests, through the C ABI: see
//! `benches/README.md`.
//!
//!     cargo bench --bench memory -- [--quick] [FILTER]
//!
//! Each measurement runs in a process of its own, which is this program again with `--child=PART`.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

mod abi;
mod cancel;
mod evictions;
mod mlp;
mod neighbours;
mod onnx;
mod process;
mod report;
mod second_lane;
mod swap;
#[path = "../common/table.rs"]
mod table;

use report::{Goal, Row};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: memory [--quick] [FILTER]
  --quick  much shorter: about 20 s instead of 5 minutes
  FILTER   only measurements whose name contains this: evictions, second_lane, swap, cancel, neighbours";

/// No part takes longer, unless something hangs.
const LIMIT: Duration = Duration::from_secs(240);

/// A run: what was asked for, and the rows so far.
pub struct Bench {
    quick: bool,
    filter: Option<String>,
    child: Option<String>,
    start: Instant,
    rows: Vec<Row>,
}

impl Bench {
    fn from_arguments() -> Result<Bench, String> {
        let mut bench =
            Bench { quick: false, filter: None, child: None, start: Instant::now(), rows: Vec::new() };
        for argument in std::env::args().skip(1) {
            match argument.as_str() {
                // Cargo adds it.
                "--bench" => (),
                "--quick" => bench.quick = true,
                _ if argument.starts_with("--child=") => bench.child = Some(argument[8..].into()),
                _ if argument.starts_with('-') || bench.filter.is_some() => return Err(USAGE.into()),
                _ => bench.filter = Some(argument),
            }
        }
        Ok(bench)
    }

    /// Whether a measurement is wanted.
    fn wants(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|filter| name.contains(filter))
    }

    /// What a part found out in a process of its own. If it did not come to its end, that is a row too.
    fn child(&mut self, part: &str) -> Option<Value> {
        eprintln!("[{:5.1} s] {part}", self.start.elapsed().as_secs_f64());
        match process::child(part, self.quick, LIMIT) {
            Ok(found) => Some(found),
            Err(error) => {
                self.add(format!("{part}: it fails"), 1.0, Goal::Exactly(0.0), "", error);
                None
            }
        }
    }

    fn add(&mut self, name: String, value: f64, goal: Goal, unit: &'static str, note: String) {
        let row = Row { name, value, goal, unit, note };
        let cells = row.cells();
        let verdict =
            if cells[4].is_empty() { String::new() } else { format!(" ({}: {})", cells[2], cells[4]) };
        let seconds = self.start.elapsed().as_secs_f64();
        eprintln!("[{seconds:5.1} s]   {}: {} {}{verdict} {}", row.name, cells[1], row.unit, row.note);
        self.rows.push(row);
    }
}

/// A number in what a child found out.
fn number(found: &Value, key: &str) -> f64 {
    found[key].as_f64().unwrap_or_else(|| abi::fail(&format!("a child has not said {key:?}")))
}

fn main() {
    let mut bench = Bench::from_arguments().unwrap_or_else(|usage| {
        eprintln!("{usage}");
        std::process::exit(2);
    });
    if let Some(part) = &bench.child {
        println!("{}", run_child(part, bench.quick));
        return;
    }
    if bench.wants("evictions") {
        evictions::measure(&mut bench);
    }
    if bench.wants("second_lane") {
        second_lane::measure(&mut bench);
    }
    if bench.wants("swap") {
        swap::measure(&mut bench);
    }
    if bench.wants("cancel") {
        cancel::measure(&mut bench);
    }
    if bench.wants("neighbours") {
        neighbours::measure(&mut bench);
    }
    finish(&bench);
}

fn run_child(part: &str, quick: bool) -> Value {
    match part.split_once('-').unwrap_or((part, "")) {
        ("evictions", kind) => evictions::child(kind == "external", quick),
        ("second_lane", kind) => second_lane::child(kind),
        ("swap", _) => swap::child(quick),
        ("cancel", _) => cancel::child(quick),
        ("neighbours", _) => neighbours::child(quick),
        _ => json!({ "error": "there is no such part" }),
    }
}

/// Writes and prints the results. A run with a filter does not replace the files of a whole one.
fn finish(bench: &Bench) {
    if bench.rows.is_empty() {
        abi::fail("no measurement has a name that contains this");
    }
    let stem = if bench.filter.is_some() { "memory-filtered" } else { "memory" };
    let file =
        |extension| Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/bench/{stem}.{extension}"));
    let how = if bench.quick { "a quick run, fit for smoke tests only" } else { "a full run" };
    table::write(&file("json"), &report::json(&bench.rows));
    table::write(&file("md"), &report::table(&bench.rows).page("Measured memory", how));
    println!("{}", report::table(&bench.rows).text());
    let held: Vec<bool> = bench.rows.iter().filter_map(Row::met).collect();
    let met = held.iter().filter(|met| **met).count();
    println!("{met} of {} targets met; results: target/bench/{stem}.*", held.len());
    // What is no question of the machine's speed or of its memory.
    let is_wrong = |row: &&Row| matches!(row.goal, Goal::Exactly(_)) && row.met() == Some(false);
    if let Some(row) = bench.rows.iter().find(is_wrong) {
        abi::fail(&format!("{}: {} {}", row.name, row.value, row.note));
    }
}
