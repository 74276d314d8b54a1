//! Room on devices: who leaves a device's memory so that others fit. Nobody leaves it for what is needed elsewhere.

use super::lifecycle::Core;
use super::room::{HOPE_NS, LOOK_NS, PATIENCE_NS};
use crate::backend::{Device, MakesRoom, Need};
use crate::clock::now_ns;
use crate::sync::Ordering;
use std::sync::{Arc, Weak};

/// How long a load waits for others that are under way, which may be evicted when they are there.
const OTHERS_NS: u64 = 5_000_000_000;

/// For backends that take memory of devices.
pub struct DeviceEvictor(pub Weak<Core>);

impl MakesRoom for DeviceEvictor {
    fn make_room(&self, device: &Device, need: &mut Need<'_>) -> bool {
        self.0.upgrade().is_some_and(|core| core.make_room_on(device, need))
    }
}

impl Core {
    /// Frees memory of a device, and may wait until some can be; whether to try again.
    fn make_room_on(self: &Arc<Self>, device: &Device, need: &mut Need<'_>) -> bool {
        let limit = device.ledger.limit().unwrap_or(u64::MAX);
        if need.bytes > limit || need.interrupt.is_raised() {
            return false;
        }
        // What does not fit though it is within the budget: others than this engine have the device's memory.
        let missing = match device.ledger.missing(need.bytes) {
            0 => need.bytes,
            missing => missing,
        };
        if self.give_spare_back_on(device) {
            return true;
        }
        let could_go =
            self.candidates(Some(device)).iter().fold(0u64, |sum, (_, candidate)| sum + candidate.bytes);
        // Nobody goes for one that does not fit all the same.
        let is_hopeless = missing > could_go;
        let reason = format!("room for {} on {}", need.model, device.name);
        let evict = |though_wanted| {
            let any = self.evict_from(Some(device), missing, &reason, though_wanted);
            device.pool().trim(0);
            any
        };
        if !is_hopeless && evict(false) {
            return true;
        }
        if !need.is_load {
            return false; // a run does not wait for others
        }
        let waited = now_ns().saturating_sub(need.began_ns);
        if is_hopeless {
            let others = self.underway_count.load(Ordering::SeqCst) > 1;
            if waited > if others { OTHERS_NS } else { HOPE_NS } {
                return false;
            }
        }
        // Without threads nobody else does anything meanwhile.
        let is_alone = self.config.threads == Some(0);
        if !is_hopeless && (is_alone || waited > need.patience_ns.max(PATIENCE_NS)) {
            if evict(true) {
                return true;
            }
            need.patience_ns = waited * 2; // they were kept from working meanwhile
        }
        if is_alone {
            return false;
        }
        need.interrupt.sleep(LOOK_NS);
        true
    }

    /// Frees what is only kept for later of a device's memory: batches of models that have nothing to do, and idle blocks.
    /// Returns whether there was any.
    fn give_spare_back_on(&self, device: &Device) -> bool {
        let before = device.ledger.used();
        self.models.each(|model| {
            let has_some =
                || model.residence.could_free(Some(&device.name)).is_some_and(|report| report.bytes > 0);
            if model.queue.is_drained() && has_some() {
                model.queue.give_all_back();
            }
        });
        device.pool().trim(0);
        device.ledger.used() < before
    }
}
