//! What went on in an engine, and what there is to say about it.

pub mod advice;
mod baseline;
mod picture;
mod trends;

pub use baseline::Baseline;
pub use picture::{
    MemoryPicture, ModelPicture, OperatorShare, Picture, RoutePicture, SettingsInForce, Spread,
    TargetPicture, Times,
};
pub use trends::{Levels, Reading, Trends};
