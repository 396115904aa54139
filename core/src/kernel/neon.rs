//! AArch64 with NEON, which every such processor has; with the dot product where the target enables it
//! (`-Ctarget-feature=+dotprod`, or a `-Ctarget-cpu` that has it; Apple's targets do). Asking the processor takes the
//! operating system's help, so the choice is made at compile time.

#![allow(unsafe_code, reason = "vector loads from slices, and an instruction that has no stable function")]

use core::arch::aarch64::*;

use super::Kernel;
use super::conv::{ConvShape, ConvWeights, Destination, QUAD, Rows};
use super::group_norm::{Line, TABLE_LEN};
use super::wide::{self, Dot, LANES, PIXELS, QUAD_WEIGHTS, quads};
use crate::quant::Activation;

/// Kernels with NEON.
#[derive(Clone, Copy, Debug)]
pub struct Neon;

impl Kernel for Neon {
    fn gather<I: Activation>(
        shape: &ConvShape,
        rows: &Rows<'_, I>,
        zero_in: i32,
        first: usize,
        count: usize,
        work: &mut [i16],
    ) {
        match size_of::<I>() {
            1 => wide::gather::<i8, I>(shape, rows, zero_in, first, count, work),
            _ => wide::gather::<i16, I>(shape, rows, zero_in, first, count, work),
        }
    }

    fn multiply<I: Activation, O: Activation>(
        shape: &ConvShape,
        constants: &ConvWeights<'_>,
        count: usize,
        work: &mut [i16],
        output: &mut [O],
        zero_out: i32,
        destination: Destination,
    ) {
        match size_of::<I>() {
            1 => wide::multiply(OfBytes, shape, constants, count, work, output, zero_out, destination),
            _ => wide::multiply(OfHalves, shape, constants, count, work, output, zero_out, destination),
        }
    }

    fn normalize<I: Activation>(
        values: &[I],
        lines: &[Line],
        table: &[i8; TABLE_LEN],
        output: &mut [i8],
        channels_out: usize,
        first: usize,
    ) {
        wide::normalize(values, lines, table, output, channels_out, first);
    }
}

type Sums = [[i32; LANES]; PIXELS];

/// Products of i8.
#[derive(Clone, Copy)]
struct OfBytes;

impl Dot for OfBytes {
    type Element = i8;

    #[inline(always)]
    fn sums(self, windows: [&[i8]; PIXELS], weights: [&[i8]; 2]) -> Sums {
        // SAFETY: this module is compiled only where NEON is enabled.
        unsafe { sums_of_bytes(windows, weights) }
    }

    #[inline(always)]
    fn requantize(self, acc: [i32; LANES], multipliers: [i32; LANES]) -> [i32; LANES] {
        // SAFETY: this module is compiled only where NEON is enabled.
        unsafe { requantize(acc, multipliers) }
    }
}

/// Products of i16.
#[derive(Clone, Copy)]
struct OfHalves;

impl Dot for OfHalves {
    type Element = i16;

    #[inline(always)]
    fn sums(self, windows: [&[i16]; PIXELS], weights: [&[i8]; 2]) -> Sums {
        // SAFETY: this module is compiled only where NEON is enabled.
        unsafe { sums_of_halves(windows, weights) }
    }

    #[inline(always)]
    fn requantize(self, acc: [i32; LANES], multipliers: [i32; LANES]) -> [i32; LANES] {
        // SAFETY: this module is compiled only where NEON is enabled.
        unsafe { requantize(acc, multipliers) }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn sums_of_bytes(windows: [&[i8]; PIXELS], weights: [&[i8]; 2]) -> Sums {
    let mut sums = [[byte::zero(); 2]; PIXELS];
    for quad in 0..quads(windows, weights) {
        for (block, weights) in weights.into_iter().enumerate() {
            // SAFETY: every slice holds more than `quad` quads.
            let weights = unsafe { vld1q_s8(weights.as_ptr().add(quad * QUAD_WEIGHTS)) };
            for (sums, window) in sums.iter_mut().zip(windows) {
                // SAFETY: the same.
                let window = unsafe { window.as_ptr().add(quad * QUAD).cast::<i32>().read_unaligned() };
                sums[block] = byte::add(sums[block], vreinterpretq_s8_s32(vdupq_n_s32(window)), weights);
            }
        }
    }
    let mut result = [[0; LANES]; PIXELS];
    for (lanes, [a, b]) in result.iter_mut().zip(sums) {
        *lanes = to_array(byte::channels(a), byte::channels(b));
    }
    result
}

#[inline]
#[target_feature(enable = "neon")]
fn sums_of_halves(windows: [&[i16]; PIXELS], weights: [&[i8]; 2]) -> Sums {
    let mut sums = [[[vdupq_n_s32(0); 2]; 2]; PIXELS];
    for quad in 0..quads(windows, weights) {
        for (block, weights) in weights.into_iter().enumerate() {
            // SAFETY: every slice holds more than `quad` quads.
            let weights = unsafe { vld1q_s8(weights.as_ptr().add(quad * QUAD_WEIGHTS)) };
            let weights = [vmovl_s8(vget_low_s8(weights)), vmovl_high_s8(weights)];
            for (sums, window) in sums.iter_mut().zip(windows) {
                // SAFETY: the same.
                let window = unsafe { vld1_s16(window.as_ptr().add(quad * QUAD)) };
                for (sum, weights) in sums[block].iter_mut().zip(weights) {
                    // Two lanes for each of two channels.
                    let first = vmull_s16(vget_low_s16(weights), window);
                    let second = vmull_high_s16(weights, vcombine_s16(window, window));
                    *sum = vaddq_s32(*sum, vpaddq_s32(first, second));
                }
            }
        }
    }
    let mut result = [[0; LANES]; PIXELS];
    for (lanes, [[a, b], [c, d]]) in result.iter_mut().zip(sums) {
        *lanes = to_array(vpaddq_s32(a, b), vpaddq_s32(c, d));
    }
    result
}

/// The sum of a block: a lane for each channel.
#[cfg(target_feature = "dotprod")]
mod byte {
    use core::arch::aarch64::*;
    use core::arch::asm;

    pub(super) type Sum = int32x4_t;

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn zero() -> Sum {
        vdupq_n_s32(0)
    }

    /// Adds the products of a window's quad, four times the same, with the weights of four channels.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn add(mut sum: Sum, window: int8x16_t, weights: int8x16_t) -> Sum {
        // SAFETY: the instruction only reads and writes these registers, and the target has it.
        unsafe {
            asm!(
                "sdot {sum:v}.4s, {weights:v}.16b, {window:v}.16b",
                sum = inout(vreg) sum,
                weights = in(vreg) weights,
                window = in(vreg) window,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        sum
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn channels(sum: Sum) -> int32x4_t {
        sum
    }
}

/// The sum of a block: two lanes for each channel.
#[cfg(not(target_feature = "dotprod"))]
mod byte {
    use core::arch::aarch64::*;

    pub(super) type Sum = [int32x4_t; 2];

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn zero() -> Sum {
        [vdupq_n_s32(0); 2]
    }

    /// Adds the products of a window's quad, four times the same, with the weights of four channels. A product fits i16.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn add([a, b]: Sum, window: int8x16_t, weights: int8x16_t) -> Sum {
        let low = vmull_s8(vget_low_s8(weights), vget_low_s8(window));
        [vpadalq_s16(a, low), vpadalq_s16(b, vmull_high_s8(weights, window))]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn channels([a, b]: Sum) -> int32x4_t {
        vpaddq_s32(a, b)
    }
}

/// [`crate::quant::requantize`]: a rounding narrowing of the products.
#[inline]
#[target_feature(enable = "neon")]
fn requantize(acc: [i32; LANES], multipliers: [i32; LANES]) -> [i32; LANES] {
    let ([a, b], [c, d]) = (to_registers(&acc), to_registers(&multipliers));
    to_array(requantize_four(a, c), requantize_four(b, d))
}

#[inline]
#[target_feature(enable = "neon")]
fn requantize_four(acc: int32x4_t, multipliers: int32x4_t) -> int32x4_t {
    let low = vrshrn_n_s64::<32>(vmull_s32(vget_low_s32(acc), vget_low_s32(multipliers)));
    vrshrn_high_n_s64::<32>(low, vmull_high_s32(acc, multipliers))
}

#[inline]
#[target_feature(enable = "neon")]
fn to_registers(lanes: &[i32; LANES]) -> [int32x4_t; 2] {
    let [low, high] = [0, LANES / 2].map(|at| lanes.as_ptr().wrapping_add(at));
    // SAFETY: eight lanes, four from each pointer.
    unsafe { [vld1q_s32(low), vld1q_s32(high)] }
}

#[inline]
#[target_feature(enable = "neon")]
fn to_array(low: int32x4_t, high: int32x4_t) -> [i32; LANES] {
    let mut lanes = [0; LANES];
    let (a, b) = lanes.split_at_mut(LANES / 2);
    // SAFETY: four lanes each.
    unsafe {
        vst1q_s32(a.as_mut_ptr(), low);
        vst1q_s32(b.as_mut_ptr(), high);
    }
    lanes
}
