//! Sums of products and their requantization, four output channels at a time: pairs of pixels with weights that are widened
//! once a pass, a single pair and a last pixel without a partner (as in a fully connected layer) straight with the file's.

use super::{lane, packed, pairs, single};
use crate::kernel::conv::{BLOCK, ConvShape, ConvWeights, Destination, QUAD};
use crate::quant::{Activation, requantize};
use crate::view::{I32s, part, split_mut};
use core::arch::naked_asm;

/// See [`crate::kernel::Kernel::multiply`], after [`super::gather::gather`]. `output` is the bytes of the target's elements.
pub(super) fn multiply(
    shape: &ConvShape,
    constants: &ConvWeights<'_>,
    count: usize,
    work: &mut [i16],
    output: &mut [u8],
    target: Target,
) {
    let (taps, channels) = (shape.padded_taps(), shape.channels_out);
    let (widened, windows) = split_mut(work, taps * BLOCK);
    let (pairs, windows) = split_mut(windows, count / 2 * 2 * taps);
    let last = part(windows, 0, count % 2 * taps);
    let (outputs, last_outputs) = split_mut(output, count / 2 * 2 * channels * target.size);
    let aligned = is_aligned(constants.weights);
    if aligned && !last.is_empty() {
        single::run(last, constants, last_outputs, target);
    }
    // Whole blocks of a single pixel are done.
    let done = if aligned && pairs.is_empty() { channels / BLOCK } else { 0 };
    for (block, weights) in constants.weights.chunks_exact((taps * BLOCK).max(1)).enumerate().skip(done) {
        let first = block * BLOCK;
        let four = |values: I32s<'_>| [0, 1, 2, 3].map(|lane| values.get(first + lane));
        let lanes = Lanes {
            count: BLOCK.min(channels.saturating_sub(first)),
            bias: four(constants.bias),
            multipliers: four(constants.multipliers),
            target,
        };
        if let (false, Some(outputs)) = (pairs.is_empty(), outputs.get_mut(first * target.size..)) {
            match lanes.count {
                0 => {}
                1 => lanes.run_one(pairs, weights, outputs, channels),
                _ if aligned && count < 4 => {
                    lanes.store_pair(&packed::sums(pairs, weights, lanes.bias), outputs, channels)
                }
                BLOCK => pairs::run(&lanes, pairs, widen(weights, widened), outputs, channels),
                _ => lanes.run_some(pairs, widen(weights, widened), outputs, channels),
            }
        }
        if !last.is_empty() && (lanes.count < BLOCK || !aligned) {
            let weights = if aligned { weights } else { align(weights, widened) };
            let outputs = last_outputs.get_mut(first * target.size..).unwrap_or_default();
            lanes.store(&single::sums(last, weights, &lanes.bias), outputs);
        }
    }
}

pub(super) fn is_aligned<T>(values: &[T]) -> bool {
    values.as_ptr().addr().is_multiple_of(4)
}

/// What is done with requantized sums.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// Bytes of an element.
    pub(super) size: usize,
    /// The output's zero point.
    pub(super) base: i32,
    pub(super) destination: Destination,
}

/// What the assembly does with the sums of a pixel's four channels.
#[derive(Clone, Copy)]
pub(super) enum Finish {
    /// Four i8 take the output's place.
    OverwriteI8,
    /// Four i16.
    OverwriteI16,
    /// Four i8 are added to the output.
    AccumulateI8,
    /// Four i16.
    AccumulateI16,
    /// The sums themselves, four i32.
    Sums,
}

impl Target {
    pub(super) fn finish(&self) -> Finish {
        match (self.size, self.destination) {
            (1, Destination::Overwrite) => Finish::OverwriteI8,
            (1, Destination::Accumulate) => Finish::AccumulateI8,
            (_, Destination::Overwrite) => Finish::OverwriteI16,
            (_, Destination::Accumulate) => Finish::AccumulateI16,
        }
    }

    /// A sum, as element `index`.
    #[inline(always)]
    fn store(&self, sum: i32, multiplier: i32, outputs: &mut [u8], index: usize) {
        let value = requantize(sum, multiplier);
        match self.size {
            1 => {
                let Some(output) = outputs.get_mut(index) else { return };
                *output = i8::saturate(self.destination.base(self.base, *output as i8) + value) as u8;
            }
            _ => {
                let Some(output) = outputs.as_chunks_mut().0.get_mut(index) else { return };
                let base = self.destination.base(self.base, i16::from_ne_bytes(*output));
                *output = i16::saturate(base + value).to_ne_bytes();
            }
        }
    }
}

/// The constants of a block's channels; those past the last are zero.
pub(super) struct Lanes {
    count: usize,
    pub(super) bias: [i32; BLOCK],
    pub(super) multipliers: [i32; BLOCK],
    pub(super) target: Target,
}

impl Lanes {
    /// A last block that is not whole. `outputs` begins with its first channel of the first pixel.
    #[inline(never)]
    fn run_some(&self, pairs: &[i16], widened: &[i16], outputs: &mut [u8], channels: usize) {
        let pair_len = (widened.len() / BLOCK * 2).max(2);
        let mut outputs = outputs.chunks_mut((2 * channels * self.target.size).max(1));
        for pair in pairs.chunks_exact(pair_len) {
            let outputs = outputs.next().unwrap_or_default();
            self.store_pair(&pairs::sums(self, pair, widened), outputs, channels);
        }
    }

    /// A last block of one channel, as that of a picture's brightness.
    #[inline(never)]
    fn run_one(&self, pairs: &[i16], weights: &[i8], outputs: &mut [u8], channels: usize) {
        let pair_len = (weights.len() / BLOCK * 2).max(2);
        let ([bias, ..], [multiplier, ..]) = (self.bias, self.multipliers);
        let mut outputs = outputs.chunks_mut((2 * channels * self.target.size).max(1));
        for pair in pairs.chunks_exact(pair_len) {
            let outputs = outputs.next().unwrap_or_default();
            let sums = lane::sums(pair, weights, bias);
            for (index, sum) in sums.into_iter().enumerate() {
                self.target.store(sum, multiplier, outputs, index * channels);
            }
        }
    }

    /// A pair's sums.
    #[inline(never)]
    fn store_pair(&self, sums: &[[i32; BLOCK]; 2], outputs: &mut [u8], channels: usize) {
        let ([first, second], (outputs, next)) = (sums, split_mut(outputs, channels * self.target.size));
        self.store(first, outputs);
        self.store(second, next);
    }

    /// One pixel's sums.
    #[inline(never)]
    fn store(&self, sums: &[i32; BLOCK], outputs: &mut [u8]) {
        for (index, (&sum, &multiplier)) in sums.iter().zip(&self.multipliers).take(self.count).enumerate() {
            self.target.store(sum, multiplier, outputs, index);
        }
    }
}

/// Widens one block's weights: for each quad, the words (0, 2) of the four channels, then the words (1, 3).
#[inline(never)]
fn widen<'w>(weights: &[i8], widened: &'w mut [i16]) -> &'w [i16] {
    let quads = (weights.len() / (BLOCK * QUAD)).min(widened.len() / (BLOCK * QUAD));
    if quads == 0 {
        return &[];
    }
    let target = widened.as_mut_ptr();
    let source = match is_aligned(weights) {
        true => weights.as_ptr(),
        false => align(weights, widened).as_ptr(),
    };
    // SAFETY: a quad of four channels is 16 bytes packed and 32 widened; both have as many quads. Loads of several registers
    // trap on odd addresses, and a file may lie anywhere: such weights were moved to the second half of the target, which is
    // aligned and is overwritten only behind what has been read.
    unsafe { widen_quads(source, target, quads) }
    widened
}

/// The weights, moved to the second half of `spare`.
fn align<'s>(weights: &[i8], spare: &'s mut [i16]) -> &'s [i8] {
    let spare: &mut [i8] = bytemuck::cast_slice_mut(spare);
    let (_, half) = split_mut(spare, spare.len() / 2);
    half.iter_mut().zip(weights).for_each(|(to, from)| *to = *from);
    half
}

/// Registers: r0 weights, r1 widened, r2 quads, r8 to r11 packed weights, r4 to r11 widened ones. An odd count begins in the
/// middle of a turn of two quads.
#[unsafe(naked)]
unsafe extern "C" fn widen_quads(weights: *const i8, widened: *mut i16, quads: usize) {
    macro_rules! quad {
        () => {
            concat!(
                "ldm r0!, {{r8, r9, r10, r11}}\n",
                "sxtb16 r4, r8\n",
                "sxtb16 r5, r9\n",
                "sxtb16 r6, r10\n",
                "sxtb16 r7, r11\n",
                "sxtb16 r8, r8, ror #8\n",
                "sxtb16 r9, r9, ror #8\n",
                "sxtb16 r10, r10, ror #8\n",
                "sxtb16 r11, r11, ror #8\n",
                "stm r1!, {{r4, r5, r6, r7, r8, r9, r10, r11}}\n",
            )
        };
    }
    naked_asm!(
        dsp_extension!(),
        "push {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "adds r2, #1",
        "lsrs r2, r2, #1",
        "bcc 3f",
        "2:",
        quad!(),
        "3:",
        quad!(),
        "subs r2, #1",
        "bne 2b",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "bx lr",
    )
}
