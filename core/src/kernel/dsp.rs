//! Convolution for Armv7E-M and Armv8-M with the DSP extension (Cortex-M4, M7, M33): two pixels by four channels a block,
//! two products an instruction (`SMLAD`).
//!
//! Windows of a pass are gathered once as i16 in pairs of pixels, weights of a block are widened once a pass, both in the
//! arena's scratch. The inner loop then takes 3 double loads and 8 `SMLAD` for 16 multiply-accumulates: 0.69 instructions
//! each, 14 registers. Pairs of elements are taken as (0, 2) and (1, 3) of a quad on both sides, which is what `SXTB16`
//! makes of four bytes; sums of integers do not mind the order.

#![allow(unsafe_code, reason = "naked functions over pointers into checked slices")]

use super::Kernel;
use super::conv::{BLOCK, ConvShape, ConvWeights, Destination, QUAD, Rows, gather_one, position, run};
use crate::quant::{Activation, requantize};
use core::arch::naked_asm;

/// Armv8-M has the instructions only as an extension, which the assembler takes from a processor that has it. On Armv7E-M
/// there is nothing to name.
#[cfg(mote_dsp_extension)]
macro_rules! dsp_extension {
    () => {
        ".cpu cortex-m33"
    };
}
#[cfg(not(mote_dsp_extension))]
macro_rules! dsp_extension {
    () => {
        ""
    };
}

/// Kernels with the DSP instructions.
#[derive(Clone, Copy, Debug)]
pub struct Dsp;

impl Kernel for Dsp {
    /// Pairs of windows, each pair interleaved as [`gather_pair`] says, after the place of a block's widened weights.
    fn gather<I: Activation>(
        shape: &ConvShape,
        rows: &Rows<'_, I>,
        zero_in: i32,
        first: usize,
        count: usize,
        work: &mut [i16],
    ) {
        let taps = shape.padded_taps();
        let (spare, windows) = work.split_at_mut(taps * BLOCK);
        for (pair, windows) in windows.chunks_mut(2 * taps).take(count.div_ceil(2)).enumerate() {
            let at = first + 2 * pair;
            if 2 * pair + 1 == count {
                // A last pixel without a partner: its window alone, in the same order of words.
                gather_one(shape, rows, zero_in, at, &mut spare[..taps]);
                split_words(&spare[..taps], &mut windows[..taps]);
            } else {
                gather_pair(shape, [at, at + 1], rows, zero_in, windows, spare);
            }
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
        let taps = shape.padded_taps();
        let (widened, windows) = work.split_at_mut(taps * BLOCK);
        let (pairs, last) = windows[..count * taps].split_at(count / 2 * 2 * taps);
        for (block, weights) in constants.weights.chunks_exact(taps * BLOCK).enumerate() {
            let lanes = Lanes::new(constants, block * BLOCK, shape.channels_out);
            if !pairs.is_empty() {
                widen(weights, widened);
            }
            for (pair, windows) in pairs.chunks_exact(2 * taps).enumerate() {
                let sums = dot(windows, widened, &lanes.bias);
                for (half, sums) in sums.as_chunks::<BLOCK>().0.iter().enumerate() {
                    let at = (2 * pair + half) * shape.channels_out + lanes.first;
                    lanes.store(sums, &mut output[at..at + lanes.count], zero_out, destination);
                }
            }
            if !last.is_empty() {
                let at = (count - 1) * shape.channels_out + lanes.first;
                let weights = if is_aligned(weights) { weights } else { align(weights, widened) };
                let sums = dot_one(last, weights, &lanes.bias);
                lanes.store(&sums, &mut output[at..at + lanes.count], zero_out, destination);
            }
        }
    }
}

fn is_aligned<T>(values: &[T]) -> bool {
    values.as_ptr().addr().is_multiple_of(4)
}

/// The constants of a block's channels; those past the last are zero.
struct Lanes {
    first: usize,
    count: usize,
    bias: [i32; BLOCK],
    multipliers: [i32; BLOCK],
}

impl Lanes {
    fn new(constants: &ConvWeights<'_>, first: usize, channels: usize) -> Self {
        let count = BLOCK.min(channels - first);
        let mut lanes = Lanes { first, count, bias: [0; BLOCK], multipliers: [0; BLOCK] };
        for lane in 0..count {
            lanes.bias[lane] = constants.bias.get(first + lane);
            lanes.multipliers[lane] = constants.multipliers.get(first + lane);
        }
        lanes
    }

    #[inline(always)]
    fn store<O: Activation>(&self, sums: &[i32; BLOCK], outputs: &mut [O], zero_out: i32, destination: Destination) {
        // A whole block without a loop; the compiler keeps its constants in registers.
        if let (Destination::Overwrite, Some(outputs)) = (destination, outputs.as_chunks_mut::<BLOCK>().0.first_mut()) {
            for lane in 0..BLOCK {
                outputs[lane] = O::saturate(zero_out + requantize(sums[lane], self.multipliers[lane]));
            }
            return;
        }
        for ((out, &sum), &multiplier) in outputs.iter_mut().zip(sums).zip(&self.multipliers) {
            let base = match destination {
                Destination::Overwrite => zero_out,
                Destination::Accumulate => out.widen(),
            };
            *out = O::saturate(base + requantize(sum, multiplier));
        }
    }
}

/// Gathers two windows, interleaved: quad by quad, the words (0, 2) of both pixels, then the words (1, 3).
fn gather_pair<I: Activation>(
    shape: &ConvShape,
    both: [usize; 2],
    rows: &Rows<'_, I>,
    zero_in: i32,
    windows: &mut [i16],
    spare: &mut [i16],
) {
    let channels = shape.channels_in;
    if !channels.is_multiple_of(QUAD) {
        let (a, b) = spare[..windows.len()].split_at_mut(windows.len() / 2);
        gather_one(shape, rows, zero_in, both[0], a);
        gather_one(shape, rows, zero_in, both[1], b);
        return interleave(a, b, windows);
    }
    let padding: &mut [I] = &mut bytemuck::cast_slice_mut(spare)[..channels];
    padding.fill(I::saturate(zero_in));
    let [a, b] = both.map(|index| (index / shape.output[1], index % shape.output[1]));
    let runs = [a, b].map(|(_, column)| run(shape, column));
    let pixel = |y: usize, x: usize, len: usize| rows.part(y, x * channels, len);
    for (tap_row, part) in windows.chunks_exact_mut(2 * shape.kernel * channels).enumerate() {
        let [y_a, y_b] = [a, b].map(|(row, _)| position(shape, row, tap_row, shape.input[0]));
        if let ([Some(x_a), Some(x_b)], Some(y_a), Some(y_b)) = (runs, y_a, y_b) {
            let len = shape.kernel * channels;
            interleave(pixel(y_a, x_a, len), pixel(y_b, x_b, len), part);
            continue;
        }
        for (tap_column, part) in part.chunks_exact_mut(2 * channels).enumerate() {
            let at = |y: Option<usize>, column| match (y, position(shape, column, tap_column, shape.input[1])) {
                (Some(y), Some(x)) => pixel(y, x, channels),
                _ => &*padding,
            };
            interleave(at(y_a, a.1), at(y_b, b.1), part);
        }
    }
}

/// One window's words in the order of [`gather_pair`]: of each quad (0, 2), then (1, 3).
fn split_words(window: &[i16], words: &mut [i16]) {
    for (&[a, b, c, d], words) in window.as_chunks::<QUAD>().0.iter().zip(words.as_chunks_mut::<QUAD>().0) {
        *words = [a, c, b, d];
    }
}

/// Both pixels' elements as described at [`gather_pair`].
fn interleave<I: Activation>(a: &[I], b: &[I], pairs: &mut [i16]) {
    let quads = pairs.len() / (2 * QUAD);
    assert!(a.len() == QUAD * quads && b.len() == QUAD * quads);
    // SAFETY: a quad is 4 elements of each input and 8 of the output; the element sizes select the function.
    unsafe {
        match size_of::<I>() {
            1 => interleave_i8(a.as_ptr().cast(), b.as_ptr().cast(), pairs.as_mut_ptr(), quads),
            _ => interleave_i16(a.as_ptr().cast(), b.as_ptr().cast(), pairs.as_mut_ptr(), quads),
        }
    }
}

#[unsafe(naked)]
unsafe extern "C" fn interleave_i8(a: *const i8, b: *const i8, pairs: *mut i16, quads: usize) {
    naked_asm!(
        dsp_extension!(),
        "push {{r4, r5, r6, r7}}",
        "1:",
        "ldr r6, [r0], #4",
        "ldr r7, [r1], #4",
        "sxtb16 r4, r6",
        "sxtb16 r5, r7",
        "sxtb16 r6, r6, ror #8",
        "sxtb16 r7, r7, ror #8",
        "stm r2!, {{r4, r5, r6, r7}}",
        "subs r3, #1",
        "bne 1b",
        "pop {{r4, r5, r6, r7}}",
        "bx lr",
    )
}

#[unsafe(naked)]
unsafe extern "C" fn interleave_i16(a: *const i16, b: *const i16, pairs: *mut i16, quads: usize) {
    naked_asm!(
        dsp_extension!(),
        "push {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "1:",
        "ldr r8, [r0], #4",
        "ldr r9, [r0], #4",
        "ldr r10, [r1], #4",
        "ldr r11, [r1], #4",
        "pkhbt r4, r8, r9, lsl #16",
        "pkhbt r5, r10, r11, lsl #16",
        "pkhtb r6, r9, r8, asr #16",
        "pkhtb r7, r11, r10, asr #16",
        "stm r2!, {{r4, r5, r6, r7}}",
        "subs r3, #1",
        "bne 1b",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "bx lr",
    )
}

/// Widens one block's weights: for each quad, the words (0, 2) of the four channels, then the words (1, 3).
fn widen(weights: &[i8], widened: &mut [i16]) {
    assert_eq!(weights.len(), widened.len());
    let quads = weights.len() / (BLOCK * QUAD);
    let target = widened.as_mut_ptr();
    // SAFETY: a quad of four channels is 16 bytes packed and 32 widened; `widened` holds as many quads as `weights`. Loads
    // of several registers trap on odd addresses, and a file may lie anywhere: such weights are first moved to the second
    // half of the target, which is aligned and is overwritten only behind what has been read.
    unsafe {
        let source = match is_aligned(weights) {
            true => weights.as_ptr(),
            false => align(weights, widened).as_ptr(),
        };
        widen_quads(source, target, quads);
    }
}

/// The weights, moved to the second half of `spare`.
fn align<'s>(weights: &[i8], spare: &'s mut [i16]) -> &'s [i8] {
    let spare: &mut [i8] = bytemuck::cast_slice_mut(spare);
    let half = spare.len() / 2;
    spare[half..].copy_from_slice(weights);
    &spare[half..]
}

/// Sums of two windows with four channels, from `bias` on: the first pixel's four, then the second's.
fn dot(windows: &[i16], widened: &[i16], bias: &[i32; BLOCK]) -> [i32; 2 * BLOCK] {
    assert_eq!(2 * windows.len(), widened.len());
    let mut sums = [0; 2 * BLOCK];
    let quads = windows.len() / (2 * QUAD);
    // SAFETY: a quad of two windows is 16 bytes, a quad of four channels 32; both slices hold as many quads and
    // are aligned. The sums have room for eight, the bias has four.
    unsafe { dot_quads(windows.as_ptr(), widened.as_ptr(), quads, sums.as_mut_ptr(), bias) }
    sums
}

/// Sums of a window with four channels' packed weights, from `bias` on.
fn dot_one(window: &[i16], weights: &[i8], bias: &[i32; BLOCK]) -> [i32; BLOCK] {
    assert_eq!(BLOCK * window.len(), weights.len());
    assert!(is_aligned(window) && is_aligned(weights));
    let mut sums = *bias;
    // SAFETY: a quad of a window is 8 bytes, a quad of four channels 16; both slices hold as many quads and are aligned.
    unsafe { dot_one_quads(window.as_ptr(), weights.as_ptr(), window.len() / QUAD, &mut sums) }
    sums
}

/// Registers: r0 window, r1 weights, r2 quads, r3 and r12 elements, r8-r11 packed weights, lr widened ones, r4-r7 sums.
#[unsafe(naked)]
unsafe extern "C" fn dot_one_quads(window: *const i16, weights: *const i8, quads: usize, sums: &mut [i32; BLOCK]) {
    naked_asm!(
        dsp_extension!(),
        "push {{r3, r4, r5, r6, r7, r8, r9, r10, r11, lr}}",
        "ldm r3, {{r4, r5, r6, r7}}",
        "1:",
        "ldm r1!, {{r8, r9, r10, r11}}",
        "ldr r3, [r0], #4",
        "ldr r12, [r0], #4",
        "sxtb16 lr, r8",
        "smlad r4, r3, lr, r4",
        "sxtb16 lr, r8, ror #8",
        "smlad r4, r12, lr, r4",
        "sxtb16 lr, r9",
        "smlad r5, r3, lr, r5",
        "sxtb16 lr, r9, ror #8",
        "smlad r5, r12, lr, r5",
        "sxtb16 lr, r10",
        "smlad r6, r3, lr, r6",
        "sxtb16 lr, r10, ror #8",
        "smlad r6, r12, lr, r6",
        "sxtb16 lr, r11",
        "smlad r7, r3, lr, r7",
        "sxtb16 lr, r11, ror #8",
        "smlad r7, r12, lr, r7",
        "subs r2, #1",
        "bne 1b",
        "pop {{r3}}",
        "stm r3, {{r4, r5, r6, r7}}",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}",
    )
}

#[unsafe(naked)]
unsafe extern "C" fn widen_quads(weights: *const i8, widened: *mut i16, quads: usize) {
    naked_asm!(
        dsp_extension!(),
        "push {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "1:",
        "ldm r0!, {{r8, r9, r10, r11}}",
        "sxtb16 r4, r8",
        "sxtb16 r5, r9",
        "sxtb16 r6, r10",
        "sxtb16 r7, r11",
        "stm r1!, {{r4, r5, r6, r7}}",
        "sxtb16 r4, r8, ror #8",
        "sxtb16 r5, r9, ror #8",
        "sxtb16 r6, r10, ror #8",
        "sxtb16 r7, r11, ror #8",
        "stm r1!, {{r4, r5, r6, r7}}",
        "subs r2, #1",
        "bne 1b",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "bx lr",
    )
}

/// Half a quad for [`dot_quads`]: one word of each pixel's window, one of each channel's weights.
macro_rules! half_quad {
    () => {
        concat!(
            "ldrd r2, r3, [r0], #8\n",
            "ldrd r12, lr, [r1], #8\n",
            "smlad r4, r2, r12, r4\n",
            "smlad r8, r3, r12, r8\n",
            "smlad r5, r2, lr, r5\n",
            "smlad r9, r3, lr, r9\n",
            "ldrd r12, lr, [r1], #8\n",
            "smlad r6, r2, r12, r6\n",
            "smlad r10, r3, r12, r10\n",
            "smlad r7, r2, lr, r7\n",
            "smlad r11, r3, lr, r11\n",
        )
    };
}

/// Registers: r0 windows, r1 weights, r2 and r3 elements, r12 and lr weights, r4-r11 the eight sums. The count and the
/// place of the sums wait on the stack.
#[unsafe(naked)]
unsafe extern "C" fn dot_quads(
    windows: *const i16,
    widened: *const i16,
    quads: usize,
    sums: *mut i32,
    bias: &[i32; BLOCK],
) {
    naked_asm!(
        dsp_extension!(),
        "push {{r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, r12, lr}}",
        // The fifth argument lies above the twelve saved registers.
        "ldr r12, [sp, #48]",
        "ldm r12, {{r4, r5, r6, r7}}",
        "ldm r12, {{r8, r9, r10, r11}}",
        // Two quads a turn; an odd count enters in the middle. Turns: (quads + 1) / 2.
        "adds r3, r2, #1",
        "lsrs r3, r3, #1",
        "str r3, [sp]",
        "tst r2, #1",
        "bne 2f",
        "1:",
        half_quad!(),
        half_quad!(),
        "2:",
        half_quad!(),
        half_quad!(),
        "ldr r2, [sp]",
        "subs r2, #1",
        "str r2, [sp]",
        "bne 1b",
        "pop {{r2, r3}}",
        "stm r3, {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, r12, pc}}",
    )
}
