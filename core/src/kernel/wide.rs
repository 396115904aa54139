//! What the kernels of processors with wide registers share: four output pixels by eight output channels at a time.
//!
//! All of it is plain code over arrays of fixed size, inlined into functions that have the instruction set enabled, where
//! the compiler makes vectors of it. An instruction set brings the product of windows and weights: [`Dot`].

use super::conv::{BLOCK, ConvShape, ConvWeights, Destination, QUAD, Rows, position};
use super::group_norm::{Line, TABLE_LEN};
use crate::quant::Activation;

/// Output pixels whose windows are multiplied together.
pub(super) const PIXELS: usize = 4;
/// Output channels whose weights are multiplied together: two blocks.
pub(super) const LANES: usize = 2 * BLOCK;

/// An element of a gathered window.
pub(super) trait WindowElement: bytemuck::Pod {
    /// Of a widened activation.
    fn of(value: i32) -> Self;
}

impl WindowElement for i16 {
    #[inline(always)]
    fn of(value: i32) -> i16 {
        value as i16
    }
}

impl WindowElement for i8 {
    #[inline(always)]
    fn of(value: i32) -> i8 {
        value as i8
    }
}

/// Of an i8, with 128 added.
impl WindowElement for u8 {
    #[inline(always)]
    fn of(value: i32) -> u8 {
        value as u8 ^ 0x80
    }
}

/// The product that an instruction set brings. Whoever has a value of the type may use the instructions.
pub(super) trait Dot: Copy {
    /// What its windows hold.
    type Element: WindowElement;

    /// Sums of products of four windows with each of eight channels' weights, modulo 2^32. A window has as many elements as
    /// a quarter of a block's weights, a multiple of [`super::QUAD`].
    fn sums(self, windows: [&[Self::Element]; PIXELS], weights: [&[i8]; 2]) -> [[i32; LANES]; PIXELS];

    /// [`crate::quant::requantize`] of each lane.
    fn requantize(self, acc: [i32; LANES], multipliers: [i32; LANES]) -> [i32; LANES];

    /// What [`Dot::sums`] adds to each channel's sum because elements are not the activations themselves, modulo 2^32.
    #[inline(always)]
    fn excess(self, _weights: [&[i8]; 2]) -> [i32; LANES] {
        [0; LANES]
    }
}

/// How many quads all of the slices hold.
#[inline(always)]
pub(super) fn quads<T>(windows: [&[T]; PIXELS], weights: [&[i8]; 2]) -> usize {
    let windows = windows.iter().map(|window| window.len() / QUAD);
    windows.chain(weights.iter().map(|weights| weights.len() / (BLOCK * QUAD))).min().unwrap_or(0)
}

/// Windows of a pass.
struct Windows<'w, W> {
    elements: &'w mut [W],
    /// Elements from one window to the next.
    step: usize,
}

/// See [`super::Kernel::gather`]: the windows one after the other, as `W`.
#[inline(always)]
pub(super) fn gather<W: WindowElement, I: Activation>(
    shape: &ConvShape,
    rows: &Rows<'_, I>,
    zero_in: i32,
    first: usize,
    count: usize,
    work: &mut [i16],
) {
    let step = shape.padded_taps();
    let elements: &mut [W] = bytemuck::cast_slice_mut(work);
    let mut rest = elements.get_mut(..count * step).unwrap_or_default();
    if step != shape.taps() {
        rest.fill(W::of(0));
    }
    let width = shape.output[1].max(1);
    let (mut row, mut column, mut left) = (first / width, first % width, count);
    while left > 0 {
        let columns = (width - column).min(left);
        let elements = rest.split_off_mut(..columns * step).unwrap_or_default();
        let mut windows = Windows { elements, step };
        for tap_row in 0..shape.kernel {
            let source = position(shape, row, tap_row, shape.input[0])
                .map(|y| rows.part(y, 0, shape.input[1] * shape.channels_in));
            windows.gather_row(shape, source, zero_in, column, columns, tap_row);
        }
        (row, column, left) = (row + 1, 0, left - columns);
    }
}

impl<W: WindowElement> Windows<'_, W> {
    /// One row of the kernel, for output pixels beside each other from `column` on. `source` is the input's row; `None` is
    /// padding.
    #[inline(always)]
    fn gather_row<I: Activation>(
        &mut self,
        shape: &ConvShape,
        source: Option<&[I]>,
        zero_in: i32,
        column: usize,
        columns: usize,
        tap_row: usize,
    ) {
        let (channels, kernel, stride, upsample) = (shape.channels_in, shape.kernel, shape.stride, shape.upsample);
        let at = tap_row * kernel * channels;
        let Some(source) = source else {
            return self.fill(0, columns, at, kernel * channels, zero_in);
        };
        let (padding, width) = (kernel / 2, shape.input[1] * upsample);
        // The columns whose whole window lies in the image.
        let end = (width + padding).checked_sub(kernel).map_or(0, |last| over(last, stride) + 1);
        let end = end.clamp(column, column + columns);
        let inside = over(padding + stride - 1, stride).clamp(column, end)..end;
        // Columns of the kernel that lie beside each other in the input are copied as one.
        let together = if upsample == 1 { kernel } else { 1 };
        let mut tap = 0;
        while tap < kernel {
            let at = at + tap * channels;
            for column_there in (column..inside.start).chain(inside.end..column + columns) {
                let start = column_there * stride + tap;
                let left = padding.saturating_sub(start).min(together);
                let start = (start + left).saturating_sub(padding);
                let count = width.saturating_sub(start).min(together - left);
                let (pixel, right) = (column_there - column, left + count);
                self.fill(pixel, 1, at, left * channels, zero_in);
                let from = [over(start, upsample) * channels, 0];
                self.copy(source, from, [pixel, 1], 1, at + left * channels, count * channels);
                self.fill(pixel, 1, at + right * channels, (together - right) * channels, zero_in);
            }
            // Where the input is enlarged, every second output pixel takes the next input pixel.
            for first in inside.clone().take(upsample) {
                let from = [over(first * stride + tap - padding, upsample) * channels, stride * channels];
                let count = over(inside.end - first + upsample - 1, upsample);
                self.copy(source, from, [first - column, upsample], count, at, together * channels);
            }
            tap += together;
        }
    }

    /// Sets `len` elements from `at` on of `count` windows from `pixel` on.
    #[inline(always)]
    fn fill(&mut self, pixel: usize, count: usize, at: usize, len: usize, value: i32) {
        if len == 0 {
            return;
        }
        for pixel in pixel..pixel + count {
            let to = self.elements.get_mut(pixel * self.step + at..).and_then(|to| to.get_mut(..len));
            to.unwrap_or_default().fill(W::of(value));
        }
    }

    /// Copies `len` activations to `at` in each of `count` windows: from `start` on, `next` further each time; to window
    /// `pixel`, and `skip` further each time.
    #[inline(always)]
    fn copy<I: Activation>(
        &mut self,
        from: &[I],
        [start, next]: [usize; 2],
        [pixel, skip]: [usize; 2],
        count: usize,
        at: usize,
        len: usize,
    ) {
        let from = from.get(start..).unwrap_or_default();
        let to = self.elements.get_mut(pixel * self.step + at..).unwrap_or_default();
        let steps = [next, skip * self.step];
        // Lengths that the compiler knows take no loops: one, three, 16 and 32 channels of one or three pixels.
        match len {
            3 => copy_known::<3, W, I>(from, to, steps, count),
            16 => copy_known::<16, W, I>(from, to, steps, count),
            32 => copy_known::<32, W, I>(from, to, steps, count),
            48 => copy_known::<48, W, I>(from, to, steps, count),
            96 => copy_known::<96, W, I>(from, to, steps, count),
            _ => copy_any(from, to, steps, count, len),
        }
    }
}

/// Copies `N` activations to each of `count` windows; the steps lead to the next source and to the next window.
#[inline(always)]
fn copy_known<const N: usize, W: WindowElement, I: Activation>(
    from: &[I],
    to: &mut [W],
    steps: [usize; 2],
    count: usize,
) {
    let (mut source, mut target) = (0, 0);
    for _ in 0..count {
        let from = from.get(source..).and_then(|from| from.first_chunk::<N>());
        let to = to.get_mut(target..).and_then(|to| to.first_chunk_mut::<N>());
        let (Some(from), Some(to)) = (from, to) else { return };
        let ((from, from_rest), (to, to_rest)) = (from.as_chunks::<16>(), to.as_chunks_mut::<16>());
        for (from, to) in from.iter().zip(to) {
            copy_piece(from, to);
        }
        to_rest.iter_mut().zip(from_rest).for_each(|(to, from)| *to = W::of(from.widen()));
        source += steps[0];
        target += steps[1];
    }
}

/// The same with `len` activations.
#[inline(always)]
fn copy_any<W: WindowElement, I: Activation>(from: &[I], to: &mut [W], steps: [usize; 2], count: usize, len: usize) {
    let (mut source, mut target) = (0, 0);
    for _ in 0..count {
        let from = from.get(source..).and_then(|from| from.get(..len));
        let to = to.get_mut(target..).and_then(|to| to.get_mut(..len));
        let (Some(from), Some(to)) = (from, to) else { return };
        if !(copy_by::<32, W, I>(from, to) || copy_by::<8, W, I>(from, to)) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to = W::of(from.widen()));
        }
        source += steps[0];
        target += steps[1];
    }
}

/// Copies `N` activations at a time, of which the last may overlap those before. Does nothing if there are fewer.
#[inline(always)]
fn copy_by<const N: usize, W: WindowElement, I: Activation>(from: &[I], to: &mut [W]) -> bool {
    for (from, to) in from.as_chunks::<N>().0.iter().zip(to.as_chunks_mut::<N>().0) {
        copy_piece(from, to);
    }
    let (Some(last), Some(to)) = (from.last_chunk::<N>(), to.last_chunk_mut::<N>()) else { return false };
    if !from.len().is_multiple_of(N) {
        copy_piece(last, to);
    }
    true
}

/// All is read before any is written, so that the compiler sees vectors.
#[inline(always)]
fn copy_piece<const N: usize, W: WindowElement, I: Activation>(from: &[I; N], to: &mut [W; N]) {
    let from = *from;
    let mut copied = [W::of(0); N];
    for i in 0..N {
        copied[i] = W::of(from[i].widen());
    }
    *to = copied;
}

/// `value / by` for a stride or an enlargement, without a division.
#[inline(always)]
fn over(value: usize, by: usize) -> usize {
    if by == 2 { value / 2 } else { value }
}

/// The constants of eight channels; those past the last are zero.
struct Constants {
    bias: [i32; LANES],
    multipliers: [i32; LANES],
    zero_out: i32,
    destination: Destination,
}

/// See [`super::Kernel::multiply`], after [`gather`] with the same element.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "those of the trait's method and the product")]
pub(super) fn multiply<D: Dot, O: Activation>(
    dot: D,
    shape: &ConvShape,
    constants: &ConvWeights<'_>,
    count: usize,
    work: &[i16],
    output: &mut [O],
    zero_out: i32,
    destination: Destination,
) {
    let (taps, channels) = (shape.padded_taps(), shape.channels_out);
    let windows: &[D::Element] = bytemuck::cast_slice(work);
    let Some(last) = count.checked_sub(1) else { return };
    let window = |pixel: usize| windows.get(pixel.min(last) * taps..).and_then(|windows| windows.get(..taps));
    let mut blocks = constants.weights.chunks_exact((taps * BLOCK).max(1));
    for first in (0..channels).step_by(LANES) {
        let Some(block) = blocks.next() else { return };
        // A last block without a second one stands in for it; nothing of that is stored.
        let weights = [block, blocks.next().unwrap_or(block)];
        let lanes = Constants::new(constants, first, channels, dot.excess(weights), zero_out, destination);
        for tile in (0..count).step_by(PIXELS) {
            // So does a last window for those that would follow it.
            let windows = [window(tile), window(tile + 1), window(tile + 2), window(tile + 3)];
            let [Some(a), Some(b), Some(c), Some(d)] = windows else { return };
            let sums = dot.sums([a, b, c, d], weights);
            for (pixel, sums) in (tile..count).zip(sums) {
                let output = output.get_mut(pixel * channels + first..(pixel + 1) * channels).unwrap_or_default();
                lanes.store(dot, sums, output);
            }
        }
    }
}

impl Constants {
    #[inline(always)]
    fn new(
        constants: &ConvWeights<'_>,
        first: usize,
        channels: usize,
        excess: [i32; LANES],
        zero_out: i32,
        destination: Destination,
    ) -> Self {
        let mut lanes = Constants { bias: [0; LANES], multipliers: [0; LANES], zero_out, destination };
        for (lane, excess) in excess.into_iter().enumerate().take(channels - first) {
            lanes.bias[lane] = constants.bias.get(first + lane).wrapping_sub(excess);
            lanes.multipliers[lane] = constants.multipliers.get(first + lane);
        }
        lanes
    }

    /// Stores up to eight outputs of one pixel at the beginning of `output`.
    #[inline(always)]
    fn store<D: Dot, O: Activation>(&self, dot: D, mut sums: [i32; LANES], output: &mut [O]) {
        for (sum, bias) in sums.iter_mut().zip(self.bias) {
            *sum = sum.wrapping_add(bias);
        }
        let values = dot.requantize(sums, self.multipliers);
        let base = |old: O| match self.destination {
            Destination::Overwrite => self.zero_out,
            Destination::Accumulate => old.widen(),
        };
        if let Some(output) = output.first_chunk_mut::<LANES>() {
            let bases = output.map(base);
            for ((out, base), value) in output.iter_mut().zip(bases).zip(values) {
                *out = O::saturate(base.wrapping_add(value));
            }
            return;
        }
        for (out, value) in output.iter_mut().zip(values) {
            *out = O::saturate(base(*out).wrapping_add(value));
        }
    }
}

/// See [`super::Kernel::normalize`]: the places in the table of eight channels, then what is there.
#[inline(always)]
pub(super) fn normalize<I: Activation>(
    values: &[I],
    lines: &[Line],
    table: &[i8; TABLE_LEN],
    output: &mut [i8],
    channels_out: usize,
    first: usize,
) {
    let (channels, channels_out) = (lines.len().max(1), channels_out.max(1));
    let (eights, rest) = lines.as_chunks::<LANES>();
    for (eight, lines) in eights.iter().enumerate() {
        let (at, to) = (eight * LANES, first + eight * LANES);
        for (values, target) in values.chunks_exact(channels).zip(output.chunks_exact_mut(channels_out)) {
            let values = values.get(at..).and_then(|values| values.first_chunk::<LANES>());
            let target = target.get_mut(to..).and_then(|target| target.first_chunk_mut::<LANES>());
            let (Some(values), Some(target)) = (values, target) else { return };
            let mut places = [0; LANES];
            for lane in 0..LANES {
                let line = &lines[lane];
                let step = values[lane].widen().wrapping_mul(line.slope.into()).wrapping_add(line.offset);
                places[lane] = (step >> (line.shift & 31)).clamp(0, TABLE_LEN as i32 - 1) as u32;
            }
            for (target, place) in target.iter_mut().zip(places) {
                *target = table[place as usize % TABLE_LEN];
            }
        }
    }
    let at = lines.len() - rest.len();
    for (values, target) in values.chunks_exact(channels).zip(output.chunks_exact_mut(channels_out)) {
        for ((value, target), line) in values.iter().skip(at).zip(target.iter_mut().skip(first + at)).zip(rest) {
            *target = table[line.index(value.widen())];
        }
    }
}
