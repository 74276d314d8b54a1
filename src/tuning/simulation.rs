//! The tuner against a model of a batch server: a run takes so much, and so much more for every row.

use super::*;
use crate::config::{Objective, TuningLevel, TuningLimits};

const WINDOW_NS: f64 = 100e6;
const CORES: u32 = 4;

struct Random(u64);

impl Random {
    fn below_one(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal, with a mean of 0 and a deviation of 1.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.below_one()).sum::<f64>() - 6.0
    }
}

#[derive(Clone, Copy)]
enum Load {
    /// So many requests at once, for ever.
    Closed(f64),
    /// So many per second.
    Open(f64),
}

#[derive(Clone)]
struct Server {
    settings: Settings,
    /// What a run takes, and a row of it, in nanoseconds.
    fixed: f64,
    row: f64,
    /// What part of the run several threads can share.
    parallel: f64,
    load: Load,
    /// Requests that wait, of an open load.
    backlog: f64,
}

impl Server {
    fn new(fixed: f64, row: f64, load: Load, settings: Settings) -> Self {
        Server { settings, fixed, row, parallel: 0.0, load, backlog: 0.0 }
    }

    fn cost(&self, rows: f64) -> f64 {
        let threads = f64::from(self.settings.intra_op_threads);
        let cost = self.fixed + self.row * rows;
        cost * (1.0 - self.parallel) + cost * self.parallel / threads
    }

    /// Rows per second, p99 and rows in a batch in the long run, when it has this part of the cores.
    fn steady(&self, share: f64) -> (f64, f64, f64) {
        let Settings { max_rows, max_delay_us, lanes, intra_op_threads } = self.settings;
        let (most, lanes) = (f64::from(max_rows), f64::from(lanes));
        let places = (f64::from(CORES) / f64::from(intra_op_threads)).max(1.0);
        let at_once = lanes.min(places * share);
        match self.load {
            Load::Closed(in_flight) => {
                // Batches are in equal parts in lanes, and one is filling.
                let rows = (in_flight / at_once.max(1.0)).clamp(1.0, most);
                let used = (in_flight / rows).min(at_once).max(1.0_f64.min(at_once));
                let wait = if rows < most { f64::from(max_delay_us) * 200.0 } else { 0.0 };
                let rate = used * rows / (self.cost(rows) + wait) * 1e9;
                (rate, in_flight / rate * 1e9 * 1.2, rows)
            }
            Load::Open(rate) => {
                let capacity = at_once * most / self.cost(most) * 1e9;
                // What comes while a batch runs or waits goes with the next.
                let mut rows = 1.0;
                for _ in 0..20 {
                    let time = self.cost(rows) / at_once + f64::from(max_delay_us) * 200.0;
                    rows = (rate * time / 1e9).clamp(1.0, most);
                }
                let p99 = 2.0 * self.cost(rows)
                    + f64::from(max_delay_us) * 1000.0 * f64::from(u8::from(rows < most));
                (rate.min(capacity), p99, rows)
            }
        }
    }

    fn window(&mut self, share: f64, random: &mut Random, noise: f64) -> Window {
        let (mut rate, mut p99, batch_rows) = self.steady(share);
        if let Load::Open(offered) = self.load {
            let seconds = WINDOW_NS / 1e9;
            let most = self.steady_capacity(share);
            self.backlog = (self.backlog + (offered - most) * seconds).max(0.0);
            if self.backlog > 0.0 {
                rate = most;
                p99 += self.backlog / most * 1e9;
            }
        }
        rate *= 1.0 + noise * random.normal();
        p99 *= 1.0 + noise * random.normal().abs();
        Window {
            requests: (rate * WINDOW_NS / 1e9) as u64,
            requests_per_second: rate,
            rows_per_second: rate,
            p99_ns: p99 as u64,
            batch_rows,
            batch_ns: self.cost(batch_rows),
            busy: 1.0,
        }
    }

    fn steady_capacity(&self, share: f64) -> f64 {
        let places = (f64::from(CORES) / f64::from(self.settings.intra_op_threads)).max(1.0);
        let most = f64::from(self.settings.max_rows);
        f64::from(self.settings.lanes).min(places * share) * most / self.cost(most) * 1e9
    }
}

struct World {
    servers: Vec<Server>,
    tuner: Tuner,
    random: Random,
    noise: f64,
    bounds: Bounds,
    /// The longest time in windows that the goal was broken.
    broken: u32,
    now_broken: u32,
    goal: Goal,
    changes: u32,
}

fn bad() -> Settings {
    Settings { max_rows: 2, max_delay_us: 2_000, lanes: 1, intra_op_threads: 1 }
}

impl World {
    fn new(level: TuningLevel, goal: Goal, servers: Vec<Server>, noise: f64, seed: u64) -> Self {
        let bounds = Bounds::new(&TuningLimits::default(), &bad(), CORES);
        let tuner = Tuner::new(level, goal);
        let random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        World { servers, tuner, random, noise, bounds, broken: 0, now_broken: 0, goal, changes: 0 }
    }

    fn windows(&mut self, count: u32) {
        for _ in 0..count {
            // Each has its part of the cores.
            let share = 1.0 / self.servers.len() as f64;
            let mut picture = Picture::new();
            let mut worst = 0;
            for (model, server) in self.servers.iter_mut().enumerate() {
                let window = server.window(share, &mut self.random, self.noise);
                worst = worst.max(window.p99_ns);
                let (settings, bounds) = (server.settings, self.bounds.clone());
                picture.insert(model as u64, Seen { settings, bounds, window });
            }
            let broken = self.goal.p99_ns > 0 && worst > self.goal.p99_ns;
            self.now_broken = if broken { self.now_broken + 1 } else { 0 };
            self.broken = self.broken.max(self.now_broken);
            if let Some(change) = self.tuner.step(&picture) {
                assert!(self.bounds.allow(&change.settings), "{}", change.settings);
                self.servers[change.model as usize].settings = change.settings;
                self.changes += 1;
            }
        }
    }

    /// How much of the best that there is each server does, with what is kept.
    fn shares(&self) -> Vec<f64> {
        let share = 1.0 / self.servers.len() as f64;
        let best_of = |model: usize, server: &Server| {
            let kept = Settings { ..self.tuner.best(model as u64).unwrap_or(server.settings) };
            let rate = |settings: Settings| Server { settings, ..server.clone() }.steady(share);
            let mut best: f64 = 0.0;
            for power in 0..10 {
                for lanes in [1, 2, 4] {
                    for intra_op_threads in [1, 2, 4] {
                        let settings =
                            Settings { max_rows: 1 << power, max_delay_us: 0, lanes, intra_op_threads };
                        let (rows_per_second, p99, _) = rate(settings);
                        let within = self.goal.p99_ns == 0 || p99 <= self.goal.p99_ns as f64;
                        if within && self.bounds.allow(&settings) {
                            best = best.max(rows_per_second);
                        }
                    }
                }
            }
            rate(kept).0 / best
        };
        self.servers.iter().enumerate().map(|(model, server)| best_of(model, server)).collect()
    }

    fn is_settled(&self) -> bool {
        (0..self.servers.len()).all(|model| self.tuner.is_settled(model as u64) == Some(true))
    }
}

/// Like the three models of the benchmarks.
const COSTS: [(f64, f64); 3] = [(3_000.0, 50.0), (12_000.0, 1_800.0), (500_000.0, 110_000.0)];

const THROUGHPUT: fn(Option<f64>) -> Goal = |p99_ms| Goal::new(Objective::Throughput, p99_ms);

#[test]
fn bad_settings_become_good_ones_within_thirty_seconds() {
    for (level, least) in [(TuningLevel::Balanced, 0.9), (TuningLevel::Aggressive, 0.9)] {
        for (fixed, row) in COSTS {
            for seed in 1..20 {
                let server = Server::new(fixed, row, Load::Closed(256.0), bad());
                let mut world = World::new(level, THROUGHPUT(None), vec![server], 0.03, seed);
                world.windows(250);
                let share = world.shares()[0];
                assert!(share >= least, "{level:?} {fixed} {seed}: {share}: {:?}", world.servers[0].settings);
            }
        }
    }
}

#[test]
fn a_conservative_tuner_changes_batching_only() {
    for seed in 1..20 {
        let server = Server::new(12_000.0, 1_800.0, Load::Closed(64.0), bad());
        let mut world = World::new(TuningLevel::Conservative, THROUGHPUT(None), vec![server], 0.03, seed);
        let before = world.servers[0].steady(1.0).0;
        world.windows(250);
        let Settings { lanes, intra_op_threads, .. } = world.servers[0].settings;
        assert_eq!((lanes, intra_op_threads), (1, 1));
        assert!(world.servers[0].steady(1.0).0 > 2.0 * before);
    }
}

#[test]
fn a_search_ends_and_then_costs_nothing() {
    for level in [TuningLevel::Conservative, TuningLevel::Balanced, TuningLevel::Aggressive] {
        for seed in 1..10 {
            let server = Server::new(3_000.0, 50.0, Load::Closed(256.0), bad());
            let mut world = World::new(level, THROUGHPUT(None), vec![server], 0.02, seed);
            world.windows(300);
            assert!(world.is_settled(), "{level:?} {seed}");
            let changes = world.changes;
            world.windows(1_000);
            assert_eq!(world.changes, changes);
        }
    }
}

#[test]
fn good_settings_are_left_alone() {
    let good = Settings { max_rows: 64, max_delay_us: 0, lanes: 4, intra_op_threads: 1 };
    for seed in 1..20 {
        let server = Server::new(12_000.0, 1_800.0, Load::Closed(256.0), good);
        let mut world = World::new(TuningLevel::Balanced, THROUGHPUT(None), vec![server], 0.03, seed);
        world.windows(300);
        assert!(world.shares()[0] > 0.95, "{}", world.servers[0].settings);
    }
}

#[test]
fn models_side_by_side_do_not_starve_each_other() {
    let mut all = Vec::new();
    for level in [TuningLevel::Balanced, TuningLevel::Aggressive] {
        for seed in 1..20 {
            let servers =
                COSTS.map(|(fixed, row)| Server::new(fixed, row, Load::Closed(128.0), bad())).to_vec();
            let mut world = World::new(level, THROUGHPUT(None), servers, 0.03, seed);
            world.windows(300);
            let shares = world.shares();
            let mean = shares.iter().map(|share| share.ln()).sum::<f64>() / 3.0;
            assert!(mean.exp() >= 0.85, "{level:?} {seed}: {shares:?}");
            all.push(mean.exp());
        }
    }
    assert!(all.iter().sum::<f64>() / all.len() as f64 > 0.92, "{all:?}");
}

#[test]
fn a_goal_is_never_broken_for_long() {
    for level in [TuningLevel::Balanced, TuningLevel::Aggressive] {
        for objective in [Objective::Latency, Objective::Throughput] {
            for load in [Load::Closed(256.0), Load::Open(60_000.0)] {
                for seed in 1..20 {
                    let goal = Goal::new(objective, Some(3.0));
                    let server = Server::new(12_000.0, 1_800.0, load, bad());
                    let mut world = World::new(level, goal, vec![server], 0.03, seed);
                    world.windows(250);
                    let settings = world.servers[0].settings;
                    assert!(world.broken <= 20, "{level:?} {seed}: {} windows, {settings}", world.broken);
                    let share = world.shares()[0];
                    assert!(share >= 0.85, "{level:?} {objective:?} {seed}: {share} {settings}");
                }
            }
        }
    }
}

#[test]
fn without_a_goal_latency_falls_and_nothing_is_lost() {
    for seed in 1..10 {
        let slow = Settings { max_rows: 256, max_delay_us: 5_000, lanes: 1, intra_op_threads: 1 };
        let server = Server::new(12_000.0, 1_800.0, Load::Open(20_000.0), slow);
        let (rate, before, _) = server.steady(1.0);
        let goal = Goal::new(Objective::Latency, None);
        let mut world = World::new(TuningLevel::Balanced, goal, vec![server], 0.03, seed);
        world.windows(300);
        let (now, after, _) = world.servers[0].steady(1.0);
        assert!(after < before / 3.0 && now > 0.95 * rate, "{after} {before} {}", world.servers[0].settings);
    }
}

#[test]
fn another_load_has_it_search_again() {
    for seed in 1..10 {
        let server = Server::new(12_000.0, 1_800.0, Load::Closed(4.0), bad());
        let mut world = World::new(TuningLevel::Aggressive, THROUGHPUT(None), vec![server], 0.02, seed);
        world.windows(300);
        assert!(world.is_settled());
        world.servers[0].load = Load::Closed(512.0);
        // More requests at once are more throughput, even with what was best for few.
        world.servers[0].settings = world.tuner.best(0).unwrap();
        world.windows(300);
        let share = world.shares()[0];
        let settings = world.servers[0].settings;
        assert!(share > 0.85 || settings.max_rows < 8, "{share} {settings}");
    }
}

#[test]
fn threads_inside_operators_are_tried_where_they_can_help() {
    for seed in 1..10 {
        // One request at a time: nothing but threads inside can make it faster.
        let mut server = Server::new(5_000_000.0, 10_000.0, Load::Closed(1.0), bad());
        server.parallel = 0.95;
        let mut world = World::new(TuningLevel::Balanced, THROUGHPUT(None), vec![server], 0.02, seed);
        world.windows(300);
        assert_eq!(world.servers[0].settings.intra_op_threads, 4, "{seed}");
    }
}

#[test]
fn the_hosts_limits_are_kept_and_its_changes_taken() {
    let server = Server::new(12_000.0, 1_800.0, Load::Closed(256.0), bad());
    let mut world = World::new(TuningLevel::Aggressive, THROUGHPUT(None), vec![server], 0.02, 1);
    world.bounds.max_rows = [4, 16];
    world.bounds.lanes = [1, 2];
    world.windows(200);
    let settings = world.servers[0].settings;
    assert_eq!((settings.max_rows, settings.lanes), (16, 2));
    let hosts = Settings { max_rows: 4, max_delay_us: 0, lanes: 1, intra_op_threads: 1 };
    world.servers[0].settings = hosts;
    world.windows(1);
    assert_eq!(world.tuner.best(0), Some(hosts));
    world.windows(200);
    assert_eq!(world.servers[0].settings.max_rows, 16);
}

#[test]
fn without_traffic_what_was_being_tried_is_given_up() {
    let server = Server::new(12_000.0, 1_800.0, Load::Closed(256.0), bad());
    let mut world = World::new(TuningLevel::Balanced, THROUGHPUT(None), vec![server], 0.02, 1);
    world.windows(1);
    let tried = world.servers[0].settings;
    assert_ne!(tried, bad());
    assert_eq!(world.tuner.rest(), Some(Change { model: 0, settings: bad() }));
    assert_eq!(world.tuner.rest(), None);
    world.servers[0].settings = bad();
    world.windows(1);
    world.tuner.failed(0);
    assert_eq!(world.tuner.best(0), Some(bad()));
    world.tuner.retain(|_| false);
    assert_eq!(world.tuner.best(0), None);
}
