//! Routes as the host changes them, and what the engine says about them.

use super::ModelId;
use super::lifecycle::{Core, Engine};
use super::routes::{Plan, Way, is_route};
use super::warden::state_of;
use crate::clock::now_ns;
use crate::config::{RouteConfig, TargetConfig, TenantConfig};
use crate::error::{Error, Result, Status};
use crate::metrics::{RouteMetrics, TargetMetrics, TenantMetrics};
use crate::router::{Bars, Strategy};
use crate::sync::{AtomicU64, Ordering, lock};
use serde_json::{Value, json};
use std::sync::Arc;

impl Engine {
    /// Makes a route.
    pub fn create_route(&self, config: RouteConfig) -> Result<ModelId> {
        self.core().create_route(config)
    }

    /// Gives a route another configuration, with the same name.
    pub fn update_route(&self, id: ModelId, config: RouteConfig) -> Result<()> {
        self.core().change_route(id, |old| {
            *old = config;
            Ok(())
        })
    }

    /// Takes a route out. Its handle is stale at once; requests that are under way end where they are.
    pub fn destroy_route(&self, id: ModelId) -> Result<()> {
        self.core().destroy_route(id)
    }

    /// Adds a target to a route.
    pub fn add_target(&self, id: ModelId, target: TargetConfig) -> Result<()> {
        self.core().add_target(id, target)
    }

    /// Takes a target out of a route. Requests that it has end there.
    pub fn remove_target(&self, id: ModelId, name: &str) -> Result<()> {
        self.core().remove_target(id, name)
    }

    /// Has a target get no more requests, or get them again.
    pub fn drain_target(&self, id: ModelId, name: &str, drain: bool) -> Result<()> {
        self.core().drain_target(id, name, drain)
    }

    /// What a route is and how it does, as JSON.
    pub fn route_info(&self, id: ModelId) -> Result<String> {
        let core = self.core();
        let plan = core.routes.pin(id, false)?;
        core.rebind(&plan);
        let mut report = core.report(&plan, now_ns());
        report["config"] = json!(plan.config);
        let model = plan
            .targets
            .iter()
            .find_map(|target| core.models.pin(target.model.load(Ordering::SeqCst), false).ok());
        if let Some(model) = model {
            let info = super::reports::describe(&model);
            (report["inputs"], report["outputs"]) = (info["inputs"].clone(), info["outputs"].clone());
        }
        Ok(report.to_string())
    }

    /// Makes or changes a tenant.
    pub fn set_tenant(&self, tenant: &TenantConfig) -> Result<()> {
        self.core().table.tenants.set(tenant)
    }

    /// Makes a strategy of the host's known.
    pub fn register_strategy(&self, name: &str, strategy: Arc<dyn Strategy>) -> Result<()> {
        self.core().routes.register(name, strategy)
    }
}

impl Core {
    /// What a route's handle cannot be used for.
    pub fn refuse_route(&self, id: ModelId) -> Result<()> {
        if !is_route(id) {
            return Ok(());
        }
        self.routes.pin(id, false)?;
        Err(Error::new(Status::InvalidArgument, "this is a route; see blaze_route_destroy"))
    }
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Way {
    fn report(&self, now: u64) -> Value {
        let target = &self.target;
        let times = target.times.counts();
        let [p50, p90, p99] = times.quantiles([0.5, 0.9, 0.99]);
        let bars = target.bars();
        let calls = target.breaker.calls(now);
        let not_ready = self.why_not_ready();
        json!({
            "model": target.name,
            "state": state_of(self, now),
            "ready": not_ready.as_ref().is_none_or(|(failed, _)| !failed),
            "why": not_ready.map(|(_, reason)| reason),
            "problem": lock(&self.problem).clone(),
            "draining": bars & Bars::DRAINING != 0,
            "check_error": self.check.last_error(),
            "weight": get_u32(&target.weight),
            "tier": get_u32(&target.tier),
            "in_flight": target.in_flight(),
            "requests": target.requests(),
            "succeeded": target.succeeded.get(),
            "failed": target.failed.get(),
            "slow": target.slow.get(),
            "given_up": target.given_up.get(),
            "latency_ns": {"p50": p50, "p90": p90, "p99": p99, "max": times.max(), "recent": target.latency.get()},
            "failing_share": target.failures.get(),
            "learned_cost_ns": target.arm.cost_ns(target.in_flight()),
            "breaker": {
                "state": target.breaker.state().name(),
                "opened": target.breaker.openings(),
                "open_for_ns": target.breaker.open_ns(now),
                "window": {"calls": calls.total, "failed": calls.failed, "slow": calls.slow},
            },
        })
    }

    fn metrics<'a>(&'a self, route: &'a str, now: u64) -> TargetMetrics<'a> {
        let target = &self.target;
        TargetMetrics {
            route,
            target: &target.name,
            requests: target.requests(),
            succeeded: target.succeeded.get(),
            failed: target.failed.get(),
            slow: target.slow.get(),
            given_up: target.given_up.get(),
            in_flight: target.in_flight().into(),
            opened: target.breaker.openings(),
            breaker: target.breaker.state() as u64,
            state: state_of(self, now),
            weight: get_u32(&target.weight).into(),
            learned_cost_ns: f64::from(target.arm.cost_ns(target.in_flight())),
            times: target.times.counts(),
        }
    }
}

fn get_u32(number: &crate::sync::AtomicU32) -> u32 {
    number.load(Ordering::Relaxed)
}

impl Core {
    fn report(&self, plan: &Plan, now: u64) -> Value {
        let (route, counters) = (&plan.route, &plan.route.counters);
        json!({
            "name": route.name,
            "strategy": plan.config.strategy.name,
            "targets": plan.ways.iter().map(|way| way.report(now)).collect::<Vec<_>>(),
            "failovers": get(&counters.failovers),
            "hedges": get(&counters.hedges),
            "hedges_won": get(&counters.hedges_won),
            "timeouts": get(&counters.timeouts),
            "over_retry_budget": get(&counters.over_budget),
            "no_target": get(&counters.no_target),
            "exhausted": get(&counters.exhausted),
            "waiting": route.waiting.count(),
            "sessions": plan.sessions.as_ref().map(|sessions| sessions.len(now)),
            "in_use": route.limits.in_use(),
            "refused": {
                "requests_per_second": route.limits.refused.requests_per_second.get(),
                "rows_per_second": route.limits.refused.rows_per_second.get(),
                "concurrency": route.limits.refused.concurrency.get(),
            },
        })
    }

    /// Every route, for health.
    pub fn report_routes(&self) -> Vec<Value> {
        let now = now_ns();
        self.routes
            .all()
            .iter()
            .map(|(_, plan)| {
                self.rebind(plan);
                self.report(plan, now)
            })
            .collect()
    }

    /// Tenants, for health: those that are listed, and sums of classes.
    pub fn report_tenants(&self) -> Value {
        let tenants = &self.table.tenants;
        if !tenants.is_used() {
            return Value::Null;
        }
        let mut listed = Vec::new();
        tenants.each(|tenant| {
            listed.push(json!({
                "id": tenant.id(),
                "class": tenant.class().as_deref(),
                "weight": tenant.weight(),
                "accepted": tenant.accepted(),
                "refused": tenant.refused(),
                "in_flight": tenant.in_flight(),
            }));
        });
        let classes: Vec<Value> = tenants
            .classes()
            .into_iter()
            .map(|class| {
                json!({
                    "class": class.class.as_deref(),
                    "tenants": class.tenants,
                    "served": class.served(),
                    "refused": class.refused,
                    "in_flight": class.in_flight,
                })
            })
            .collect();
        json!({"listed": listed, "classes": classes})
    }

    /// Whether a route has no target that works.
    pub fn routes_in_trouble(&self) -> bool {
        let mut trouble = false;
        self.routes.each(|plan| {
            self.rebind(plan);
            trouble |= plan.targets.iter().all(|target| target.bars() & !Bars::TRIPPED != 0);
        });
        trouble
    }

    /// Calls `write` with what metrics say about routes and tenants.
    pub fn with_route_metrics<R>(
        &self,
        write: impl FnOnce(&[RouteMetrics<'_>], &[TargetMetrics<'_>], &[TenantMetrics]) -> R,
    ) -> R {
        let now = now_ns();
        let plans = self.routes.all();
        let routes: Vec<RouteMetrics<'_>> = plans
            .iter()
            .map(|(_, plan)| {
                let counters = &plan.route.counters;
                RouteMetrics {
                    route: &plan.route.name,
                    ended: counters.ended.get(),
                    failovers: get(&counters.failovers),
                    hedges: get(&counters.hedges),
                    hedges_won: get(&counters.hedges_won),
                    timeouts: get(&counters.timeouts),
                    over_retry_budget: get(&counters.over_budget),
                    no_target: get(&counters.no_target),
                    exhausted: get(&counters.exhausted),
                    refused: plan.route.limits.refused.total(),
                    waiting: plan.route.waiting.count().into(),
                }
            })
            .collect();
        let targets: Vec<TargetMetrics<'_>> = plans
            .iter()
            .flat_map(|(_, plan)| plan.ways.iter().map(|way| way.metrics(&plan.route.name, now)))
            .collect();
        let tenants: Vec<TenantMetrics> = self
            .table
            .tenants
            .classes()
            .into_iter()
            .map(|class| TenantMetrics {
                class: class.class,
                ended: class.ended,
                refused: class.refused,
                in_flight: class.in_flight,
            })
            .collect();
        write(&routes, &targets, &tenants)
    }
}
