//! Tuning: which settings a model runs best with. Pure policy: it is told what was measured, and says what to try.

mod settings;

pub use settings::{Bounds, Settings};
