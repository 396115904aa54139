//! What makes a file valid. Every count, offset, shape, range, overlap and arena claim is checked here, and only here.

use super::{ConvOp, Element, Model, NormOp, NormPart, Tensor, tensor_index};
use crate::format::{self, header, op, read_u16, read_u32, tensor};
use crate::kernel::{BLOCK, ConvShape, Destination, QUAD, SILU_TABLE_LEN};

/// Why bytes are not a model that this version runs.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ParseError {
    /// Fewer bytes than a header.
    Truncated {
        /// Bytes given.
        len: usize,
    },
    /// The first four bytes are not `MOTE`.
    Magic {
        /// What they are.
        found: [u8; 4],
    },
    /// A format version that this crate does not read.
    Version {
        /// The file's version.
        found: u16,
    },
    /// The file is shorter or longer than its header says.
    Length {
        /// What the header says.
        stated: u32,
        /// Bytes given.
        found: usize,
    },
    /// The content does not match its checksum.
    Checksum {
        /// What the header says.
        stated: u32,
        /// What the content gives.
        computed: u32,
    },
    /// A header field has a value that it may not have.
    Header {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u32,
    },
    /// A tensor record is wrong.
    Tensor {
        /// Its index.
        index: u16,
        /// What is wrong.
        fault: &'static str,
    },
    /// An operation record is wrong.
    Op {
        /// Its index.
        index: u16,
        /// What is wrong.
        fault: &'static str,
    },
    /// The arena that the header claims is not what the tensors need.
    ArenaLen {
        /// What the header says.
        stated: u32,
        /// What the tensors need.
        needed: u64,
    },
}

impl core::fmt::Display for ParseError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            ParseError::Truncated { len } => {
                write!(f, "{len} bytes are fewer than a header of {}: the file is cut off", format::HEADER_LEN)
            }
            ParseError::Magic { found } => {
                write!(f, "the file begins with {found:?}, not \"MOTE\": it is not a .mote file")
            }
            ParseError::Version { found } => write!(
                f,
                "format version {found}, but this build reads version {}: export the model again, or update Mote",
                format::VERSION
            ),
            ParseError::Length { stated, found } => {
                write!(f, "the header states {stated} bytes, the file has {found}: it is cut off or has a tail")
            }
            ParseError::Checksum { stated, computed } => {
                write!(f, "checksum {computed:08x}, but the header states {stated:08x}: the file is damaged")
            }
            ParseError::Header { field, value } => write!(f, "header field {field} may not be {value}"),
            ParseError::Tensor { index, fault } => write!(f, "tensor {index}: {fault}"),
            ParseError::Op { index, fault } => write!(f, "operation {index}: {fault}"),
            ParseError::ArenaLen { stated, needed } => {
                write!(f, "the header states an arena of {stated} bytes, the tensors need {needed}")
            }
        }
    }
}

impl core::error::Error for ParseError {}

/// Largest number of operation or tensor records: the dataflow check is quadratic.
const MAX_RECORDS: u16 = 1024;
/// Largest number of elements in a normalization group.
const MAX_GROUP: usize = 1 << 16;
/// Largest number of elements in a tensor.
const MAX_ELEMENTS: u64 = 1 << 24;

pub(super) fn check(bytes: &[u8]) -> Result<Model<'_>, ParseError> {
    check_envelope(bytes)?;
    let model = Model { bytes };
    check_header(&model)?;
    let mut tensors_end = 0;
    for index in 0..model.tensors() {
        let end = check_tensor(&model, index).map_err(|fault| ParseError::Tensor { index, fault })?;
        tensors_end = tensors_end.max(end);
    }
    // Positions below are computed in usize: refuse early what the claimed arena cannot hold.
    let stated = model.arena_len() as u64;
    if tensors_end > stated {
        return Err(ParseError::ArenaLen { stated: stated as u32, needed: tensors_end });
    }
    check_samples(&model).map_err(|(index, fault)| ParseError::Tensor { index, fault })?;
    let mut scratch_len = 0;
    for index in 0..model.ops() {
        let len = check_op(&model, index).map_err(|fault| ParseError::Op { index, fault })?;
        scratch_len = scratch_len.max(len as u64);
    }
    let needed = tensors_end.next_multiple_of(4) + scratch_len;
    if needed != stated {
        return Err(ParseError::ArenaLen { stated: stated as u32, needed });
    }
    check_live(&model, model.ops(), format::OUTPUT)
        .map_err(|fault| ParseError::Tensor { index: format::OUTPUT, fault })?;
    Ok(model)
}

fn check_envelope(bytes: &[u8]) -> Result<(), ParseError> {
    if bytes.len() < format::HEADER_LEN {
        return Err(ParseError::Truncated { len: bytes.len() });
    }
    if bytes[..4] != format::MAGIC {
        return Err(ParseError::Magic { found: [bytes[0], bytes[1], bytes[2], bytes[3]] });
    }
    let version = read_u16(bytes, header::VERSION);
    if version != format::VERSION {
        return Err(ParseError::Version { found: version });
    }
    let stated = read_u32(bytes, header::FILE_LEN);
    if stated as u64 != bytes.len() as u64 {
        return Err(ParseError::Length { stated, found: bytes.len() });
    }
    let stated = read_u32(bytes, header::CHECKSUM);
    let computed = format::checksum(&bytes[format::CHECKED_FROM..]);
    if stated != computed {
        return Err(ParseError::Checksum { stated, computed });
    }
    Ok(())
}

fn check_header(model: &Model<'_>) -> Result<(), ParseError> {
    let bytes = model.bytes;
    let small = |field, at, allowed: core::ops::RangeInclusive<u16>| {
        let value = read_u16(bytes, at);
        if allowed.contains(&value) { Ok(()) } else { Err(ParseError::Header { field, value: value as u32 }) }
    };
    small("reserved", header::RESERVED, 0..=0)?;
    for at in [0, 2, 4] {
        small("reserved at the end", header::RESERVED_END + at, 0..=0)?;
    }
    small("height", header::HEIGHT, 1..=u16::MAX)?;
    small("width", header::WIDTH, 1..=u16::MAX)?;
    small("channels", header::CHANNELS, 1..=u16::MAX)?;
    small("classes", header::CLASSES, 1..=u16::MAX)?;
    small("rows", header::ROWS, 1..=u16::MAX - 1)?;
    small("tensors", header::TENSORS, 2..=MAX_RECORDS)?;
    small("operations", header::OPS, 1..=MAX_RECORDS)?;

    let table = |field, at, align: u32, len: u64| {
        let value = read_u32(bytes, at);
        let fits = value >= format::HEADER_LEN as u32
            && value.is_multiple_of(align)
            && value as u64 + len <= bytes.len() as u64;
        if fits { Ok(()) } else { Err(ParseError::Header { field, value }) }
    };
    table("tensor records", header::TENSORS_AT, 4, model.tensors() as u64 * format::TENSOR_LEN as u64)?;
    table("operation records", header::OPS_AT, 4, model.ops() as u64 * format::OP_LEN as u64)?;
    table("row records", header::ROWS_AT, 4, model.rows() as u64 * format::ROW_LEN as u64)?;
    let name_len = read_u16(bytes, header::NAME_LEN);
    table("name", header::NAME_AT, 1, name_len as u64)?;
    if core::str::from_utf8(model.data(header::NAME_AT, name_len as usize)).is_err() {
        return Err(ParseError::Header { field: "name", value: read_u32(bytes, header::NAME_AT) });
    }
    let [low, high] = model.clamp();
    if low > high {
        return Err(ParseError::Header { field: "clamp", value: low as u16 as u32 });
    }
    Ok(())
}

/// Returns the tensor's end in the arena.
fn check_tensor(model: &Model<'_>, index: u16) -> Result<u64, &'static str> {
    let record = model.record(header::TENSORS_AT, format::TENSOR_LEN, index);
    let side = |at| read_u16(record, at) as u64;
    let area = side(tensor::HEIGHT) * side(tensor::WIDTH);
    if record[tensor::RESERVED] != 0 || read_u16(record, tensor::RESERVED_END) != 0 {
        return Err("a reserved field is not zero");
    }
    if record[tensor::ELEMENT] > 1 {
        return Err("an element type that is neither i8 nor i16");
    }
    // The product of three u16 values fits u64.
    let elements = area * side(tensor::CHANNELS);
    if elements == 0 || elements > MAX_ELEMENTS {
        return Err("an empty shape, or one of more than 2^24 elements");
    }
    let offset = read_u32(record, tensor::OFFSET) as u64;
    if !offset.is_multiple_of(4) {
        return Err("an arena offset that is not a multiple of 4");
    }
    let t = model.tensor(index);
    let zeros = match t.element {
        Element::I8 => i8::MIN as i32..=i8::MAX as i32,
        Element::I16 => 0..=0,
    };
    if !zeros.contains(&t.zero) {
        return Err("a zero point outside its element's range");
    }
    if !(t.scale.is_finite() && t.scale > 0.0) {
        return Err("a scale that is not a positive number");
    }
    Ok(offset + elements * t.element.size() as u64)
}

/// The state, the output and the history have the sample's shape.
fn check_samples(model: &Model<'_>) -> Result<(), (u16, &'static str)> {
    let history = read_u16(model.bytes, header::HISTORY);
    for index in [format::STATE, format::OUTPUT, history] {
        if index == format::NO_TENSOR {
            continue;
        }
        if index >= model.tensors() || history <= format::OUTPUT {
            return Err((history, "not a tensor that can keep the previous x0"));
        }
        let t = model.tensor(index);
        let shape = [t.height, t.width, t.channels];
        if shape != [model.height(), model.width(), model.channels()] || t.element != Element::I16 {
            return Err((index, "state, output and history must be i16 of the sample's shape"));
        }
    }
    if let Some(t) = model.history() {
        if overlap(&t, &model.tensor(format::STATE)) {
            return Err((history, "the history overlaps the state"));
        }
    } else if (0..model.rows()).any(|index| model.row(index).b_prev != 0) {
        return Err((history, "a row uses the previous x0, but no tensor keeps it"));
    }
    Ok(())
}

/// Returns the bytes of scratch that the operation needs.
fn check_op(model: &Model<'_>, index: u16) -> Result<usize, &'static str> {
    let record = model.record(header::OPS_AT, format::OP_LEN, index);
    if record[op::RESERVED] != 0 || read_u32(record, op::RESERVED_END) != 0 {
        return Err("a reserved field is not zero");
    }
    let input = read_u16(record, op::INPUT);
    let second = read_u16(record, op::SECOND);
    let output = read_u16(record, op::OUTPUT);
    if input >= model.tensors() || output >= model.tensors() {
        return Err("a tensor that does not exist");
    }
    if second != format::NO_TENSOR && second >= model.tensors() {
        return Err("a second tensor that does not exist");
    }
    let target = model.tensor(output);
    let kept = [Some(model.tensor(format::STATE)), model.history()];
    if kept.iter().flatten().any(|t| overlap(t, &target)) {
        return Err("the output overlaps the state or the history");
    }
    for source in [Some(input), tensor_index(second)].into_iter().flatten() {
        if overlap(&model.tensor(source), &target) {
            return Err("the output overlaps an input");
        }
        check_live(model, index, source)?;
    }
    match record[op::KIND] {
        0 => check_conv(model, index, record),
        1 => check_norm(model, record).map(|()| 0),
        _ => Err("a kind that is neither convolution nor GroupNorm"),
    }
}

/// `value` holds what an earlier operation of the same pass wrote, not overwritten since, at operation `before`.
fn check_live(model: &Model<'_>, before: u16, value: u16) -> Result<(), &'static str> {
    if value == format::STATE {
        return Ok(());
    }
    if tensor_index(read_u16(model.bytes, header::HISTORY)) == Some(value) {
        return Err("the network reads the history");
    }
    let wanted = model.tensor(value);
    for index in (0..before).rev() {
        let written = read_u16(model.record(header::OPS_AT, format::OP_LEN, index), op::OUTPUT);
        if written == value {
            return Ok(());
        }
        if overlap(&model.tensor(written), &wanted) {
            return Err("a value is overwritten before it is read");
        }
    }
    Err("a value is read that no earlier operation wrote")
}

fn overlap(a: &Tensor, b: &Tensor) -> bool {
    let (a, b) = (a.range(), b.range());
    a.start < b.end && b.start < a.end
}

/// The `len` bytes that `record`'s `field` points to lie in the file.
fn check_data(model: &Model<'_>, record: &[u8], field: usize, len: u64) -> Result<(), &'static str> {
    let offset = read_u32(record, field) as u64;
    let fits = offset >= format::HEADER_LEN as u64 && offset + len <= model.bytes.len() as u64;
    if fits { Ok(()) } else { Err("constants that lie outside the file") }
}

fn check_conv(model: &Model<'_>, index: u16, record: &[u8]) -> Result<usize, &'static str> {
    let unused = read_u32(record, op::GROUPS) | read_u32(record, op::EPSILON) | read_u32(record, op::SECOND_EPSILON);
    if unused != 0 || read_u16(record, op::SECOND) != format::NO_TENSOR {
        return Err("a convolution with fields that only GroupNorm has");
    }
    if !matches!(record[op::KERNEL], 1 | 3) {
        return Err("a kernel side that is neither 1 nor 3");
    }
    if !matches!((record[op::STRIDE], record[op::UPSAMPLE]), (1 | 2, 1) | (1, 2)) {
        return Err("a stride and an enlargement that are not 1 and 1, 2 and 1, or 1 and 2");
    }
    if record[op::ACCUMULATE] > 1 {
        return Err("an accumulate flag that is neither 0 nor 1");
    }
    let shape = model.conv_shape(record);
    if shape.output != ConvShape::output_of(shape.input, shape.stride, shape.upsample) {
        return Err("an output shape that the input, stride and enlargement do not give");
    }
    let channels = shape.channels_out as u64;
    let blocks = channels.div_ceil(BLOCK as u64);
    check_data(model, record, op::DATA_AT, blocks * (BLOCK * shape.padded_taps()) as u64)?;
    check_data(model, record, op::BIAS_AT, 4 * channels)?;
    check_data(model, record, op::MULTIPLIERS_AT, 4 * channels)?;
    let conv = model.conv(record);
    if conv.destination == Destination::Accumulate {
        check_live(model, index, conv.output)?;
    }
    check_accumulators(model, &conv)?;
    Ok(shape.scratch_len())
}

/// For every output channel, padded ones too, `|bias| + max|input| * sum|weights|` fits an `i32`, and so does every partial
/// sum.
fn check_accumulators(model: &Model<'_>, conv: &ConvOp<'_>) -> Result<(), &'static str> {
    let largest = match model.tensor(conv.input).element {
        Element::I8 => 1u64 << 7,
        Element::I16 => 1 << 15,
    };
    let mut constants = conv.constants.bias.iter().zip(conv.constants.multipliers.iter());
    for block in conv.constants.weights.chunks_exact(BLOCK * conv.shape.padded_taps()) {
        let mut sums = [0u64; BLOCK];
        for (index, quad) in block.chunks_exact(QUAD).enumerate() {
            sums[index % BLOCK] += quad.iter().map(|w| w.unsigned_abs() as u64).sum::<u64>();
        }
        for sum in sums {
            let (bias, multiplier) = constants.next().unwrap_or((0, 1));
            if multiplier < 1 {
                return Err("a multiplier below 1");
            }
            if bias.unsigned_abs() as u64 + largest * sum > i32::MAX as u64 {
                return Err("weights and bias that can overflow the accumulator");
            }
        }
    }
    Ok(())
}

fn check_norm(model: &Model<'_>, record: &[u8]) -> Result<(), &'static str> {
    if record[op::GAIN_BITS] > 15 || record[op::BIAS_BITS] > 15 {
        return Err("more than 15 fractional bits");
    }
    if record[op::CONDITIONED] > 1 || record[op::ACCUMULATE] != 0 || read_u32(record, op::MULTIPLIERS_AT) != 0 {
        return Err("a GroupNorm with a flag or field that it does not have");
    }
    let output = model.tensor(read_u16(record, op::OUTPUT));
    if output.element != Element::I8 {
        return Err("a GroupNorm whose output is not i8");
    }
    let parts = if record[op::CONDITIONED] == 1 { model.conditions() as u64 } else { 1 };
    check_data(model, record, op::BIAS_AT, 4 * parts * output.channels as u64)?;
    check_data(model, record, op::DATA_AT, SILU_TABLE_LEN as u64)?;
    let norm: NormOp<'_> = model.norm(record);
    let mut channels = 0;
    for part in norm.inputs.into_iter().flatten() {
        channels += check_part(&model.tensor(part.tensor), &part, &output)?;
    }
    let second_fields = read_u16(record, op::SECOND_GROUPS) as u32 | read_u32(record, op::SECOND_EPSILON);
    if norm.inputs[1].is_none() && second_fields != 0 {
        return Err("fields of a second input without a second input");
    }
    if channels == output.channels { Ok(()) } else { Err("input channels that do not add up to the output's") }
}

/// Returns the input's channels.
fn check_part(input: &Tensor, part: &NormPart, output: &Tensor) -> Result<usize, &'static str> {
    if [input.height, input.width] != [output.height, output.width] {
        return Err("an input of another height or width than the output");
    }
    if part.groups == 0 || !input.channels.is_multiple_of(part.groups) {
        return Err("groups that do not divide the channels");
    }
    if input.elements() / part.groups > MAX_GROUP {
        return Err("a group of more than 65536 elements");
    }
    Ok(input.channels)
}
