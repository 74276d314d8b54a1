//! Sticky sessions: what is remembered, for how long, and for whom.

use crate::router::{Sessions, mix};
use crate::sync::{AtomicU64, Ordering};

const SECOND: u64 = 1_000_000_000;

#[test]
fn a_session_goes_where_it_went() {
    let sessions = Sessions::new(1000, 60 * SECOND);
    assert_eq!(sessions.get(7, SECOND), None);
    sessions.put(7, 3, SECOND);
    sessions.put(8, 4, SECOND);
    sessions.put(0, 4, SECOND);
    assert_eq!([7, 8, 9, 0].map(|id| sessions.get(id, SECOND)), [Some(3), Some(4), None, None]);
    sessions.put(7, u32::MAX, SECOND);
    assert_eq!((sessions.get(7, SECOND), sessions.len(SECOND)), (Some(u32::MAX), 2));
    sessions.forget_target(4);
    assert_eq!((sessions.get(8, SECOND), sessions.len(SECOND)), (None, 1));
}

#[test]
fn it_is_forgotten_so_long_after_its_latest_use() {
    let sessions = Sessions::new(8, 64 * SECOND);
    sessions.put(7, 3, SECOND);
    assert_eq!(sessions.get(7, 65 * SECOND), Some(3));
    assert_eq!(sessions.get(7, 64 * SECOND), Some(3)); // another core's clock
    assert_eq!(sessions.get(7, 129 * SECOND), Some(3));
    assert_eq!(sessions.len(193 * SECOND), 1);
    assert_eq!((sessions.get(7, 194 * SECOND), sessions.len(194 * SECOND)), (None, 0));
    sessions.put(7, 5, 195 * SECOND);
    assert_eq!(sessions.get(7, 196 * SECOND), Some(5));
}

#[test]
fn the_one_silent_longest_makes_room() {
    let sessions = Sessions::new(1, 1000 * SECOND);
    for session in 1..=8 {
        sessions.put(session, session as u32, session * SECOND);
    }
    sessions.get(1, 100 * SECOND);
    sessions.put(9, 9, 101 * SECOND);
    let found = (1..=9).filter(|session| sessions.get(*session, 101 * SECOND).is_some());
    assert_eq!(found.collect::<Vec<_>>(), [1, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn half_of_its_capacity_is_remembered_nearly_whole() {
    let sessions = Sessions::new(16_384, 1000 * SECOND);
    for session in 1..=8192u64 {
        sessions.put(session << 40, session as u32, SECOND);
    }
    let kept = (1..=8192u64).filter(|session| sessions.get(session << 40, SECOND).is_some()).count();
    assert!(kept > 8000, "{kept}");
}

/// Far more sessions than places, so that slots change hands all the time.
#[test]
fn nobody_gets_the_target_of_another() {
    let sessions = Sessions::new(16, 1000 * SECOND);
    let hits = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let (sessions, hits) = (&sessions, &hits);
            scope.spawn(move || {
                for turn in 0..100_000 {
                    let session = 1 + mix(turn * 4 + thread) % 40;
                    if let Some(target) = sessions.get(session, turn) {
                        assert_eq!(u64::from(target) % 100, session);
                        hits.fetch_add(1, Ordering::Relaxed);
                    }
                    sessions.put(session, (session + 100 * (turn % 3)) as u32, turn);
                }
            });
        }
    });
    assert!(hits.into_inner() > 1000);
}
