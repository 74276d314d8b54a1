//! The machine's devices. Engines of one process have them in common, because they have the contexts in common.

use crate::device::{Device, lock};
use crate::driver::{Driver, Library};
use crate::nvml::Nvml;
use crate::pinned::Pinned;
use serde::Deserialize;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

/// The plugin's "config".
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The driver's library.
    #[serde(default = "driver")]
    pub driver: String,
    /// The library that knows how busy devices are.
    #[serde(default = "nvml")]
    pub nvml: String,
}

fn driver() -> String {
    "libcuda.so.1".into()
}

fn nvml() -> String {
    "libnvidia-ml.so.1".into()
}

impl Config {
    pub fn parse(json: &str) -> Result<Self, String> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let dot = if path == "." { String::new() } else { format!(".{path}") };
            format!("config{dot}: {}", error.into_inner())
        })
    }
}

pub struct System {
    pub driver: Arc<Driver>,
    pub devices: Vec<Arc<Device>>,
    pub pinned: Arc<Pinned>,
    nvml: Result<Nvml, String>,
}

/// Those that are open, by the driver's library: there is one for a driver, whatever names it was opened by.
static OPEN: Mutex<Vec<(usize, Weak<System>)>> = Mutex::new(Vec::new());

impl System {
    /// Opens the driver; why it cannot be, or has no device, is for health.
    pub fn open(config: &Config) -> Result<Arc<Self>, String> {
        let key = Library::open(&config.driver)?.address();
        let mut open = lock(&OPEN);
        open.retain(|(_, system)| system.strong_count() > 0);
        if let Some(system) =
            open.iter().find(|(other, _)| *other == key).and_then(|(_, system)| system.upgrade())
        {
            return Ok(system);
        }
        let driver = Arc::new(Driver::open(&config.driver)?);
        let said = |error| format!("{}: {}", config.driver, driver.explain(error));
        let mut count = 0;
        // SAFETY: the pointer is valid.
        unsafe { driver.device_count(&raw mut count) }.map_err(said)?;
        if count < 1 {
            return Err(format!("{}: it has no device", config.driver));
        }
        let pinned = Arc::new(Pinned::default());
        let devices = (0..count).map(|ordinal| Device::new(&driver, &pinned, ordinal).map(Arc::new));
        let devices = devices.collect::<Result<_, _>>().map_err(said)?;
        let system = Arc::new(System { devices, pinned, nvml: Nvml::open(&config.nvml), driver });
        open.push((key, Arc::downgrade(&system)));
        Ok(system)
    }

    /// What health says of the devices.
    pub fn report(&self) -> Value {
        let devices: Vec<Value> = self.devices.iter().map(|device| self.report_device(device)).collect();
        json!({
            "driver_version": format!("{}.{}", self.driver.version / 1000, self.driver.version % 1000 / 10),
            "nvml": self.nvml.as_ref().err(), "pinned_bytes": self.pinned.bytes(), "devices": devices,
        })
    }

    fn report_device(&self, device: &Arc<Device>) -> Value {
        let health = device.health();
        let reading = self.nvml.as_ref().map(|nvml| nvml.read(&device.bus_id)).unwrap_or_default();
        // The driver itself knows only within a context, and nothing of a device that is lost.
        let known = if health.opened && health.lost.is_none() { device.memory_info() } else { None };
        let free = known.map(|(free, _)| free).or(reading.free_bytes);
        let lost = device.health().lost;
        let streams: Vec<Value> = lock(&device.uses)
            .iter()
            .map(|usage| {
                let (busy, now) = (usage.busy_ns.load(Ordering::Relaxed), Instant::now());
                let before = lock(&usage.reported).replace((busy, now));
                let ratio = before.and_then(|(busy_before, then)| {
                    let passed = now.duration_since(then).as_nanos() as f64;
                    (passed > 0.0).then(|| ((busy - busy_before) as f64 / passed).min(1.0))
                });
                json!({"busy_ns": busy, "runs": usage.runs.load(Ordering::Relaxed), "busy_ratio": ratio})
            })
            .collect();
        json!({
            "device": device.ordinal, "name": device.name, "state": if lost.is_some() { "lost" } else { "ready" },
            "reason": lost, "losses": device.losses.load(Ordering::Relaxed), "bus_id": device.bus_id,
            "compute_capability": format!("{}.{}", device.compute.0, device.compute.1),
            "memory": {"total_bytes": device.total_bytes, "free_bytes": free}, "utilization": reading.utilization,
            "under_way": device.under_way.load(Ordering::Relaxed), "streams": streams,
        })
    }
}
