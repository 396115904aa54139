//! Two pixels by four channels with packed weights: for passes of two pixels, in which widened ones would serve once.

use super::multiply::is_aligned;
use crate::kernel::conv::{BLOCK, QUAD};
use core::arch::naked_asm;

/// The sums of one pair.
pub(super) fn sums(pair: &[i16], weights: &[i8], bias: [i32; BLOCK]) -> [[i32; BLOCK]; 2] {
    let mut sums = [bias; 2];
    let quads = (pair.len() / (2 * QUAD)).min(weights.len() / (BLOCK * QUAD));
    if quads > 0 && is_aligned(pair) && is_aligned(weights) {
        // SAFETY: a quad of the pair is 16 bytes, and so is a quad of four channels; both have as many and are aligned.
        unsafe { dot_packed(pair.as_ptr(), weights.as_ptr(), quads, &mut sums) }
    }
    sums
}

/// Registers: r0 windows, r1 weights, r2 and r3 elements, r12 and lr weights, r4 to r7 the first pixel's sums, r8 to r11 the
/// second's. On the stack: the windows' end, then the place of the sums. Two quads a turn; an odd count begins in the middle.
#[unsafe(naked)]
unsafe extern "C" fn dot_packed(pair: *const i16, weights: *const i8, quads: usize, sums: &mut [[i32; BLOCK]; 2]) {
    // One word of each pixel's window; of each channel's packed weights two, which `$rotation` selects. `$first` and `$second`
    // are the addresses of two channels' weights each.
    macro_rules! half_quad {
        ($first:literal, $second:literal, $rotation:literal) => {
            concat!(
                "ldrd r2, r3, [r0], #8\n",
                "ldrd r12, lr, ",
                $first,
                "\n",
                "sxtb16 r12, r12",
                $rotation,
                "\n",
                "sxtb16 lr, lr",
                $rotation,
                "\n",
                "smlad r4, r2, r12, r4\n",
                "smlad r8, r3, r12, r8\n",
                "smlad r5, r2, lr, r5\n",
                "smlad r9, r3, lr, r9\n",
                "ldrd r12, lr, ",
                $second,
                "\n",
                "sxtb16 r12, r12",
                $rotation,
                "\n",
                "sxtb16 lr, lr",
                $rotation,
                "\n",
                "smlad r6, r2, r12, r6\n",
                "smlad r10, r3, r12, r10\n",
                "smlad r7, r2, lr, r7\n",
                "smlad r11, r3, lr, r11\n",
            )
        };
    }
    macro_rules! quad {
        () => {
            concat!(half_quad!("[r1]", "[r1, #8]", ""), half_quad!("[r1], #8", "[r1], #8", ", ror #8"))
        };
    }
    naked_asm!(
        dsp_extension!(),
        "push {{r2, r3, r4, r5, r6, r7, r8, r9, r10, r11, lr}}",
        "ldm r3, {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "add r3, r0, r2, lsl #4",
        "str r3, [sp]",
        "lsrs r2, r2, #1",
        "bcs 3f",
        "2:",
        quad!(),
        "3:",
        quad!(),
        "ldr r2, [sp]",
        "cmp r0, r2",
        "bne 2b",
        "pop {{r2, r3}}",
        "stm r3, {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}",
    )
}
