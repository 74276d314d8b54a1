//! Where a session's latest request went, so that its next one goes there too: a fixed table without locks.

use super::random::mix;
use crate::sync::{AtomicU64, Ordering};

/// Places where a session may be. When all are taken, whoever was silent longest makes room.
const WAYS: usize = 8;
/// In the word of a slot, above the target: a number that changes with each write; odd while one is under way.
const VERSION: u64 = 1 << 32;

/// One remembered session.
///
/// The word is read before and after the session, so both are of one another: a foreign target would need 2^31 changes of
/// one slot between the two reads.
#[derive(Default)]
pub struct Slot {
    word: AtomicU64,
    /// 0: none.
    session: AtomicU64,
    used_ns: AtomicU64,
}

/// A slot as it was at one moment.
#[derive(Clone, Copy)]
pub struct Seen {
    word: u64,
    pub session: u64,
    pub used_ns: u64,
}

impl Seen {
    pub fn target(&self) -> u32 {
        self.word as u32
    }
}

impl Slot {
    /// What is in it; `None` while it is being changed.
    pub fn read(&self) -> Option<Seen> {
        let word = self.word.load(Ordering::Acquire);
        let session = self.session.load(Ordering::Acquire);
        let used_ns = self.used_ns.load(Ordering::Acquire);
        let same = self.word.load(Ordering::Relaxed) == word;
        (same && word & VERSION == 0).then_some(Seen { word, session, used_ns })
    }

    /// Puts another session in, unless the slot has changed since it was seen.
    pub fn replace(&self, seen: Seen, session: u64, target: u32, now_ns: u64) -> bool {
        let word = (seen.word & !(VERSION - 1)).wrapping_add(VERSION) | u64::from(target);
        let claimed =
            self.word.compare_exchange(seen.word, word, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if claimed {
            self.session.store(session, Ordering::Release);
            self.used_ns.store(now_ns, Ordering::Release);
            self.word.store(word.wrapping_add(VERSION), Ordering::Release);
        }
        claimed
    }

    /// Gives the session another target, unless the slot has changed since it was seen.
    pub fn retarget(&self, seen: Seen, target: u32) -> bool {
        let word = (seen.word & !(VERSION - 1)).wrapping_add(2 * VERSION) | u64::from(target);
        self.word.compare_exchange(seen.word, word, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// That the session was used. If it has just been replaced, the other one was as well.
    fn touch(&self, now_ns: u64) {
        self.used_ns.store(now_ns, Ordering::Release);
    }
}

/// Sessions and their targets. Reads and writes never wait, and allocate nothing. A write that others overtake again and
/// again is given up: then its session goes anywhere once more.
pub struct Sessions {
    sets: Box<[[Slot; WAYS]]>,
    ttl_ns: u64,
}

impl Sessions {
    /// Remembers at least `capacity` sessions if they spread evenly, each until `ttl_ns` after its latest use (up to a 64th
    /// less, because not every use is noted).
    pub fn new(capacity: usize, ttl_ns: u64) -> Self {
        let sets = capacity.div_ceil(WAYS).max(1).next_power_of_two();
        Sessions { sets: std::iter::repeat_with(Default::default).take(sets).collect(), ttl_ns }
    }

    fn set(&self, session: u64) -> &[Slot; WAYS] {
        &self.sets[mix(session) as usize & (self.sets.len() - 1)]
    }

    fn is_over(&self, seen: &Seen, now_ns: u64) -> bool {
        seen.session == 0 || now_ns.saturating_sub(seen.used_ns) > self.ttl_ns
    }

    fn touch(&self, slot: &Slot, seen: &Seen, now_ns: u64) {
        if now_ns.saturating_sub(seen.used_ns) > self.ttl_ns / 64 {
            slot.touch(now_ns);
        }
    }

    /// The target of a session (0: none), which counts as a use of it.
    pub fn get(&self, session: u64, now_ns: u64) -> Option<u32> {
        // A look at the session alone first: the others need not be read whole.
        let is_it = |slot: &&Slot| session != 0 && slot.session.load(Ordering::Relaxed) == session;
        let read = |slot: &Slot| {
            let seen = slot.read().filter(|seen| seen.session == session && !self.is_over(seen, now_ns))?;
            self.touch(slot, &seen, now_ns);
            Some(seen.target())
        };
        self.set(session).iter().filter(is_it).find_map(read)
    }

    /// Remembers the target of a session.
    pub fn put(&self, session: u64, target: u32, now_ns: u64) {
        if session != 0 {
            let _ = (0..4).any(|_| self.try_put(session, target, now_ns));
        }
    }

    fn try_put(&self, session: u64, target: u32, now_ns: u64) -> bool {
        let mut done = false;
        let mut oldest: Option<(u64, &Slot, Seen)> = None;
        for slot in self.set(session) {
            let Some(seen) = slot.read() else { continue };
            if seen.session == session {
                // Two threads may have put it in at once: the second is taken out again.
                if done {
                    slot.replace(seen, 0, 0, 0);
                } else if seen.target() == target || slot.retarget(seen, target) {
                    self.touch(slot, &seen, now_ns);
                    done = true;
                }
                continue;
            }
            let age =
                if self.is_over(&seen, now_ns) { u64::MAX } else { now_ns.saturating_sub(seen.used_ns) };
            if oldest.as_ref().is_none_or(|(most, ..)| age > *most) {
                oldest = Some((age, slot, seen));
            }
        }
        done || oldest.is_some_and(|(_, slot, seen)| slot.replace(seen, session, target, now_ns))
    }

    /// Forgets the sessions of a target, as when it is taken away for good.
    pub fn forget_target(&self, target: u32) {
        for slot in self.sets.as_flattened() {
            let of_target = |seen: &Seen| seen.session != 0 && seen.target() == target;
            if let Some(seen) = slot.read().filter(of_target) {
                slot.replace(seen, 0, 0, 0);
            }
        }
    }

    /// Sessions that are remembered. Reads the whole table.
    pub fn len(&self, now_ns: u64) -> usize {
        let seen = self.sets.as_flattened().iter().filter_map(Slot::read);
        seen.filter(|seen| !self.is_over(seen, now_ns)).count()
    }
}
