//! The state that a request begins with, and noise on it.

use crate::mix::{Products, WEIGHT_BITS};
use crate::noise::{NoiseUse, Stream, normals};
use crate::quant::{COEFFICIENT_BITS, divide, round_shift, saturate_i16, square_root};
use crate::request::{Mix, Request, Start, Values};

/// Fills the state for a row that expects `signal` data and `noise` noise, both Q20.
pub(super) fn fill(request: &Request<'_>, level: [i32; 2], state: &mut [i16]) {
    let noise = || normals(request.seed, request.sample, NoiseUse::Start);
    match request.start {
        Start::Noise => state.iter_mut().zip(noise()).for_each(|(x, z)| *x = z),
        Start::Noised(values) => fill_noised(values, level, noise(), state),
        Start::Noisy(values) => fill_noised(values, [level[0], 0], noise(), state),
        Start::Mixed(mix) => fill_mixed(&mix, state),
    }
}

fn fill_noised(values: Values<'_>, level: [i32; 2], noise: impl Iterator<Item = i16>, state: &mut [i16]) {
    for ((index, x), z) in state.iter_mut().enumerate().zip(noise) {
        *x = noised(values.get(index), level, z);
    }
}

fn fill_mixed(mix: &Mix, state: &mut [i16]) {
    let pairs = || {
        let [first, second] =
            mix.ends.map(|Stream { seed, sample }| normals(seed, sample, NoiseUse::Start).take(state.len()));
        first.zip(second)
    };
    let [first, second] = Products::of(pairs()).weights(mix.fraction).map(i64::from);
    let mixed = pairs().map(|(a, b)| saturate_i16(round_shift(first * a as i64 + second * b as i64, WEIGHT_BITS)));
    // The noise is drawn anew for each element: there is no room for two.
    state.iter_mut().zip(mixed).for_each(|(x, mixed)| *x = mixed);
}

/// `signal x + noise z`, both factors Q20.
pub(super) fn noised(x: i16, [signal, noise]: [i32; 2], z: i16) -> i16 {
    let sum = signal as i64 * x as i64 + noise as i64 * z as i64;
    saturate_i16(round_shift(sum, COEFFICIENT_BITS))
}

/// The forward process from a row of signal `from` to an earlier, noisier one of signal `to`: what is kept of the state,
/// `s = to / from`, and the fresh noise, `sqrt(1 - s^2)` (Ho et al. 2020, equation 2), both Q20. `s` is at most 1.
pub(super) fn forward(from: i32, to: i32) -> [i32; 2] {
    let (from, to) = (from.max(1) as u32, to.max(0) as u32);
    let shift = from.leading_zeros();
    let kept = divide(to.min(from) << shift, from << shift);
    let kept = round_shift(kept as i64, 32 - COEFFICIENT_BITS) as u64;
    let square = (1 << (2 * COEFFICIENT_BITS)) - (kept * kept).min(1 << (2 * COEFFICIENT_BITS));
    let shift = square.max(1).leading_zeros() / 2;
    let noise = if square == 0 { 0 } else { square_root(square << (2 * shift)) >> shift };
    [kept as i32, noise as i32]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forward_process_keeps_the_variance() {
        let one = 1 << COEFFICIENT_BITS;
        assert_eq!(forward(one, one), [one, 0]);
        assert_eq!(forward(one, 0), [0, one]);
        assert_eq!(forward(5_000_000, 3_000_000), [629_146, 838_860]);
        for (from, to) in [(one, 51), (51, 50), (700_000, 300_000), (i32::MAX, 1)] {
            let [kept, noise] = forward(from, to).map(|factor| factor as f64 / one as f64);
            assert!((kept - to as f64 / from as f64).abs() < 1e-6, "{from} {to}");
            assert!((kept * kept + noise * noise - 1.0).abs() < 2e-6, "{from} {to}");
        }
    }

    /// No table that we write has them, but a file may.
    #[test]
    fn signals_that_are_none_are_bounded() {
        let one = 1 << COEFFICIENT_BITS;
        for (from, to) in [(0, 0), (-1, 5), (i32::MIN, i32::MIN), (3, 7), (i32::MAX, i32::MAX)] {
            let [kept, noise] = forward(from, to);
            assert!((0..=one).contains(&kept) && (0..=one).contains(&noise), "{from} {to}");
        }
    }
}
