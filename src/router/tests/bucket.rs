//! Token buckets: what they let through, against the crate `governor` and from many threads.

use crate::router::{Bucket, mix};
use crate::sync::{AtomicU64, Ordering};
use governor::clock::FakeRelativeClock;
use governor::{Quota, RateLimiter};
use std::num::NonZeroU32;
use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

fn bucket(rate_per_second: f64, burst: u32) -> Bucket {
    let bucket = Bucket::default();
    bucket.set(Some(rate_per_second), Some(burst), 1);
    bucket
}

/// Tokens that can be taken one by one.
fn drain(bucket: &Bucket, now_ns: u64) -> u32 {
    std::iter::from_fn(|| bucket.take(1, now_ns).ok()).count() as u32
}

#[test]
fn a_burst_passes_at_once_and_then_the_rate() {
    let bucket = bucket(10.0, 5);
    assert_eq!(drain(&bucket, SECOND), 5);
    assert_eq!(bucket.take(1, SECOND), Err(SECOND / 10));
    assert_eq!(bucket.take(3, SECOND), Err(SECOND * 3 / 10));
    assert_eq!(bucket.take(1, SECOND + SECOND / 10), Ok(()));
    assert_eq!(drain(&bucket, 2 * SECOND), 5); // not more, though the rate had room for 9
    assert_eq!(bucket.take(6, 100 * SECOND), Err(u64::MAX));
    assert_eq!(bucket.take(5, 100 * SECOND), Ok(()));
    assert_eq!(bucket.left(100 * SECOND), Some(0));
    assert_eq!(bucket.left(101 * SECOND), Some(5));
    assert_eq!((bucket.is_full(100 * SECOND), bucket.is_full(101 * SECOND)), (false, true));
}

#[test]
fn without_a_rate_everything_passes() {
    let bucket = Bucket::default();
    assert!((0..1000).all(|_| bucket.take(u32::MAX, 0).is_ok()));
    bucket.give_back(1);
    assert!(bucket.is_unlimited() && bucket.is_full(0));
    assert_eq!(bucket.left(0), None);
    assert_eq!(bucket.take(u32::MAX, u64::MAX), Ok(()));
}

#[test]
fn what_is_given_back_can_be_taken_again() {
    let bucket = bucket(1000.0, 10);
    assert_eq!(bucket.take(10, SECOND), Ok(()));
    bucket.give_back(4);
    assert_eq!(drain(&bucket, SECOND), 4);
    bucket.give_back(u32::MAX);
    assert_eq!(drain(&bucket, SECOND), 10);
}

#[test]
fn who_waits_as_long_as_told_passes() {
    for round in 0..20_000u64 {
        let random = |salt: u64| mix(round * 8 + salt);
        let rate = 10f64.powf((random(0) % 12_000) as f64 / 1000.0 - 3.0);
        let burst = 1 + (random(1) % 100) as u32;
        let bucket = bucket(rate, burst);
        let mut now_ns = random(2) >> 20;
        for step in 3..8 {
            let count = 1 + (random(step) % u64::from(burst)) as u32;
            if let Err(wait_ns) = bucket.take(count, now_ns) {
                assert!(wait_ns > 0);
                assert!(wait_ns == 1 || bucket.take(count, now_ns + wait_ns - 2).is_err());
                now_ns += wait_ns;
                assert_eq!(bucket.take(count, now_ns), Ok(()), "{rate} {burst} {count}");
            }
        }
    }
}

#[test]
fn the_slowest_and_the_fastest_rates_are_kept() {
    let slow = bucket(0.001, 1);
    assert_eq!(slow.take(1, SECOND), Ok(()));
    assert_eq!(slow.take(1, SECOND), Err(1000 * SECOND));
    assert_eq!(slow.take(1, 1001 * SECOND), Ok(()));
    bucket(0.001, u32::MAX).take(1000, SECOND).unwrap();
    for rate in [1e9, 9.9e8, 3e8, 1e7, 123_456.7, 1e3] {
        let bucket = bucket(rate, 1000);
        let mut taken = 0u64;
        let step_ns = (400e9 / rate) as u64;
        let steps = 10_000;
        for step in 0..steps {
            taken += u64::from(drain(&bucket, SECOND + step * step_ns));
        }
        let most = 1000.0 + rate * ((steps - 1) * step_ns) as f64 / 1e9;
        assert!(taken as f64 <= most + 1e-6 && taken as f64 > 0.98 * most, "{rate}: {taken} of {most}");
    }
}

#[test]
fn a_change_fills_it_and_no_change_does_not() {
    let bucket = bucket(0.001, 10);
    assert_eq!(drain(&bucket, SECOND), 10);
    bucket.set(Some(0.001), Some(10), 1);
    assert_eq!(drain(&bucket, SECOND), 0);
    bucket.set(Some(1000.0), None, 1);
    assert_eq!(drain(&bucket, SECOND), 100);
    assert_eq!(bucket.take(1, SECOND), Err(SECOND / 1000));
    bucket.set(None, None, 1);
    assert_eq!(bucket.take(u32::MAX, SECOND), Ok(()));
    bucket.set(Some(0.5), None, 1);
    assert_eq!(drain(&bucket, SECOND), 1);
}

/// The crate `governor`, an independent implementation of the same, with a clock that is moved by hand.
#[test]
fn it_lets_through_what_governor_does() {
    let number = |value: u64| NonZeroU32::new(value as u32).unwrap();
    for round in 0..400u64 {
        let mut state = mix(round);
        let mut random = |below: u64| {
            state = mix(state);
            state % below
        };
        // Tokens whose time is a whole number of nanoseconds, which is all that governor knows.
        let interval_ns = [1, 2, 8, 50, 1000, 12_500, 1_000_000, SECOND][random(8) as usize];
        let burst = 1 + random(64);
        let ours = bucket(1e9 / interval_ns as f64, burst as u32);
        let quota = Quota::with_period(Duration::from_nanos(interval_ns)).unwrap();
        let clock = FakeRelativeClock::default();
        let theirs = RateLimiter::direct_with_clock(quota.allow_burst(number(burst)), clock.clone());
        let mut now_ns = 1 + random(SECOND);
        let mut outcomes = [0u32; 3];
        for _ in 0..500 {
            let count = 1 + if random(4) == 0 { random(burst + 2) } else { 0 };
            let our = ours.take(count as u32, now_ns);
            let their = theirs.check_n(number(count));
            match their {
                Ok(Ok(())) => assert_eq!(our, Ok(())),
                Ok(Err(ref until)) => {
                    let wait = until.wait_time_from(governor::clock::Clock::now(&clock));
                    assert_eq!(our, Err(wait.as_nanos() as u64), "{interval_ns} {burst} {count}");
                }
                Err(_) => assert_eq!(our, Err(u64::MAX)),
            }
            outcomes[their.as_ref().map_or(2, |their| usize::from(their.is_err()))] += 1;
            let step_ns = random(3 * interval_ns);
            now_ns += step_ns;
            clock.advance(Duration::from_nanos(step_ns));
        }
        assert!(outcomes[0] > 50 && outcomes[2] < 100, "{outcomes:?}");
    }
}

#[test]
fn many_threads_with_clocks_that_differ_never_get_more() {
    let bucket = bucket(1e6, 50);
    let (clock, passed) = (AtomicU64::new(SECOND), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (bucket, clock, passed) = (&bucket, &clock, &passed);
            scope.spawn(move || {
                for turn in 0..50_000 {
                    // Each tenth of a token's time; some read it early and come late.
                    let now_ns = clock.fetch_add(100, Ordering::Relaxed) - mix(turn * 4 + thread) % 5000;
                    if bucket.take(2, now_ns).is_ok() {
                        match mix(turn).is_multiple_of(8) {
                            true => bucket.give_back(2),
                            false => _ = passed.fetch_add(2, Ordering::Relaxed),
                        }
                    }
                }
            });
        }
    });
    // What comes from the earliest time that anybody has to the latest, and what was there before.
    let most = 5 + 4 * 50_000 / 10 + 50;
    let passed = passed.into_inner();
    assert!(passed <= most && passed * 100 > most * 99, "{passed} of {most}");
}
