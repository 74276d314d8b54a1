//! Memory of devices: what backends have taken of it for their models, and the most that it may be.

use super::Interrupt;
use crate::features::PLUGINS;
use crate::memory::{Ledger, Pool};
use crate::sync::{AtomicBool, Mutex, Ordering, lock};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

/// The most devices, and the most kinds of pinned memory, that one backend has.
const MOST: usize = 64;

/// A device of a backend's, some of whose memory is taken.
pub struct Device {
    /// As in configurations: "cuda:0".
    pub name: String,
    pub backend: String,
    pub number: i32,
    /// What is taken of its memory.
    pub ledger: Arc<Ledger>,
    pool: Mutex<Arc<Pool>>,
}

impl Device {
    pub fn new(backend: &str, number: i32, name: String, pool: Arc<Pool>) -> Arc<Self> {
        let ledger = Arc::clone(pool.ledger());
        Arc::new(Device { name, backend: backend.to_owned(), number, ledger, pool: Mutex::new(pool) })
    }

    pub fn pool(&self) -> Arc<Pool> {
        Arc::clone(&lock(&self.pool))
    }

    /// Has blocks come from another pool: those of the one before are freed rather than used again.
    pub fn renew(&self, pool: Arc<Pool>) {
        let old = std::mem::replace(&mut *lock(&self.pool), pool);
        old.set_limit(0); // what is in use now is freed when it is given back
    }
}

/// What does not fit on a device, and who needs it.
pub struct Need<'a> {
    pub bytes: u64,
    /// The model that wants it.
    pub model: &'a str,
    /// It is being loaded: it may wait, and others may have to go though they are wanted.
    pub is_load: bool,
    pub interrupt: &'a Interrupt,
    pub began_ns: u64,
    /// How long it waits for models that have nothing to do; 0: as long as is usual.
    pub patience_ns: u64,
}

/// Makes room on devices.
pub trait MakesRoom: Send + Sync {
    /// Frees some of what others have on the device, and may wait for it. False: no room can be made.
    fn make_room(&self, device: &Device, need: &mut Need<'_>) -> bool;
}

/// The devices of all of an engine's backends.
#[derive(Default)]
pub struct Devices {
    /// What the configuration says, by name; `None`: nothing.
    budgets: BTreeMap<String, Option<u64>>,
    /// Idle bytes that are kept of each kind of pinned memory.
    pinned_idle_bytes: u64,
    maker: OnceLock<Box<dyn MakesRoom>>,
    /// There is any of either.
    any: AtomicBool,
    devices: Mutex<Vec<Weak<Device>>>,
    pinned: Mutex<Vec<Weak<Pool>>>,
}

impl Devices {
    pub fn new(budgets: BTreeMap<String, Option<u64>>, pinned_idle_bytes: u64) -> Arc<Self> {
        Arc::new(Devices { budgets, pinned_idle_bytes, ..Devices::default() })
    }

    /// Says who makes room; once.
    pub fn set_maker(&self, maker: Box<dyn MakesRoom>) {
        let _ = self.maker.set(maker);
    }

    pub fn make_room(&self, device: &Device, need: &mut Need<'_>) -> bool {
        self.maker.get().is_some_and(|maker| maker.make_room(device, need))
    }

    /// The budget that the configuration gives a device.
    pub fn budget_of(&self, name: &str) -> Option<u64> {
        self.budgets.get(name).copied().flatten()
    }

    /// Takes note of a device that is used from now on, as long as its backend keeps it.
    pub fn add(&self, device: &Arc<Device>) {
        let mut devices = lock(&self.devices);
        devices.retain(|other| other.strong_count() > 0);
        devices.push(Arc::downgrade(device));
        self.any.store(true, Ordering::Release);
    }

    /// Takes note of a pool of pinned memory.
    pub fn add_pinned(&self, pool: &Arc<Pool>) {
        pool.set_limit(self.pinned_idle_bytes);
        let mut pinned = lock(&self.pinned);
        pinned.retain(|other| other.strong_count() > 0);
        pinned.push(Arc::downgrade(pool));
        self.any.store(true, Ordering::Release);
    }

    /// Whether there has been any.
    fn any(&self) -> bool {
        PLUGINS.built && self.any.load(Ordering::Acquire)
    }

    /// Those that are used.
    pub fn all(&self) -> Vec<Arc<Device>> {
        if !self.any() {
            return Vec::new();
        }
        lock(&self.devices).iter().filter_map(Weak::upgrade).collect()
    }

    /// All pools of pinned memory, which is the host's.
    fn pinned(&self) -> Vec<Arc<Pool>> {
        lock(&self.pinned).iter().filter_map(Weak::upgrade).collect()
    }

    /// Bytes of pinned memory that nobody uses.
    pub fn pinned_idle_bytes(&self) -> u64 {
        match self.any() {
            true => self.pinned().iter().map(|pool| pool.idle_bytes()).sum(),
            false => 0,
        }
    }

    /// Whether there is memory, on devices or pinned, that nobody uses.
    pub fn has_spare(&self) -> bool {
        self.any()
            && (self.pinned_idle_bytes() > 0
                || self.all().iter().any(|device| device.pool().idle_bytes() > 0))
    }

    /// Frees pinned memory that nobody uses. Returns how many bytes.
    pub fn trim_pinned(&self) -> u64 {
        match self.any() {
            true => self.pinned().iter().map(|pool| pool.trim(0)).sum(),
            false => 0,
        }
    }

    /// Frees whatever nobody uses.
    pub fn trim(&self) {
        if self.any() {
            self.trim_pinned();
            self.all().iter().for_each(|device| _ = device.pool().trim(0));
        }
    }

    /// Frees what nobody has used for so long.
    pub fn trim_older(&self, now_ns: u64, age_ns: u64) {
        if self.any() {
            let devices = self.all().into_iter().map(|device| device.pool());
            for pool in self.pinned().into_iter().chain(devices) {
                pool.trim_older(now_ns, age_ns);
            }
        }
    }
}

/// Whether a backend that has so many places already may have one more.
pub fn may_have_another(count: usize) -> bool {
    count < MOST
}

/// What is free of a device's memory, by what its backend says.
pub fn free_bytes(report: &serde_json::Value, number: i32) -> Option<u64> {
    let devices = report.get("devices")?.as_array()?;
    let device = devices.iter().find(|device| device["device"].as_i64() == Some(i64::from(number)))?;
    device.get("memory")?.get("free_bytes")?.as_u64()
}

/// The budget of a device whose backend reports so: nine tenths of what was free when it was first used.
pub fn budget_by_report(report: &serde_json::Value, number: i32) -> Option<u64> {
    let free = free_bytes(report, number)?;
    Some(free / 10 * 9 + free % 10 * 9 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HostSpace;
    use serde_json::json;

    #[test]
    fn blocks_of_a_lost_device_are_freed_and_not_used_again() {
        let ledger = Ledger::new(None);
        let pool = || Pool::new(Arc::clone(&ledger), Box::new(HostSpace));
        let device = Device::new("far", 0, "far:0".into(), pool());
        let in_use = device.pool().take(1000).unwrap();
        drop(device.pool().take(5000).unwrap());
        assert_eq!((device.pool().idle_bytes(), ledger.used()), (5120, 5120 + 1024));
        device.renew(pool());
        assert_eq!((device.pool().idle_bytes(), ledger.used()), (0, 1024), "what was idle is freed");
        let new = device.pool().take(1000).unwrap();
        drop(in_use);
        assert_eq!(
            (device.pool().idle_bytes(), ledger.used()),
            (0, 1024),
            "what was in use is, when it is given back"
        );
        drop(new);
        assert_eq!(device.pool().idle_bytes(), 1024);
    }

    #[test]
    fn the_usual_budget_is_nine_tenths_of_what_is_free() {
        let report = json!({"devices": [{"device": 1, "memory": {"free_bytes": 7}},
            {"device": 0, "memory": {"total_bytes": 2000, "free_bytes": 1005}}, {"device": 2}]});
        assert_eq!(budget_by_report(&report, 0), Some(904));
        assert_eq!(budget_by_report(&report, 1), Some(6));
        assert_eq!(
            budget_by_report(&json!({"devices": [{"device": 0, "memory": {"free_bytes": u64::MAX}}]}), 0),
            Some((u128::from(u64::MAX) * 9 / 10) as u64)
        );
        for none in [json!(null), json!({}), json!({"devices": 3}), json!({"devices": [3, null]}), report] {
            assert_eq!(budget_by_report(&none, 2), None, "{none}");
        }
    }
}
