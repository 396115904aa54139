//! Writing a `.mote` file into a caller's buffer.

use super::{HEADER_LEN, MAGIC, NO_TENSOR, OP_LEN, ROW_LEN, TENSOR_LEN, UNIT_LEN, VERSION, header, op, row, tensor};
use crate::kernel::{ConvShape, Destination, ROW_KERNEL, TABLE_LEN, WeightBits, nibble_index, weight_index};
use crate::message::messages;
use crate::model::{Element, Model, NormPart, ParseError, Row, Tensor};
use crate::network::{AttentionShape, ConvMemory};
use crate::plan;

/// Everything that a file holds.
#[derive(Clone, Copy, Debug)]
pub struct Spec<'a> {
    /// A name for people, at most 65,535 bytes.
    pub name: &'a str,
    /// Height, width and channels of the sample.
    pub sample: [u16; 3],
    /// Number of classes, at least 1.
    pub classes: u16,
    /// Smallest and largest `x0`, Q12.
    pub clamp: [i16; 2],
    /// Offset and scale of each channel's natural values, [`Model::unit`]; empty for pictures.
    pub units: &'a [[f32; 2]],
    /// The tensor that keeps the previous `x0`, if a row needs it.
    pub history: Option<u16>,
    /// The step table.
    pub rows: &'a [Row],
    /// Activations, placed in the arena; 0 is the state, 1 the network's output.
    pub tensors: &'a [Tensor],
    /// The network, in order.
    pub ops: &'a [OpSpec<'a>],
}

/// One operation and its constants; shapes come from the tensors. A constant that is missing is written as zero.
#[derive(Clone, Copy, Debug)]
pub enum OpSpec<'a> {
    /// A convolution.
    Conv(ConvSpec<'a>),
    /// Self-attention.
    Attention(AttentionSpec),
}

/// A convolution; see [`crate::kernel::ConvWeights`] for what the constants mean.
#[derive(Clone, Copy, Debug)]
pub struct ConvSpec<'a> {
    /// Input tensor.
    pub input: u16,
    /// What is done to the input while it is read.
    pub norm: Option<NormSpec<'a>>,
    /// Output tensor.
    pub output: u16,
    /// Height and width: `[1, 1]`, `[3, 3]` or [`ROW_KERNEL`].
    pub kernel: [u8; 2],
    /// 1 or 2, of the width alone with [`ROW_KERNEL`].
    pub stride: u8,
    /// 1 or 2, of the width alone with [`ROW_KERNEL`].
    pub upsample: u8,
    /// What happens to the output's content.
    pub destination: Destination,
    /// `[channels_out][kernel height][kernel width][channels_in]`, each within [`WeightBits::range`].
    pub weights: &'a [i8],
    /// How many bits a weight has in the file.
    pub weight_bits: WeightBits,
    /// `[channels_out]`.
    pub bias: &'a [i32],
    /// `[channels_out]`.
    pub multipliers: &'a [i32],
    /// Where it works.
    pub memory: OpMemory,
}

/// GroupNorm, scale and shift, an activation function.
#[derive(Clone, Copy, Debug)]
pub struct NormSpec<'a> {
    /// Groups of the input's channels.
    pub groups: u16,
    /// Epsilon in squared steps of the input, Q8.
    pub epsilon_q8: u32,
    /// A second input, whose channels follow the first's.
    pub second: Option<NormPart>,
    /// The normalized value that stands for 0.0.
    pub zero: i8,
    /// Fractional bits of the gains.
    pub gain_bits: u8,
    /// Fractional bits of the biases.
    pub bias_bits: u8,
    /// Whether `affine` has a part for each (row, class).
    pub conditioned: bool,
    /// Gain and bias pairs: `[rows][classes][channels]` if conditioned, else `[channels]`.
    pub affine: &'a [[i16; 2]],
    /// The activation function.
    pub table: &'a [i8; TABLE_LEN],
}

/// Self-attention; see [`crate::model::AttentionOp`].
#[derive(Clone, Copy, Debug)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct AttentionSpec {
    /// Input tensor: queries, keys and values.
    pub input: u16,
    /// Output tensor.
    pub output: u16,
    /// Heads, which divide the output's channels.
    pub heads: u8,
    /// From a sum of products of query and key to 1/256 of an octave.
    pub score_multiplier: i32,
    /// From a sum of probabilities (Q15) times values to the output.
    pub value_multiplier: i32,
    /// Where it works.
    pub memory: OpMemory,
}

/// Where an operation works: [`crate::plan::place`] fills it in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct OpMemory {
    /// Output pixels computed at a time.
    pub pixels: u16,
    /// Byte offset of the scratch in the arena, a multiple of 4.
    pub scratch: usize,
}

/// Why a file could not be written.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmitError {
    /// The buffer is shorter than [`emitted_len`].
    Buffer {
        /// Bytes given.
        len: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// A count or a length does not fit its field.
    TooLarge {
        /// What there are too many of.
        what: &'static str,
        /// How many.
        count: usize,
    },
    /// Units of some channels alone.
    Units {
        /// Units given.
        given: usize,
        /// The sample's channels.
        channels: u16,
    },
    /// A weight that does not fit its bits.
    Weight {
        /// The operation.
        op: usize,
        /// The weight.
        weight: i8,
    },
    /// The file would not parse.
    Invalid(ParseError),
}

messages! { EmitError {
    EmitError::Buffer { len, needed } => "a buffer of {} bytes, but the file needs {}", len, needed;
    EmitError::TooLarge { what, count } => "{} {} do not fit the format", count, what;
    EmitError::Units { given, channels } => "{} units for {} channels: give one a channel, or none", given, channels;
    EmitError::Weight { op, weight } => "operation {}: a weight of {} does not fit its bits", op, weight;
    EmitError::Invalid(error) => "the model would not run: {}", error;
} }

impl OpSpec<'_> {
    fn conv(&self) -> Option<&ConvSpec<'_>> {
        match self {
            OpSpec::Conv(conv) => Some(conv),
            OpSpec::Attention(_) => None,
        }
    }

    /// The tensors that it reads, the old content of its output apart.
    pub fn inputs(&self) -> impl Iterator<Item = u16> + use<> {
        let [first, second] = match self {
            OpSpec::Conv(conv) => [conv.input, conv.norm.and_then(|norm| norm.second).map_or(NO_TENSOR, |p| p.tensor)],
            OpSpec::Attention(attention) => [attention.input, NO_TENSOR],
        };
        [first, second].into_iter().filter(|&tensor| tensor != NO_TENSOR)
    }

    /// The tensor that it writes.
    pub fn output(&self) -> u16 {
        match self {
            OpSpec::Conv(conv) => conv.output,
            OpSpec::Attention(attention) => attention.output,
        }
    }

    /// Where it works.
    pub fn memory(&self) -> OpMemory {
        match self {
            OpSpec::Conv(conv) => conv.memory,
            OpSpec::Attention(attention) => attention.memory,
        }
    }

    /// [`OpSpec::memory`] to change.
    pub fn memory_mut(&mut self) -> &mut OpMemory {
        match self {
            OpSpec::Conv(conv) => &mut conv.memory,
            OpSpec::Attention(attention) => &mut attention.memory,
        }
    }

    /// Bytes of scratch for `pixels` output pixels at a time. `tensors` are placed, or `in_place` says that the input lies
    /// where the output goes.
    pub fn scratch_len(&self, tensors: &[Tensor], pixels: usize, in_place: bool) -> usize {
        match self {
            OpSpec::Conv(conv) => {
                let element = tensors.get(conv.input as usize).map_or(Element::I16, |tensor| tensor.element);
                let (normalized, bits) = (conv.norm.is_some(), conv.weight_bits);
                let memory = |shape| ConvMemory::new(&shape, normalized, element, in_place, pixels, bits);
                conv.shape(tensors).map_or(0, |shape| memory(shape).len())
            }
            OpSpec::Attention(attention) => attention.shape(tensors).map_or(0, |shape| shape.memory(pixels).len()),
        }
    }

    /// Bytes of scratch that weights of 4 bits are unpacked to.
    pub fn unpacked_len(&self, tensors: &[Tensor]) -> usize {
        match self {
            OpSpec::Conv(conv) => conv.shape(tensors).map_or(0, |shape| conv.weight_bits.unpacked_len(&shape)),
            OpSpec::Attention(_) => 0,
        }
    }

    /// Pixels of the output; 0 if a tensor does not exist.
    pub fn pixels(&self, tensors: &[Tensor]) -> usize {
        tensors.get(self.output() as usize).map_or(0, |tensor| tensor.height * tensor.width)
    }

    /// Bytes of the constants, each array a multiple of 4.
    fn data_len(&self, tensors: &[Tensor]) -> usize {
        match self {
            OpSpec::Conv(conv) => {
                let weights =
                    conv.shape(tensors).map_or(0, |shape| conv.weight_bits.stored_len(&shape) + 8 * shape.channels_out);
                weights + conv.norm.map_or(0, |norm| 4 * norm.affine.len() + TABLE_LEN)
            }
            OpSpec::Attention(_) => 0,
        }
    }
}

impl ConvSpec<'_> {
    /// The geometry; `None` if a tensor does not exist.
    pub fn shape(&self, tensors: &[Tensor]) -> Option<ConvShape> {
        let tensor = |index: u16| tensors.get(index as usize);
        let (input, output) = (tensor(self.input)?, tensor(self.output)?);
        let second = match self.norm.and_then(|norm| norm.second) {
            Some(part) => tensor(part.tensor)?.channels,
            None => 0,
        };
        let kernel = self.kernel.map(usize::from);
        Some(ConvShape {
            input: [input.height, input.width],
            channels_in: input.channels + second,
            output: [output.height, output.width],
            channels_out: output.channels,
            kernel,
            stride: ConvShape::down_and_right(kernel, self.stride.into()),
            upsample: ConvShape::down_and_right(kernel, self.upsample.into()),
        })
    }
}

impl AttentionSpec {
    /// The geometry; `None` if a tensor does not exist.
    pub fn shape(&self, tensors: &[Tensor]) -> Option<AttentionShape> {
        let output = tensors.get(self.output as usize)?;
        let (tokens, channels) = (output.height * output.width, output.channels);
        Some(AttentionShape { tokens, channels, heads: self.heads as usize })
    }
}

/// Bytes of the file that [`emit`] writes.
pub fn emitted_len(spec: &Spec<'_>) -> usize {
    let records = TENSOR_LEN * spec.tensors.len() + OP_LEN * spec.ops.len() + ROW_LEN * spec.rows.len();
    let data: usize = spec.ops.iter().map(|op| op.data_len(spec.tensors)).sum();
    HEADER_LEN + records + UNIT_LEN * spec.units.len() + spec.name.len().next_multiple_of(4) + data
}

/// Writes the file at the start of `buffer` and returns the model in it.
///
/// ```
/// use mote_core::format::{ConvSpec, OpMemory, OpSpec, Spec, emit, emitted_len};
/// use mote_core::kernel::{Destination, WeightBits};
/// use mote_core::model::{Element, Tensor};
/// use mote_core::plan::{Room, place};
/// use mote_core::step_table::StepRow;
///
/// // A network of one 1x1 convolution, which doubles the state: 64 x 2^27 / 2^32 = 2.
/// let state = Tensor {
///     offset: 0,
///     height: 8,
///     width: 8,
///     channels: 1,
///     element: Element::I16,
///     zero: 0,
///     scale: 1.0 / 4096.0,
/// };
/// let mut tensors = [state; 2];
/// let mut ops = [OpSpec::Conv(ConvSpec {
///     input: 0,
///     norm: None,
///     output: 1,
///     kernel: [1, 1],
///     stride: 1,
///     upsample: 1,
///     destination: Destination::Overwrite,
///     weights: &[64],
///     weight_bits: WeightBits::Eight,
///     bias: &[0],
///     multipliers: &[1 << 27],
///     memory: OpMemory::default(),
/// })];
/// let arena_len = place(&mut tensors, &mut ops, None, Room::Usual);
/// // Its output is the sample.
/// let row = StepRow { q: 1.0, b: 1.0, noise: 1.0, ..StepRow::default() }.quantize()?;
/// let spec = Spec {
///     name: "double",
///     sample: [8, 8, 1],
///     classes: 1,
///     clamp: [-4096, 4096],
///     units: &[],
///     history: None,
///     rows: &[row],
///     tensors: &tensors,
///     ops: &ops,
/// };
/// let mut file = vec![0; emitted_len(&spec)];
/// let model = emit(&spec, &mut file)?;
/// assert_eq!((model.name(), model.arena_len()), ("double", arena_len));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
///
/// # Errors
/// [`EmitError`]: the buffer is too short, a count does not fit, or the result is not a valid model.
pub fn emit<'b>(spec: &Spec<'_>, buffer: &'b mut [u8]) -> Result<Model<'b>, EmitError> {
    let needed = emitted_len(spec);
    let len = buffer.len();
    let out = buffer.get_mut(..needed).ok_or(EmitError::Buffer { len, needed })?;
    if u32::try_from(needed).is_err() {
        return Err(EmitError::TooLarge { what: "bytes", count: needed });
    }
    for (op, conv) in spec.ops.iter().enumerate().filter_map(|(index, op)| Some((index, op.conv()?))) {
        let [low, high] = conv.weight_bits.range();
        if let Some(&weight) = conv.weights.iter().find(|weight| !(low..=high).contains(*weight)) {
            return Err(EmitError::Weight { op, weight });
        }
    }
    out.fill(0);
    let tensors_at = HEADER_LEN;
    let ops_at = tensors_at + TENSOR_LEN * spec.tensors.len();
    let rows_at = ops_at + OP_LEN * spec.ops.len();
    let units_at = rows_at + ROW_LEN * spec.rows.len();
    let name_at = units_at + UNIT_LEN * spec.units.len();
    write_header(out, spec, [tensors_at, ops_at, rows_at, name_at])?;
    if spec.units.len() == usize::from(spec.sample[2]) {
        put(out, header::UNITS_AT, (units_at as u32).to_le_bytes());
    } else if !spec.units.is_empty() {
        return Err(EmitError::Units { given: spec.units.len(), channels: spec.sample[2] });
    }
    for (record, tensor) in out[tensors_at..ops_at].chunks_exact_mut(TENSOR_LEN).zip(spec.tensors) {
        write_tensor(record, tensor)?;
    }
    for (record, row) in out[rows_at..units_at].chunks_exact_mut(ROW_LEN).zip(spec.rows) {
        write_row(record, row);
    }
    for (record, unit) in out[units_at..name_at].chunks_exact_mut(4).zip(spec.units.as_flattened()) {
        record.copy_from_slice(&unit.to_le_bytes());
    }
    out[name_at..][..spec.name.len()].copy_from_slice(spec.name.as_bytes());
    let mut data_at = name_at + spec.name.len().next_multiple_of(4);
    for (index, op) in spec.ops.iter().enumerate() {
        let (records, data) = out.split_at_mut(data_at);
        write_op(&mut records[ops_at + OP_LEN * index..][..OP_LEN], op, spec.tensors, data_at, data);
        data_at += op.data_len(spec.tensors);
    }
    let checksum = super::checksum(&out[super::CHECKED_FROM..]);
    put(out, header::CHECKSUM, checksum.to_le_bytes());
    Model::parse(out).map_err(EmitError::Invalid)
}

fn put<const N: usize>(out: &mut [u8], at: usize, bytes: [u8; N]) {
    out[at..at + N].copy_from_slice(&bytes);
}

fn small(what: &'static str, count: usize) -> Result<[u8; 2], EmitError> {
    u16::try_from(count).map(u16::to_le_bytes).map_err(|_| EmitError::TooLarge { what, count })
}

fn write_header(out: &mut [u8], spec: &Spec<'_>, tables: [usize; 4]) -> Result<(), EmitError> {
    let arena_len = plan::arena_len(spec.tensors, spec.ops);
    put(out, header::MAGIC, MAGIC);
    put(out, header::VERSION, VERSION.to_le_bytes());
    put(out, header::FILE_LEN, (out.len() as u32).to_le_bytes());
    for (at, side) in [header::HEIGHT, header::WIDTH, header::CHANNELS].into_iter().zip(spec.sample) {
        put(out, at, side.to_le_bytes());
    }
    put(out, header::CLASSES, spec.classes.to_le_bytes());
    put(out, header::ROWS, small("rows", spec.rows.len())?);
    put(out, header::TENSORS, small("tensors", spec.tensors.len())?);
    put(out, header::OPS, small("operations", spec.ops.len())?);
    put(out, header::HISTORY, spec.history.unwrap_or(NO_TENSOR).to_le_bytes());
    put(out, header::CLAMP_LOW, spec.clamp[0].to_le_bytes());
    put(out, header::CLAMP_HIGH, spec.clamp[1].to_le_bytes());
    put(out, header::ARENA_LEN, (arena_len as u32).to_le_bytes());
    for (at, offset) in [header::TENSORS_AT, header::OPS_AT, header::ROWS_AT, header::NAME_AT].into_iter().zip(tables) {
        put(out, at, (offset as u32).to_le_bytes());
    }
    put(out, header::NAME_LEN, small("bytes of name", spec.name.len())?);
    Ok(())
}

fn write_tensor(record: &mut [u8], t: &Tensor) -> Result<(), EmitError> {
    put(record, tensor::OFFSET, (t.offset as u32).to_le_bytes());
    put(record, tensor::HEIGHT, small("rows of pixels", t.height)?);
    put(record, tensor::WIDTH, small("columns of pixels", t.width)?);
    put(record, tensor::CHANNELS, small("channels", t.channels)?);
    record[tensor::ELEMENT] = match t.element {
        Element::I8 => 0,
        Element::I16 => 1,
    };
    put(record, tensor::ZERO, (t.zero as i16).to_le_bytes());
    put(record, tensor::SCALE, t.scale.to_le_bytes());
    Ok(())
}

fn write_row(record: &mut [u8], r: &Row) {
    let coefficients = [r.p, r.q, r.a, r.b, r.b_prev, r.c, r.signal, r.noise];
    for (i, coefficient) in coefficients.into_iter().enumerate() {
        put(record, row::COEFFICIENTS + 4 * i, coefficient.to_le_bytes());
    }
    put(record, row::TIMESTEP, r.timestep.to_le_bytes());
}

fn write_op(record: &mut [u8], spec: &OpSpec<'_>, tensors: &[Tensor], data_at: usize, data: &mut [u8]) {
    let (inputs, output, memory) = (spec.inputs(), spec.output(), spec.memory());
    put(record, op::SECOND, NO_TENSOR.to_le_bytes());
    for (at, input) in [op::INPUT, op::SECOND].into_iter().zip(inputs) {
        put(record, at, input.to_le_bytes());
    }
    put(record, op::OUTPUT, output.to_le_bytes());
    put(record, op::PIXELS, memory.pixels.to_le_bytes());
    put(record, op::SCRATCH, (memory.scratch as u32).to_le_bytes());
    match spec {
        OpSpec::Conv(conv) => write_conv(record, conv, tensors, data_at, data),
        OpSpec::Attention(attention) => {
            record[op::KIND] = 1;
            record[op::HEADS] = attention.heads;
            put(record, op::SCORE_MULTIPLIER, attention.score_multiplier.to_le_bytes());
            put(record, op::VALUE_MULTIPLIER, attention.value_multiplier.to_le_bytes());
        }
    }
}

fn write_conv(record: &mut [u8], conv: &ConvSpec<'_>, tensors: &[Tensor], data_at: usize, data: &mut [u8]) {
    // Without a shape the record names a tensor that does not exist, which parsing reports.
    let Some(shape) = conv.shape(tensors) else { return };
    record[op::KIND] = 0;
    record[op::KERNEL] = match shape.kernel {
        [1, 1] => 1,
        [3, 3] => 3,
        ROW_KERNEL => op::ROW,
        // Parsing refuses it.
        _ => 0,
    };
    record[op::STRIDE] = conv.stride;
    record[op::UPSAMPLE] = conv.upsample;
    if conv.destination == Destination::Accumulate {
        record[op::FLAGS] |= op::ACCUMULATE;
    }
    let bias_at = conv.weight_bits.stored_len(&shape);
    let multipliers_at = bias_at + 4 * shape.channels_out;
    put(record, op::WEIGHTS_AT, (data_at as u32).to_le_bytes());
    put(record, op::BIAS_AT, ((data_at + bias_at) as u32).to_le_bytes());
    put(record, op::MULTIPLIERS_AT, ((data_at + multipliers_at) as u32).to_le_bytes());
    if conv.weight_bits == WeightBits::Four {
        record[op::FLAGS] |= op::NIBBLES;
        // Zeros, where nothing else follows.
        data[..bias_at].fill(0x88);
    }
    for (channel, weights) in conv.weights.chunks_exact(shape.taps().max(1)).take(shape.channels_out).enumerate() {
        for (tap, &weight) in weights.iter().enumerate() {
            let index = weight_index(shape.padded_taps(), channel, tap);
            match conv.weight_bits {
                WeightBits::Eight => data[index] = weight as u8,
                WeightBits::Four => {
                    let (at, up) = nibble_index(index);
                    data[at] = data[at] & !(15 << up) | ((weight + 8) as u8) << up;
                }
            }
        }
    }
    for (values, at) in [(conv.bias, bias_at), (conv.multipliers, multipliers_at)] {
        for (i, value) in values.iter().take(shape.channels_out).enumerate() {
            put(data, at + 4 * i, value.to_le_bytes());
        }
    }
    if let Some(norm) = &conv.norm {
        let table_at = multipliers_at + 4 * shape.channels_out;
        write_norm(record, norm, data_at + table_at, &mut data[table_at..]);
    }
}

fn write_norm(record: &mut [u8], norm: &NormSpec<'_>, table_at: usize, data: &mut [u8]) {
    record[op::FLAGS] |= op::NORMALIZE;
    if norm.conditioned {
        record[op::FLAGS] |= op::CONDITIONED;
    }
    record[op::ZERO] = norm.zero as u8;
    record[op::GAIN_BITS] = norm.gain_bits;
    record[op::BIAS_BITS] = norm.bias_bits;
    put(record, op::GROUPS, norm.groups.to_le_bytes());
    put(record, op::EPSILON, norm.epsilon_q8.to_le_bytes());
    if let Some(part) = norm.second {
        put(record, op::SECOND_GROUPS, (part.groups as u16).to_le_bytes());
        put(record, op::SECOND_EPSILON, part.epsilon_q8.to_le_bytes());
    }
    put(record, op::TABLE_AT, (table_at as u32).to_le_bytes());
    put(record, op::PAIRS_AT, ((table_at + TABLE_LEN) as u32).to_le_bytes());
    data[..TABLE_LEN].copy_from_slice(bytemuck::cast_slice(norm.table));
    for (i, value) in norm.affine.iter().flatten().enumerate() {
        put(data, TABLE_LEN + 2 * i, value.to_le_bytes());
    }
}
