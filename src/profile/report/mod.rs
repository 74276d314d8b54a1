//! Reports of a profile: JSON, a trace that Perfetto opens, and a page to look at.

mod chart;
mod html;
mod json;
mod outlook;
mod page;
#[cfg(test)]
mod tests;
mod trace;

use super::recording::Recording;
use serde_json::Value;

/// What a report is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    /// The trace event format.
    Trace,
    /// One page that needs nothing else.
    Html,
}

/// Writes a report. `trends` is what `Trends::to_json` says, `advice` what `blaze_advice_json` does; either may be null.
pub fn write(format: Format, recording: &Recording, trends: &Value, advice: &Value) -> String {
    match format {
        Format::Json => json::json(recording, trends, advice).to_string(),
        Format::Trace => trace::trace(recording),
        Format::Html => html::html(recording, trends, advice),
    }
}
