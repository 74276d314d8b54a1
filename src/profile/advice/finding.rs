//! One thing that holds an engine back.

use serde::Serialize;
use serde_json::Value;

/// What is wrong, how that is known, what to do, and what that should bring.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// What it is: a name that does not change.
    pub bottleneck: &'static str,
    pub subject: Subject,
    /// The share of time, or of requests, that a cure should win, 0 to 1.
    pub score: f64,
    pub evidence: Vec<Evidence>,
    pub explanation: String,
    pub advice: String,
    /// The advice as configuration: {"model": …, keys of the model}, {"route": …, keys of the route},
    /// {"engine": {keys of the engine}}, {"host": …} for what the host does; null if there is no such thing.
    pub change: Value,
    /// What should become better.
    pub figure: &'static str,
    /// By how much; null if that cannot be said from here.
    pub expected: Option<Expected>,
}

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "name", rename_all = "snake_case")]
pub enum Subject {
    Engine,
    Model(String),
    /// The route and the model.
    Target(String, String),
    /// What takes events from the engine.
    Host,
}

impl Subject {
    /// Whether something wrong with this can be why something seems wrong with the other.
    pub fn covers(&self, other: &Subject) -> bool {
        match (self, other) {
            (Subject::Model(this), Subject::Model(that)) => this == that,
            _ => true,
        }
    }
}

/// A number that a finding rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Evidence {
    pub figure: String,
    pub value: f64,
    pub unit: &'static str,
}

/// What a figure is, and what it should be afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Expected {
    pub from: f64,
    pub to: f64,
    pub unit: &'static str,
}

pub fn evidence<const N: usize>(figures: [(&str, f64, &'static str); N]) -> Vec<Evidence> {
    let three_digits = |value: f64| {
        if !value.is_finite() || value == 0.0 {
            return 0.0;
        }
        let scale = 10f64.powi(2 - value.abs().log10().floor() as i32);
        if value.abs() >= 100.0 { value.round() } else { (value * scale).round() / scale }
    };
    figures
        .into_iter()
        .map(|(figure, value, unit)| Evidence { figure: figure.into(), value: three_digits(value), unit })
        .collect()
}
