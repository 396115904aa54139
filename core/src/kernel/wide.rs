//! What the kernels of processors with wide registers share: four output pixels by eight output channels at a time.
//!
//! All of it is plain code over arrays of fixed size, inlined into functions that have the instruction set enabled, where
//! the compiler makes vectors of it. An instruction set brings the product of windows and weights: [`Dot`].

use super::conv::{BLOCK, ConvShape, ConvWeights, Destination, QUAD, ROW, ROW_KERNEL, Rows, position};
use super::group_norm::{Line, TABLE_LEN};
use crate::quant::Activation;

/// Output pixels whose windows are multiplied together.
pub(super) const PIXELS: usize = 4;
/// Output channels whose weights are multiplied together: two blocks.
pub(super) const LANES: usize = 2 * BLOCK;
/// Weights of a quad of one block.
pub(super) const QUAD_WEIGHTS: usize = BLOCK * QUAD;

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
    windows.chain(weights.iter().map(|weights| weights.len() / QUAD_WEIGHTS)).min().unwrap_or(0)
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
    let windows = bytemuck::cast_slice_mut(work);
    // Numbers of channels that the compiler knows take no loops.
    match shape.channels_in {
        1 => gather_known::<1, W, I>(shape, rows, zero_in, first, count, windows),
        16 => gather_known::<16, W, I>(shape, rows, zero_in, first, count, windows),
        24 => gather_known::<24, W, I>(shape, rows, zero_in, first, count, windows),
        32 => gather_known::<32, W, I>(shape, rows, zero_in, first, count, windows),
        48 => gather_known::<48, W, I>(shape, rows, zero_in, first, count, windows),
        channels => gather_with(shape, rows, first, count, windows, channels, |source, x, to| {
            let from = x.checked_mul(channels).and_then(|at| source.get(at..)?.get(..channels));
            match from {
                Some(from) => copy(from, to),
                None => to.fill(W::of(zero_in)),
            }
        }),
    }
}

/// [`gather`] for `N` input channels.
#[inline(always)]
fn gather_known<const N: usize, W: WindowElement, I: Activation>(
    shape: &ConvShape,
    rows: &Rows<'_, I>,
    zero_in: i32,
    first: usize,
    count: usize,
    windows: &mut [W],
) {
    let padding = [W::of(zero_in); N];
    gather_with(shape, rows, first, count, windows, N, |source, x, to| {
        let Some(to) = to.first_chunk_mut::<N>() else { return };
        match source.as_chunks::<N>().0.get(x) {
            Some(from) => copy_piece(from, to),
            None => *to = padding,
        }
    });
}

/// [`gather`] with a function that sets one pixel of a window from pixel `x` of an input row, or to padding where the row
/// does not have that pixel.
#[inline(always)]
fn gather_with<W: WindowElement, I: Activation>(
    shape: &ConvShape,
    rows: &Rows<'_, I>,
    first: usize,
    count: usize,
    windows: &mut [W],
    channels: usize,
    set: impl Fn(&[I], usize, &mut [W]),
) {
    match shape.kernel {
        [1, 1] => gather_kernel::<1, 1, W, I>(shape, rows, first, count, windows, channels, set),
        ROW_KERNEL => gather_kernel::<1, 3, W, I>(shape, rows, first, count, windows, channels, set),
        _ => gather_kernel::<3, 3, W, I>(shape, rows, first, count, windows, channels, set),
    }
}

/// [`gather_with`] for a kernel of `H` rows and `K` columns.
#[inline(always)]
fn gather_kernel<const H: usize, const K: usize, W: WindowElement, I: Activation>(
    shape: &ConvShape,
    rows: &Rows<'_, I>,
    first: usize,
    count: usize,
    windows: &mut [W],
    channels: usize,
    set: impl Fn(&[I], usize, &mut [W]),
) {
    let (width, halve) = (shape.output[1].max(1), u32::from(shape.upsample[1] == 2));
    // Rows of padding have no pixels.
    let sources = |row| {
        let mut sources: [&[I]; H] = [&[]; H];
        for (tap_row, source) in sources.iter_mut().enumerate() {
            if let Some(y) = position(shape, ROW, row, tap_row) {
                *source = rows.part(y, 0, shape.input[1] * channels);
            }
        }
        sources
    };
    let (mut row, mut column) = (first / width, first % width);
    let mut of_row = sources(row);
    for window in windows.chunks_exact_mut(shape.padded_taps().max(1)).take(count) {
        if column == width {
            (row, column) = (row + 1, 0);
            of_row = sources(row);
        }
        // Left of the image, this wraps to columns that no row has.
        let start = (column * shape.stride[1]).wrapping_sub(K / 2);
        let mut rest = window;
        for source in of_row {
            for tap in 0..K {
                let Some(to) = rest.split_off_mut(..channels) else { return };
                set(source, start.wrapping_add(tap) >> halve, to);
            }
        }
        rest.iter_mut().for_each(|to| *to = W::of(0));
        column += 1;
    }
}

/// Copies as many activations.
#[inline(always)]
fn copy<W: WindowElement, I: Activation>(from: &[I], to: &mut [W]) {
    if !(copy_by::<32, W, I>(from, to) || copy_by::<8, W, I>(from, to)) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = W::of(from.widen()));
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
        let base = |old: O| self.destination.base(self.zero_out, old);
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
