//! Softmax: eight scores at a time.

use super::super::softmax::{POWERS, inverse};
use core::arch::naked_asm;

/// See [`super::super::Kernel::softmax`].
pub(super) fn softmax(row: &mut [i16]) {
    // SAFETY: each function reads and writes the row's elements. Places in the table have 8 bits.
    unsafe {
        let sum = powers(row.as_mut_ptr(), row.len(), &POWERS);
        scale(row.as_mut_ptr(), row.len(), inverse(sum));
    }
}

/// Puts `2^-distance` in each score's place, rounded, in Q16; returns their sum.
///
/// A distance from the largest score that does not fit 15 bits saturates: from 17 octaves on the power is 0.
#[unsafe(naked)]
unsafe extern "C" fn powers(row: *mut i16, len: usize, table: &[u16; 256]) -> u32 {
    naked_asm!(
        mve!(),
        "push {{r4, r5, r6, lr}}",
        "mov r4, r0",
        "movw r3, #0x8000",
        "sxth r3, r3",
        "wlstp.16 lr, r1, 2f",
        "1:",
        "vldrh.u16 q0, [r4], #16",
        "vmaxv.s16 r3, q0",
        "letp lr, 1b",
        "2:",
        "vdup.16 q3, r3",
        "movs r6, #0",
        "wlstp.16 lr, r1, 4f",
        "3:",
        "vldrh.u16 q0, [r0]",
        "vqsub.s16 q0, q3, q0",
        "vshr.u16 q1, q0, #8",
        "vbic.i16 q0, #0xff00",
        "vldrh.u16 q2, [r2, q0, uxtw #1]",
        "vneg.s16 q1, q1",
        "vrshl.u16 q2, q2, q1",
        "vaddva.u16 r6, q2",
        "vstrh.16 q2, [r0], #16",
        "letp lr, 3b",
        "4:",
        "mov r0, r6",
        "pop {{r4, r5, r6, pc}}",
    )
}

/// `value = requantize(value, multiplier)`, for values without sign.
#[unsafe(naked)]
unsafe extern "C" fn scale(row: *mut i16, len: usize, multiplier: i32) {
    naked_asm!(
        mve!(),
        "mov r3, lr",
        "vdup.32 q1, r2",
        "wlstp.32 lr, r1, 2f",
        "1:",
        "vldrh.u32 q0, [r0]",
        "vrmulh.s32 q0, q0, q1",
        "vstrh.32 q0, [r0], #8",
        "letp lr, 1b",
        "2:",
        "bx r3",
    )
}
