//! What takes memory, and what a model is.

use super::ModelId;
use super::lifecycle::{Core, Engine};
use super::model::Model;
use super::routes::is_route;
use crate::backend::{Device, free_bytes};
use crate::error::Result;
use crate::features::PLUGINS;
use crate::memory::Kind;
use crate::metrics::{DeviceGauges, DeviceMemory, DeviceReport};
use crate::platform;
use crate::scheduler::selfcheck::Verdict;
use crate::sync::Ordering;
use crate::tensor::{Dim, TensorSpec};
use serde_json::{Value, json};
use std::sync::Arc;

impl Engine {
    /// What a model is and how it runs, as JSON.
    pub fn model_info(&self, id: ModelId) -> Result<String> {
        if is_route(id) {
            return self.route_info(id);
        }
        Ok(describe(&*self.core().models.get(id)?).to_string())
    }
}

impl Core {
    pub(super) fn memory_by_kind(&self) -> [(&'static str, u64); 4] {
        let used = |kind| self.ledger.used_by(kind);
        let idle = self.pool.idle_bytes() + self.devices.pinned_idle_bytes();
        [
            ("models", used(Kind::Models)),
            ("buffers", used(Kind::Buffers)),
            ("idle_buffers", idle),
            ("caches", used(Kind::Caches)),
        ]
    }

    /// The devices that backends tell of, and those of whose memory some is taken.
    pub(super) fn device_gauges(&self) -> DeviceGauges {
        if !PLUGINS.built {
            return DeviceGauges::default();
        }
        let reports = self.backends.reports();
        let memory = |device: &Arc<Device>| {
            let said = reports.iter().find(|report| report["name"] == *device.backend);
            DeviceMemory {
                backend: device.backend.clone(),
                device: device.number,
                used: device.ledger.used(),
                pooled: device.pool().idle_bytes(),
                free: said.and_then(|said| free_bytes(&said["report"], device.number)),
                budget: device.ledger.limit(),
            }
        };
        let memory = self.devices.all().iter().map(memory).collect();
        let of_backend =
            |said: &Value| DeviceReport::all(said["name"].as_str().unwrap_or_default(), &said["report"]);
        DeviceGauges { memory, reports: reports.iter().flat_map(of_backend).collect() }
    }

    pub(super) fn memory_report(&self) -> Value {
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
        let device = |device: Arc<Device>| {
            json!({
                "name": device.name,
                "budget_bytes": device.ledger.limit(),
                "used_bytes": device.ledger.used(),
                "pooled_bytes": device.pool().idle_bytes(),
            })
        };
        report["devices"] = match PLUGINS.built {
            true => self.devices.all().into_iter().map(device).collect(),
            false => json!([]),
        };
        report
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
            "max_rows": model.queue.max_rows(),
            "max_delay_us": model.queue.max_delay_us(),
            "priority_aging_ms": config.batching.priority_aging_ms,
            "buckets": config.batching.buckets,
            "axes": config.batching.axes,
        },
        "devices": model.devices,
        "stepwise": model.is_stepwise(),
        "lanes": model.lanes(),
        "intra_op_threads": model.intra_op_threads.load(Ordering::Relaxed),
        "pinned": config.pinned,
        "evictable": model.is_evictable(),
        "residence": model.residence_name(),
        "memory": model.residence.report(),
        "providers": config.providers,
        "provider": provider.used,
        "providers_rejected": provider.rejected,
        "provider_operators": provider.operators,
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
