//! The models of the repository: which versions are served, and how a new one takes an old one's place.
//!
//! A name's handle follows: it means the newest version that works. A version is loaded beside those that are served,
//! and only then the name is switched, all at once; requests that were submitted before end where they are.

use super::execute::c_text;
use super::lifecycle::{Core, Engine, Queue};
use super::load::{self, Order};
use super::model::Model;
use super::{ModelId, Ticket};
use crate::backend::Interrupt;
use crate::clock::now_ns;
use crate::config::ModelConfig;
use crate::error::{Error, Result, Status};
use crate::features::REPOSITORY;
use crate::panics::catch;
use crate::repository::{Entry, Policy, Stamp, Version, scan};
use crate::scheduler::jobs::spawn;
use crate::sync::{AtomicU64, Mutex, Ordering, lock};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

#[derive(Default)]
pub struct Versions {
    state: Mutex<State>,
    /// Held while the directory is read and what was found is loaded.
    scanning: Mutex<()>,
    /// Raised when the engine ends.
    pub interrupt: Interrupt,
    poller: Mutex<Option<JoinHandle<()>>>,
    /// For an engine without threads: when to look again.
    next_scan_ns: AtomicU64,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, Name>,
    scans: u64,
    /// Why the directory could not be read the last time.
    error: Option<String>,
}

impl State {
    fn removals(&self, name: &str) -> u64 {
        self.names.get(name).map_or(0, |known| known.removals)
    }
}

#[derive(Clone, Default)]
struct Name {
    serving: BTreeMap<u32, Serving>,
    /// Versions that could not be loaded as they are.
    broken: BTreeMap<u32, (Stamp, Error)>,
    problem: Option<Error>,
    /// The version that the name means.
    newest: Option<u32>,
    /// Versions that the host has asked for.
    asked: BTreeSet<u32>,
    /// The host has unloaded it: it comes back only when asked for.
    held_off: bool,
    /// How often all its versions were taken out of the table, which may happen while new ones are loaded.
    removals: u64,
}

#[derive(Clone)]
struct Serving {
    stamp: Stamp,
    id: ModelId,
    model: Arc<Model>,
}

impl Versions {
    /// What there is to say about the repository; null, if the engine has none.
    pub fn report(&self) -> Value {
        let state = lock(&self.state);
        if !REPOSITORY.built || state.scans == 0 {
            return Value::Null;
        }
        let models: Vec<Value> = state
            .names
            .iter()
            .map(|(name, known)| {
                let broken = known.broken.iter().map(|(version, (_, error))| {
                    json!({"version": version, "status": error.status.name(), "error": error.message})
                });
                json!({
                    "name": name,
                    "newest": known.newest,
                    "serving": known.serving.keys().collect::<Vec<_>>(),
                    "broken": broken.collect::<Vec<_>>(),
                    "problem": known.problem.as_ref().map(|error| error.message.clone()),
                    "unloaded_by_host": known.held_off,
                })
            })
            .collect();
        json!({"scans": state.scans, "error": state.error, "models": models})
    }

    /// Whether a model of the repository has no version that works, or the directory cannot be read.
    pub fn is_in_trouble(&self) -> bool {
        let state = lock(&self.state);
        let unserved = |name: &Name| name.serving.is_empty() && !name.held_off;
        REPOSITORY.built && (state.error.is_some() || state.names.values().any(unserved))
    }

    fn known(&self, name: &str) -> Name {
        lock(&self.state).names.get(name).cloned().unwrap_or_default()
    }

    /// Notes down what has become of a name, unless it was taken out meanwhile.
    fn put(&self, name: &str, known: &Name) {
        let mut state = lock(&self.state);
        if state.removals(name) == known.removals {
            state.names.insert(name.to_owned(), known.clone());
        }
    }

    /// Ends the thread that looks at the directory.
    pub fn stop(&self) {
        self.interrupt.raise();
        if let Some(poller) = lock(&self.poller).take() {
            let _ = poller.join(); // it does not panic
        }
    }
}

impl Engine {
    /// Reads the repository again. Returns what there is to say about it, as JSON.
    pub fn rescan(&self) -> Result<String> {
        if self.core().table.is_closed() {
            return Err(Error::shut_down());
        }
        let order = Order { interrupt: &Interrupt::new(), progress: &|_| (), watch: None };
        self.core().rescan(&order, true).map(|report| report.to_string())
    }

    /// Reads the repository again, in the background; the event's text is what there is to say about it.
    pub fn rescan_async(&self, queue: &Queue, user_data: u64) -> Result<Ticket> {
        self.core().repository_directory()?;
        let (ticket, index) = self.core().open_job(queue, user_data, None)?;
        self.core().start_work("blaze-job", move |core| {
            let order = Order { interrupt: core.table.interrupt(index), progress: &|_| (), watch: None };
            let result = catch(|| core.rescan(&order, true));
            core.complete_job(index, result.map(|report| (0, c_text(report.to_string()))));
        });
        Ok(ticket)
    }
}

impl Core {
    /// Reads the repository for the first time, and has it read again and again if that is wanted.
    pub fn open_repository(self: &Arc<Self>) -> Result<()> {
        if !REPOSITORY.built || self.config.repository.directory.is_none() {
            return Ok(());
        }
        let order = Order { interrupt: &self.repository.interrupt, progress: &|_| (), watch: None };
        self.rescan(&order, false)?;
        let Some(poll_ms) = self.config.repository.poll_ms else { return Ok(()) };
        let poll_ns = u64::from(poll_ms) * 1_000_000;
        self.repository.next_scan_ns.store(now_ns() + poll_ns, Ordering::Relaxed);
        if self.config.threads == Some(0) {
            return Ok(());
        }
        let core = Arc::clone(self);
        let poller = spawn("blaze-repository", move || {
            let order = Order { interrupt: &core.repository.interrupt, progress: &|_| (), watch: None };
            while !order.interrupt.sleep(poll_ns) {
                let _ = core.rescan(&order, false); // the error is in the report, and in the log
            }
        })?;
        *lock(&self.repository.poller) = Some(poller);
        Ok(())
    }

    /// For an engine without threads: reads the repository again, if it is time; whether it was.
    pub fn rescan_if_due(self: &Arc<Self>) -> bool {
        let (Some(poll_ms), Some(0)) = (self.config.repository.poll_ms, self.config.threads) else {
            return false;
        };
        if !REPOSITORY.built {
            return false;
        }
        let next = self.repository.next_scan_ns.load(Ordering::Relaxed);
        let now = now_ns();
        let after = now + u64::from(poll_ms) * 1_000_000;
        let mine = now >= next
            && self
                .repository
                .next_scan_ns
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if mine {
            let order = Order { interrupt: &self.repository.interrupt, progress: &|_| (), watch: None };
            let _ = self.rescan(&order, false); // the error is in the report, and in the log
        }
        mine
    }

    fn repository_directory(&self) -> Result<&Path> {
        self.config.repository.directory.as_deref().map(Path::new).ok_or_else(|| {
            Error::new(Status::InvalidState, "repository.directory is not set: the engine has no repository")
        })
    }

    /// Reads the repository, loads what is new, and unloads what is gone. When the host has asked for it, what could not
    /// be loaded before is tried again.
    pub fn rescan(self: &Arc<Self>, order: &Order<'_>, asked: bool) -> Result<Value> {
        let _one_at_a_time = lock(&self.repository.scanning);
        let began_ns = now_ns();
        let scanned = scan(self.repository_directory()?);
        self.table.spans.scanned(began_ns);
        let error = scanned.as_ref().err().map(|error| error.message.clone());
        let before = {
            let mut state = lock(&self.repository.state);
            state.scans += 1;
            std::mem::replace(&mut state.error, error.clone())
        };
        if let (Some(error), None) = (error, before) {
            self.logger.error("repository", format_args!("{error}"));
        }
        let entries = scanned?;
        for entry in &entries {
            self.refresh(entry, order, asked)?;
        }
        let gone: Vec<String> = {
            let state = lock(&self.repository.state);
            let there = |name: &String| entries.iter().any(|entry| entry.name == *name);
            state.names.keys().filter(|name| !there(name)).cloned().collect()
        };
        for name in gone {
            let leaving = self.take_out_name(&name);
            lock(&self.repository.state).names.remove(&name);
            if !leaving.is_empty() {
                self.history.version("removed", &name, "its directory is gone");
                self.logger
                    .with(&[("model", (&name).into())])
                    .info("repository", format_args!("{name} is gone"));
            }
            self.unload_all(&leaving);
        }
        Ok(self.repository.report())
    }

    /// Brings what is served of one model in line with what was found.
    fn refresh(self: &Arc<Self>, entry: &Entry, order: &Order<'_>, asked: bool) -> Result<()> {
        let mut known = self.repository.known(&entry.name);
        known.problem = entry.problem.clone();
        if known.held_off && !asked {
            return Ok(());
        }
        known.held_off = false;
        let wanted = |version: u32, known: &Name| match &entry.versions {
            Policy::Newest => known.asked.contains(&version),
            Policy::All => true,
            Policy::These(these) => these.contains(&version) || known.asked.contains(&version),
        };
        let is_new =
            |serving: &Serving, known: &Name| !known.serving.values().any(|served| served.id == serving.id);
        let mut keep: BTreeMap<u32, Serving> = BTreeMap::new();
        for found in entry.found.iter().rev() {
            let newest = entry.versions == Policy::Newest && keep.is_empty();
            if !newest && !wanted(found.version, &known) {
                continue;
            }
            match self.serve(entry, found, &mut known, order, asked) {
                Ok(Some(serving)) => {
                    keep.insert(found.version, serving);
                }
                Ok(None) => (),
                Err(error) => {
                    // Interrupted: what was loaded already is loaded again the next time.
                    self.repository.put(&entry.name, &known);
                    self.remove_and_unload(keep.into_values().filter(|serving| is_new(serving, &known)));
                    return Err(error);
                }
            }
        }
        known.broken.retain(|version, _| entry.found.iter().any(|found| found.version == *version));
        if keep.is_empty() && !(entry.found.is_empty() && entry.problem.is_none()) {
            keep = known.serving.clone(); // better an old one than none
        }
        // Until the name is switched nobody takes it out.
        let mut state = lock(&self.repository.state);
        if state.removals(&entry.name) != known.removals {
            drop(state);
            self.remove_and_unload(keep.into_values().filter(|serving| is_new(serving, &known)));
            return Ok(());
        }
        let mut served = None;
        if let Some((&version, serving)) = keep.iter().next_back() {
            self.models.follow(&entry.name, &serving.model)?;
            if known.newest != Some(version) {
                let before = known.newest.map_or("none".to_owned(), |before| before.to_string());
                self.history.version("serving", &serving.model.full_name, &format!("before: {before}"));
                served = Some(Arc::clone(&serving.model));
            }
            known.newest = Some(version);
        } else {
            self.models.unfollow(&entry.name);
            known.newest = None;
        }
        let stays = |id: ModelId| keep.values().any(|serving| serving.id == id);
        let leaving: Vec<Serving> =
            known.serving.values().filter(|serving| !stays(serving.id)).cloned().collect();
        known.serving = keep;
        state.names.insert(entry.name.clone(), known);
        drop(state);
        if let Some(model) = served {
            self.logger
                .with(&[("model", (&model.full_name).into())])
                .info("repository", format_args!("{} is served", model.full_name));
        }
        self.remove_and_unload(leaving.into_iter());
        Ok(())
    }

    fn remove_and_unload(self: &Arc<Self>, leaving: impl Iterator<Item = Serving>) {
        for serving in leaving {
            if let Ok(model) = self.models.remove(serving.id) {
                self.unload(&model);
            }
        }
    }

    /// A version that was found: as it is served already, or newly loaded. `None`: it does not work. An error: nobody
    /// wants it any more.
    fn serve(
        self: &Arc<Self>,
        entry: &Entry,
        found: &Version,
        known: &mut Name,
        order: &Order<'_>,
        asked: bool,
    ) -> Result<Option<Serving>> {
        let version = found.version;
        if let Some(serving) = known.serving.get(&version).filter(|serving| serving.stamp == found.stamp) {
            return Ok(Some(serving.clone()));
        }
        if !asked && known.broken.get(&version).is_some_and(|(stamp, _)| *stamp == found.stamp) {
            return Ok(None);
        }
        match self.load_version(found, known, order) {
            Ok(serving) => {
                known.broken.remove(&version);
                Ok(Some(serving))
            }
            Err(error) if matches!(error.status, Status::Cancelled | Status::ShutDown) => Err(error),
            Err(error) => {
                let name = format!("{}:{version}", entry.name);
                self.logger
                    .with(&[("model", (&name).into()), ("status", error.status.name().into())])
                    .error("repository", format_args!("{name} cannot be served: {error}"));
                self.history.version("broken", &name, &error.message);
                let passing = matches!(error.status, Status::OverBudget | Status::OutOfMemory);
                // Tried again when its files change, or at once if it is not their fault.
                let stamp = if passing { Stamp::none() } else { found.stamp };
                known.broken.insert(version, (stamp, error));
                Ok(None)
            }
        }
    }

    fn load_version(self: &Arc<Self>, found: &Version, known: &Name, order: &Order<'_>) -> Result<Serving> {
        let config = found.config.clone()?;
        let full_name = config.full_name();
        let own = known.serving.get(&found.version).map(|serving| serving.id);
        if let Some((id, _)) = self.models.all().into_iter().find(|(_, model)| model.full_name == full_name)
            && Some(id) != own
        {
            let text = format!("the host has loaded a model {full_name:?} of its own");
            return Err(Error::new(Status::AlreadyExists, text));
        }
        found.verify(&|| !order.interrupt.is_raised())?;
        let (model, _underway) = load::load_apart(self, config, None, order)?;
        model.is_version.store(true, Ordering::SeqCst);
        let id = self.models.insert(Arc::clone(&model)).inspect_err(|_| model.drain(self))?;
        load::log_loaded(self, &model);
        Ok(Serving { stamp: found.stamp, id, model })
    }

    /// For a load without a path: the version from the repository, which is served from now on whatever its policy; the
    /// name, if no version is given.
    pub fn load_from_repository(
        self: &Arc<Self>,
        config: &ModelConfig,
        order: &Order<'_>,
    ) -> Result<Option<ModelId>> {
        let none = !REPOSITORY.built || self.config.repository.directory.is_none();
        if none || config.path.is_some() || config.backend != "onnx" {
            return Ok(None);
        }
        if *config != ModelConfig::bare(&config.name, config.version) {
            let text = "path: missing; a model of the repository has its settings in its model.json, and is loaded by \
                        its name and version alone";
            return Err(Error::new(Status::InvalidConfig, text));
        }
        {
            let _one_at_a_time = lock(&self.repository.scanning);
            let entries = scan(self.repository_directory()?)?;
            let entry = entries.iter().find(|entry| entry.name == config.name).ok_or_else(|| {
                let text = format!("the repository has no model {:?}", config.name);
                Error::new(Status::ModelNotFound, text)
            })?;
            if let Some(version) = config.version {
                if !entry.found.iter().any(|found| found.version == version) {
                    let text = format!("the repository has no version {version} of {:?}", config.name);
                    return Err(Error::new(Status::ModelNotFound, text));
                }
                let mut state = lock(&self.repository.state);
                state.names.entry(config.name.clone()).or_default().asked.insert(version);
            }
            self.refresh(entry, order, true)?;
        }
        let known = self.repository.known(&config.name);
        let broken = |version: Option<u32>| {
            let version = version.or_else(|| known.broken.keys().next_back().copied());
            let known_error = version.and_then(|version| known.broken.get(&version));
            let error = known_error.map(|(_, error)| error.clone()).or_else(|| known.problem.clone());
            error.unwrap_or_else(|| {
                Error::new(Status::ModelNotFound, "the repository has no version that works")
            })
        };
        match config.version {
            Some(version) => match known.serving.get(&version) {
                Some(serving) => Ok(Some(serving.id)),
                None => Err(broken(Some(version))),
            },
            None => self.models.find(&config.name).map(Some).map_err(|_| broken(None)),
        }
    }

    /// Takes models out of the table that a handle stands for: one, or all versions of a name.
    pub fn take_out(&self, id: ModelId) -> Result<Vec<Arc<Model>>> {
        self.refuse_route(id)?;
        if REPOSITORY.built
            && let Some(name) = self.models.follower(id)
        {
            return Ok(self.take_out_name(&name));
        }
        // Also before its name is switched to it, when it can be found already.
        if self.models.get(id)?.is_version.load(Ordering::SeqCst) {
            let text =
                "the model is a version that the repository serves: take it out there, or unload its name";
            return Err(Error::new(Status::InvalidState, text));
        }
        Ok(vec![self.models.remove(id)?])
    }

    /// Takes all versions of a name out of the table. It comes back only when asked for.
    fn take_out_name(&self, name: &str) -> Vec<Arc<Model>> {
        // As one step: who loads versions of it meanwhile finds out before the name is switched to them, and does not take
        // those that are still in the table for the host's own.
        let mut state = lock(&self.repository.state);
        self.models.unfollow(name);
        let Some(known) = state.names.get_mut(name) else { return Vec::new() };
        known.removals += 1;
        known.held_off = true;
        known.newest = None;
        known.asked.clear();
        let serving = std::mem::take(&mut known.serving);
        serving.into_values().filter_map(|serving| self.models.remove(serving.id).ok()).collect()
    }

    /// Unloads models. Returns the receipt of the one, or those of all.
    pub fn unload_all(self: &Arc<Self>, leaving: &[Arc<Model>]) -> Value {
        let mut receipts: Vec<Value> = leaving.iter().map(|model| self.unload(model)).collect();
        match receipts.len() {
            1 => receipts.remove(0),
            _ => json!({"models": receipts}),
        }
    }

    /// The end: no name follows any more, and nothing is served.
    pub fn close_repository(&self) {
        self.repository.stop();
        let names = std::mem::take(&mut lock(&self.repository.state).names);
        names.keys().for_each(|name| self.models.unfollow(name));
    }
}
