//! Limits on requests: what they take of them when they come in, and give back when they have ended.

use super::batch::Batch;
use super::lifecycle::Core;
use super::model::Model;
use super::routes::Route;
use super::table::Table;
use crate::error::{Error, Status};
use crate::features::ROUTER;
use crate::router::{Refusal, RefusalKind};
use crate::sync::Ordering;

/// In a request's quotas: it counts among the route's requests at once.
const ROUTE: u64 = 1;
/// In a request's quotas: it counts among the model's requests at once.
const MODEL: u64 = 2;
/// Where the tenant's place in its table begins, plus one.
const TENANT: u32 = 32;

/// What a request has taken of limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quotas(pub u64);

impl Quotas {
    fn tenant(self) -> Option<u32> {
        if !ROUTER.built {
            return None;
        }
        ((self.0 >> TENANT) as u32).checked_sub(1)
    }

    /// Whether something is to be given back when the request has ended.
    #[inline]
    pub fn any(self) -> bool {
        self.0 != 0
    }
}

/// How a request fares at the limits.
pub enum Entry {
    Enters(Quotas),
    /// Only the route's concurrency is in the way, for which it may wait.
    Waits(Quotas),
}

/// A request that may not come in.
pub struct Refused {
    pub error: Error,
    /// It was a limit of the model's: another target may have room.
    pub by_model: bool,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused { error, by_model: false }
    }
}

fn refuse(refusal: Refusal, whose: std::fmt::Arguments<'_>) -> Error {
    let Refusal { kind, what, retry_after_ns } = refusal;
    let later = match retry_after_ns {
        0 => String::new(),
        ns => format!("; again in {:.3} ms", ns as f64 / 1e6),
    };
    let (status, text) = match kind {
        RefusalKind::Rate => (Status::RateLimited, format!("{whose}: {what} is used up{later}")),
        RefusalKind::Quota => (Status::OverQuota, format!("{whose}: {what} is used up")),
        RefusalKind::NeverFits => (
            Status::InvalidArgument,
            format!("{whose}: the request alone is more than {what} lets in at once"),
        ),
    };
    Error::new(status, text).after(retry_after_ns)
}

impl Core {
    /// Lets a request in by all limits that it is under, or refuses it and takes nothing.
    #[inline]
    pub fn enter_limits(
        &self,
        model: &Model,
        route: Option<&Route>,
        tenant: u64,
        rows: usize,
        now: u64,
    ) -> std::result::Result<Entry, Refused> {
        let free = model.limits.is_unlimited()
            && route.is_none_or(|route| route.limits.is_unlimited())
            && (tenant == 0 || !self.table.tenants.is_used());
        if free { Ok(Entry::Enters(Quotas(0))) } else { self.enter_limited(model, route, tenant, rows, now) }
    }

    #[cold]
    fn enter_limited(
        &self,
        model: &Model,
        route: Option<&Route>,
        tenant: u64,
        rows: usize,
        now: u64,
    ) -> std::result::Result<Entry, Refused> {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        let mut quotas = 0;
        let place = self
            .table
            .tenants
            .enter(tenant, rows, now)
            .map_err(|refusal| refuse(refusal, format_args!("tenant {tenant}")))?;
        quotas |= place.map_or(0, |place| u64::from(place + 1) << TENANT);
        let undo_tenant = || _ = place.map(|place| self.table.tenants.undo(place, rows));
        model.limits.enter(rows, now).map_err(|refusal| {
            undo_tenant();
            Refused { error: refuse(refusal, format_args!("model {}", model.full_name)), by_model: true }
        })?;
        if model.limits.has_concurrency() {
            quotas |= MODEL;
        }
        let Some(route) = route else { return Ok(Entry::Enters(Quotas(quotas))) };
        let refuse = |refusal| {
            model.limits.undo(rows);
            undo_tenant();
            refuse(refusal, format_args!("route {}", route.name))
        };
        route.limits.take_rates(rows, now).map_err(refuse)?;
        if !route.limits.has_concurrency() {
            return Ok(Entry::Enters(Quotas(quotas)));
        }
        // Who waits goes first.
        if !route.has_waiting() && route.limits.try_occupy() {
            return Ok(Entry::Enters(Quotas(quotas | ROUTE)));
        }
        if route.may_wait() {
            // It is not with the model, and may never be.
            if quotas & MODEL != 0 {
                model.limits.leave(1);
            }
            return Ok(Entry::Waits(Quotas(quotas & !MODEL)));
        }
        let occupied = route.limits.occupy();
        match occupied {
            Ok(()) => Ok(Entry::Enters(Quotas(quotas | ROUTE))),
            Err(refusal) => {
                route.limits.give_rates_back(rows);
                Err(refuse(refusal).into())
            }
        }
    }

    /// For a request that was let in and then refused elsewhere.
    #[cold]
    pub fn undo_limits(&self, quotas: Quotas, model: &Model, route: Option<&Route>, rows: usize) {
        let rows = u32::try_from(rows).unwrap_or(u32::MAX);
        if let Some(place) = quotas.tenant() {
            self.table.tenants.undo(place, rows);
        }
        match quotas.0 & MODEL {
            0 => model.limits.give_rates_back(rows),
            _ => model.limits.undo(rows),
        }
        if let Some(route) = route {
            match quotas.0 & ROUTE {
                0 => route.limits.give_rates_back(rows),
                _ => route.limits.undo(rows),
            }
        }
    }
}

impl Table {
    /// A request has ended: what it counted in is given back, once.
    #[cold]
    pub fn leave_quotas(&self, batch: &Batch, member: usize, status: Status) {
        let hop = &batch.cold(member).hop;
        let quotas = Quotas(hop.quotas.swap(0, Ordering::AcqRel));
        if !quotas.any() {
            return;
        }
        if let Some(place) = quotas.tenant() {
            self.tenants.leave(place, status);
        }
        if quotas.0 & MODEL != 0
            && let Some(limits) = &batch.line.limits
        {
            limits.leave(1);
        }
        if quotas.0 & ROUTE != 0
            && let Some(way) = hop.way()
        {
            way.route.limits.leave(1);
            if way.route.has_waiting() {
                way.route.warden.wake();
            }
        }
    }
}

impl Quotas {
    /// What is added for one that has waited, and now counts among the route's requests at once.
    pub const fn of_route() -> u64 {
        ROUTE
    }
}
