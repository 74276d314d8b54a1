//! Devices of backends: what of their memory is taken, and what the backends say of them.

use super::text::Exposition;
use crate::features::PLUGINS;
use serde_json::{Value, json};

/// What is known of all of them.
#[derive(Default)]
pub struct DeviceGauges {
    /// Those of whose memory some is taken.
    pub memory: Vec<DeviceMemory>,
    /// Those that their backends tell of.
    pub reports: Vec<DeviceReport>,
}

/// A device's memory, in bytes.
pub struct DeviceMemory {
    pub backend: String,
    pub device: i32,
    /// Taken, blocks that nobody uses just now among it.
    pub used: u64,
    pub pooled: u64,
    /// What the backend says that is free, and the most that may be taken.
    pub free: Option<u64>,
    pub budget: Option<u64>,
}

/// What a backend says of a device; what it does not say, or not as it should, is not there.
#[derive(Debug, Default, PartialEq)]
pub struct DeviceReport {
    pub backend: String,
    pub device: i64,
    pub ready: Option<bool>,
    /// How often it was lost.
    pub losses: Option<u64>,
    /// Of the time, from 0 to 1.
    pub utilization: Option<f64>,
    pub streams: Vec<StreamReport>,
}

#[derive(Debug, PartialEq)]
pub struct StreamReport {
    pub busy_ns: u64,
    pub runs: u64,
}

impl DeviceMemory {
    /// What is known of it, by kind.
    fn kinds(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let known = [
            ("used", Some(self.used)),
            ("pooled", Some(self.pooled)),
            ("free", self.free),
            ("budget", self.budget),
        ];
        known.into_iter().filter_map(|(kind, bytes)| Some((kind, bytes?)))
    }
}

impl DeviceReport {
    /// The devices of a backend's report, each once.
    pub fn all(backend: &str, report: &Value) -> Vec<DeviceReport> {
        let mut found: Vec<DeviceReport> = Vec::new();
        for said in report["devices"].as_array().into_iter().flatten() {
            let Some(device) = said["device"].as_i64() else { continue };
            if found.iter().any(|other| other.device == device) {
                continue;
            }
            let stream = |stream: &Value| {
                Some(StreamReport { busy_ns: stream["busy_ns"].as_u64()?, runs: stream["runs"].as_u64()? })
            };
            found.push(DeviceReport {
                backend: backend.to_owned(),
                device,
                ready: said["state"].as_str().map(|state| state == "ready"),
                losses: said["losses"].as_u64(),
                utilization: said["utilization"].as_f64().filter(|ratio| (0.0..=1.0).contains(ratio)),
                streams: said["streams"].as_array().into_iter().flatten().filter_map(stream).collect(),
            });
        }
        found
    }
}

impl DeviceGauges {
    pub(super) fn write(&self, text: &mut Exposition) {
        let mut family = |name: &str, kind: &str, help: &str, samples: Vec<Sample<'_>>| {
            if samples.is_empty() {
                return;
            }
            text.family(name, kind, help);
            for Sample { backend, device, more, value } in samples {
                let device = device.to_string();
                let mut labels = vec![("backend", backend), ("device", &*device)];
                labels.extend(more.as_ref().map(|(key, value)| (*key, value.as_str())));
                text.sample(name, &labels, value);
            }
        };
        let help = "Memory of devices: taken, of that pooled for later, free as the backend says, and the most to be taken.";
        let memory = self.memory.iter().flat_map(|device| {
            device.kinds().map(|(kind, bytes)| Sample {
                backend: &device.backend,
                device: device.device.into(),
                more: Some(("kind", kind.to_owned())),
                value: bytes.to_string(),
            })
        });
        family("blaze_device_memory_bytes", "gauge", help, memory.collect());
        let each = |value: &dyn Fn(&DeviceReport) -> Option<String>| {
            let mut samples = Vec::new();
            for device in &self.reports {
                let DeviceReport { backend, device: number, .. } = device;
                samples.extend(value(device).map(|value| Sample {
                    backend,
                    device: *number,
                    more: None,
                    value,
                }));
            }
            samples
        };
        let ready = each(&|device| device.ready.map(|ready| u8::from(ready).to_string()));
        family("blaze_device_ready", "gauge", "Whether a device works: 1, or 0 when it is lost.", ready);
        let losses = each(&|device| device.losses.map(|losses| losses.to_string()));
        family("blaze_device_losses_total", "counter", "How often a device was lost.", losses);
        let utilization = each(&|device| device.utilization.map(|ratio| ratio.to_string()));
        let help = "How much of the time a device was busy, whoever used it, as it says itself: 0 to 1.";
        family("blaze_device_utilization_ratio", "gauge", help, utilization);
        let streams = |value: &dyn Fn(&StreamReport) -> String| {
            let mut samples = Vec::new();
            for device in &self.reports {
                let DeviceReport { backend, device: number, streams, .. } = device;
                samples.extend(streams.iter().enumerate().map(|(index, stream)| Sample {
                    backend,
                    device: *number,
                    more: Some(("stream", index.to_string())),
                    value: value(stream),
                }));
            }
            samples
        };
        let help = "What the runs on a stream took, copies and kernels, from when they were put there.";
        let busy = streams(&|stream| (stream.busy_ns as f64 / 1e9).to_string());
        family("blaze_device_stream_busy_seconds_total", "counter", help, busy);
        let runs = streams(&|stream| stream.runs.to_string());
        family("blaze_device_stream_runs_total", "counter", "Runs on a stream.", runs);
    }

    pub(super) fn memory_json(&self) -> Value {
        if !PLUGINS.built {
            return json!([]);
        }
        let memory = self.memory.iter().map(|device| {
            json!({
                "backend": device.backend,
                "device": device.device,
                "used": device.used,
                "pooled": device.pooled,
                "free": device.free,
                "budget": device.budget,
            })
        });
        memory.collect()
    }

    pub(super) fn reports_json(&self) -> Value {
        if !PLUGINS.built {
            return json!([]);
        }
        let stream = |stream: &StreamReport| json!({"busy_ns": stream.busy_ns, "runs": stream.runs});
        let reports = self.reports.iter().map(|device| {
            json!({
                "backend": device.backend,
                "device": device.device,
                "ready": device.ready,
                "losses": device.losses,
                "utilization": device.utilization,
                "streams": device.streams.iter().map(stream).collect::<Vec<_>>(),
            })
        });
        reports.collect()
    }
}

/// A sample that is to be written.
struct Sample<'a> {
    backend: &'a str,
    device: i64,
    more: Option<(&'static str, String)>,
    value: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(gauges: &DeviceGauges) -> String {
        let mut text = Exposition(String::new());
        gauges.write(&mut text);
        text.0
    }

    #[test]
    fn a_backends_report_becomes_samples() {
        let said = json!({"devices": [
            {"device": 0, "state": "ready", "losses": 2, "utilization": 0.25,
             "streams": [{"busy_ns": 1_500_000_000u64, "runs": 3}, {"busy_ns": 0, "runs": 0}]},
            {"device": 1, "state": "lost", "utilization": null},
        ]});
        let gauges = DeviceGauges { reports: DeviceReport::all("cuda", &said), ..DeviceGauges::default() };
        let text = written(&gauges);
        for line in [
            r#"blaze_device_ready{backend="cuda",device="0"} 1"#,
            r#"blaze_device_ready{backend="cuda",device="1"} 0"#,
            r#"blaze_device_losses_total{backend="cuda",device="0"} 2"#,
            r#"blaze_device_utilization_ratio{backend="cuda",device="0"} 0.25"#,
            r#"blaze_device_stream_busy_seconds_total{backend="cuda",device="0",stream="0"} 1.5"#,
            r#"blaze_device_stream_runs_total{backend="cuda",device="0",stream="1"} 0"#,
        ] {
            assert!(text.lines().any(|other| other == line), "{line}\n{text}");
        }
        assert_eq!(text.matches("utilization_ratio{").count(), 1, "what is not known is not there");
        assert_eq!(gauges.reports_json()[1]["ready"], false);
    }

    #[test]
    fn what_a_backend_says_may_be_anything() {
        for said in [
            json!(null),
            json!({"error": "it fails"}),
            json!({"devices": 5}),
            json!({"devices": [5, {}, {"device": "zero"}, {"device": 1e300}]}),
        ] {
            assert_eq!(DeviceReport::all("b", &said), []);
        }
        let said = json!({"devices": [{"device": 3, "utilization": 17, "losses": -1, "streams": [{}, 5]}, {"device": 3}]});
        let reports = DeviceReport::all("b", &said);
        assert_eq!(reports, [DeviceReport { backend: "b".into(), device: 3, ..DeviceReport::default() }]);
        assert_eq!(written(&DeviceGauges { reports, ..DeviceGauges::default() }), "");
    }
}
