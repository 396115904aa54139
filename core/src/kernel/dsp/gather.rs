//! Windows, widened to i16, two pixels side by side.
//!
//! A pair of windows is, quad by quad, four words: the elements (0, 2) of both pixels, then the elements (1, 3). So
//! `SXTB16` leaves four bytes, of activations as of weights; sums of integers do not mind the order. The window of a last
//! pixel without a partner has its own words in that order.

use super::multiply::is_aligned;
use crate::kernel::conv::{BLOCK, ConvShape, QUAD, Rows, gather_one, position};
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
    let (taps, width) = (shape.padded_taps(), shape.output[1].max(1));
    let (spare, mut windows) = split_mut(work, taps * BLOCK);
    let whole = shape.channels_in.is_multiple_of(QUAD);
    let plain = shape.stride == 1 && shape.upsample == 1;
    let neighbors = plain && shape.kernel == 3 && matches!(shape.channels_in, 1 | 3);
    if whole {
        // A line of padding lies in the spare memory.
        let padding: &mut [I] = bytemuck::cast_slice_mut(spare);
        padding.iter_mut().take(shape.kernel * shape.channels_in).for_each(|value| *value = I::saturate(zero_in));
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

/// Pairs of windows of an input with whole quads of channels, down the pairs. `places` are row and column of the first pair's
/// pixels; more than one pair are neighbors in one row. `padding` begins with as many elements of it as a line of taps has.
fn gather_pairs<I: Activation>(
    shape: &ConvShape,
    places: [[usize; 2]; 2],
    rows: &Rows<'_, I>,
    padding: &[I],
    windows: &mut [i16],
) {
    let (kernel, channels) = (shape.kernel, shape.channels_in);
    let pair_len = 2 * shape.padded_taps();
    let pairs = windows.len() / pair_len.max(1);
    let line = |row, tap| {
        let y = position(shape, row, tap, shape.input[0]).filter(|_| tap < kernel)?;
        Some(rows.part(y, 0, shape.input[1] * channels))
    };
    let [a, b] = places;
    let segment = Segment {
        lines: [0, 1, 2].map(|tap| {
            let first = line(a[0], tap);
            [first, if a[0] == b[0] { first } else { line(b[0], tap) }]
        }),
        kernel,
        padding,
        step: 2 * shape.stride / shape.upsample.max(1) * channels,
        pair_len,
    };
    // The input's elements under a column of taps for pair `index`.
    let column = |index, tap| {
        let at = |[_, column]: [usize; 2]| position(shape, column + 2 * index, tap, shape.input[1]);
        places.map(|place| at(place).map(|x| x * channels))
    };
    // Only the first pair and the last can reach over an edge; a pair in two rows does.
    let is_edge = |index| a[0] != b[0] || column(index, 0)[0].is_none() || column(index, kernel - 1)[1].is_none();
    let start = usize::from(is_edge(0));
    let end = pairs - usize::from(pairs > start && is_edge(pairs - 1));
    for (span, edge) in [(0..start, true), (start..end, false), (end..pairs, true)] {
        let Some(to) = windows.get_mut(span.start * pair_len..) else { return };
        if span.is_empty() {
            continue;
        }
        if edge || shape.upsample > 1 {
            let columns = [0, 1, 2].map(|tap| column(span.start, tap));
            segment.gather(span.len(), columns.get(..kernel).unwrap_or_default(), channels, to);
        } else {
            segment.gather(span.len(), &[column(span.start, 0)], kernel * channels, to);
        }
    }
}

/// Where pairs of windows come from.
struct Segment<'v, I> {
    /// Rows of the input under the taps' rows, for each pair's first pixel and its second; `None` is outside the image.
    lines: [[Option<&'v [I]>; 2]; 3],
    kernel: usize,
    padding: &'v [I],
    /// Input elements from pair to pair.
    step: usize,
    /// Output elements from pair to pair.
    pair_len: usize,
}

impl<I: Activation> Segment<'_, I> {
    /// `count` pairs, of which the first one's runs of `len` elements begin at `columns` of the lines: one that holds all taps
    /// of a line, or one for each tap.
    #[inline(never)]
    fn gather(&self, count: usize, columns: &[[Option<usize>; 2]], len: usize, windows: &mut [i16]) {
        let mut runs = Runs::new(len / QUAD, self.pair_len, 2 * len);
        let Some(padding) = self.padding.get(..len) else { return };
        if !runs.write(windows, self.kernel * columns.len(), count) {
            return;
        }
        let reach = (count - 1) * self.step + len;
        let run = |line: Option<&[I]>, column: Option<usize>| {
            let (line, column) = line.zip(column)?;
            (column + reach <= line.len()).then(|| line.as_ptr().wrapping_add(column))
        };
        let (step, stay) = (gap::<I>(self.step, len), gap::<I>(0, len));
        let places = self.lines.iter().flat_map(|line| columns.iter().map(move |column| (line, column)));
        for (to, (&[line_a, line_b], &[column_a, column_b])) in runs.lines.iter_mut().zip(places) {
            let padding = padding.as_ptr();
            *to = match (run(line_a, column_a), run(line_b, column_b)) {
                (Some(a), Some(b)) => Line { a: a.cast(), b: b.cast(), gap: step },
                (a, b) => Line { a: a.unwrap_or(padding).cast(), b: b.unwrap_or(padding).cast(), gap: stay },
            };
        }
        // SAFETY: where both pixels have a line, their runs begin and the last ones end in it, as was checked; else a pixel
        // has one run, in its line or the padding, for all pairs.
        unsafe { runs.interleave::<I>() }
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
    let mut runs = Runs::new(quads, 0, 0);
    if b.len() >= a.len() && runs.write(windows, 1, 1) {
        runs.lines[0] = Line { a: a.as_ptr().cast(), b: b.as_ptr().cast(), gap: 0 };
        // SAFETY: both inputs have the quads.
        unsafe { runs.interleave::<I>() }
    }
    if let Some(words) = windows.as_chunks_mut::<{ 2 * QUAD }>().0.get_mut(quads) {
        let last = |from: &[I], index: usize| from.get(QUAD * quads + index).map_or(0, |value| value.widen() as i16);
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

/// Bytes from the end of a run of `len` elements to the next, which begins `step` elements behind it.
fn gap<T>(step: usize, len: usize) -> usize {
    size_of::<T>().wrapping_mul(step.wrapping_sub(len))
}

impl Runs {
    /// Lengths in elements of the output: from pair to pair, and from line to line.
    fn new(quads: usize, pair_len: usize, line_len: usize) -> Self {
        Runs {
            quads,
            count: 0,
            gap: gap::<i16>(pair_len, 2 * QUAD * quads),
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
    /// quads of `I`, `gap` apart.
    unsafe fn interleave<I: Activation>(&mut self) {
        // SAFETY: the caller answers for the inputs, `write` for the output, which is aligned to words as quads of pairs are;
        // the element's size selects the function.
        unsafe {
            match size_of::<I>() {
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
