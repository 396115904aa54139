//! What makes a file valid. Every count, offset, shape, range, overlap and arena claim is checked here, and only here.

use core::ops::Range;

use super::fault::Fault;
use super::{ConvOp, Element, Model, NormPart, Op, Tensor, overlap, tensor_index, weight_bits};
use crate::format::{self, OP_LEN, header, op, read_u16, read_u32, tensor};
use crate::kernel::{BLOCK, ConvShape, Destination, QUAD, TABLE_LEN, WeightBits, quads};
use crate::message::messages;
use crate::network::{AttentionShape, ConvMemory, input_lead};

/// Why bytes are not a model that this version runs.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        fault: Fault,
    },
    /// An operation record is wrong.
    Op {
        /// Its index.
        index: u16,
        /// What is wrong.
        fault: Fault,
    },
    /// The arena that the header claims is not what the tensors need.
    ArenaLen {
        /// What the header says.
        stated: u32,
        /// What the tensors need.
        needed: u64,
    },
}

messages! { ParseError {
    ParseError::Truncated { len } =>
        "{} bytes are fewer than a header of {}: the file is cut off", len, format::HEADER_LEN;
    ParseError::Magic { found } =>
        "the file begins with the bytes {:08x}, not \"MOTE\": it is not a .mote file", u32::from_be_bytes(found);
    ParseError::Version { found } =>
        "format version {}, but this build reads version {}: export the model again, or update Mote",
        found, format::VERSION;
    ParseError::Length { stated, found } =>
        "the header states {} bytes, the file has {}: it is cut off or has a tail", stated, found;
    ParseError::Checksum { stated, computed } =>
        "checksum {:08x}, but the header states {:08x}: the file is damaged", computed, stated;
    ParseError::Header { field, value } => "header field {} may not be {}", field, value;
    ParseError::Tensor { index, fault } => "tensor {}: {}", index, fault;
    ParseError::Op { index, fault } => "operation {}: {}", index, fault;
    ParseError::ArenaLen { stated, needed } =>
        "the header states an arena of {} bytes, the tensors need {}", stated, needed;
} }

/// Largest number of operation or tensor records: the dataflow check is quadratic.
pub const MAX_RECORDS: u16 = 1024;
/// Largest number of elements in a normalization group.
pub const MAX_GROUP: usize = 1 << 16;
/// Largest number of pixels of an attention.
pub const MAX_TOKENS: usize = 4096;
/// Largest number of elements in a tensor.
pub const MAX_ELEMENTS: u64 = 1 << 24;

pub(super) fn check(bytes: &[u8]) -> Result<Model<'_>, ParseError> {
    let header = bytes.first_chunk().ok_or(ParseError::Truncated { len: bytes.len() })?;
    let model = Model { bytes, header };
    check_envelope(&model)?;
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
    let mut end = tensors_end;
    for index in 0..model.ops() {
        let scratch_end = check_op(&model, index, stated).map_err(|fault| ParseError::Op { index, fault })?;
        end = end.max(scratch_end);
    }
    let needed = end.next_multiple_of(4);
    if needed != stated {
        return Err(ParseError::ArenaLen { stated: stated as u32, needed });
    }
    check_live(&model, model.ops(), format::OUTPUT)
        .map_err(|fault| ParseError::Tensor { index: format::OUTPUT, fault })?;
    Ok(model)
}

fn check_envelope(model: &Model<'_>) -> Result<(), ParseError> {
    let Model { bytes, header: fields } = *model;
    let found = [fields[0], fields[1], fields[2], fields[3]];
    if found != format::MAGIC {
        return Err(ParseError::Magic { found });
    }
    let version = read_u16(fields, header::VERSION);
    if version != format::VERSION {
        return Err(ParseError::Version { found: version });
    }
    let stated = read_u32(fields, header::FILE_LEN);
    if stated as u64 != bytes.len() as u64 {
        return Err(ParseError::Length { stated, found: bytes.len() });
    }
    let stated = model.checksum();
    let computed = format::checksum(bytes.get(format::CHECKED_FROM..).unwrap_or_default());
    if stated != computed {
        return Err(ParseError::Checksum { stated, computed });
    }
    Ok(())
}

fn check_header(model: &Model<'_>) -> Result<(), ParseError> {
    let Model { bytes, header: fields } = *model;
    let small = |field, at, allowed: core::ops::RangeInclusive<u16>| {
        let value = read_u16(fields, at);
        if allowed.contains(&value) { Ok(()) } else { Err(ParseError::Header { field, value: value as u32 }) }
    };
    small("reserved", header::RESERVED, 0..=0)?;
    small("reserved at the end", header::RESERVED_END, 0..=0)?;
    small("height", header::HEIGHT, 1..=u16::MAX)?;
    small("width", header::WIDTH, 1..=u16::MAX)?;
    small("channels", header::CHANNELS, 1..=u16::MAX)?;
    small("classes", header::CLASSES, 1..=u16::MAX)?;
    small("rows", header::ROWS, 1..=u16::MAX - 1)?;
    small("tensors", header::TENSORS, 2..=MAX_RECORDS)?;
    small("operations", header::OPS, 1..=MAX_RECORDS)?;

    let table = |field, at, align: u32, len: u64| {
        let value = read_u32(fields, at);
        let fits = value >= format::HEADER_LEN as u32
            && value.is_multiple_of(align)
            && value as u64 + len <= bytes.len() as u64;
        if fits { Ok(()) } else { Err(ParseError::Header { field, value }) }
    };
    table("tensor records", header::TENSORS_AT, 4, model.tensors() as u64 * format::TENSOR_LEN as u64)?;
    table("operation records", header::OPS_AT, 4, model.ops() as u64 * format::OP_LEN as u64)?;
    table("row records", header::ROWS_AT, 4, model.rows() as u64 * format::ROW_LEN as u64)?;
    table("name", header::NAME_AT, 1, read_u16(fields, header::NAME_LEN) as u64)?;
    if core::str::from_utf8(model.name_bytes()).is_err() {
        return Err(ParseError::Header { field: "name", value: read_u32(fields, header::NAME_AT) });
    }
    if read_u32(fields, header::UNITS_AT) != 0 {
        table("units", header::UNITS_AT, 4, model.channels() as u64 * format::UNIT_LEN as u64)?;
        let usable = |[offset, scale]: [f32; 2]| offset.is_finite() && scale.is_finite() && scale > 0.0;
        if !(0..model.channels() as u16).all(|channel| model.unit(channel).is_some_and(usable)) {
            return Err(ParseError::Header { field: "units", value: read_u32(fields, header::UNITS_AT) });
        }
    }
    let [low, high] = model.clamp();
    if low > high {
        return Err(ParseError::Header { field: "clamp", value: low as u16 as u32 });
    }
    Ok(())
}

/// Returns the tensor's end in the arena.
fn check_tensor(model: &Model<'_>, index: u16) -> Result<u64, Fault> {
    let record = model.tensor_record(index);
    let side = |at| read_u16(record, at) as u64;
    let area = side(tensor::HEIGHT) * side(tensor::WIDTH);
    if record[tensor::RESERVED] != 0 || read_u16(record, tensor::RESERVED_END) != 0 {
        return Err(Fault::Reserved);
    }
    if record[tensor::ELEMENT] > 1 {
        return Err(Fault::Element);
    }
    // The product of three u16 values fits u64.
    let elements = area * side(tensor::CHANNELS);
    if elements == 0 || elements > MAX_ELEMENTS {
        return Err(Fault::Elements);
    }
    let offset = read_u32(record, tensor::OFFSET) as u64;
    if !offset.is_multiple_of(4) {
        return Err(Fault::Offset);
    }
    let t = model.tensor(index);
    let zeros = match t.element {
        Element::I8 => i8::MIN as i32..=i8::MAX as i32,
        Element::I16 => 0..=0,
    };
    if !zeros.contains(&t.zero) {
        return Err(Fault::Zero);
    }
    if !(t.scale.is_finite() && t.scale > 0.0) {
        return Err(Fault::Scale);
    }
    Ok(offset + elements * t.element.size() as u64)
}

/// The state, the output and the history have the sample's shape.
fn check_samples(model: &Model<'_>) -> Result<(), (u16, Fault)> {
    let history = read_u16(model.header, header::HISTORY);
    for index in [format::STATE, format::OUTPUT, history] {
        if index == format::NO_TENSOR {
            continue;
        }
        if index >= model.tensors() || history <= format::OUTPUT {
            return Err((history, Fault::History));
        }
        let t = model.tensor(index);
        let shape = [t.height, t.width, t.channels];
        if shape != [model.height(), model.width(), model.channels()] || t.element != Element::I16 {
            return Err((index, Fault::SampleShape));
        }
    }
    if let Some(t) = model.history() {
        if t.overlaps(&model.tensor(format::STATE)) {
            return Err((history, Fault::HistoryOverlapsState));
        }
    } else if (0..model.rows()).any(|index| model.row(index).b_prev != 0) {
        return Err((history, Fault::HistoryMissing));
    }
    Ok(())
}

/// Returns the end of the operation's scratch, at most `arena`.
fn check_op(model: &Model<'_>, index: u16, arena: u64) -> Result<u64, Fault> {
    let record = model.op_record(index);
    let second = read_u16(record, op::SECOND);
    let named = [read_u16(record, op::INPUT), read_u16(record, op::OUTPUT)];
    if named.iter().any(|&tensor| tensor >= model.tensors()) {
        return Err(Fault::NoTensor);
    }
    if second != format::NO_TENSOR && second >= model.tensors() {
        return Err(Fault::NoSecondTensor);
    }
    let scratch_len = match record[op::KIND] {
        0 => check_conv(model, record, arena)?,
        1 => check_attention(model, record)?,
        _ => return Err(Fault::Kind),
    };
    let scratch_at = read_u32(record, op::SCRATCH) as u64;
    let scratch_end = scratch_at + scratch_len;
    if !scratch_at.is_multiple_of(4) {
        return Err(Fault::ScratchOffset);
    }
    if scratch_end > arena {
        return Err(Fault::ScratchEnd);
    }
    check_memory(model, index, &model.op(index))?;
    Ok(scratch_end)
}

/// What the operation reads is there, and it writes only where it may.
fn check_memory(model: &Model<'_>, index: u16, op: &Op<'_>) -> Result<(), Fault> {
    let (output, scratch) = (model.tensor(op.output()), op.scratch());
    for kept in [Some(model.tensor(format::STATE)), model.history()].into_iter().flatten() {
        if kept.overlaps(&output) || overlap(&kept.range(), &scratch) {
            return Err(Fault::OverlapsKept);
        }
    }
    if overlap(&output.range(), &scratch) {
        return Err(Fault::ScratchOverlapsOutput);
    }
    for source in op.inputs() {
        check_live(model, index, source)?;
        let input = model.tensor(source);
        if overlap(&input.range(), &scratch) {
            return Err(Fault::ScratchOverlapsInput);
        }
        if input.overlaps(&output) {
            check_in_place(op, &input, &output)?;
        }
    }
    match op {
        Op::Conv(conv) if conv.destination == Destination::Accumulate => check_live(model, index, conv.output),
        _ => Ok(()),
    }
}

/// The output never overtakes the rows of the input that are still to be read.
fn check_in_place(op: &Op<'_>, input: &Tensor, output: &Tensor) -> Result<(), Fault> {
    let Op::Conv(conv) = op else { return Err(Fault::AttentionInPlace) };
    if conv.destination == Destination::Accumulate {
        return Err(Fault::SumInPlace);
    }
    let row_len = input.bytes() / input.height.max(1);
    let lead = input_lead(&conv.shape, conv.pixels, row_len, output.channels * output.element.size());
    if (input.offset as i64 - output.offset as i64) < lead {
        return Err(Fault::OutputOvertakesInput);
    }
    Ok(())
}

/// `value` holds what an earlier operation of the same pass wrote, not overwritten since, at operation `before`.
fn check_live(model: &Model<'_>, before: u16, value: u16) -> Result<(), Fault> {
    if value == format::STATE {
        return Ok(());
    }
    if tensor_index(read_u16(model.header, header::HISTORY)) == Some(value) {
        return Err(Fault::ReadsHistory);
    }
    let wanted = model.tensor(value).range();
    for index in (0..before).rev() {
        let op = model.op(index);
        if op.output() == value {
            return Ok(());
        }
        let writes: [Range<usize>; 2] = [model.tensor(op.output()).range(), op.scratch()];
        if writes.iter().any(|range| overlap(range, &wanted)) {
            return Err(Fault::Overwritten);
        }
    }
    Err(Fault::NeverWritten)
}

/// The `len` bytes that `record`'s `field` points to lie in the file.
fn check_data(model: &Model<'_>, record: &[u8; OP_LEN], field: usize, len: u64) -> Result<(), Fault> {
    let offset = read_u32(record, field) as u64;
    let fits = offset >= format::HEADER_LEN as u64 && offset + len <= model.bytes.len() as u64;
    if fits { Ok(()) } else { Err(Fault::ConstantsOutside) }
}

/// Returns the bytes of scratch.
fn check_conv(model: &Model<'_>, record: &[u8; OP_LEN], arena: u64) -> Result<u64, Fault> {
    if !matches!(record[op::KERNEL], 1 | 3 | op::ROW) {
        return Err(Fault::Kernel);
    }
    if !matches!((record[op::STRIDE], record[op::UPSAMPLE]), (1 | 2, 1) | (1, 2)) {
        return Err(Fault::Stride);
    }
    let flags = record[op::FLAGS];
    if flags & !(op::ACCUMULATE | op::NORMALIZE | op::CONDITIONED | op::NIBBLES) != 0 {
        return Err(Fault::Flag);
    }
    let normalized = flags & op::NORMALIZE != 0;
    if !normalized {
        let fields = [op::GROUPS, op::EPSILON, op::SECOND_EPSILON, op::TABLE_AT, op::PAIRS_AT];
        let unused = fields.iter().fold(0, |all, &field| all | read_u32(record, field));
        let bytes = record[op::ZERO] | record[op::GAIN_BITS] | record[op::BIAS_BITS] | flags & op::CONDITIONED;
        if unused != 0 || bytes != 0 || read_u16(record, op::SECOND) != format::NO_TENSOR {
            return Err(Fault::UnusedNormalization);
        }
    }
    let shape = model.conv_shape(record);
    if shape.output != ConvShape::output_of(shape.input, shape.stride, shape.upsample) {
        return Err(Fault::OutputShape);
    }
    let pixels = read_u16(record, op::PIXELS) as usize;
    if pixels == 0 || pixels > shape.pixels().next_multiple_of(2) {
        return Err(Fault::Pixels);
    }
    // Everything that is computed in usize from here on is at most the arena's claimed length.
    let work = 2 * shape.padded_taps() as u64 * (BLOCK + pixels) as u64;
    let element = if normalized { Element::I8 } else { model.tensor(read_u16(record, op::INPUT)).element };
    let row = shape.input[1] as u64 * shape.channels_in as u64 * element.size() as u64;
    let channels = shape.channels_out as u64;
    let packed = channels.div_ceil(BLOCK as u64) * (BLOCK * shape.padded_taps()) as u64;
    let bits = weight_bits(flags);
    let unpacked = if bits == WeightBits::Four { packed } else { 0 };
    if work > arena || unpacked > arena || shape.rows_of(pixels) as u64 * row > arena {
        return Err(Fault::ScratchLen);
    }
    check_data(model, record, op::WEIGHTS_AT, if bits == WeightBits::Four { packed / 2 } else { packed })?;
    check_data(model, record, op::BIAS_AT, 4 * channels)?;
    check_data(model, record, op::MULTIPLIERS_AT, 4 * channels)?;
    if normalized {
        check_norm(model, record, &shape)?;
    }
    let conv = model.conv(record);
    check_accumulators(model, &conv)?;
    let ConvMemory { lines, ring, work, weights, .. } = conv.memory;
    Ok(lines as u64 + ring as u64 + work as u64 + weights as u64)
}

/// For every output channel, padded ones too, `|bias| + max|input| * sum|weights|` fits an `i32`, and so does every partial
/// sum.
fn check_accumulators(model: &Model<'_>, conv: &ConvOp<'_>) -> Result<(), Fault> {
    let largest = match (conv.norm, model.tensor(conv.input).element) {
        (Some(_), _) | (None, Element::I8) => 1u64 << 7,
        (None, Element::I16) => 1 << 15,
    };
    let mut constants = conv.constants.bias.iter().zip(conv.constants.multipliers.iter());
    let mut check_block = |sums: [u64; BLOCK]| {
        for sum in sums {
            let (bias, multiplier) = constants.next().unwrap_or((0, 1));
            if multiplier < 1 {
                return Err(Fault::Multiplier);
            }
            if bias.unsigned_abs() as u64 + largest * sum > i32::MAX as u64 {
                return Err(Fault::Accumulator);
            }
        }
        Ok(())
    };
    let block_len = (BLOCK * conv.shape.padded_taps()).max(2);
    for block in conv.constants.weights.chunks_exact(block_len) {
        if block.contains(&i8::MIN) {
            return Err(Fault::Weight);
        }
        check_block(magnitudes(block.as_chunks().0.iter().copied()))?;
    }
    for block in conv.nibbles.unwrap_or_default().chunks_exact(block_len / 2) {
        check_block(magnitudes(block.as_chunks().0.iter().flat_map(|&nibbles| quads(nibbles))))?;
    }
    Ok(())
}

/// The sum of the magnitudes of each channel's weights in a block.
fn magnitudes(quads: impl Iterator<Item = [i8; QUAD]>) -> [u64; BLOCK] {
    let mut sums = [0; BLOCK];
    for (index, quad) in quads.enumerate() {
        sums[index % BLOCK] += quad.iter().map(|w| w.unsigned_abs() as u64).sum::<u64>();
    }
    sums
}

fn check_norm(model: &Model<'_>, record: &[u8; OP_LEN], shape: &ConvShape) -> Result<(), Fault> {
    if record[op::GAIN_BITS] > 15 || record[op::BIAS_BITS] > 15 {
        return Err(Fault::FractionalBits);
    }
    let parts = if record[op::FLAGS] & op::CONDITIONED != 0 { model.conditions() as u64 } else { 1 };
    check_data(model, record, op::PAIRS_AT, 4 * parts * shape.channels_in as u64)?;
    check_data(model, record, op::TABLE_AT, TABLE_LEN as u64)?;
    let parts = model.norm(record, shape.channels_in).map_or([None; 2], |norm| norm.parts);
    for part in parts.into_iter().flatten() {
        check_part(&model.tensor(part.tensor), &part, shape)?;
    }
    let second_fields = read_u16(record, op::SECOND_GROUPS) as u32 | read_u32(record, op::SECOND_EPSILON);
    if parts[1].is_none() && second_fields != 0 {
        return Err(Fault::UnusedSecond);
    }
    Ok(())
}

fn check_part(input: &Tensor, part: &NormPart, shape: &ConvShape) -> Result<(), Fault> {
    if [input.height, input.width] != shape.input {
        return Err(Fault::InputShapes);
    }
    if part.groups == 0 || !input.channels.is_multiple_of(part.groups) {
        return Err(Fault::Groups);
    }
    if input.elements() / part.groups.max(1) > MAX_GROUP {
        return Err(Fault::GroupLen);
    }
    Ok(())
}

/// Returns the bytes of scratch.
fn check_attention(model: &Model<'_>, record: &[u8; OP_LEN]) -> Result<u64, Fault> {
    let unused = [op::MULTIPLIERS_AT, op::GROUPS, op::EPSILON, op::SECOND_EPSILON, op::TABLE_AT, op::PAIRS_AT];
    let flags = read_u32(record, op::FLAGS);
    if unused.iter().any(|&field| read_u32(record, field) != 0)
        || flags != 0
        || read_u16(record, op::STRIDE) != 0
        || read_u16(record, op::SECOND) != format::NO_TENSOR
    {
        return Err(Fault::UnusedConvolution);
    }
    let input = model.tensor(read_u16(record, op::INPUT));
    let output = model.tensor(read_u16(record, op::OUTPUT));
    if input.element != Element::I8 || input.zero != 0 || output.element != Element::I8 {
        return Err(Fault::AttentionElements);
    }
    if [input.height, input.width, input.channels] != [output.height, output.width, 3 * output.channels] {
        return Err(Fault::AttentionShape);
    }
    let op = model.attention(record);
    let AttentionShape { tokens, channels, heads } = op.shape;
    if tokens > MAX_TOKENS {
        return Err(Fault::Tokens);
    }
    if heads == 0 || !channels.is_multiple_of(heads) {
        return Err(Fault::Heads);
    }
    if op.score_multiplier < 1 || op.value_multiplier < 1 {
        return Err(Fault::Multiplier);
    }
    if op.pixels == 0 || op.pixels > tokens.next_multiple_of(2) {
        return Err(Fault::Pixels);
    }
    // At most 4,096 tokens and 65,535 channels: less than 2^31 bytes.
    Ok(op.shape.memory(op.pixels).len() as u64)
}
