//! From the U-Net to core's operations: conditioning folded, residual additions as accumulation.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use mote_core::step_table::StepRow;

use super::unet::{Block, Condition, Conv, Norm, UNet, UNetConfig};
use crate::ops::GROUP_NORM_EPSILON;
use crate::quantize::{Graph, GraphConv, GraphNorm, GraphOp, Role};

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
            h = level.blocks.iter().fold(h, |h, block| self.block(&[h], block));
            skips.push(h);
            h = self.grow(h, &level.down, Wiring { stride: 2, ..PLAIN });
        }
        h = net.middle.iter().fold(h, |h, block| self.block(&[h], block));
        for (level, skip) in net.up.iter().zip(skips.into_iter().rev()) {
            h = self.grow(h, &level.up, Wiring { upsample: 2, ..PLAIN });
            let mut inputs = vec![h, skip];
            for block in &level.blocks {
                h = self.block(&inputs, block);
                inputs = vec![h];
            }
        }
        let activation = self.norm(&[h], &net.norm_out);
        self.conv(activation, output, &Weights::of(&net.conv_out), PLAIN);
    }

    /// A residual block that reads the concatenation of `inputs` and adds to the first.
    fn block(&mut self, inputs: &[usize], block: &Block<B>) -> usize {
        let activation = self.norm(inputs, &block.norm1);
        let h = self.grow(activation, &block.conv1, PLAIN);
        let activation = self.conditioned_norm(h, block);
        self.conv(activation, inputs[0], &Weights::of(&block.conv2), ADD);
        inputs[0]
    }

    /// A convolution to a new tensor of the residual stream.
    fn grow(&mut self, input: usize, conv: &Conv<B>, wiring: Wiring) -> usize {
        let weights = Weights::of(conv);
        let [height, width, _] = self.graph.tensors[input].shape;
        let side = |side: usize| (side * wiring.upsample).div_ceil(wiring.stride);
        let output = self.graph.tensor([side(height), side(width), weights.outputs], Role::Residual);
        self.conv(input, output, &weights, wiring);
        output
    }

    fn conv(&mut self, input: usize, output: usize, weights: &Weights, wiring: Wiring) {
        self.graph.ops.push(GraphOp::Conv(GraphConv {
            input,
            output,
            kernel: weights.kernel,
            stride: wiring.stride,
            upsample: wiring.upsample,
            accumulate: wiring.accumulate,
            weights: weights.channels_last(),
            bias: weights.bias.clone(),
        }));
    }

    fn norm(&mut self, inputs: &[usize], norm: &Norm<B>) -> usize {
        let (gain, bias) = (values(norm.gain.val()), values(norm.bias.val()));
        self.normalize(inputs, false, gain.into_iter().zip(bias).map(|(gain, bias)| [gain, bias]).collect())
    }

    fn conditioned_norm(&mut self, input: usize, block: &Block<B>) -> usize {
        let [gain, bias] = block.folded(self.condition.clone()).map(values);
        self.normalize(&[input], true, gain.into_iter().zip(bias).map(|(gain, bias)| [gain, bias]).collect())
    }

    fn normalize(&mut self, inputs: &[usize], conditioned: bool, affine: Vec<[f32; 2]>) -> usize {
        let [height, width, _] = self.graph.tensors[inputs[0]].shape;
        let channels = inputs.iter().map(|&input| self.graph.tensors[input].shape[2]).sum();
        let output = self.graph.tensor([height, width, channels], Role::Activation);
        self.graph.ops.push(GraphOp::NormSilu(GraphNorm {
            inputs: inputs.iter().map(|&input| (input, self.groups)).collect(),
            output,
            epsilon: GROUP_NORM_EPSILON as f32,
            conditioned,
            affine,
        }));
        output
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
    use crate::quantize::{NoObserver, Sampler};
    use mote_core::step_table::{Objective, Variance};

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
        };
        let device = Default::default();
        let net = config.init::<Flex>(3, &device).unwrap();
        let count = parameters(&net).dims()[0];
        let random: Vec<f32> = (0..count).map(|i| (i as f32 * 0.731).sin() * 0.4).collect();
        let net = set_parameters(net, Tensor::from_data(TensorData::new(random, [count]), &device));
        let row = |timestep| StepRow::new(Objective::V, Variance::Eta(0.0), timestep, 0.5, 1.0);
        let timesteps = [900, 20];
        let graph = lower(&net, &config, "test", timesteps.map(row).to_vec(), 1000, [-1.0, 1.0]);

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
}
