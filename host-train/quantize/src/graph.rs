//! The float twin of a `.mote` network: core's operations and tensors, before rounding.

use mote_core::model::{MAX_ELEMENTS, MAX_GROUP, MAX_RECORDS, MAX_TOKENS};
use mote_core::step_table::StepRow;

/// What a tensor is for; this decides its element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The state `x`: i16, Q12.
    State,
    /// The network's output: i16.
    Output,
    /// The residual stream: i16.
    Residual,
    /// What an attention reads or writes: i8 around zero.
    Attention,
}

/// A tensor's shape and role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphTensor {
    /// Height, width, channels.
    pub shape: [usize; 3],
    /// What it is for.
    pub role: Role,
}

impl GraphTensor {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A convolution, zero-padded by `kernel / 2` above and below, left and right.
#[derive(Clone, Debug)]
pub struct GraphConv {
    /// Input tensor.
    pub input: usize,
    /// What is done to the input on the way.
    pub norm: Option<GraphNorm>,
    /// Output tensor.
    pub output: usize,
    /// Kernel rows and columns: 1x1, 3x3, or 1x3 for signals.
    pub kernel: [usize; 2],
    /// Down and across, 1 or 2 each; 1 down for a 1x3 kernel.
    pub stride: [usize; 2],
    /// Nearest-neighbor enlargement of the input, down and across, 1 or 2 each; 1 down for a 1x3 kernel.
    pub upsample: [usize; 2],
    /// Whether the result is added to the output's content.
    pub accumulate: bool,
    /// `[channels_out][kernel rows][kernel columns][channels_in]`.
    pub weights: Vec<f32>,
    /// `[channels_out]`.
    pub bias: Vec<f32>,
}

/// What follows a normalization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `z / (1 + exp(-z))`
    Silu,
    /// `z`
    Identity,
}

impl Activation {
    /// The function.
    pub fn of(self, z: f32) -> f32 {
        match self {
            Activation::Silu => z / (1.0 + (-z).exp()),
            Activation::Identity => z,
        }
    }
}

/// GroupNorm, gain and bias, an activation function, of a convolution's input.
#[derive(Clone, Debug)]
pub struct GraphNorm {
    /// Another input, whose channels follow the first's.
    pub second: Option<usize>,
    /// Groups of each input.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// What follows.
    pub activation: Activation,
    /// Whether `affine` has a part for each (row, class).
    pub conditioned: bool,
    /// Gain and bias: `[rows][classes][channels]` if conditioned, else `[channels]`.
    pub affine: Vec<[f32; 2]>,
}

/// Self-attention over all pixels: each head's `softmax(queries keys^T / sqrt(channels of a head)) values`.
#[derive(Clone, Debug)]
pub struct GraphAttention {
    /// Queries, keys and values one after another, each with the output's channels.
    pub input: usize,
    /// Output tensor.
    pub output: usize,
    /// The output's channels are divided into so many heads.
    pub heads: usize,
}

/// One operation.
#[derive(Clone, Debug)]
pub enum GraphOp {
    /// A convolution.
    Conv(GraphConv),
    /// An attention.
    Attention(GraphAttention),
}

/// A network, its step table and its sample shape. Tensor 0 is the state, tensor 1 the output.
#[derive(Clone, Debug)]
pub struct Graph {
    /// A name for people.
    pub name: String,
    /// Classes; 1 for an unconditional model.
    pub classes: usize,
    /// Smallest and largest `x0`.
    pub clamp: [f32; 2],
    /// Offset and scale of each channel's natural values; empty for pictures.
    pub units: Vec<[f32; 2]>,
    /// The sampler.
    pub rows: Vec<StepRow>,
    /// Tensors.
    pub tensors: Vec<GraphTensor>,
    /// Operations in order.
    pub ops: Vec<GraphOp>,
}

/// A network that core does not run: something in it is larger than a `.mote` file may have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a .mote file cannot hold a network with {found} {what}, at most {most}")]
pub struct TooLarge {
    /// What there are too many of.
    pub what: &'static str,
    /// How many there are.
    pub found: usize,
    /// How many there may be.
    pub most: usize,
}

/// Index of the state.
pub(super) const STATE: usize = 0;
/// Index of the output.
pub(super) const OUTPUT: usize = 1;

impl GraphConv {
    /// Pixels of a window.
    pub fn area(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }
}

impl Graph {
    /// An empty network over samples of `sample` (height, width, channels).
    pub fn new(name: &str, sample: [usize; 3], classes: usize, clamp: [f32; 2], rows: Vec<StepRow>) -> Self {
        let tensor = |role| GraphTensor { shape: sample, role };
        let tensors = vec![tensor(Role::State), tensor(Role::Output)];
        Graph { name: name.to_owned(), classes, clamp, units: Vec::new(), rows, tensors, ops: Vec::new() }
    }

    /// Adds a tensor and returns its index.
    pub fn tensor(&mut self, shape: [usize; 3], role: Role) -> usize {
        self.tensors.push(GraphTensor { shape, role });
        self.tensors.len() - 1
    }

    /// The tensors that a convolution reads, the old content of its output apart.
    pub fn inputs(conv: &GraphConv) -> impl Iterator<Item = usize> {
        [Some(conv.input), conv.norm.as_ref().and_then(|norm| norm.second)].into_iter().flatten()
    }

    /// Channels that a convolution reads.
    pub fn channels_in(&self, conv: &GraphConv) -> usize {
        Self::inputs(conv).map(|input| self.tensors[input].shape[2]).sum()
    }

    /// Whether core's limits hold, whatever the constants are.
    ///
    /// # Errors
    /// [`TooLarge`], the first thing that is.
    pub fn check(&self) -> Result<(), TooLarge> {
        let at_most = |what, found: usize, most: usize| match found <= most {
            true => Ok(()),
            false => Err(TooLarge { what, found, most }),
        };
        at_most("tensors", self.tensors.len(), MAX_RECORDS.into())?;
        at_most("operations", self.ops.len(), MAX_RECORDS.into())?;
        for tensor in &self.tensors {
            at_most("values in a tensor", tensor.elements(), MAX_ELEMENTS as usize)?;
        }
        for op in &self.ops {
            match op {
                GraphOp::Conv(conv) => {
                    let groups = conv.norm.as_ref().map(|norm| norm.groups);
                    for (input, groups) in Self::inputs(conv).zip(groups.into_iter().cycle()) {
                        at_most("values in a group", self.tensors[input].elements() / groups, MAX_GROUP)?;
                    }
                }
                GraphOp::Attention(attention) => {
                    let [height, width, _] = self.tensors[attention.input].shape;
                    at_most("pixels under an attention", height * width, MAX_TOKENS)?;
                }
            }
        }
        Ok(())
    }

    /// The same network with every convolution of a concatenation as two, the second added to the first's result, so that
    /// each half has an activation table and scale of its own.
    pub fn with_halves_apart(&self) -> Self {
        let mut apart = self.clone();
        apart.ops.clear();
        for op in &self.ops {
            match op {
                GraphOp::Conv(conv) => match self.halves(conv) {
                    Some(halves) => apart.ops.extend(halves.map(GraphOp::Conv)),
                    None => apart.ops.push(op.clone()),
                },
                GraphOp::Attention(_) => apart.ops.push(op.clone()),
            }
        }
        apart
    }

    /// A convolution of a concatenation as one of each half, the second added to the first's result.
    fn halves(&self, conv: &GraphConv) -> Option<[GraphConv; 2]> {
        let norm = conv.norm.as_ref()?;
        let second = norm.second?;
        let channels = self.channels_in(conv);
        let first = self.tensors[conv.input].shape[2];
        let half = |input, from: usize, to: usize| {
            let norm = GraphNorm {
                second: None,
                affine: norm.affine.chunks_exact(channels).flat_map(|part| &part[from..to]).copied().collect(),
                ..norm.clone()
            };
            let weights = conv.weights.chunks_exact(channels).flat_map(|tap| &tap[from..to]).copied().collect();
            GraphConv { input, norm: Some(norm), weights, ..conv.clone() }
        };
        let added = GraphConv { accumulate: true, bias: vec![0.0; conv.bias.len()], ..half(second, first, channels) };
        Some([half(conv.input, 0, first), added])
    }

    /// Multiply-accumulates of one pass, padding counted.
    pub fn macs(&self) -> usize {
        let macs = |op: &GraphOp| match op {
            GraphOp::Conv(conv) => {
                let [height, width, _] = self.tensors[conv.output].shape;
                height * width * conv.weights.len()
            }
            GraphOp::Attention(attention) => {
                let [height, width, channels] = self.tensors[attention.output].shape;
                2 * (height * width).pow(2) * channels
            }
        };
        self.ops.iter().map(macs).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::random_network::network;
    use super::super::{NoObserver, Sampler};
    use mote_core::Request;

    #[test]
    fn halves_apart_compute_what_the_concatenation_does() {
        let graph = network(5, Some(2));
        let apart = graph.with_halves_apart();
        assert!(apart.ops.len() > graph.ops.len(), "no concatenation in the test's network");
        assert_eq!(apart.macs(), graph.macs());
        let request = Request { class: 1, seed: 3, ..Request::default() };
        let [whole, halves] = [&graph, &apart].map(|graph| Sampler::new(graph).draw(request, &mut NoObserver));
        for (whole, halves) in whole.iter().zip(halves) {
            assert!((whole - halves).abs() < 1e-4, "{whole} and {halves}");
        }
    }
}
