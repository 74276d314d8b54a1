//! Random numbers from counters, and hashes: SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
//! generators, 2014).

/// Spreads the bits of a number over all of it. Different numbers stay different.
#[inline]
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number from 0 to below 1 out of random bits.
#[inline]
pub fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_row_are_spread_evenly() {
        let mut counts = [0u32; 8];
        let mut sum = 0.0;
        for number in 0..80_000 {
            counts[(mix(number) >> 61) as usize] += 1;
            sum += unit(mix(number));
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        assert!((sum / 80_000.0 - 0.5).abs() < 0.01);
        assert!(unit(u64::MAX) < 1.0);
    }
}
