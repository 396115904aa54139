//! The kernels on the shapes that peers are measured on: what the bench runs, in the emulator and on the host.
#![no_std]

use core::hint::black_box;
use mote_core::kernel::{
    Chosen, ConvShape, ConvWeights, Destination, GroupScale, Kernel, Line, ROW_KERNEL, TABLE_LEN, convolve,
};
use mote_core::network::{AttentionShape, attention, pack_rows};
use mote_core::noise::philox4x32_10;
use mote_core::quant::Activation;
use mote_core::view::I32s;

/// One kernel on one shape.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The operation.
    pub op: &'static str,
    /// The shape, as its peer has it.
    pub shape: &'static str,
    /// Multiply-accumulates, or elements.
    pub work: u64,
    /// Working memory besides input and output, in bytes.
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
    sides: [usize; 2],
    channels: [usize; 2],
    kernel: [usize; 2],
}

/// Of a square image, with a square kernel.
const fn convolution(
    op: &'static str,
    shape: &'static str,
    side: usize,
    channels: [usize; 2],
    kernel: usize,
) -> Convolution {
    Convolution { op, shape, sides: [side; 2], channels, kernel: [kernel; 2] }
}

const CONVOLUTIONS: [Convolution; 9] = [
    convolution("conv 3x3", "28x28 16->16", 28, [16, 16], 3),
    convolution("conv 3x3", "14x14 32->32", 14, [32, 32], 3),
    convolution("conv 3x3", "7x7 64->64", 7, [64, 64], 3),
    convolution("conv 3x3", "28x28 1->16", 28, [1, 16], 3),
    convolution("conv 1x1", "14x14 32->64", 14, [32, 64], 1),
    convolution("conv 1x1", "14x14 64->32", 14, [64, 32], 1),
    convolution("fully connected", "256->256", 1, [256, 256], 1),
    convolution("matmul", "49x576x64", 7, [576, 64], 1),
    Convolution { op: "conv 1x3", shape: "1x196 32->32", sides: [1, 196], channels: [32, 32], kernel: ROW_KERNEL },
];

/// The convolution whose accumulating costs are compared with its overwriting: an addition.
const ADDITION: Convolution = convolution("conv 3x3 to i16", "28x28 16->16", 28, [16, 16], 3);

/// Bytes of windows that a pass may fill.
const WINDOWS: usize = 8 * 1024;

/// Tokens and channels of the attention.
const TOKENS: usize = 49;
const HEAD: usize = 64;
/// Queries at a time.
const QUERIES: usize = 14;

/// Channels and groups of the normalization.
const CHANNELS: usize = 16;
const GROUPS: usize = 4;

/// The largest arrays of the cases, in elements.
const INPUT: usize = 7 * 7 * 576;
const SIDE: usize = 28;
const IMAGE: usize = SIDE * SIDE * CHANNELS;
const WEIGHTS: usize = 256 * 256;
const SCRATCH: usize = 32 * 1024;
const MOST_CHANNELS: usize = 256;

/// At an address as a file's arrays and an arena's tensors have it.
#[derive(Debug)]
#[repr(C, align(4))]
struct Aligned<T>(T);

/// Inputs, outputs and constants of all cases.
#[derive(Debug)]
pub struct Memory {
    input: Aligned<[i8; INPUT]>,
    stream: Aligned<[i16; IMAGE]>,
    output: Aligned<[i8; IMAGE]>,
    weights: Aligned<[i8; WEIGHTS]>,
    scratch: Aligned<[u8; SCRATCH]>,
    bias: [u8; 4 * MOST_CHANNELS],
    multipliers: [u8; 4 * MOST_CHANNELS],
}

impl Memory {
    /// Zeros: [`run`] fills it.
    pub const fn new() -> Self {
        Memory {
            input: Aligned([0; INPUT]),
            stream: Aligned([0; IMAGE]),
            output: Aligned([0; IMAGE]),
            weights: Aligned([0; WEIGHTS]),
            scratch: Aligned([0; SCRATCH]),
            bias: [0; 4 * MOST_CHANNELS],
            multipliers: [0; 4 * MOST_CHANNELS],
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
    let Memory { input, stream, output, weights, scratch, bias, multipliers } = memory;
    let constants = Constants { weights: &weights.0, bias, multipliers };
    for convolution in CONVOLUTIONS {
        let case = convolution.case();
        meter.begin();
        constants.run(&convolution, &input.0, &mut output.0, Destination::Overwrite, &mut scratch.0);
        meter.end(&case);
    }
    let alone = ADDITION.case();
    let added = Case {
        op: "add",
        shape: "28x28x16",
        work: IMAGE as u64,
        scratch_bytes: 0,
        beyond: "conv 3x3 to i16 28x28 16->16",
    };
    for (case, destination) in [(alone, Destination::Overwrite), (added, Destination::Accumulate)] {
        meter.begin();
        constants.run(&ADDITION, &input.0, &mut stream.0, destination, &mut scratch.0);
        meter.end(&case);
    }
    normalize(&stream.0, &input.0, &mut output.0, meter);
    softmax(&mut stream.0, meter);
    matmul(&constants, &input.0, &mut output.0, &mut scratch.0, meter);
    attend(&input.0, &mut output.0, &mut scratch.0, meter);
}

/// Bytes without pattern; the kernels' time does not depend on them.
fn fill(memory: &mut Memory) {
    let mut words = (0..).flat_map(|block| philox4x32_10([block, 0, 0, 0], [1, 0]));
    let mut byte = || words.next().unwrap_or(0) as i8;
    memory.input.0.fill_with(&mut byte);
    memory.weights.0.fill_with(&mut byte);
    memory.stream.0.fill_with(|| i16::from(byte()) << 5);
    for multiplier in memory.multipliers.as_chunks_mut().0 {
        *multiplier = 4_000_000i32.to_le_bytes();
    }
}

impl Convolution {
    fn sizes(&self) -> ConvShape {
        let [channels_in, channels_out] = self.channels;
        ConvShape {
            input: self.sides,
            channels_in,
            output: self.sides,
            channels_out,
            kernel: self.kernel,
            stride: [1; 2],
            upsample: [1; 2],
        }
    }

    /// Output pixels a pass: an even number, as many windows as fit.
    fn pixels(&self) -> usize {
        let sizes = self.sizes();
        (WINDOWS / (4 * sizes.padded_taps()) * 2).clamp(1, sizes.pixels())
    }

    fn case(&self) -> Case {
        let (sizes, pixels) = (self.sizes(), self.pixels());
        Case { op: self.op, shape: self.shape, work: sizes.macs(), scratch_bytes: sizes.work_len(pixels), beyond: "" }
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
        convolution: &Convolution,
        input: &[i8],
        output: &mut [O],
        destination: Destination,
        scratch: &mut [u8],
    ) {
        // As in a model, nothing of this is known to the compiler.
        let (shape, pixels, destination) = black_box((convolution.sizes(), convolution.pixels(), destination));
        let [zero_in, zero_out] = black_box([-3, 5]);
        let constants = ConvWeights {
            weights: &self.weights[..shape.packed_len()],
            bias: I32s::new(&self.bias[..4 * shape.channels_out]),
            multipliers: I32s::new(&self.multipliers[..4 * shape.channels_out]),
        };
        let input = &input[..shape.pixels() * shape.channels_in];
        let output = &mut output[..shape.pixels() * shape.channels_out];
        let work = bytemuck::cast_slice_mut(&mut scratch[..shape.work_len(pixels)]);
        convolve::<Chosen, _, _>(&shape, &constants, input, zero_in, output, zero_out, destination, pixels, work);
    }
}

/// The statistics of every group, a line for every channel, and all rows as a convolution loads them.
fn normalize(values: &[i16], input: &[i8], output: &mut [i8], meter: &mut impl Meter) {
    const SIZE: usize = CHANNELS / GROUPS;
    let Some(table) = input.first_chunk::<TABLE_LEN>() else { return };
    let mut lines = [Line::default(); CHANNELS];
    meter.begin();
    let [channels, row_len] = black_box([CHANNELS, SIDE * CHANNELS]);
    for (group, lines) in lines.chunks_exact_mut(SIZE).enumerate() {
        let moments = Chosen::moments(values, channels, group * SIZE, SIZE);
        let scale = GroupScale::new(&moments, values.len() / GROUPS, 100, 8);
        lines.fill_with(|| scale.line(black_box([4_000, 100]), 6));
    }
    for (values, output) in values.chunks_exact(row_len).zip(output.chunks_exact_mut(row_len)) {
        Chosen::normalize(values, black_box(&lines), table, output, channels, 0);
    }
    meter.end(&Case {
        op: "group norm + SiLU",
        shape: "28x28x16",
        work: IMAGE as u64,
        scratch_bytes: size_of_val(&lines),
        beyond: "",
    });
}

/// The rows of the attention's scores.
fn softmax(scores: &mut [i16], meter: &mut impl Meter) {
    meter.begin();
    scores.chunks_exact_mut(black_box(TOKENS)).take(TOKENS).for_each(Chosen::softmax);
    meter.end(&Case { op: "softmax", shape: "49x49", work: (TOKENS * TOKENS) as u64, scratch_bytes: 0, beyond: "" });
}

/// A product of two matrices of activations: the second is packed as weights first.
fn matmul(constants: &Constants<'_>, input: &[i8], output: &mut [i8], scratch: &mut [u8], meter: &mut impl Meter) {
    let row = [1, black_box(TOKENS)];
    let (channels_in, channels_out) = black_box((HEAD, TOKENS));
    let shape = ConvShape {
        input: row,
        channels_in,
        output: row,
        channels_out,
        kernel: [1; 2],
        stride: [1; 2],
        upsample: [1; 2],
    };
    let (left, right) = input[..2 * TOKENS * HEAD].split_at(TOKENS * HEAD);
    let (packed, work) = scratch.split_at_mut(shape.packed_len());
    let work = &mut work[..shape.work_len(QUERIES)];
    let scratch_bytes = packed.len() + work.len();
    meter.begin();
    pack_rows(right.chunks_exact(channels_in), channels_in, packed);
    let by = ConvWeights {
        weights: bytemuck::cast_slice(packed),
        bias: I32s::new(&constants.bias[..4 * shape.channels_out]),
        multipliers: I32s::new(&constants.multipliers[..4 * shape.channels_out]),
    };
    let (output, work) = (&mut output[..TOKENS * TOKENS], bytemuck::cast_slice_mut(work));
    let destination = black_box(Destination::Overwrite);
    convolve::<Chosen, _, _>(&shape, &by, left, 0, output, 0, destination, black_box(QUERIES), work);
    meter.end(&Case { op: "batched matmul", shape: "49x64x49", work: shape.macs(), scratch_bytes, beyond: "" });
}

/// Both products of an attention, 49x64x49 and 49x49x64, with the packing of keys and values.
fn attend(input: &[i8], output: &mut [i8], scratch: &mut [u8], meter: &mut impl Meter) {
    let (shape, queries) = black_box((AttentionShape { tokens: TOKENS, channels: HEAD, heads: 1 }, QUERIES));
    let (input, output) = (&input[..3 * TOKENS * HEAD], &mut output[..TOKENS * HEAD]);
    let scratch = &mut scratch[..shape.memory(queries).len()];
    meter.begin();
    attention::<Chosen>(&shape, input, black_box([400_000, 60_000]), output, 0, queries, scratch);
    meter.end(&Case {
        op: "attention products",
        shape: "49x64x49, 49x49x64",
        work: shape.macs(),
        scratch_bytes: scratch.len(),
        beyond: "softmax 49x49",
    });
}
