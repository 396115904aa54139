//! Choosing scales, rounding constants, writing the file.

use super::calibrate::Calibration;
use super::graph::{Graph, GraphConv, GraphNorm, GraphOp, OUTPUT, Role, STATE};
use mote_core::format::{EmitError, OpSpec, Spec, emit, emitted_len};
use mote_core::kernel::{Destination, SILU_TABLE_LEN};
use mote_core::model::{Element, NormPart, Row, Tensor};
use mote_core::plan;
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
    /// For each activation tensor, the real value of table index -256 and of one table step.
    pub tables: Vec<Option<Table>>,
}

/// How table indices stand for values before the activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Table {
    /// The value of index -256.
    pub low: f32,
    /// The value of one step.
    pub step: f32,
}

/// Head room of the 16-bit tensors over the calibrated range.
const HEAD_ROOM: f32 = 2.0;
/// Largest ratio of scales that a multiplier below 2^31 can express, with a little room.
const LARGEST_RATIO: f32 = 0.4999;
/// Smallest ratio of accumulator step to output step: finer weights would not change the output.
const SMALLEST_RATIO: f32 = 1.0 / 65536.0;

/// Quantizes `graph` with the ranges of `calibration`.
///
/// # Errors
/// [`ExportError`] if values are not finite or do not fit the format.
pub fn export(graph: &Graph, calibration: &Calibration) -> Result<Exported, ExportError> {
    for (tensor, range) in calibration.tensors.iter().enumerate() {
        if !range.iter().all(|v| v.is_finite()) {
            return Err(ExportError::NotFinite { tensor });
        }
    }
    let tables = choose_tables(graph, calibration);
    let mut tensors = choose_scales(graph, calibration, &tables);
    let rounded: Vec<Rounded<'_>> = graph.ops.iter().map(|op| round_op(op, &tensors, &tables)).collect();
    let ops: Vec<OpSpec<'_>> = rounded.iter().map(Rounded::spec).collect();
    plan::place(&mut tensors, &ops, None);

    let mut rows = Vec::with_capacity(graph.rows.len());
    for row in &graph.rows {
        let mut row = *row;
        // The table's `f` is in Q12; the stored output has its own scale.
        row.q *= f64::from(tensors[OUTPUT].scale * f32::from(STATE_ONE));
        rows.push(row.quantize()?);
    }
    let file = write(graph, &rows, &tensors, &ops)?;
    Ok(Exported { file, tensors, tables })
}

fn write(graph: &Graph, rows: &[Row], tensors: &[Tensor], ops: &[OpSpec<'_>]) -> Result<Vec<u8>, EmitError> {
    let state = &tensors[STATE];
    let spec = Spec {
        name: &graph.name,
        sample: [state.height, state.width, state.channels].map(|side| side as u16),
        classes: graph.classes as u16,
        clamp: graph.clamp.map(|limit| (limit * f32::from(STATE_ONE)).round() as i16),
        history: None,
        rows,
        tensors,
        ops,
    };
    let mut file = vec![0; emitted_len(&spec)];
    emit(&spec, &mut file)?;
    Ok(file)
}

pub(super) fn silu(z: f32) -> f32 {
    z / (1.0 + (-z).exp())
}

/// Index -256 is the smallest calibrated value before the activation, 255 the largest.
fn choose_tables(graph: &Graph, calibration: &Calibration) -> Vec<Option<Table>> {
    let table = |(tensor, [low, high]): (_, &[f32; 2])| {
        let activation = graph.tensors.get::<usize>(tensor)?.role == Role::Activation;
        activation.then(|| Table { low: *low, step: ((high - low) / (SILU_TABLE_LEN - 1) as f32).max(1e-6) })
    };
    calibration.normalized.iter().enumerate().map(table).collect()
}

impl Table {
    pub(super) fn value(&self, entry: usize) -> f32 {
        self.low + self.step * entry as f32
    }

    /// Smallest and largest activation that the table can give, zero among them.
    fn range(&self) -> [f32; 2] {
        let values = (0..SILU_TABLE_LEN).map(|entry| silu(self.value(entry)));
        values.fold([0.0, 0.0], |[low, high], v| [low.min(v), high.max(v)])
    }
}

fn choose_scales(graph: &Graph, calibration: &Calibration, tables: &[Option<Table>]) -> Vec<Tensor> {
    let mut tensors: Vec<Tensor> = Vec::with_capacity(graph.tensors.len());
    for (index, tensor) in graph.tensors.iter().enumerate() {
        let [low, high] = calibration.tensors[index];
        let largest = low.abs().max(high.abs()).max(1e-3);
        let (element, scale, zero) = match (tensor.role, tables[index]) {
            (Role::State, _) => (Element::I16, 1.0 / f32::from(STATE_ONE), 0),
            (Role::Activation, Some(table)) => {
                let [low, high] = table.range();
                let scale = (high - low).max(1e-6) / 255.0;
                (Element::I8, scale, (-128.0 - low / scale).round() as i32)
            }
            _ => (Element::I16, largest * HEAD_ROOM / f32::from(i16::MAX), 0),
        };
        let [height, width, channels] = tensor.shape;
        tensors.push(Tensor { offset: 0, height, width, channels, element, zero, scale });
    }
    // A 16-bit tensor need not be finer than twice the accumulators that are rounded into it.
    for op in &graph.ops {
        if let GraphOp::Conv(conv) = op {
            let coarsest = channel_peaks(conv, graph).fold(0.0, f32::max) / 127.0 * tensors[conv.input].scale;
            let output = &mut tensors[conv.output];
            output.scale = output.scale.max(coarsest / LARGEST_RATIO);
        }
    }
    tensors
}

/// Largest weight magnitude of each output channel.
fn channel_peaks<'a>(conv: &'a GraphConv, graph: &Graph) -> impl Iterator<Item = f32> + 'a {
    let taps = conv.kernel * conv.kernel * graph.tensors[conv.input].shape[2];
    conv.weights.chunks_exact(taps).map(|weights| weights.iter().fold(0.0f32, |peak, w| peak.max(w.abs())))
}

/// One operation with its rounded constants.
enum Rounded<'g> {
    Conv {
        conv: &'g GraphConv,
        weights: Vec<i8>,
        bias: Vec<i32>,
        multipliers: Vec<i32>,
    },
    Norm {
        norm: &'g GraphNorm,
        parts: Vec<NormPart>,
        bits: [u8; 2],
        affine: Vec<[i16; 2]>,
        table: Box<[i8; SILU_TABLE_LEN]>,
    },
}

impl Rounded<'_> {
    fn spec(&self) -> OpSpec<'_> {
        match self {
            Rounded::Conv { conv, weights, bias, multipliers } => OpSpec::Conv {
                input: conv.input as u16,
                output: conv.output as u16,
                kernel: conv.kernel as u8,
                stride: conv.stride as u8,
                upsample: conv.upsample as u8,
                destination: if conv.accumulate { Destination::Accumulate } else { Destination::Overwrite },
                weights,
                bias,
                multipliers,
            },
            Rounded::Norm { norm, parts, bits: [gain_bits, bias_bits], affine, table } => OpSpec::GroupNormSilu {
                input: parts[0],
                second: parts.get(1).copied(),
                output: norm.output as u16,
                gain_bits: *gain_bits,
                bias_bits: *bias_bits,
                conditioned: norm.conditioned,
                affine,
                table,
            },
        }
    }
}

fn round_op<'g>(op: &'g GraphOp, tensors: &[Tensor], tables: &[Option<Table>]) -> Rounded<'g> {
    match op {
        GraphOp::Conv(conv) => round_conv(conv, &tensors[conv.input], &tensors[conv.output]),
        GraphOp::NormSilu(norm) => {
            let table = tables[norm.output].expect("a normalization writes an activation, and each has a table");
            round_norm(norm, tensors, &table)
        }
    }
}

fn round_conv<'g>(conv: &'g GraphConv, input: &Tensor, output: &Tensor) -> Rounded<'g> {
    let taps = conv.kernel * conv.kernel * input.channels;
    let (mut weights, mut bias, mut multipliers) = (Vec::new(), Vec::new(), Vec::new());
    for (channel, offset) in conv.weights.chunks_exact(taps).zip(&conv.bias) {
        let peak = channel.iter().fold(0.0f32, |peak, w| peak.max(w.abs()));
        let mut scale = (peak / 127.0).max(output.scale / input.scale * SMALLEST_RATIO);
        let rounded = loop {
            if let Some(rounded) = round_channel(channel, *offset, scale, input) {
                break rounded;
            }
            scale *= 1.05;
        };
        weights.extend(rounded.0);
        bias.push(rounded.1);
        let ratio = f64::from(input.scale) * f64::from(scale) / f64::from(output.scale);
        multipliers.push((ratio * 2f64.powi(32)).round().clamp(1.0, f64::from(i32::MAX)) as i32);
    }
    Rounded::Conv { conv, weights, bias, multipliers }
}

/// Weights and folded bias at `scale`, or `None` if an accumulator could overflow.
fn round_channel(weights: &[f32], bias: f32, scale: f32, input: &Tensor) -> Option<(Vec<i8>, i32)> {
    let rounded: Vec<i8> = weights.iter().map(|w| (w / scale).round().clamp(-127.0, 127.0) as i8).collect();
    let sum: i64 = rounded.iter().map(|&w| i64::from(w)).sum();
    let magnitude: i64 = rounded.iter().map(|&w| i64::from(w).abs()).sum();
    let largest = match input.element {
        Element::I8 => 128,
        Element::I16 => 32768,
    };
    let real = f64::from(bias) / (f64::from(input.scale) * f64::from(scale));
    let folded = real.round() as i64 - i64::from(input.zero) * sum;
    let fits = folded.abs().saturating_add(largest * magnitude) <= i64::from(i32::MAX);
    fits.then_some((rounded, folded as i32))
}

fn round_norm<'g>(norm: &'g GraphNorm, tensors: &[Tensor], table: &Table) -> Rounded<'g> {
    let output = &tensors[norm.output];
    let entry = |i| {
        let stored = silu(table.value(i)) / output.scale + output.zero as f32;
        stored.round().clamp(-128.0, 127.0) as i8
    };
    let steps: Vec<[f32; 2]> = norm
        .affine
        .iter()
        .map(|[gain, bias]| [gain / table.step, (bias - table.low) / table.step - SILU_TABLE_LEN as f32 / 2.0])
        .collect();
    let bits = [0, 1].map(|i| fractional_bits(steps.iter().map(|pair| pair[i])));
    let fixed =
        |pair: &[f32; 2]| [0, 1].map(|i| (pair[i] * (1u32 << bits[i]) as f32).round().clamp(-32768.0, 32767.0) as i16);
    let part = |&(tensor, groups): &(usize, usize)| {
        let scale = f64::from(tensors[tensor].scale);
        let epsilon = f64::from(norm.epsilon) / (scale * scale) * 256.0;
        NormPart { tensor: tensor as u16, groups, epsilon_q8: epsilon.round().min(f64::from(u32::MAX)) as u32 }
    };
    Rounded::Norm {
        norm,
        parts: norm.inputs.iter().map(part).collect(),
        bits,
        affine: steps.iter().map(fixed).collect(),
        table: Box::new(std::array::from_fn(entry)),
    }
}

/// Most fractional bits, up to 15, with which every value fits an `i16`.
fn fractional_bits(values: impl Iterator<Item = f32>) -> u8 {
    let largest = values.fold(0.0f32, |largest, v| largest.max(v.abs()));
    (0..=15u8).rev().find(|&bits| largest * (1u32 << bits) as f32 <= 32767.0).unwrap_or(0)
}
