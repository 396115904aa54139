//! Normalization channel by channel, so that a channel's line stays in registers, and sums of few bits.

use crate::kernel::group_norm::{Line, Moments, TABLE_LEN};
use crate::quant::Activation;

/// See [`crate::kernel::Kernel::moments`]. A group has at most 65,536 elements: the sum fits an `i32`, and so do the squares
/// of i8.
pub(super) fn moments<I: Activation>(values: &[I], channels: usize, first: usize, size: usize) -> Moments {
    let (mut sum, mut squares) = (0i32, 0u64);
    for pixel in values.chunks_exact(channels.max(1)) {
        let part = pixel.get(first..first + size).unwrap_or_default();
        let (pairs, last) = part.as_chunks::<2>();
        let values = pairs.iter().map(|&[a, b]| [a.widen(), b.widen()]).chain(last.iter().map(|a| [a.widen(), 0]));
        for [a, b] in values {
            sum = sum.wrapping_add(a + b);
            squares += u64::from((a * a) as u32 + (b * b) as u32);
        }
    }
    Moments { sum: sum.into(), squares }
}

/// See [`crate::kernel::Kernel::normalize`].
pub(super) fn normalize<I: Activation>(
    values: &[I],
    lines: &[Line],
    table: &[i8; TABLE_LEN],
    output: &mut [i8],
    channels_out: usize,
    first: usize,
) {
    for (channel, line) in lines.iter().enumerate() {
        let pixels = values.chunks_exact(lines.len()).zip(output.chunks_exact_mut(channels_out.max(1)));
        for (source, target) in pixels {
            let (Some(from), Some(to)) = (source.get(channel), target.get_mut(first + channel)) else { return };
            *to = table[line.index(from.widen())];
        }
    }
}
