//! One line of the log, and how it is written: as text, as JSON, and what a callback is given.

use super::Level;
use serde_json::Value;
use std::fmt::{self, Write};

/// The value of a field.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    Text(&'a str),
    Number(u64),
}

impl<'a> From<&'a str> for Field<'a> {
    fn from(text: &'a str) -> Self {
        Field::Text(text)
    }
}

impl<'a> From<&'a String> for Field<'a> {
    fn from(text: &'a String) -> Self {
        Field::Text(text)
    }
}

impl From<u64> for Field<'_> {
    fn from(number: u64) -> Self {
        Field::Number(number)
    }
}

/// What a callback is given.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub level: Level,
    pub module: &'a str,
    pub message: &'a str,
    /// The fields as a JSON object, if there are any.
    pub fields: Option<&'a str>,
    /// Since 1970.
    pub time_ns: u64,
}

/// A line that is about to be written.
pub struct Line<'a> {
    pub time_ns: u64,
    pub level: Level,
    pub module: &'a str,
    pub message: &'a str,
    pub fields: &'a [(&'a str, Field<'a>)],
    /// Lines of this kind that were too many, since the one before.
    pub dropped: u64,
    /// Lines of any kind that could not be written, since the one before.
    pub lost: u64,
}

// Writing to a string does not fail.
impl Line<'_> {
    fn all_fields(&self) -> impl Iterator<Item = (&str, Field<'_>)> {
        let counts = [("dropped", self.dropped), ("lost", self.lost)];
        let counts = counts.into_iter().filter(|(_, count)| *count > 0);
        self.fields.iter().copied().chain(counts.map(|(name, count)| (name, Field::Number(count))))
    }

    /// As text, with a newline.
    pub fn write_text(&self, out: &mut String) {
        let _ = write!(out, "{} {} blaze::{} ", Timestamp(self.time_ns), self.level, self.module);
        self.write_message(out);
        out.push('\n');
    }

    /// The message, and the fields after it.
    pub fn write_message(&self, out: &mut String) {
        push_printable(out, self.message);
        for (name, value) in self.all_fields() {
            let _ = match value {
                Field::Text(text) if is_plain(text) => write!(out, " {name}={text}"),
                Field::Text(text) => write!(out, " {name}={}", Value::from(text)),
                Field::Number(number) => write!(out, " {name}={number}"),
            };
        }
    }

    /// As a JSON object, with a newline.
    pub fn write_json(&self, out: &mut String) {
        let level = level_name(self.level);
        let message = Value::from(self.message);
        let _ = write!(
            out,
            r#"{{"ts":"{}","level":"{level}","module":"{}","message":{message}"#,
            Timestamp(self.time_ns),
            self.module,
        );
        for field in self.all_fields() {
            out.push(',');
            push_member(out, field);
        }
        out.push_str("}\n");
    }

    /// The fields alone, as a JSON object. False if there are none.
    pub fn write_fields(&self, out: &mut String) -> bool {
        for (index, field) in self.all_fields().enumerate() {
            out.push(if index == 0 { '{' } else { ',' });
            push_member(out, field);
        }
        let any = !out.is_empty();
        if any {
            out.push('}');
        }
        any
    }
}

fn push_member(out: &mut String, (name, value): (&str, Field<'_>)) {
    let value = match value {
        Field::Text(text) => Value::from(text),
        Field::Number(number) => Value::from(number),
    };
    let _ = write!(out, "{}:{value}", Value::from(name));
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
        Level::Trace => "trace",
    }
}

/// Whether a value needs no quotes.
fn is_plain(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "\"\\=".contains(c))
}

/// A line stays one, whatever is in the message: what comes from outside cannot forge another.
fn push_printable(out: &mut String, text: &str) {
    for c in text.chars() {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
}

/// Nanoseconds since 1970 as RFC 3339 has them, in UTC, to the microsecond.
pub struct Timestamp(pub u64);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0 / 1_000_000_000, self.0 / 1000 % 1_000_000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Years that begin in March have their leap day at the end; 400 of them have always as many days. From day 0,
        // the first of March of the year 0, to 1970 there are 719468.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        let year = era * 400 + year + u64::from(month <= 2);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (1_735_689_600, "2025-01-01T00:00:00.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(Timestamp(seconds * SECOND).to_string(), text);
        }
        assert_eq!(Timestamp(123_456_789).to_string(), "1970-01-01T00:00:00.123456Z");
        assert_eq!(Timestamp(u64::MAX).to_string(), "2554-07-21T23:34:33.709551Z");
    }

    fn line<'a>(message: &'a str, fields: &'a [(&'a str, Field<'a>)]) -> Line<'a> {
        Line { time_ns: SECOND, level: Level::Warn, module: "model", message, fields, dropped: 0, lost: 0 }
    }

    #[test]
    fn a_line_is_one_line_in_both_formats() {
        let fields = [("model", Field::Text("a b:1")), ("bytes", Field::Number(5)), ("route", "r".into())];
        let line = Line { dropped: 3, lost: 1, ..line("two\nlines \"quoted\" ü\x1b[0m", &fields) };
        let (mut text, mut json, mut members) = (String::new(), String::new(), String::new());
        line.write_text(&mut text);
        assert_eq!(
            text,
            "1970-01-01T00:00:01.000000Z WARN blaze::model two\\nlines \"quoted\" ü\\u{1b}[0m \
             model=\"a b:1\" bytes=5 route=r dropped=3 lost=1\n"
        );
        line.write_json(&mut json);
        let value: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["ts"], "1970-01-01T00:00:01.000000Z");
        assert_eq!((&value["level"], &value["module"]), (&"warn".into(), &"model".into()));
        assert_eq!(value["message"], "two\nlines \"quoted\" ü\x1b[0m");
        assert_eq!((&value["model"], &value["bytes"]), (&"a b:1".into(), &5.into()));
        assert_eq!((&value["dropped"], &value["lost"]), (&3.into(), &1.into()));
        assert_eq!(json.matches('\n').count(), 1);
        assert!(line.write_fields(&mut members));
        assert_eq!(members, r#"{"model":"a b:1","bytes":5,"route":"r","dropped":3,"lost":1}"#);
    }

    #[test]
    fn without_fields_there_is_no_object_of_them() {
        let mut members = String::new();
        assert!(!line("m", &[]).write_fields(&mut members) && members.is_empty());
    }
}
