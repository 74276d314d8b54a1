//! Changing a model's settings while it works. No request is lost or fails by it: what is filling or running ends as it
//! is, what comes afterwards is run as the model is set then.

use super::ModelId;
use super::lifecycle::{Core, Engine};
use super::load;
use super::model::Model;
use super::routes::is_route;
use crate::config::ChangeConfig;
use crate::error::{Error, Result, Status};
use crate::sync::{Ordering, lock};
use crate::tuning::{Bounds, Settings};
use std::sync::Arc;

impl Engine {
    /// Changes a model's settings.
    pub fn configure(&self, id: ModelId, change: &ChangeConfig) -> Result<()> {
        if is_route(id) {
            let text = "the handle is a route's; routes are changed with blaze_route_update";
            return Err(Error::new(Status::InvalidArgument, text));
        }
        let core = self.core();
        if core.table.is_closed() {
            return Err(Error::shut_down());
        }
        let model = core.models.get(id)?;
        core.change(&model, |now| Settings {
            max_rows: change.batching.max_rows.unwrap_or(now.max_rows),
            max_delay_us: change.batching.max_delay_us.unwrap_or(now.max_delay_us),
            lanes: change.lanes.unwrap_or(now.lanes),
            intra_op_threads: change.intra_op_threads.unwrap_or(now.intra_op_threads),
        })?;
        Ok(())
    }
}

impl Model {
    /// The settings in force.
    pub fn settings(&self) -> Settings {
        Settings {
            max_rows: self.queue.max_rows() as u32,
            max_delay_us: self.queue.max_delay_us(),
            lanes: self.lanes(),
            intra_op_threads: self.intra_op_threads.load(Ordering::Relaxed),
        }
    }

    /// Why a model has no settings that could be changed.
    pub fn can_be_set(&self) -> Result<()> {
        if self.is_stepwise() {
            let text = "the model advances by steps: it has no settings that can be changed";
            return Err(Error::new(Status::InvalidState, text));
        }
        Ok(())
    }

    /// Why a model cannot have these settings.
    fn check(&self, settings: &Settings) -> Result<()> {
        self.can_be_set()?;
        let now = self.settings();
        let unfit = |text: String| Err(Error::new(Status::InvalidState, text));
        if settings.max_rows != now.max_rows && !self.joins_rows() {
            return unfit("batching.max_rows: the model's requests are not joined".into());
        }
        let buckets = &self.config.batching.buckets;
        if settings.max_rows != now.max_rows && !buckets.is_empty() && !buckets.contains(&settings.max_rows) {
            return unfit(format!("batching.max_rows: must be one of the model's buckets, {buckets:?}"));
        }
        if settings.intra_op_threads != now.intra_op_threads && !self.can_reload() {
            return unfit("intra_op_threads: a model given from memory cannot be loaded again".into());
        }
        Ok(())
    }

    /// What tuning may set.
    pub fn bounds(&self, core: &Core) -> Bounds {
        let config = Settings {
            max_rows: self.config.batching.max_rows,
            max_delay_us: self.config.batching.max_delay_us,
            lanes: self.config.lanes,
            intra_op_threads: self.intra_op_threads.load(Ordering::Relaxed),
        };
        if self.is_stepwise() {
            return Bounds::fixed(&self.settings());
        }
        let mut bounds = Bounds::new(&core.config.tuning.limits, &config, core.cores as u32);
        bounds.sizes.clone_from(&self.config.batching.buckets);
        if !self.joins_rows() {
            bounds = bounds.without_batching(&self.settings());
        }
        if !self.can_reload() || self.config.backend != "onnx" {
            bounds = bounds.without_reloading(&self.settings());
        }
        bounds
    }
}

impl Core {
    /// Changes a model's settings, and returns them. Others that change them wait meanwhile.
    pub fn change(
        self: &Arc<Self>,
        model: &Arc<Model>,
        wanted: impl FnOnce(Settings) -> Settings,
    ) -> Result<Settings> {
        let mut changes = lock(&model.changing);
        let now = model.settings();
        let wanted = wanted(now);
        if wanted == now {
            return Ok(now);
        }
        model.check(&wanted)?;
        if wanted.intra_op_threads != now.intra_op_threads {
            model.intra_op_threads.store(wanted.intra_op_threads, Ordering::Relaxed);
            self.exchange_backend(model).inspect_err(|_| {
                model.intra_op_threads.store(now.intra_op_threads, Ordering::Relaxed);
            })?;
        }
        model.queue.set(wanted.max_rows as usize, wanted.max_delay_us, wanted.lanes);
        *changes += 1;
        if !model.by_crew && self.config.threads != Some(0) && !model.queue.is_closed() {
            load::start_lane_threads(self, model)?;
        }
        self.logger.debug("model", format_args!("{}: {wanted}", model.full_name));
        Ok(wanted)
    }
}
