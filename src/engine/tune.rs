//! Offline tuning: a model is driven with synthetic requests in every combination of the settings that are to be tried.

use super::admission::{Admitted, InputData, InputTensor, RequestDescription, admit};
use super::completion::CompletionQueue;
use super::event::Event;
use super::execute::c_text;
use super::lifecycle::{Core, Engine, Queue};
use super::model::Model;
use super::submit::Role;
use super::{ModelId, Ticket, warm_up};
use crate::backend::Interrupt;
use crate::clock::now_ns;
use crate::config::TuneConfig;
use crate::error::{Error, Result, Status};
use crate::metrics::Histogram;
use crate::panics::catch;
use crate::sync::{Ordering, lock};
use crate::tensor::{Data, Shape};
use crate::tuning::{Goal, Point, Run, Settings, noise, ranked};
use serde_json::{Value, json};
use std::sync::Arc;

/// A point is run for this part of its time before it is measured, at least and at most so long.
const WARM_UP_PART: u64 = 5;
const WARM_UP_NS: (u64, u64) = (5_000_000, 200_000_000);
/// So many of the best are measured again, so often.
const AGAIN: usize = 3;
const TIMES: usize = 2;
/// How long to wait for requests before looking whether tuning is still wanted.
const LOOK_NS: u64 = 5_000_000;
/// How long the last requests may take.
const END_NS: u64 = 10_000_000_000;
/// Events that are taken at once.
const EVENTS: usize = 256;

impl Engine {
    /// Searches the settings that a model runs best with; returns the report, as JSON.
    pub fn tune(&self, config: &TuneConfig) -> Result<String> {
        if self.core().table.is_closed() {
            return Err(Error::shut_down());
        }
        self.core().tune(config, &Interrupt::new()).map(|report| report.to_string())
    }

    /// Searches the settings that a model runs best with, in the background; the event's text is the report.
    pub fn tune_async(&self, config: TuneConfig, queue: &Queue, user_data: u64) -> Result<Ticket> {
        let (ticket, index) = self.core().open_job(queue, user_data, None)?;
        self.core().start_work("blaze-tune", move |core| {
            let result = catch(|| core.tune(&config, core.table.interrupt(index)));
            core.complete_job(index, result.map(|report| (0, c_text(report.to_string()))));
        });
        Ok(ticket)
    }
}

impl Core {
    fn tune(self: &Arc<Self>, config: &TuneConfig, interrupt: &Interrupt) -> Result<Value> {
        let tuning = &self.tuning;
        if tuning.offline.swap(true, Ordering::SeqCst) {
            return Err(Error::new(Status::InvalidState, "another blaze_tune is under way"));
        }
        // Nobody else is to change settings meanwhile: what is under way there ends first.
        let report = {
            let _alone = lock(&tuning.turn);
            catch(|| self.search(config, interrupt))
        };
        tuning.offline.store(false, Ordering::SeqCst);
        if let Ok(report) = &report {
            *lock(&tuning.searched) = Some(report.clone());
        }
        report
    }

    fn search(self: &Arc<Self>, config: &TuneConfig, interrupt: &Interrupt) -> Result<Value> {
        let id = self.models.find(&config.model)?;
        let model = self.models.get(id)?;
        model.can_be_set()?;
        let (before, goal) = (model.settings(), self.goal_of(config));
        let grid = self.grid(config, &model)?;
        let completion = self.table.new_queue(config.in_flight.saturating_add(1));
        let driver = Driver { core: self, id, config, completion, interrupt };
        let searched = driver.search(&model, &grid, before, &goal);
        self.table.put_queue_when_done(&driver.completion);
        let keep = searched.as_ref().ok().and_then(|found| found.best).filter(|_| config.apply);
        let restored = self.change(&model, |_| keep.unwrap_or(before));
        let found = searched?;
        restored?;
        let best = found.best.and_then(|best| found.points.iter().find(|point| point.settings == best));
        let saved = match (best, &self.config.tuning.directory) {
            (Some(best), Some(_)) => self.save_learned(&model, &best.settings, best.rows_per_second()),
            _ => None,
        };
        let first = found.points.iter().find(|point| point.settings == before);
        let gain =
            best.zip(first).map(|(best, first)| best.requests_per_second() / first.requests_per_second());
        Ok(json!({
            "model": model.full_name,
            "objective": goal.objective.name(),
            "p99_ms": goal.p99_ms(),
            "in_flight": config.in_flight,
            "rows": config.rows,
            "before": before,
            "points": found.points.iter().map(Point::report).collect::<Vec<_>>(),
            "best": best.map(Point::report),
            "gain": gain.filter(|gain| gain.is_finite()),
            "noise": noise(&found.points),
            "applied": keep.is_some(),
            "configuration": best.map(|best| configuration(&best.settings)),
            "saved": saved,
        }))
    }

    fn goal_of(&self, config: &TuneConfig) -> Goal {
        let own = &self.config.tuning;
        let p99_ms = config.p99_ms.or(own.p99_ms);
        Goal::new(config.objective.unwrap_or(own.objective), p99_ms)
    }

    /// Every combination of what is to be tried, those that are dear to change last, and the model's own among them.
    fn grid(&self, config: &TuneConfig, model: &Model) -> Result<Vec<Settings>> {
        let (own, bounds) = (model.settings(), model.bounds(self));
        let ladder = |range: [u32; 2], steps: &[u32], own: u32| -> Vec<u32> {
            let mut list: Vec<u32> =
                steps.iter().copied().filter(|step| (range[0]..=range[1]).contains(step)).collect();
            list.push(own.clamp(range[0], range[1]));
            list.sort_unstable();
            list.dedup();
            list
        };
        let most = config.in_flight.saturating_mul(config.rows).max(own.max_rows);
        let rows: Vec<u32> = match bounds.sizes.is_empty() {
            true => (0..=9).map(|power| 1 << power).filter(|&rows| rows > 2 && rows <= most).collect(),
            false => bounds.sizes.clone(),
        };
        let cores: Vec<u32> = (1..=bounds.cores).collect();
        let given = |name: &str, list: &Option<Vec<u32>>, range: [u32; 2], otherwise: Vec<u32>| {
            let Some(list) = list else { return Ok(otherwise) };
            let outside = list.iter().position(|value| !(range[0]..=range[1]).contains(value));
            outside.map_or(Ok(list.clone()), |index| {
                let [least, most] = range;
                let text = format!("{name}[{index}]: tuning may set {least} to {most} here");
                Err(Error::new(Status::InvalidConfig, text))
            })
        };
        let delay = ladder(bounds.max_delay_us, &[0, 200, 1000], own.max_delay_us);
        let rows = ladder(bounds.max_rows, &rows, own.max_rows);
        let lanes = ladder(bounds.lanes, &cores, own.lanes);
        // What the host asks for is bound by its limits only.
        let limits = &self.config.tuning.limits;
        let any = |limit: Option<[u32; 2]>, fixed: [u32; 2]| {
            limit.unwrap_or(if fixed[0] == fixed[1] { fixed } else { [0, u32::MAX] })
        };
        let all_rows = given("max_rows", &config.max_rows, any(limits.max_rows, bounds.max_rows), rows)?;
        let all_delays = given(
            "max_delay_us",
            &config.max_delay_us,
            any(limits.max_delay_us, bounds.max_delay_us),
            delay,
        )?;
        let all_lanes = given("lanes", &config.lanes, any(limits.lanes, [0, u32::MAX]), lanes)?;
        let intra = any(limits.intra_op_threads, bounds.intra_op_threads);
        let all_intra =
            given("intra_op_threads", &config.intra_op_threads, intra, vec![own.intra_op_threads])?;
        let mut grid = vec![own];
        for &intra_op_threads in &all_intra {
            for &lanes in &all_lanes {
                for &max_delay_us in &all_delays {
                    for &max_rows in &all_rows {
                        let settings = Settings { max_rows, max_delay_us, lanes, intra_op_threads };
                        if !grid.contains(&settings) {
                            grid.push(settings);
                        }
                    }
                }
            }
        }
        Ok(grid)
    }
}

/// What to write into a model's configuration.
fn configuration(settings: &Settings) -> Value {
    json!({
        "batching": {"max_rows": settings.max_rows, "max_delay_us": settings.max_delay_us},
        "lanes": settings.lanes,
        "intra_op_threads": settings.intra_op_threads,
    })
}

struct Found {
    points: Vec<Point>,
    best: Option<Settings>,
}

struct Driver<'a> {
    core: &'a Arc<Core>,
    id: ModelId,
    config: &'a TuneConfig,
    completion: Arc<CompletionQueue>,
    interrupt: &'a Interrupt,
}

impl Driver<'_> {
    fn search(&self, model: &Arc<Model>, grid: &[Settings], own: Settings, goal: &Goal) -> Result<Found> {
        let mut points: Vec<Point> = grid.iter().map(|settings| Point::new(*settings)).collect();
        for point in &mut points {
            let run = self.measure(model, &point.settings);
            match run {
                Ok(run) => point.runs.push(run),
                Err(error) if self.is_over(&error) => return Err(error),
                // The model cannot be run so: there is no room for another session, say.
                Err(error) if point.settings != own => point.error = Some(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        // The best ones again, so that no lucky run decides.
        let mut again: Vec<usize> = ranked(&points, goal).into_iter().take(AGAIN).collect();
        if let Some(own) = points.iter().position(|point| point.settings == own)
            && !again.contains(&own)
        {
            again.push(own);
        }
        for _ in 0..TIMES {
            for &index in &again {
                let run = self.measure(model, &points[index].settings)?;
                points[index].runs.push(run);
            }
        }
        again.sort_by_key(|&index| ranked(&points, goal).iter().position(|&other| other == index));
        let best = again.first().map(|&index| points[index].settings);
        Ok(Found { points, best })
    }

    fn is_over(&self, error: &Error) -> bool {
        self.interrupt.is_raised() || matches!(error.status, Status::Cancelled | Status::ShutDown)
    }

    fn measure(&self, model: &Arc<Model>, settings: &Settings) -> Result<Run> {
        self.check()?;
        self.core.change(model, |_| *settings)?;
        let inputs = warm_up::example(self.core, model)?;
        let mut shapes: Vec<(usize, Shape, Vec<u8>)> = Vec::new();
        for (index, tensor) in inputs.iter().enumerate() {
            let Some(tensor) = tensor else { continue };
            let (mut shape, mut bytes) = (tensor.shape.clone(), Vec::new());
            if !matches!(tensor.data, Data::Strings(_)) {
                bytes = tensor.bytes().repeat(self.config.rows as usize);
            }
            if self.config.rows > 1 {
                match shape.first_mut().filter(|_| model.joins_rows()) {
                    Some(rows) => *rows = i64::from(self.config.rows),
                    None => {
                        let text = "rows: the model's requests are not joined, so each is one row";
                        return Err(Error::new(Status::InvalidConfig, text));
                    }
                }
            }
            shapes.push((index, shape, bytes));
        }
        let mut description =
            RequestDescription { model: self.id, level: 1, ..RequestDescription::default() };
        for (index, shape, bytes) in &shapes {
            let (spec, tensor) = (&model.signature.inputs[*index], inputs[*index].as_ref());
            let name = (shapes.len() < inputs.len()).then_some(spec.name.as_str());
            let data = match tensor.map(|tensor| &tensor.data) {
                Some(Data::Strings(strings)) => InputData::Strings(strings.iter().collect()),
                _ => InputData::Copy(bytes),
            };
            description.inputs.push(InputTensor { name, dtype: spec.dtype, shape, data });
        }
        let mut admitted = Admitted::default();
        admit(&description, model, &mut admitted)?;
        let full_ns = (self.config.seconds_per_point * 1e9) as u64;
        let warm_ns = (full_ns / WARM_UP_PART).clamp(WARM_UP_NS.0, WARM_UP_NS.1);
        let mut tally = Tally::default();
        let mut in_flight = 0;
        let driven =
            self.drive(&description, &admitted, &mut in_flight, warm_ns, &mut tally).and_then(|_| {
                tally = Tally::default();
                self.drive(&description, &admitted, &mut in_flight, full_ns, &mut tally)
            });
        let mut rest = Tally::default();
        let ended = self.collect(&mut in_flight, &mut rest);
        let elapsed_ns = driven?;
        ended?;
        tally.run(elapsed_ns, self.config.rows)
    }

    fn check(&self) -> Result<()> {
        if self.core.table.is_closed() {
            return Err(Error::shut_down());
        }
        match self.interrupt.is_raised() {
            true => Err(Error::new(Status::Cancelled, "tuning was cancelled")),
            false => Ok(()),
        }
    }

    /// Keeps requests in flight for a while; returns how long it was.
    fn drive(
        &self,
        description: &RequestDescription<'_>,
        admitted: &Admitted<'_>,
        in_flight: &mut u32,
        for_ns: u64,
        tally: &mut Tally,
    ) -> Result<u64> {
        let core = self.core;
        let began = now_ns();
        loop {
            self.check()?;
            {
                // Not for longer: who unloads the model waits for it.
                let pin = core.models.pin(self.id, true)?;
                let now = now_ns();
                while *in_flight < self.config.in_flight {
                    let role = Role::default();
                    let sent = core.submit(description, admitted, &pin, Some(&self.completion), now, &role);
                    match sent {
                        Ok(_) => *in_flight += 1,
                        // The host's requests take the room: fewer will do.
                        Err(error) if error.status == Status::QueueFull && *in_flight > 0 => break,
                        Err(error) => return Err(error),
                    }
                }
            }
            self.take(in_flight, tally, now_ns() + LOOK_NS)?;
            let elapsed = now_ns() - began;
            if elapsed >= for_ns {
                return Ok(elapsed);
            }
        }
    }

    /// Waits for what is still in flight.
    fn collect(&self, in_flight: &mut u32, tally: &mut Tally) -> Result<()> {
        let until = now_ns() + END_NS;
        while *in_flight > 0 && now_ns() < until && !self.completion.is_over() {
            self.take(in_flight, tally, now_ns() + LOOK_NS)?;
        }
        Ok(())
    }

    fn take(&self, in_flight: &mut u32, tally: &mut Tally, until_ns: u64) -> Result<()> {
        let core = self.core;
        let Some(consumer) = self.completion.enter(&core.table) else { return Ok(()) };
        let mut taken = |event: Event| tally.add(&event);
        let mut count = consumer.poll(EVENTS, &mut taken);
        if count == 0 && core.config.threads == Some(0) {
            // This is the host's thread, and nobody else works.
            let _ = core.run_batch() || core.jobs.run_one();
            count = consumer.poll(EVENTS, &mut taken);
        } else if count == 0 {
            count = consumer.wait(EVENTS, until_ns, &core.spinning, &mut taken);
        }
        *in_flight -= count as u32;
        match tally.failed.take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// What has come of synthetic requests.
#[derive(Default)]
struct Tally {
    times: Histogram,
    count: u64,
    batch_rows: u64,
    failed: Option<Error>,
}

impl Tally {
    fn add(&mut self, event: &Event) {
        if event.status != Status::Ok {
            let text = event.payload.as_ref().and_then(|payload| payload.text()).unwrap_or_default();
            let error = Error::new(event.status, format!("a synthetic request has failed: {text}"));
            self.failed.get_or_insert(error);
            return;
        }
        let timing = &event.timing;
        self.times.record(timing.queued_ns + timing.batched_ns + timing.computed_ns);
        self.count += 1;
        self.batch_rows += u64::from(timing.batch_rows);
    }

    fn run(&self, elapsed_ns: u64, rows: u32) -> Result<Run> {
        if self.count == 0 {
            return Err(Error::new(Status::Timeout, "no request has ended in seconds_per_point"));
        }
        let [p50_ns, p99_ns] = [0.5, 0.99].map(|share| self.times.quantile(share));
        let requests_per_second = self.count as f64 * 1e9 / elapsed_ns.max(1) as f64;
        Ok(Run {
            requests_per_second,
            rows_per_second: requests_per_second * f64::from(rows),
            batch_rows: self.batch_rows as f64 / self.count as f64,
            p50_ns,
            p99_ns,
        })
    }
}
