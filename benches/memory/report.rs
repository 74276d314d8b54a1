//! What comes out: rows with targets, as a table on the terminal, as JSON, and as Markdown.

use crate::table::{Table, number, short, verdict};

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
        let verdict = verdict(self.met()).into();
        [self.name.clone(), short(self.value), target, self.unit.into(), verdict, self.note.clone()]
    }
}

pub fn table(rows: &[Row]) -> Table<6> {
    let headings = ["what", "measured", "target", "unit", "", "besides"];
    Table { headings, numbers: 1..2, rows: rows.iter().map(Row::cells).collect() }
}

/// An array of objects with exactly the fields `name`, `value`, `target`, `unit`, `met`, `note`.
pub fn json(rows: &[Row]) -> String {
    crate::table::json(rows.iter().map(|row| {
        serde_json::json!({
            "name": row.name,
            "value": number(row.value),
            "target": row.target().map(number),
            "unit": row.unit,
            "met": row.met(),
            "note": row.note,
        })
    }))
}
