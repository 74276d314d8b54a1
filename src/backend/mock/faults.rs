//! Failure on command: which run fails, and how.

use super::strikes_load;
use crate::backend::Interrupt;
use crate::config::{FaultConfig, FaultKind, MockConfig};
use crate::error::{Error, Result, Status};
use std::sync::atomic::{AtomicU64, Ordering};

/// The faults of one model, and how many runs it has had.
pub struct Faults {
    faults: Vec<FaultConfig>,
    runs: AtomicU64,
}

impl Faults {
    pub fn new(config: &MockConfig) -> Self {
        let faults = config.faults.iter().filter(|fault| !strikes_load(fault.kind)).cloned().collect();
        Faults { faults, runs: AtomicU64::new(0) }
    }

    /// Counts a run and fails it if a fault is due. Returns the nanoseconds it is to take longer.
    pub fn strike_run(&self, interrupt: &Interrupt) -> Result<u64> {
        self.strike(|| _ = interrupt.sleep(u64::MAX))
    }

    /// As `strike_run`, for a step, of which nobody but those who want its results says whether it is wanted.
    pub fn strike_step(&self, is_wanted: impl Fn() -> bool) -> Result<u64> {
        self.strike(|| {
            while is_wanted() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        })
    }

    /// `hang` returns when the run is not wanted any more.
    fn strike(&self, hang: impl Fn()) -> Result<u64> {
        let run = self.runs.fetch_add(1, Ordering::Relaxed);
        let mut extra_ns = 0u64;
        for fault in self.faults.iter().filter(|fault| is_due(fault, run) && is_on(fault, run)) {
            match fault.kind {
                FaultKind::Slow => extra_ns = extra_ns.saturating_add(fault.latency_us.saturating_mul(1000)),
                FaultKind::Hang => {
                    hang();
                    return Err(Error::new(Status::Cancelled, "the hanging run was interrupted"));
                }
                kind => fail(kind, &format!("run {run}"))?,
            }
        }
        Ok(extra_ns)
    }
}

/// Fails a load if the configuration says so.
pub fn strike_load(config: &MockConfig) -> Result<()> {
    config
        .faults
        .iter()
        .filter(|fault| strikes_load(fault.kind))
        .try_for_each(|fault| fail(fault.kind, "load"))
}

/// Whether chance and the fault's switch have it strike.
fn is_on(fault: &FaultConfig, run: u64) -> bool {
    // Runs are numbered: the same ones are struck each time.
    let chance = (run.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 11) as f64 / (1u64 << 53) as f64;
    chance < fault.share && fault.while_exists.as_ref().is_none_or(|path| std::path::Path::new(path).exists())
}

fn is_due(fault: &FaultConfig, run: u64) -> bool {
    run.checked_sub(fault.after).is_some_and(|since| {
        since % fault.every == 0 && fault.count.is_none_or(|count| since / fault.every < count)
    })
}

#[allow(clippy::panic)] // a fault that panics is what was asked for
fn fail(kind: FaultKind, what: &str) -> Result<()> {
    let status = match kind {
        FaultKind::Error => Status::BackendFailed,
        FaultKind::OutOfMemory | FaultKind::LoadOutOfMemory => Status::OutOfMemory,
        FaultKind::DeviceLost => Status::DeviceLost,
        FaultKind::LoadError => Status::ModelInvalid,
        FaultKind::Panic | FaultKind::LoadPanic => panic!("injected panic in {what}"),
        FaultKind::Hang | FaultKind::Slow => return Ok(()),
    };
    Err(Error::new(status, format!("injected fault in {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_strike_the_runs_they_name() {
        let fault = |after, every, count| FaultConfig {
            kind: FaultKind::Error,
            after,
            every,
            count,
            share: 1.0,
            while_exists: None,
            latency_us: 0,
        };
        let struck = |fault: &FaultConfig| (0..8).filter(|&run| is_due(fault, run)).collect::<Vec<u64>>();
        assert_eq!(struck(&fault(0, 1, None)), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(struck(&fault(2, 3, None)), [2, 5]);
        assert_eq!(struck(&fault(1, 2, Some(2))), [1, 3]);
        assert_eq!(struck(&fault(3, 1, Some(0))), [] as [u64; 0]);
    }
}
