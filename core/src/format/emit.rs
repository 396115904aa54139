//! Writing a `.mote` file into a caller's buffer.

use super::{HEADER_LEN, MAGIC, NO_TENSOR, OP_LEN, ROW_LEN, TENSOR_LEN, VERSION, header, op, row, tensor};
use crate::kernel::{ConvShape, Destination, SILU_TABLE_LEN, weight_index};
use crate::model::{Element, Model, NormPart, ParseError, Row, Tensor};

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
    /// A convolution; see [`crate::kernel::ConvWeights`] for the layouts.
    Conv {
        /// Input tensor.
        input: u16,
        /// Output tensor.
        output: u16,
        /// 1 or 3.
        kernel: u8,
        /// 1 or 2.
        stride: u8,
        /// 1 or 2.
        upsample: u8,
        /// What happens to the output's content.
        destination: Destination,
        /// `[channels_out][kernel][kernel][channels_in]`.
        weights: &'a [i8],
        /// `[channels_out]`.
        bias: &'a [i32],
        /// `[channels_out]`.
        multipliers: &'a [i32],
    },
    /// GroupNorm, scale and shift, SiLU.
    GroupNormSilu {
        /// Input.
        input: NormPart,
        /// Second input, whose channels follow the first's.
        second: Option<NormPart>,
        /// Output tensor.
        output: u16,
        /// Fractional bits of the gains.
        gain_bits: u8,
        /// Fractional bits of the biases.
        bias_bits: u8,
        /// Whether `affine` has a part for each (row, class).
        conditioned: bool,
        /// Gain and bias pairs: `[rows][classes][channels]` if conditioned, else `[channels]`.
        affine: &'a [[i16; 2]],
        /// The activation function.
        table: &'a [i8; SILU_TABLE_LEN],
    },
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
    /// The file would not parse.
    Invalid(ParseError),
}

impl core::fmt::Display for EmitError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            EmitError::Buffer { len, needed } => write!(f, "a buffer of {len} bytes, but the file needs {needed}"),
            EmitError::TooLarge { what, count } => write!(f, "{count} {what} do not fit the format"),
            EmitError::Invalid(error) => write!(f, "the model would not run: {error}"),
        }
    }
}

impl core::error::Error for EmitError {}

impl OpSpec<'_> {
    /// The convolution's geometry; `None` for another operation or a tensor that does not exist.
    fn conv_shape(&self, tensors: &[Tensor]) -> Option<ConvShape> {
        let OpSpec::Conv { input, output, kernel, stride, upsample, .. } = *self else { return None };
        let (input, output) = (tensors.get(input as usize)?, tensors.get(output as usize)?);
        Some(ConvShape {
            input: [input.height, input.width],
            channels_in: input.channels,
            output: [output.height, output.width],
            channels_out: output.channels,
            kernel: kernel as usize,
            stride: stride as usize,
            upsample: upsample as usize,
        })
    }

    /// Bytes of the constants, each array a multiple of 4.
    fn data_len(&self, tensors: &[Tensor]) -> usize {
        match self {
            OpSpec::Conv { .. } => {
                self.conv_shape(tensors).map_or(0, |shape| shape.packed_len() + 8 * shape.channels_out)
            }
            OpSpec::GroupNormSilu { affine, .. } => 4 * affine.len() + SILU_TABLE_LEN,
        }
    }
}

/// Bytes of the file that [`emit`] writes.
pub fn emitted_len(spec: &Spec<'_>) -> usize {
    let records = TENSOR_LEN * spec.tensors.len() + OP_LEN * spec.ops.len() + ROW_LEN * spec.rows.len();
    let data: usize = spec.ops.iter().map(|op| op.data_len(spec.tensors)).sum();
    HEADER_LEN + records + spec.name.len().next_multiple_of(4) + data
}

/// Writes the file at the start of `buffer` and returns the model in it.
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
    out.fill(0);
    let tensors_at = HEADER_LEN;
    let ops_at = tensors_at + TENSOR_LEN * spec.tensors.len();
    let rows_at = ops_at + OP_LEN * spec.ops.len();
    let name_at = rows_at + ROW_LEN * spec.rows.len();
    write_header(out, spec, [tensors_at, ops_at, rows_at, name_at])?;
    for (record, tensor) in out[tensors_at..ops_at].chunks_exact_mut(TENSOR_LEN).zip(spec.tensors) {
        write_tensor(record, tensor)?;
    }
    for (record, row) in out[rows_at..name_at].chunks_exact_mut(ROW_LEN).zip(spec.rows) {
        write_row(record, row);
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
    let tensors_end = spec.tensors.iter().map(|t| t.range().end).max().unwrap_or(0);
    let shapes = spec.ops.iter().filter_map(|op| op.conv_shape(spec.tensors));
    let arena_len = tensors_end.next_multiple_of(4) + shapes.map(|shape| shape.scratch_len()).max().unwrap_or(0);
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
    match *spec {
        OpSpec::Conv { input, output, kernel, stride, upsample, destination, weights, bias, multipliers } => {
            // Without a shape the record names a tensor that does not exist, which parsing reports.
            let Some(shape) = spec.conv_shape(tensors) else { return put(record, op::INPUT, input.to_le_bytes()) };
            let bias_at = shape.packed_len();
            let multipliers_at = bias_at + 4 * shape.channels_out;
            record[op::KIND] = 0;
            record[op::KERNEL] = kernel;
            record[op::STRIDE] = stride;
            record[op::UPSAMPLE] = upsample;
            record[op::ACCUMULATE] = (destination == Destination::Accumulate) as u8;
            put(record, op::INPUT, input.to_le_bytes());
            put(record, op::SECOND, NO_TENSOR.to_le_bytes());
            put(record, op::OUTPUT, output.to_le_bytes());
            put(record, op::DATA_AT, (data_at as u32).to_le_bytes());
            put(record, op::BIAS_AT, ((data_at + bias_at) as u32).to_le_bytes());
            put(record, op::MULTIPLIERS_AT, ((data_at + multipliers_at) as u32).to_le_bytes());
            for (channel, weights) in weights.chunks_exact(shape.taps()).take(shape.channels_out).enumerate() {
                for (tap, &weight) in weights.iter().enumerate() {
                    data[weight_index(shape.padded_taps(), channel, tap)] = weight as u8;
                }
            }
            for (values, at) in [(bias, bias_at), (multipliers, multipliers_at)] {
                for (i, value) in values.iter().take(shape.channels_out).enumerate() {
                    put(data, at + 4 * i, value.to_le_bytes());
                }
            }
        }
        OpSpec::GroupNormSilu { input, second, output, gain_bits, bias_bits, conditioned, affine, table } => {
            record[op::KIND] = 1;
            record[op::GAIN_BITS] = gain_bits;
            record[op::BIAS_BITS] = bias_bits;
            record[op::CONDITIONED] = conditioned as u8;
            put(record, op::INPUT, input.tensor.to_le_bytes());
            put(record, op::SECOND, second.map_or(NO_TENSOR, |part| part.tensor).to_le_bytes());
            put(record, op::OUTPUT, output.to_le_bytes());
            put(record, op::DATA_AT, (data_at as u32).to_le_bytes());
            put(record, op::BIAS_AT, ((data_at + SILU_TABLE_LEN) as u32).to_le_bytes());
            put(record, op::GROUPS, (input.groups as u16).to_le_bytes());
            put(record, op::EPSILON, input.epsilon_q8.to_le_bytes());
            if let Some(part) = second {
                put(record, op::SECOND_GROUPS, (part.groups as u16).to_le_bytes());
                put(record, op::SECOND_EPSILON, part.epsilon_q8.to_le_bytes());
            }
            data[..SILU_TABLE_LEN].copy_from_slice(bytemuck::cast_slice(table));
            for (i, value) in affine.iter().flatten().enumerate() {
                put(data, SILU_TABLE_LEN + 2 * i, value.to_le_bytes());
            }
        }
    }
}
