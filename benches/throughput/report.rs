//! What comes out: rows with targets, as a table on the terminal, as JSON, and as Markdown.

use std::fmt::Write;
use std::path::Path;

/// What a row is held to.
#[derive(Clone, Copy)]
pub enum Goal {
    RatioAtLeast(f64),
    RatioAtMost(f64),
    BlazeAtMost(f64),
    BlazeBelow(f64),
    /// Nothing: the row is there to be read.
    None,
}

impl Goal {
    fn target(self) -> Option<f64> {
        match self {
            Goal::RatioAtLeast(target)
            | Goal::RatioAtMost(target)
            | Goal::BlazeAtMost(target)
            | Goal::BlazeBelow(target) => Some(target),
            Goal::None => None,
        }
    }

    fn text(self) -> String {
        // Most targets are round numbers; those that are computed are not.
        let number =
            |target: f64| Some(target.to_string()).filter(|text| text.len() < 5).unwrap_or(short(target));
        match self {
            Goal::RatioAtLeast(target) => format!("ratio ≥ {}", number(target)),
            Goal::RatioAtMost(target) => format!("ratio ≤ {}", number(target)),
            Goal::BlazeAtMost(target) => format!("≤ {}", number(target)),
            Goal::BlazeBelow(target) => format!("< {}", number(target)),
            Goal::None => String::new(),
        }
    }
}

/// One measured figure.
pub struct Row {
    pub name: String,
    pub blaze: f64,
    /// What it is compared with, if with anything.
    pub baseline: Option<f64>,
    pub ratio: Option<f64>,
    pub goal: Goal,
    pub unit: &'static str,
}

impl Row {
    pub fn met(&self) -> Option<bool> {
        let ratio = self.ratio.unwrap_or(f64::NAN);
        match self.goal {
            Goal::RatioAtLeast(target) => Some(ratio >= target),
            Goal::RatioAtMost(target) => Some(ratio <= target),
            Goal::BlazeAtMost(target) => Some(self.blaze <= target),
            Goal::BlazeBelow(target) => Some(self.blaze < target),
            Goal::None => None,
        }
    }

    fn verdict(&self) -> &'static str {
        match self.met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        }
    }

    /// The row's cells, as people read them.
    fn cells(&self) -> [String; 7] {
        let optional = |value: Option<f64>| value.map_or_else(String::new, short);
        [
            self.name.clone(),
            short(self.blaze),
            optional(self.baseline),
            optional(self.ratio),
            self.goal.text(),
            self.unit.into(),
            self.verdict().into(),
        ]
    }
}

const HEADINGS: [&str; 7] = ["what", "Blaze", "baseline", "ratio", "target", "unit", ""];

/// A number with three or four digits that matter.
pub fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        1e6.. => format!("{:.2} M", value / 1e6),
        1e4.. => format!("{:.1} k", value / 1e3),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.01.. => format!("{value:.2}"),
        _ => format!("{value:.5}"),
    }
}

/// The table for a terminal.
pub fn table(rows: &[Row]) -> String {
    let mut lines = vec![HEADINGS.map(String::from)];
    lines.extend(rows.iter().map(Row::cells));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Numbers stand to the right, words to the left.
            let padding = " ".repeat(width - cell.chars().count());
            let (left, right) = if (1..4).contains(&column) { (&*padding, "") } else { ("", &*padding) };
            let _ = write!(text, "{left}{cell}{right}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// An array of objects with exactly the fields `name`, `blaze`, `baseline`, `ratio`, `target`, `unit`, `met`.
pub fn json(rows: &[Row]) -> String {
    // Six digits are more than anything here is worth, and keep the file readable.
    let number = |value: f64| format!("{value:.5e}").parse::<f64>().unwrap_or(value);
    let objects: Vec<_> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "name": row.name,
                "blaze": number(row.blaze),
                "baseline": row.baseline.map(number),
                "ratio": row.ratio.map(number),
                "target": row.goal.target().map(number),
                "unit": row.unit,
                "met": row.met(),
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::Array(objects))
}

/// The table for a page, under a line that says on what kind of machine and how it was measured.
pub fn markdown(rows: &[Row], picture: bool, how: &str) -> String {
    let mut text =
        format!("# Measured speed\n\n{}; {how}. What the rows mean: [README](../README.md).\n\n", machine());
    let mut line = |cells: &[String; 7]| {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    line(&HEADINGS.map(String::from));
    line(&["---", "---:", "---:", "---:", "---", "---", "---"].map(String::from));
    for row in rows {
        line(&row.cells());
    }
    if picture {
        text.push_str("\n![Throughput and latency against requests in flight](throughput.svg)\n");
    }
    text
}

/// The machine in general terms: nothing that tells whose it is.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let family = model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| family(name));
    format!("{cores} cores, {family}, {}", std::env::consts::OS)
}

/// "Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz" → "Intel Xeon Platinum".
fn family(name: &str) -> String {
    let plain = name.replace("(R)", "").replace("(TM)", "");
    let words =
        plain.split_whitespace().take_while(|word| !word.contains(|c: char| c.is_ascii_digit() || c == '@'));
    let words: Vec<&str> = words.filter(|word| *word != "CPU" && *word != "Processor").collect();
    words.join(" ")
}

pub fn write(path: &Path, text: &str) {
    let folder = path.parent().expect("a file is in a folder");
    std::fs::create_dir_all(folder).expect("target/ can be written to");
    std::fs::write(path, text).expect("target/ can be written to");
}
