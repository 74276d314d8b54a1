//! Tables, for the terminal and for a page, of what was measured; and files to keep it in.

use std::fmt::Write;
use std::path::Path;

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

/// For JSON. Six digits are more than anything here is worth, and keep the file readable.
pub fn number(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

/// Whether a target was met, in a word; nothing if there is none.
pub fn verdict(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "",
    }
}

/// Rows of `N` cells under their headings. Numbers are in the columns `numbers`.
pub struct Table<const N: usize> {
    pub headings: [&'static str; N],
    pub numbers: std::ops::Range<usize>,
    pub rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// The table for a terminal.
    pub fn text(&self) -> String {
        let headings = self.headings.map(String::from);
        let lines = || std::iter::once(&headings).chain(&self.rows);
        let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths: [usize; N] = std::array::from_fn(width);
        let mut text = String::new();
        for line in lines() {
            for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
                // Numbers stand to the right, words to the left.
                let padding = " ".repeat(width - cell.chars().count());
                let (left, right) =
                    if self.numbers.contains(&column) { (&*padding, "") } else { ("", &*padding) };
                let _ = write!(text, "{left}{cell}{right}  ");
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        text
    }

    /// The table for a page, under a line that says on what kind of machine and how it was measured.
    pub fn page(&self, title: &str, how: &str) -> String {
        let mut text =
            format!("# {title}\n\n{}; {how}. What the rows mean: [README](../README.md).\n\n", machine());
        let rule: [String; N] =
            std::array::from_fn(|column| if self.numbers.contains(&column) { "---:" } else { "---" }.into());
        for cells in [&self.headings.map(String::from), &rule].into_iter().chain(&self.rows) {
            let _ = writeln!(text, "| {} |", cells.join(" | "));
        }
        text
    }
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

/// An array of objects, one for each row.
pub fn json(rows: impl Iterator<Item = serde_json::Value>) -> String {
    format!("{:#}\n", serde_json::Value::Array(rows.collect()))
}

pub fn write(path: &Path, text: &str) {
    let folder = path.parent().expect("a file is in a folder");
    std::fs::create_dir_all(folder).expect("target/ can be written to");
    std::fs::write(path, text).expect("target/ can be written to");
}
