//! Tuning while models work: measured steps, one at a time, that are taken back when they do not pay.
//!
//! Time comes in windows. What a step is worth is found by comparing windows with it and without it, in turns, so that what
//! changes besides is the same for both. With several models the step of one is judged by all of them: by the product of
//! what it does to the rows per second of each, so that a tenth more of one is worth a tenth less of another, whichever is
//! the faster; and none may lose much.

use super::points::median;
use super::search::{Boldness, Hints, Move, Search};
use super::{Bounds, Goal, Settings};
use crate::config::{Objective, TuningLevel};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};

/// What one model did in one window.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    pub requests: u64,
    pub requests_per_second: f64,
    pub rows_per_second: f64,
    /// 0: nothing has ended.
    pub p99_ns: u64,
    /// Rows in a batch, and what it takes, in the mean.
    pub batch_rows: f64,
    pub batch_ns: f64,
    /// Lanes that computed, in the mean.
    pub busy: f64,
}

/// A model as it is just now.
#[derive(Clone, Debug)]
pub struct Seen {
    pub settings: Settings,
    pub bounds: Bounds,
    pub window: Window,
}

/// By the model's key. Only of models that have had requests.
pub type Picture = BTreeMap<u64, Seen>;

/// Have a model run so from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub model: u64,
    pub settings: Settings,
}

/// One step that was tried.
#[derive(Clone, Debug)]
pub struct Step {
    pub model: u64,
    pub from: Settings,
    pub to: Settings,
    /// The model's own figures.
    pub before: Window,
    pub after: Window,
    /// What it has paid, over all models: 1 is nothing.
    pub ratio: f64,
    pub kept: bool,
}

impl Step {
    /// As JSON.
    pub fn report(&self) -> Value {
        let figures = |window: &Window| {
            json!({
                "requests_per_second": window.requests_per_second.round(),
                "rows_per_second": window.rows_per_second.round(),
                "p99_us": window.p99_ns as f64 / 1e3,
                "batch_rows": (window.batch_rows * 10.0).round() / 10.0,
            })
        };
        json!({
            "from": self.from,
            "to": self.to,
            "before": figures(&self.before),
            "after": figures(&self.after),
            "ratio": (self.ratio * 1e3).round() / 1e3,
            "kept": self.kept,
        })
    }
}

/// So many steps are remembered.
const STEPS: usize = 64;
/// A model may lose so much by the step of another.
const NEIGHBOUR: f64 = 0.8;
/// A step that pays so much more is kept at once.
const CLEAR: f64 = 0.2;
/// Windows that lie further apart take more of them to judge by.
const NOISY: f64 = 0.05;
/// So many rounds more, at most.
const MORE_ROUNDS: usize = 4;
/// How far repeated windows lie apart, before anything is known.
const NOISE: f64 = 0.03;
/// When the load is so many times what it was, or so much less, the search begins anew.
const CHANGE: f64 = 2.0;
/// After so many windows that say so.
const TIMES: u32 = 3;
/// What is tried must leave this part of the goal.
const MARGIN: f64 = 0.9;
/// While the goal is broken and nothing helps, all is tried again after so many windows.
const AGAIN: u32 = 50;

struct Place {
    search: Search,
    settled: bool,
    /// Requests per second when it settled.
    usual: f64,
    /// Windows in a row in which the load was another.
    other: u32,
    /// Windows since it settled with the goal broken.
    broken: u32,
    /// A step was kept.
    learned: bool,
    /// In the latest window with what is kept.
    rows_per_second: f64,
}

struct Trial {
    model: u64,
    mv: Move,
    from: Settings,
    to: Settings,
    without: Vec<Picture>,
    with: Vec<Picture>,
    /// The window that is under way has it.
    on: bool,
    /// It is to be, whether or not it pays.
    must: bool,
}

enum Verdict {
    Keep,
    Revert,
    More,
}

pub struct Tuner {
    boldness: Boldness,
    goal: Goal,
    places: BTreeMap<u64, Place>,
    trial: Option<Trial>,
    /// Whose turn it is next: those after this one.
    turn: u64,
    /// The latest window without a trial.
    base: Option<Picture>,
    noise: f64,
    /// Windows in a row in which the goal was broken.
    broken: u32,
    steps: VecDeque<Step>,
    steps_taken: u64,
}

impl Tuner {
    pub fn new(level: TuningLevel, goal: Goal) -> Self {
        Tuner {
            boldness: Boldness::of(level),
            goal,
            places: BTreeMap::new(),
            trial: None,
            turn: 0,
            base: None,
            noise: NOISE,
            broken: 0,
            steps: VecDeque::new(),
            steps_taken: 0,
        }
    }

    /// The latest steps.
    pub fn steps(&self) -> impl DoubleEndedIterator<Item = &Step> {
        self.steps.iter()
    }

    /// How many steps there were.
    pub fn steps_taken(&self) -> u64 {
        self.steps_taken
    }

    /// Whether a step of this model's was kept.
    pub fn has_learned(&self, model: u64) -> bool {
        self.places.get(&model).is_some_and(|place| place.learned)
    }

    /// What a model did when it was seen last.
    pub fn rows_per_second(&self, model: u64) -> f64 {
        self.places.get(&model).map_or(0.0, |place| place.rows_per_second)
    }

    /// Whether there is nothing more to try for a model; `None`: nothing was seen of it.
    pub fn is_settled(&self, model: u64) -> Option<bool> {
        self.places.get(&model).map(|place| place.settled)
    }

    /// How far repeated windows lie apart, as a part.
    pub fn noise(&self) -> f64 {
        self.noise
    }

    /// The best settings so far of a model.
    pub fn best(&self, model: u64) -> Option<Settings> {
        self.places.get(&model).map(|place| place.search.base)
    }

    /// There is no traffic: what is being tried is given up.
    pub fn rest(&mut self) -> Option<Change> {
        self.base = None;
        self.broken = 0;
        let trial = self.trial.take()?;
        trial.on.then_some(Change { model: trial.model, settings: trial.from })
    }

    /// A change could not be made.
    pub fn failed(&mut self, model: u64) {
        if let Some(trial) = self.trial.take()
            && trial.model == model
            && let Some(place) = self.places.get_mut(&model)
        {
            place.search.reverted(trial.mv);
        }
        self.base = None;
    }

    /// A window has ended: what to change before the next.
    pub fn step(&mut self, seen: &Picture) -> Option<Change> {
        self.take_note(seen);
        let Some(mut trial) = self.trial.take() else {
            self.look_at_base(seen);
            return self.begin(seen);
        };
        let Some(own) = seen.get(&trial.model) else {
            // It has no requests any more.
            let back = trial.on.then_some(Change { model: trial.model, settings: trial.from });
            self.base = None;
            return back;
        };
        let expected = if trial.on { trial.to } else { trial.from };
        if own.settings != expected {
            // The host has set it otherwise: that is where to go on from.
            if let Some(place) = self.places.get_mut(&trial.model) {
                place.search.restart(own.settings);
            }
            self.base = None;
            return None;
        }
        if !trial.on {
            if let Some(before) = trial.without.last() {
                self.learn_noise(before, seen);
            }
            trial.without.push(seen.clone());
            trial.on = true;
            let change = Change { model: trial.model, settings: trial.to };
            self.trial = Some(trial);
            return Some(change);
        }
        trial.with.push(seen.clone());
        let (verdict, ratio) = self.judge(&trial);
        match verdict {
            Verdict::More => {
                trial.on = false;
                let change = Change { model: trial.model, settings: trial.from };
                self.trial = Some(trial);
                Some(change)
            }
            Verdict::Keep => {
                self.note(&trial, ratio, true);
                if let Some(place) = self.places.get_mut(&trial.model) {
                    match trial.must {
                        true => place.search.restart(trial.to),
                        false => place.search.kept(trial.mv, trial.to),
                    }
                    place.learned = true;
                }
                // Others may find other settings better now.
                for (_, place) in self.places.iter_mut().filter(|(model, _)| **model != trial.model) {
                    if place.settled && place.other > 0 {
                        place.settled = false;
                    }
                }
                self.base = None; // from before the step
                self.look_at_base(seen);
                self.begin(seen)
            }
            Verdict::Revert => {
                self.note(&trial, ratio, false);
                if let Some(place) = self.places.get_mut(&trial.model) {
                    place.search.reverted(trial.mv);
                }
                self.turn = trial.model;
                self.base = None;
                Some(Change { model: trial.model, settings: trial.from })
            }
        }
    }

    /// Learns of models that have come, gone, or were changed by the host.
    fn take_note(&mut self, seen: &Picture) {
        let tried = self.trial.as_ref().map(|trial| trial.model);
        for (&model, own) in seen {
            let place = self.places.entry(model).or_insert_with(|| Place {
                search: Search::new(own.settings, own.bounds.clone(), self.boldness),
                settled: false,
                usual: 0.0,
                other: 0,
                broken: 0,
                learned: false,
                rows_per_second: 0.0,
            });
            if tried != Some(model) && place.search.base != own.settings {
                place.search.restart(own.settings);
                place.settled = false;
            }
        }
    }

    /// Forgets models that are not there any more.
    pub fn retain(&mut self, is_there: impl Fn(u64) -> bool) {
        self.places.retain(|&model, _| is_there(model));
        if self.trial.as_ref().is_some_and(|trial| !is_there(trial.model)) {
            (self.trial, self.base) = (None, None);
        }
    }

    /// A window with what is kept: learns how far windows lie apart, and whether the load has changed.
    fn look_at_base(&mut self, seen: &Picture) {
        if let Some(before) = self.base.take() {
            self.learn_noise(&before, seen);
        }
        self.base = Some(seen.clone());
        let broken = self.is_broken(worst(seen));
        self.broken = if broken { self.broken + 1 } else { 0 };
        for (model, own) in seen {
            let Some(place) = self.places.get_mut(model) else { continue };
            place.rows_per_second = own.window.rows_per_second;
            if !place.settled {
                continue;
            }
            let now = own.window.requests_per_second;
            let same = now < place.usual * CHANGE && now * CHANGE > place.usual;
            place.other = if same { 0 } else { place.other + 1 };
            place.broken = if broken { place.broken + 1 } else { 0 };
            if place.other >= TIMES || (broken && (place.broken == 2 || place.broken >= AGAIN)) {
                let base = place.search.base;
                place.search.restart(base);
                (place.settled, place.other, place.broken) = (false, 0, 3.min(place.broken));
            }
        }
    }

    /// Two windows with the same settings.
    fn learn_noise(&mut self, before: &Picture, after: &Picture) {
        let apart: Vec<f64> = ratios(before, after).into_iter().map(|(_, ratio)| ratio.ln().abs()).collect();
        if !apart.is_empty() {
            let apart = apart.iter().sum::<f64>() / apart.len() as f64;
            self.noise = (self.noise * 0.8 + apart.min(0.5) * 0.2).clamp(0.005, 0.3);
        }
    }

    fn is_broken(&self, p99_ns: f64) -> bool {
        self.goal.p99_ns > 0 && p99_ns > self.goal.p99_ns as f64
    }

    /// Begins the next trial, if there is anything to try.
    fn begin(&mut self, seen: &Picture) -> Option<Change> {
        if self.broken == 1 {
            return None; // one window may be a hiccup
        }
        let mut order: Vec<u64> = seen.keys().copied().filter(|&model| model > self.turn).collect();
        order.extend(seen.keys().copied().filter(|&model| model <= self.turn));
        for model in order {
            let (Some(place), Some(own)) = (self.places.get_mut(&model), seen.get(&model)) else { continue };
            if place.settled {
                continue;
            }
            let hints = Hints { batch_rows: own.window.batch_rows, batch_ns: own.window.batch_ns };
            let must = place.search.is_outside();
            let Some((mv, to)) = place.search.next(&hints) else {
                place.settled = true;
                (place.usual, place.other) = (own.window.requests_per_second, 0);
                continue;
            };
            let from = place.search.base;
            let (without, with) = (vec![seen.clone()], Vec::new());
            self.trial = Some(Trial { model, mv, from, to, without, with, on: true, must });
            return Some(Change { model, settings: to });
        }
        None
    }

    /// Whether a step has paid, and how much.
    fn judge(&self, trial: &Trial) -> (Verdict, f64) {
        let round = trial.with.len();
        let p99 = |pictures: &[Picture]| median(pictures.iter().map(worst).collect());
        let (p99_without, p99_with) = (p99(&trial.without), p99(&trial.with));
        let ratios = ratios_of(&trial.without, &trial.with);
        let gain = ratios.iter().map(|(_, ratio)| *ratio).product::<f64>();
        let least = ratios.iter().map(|(_, ratio)| *ratio).fold(f64::INFINITY, f64::min);
        if trial.must {
            return (Verdict::Keep, gain);
        }
        if self.goal.p99_ns > 0 {
            let goal = self.goal.p99_ns as f64;
            if p99_without > goal {
                // Out of that as fast as possible.
                let better = p99_with <= goal * MARGIN || p99_with < p99_without * 0.95;
                return (if better { Verdict::Keep } else { Verdict::Revert }, gain);
            }
            if p99_with > goal * MARGIN && p99_with > p99_without {
                return (Verdict::Revert, gain);
            }
        }
        let by_latency = self.goal.objective == Objective::Latency && self.goal.p99_ns == 0;
        // What it has paid, whether somebody would lose too much by it, and the figure that says so, as a part of what is
        // allowed.
        let (paid, harm, worth) = match by_latency {
            true => (p99_without / p99_with.max(1.0), gain < 0.95, gain / 0.95),
            false => (gain, least < NEIGHBOUR, least / NEIGHBOUR),
        };
        let noise = match by_latency {
            true => self.noise * 2.0,
            false => self.noise * (ratios.len().max(1) as f64).sqrt(),
        };
        // The more windows lie apart, the more of them it takes.
        let rounds = match trial.mv.is_costly() {
            true => 1,
            false => self.boldness.rounds + ((self.noise / NOISY) as usize).min(MORE_ROUNDS),
        };
        // How far off what was seen so far may be.
        let doubt = (2.0 * noise / (round as f64).sqrt()).min(0.5);
        // What larger batches are for is that a row costs less, which is seen far better than what comes of it.
        let cheaper = cheaper(trial);
        let saves = trial.mv == Move::MoreRows && cheaper > 1.0 + 2.0 * self.boldness.gain && !by_latency;
        let wastes = trial.mv == Move::FewerRows && cheaper < 1.0 - self.boldness.gain;
        if saves {
            let verdict = match round {
                1 if paid > 1.0 + CLEAR && !harm => Verdict::Keep,
                1 => Verdict::More,
                _ if paid > 1.0 - doubt / 2.0 && !harm => Verdict::Keep,
                _ if round < rounds => Verdict::More,
                _ if paid > 1.0 - doubt && worth > 1.0 - doubt => Verdict::Keep,
                _ => Verdict::Revert,
            };
            return (verdict, paid);
        }
        // A single window says little where they lie far apart.
        let is_hasty = round == 1 && self.noise > NOISY * 2.0 && !trial.mv.is_costly();
        if is_hasty && (0.5..1.0 + 5.0 * noise).contains(&paid) {
            return (Verdict::More, paid);
        }
        if harm && (round >= rounds || worth < 1.0 - doubt) {
            return (Verdict::Revert, paid);
        }
        let needed = self.boldness.gain.max(doubt);
        // What can pay much at once; others that seem to are more likely luck.
        let clear = trial.mv.is_upward() && paid > 1.0 + CLEAR.max(5.0 * noise);
        let verdict = match round {
            _ if clear => Verdict::Keep,
            _ if wastes && paid < 1.0 + 2.0 * needed => Verdict::Revert,
            _ if paid < 1.0 - doubt / 2.0 => Verdict::Revert,
            _ if round >= rounds && paid > 1.0 + needed => Verdict::Keep,
            // It may be worth something: a closer look.
            _ if round < 3 * rounds && paid > 1.0 + needed / 3.0 => Verdict::More,
            _ if round >= rounds => Verdict::Revert,
            _ => Verdict::More,
        };
        (verdict, paid)
    }

    fn note(&mut self, trial: &Trial, ratio: f64, kept: bool) {
        let of = |pictures: &[Picture]| {
            let own = pictures.last().and_then(|picture| picture.get(&trial.model));
            own.map(|own| own.window).unwrap_or_default()
        };
        if self.steps.len() == STEPS {
            self.steps.pop_front();
        }
        self.steps_taken += 1;
        self.steps.push_back(Step {
            model: trial.model,
            from: trial.from,
            to: trial.to,
            before: of(&trial.without),
            after: of(&trial.with),
            ratio,
            kept,
        });
    }
}

/// By what factor the trial's model computes more rows in the same time; 1 if too little is known.
fn cheaper(trial: &Trial) -> f64 {
    let rows_per_ns = |pictures: &[Picture]| {
        let of = |picture: &Picture| {
            let window = &picture.get(&trial.model)?.window;
            (window.batch_ns > 0.0).then(|| window.batch_rows / window.batch_ns)
        };
        median(pictures.iter().filter_map(of).collect())
    };
    let factor = rows_per_ns(&trial.with) / rows_per_ns(&trial.without);
    if factor.is_finite() { factor } else { 1.0 }
}

/// The highest p99 of all models.
fn worst(seen: &Picture) -> f64 {
    seen.values().map(|own| own.window.p99_ns as f64).fold(0.0, f64::max)
}

/// By what factor the rows per second of each model have changed.
fn ratios(before: &Picture, after: &Picture) -> Vec<(u64, f64)> {
    ratios_of(std::slice::from_ref(before), std::slice::from_ref(after))
}

fn ratios_of(before: &[Picture], after: &[Picture]) -> Vec<(u64, f64)> {
    let rate = |pictures: &[Picture], model: u64| {
        let rates =
            pictures.iter().map(|picture| picture.get(&model).map_or(0.0, |own| own.window.rows_per_second));
        median(rates.collect())
    };
    let models = before.first().into_iter().flat_map(|picture| picture.keys().copied());
    models
        .map(|model| (model, rate(before, model), rate(after, model)))
        .filter(|(_, before, _)| *before > 0.0)
        .map(|(model, before, after)| (model, (after / before).max(0.01)))
        .collect()
}
