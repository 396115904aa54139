//! The inner loop where the compiler has registers enough.

use crate::kernel::conv::{BLOCK, QUAD};

/// Sums of products modulo 2^32 of each word of a window element with each of four channels' packed weights.
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

#[inline(always)]
fn add<const W: usize>(sums: &mut [[u32; W]; BLOCK], words: &[u32; W], weights: &[i8; BLOCK * QUAD], tap: usize) {
    for (channel, sums) in sums.iter_mut().enumerate() {
        let weight = weights[(channel * QUAD + tap) % (BLOCK * QUAD)] as u32;
        for (sum, word) in sums.iter_mut().zip(words) {
            *sum = sum.wrapping_add(word.wrapping_mul(weight));
        }
    }
}
