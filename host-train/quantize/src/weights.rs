//! Rounding weights to 8 or 4 bits, an output channel at a time.

use super::graph::{Graph, GraphConv, GraphOp};
use super::windows::Windows;
use mote_core::kernel::WeightBits;

/// Parts of a channel's largest weight that the largest 4-bit weight may stand for: of these, the one with the least error.
const CLIPS: [f32; 10] = [1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5];

/// How the weights of an operation are rounded.
#[derive(Clone, Copy, Debug)]
pub enum Rounding<'w> {
    /// To 8 bits, each to the nearest step; the largest of a channel is 127.
    Bytes,
    /// To 4 bits, each to the nearest step, -7 to 7; the step with the least squared error of the weights.
    Nibbles,
    /// To 4 bits so that the convolution's result changes least on the windows of calibration.
    Compensated(&'w Windows),
    /// Each to the nearest of these steps, one a channel: of a network that was trained with them.
    Fixed(WeightBits, &'w [f32]),
}

impl Rounding<'_> {
    /// How many bits the weights then have.
    pub fn bits(&self) -> WeightBits {
        match self {
            Rounding::Bytes => WeightBits::Eight,
            Rounding::Nibbles | Rounding::Compensated(_) => WeightBits::Four,
            Rounding::Fixed(bits, _) => *bits,
        }
    }

    /// No channel's step becomes larger, unless an accumulator could overflow.
    pub(super) fn coarsest_step(&self, conv: &GraphConv) -> f32 {
        match self {
            Rounding::Fixed(_, steps) => steps.iter().copied().fold(0.0, f32::max),
            _ => conv.weights.iter().fold(0.0f32, |peak, w| peak.max(w.abs())) / largest_weight(self.bits()),
        }
    }
}

/// A channel's weights: integers, the value of one step, and the bias that goes with them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Channel {
    pub(super) weights: Vec<i8>,
    pub(super) step: f32,
    pub(super) bias: f32,
}

/// The largest magnitude of a rounded weight. Weights at 4 bits are symmetric, so that no sign is favoured.
pub fn largest_weight(bits: WeightBits) -> f32 {
    match bits {
        WeightBits::Eight => 127.0,
        WeightBits::Four => 7.0,
    }
}

fn to_nearest(weight: f32, step: f32, bits: WeightBits) -> i8 {
    (weight / step).round().clamp(-largest_weight(bits), largest_weight(bits)) as i8
}

/// Rounds channel `channel` of `conv`; its step is at least `least_step`.
pub(super) fn round(conv: &GraphConv, channel: usize, rounding: Rounding<'_>, least_step: f32) -> Channel {
    let taps = conv.weights.len() / conv.bias.len();
    let (weights, bias) = (&conv.weights[channel * taps..][..taps], conv.bias[channel]);
    let peak = weights.iter().fold(0.0f32, |peak, w| peak.max(w.abs()));
    let bits = rounding.bits();
    let plain =
        |step: f32| Channel { weights: weights.iter().map(|w| to_nearest(*w, step, bits)).collect(), step, bias };
    let steps = || CLIPS.map(|clip| (clip * peak / largest_weight(bits)).max(least_step).max(f32::MIN_POSITIVE));
    match rounding {
        Rounding::Bytes => plain((peak / largest_weight(bits)).max(least_step)),
        Rounding::Fixed(_, steps) => plain(steps[channel].max(least_step)),
        Rounding::Nibbles => least(steps().map(|step| {
            let rounded = plain(step);
            let pairs = rounded.weights.iter().zip(weights);
            (pairs.map(|(&q, w)| (f64::from(w - f32::from(q) * step)).powi(2)).sum(), rounded)
        })),
        Rounding::Compensated(windows) => least(steps().map(|step| {
            let (error, integers) = windows.round(weights, |weight| to_nearest(weight, step, bits), step);
            // What the rounded weights make of the mean window goes to the bias.
            let shift: f64 = (windows.mean.iter().zip(weights.iter().zip(&integers)))
                .map(|(mean, (w, &q))| mean * f64::from(w - f32::from(q) * step))
                .sum();
            (error, Channel { weights: integers, step, bias: bias + shift as f32 })
        })),
    }
}

fn least<const N: usize>(candidates: [(f64, Channel); N]) -> Channel {
    let best = candidates.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
    best.expect("there are candidates").1
}

/// [`Rounding::Bytes`] for every operation.
pub fn bytes(graph: &Graph) -> Vec<Rounding<'static>> {
    vec![Rounding::Bytes; graph.ops.len()]
}

/// [`Rounding::Nibbles`] for every convolution.
pub fn nearest(graph: &Graph) -> Vec<Rounding<'static>> {
    let of = |op: &GraphOp| match op {
        GraphOp::Conv(_) => Rounding::Nibbles,
        GraphOp::Attention(_) => Rounding::Bytes,
    };
    graph.ops.iter().map(of).collect()
}

/// [`Rounding::Compensated`] for every convolution that windows were seen of.
pub fn compensated<'w>(graph: &Graph, windows: &'w [Option<Windows>]) -> Vec<Rounding<'w>> {
    let of = |(op, windows): (&GraphOp, &'w Option<Windows>)| match (op, windows) {
        (GraphOp::Conv(_), Some(windows)) => Rounding::Compensated(windows),
        _ => Rounding::Bytes,
    };
    graph.ops.iter().zip(windows).map(of).collect()
}
