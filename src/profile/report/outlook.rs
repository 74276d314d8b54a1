//! What the page says of the past, and what it advises.

use super::chart::{self, Line};
use super::html::section;
use super::page::{bytes, escape, percent, short, time};
use serde_json::Value;
use std::fmt::Write;

/// The levels of trends, and what they are called.
const LEVELS: [(&str, &str); 3] = [
    ("seconds", "the last two minutes, by the second"),
    ("minutes", "the last two hours, by the minute"),
    ("hours", "the last three days, by the hour"),
];

type Label = fn(f64) -> String;

/// What is drawn together, and how its values are written.
const CHARTS: [(&str, &[&str], Label); 6] = [
    ("By the second", &["requests_per_s", "rows_per_s", "failed_per_s", "rejected_per_s"], short),
    ("Durations", &["p99_ns", "p50_ns", "queued_p99_ns", "computed_p99_ns"], time),
    ("Under way", &["in_flight", "queue_depth", "events_waiting"], short),
    ("Rows per batch", &["rows_per_batch"], short),
    ("Memory", &["memory_bytes"], |value| bytes(value as u64)),
    ("Cores busy with the process", &["cpu_cores"], short),
];

pub fn trends(page: &mut String, trends: &Value) {
    for (level, about) in LEVELS {
        let points = |name: &str| trends.get(level)?.get(name)?.as_array().filter(|points| points.len() > 1);
        if points("requests_per_s").is_none() {
            continue;
        }
        section(page, "Trends", about);
        page.push_str("<div class=\"two\">");
        for (title, names, label) in CHARTS {
            let lines: Vec<Line> = names.iter().filter_map(|name| line(name, points(name)?)).collect();
            let _ = write!(page, "<div><h3>{title}</h3>");
            page.push_str(&chart::lines(&lines, label));
            page.push_str("</div>");
        }
        page.push_str("</div></section>");
    }
}

/// A series, its times counted from the last one back.
fn line(name: &str, points: &[Value]) -> Option<Line> {
    let point = |point: &Value| Some((point.get(0)?.as_f64()?, point.get(1)?.as_f64()?));
    let points: Vec<(f64, f64)> = points.iter().filter_map(point).collect();
    let (last, _) = points.last().copied()?;
    let points = points.into_iter().map(|(at, value)| (at - last, value)).collect();
    let name = name.trim_end_matches("_ns").replace("_per_s", "").replace("_bytes", "").replace('_', " ");
    Some(Line { name, points })
}

/// `advice` as `blaze_advice_json` gives it.
pub fn advice(page: &mut String, advice: &Value) {
    let Some(findings) = advice.get("findings").and_then(Value::as_array) else { return };
    section(page, "Advice", "What holds the engine back, the worst first, and what would help.");
    if findings.is_empty() {
        page.push_str("<p class=\"dim\">nothing was found that holds it back</p></section>");
        return;
    }
    page.push_str("<ul class=\"advice\">");
    for finding in findings {
        let text = |key: &str| finding.get(key).and_then(Value::as_str).unwrap_or_default();
        let score = finding.get("score").and_then(Value::as_f64).unwrap_or(0.0);
        let _ = write!(
            page,
            "<li><h3>{} <span class=\"dim\">{} · {}</span></h3><p>{}</p><p><b>{}</b></p><p class=\"dim\">{}</p></li>",
            escape(&text("bottleneck").replace('_', " ")),
            escape(&subject(finding)),
            percent(score.clamp(0.0, 1.0)),
            escape(text("explanation")),
            escape(text("advice")),
            escape(&evidence(finding)),
        );
    }
    page.push_str("</ul></section>");
}

fn subject(finding: &Value) -> String {
    match finding.get("subject") {
        Some(Value::String(name)) => name.clone(),
        Some(Value::Object(subject)) => {
            let parts = subject.values().filter_map(Value::as_str);
            parts.collect::<Vec<_>>().join(" ")
        }
        _ => String::new(),
    }
}

fn evidence(finding: &Value) -> String {
    let of_figure = |figure: &Value| {
        let name = figure.get("figure")?.as_str()?.replace('_', " ");
        let unit = figure.get("unit").and_then(Value::as_str).unwrap_or_default();
        let value = match figure.get("value")? {
            Value::Number(number) => short(number.as_f64()?),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        Some(format!("{name}: {value} {unit}").trim_end().to_owned())
    };
    let figures = finding.get("evidence").and_then(Value::as_array);
    figures.map_or_else(String::new, |figures| {
        figures.iter().filter_map(of_figure).collect::<Vec<_>>().join(" · ")
    })
}
