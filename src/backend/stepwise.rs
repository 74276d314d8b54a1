//! Models that work on several requests at a time, each of them in many steps, and what these say before they end.

use crate::error::Result;
use crate::tensor::{OutputPlace, Tensor};
use std::any::Any;
use std::sync::Arc;

/// A model of this kind. One thread at a time calls it.
pub trait Stepwise: Send + Sync {
    /// Begins a request. `inputs` are in the signature's order; `None` is an optional input that was not given. `places` say
    /// where each output is wanted; none of them: on the host.
    fn begin(
        self: Arc<Self>,
        inputs: Arc<Vec<Option<Tensor>>>,
        places: &[OutputPlace],
        sink: Arc<dyn Sink>,
    ) -> Result<Box<dyn Sequence>>;

    /// Advances all of these, which it has begun, by one step. An error is of all that it has begun.
    fn step(&self, live: &mut [&mut dyn Sequence]) -> Result<()>;
}

/// A request that was begun. It is given up by dropping it.
pub trait Sequence: Any + Send {
    /// How it has ended, once it has: every output in the signature's order, or why it failed. Asked after `begin` and
    /// after each step, until it says.
    fn take_end(&mut self) -> Option<Result<Vec<Tensor>>>;
}

/// Where a request says what it has come to so far.
pub trait Sink: Send + Sync {
    /// Sends text, and how far the request has come, from 0 to 1; either may be missing. `QueueFull`: so much waits that
    /// nothing was taken; `Cancelled`: nobody wants the result any more.
    fn emit(&self, text: &[u8], progress: Option<f32>) -> Result<()>;

    /// Whether somebody still wants the result.
    fn is_wanted(&self) -> bool;

    /// The request has ended: its end can be taken.
    fn ended(&self);
}
