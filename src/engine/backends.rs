//! Backends that the host and plugins add.
#![allow(unsafe_code)]

use super::Engine;
use crate::abi::backend::blaze_backend;
use crate::backend::Foreign;
use crate::error::{Error, Result};
use std::sync::Arc;

impl Engine {
    /// Makes a backend known, until the engine is dropped.
    ///
    /// # Safety
    /// As `Foreign::new`.
    pub unsafe fn register_backend(&self, backend: &blaze_backend) -> Result<()> {
        let core = self.core();
        if core.table.is_closed() {
            return Err(Error::shut_down());
        }
        // SAFETY: promised by the caller.
        let backend = unsafe { Foreign::new(backend, core.logger.clone(), &core.pool) }?;
        core.backends.add(Arc::new(backend))
    }
}
