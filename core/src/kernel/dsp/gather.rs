//! Windows, widened to i16, two pixels side by side.
//!
//! A pair of windows is, quad by quad, four words: the elements (0, 2) of both pixels, then the elements (1, 3). So
//! `SXTB16` leaves four bytes, of activations as of weights; sums of integers do not mind the order. The window of a last
//! pixel without a partner has its own words in that order.

use super::multiply::is_aligned;
use crate::kernel::conv::{BLOCK, COLUMN, ConvShape, QUAD, ROW, Rows, gather_one, position};
use crate::quant::Activation;
use crate::view::split_mut;
use core::arch::naked_asm;
use core::ptr;

/// See [`crate::kernel::Kernel::gather`]: pairs of windows, after the place of a block's widened weights.
pub(super) fn gather<I: Activation>(
    shape: &ConvShape,
    rows: &Rows<'_, I>,
    zero_in: i32,
    first: usize,
    count: usize,
    work: &mut [i16],
) {
    let (taps, paired) = (shape.padded_taps(), count / 2 * 2);
    let (spare, windows) = split_mut(work, taps * BLOCK);
    let (pairs, last) = split_mut(windows, paired * taps);
    if shape.channels_in.is_multiple_of(QUAD) {
        gather_whole(shape, &Bytes { rows: rows.bytes(), size: size_of::<I>() }, zero_in, first, pairs, spare);
    } else {
        gather_thin(shape, rows, zero_in, first, pairs, spare);
    }
    if let (true, Some(words), Some(window)) = (paired < count, last.get_mut(..taps), spare.get_mut(..taps)) {
        gather_one(shape, rows, zero_in, first + paired, window);
        for (&[a, b, c, d], words) in window.as_chunks::<QUAD>().0.iter().zip(words.as_chunks_mut::<QUAD>().0) {
            *words = [a, c, b, d];
        }
    }
}

/// Row and column of an output pixel and of the next.
fn places(shape: &ConvShape, first: usize) -> [[usize; 2]; 2] {
    let width = shape.output[1].max(1);
    // Not `map`: compiled for size it is a function that does not know that the width is not 0.
    let place = |at| [at / width, at % width];
    [place(first), place(first + 1)]
}

/// Rows of elements of `size` bytes.
struct Bytes<'v> {
    rows: Rows<'v, u8>,
    size: usize,
}

/// Pairs of windows of an input with whole quads of channels.
#[inline(never)]
fn gather_whole(
    shape: &ConvShape,
    input: &Bytes<'_>,
    zero_in: i32,
    mut first: usize,
    mut windows: &mut [i16],
    spare: &mut [i16],
) {
    // A line of padding lies in the spare memory.
    let padding = match input.size {
        1 => i16::from_ne_bytes([zero_in as u8; 2]),
        _ => zero_in as i16,
    };
    spare.iter_mut().take(shape.kernel[1] * shape.channels_in * input.size / 2).for_each(|value| *value = padding);
    let pair_len = 2 * shape.padded_taps();
    while !windows.is_empty() {
        let places = places(shape, first);
        // Pairs of neighbors in this row, or the one pair that begins at its end.
        let most = ((shape.output[1] - places[0][1]) / 2).max(1) * pair_len;
        let (part, rest) = split_mut(windows, most.min(windows.len()));
        first += 2 * (part.len() / pair_len.max(1));
        gather_pairs(shape, places, input, bytemuck::cast_slice(spare), part);
        windows = rest;
    }
}

/// Pairs of windows of an input with a last quad that is not whole.
fn gather_thin<I: Activation>(
    shape: &ConvShape,
    rows: &Rows<'_, I>,
    zero_in: i32,
    mut first: usize,
    mut windows: &mut [i16],
    spare: &mut [i16],
) {
    let plain = shape.kernel == [3; 2] && shape.stride == [1; 2] && shape.upsample == [1; 2];
    // Three channels are a picture, which is i16.
    let neighbors = plain && (shape.channels_in == 1 || shape.channels_in == 3 && size_of::<I>() == 2);
    let pair_len = 2 * shape.padded_taps();
    while !windows.is_empty() {
        let [a, b] = places(shape, first);
        let pairs = if neighbors { ((shape.output[1] - a[1]) / 2).max(1) } else { 1 };
        let (part, rest) = split_mut(windows, (pairs * pair_len).min(windows.len()));
        match shape.channels_in {
            1 if neighbors && a[0] == b[0] => gather_neighbors::<I, 1>(shape, a, rows, zero_in, part, spare),
            3 if neighbors && a[0] == b[0] && size_of::<I>() == 2 => {
                gather_neighbors::<I, 3>(shape, a, rows, zero_in, part, spare)
            }
            _ => gather_thin_pair(shape, first, rows, zero_in, part, spare),
        }
        first += 2 * (part.len() / pair_len.max(1));
        windows = rest;
    }
}

/// Pairs of windows of an input with whole quads of channels, down the pairs. `places` are row and column of the first pair's
/// pixels; more than one pair are neighbors in one row. `padding` begins with as much of it as a line of taps has.
fn gather_pairs(shape: &ConvShape, places: [[usize; 2]; 2], input: &Bytes<'_>, padding: &[u8], windows: &mut [i16]) {
    let ([height, width], pixel_len) = (shape.kernel, shape.channels_in * input.size);
    let pair_len = 2 * shape.padded_taps();
    let pairs = windows.len() / pair_len.max(1);
    let line = |row, tap| {
        let y = position(shape, ROW, row, tap).filter(|_| tap < height)?;
        Some(input.rows.part(y, 0, shape.input[1] * pixel_len))
    };
    let [a, b] = places;
    let segment = Segment {
        lines: [0, 1, 2].map(|tap| {
            let first = line(a[0], tap);
            [first, if a[0] == b[0] { first } else { line(b[0], tap) }]
        }),
        height,
        padding,
        step: 2 * shape.stride[1] / shape.upsample[1].max(1) * pixel_len,
        pair_len,
        size: input.size,
    };
    // The input's bytes under a column of taps for pair `index`.
    let column = |index, tap| {
        let at = |[_, column]: [usize; 2]| position(shape, COLUMN, column + 2 * index, tap);
        places.map(|place| at(place).map(|x| x * pixel_len))
    };
    // Only the first pair and the last can reach over an edge; a pair in two rows does.
    let is_edge = |index| a[0] != b[0] || column(index, 0)[0].is_none() || column(index, width - 1)[1].is_none();
    let start = usize::from(is_edge(0));
    let end = pairs - usize::from(pairs > start && is_edge(pairs - 1));
    for (span, edge) in [(0..start, true), (start..end, false), (end..pairs, true)] {
        let Some(to) = windows.get_mut(span.start * pair_len..) else { return };
        if span.is_empty() {
            continue;
        }
        if edge || shape.upsample[1] > 1 {
            let columns = [0, 1, 2].map(|tap| column(span.start, tap));
            segment.gather(span.len(), columns.get(..width).unwrap_or_default(), pixel_len, to);
        } else {
            segment.gather(span.len(), &[column(span.start, 0)], width * pixel_len, to);
        }
    }
}

/// Where pairs of windows come from.
struct Segment<'v> {
    /// Rows of the input under the taps' rows, for each pair's first pixel and its second; `None` is outside the image.
    lines: [[Option<&'v [u8]>; 2]; 3],
    /// Rows of taps.
    height: usize,
    padding: &'v [u8],
    /// Bytes from pair to pair of the input.
    step: usize,
    /// Output elements from pair to pair.
    pair_len: usize,
    /// Bytes of an input's element.
    size: usize,
}

impl Segment<'_> {
    /// `count` pairs, of which the first one's runs of `len` bytes begin at `columns` of the lines: one that holds all taps
    /// of a line, or one for each tap.
    #[inline(never)]
    fn gather(&self, count: usize, columns: &[[Option<usize>; 2]], len: usize, windows: &mut [i16]) {
        let elements = if self.size == 1 { len } else { len / 2 };
        let mut runs = Runs::new(elements / QUAD, self.pair_len, 2 * elements);
        let Some(padding) = self.padding.get(..len) else { return };
        if !runs.write(windows, self.height * columns.len(), count) {
            return;
        }
        let reach = (count - 1) * self.step + len;
        let run = |line: Option<&[u8]>, column: Option<usize>| {
            let (line, column) = line.zip(column)?;
            (column + reach <= line.len()).then(|| line.as_ptr().wrapping_add(column))
        };
        let (step, stay) = (self.step.wrapping_sub(len), 0usize.wrapping_sub(len));
        let places = self.lines.iter().flat_map(|line| columns.iter().map(move |column| (line, column)));
        for (to, (&[line_a, line_b], &[column_a, column_b])) in runs.lines.iter_mut().zip(places) {
            let padding = padding.as_ptr();
            *to = match (run(line_a, column_a), run(line_b, column_b)) {
                (Some(a), Some(b)) => Line { a, b, gap: step },
                (a, b) => Line { a: a.unwrap_or(padding), b: b.unwrap_or(padding), gap: stay },
            };
        }
        // SAFETY: where both pixels have a line, their runs begin and the last ones end in it, as was checked; else a pixel
        // has one run, in its line or the padding, for all pairs.
        unsafe { runs.interleave(self.size) }
    }
}

/// A pair of windows of an input with a last quad that is not whole.
#[inline(never)]
fn gather_thin_pair<I: Activation>(
    shape: &ConvShape,
    first: usize,
    rows: &Rows<'_, I>,
    zero_in: i32,
    windows: &mut [i16],
    spare: &mut [i16],
) {
    if shape.kernel == [1; 2] && shape.stride == [1; 2] && shape.upsample == [1; 2] && size_of::<I>() == 2 {
        // An attention's probabilities lie there as they are wanted.
        let pixel = |[y, x]: [usize; 2]| {
            let pixel = rows.part(y, x * shape.channels_in, shape.channels_in);
            bytemuck::try_cast_slice(pixel).unwrap_or_default()
        };
        let [a, b] = places(shape, first);
        return interleave(pixel(a), pixel(b), windows);
    }
    let Some((a, rest)) = spare.split_at_mut_checked(shape.padded_taps()) else { return };
    let Some(b) = rest.get_mut(..shape.padded_taps()) else { return };
    gather_one(shape, rows, zero_in, first, a);
    gather_one(shape, rows, zero_in, first + 1, b);
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
    let lines = [0, 1, 2].map(|tap| match position(shape, ROW, row, tap) {
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
fn interleave(a: &[i16], b: &[i16], windows: &mut [i16]) {
    let quads = a.len() / QUAD;
    let mut runs = Runs::new(quads, 0, 0);
    if b.len() >= a.len() && runs.write(windows, 1, 1) {
        runs.lines[0] = Line { a: a.as_ptr().cast(), b: b.as_ptr().cast(), gap: 0 };
        // SAFETY: both inputs have the quads.
        unsafe { runs.interleave(size_of::<i16>()) }
    }
    if let Some(words) = windows.as_chunks_mut::<{ 2 * QUAD }>().0.get_mut(quads) {
        let last = |from: &[i16], index: usize| from.get(QUAD * quads + index).copied().unwrap_or(0);
        for (words, index) in words.as_chunks_mut::<QUAD>().0.iter_mut().zip(0..) {
            *words = [last(a, index), last(a, index + 2), last(b, index), last(b, index + 2)];
        }
    }
}

/// Pairs of runs of elements, in up to nine lines, that are brought to the order of the windows. The numbers are
/// offsets that the assembly names.
#[repr(C)]
struct Runs {
    /// 0: elements of a run, in quads.
    quads: usize,
    /// 4: pairs of a line.
    count: usize,
    /// 8: bytes from the end of a run's pairs to the next.
    gap: usize,
    /// 12: the output of the next line.
    pairs: *mut i16,
    /// 16: bytes from line to line of the output.
    line_len: usize,
    /// 20.
    lines_left: usize,
    /// 24.
    lines: [Line; 9],
}

/// A line's first runs.
#[derive(Clone, Copy)]
#[repr(C)]
struct Line {
    /// From the first pair's first pixel on.
    a: *const u8,
    /// From its second pixel on.
    b: *const u8,
    /// Bytes from the end of a run to the next pair's.
    gap: usize,
}

impl Runs {
    /// Lengths in elements of the output: from pair to pair, and from line to line.
    fn new(quads: usize, pair_len: usize, line_len: usize) -> Self {
        Runs {
            quads,
            count: 0,
            gap: size_of::<i16>().wrapping_mul(pair_len.wrapping_sub(2 * QUAD * quads)),
            pairs: ptr::null_mut(),
            line_len: size_of::<i16>() * line_len,
            lines_left: 0,
            lines: [Line { a: ptr::null(), b: ptr::null(), gap: 0 }; 9],
        }
    }

    /// Turns to an output of `count` pairs in each of `lines` lines. False if there are none, or they do not fit.
    fn write(&mut self, windows: &mut [i16], lines: usize, count: usize) -> bool {
        (self.pairs, self.lines_left, self.count) = (windows.as_mut_ptr(), lines, count);
        if self.quads == 0 || lines == 0 || count == 0 {
            return false;
        }
        let run = 2 * QUAD * size_of::<i16>() * self.quads;
        let len = (lines - 1) * self.line_len + (count - 1) * self.gap.wrapping_add(run) + run;
        lines <= self.lines.len() && len <= size_of_val(windows) && is_aligned(windows)
    }

    /// # Safety
    /// [`Runs::write`] was true, the windows are still borrowed, and in each of its lines `a` and `b` are `count` runs of
    /// quads of elements of `size` bytes, `gap` apart.
    unsafe fn interleave(&mut self, size: usize) {
        // SAFETY: the caller answers for the inputs, `write` for the output, which is aligned to words as quads of pairs are;
        // the size selects the function.
        unsafe {
            match size {
                1 => interleave_i8(self),
                _ => interleave_i16(self),
            }
        }
    }
}

/// Begins both functions: on the stack are a line's gaps, the next line's address and that of the runs.
macro_rules! begin {
    () => {
        concat!("push {{r0, r4, r5, r6, r7, r8, r9, r10, r11, lr}}\n", "add r3, r0, #24\n", "push {{r1, r2, r3}}\n",)
    };
}

/// A line: r0 and r1 its runs, r2 its pairs, r12 count, lr quads.
macro_rules! next_line {
    () => {
        concat!(
            "ldr r3, [sp, #12]\n",
            "ldm r3, {{r4, r5, r6, r7, r8}}\n",
            "mov lr, r4\n",
            "mov r12, r5\n",
            "mov r2, r7\n",
            "add r7, r7, r8\n",
            "str r7, [r3, #12]\n",
            "ldr r3, [sp, #8]\n",
            "ldm r3!, {{r0, r1, r5}}\n",
            "str r3, [sp, #8]\n",
            "strd r5, r6, [sp]\n",
        )
    };
}

/// After a pair's runs: the next pair at label 2, the next line at label 5, or the end.
macro_rules! next_pair {
    () => {
        concat!(
            "ldrd r3, r4, [sp]\n",
            "add r0, r0, r3\n",
            "add r1, r1, r3\n",
            "add r2, r2, r4\n",
            "subs r12, #1\n",
            "bne 2b\n",
            "ldr r3, [sp, #12]\n",
            "ldr r4, [r3, #20]\n",
            "subs r4, #1\n",
            "str r4, [r3, #20]\n",
            "bne 5b\n",
            "add sp, #16\n",
            "pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}\n",
        )
    };
}

/// Registers: r0 and r1 the two inputs, r2 the pairs, r3 turns of two quads, lr quads of a run, r12 runs. r4 to r11 are two
/// quads of pairs: in the place of the odd words are the bytes first. An odd count begins with one quad.
#[unsafe(naked)]
unsafe extern "C" fn interleave_i8(runs: &mut Runs) {
    naked_asm!(
        dsp_extension!(),
        begin!(),
        "5:",
        next_line!(),
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
        next_pair!(),
    )
}

/// Registers: r0 and r1 the two inputs, r2 the pairs, r3 quads left of a run of lr, r12 runs, r8 to r11 two words of each
/// input, r4 to r7 a quad of pairs.
#[unsafe(naked)]
unsafe extern "C" fn interleave_i16(runs: &mut Runs) {
    naked_asm!(
        dsp_extension!(),
        begin!(),
        "5:",
        next_line!(),
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
        next_pair!(),
    )
}
