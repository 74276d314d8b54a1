//! What comes out: rows with targets, as a table on the terminal, as JSON, and as Markdown.

use std::fmt::Write;
use std::path::Path;

/// What a row is held to.
#[derive(Clone, Copy)]
pub enum Goal {
    AtMost(f64),
    Exactly(f64),
    /// Nothing: the row is there to be read.
    None,
}

/// One measured figure.
pub struct Row {
    pub name: String,
    pub value: f64,
    pub goal: Goal,
    pub unit: &'static str,
    pub note: String,
}

impl Row {
    pub fn met(&self) -> Option<bool> {
        match self.goal {
            Goal::AtMost(target) => Some(self.value <= target),
            Goal::Exactly(target) => Some(self.value == target),
            Goal::None => None,
        }
    }

    fn target(&self) -> Option<f64> {
        match self.goal {
            Goal::AtMost(target) | Goal::Exactly(target) => Some(target),
            Goal::None => None,
        }
    }

    /// The row's cells, as people read them.
    pub fn cells(&self) -> [String; 6] {
        let target = match self.goal {
            Goal::AtMost(target) => format!("≤ {}", short(target)),
            Goal::Exactly(target) => short(target),
            Goal::None => String::new(),
        };
        let verdict = match self.met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        [self.name.clone(), short(self.value), target, self.unit.into(), verdict.into(), self.note.clone()]
    }
}

const HEADINGS: [&str; 6] = ["what", "measured", "target", "unit", "", "besides"];

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
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for line in &lines {
        for (column, (cell, width)) in line.iter().zip(widths).enumerate() {
            // Numbers stand to the right, words to the left.
            let padding = " ".repeat(width - cell.chars().count());
            let (left, right) = if column == 1 { (&*padding, "") } else { ("", &*padding) };
            let _ = write!(text, "{left}{cell}{right}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

/// An array of objects with exactly the fields `name`, `value`, `target`, `unit`, `met`, `note`.
pub fn json(rows: &[Row]) -> String {
    // Six digits are more than anything here is worth, and keep the file readable.
    let number = |value: f64| format!("{value:.5e}").parse::<f64>().unwrap_or(value);
    let objects: Vec<_> = rows
        .iter()
        .map(|row| {
            serde_json::json!({
                "name": row.name,
                "value": number(row.value),
                "target": row.target().map(number),
                "unit": row.unit,
                "met": row.met(),
                "note": row.note,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::Array(objects))
}

/// The table for a page, under a line that says on what kind of machine and how it was measured.
pub fn markdown(rows: &[Row], how: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let (arch, system) = (std::env::consts::ARCH, std::env::consts::OS);
    let mut text = format!(
        "# Measured memory\n\n{cores} cores, {arch}, {system}; {how}. What the rows mean: [README](../README.md).\n\n"
    );
    let mut line = |cells: &[String; 6]| {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    };
    line(&HEADINGS.map(String::from));
    line(&["---", "---:", "---", "---", "---", "---"].map(String::from));
    rows.iter().for_each(|row| line(&row.cells()));
    text
}

pub fn write(path: &Path, text: &str) {
    let folder = path.parent().expect("a file is in a folder");
    std::fs::create_dir_all(folder).expect("target/ can be written to");
    std::fs::write(path, text).expect("target/ can be written to");
}
