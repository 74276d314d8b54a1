//! Profiles: begun, ended and reported, with what is known about memory, threads and operators.

use super::lifecycle::{Core, Engine};
use super::model::Model;
use super::spans::Spans;
use crate::clock::now_ns;
use crate::config::{ProfileConfig, ProfileLevel, ProfileMode};
use crate::error::{Error, Result, Status};
use crate::memory::Kind as Bytes;
use crate::platform::{self, ThreadTime};
use crate::profile::OperatorShare;
use crate::profile::operators::{self, Operator, Sums};
use crate::profile::recording::{MemorySample, Rare, Recording};
use crate::profile::report;
use crate::sync::{Ordering, lock};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// So many rare spans, and samples of memory, are kept.
const MOST_RARE: usize = 4096;
const MOST_SAMPLES: usize = 3600;
/// So many operators of a model are in a picture.
const SHARES: usize = 16;
const SECOND_NS: u64 = 1_000_000_000;

/// What is known of a profile besides its spans.
#[derive(Default)]
pub struct Session {
    config: ProfileConfig,
    /// 0: there was none yet.
    started_ns: u64,
    stopped_ns: u64,
    rare: VecDeque<Rare>,
    rare_dropped: u64,
    names: HashMap<u64, String>,
    memory: Vec<MemorySample>,
    operators: BTreeMap<String, Sums>,
    /// When a model's operators are profiled next.
    operators_due: HashMap<u64, u64>,
    directory: Option<PathBuf>,
    /// Files written so far.
    files: u64,
    notes: Vec<String>,
    threads: Vec<ThreadTime>,
    process_cpu_ns: Option<u64>,
    /// Batches and requests at the start; and at the stop.
    before: (u64, u64),
    after: Option<(u64, u64, Vec<ThreadTime>, Option<u64>)>,
}

impl Session {
    fn note(&mut self, text: String) {
        if !self.notes.contains(&text) && self.notes.len() < 100 {
            self.notes.push(text);
        }
    }

    fn directory(&mut self) -> Option<PathBuf> {
        if self.directory.is_none() {
            let base = self.config.directory.as_ref().map_or_else(std::env::temp_dir, PathBuf::from);
            let name = format!("blaze-profile-{}-{:08x}", std::process::id(), super::random_generation());
            let path = std::path::absolute(base.join(name)).ok()?;
            match platform::make_private_directory(&path) {
                Ok(()) => self.directory = Some(path),
                Err(error) => {
                    self.note(format!("operators are not profiled: cannot make {}: {error}", path.display()));
                    return None;
                }
            }
        }
        self.directory.clone()
    }

    fn remove_directory(&mut self) {
        if let Some(path) = self.directory.take() {
            let _ = fs::remove_dir_all(path); // what is left there is temporary
        }
    }
}

impl Spans {
    pub(super) fn add(&self, rare: Rare) {
        let mut session = lock(&self.session);
        if session.rare.len() >= MOST_RARE {
            session.rare.pop_front();
            session.rare_dropped += 1;
        }
        session.rare.push_back(rare);
    }

    /// Keeps the name of a model that leaves.
    pub fn remember(&self, model: &Model) {
        let mut session = lock(&self.session);
        if session.started_ns != 0 {
            session.names.insert(model.queue.lines.model_id(), model.full_name.clone());
        }
    }

    /// Where a model's runs spend their time, if that was profiled, largest first.
    pub fn operator_shares(&self, model: &str) -> Vec<OperatorShare> {
        let session = lock(&self.session);
        let Some(sums) = session.operators.get(model) else { return Vec::new() };
        let total = sums.total_us().max(1) as f64;
        let share = |operator: Operator| OperatorShare {
            share: operator.total_us as f64 / total,
            mean_ns: operator.total_us as f64 * 1000.0 / operator.count.max(1) as f64,
            name: operator.name,
            kind: operator.op,
            provider: operator.provider,
        };
        sums.operators().into_iter().take(SHARES).map(share).collect()
    }

    /// The engine ends.
    pub fn end(&self) {
        self.recorder.stop();
        lock(&self.session).remove_directory();
    }
}

impl Core {
    /// Batches that were run, and requests that have ended, since the engine was made.
    fn done(&self) -> (u64, u64) {
        let (ended, batches) = self.metrics.fleet.progress();
        (batches, ended)
    }

    fn memory_sample(&self) -> MemorySample {
        let (pool_hits, pool_misses) = self.pool.hits_and_misses();
        MemorySample {
            at_ns: now_ns(),
            used: self.ledger.used(),
            models: self.ledger.used_by(Bytes::Models),
            buffers: self.ledger.used_by(Bytes::Buffers),
            idle: self.pool.idle_bytes(),
            caches: self.ledger.used_by(Bytes::Caches),
            heap: platform::heap_in_use(),
            resident: platform::resident_bytes(),
            pool_hits,
            pool_misses,
            evictions: self.metrics.evictions.get(),
            queue_depth: self.table.unresolved(None, true),
            in_flight: self.table.unresolved(None, false),
        }
    }

    /// As `sample_memory_if_due`, for lanes: only if there is no observer to do it.
    pub(super) fn sample_memory_on_lane(&self, now: u64) {
        if self.config.threads == Some(0) || !self.config.metrics.trends {
            self.sample_memory_if_due(now);
        }
    }

    /// Takes note of what memory is used for, at most once a second.
    pub fn sample_memory_if_due(&self, now: u64) {
        let spans = &self.table.spans;
        let due = spans.sample_due_ns.load(Ordering::Relaxed);
        let mine = now >= due
            && spans
                .sample_due_ns
                .compare_exchange(due, now + SECOND_NS, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if mine && spans.recorder.records(ProfileMode::Memory) {
            let sample = self.memory_sample();
            let mut session = lock(&spans.session);
            if session.memory.len() >= MOST_SAMPLES {
                // Half as dense from here on: a chart needs no more.
                let mut at = 0;
                session.memory.retain(|_| {
                    at += 1;
                    at % 2 == 1
                });
            }
            session.memory.push(sample);
        }
    }

    /// Where the backend is to write a profile of the run that a lane is about to begin, if it is time for one.
    pub(super) fn operators_due(&self, model: &Model, now: u64) -> Option<PathBuf> {
        let spans = &self.table.spans;
        if model.config.backend != "onnx" || !spans.recorder.records(ProfileMode::Cpu) {
            return None;
        }
        let between_ns = match spans.recorder.level() {
            ProfileLevel::Basic => return None,
            ProfileLevel::Detailed => SECOND_NS,
            ProfileLevel::Comprehensive | ProfileLevel::Debug => SECOND_NS / 10,
        };
        let mut session = crate::sync::try_lock(&spans.session)?;
        let due = session.operators_due.entry(model.queue.lines.model_id()).or_default();
        if now < *due {
            return None;
        }
        *due = now + between_ns;
        session.files += 1;
        let name = format!("run-{}", session.files);
        session.directory().map(|directory| directory.join(name))
    }

    /// Reads the profile that the backend has written, in the background.
    pub(super) fn read_operators(self: &Arc<Self>, model: &Model, prefix: &Path) {
        let (name, prefix) = (model.full_name.clone(), prefix.to_owned());
        let read = move |core: &Arc<Core>| core.table.spans.read_operators(name, &prefix);
        match self.config.threads {
            Some(0) => read(self), // nobody may pump for long
            _ => self.start_work("blaze-profile", read),
        }
    }

    fn recording(&self) -> Result<Recording> {
        let spans = &self.table.spans;
        let running = spans.recorder.runs();
        let last = (running && spans.recorder.records(ProfileMode::Memory)).then(|| self.memory_sample());
        let now = (self.done(), platform::thread_times(), platform::process_cpu_ns());
        let mut session = lock(&spans.session);
        if session.started_ns == 0 {
            return Err(Error::new(
                Status::InvalidState,
                "nothing was profiled: call blaze_profile_start, or give the engine \"profile\"",
            ));
        }
        for (id, model) in self.models.all() {
            session.names.insert(id, model.full_name.clone());
        }
        let ((batches, requests), threads, process) = match &session.after {
            Some((batches, requests, threads, process)) => ((*batches, *requests), threads.clone(), *process),
            None => now,
        };
        let mut memory = session.memory.clone();
        memory.extend(last);
        let mut notes = session.notes.clone();
        let trouble = |(name, sums): (&String, &Sums)| {
            sums.trouble.as_ref().map(|trouble| format!("operators of {name}: {trouble}"))
        };
        notes.extend(session.operators.iter().filter_map(trouble));
        let level = session.config.level();
        if session.config.has(ProfileMode::Cpu) && level == ProfileLevel::Basic {
            notes.push("operators are profiled from the level \"detailed\" on".into());
        }
        let (recorded, complete_since_ns) = spans.recorder.spans();
        Ok(Recording {
            config: session.config.clone(),
            running,
            started_ns: session.started_ns,
            ended_ns: if running { now_ns() } else { session.stopped_ns },
            counts: spans.recorder.counts(),
            batches: batches.saturating_sub(session.before.0),
            requests: requests.saturating_sub(session.before.1),
            spans: recorded,
            complete_since_ns,
            rare: session.rare.iter().cloned().collect(),
            rare_dropped: session.rare_dropped,
            names: session.names.clone(),
            threads: since(&session.threads, threads),
            process_cpu_ns: process.zip(session.process_cpu_ns).map(|(now, then)| now.saturating_sub(then)),
            memory,
            operators: session.operators.clone(),
            notes,
        })
    }
}

/// What threads have taken since.
fn since(before: &[ThreadTime], mut now: Vec<ThreadTime>) -> Vec<ThreadTime> {
    for thread in &mut now {
        let then = before.iter().find(|before| (before.id, &before.name) == (thread.id, &thread.name));
        thread.cpu_ns = thread.cpu_ns.saturating_sub(then.map_or(0, |then| then.cpu_ns));
    }
    now.sort_by_key(|thread| std::cmp::Reverse(thread.cpu_ns));
    now
}

impl Spans {
    fn read_operators(&self, name: String, prefix: &Path) {
        let stem = prefix.file_name().map(|name| format!("{}_", name.to_string_lossy()));
        let file = prefix.parent().zip(stem).and_then(|(directory, stem)| {
            let mut entries = fs::read_dir(directory).ok()?.flatten();
            entries.find(|entry| entry.file_name().to_string_lossy().starts_with(&stem))
        });
        let profile = match file {
            None => Err(format!("ONNX Runtime has written no profile to {}", prefix.display())),
            Some(entry) => {
                let text = fs::read_to_string(entry.path());
                let _ = fs::remove_file(entry.path()); // goes with its directory otherwise
                text.map_err(|error| error.to_string()).and_then(|text| operators::parse(&text))
            }
        };
        let mut session = lock(&self.session);
        let sums = session.operators.entry(name).or_default();
        match profile {
            Ok(profile) => sums.add(profile),
            Err(trouble) => sums.trouble = Some(trouble),
        }
    }
}

impl Engine {
    /// Begins to profile. If it is being profiled already, what was recorded stays, and the rest is recorded in the new
    /// way; otherwise what an earlier profile has left is thrown away.
    pub fn profile_start(&self, config: ProfileConfig) {
        let core = self.core();
        let spans = &core.table.spans;
        let sample = config.has(ProfileMode::Memory).then(|| core.memory_sample());
        let (threads, process_cpu_ns) = (platform::thread_times(), platform::process_cpu_ns());
        let names = core.models.all().into_iter().map(|(id, model)| (id, model.full_name.clone()));
        let names: HashMap<u64, String> = names.collect();
        let mut session = lock(&spans.session);
        let fresh = !spans.recorder.runs();
        if fresh {
            session.remove_directory();
            *session = Session {
                started_ns: now_ns(),
                before: core.done(),
                threads,
                process_cpu_ns,
                ..Session::default()
            };
        }
        session.names.extend(names);
        session.memory.extend(sample);
        core.pool.count(config.has(ProfileMode::Memory));
        spans.sample_due_ns.store(now_ns() + SECOND_NS, Ordering::Relaxed);
        spans.recorder.start(&config, fresh);
        session.config = config;
    }

    /// Ends the profile; what was recorded stays for reports.
    pub fn profile_stop(&self) -> Result<()> {
        let core = self.core();
        let spans = &core.table.spans;
        let sample = spans.recorder.records(ProfileMode::Memory).then(|| core.memory_sample());
        let (threads, process) = (platform::thread_times(), platform::process_cpu_ns());
        let mut session = lock(&spans.session);
        if !spans.recorder.runs() {
            return Err(Error::new(Status::InvalidState, "the engine is not being profiled"));
        }
        spans.recorder.stop();
        core.pool.count(false);
        session.stopped_ns = now_ns();
        session.memory.extend(sample);
        let (batches, requests) = core.done();
        session.after = Some((batches, requests, threads, process));
        Ok(())
    }

    /// What the profile that runs, or ran last, has recorded.
    pub fn profile_recording(&self) -> Result<Recording> {
        self.core().recording()
    }

    /// The same as text. Works while it runs.
    pub fn profile_report(&self, format: report::Format) -> Result<String> {
        let recording = self.profile_recording()?;
        let (trends, advice) = (self.core().trends(), self.core().advice());
        Ok(report::write(format, &recording, &trends, &advice))
    }
}
