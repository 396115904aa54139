//! The kernels on the shapes that peers are measured on: what the bench runs, in the emulator and on the host.
#![no_std]

use core::hint::black_box;
use mote_core::kernel::{
    Affine, ConvShape, ConvWeights, Destination, NormInput, SILU_TABLE_LEN, conv, group_norm_silu,
};
use mote_core::noise::philox4x32_10;
use mote_core::quant::Activation;
use mote_core::view::{I16Pairs, I32s};

/// One kernel on one shape.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The operation, and the shape as its peer has it.
    pub op: &'static str,
    /// See `op`.
    pub shape: &'static str,
    /// Multiply-accumulates, or elements.
    pub work: u64,
    /// Working memory besides input and output.
    pub scratch_bytes: usize,
    /// The case whose cost is part of this one and is to be taken off: `OP SHAPE`, or nothing.
    pub beyond: &'static str,
}

/// What measures: `begin` right before a kernel and `end` right after it.
pub trait Meter {
    /// Starts.
    fn begin(&mut self);
    /// Stops; what ran was this case.
    fn end(&mut self, case: &Case);
}

/// A convolution to measure.
struct Convolution {
    op: &'static str,
    shape: &'static str,
    side: usize,
    channels: [usize; 2],
    kernel: usize,
}

const fn convolution(
    op: &'static str,
    shape: &'static str,
    side: usize,
    channels: [usize; 2],
    kernel: usize,
) -> Convolution {
    Convolution { op, shape, side, channels, kernel }
}

const CONVOLUTIONS: [Convolution; 8] = [
    convolution("conv 3x3", "28x28 16->16", 28, [16, 16], 3),
    convolution("conv 3x3", "14x14 32->32", 14, [32, 32], 3),
    convolution("conv 3x3", "7x7 64->64", 7, [64, 64], 3),
    convolution("conv 3x3", "28x28 1->16", 28, [1, 16], 3),
    convolution("conv 1x1", "14x14 32->64", 14, [32, 64], 1),
    convolution("conv 1x1", "14x14 64->32", 14, [64, 32], 1),
    convolution("fully connected", "256->256", 1, [256, 256], 1),
    convolution("matmul", "49x576x64", 7, [576, 64], 1),
];

/// The largest arrays of the cases, in elements.
const INPUT: usize = 7 * 7 * 576;
const IMAGE: usize = 28 * 28 * 16;
const WEIGHTS: usize = 256 * 256;
const SCRATCH: usize = 16 * 1024;
const CHANNELS: usize = 256;

/// Inputs, outputs and constants of all cases.
#[derive(Debug)]
pub struct Memory {
    input: [i8; INPUT],
    stream: [i16; IMAGE],
    output: [i8; IMAGE],
    weights: [i8; WEIGHTS],
    scratch: [i16; SCRATCH],
    bias: [u8; 4 * CHANNELS],
    multipliers: [u8; 4 * CHANNELS],
}

impl Memory {
    /// Zeros: [`run`] fills it.
    pub const fn new() -> Self {
        Memory {
            input: [0; INPUT],
            stream: [0; IMAGE],
            output: [0; IMAGE],
            weights: [0; WEIGHTS],
            scratch: [0; SCRATCH],
            bias: [0; 4 * CHANNELS],
            multipliers: [0; 4 * CHANNELS],
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs every case once.
pub fn run(memory: &mut Memory, meter: &mut impl Meter) {
    fill(memory);
    for Convolution { op, shape, side, channels: [channels_in, channels_out], kernel } in CONVOLUTIONS {
        let sides = [side, side];
        let sizes =
            ConvShape { input: sides, channels_in, output: sides, channels_out, kernel, stride: 1, upsample: 1 };
        let case = Case { op, shape, work: sizes.macs(), scratch_bytes: sizes.scratch_len(), beyond: "" };
        let constants = Constants { weights: &memory.weights, bias: &memory.bias, multipliers: &memory.multipliers };
        meter.begin();
        constants.run(&sizes, &memory.input, &mut memory.output, Destination::Overwrite, &mut memory.scratch);
        meter.end(&case);
    }
    run_add(memory, meter);
    run_norm(memory, meter);
}

/// Bytes without pattern; the kernels' time does not depend on them.
fn fill(memory: &mut Memory) {
    let mut words = (0..).flat_map(|block| philox4x32_10([block, 0, 0, 0], [1, 0]));
    let mut byte = || words.next().unwrap_or(0) as i8;
    memory.input.fill_with(&mut byte);
    memory.weights.fill_with(&mut byte);
    memory.stream.fill_with(|| i16::from(byte()) << 5);
    for multiplier in memory.multipliers.as_chunks_mut().0 {
        *multiplier = 4_000_000i32.to_le_bytes();
    }
}

/// Weights, biases and multipliers for any of the convolutions.
struct Constants<'a> {
    weights: &'a [i8],
    bias: &'a [u8],
    multipliers: &'a [u8],
}

impl Constants<'_> {
    fn run<O: Activation>(
        &self,
        shape: &ConvShape,
        input: &[i8],
        output: &mut [O],
        destination: Destination,
        scratch: &mut [i16],
    ) {
        let pixels = shape.output[0] * shape.output[1];
        let constants = ConvWeights {
            weights: &self.weights[..shape.packed_len()],
            bias: I32s::new(&self.bias[..4 * shape.channels_out]),
            multipliers: I32s::new(&self.multipliers[..4 * shape.channels_out]),
        };
        let input = &input[..pixels * shape.channels_in];
        let output = &mut output[..pixels * shape.channels_out];
        let scratch = &mut scratch[..shape.scratch_len() / 2];
        // As in a model, nothing of this is known to the compiler.
        let [zero_in, zero_out] = black_box([-3, 5]);
        conv(black_box(shape), &constants, input, zero_in, output, zero_out, black_box(destination), scratch);
    }
}

/// The residual addition is a convolution's: what accumulating costs more than overwriting.
fn run_add(memory: &mut Memory, meter: &mut impl Meter) {
    let side = [28, 28];
    let sizes =
        ConvShape { input: side, channels_in: 16, output: side, channels_out: 16, kernel: 3, stride: 1, upsample: 1 };
    let scratch_bytes = sizes.scratch_len();
    let overwriting =
        Case { op: "conv 3x3 to i16", shape: "28x28 16->16", work: sizes.macs(), scratch_bytes, beyond: "" };
    let accumulating = Case {
        op: "add",
        shape: "28x28x16",
        work: IMAGE as u64,
        scratch_bytes: 0,
        beyond: "conv 3x3 to i16 28x28 16->16",
    };
    for (case, destination) in [(overwriting, Destination::Overwrite), (accumulating, Destination::Accumulate)] {
        let constants = Constants { weights: &memory.weights, bias: &memory.bias, multipliers: &memory.multipliers };
        meter.begin();
        constants.run(&sizes, &memory.input, &mut memory.stream, destination, &mut memory.scratch);
        meter.end(&case);
    }
}

fn run_norm(memory: &mut Memory, meter: &mut impl Meter) {
    let affine = Affine { pairs: I16Pairs::new(&memory.multipliers[..4 * 16]), gain_bits: 8, bias_bits: 6 };
    let Some(table) = memory.input.first_chunk::<SILU_TABLE_LEN>() else { return };
    let input = NormInput { values: &memory.stream, channels: 16, groups: 4, epsilon_q8: 100 };
    meter.begin();
    group_norm_silu(black_box(&input), &affine, table, &mut memory.output, 16, 0);
    meter.end(&Case { op: "group norm + SiLU", shape: "28x28x16", work: IMAGE as u64, scratch_bytes: 0, beyond: "" });
}
