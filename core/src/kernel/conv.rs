//! Reference convolution: direct loops over height x width x channels.
//!
//! A 1x1 kernel on a 1x1 image is a linear layer; `upsample = 2` reads a nearest-neighbor enlargement that is never
//! stored; [`Destination::Accumulate`] adds the result to what the output holds, which is a residual connection.

use crate::quant::{Activation, requantize};
use crate::view::I32s;

/// The geometry of one convolution, channels last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvShape {
    /// Input height and width in pixels, before the enlargement.
    pub input: [usize; 2],
    /// Input channels.
    pub channels_in: usize,
    /// Output height and width in pixels.
    pub output: [usize; 2],
    /// Output channels.
    pub channels_out: usize,
    /// Kernel side: 1 (no padding) or 3 (one pixel of padding).
    pub kernel: usize,
    /// Step between windows, in pixels of the enlarged input: 1 or 2.
    pub stride: usize,
    /// Nearest-neighbor enlargement of the input: 1 or 2.
    pub upsample: usize,
}

impl ConvShape {
    /// Weights of one output channel.
    pub fn taps(&self) -> usize {
        self.kernel * self.kernel * self.channels_in
    }

    /// Multiply-accumulates, padding counted.
    pub fn macs(&self) -> u64 {
        self.output[0] as u64 * self.output[1] as u64 * self.channels_out as u64 * self.taps() as u64
    }

    /// The output's height and width that this input, kernel, stride and enlargement give.
    pub fn output_of(input: [usize; 2], stride: usize, upsample: usize) -> [usize; 2] {
        input.map(|side| (side * upsample).div_ceil(stride))
    }
}

/// The constants of one convolution.
#[derive(Clone, Copy, Debug)]
pub struct ConvWeights<'a> {
    /// `[channels_out][kernel][kernel][channels_in]`, symmetric around zero.
    pub weights: &'a [i8],
    /// One a channel, in accumulator units, the input's zero point already folded in.
    pub bias: I32s<'a>,
    /// One a channel, for [`requantize`].
    pub multipliers: I32s<'a>,
}

/// What happens to the output's old content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// It is replaced.
    Overwrite,
    /// The result is added to it: the output keeps its scale.
    Accumulate,
}

/// `output = saturate(zero_out + requantize(bias + sum(input * weights)))`, or with the old output in `zero_out`'s place.
///
/// `zero_in` is what padding holds: the input's zero point. No overflow: parse checks for every output channel that
/// `|bias| + max|input| * sum|weights|` fits an `i32`.
pub fn conv<I: Activation, O: Activation>(
    shape: &ConvShape,
    constants: &ConvWeights<'_>,
    input: &[I],
    zero_in: i32,
    output: &mut [O],
    zero_out: i32,
    destination: Destination,
) {
    let pixels = output.chunks_exact_mut(shape.channels_out);
    for (index, pixel) in pixels.enumerate() {
        let window = Window::at(shape, index / shape.output[1], index % shape.output[1]);
        for (channel, out) in pixel.iter_mut().enumerate() {
            let weights = &constants.weights[channel * shape.taps()..][..shape.taps()];
            let acc = constants.bias.get(channel) + window.dot(shape, input, zero_in, weights);
            let base = match destination {
                Destination::Overwrite => zero_out,
                Destination::Accumulate => out.widen(),
            };
            *out = O::saturate(base + requantize(acc, constants.multipliers.get(channel)));
        }
    }
}

/// The input positions under the kernel for one output pixel; `None` is padding.
struct Window {
    rows: [Option<usize>; 3],
    columns: [Option<usize>; 3],
}

impl Window {
    fn at(shape: &ConvShape, row: usize, column: usize) -> Self {
        let positions = |output: usize, side: usize| {
            core::array::from_fn(|tap| {
                let enlarged = (output * shape.stride + tap).checked_sub(shape.kernel / 2)?;
                (tap < shape.kernel && enlarged < side * shape.upsample).then_some(enlarged / shape.upsample)
            })
        };
        Window { rows: positions(row, shape.input[0]), columns: positions(column, shape.input[1]) }
    }

    fn dot<I: Activation>(&self, shape: &ConvShape, input: &[I], zero_in: i32, weights: &[i8]) -> i32 {
        let mut acc = 0;
        for (tap, weights) in weights.chunks_exact(shape.channels_in).enumerate() {
            acc += match (self.rows[tap / shape.kernel], self.columns[tap % shape.kernel]) {
                (Some(row), Some(column)) => {
                    let at = (row * shape.input[1] + column) * shape.channels_in;
                    let pixel = &input[at..][..shape.channels_in];
                    pixel.iter().zip(weights).map(|(&x, &w)| x.widen() * w as i32).sum()
                }
                _ => zero_in * weights.iter().map(|&w| w as i32).sum::<i32>(),
            };
        }
        acc
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (bias, multipliers) = (bytes(&[0, 0]), bytes(&[HALF, HALF]));
        let constants = ConvWeights {
            weights,
            bias: I32s::new(&bias[..4 * shape.channels_out]),
            multipliers: I32s::new(&multipliers[..4 * shape.channels_out]),
        };
        conv(shape, &constants, input, zero_in, output, 0, destination);
    }

    #[test]
    fn padding_holds_the_zero_point() {
        let shape = ConvShape {
            input: [1, 1],
            channels_in: 1,
            output: [1, 1],
            channels_out: 1,
            kernel: 3,
            stride: 1,
            upsample: 1,
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
            kernel: 3,
            stride: 2,
            upsample: 1,
        };
        assert_eq!(ConvShape::output_of([3, 3], 2, 1), [2, 2]);
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
            kernel: 1,
            stride: 1,
            upsample: 2,
        };
        assert_eq!(ConvShape::output_of([1, 2], 1, 2), [2, 4]);
        let mut output = [10i16; 8];
        run(&shape, &[2], &[1, 2], 0, &mut output, Destination::Accumulate);
        assert_eq!(output, [11, 11, 12, 12, 11, 11, 12, 12]);
    }

    #[test]
    fn channels_mix_as_a_matrix_product() {
        let shape = ConvShape {
            input: [1, 1],
            channels_in: 3,
            output: [1, 1],
            channels_out: 2,
            kernel: 1,
            stride: 1,
            upsample: 1,
        };
        let mut output = [0i16; 2];
        run(&shape, &[2, 4, 6, -2, 0, 2], &[1, 10, 100], 0, &mut output, Destination::Overwrite);
        assert_eq!(output, [321, 99]);
        assert_eq!(shape.macs(), 6);
    }
}
