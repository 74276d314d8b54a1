//! The configuration of an engine's log, whole or in part.

use super::{optional_object, parse, require};
use crate::error::Result;
use crate::log::{Format, LevelFilter, MODULES, Settings, Target};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `"log"` of an engine, and `blaze_log_configure`'s JSON. What is not given, or null, stays as it is.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    pub level: Option<LevelFilter>,
    pub target: Option<Target>,
    pub format: Option<Format>,
    /// Levels of modules that differ; given, it replaces what was there.
    pub modules: Option<BTreeMap<String, LevelFilter>>,
    #[serde(deserialize_with = "optional_object")]
    pub file: Option<LogFileConfig>,
    #[serde(deserialize_with = "optional_object")]
    pub rate: Option<LogRateConfig>,
    /// Whether this engine takes the process's `log` facade over, if nobody has it.
    pub global: Option<bool>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogFileConfig {
    pub path: Option<String>,
    pub max_bytes: Option<u64>,
    pub keep: Option<u32>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogRateConfig {
    /// 0: no limit.
    pub per_second: Option<u32>,
    pub burst: Option<u32>,
}

impl LogConfig {
    /// Parses and checks a configuration.
    pub fn from_json(json: &str) -> Result<Self> {
        let config: LogConfig = parse(json)?;
        config.check("")?;
        Ok(config)
    }

    pub(super) fn check(&self, prefix: &str) -> Result<()> {
        for module in self.modules.iter().flat_map(BTreeMap::keys) {
            require(
                MODULES.contains(&module.as_str()),
                &format!("{prefix}modules.{module}"),
                format_args!("there is no such module; the modules are {}", MODULES.join(", ")),
            )?;
        }
        if let Some(file) = &self.file {
            let path = file.path.as_deref().unwrap_or("log");
            require(!path.is_empty(), &format!("{prefix}file.path"), "must not be empty")?;
            require(!path.contains('\0'), &format!("{prefix}file.path"), "must not contain a NUL")?;
            require(
                file.max_bytes.is_none_or(|bytes| bytes >= 1024),
                &format!("{prefix}file.max_bytes"),
                "must be at least 1024",
            )?;
            require(
                file.keep.is_none_or(|keep| keep <= 1000),
                &format!("{prefix}file.keep"),
                "must be at most 1000",
            )?;
        }
        if let Some(rate) = &self.rate {
            let most = 1_000_000;
            let path = format!("{prefix}rate.per_second");
            require(rate.per_second.is_none_or(|rate| rate <= most), &path, format_args!("at most {most}"))?;
            require(
                rate.burst.is_none_or(|burst| (1..=most).contains(&burst)),
                &format!("{prefix}rate.burst"),
                format_args!("must be from 1 to {most}"),
            )?;
        }
        Ok(())
    }

    /// Changes what is given.
    pub fn apply(&self, settings: &mut Settings) {
        fn set<T: Clone>(to: &mut T, from: &Option<T>) {
            if let Some(from) = from {
                to.clone_from(from);
            }
        }
        set(&mut settings.level, &self.level);
        set(&mut settings.target, &self.target);
        set(&mut settings.format, &self.format);
        set(&mut settings.modules, &self.modules);
        set(&mut settings.global, &self.global);
        if let Some(file) = &self.file {
            settings.file.path = file.path.clone().or(settings.file.path.take());
            set(&mut settings.file.max_bytes, &file.max_bytes);
            set(&mut settings.file.keep, &file.keep);
        }
        if let Some(rate) = &self.rate {
            set(&mut settings.rate.per_second, &rate.per_second);
            settings.rate.burst = rate.burst.or(settings.rate.burst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_stays() {
        let mut settings = Settings::default();
        let mut apply = |json: &str| {
            LogConfig::from_json(json).unwrap().apply(&mut settings);
            settings.clone()
        };
        assert_eq!(apply("{}"), Settings::default());
        let first = apply(
            r#"{"level": "info", "target": "file", "format": "json", "modules": {"onnx": "trace"},
                "file": {"path": "p", "keep": 7}, "rate": {"burst": 5}, "global": true}"#,
        );
        assert_eq!(
            (first.level, first.target, first.format),
            (LevelFilter::Info, Target::File, Format::Json)
        );
        assert_eq!((first.file.max_bytes, first.file.keep), (10 << 20, 7));
        assert_eq!((first.rate.per_second, first.rate.burst, first.global), (100, Some(5), true));
        assert_eq!(apply(r#"{"level": null, "file": null, "rate": {"burst": null}}"#), first);
        let second = apply(r#"{"modules": {}, "file": {"max_bytes": 4096}, "rate": {"per_second": 0}}"#);
        assert_eq!(
            (second.file.path.as_deref(), second.file.max_bytes, second.file.keep),
            (Some("p"), 4096, 7)
        );
        assert_eq!((second.rate.per_second, second.rate.burst), (0, Some(5)));
        assert!(second.modules.is_empty() && second.level == LevelFilter::Info);
    }

    #[test]
    fn errors_name_the_path() {
        for (json, start) in [
            ("[]", "invalid type"),
            (r#"{"levels": 1}"#, "levels: unknown field"),
            (r#"{"level": "loud"}"#, "level: unknown variant"),
            (r#"{"target": 1}"#, "target: "),
            (r#"{"format": "xml"}"#, "format: unknown variant"),
            (
                r#"{"modules": {"onxn": "warn"}}"#,
                "modules.onxn: there is no such module; the modules are model, ",
            ),
            (r#"{"modules": {"onnx": "loud"}}"#, "modules.onnx: unknown variant"),
            (r#"{"modules": ["onnx"]}"#, "modules: "),
            (r#"{"file": "p"}"#, "file: "),
            (r#"{"file": {"name": "p"}}"#, "file.name: unknown field"),
            (r#"{"file": {"path": ""}}"#, "file.path: must not be empty"),
            (r#"{"file": {"path": "a\u0000b"}}"#, "file.path: must not contain"),
            (r#"{"file": {"max_bytes": 1023}}"#, "file.max_bytes: "),
            (r#"{"file": {"keep": 1001}}"#, "file.keep: "),
            (r#"{"rate": {"per_second": -1}}"#, "rate.per_second: "),
            (r#"{"rate": {"per_second": 1000001}}"#, "rate.per_second: "),
            (r#"{"rate": {"burst": 0}}"#, "rate.burst: "),
            (r#"{"global": "yes"}"#, "global: "),
        ] {
            let message = LogConfig::from_json(json).unwrap_err().message;
            assert!(message.starts_with(start), "{json}: {message}");
        }
    }
}
