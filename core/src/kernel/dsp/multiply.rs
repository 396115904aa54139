//! Sums of products and their requantization, four output channels at a time: pairs of pixels with weights that are widened
//! once a pass, a last pixel without a partner (as in a fully connected layer) straight with the file's.

use crate::kernel::conv::{BLOCK, ConvShape, ConvWeights, Destination, QUAD};
use crate::quant::{Activation, requantize};
use core::arch::naked_asm;

/// See [`crate::kernel::Kernel::multiply`], after [`super::gather::gather`].
pub(super) fn multiply<O: Activation>(
    shape: &ConvShape,
    constants: &ConvWeights<'_>,
    count: usize,
    work: &mut [i16],
    output: &mut [O],
    zero_out: i32,
    destination: Destination,
) {
    let (taps, channels) = (shape.padded_taps(), shape.channels_out);
    let Some((widened, windows)) = work.split_at_mut_checked(taps * BLOCK) else { return };
    let (Some(windows), Some(output)) = (windows.get(..count * taps), output.get_mut(..count * channels)) else { return };
    let (pairs, last) = windows.split_at(count / 2 * 2 * taps);
    let (mut bias, mut multipliers) = (constants.bias.iter(), constants.multipliers.iter());
    for (block, weights) in constants.weights.chunks_exact((taps * BLOCK).max(1)).enumerate() {
        let first = block * BLOCK;
        let lanes = Lanes {
            count: BLOCK.min(channels.saturating_sub(first)),
            bias: [0; BLOCK].map(|_| bias.next().unwrap_or(0)),
            multipliers: [0; BLOCK].map(|_| multipliers.next().unwrap_or(0)),
            zero_out,
            destination,
        };
        let Some(outputs) = output.get_mut(first..) else { return };
        if !pairs.is_empty() {
            widen(weights, widened);
            if lanes.count == BLOCK {
                lanes.run(pairs, widened, outputs, channels);
            } else {
                lanes.run_partly(pairs, widened, outputs, channels);
            }
        }
        if !last.is_empty() {
            let weights = if is_aligned(weights) { weights } else { align(weights, widened) };
            let outputs = outputs.get_mut((count - 1) * channels..).unwrap_or_default();
            lanes.store(&dot_one(last, weights, &lanes.bias), outputs);
        }
    }
}

fn is_aligned<T>(values: &[T]) -> bool {
    values.as_ptr().addr().is_multiple_of(4)
}

/// The constants of a block's channels; those past the last are zero.
struct Lanes {
    count: usize,
    bias: [i32; BLOCK],
    multipliers: [i32; BLOCK],
    zero_out: i32,
    destination: Destination,
}

impl Lanes {
    /// A whole block for all pairs of a pass. `outputs` begins with the block's first channel of the first pixel.
    fn run<O: Activation>(&self, pairs: &[i16], widened: &[i16], outputs: &mut [O], channels: usize) {
        let pixels = pairs.len() / (widened.len() / BLOCK).max(1);
        if pixels == 0 || outputs.len() < (pixels - 1) * channels + BLOCK {
            return;
        }
        let finish = match (size_of::<O>(), self.destination) {
            (1, Destination::Overwrite) => Finish::OverwriteI8,
            (1, Destination::Accumulate) => Finish::AccumulateI8,
            (_, Destination::Overwrite) => Finish::OverwriteI16,
            (_, Destination::Accumulate) => Finish::AccumulateI16,
        };
        let pixel_len = channels * size_of::<O>();
        // SAFETY: `outputs` has four elements for each of the pixels, `channels` apart.
        unsafe { self.dot(pairs, widened, finish, outputs.as_mut_ptr().cast(), pixel_len) }
    }

    /// A last block that is not whole.
    fn run_partly<O: Activation>(&self, pairs: &[i16], widened: &[i16], outputs: &mut [O], channels: usize) {
        let pair_len = (widened.len() / BLOCK * 2).max(1);
        for (pair, outputs) in pairs.chunks_exact(pair_len).zip(outputs.chunks_mut((2 * channels).max(1))) {
            let mut sums = [[0; BLOCK]; 2];
            // SAFETY: the sums have room for the eight of one pair.
            unsafe { self.dot(pair, widened, Finish::Sums, sums.as_mut_ptr().cast(), 0) }
            for (sums, outputs) in sums.iter().zip(outputs.chunks_mut(channels.max(1))) {
                self.store(sums, outputs);
            }
        }
    }

    /// [`dot_pairs`] over slices: a quad of two windows is 16 bytes, a quad of four channels 32.
    ///
    /// # Safety
    /// `output` is what `finish` needs for every pair.
    unsafe fn dot(&self, pairs: &[i16], widened: &[i16], finish: Finish, output: *mut u8, pixel_len: usize) {
        let pair_len = widened.len() / BLOCK * 2;
        if pair_len == 0 || pairs.is_empty() || !pairs.len().is_multiple_of(pair_len) {
            return;
        }
        let mut block = Block {
            bias: self.bias,
            multipliers: self.multipliers,
            weights: widened.as_ptr(),
            pair_len: 2 * pair_len,
            entry: 0,
            output,
            pixel_len,
            base: self.zero_out,
            end: pairs.as_ptr_range().end,
            finish: finish as u32,
        };
        // SAFETY: the pairs are whole, with as many quads as the weights, which are whole quads; both are aligned to words,
        // as all of the scratch is. The caller answers for the output.
        unsafe { dot_pairs(pairs.as_ptr(), &mut block) }
    }

    /// One pixel's sums.
    #[inline(always)]
    fn store<O: Activation>(&self, sums: &[i32; BLOCK], outputs: &mut [O]) {
        let outputs = outputs.iter_mut().take(self.count);
        for ((out, &sum), &multiplier) in outputs.zip(sums).zip(&self.multipliers) {
            let base = match self.destination {
                Destination::Overwrite => self.zero_out,
                Destination::Accumulate => out.widen(),
            };
            *out = O::saturate(base + requantize(sum, multiplier));
        }
    }
}

/// Widens one block's weights: for each quad, the words (0, 2) of the four channels, then the words (1, 3).
fn widen(weights: &[i8], widened: &mut [i16]) {
    let quads = (weights.len() / (BLOCK * QUAD)).min(widened.len() / (BLOCK * QUAD));
    if quads == 0 {
        return;
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
}

/// The weights, moved to the second half of `spare`.
fn align<'s>(weights: &[i8], spare: &'s mut [i16]) -> &'s [i8] {
    let spare: &mut [i8] = bytemuck::cast_slice_mut(spare);
    let (_, half) = spare.split_at_mut(spare.len() / 2);
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

/// Sums of a window with four channels' packed weights, from `bias` on.
fn dot_one(window: &[i16], weights: &[i8], bias: &[i32; BLOCK]) -> [i32; BLOCK] {
    let mut sums = *bias;
    let quads = (window.len() / QUAD).min(weights.len() / (BLOCK * QUAD));
    if quads > 0 && is_aligned(window) && is_aligned(weights) {
        // SAFETY: a quad of a window is 8 bytes, a quad of four channels 16; both have as many and are aligned.
        unsafe { dot_quads(window.as_ptr(), weights.as_ptr(), quads, &mut sums) }
    }
    sums
}

/// Registers: r0 window, r1 weights, r2 the window's end, r3 and r12 elements, r8 to r11 packed weights, lr widened ones, r4
/// to r7 sums. Four quads a turn; what is left over is the first turn, entered in its middle.
#[unsafe(naked)]
unsafe extern "C" fn dot_quads(window: *const i16, weights: *const i8, quads: usize, sums: &mut [i32; BLOCK]) {
    // 18 instructions of 4 bytes.
    macro_rules! quad {
        () => {
            concat!(
                "ldm r1!, {{r8, r9, r10, r11}}\n",
                "ldrd r3, r12, [r0], #8\n",
                "sxtb16 lr, r8\n",
                "smlad r4, r3, lr, r4\n",
                "sxtb16 lr, r8, ror #8\n",
                "smlad r4, r12, lr, r4\n",
                "sxtb16 lr, r9\n",
                "smlad r5, r3, lr, r5\n",
                "sxtb16 lr, r9, ror #8\n",
                "smlad r5, r12, lr, r5\n",
                "sxtb16 lr, r10\n",
                "smlad r6, r3, lr, r6\n",
                "sxtb16 lr, r10, ror #8\n",
                "smlad r6, r12, lr, r6\n",
                "sxtb16 lr, r11\n",
                "smlad r7, r3, lr, r7\n",
                "sxtb16 lr, r11, ror #8\n",
                "smlad r7, r12, lr, r7\n",
            )
        };
    }
    naked_asm!(
        dsp_extension!(),
        "push {{r3, r4, r5, r6, r7, r8, r9, r10, r11, lr}}",
        "ldm r3, {{r4, r5, r6, r7}}",
        "rsb r3, r2, #0",
        "and r3, r3, #3",
        "add r2, r0, r2, lsl #3",
        "mov r12, #72",
        "mul r3, r3, r12",
        "adr.w r12, 2f",
        "add r3, r3, r12",
        "orr r3, r3, #1",
        "bx r3",
        ".p2align 2",
        "2:",
        quad!(),
        quad!(),
        quad!(),
        quad!(),
        "cmp r0, r2",
        "bne 2b",
        "pop {{r3}}",
        "stm r3, {{r4, r5, r6, r7}}",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}",
    )
}

/// What [`dot_pairs`] does with the sums of a pair.
#[derive(Clone, Copy)]
enum Finish {
    /// Four i8 a pixel take the output's place.
    OverwriteI8,
    /// Four i16 a pixel.
    OverwriteI16,
    /// Four i8 a pixel are added to the output.
    AccumulateI8,
    /// Four i16 a pixel.
    AccumulateI16,
    /// The sums of the one pair, eight i32.
    Sums,
}

/// What [`dot_pairs`] reads from memory. The numbers are offsets that its assembly names.
#[repr(C)]
struct Block {
    /// 0: what the sums begin with.
    bias: [i32; BLOCK],
    /// 16.
    multipliers: [i32; BLOCK],
    /// 32: widened.
    weights: *const i16,
    /// 36: bytes of a pair of windows.
    pair_len: usize,
    /// 40: set and used by the assembly: where the first turn over a pair is entered.
    entry: usize,
    /// 44: of the next pixel.
    output: *mut u8,
    /// 48: bytes from pixel to pixel.
    pixel_len: usize,
    /// 52: added to what replaces.
    base: i32,
    /// 56: of all pairs.
    end: *const i16,
    /// 60: a [`Finish`].
    finish: u32,
}

/// Sums of pairs of windows with a block's four channels, requantized and stored.
///
/// Registers: r0 windows, r1 weights, r2 and r3 elements, r12 and lr weights, r4 to r7 the first pixel's sums, r8 to r11
/// the second's. After the sums, r1, r2, r3 and r12 are the multipliers. On the stack: the end of this pair's windows,
/// then the block's address.
///
/// Eight quads a turn; what is left over is the first turn, entered in its middle.
#[unsafe(naked)]
unsafe extern "C" fn dot_pairs(windows: *const i16, block: &mut Block) {
    // One word of each pixel's window, one of each channel's weights: 11 instructions of 4 bytes.
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
    macro_rules! two_quads {
        () => {
            concat!(half_quad!(), half_quad!(), half_quad!(), half_quad!())
        };
    }
    // All eight sums with `$instruction`, whose last operand is `$base`.
    macro_rules! requantize {
        ($instruction:literal, $base:literal) => {
            concat!(
                $instruction, " r4, r4, r1", $base, "\n",
                $instruction, " r5, r5, r2", $base, "\n",
                $instruction, " r6, r6, r3", $base, "\n",
                $instruction, " r7, r7, r12", $base, "\n",
                $instruction, " r8, r8, r1", $base, "\n",
                $instruction, " r9, r9, r2", $base, "\n",
                $instruction, " r10, r10, r3", $base, "\n",
                $instruction, " r11, r11, r12", $base, "\n",
            )
        };
    }
    macro_rules! saturate {
        ($bits:literal) => {
            concat!(
                "ssat r4, #", $bits, ", r4\n",
                "ssat r5, #", $bits, ", r5\n",
                "ssat r6, #", $bits, ", r6\n",
                "ssat r7, #", $bits, ", r7\n",
                "ssat r8, #", $bits, ", r8\n",
                "ssat r9, #", $bits, ", r9\n",
                "ssat r10, #", $bits, ", r10\n",
                "ssat r11, #", $bits, ", r11\n",
            )
        };
    }
    // r4 and r8 are a pixel each.
    macro_rules! store_i8 {
        () => {
            concat!(
                saturate!("8"),
                "bfi r4, r5, #8, #8\n",
                "bfi r6, r7, #8, #8\n",
                "bfi r8, r9, #8, #8\n",
                "bfi r10, r11, #8, #8\n",
                "pkhbt r4, r4, r6, lsl #16\n",
                "pkhbt r8, r8, r10, lsl #16\n",
            )
        };
    }
    macro_rules! store_i16 {
        () => {
            concat!(
                saturate!("16"),
                "pkhbt r4, r4, r5, lsl #16\n",
                "pkhbt r6, r6, r7, lsl #16\n",
                "pkhbt r8, r8, r9, lsl #16\n",
                "pkhbt r10, r10, r11, lsl #16\n",
                "ldr lr, [sp, #4]\n",
                "ldrd r1, r2, [lr, #44]\n",
                "add r3, r1, r2\n",
                "str r4, [r1]\n",
                "str r6, [r1, #4]\n",
                "str r8, [r3]\n",
                "str r10, [r3, #4]\n",
            )
        };
    }
    naked_asm!(
        dsp_extension!(),
        "push {{r0, r1, r4, r5, r6, r7, r8, r9, r10, r11, lr}}",
        "mov lr, r1",
        "ldr r2, [lr, #36]",
        "lsr r2, r2, #4",
        "rsb r2, r2, #0",
        "and r2, r2, #7",
        "mov r3, #88",
        "mul r2, r2, r3",
        "adr.w r3, 3f",
        "add r2, r2, r3",
        "orr r2, r2, #1",
        "str r2, [lr, #40]",
        // A pair.
        "2:",
        "ldm lr, {{r4, r5, r6, r7}}",
        "ldm lr, {{r8, r9, r10, r11}}",
        "ldrd r1, r2, [lr, #32]",
        "ldr r3, [lr, #40]",
        "add r2, r2, r0",
        "str r2, [sp]",
        "bx r3",
        ".p2align 2",
        "3:",
        two_quads!(),
        two_quads!(),
        two_quads!(),
        two_quads!(),
        "ldr r2, [sp]",
        "cmp r0, r2",
        "bne 3b",
        "ldr lr, [sp, #4]",
        "add r1, lr, #16",
        "ldr r12, [lr, #60]",
        "ldr lr, [lr, #52]",
        "tbb [pc, r12]",
        "4:",
        ".byte (5f - 4b) / 2, (6f - 4b) / 2, (7f - 4b) / 2, (8f - 4b) / 2, (9f - 4b) / 2, 0",
        "7:",
        "ldm r1, {{r1, r2, r3, r12}}",
        requantize!("smmulr", ""),
        "ldr lr, [sp, #4]",
        "ldrd r1, r2, [lr, #44]",
        "ldr r3, [r1]",
        "ldr r12, [r1, r2]",
        "sxtab r4, r4, r3",
        "sxtab r5, r5, r3, ror #8",
        "sxtab r6, r6, r3, ror #16",
        "sxtab r7, r7, r3, ror #24",
        "sxtab r8, r8, r12",
        "sxtab r9, r9, r12, ror #8",
        "sxtab r10, r10, r12, ror #16",
        "sxtab r11, r11, r12, ror #24",
        store_i8!(),
        "b 10f",
        "8:",
        "ldm r1, {{r1, r2, r3, r12}}",
        requantize!("smmulr", ""),
        "ldr lr, [sp, #4]",
        "ldrd r1, r2, [lr, #44]",
        "add r3, r1, r2",
        "ldr r12, [r1]",
        "ldr r2, [r1, #4]",
        "sxtah r4, r4, r12",
        "sxtah r5, r5, r12, ror #16",
        "sxtah r6, r6, r2",
        "sxtah r7, r7, r2, ror #16",
        "ldr r12, [r3]",
        "ldr r2, [r3, #4]",
        "sxtah r8, r8, r12",
        "sxtah r9, r9, r12, ror #16",
        "sxtah r10, r10, r2",
        "sxtah r11, r11, r2, ror #16",
        store_i16!(),
        "b 11f",
        "9:",
        "ldr lr, [sp, #4]",
        "ldr r1, [lr, #44]",
        "stm r1, {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "b 12f",
        "6:",
        "ldm r1, {{r1, r2, r3, r12}}",
        requantize!("smmlar", ", lr"),
        store_i16!(),
        "b 11f",
        "5:",
        "ldm r1, {{r1, r2, r3, r12}}",
        requantize!("smmlar", ", lr"),
        store_i8!(),
        "ldr lr, [sp, #4]",
        "ldrd r1, r2, [lr, #44]",
        "10:",
        "str r4, [r1]",
        "str r8, [r1, r2]",
        "11:",
        "add r1, r1, r2, lsl #1",
        "str r1, [lr, #44]",
        "ldr r3, [lr, #56]",
        "cmp r0, r3",
        "bne 2b",
        "12:",
        "add sp, #8",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}",
    )
}
