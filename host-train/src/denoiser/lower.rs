//! From the U-Net to core's operations: conditioning folded, residual additions as accumulation.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use mote_core::step_table::StepRow;

use super::unet::{Attention, Block, Condition, Conv, Norm, UNet, UNetConfig};
use crate::ops::GROUP_NORM_EPSILON;
use crate::quantize::{Activation, Graph, GraphAttention, GraphConv, GraphNorm, GraphOp, Role};

/// The network that draws `rows` for every class of `config`, as a graph of core's operations.
///
/// `timesteps` is the number that the rows' timesteps count up to; `clamp` bounds `x0`.
pub fn lower<B: Backend>(
    net: &UNet<B>,
    config: &UNetConfig,
    name: &str,
    rows: Vec<StepRow>,
    timesteps: usize,
    clamp: [f32; 2],
) -> Graph {
    let condition = every_condition(net, config, &rows, timesteps);
    let sample = [config.height, config.width, config.channels];
    let mut lowering =
        Lowering { graph: Graph::new(name, sample, config.classes, clamp, rows), groups: config.groups, condition };
    lowering.network(net);
    lowering.graph
}

/// The embedding of every (row, class), `[rows * classes, embedding]`.
fn every_condition<B: Backend>(net: &UNet<B>, config: &UNetConfig, rows: &[StepRow], timesteps: usize) -> Tensor<B, 2> {
    let of: Vec<u32> = rows.iter().flat_map(|row| vec![row.timestep; config.classes]).collect();
    let classes: Vec<usize> = rows.iter().flat_map(|_| 0..config.classes).collect();
    let device = net.conv_in.weight.val().device();
    net.embed(&Condition::new(config, &of, timesteps, &classes, &device))
}

struct Lowering<B: Backend> {
    graph: Graph,
    groups: usize,
    condition: Tensor<B, 2>,
}

/// How a convolution reads and writes.
#[derive(Clone, Copy)]
struct Wiring {
    stride: usize,
    upsample: usize,
    accumulate: bool,
}

const PLAIN: Wiring = Wiring { stride: 1, upsample: 1, accumulate: false };
const ADD: Wiring = Wiring { accumulate: true, ..PLAIN };

impl<B: Backend> Lowering<B> {
    fn network(&mut self, net: &UNet<B>) {
        let (state, output) = (0, 1);
        let mut h = self.grow(state, &net.conv_in, PLAIN);
        let mut skips = Vec::new();
        for level in &net.down {
            level.blocks.iter().for_each(|block| self.block(h, None, block));
            skips.push(h);
            h = self.grow(h, &level.down, Wiring { stride: 2, ..PLAIN });
        }
        net.middle.iter().for_each(|block| self.block(h, None, block));
        for (level, skip) in net.up.iter().zip(skips.into_iter().rev()) {
            h = self.grow(h, &level.up, Wiring { upsample: 2, ..PLAIN });
            let mut skip = Some(skip);
            level.blocks.iter().for_each(|block| self.block(h, skip.take(), block));
        }
        let norm = self.norm(None, &net.norm_out);
        self.conv(h, Some(norm), output, &Weights::of(&net.conv_out), PLAIN);
    }

    /// A residual block that reads `h` and the skip, and adds to `h`.
    fn block(&mut self, h: usize, skip: Option<usize>, block: &Block<B>) {
        let weights = Weights::of(&block.conv1);
        let [height, width, _] = self.graph.tensors[h].shape;
        let middle = self.graph.tensor([height, width, weights.outputs], Role::Residual);
        let norm = self.norm(skip, &block.norm1);
        self.conv(h, Some(norm), middle, &weights, PLAIN);
        let norm = self.conditioned_norm(block);
        self.conv(middle, Some(norm), h, &Weights::of(&block.conv2), ADD);
        if let Some(attention) = &block.attention {
            self.attention(h, attention);
        }
    }

    /// An attention over `h`, added to it.
    fn attention(&mut self, h: usize, attention: &Attention<B>) {
        let [height, width, channels] = self.graph.tensors[h].shape;
        let [qkv, attended] =
            [3 * channels, channels].map(|channels| self.graph.tensor([height, width, channels], Role::Attention));
        let norm = GraphNorm { activation: Activation::Identity, ..self.norm(None, &attention.norm) };
        self.conv(h, Some(norm), qkv, &Weights::of(&attention.qkv), PLAIN);
        let heads = attention.heads;
        self.graph.ops.push(GraphOp::Attention(GraphAttention { input: qkv, output: attended, heads }));
        self.conv(attended, None, h, &Weights::of(&attention.out), ADD);
    }

    /// A convolution to a new tensor of the residual stream.
    fn grow(&mut self, input: usize, conv: &Conv<B>, wiring: Wiring) -> usize {
        let weights = Weights::of(conv);
        let [height, width, _] = self.graph.tensors[input].shape;
        let side = |side: usize| (side * wiring.upsample).div_ceil(wiring.stride);
        let output = self.graph.tensor([side(height), side(width), weights.outputs], Role::Residual);
        self.conv(input, None, output, &weights, wiring);
        output
    }

    fn conv(&mut self, input: usize, norm: Option<GraphNorm>, output: usize, weights: &Weights, wiring: Wiring) {
        self.graph.ops.push(GraphOp::Conv(GraphConv {
            input,
            norm,
            output,
            kernel: weights.kernel,
            stride: wiring.stride,
            upsample: wiring.upsample,
            accumulate: wiring.accumulate,
            weights: weights.channels_last(),
            bias: weights.bias.clone(),
        }));
    }

    fn norm(&self, second: Option<usize>, norm: &Norm<B>) -> GraphNorm {
        self.normalization(second, false, [norm.gain.val(), norm.bias.val()].map(values))
    }

    fn conditioned_norm(&self, block: &Block<B>) -> GraphNorm {
        self.normalization(None, true, block.folded(self.condition.clone()).map(values))
    }

    fn normalization(&self, second: Option<usize>, conditioned: bool, [gain, bias]: [Vec<f32>; 2]) -> GraphNorm {
        GraphNorm {
            second,
            groups: self.groups,
            epsilon: GROUP_NORM_EPSILON as f32,
            activation: Activation::Silu,
            conditioned,
            affine: gain.into_iter().zip(bias).map(|(gain, bias)| [gain, bias]).collect(),
        }
    }
}

/// A convolution's constants on the host, burn's order.
struct Weights {
    outputs: usize,
    inputs: usize,
    kernel: usize,
    /// `[outputs, inputs, kernel, kernel]`
    values: Vec<f32>,
    bias: Vec<f32>,
}

impl Weights {
    fn of<B: Backend>(conv: &Conv<B>) -> Self {
        let [outputs, inputs, kernel, _] = conv.weight.dims();
        Self { outputs, inputs, kernel, values: values(conv.weight.val()), bias: values(conv.bias.val()) }
    }

    /// `[outputs][kernel][kernel][inputs]`
    fn channels_last(&self) -> Vec<f32> {
        let area = self.kernel * self.kernel;
        let index = |output, tap, input| (output * self.inputs + input) * area + tap;
        (0..self.outputs)
            .flat_map(|output| (0..area).map(move |tap| (output, tap)))
            .flat_map(|(output, tap)| (0..self.inputs).map(move |input| self.values[index(output, tap, input)]))
            .collect()
    }
}

fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    let data: TensorData = tensor.into_data();
    data.convert::<f32>().to_vec().expect("converted to f32")
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::Tensor;

    use super::*;
    use crate::denoiser::{parameters, set_parameters};
    use crate::quantize::{NoObserver, Sampler, calibrate, export};
    use mote_core::Model;
    use mote_core::plan::Room;
    use mote_core::step_table::{Objective, Variance};

    /// A network of `config` whose parameters are of ordinary size, none of them zero, lowered for `timesteps`.
    fn lowered(config: &UNetConfig, timesteps: &[u32]) -> (UNet<Flex>, Graph) {
        let device = Default::default();
        let net = config.init::<Flex>(3, &device).unwrap();
        let count = parameters(&net).dims()[0];
        let random: Vec<f32> = (0..count).map(|i| (i as f32 * 0.731).sin() * 0.4).collect();
        let net = set_parameters(net, Tensor::from_data(TensorData::new(random, [count]), &device));
        let row = |&timestep: &u32| StepRow::new(Objective::V, Variance::Eta(0.0), timestep, 0.5, 1.0);
        let graph = lower(&net, config, "test", timesteps.iter().map(row).collect(), 1000, [-1.0, 1.0]);
        (net, graph)
    }

    /// The graph's own loops and burn's tensors compute the same network, every row and class.
    #[test]
    fn the_graph_computes_what_the_network_computes() {
        let config = UNetConfig {
            height: 8,
            width: 4,
            channels: 2,
            classes: 3,
            widths: vec![4, 6, 8],
            blocks: 2,
            middle: 1,
            groups: 2,
            embedding: 8,
            attention: vec![1],
            heads: 3,
        };
        let device = Default::default();
        let timesteps = [900, 20];
        let (net, graph) = lowered(&config, &timesteps);

        let [height, width, channels] = [8, 4, 2];
        let image = |y: usize, x: usize, c: usize| ((y * 31 + x * 7 + c * 3) as f32 * 0.37).cos();
        let coordinates = |order: fn(usize, usize, usize) -> [usize; 3], sizes: [usize; 3]| -> Vec<f32> {
            let all =
                (0..sizes[0]).flat_map(|a| (0..sizes[1]).flat_map(move |b| (0..sizes[2]).map(move |c| (a, b, c))));
            all.map(|(a, b, c)| order(a, b, c)).map(|[y, x, c]| image(y, x, c)).collect()
        };
        let channels_last = coordinates(|y, x, c| [y, x, c], [height, width, channels]);
        let channels_first = coordinates(|c, y, x| [y, x, c], [channels, height, width]);
        let x = Tensor::<Flex, 4>::from_data(TensorData::new(channels_first, [1, channels, height, width]), &device);
        for (index, timestep) in timesteps.into_iter().enumerate() {
            for class in 0..3 {
                let condition = Condition::new(&config, &[timestep], 1000, &[class], &device);
                let expected = values(net.forward(x.clone(), &condition).permute([0, 2, 3, 1]));
                let mut sampler = Sampler::new(&graph);
                let found = sampler.forward(&channels_last, index * 3 + class, &mut NoObserver);
                let peak = expected.iter().fold(0.0f32, |peak, v| peak.max(v.abs()));
                for (found, expected) in found.iter().zip(&expected) {
                    assert!(
                        (found - expected).abs() < 1e-4 * peak,
                        "row {index} class {class}: {found} and {expected}"
                    );
                }
            }
        }
    }

    /// The network that the schedules of memory are compared on.
    #[test]
    fn a_28x28_network_of_16_32_64_channels_runs_in_63_kilobytes() {
        let config = UNetConfig {
            height: 28,
            width: 28,
            channels: 1,
            classes: 10,
            widths: vec![16, 32, 64],
            blocks: 1,
            middle: 1,
            groups: 4,
            embedding: 64,
            attention: vec![],
            heads: 1,
        };
        let (_, graph) = lowered(&config, &[900]);
        let exported = export(&graph, &calibrate(&graph, 1, 1), Room::Usual).unwrap();
        let arena = Model::parse(&exported.file).unwrap().arena_len();
        assert!((50_000..=63_000).contains(&arena), "{arena} bytes");
    }
}
