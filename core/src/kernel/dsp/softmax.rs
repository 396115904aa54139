//! Softmax that computes each power once.

use crate::kernel::softmax::{inverse, power};
use crate::quant::requantize;

/// See [`crate::kernel::Kernel::softmax`]: a power takes its score's place until the sum is known; it fits 16 bits.
pub(super) fn softmax(row: &mut [i16]) {
    let largest = row.iter().copied().max().unwrap_or(0) as i32;
    let mut sum = 0;
    for score in row.iter_mut() {
        let power = power((largest - *score as i32) as u32);
        sum += power;
        *score = power as i16;
    }
    let inverse = inverse(sum);
    for score in row {
        *score = requantize(*score as u16 as i32, inverse) as i16;
    }
}
