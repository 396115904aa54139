//! Spherical interpolation in integers: the weights of two vectors in a point of the great circle's arc between them.
//!
//! The arc is halved sixteen times (Shoemake, *Animating Rotation with Quaternion Curves*, 1985, section 4.3): the point midway
//! between `p` and `q`, whose angle has cosine `c`, is `(p + q) / (2 h)` with `h = sqrt((1 + c) / 2)`, the cosine of half the
//! angle. So nothing but square roots is needed, and vectors of one direction are mixed in a straight line.

use crate::quant::{divide, square_root};
use crate::request::Mix;

/// Fractional bits of a weight.
pub(crate) const WEIGHT_BITS: u32 = 24;
/// Fractional bits of a cosine.
const COSINE_BITS: u32 = 32;
/// Least cosine, of 177 degrees: beyond, the point midway is no matter of the two vectors any more.
const LEAST_COSINE: i64 = (1 << (COSINE_BITS - 10)) - (1 << COSINE_BITS);

/// What is needed of two vectors of Q12 values, of at most 2^24 elements.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Products {
    pub(crate) first: u64,
    pub(crate) second: u64,
    pub(crate) both: i64,
}

impl Products {
    /// The scalar products of the pairs' vectors.
    pub(crate) fn of(pairs: impl Iterator<Item = (i16, i16)>) -> Self {
        pairs.fold(Products::default(), |sums, (a, b)| {
            let (a, b) = (a as i32, b as i32);
            Products {
                first: sums.first + (a * a) as u64,
                second: sums.second + (b * b) as u64,
                both: sums.both + (a * b) as i64,
            }
        })
    }

    /// The cosine of the angle between them, Q32, rounded down in magnitude.
    fn cosine(&self) -> i64 {
        let [(first, first_shift), (second, second_shift)] = [self.first, self.second].map(length);
        // At most the product of both lengths, below 2^64.
        let product = self.both.unsigned_abs() << (first_shift + second_shift);
        let part = divide((product >> 32) as u32, first).min(u32::MAX as u64);
        let cosine = divide(part as u32, second) as i64;
        if self.both < 0 { -cosine } else { cosine }
    }

    /// The weights of the point at `fraction` of the arc from the first to the second, Q24; at most 23.
    pub(crate) fn weights(&self, fraction: u32) -> [u32; 2] {
        if fraction >= Mix::WHOLE {
            return [0, 1 << WEIGHT_BITS];
        }
        let mut cosine = self.cosine().max(LEAST_COSINE);
        let (mut low, mut high) = ([1 << WEIGHT_BITS, 0], [0, 1 << WEIGHT_BITS]);
        for bit in (0..16).rev() {
            // (1 + c) / 2 in Q62.
            let half = ((1 << COSINE_BITS) + cosine) as u64;
            let (root, shift) = length(half << 29);
            let middle = [midway(low[0], high[0], root, shift), midway(low[1], high[1], root, shift)];
            if fraction >> bit & 1 == 1 {
                low = middle
            } else {
                high = middle
            }
            cosine = ((root as u64) << 1 >> shift) as i64;
        }
        low
    }
}

/// `root` and `shift` so that `sqrt(square) = root / 2^shift`, the root in 2^31..2^32. Of 1 if the square is 0.
fn length(square: u64) -> (u32, u32) {
    let square = square.max(1);
    let shift = square.leading_zeros() / 2;
    (square_root(square << (2 * shift)), shift)
}

/// `(p + q) / (2 h)`, where `h = root / 2^(31 + shift)`.
fn midway(p: u32, q: u32, root: u32, shift: u32) -> u32 {
    let quotient = divide(p.wrapping_add(q), root);
    (((quotient << shift) + 2) >> 2) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{NoiseUse, normals};
    use libm::{acos, sin, sqrt};

    /// The formula with sines, in f64.
    fn exact(products: &Products, fraction: u32) -> [f64; 2] {
        let cosine = products.both as f64 / sqrt(products.first as f64 * products.second as f64);
        let (angle, fraction) = (acos(cosine), fraction as f64 / 65536.0);
        [sin((1.0 - fraction) * angle) / sin(angle), sin(fraction * angle) / sin(angle)]
    }

    fn noises(count: usize) -> Products {
        let noise = |sample| normals(1, sample, NoiseUse::Start).take(count);
        Products::of(noise(0).zip(noise(1)))
    }

    #[test]
    fn weights_are_those_of_the_sines() {
        let angle = |both| Products { first: 1 << 40, second: 1 << 42, both };
        let some = [noises(2), noises(3), noises(784), angle(0), angle(2_190_000_000_000), angle(-2_100_000_000_000)];
        for products in some {
            for fraction in [0, 1, 4096, 21845, 32768, 40000, 65535, 65536] {
                let found = products.weights(fraction).map(|weight| weight as f64 / (1 << WEIGHT_BITS) as f64);
                let wanted = exact(&products, fraction);
                for (found, wanted) in found.into_iter().zip(wanted) {
                    assert!((found - wanted).abs() < 2e-5, "{products:?} at {fraction}: {found}, not {wanted}");
                }
            }
        }
    }

    #[test]
    fn the_ends_are_the_vectors_and_one_direction_is_a_straight_line() {
        let one = 1 << WEIGHT_BITS;
        for products in [noises(784), Products { first: 9, second: 9, both: 9 }] {
            assert_eq!([0, 65536].map(|fraction| products.weights(fraction)), [[one, 0], [0, one]]);
        }
        let parallel = Products { first: 900, second: 3600, both: 1800 };
        assert_eq!(parallel.weights(16384), [one / 4 * 3, one / 4]);
    }

    /// No vector at all, and opposite ones: any weights, but no overflow.
    #[test]
    fn degenerate_vectors_have_bounded_weights() {
        let whole = 6u64.pow(2) << 46;
        for products in [
            Products::default(),
            Products { first: 25, ..Products::default() },
            Products { first: 1, second: 1 << 54, both: -(1 << 27) },
            Products { first: whole, second: whole, both: -(whole as i64) },
            Products { first: whole, second: whole, both: whole as i64 },
        ] {
            for fraction in (0..=65536).step_by(127) {
                assert!(
                    products.weights(fraction).into_iter().all(|weight| weight <= 23 << WEIGHT_BITS),
                    "{products:?}"
                );
            }
        }
    }
}
