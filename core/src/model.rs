//! A parsed model: every field of a `.mote` file checked once, then read in place.
//!
//! [`Model::parse`] treats the bytes as hostile. Once it returns `Ok`, no accessor and no sampling step can fail or panic.

mod check;
mod fault;

use crate::format::{
    self, HEADER_LEN, OP_LEN, ROW_LEN, TENSOR_LEN, UNIT_LEN, header, op, read_i16, read_u16, read_u32, row, tensor,
};
use crate::kernel::{
    Affine, ConvShape, ConvWeights, Destination, ROW_KERNEL, TABLE_LEN, WeightBits, nibble_index, weight_index,
};
use crate::network::{AttentionShape, ConvMemory};
use crate::quant::{STATE_BITS, divide};
use crate::view::{I16Pairs, I32s, elements, part};

pub use check::{MAX_ELEMENTS, MAX_GROUP, MAX_RECORDS, MAX_TOKENS, ParseError};
pub use fault::Fault;

/// A valid `.mote` file.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    bytes: &'a [u8],
    header: &'a [u8; HEADER_LEN],
}

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Element {
    /// 8-bit with a zero point.
    I8,
    /// 16-bit around zero.
    I16,
}

impl Element {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Element::I8 => 1,
            Element::I16 => 2,
        }
    }
}

/// An activation in the arena: height x width x channels, channels last.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Tensor {
    /// Byte offset in the arena, a multiple of 4.
    pub offset: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
    /// Channels.
    pub channels: usize,
    /// Element type.
    pub element: Element,
    /// The stored value that stands for 0.0.
    pub zero: i32,
    /// The real value of one step; only tools use it.
    pub scale: f32,
}

impl Tensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Number of bytes.
    pub fn bytes(&self) -> usize {
        self.elements() * self.element.size()
    }

    /// Where it lies in the arena.
    pub fn range(&self) -> core::ops::Range<usize> {
        self.offset..self.offset + self.bytes()
    }

    /// Whether it shares memory with `other`.
    pub fn overlaps(&self, other: &Tensor) -> bool {
        overlap(&self.range(), &other.range())
    }
}

/// One row of the step table, coefficients in Q20 (see [`crate::step_table`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Row {
    /// `x0 = clamp(p x + q f)`: the state's factor.
    pub p: i32,
    /// The network output's factor in `x0`.
    pub q: i32,
    /// `x <- a x + b x0 + b_prev x0_prev + c z`: the state's factor.
    pub a: i32,
    /// The factor of `x0`.
    pub b: i32,
    /// The factor of the previous row's `x0`.
    pub b_prev: i32,
    /// The factor of fresh noise.
    pub c: i32,
    /// The state that this row expects is `signal x0 + noise z`: the data's factor.
    pub signal: i32,
    /// The noise's factor in the state that this row expects.
    pub noise: i32,
    /// The timestep that the network is conditioned on; only tools use it.
    pub timestep: u32,
}

/// One operation of the network.
// Not `expect`: with 32-bit addresses the difference is below what the lint minds.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives on the stack while the operation runs, and nothing is allocated"
)]
#[derive(Clone, Copy, Debug)]
pub enum Op<'a> {
    /// A convolution, possibly of a normalized input.
    Conv(ConvOp<'a>),
    /// Self-attention over the pixels of a tensor.
    Attention(AttentionOp),
}

impl Op<'_> {
    /// The tensors that it reads, the old content of its output apart.
    pub fn inputs(&self) -> impl Iterator<Item = u16> + use<> {
        let [first, second] = match self {
            Op::Conv(op) => [Some(op.input), op.norm.and_then(|norm| norm.parts[1]).map(|part| part.tensor)],
            Op::Attention(op) => [Some(op.input), None],
        };
        [first, second].into_iter().flatten()
    }

    /// The tensor that it writes.
    pub fn output(&self) -> u16 {
        match self {
            Op::Conv(op) => op.output,
            Op::Attention(op) => op.output,
        }
    }

    /// Its scratch: where in the arena.
    pub fn scratch(&self) -> core::ops::Range<usize> {
        let (at, len) = match self {
            Op::Conv(op) => (op.scratch, op.memory.len()),
            Op::Attention(op) => (op.scratch, op.shape.memory(op.pixels).len()),
        };
        at..at + len
    }
}

/// A convolution with its constants.
#[derive(Clone, Copy, Debug)]
pub struct ConvOp<'a> {
    /// Input tensor.
    pub input: u16,
    /// What is done to the input while it is read; with a second input, both are concatenated by channels.
    pub norm: Option<NormOp<'a>>,
    /// Output tensor.
    pub output: u16,
    /// Geometry; the input channels are those of all inputs.
    pub shape: ConvShape,
    /// Weights, biases, multipliers. There are no weights here if they have 4 bits.
    pub constants: ConvWeights<'a>,
    /// Weights of 4 bits: weight `i` of the packed order is at [`nibble_index`], plus 8.
    pub nibbles: Option<&'a [u8]>,
    /// Whether the output is replaced or added to.
    pub destination: Destination,
    /// Output pixels computed at a time.
    pub pixels: usize,
    /// Byte offset of the scratch in the arena.
    pub scratch: usize,
    /// How the scratch is divided.
    pub memory: ConvMemory,
}

/// GroupNorm, a folded scale and shift, an activation function: applied to rows while they are read.
#[derive(Clone, Copy, Debug)]
pub struct NormOp<'a> {
    /// The inputs: the second, if any, follows the first in the channels.
    pub parts: [Option<NormPart>; 2],
    /// The normalized value that stands for 0.0.
    pub zero: i8,
    /// Channels of all inputs.
    pub channels: usize,
    /// Whether [`NormOp::pairs`] has a part for each (row, class).
    pub conditioned: bool,
    /// Fractional bits of the gains.
    pub gain_bits: u32,
    /// Fractional bits of the biases.
    pub bias_bits: u32,
    /// Gain and bias: `[rows][classes][channels]` if conditioned, else `[channels]`.
    pub pairs: I16Pairs<'a>,
    /// The activation function.
    pub table: &'a [i8; TABLE_LEN],
}

/// One input of a normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct NormPart {
    /// The tensor.
    pub tensor: u16,
    /// Groups of its channels.
    pub groups: usize,
    /// Epsilon in squared steps, Q8.
    pub epsilon_q8: u32,
}

/// Self-attention: every pixel of the output is the average of the values of all pixels, weighted by the softmax of the
/// products of its query with their keys (Vaswani et al., *Attention Is All You Need*, 2017, equation 1).
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct AttentionOp {
    /// Input tensor, i8 around zero: queries, keys and values, each of all heads in order.
    pub input: u16,
    /// Output tensor, i8.
    pub output: u16,
    /// Geometry.
    pub shape: AttentionShape,
    /// From a sum of products of query and key to 1/256 of an octave.
    pub score_multiplier: i32,
    /// From a sum of probabilities (Q15) times values to the output.
    pub value_multiplier: i32,
    /// Queries computed at a time.
    pub pixels: usize,
    /// Byte offset of the scratch in the arena.
    pub scratch: usize,
}

impl ConvOp<'_> {
    /// The weight of output channel `channel` for window element `tap` (kernel row, kernel column, input channel).
    pub fn weight(&self, channel: usize, tap: usize) -> i8 {
        let index = weight_index(self.shape.padded_taps(), channel, tap);
        match self.nibbles {
            None => self.constants.weights.get(index).copied().unwrap_or_default(),
            Some(nibbles) => {
                let (at, up) = nibble_index(index);
                nibbles.get(at).map_or(0, |byte| (byte >> up & 15) as i8 - 8)
            }
        }
    }

    /// How many bits a weight has.
    pub fn weight_bits(&self) -> WeightBits {
        if self.nibbles.is_some() { WeightBits::Four } else { WeightBits::Eight }
    }
}

impl<'a> NormOp<'a> {
    /// The affine part for the `condition`-th (row, class) pair, `row * classes + class`.
    pub fn affine(&self, condition: usize) -> Affine<'a> {
        let part = if self.conditioned { condition } else { 0 };
        Affine {
            pairs: self.pairs.part(part * self.channels, self.channels),
            gain_bits: self.gain_bits,
            bias_bits: self.bias_bits,
        }
    }
}

impl<'a> Model<'a> {
    /// Checks everything and borrows the file.
    ///
    /// # Errors
    /// [`ParseError`] says which field is wrong and what it holds.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        check::check(bytes)
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// CRC-32 of the file's content: a short identity for logs.
    pub fn checksum(&self) -> u32 {
        read_u32(self.header, header::CHECKSUM)
    }

    /// The name given when the file was made.
    pub fn name(&self) -> &'a str {
        let bytes = self.name_bytes();
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Height of the sample in pixels.
    pub fn height(&self) -> usize {
        self.count(header::HEIGHT)
    }

    /// Width of the sample in pixels.
    pub fn width(&self) -> usize {
        self.count(header::WIDTH)
    }

    /// Channels of the sample.
    pub fn channels(&self) -> usize {
        self.count(header::CHANNELS)
    }

    /// Offset and scale of a channel: `offset + scale x` is the natural value of the sample's `x`, 4096 of the state's steps
    /// being 1. None for pictures, whose values are [`Generator::pixels`](crate::Generator::pixels), and past the last
    /// channel.
    pub fn unit(&self, channel: u16) -> Option<[f32; 2]> {
        let known = read_u32(self.header, header::UNITS_AT) != 0 && usize::from(channel) < self.channels();
        known.then(|| {
            let record = self.record::<UNIT_LEN>(header::UNITS_AT, channel);
            [0, 4].map(|at| f32::from_bits(read_u32(record, at)))
        })
    }

    /// Values of one sample: height x width x channels.
    pub fn sample_len(&self) -> usize {
        self.height() * self.width() * self.channels()
    }

    /// Number of classes; 1 for an unconditional model.
    pub fn classes(&self) -> u16 {
        read_u16(self.header, header::CLASSES)
    }

    /// Number of step-table rows: network passes for one sample.
    pub fn rows(&self) -> u16 {
        read_u16(self.header, header::ROWS)
    }

    /// Number of activation tensors.
    pub fn tensors(&self) -> u16 {
        read_u16(self.header, header::TENSORS)
    }

    /// Number of operations in one pass.
    pub fn ops(&self) -> u16 {
        read_u16(self.header, header::OPS)
    }

    /// Bytes of working memory that [`crate::Generator::new`] needs, exactly.
    pub fn arena_len(&self) -> usize {
        read_u32(self.header, header::ARENA_LEN) as usize
    }

    /// Smallest and largest `x0`, Q12.
    pub fn clamp(&self) -> [i16; 2] {
        [read_i16(self.header, header::CLAMP_LOW), read_i16(self.header, header::CLAMP_HIGH)]
    }

    /// The tensor that keeps the previous `x0`, where the sampler needs it.
    pub fn history(&self) -> Option<Tensor> {
        tensor_index(read_u16(self.header, header::HISTORY)).map(|index| self.tensor(index))
    }

    /// Tensor `index`, below [`Model::tensors`].
    pub fn tensor(&self, index: u16) -> Tensor {
        let record = self.tensor_record(index);
        Tensor {
            offset: read_u32(record, tensor::OFFSET) as usize,
            height: read_u16(record, tensor::HEIGHT) as usize,
            width: read_u16(record, tensor::WIDTH) as usize,
            channels: read_u16(record, tensor::CHANNELS) as usize,
            element: if record[tensor::ELEMENT] == 0 { Element::I8 } else { Element::I16 },
            zero: read_i16(record, tensor::ZERO) as i32,
            scale: f32::from_bits(read_u32(record, tensor::SCALE)),
        }
    }

    /// Row `index`, below [`Model::rows`].
    pub fn row(&self, index: u16) -> Row {
        let record = self.record::<ROW_LEN>(header::ROWS_AT, index);
        let coefficient = |i: usize| read_u32(record, row::COEFFICIENTS + 4 * i) as i32;
        Row {
            p: coefficient(0),
            q: coefficient(1),
            a: coefficient(2),
            b: coefficient(3),
            b_prev: coefficient(4),
            c: coefficient(5),
            signal: coefficient(6),
            noise: coefficient(7),
            timestep: read_u32(record, row::TIMESTEP),
        }
    }

    /// The row made for noise of this standard deviation on the data, Q12: that whose `noise / signal` is nearest by its ratio,
    /// the first of equals. For pictures 4096 is half the range, for signals their scale.
    pub fn row_for_noise(&self, deviation: u16) -> u16 {
        let mut nearest = (0, 0);
        for index in 0..self.rows() {
            let Row { signal, noise, .. } = self.row(index);
            let [made_for, wanted] = [(noise.max(0) as u64) << STATE_BITS, signal.max(0) as u64 * deviation as u64];
            let ratio = smaller_ratio(made_for, wanted);
            if ratio > nearest.1 {
                nearest = (index, ratio);
            }
        }
        nearest.0
    }

    /// Operation `index`, below [`Model::ops`].
    pub fn op(&self, index: u16) -> Op<'a> {
        let record = self.op_record(index);
        match record[op::KIND] {
            0 => Op::Conv(self.conv(record)),
            _ => Op::Attention(self.attention(record)),
        }
    }

    fn conv(&self, record: &[u8; OP_LEN]) -> ConvOp<'a> {
        let shape = self.conv_shape(record);
        let flags = record[op::FLAGS];
        let bits = weight_bits(flags);
        let stored = self.at(record, op::WEIGHTS_AT, bits.stored_len(&shape));
        let (weights, nibbles) = match bits {
            WeightBits::Eight => (elements(stored), None),
            WeightBits::Four => (&[][..], Some(stored)),
        };
        let constants = ConvWeights {
            weights,
            bias: I32s::new(self.at(record, op::BIAS_AT, 4 * shape.channels_out)),
            multipliers: I32s::new(self.at(record, op::MULTIPLIERS_AT, 4 * shape.channels_out)),
        };
        let (input, output) = (read_u16(record, op::INPUT), read_u16(record, op::OUTPUT));
        let pixels = read_u16(record, op::PIXELS) as usize;
        ConvOp {
            input,
            norm: if flags & op::NORMALIZE != 0 { self.norm(record, shape.channels_in) } else { None },
            output,
            shape,
            constants,
            nibbles,
            destination: if flags & op::ACCUMULATE != 0 { Destination::Accumulate } else { Destination::Overwrite },
            pixels,
            scratch: read_u32(record, op::SCRATCH) as usize,
            memory: self.conv_memory(record, &shape, pixels),
        }
    }

    fn conv_memory(&self, record: &[u8; OP_LEN], shape: &ConvShape, pixels: usize) -> ConvMemory {
        let input = self.tensor(read_u16(record, op::INPUT));
        let output = self.tensor(read_u16(record, op::OUTPUT));
        let normalized = record[op::FLAGS] & op::NORMALIZE != 0;
        let bits = weight_bits(record[op::FLAGS]);
        ConvMemory::new(shape, normalized, input.element, input.overlaps(&output), pixels, bits)
    }

    fn conv_shape(&self, record: &[u8; OP_LEN]) -> ConvShape {
        let input = self.tensor(read_u16(record, op::INPUT));
        let output = self.tensor(read_u16(record, op::OUTPUT));
        let second = tensor_index(read_u16(record, op::SECOND)).map_or(0, |second| self.tensor(second).channels);
        let kernel = match record[op::KERNEL] {
            op::ROW => ROW_KERNEL,
            side => [side.into(); 2],
        };
        ConvShape {
            input: [input.height, input.width],
            channels_in: input.channels + second,
            output: [output.height, output.width],
            channels_out: output.channels,
            kernel,
            stride: ConvShape::down_and_right(kernel, record[op::STRIDE].into()),
            upsample: ConvShape::down_and_right(kernel, record[op::UPSAMPLE].into()),
        }
    }

    /// `None` only if the table is not in the file, which parse refuses.
    fn norm(&self, record: &[u8; OP_LEN], channels: usize) -> Option<NormOp<'a>> {
        let part = |tensor_at, groups_at, epsilon_at| {
            tensor_index(read_u16(record, tensor_at)).map(|tensor| NormPart {
                tensor,
                groups: read_u16(record, groups_at) as usize,
                epsilon_q8: read_u32(record, epsilon_at),
            })
        };
        let conditioned = record[op::FLAGS] & op::CONDITIONED != 0;
        let parts = if conditioned { self.conditions() } else { 1 };
        Some(NormOp {
            parts: [part(op::INPUT, op::GROUPS, op::EPSILON), part(op::SECOND, op::SECOND_GROUPS, op::SECOND_EPSILON)],
            zero: record[op::ZERO] as i8,
            channels,
            conditioned,
            gain_bits: record[op::GAIN_BITS] as u32,
            bias_bits: record[op::BIAS_BITS] as u32,
            pairs: I16Pairs::new(self.at(record, op::PAIRS_AT, 4 * parts * channels)),
            table: elements(self.at(record, op::TABLE_AT, TABLE_LEN)).first_chunk()?,
        })
    }

    fn attention(&self, record: &[u8; OP_LEN]) -> AttentionOp {
        let (input, output) = (read_u16(record, op::INPUT), read_u16(record, op::OUTPUT));
        let (tokens, channels) = (self.tensor(output).height * self.tensor(output).width, self.tensor(output).channels);
        AttentionOp {
            input,
            output,
            shape: AttentionShape { tokens, channels, heads: record[op::HEADS] as usize },
            score_multiplier: read_u32(record, op::SCORE_MULTIPLIER) as i32,
            value_multiplier: read_u32(record, op::VALUE_MULTIPLIER) as i32,
            pixels: read_u16(record, op::PIXELS) as usize,
            scratch: read_u32(record, op::SCRATCH) as usize,
        }
    }

    /// Pairs of row and class.
    fn conditions(&self) -> usize {
        self.rows() as usize * self.classes() as usize
    }

    fn count(&self, at: usize) -> usize {
        read_u16(self.header, at) as usize
    }

    fn name_bytes(&self) -> &'a [u8] {
        part(self.bytes, read_u32(self.header, header::NAME_AT) as usize, self.count(header::NAME_LEN))
    }

    fn tensor_record(&self, index: u16) -> &'a [u8; TENSOR_LEN] {
        self.record(header::TENSORS_AT, index)
    }

    fn op_record(&self, index: u16) -> &'a [u8; OP_LEN] {
        self.record(header::OPS_AT, index)
    }

    /// Record `index` of the table that the header field `table_at` points to; zeros past the file's end.
    fn record<const N: usize>(&self, table_at: usize, index: u16) -> &'a [u8; N] {
        let start = read_u32(self.header, table_at) as usize + index as usize * N;
        part(self.bytes, start, N).first_chunk().unwrap_or(const { &[0; N] })
    }

    /// `len` bytes of the file at the offset that `record` holds in `field`.
    fn at(&self, record: &[u8; OP_LEN], field: usize, len: usize) -> &'a [u8] {
        part(self.bytes, read_u32(record, field) as usize, len)
    }
}

/// Whether two ranges have a byte in common.
pub(crate) fn overlap(a: &core::ops::Range<usize>, b: &core::ops::Range<usize>) -> bool {
    a.start < b.end && b.start < a.end
}

fn weight_bits(flags: u8) -> WeightBits {
    if flags & op::NIBBLES != 0 { WeightBits::Four } else { WeightBits::Eight }
}

fn tensor_index(field: u16) -> Option<u16> {
    (field != format::NO_TENSOR).then_some(field)
}

/// The smaller number over the larger one, Q32, each taken to 32 bits of the larger one, rounded down; 0 if both are.
fn smaller_ratio(a: u64, b: u64) -> u64 {
    let (small, large) = (a.min(b), a.max(b));
    let shift = large.max(1).leading_zeros();
    divide((small << shift >> 32) as u32, (large.max(1) << shift >> 32) as u32)
}
