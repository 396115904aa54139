//! The one rounding rule, and fixed-point formats.
//!
//! Everything that turns an accumulator into a stored integer goes through this module; `docs/arithmetic.md` states the
//! rule in prose. Ties go up (towards plus infinity), everywhere: `round(v) = floor(v + 1/2)`.

/// Fractional bits of the state `x`, the network's output, the noise and `x0`: 4096 stands for 1.0.
pub const STATE_BITS: u32 = 12;

/// 1.0 in the state's fixed point.
pub const STATE_ONE: i16 = 1 << STATE_BITS;

/// Fractional bits of a step-table coefficient: an `i32` in Q20 covers [-2048, 2048) in steps of 9.5e-7.
pub const COEFFICIENT_BITS: u32 = 20;

/// `round(acc * multiplier / 2^32)`: an accumulator in units of (input scale x weight scale) to units of the output scale.
///
/// One rounding, ties up: Arm's `SMMULR` in one instruction. `multiplier` is `round(2^32 * scale_in * scale_w /
/// scale_out)` in `1..2^31`, so the ratio of scales is below 1/2.
#[inline(always)]
pub fn requantize(acc: i32, multiplier: i32) -> i32 {
    ((acc as i64 * multiplier as i64 + (1 << 31)) >> 32) as i32
}

/// `round(sum / 2^bits)`, ties up.
#[inline(always)]
pub fn round_shift(sum: i64, bits: u32) -> i64 {
    (sum + (1 << (bits - 1))) >> bits
}

/// Clamps to `i16`.
#[inline(always)]
pub fn saturate_i16(value: i64) -> i16 {
    value.clamp(i16::MIN as i64, i16::MAX as i64) as i16
}

pub(crate) use crate::kernel::group_norm::{divide, square_root};

/// A stored activation: `i8` with a zero point, or `i16` around zero.
pub trait Activation: bytemuck::Pod + Send + Sync {
    /// The element as the kernels multiply it.
    fn widen(self) -> i32;
    /// Clamps a 32-bit result into the element's range.
    fn saturate(value: i32) -> Self;
}

impl Activation for i8 {
    #[inline(always)]
    fn widen(self) -> i32 {
        self as i32
    }
    #[inline(always)]
    fn saturate(value: i32) -> i8 {
        value.clamp(i8::MIN as i32, i8::MAX as i32) as i8
    }
}

impl Activation for i16 {
    #[inline(always)]
    fn widen(self) -> i32 {
        self as i32
    }
    #[inline(always)]
    fn saturate(value: i32) -> i16 {
        value.clamp(i16::MIN as i32, i16::MAX as i32) as i16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requantize_rounds_ties_up() {
        let quarter = 1 << 30;
        assert_eq!(requantize(1, quarter), 0);
        assert_eq!(requantize(2, quarter), 1);
        assert_eq!(requantize(-2, quarter), 0);
        assert_eq!(requantize(-3, quarter), -1);
        assert_eq!(requantize(6, quarter), 2);
        assert_eq!(requantize(-6, quarter), -1);
    }

    #[test]
    fn requantize_never_overflows() {
        assert_eq!(requantize(i32::MIN, i32::MAX), -(1 << 30) + 1);
        assert_eq!(requantize(i32::MAX, i32::MAX), (1 << 30) - 1);
    }

    #[test]
    fn round_shift_rounds_ties_up() {
        assert_eq!([-3, -2, -1, 1, 2, 3].map(|half| round_shift(half, 1)), [-1, -1, 0, 1, 1, 2]);
    }
}
