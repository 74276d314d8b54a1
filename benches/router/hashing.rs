//! How many keys go elsewhere when a target is taken away from `consistent_hash`.

use crate::Bench;
use crate::abi::{Engine, Request};
use crate::mocks::{load, name, route};
use crate::report::Goal;
use serde_json::json;

const KEYS: usize = 10_000;

pub fn measure(bench: &mut Bench) {
    for targets in [3, 4, 8] {
        let engine = Engine::new(&json!({}));
        let models: Vec<u64> = (0..targets).map(|index| load(&engine, index, 1, 0, json!([]))).collect();
        let id = route(&engine, "route", &vec![1; targets], json!({"strategy": "consistent_hash"}));
        let mut request = Request::new(id);
        let mut homes = || -> Vec<u64> {
            let home = |key| {
                request.request.route_key = key as u64;
                engine.infer(&request)
            };
            (1..=KEYS).map(home).collect()
        };
        let before = homes();
        engine.remove_target(id, &name(1));
        let after = homes();
        engine.add_target(id, &json!({"model": name(1)}));
        let again = homes();
        let differ = |one: &[u64], other: &[u64], which: &dyn Fn(u64) -> bool| {
            one.iter().zip(other).filter(|(one, other)| one != other && which(**one)).count()
        };
        let count = |model: &u64| before.iter().filter(|home| *home == model).count();
        let counts: Vec<usize> = models.iter().map(count).collect();
        let moved = differ(&before, &after, &|_| true) as f64 / KEYS as f64;
        let least = counts.iter().min().copied().unwrap_or_default() as f64 / KEYS as f64;
        let most = counts.iter().max().copied().unwrap_or_default() as f64 / KEYS as f64;
        bench.add(
            format!("consistent_hash: keys that move, one of {targets} targets away"),
            moved * 100.0,
            Goal::AtMost(100.0 / targets as f64 * 1.1),
            "%",
            format!("targets have {:.1} to {:.1} % of {KEYS} keys", least * 100.0, most * 100.0),
        );
        bench.must_stay_below(150.0 / targets as f64);
        bench.add(
            format!("consistent_hash: keys of other targets that move, of {targets}"),
            differ(&before, &after, &|home| home != models[1]) as f64,
            Goal::Exactly(0.0),
            "",
            String::new(),
        );
        bench.add(
            format!("consistent_hash: keys elsewhere when it is back, of {targets}"),
            differ(&before, &again, &|_| true) as f64,
            Goal::Exactly(0.0),
            "",
            String::new(),
        );
    }
}
