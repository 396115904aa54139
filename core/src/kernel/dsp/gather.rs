//! Windows, widened to i16, two pixels side by side.
//!
//! A pair of windows is, quad by quad, four words: the elements (0, 2) of both pixels, then the elements (1, 3). So
//! `SXTB16` leaves four bytes, of activations as of weights; sums of integers do not mind the order. The window of a last
//! pixel without a partner has its own words in that order.

use crate::kernel::conv::{BLOCK, ConvShape, QUAD, Rows, gather_one, position};
use crate::quant::Activation;
use crate::view::split_mut;
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
    let (taps, width) = (shape.padded_taps(), shape.output[1].max(1));
    let (spare, mut windows) = split_mut(work, taps * BLOCK);
    let whole = shape.channels_in.is_multiple_of(QUAD);
    let plain = shape.stride == 1 && shape.upsample == 1;
    let neighbors = plain && shape.kernel == 3 && matches!(shape.channels_in, 1 | 3);
    if whole {
        // A pixel of padding lies in the spare memory.
        let padding: &mut [I] = bytemuck::cast_slice_mut(spare);
        padding.iter_mut().take(shape.channels_in).for_each(|value| *value = I::saturate(zero_in));
    }
    let (mut at, end) = (first, first + count);
    while at + 1 < end {
        let [a, b] = [at, at + 1].map(|at| [at / width, at % width]);
        // Pairs of neighbors in this row, or the one pair that begins at its end.
        let pairs = if whole || neighbors { (width - a[1]).min(end - at) / 2 } else { 1 }.max(1);
        let Some(part) = windows.split_off_mut(..pairs * 2 * taps) else { return };
        match shape.channels_in {
            _ if whole => gather_pairs(shape, [a, b], rows, bytemuck::cast_slice(spare), part),
            1 if neighbors && a[0] == b[0] => gather_neighbors::<I, 1>(shape, a, rows, zero_in, part, spare),
            3 if neighbors && a[0] == b[0] => gather_neighbors::<I, 3>(shape, a, rows, zero_in, part, spare),
            _ => gather_thin_pair(shape, [a, b], rows, zero_in, part, spare),
        }
        at += 2 * pairs;
    }
    if let (true, Some(words), Some(window)) = (at < end, windows.get_mut(..taps), spare.get_mut(..taps)) {
        gather_one(shape, rows, zero_in, at, window);
        for (&[a, b, c, d], words) in window.as_chunks::<QUAD>().0.iter().zip(words.as_chunks_mut::<QUAD>().0) {
            *words = [a, c, b, d];
        }
    }
}

/// Pairs of windows of an input with whole quads of channels, tap by tap down the pairs. `places` are row and column of the
/// first pair's pixels; more than one pair are neighbors in one row. `padding` begins with a pixel of it.
fn gather_pairs<I: Activation>(
    shape: &ConvShape,
    places: [[usize; 2]; 2],
    rows: &Rows<'_, I>,
    padding: &[I],
    windows: &mut [i16],
) {
    let channels = shape.channels_in;
    let padding = padding.get(..channels).unwrap_or_default();
    let pair_len = 2 * shape.padded_taps();
    let pairs = windows.len() / pair_len.max(1);
    // Input elements from pair to pair.
    let step = 2 * shape.stride / shape.upsample.max(1) * channels;
    let ys = [0, 1, 2].map(|tap| places.map(|[row, _]| position(shape, row, tap, shape.input[0])));
    for tap_column in 0..shape.kernel {
        // The input's columns under this tap for pair `index`. Only the first pair and the last can reach over an edge.
        let columns = |index| places.map(|[_, column]| position(shape, column + 2 * index, tap_column, shape.input[1]));
        let start = usize::from(columns(0).contains(&None));
        let end = pairs - usize::from(pairs > start && columns(pairs - 1).contains(&None));
        for span in [0..start, start..end, end..pairs] {
            if span.is_empty() {
                continue;
            }
            let [x_a, x_b] = columns(span.start);
            for (tap_row, &[y_a, y_b]) in ys.iter().enumerate().take(shape.kernel) {
                let sources = [y_a.zip(x_a), y_b.zip(x_b)];
                let step = if sources.contains(&None) { 0 } else { step };
                let [a, b] = sources.map(|source| match source {
                    Some((y, x)) => rows.part(y, x * channels, (span.len() - 1) * step + channels),
                    None => padding,
                });
                let tap = (tap_row * shape.kernel + tap_column) * 2 * channels;
                let to = windows.get_mut(span.start * pair_len + tap..).unwrap_or_default();
                Interleave { quads: channels / QUAD, count: span.len(), step, pair_len }.run(a, b, to);
            }
        }
    }
}

/// A pair of windows of an input with a last quad that is not whole. `places` are row and column of its pixels.
#[inline(never)]
fn gather_thin_pair<I: Activation>(
    shape: &ConvShape,
    places: [[usize; 2]; 2],
    rows: &Rows<'_, I>,
    zero_in: i32,
    windows: &mut [i16],
    spare: &mut [i16],
) {
    let channels = shape.channels_in;
    if shape.kernel == 1 && shape.stride == 1 && shape.upsample == 1 {
        let [a, b] = places.map(|[y, x]| rows.part(y, x * channels, channels));
        return interleave(a, b, windows);
    }
    let Some((a, rest)) = spare.split_at_mut_checked(shape.padded_taps()) else { return };
    let Some(b) = rest.get_mut(..shape.padded_taps()) else { return };
    for (window, [row, column]) in [&mut *a, &mut *b].into_iter().zip(places) {
        gather_one(shape, rows, zero_in, row * shape.output[1] + column, window);
    }
    interleave(a, b, windows);
}

/// The 3x3 windows of pairs of neighbors in a row of few channels, each pair from the four columns that it reaches over.
#[inline(never)]
fn gather_neighbors<I: Activation, const CHANNELS: usize>(
    shape: &ConvShape,
    [row, first]: [usize; 2],
    rows: &Rows<'_, I>,
    zero_in: i32,
    windows: &mut [i16],
    spare: &mut [i16],
) {
    let (width, taps) = (shape.input[1], shape.padded_taps());
    let lines = [0, 1, 2].map(|tap| match position(shape, row, tap, shape.input[0]) {
        Some(y) => rows.part(y, 0, width * CHANNELS).as_chunks::<CHANNELS>().0,
        None => &[],
    });
    for (windows, column) in windows.chunks_exact_mut((2 * taps).max(1)).zip((first..).step_by(2)) {
        let [top, middle, bottom] = lines.map(|line| columns(line, column, zero_in));
        if let (1, Some(windows)) = (CHANNELS, windows.first_chunk_mut()) {
            let [[a0, b0, c0, d0], [a1, b1, c1, d1], [a2, b2, c2, d2]] =
                [top, middle, bottom].map(|line| line.map(|pixel| pixel[0]));
            *windows = [
                a0, c0, b0, d0, b0, a1, c0, b1, // quad 0: both pixels' elements 0 and 2, then 1 and 3
                b1, a2, c1, b2, c1, b2, d1, c2, // quad 1
                c2, 0, d2, 0, 0, 0, 0, 0, // the last element
            ];
            continue;
        }
        let Some((a, rest)) = spare.split_at_mut_checked(9 * CHANNELS) else { return };
        let Some(b) = rest.get_mut(..9 * CHANNELS) else { return };
        let parts =
            a.as_chunks_mut().0.as_chunks_mut::<3>().0.iter_mut().zip(b.as_chunks_mut().0.as_chunks_mut::<3>().0);
        for ((a, b), [first, second, third, fourth]) in parts.zip([top, middle, bottom]) {
            *a = [first, second, third];
            *b = [second, third, fourth];
        }
        interleave(a, b, windows);
    }
}

/// The four columns of a line from one before `column` on.
#[inline(always)]
fn columns<I: Activation, const CHANNELS: usize>(
    line: &[[I; CHANNELS]],
    column: usize,
    zero_in: i32,
) -> [[i16; CHANNELS]; 4] {
    let widen = |pixel: &[I; CHANNELS]| pixel.map(|value| value.widen() as i16);
    let first = column.wrapping_sub(1);
    match line.get(first..column + 3).and_then(|four| four.first_chunk::<4>()) {
        Some(four) => four.each_ref().map(widen),
        None => [0, 1, 2, 3].map(|tap| line.get(first.wrapping_add(tap)).map_or([zero_in as i16; CHANNELS], widen)),
    }
}

/// One pair with zeros to the last quad's end.
fn interleave<I: Activation>(a: &[I], b: &[I], windows: &mut [i16]) {
    let quads = a.len() / QUAD;
    Interleave { quads, count: 1, step: 0, pair_len: 0 }.run(a, b, windows);
    if let Some(words) = windows.as_chunks_mut::<{ 2 * QUAD }>().0.get_mut(quads) {
        let last = |from: &[I], index: usize| from.get(QUAD * quads + index).map_or(0, |value| value.widen() as i16);
        for (words, index) in words.as_chunks_mut::<QUAD>().0.iter_mut().zip(0..) {
            *words = [last(a, index), last(a, index + 2), last(b, index), last(b, index + 2)];
        }
    }
}

/// Pairs of runs of elements that are brought to the order of the windows.
struct Interleave {
    /// Elements of a run, in quads.
    quads: usize,
    /// Pairs.
    count: usize,
    /// Elements from run to run of an input.
    step: usize,
    /// Elements from pair to pair of the output.
    pair_len: usize,
}

impl Interleave {
    /// `a` and `b` begin with the first pair's runs, and so does the output.
    #[inline(always)]
    fn run<I: Activation>(&self, a: &[I], b: &[I], windows: &mut [i16]) {
        let Interleave { quads, count, step, pair_len } = *self;
        if quads == 0 || count == 0 {
            return;
        }
        let len = (count - 1) * step + QUAD * quads;
        if a.len() < len || b.len() < len || windows.len() < (count - 1) * pair_len + 2 * QUAD * quads {
            return;
        }
        let runs = Runs {
            a: a.as_ptr().cast(),
            b: b.as_ptr().cast(),
            pairs: windows.as_mut_ptr(),
            gap_in: size_of::<I>().wrapping_mul(step.wrapping_sub(QUAD * quads)),
            gap_out: 2usize.wrapping_mul(pair_len.wrapping_sub(2 * QUAD * quads)),
            quads,
            count,
        };
        // SAFETY: the last runs end inside the slices, as was checked; the output is aligned to words, as all of the scratch
        // and its quads are; the element's size selects the function.
        unsafe {
            match size_of::<I>() {
                1 => interleave_i8(&runs),
                _ => interleave_i16(&runs),
            }
        }
    }
}

/// [`Interleave`] in the order in which the assembly loads it.
#[repr(C)]
struct Runs {
    a: *const u8,
    b: *const u8,
    pairs: *mut i16,
    /// Bytes from the end of a run to the next.
    gap_in: usize,
    /// Bytes from the end of a run's pairs to the next.
    gap_out: usize,
    quads: usize,
    count: usize,
}

/// Registers: r0 and r1 the two inputs, r2 the pairs, r3 turns of two quads, lr quads of a run, r12 runs. r4 to r11 are two
/// quads of pairs: in the place of the odd words are the bytes first. On the stack: the gaps. An odd count begins with one
/// quad.
#[unsafe(naked)]
unsafe extern "C" fn interleave_i8(runs: &Runs) {
    naked_asm!(
        dsp_extension!(),
        "push {{r4, r5, r6, r7, r8, r9, r10, r11, lr}}",
        "ldm r0, {{r0, r1, r2, r3, r4, r5, r6}}",
        "push {{r3, r4}}",
        "mov lr, r5",
        "mov r12, r6",
        "2:",
        "lsrs r3, lr, #1",
        "bcc 3f",
        "ldr r6, [r0], #4",
        "ldr r7, [r1], #4",
        "sxtb16 r4, r6",
        "sxtb16 r5, r7",
        "sxtb16 r6, r6, ror #8",
        "sxtb16 r7, r7, ror #8",
        "stm r2!, {{r4, r5, r6, r7}}",
        "cbz r3, 4f",
        "3:",
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
        "bne 3b",
        "4:",
        "ldrd r3, r4, [sp]",
        "add r0, r0, r3",
        "add r1, r1, r3",
        "add r2, r2, r4",
        "subs r12, #1",
        "bne 2b",
        "add sp, #8",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}",
    )
}

/// Registers: r0 and r1 the two inputs, r2 the pairs, r3 quads left of a run of lr, r12 runs, r8 to r11 two words of each
/// input, r4 to r7 a quad of pairs. On the stack: the gaps.
#[unsafe(naked)]
unsafe extern "C" fn interleave_i16(runs: &Runs) {
    naked_asm!(
        dsp_extension!(),
        "push {{r4, r5, r6, r7, r8, r9, r10, r11, lr}}",
        "ldm r0, {{r0, r1, r2, r3, r4, r5, r6}}",
        "push {{r3, r4}}",
        "mov lr, r5",
        "mov r12, r6",
        "2:",
        "mov r3, lr",
        "3:",
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
        "bne 3b",
        "ldrd r3, r4, [sp]",
        "add r0, r0, r3",
        "add r1, r1, r3",
        "add r2, r2, r4",
        "subs r12, #1",
        "bne 2b",
        "add sp, #8",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}",
    )
}
