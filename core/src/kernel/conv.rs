//! Convolution: the windows of a few output pixels are gathered, then multiplied with four output channels at a time.
//!
//! A 1x1 kernel on a 1x1 image is a linear layer; `upsample = 2` reads a nearest-neighbor enlargement that is never
//! stored; [`Destination::Accumulate`] adds the result to what the output holds, which is a residual connection.

use super::Kernel;
use crate::quant::{Activation, requantize};
use crate::view::{I32s, part, split_mut};

/// Output channels that share one pass over a window.
pub const BLOCK: usize = 4;
/// Window elements whose weights lie together for one channel.
pub const QUAD: usize = 4;

/// The geometry of one convolution, channels last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ConvShape {
    /// Input height and width in pixels, before the enlargement.
    pub input: [usize; 2],
    /// Input channels.
    pub channels_in: usize,
    /// Output height and width in pixels.
    pub output: [usize; 2],
    /// Output channels.
    pub channels_out: usize,
    /// Kernel height and width: 1 (no padding) or 3 (one pixel of padding).
    pub kernel: [usize; 2],
    /// Steps down and right between windows, in pixels of the enlarged input: 1 or 2.
    pub stride: [usize; 2],
    /// Nearest-neighbor enlargement of the input's height and width: 1 or 2.
    pub upsample: [usize; 2],
}

/// A kernel of three columns: rows are convolved apart, as signals of one dimension are.
pub const ROW_KERNEL: [usize; 2] = [1, 3];

impl ConvShape {
    /// A stride or an enlargement down and right: [`ROW_KERNEL`] leaves the rows as they are.
    pub fn down_and_right(kernel: [usize; 2], factor: usize) -> [usize; 2] {
        [if kernel == ROW_KERNEL { 1 } else { factor }, factor]
    }

    /// Weights of one output channel: the elements of a window.
    pub fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.channels_in
    }

    /// Elements of a window, padded with zeros to whole quads.
    pub fn padded_taps(&self) -> usize {
        self.taps().next_multiple_of(QUAD)
    }

    /// Bytes of the packed weights: see [`weight_index`].
    pub fn packed_len(&self) -> usize {
        self.channels_out.next_multiple_of(BLOCK) * self.padded_taps()
    }

    /// Bytes of working memory that every kernel gets for `pixels` output pixels at a time: one block of weights and the
    /// windows, in i16.
    pub fn work_len(&self, pixels: usize) -> usize {
        2 * self.padded_taps() * (BLOCK + pixels)
    }

    /// Output pixels.
    pub fn pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Input rows that the windows of the output pixels before `pixel` need, counted from the top.
    pub fn rows_before(&self, pixel: usize) -> usize {
        let rows = pixel.div_ceil(self.output[1].max(1));
        let enlarged = (rows.saturating_sub(1)) * self.stride[0] + self.kernel[0] - self.kernel[0] / 2;
        enlarged.div_ceil(self.upsample[0].max(1)).min(self.input[0])
    }

    /// Input rows that the windows of any `pixels` consecutive output pixels of a pass reach over.
    pub fn rows_of(&self, pixels: usize) -> usize {
        let width = self.output[1].max(1);
        // A pass starts at a multiple of what `pixels` and `width` have in common.
        let rows = (pixels.saturating_sub(common_divisor(pixels, width)).div_ceil(width) + 1).min(self.output[0]);
        let enlarged = rows.saturating_sub(1) * self.stride[0] + self.kernel[0];
        let rows = if self.upsample[0] == 2 { enlarged / 2 + 1 } else { enlarged };
        rows.min(self.input[0])
    }

    /// Multiply-accumulates, padding counted.
    pub fn macs(&self) -> u64 {
        self.output[0] as u64 * self.output[1] as u64 * self.channels_out as u64 * self.taps() as u64
    }

    /// The output's height and width that this input, stride and enlargement give.
    pub fn output_of(input: [usize; 2], stride: [usize; 2], upsample: [usize; 2]) -> [usize; 2] {
        let side = |axis: usize| (input[axis] * upsample[axis]).div_ceil(stride[axis].max(1));
        [side(ROW), side(COLUMN)]
    }
}

/// The greatest common divisor.
fn common_divisor(mut a: usize, mut b: usize) -> usize {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Where the weight of output channel `channel` for window element `tap` lies among the packed weights.
///
/// Order: blocks of 4 output channels; in a block, quads of window elements; in a quad, the 4 channels; for each, the quad's
/// 4 weights. Window elements are in the order kernel row, kernel column, input channel. What is padded is zero.
pub fn weight_index(padded_taps: usize, channel: usize, tap: usize) -> usize {
    let quad = channel / BLOCK * (padded_taps / QUAD) + tap / QUAD;
    (quad * BLOCK + channel % BLOCK) * QUAD + tap % QUAD
}

/// The constants of one convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvWeights<'a> {
    /// Symmetric around zero, packed in the order of [`weight_index`].
    pub weights: &'a [i8],
    /// One a channel, in accumulator units, the input's zero point already folded in.
    pub bias: I32s<'a>,
    /// One a channel, for [`requantize`].
    pub multipliers: I32s<'a>,
}

/// What happens to the output's old content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Destination {
    /// It is replaced.
    Overwrite,
    /// The result is added to it: the output keeps its scale.
    Accumulate,
}

impl Destination {
    /// What a requantized sum is added to: the output's zero point, or its old content.
    #[inline(always)]
    pub(super) fn base(self, zero_out: i32, old: impl Activation) -> i32 {
        match self {
            Destination::Overwrite => zero_out,
            Destination::Accumulate => old.widen(),
        }
    }
}

/// Rows of an input image: a whole tensor, or the last few rows of one.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a, I> {
    values: &'a [I],
    row_len: usize,
    first: usize,
    first_slot: usize,
    capacity: usize,
}

impl<'a, I> Rows<'a, I> {
    /// Every row of a tensor, `row_len` elements each.
    pub fn whole(values: &'a [I], row_len: usize) -> Self {
        Rows { values, row_len, first: 0, first_slot: 0, capacity: usize::MAX }
    }

    /// A ring of `capacity` rows that was filled with `loaded` rows one after the other; `next_slot` is the place of the
    /// next, `loaded % capacity`.
    pub fn ring(values: &'a [I], row_len: usize, capacity: usize, loaded: usize, next_slot: usize) -> Self {
        let first = loaded.saturating_sub(capacity);
        let first_slot = if first == 0 { 0 } else { next_slot };
        Rows { values, row_len, first, first_slot, capacity }
    }

    /// The same rows of bytes: for what does not depend on the element but by its size.
    pub fn bytes(&self) -> Rows<'a, u8>
    where
        I: Activation,
    {
        let Rows { first, first_slot, capacity, .. } = *self;
        let (values, row_len) = (bytemuck::cast_slice(self.values), size_of::<I>() * self.row_len);
        Rows { values, row_len, first, first_slot, capacity }
    }

    /// `len` elements of row `y` from element `at` on.
    #[inline(always)]
    pub fn part(&self, y: usize, at: usize, len: usize) -> &'a [I] {
        let slot = y - self.first + self.first_slot;
        let slot = if slot < self.capacity { slot } else { slot - self.capacity };
        part(self.values, slot * self.row_len + at, len)
    }
}

/// A whole convolution with the kernels `K`, `pixels` output pixels at a time. `work` has [`ConvShape::work_len`] bytes.
#[expect(clippy::too_many_arguments, reason = "two tensors, each with its zero point, the constants and the memory")]
pub fn convolve<K: Kernel, I: Activation, O: Activation>(
    shape: &ConvShape,
    constants: &ConvWeights<'_>,
    input: &[I],
    zero_in: i32,
    output: &mut [O],
    zero_out: i32,
    destination: Destination,
    pixels: usize,
    work: &mut [i16],
) {
    let rows = Rows::whole(input, shape.input[1] * shape.channels_in);
    let channels = shape.channels_out.max(1);
    for (pass, part) in output.chunks_mut((pixels * channels).max(1)).enumerate() {
        let count = part.len() / channels;
        K::gather(shape, &rows, zero_in, pass * pixels, count, work);
        K::multiply::<I, O>(shape, constants, count, work, part, zero_out, destination);
    }
}

/// See [`super::Kernel::gather`]: the windows one after the other.
pub(super) fn gather<I: Activation>(
    shape: &ConvShape,
    rows: &Rows<'_, I>,
    zero_in: i32,
    first: usize,
    count: usize,
    work: &mut [i16],
) {
    let windows = work.chunks_exact_mut(shape.padded_taps().max(1)).take(count);
    for (index, window) in (first..).zip(windows) {
        gather_one(shape, rows, zero_in, index, window);
    }
}

/// See [`super::Kernel::multiply`], after [`gather`].
pub(super) fn multiply<O: Activation>(
    shape: &ConvShape,
    constants: &ConvWeights<'_>,
    count: usize,
    work: &[i16],
    output: &mut [O],
    zero_out: i32,
    destination: Destination,
) {
    let (taps, channels) = (shape.padded_taps().max(1), shape.channels_out.max(1));
    for (pixel, window) in output.chunks_exact_mut(channels).zip(work.chunks_exact(taps)).take(count) {
        let blocks = constants.weights.chunks_exact((taps * BLOCK).max(1));
        for (block, (outputs, weights)) in pixel.chunks_mut(BLOCK).zip(blocks).enumerate() {
            let sums = dot(window, weights);
            for (lane, (out, sum)) in outputs.iter_mut().zip(sums).enumerate() {
                let channel = block * BLOCK + lane;
                *out = finish(constants, channel, sum, *out, zero_out, destination);
            }
        }
    }
}

/// The stored value of one output.
#[inline(always)]
fn finish<O: Activation>(
    constants: &ConvWeights<'_>,
    channel: usize,
    sum: i32,
    old: O,
    zero_out: i32,
    destination: Destination,
) -> O {
    let base = destination.base(zero_out, old);
    O::saturate(base + requantize(constants.bias.get(channel) + sum, constants.multipliers.get(channel)))
}

/// Sums of products of a window with each of four channels' weights.
fn dot(window: &[i16], weights: &[i8]) -> [i32; BLOCK] {
    let mut sums = [0; BLOCK];
    for (x, quads) in window.as_chunks::<QUAD>().0.iter().zip(weights.as_chunks::<{ BLOCK * QUAD }>().0) {
        for (sum, w) in sums.iter_mut().zip(quads.as_chunks::<QUAD>().0) {
            for lane in 0..QUAD {
                *sum += x[lane] as i32 * w[lane] as i32;
            }
        }
    }
    sums
}

/// Copies the window of output pixel `index` in the order kernel row, kernel column, channel; zeros to the last quad's end.
pub(super) fn gather_one<I: Activation>(
    shape: &ConvShape,
    rows: &Rows<'_, I>,
    zero_in: i32,
    index: usize,
    window: &mut [i16],
) {
    let width = shape.output[1].max(1);
    let (row, column) = (index / width, index % width);
    let channels = shape.channels_in.max(1);
    let (parts, rest) = split_mut(window, shape.taps());
    let run = run(shape, column);
    for (tap_row, part) in parts.chunks_exact_mut((shape.kernel[1] * channels).max(1)).enumerate() {
        let Some(y) = position(shape, ROW, row, tap_row) else {
            part.fill(zero_in as i16);
            continue;
        };
        if let Some(first) = run {
            widen(rows.part(y, first * channels, part.len()), part);
            continue;
        }
        for (tap_column, part) in part.chunks_exact_mut(channels).enumerate() {
            match position(shape, COLUMN, column, tap_column) {
                Some(x) => widen(rows.part(y, x * channels, channels), part),
                None => part.fill(zero_in as i16),
            }
        }
    }
    rest.fill(0);
}

/// The first input column of a window whose columns all lie in the image and beside each other.
#[inline(always)]
pub(super) fn run(shape: &ConvShape, column: usize) -> Option<usize> {
    let first = (column * shape.stride[1]).checked_sub(shape.kernel[1] / 2)?;
    (shape.upsample[1] == 1 && first + shape.kernel[1] <= shape.input[1]).then_some(first)
}

#[inline(always)]
fn widen<I: Activation>(from: &[I], to: &mut [i16]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from.widen() as i16);
}

/// The rows of the input under each row of the kernel at output row `row`; empty where they are padding, or the kernel has no
/// such row.
#[cfg(any(mote_mve, mote_packed, test))]
#[inline(always)]
pub(super) fn lines<'a, I>(shape: &ConvShape, rows: &Rows<'a, I>, row: usize) -> [&'a [I]; 3] {
    [0, 1, 2].map(|tap| match position(shape, ROW, row, tap) {
        Some(y) if tap < shape.kernel[0] => rows.part(y, 0, shape.input[1] * shape.channels_in),
        _ => &[],
    })
}

/// The axes of [`position`].
pub(super) const ROW: usize = 0;
pub(super) const COLUMN: usize = 1;

/// The input row or column under kernel position `tap` at output position `output`; `None` is padding.
#[inline(always)]
pub(super) fn position(shape: &ConvShape, axis: usize, output: usize, tap: usize) -> Option<usize> {
    let enlarged = (output * shape.stride[axis] + tap).checked_sub(shape.kernel[axis] / 2)?;
    let input = if shape.upsample[axis] == 2 { enlarged / 2 } else { enlarged };
    (input < shape.input[axis]).then_some(input)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Reference;

    const HALF: i32 = i32::MAX; // 2^31 - 1 over 2^32

    fn bytes(values: &[i32]) -> [u8; 8] {
        let mut out = [0; 8];
        for (chunk, value) in out.chunks_exact_mut(4).zip(values) {
            chunk.copy_from_slice(&value.to_le_bytes());
        }
        out
    }

    fn run(
        shape: &ConvShape,
        weights: &[i8],
        input: &[i8],
        zero_in: i32,
        output: &mut [i16],
        destination: Destination,
    ) {
        let mut packed = [0; 64];
        for (channel, weights) in weights.chunks_exact(shape.taps()).enumerate() {
            for (tap, &weight) in weights.iter().enumerate() {
                packed[weight_index(shape.padded_taps(), channel, tap)] = weight;
            }
        }
        let (bias, multipliers) = (bytes(&[0, 0]), bytes(&[HALF, HALF]));
        let constants = ConvWeights {
            weights: &packed[..shape.packed_len()],
            bias: I32s::new(&bias[..4 * shape.channels_out]),
            multipliers: I32s::new(&multipliers[..4 * shape.channels_out]),
        };
        let mut work = [0; 256];
        convolve::<Reference, _, _>(shape, &constants, input, zero_in, output, 0, destination, 2, &mut work);
    }

    #[test]
    fn padding_holds_the_zero_point() {
        let shape = ConvShape {
            input: [1, 1],
            channels_in: 1,
            output: [1, 1],
            channels_out: 1,
            kernel: [3; 2],
            stride: [1; 2],
            upsample: [1; 2],
        };
        let mut output = [0i16];
        run(&shape, &[2, 2, 2, 2, 100, 2, 2, 2, 2], &[1], -3, &mut output, Destination::Overwrite);
        assert_eq!(output, [(100 - 3 * 16) / 2]);
    }

    #[test]
    fn stride_two_starts_at_the_first_pixel() {
        let shape = ConvShape {
            input: [3, 3],
            channels_in: 1,
            output: [2, 2],
            channels_out: 1,
            kernel: [3; 2],
            stride: [2; 2],
            upsample: [1; 2],
        };
        assert_eq!(ConvShape::output_of([3, 3], [2; 2], [1; 2]), [2, 2]);
        let mut output = [0i16; 4];
        let center = [0, 0, 0, 0, 2, 0, 0, 0, 0];
        run(&shape, &center, &[1, 2, 3, 4, 5, 6, 7, 8, 9], 0, &mut output, Destination::Overwrite);
        assert_eq!(output, [1, 3, 7, 9]);
    }

    #[test]
    fn upsampling_repeats_pixels_and_accumulation_adds() {
        let shape = ConvShape {
            input: [1, 2],
            channels_in: 1,
            output: [2, 4],
            channels_out: 1,
            kernel: [1; 2],
            stride: [1; 2],
            upsample: [2; 2],
        };
        assert_eq!(ConvShape::output_of([1, 2], [1; 2], [2; 2]), [2, 4]);
        let mut output = [10i16; 8];
        run(&shape, &[2], &[1, 2], 0, &mut output, Destination::Accumulate);
        assert_eq!(output, [11, 11, 12, 12, 11, 11, 12, 12]);
    }

    #[test]
    fn a_kernel_of_one_row_steps_and_enlarges_along_it() {
        let (input, kernel) = ([2, 2], ROW_KERNEL);
        let [stride, upsample] = [1, 2].map(|factor| ConvShape::down_and_right(kernel, factor));
        let output = ConvShape::output_of(input, stride, upsample);
        assert_eq!(output, [2, 4]);
        let shape = ConvShape { input, channels_in: 1, output, channels_out: 1, kernel, stride, upsample };
        // Of the rows 1 1 2 2 and 10 10 20 20.
        let mut output = [0i16; 8];
        run(&shape, &[2, 4, 8], &[1, 2, 10, 20], 0, &mut output, Destination::Overwrite);
        assert_eq!(output, [6, 11, 13, 6, 60, 110, 130, 60]);
    }

    #[test]
    fn channels_mix_as_a_matrix_product() {
        let shape = ConvShape {
            input: [1, 1],
            channels_in: 3,
            output: [1, 1],
            channels_out: 2,
            kernel: [1; 2],
            stride: [1; 2],
            upsample: [1; 2],
        };
        let mut output = [0i16; 2];
        run(&shape, &[2, 4, 6, -2, 0, 2], &[1, 10, 100], 0, &mut output, Destination::Overwrite);
        assert_eq!(output, [321, 99]);
        assert_eq!(shape.macs(), 6);
    }
}
