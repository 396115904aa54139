//! From a denoiser to core's operations: conditioning folded, residual additions as accumulation, linear layers as 1x1
//! convolutions.

use crate::ops::DenoiserBackend;
use burn::tensor::{Tensor, TensorData};
use mote_core::step_table::StepRow;

use super::{Attention, Block, Condition, Conv, Denoiser, DenoiserConfig, Linear, Mlp, Norm, NotExportable, UNet};
use crate::dataset::SampleShape;
use crate::ops::GROUP_NORM_EPSILON;
use crate::quantize::{Activation, Graph, GraphAttention, GraphConv, GraphNorm, GraphOp, Role};

/// The network that draws `rows` for every class of `config`, as a graph of core's operations.
///
/// `timesteps` is the number that the rows' timesteps count up to; `clamp` bounds `x0`.
///
/// # Errors
/// [`NotExportable`] if core cannot run it.
pub fn lower<B: DenoiserBackend>(
    net: &Denoiser<B>,
    config: &DenoiserConfig,
    name: &str,
    rows: Vec<StepRow>,
    timesteps: usize,
    clamp: [f32; 2],
) -> Result<Graph, NotExportable> {
    config.check_interface()?;
    let SampleShape { height, width, channels } = config.shape;
    let condition = every_condition(net, config, &rows, timesteps);
    let graph = Graph::new(name, [height, width, channels], config.classes, clamp, rows);
    let mut lowering = Lowering { graph, condition };
    match net {
        Denoiser::UNet(net) => lowering.unet(net),
        Denoiser::Mlp(net) => lowering.mlp(net),
    }
    lowering.graph.check()?;
    Ok(lowering.graph)
}

/// The embedding of every (row, class), `[rows * classes, embedding]`.
fn every_condition<B: DenoiserBackend>(
    net: &Denoiser<B>,
    config: &DenoiserConfig,
    rows: &[StepRow],
    timesteps: usize,
) -> Tensor<B, 2> {
    let of: Vec<u32> = rows.iter().flat_map(|row| vec![row.timestep; config.classes]).collect();
    let classes: Vec<usize> = rows.iter().flat_map(|_| 0..config.classes).collect();
    let embedding = net.embedding();
    let device = embedding.class.val().device();
    embedding.forward(&Condition::new(config, &of, timesteps, &classes, &device))
}

struct Lowering<B: DenoiserBackend> {
    graph: Graph,
    condition: Tensor<B, 2>,
}

/// How a convolution reads and writes.
#[derive(Clone, Copy)]
struct Wiring {
    stride: [usize; 2],
    upsample: [usize; 2],
    accumulate: bool,
}

const PLAIN: Wiring = Wiring { stride: [1; 2], upsample: [1; 2], accumulate: false };
const ADD: Wiring = Wiring { accumulate: true, ..PLAIN };

/// The graph's state and output.
const STATE: usize = 0;
const OUTPUT: usize = 1;

impl<B: DenoiserBackend> Lowering<B> {
    fn unet(&mut self, net: &UNet<B>) {
        let mut h = self.grow(STATE, Weights::of(&net.conv_in), PLAIN);
        let mut skips = Vec::new();
        for level in &net.down {
            level.blocks.iter().for_each(|block| self.block(h, None, block));
            skips.push(h);
            h = self.grow(h, Weights::of(&level.down), Wiring { stride: level.down.factors(), ..PLAIN });
        }
        net.middle.iter().for_each(|block| self.block(h, None, block));
        for (level, skip) in net.up.iter().zip(skips.into_iter().rev()) {
            h = self.grow(h, Weights::of(&level.up), Wiring { upsample: level.up.factors(), ..PLAIN });
            let mut skip = Some(skip);
            level.blocks.iter().for_each(|block| self.block(h, skip.take(), block));
        }
        self.conv(h, Some(norm(None, &net.norm_out)), OUTPUT, Weights::of(&net.conv_out), PLAIN);
    }

    fn mlp(&mut self, net: &Mlp<B>) {
        let h = self.grow(STATE, Weights::of_linear(&net.linear_in), PLAIN);
        for block in &net.blocks {
            let weights = [&block.linear1, &block.linear2].map(Weights::of_linear);
            self.residual(h, norm(None, &block.norm1), self.folded(&block.norm2, |e| block.folded(e)), weights);
        }
        self.conv(h, Some(norm(None, &net.norm_out)), OUTPUT, Weights::of_linear(&net.linear_out), PLAIN);
    }

    /// A U-Net's block that reads `h` and the skip, and adds to `h`.
    fn block(&mut self, h: usize, skip: Option<usize>, block: &Block<B>) {
        let weights = [&block.conv1, &block.conv2].map(Weights::of);
        self.residual(h, norm(skip, &block.norm1), self.folded(&block.norm2, |e| block.folded(e)), weights);
        if let Some(attention) = &block.attention {
            self.attention(h, attention);
        }
    }

    /// Two layers, each behind its normalization, added to `h`.
    fn residual(&mut self, h: usize, first: GraphNorm, second: GraphNorm, [enter, leave]: [Weights; 2]) {
        let [height, width, _] = self.graph.tensors[h].shape;
        let middle = self.graph.tensor([height, width, enter.outputs], Role::Residual);
        self.conv(h, Some(first), middle, enter, PLAIN);
        self.conv(middle, Some(second), h, leave, ADD);
    }

    /// An attention over `h`, added to it.
    fn attention(&mut self, h: usize, attention: &Attention<B>) {
        let [height, width, channels] = self.graph.tensors[h].shape;
        let [qkv, attended] =
            [3 * channels, channels].map(|channels| self.graph.tensor([height, width, channels], Role::Attention));
        let norm = GraphNorm { activation: Activation::Identity, ..norm(None, &attention.norm) };
        self.conv(h, Some(norm), qkv, Weights::of(&attention.qkv), PLAIN);
        let heads = attention.heads;
        self.graph.ops.push(GraphOp::Attention(GraphAttention { input: qkv, output: attended, heads }));
        self.conv(attended, None, h, Weights::of(&attention.out), ADD);
    }

    /// A layer to a new tensor of the residual stream.
    fn grow(&mut self, input: usize, weights: Weights, wiring: Wiring) -> usize {
        let shape = self.graph.tensors[input].shape;
        let side = |axis: usize| (shape[axis] * wiring.upsample[axis]).div_ceil(wiring.stride[axis]);
        let output = self.graph.tensor([side(0), side(1), weights.outputs], Role::Residual);
        self.conv(input, None, output, weights, wiring);
        output
    }

    fn conv(&mut self, input: usize, norm: Option<GraphNorm>, output: usize, weights: Weights, wiring: Wiring) {
        self.graph.ops.push(GraphOp::Conv(GraphConv {
            input,
            norm,
            output,
            kernel: weights.kernel,
            stride: wiring.stride,
            upsample: wiring.upsample,
            accumulate: wiring.accumulate,
            weights: weights.values,
            bias: weights.bias,
        }));
    }

    /// A normalization whose gain and bias `fold` gives for every (row, class).
    fn folded(&self, of: &Norm<B>, fold: impl FnOnce(Tensor<B, 2>) -> [Tensor<B, 2>; 2]) -> GraphNorm {
        let affine = pairs(fold(self.condition.clone()).map(values));
        GraphNorm { conditioned: true, affine, ..norm(None, of) }
    }
}

/// A normalization of a convolution's input and of `second`, and SiLU.
fn norm<B: DenoiserBackend>(second: Option<usize>, norm: &Norm<B>) -> GraphNorm {
    GraphNorm {
        second,
        // `norm.groups` counts those of both halves of a concatenation.
        groups: norm.groups / if second.is_some() { 2 } else { 1 },
        epsilon: GROUP_NORM_EPSILON as f32,
        activation: Activation::Silu,
        conditioned: false,
        affine: pairs([norm.gain.val(), norm.bias.val()].map(values)),
    }
}

fn pairs([gain, bias]: [Vec<f32>; 2]) -> Vec<[f32; 2]> {
    gain.into_iter().zip(bias).map(|(gain, bias)| [gain, bias]).collect()
}

/// A layer's constants on the host.
struct Weights {
    outputs: usize,
    kernel: [usize; 2],
    /// `[outputs][kernel rows][kernel columns][inputs]`
    values: Vec<f32>,
    bias: Vec<f32>,
}

impl Weights {
    fn of<B: DenoiserBackend>(conv: &Conv<B>) -> Self {
        let [outputs, _, rows, columns] = conv.weight.dims();
        let kernel = [rows, columns];
        Self { outputs, kernel, values: values(conv.weight.val().permute([0, 2, 3, 1])), bias: values(conv.bias.val()) }
    }

    fn of_linear<B: DenoiserBackend>(linear: &Linear<B>) -> Self {
        let [_, outputs] = linear.weight.dims();
        Self {
            outputs,
            kernel: [1; 2],
            values: values(linear.weight.val().transpose()),
            bias: values(linear.bias.val()),
        }
    }
}

fn values<B: DenoiserBackend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    let data: TensorData = tensor.into_data();
    data.convert::<f32>().to_vec().expect("converted to f32")
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::denoiser::{Architecture, MlpConfig, Output, UNetConfig, parameters, set_parameters};
    use crate::quantize::{Ends, NoObserver, Sampler, calibrate, export};
    use mote_core::plan::Room;
    use mote_core::quant::STATE_ONE;
    use mote_core::step_table::{Objective, Variance};
    use mote_core::{Generator, Model, Request, aligned};

    fn config(shape: SampleShape, classes: usize, architecture: Architecture) -> DenoiserConfig {
        let (output, self_conditioning, condition_channels) = (Output::Mean, false, 0);
        DenoiserConfig { shape, classes, architecture, output, self_conditioning, condition_channels }
    }

    /// A network of `config` whose parameters are of ordinary size, none of them zero, lowered for `timesteps`.
    fn lowered(config: &DenoiserConfig, timesteps: &[u32]) -> (Denoiser<Flex>, Graph) {
        let device = Default::default();
        let net = config.init::<Flex>(3, &device).unwrap();
        let count = parameters(&net).dims()[0];
        let random: Vec<f32> = (0..count).map(|i| (i as f32 * 0.731).sin() * 0.4).collect();
        let net = set_parameters(net, Tensor::from_data(TensorData::new(random, [count]), &device));
        let row = |&timestep: &u32| StepRow::new(Objective::V, Variance::Eta(0.0), timestep, 0.5, 1.0);
        let graph = lower(&net, config, "test", timesteps.iter().map(row).collect(), 1000, [-1.0, 1.0]).unwrap();
        (net, graph)
    }

    /// The graph's own loops and burn's tensors compute the same network, every row and class.
    #[test]
    fn the_graph_computes_what_the_network_computes() {
        let unet = UNetConfig {
            widths: vec![4, 6, 8],
            blocks: 2,
            middle: 1,
            groups: 2,
            embedding: 8,
            attention: vec![1],
            heads: 3,
            dropout: 0.5,
        };
        let mlp = MlpConfig { width: 12, blocks: 2, groups: 1, embedding: 8, dropout: 0.5 };
        for config in [
            config(SampleShape::signal(12, 3), 2, Architecture::UNet(unet.clone())),
            config(SampleShape::image(8, 4, 2), 3, Architecture::UNet(unet)),
            config(SampleShape::vector(5), 2, Architecture::Mlp(mlp)),
        ] {
            let device = Default::default();
            let timesteps = [900, 20];
            let (net, graph) = lowered(&config, &timesteps);
            let SampleShape { height, width, channels } = config.shape;
            let state: Vec<f32> = (0..config.shape.len()).map(|i| (i as f32 * 0.37).cos()).collect();
            let x = Tensor::<Flex, 4>::from_data(TensorData::new(state.clone(), [1, height, width, channels]), &device);
            let x = x.permute([0, 3, 1, 2]);
            for (index, timestep) in timesteps.into_iter().enumerate() {
                for class in 0..config.classes {
                    let condition = Condition::new(&config, &[timestep], 1000, &[class], &device);
                    let expected = values(net.forward(x.clone(), &condition).permute([0, 2, 3, 1]));
                    let mut sampler = Sampler::new(&graph);
                    let found = sampler.forward(&state, index * config.classes + class, &mut NoObserver);
                    let peak = expected.iter().fold(0.0f32, |peak, v| peak.max(v.abs()));
                    assert_eq!(found.len(), expected.len());
                    for (found, expected) in found.iter().zip(&expected) {
                        assert!(
                            (found - expected).abs() < 1e-4 * peak,
                            "{} row {index} class {class}: {found} and {expected}",
                            config.shape
                        );
                    }
                }
            }
        }
    }

    /// Signals, vectors and oblong pictures, all the way: what core draws from the file is close to what the floats give.
    #[test]
    fn every_kind_of_sample_is_drawn_from_a_file() {
        let unet = UNetConfig {
            widths: vec![8, 16],
            blocks: 1,
            middle: 1,
            groups: 4,
            embedding: 8,
            attention: vec![1],
            heads: 2,
            dropout: 0.0,
        };
        let mlp = MlpConfig { width: 24, blocks: 2, groups: 1, embedding: 8, dropout: 0.0 };
        for config in [
            config(SampleShape::signal(16, 3), 2, Architecture::UNet(unet.clone())),
            config(SampleShape::image(4, 12, 3), 2, Architecture::UNet(unet)),
            config(SampleShape::vector(7), 2, Architecture::Mlp(mlp)),
        ] {
            let (_, mut graph) = lowered(&config, &[900, 600, 300]);
            let levels = [0.02, 0.4, 0.8, 1.0].windows(2);
            let rows = graph.rows.iter().zip(levels).map(|(row, levels)| {
                StepRow::new(Objective::V, Variance::Eta(0.5), row.timestep, levels[0], levels[1])
            });
            graph.rows = rows.collect();
            let exported = export(&graph, &calibrate(&graph, 1, 20, Ends::default()), Room::Usual).unwrap();
            let model = Model::parse(&exported.file).unwrap();
            let mut arena = vec![0; model.arena_len() + 3];
            let mut generator = Generator::new(&model, aligned(&mut arena)).unwrap();
            let request = Request { class: 1, seed: 5, ..Request::default() };
            generator.start(request).unwrap();
            generator.finish();
            let float = Sampler::new(&graph).draw(request, &mut NoObserver);
            let found = generator.state().iter().map(|&x| f32::from(x) / f32::from(STATE_ONE));
            let error: f32 = float.iter().zip(found).map(|(want, got)| (want - got).powi(2)).sum();
            let error = (error / float.len() as f32).sqrt();
            assert!(error < 0.02, "{}: root mean square difference {error}", config.shape);
            assert!(float.iter().any(|value| value.abs() < 0.99), "{}: all clamped", config.shape);
        }
    }

    /// The network that the schedules of memory are compared on.
    #[test]
    fn a_28x28_network_of_16_32_64_channels_runs_in_63_kilobytes() {
        let unet = UNetConfig {
            widths: vec![16, 32, 64],
            blocks: 1,
            middle: 1,
            groups: 4,
            embedding: 64,
            attention: vec![],
            heads: 1,
            dropout: 0.0,
        };
        let config = config(SampleShape::image(28, 28, 1), 10, Architecture::UNet(unet));
        let (_, graph) = lowered(&config, &[900]);
        let exported = export(&graph, &calibrate(&graph, 1, 1, Ends::default()), Room::Usual).unwrap();
        let arena = Model::parse(&exported.file).unwrap().arena_len();
        assert!((50_000..=63_000).contains(&arena), "{arena} bytes");
    }
}
