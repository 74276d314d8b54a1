//! Unloading: what a model has taken is given back, and the host gets a receipt.

use super::lifecycle::Core;
use super::model::Model;
use crate::platform;
use crate::sync::{Mutex, Ordering, lock};
use serde_json::{Value, json};
use std::sync::Arc;

/// Models that are being unloaded: they are in the table no more, and a shutdown must reach them all the same.
#[derive(Default)]
pub struct Leaving(Mutex<Leavers>);

#[derive(Default)]
struct Leavers {
    models: Vec<Arc<Model>>,
    given_up: bool,
}

impl Leaving {
    fn add(&self, model: &Arc<Model>) {
        let mut leavers = lock(&self.0);
        leavers.models.push(Arc::clone(model));
        if leavers.given_up {
            model.residence.interrupt.raise();
        }
    }

    fn remove(&self, model: &Arc<Model>) {
        lock(&self.0).models.retain(|other| !Arc::ptr_eq(other, model));
    }

    /// Nobody waits any more for what they may still be brought back for.
    pub fn give_up(&self) {
        let mut leavers = lock(&self.0);
        leavers.given_up = true;
        leavers.models.iter().for_each(|model| model.residence.interrupt.raise());
    }
}

impl Core {
    /// Ends a model that is no longer in the table. Returns the receipt: bytes before and after, and what stayed.
    pub fn unload(self: &Arc<Self>, model: &Arc<Model>) -> Value {
        self.leaving.add(model);
        self.table.spans.remember(model);
        let resident = platform::resident_bytes();
        let weights = model.residence.backend().ok();
        let (mut weight_bytes, mut shared, mut remains) = (0, false, None);
        if let Some(backend) = weights {
            (weight_bytes, shared) = (backend.memory_bytes(), backend.shared_by() > 1);
            remains = Some(backend.remains());
        }
        let _leaving = self.underway(if shared { 0 } else { weight_bytes });
        let buffers = || model.traffic.buffer_bytes.load(Ordering::Relaxed);
        model.queue.close();
        // Without threads this one is the lane; it may have to wait for a batch that another thread is pumping.
        while self.config.threads == Some(0) && !model.queue.is_drained() {
            match self.run_batch_of(model) {
                true => (),
                // It may be away, and to be loaded again first.
                false if model.residence.is_away() => self.end_residence(model),
                false => std::thread::sleep(std::time::Duration::from_micros(50)),
            }
        }
        let buffer_bytes = buffers();
        model.drain(self);
        self.leaving.remove(model);
        self.pool.trim(0);
        self.devices.trim();
        self.give_back_heap();
        let (weights_left, buffers_left) = (remains.map_or(0, |remains| remains()), buffers());
        let mut stayed = Vec::new();
        if weights_left > 0 {
            let what = match shared {
                true => "weights that another model of the same file has too",
                false => "weights behind outputs of events that are not released",
            };
            stayed.push(json!({"what": what, "bytes": weights_left}));
        }
        if buffers_left > 0 {
            let what = "buffers of events that are not released";
            stayed.push(json!({"what": what, "bytes": buffers_left}));
        }
        let (before, after) = (weight_bytes + buffer_bytes, weights_left + buffers_left);
        let receipt = json!({
            "model": model.full_name,
            "bytes_before": before,
            "bytes_after": after,
            "freed_bytes": before.saturating_sub(after),
            "stayed": stayed,
            "process_bytes_before": resident,
            "process_bytes_after": platform::resident_bytes(),
        });
        self.history.unloaded(&receipt);
        self.logger
            .with(&[("model", (&model.full_name).into())])
            .info("model", format_args!("{} is unloaded: {receipt}", model.full_name));
        receipt
    }
}
