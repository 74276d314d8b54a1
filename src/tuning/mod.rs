//! Tuning: which settings a model runs best with. Pure policy: it is told what was measured, and says what to try.

mod advice;
mod points;
mod search;
mod settings;
#[cfg(test)]
mod simulation;
mod tuner;

pub use advice::Advice;
pub use points::{Goal, Point, Run, median, noise, ranked};
pub use settings::{Bounds, Settings};
pub use tuner::{Change, Picture, Seen, Step, Tuner, Window};
