//! The windows, one after the other, in the input's own element.

use super::super::conv::{COLUMN, ConvShape, ROW_KERNEL, Rows, lines, position};
use crate::quant::Activation;
use crate::view::part;
use core::arch::naked_asm;

/// See [`super::super::Kernel::gather`].
pub(super) fn gather<I: Activation>(
    shape: &ConvShape,
    rows: &Rows<'_, I>,
    zero_in: i32,
    first: usize,
    count: usize,
    work: &mut [i16],
) {
    let taps = shape.padded_taps();
    let work: &mut [I] = bytemuck::try_cast_slice_mut(work).unwrap_or_default();
    let Some((mut windows, spare)) = work.split_at_mut_checked(count * taps) else { return };
    // A row of padding.
    let Some(padding) = spare.get_mut(..shape.kernel[1] * shape.channels_in) else { return };
    padding.fill(I::saturate(zero_in));
    let width = shape.output[1].max(1);
    let (mut row, mut column, mut left) = (first / width, first % width, count);
    while left > 0 {
        let len = (width - column).min(left);
        let Some(part) = windows.split_off_mut(..len * taps) else { return };
        gather_row(shape, rows, padding, [row, column], len, part);
        left -= len;
        (row, column) = (row + 1, 0);
    }
}

/// The windows of `count` pixels of one output row, from `column` on.
fn gather_row<I: Activation>(
    shape: &ConvShape,
    rows: &Rows<'_, I>,
    padding: &[I],
    [row, column]: [usize; 2],
    count: usize,
    windows: &mut [I],
) {
    let taps = shape.padded_taps();
    if shape.kernel == [1; 2] && shape.stride == [1; 2] && shape.upsample == [1; 2] && taps == shape.channels_in {
        return copy(rows.part(row, column * taps, count * taps), windows);
    }
    let lines = lines(shape, rows, row);
    // The columns whose windows lie in the image, which are runs of each input row.
    let inside = if shape.kernel[1] == 3 && shape.upsample[1] == 1 && taps * size_of::<I>() >= ZEROS {
        let end = (shape.input[1].saturating_sub(2) / shape.stride[1].max(1) + 1).min(column + count);
        column.max(1)..end
    } else {
        0..0
    };
    let mut at = column;
    let mut windows = windows;
    while !windows.is_empty() {
        let len = if at == inside.start && !inside.is_empty() { inside.len() } else { 1 };
        let Some(part) = windows.split_off_mut(..len * taps) else { return };
        if len > 1 {
            gather_run(shape, &lines, padding, at, len, part);
        } else {
            gather_one(shape, &lines, padding, at, part);
        }
        at += len;
    }
}

/// The window of one pixel, from the rows under it.
fn gather_one<I: Activation>(shape: &ConvShape, lines: &[&[I]; 3], padding: &[I], column: usize, window: &mut [I]) {
    let channels = shape.channels_in;
    let mut window = window;
    for &line in lines.iter().take(shape.kernel[0]) {
        for tap in 0..shape.kernel[1] {
            let Some(to) = window.split_off_mut(..channels) else { return };
            match position(shape, COLUMN, column, tap) {
                Some(x) if !line.is_empty() => copy(part(line, x * channels, channels), to),
                _ => copy(padding, to),
            }
        }
    }
    window.fill(I::saturate(0));
}

/// Bytes that [`gather_runs`] sets to zero at a window's end before it copies.
const ZEROS: usize = 8;

/// Three parts of windows, and where the input has them: see [`gather_run`].
#[repr(C)]
struct Run {
    /// Where the first window's parts begin.
    parts: [*const u8; 3],
    /// Bytes from one window to the next: 0 in padding.
    steps: [usize; 3],
    /// Bytes of a part.
    len: usize,
    /// Bytes of a window, with the last quad's padding.
    window_len: usize,
}

/// The windows of `count` pixels whose columns all lie in the image.
fn gather_run<'v, I: Activation>(
    shape: &ConvShape,
    lines: &[&'v [I]; 3],
    padding: &'v [I],
    column: usize,
    count: usize,
    windows: &mut [I],
) {
    let channels = shape.channels_in;
    let (first, step) = ((column * shape.stride[1] - 1) * channels, shape.stride[1] * channels);
    // The three rows of a window, or the three pixels of its one row.
    let len = if shape.kernel == ROW_KERNEL { channels } else { 3 * channels };
    let source = |line: &'v [I], at| match line {
        [] => (padding, 0),
        line => (part(line, at, (count - 1) * step + len), step),
    };
    let sources = match (shape.kernel, lines) {
        (ROW_KERNEL, &[line, ..]) => [0, 1, 2].map(|tap| source(line, first + tap * channels)),
        _ => lines.map(|line| source(line, first)),
    };
    let size = size_of::<I>();
    let run = Run {
        parts: sources.map(|(values, _)| values.as_ptr().cast()),
        steps: sources.map(|(_, step)| step * size),
        len: len * size,
        window_len: shape.padded_taps() * size,
    };
    if padding.len() < len || windows.len() < count * shape.padded_taps() {
        return;
    }
    // SAFETY: each part has `len` elements from each of `count` steps on, and `windows` that many windows, of [`ZEROS`] bytes at
    // least.
    unsafe { gather_runs(&run, windows.as_mut_ptr().cast(), count) }
}

/// Registers: r0 the end of a window, r1 its place, r2 what is copied, r3 pixels; r4 to r6 parts, r7 to r9 their steps, r10
/// a part's length, r11 a window's, r12 zero.
#[unsafe(naked)]
unsafe extern "C" fn gather_runs(run: &Run, windows: *mut u8, count: usize) {
    naked_asm!(
        mve!(),
        "push {{r4, r5, r6, r7, r8, r9, r10, r11, lr}}",
        "mov r3, r2",
        "ldm r0, {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "mov r12, #0",
        "1:",
        // A part is copied in whole vectors, so zeros for the last quad come first and its elements then.
        "add.w r0, r1, r11",
        "strd r12, r12, [r0, #-8]",
        "mov r2, r4",
        "wlstp.8 lr, r10, 3f",
        "2:",
        "vldrb.u8 q0, [r2], #16",
        "vstrb.8 q0, [r1], #16",
        "letp lr, 2b",
        "3:",
        "sub.w r1, r0, r11",
        "add r1, r10",
        "mov r2, r5",
        "mov r12, r1",
        "wlstp.8 lr, r10, 3f",
        "2:",
        "vldrb.u8 q0, [r2], #16",
        "vstrb.8 q0, [r1], #16",
        "letp lr, 2b",
        "3:",
        "add.w r1, r12, r10",
        "mov r2, r6",
        "wlstp.8 lr, r10, 3f",
        "2:",
        "vldrb.u8 q0, [r2], #16",
        "vstrb.8 q0, [r1], #16",
        "letp lr, 2b",
        "3:",
        "mov r1, r0",
        "add r4, r7",
        "add r5, r8",
        "add r6, r9",
        "mov r12, #0",
        "subs r3, #1",
        "bne 1b",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}",
    )
}

/// `to` from the beginning of `from`.
fn copy<I: Activation>(from: &[I], to: &mut [I]) {
    let len = from.len().min(to.len());
    // SAFETY: both have `len` elements, and only one of them can be written.
    unsafe { super::copy(from.as_ptr().cast(), to.as_mut_ptr().cast(), len * size_of::<I>()) }
}
