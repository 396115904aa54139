//! What the compiler makes good code of, where a processor has registers enough; and the inner loop as other targets test it.

use super::{Finish, saturate};
use crate::kernel::conv::Destination;
#[cfg(not(target_arch = "riscv32"))]
use crate::kernel::conv::{BLOCK, QUAD};
use crate::quant::Activation;

/// Sums of products modulo 2^32 of each word of a window element with each of four channels' packed weights.
#[cfg(not(target_arch = "riscv32"))]
#[inline(always)]
pub(super) fn dot<const W: usize>(words: &[[u32; W]], weights: &[i8]) -> [[u32; W]; BLOCK] {
    let mut sums = [[0; W]; BLOCK];
    let (whole, rest) = words.as_chunks::<QUAD>();
    let mut weights = weights.as_chunks::<{ BLOCK * QUAD }>().0.iter();
    for (words, weights) in whole.iter().zip(&mut weights) {
        for (tap, words) in words.iter().enumerate() {
            add(&mut sums, words, weights, tap);
        }
    }
    if let Some(weights) = weights.next() {
        for (tap, words) in rest.iter().take(QUAD - 1).enumerate() {
            add(&mut sums, words, weights, tap);
        }
    }
    sums
}

#[cfg(not(target_arch = "riscv32"))]
#[inline(always)]
fn add<const W: usize>(sums: &mut [[u32; W]; BLOCK], words: &[u32; W], weights: &[i8; BLOCK * QUAD], tap: usize) {
    for (channel, sums) in sums.iter_mut().enumerate() {
        let weight = weights[(channel * QUAD + tap) % (BLOCK * QUAD)] as u32;
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(word.wrapping_mul(weight));
        }
    }
}

/// `output = saturate(zero + requantize(bias + sum))` for each of the sums, or with the old output in `zero`'s place.
///
/// # Safety
/// As many outputs as sums must be where `constants` says.
pub(super) unsafe fn finish<O: Activation>(sums: &[i32], constants: &Finish<O>, destination: Destination) {
    let Finish { mut output, step, multiplier, zero } = *constants;
    for &sum in sums {
        // SAFETY: the caller's.
        unsafe {
            let base = destination.base(zero, *output);
            *output = saturate(base + requantize(sum, multiplier));
            output = output.byte_add(step);
        }
    }
}

/// [`crate::quant::requantize`]: the product's upper half, and the lower half's first bit, which is what rounds.
#[inline(always)]
pub(super) fn requantize(acc: i32, multiplier: i32) -> i32 {
    let upper = (i64::from(acc) * i64::from(multiplier)) >> 32;
    upper as i32 + (acc.wrapping_mul(multiplier) as u32 >> 31) as i32
}
