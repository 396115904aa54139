//! Running the network's operations in the arena.
//!
//! A convolution goes over its output a few pixels at a time: gather the windows of a pass, multiply, store. Where the input
//! is normalized, or the output takes the input's place, the input's rows first go through a *ring*: the few rows that
//! the windows of a pass reach over, in the operation's scratch. So a normalized tensor is never stored, and an output
//! may overwrite its input as soon as the ring has what is still needed.

mod attention;
mod cores;

use core::ops::Range;

use crate::generator::ArenaError;
use crate::kernel::{ConvShape, ConvWeights, GroupScale, Kernel, Line, Rows, WeightBits, unpack};
use crate::model::{AttentionOp, ConvOp, Element, Model, NormOp, Op, Tensor};
use crate::quant::Activation;
use crate::view::{self, elements, elements_mut, parts};

pub use attention::{AttentionMemory, AttentionShape, attention, pack_rows};
pub(crate) use cores::{Alone, Both, Workers};
pub use cores::{Cores, SecondCore};

/// How the scratch of a convolution is divided, in this order; bytes, each a multiple of 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ConvMemory {
    /// A line for each channel of a normalized input.
    pub lines: usize,
    /// Rows that the ring holds; 0 if there is none.
    pub ring_rows: usize,
    /// The ring.
    pub ring: usize,
    /// Windows and widened weights.
    pub work: usize,
    /// Weights of 4 bits, unpacked.
    pub weights: usize,
}

impl ConvMemory {
    /// For `pixels` output pixels a pass. `element` is the input tensor's; `in_place` says that input and output overlap.
    pub fn new(
        shape: &ConvShape,
        normalized: bool,
        element: Element,
        in_place: bool,
        pixels: usize,
        bits: WeightBits,
    ) -> Self {
        let ring_rows = if normalized || in_place { shape.rows_of(pixels) } else { 0 };
        let size = if normalized { 1 } else { element.size() };
        ConvMemory {
            lines: if normalized { shape.channels_in * size_of::<Line>() } else { 0 },
            ring_rows,
            ring: (ring_rows * shape.input[1] * shape.channels_in * size).next_multiple_of(4),
            work: shape.work_len(pixels),
            weights: bits.unpacked_len(shape),
        }
    }

    /// All of it.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.lines + self.ring + self.work + self.weights
    }

    /// Where the lines, the ring, the work area and the unpacked weights of scratch at `scratch` lie.
    fn ranges(&self, scratch: usize) -> [Range<usize>; 4] {
        let ring = scratch + self.lines;
        let work = ring + self.ring;
        let weights = work + self.work;
        [scratch..ring, ring..work, work..weights, weights..weights + self.weights]
    }
}

/// How many bytes an input must begin after its output, at least, for the output to be written in its place:
/// `in - out >= input_lead`. `row_len` are the bytes of an input row, `pixel_len` those of an output pixel.
///
/// Rows are read in order, just as far as the windows of the pass need; only then are the pass's pixels written.
pub fn input_lead(shape: &ConvShape, pixels: usize, row_len: usize, pixel_len: usize) -> i64 {
    let total = shape.pixels();
    let mut lead = i64::MIN;
    for first in (0..total).step_by(pixels.max(1)) {
        let end = (first + pixels).min(total);
        let read = shape.rows_before(end);
        if read < shape.input[0] {
            lead = lead.max((end * pixel_len) as i64 - (read * row_len) as i64);
        }
    }
    lead
}

/// Runs one operation for the `condition`-th (row, class) pair, `row * classes + class`.
pub(crate) fn run<K: Kernel>(
    model: &Model<'_>,
    index: u16,
    condition: usize,
    arena: &mut [u8],
    workers: &mut impl Workers,
) {
    match model.op(index) {
        Op::Conv(op) => conv::<K>(model, &op, condition, arena, workers),
        Op::Attention(op) => attend::<K>(model, &op, arena),
    }
}

fn conv<K: Kernel>(model: &Model<'_>, op: &ConvOp<'_>, condition: usize, arena: &mut [u8], workers: &mut impl Workers) {
    let (input, output) = (model.tensor(op.input), model.tensor(op.output));
    let shape = &op.shape;
    let [lines, ring, work, weights] = op.memory.ranges(op.scratch);
    if let Some(nibbles) = op.nibbles {
        let [weights] = parts(arena, [weights.clone()]);
        unpack(nibbles, elements_mut(weights));
    }
    if let Some(norm) = &op.norm {
        prepare_lines::<K>(model, norm, condition, arena, lines.clone());
    }
    let (read, zero_in) = match op.norm {
        Some(norm) => (Element::I8, norm.zero as i32),
        None => (input.element, input.zero),
    };
    let row_len = shape.input[1] * shape.channels_in;
    let ring_row_len = row_len * read.size();
    let pixel_len = output.channels * output.element.size();
    let ring_rows = op.memory.ring_rows;
    let (source, capacity) = if ring_rows > 0 { (ring.clone(), ring_rows) } else { (input.range(), usize::MAX) };
    let (mut loaded, mut slot) = (0, 0);
    for first in (0..shape.pixels()).step_by(op.pixels.max(1)) {
        let count = op.pixels.min(shape.pixels() - first);
        while ring_rows > 0 && loaded < shape.rows_before(first + count) {
            let at = ring.start + slot * ring_row_len;
            load_row::<K>(model, op, arena, lines.clone(), loaded, at..at + ring_row_len);
            loaded += 1;
            slot = if slot + 1 == ring_rows { 0 } else { slot + 1 };
        }
        let pixels = output.offset + first * pixel_len..output.offset + (first + count) * pixel_len;
        let memory = parts(arena, [source.clone(), work.clone(), pixels, weights.clone()]);
        let pass = Pass { op, row_len, capacity, loaded, slot, first, count, zero_in, zero_out: output.zero };
        match (read, output.element) {
            (Element::I8, Element::I8) => pass.run::<K, i8, i8>(memory, workers),
            (Element::I8, Element::I16) => pass.run::<K, i8, i16>(memory, workers),
            (Element::I16, Element::I8) => pass.run::<K, i16, i8>(memory, workers),
            (Element::I16, Element::I16) => pass.run::<K, i16, i16>(memory, workers),
        }
    }
}

/// `count` output pixels from `first` on, and the rows of the input that are there: see [`Rows::ring`].
struct Pass<'p> {
    op: &'p ConvOp<'p>,
    row_len: usize,
    capacity: usize,
    loaded: usize,
    slot: usize,
    first: usize,
    count: usize,
    zero_in: i32,
    zero_out: i32,
}

impl Pass<'_> {
    /// `memory` holds the input's rows, the work area, the pixels and unpacked weights.
    fn run<K: Kernel, I: Activation, O: Activation>(&self, memory: [&mut [u8]; 4], workers: &mut impl Workers) {
        let [source, work, pixels, unpacked] = memory;
        let (shape, destination) = (&self.op.shape, self.op.destination);
        let weights = if self.op.nibbles.is_some() { elements(unpacked) } else { self.op.constants.weights };
        let constants = &ConvWeights { weights, ..self.op.constants };
        let rows = Rows::ring(elements(source), self.row_len, self.capacity, self.loaded, self.slot);
        workers.run(self.count, elements_mut(work), elements_mut::<O>(pixels), |skipped, count, work, pixels| {
            K::gather::<I>(shape, &rows, self.zero_in, self.first + skipped, count, work);
            K::multiply::<I, O>(shape, constants, count, work, pixels, self.zero_out, destination);
        });
    }
}

/// The line of every channel, from the statistics of the inputs.
fn prepare_lines<K: Kernel>(
    model: &Model<'_>,
    norm: &NormOp<'_>,
    condition: usize,
    arena: &mut [u8],
    lines: Range<usize>,
) {
    let affine = norm.affine(condition);
    let mut channel = 0;
    for part in norm.parts.into_iter().flatten() {
        let tensor = model.tensor(part.tensor);
        let [values, lines] = parts(arena, [tensor.range(), lines.clone()]);
        let lines: &mut [Line] = elements_mut(lines);
        let size = tensor.channels / part.groups.max(1);
        for first in (0..tensor.channels).step_by(size.max(1)) {
            let moments = match tensor.element {
                Element::I8 => K::moments::<i8>(elements(values), tensor.channels, first, size),
                Element::I16 => K::moments::<i16>(elements(values), tensor.channels, first, size),
            };
            let count = tensor.height * tensor.width * size;
            let scale = GroupScale::new(&moments, count, part.epsilon_q8, affine.gain_bits);
            for line in lines.iter_mut().skip(channel).take(size) {
                *line = scale.line(affine.pairs.get(channel), affine.bias_bits);
                channel += 1;
            }
        }
    }
}

/// Brings row `y` of the input to `row`: normalized, or as it is.
fn load_row<K: Kernel>(
    model: &Model<'_>,
    op: &ConvOp<'_>,
    arena: &mut [u8],
    lines: Range<usize>,
    y: usize,
    row: Range<usize>,
) {
    let source = |tensor: &Tensor| {
        let len = tensor.width * tensor.channels * tensor.element.size();
        tensor.offset + y * len..tensor.offset + (y + 1) * len
    };
    let Some(norm) = &op.norm else {
        let [from, to] = parts(arena, [source(&model.tensor(op.input)), row]);
        to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
        return;
    };
    let mut channel = 0;
    for part in norm.parts.into_iter().flatten() {
        let tensor = model.tensor(part.tensor);
        let [values, row, lines] = parts(arena, [source(&tensor), row.clone(), lines.clone()]);
        let lines = view::part(elements::<Line>(lines), channel, tensor.channels);
        let row = elements_mut(row);
        match tensor.element {
            Element::I8 => K::normalize::<i8>(elements(values), lines, norm.table, row, norm.channels, channel),
            Element::I16 => K::normalize::<i16>(elements(values), lines, norm.table, row, norm.channels, channel),
        }
        channel += tensor.channels;
    }
}

fn attend<K: Kernel>(model: &Model<'_>, op: &AttentionOp, arena: &mut [u8]) {
    let output = model.tensor(op.output);
    let scratch = op.scratch..op.scratch + op.shape.memory(op.pixels).len();
    let [input, target, scratch] = parts(arena, [model.tensor(op.input).range(), output.range(), scratch]);
    let multipliers = [op.score_multiplier, op.value_multiplier];
    attention::<K>(&op.shape, elements(input), multipliers, elements_mut(target), output.zero, op.pixels, scratch);
}
