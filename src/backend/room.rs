//! What is reserved under the budget for a model that is being loaded.

use crate::memory::Reservation;
use crate::sync::{Mutex, lock};
use std::sync::Arc;

/// A reservation that becomes, bit by bit, what the backend takes by itself.
#[derive(Clone, Default)]
pub struct Room(Arc<Mutex<Option<Reservation>>>);

impl Room {
    pub fn new(reservation: Reservation) -> Self {
        Room(Arc::new(Mutex::new(Some(reservation))))
    }

    /// Gives so many bytes back, which are about to be taken.
    pub fn spend(&self, bytes: u64) {
        if let Some(reservation) = &mut *lock(&self.0) {
            let left = reservation.bytes().saturating_sub(bytes);
            reservation.resize_forced(left);
        }
    }

    /// The end of the load: what is left, to be made what the model takes besides. Only once.
    pub fn end(&self) -> Option<Reservation> {
        lock(&self.0).take()
    }
}
