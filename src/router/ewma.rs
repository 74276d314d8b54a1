//! Averages that forget: of durations, where a rise counts at once and a fall only slowly (peak EWMA, as in Finagle).

use crate::sync::{AtomicU64, Ordering};

/// Times are kept in units of 2^14 ns (16 µs), which makes a word last for 19 hours.
const TIME_BITS: u32 = 14;

/// A moving average in one atomic word: the value as `f32`, and when it was set. Concurrent updates may lose one another,
/// which an average bears.
pub struct PeakEwma {
    word: AtomicU64,
}

fn pack(value: f32, now_ns: u64) -> u64 {
    u64::from(value.to_bits()) << 32 | now_ns >> TIME_BITS & u64::from(u32::MAX)
}

fn unpack(word: u64, now_ns: u64) -> (f32, u64) {
    let units = ((now_ns >> TIME_BITS) as u32).wrapping_sub(word as u32);
    // One that was set a moment later on another core is not 19 hours old.
    let age = if units > u32::MAX / 2 { 0 } else { u64::from(units) << TIME_BITS };
    (f32::from_bits((word >> 32) as u32), age)
}

/// What is left of a weight after `age_ns`, with `memory_ns` to halve it: 1/(1 + x) rather than an exponential, which costs
/// more and decides no different.
fn left(age_ns: u64, memory_ns: u64) -> f32 {
    let memory = memory_ns.max(1) as f32;
    memory / (memory + age_ns as f32)
}

impl Default for PeakEwma {
    fn default() -> Self {
        PeakEwma { word: AtomicU64::new(0) }
    }
}

impl PeakEwma {
    /// Takes a sample in. `peaks`: one above the average becomes the average.
    pub fn add(&self, sample: f32, now_ns: u64, memory_ns: u64, peaks: bool) {
        let word = self.word.load(Ordering::Relaxed);
        let (old, age) = unpack(word, now_ns);
        let new = if word == 0 || (peaks && sample > old) {
            sample
        } else {
            // At least a sixteenth, so that many samples in one moment count too.
            let weight = (1.0 - left(age, memory_ns)).max(1.0 / 16.0);
            old + (sample - old) * weight
        };
        self.word.store(pack(new, now_ns), Ordering::Relaxed);
    }

    /// The average, as it was left; 0 without samples.
    pub fn get(&self) -> f32 {
        f32::from_bits((self.word.load(Ordering::Relaxed) >> 32) as u32)
    }

    /// The average, which fades while nothing is added, so that who was bad once is tried again.
    pub fn faded(&self, now_ns: u64, memory_ns: u64) -> f32 {
        let (value, age) = unpack(self.word.load(Ordering::Relaxed), now_ns);
        value * left(age, memory_ns)
    }

    pub fn clear(&self) {
        self.word.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_rise_counts_at_once_and_a_fall_slowly() {
        let ewma = PeakEwma::default();
        assert_eq!(ewma.get(), 0.0);
        ewma.add(100.0, SECOND, SECOND, true);
        ewma.add(1000.0, SECOND + 1, SECOND, true);
        assert_eq!(ewma.get(), 1000.0);
        ewma.add(100.0, SECOND + 1_000_000, SECOND, true);
        assert!((900.0..1000.0).contains(&ewma.get()), "{}", ewma.get());
        ewma.add(100.0, 11 * SECOND, SECOND, true);
        assert!((100.0..200.0).contains(&ewma.get()), "{}", ewma.get());
    }

    #[test]
    fn it_fades_while_nothing_comes() {
        let ewma = PeakEwma::default();
        ewma.add(800.0, SECOND, SECOND, true);
        assert_eq!(ewma.faded(SECOND, SECOND), 800.0);
        assert!((390.0..410.0).contains(&ewma.faded(2 * SECOND, SECOND)));
        assert_eq!(ewma.faded(SECOND - 50_000, SECOND), 800.0); // a clock that another core has read a moment before
        ewma.clear();
        assert_eq!(ewma.faded(SECOND, SECOND), 0.0);
    }

    #[test]
    fn an_average_without_peaks_goes_to_the_mean() {
        let ewma = PeakEwma::default();
        for step in 0..2000u64 {
            ewma.add(if step % 2 == 0 { 100.0 } else { 300.0 }, SECOND + step * 1_000_000, SECOND, false);
        }
        assert!((180.0..220.0).contains(&ewma.get()), "{}", ewma.get());
    }
}
