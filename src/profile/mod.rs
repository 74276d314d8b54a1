//! What went on in an engine, and what there is to say about it.

pub mod advice;
mod picture;

pub use picture::{
    MemoryPicture, ModelPicture, OperatorShare, Picture, RoutePicture, SettingsInForce, Spread,
    TargetPicture, Times,
};
