//! What ONNX Runtime says about a run's operators: its own profile, read and summed up.
//!
//! Run options can have one run profiled (since version 1.25). The file is `<prefix>_<date>_<time>_<ms>.json`: a list of
//! events, of which those of the category `Node` whose name ends in `_kernel_time` are operators. Durations are whole
//! microseconds. A run whose file cannot be written succeeds all the same. Being profiled costs a run about 80 µs.

use serde_json::Value;
use std::collections::BTreeMap;

/// One operator of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Ran {
    /// The node's name.
    pub name: String,
    /// As in ONNX: `MatMul`.
    pub op: String,
    pub provider: String,
    pub us: u64,
}

/// What a profile says: the operators, and how long the whole run took, in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile {
    pub ran: Vec<Ran>,
    pub run_us: u64,
}

/// Reads ONNX Runtime's profile.
pub fn parse(text: &str) -> Result<Profile, String> {
    let mut events: Vec<Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut profile = Profile::default();
    for event in &mut events {
        let us = event["dur"].as_u64().unwrap_or(0);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&event["name"]);
        if event["cat"] == "Session" && name == "model_run" {
            profile.run_us += us;
        }
        let Some(name) = name.strip_suffix("_kernel_time").filter(|_| event["cat"] == "Node") else {
            continue;
        };
        let args = &event["args"];
        let node = text(&args["node_index"]);
        // Fused operators have lost their names.
        let name = match name.trim().trim_end_matches("_token_0") {
            "" | "fused " | "fused" => format!("fused (node {node})"),
            _ => name.trim().to_owned(),
        };
        profile.ran.push(Ran { name, op: text(&args["op_name"]), provider: text(&args["provider"]), us });
    }
    Ok(profile)
}

/// An operator over all profiled runs of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operator {
    pub name: String,
    pub op: String,
    pub provider: String,
    pub count: u64,
    pub total_us: u64,
    pub max_us: u64,
}

/// A model's profiled runs.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    pub runs: u64,
    pub run_us: u64,
    operators: BTreeMap<(String, String, String), Operator>,
    /// Why a profile could not be read, the latest.
    pub trouble: Option<String>,
}

/// So many operators of a model are told apart.
const MOST: usize = 4096;

impl Sums {
    pub fn add(&mut self, profile: Profile) {
        self.runs += 1;
        self.run_us += profile.run_us;
        for ran in profile.ran {
            let key = (ran.name.clone(), ran.op.clone(), ran.provider.clone());
            if self.operators.len() >= MOST && !self.operators.contains_key(&key) {
                continue;
            }
            let sum = self.operators.entry(key).or_insert_with(|| Operator {
                name: ran.name,
                op: ran.op,
                provider: ran.provider,
                ..Operator::default()
            });
            sum.count += 1;
            sum.total_us += ran.us;
            sum.max_us = sum.max_us.max(ran.us);
        }
    }

    /// The operators, those that take most first.
    pub fn operators(&self) -> Vec<Operator> {
        let mut all: Vec<Operator> = self.operators.values().cloned().collect();
        all.sort_by(|a, b| b.total_us.cmp(&a.total_us).then_with(|| a.name.cmp(&b.name)));
        all
    }

    /// The time of all operators.
    pub fn total_us(&self) -> u64 {
        self.operators.values().map(|operator| operator.total_us).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"[
        {"cat": "Node", "dur": 26, "ts": 2, "ph": "X", "name": "fused _kernel_time",
         "args": {"op_name": "FusedGemm", "node_index": "6", "provider": "CPUExecutionProvider"}},
        {"cat": "Node", "dur": 78, "ts": 31, "ph": "X", "name": "fused _token_0_kernel_time",
         "args": {"op_name": "FusedGemm", "node_index": "7", "provider": "CPUExecutionProvider"}},
        {"cat": "Node", "dur": 4, "ts": 121, "ph": "X", "name": "Softmax_5_kernel_time",
         "args": {"op_name": "Softmax", "node_index": "5", "provider": "CPUExecutionProvider"}},
        {"cat": "Node", "dur": 4, "ts": 121, "ph": "X", "name": "Softmax_5_fence_before", "args": {}},
        {"cat": "Session", "dur": 125, "ts": 1, "ph": "X", "name": "SequentialExecutor::Execute", "args": {}},
        {"cat": "Session", "dur": 128, "ts": 0, "ph": "X", "name": "model_run", "args": {}}]"#;

    #[test]
    fn a_profile_is_read_and_summed_up() {
        let profile = parse(TEXT).unwrap();
        assert_eq!((profile.ran.len(), profile.run_us), (3, 128));
        assert_eq!(profile.ran[0].name, "fused (node 6)");
        let mut sums = Sums::default();
        sums.add(profile.clone());
        sums.add(profile);
        let operators = sums.operators();
        let first = (&*operators[0].name, &*operators[0].op, operators[0].count, operators[0].total_us);
        assert_eq!(first, ("fused (node 7)", "FusedGemm", 2, 156));
        assert_eq!((operators.len(), sums.total_us(), sums.runs), (3, 216, 2));
    }

    #[test]
    fn what_is_no_profile_is_no_trouble() {
        assert!(parse("").is_err() && parse("{}").is_err());
        assert_eq!(parse("[]"), Ok(Profile::default()));
        assert_eq!(parse("[{}, 1, null]"), Ok(Profile::default()));
    }
}
