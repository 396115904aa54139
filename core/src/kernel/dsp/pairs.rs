//! Two pixels by four channels.

use super::multiply::{Finish, Lanes, is_aligned};
use crate::kernel::conv::BLOCK;
use core::arch::naked_asm;

/// A whole block for all pairs of a pass. `outputs` begins with the block's first channel of the first pixel.
pub(super) fn run(lanes: &Lanes, pairs: &[i16], widened: &[i16], outputs: &mut [u8], channels: usize) {
    let pixels = pairs.len() / (widened.len() / BLOCK).max(1);
    if pixels == 0 || outputs.len() < ((pixels - 1) * channels + BLOCK) * lanes.target.size {
        return;
    }
    let pixel_len = channels * lanes.target.size;
    // SAFETY: `outputs` has four elements for each of the pixels, `channels` apart.
    unsafe { dot(lanes, pairs, widened, lanes.target.finish(), outputs.as_mut_ptr(), pixel_len) }
}

/// The sums of one pair.
pub(super) fn sums(lanes: &Lanes, pair: &[i16], widened: &[i16]) -> [[i32; BLOCK]; 2] {
    let mut sums = [[0; BLOCK]; 2];
    if 2 * pair.len() == widened.len() {
        // SAFETY: there is room for the eight of the one pair.
        unsafe { dot(lanes, pair, widened, Finish::Sums, sums.as_mut_ptr().cast(), 0) }
    }
    sums
}

/// [`dot_pairs`] over slices: a quad of two windows is 16 bytes, a quad of four channels 32.
///
/// # Safety
/// `output` is what `finish` needs for every pair.
unsafe fn dot(lanes: &Lanes, pairs: &[i16], widened: &[i16], finish: Finish, output: *mut u8, pixel_len: usize) {
    let pair_len = widened.len() / BLOCK * 2;
    let whole = pair_len > 0 && !pairs.is_empty() && pairs.len().is_multiple_of(pair_len);
    if !whole || !is_aligned(pairs) || !is_aligned(widened) {
        return;
    }
    let mut block = Block {
        bias: lanes.bias,
        multipliers: lanes.multipliers,
        weights: widened.as_ptr(),
        pair_len: 2 * pair_len,
        entry: 0,
        output,
        pixel_len,
        base: lanes.target.base,
        end: pairs.as_ptr_range().end,
        finish: finish as u32,
    };
    // SAFETY: both are aligned, and the pairs are whole, with as many quads as the weights, which are whole quads. The
    // caller answers for the output.
    unsafe { dot_pairs(pairs.as_ptr(), &mut block) }
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
                $instruction,
                " r4, r4, r1",
                $base,
                "\n",
                $instruction,
                " r5, r5, r2",
                $base,
                "\n",
                $instruction,
                " r6, r6, r3",
                $base,
                "\n",
                $instruction,
                " r7, r7, r12",
                $base,
                "\n",
                $instruction,
                " r8, r8, r1",
                $base,
                "\n",
                $instruction,
                " r9, r9, r2",
                $base,
                "\n",
                $instruction,
                " r10, r10, r3",
                $base,
                "\n",
                $instruction,
                " r11, r11, r12",
                $base,
                "\n",
            )
        };
    }
    macro_rules! saturate {
        ($bits:literal) => {
            concat!(
                "ssat r4, #",
                $bits,
                ", r4\n",
                "ssat r5, #",
                $bits,
                ", r5\n",
                "ssat r6, #",
                $bits,
                ", r6\n",
                "ssat r7, #",
                $bits,
                ", r7\n",
                "ssat r8, #",
                $bits,
                ", r8\n",
                "ssat r9, #",
                $bits,
                ", r9\n",
                "ssat r10, #",
                $bits,
                ", r10\n",
                "ssat r11, #",
                $bits,
                ", r11\n",
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
        "add r2, r2, r0",
        "str r2, [sp]",
        "ldr pc, [lr, #40]",
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
