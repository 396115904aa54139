//! WebAssembly with `simd128`, where the target enables it (`-Ctarget-feature=+simd128`): a module that has the
//! instructions is refused as a whole where they are missing, so nothing is asked when it runs.

#![allow(unsafe_code, reason = "vector loads from slices")]

use core::arch::wasm32::*;

use super::Kernel;
use super::conv::{ConvShape, ConvWeights, Destination, QUAD, Rows};
use super::group_norm::{Line, TABLE_LEN};
use super::wide::{self, Dot, LANES, PIXELS, QUAD_WEIGHTS, quads};
use crate::quant::Activation;

/// Kernels with `simd128`.
#[derive(Clone, Copy, Debug)]
pub struct Simd128;

impl Kernel for Simd128 {
    fn gather<I: Activation>(
        shape: &ConvShape,
        rows: &Rows<'_, I>,
        zero_in: i32,
        first: usize,
        count: usize,
        work: &mut [i16],
    ) {
        wide::gather::<i16, I>(shape, rows, zero_in, first, count, work);
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
        wide::multiply(OfHalves, shape, constants, count, work, output, zero_out, destination);
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

/// Products of i16, two an instruction and lane: activations of both sizes.
#[derive(Clone, Copy)]
struct OfHalves;

impl Dot for OfHalves {
    type Element = i16;

    #[inline(always)]
    fn sums(self, windows: [&[i16]; PIXELS], weights: [&[i8]; 2]) -> [[i32; LANES]; PIXELS] {
        let mut sums = [[[i32x4_splat(0); 2]; 2]; PIXELS];
        for quad in 0..quads(windows, weights) {
            for (block, weights) in weights.into_iter().enumerate() {
                // SAFETY: every slice holds more than `quad` quads.
                let weights = unsafe { v128_load(weights.as_ptr().add(quad * QUAD_WEIGHTS).cast()) };
                let weights = [i16x8_extend_low_i8x16(weights), i16x8_extend_high_i8x16(weights)];
                for (sums, window) in sums.iter_mut().zip(windows) {
                    // SAFETY: the same.
                    let window = unsafe { v128_load64_splat(window.as_ptr().add(quad * QUAD).cast()) };
                    for (sum, weights) in sums[block].iter_mut().zip(weights) {
                        // Two lanes for each of two channels.
                        *sum = i32x4_add(*sum, i32x4_dot_i16x8(window, weights));
                    }
                }
            }
        }
        sums.map(|[[a, b], [c, d]]| to_array(add_neighbors(a, b), add_neighbors(c, d)))
    }

    #[inline(always)]
    fn requantize(self, acc: [i32; LANES], multipliers: [i32; LANES]) -> [i32; LANES] {
        let ([a, b], [c, d]) = (to_registers(&acc), to_registers(&multipliers));
        to_array(requantize(a, c), requantize(b, d))
    }
}

/// Sums of neighboring lanes: of `a`, then of `b`.
#[inline(always)]
fn add_neighbors(a: v128, b: v128) -> v128 {
    i32x4_add(i32x4_shuffle::<0, 2, 4, 6>(a, b), i32x4_shuffle::<1, 3, 5, 7>(a, b))
}

/// [`crate::quant::requantize`] of four lanes.
#[inline(always)]
fn requantize(acc: v128, multipliers: v128) -> v128 {
    let half = i64x2_splat(1 << 31);
    let low = i64x2_add(i64x2_extmul_low_i32x4(acc, multipliers), half);
    let high = i64x2_add(i64x2_extmul_high_i32x4(acc, multipliers), half);
    i32x4_shuffle::<1, 3, 5, 7>(low, high)
}

#[inline(always)]
fn to_registers(lanes: &[i32; LANES]) -> [v128; 2] {
    let [a, b, c, d, e, f, g, h] = *lanes;
    [i32x4(a, b, c, d), i32x4(e, f, g, h)]
}

#[inline(always)]
fn to_array(low: v128, high: v128) -> [i32; LANES] {
    let mut lanes = [0; LANES];
    for (lanes, register) in lanes.as_chunks_mut::<4>().0.iter_mut().zip([low, high]) {
        // SAFETY: four lanes.
        unsafe { v128_store(lanes.as_mut_ptr().cast(), register) };
    }
    lanes
}
