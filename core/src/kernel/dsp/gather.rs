//! Windows, widened to i16, two pixels side by side.
//!
//! A pair of windows is, quad by quad, four words: the elements (0, 2) of both pixels, then the elements (1, 3). So
//! `SXTB16` leaves four bytes, of activations as of weights; sums of integers do not mind the order. The window of a last
//! pixel without a partner has its own words in that order.

use crate::kernel::conv::{BLOCK, ConvShape, QUAD, Rows, gather_one, position, run};
use crate::quant::Activation;
use core::arch::naked_asm;

/// See [`crate::kernel::Kernel::gather`]: pairs of windows, after the place of a block's widened weights.
pub(super) fn gather<I: Activation>(
    shape: &ConvShape,
    rows: &Rows<'_, I>,
    zero_in: i32,
    first: usize,
    count: usize,
    work: &mut [i16],
) {
    let taps = shape.padded_taps();
    let Some((spare, windows)) = work.split_at_mut_checked(taps * BLOCK) else { return };
    let whole = shape.channels_in.is_multiple_of(QUAD);
    if whole {
        // A pixel of padding lies in the spare memory.
        let padding: &mut [I] = bytemuck::cast_slice_mut(spare);
        padding.iter_mut().take(shape.channels_in).for_each(|value| *value = I::saturate(zero_in));
    }
    let pairs = windows.chunks_mut((2 * taps).max(1)).take(count.div_ceil(2));
    for (at, windows) in (first..first + count).step_by(2).zip(pairs) {
        if at + 1 == first + count {
            let (spare, windows) = (&mut spare[..taps], &mut windows[..taps]);
            gather_one(shape, rows, zero_in, at, spare);
            split_words(spare, windows);
        } else if whole {
            gather_pair(shape, at, rows, bytemuck::cast_slice(spare), windows);
        } else {
            gather_thin_pair(shape, at, rows, zero_in, windows, spare);
        }
    }
}

/// One window's words: of each quad (0, 2), then (1, 3).
fn split_words(window: &[i16], words: &mut [i16]) {
    for (&[a, b, c, d], words) in window.as_chunks::<QUAD>().0.iter().zip(words.as_chunks_mut::<QUAD>().0) {
        *words = [a, c, b, d];
    }
}

/// The windows of pixels `first` and `first + 1` of an input with whole quads of channels. `padding` is a pixel of it.
fn gather_pair<I: Activation>(
    shape: &ConvShape,
    first: usize,
    rows: &Rows<'_, I>,
    padding: &[I],
    windows: &mut [i16],
) {
    let channels = shape.channels_in;
    let padding = padding.get(..channels).unwrap_or_default();
    let [a, b] = places(shape, first);
    let runs = [a, b].map(|[_, column]| run(shape, column));
    for (tap_row, part) in windows.chunks_exact_mut((2 * shape.kernel * channels).max(1)).enumerate() {
        let [y_a, y_b] = [a, b].map(|[row, _]| position(shape, row, tap_row, shape.input[0]));
        if let ([Some(x_a), Some(x_b)], Some(y_a), Some(y_b)) = (runs, y_a, y_b) {
            let run = |y, x| rows.part(y, x * channels, shape.kernel * channels);
            interleave(run(y_a, x_a), run(y_b, x_b), part);
            continue;
        }
        for (tap_column, part) in part.chunks_exact_mut((2 * channels).max(1)).enumerate() {
            let pixel = |y: Option<usize>, [_, column]: [usize; 2]| {
                match (y, position(shape, column, tap_column, shape.input[1])) {
                    (Some(y), Some(x)) => rows.part(y, x * channels, channels),
                    _ => padding,
                }
            };
            interleave(pixel(y_a, a), pixel(y_b, b), part);
        }
    }
}

/// Row and column of output pixels `first` and `first + 1`.
fn places(shape: &ConvShape, first: usize) -> [[usize; 2]; 2] {
    let width = shape.output[1].max(1);
    let (row, column) = (first / width, first % width);
    let next = if column + 1 == width { [row + 1, 0] } else { [row, column + 1] };
    [[row, column], next]
}

/// The windows of pixels `first` and `first + 1` of an input with a last quad that is not whole.
fn gather_thin_pair<I: Activation>(
    shape: &ConvShape,
    first: usize,
    rows: &Rows<'_, I>,
    zero_in: i32,
    windows: &mut [i16],
    spare: &mut [i16],
) {
    let places @ [a, b] = places(shape, first);
    let plain = shape.stride == 1 && shape.upsample == 1;
    if plain && shape.kernel == 1 {
        let [a, b] = places.map(|[y, x]| rows.part(y, x * shape.channels_in, shape.channels_in));
        return interleave(a, b, windows);
    }
    if plain && a[0] == b[0] {
        match shape.channels_in {
            1 => return gather_neighbors::<I, 1>(shape, a, rows, zero_in, windows),
            3 => return gather_neighbors::<I, 3>(shape, a, rows, zero_in, windows),
            _ => {}
        }
    }
    let (a, rest) = spare.split_at_mut(windows.len() / 2);
    let b = &mut rest[..windows.len() / 2];
    gather_one(shape, rows, zero_in, first, a);
    gather_one(shape, rows, zero_in, first + 1, b);
    interleave(a, b, windows);
}

/// The 3x3 windows of two neighbors in a row, from the four columns that they reach over: each element is loaded once.
fn gather_neighbors<I: Activation, const CHANNELS: usize>(
    shape: &ConvShape,
    [row, column]: [usize; 2],
    rows: &Rows<'_, I>,
    zero_in: i32,
    windows: &mut [i16],
) {
    let mut columns = [[[zero_in as i16; CHANNELS]; 4]; 3];
    let first = column.saturating_sub(1);
    let end = (column + 3).min(shape.input[1]);
    for (tap_row, columns) in columns.iter_mut().enumerate() {
        let Some(y) = position(shape, row, tap_row, shape.input[0]) else { continue };
        let from = rows.part(y, first * CHANNELS, (end - first) * CHANNELS).as_chunks::<CHANNELS>().0;
        let columns = &mut columns[first + 1 - column..];
        for (to, from) in columns.iter_mut().zip(from) {
            *to = from.map(|value| value.widen() as i16);
        }
    }
    windows.fill(0);
    let windows = windows.as_chunks_mut::<{ 2 * QUAD }>().0;
    for tap in 0..9 * CHANNELS {
        let (tap_row, tap_column, channel) = (tap / CHANNELS / 3, tap / CHANNELS % 3, tap % CHANNELS);
        let Some(words) = windows.get_mut(tap / QUAD) else { return };
        let [at, other] = [[0, 2], [4, 6], [1, 3], [5, 7]][tap % QUAD];
        words[at] = columns[tap_row][tap_column][channel];
        words[other] = columns[tap_row][tap_column + 1][channel];
    }
}

/// Both pixels' elements as the module says, with zeros to the last quad's end.
fn interleave<I: Activation>(a: &[I], b: &[I], pairs: &mut [i16]) {
    let quads = (a.len() / QUAD).min(b.len() / QUAD).min(pairs.len() / (2 * QUAD));
    if quads > 0 {
        let (a, b, pairs) = (a.as_ptr(), b.as_ptr(), pairs.as_mut_ptr());
        // SAFETY: a quad is 4 elements of each input and 8 of the output, and all have as many quads; the output is aligned
        // to words, as all of the scratch is; the element's size selects the function.
        unsafe {
            match size_of::<I>() {
                1 => interleave_i8(a.cast(), b.cast(), pairs, quads),
                _ => interleave_i16(a.cast(), b.cast(), pairs, quads),
            }
        }
    }
    if let Some(words) = pairs.as_chunks_mut::<{ 2 * QUAD }>().0.get_mut(quads) {
        let last = |from: &[I]| {
            let mut quad = [0; QUAD];
            quad.iter_mut().zip(from.iter().skip(QUAD * quads)).for_each(|(to, from)| *to = from.widen() as i16);
            quad
        };
        let ([a, b, c, d], [e, f, g, h]) = (last(a), last(b));
        *words = [a, c, e, g, b, d, f, h];
    }
}

/// Registers: r0 and r1 the two inputs, r2 the pairs, r3 quads. r4 to r11 are two quads of pairs: in the place of an odd
/// word are the bytes first. An odd count begins with one quad.
#[unsafe(naked)]
unsafe extern "C" fn interleave_i8(a: *const i8, b: *const i8, pairs: *mut i16, quads: usize) {
    naked_asm!(
        dsp_extension!(),
        "push {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "lsrs r3, r3, #1",
        "bcc 2f",
        "ldr r6, [r0], #4",
        "ldr r7, [r1], #4",
        "sxtb16 r4, r6",
        "sxtb16 r5, r7",
        "sxtb16 r6, r6, ror #8",
        "sxtb16 r7, r7, ror #8",
        "stm r2!, {{r4, r5, r6, r7}}",
        "cbz r3, 3f",
        "2:",
        "ldr r6, [r0], #4",
        "ldr r10, [r0], #4",
        "ldr r7, [r1], #4",
        "ldr r11, [r1], #4",
        "sxtb16 r4, r6",
        "sxtb16 r5, r7",
        "sxtb16 r6, r6, ror #8",
        "sxtb16 r7, r7, ror #8",
        "sxtb16 r8, r10",
        "sxtb16 r9, r11",
        "sxtb16 r10, r10, ror #8",
        "sxtb16 r11, r11, ror #8",
        "stm r2!, {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "subs r3, #1",
        "bne 2b",
        "3:",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "bx lr",
    )
}

/// Registers: r0 and r1 the two inputs, r2 the pairs, r3 quads, r8 to r11 two words of each input, r4 to r7 a quad of pairs.
#[unsafe(naked)]
unsafe extern "C" fn interleave_i16(a: *const i16, b: *const i16, pairs: *mut i16, quads: usize) {
    naked_asm!(
        dsp_extension!(),
        "push {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "2:",
        "ldr r8, [r0], #4",
        "ldr r9, [r0], #4",
        "ldr r10, [r1], #4",
        "ldr r11, [r1], #4",
        "pkhbt r4, r8, r9, lsl #16",
        "pkhbt r5, r10, r11, lsl #16",
        "pkhtb r6, r9, r8, asr #16",
        "pkhtb r7, r11, r10, asr #16",
        "stm r2!, {{r4, r5, r6, r7}}",
        "subs r3, #1",
        "bne 2b",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "bx lr",
    )
}
