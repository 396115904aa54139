//! Kernels: what the network's operations do to slices. [`Reference`] is the definition, plain loops, one file an
//! operation; every other implementation of [`Kernel`] must equal it byte for byte, and overrides what its instruction set
//! does faster. [`Chosen`] is the one for the target: no choice changes a number.

mod conv;
#[cfg(mote_dsp)]
mod dsp;
pub(crate) mod group_norm;
#[cfg(mote_mve)]
mod mve;
#[cfg(mote_neon)]
mod neon;
mod nibbles;
#[cfg(any(mote_packed, test))]
#[cfg_attr(not(mote_packed), expect(unreachable_pub, reason = "other targets only test it"))]
mod packed;
pub mod parity;
mod softmax;
#[cfg(mote_simd128)]
mod wasm;
#[cfg(any(mote_neon, mote_simd128, mote_x86))]
mod wide;
#[cfg(mote_x86)]
pub mod x86;

use crate::quant::Activation;

pub use conv::{BLOCK, ConvShape, ConvWeights, Destination, QUAD, ROW_KERNEL, Rows, convolve, weight_index};
pub use group_norm::{Affine, GroupScale, Line, Moments, TABLE_LEN};
pub use nibbles::{WeightBits, nibble_index};
pub(crate) use nibbles::{quads, unpack};

/// The inner work of the operations.
pub trait Kernel {
    /// Copies the windows of `count` output pixels from `first` on into `work`, where [`Kernel::multiply`] of the same type
    /// finds them: [`ConvShape::work_len`] bytes at a multiple of 4. Padding is `zero_in`, the input's zero point.
    fn gather<I: Activation>(
        shape: &ConvShape,
        rows: &Rows<'_, I>,
        zero_in: i32,
        first: usize,
        count: usize,
        work: &mut [i16],
    ) {
        conv::gather(shape, rows, zero_in, first, count, work);
    }

    /// `output = saturate(zero_out + requantize(bias + sum(window * weights)))`, or with the old output in `zero_out`'s
    /// place, for the `count` pixels that were gathered. `output` holds their channels.
    ///
    /// No overflow: parse checks for every output channel that `|bias| + max|input| * sum|weights|` fits an `i32`.
    fn multiply<I: Activation, O: Activation>(
        shape: &ConvShape,
        constants: &ConvWeights<'_>,
        count: usize,
        work: &mut [i16],
        output: &mut [O],
        zero_out: i32,
        destination: Destination,
    ) {
        conv::multiply(shape, constants, count, work, output, zero_out, destination);
    }

    /// Sums over the channels `first..first + size` of every pixel; `values` is pixels x `channels`.
    fn moments<I: Activation>(values: &[I], channels: usize, first: usize, size: usize) -> Moments {
        group_norm::moments(values, channels, first, size)
    }

    /// `output = table[line(value)]`, pixel by pixel: `values` has a channel for each of `lines`, which become the channels
    /// from `first` on of an output of `channels_out`.
    fn normalize<I: Activation>(
        values: &[I],
        lines: &[Line],
        table: &[i8; TABLE_LEN],
        output: &mut [i8],
        channels_out: usize,
        first: usize,
    ) {
        group_norm::normalize(values, lines, table, output, channels_out, first);
    }

    /// Turns a row of scores into probabilities: scores in 1/256 of an octave (`log2`), probabilities in Q15.
    fn softmax(row: &mut [i16]) {
        softmax::softmax(row);
    }
}

/// The definition.
#[derive(Clone, Copy, Debug)]
pub struct Reference;

impl Kernel for Reference {}

/// The kernels for this target.
#[cfg(not(any(mote_dsp, mote_mve, mote_neon, mote_packed, mote_simd128, mote_x86)))]
pub type Chosen = Reference;
/// The kernels for this target.
#[cfg(mote_dsp)]
pub type Chosen = dsp::Dsp;
/// The kernels for this target.
#[cfg(mote_x86)]
pub type Chosen = x86::Best;
/// The kernels for this target.
#[cfg(mote_mve)]
pub type Chosen = mve::Mve;
/// The kernels for this target.
#[cfg(mote_packed)]
pub type Chosen = packed::Packed;
/// The kernels for this target.
#[cfg(mote_neon)]
pub type Chosen = neon::Neon;
/// The kernels for this target.
#[cfg(mote_simd128)]
pub type Chosen = wasm::Simd128;
