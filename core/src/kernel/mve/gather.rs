//! The windows, one after the other, in the input's own element.

use super::super::conv::{ConvShape, Rows, position};
use crate::quant::Activation;
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
    let Some(padding) = spare.get_mut(..shape.kernel * shape.channels_in) else { return };
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
    if shape.kernel == 1 && shape.stride == 1 && shape.upsample == 1 && taps == shape.channels_in {
        return copy(rows.part(row, column * taps, count * taps), windows);
    }
    // The columns whose windows lie in the image, which are runs of each input row.
    let inside = if shape.kernel == 3 && shape.upsample == 1 {
        let end = (shape.input[1].saturating_sub(2) / shape.stride.max(1) + 1).min(column + count);
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
            gather_run(shape, rows, padding, [row, at], len, part);
        } else {
            gather_one(shape, rows, padding, [row, at], part);
        }
        at += len;
    }
}

/// The window of one pixel.
fn gather_one<I: Activation>(
    shape: &ConvShape,
    rows: &Rows<'_, I>,
    padding: &[I],
    [row, column]: [usize; 2],
    window: &mut [I],
) {
    let channels = shape.channels_in;
    let mut window = window;
    for tap_row in 0..shape.kernel {
        let y = position(shape, row, tap_row, shape.input[0]);
        for tap_column in 0..shape.kernel {
            let Some(part) = window.split_off_mut(..channels) else { return };
            match (y, position(shape, column, tap_column, shape.input[1])) {
                (Some(y), Some(x)) => copy(rows.part(y, x * channels, channels), part),
                _ => copy(padding, part),
            }
        }
    }
    window.fill(I::saturate(0));
}

/// Three rows of the input, and what [`run`] does with them.
#[repr(C)]
struct Run {
    /// Where the first window begins in each row.
    rows: [*const u8; 3],
    /// Bytes from one window to the next: 0 in a row of padding.
    steps: [usize; 3],
    /// Bytes of a window in a row.
    len: usize,
    /// Bytes of a window, with the last quad's padding.
    window_len: usize,
}

/// The windows of `count` pixels whose columns all lie in the image.
fn gather_run<I: Activation>(
    shape: &ConvShape,
    rows: &Rows<'_, I>,
    padding: &[I],
    [row, column]: [usize; 2],
    count: usize,
    windows: &mut [I],
) {
    let channels = shape.channels_in;
    let (first, step) = ((column * shape.stride - 1) * channels, shape.stride * channels);
    let len = 3 * channels;
    let source = |tap_row| match position(shape, row, tap_row, shape.input[0]) {
        Some(y) => (rows.part(y, first, (count - 1) * step + len), step),
        None => (padding, 0),
    };
    let sources = [0, 1, 2].map(source);
    let size = size_of::<I>();
    let run = Run {
        rows: sources.map(|(values, _)| values.as_ptr().cast()),
        steps: sources.map(|(_, step)| step * size),
        len: len * size,
        window_len: shape.padded_taps() * size,
    };
    if padding.len() < len || windows.len() < count * shape.padded_taps() {
        return;
    }
    // SAFETY: each row has `len` elements from each of `count` steps on, and `windows` that many windows.
    unsafe { gather_runs(&run, windows.as_mut_ptr().cast(), count) }
}

/// Registers: r0 the end of a window, r1 its place, r2 what is copied, r3 pixels; r4 to r6 rows, r7 to r9 their steps, r10
/// a row's length, r11 a window's, r12 zero.
#[unsafe(naked)]
unsafe extern "C" fn gather_runs(run: &Run, windows: *mut u8, count: usize) {
    naked_asm!(
        mve!(),
        "push {{r4, r5, r6, r7, r8, r9, r10, r11, lr}}",
        "mov r3, r2",
        "ldm r0, {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "mov r12, #0",
        "1:",
        // A row is copied in whole vectors, so zeros for the last quad come first and its elements then.
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
