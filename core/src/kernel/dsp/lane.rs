//! Two pixels by one channel: where four would be computed for one that is stored.

use crate::kernel::conv::{BLOCK, QUAD};
use core::arch::naked_asm;

/// Sums of one pair with the first channel of a block's packed weights.
pub(super) fn sums(pair: &[i16], weights: &[i8], bias: i32) -> [i32; 2] {
    let mut sums = [bias; 2];
    let quads = (pair.len() / (2 * QUAD)).min(weights.len() / (BLOCK * QUAD));
    if quads > 0 && super::multiply::is_aligned(pair) {
        // SAFETY: a quad of the pair is 16 bytes and aligned; of the 16 bytes of a quad of weights the first 4 are read,
        // wherever they lie.
        unsafe { dot_lane(pair.as_ptr(), weights.as_ptr(), quads, &mut sums) }
    }
    sums
}

/// Registers: r0 windows, r1 weights, r2 turns of two quads, r4 and r5 sums, r6 to r9 elements, r10 and r11 weights. An odd
/// count begins in the middle of a turn.
#[unsafe(naked)]
unsafe extern "C" fn dot_lane(pair: *const i16, weights: *const i8, quads: usize, sums: &mut [i32; 2]) {
    macro_rules! quad {
        () => {
            concat!(
                "ldm r0!, {{r6, r7, r8, r9}}\n",
                "ldr r11, [r1], #16\n",
                "sxtb16 r10, r11\n",
                "sxtb16 r11, r11, ror #8\n",
                "smlad r4, r6, r10, r4\n",
                "smlad r5, r7, r10, r5\n",
                "smlad r4, r8, r11, r4\n",
                "smlad r5, r9, r11, r5\n",
            )
        };
    }
    naked_asm!(
        dsp_extension!(),
        "push {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "ldrd r4, r5, [r3]",
        "adds r2, #1",
        "lsrs r2, r2, #1",
        "bcc 3f",
        "2:",
        quad!(),
        "3:",
        quad!(),
        "subs r2, #1",
        "bne 2b",
        "strd r4, r5, [r3]",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "bx lr",
    )
}
