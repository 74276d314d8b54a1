//! The settings that tuning changes, and what they must stay within.

use crate::config::TuningLimits;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The settings of a model that can be changed while it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub max_rows: u32,
    pub max_delay_us: u32,
    pub lanes: u32,
    pub intra_op_threads: u32,
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { max_rows, max_delay_us, lanes, intra_op_threads } = self;
        write!(f, "max_rows {max_rows}, max_delay_us {max_delay_us}, lanes {lanes}, ")?;
        write!(f, "intra_op_threads {intra_op_threads}")
    }
}

/// What settings must stay within: the least and the most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bounds {
    pub max_rows: [u32; 2],
    pub max_delay_us: [u32; 2],
    pub lanes: [u32; 2],
    pub intra_op_threads: [u32; 2],
    /// If `max_rows` may only be one of some.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<u32>,
    /// Lanes times threads inside an operator are no more than that, unless one of them is 1.
    #[serde(skip)]
    pub cores: u32,
}

/// The most rows that are tried if the host says nothing.
const MOST_ROWS: u32 = 512;
const MOST_DELAY_US: u32 = 5_000;

impl Bounds {
    /// The host's limits, and what makes sense where it has none: `own` are the settings to begin with.
    pub fn new(limits: &TuningLimits, own: &Settings, cores: u32) -> Self {
        let or = |limit: Option<[u32; 2]>, least: u32, most: u32, own: u32| {
            limit.unwrap_or([least.min(own), most.max(own)])
        };
        Bounds {
            max_rows: or(limits.max_rows, 1, MOST_ROWS, own.max_rows),
            max_delay_us: or(limits.max_delay_us, 0, MOST_DELAY_US, own.max_delay_us),
            lanes: or(limits.lanes, 1, cores, own.lanes),
            intra_op_threads: or(limits.intra_op_threads, 1, cores, own.intra_op_threads),
            sizes: Vec::new(),
            cores,
        }
    }

    /// Nothing may change.
    pub fn fixed(own: &Settings) -> Self {
        Bounds {
            max_rows: [own.max_rows; 2],
            max_delay_us: [own.max_delay_us; 2],
            lanes: [own.lanes; 2],
            intra_op_threads: [own.intra_op_threads; 2],
            sizes: Vec::new(),
            cores: u32::MAX,
        }
    }

    /// Requests are not joined, so nothing that is about joining them changes.
    pub fn without_batching(mut self, own: &Settings) -> Self {
        (self.max_rows, self.max_delay_us) = ([own.max_rows; 2], [own.max_delay_us; 2]);
        self
    }

    /// The backend cannot be loaded again.
    pub fn without_reloading(mut self, own: &Settings) -> Self {
        self.intra_op_threads = [own.intra_op_threads; 2];
        self
    }

    /// The nearest settings within.
    pub fn clamp(&self, settings: &Settings) -> Settings {
        let clamp = |value: u32, [least, most]: [u32; 2]| value.clamp(least, most);
        let mut max_rows = clamp(settings.max_rows, self.max_rows);
        if !self.sizes.is_empty() && !self.sizes.contains(&max_rows) {
            let allowed = || self.sizes.iter().copied().filter(|&size| clamp(size, self.max_rows) == size);
            max_rows = allowed().min_by_key(|&size| size.abs_diff(max_rows)).unwrap_or(max_rows);
        }
        Settings {
            max_rows,
            max_delay_us: clamp(settings.max_delay_us, self.max_delay_us),
            lanes: clamp(settings.lanes, self.lanes),
            intra_op_threads: clamp(settings.intra_op_threads, self.intra_op_threads),
        }
    }

    /// Whether settings are within, and do not have more threads than there are cores.
    pub fn allow(&self, settings: &Settings) -> bool {
        let fits = settings.lanes == 1
            || settings.intra_op_threads == 1
            || settings.lanes.saturating_mul(settings.intra_op_threads) <= self.cores;
        fits && self.clamp(settings) == *settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_limits_win() {
        let own = Settings { max_rows: 2, max_delay_us: 9_000, lanes: 1, intra_op_threads: 1 };
        let limits = TuningLimits { max_rows: Some([8, 32]), ..TuningLimits::default() };
        let mut bounds = Bounds::new(&limits, &own, 4);
        assert_eq!(bounds.max_delay_us, [0, 9_000]);
        assert_eq!(bounds.clamp(&own).max_rows, 8);
        assert!(!bounds.allow(&own));
        assert!(bounds.allow(&Settings { max_rows: 32, lanes: 2, intra_op_threads: 2, ..own }));
        assert!(!bounds.allow(&Settings { max_rows: 32, lanes: 4, intra_op_threads: 2, ..own }));
        bounds.sizes = vec![4, 16, 64];
        assert_eq!(bounds.clamp(&own).max_rows, 16);
    }
}
