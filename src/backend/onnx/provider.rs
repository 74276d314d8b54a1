//! Execution providers: what a configuration asks for, in ONNX Runtime's words.

use crate::config::{ProviderConfig, ProviderOption};
use crate::error::{Error, Result, Status};
use crate::features::PROVIDERS;
use std::ffi::CString;

/// What Blaze calls a provider, and ONNX Runtime.
const NAMES: [(&str, &str); 8] = [
    ("cpu", "CPUExecutionProvider"),
    ("cuda", "CUDAExecutionProvider"),
    ("tensorrt", "TensorrtExecutionProvider"),
    ("openvino", "OpenVINOExecutionProvider"),
    ("xnnpack", "XnnpackExecutionProvider"),
    ("coreml", "CoreMLExecutionProvider"),
    ("directml", "DmlExecutionProvider"),
    ("qnn", "QNNExecutionProvider"),
];

/// Options whose values are addresses in this process. No configuration can know one, and a wrong one is the process's end.
const ADDRESSES: [&str; 9] = [
    "has_user_compute_stream",
    "user_compute_stream",
    "gpu_external_alloc",
    "gpu_external_free",
    "gpu_external_empty_cache",
    "trt_onnx_bytestream",
    "trt_external_data_bytestream",
    "context",
    "qnn_context_buffer",
];

/// Options that have a provider record its work once, and then repeat it with the addresses of the first time. ONNX Runtime
/// copies a run's inputs to the device anew for every run, to other addresses: it would compute the first request's answer for
/// ever.
const RECORDINGS: [&str; 2] = ["enable_cuda_graph", "trt_cuda_graph_enable"];

/// What is said about a provider that is set up one way, by its options' names.
const DEVICES: [&str; 2] = ["device_id", "device_type"];

/// An execution provider that a configuration asks for.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its place in the list.
    pub index: usize,
    pub name: &'static str,
    /// ONNX Runtime's own name.
    pub runtime_name: &'static str,
    pub required: bool,
    /// What it is told, in ONNX Runtime's words.
    pub options: Vec<Setting>,
}

/// An option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub key: CString,
    pub value: CString,
    /// It says which device is meant. That there is none is no mistake of the configuration's.
    pub is_device: bool,
}

impl Setting {
    fn new(key: &str, value: &str) -> Result<Self> {
        let text = |text: &str| {
            let refused = |_| Error::new(Status::InvalidConfig, format!("{text:?} has a NUL in it"));
            CString::new(text).map_err(refused)
        };
        Ok(Setting { key: text(key)?, value: text(value)?, is_device: DEVICES.contains(&key) })
    }

    pub fn key(&self) -> &str {
        self.key.to_str().unwrap_or_default()
    }

    pub fn value(&self) -> &str {
        self.value.to_str().unwrap_or_default()
    }
}

impl Provider {
    /// The provider in the list's place `index`. `budget` has the bytes that a device may give, by the device's name, as in
    /// "cuda:0".
    pub fn parse(
        index: usize,
        config: &ProviderConfig,
        budget: impl Fn(&str) -> Option<u64>,
    ) -> Result<Self> {
        let refused = |what: String| Error::new(Status::InvalidConfig, format!("providers[{index}]{what}"));
        let Some(&(name, runtime_name)) = NAMES.iter().find(|(known, _)| *known == config.name) else {
            let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            return Err(refused(format!(": {:?} is unknown; known are {}", config.name, known.join(", "))));
        };
        if !PROVIDERS.built && name != "cpu" {
            return Err(refused(format!(": {}", PROVIDERS.missing())));
        }
        if name == "cpu" && !config.options.is_empty() {
            return Err(refused(".options: the CPU's provider has none".into()));
        }
        let mut options = Vec::new();
        for (key, value) in &config.options {
            let refused = |why: &str| refused(format!(".options.{key}: {why}"));
            if ADDRESSES.contains(&key.as_str()) {
                return Err(refused("is an address in the process, which a configuration cannot hold"));
            }
            if RECORDINGS.contains(&key.as_str()) && !is_off(value) {
                return Err(refused(
                    "CUDA graphs repeat a run with the addresses of the first one, and ONNX Runtime copies the inputs of \
                     each run elsewhere: every answer would be the first one's",
                ));
            }
            options.push(Setting::new(key, &text(name, value))?);
        }
        let mut default = |key: &str, value: &str| -> Result<()> {
            if options.iter().all(|option| option.key() != key) {
                options.push(Setting::new(key, value)?);
            }
            Ok(())
        };
        if matches!(name, "cuda" | "tensorrt") {
            // Even where 0 is the default: without one, a missing driver is noticed only when the session is committed.
            default("device_id", "0")?;
        }
        if name == "cuda" {
            // The exhaustive search, which is ONNX Runtime's default, stalls the first run of every shape, for seconds.
            default("cudnn_conv_algo_search", "HEURISTIC")?;
            let device = options.iter().find(|option| option.key() == "device_id");
            let device = format!("cuda:{}", device.map_or("0", Setting::value));
            if let Some(bytes) = budget(&device)
                && options.iter().all(|option| option.key() != "gpu_mem_limit")
            {
                options.push(Setting::new("gpu_mem_limit", &bytes.to_string())?);
            }
        }
        Ok(Provider { index, name, runtime_name, required: config.required, options })
    }

    pub fn is_cpu(&self) -> bool {
        self.name == "cpu"
    }

    /// What an option is set to.
    fn option(&self, key: &str) -> Option<&str> {
        self.options.iter().find(|option| option.key() == key).map(Setting::value)
    }

    /// Whether runs keep a core of this machine busy.
    pub fn computes_on_cpu(&self) -> bool {
        match self.name {
            "cpu" | "xnnpack" => true,
            "openvino" => self.option("device_type").is_none_or(|device| device.contains("CPU")),
            _ => false,
        }
    }

    /// The device whose driver reads and writes pinned memory of ONNX Runtime's, if there is such memory for this provider.
    pub fn pinning_device(&self) -> Option<u32> {
        match self.name {
            "cuda" | "tensorrt" => self.option("device_id")?.parse().ok(),
            _ => None,
        }
    }
}

/// Blaze's name for a provider that ONNX Runtime calls so; one that Blaze does not know is cut short.
pub fn short_name(runtime_name: &str) -> String {
    match NAMES.iter().find(|(_, known)| *known == runtime_name) {
        Some((name, _)) => (*name).into(),
        None => runtime_name.trim_end_matches("ExecutionProvider").to_ascii_lowercase(),
    }
}

fn is_off(value: &ProviderOption) -> bool {
    match value {
        ProviderOption::Flag(flag) => !flag,
        ProviderOption::Number(number) => number.as_f64() == Some(0.0),
        ProviderOption::Text(text) => matches!(text.as_str(), "0" | "false" | "False"),
    }
}

/// A value as the provider reads it.
fn text(provider: &str, value: &ProviderOption) -> String {
    match value {
        ProviderOption::Text(text) => text.clone(),
        // 1e9 is read as a fraction, and its text would have a point.
        ProviderOption::Number(number) => match number.as_f64() {
            Some(whole) if number.is_f64() && whole.fract() == 0.0 && whole.abs() < 1e15 => {
                format!("{whole:.0}")
            }
            _ => number.to_string(),
        },
        // OpenVINO and DirectML take words, CoreML and QNN digits; CUDA and TensorRT either.
        ProviderOption::Flag(flag) => match (provider, flag) {
            ("openvino" | "directml", _) => flag.to_string(),
            (_, true) => "1".into(),
            (_, false) => "0".into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parse(config: Value) -> Result<Provider> {
        parse_within(config, None)
    }

    fn parse_within(config: Value, bytes: Option<u64>) -> Result<Provider> {
        let config: ProviderConfig = serde_json::from_value(config).unwrap();
        Provider::parse(3, &config, |device| bytes.filter(|_| device == "cuda:1"))
    }

    fn settings(provider: &Provider) -> Vec<String> {
        provider.options.iter().map(|option| format!("{}={}", option.key(), option.value())).collect()
    }

    #[test]
    fn options_are_passed_on_as_each_provider_reads_them() {
        let options = json!({"a": true, "b": false, "c": 7, "d": 1e9, "e": 0.25, "f": "x", "g": -3});
        let provider = |name: &str| parse(json!({"name": name, "options": options})).unwrap();
        let digits = ["a=1", "b=0", "c=7", "d=1000000000", "e=0.25", "f=x", "g=-3"];
        assert_eq!(settings(&provider("qnn")), digits);
        assert_eq!(settings(&provider("openvino"))[..2], ["a=true", "b=false"]);
        assert_eq!(settings(&provider("tensorrt"))[7..], ["device_id=0"]);
    }

    #[test]
    fn cuda_has_defaults_that_options_win_over() {
        let plain = parse(json!("cuda")).unwrap();
        assert_eq!(settings(&plain), ["device_id=0", "cudnn_conv_algo_search=HEURISTIC"]);
        assert_eq!(plain.pinning_device(), Some(0));
        let options = json!({"device_id": 1, "cudnn_conv_algo_search": "EXHAUSTIVE"});
        let set = parse_within(json!({"name": "cuda", "options": options}), Some(5 << 30)).unwrap();
        let want = ["cudnn_conv_algo_search=EXHAUSTIVE", "device_id=1", "gpu_mem_limit=5368709120"];
        assert_eq!(settings(&set), want);
        assert!(set.options[1].is_device && !set.options[0].is_device);
        let own = json!({"device_id": 1, "gpu_mem_limit": 77});
        let own = parse_within(json!({"name": "cuda", "options": own}), Some(5 << 30)).unwrap();
        assert_eq!(own.option("gpu_mem_limit"), Some("77"));
        assert_eq!(plain.option("gpu_mem_limit"), None);
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_path() {
        for (config, want) in [
            (json!("gpu"), "providers[3]: \"gpu\" is unknown; known are cpu, cuda, tensorrt, openvino"),
            (json!({"name": "cpu", "options": {"a": 1}}), "providers[3].options: "),
            (
                json!({"name": "cuda", "options": {"user_compute_stream": "140"}}),
                "providers[3].options.user_compute_stream: ",
            ),
            (
                json!({"name": "cuda", "options": {"enable_cuda_graph": true}}),
                "providers[3].options.enable_cuda_graph: ",
            ),
            (
                json!({"name": "tensorrt", "options": {"trt_cuda_graph_enable": "True"}}),
                "providers[3].options.trt_cuda",
            ),
        ] {
            let error = parse(config.clone()).unwrap_err();
            assert_eq!(error.status, Status::InvalidConfig);
            assert!(error.message.starts_with(want), "{config}: {}", error.message);
        }
        for off in [json!(false), json!(0), json!("0")] {
            parse(json!({"name": "cuda", "options": {"enable_cuda_graph": off}})).unwrap();
        }
    }

    #[test]
    fn where_runs_compute_follows_from_the_provider_and_its_device() {
        let on_cpu = |config: Value| parse(config).unwrap().computes_on_cpu();
        assert!(on_cpu(json!("cpu")) && on_cpu(json!("xnnpack")) && on_cpu(json!("openvino")));
        assert!(!on_cpu(json!("cuda")) && !on_cpu(json!("tensorrt")) && !on_cpu(json!("qnn")));
        let openvino = |device: &str| json!({"name": "openvino", "options": {"device_type": device}});
        assert!(on_cpu(openvino("CPU")) && on_cpu(openvino("HETERO:GPU,CPU")));
        assert!(!on_cpu(openvino("GPU.1")) && !on_cpu(openvino("NPU")));
    }

    #[test]
    fn providers_that_are_not_known_have_a_short_name_too() {
        assert_eq!(short_name("TensorrtExecutionProvider"), "tensorrt");
        assert_eq!(short_name("AzureExecutionProvider"), "azure");
    }
}
