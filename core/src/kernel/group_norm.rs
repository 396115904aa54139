//! GroupNorm with a folded scale and shift, followed by an activation function from a table (Wu, He: *Group
//! Normalization*, 2018; scale and shift as in Dhariwal, Nichol 2021, section 3; the function is SiLU as a rule).
//!
//! | symbol | here | unit |
//! |---|---|---|
//! | n | `count` | elements of a group: pixels x channels a group |
//! | V | `spread` | n^2 (variance + epsilon), squared steps of the input |
//! | gamma (1 + scale) | `gain` | table steps for one standard deviation, fixed point |
//! | beta (1 + scale) + shift | `bias` | table steps, fixed point |
//!
//! For each group the sums of `q` and `q^2` are exact 64-bit integers. For each channel they become an integer line
//! `index = (q * slope + offset) >> shift`; the index, clamped to 0..=511, selects one of 512 outputs. The input's scale
//! cancels, but for epsilon, which the file gives in squared input steps.

use crate::quant::Activation;
use crate::view::{I16Pairs, part};

/// Entries of an activation table: entry `256 + i` is the output for a normalized value of `i` table steps.
pub const TABLE_LEN: usize = 512;

/// Most bits that the slope's fixed point may have, so that `q * slope + offset` fits an `i32`.
const MAX_SHIFT: i32 = 20;

/// Gain and bias of every channel.
#[derive(Clone, Copy, Debug)]
pub struct Affine<'a> {
    /// A pair a channel, the channels of all inputs in order.
    pub pairs: I16Pairs<'a>,
    /// Fractional bits of the gains, 0..=15.
    pub gain_bits: u32,
    /// Fractional bits of the biases, 0..=15.
    pub bias_bits: u32,
}

/// Sums over a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Moments {
    /// Of the values.
    pub sum: i64,
    /// Of their squares.
    pub squares: u64,
}

/// `index = (q * slope + offset) >> shift`, the rounding and the table's middle included in the offset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(C)]
pub struct Line {
    /// Within +-(2^30 - 1).
    pub offset: i32,
    /// Within +-(2^15 - 1).
    pub slope: i16,
    /// 0 to 20.
    pub shift: u16,
}

/// See [`super::Kernel::moments`].
pub(super) fn moments<I: Activation>(values: &[I], channels: usize, first: usize, size: usize) -> Moments {
    let (mut sum, mut squares) = (0i64, 0i64);
    for pixel in values.chunks_exact(channels.max(1)) {
        for value in part(pixel, first, size) {
            let q = value.widen() as i64;
            sum += q;
            squares += q * q;
        }
    }
    Moments { sum, squares: squares as u64 }
}

/// See [`super::Kernel::normalize`].
pub(super) fn normalize<I: Activation>(
    values: &[I],
    lines: &[Line],
    table: &[i8; TABLE_LEN],
    output: &mut [i8],
    channels_out: usize,
    first: usize,
) {
    let (sources, targets) = (values.chunks_exact(lines.len().max(1)), output.chunks_exact_mut(channels_out.max(1)));
    for (source, target) in sources.zip(targets) {
        for ((from, to), line) in source.iter().zip(target.get_mut(first..).unwrap_or_default()).zip(lines) {
            *to = table[line.index(from.widen())];
        }
    }
}

/// Pixels that [`super::Kernel::normalize`] has: those of which `values` has `channels` elements and `output` the place for
/// them, from channel `first` of `channels_out` on. None if there is no such place.
#[cfg(any(mote_dsp, mote_mve, mote_packed, test))]
#[inline(always)]
pub(super) fn pixels<I>(values: &[I], channels: usize, output: &[i8], channels_out: usize, first: usize) -> usize {
    if channels == 0 || first + channels > channels_out {
        return 0;
    }
    (values.len() / channels).min(output.len() / channels_out.max(1))
}

/// The statistics of one group, ready to be turned into a line for each of its channels.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupScale {
    /// The mean in Q16 input steps.
    mean_q16: i32,
    /// Gain over standard deviation is `gain * inverse * 2^-product_bits`, with `inverse` in 2^15..=2^16.
    inverse: i32,
    product_bits: i32,
    /// Fractional bits of the group's lines.
    shift: i32,
}

impl GroupScale {
    /// Of a group of `count` elements, at most 65,536, so that `count * squares` is at most 2^62. `epsilon_q8` is what is
    /// added to the variance, in squared steps of the input, Q8; `gain_bits` are the fractional bits of the gains.
    pub fn new(moments: &Moments, count: usize, epsilon_q8: u32, gain_bits: u32) -> Self {
        let Moments { sum, squares } = *moments;
        let count = count.max(1) as u64;
        let variance = count * squares - sum.unsigned_abs() * sum.unsigned_abs();
        let epsilon = (count * count * epsilon_q8 as u64) >> 8;
        let spread = (variance + epsilon).max(1);

        // sqrt(V) = root * 2^-(normalization / 2), with the root in [2^31, 2^32).
        let normalization = spread.leading_zeros() & !1;
        let root = square_root(spread << normalization);
        // n / sqrt(V) = quotient * 2^(normalization / 2 - 47), of at least 15 significant bits.
        let quotient = divide((count << 15) as u32, root);
        let excess = 64 - quotient.leading_zeros() as i32 - 16;
        let inverse = if excess > 0 { (quotient + (1 << (excess - 1))) >> excess } else { quotient << -excess };
        let product_bits = 47 - (normalization / 2) as i32 - excess + gain_bits as i32;
        GroupScale {
            mean_q16: mean_q16(sum, count as u32),
            inverse: inverse as i32,
            product_bits,
            shift: (product_bits - 16).clamp(0, MAX_SHIFT),
        }
    }

    /// The line of a channel with this gain and bias, of which `bias_bits` are fractional.
    pub fn line(&self, [gain, bias]: [i16; 2], bias_bits: u32) -> Line {
        let product = gain as i64 * self.inverse as i64; // at most 2^31 in magnitude
        let steepest = i16::MAX as i64;
        let slope = scale_by_power(product, self.shift - self.product_bits).clamp(-steepest, steepest);
        let bias = scale_by_power(bias as i64, self.shift - bias_bits as i32);
        let mean = (self.mean_q16 as i64 * slope + (1 << 15)) >> 16;
        let half = (1 << self.shift) >> 1;
        let middle = (TABLE_LEN as i64 / 2) << self.shift;
        let limit = (1 << 30) - 1;
        let offset = (bias - mean + half + middle).clamp(-limit, limit);
        Line { offset: offset as i32, slope: slope as i16, shift: self.shift as u16 }
    }
}

impl Line {
    /// The table's entry for the value `q`.
    #[inline(always)]
    pub fn index(&self, q: i32) -> usize {
        let steps = (q * self.slope as i32 + self.offset) >> self.shift;
        steps.clamp(0, TABLE_LEN as i32 - 1) as usize
    }
}

/// `floor(sqrt(value))` of a value from 2^62 on (Zimmermann: *Karatsuba Square Root*, 1999), in steps of 32 bits: a
/// microcontroller divides 64 bits in software.
pub(crate) fn square_root(value: u64) -> u32 {
    let (high, low) = ((value >> 32) as u32, value as u32);
    // Bit by bit: the library's takes a table of 512 bytes.
    let first = (0..16).rev().map(|bit| 1u32 << bit).fold(0, |root, bit| {
        let larger = root | bit;
        if larger * larger <= high { larger } else { root }
    });
    let rest = high - first * first;
    let second = ((rest << 15) + (low >> 17)) / first.max(1);
    let root = (first << 16) + second.min(0xFFFF);
    // At most one too large.
    root - u32::from(u64::from(root) * u64::from(root) > value)
}

/// `floor(high * 2^32 / divisor)` for a divisor from 2^31 on and `high` up to it, in two digits of 16 bits (Knuth: *The Art
/// of Computer Programming*, 4.3.1, algorithm D).
pub(crate) fn divide(high: u32, divisor: u32) -> u64 {
    if high >= divisor {
        return 1 << 32;
    }
    let leading = (divisor >> 16).max(1);
    let digit = |rest: u32| {
        // Too large by 2 at most.
        let mut digit = u64::from((rest / leading).min(0xFFFF));
        while digit * u64::from(divisor) > u64::from(rest) << 16 {
            digit -= 1;
        }
        let rest = (u64::from(rest) << 16) - digit * u64::from(divisor);
        (digit, rest as u32)
    };
    let (first, rest) = digit(high);
    let (second, _) = digit(rest);
    first << 16 | second
}

/// `floor(sum * 2^16 / count)`, with the sum of up to 65,536 values of 16 bits.
fn mean_q16(sum: i64, count: u32) -> i32 {
    let count = count.clamp(1, 1 << 16);
    let size = sum.unsigned_abs() as u32;
    let (whole, rest) = (size / count, size % count);
    let (part, left) = ((rest << 16) / count, (rest << 16) % count);
    let mean = (whole << 16).wrapping_add(part) as i32;
    if sum < 0 { mean.wrapping_neg() - i32::from(left > 0) } else { mean }
}

/// `round(value * 2^power)`, ties up.
fn scale_by_power(value: i64, power: i32) -> i64 {
    match power {
        0.. => value << power.min(31),
        _ => {
            let bits = (-power).min(62) as u32;
            ((value >> (bits - 1)) + 1) >> 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Identity table: the output is the index, cut to `i8`.
    fn identity() -> [i8; TABLE_LEN] {
        core::array::from_fn(|i| (i as i32 - 256).clamp(-128, 127) as i8)
    }

    fn pairs<const N: usize>(values: [[i16; 2]; N]) -> [[u8; 4]; N] {
        values.map(|[gain, bias]| {
            let (g, b) = (gain.to_le_bytes(), bias.to_le_bytes());
            [g[0], g[1], b[0], b[1]]
        })
    }

    /// The operation in f64, from its definition.
    fn expected(values: &[i16], channels: usize, groups: usize, epsilon: f64, gain: f64, bias: f64) -> [f64; 64] {
        let per_group = channels / groups;
        let mut out = [0.0; 64];
        for group in 0..groups {
            let member = |i: &usize| i % channels / per_group == group;
            let count = (0..values.len()).filter(member).count() as f64;
            let mean = (0..values.len()).filter(member).map(|i| values[i] as f64).sum::<f64>() / count;
            let square = |i| (values[i] as f64 - mean) * (values[i] as f64 - mean);
            let variance = (0..values.len()).filter(member).map(square).sum::<f64>() / count;
            for i in (0..values.len()).filter(member) {
                out[i] = (values[i] as f64 - mean) / libm::sqrt(variance + epsilon) * gain + bias;
            }
        }
        out
    }

    /// The whole operation on one input.
    fn norm(
        values: &[i16],
        [channels, groups]: [usize; 2],
        epsilon_q8: u32,
        affine: &Affine<'_>,
        output: &mut [i8],
        [channels_out, first]: [usize; 2],
    ) {
        let size = channels / groups;
        let mut lines = [Line::default(); 4];
        for (channel, line) in lines[..channels].iter_mut().enumerate() {
            let moments = moments(values, channels, channel / size * size, size);
            let scale = GroupScale::new(&moments, values.len() / groups, epsilon_q8, affine.gain_bits);
            *line = scale.line(affine.pairs.get(first + channel), affine.bias_bits);
        }
        normalize(values, &lines[..channels], &identity(), output, channels_out, first);
    }

    #[test]
    fn agrees_with_the_definition_at_every_magnitude() {
        for magnitude in [3, 40, 700, 9000, 30000] {
            for center in [0, magnitude / 2, -magnitude] {
                let values: [i16; 64] = core::array::from_fn(|i| {
                    let wave = (i as i32 * 7919 % 201 - 100) * magnitude / 100 + center;
                    wave.clamp(-32768, 32767) as i16
                });
                let affine_pairs = pairs([[30 * 256, 5 * 64]; 4]);
                let affine = Affine { pairs: I16Pairs::new(affine_pairs.as_flattened()), gain_bits: 8, bias_bits: 6 };
                let mut output = [0i8; 64];
                norm(&values, [4, 2], 128, &affine, &mut output, [4, 0]);
                let reference = expected(&values, 4, 2, 0.5, 30.0, 5.0);
                for (got, want) in output.iter().zip(reference) {
                    assert!((*got as f64 - want).abs() < 0.52, "{magnitude} {center}: {got} against {want}");
                }
            }
        }
    }

    #[test]
    fn a_second_input_fills_the_later_channels() {
        let affine_pairs = pairs([[0, 1], [0, 2], [0, 3]]);
        let affine = Affine { pairs: I16Pairs::new(affine_pairs.as_flattened()), gain_bits: 0, bias_bits: 0 };
        let mut output = [9i8; 6];
        norm(&[1, 2, 3, 4], [2, 1], 0, &affine, &mut output, [3, 0]);
        norm(&[5, 6], [1, 1], 0, &affine, &mut output, [3, 2]);
        assert_eq!(output, [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn roots_and_quotients_in_steps_are_exact() {
        let mut word = 0x9e37_79b9_7f4a_7c15u64;
        for case in 0..200_000 {
            word = word.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
            let bits = word ^ word >> 29;
            // Near squares, near the ends, and anywhere.
            let root = bits >> 32 | 1 << 31;
            let square = root * root;
            let value =
                [square, square - 1, square + 1, u64::MAX - (bits >> 50), bits | 1 << 62][case % 5].max(1 << 62);
            assert_eq!(u64::from(square_root(value)), value.isqrt(), "{value}");

            let divisor = [root as u32, 1 << 31, u32::MAX, (root as u32) | 0xFFFF, root as u32 & !0xFFFF][case % 5];
            let high = [divisor, divisor - 1, (bits as u32).min(divisor), 1 << 15, 0][case / 5 % 5];
            assert_eq!(divide(high, divisor), (u64::from(high) << 32) / u64::from(divisor), "{high} {divisor}");

            let count = [1, 2, 1 << 16, (bits >> 48) as u32 + 1][case % 4];
            let limit = i64::from(count) << 15;
            let sum = [-limit, limit - i64::from(count), (bits as i64 % limit), 0, -1][case / 4 % 5];
            assert_eq!(i64::from(mean_q16(sum, count)), (sum << 16).div_euclid(count.into()), "{sum} {count}");
        }
    }

    #[test]
    fn extreme_inputs_and_constants_never_overflow() {
        for values in [[i16::MIN; 8], [i16::MAX; 8], [i16::MIN, i16::MAX, 0, 0, 1, -1, i16::MAX, i16::MIN], [0; 8]] {
            for gain in [i16::MIN, -1, 0, i16::MAX] {
                for bits in [0, 15] {
                    for epsilon_q8 in [0, 1, u32::MAX] {
                        let affine_pairs = pairs([[gain, i16::MIN], [i16::MAX, i16::MAX]]);
                        let pairs = I16Pairs::new(affine_pairs.as_flattened());
                        let affine = Affine { pairs, gain_bits: bits, bias_bits: bits };
                        norm(&values, [2, 1], epsilon_q8, &affine, &mut [0; 8], [2, 0]);
                    }
                }
            }
        }
    }
}
