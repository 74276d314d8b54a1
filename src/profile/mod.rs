//! What went on in an engine, and what there is to say about it.

pub mod advice;
mod baseline;
pub mod operators;
mod picture;
mod recorder;
pub mod recording;
pub mod report;
mod ring;
#[cfg(test)]
mod ring_tests;
mod span;
mod trends;

pub use baseline::Baseline;
pub use picture::{
    MemoryPicture, ModelPicture, OperatorShare, Picture, RoutePicture, SettingsInForce, Spread,
    TargetPicture, Times,
};
pub use recorder::{Counts, Recorder};
pub use span::{Kind, Span};
pub use trends::{Levels, Reading, Trends};
