//! What metrics say about routes, their targets, and tenants.

use super::models::outcomes;
use super::text::{Exposition, durations};
use super::{Counts, OUTCOMES};
use serde_json::{Value, json};
use std::sync::Arc;

/// A route's counters.
pub struct RouteMetrics<'a> {
    pub route: &'a str,
    /// Requests that have ended, as in `OUTCOMES`.
    pub ended: [u64; OUTCOMES.len()],
    pub failovers: u64,
    pub hedges: u64,
    pub hedges_won: u64,
    pub timeouts: u64,
    pub over_retry_budget: u64,
    pub no_target: u64,
    pub exhausted: u64,
    pub refused: u64,
    pub waiting: u64,
}

/// A target's counters and gauges.
pub struct TargetMetrics<'a> {
    pub route: &'a str,
    pub target: &'a str,
    pub requests: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub slow: u64,
    pub given_up: u64,
    pub in_flight: u64,
    pub opened: u64,
    /// 0: closed, 1: open, 2: half open.
    pub breaker: u64,
    pub state: &'static str,
    pub weight: u64,
    pub learned_cost_ns: f64,
    pub times: Counts,
}

/// The counters of a class of tenants.
pub struct TenantMetrics {
    /// `None`: those without one.
    pub class: Option<Arc<str>>,
    /// Requests that have ended, as in `OUTCOMES`.
    pub ended: [u64; OUTCOMES.len()],
    pub refused: u64,
    pub in_flight: u64,
}

/// States of breakers, by number.
const BREAKER_STATES: [&str; 3] = ["closed", "open", "half_open"];

/// States of targets, as labels.
pub const TARGET_STATES: [&str; 5] = ["ready", "degraded", "failed", "draining", "unbound"];

/// A family of samples with one number for each thing.
type Family<T> = (&'static str, &'static str, &'static str, fn(&T) -> f64);

/// Prometheus' text exposition format, as in `prometheus`.
pub fn prometheus(
    routes: &[RouteMetrics<'_>],
    targets: &[TargetMetrics<'_>],
    tenants: &[TenantMetrics],
) -> String {
    let mut text = Exposition(String::new());
    if !routes.is_empty() {
        write_routes(&mut text, routes);
    }
    if !targets.is_empty() {
        write_targets(&mut text, targets);
    }
    if !tenants.is_empty() {
        write_tenants(&mut text, tenants);
    }
    text.0
}

fn write_routes(text: &mut Exposition, routes: &[RouteMetrics<'_>]) {
    let of_routes: [Family<RouteMetrics<'_>>; 8] = [
        ("failovers_total", "counter", "Attempts made because another had failed.", |r| r.failovers as f64),
        ("hedges_total", "counter", "Attempts made because another took long.", |r| r.hedges as f64),
        ("hedges_won_total", "counter", "Hedges that answered first.", |r| r.hedges_won as f64),
        ("timeouts_total", "counter", "Attempts that took too long.", |r| r.timeouts as f64),
        ("exhausted_total", "counter", "Requests that failed at every target tried.", |r| r.exhausted as f64),
        ("refused_total", "counter", "Requests refused by the route's limits.", |r| r.refused as f64),
        ("no_target_total", "counter", "Requests for which no target could be asked.", |r| {
            r.no_target as f64
        }),
        ("waiting", "gauge", "Requests that wait for their turn.", |r| r.waiting as f64),
    ];
    let name = "blaze_route_requests_total";
    text.family(name, "counter", "Requests that have ended, by outcome.");
    for route in routes {
        for (outcome, count) in OUTCOMES.into_iter().zip(route.ended) {
            text.sample(name, &[("route", route.route), ("outcome", outcome)], count);
        }
    }
    for (name, kind, help, value) in of_routes {
        let name = format!("blaze_route_{name}");
        text.family(&name, kind, help);
        routes.iter().for_each(|route| text.sample(&name, &[("route", route.route)], value(route)));
    }
}

fn write_targets(text: &mut Exposition, targets: &[TargetMetrics<'_>]) {
    let name = "blaze_route_target_calls_total";
    text.family(name, "counter", "Attempts that have ended, by target and outcome.");
    for target in targets {
        let outcomes = [("ok", target.succeeded), ("failed", target.failed), ("given_up", target.given_up)];
        for (outcome, count) in outcomes {
            let labels = [("route", target.route), ("target", target.target), ("outcome", outcome)];
            text.sample(name, &labels, count);
        }
    }
    let of_targets: [Family<TargetMetrics<'_>>; 7] = [
        ("requests_total", "counter", "Attempts begun.", |t| t.requests as f64),
        ("slow_total", "counter", "Attempts that ended well, and late.", |t| t.slow as f64),
        ("in_flight", "gauge", "Attempts under way.", |t| t.in_flight as f64),
        ("breaker_opened_total", "counter", "How often the breaker has opened.", |t| t.opened as f64),
        ("breaker_state", "gauge", "0: closed, 1: open, 2: half open.", |t| t.breaker as f64),
        ("weight", "gauge", "The configured weight.", |t| t.weight as f64),
        ("learned_cost_seconds", "gauge", "What adaptive expects of one more request.", |t| {
            t.learned_cost_ns / 1e9
        }),
    ];
    for (name, kind, help, value) in of_targets {
        let name = format!("blaze_route_target_{name}");
        text.family(&name, kind, help);
        for target in targets {
            text.sample(&name, &[("route", target.route), ("target", target.target)], value(target));
        }
    }
    let name = "blaze_route_target_state";
    text.family(name, "gauge", "1 for the state that the target is in.");
    for target in targets {
        for state in TARGET_STATES {
            let labels = [("route", target.route), ("target", target.target), ("state", state)];
            text.sample(name, &labels, u64::from(target.state == state));
        }
    }
    let name = "blaze_route_target_duration_seconds";
    text.family(name, "summary", "Response times of attempts that ended well.");
    for target in targets {
        let quantiles = target.times.quantiles([0.5, 0.9, 0.99]);
        let labels = [("route", target.route), ("target", target.target)];
        for (share, quantile) in ["0.5", "0.9", "0.99"].into_iter().zip(quantiles) {
            let labels = [labels[0], labels[1], ("quantile", share)];
            text.sample(name, &labels, quantile as f64 / 1e9);
        }
        text.sample(&format!("{name}_sum"), &labels, target.times.sum() as f64 / 1e9);
        text.sample(&format!("{name}_count"), &labels, target.times.count());
    }
}

fn write_tenants(text: &mut Exposition, tenants: &[TenantMetrics]) {
    let name = "blaze_tenant_requests_total";
    text.family(name, "counter", "Requests that have ended, by class of tenants and outcome.");
    for tenant in tenants {
        let class = tenant.class.as_deref().unwrap_or_default();
        for (outcome, count) in OUTCOMES.into_iter().zip(tenant.ended) {
            text.sample(name, &[("class", class), ("outcome", outcome)], count);
        }
    }
    let of_tenants: [Family<TenantMetrics>; 2] = [
        ("refused_total", "counter", "Requests refused by the tenant's limits.", |t| t.refused as f64),
        ("in_flight", "gauge", "Requests under way.", |t| t.in_flight as f64),
    ];
    for (name, kind, help, value) in of_tenants {
        let name = format!("blaze_tenant_{name}");
        text.family(&name, kind, help);
        for tenant in tenants {
            text.sample(&name, &[("class", tenant.class.as_deref().unwrap_or_default())], value(tenant));
        }
    }
}

/// The same as JSON: routes with their targets, and classes of tenants.
pub fn json(
    routes: &[RouteMetrics<'_>],
    targets: &[TargetMetrics<'_>],
    tenants: &[TenantMetrics],
) -> (Value, Value) {
    let of_target = |target: &TargetMetrics<'_>| {
        json!({
            "target": target.target,
            "state": target.state,
            "requests": target.requests,
            "succeeded": target.succeeded,
            "failed": target.failed,
            "slow": target.slow,
            "given_up": target.given_up,
            "in_flight": target.in_flight,
            "breaker": BREAKER_STATES.get(target.breaker as usize),
            "breaker_opened": target.opened,
            "weight": target.weight,
            "learned_cost_ns": target.learned_cost_ns,
            "duration_ns": durations(&target.times),
        })
    };
    let of_route = |route: &RouteMetrics<'_>| {
        let own = targets.iter().filter(|target| target.route == route.route);
        json!({
            "route": route.route,
            "outcomes": outcomes(route.ended),
            "failovers": route.failovers,
            "hedges": route.hedges,
            "hedges_won": route.hedges_won,
            "timeouts": route.timeouts,
            "over_retry_budget": route.over_retry_budget,
            "exhausted": route.exhausted,
            "no_target": route.no_target,
            "refused": route.refused,
            "waiting": route.waiting,
            "targets": own.map(of_target).collect::<Vec<_>>(),
        })
    };
    let of_tenant = |tenant: &TenantMetrics| {
        json!({
            "class": tenant.class.as_deref(),
            "served": tenant.ended.iter().sum::<u64>(),
            "outcomes": outcomes(tenant.ended),
            "refused": tenant.refused,
            "in_flight": tenant.in_flight,
        })
    };
    (routes.iter().map(of_route).collect(), tenants.iter().map(of_tenant).collect())
}
