//! The configuration of routes, and of limits on them, on models and on tenants.

use super::{ModelConfig, invalid, object, objects, parse, require};
use crate::error::{Error, Result};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;

/// One route: a name used in requests like a model's, and the targets that it stands for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    pub name: String,
    /// How a target is picked.
    #[serde(default, deserialize_with = "strategy")]
    pub strategy: StrategyConfig,
    #[serde(default, deserialize_with = "objects")]
    pub targets: Vec<TargetConfig>,
    /// What of a request `consistent_hash` looks at.
    #[serde(default)]
    pub hash_on: HashOn,
    #[serde(default, deserialize_with = "object")]
    pub sticky: StickyConfig,
    #[serde(default, deserialize_with = "object")]
    pub breaker: BreakerConfig,
    #[serde(default, deserialize_with = "object")]
    pub retry: RetryConfig,
    #[serde(default, deserialize_with = "object")]
    pub hedge: HedgeConfig,
    #[serde(default, deserialize_with = "object")]
    pub health: HealthCheckConfig,
    #[serde(default, deserialize_with = "object")]
    pub limits: LimitsConfig,
}

/// One way to serve a route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    /// A loaded model, `name` or `name:version`.
    pub model: String,
    /// Its share of requests, beside the others' weights.
    #[serde(default = "one")]
    pub weight: u32,
    /// Targets of a higher tier get requests only while none of a lower one can.
    #[serde(default)]
    pub tier: u32,
    /// The most requests that are with it at once; null: no limit.
    #[serde(default)]
    pub concurrency: Option<u32>,
}

/// A strategy and what it may be told. In JSON also its name alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StrategyConfig {
    pub name: String,
    /// For `consistent_hash`: how much more than its share a target may have in flight before its keys go elsewhere.
    #[serde(default = "load_factor")]
    pub load_factor: f64,
    /// For `adaptive`: the share of requests that go where little is known.
    #[serde(default = "explore")]
    pub explore: f64,
    /// For `adaptive` and `least_response_time`: how long what was seen counts, in milliseconds.
    #[serde(default = "memory_ms")]
    pub memory_ms: u32,
}

impl Default for StrategyConfig {
    fn default() -> Self {
        StrategyConfig::named("round_robin")
    }
}

impl StrategyConfig {
    /// A strategy as it is when nothing is said but its name.
    pub fn named(name: &str) -> Self {
        StrategyConfig {
            name: name.to_owned(),
            load_factor: load_factor(),
            explore: explore(),
            memory_ms: memory_ms(),
        }
    }
}

fn strategy<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StrategyConfig, D::Error> {
    struct StrategyVisitor;
    impl<'de> Visitor<'de> for StrategyVisitor {
        type Value = StrategyConfig;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a strategy's name or an object")
        }

        fn visit_str<E>(self, name: &str) -> Result<StrategyConfig, E> {
            Ok(StrategyConfig::named(name))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<StrategyConfig, A::Error> {
            StrategyConfig::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_any(StrategyVisitor)
}

/// What requests with the same target have in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashOn {
    #[default]
    Session,
    Tenant,
    /// The request's `route_key`.
    Key,
}

/// Whether requests of a session go where its last one went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StickyConfig {
    pub enabled: bool,
    /// How long after its latest request a session is forgotten, in milliseconds.
    pub ttl_ms: u32,
    /// Sessions that are remembered; beyond them the ones that have been silent longest are forgotten.
    pub capacity: u32,
}

impl Default for StickyConfig {
    fn default() -> Self {
        StickyConfig { enabled: false, ttl_ms: 600_000, capacity: 16_384 }
    }
}

/// When a target is left alone, and when it is tried again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    pub enabled: bool,
    /// Failures in a row that open it; 0: none do.
    pub consecutive_failures: u32,
    /// The share of calls in the window that fail and open it; above 1: none does.
    pub error_rate: f64,
    /// The share of calls in the window that are slow and open it; above 1: none does.
    pub slow_rate: f64,
    /// A call is slow that takes longer, in milliseconds; null: see `slow_factor`.
    pub slow_ms: Option<f64>,
    /// Without `slow_ms`: a call is slow that takes so many times as long as calls of this target usually do, and as those of
    /// the fastest other target do just now; 0: none is.
    pub slow_factor: f64,
    /// Calls that the window must have before rates count. So many slow ones in a row open it too.
    pub minimum_calls: u32,
    /// How long calls are looked back at, in milliseconds.
    pub window_ms: u32,
    /// How long it stays open the first time, in milliseconds; twice as long each further time in a row.
    pub backoff_ms: u32,
    pub backoff_max_ms: u32,
    /// The share by which that varies at random, from 0 to 1.
    pub jitter: f64,
    /// Calls that may be under way at once while it is half open.
    pub probes: u32,
    /// Calls that must succeed in a row to close it.
    pub successes: u32,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        BreakerConfig {
            enabled: true,
            consecutive_failures: 5,
            error_rate: 0.5,
            slow_rate: 0.5,
            slow_ms: None,
            slow_factor: 5.0,
            minimum_calls: 10,
            window_ms: 1000,
            backoff_ms: 50,
            backoff_max_ms: 500,
            jitter: 0.2,
            probes: 1,
            successes: 3,
        }
    }
}

/// When a request goes to another target after one has failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryConfig {
    /// Targets that one request may be tried on in all; 1: no retries.
    pub attempts: u32,
    /// Retries for each request, on average over the last seconds, besides `reserve`.
    pub budget: f64,
    /// Retries that are always allowed, each second.
    pub reserve: u32,
    /// After so long without an answer, in milliseconds, an attempt counts as failed, and the request goes elsewhere. If it cannot, it ends as `TIMEOUT`. Null: ten times what
    /// 99 of 100 calls take, at least 100, and if it cannot go elsewhere, it waits for what may still come. 0: never.
    pub attempt_timeout_ms: Option<u32>,
}

impl Default for RetryConfig {
    fn default() -> Self {
        RetryConfig { attempts: 3, budget: 0.2, reserve: 100, attempt_timeout_ms: None }
    }
}

/// Whether a second target is asked when the first one takes longer than usual.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HedgeConfig {
    /// The share of calls that are faster than the wait before the second target is asked, from 0.5 to below 1; null: no
    /// hedging.
    pub quantile: Option<f64>,
    /// Requests that may be asked twice, for each request, on average over the last seconds.
    pub budget: f64,
    /// The shortest wait, in milliseconds.
    pub minimum_ms: f64,
}

impl Default for HedgeConfig {
    fn default() -> Self {
        HedgeConfig { quantile: None, budget: 0.05, minimum_ms: 1.0 }
    }
}

/// Synthetic requests that tell whether a target works.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthCheckConfig {
    /// How long between two to the same target, in milliseconds; null: none.
    pub interval_ms: Option<u32>,
    /// After so long one counts as failed, in milliseconds; null: as long as the interval.
    pub timeout_ms: Option<u32>,
}

/// What may be asked for, and how often. Everything is unlimited unless said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    pub requests_per_second: Option<f64>,
    /// Requests that may come at once after a silence; null: what a tenth of a second allows, at least 1.
    pub burst: Option<u32>,
    pub rows_per_second: Option<f64>,
    /// Rows that may come at once; null: what a tenth of a second allows, at least 64.
    pub burst_rows: Option<u32>,
    /// Requests that may be under way at once.
    pub concurrency: Option<u32>,
    /// For routes: requests that wait when `concurrency` is reached, each tenant's in turn; 0: they are refused.
    pub waiting: u32,
}

/// Who asks: what it may, and its share when others want more than there is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantConfig {
    /// The `tenant_id` of its requests.
    pub id: u64,
    /// A class of tenants, for metrics.
    #[serde(default)]
    pub class: Option<String>,
    #[serde(default = "one")]
    pub weight: u32,
    #[serde(default, deserialize_with = "object")]
    pub limits: LimitsConfig,
}

/// All tenants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantsConfig {
    /// Limits of each tenant that is not listed.
    #[serde(deserialize_with = "object")]
    pub default: LimitsConfig,
    /// Tenants that are told apart; the others share one tenant's limits.
    pub capacity: u32,
    #[serde(deserialize_with = "objects")]
    pub list: Vec<TenantConfig>,
}

impl Default for TenantsConfig {
    fn default() -> Self {
        TenantsConfig { default: LimitsConfig::default(), capacity: 4096, list: Vec::new() }
    }
}

fn one() -> u32 {
    1
}
fn load_factor() -> f64 {
    1.25
}
fn explore() -> f64 {
    0.01
}
fn memory_ms() -> u32 {
    2000
}

/// The most targets of a route.
pub const MAX_TARGETS: usize = 64;

impl RouteConfig {
    /// Parses and checks one route's configuration.
    pub fn from_json(json: &str) -> Result<Self> {
        let config: RouteConfig = parse(json)?;
        config.check_whole()?;
        Ok(config)
    }

    /// Checks one that was put together from parts.
    pub fn check_whole(&self) -> Result<()> {
        self.check("")
    }

    pub(super) fn check(&self, prefix: &str) -> Result<()> {
        let at = |key: &str| format!("{prefix}{key}");
        ModelConfig::check_name(&self.name)
            .map_err(|error| Error { message: at(&error.message), ..error })?;
        self.strategy.check(&at("strategy."))?;
        require(self.targets.len() <= MAX_TARGETS, &at("targets"), format_args!("at most {MAX_TARGETS}"))?;
        for (index, target) in self.targets.iter().enumerate() {
            target.check(&at(&format!("targets[{index}].")))?;
            let twice = self.targets[..index].iter().any(|other| other.model == target.model);
            require(!twice, &at(&format!("targets[{index}].model")), "is named twice")?;
        }
        self.sticky.check(&at("sticky."))?;
        self.breaker.check(&at("breaker."))?;
        self.retry.check(&at("retry."))?;
        self.hedge.check(&at("hedge."))?;
        self.health.check(&at("health."))?;
        self.limits.check(&at("limits."), true)
    }
}

impl TargetConfig {
    /// Parses and checks one target's configuration.
    pub fn from_json(json: &str) -> Result<Self> {
        let config: TargetConfig = parse(json)?;
        config.check("")?;
        Ok(config)
    }

    fn check(&self, prefix: &str) -> Result<()> {
        let good = (1..=266).contains(&self.model.len()) && !self.model.contains(['\0', '\n', '"', '\\']);
        require(good, &format!("{prefix}model"), "must be a model's \"name\" or \"name:version\"")?;
        require((1..=1000).contains(&self.weight), &format!("{prefix}weight"), "must be from 1 to 1000")?;
        require(self.concurrency != Some(0), &format!("{prefix}concurrency"), "must be at least 1, or null")
    }
}

impl StrategyConfig {
    fn check(&self, prefix: &str) -> Result<()> {
        require(!self.name.is_empty(), &format!("{prefix}name"), "must not be empty")?;
        require(
            (1.0..=100.0).contains(&self.load_factor),
            &format!("{prefix}load_factor"),
            "must be from 1 to 100",
        )?;
        require((0.0..=1.0).contains(&self.explore), &format!("{prefix}explore"), "must be from 0 to 1")?;
        require(
            (1..=3_600_000).contains(&self.memory_ms),
            &format!("{prefix}memory_ms"),
            "must be from 1 to 3600000 (an hour)",
        )
    }
}

impl StickyConfig {
    fn check(&self, prefix: &str) -> Result<()> {
        require(self.ttl_ms >= 1, &format!("{prefix}ttl_ms"), "must be at least 1")?;
        require(
            (1..=1 << 24).contains(&self.capacity),
            &format!("{prefix}capacity"),
            "must be from 1 to 16777216",
        )
    }
}

impl BreakerConfig {
    fn check(&self, prefix: &str) -> Result<()> {
        let at = |key: &str| format!("{prefix}{key}");
        let positive = |value: f64| value > 0.0 && value.is_finite();
        require(positive(self.error_rate), &at("error_rate"), "must be above 0")?;
        require(positive(self.slow_rate), &at("slow_rate"), "must be above 0")?;
        require(self.slow_ms.is_none_or(positive), &at("slow_ms"), "must be above 0, or null")?;
        require(
            self.slow_factor == 0.0 || (self.slow_factor > 1.0 && self.slow_factor.is_finite()),
            &at("slow_factor"),
            "must be above 1, or 0",
        )?;
        require(self.minimum_calls >= 1, &at("minimum_calls"), "must be at least 1")?;
        require((8..=3_600_000).contains(&self.window_ms), &at("window_ms"), "must be from 8 to 3600000")?;
        require(self.backoff_ms >= 1, &at("backoff_ms"), "must be at least 1")?;
        require(
            self.backoff_max_ms >= self.backoff_ms,
            &at("backoff_max_ms"),
            "must be at least backoff_ms",
        )?;
        require((0.0..=1.0).contains(&self.jitter), &at("jitter"), "must be from 0 to 1")?;
        require((1..=1000).contains(&self.probes), &at("probes"), "must be from 1 to 1000")?;
        require((1..=1000).contains(&self.successes), &at("successes"), "must be from 1 to 1000")
    }
}

impl RetryConfig {
    /// The most attempts of one request.
    pub const MAX_ATTEMPTS: u32 = 4;

    fn check(&self, prefix: &str) -> Result<()> {
        require(
            (1..=Self::MAX_ATTEMPTS).contains(&self.attempts),
            &format!("{prefix}attempts"),
            format_args!("must be from 1 to {}", Self::MAX_ATTEMPTS),
        )?;
        require((0.0..=1.0).contains(&self.budget), &format!("{prefix}budget"), "must be from 0 to 1")
    }
}

impl HedgeConfig {
    fn check(&self, prefix: &str) -> Result<()> {
        require(
            self.quantile.is_none_or(|quantile| (0.5..1.0).contains(&quantile)),
            &format!("{prefix}quantile"),
            "must be from 0.5 to below 1, or null",
        )?;
        require((0.0..=1.0).contains(&self.budget), &format!("{prefix}budget"), "must be from 0 to 1")?;
        require(
            (0.0..=3_600_000.0).contains(&self.minimum_ms),
            &format!("{prefix}minimum_ms"),
            "must be from 0 to 3600000",
        )
    }
}

impl HealthCheckConfig {
    fn check(&self, prefix: &str) -> Result<()> {
        let good = |ms: Option<u32>| ms.is_none_or(|ms| (1..=86_400_000).contains(&ms));
        require(
            good(self.interval_ms),
            &format!("{prefix}interval_ms"),
            "must be from 1 to 86400000 (a day)",
        )?;
        require(good(self.timeout_ms), &format!("{prefix}timeout_ms"), "must be from 1 to 86400000 (a day)")
    }
}

impl LimitsConfig {
    pub(super) fn check(&self, prefix: &str, waits: bool) -> Result<()> {
        let at = |key: &str| format!("{prefix}{key}");
        let rate = |rate: Option<f64>| rate.is_none_or(|rate| (1e-3..=1e9).contains(&rate));
        require(rate(self.requests_per_second), &at("requests_per_second"), "must be from 0.001 to 1e9")?;
        require(rate(self.rows_per_second), &at("rows_per_second"), "must be from 0.001 to 1e9")?;
        for (burst, rate, key, of) in [
            (self.burst, self.requests_per_second, "burst", "requests_per_second"),
            (self.burst_rows, self.rows_per_second, "burst_rows", "rows_per_second"),
        ] {
            require(burst != Some(0), &at(key), "must be at least 1")?;
            require(burst.is_none() || rate.is_some(), &at(key), format_args!("only with {of}"))?;
        }
        require(self.concurrency != Some(0), &at("concurrency"), "must be at least 1, or null")?;
        require(waits || self.waiting == 0, &at("waiting"), "only for routes")?;
        require(
            self.waiting == 0 || self.concurrency.is_some(),
            &at("waiting"),
            "only with concurrency, for which to wait",
        )
    }
}

impl TenantConfig {
    /// Parses and checks one tenant's configuration.
    pub fn from_json(json: &str) -> Result<Self> {
        let config: TenantConfig = parse(json)?;
        config.check("")?;
        Ok(config)
    }

    fn check(&self, prefix: &str) -> Result<()> {
        require(self.id != 0, &format!("{prefix}id"), "must not be 0, which stands for no tenant")?;
        require((1..=1000).contains(&self.weight), &format!("{prefix}weight"), "must be from 1 to 1000")?;
        if let Some(class) = &self.class {
            let good = (1..=64).contains(&class.len()) && !class.contains(['\0', '\n', '"', '\\']);
            require(good, &format!("{prefix}class"), "must have 1 to 64 bytes and no quote or newline")?;
        }
        self.limits.check(&format!("{prefix}limits."), false)
    }
}

impl TenantsConfig {
    pub(super) fn check(&self, prefix: &str) -> Result<()> {
        self.default.check(&format!("{prefix}default."), false)?;
        require(
            (1..=1 << 20).contains(&self.capacity),
            &format!("{prefix}capacity"),
            "must be from 1 to 1048576",
        )?;
        if self.list.len() > self.capacity as usize {
            return Err(invalid(format!("{prefix}list: has more tenants than {prefix}capacity")));
        }
        for (index, tenant) in self.list.iter().enumerate() {
            tenant.check(&format!("{prefix}list[{index}]."))?;
            let twice = self.list[..index].iter().any(|other| other.id == tenant.id);
            require(!twice, &format!("{prefix}list[{index}].id"), "is listed twice")?;
        }
        Ok(())
    }
}
