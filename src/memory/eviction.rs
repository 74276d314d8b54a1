//! Which models go when room is needed: a pure function of what is known about each.

/// A model that could go.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// What would be free without it.
    pub bytes: u64,
    /// How long it has not been used.
    pub idle_ns: u64,
    /// What it takes to bring it back.
    pub reload_ns: u64,
}

impl Candidate {
    /// The least recently used goes first; but of two that were used at about the same time the one that frees more
    /// bytes for each second that it takes to come back.
    fn dispensability(&self) -> f64 {
        self.idle_ns as f64 * self.bytes as f64 / self.reload_ns.max(1_000_000) as f64
    }
}

/// The places of those that go to free `need` bytes, in this order; all of them, if they are not enough.
pub fn choose(candidates: &[Candidate], need: u64) -> Vec<usize> {
    let mut order: Vec<usize> =
        (0..candidates.len()).filter(|&index| candidates[index].bytes > 0 && need > 0).collect();
    order.sort_by(|&a, &b| candidates[b].dispensability().total_cmp(&candidates[a].dispensability()));
    let mut freed = 0u64;
    let enough = order.iter().position(|&index| {
        freed = freed.saturating_add(candidates[index].bytes);
        freed >= need
    });
    if let Some(last) = enough {
        order.truncate(last + 1);
        // Whoever is not needed, now that a larger one goes too, stays: the latest chosen first.
        for at in (0..order.len()).rev() {
            let bytes = candidates[order[at]].bytes;
            if freed - bytes >= need {
                freed -= bytes;
                order.remove(at);
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn candidate(bytes: u64, idle_ms: u64, reload_ms: u64) -> Candidate {
        Candidate { bytes, idle_ns: idle_ms * MS, reload_ns: reload_ms * MS }
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let candidates = [candidate(10, 50, 10), candidate(10, 900, 10), candidate(10, 400, 10)];
        assert_eq!(choose(&candidates, 1), [1]);
        assert_eq!(choose(&candidates, 11), [1, 2]);
        assert_eq!(choose(&candidates, 31), [1, 2, 0]);
        assert!(choose(&candidates, 0).is_empty());
    }

    #[test]
    fn who_frees_much_and_is_back_soon_goes_before_its_equals() {
        assert_eq!(choose(&[candidate(10, 100, 10), candidate(90, 100, 10)], 5), [1]);
        assert_eq!(choose(&[candidate(10, 100, 80), candidate(10, 100, 10)], 5), [1]);
    }

    #[test]
    fn nobody_goes_for_nothing() {
        // The small one is first in line, but the large one, which must go anyway, makes room enough.
        let candidates = [candidate(10, 9_000, 10), candidate(90, 100, 10)];
        assert_eq!(choose(&candidates, 90), [1]);
        assert_eq!(choose(&candidates, 95), [0, 1]);
        assert!(choose(&[candidate(0, 100, 10)], 5).is_empty());
    }
}
