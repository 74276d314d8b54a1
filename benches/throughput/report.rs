//! What comes out: rows with targets, as a table on the terminal, as JSON, and as Markdown.

use crate::table::{Table, number, short, verdict};

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
            verdict(self.met()).into(),
        ]
    }
}

pub fn table(rows: &[Row]) -> Table<7> {
    let headings = ["what", "Blaze", "baseline", "ratio", "target", "unit", ""];
    Table { headings, numbers: 1..4, rows: rows.iter().map(Row::cells).collect() }
}

/// An array of objects with exactly the fields `name`, `blaze`, `baseline`, `ratio`, `target`, `unit`, `met`.
pub fn json(rows: &[Row]) -> String {
    crate::table::json(rows.iter().map(|row| {
        serde_json::json!({
            "name": row.name,
            "blaze": number(row.blaze),
            "baseline": row.baseline.map(number),
            "ratio": row.ratio.map(number),
            "target": row.goal.target().map(number),
            "unit": row.unit,
            "met": row.met(),
        })
    }))
}

/// The table for a page, and the picture if there is one.
pub fn markdown(rows: &[Row], picture: bool, how: &str) -> String {
    let mut text = table(rows).page("Measured speed", how);
    if picture {
        text.push_str("\n![Throughput and latency against requests in flight](throughput.svg)\n");
    }
    text
}
