//! Softmax of fixed-point scores, without an exponential: powers of two from a table and a shift.

use super::group_norm::divide;
use crate::quant::requantize;

/// Fractional bits of a score: it counts in 1/256 of an octave.
const FRACTION_BITS: u32 = 8;

/// `round(2^16 * 2^(-i / 256))`, cut to 16 bits.
pub(super) static POWERS: [u16; 256] = powers();

/// The table, by repeated multiplication with `2^(-1/256)` in Q62; the last bit of an entry is exact because the error of
/// 256 products stays below 2^-53.
const fn powers() -> [u16; 256] {
    // floor(2^(-1/256) * 2^62)
    const STEP: u64 = 4_599_216_278_082_138_665;
    let mut table = [0; 256];
    let mut power = 1u64 << 62;
    let mut i = 0;
    while i < 256 {
        let rounded = (power + (1 << 45)) >> 46;
        table[i] = if rounded > 0xFFFF { 0xFFFF } else { rounded as u16 };
        power = ((power as u128 * STEP as u128) >> 62) as u64;
        i += 1;
    }
    table
}

/// `2^-distance` in Q16, rounded, the distance in 1/256 of an octave.
#[inline(always)]
pub(super) fn power(distance: u32) -> u32 {
    let octaves = distance >> FRACTION_BITS;
    let whole = POWERS[distance as usize % POWERS.len()] as u32;
    if octaves > 16 { 0 } else { (whole + ((1 << octaves) >> 1)) >> octaves }
}

/// What turns a power into a probability: `2^47 / sum`, for [`requantize`].
#[inline(always)]
pub(super) fn inverse(sum: u32) -> i32 {
    // Both times the power of two that the division wants.
    let shift = sum.max(1).leading_zeros();
    let (high, divisor) = (1u64 << (15 + shift), sum.max(1) << shift);
    divide(high.min(divisor.into()) as u32, divisor).min(i32::MAX as u64) as i32
}

/// See [`super::Kernel::softmax`]. At most 32,768 scores, so that the sum fits an `i32`. A power takes its score's place until
/// the sum is known; it fits 16 bits.
pub(super) fn softmax(row: &mut [i16]) {
    let largest = row.iter().copied().max().unwrap_or(0) as i32;
    let mut sum = 0;
    for score in row.iter_mut() {
        let power = power((largest - *score as i32) as u32);
        sum += power;
        *score = power as i16;
    }
    let inverse = inverse(sum);
    for score in row {
        *score = requantize(*score as u16 as i32, inverse) as i16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_rounded_correctly() {
        for (i, &power) in POWERS.iter().enumerate() {
            let exact = libm::round(65536.0 * libm::exp2(-(i as f64) / 256.0)).min(65535.0);
            assert_eq!(power as f64, exact, "{i}");
        }
    }

    #[test]
    fn agrees_with_the_definition() {
        for spread in [0, 3, 100, 900, 5000, 32767] {
            let scores: [i16; 49] = core::array::from_fn(|i| ((i as i32 * 7919 % 199 - 99) * spread / 99) as i16);
            let mut row = scores;
            softmax(&mut row);
            let weight = |score: i16| libm::exp2(score as f64 / 256.0);
            let largest = scores.iter().copied().max().unwrap();
            let sum: f64 = scores.iter().map(|&score| weight(score) / weight(largest)).sum();
            for (&score, &probability) in scores.iter().zip(&row) {
                let exact = weight(score) / weight(largest) / sum;
                assert!((probability as f64 / 32768.0 - exact).abs() < 4e-5, "{spread}: {probability} for {exact}");
            }
        }
    }

    #[test]
    fn inverse_is_the_quotient() {
        let sums = (0..31).flat_map(|bit| (0..3).map(move |more| (1u32 << bit) + more * 0x2F1D));
        for sum in sums.chain([0, 65535, 65536, 65537, 49 * 65535, 32768 * 65535]) {
            let exact = ((1u64 << 47) / u64::from(sum.max(1))).min(i32::MAX as u64);
            assert_eq!(inverse(sum) as u64, exact, "{sum}");
        }
    }

    #[test]
    fn extremes_stay_in_range() {
        for mut row in [[i16::MIN, i16::MAX, 0], [i16::MAX; 3], [i16::MIN; 3]] {
            softmax(&mut row);
            assert!(row.iter().all(|&p| p >= 0));
        }
        let mut one = [-5];
        softmax(&mut one);
        assert_eq!(one, [i16::MAX]);
    }
}
