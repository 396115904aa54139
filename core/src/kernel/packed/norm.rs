//! Normalization channel by channel, so that a channel's line stays in registers, and sums of few bits.

use crate::kernel::group_norm::{self, Line, Moments, TABLE_LEN};
use crate::quant::Activation;
use crate::view::part;

/// See [`crate::kernel::Kernel::moments`]. A group has at most 65,536 elements: the sum fits an `i32`.
pub(super) fn moments<I: Activation>(values: &[I], channels: usize, first: usize, size: usize) -> Moments {
    let (mut sum, mut squares) = (0i32, 0u64);
    for pixel in values.chunks_exact(channels.max(1)) {
        let (quads, rest) = part(pixel, first, size).as_chunks::<4>();
        for quad in quads {
            let [a, b, c, d] = quad.map(I::widen);
            sum = sum.wrapping_add(a + b + c + d);
            // Two squares of i16 fit 32 bits.
            squares += u64::from((a * a) as u32 + (b * b) as u32);
            squares += u64::from((c * c) as u32 + (d * d) as u32);
        }
        for value in rest {
            let a = value.widen();
            sum = sum.wrapping_add(a);
            squares += u64::from((a * a) as u32);
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
    let channels = lines.len();
    let pixels = group_norm::pixels(values, channels, output, channels_out, first);
    if pixels == 0 {
        return;
    }
    for (channel, line) in lines.iter().enumerate() {
        let mut from = values.as_ptr().wrapping_add(channel);
        let mut to = output.as_mut_ptr().wrapping_add(first + channel);
        let end = from.wrapping_add(pixels * channels);
        while from != end {
            // SAFETY: a channel of a pixel, of which both slices have as many as are counted.
            unsafe { *to = entry(table, line, (*from).widen()) };
            (from, to) = (from.wrapping_add(channels), to.wrapping_add(channels_out));
        }
    }
}

/// The table's entry for a value, with one comparison where the line stays in the table.
#[inline(always)]
fn entry(table: &[i8; TABLE_LEN], line: &Line, value: i32) -> i8 {
    let steps = (value * i32::from(line.slope) + line.offset) >> (line.shift % 32);
    match table.get(steps as u32 as usize) {
        Some(&entry) => entry,
        None => outside(table, steps),
    }
}

#[cold]
#[inline(never)]
fn outside(table: &[i8; TABLE_LEN], steps: i32) -> i8 {
    table[if steps < 0 { 0 } else { TABLE_LEN - 1 }]
}
