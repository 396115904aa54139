//! How badly a model of normal data explains a sample: noise is added and taken away again, and what has changed is counted
//! (Graham et al., *Denoising Diffusion Models for Out-of-Distribution Detection*, 2023). Little noise finds what is fine, much
//! noise what is large, so several levels are taken.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn core::error::Error>> {
//! use mote_core::anomaly::{self, Normal};
//! use mote_core::{Arena, Generator, Model, Request, RequestError, Start, Values, selftest};
//!
//! const LEVELS: u16 = 2;
//!
//! /// How anomalous a window is at each level.
//! fn scores(model: &Model<'_>, arena: &mut [u8], window: &[i16]) -> Result<[u64; 2], Box<dyn core::error::Error>> {
//!     let (mut generator, mut scores) = (Generator::new(model, arena)?, [0; LEVELS as usize]);
//!     for (level, score) in (0..).zip(&mut scores) {
//!         let first_row = anomaly::first_row(level, LEVELS, model.rows());
//!         generator.start(Request { first_row, start: Start::Noised(Values::Q12(window)), ..Request::default() })?;
//!         generator.finish();
//!         *score = generator.score(Values::Q12(window));
//!     }
//!     Ok(scores)
//! }
//!
//! # let (mut file, mut arena) = ([0; 8192], Arena::<8192>::new());
//! # let model = selftest::write_model(&mut file).ok_or("no room")?;
//! # let windows = [[100; 36], [200; 36], [300; 36]];
//! # let [a, b, c] = windows.map(|window| scores(&model, &mut arena.0, &window).unwrap());
//! // What is normal, measured once: the scores of normal windows at each level.
//! let normal = [0, 1].map(|level| Normal::of(&[a[level], b[level]]));
//! let deviations = anomaly::standardized(&c, &normal);
//! # let _ = deviations;
//! # Ok(())
//! # }
//! ```

use crate::quant::{STATE_BITS, square_root};
use crate::request::Values;

/// The row that level `level` of `levels` begins with: levels are spread evenly over the rows, `(2 level + 1) rows / (2 levels)`
/// rounded down.
pub fn first_row(level: u16, levels: u16, rows: u16) -> u16 {
    let doubled = (2 * level as u64 + 1) * rows as u64;
    (doubled / (2 * levels as u64).max(1)).min(rows.saturating_sub(1) as u64) as u16
}

/// How far a sample, Q12, is from these values: the mean squared difference, Q24, rounded, ties up. Values that are missing count
/// as 0.
pub fn score(sample: &[i16], values: Values<'_>) -> u64 {
    let sum = sample.iter().enumerate().fold(0, |sum: u64, (index, &x)| {
        let difference = (x as i32).abs_diff(values.get(index) as i32) as u64;
        sum + difference * difference
    });
    let count = (sample.len() as u64).clamp(1, 1 << 32);
    (sum + count / 2) / count
}

/// Scores of normal data at one level, Q24 like [`score`]'s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Normal {
    /// Their mean.
    pub mean: u64,
    /// Their standard deviation.
    pub deviation: u64,
}

impl Normal {
    /// Of these scores: mean and variance are rounded down, and so is the variance's root. Zeros of none.
    pub fn of(scores: &[u64]) -> Self {
        let count = (scores.len() as u64).max(1);
        let mean = scores.iter().fold(0u64, |sum, &score| sum.saturating_add(score)) / count;
        let squares = scores.iter().fold(0u64, |sum, &score| {
            let difference = score.abs_diff(mean);
            sum.saturating_add(difference.saturating_mul(difference))
        });
        let variance = squares / count;
        let shift = variance.max(1).leading_zeros() / 2;
        let root = square_root(variance.max(1) << (2 * shift)) >> shift;
        Normal { mean, deviation: if variance == 0 { 0 } else { root.into() } }
    }
}

/// The mean over levels of how many standard deviations each score lies above the normal mean (section 3.3 of the paper), Q12:
/// each quotient and the mean of all are rounded down. A deviation of 0 counts as the least one, 2^-24.
pub fn standardized(scores: &[u64], normal: &[Normal]) -> i64 {
    /// Keeps sums of 65,535 levels within an `i64`.
    const LIMIT: i64 = 1 << 46;
    let deviations = scores.iter().zip(normal).map(|(&score, normal)| {
        let above = (score.min(1 << 34) as i64 - normal.mean.min(1 << 34) as i64) << STATE_BITS;
        quotient(above, normal.deviation.clamp(1, 1 << 34) as i64).clamp(-LIMIT, LIMIT)
    });
    let count = scores.len().min(normal.len()).clamp(1, 1 << 16) as i64;
    quotient(deviations.take(1 << 16).fold(0, |sum: i64, deviation| sum.wrapping_add(deviation)), count)
}

/// Rounded down. The divisors are at least 1, which not every profile's compiler sees: a plain division would leave a panic.
fn quotient(dividend: i64, divisor: i64) -> i64 {
    dividend.checked_div_euclid(divisor).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_spread_over_the_rows() {
        assert_eq!([0, 1, 2, 3].map(|level| first_row(level, 4, 16)), [2, 6, 10, 14]);
        assert_eq!([0, 1].map(|level| first_row(level, 2, 3)), [0, 2]);
        assert_eq!((first_row(9, 4, 16), first_row(0, 0, 16), first_row(0, 1, 0)), (15, 15, 0));
    }

    #[test]
    fn scores_are_counted_in_deviations_of_the_normal_ones() {
        let normal = [Normal::of(&[100, 300]), Normal::of(&[1000, 1020])];
        assert_eq!(normal, [Normal { mean: 200, deviation: 100 }, Normal { mean: 1010, deviation: 10 }]);
        assert_eq!(standardized(&[200, 1010], &normal), 0);
        assert_eq!(standardized(&[500, 1010], &normal), 3 * 4096 / 2);
        assert_eq!(standardized(&[200, 1009], &normal), -205, "-409.6 down, then the half of -410");
    }

    #[test]
    fn what_was_never_measured_gives_no_overflow() {
        assert_eq!(Normal::of(&[]), Normal::default());
        assert_eq!(Normal::of(&[7, 7]), Normal { mean: 7, deviation: 0 });
        assert_eq!(standardized(&[], &[]), 0);
        assert_eq!(standardized(&[u64::MAX], &[Normal::default()]), 1 << 46);
        assert_eq!(standardized(&[0], &[Normal { mean: u64::MAX, deviation: 0 }]), -(1 << 46));
        let wide = Normal::of(&[u64::MAX, u64::MAX]);
        assert!(wide.mean > 0);
    }
}
