//! One pixel by four channels, with packed weights.

use super::multiply::{Finish, Target, is_aligned};
use crate::kernel::conv::{BLOCK, ConvWeights, QUAD};
use core::arch::naked_asm;

/// All whole blocks of a pixel.
pub(super) fn run(window: &[i16], constants: &ConvWeights<'_>, outputs: &mut [u8], target: Target) {
    let count = outputs.len() / (BLOCK * target.size).max(1);
    let (bias, multipliers) = (constants.bias.bytes(), constants.multipliers.bytes());
    if bias.len().min(multipliers.len()) < size_of::<i32>() * BLOCK * count {
        return;
    }
    let blocks = Blocks {
        window: window.as_ptr(),
        end: window.as_ptr_range().end,
        entry: 0,
        bias: bias.as_ptr(),
        multipliers: multipliers.as_ptr(),
        output: outputs.as_mut_ptr(),
        count,
        base: target.base,
        finish: target.finish() as u32,
    };
    // SAFETY: outputs, biases and multipliers are four for each block.
    unsafe { blocks.dot(window, constants.weights) }
}

/// The sums of one block.
pub(super) fn sums(window: &[i16], weights: &[i8], bias: &[i32; BLOCK]) -> [i32; BLOCK] {
    let mut sums = [0; BLOCK];
    let blocks = Blocks {
        window: window.as_ptr(),
        end: window.as_ptr_range().end,
        entry: 0,
        bias: bias.as_ptr().cast(),
        multipliers: bias.as_ptr().cast(),
        output: sums.as_mut_ptr().cast(),
        count: 1,
        base: 0,
        finish: Finish::Sums as u32,
    };
    // SAFETY: the sums and biases are four, and multipliers are not used.
    unsafe { blocks.dot(window, weights) }
    sums
}

/// What [`dot_blocks`] reads from memory. The numbers are offsets that its assembly names.
#[repr(C)]
struct Blocks {
    /// 0.
    window: *const i16,
    /// 4: of the window.
    end: *const i16,
    /// 8: set and used by the assembly: where the first turn over a block is entered.
    entry: usize,
    /// 12: of the next block, at any address.
    bias: *const u8,
    /// 16: of the next block, at any address.
    multipliers: *const u8,
    /// 20: of the next block.
    output: *mut u8,
    /// 24: blocks left.
    count: usize,
    /// 28: added to what replaces.
    base: i32,
    /// 32: a [`Finish`].
    finish: u32,
}

impl Blocks {
    /// [`dot_blocks`] over slices: a quad of the window is 8 bytes, a quad of four channels 16.
    ///
    /// # Safety
    /// Output and constants are what `finish` needs for every block.
    unsafe fn dot(mut self, window: &[i16], weights: &[i8]) {
        let whole = !window.is_empty() && window.len().is_multiple_of(QUAD) && self.count > 0;
        if !whole || weights.len() < self.count * BLOCK * window.len() || !is_aligned(window) || !is_aligned(weights) {
            return;
        }
        // SAFETY: both are aligned, the window is whole quads, and there are as many for each block among the weights. The
        // caller answers for the rest.
        unsafe { dot_blocks(weights.as_ptr(), &mut self) }
    }
}

/// Sums of a window with the four channels of block after block, requantized and stored.
///
/// Registers: r0 window, r1 weights, r2 the window's end, r3 and r12 elements, r8 to r11 packed weights, lr widened ones, r4
/// to r7 sums. After the sums, r8 to r11 are the multipliers and r12 the output. On the stack: the address of the blocks.
///
/// Four quads a turn; what is left over is the first turn, entered in its middle.
#[unsafe(naked)]
unsafe extern "C" fn dot_blocks(weights: *const i8, blocks: &mut Blocks) {
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
    // All four sums with `$instruction`, whose last operand is `$base`.
    macro_rules! requantize {
        ($instruction:literal, $base:literal) => {
            concat!(
                "ldr r0, [lr, #16]\n",
                "ldr r8, [r0]\n",
                "ldr r9, [r0, #4]\n",
                "ldr r10, [r0, #8]\n",
                "ldr r11, [r0, #12]\n",
                "ldr r3, [lr, #28]\n",
                $instruction,
                " r4, r4, r8",
                $base,
                "\n",
                $instruction,
                " r5, r5, r9",
                $base,
                "\n",
                $instruction,
                " r6, r6, r10",
                $base,
                "\n",
                $instruction,
                " r7, r7, r11",
                $base,
                "\n",
            )
        };
    }
    macro_rules! store_i8 {
        () => {
            concat!(
                "ssat r4, #8, r4\n",
                "ssat r5, #8, r5\n",
                "ssat r6, #8, r6\n",
                "ssat r7, #8, r7\n",
                "bfi r4, r5, #8, #8\n",
                "bfi r6, r7, #8, #8\n",
                "pkhbt r4, r4, r6, lsl #16\n",
                "str r4, [r12], #4\n",
            )
        };
    }
    macro_rules! store_i16 {
        () => {
            concat!(
                "ssat r4, #16, r4\n",
                "ssat r5, #16, r5\n",
                "ssat r6, #16, r6\n",
                "ssat r7, #16, r7\n",
                "pkhbt r4, r4, r5, lsl #16\n",
                "pkhbt r6, r6, r7, lsl #16\n",
                "str r4, [r12], #4\n",
                "str r6, [r12], #4\n",
            )
        };
    }
    naked_asm!(
        dsp_extension!(),
        "push {{r1, r4, r5, r6, r7, r8, r9, r10, r11, lr}}",
        "mov lr, r1",
        "mov r1, r0",
        "ldrd r0, r2, [lr]",
        "sub r2, r2, r0",
        "lsr r2, r2, #3",
        "rsb r2, r2, #0",
        "and r2, r2, #3",
        "mov r3, #72",
        "mul r2, r2, r3",
        "adr.w r3, 3f",
        "add r2, r2, r3",
        "orr r2, r2, #1",
        "str r2, [lr, #8]",
        // A block.
        "2:",
        "ldr r8, [lr, #12]",
        "ldr r4, [r8]",
        "ldr r5, [r8, #4]",
        "ldr r6, [r8, #8]",
        "ldr r7, [r8, #12]",
        "add r8, r8, #16",
        "str r8, [lr, #12]",
        "ldrd r0, r2, [lr]",
        "ldr pc, [lr, #8]",
        ".p2align 2",
        "3:",
        quad!(),
        quad!(),
        quad!(),
        quad!(),
        "cmp r0, r2",
        "bne 3b",
        "ldr lr, [sp]",
        "ldr r2, [lr, #32]",
        "ldr r12, [lr, #20]",
        "tbb [pc, r2]",
        "4:",
        ".byte (5f - 4b) / 2, (6f - 4b) / 2, (7f - 4b) / 2, (8f - 4b) / 2, (9f - 4b) / 2, 0",
        "7:",
        requantize!("smmulr", ""),
        "ldr r3, [r12]",
        "sxtab r4, r4, r3",
        "sxtab r5, r5, r3, ror #8",
        "sxtab r6, r6, r3, ror #16",
        "sxtab r7, r7, r3, ror #24",
        store_i8!(),
        "b 10f",
        "8:",
        requantize!("smmulr", ""),
        "ldr r3, [r12]",
        "ldr r2, [r12, #4]",
        "sxtah r4, r4, r3",
        "sxtah r5, r5, r3, ror #16",
        "sxtah r6, r6, r2",
        "sxtah r7, r7, r2, ror #16",
        store_i16!(),
        "b 10f",
        "9:",
        "ldr r0, [lr, #16]",
        "stm r12!, {{r4, r5, r6, r7}}",
        "b 10f",
        "6:",
        requantize!("smmlar", ", r3"),
        store_i16!(),
        "b 10f",
        "5:",
        requantize!("smmlar", ", r3"),
        store_i8!(),
        "10:",
        "add r0, r0, #16",
        "str r0, [lr, #16]",
        "str r12, [lr, #20]",
        "ldr r3, [lr, #24]",
        "subs r3, #1",
        "str r3, [lr, #24]",
        "bne 2b",
        "add sp, #4",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}",
    )
}
