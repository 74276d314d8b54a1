//! What the engine says about itself: health, metrics, and what a model is.

use super::ModelId;
use super::lifecycle::{Core, Engine};
use super::model::{Model, ModelState};
use super::routes::is_route;
use crate::backend::onnx;
use crate::error::Result;
use crate::memory::Kind;
use crate::platform;
use crate::profile::advice;
use crate::scheduler::selfcheck::Verdict;
use crate::sync::Ordering;
use crate::tensor::{Dim, TensorSpec};
use serde_json::{Value, json};

/// The engine's health in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct HealthSnapshot {
    /// All models are ready, and the engine takes requests.
    pub ok: bool,
    /// No model can work, or the engine is shut down.
    pub failed: bool,
    pub accepting: bool,
    pub models_ready: u32,
    pub models_degraded: u32,
    pub models_failed: u32,
    pub queue_depth: u64,
    pub in_flight: u64,
    pub memory_bytes: u64,
}

impl HealthSnapshot {
    /// `ok`, `degraded` or `failed`.
    pub fn state_name(&self) -> &'static str {
        match (self.ok, self.failed) {
            (true, _) => "ok",
            (_, true) => "failed",
            _ => "degraded",
        }
    }
}

impl Engine {
    /// The engine's health in numbers.
    pub fn health(&self) -> HealthSnapshot {
        self.core().health()
    }

    /// The engine's health with every model's, and the libraries in use.
    pub fn health_json(&self) -> String {
        let core = self.core();
        let health = core.health();
        let models: Vec<Value> = core
            .models
            .all()
            .iter()
            .map(|(_, model)| {
                let provider = model.provider();
                json!({
                    "name": model.config().name,
                    "version": model.config().version(),
                    "state": model.state().name(),
                    "residence": model.residence_name(),
                    "rebuilt": model.mending.rebuilt.load(Ordering::Relaxed),
                    "recovered": model.mending.recovered.load(Ordering::Relaxed),
                    "memory": model.residence.report(),
                    "buffer_bytes": model.traffic.buffer_bytes.load(Ordering::Relaxed),
                    "provider": provider.used,
                    "providers_rejected": provider.rejected,
                    "queue_depth": core.table.unresolved(Some(&model.traffic()), true),
                })
            })
            .collect();
        json!({
            "state": health.state_name(),
            "accepting": health.accepting,
            "version": crate::VERSION,
            "models": models,
            "loading": core.models.coming(),
            "queue_depth": health.queue_depth,
            "in_flight": health.in_flight,
            "memory": core.memory_report(),
            "routes": core.report_routes(),
            "tenants": core.report_tenants(),
            "recent": core.history.entries(),
            "repository": core.repository.report(),
            "onnxruntime": onnx::loaded(),
        })
        .to_string()
    }

    /// What holds the engine back, and what to do about it, as JSON.
    pub fn advice_json(&self) -> String {
        self.core().advice().to_string()
    }

    /// What a model is and how it runs, as JSON.
    pub fn model_info(&self, id: ModelId) -> Result<String> {
        if is_route(id) {
            return self.route_info(id);
        }
        Ok(describe(&*self.core().models.get(id)?).to_string())
    }
}

impl Core {
    /// What holds the engine back, the worst first: a part of other reports too.
    pub(super) fn advice(&self) -> Value {
        advice::report(&self.picture())
    }

    pub(super) fn memory_by_kind(&self) -> [(&'static str, u64); 4] {
        let used = |kind| self.ledger.used_by(kind);
        let idle = self.pool.idle_bytes();
        [
            ("models", used(Kind::Models)),
            ("buffers", used(Kind::Buffers)),
            ("idle_buffers", idle),
            ("caches", used(Kind::Caches)),
        ]
    }

    fn memory_report(&self) -> Value {
        let mut report = json!({
            "used_bytes": self.ledger.used(),
            "budget_bytes": self.ledger.limit(),
            "process_bytes": platform::resident_bytes(),
            "evictions": self.metrics.evictions.get(),
            "misses": self.metrics.misses.get(),
        });
        for (kind, bytes) in self.memory_by_kind() {
            report[format!("{kind}_bytes")] = bytes.into();
        }
        report
    }

    pub(super) fn health(&self) -> HealthSnapshot {
        let mut health = HealthSnapshot {
            accepting: !self.table.is_closed(),
            in_flight: self.table.unresolved(None, false),
            queue_depth: self.table.unresolved(None, true),
            memory_bytes: self.ledger.used(),
            ..HealthSnapshot::default()
        };
        for (_, model) in self.models.all() {
            match model.state() {
                ModelState::Ready => health.models_ready += 1,
                ModelState::Degraded => health.models_degraded += 1,
                ModelState::Failed => health.models_failed += 1,
            }
        }
        let trouble = health.models_degraded + health.models_failed > 0
            || self.repository.is_in_trouble()
            || self.routes_in_trouble();
        health.ok = health.accepting && !trouble;
        health.failed = !health.accepting
            || (health.models_failed > 0 && health.models_ready + health.models_degraded == 0);
        health
    }
}

pub fn describe(model: &Model) -> Value {
    let config = model.config();
    let specs = |specs: &[TensorSpec]| specs.iter().map(describe_spec).collect::<Vec<_>>();
    let provider = model.provider();
    let reason = match &model.batching {
        Verdict::Independent => Value::Null,
        Verdict::Alone(reason) => Value::from(reason.as_str()),
    };
    json!({
        "name": config.name,
        "version": config.version(),
        "backend": config.backend,
        "path": model.path.as_ref().map(|path| path.display().to_string()),
        "state": model.state().name(),
        "inputs": specs(&model.signature().inputs),
        "outputs": specs(&model.signature().outputs),
        "batching": {
            "enabled": model.joins_rows(),
            "reason": reason,
            "max_rows": config.batching.max_rows,
            "max_delay_us": config.batching.max_delay_us,
            "priority_aging_ms": config.batching.priority_aging_ms,
            "buckets": config.batching.buckets,
            "axes": config.batching.axes,
        },
        "lanes": config.lanes,
        "pinned": config.pinned,
        "evictable": model.is_evictable(),
        "residence": model.residence_name(),
        "memory": model.residence.report(),
        "providers": config.providers,
        "provider": provider.used,
        "providers_rejected": provider.rejected,
        "bytes": model.residence.report().bytes,
    })
}

fn describe_spec(spec: &TensorSpec) -> Value {
    let shape: Vec<Value> = spec
        .dims
        .iter()
        .map(|dim| match dim {
            Dim::Fixed(size) => Value::from(*size),
            Dim::Symbolic(name) if name.is_empty() => Value::Null,
            Dim::Symbolic(name) => Value::from(name.as_str()),
        })
        .collect();
    json!({"name": spec.name, "dtype": spec.dtype.name(), "shape": shape, "optional": spec.optional})
}
