//! What each strategy promises.

use super::random::mix;
use super::strategy::{BUILT_IN, Choice, Strategy, make};
use super::target::{Bars, Peers, Tally, Target};
use crate::config::{BreakerConfig, StrategyConfig, TargetConfig};
use std::sync::Arc;

const MS: u64 = 1_000_000;
const START: u64 = 1_000_000 * MS;
const MEMORY_NS: u64 = 2000 * MS;

fn named(named: &[(&str, u32)]) -> Vec<Arc<Target>> {
    let peers = Arc::new(Peers::default());
    let target = |&(name, weight): &(&str, u32)| {
        let config = TargetConfig { model: name.to_owned(), weight, tier: 0, concurrency: None };
        let breaker = BreakerConfig { enabled: false, ..BreakerConfig::default() };
        let target = Target::new(&config, breaker, &peers);
        target.bar(Bars::UNBOUND, false);
        target
    };
    named.iter().map(target).collect()
}

fn weighted(weights: &[u32]) -> Vec<Arc<Target>> {
    let names: Vec<String> = (0..weights.len()).map(|index| format!("model-{index}")).collect();
    let pairs: Vec<_> = names.iter().map(String::as_str).zip(weights.iter().copied()).collect();
    named(&pairs)
}

fn strategy(name: &str, targets: &[Arc<Target>]) -> Box<dyn Strategy> {
    make(&StrategyConfig::named(name), targets).unwrap()
}

/// A choice among all of them, for a request without a key.
fn among(targets: &[Arc<Target>]) -> Choice<'_> {
    let eligible = (1u128 << targets.len()) as u64;
    Choice {
        targets,
        eligible: eligible.wrapping_sub(1),
        now_ns: START,
        key: 0,
        tenant: 0,
        session: 0,
        route_key: 0,
        load: &|_| 0.0,
    }
}

fn begin(target: &Target, count: usize) {
    (0..count).for_each(|_| target.begin());
}

/// How often each is picked when calls end at once.
fn counts(strategy: &dyn Strategy, choice: &Choice<'_>, picks: usize) -> Vec<usize> {
    let mut counts = vec![0; choice.targets.len()];
    (0..picks).for_each(|_| counts[strategy.pick(choice)] += 1);
    counts
}

/// A call to a target that takes so long.
fn call(target: &Target, latency_ns: u64, failed: bool, now_ns: u64) {
    let mut tally = Tally::default();
    tally.add(latency_ns, failed, u64::MAX);
    target.begin();
    target.end(1);
    target.record(tally, "", now_ns, MEMORY_NS);
}

fn about(count: usize, expected: usize) -> bool {
    count.abs_diff(expected) * 10 <= expected
}

#[test]
fn each_name_makes_a_strategy_that_picks_only_what_it_may() {
    let targets = weighted(&[1; 64]);
    for name in BUILT_IN {
        let strategy = strategy(name, &targets);
        for turn in 0..300u64 {
            let eligible = (mix(turn) & mix(turn + 1) & mix(turn + 2)).max(1);
            let choice = Choice { eligible, key: turn, tenant: turn, ..among(&targets) };
            let picked = strategy.pick(&choice);
            assert!(eligible >> picked & 1 == 1, "{name} picked {picked} of {eligible:b}");
            call(&targets[picked], mix(turn) % MS, turn % 7 == 0, START);
        }
        let alone = Choice { eligible: 1 << 63, key: 5, tenant: 5, ..among(&targets) };
        assert_eq!(strategy.pick(&alone), 63, "{name}");
    }
    assert!(make(&StrategyConfig::named("none"), &targets).is_none());
}

#[test]
fn round_robin_is_even_also_when_some_are_missing() {
    let targets = weighted(&[1, 5, 1, 1]);
    let strategy = strategy("round_robin", &targets);
    assert_eq!(counts(&*strategy, &among(&targets), 400), [100; 4]);
    let choice = Choice { eligible: 0b1011, ..among(&targets) };
    assert_eq!(counts(&*strategy, &choice, 300), [100, 100, 0, 100]);
}

#[test]
fn weighted_round_robin_gives_each_its_share_and_spreads_a_missing_ones() {
    let targets = weighted(&[50, 10, 10, 30]);
    let strategy = strategy("weighted_round_robin", &targets);
    assert_eq!(counts(&*strategy, &among(&targets), 1000), [500, 100, 100, 300]);
    let without_first = Choice { eligible: 0b1110, ..among(&targets) };
    let shares = counts(&*strategy, &without_first, 10_000);
    assert!(about(shares[1], 2000) && about(shares[2], 2000) && about(shares[3], 6000), "{shares:?}");
}

#[test]
fn least_connections_goes_by_calls_for_each_weight_and_shares_ties() {
    let targets = weighted(&[1, 4, 1, 1]);
    let strategy = strategy("least_connections", &targets);
    begin(&targets[0], 2);
    begin(&targets[1], 6);
    begin(&targets[2], 2);
    begin(&targets[3], 2);
    assert_eq!(counts(&*strategy, &among(&targets), 10), [0, 10, 0, 0]);
    begin(&targets[1], 6);
    let shares = counts(&*strategy, &among(&targets), 3000);
    assert!(shares[1] == 0 && [0, 2, 3].iter().all(|&index| about(shares[index], 1000)), "{shares:?}");
}

#[test]
fn least_response_time_asks_who_answers_soonest_and_hardly_who_fails() {
    let targets = weighted(&[1, 1, 1]);
    let strategy = strategy("least_response_time", &targets);
    call(&targets[0], 4 * MS, false, START);
    call(&targets[1], MS, false, START);
    // One of which nothing is known gets one call, and then no more than its part.
    assert_eq!(strategy.pick(&among(&targets)), 2);
    begin(&targets[2], 1);
    assert_eq!(strategy.pick(&among(&targets)), 1);
    begin(&targets[1], 4);
    assert_eq!(strategy.pick(&among(&targets)), 0);
    targets[1].end(4);
    (0..20).for_each(|_| call(&targets[1], MS, true, START));
    assert_eq!(strategy.pick(&among(&targets)), 0);
}

#[test]
fn least_response_time_tries_a_slow_one_again_with_one_call() {
    let targets = weighted(&[1, 1]);
    let strategy = strategy("least_response_time", &targets);
    let later = START + 10 * MEMORY_NS;
    call(&targets[0], MS, false, later);
    call(&targets[1], 5 * MS, false, START);
    let choice = Choice { now_ns: later, ..among(&targets) };
    assert_eq!(strategy.pick(&choice), 1);
    begin(&targets[1], 1);
    assert_eq!(strategy.pick(&choice), 0);
}

#[test]
fn least_loaded_goes_by_load_and_then_by_calls() {
    let targets = weighted(&[1, 1, 1]);
    let strategy = strategy("least_loaded", &targets);
    begin(&targets[1], 3);
    begin(&targets[2], 1);
    let choice = Choice { load: &|index| [0.5, 0.25, 0.25][index], ..among(&targets) };
    assert_eq!(counts(&*strategy, &choice, 10), [0, 0, 10]);
}

#[test]
fn power_of_two_avoids_the_busiest_and_spreads_over_the_rest() {
    let targets = weighted(&[1, 1, 1, 1]);
    let strategy = strategy("power_of_two", &targets);
    begin(&targets[3], 1);
    let shares = counts(&*strategy, &among(&targets), 9000);
    assert!(shares[3] == 0 && shares[..3].iter().all(|&share| about(share, 3000)), "{shares:?}");
}

const KEYS: u64 = 18_000;

fn places(name: &str, targets: &[Arc<Target>], eligible: u64) -> Vec<usize> {
    let strategy = strategy(name, targets);
    let choice = |key| Choice { key: mix(key), tenant: mix(key), eligible, ..among(targets) };
    (1..=KEYS).map(|key| strategy.pick(&choice(key))).collect()
}

#[test]
fn hashes_move_only_the_keys_of_a_target_that_leaves() {
    for name in ["consistent_hash", "client_hash"] {
        for count in [3, 4, 8] {
            let targets = weighted(&vec![1; count]);
            let all = (1 << count) - 1;
            let before = places(name, &targets, all);
            for leaving in 0..count {
                let after = places(name, &targets, all & !(1 << leaving));
                let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
                let most = KEYS as usize * 110 / (100 * count);
                assert!(moved <= most, "{name}: {moved} of {KEYS} keys move when 1 of {count} leaves");
                assert!(
                    before.iter().zip(&after).all(|(before, after)| before == after || *before == leaving)
                );
            }
        }
    }
}

#[test]
fn hashes_go_by_names_and_weights_and_not_by_places_in_the_list() {
    let targets = named(&[("a", 1), ("b", 2), ("c", 3)]);
    let turned = named(&[("c", 3), ("a", 1), ("b", 2)]);
    for name in ["consistent_hash", "client_hash"] {
        let (places, others) = (places(name, &targets, 0b111), places(name, &turned, 0b111));
        assert!(places.iter().zip(&others).all(|(&one, &other)| targets[one].name == turned[other].name));
        let of = |target| places.iter().filter(|&&place| place == target).count();
        assert!(about(of(0), 3000) && about(of(1), 6000) && about(of(2), 9000));
    }
    // What it was when this was written: the same in each process, and for ever.
    let equal = named(&[("a", 1), ("b", 1), ("c", 1)]);
    assert_eq!(places("client_hash", &equal, 0b111)[..12], FIRST_PLACES);
}

const FIRST_PLACES: [usize; 12] = [0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1];

#[test]
fn requests_without_a_key_go_where_less_is_done() {
    for name in ["consistent_hash", "client_hash"] {
        let targets = weighted(&[1, 1]);
        let strategy = strategy(name, &targets);
        begin(&targets[0], 1);
        assert_eq!(counts(&*strategy, &among(&targets), 20), [0, 20]);
    }
}

#[test]
fn a_popular_key_does_not_fill_its_target() {
    let targets = weighted(&[1, 1, 2]);
    let bounded = strategy("consistent_hash", &targets);
    let mut of_key = 0;
    for turn in 1..=2000u64 {
        let key = if turn % 10 == 0 { turn } else { 42 };
        of_key += usize::from(key == 42);
        let picked = bounded.pick(&Choice { key, ..among(&targets) });
        begin(&targets[picked], 1);
        let share = turn as f64 * if picked == 2 { 0.5 } else { 0.25 };
        let most = (1.25 * share).ceil();
        assert!(f64::from(targets[picked].in_flight()) <= most, "{picked} at {turn}");
    }
    // The tenant's hash does not look.
    let plain = strategy("client_hash", &targets);
    assert_eq!(of_key, 1800);
    assert_eq!(*counts(&*plain, &Choice { tenant: 42, ..among(&targets) }, 100).iter().max().unwrap(), 100);
}

#[test]
fn adaptive_learns_what_calls_take_and_tries_each_first() {
    let targets = weighted(&[1, 1, 1]);
    let strategy = strategy("adaptive", &targets);
    let mut now_ns = START;
    assert_eq!(targets[0].arm.cost_ns(1), 0.0);
    let mut shares = [0; 3];
    for _ in 0..2000 {
        now_ns += 10 * MS;
        let picked = strategy.pick(&Choice { now_ns, ..among(&targets) });
        shares[picked] += 1;
        targets[picked].begin();
        let latency_ns = [3, 1, 4][picked] * MS;
        now_ns += latency_ns;
        targets[picked].end(1);
        let mut tally = Tally::default();
        tally.add(latency_ns, false, u64::MAX);
        targets[picked].record(tally, "", now_ns, MEMORY_NS);
    }
    let costs: Vec<_> = targets.iter().map(|target| target.arm.cost_ns(1) / MS as f32).collect();
    assert!((costs[0] - 3.0).abs() < 0.1 && (costs[1] - 1.0).abs() < 0.1, "{costs:?}");
    // The others are still tried, rarely.
    assert!(shares[1] > 1950 && shares[0] >= 2 && shares[2] >= 2, "{shares:?}");
}

#[test]
fn adaptive_leaves_one_alone_that_fails_fast_and_one_that_hangs() {
    let targets = weighted(&[1, 1]);
    let strategy = strategy("adaptive", &targets);
    for turn in 0..50 {
        call(&targets[0], MS / 10, true, START + turn);
        call(&targets[1], 2 * MS, false, START + turn);
    }
    assert!(targets[0].arm.failing() > 0.8 && targets[1].arm.failing() == 0.0);
    let shares = counts(&*strategy, &Choice { now_ns: START + MS, ..among(&targets) }, 1000);
    assert!(shares[1] >= 990, "{shares:?}");

    let targets = weighted(&[1, 1]);
    for turn in 0..50 {
        call(&targets[0], MS, false, START + turn);
        call(&targets[1], 4 * MS, false, START + turn);
    }
    let pick = |now_ns| strategy.pick(&Choice { now_ns, ..among(&targets) });
    assert_eq!(pick(START + MS), 0);
    targets[0].begin();
    targets[1].begin();
    // A call to the first one does not come back: the second one is four times slower, and yet better.
    assert_eq!(counts(&*strategy, &Choice { now_ns: START + 60 * MS, ..among(&targets) }, 100)[0], 0);
}

#[test]
fn what_adaptive_learns_is_finite_whatever_comes() {
    let targets = weighted(&[1, 1]);
    let strategy = strategy("adaptive", &targets);
    let mut in_flight = [0u32; 2];
    for turn in 0..5000u64 {
        let random = mix(turn);
        let now_ns = START + if random.is_multiple_of(50) { u64::MAX >> 20 } else { random % MS };
        let picked = strategy.pick(&Choice { now_ns, ..among(&targets) });
        begin(&targets[picked], (random % 9) as usize);
        in_flight[picked] += (random % 9) as u32;
        let ended = (mix(random) % (u64::from(in_flight[picked]) + 1)) as u32;
        targets[picked].end(ended);
        in_flight[picked] -= ended;
        let latency_ns = [0, 1, MS, u64::MAX][(random >> 20 & 3) as usize];
        let tally = Tally { calls: ended, failed: ended / 2, slow: 0, latency_ns, longest_ns: latency_ns };
        targets[picked].record(tally, "", now_ns, [0, 1, MEMORY_NS][(random >> 30) as usize % 3]);
        for calls in [0, 1, 2, 1000, u32::MAX] {
            let cost = targets[picked].arm.cost_ns(calls);
            assert!(cost.is_finite() && cost >= 0.0, "{cost} at {turn}");
        }
        assert!((0.0..=1.0).contains(&targets[picked].arm.failing()));
    }
}

#[test]
fn picks_and_lessons_may_come_from_many_threads() {
    for name in BUILT_IN {
        let targets = weighted(&[1, 2, 3]);
        let strategy = strategy(name, &targets);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let (targets, strategy) = (&targets, &strategy);
                scope.spawn(move || {
                    for turn in 1..500u64 {
                        let now_ns = START + turn * MS;
                        let picked = strategy.pick(&Choice { now_ns, key: thread, ..among(targets) });
                        call(&targets[picked], MS, turn % 5 == 0, now_ns);
                    }
                });
            }
        });
        let requests: u64 = targets.iter().map(|target| target.requests()).sum();
        assert_eq!(requests, 4 * 499, "{name}");
        assert!(targets.iter().all(|target| target.in_flight() == 0));
    }
}
