//! Choosing scales, rounding constants, writing the file.

use super::calibrate::Calibration;
use super::graph::{Activation, Graph, GraphAttention, GraphConv, GraphNorm, GraphOp, OUTPUT, Role, STATE, TooLarge};
use super::weights::{self, Channel, Rounding};
use mote_core::format::{AttentionSpec, ConvSpec, EmitError, NormSpec, OpMemory, OpSpec, Spec, emit, emitted_len};
use mote_core::kernel::{Destination, TABLE_LEN, WeightBits};
use mote_core::model::{Element, NormPart, Row, Tensor};
use mote_core::plan::{self, Room};
use mote_core::quant::STATE_ONE;
use mote_core::step_table::CoefficientError;

/// Why a graph cannot become a file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A tensor's values are not finite: training diverged.
    #[error("tensor {tensor} holds values that are not numbers: training diverged; train again with a lower rate")]
    NotFinite {
        /// Its index.
        tensor: usize,
    },
    /// A step needs a coefficient that the file cannot hold.
    #[error(transparent)]
    Row(#[from] CoefficientError),
    /// The network is larger than the format allows.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// The file cannot be written.
    #[error(transparent)]
    Emit(#[from] EmitError),
}

/// A file, and the scale and zero point of every tensor in it.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The `.mote` file.
    pub file: Vec<u8>,
    /// Tensors with scales, zero points and offsets.
    pub tensors: Vec<Tensor>,
    /// For each operation that normalizes, how it stores what it normalized.
    pub tables: Vec<Option<Table>>,
    /// For each convolution, the value of one step of each output channel's weights; empty for an attention.
    pub steps: Vec<Vec<f32>>,
    /// For each operation, how many bits its weights have; eight for an attention, which has none.
    pub bits: Vec<WeightBits>,
}

/// How a convolution's normalized input is stored: table indices stand for values before the activation function, the
/// table's entries for values after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Table {
    /// The activation function.
    pub activation: Activation,
    /// The value of the first entry's index.
    pub low: f32,
    /// The value of one index step.
    pub step: f32,
    /// The value of one step of an entry.
    pub scale: f32,
    /// The entry that stands for 0.
    pub zero: i32,
}

/// How the parts of a network are stored.
#[derive(Clone, Debug)]
pub struct Precision<'w> {
    /// How each operation's weights are rounded.
    pub weights: Vec<Rounding<'w>>,
    /// Which tensors of the residual stream have 8 bits; the others have 16.
    pub narrow: Vec<bool>,
}

impl Precision<'static> {
    /// Weights of 8 bits, a residual stream of 16.
    pub fn bytes(graph: &Graph) -> Self {
        Precision { weights: weights::bytes(graph), narrow: vec![false; graph.tensors.len()] }
    }
}

/// Head room of the 16-bit tensors over the calibrated range.
const HEAD_ROOM: f32 = 2.0;
/// Largest ratio of scales that a multiplier below 2^31 can express, with a little room.
const LARGEST_RATIO: f32 = 0.4999;
/// Steps of an attention's score in an octave, the unit in which the device takes powers of two.
const OCTAVE: f32 = 256.0;
/// Smallest ratio of accumulator step to output step: finer weights would not change the output.
const SMALLEST_RATIO: f32 = 1.0 / 65536.0;

/// Quantizes `graph` with the ranges of `calibration`, weights to 8 bits. `room` says how large the arena may become for faster
/// passes.
///
/// # Errors
/// [`ExportError`] if values are not finite or the network does not fit the format.
pub fn export(graph: &Graph, calibration: &Calibration, room: Room) -> Result<Exported, ExportError> {
    export_with(graph, calibration, &Precision::bytes(graph), room)
}

/// [`export`] with weights and tensors stored as `precision` says.
///
/// # Errors
/// The same.
pub fn export_with(
    graph: &Graph,
    calibration: &Calibration,
    precision: &Precision<'_>,
    room: Room,
) -> Result<Exported, ExportError> {
    graph.check()?;
    for (tensor, range) in calibration.tensors.iter().enumerate() {
        if !range.iter().all(|v| v.is_finite()) {
            return Err(ExportError::NotFinite { tensor });
        }
    }
    let tables = tables(graph, calibration);
    let tensors = choose_scales(graph, calibration, &tables, precision);
    export_at(graph, tables, tensors, &precision.weights, room)
}

/// The file of `graph`, which is that of `before` with other constants, at the scales of `before`, weights' steps included.
///
/// # Errors
/// The same as [`export`]'s.
pub fn export_again(graph: &Graph, before: &Exported, room: Room) -> Result<Exported, ExportError> {
    graph.check()?;
    let weights: Vec<Rounding<'_>> =
        before.bits.iter().zip(&before.steps).map(|(&bits, steps)| Rounding::Fixed(bits, steps)).collect();
    export_at(graph, before.tables.clone(), before.tensors.clone(), &weights, room)
}

/// The file of a graph whose scales are chosen.
fn export_at(
    graph: &Graph,
    tables: Vec<Option<Table>>,
    mut tensors: Vec<Tensor>,
    weights: &[Rounding<'_>],
    room: Room,
) -> Result<Exported, ExportError> {
    let rounded: Vec<Rounded<'_>> = (graph.ops.iter().zip(&tables).zip(weights))
        .map(|((op, table), rounding)| round_op(op, &tensors, table.as_ref(), *rounding))
        .collect();
    let steps = rounded.iter().map(Rounded::steps).collect();
    let bits = weights.iter().map(Rounding::bits).collect();
    let mut ops: Vec<OpSpec<'_>> = rounded.iter().map(Rounded::spec).collect();
    plan::place(&mut tensors, &mut ops, None, room);

    let mut rows = Vec::with_capacity(graph.rows.len());
    for row in &graph.rows {
        let mut row = *row;
        // The table's `f` is in Q12; the stored output has its own scale.
        row.q *= f64::from(tensors[OUTPUT].scale * f32::from(STATE_ONE));
        rows.push(row.quantize()?);
    }
    let file = write(graph, &rows, &tensors, &ops)?;
    Ok(Exported { file, tensors, tables, steps, bits })
}

fn write(graph: &Graph, rows: &[Row], tensors: &[Tensor], ops: &[OpSpec<'_>]) -> Result<Vec<u8>, EmitError> {
    let state = &tensors[STATE];
    let spec = Spec {
        name: &graph.name,
        sample: [state.height, state.width, state.channels].map(|side| side as u16),
        classes: graph.classes as u16,
        clamp: graph.clamp.map(|limit| (limit * f32::from(STATE_ONE)).round() as i16),
        units: &graph.units,
        history: None,
        rows,
        tensors,
        ops,
    };
    let mut file = vec![0; emitted_len(&spec)];
    emit(&spec, &mut file)?;
    Ok(file)
}

/// For each operation that normalizes, its table: the first index is the smallest calibrated value before the activation
/// function, the last the largest.
pub fn tables(graph: &Graph, calibration: &Calibration) -> Vec<Option<Table>> {
    let table = |(op, &[low, high]): (&GraphOp, &[f32; 2])| match op {
        GraphOp::Conv(GraphConv { norm: Some(norm), .. }) => Some(Table::new(norm.activation, low, high)),
        _ => None,
    };
    graph.ops.iter().zip(&calibration.normalized).map(table).collect()
}

impl Table {
    pub(super) fn new(activation: Activation, low: f32, high: f32) -> Self {
        let step = ((high - low) / (TABLE_LEN - 1) as f32).max(1e-6);
        let mut table = Table { activation, low, step, scale: 1.0, zero: 0 };
        let values = (0..TABLE_LEN).map(|entry| activation.of(table.value(entry)));
        let [least, most] = values.fold([0.0f32, 0.0f32], |[least, most], v| [least.min(v), most.max(v)]);
        table.scale = (most - least).max(1e-6) / 255.0;
        table.zero = (-128.0 - least / table.scale).round() as i32;
        table
    }

    /// The value before the activation function that an entry stands for.
    pub(super) fn value(&self, entry: usize) -> f32 {
        self.low + self.step * entry as f32
    }

    /// The entry for a value before the activation function.
    pub(super) fn index(&self, value: f32) -> usize {
        ((value - self.low) / self.step + 0.5).floor().clamp(0.0, (TABLE_LEN - 1) as f32) as usize
    }

    /// What each entry stands for.
    pub(super) fn stored(&self) -> [f32; TABLE_LEN] {
        std::array::from_fn(|entry| (i32::from(self.entry(entry)) - self.zero) as f32 * self.scale)
    }

    /// What an entry holds.
    fn entry(&self, entry: usize) -> i8 {
        let stored = self.activation.of(self.value(entry)) / self.scale + self.zero as f32;
        stored.round().clamp(-128.0, 127.0) as i8
    }
}

/// Scale, zero point and largest magnitude of what the windows of a convolution hold.
#[derive(Clone, Copy)]
struct Read {
    scale: f32,
    zero: i32,
    largest: i64,
}

impl Read {
    fn of(input: &Tensor, table: Option<&Table>) -> Self {
        match (table, input.element) {
            (Some(table), _) => Read { scale: table.scale, zero: table.zero, largest: 128 },
            (None, Element::I8) => Read { scale: input.scale, zero: input.zero, largest: 128 },
            (None, Element::I16) => Read { scale: input.scale, zero: input.zero, largest: 32768 },
        }
    }
}

fn choose_scales(
    graph: &Graph,
    calibration: &Calibration,
    tables: &[Option<Table>],
    precision: &Precision<'_>,
) -> Vec<Tensor> {
    let mut tensors: Vec<Tensor> = Vec::with_capacity(graph.tensors.len());
    for ((tensor, [low, high]), narrow) in graph.tensors.iter().zip(&calibration.tensors).zip(&precision.narrow) {
        let largest = low.abs().max(high.abs()).max(1e-3);
        let (element, scale) = match tensor.role {
            Role::State => (Element::I16, 1.0 / f32::from(STATE_ONE)),
            Role::Residual if *narrow => (Element::I8, largest / f32::from(i8::MAX)),
            Role::Attention => (Element::I8, largest / f32::from(i8::MAX)),
            Role::Output | Role::Residual => (Element::I16, largest * HEAD_ROOM / f32::from(i16::MAX)),
        };
        let [height, width, channels] = tensor.shape;
        tensors.push(Tensor { offset: 0, height, width, channels, element, zero: 0, scale });
    }
    // An attention's scores take its input's scale twice; what is cut off would only make a large weight larger.
    for op in &graph.ops {
        if let GraphOp::Attention(attention) = op {
            let finest = score_step(attention, graph.tensors[attention.output].shape[2]);
            let input = &mut tensors[attention.input];
            input.scale = input.scale.min((LARGEST_RATIO / finest).sqrt());
        }
    }
    // A tensor need not be finer than twice the accumulators that are rounded into it.
    for ((op, table), rounding) in graph.ops.iter().zip(tables).zip(&precision.weights) {
        if let GraphOp::Conv(conv) = op {
            let read = Read::of(&tensors[conv.input], table.as_ref());
            let coarsest = rounding.coarsest_step(conv) * read.scale;
            let output = &mut tensors[conv.output];
            output.scale = output.scale.max(coarsest / LARGEST_RATIO);
        }
    }
    tensors
}

/// One operation with its rounded constants.
enum Rounded<'g> {
    Conv(RoundedConv<'g>),
    Attention(AttentionSpec),
}

/// A convolution with its rounded constants.
struct RoundedConv<'g> {
    conv: &'g GraphConv,
    norm: Option<RoundedNorm<'g>>,
    bits: WeightBits,
    weights: Vec<i8>,
    bias: Vec<i32>,
    multipliers: Vec<i32>,
    steps: Vec<f32>,
}

/// A normalization with its rounded constants.
struct RoundedNorm<'g> {
    norm: &'g GraphNorm,
    epsilon_q8: u32,
    second: Option<NormPart>,
    zero: i8,
    bits: [u8; 2],
    affine: Vec<[i16; 2]>,
    table: Box<[i8; TABLE_LEN]>,
}

impl Rounded<'_> {
    fn spec(&self) -> OpSpec<'_> {
        match self {
            Rounded::Conv(RoundedConv { conv, norm, bits, weights, bias, multipliers, .. }) => OpSpec::Conv(ConvSpec {
                input: conv.input as u16,
                norm: norm.as_ref().map(RoundedNorm::spec),
                output: conv.output as u16,
                kernel: conv.kernel.map(|side| side as u8),
                stride: conv.stride[1] as u8,
                upsample: conv.upsample[1] as u8,
                destination: if conv.accumulate { Destination::Accumulate } else { Destination::Overwrite },
                weights,
                weight_bits: *bits,
                bias,
                multipliers,
                memory: OpMemory::default(),
            }),
            Rounded::Attention(spec) => OpSpec::Attention(*spec),
        }
    }

    fn steps(&self) -> Vec<f32> {
        match self {
            Rounded::Conv(conv) => conv.steps.clone(),
            Rounded::Attention(_) => Vec::new(),
        }
    }
}

impl RoundedNorm<'_> {
    fn spec(&self) -> NormSpec<'_> {
        let [gain_bits, bias_bits] = self.bits;
        NormSpec {
            groups: self.norm.groups as u16,
            epsilon_q8: self.epsilon_q8,
            second: self.second,
            zero: self.zero,
            gain_bits,
            bias_bits,
            conditioned: self.norm.conditioned,
            affine: &self.affine,
            table: &self.table,
        }
    }
}

fn round_op<'g>(op: &'g GraphOp, tensors: &[Tensor], table: Option<&Table>, rounding: Rounding<'_>) -> Rounded<'g> {
    match op {
        GraphOp::Conv(conv) => {
            let norm = conv.norm.as_ref().zip(table).map(|(norm, table)| round_norm(conv, norm, tensors, table));
            round_conv(conv, norm, Read::of(&tensors[conv.input], table), &tensors[conv.output], rounding)
        }
        GraphOp::Attention(attention) => {
            Rounded::Attention(round_attention(attention, &tensors[attention.input], &tensors[attention.output]))
        }
    }
}

fn round_conv<'g>(
    conv: &'g GraphConv,
    norm: Option<RoundedNorm<'g>>,
    read: Read,
    output: &Tensor,
    rounding: Rounding<'_>,
) -> Rounded<'g> {
    let bits = rounding.bits();
    let (weights, bias, multipliers, steps) = Default::default();
    let mut rounded = RoundedConv { conv, norm, bits, weights, bias, multipliers, steps };
    for channel in 0..conv.bias.len() {
        let mut least_step = output.scale / read.scale * SMALLEST_RATIO;
        let (Channel { weights, step, .. }, bias) = loop {
            let channel = weights::round(conv, channel, rounding, least_step);
            if let Some(bias) = fold_bias(&channel, read) {
                break (channel, bias);
            }
            // An accumulator could overflow.
            least_step = channel.step * 1.05;
        };
        rounded.weights.extend(weights);
        rounded.bias.push(bias);
        rounded.multipliers.push(multiplier(f64::from(read.scale) * f64::from(step) / f64::from(output.scale)));
        rounded.steps.push(step);
    }
    Rounded::Conv(rounded)
}

/// The multiplier that stands for `ratio` output steps for each step of an accumulator.
fn multiplier(ratio: f64) -> i32 {
    (ratio * 2f64.powi(32)).round().clamp(1.0, f64::from(i32::MAX)) as i32
}

/// A channel's bias in steps of the accumulator, the input's zero point folded in; `None` if an accumulator could overflow.
fn fold_bias(channel: &Channel, read: Read) -> Option<i32> {
    let sum: i64 = channel.weights.iter().map(|&w| i64::from(w)).sum();
    let magnitude: i64 = channel.weights.iter().map(|&w| i64::from(w).abs()).sum();
    let real = f64::from(channel.bias) / (f64::from(read.scale) * f64::from(channel.step));
    let folded = real.round() as i64 - i64::from(read.zero) * sum;
    let fits = folded.abs().saturating_add(read.largest * magnitude) <= i64::from(i32::MAX);
    fits.then_some(folded as i32)
}

fn round_norm<'g>(conv: &GraphConv, norm: &'g GraphNorm, tensors: &[Tensor], table: &Table) -> RoundedNorm<'g> {
    let steps: Vec<[f32; 2]> = norm
        .affine
        .iter()
        .map(|[gain, bias]| [gain / table.step, (bias - table.low) / table.step - TABLE_LEN as f32 / 2.0])
        .collect();
    let bits = [0, 1].map(|i| fractional_bits(steps.iter().map(|pair| pair[i])));
    let fixed =
        |pair: &[f32; 2]| [0, 1].map(|i| (pair[i] * (1u32 << bits[i]) as f32).round().clamp(-32768.0, 32767.0) as i16);
    let epsilon_q8 = |tensor: usize| {
        let scale = f64::from(tensors[tensor].scale);
        (f64::from(norm.epsilon) / (scale * scale) * 256.0).round().min(f64::from(u32::MAX)) as u32
    };
    let part = |tensor| NormPart { tensor: tensor as u16, groups: norm.groups, epsilon_q8: epsilon_q8(tensor) };
    RoundedNorm {
        norm,
        epsilon_q8: epsilon_q8(conv.input),
        second: norm.second.map(part),
        zero: table.zero as i8,
        bits,
        affine: steps.iter().map(fixed).collect(),
        table: Box::new(std::array::from_fn(|entry| table.entry(entry))),
    }
}

/// Score steps in a product of 1 of query and key.
fn score_step(attention: &GraphAttention, channels: usize) -> f32 {
    std::f32::consts::LOG2_E * OCTAVE / ((channels / attention.heads) as f32).sqrt()
}

fn round_attention(attention: &GraphAttention, input: &Tensor, output: &Tensor) -> AttentionSpec {
    let score = input.scale * input.scale * score_step(attention, output.channels);
    // Probabilities are in Q15.
    let value = input.scale / output.scale / 32768.0;
    AttentionSpec {
        input: attention.input as u16,
        output: attention.output as u16,
        heads: attention.heads as u8,
        score_multiplier: multiplier(score.into()),
        value_multiplier: multiplier(value.into()),
        memory: OpMemory::default(),
    }
}

/// Most fractional bits, up to 15, with which every value fits an `i16`.
fn fractional_bits(values: impl Iterator<Item = f32>) -> u8 {
    let largest = values.fold(0.0f32, |largest, v| largest.max(v.abs()));
    (0..=15u8).rev().find(|&bits| largest * (1u32 << bits) as f32 <= 32767.0).unwrap_or(0)
}
