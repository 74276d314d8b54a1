//! The router's parts: how a target is picked, when it is left alone, who may ask how much. Nothing here knows models or
//! requests: everything works on counters and on the time that it is told.

mod adaptive;
mod attempts;
mod breaker;
mod bucket;
mod budget;
mod ewma;
mod fair;
mod hashing;
mod limits;
mod random;
mod sessions;
#[cfg(test)]
mod simulation;
mod strategy;
#[cfg(test)]
mod strategy_tests;
mod target;
mod tenants;
#[cfg(test)]
mod tests;
mod weighted;
mod window;

pub use adaptive::{Arm, Lesson};
pub use attempts::Attempts;
pub use breaker::{Breaker, Change, State};
pub use bucket::Bucket;
pub use budget::RetryBudget;
pub use ewma::PeakEwma;
pub use fair::WaitingRoom;
pub use limits::{Limits, Refusal, RefusalKind, Refused};
pub use random::{mix, unit};
pub use sessions::Sessions;
pub use strategy::{BUILT_IN, Choice, Strategy, make};
pub use target::{Bars, Peers, Tally, Target};
pub use tenants::{ClassTotals, Tenant, TenantRef, Tenants};
pub use window::{Calls, Window};
