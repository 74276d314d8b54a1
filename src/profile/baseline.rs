//! Whether something takes longer than it used to: its 99th percentile, held against what that usually is.

/// So many windows are looked at before anything is said.
const LEARNING: usize = 5;
/// Windows in a row that make it slow, and well again.
const PATIENCE: u32 = 3;
/// Slow is what takes so many times as long as usual, …
const SLOW: f64 = 3.0;
/// … and so much longer, since a busy machine pauses everybody now and then.
const SLOW_NS: f64 = 2e6;
/// Well again is what takes less than so many times as long.
const WELL: f64 = 2.0;
/// How fast a new figure is believed to be usual: a better one, a worse one, and one that counts as slow.
const BETTER: f64 = 0.2;
const WORSE: f64 = 0.02;
const STILL_SLOW: f64 = 0.005;

/// Learns what is usual, window by window.
#[derive(Clone, Debug, Default)]
pub struct Baseline {
    usual_ns: f64,
    /// The first windows, of which the one in the middle is usual: a machine's own pauses are in some.
    first: Vec<f64>,
    /// Windows in a row that would change the verdict.
    contrary: u32,
    slow: bool,
}

impl Baseline {
    /// Takes note of a window's 99th percentile. Returns whether it is slow, if that has just changed.
    pub fn add(&mut self, p99_ns: u64) -> Option<bool> {
        let p99 = p99_ns as f64;
        if self.first.len() < LEARNING {
            self.first.push(p99);
            self.first.sort_by(f64::total_cmp);
            self.usual_ns = self.first[self.first.len() / 2];
            return None;
        }
        let is_contrary = match self.slow {
            true => p99 < self.usual_ns * WELL,
            false => p99 > (self.usual_ns * SLOW).max(self.usual_ns + SLOW_NS),
        };
        let learns = match (p99 < self.usual_ns, self.slow || is_contrary) {
            (true, _) => BETTER,
            (false, true) => STILL_SLOW,
            (false, false) => WORSE,
        };
        // However long a pause was, it is one window's.
        let believed = if self.slow { p99 } else { p99.min(self.usual_ns * SLOW) };
        self.usual_ns += (believed - self.usual_ns) * learns;
        self.contrary = if is_contrary { self.contrary + 1 } else { 0 };
        if self.contrary < PATIENCE {
            return None;
        }
        (self.slow, self.contrary) = (!self.slow, 0);
        Some(self.slow)
    }

    /// What is usual; 0 before enough is known.
    pub fn usual_ns(&self) -> u64 {
        if self.first.len() < LEARNING { 0 } else { self.usual_ns as u64 }
    }

    pub fn is_slow(&self) -> bool {
        self.slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn after(windows: &[(usize, u64)]) -> (Baseline, Vec<bool>) {
        let mut baseline = Baseline::default();
        let each = windows.iter().flat_map(|&(count, p99)| std::iter::repeat_n(p99, count));
        let changes = each.filter_map(|p99| baseline.add(p99)).collect();
        (baseline, changes)
    }

    #[test]
    fn what_takes_three_times_as_long_for_three_windows_is_slow_until_it_is_well() {
        let (baseline, changes) = after(&[(10, 2 * MS), (2, 9 * MS), (1, 2 * MS), (2, 9 * MS)]);
        assert!(changes.is_empty() && !baseline.is_slow(), "two windows in a row are chance");
        let (baseline, changes) = after(&[(10, 2 * MS), (3, 9 * MS)]);
        assert_eq!((changes, baseline.is_slow()), (vec![true], true));
        assert!((2 * MS..3 * MS).contains(&baseline.usual_ns()));
        let (_, changes) = after(&[(10, 2 * MS), (3, 9 * MS), (2, 2 * MS), (1, 9 * MS), (3, 2 * MS)]);
        assert_eq!(changes, [true, false]);
    }

    #[test]
    fn little_is_not_slow_and_nothing_is_said_while_learning() {
        let (_, changes) = after(&[(10, 10_000), (20, 900_000)]);
        assert!(changes.is_empty(), "less than two milliseconds more");
        let (baseline, changes) = after(&[(1, MS), (3, 90 * MS)]);
        assert!(changes.is_empty() && baseline.usual_ns() == 0);
    }

    #[test]
    fn what_stays_slow_for_long_is_usual_in_the_end() {
        let (baseline, changes) = after(&[(10, 2 * MS), (2000, 20 * MS)]);
        assert_eq!(changes, [true, false]);
        assert!(baseline.usual_ns() > 10 * MS);
        let (baseline, _) = after(&[(10, 20 * MS), (30, 2 * MS)]);
        assert!(baseline.usual_ns() < 3 * MS, "better is believed soon");
    }
}
