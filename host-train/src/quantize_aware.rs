//! Quantization-aware training: the network, rounded as core rounds it, learns to say what the float network says on the
//! states of the float network's own trajectories.
//!
//! What is trained is the lowered [`Graph`]: weights, biases, and the gains and biases that conditioning was folded to. Scales
//! are frozen at what calibration chose. Every rounding is that of [`FakeQuant`]; its gradient is
//! that of no rounding, and zero where a value is cut off (Jacob et al., *Quantization and Training of Neural Networks for
//! Efficient Integer-Arithmetic-Only Inference*, 2018, section 3; Bengio, Léonard, Courville 2013 for the gradient). Targets
//! are the float network's, not data: at this stage data makes a few-step student worse.

use burn::module::{Module, Param};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Int, Tensor, TensorData};
use mote_core::kernel::TABLE_LEN;
use mote_core::model::{Element, Model};

use crate::denoiser::{gradients, parameters, set_parameters};
use crate::ops::{DenoiserBackend, group_norm};
use crate::quantize::{
    Activation, Exported, FakeQuant, Graph, GraphAttention, GraphConv, GraphNorm, GraphOp, States, Table,
    largest_weight, limits,
};
use crate::trainer::{AdamW, Decay, Ema, OptimizerConfig, StepRandom};

/// Part of a step that a weight's start keeps away from the next rounding, so that training begins with the file's integers.
const INSIDE: f32 = 0.49;

/// The numbers of the training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QuantizeAwareConfig {
    /// Training steps.
    pub steps: u64,
    /// States a step.
    pub batch: usize,
    /// Greatest learning rate of AdamW; it falls as half a cosine.
    pub learning_rate: f64,
    /// Decides which states make a batch.
    pub seed: u64,
}

impl QuantizeAwareConfig {
    fn optimizer(&self) -> OptimizerConfig {
        OptimizerConfig {
            learning_rate: self.learning_rate,
            warm_up: (self.steps / 10).max(1),
            decay: Decay::Cosine,
            floor: 0.0,
            betas: [0.9, 0.99],
            weight_decay: 0.0,
            clip: 1.0,
            accumulate: 1,
            ema: Ema::Decay(0.98),
            snapshots: None,
        }
    }
}

/// The trained constants of a graph's convolutions, in their order.
#[derive(Module, Debug)]
pub struct RoundedNet<B: Backend> {
    convs: Vec<RoundedConv<B>>,
}

/// The trained constants of one convolution.
#[derive(Module, Debug)]
pub struct RoundedConv<B: Backend> {
    /// `[out, in, rows, columns]`
    weight: Param<Tensor<B, 4>>,
    /// `[out]`
    bias: Param<Tensor<B, 1>>,
    /// Gain and offset of a normalization, `[2, conditions or 1, channels]`.
    affine: Option<Param<Tensor<B, 3>>>,
}

/// A graph and how its file rounds it.
pub struct Scheme<'a> {
    graph: &'a Graph,
    exported: &'a Exported,
}

impl<'a> Scheme<'a> {
    /// The rounding of `exported`, made of `graph`.
    pub fn new(graph: &'a Graph, exported: &'a Exported) -> Self {
        Scheme { graph, exported }
    }

    fn convs(graph: &Graph) -> impl Iterator<Item = (usize, &GraphConv)> {
        graph.ops.iter().enumerate().filter_map(|(index, op)| match op {
            GraphOp::Conv(conv) => Some((index, conv)),
            GraphOp::Attention(_) => None,
        })
    }

    /// The graph's constants, weights and biases such that they are rounded to the integers of the file.
    pub fn net<B: Backend>(&self, device: &B::Device) -> RoundedNet<B> {
        let model = Model::parse(&self.exported.file).expect("what was exported parses");
        let rounded = FakeQuant::graph(self.graph, self.exported, &model);
        let convs = Self::convs(self.graph).zip(Self::convs(&rounded)).map(|((index, float), (_, rounded))| {
            let taps = float.weights.len() / float.bias.len();
            let weights = float.weights.iter().zip(&rounded.weights).enumerate().map(|(at, (float, rounded))| {
                let room = INSIDE * self.exported.steps[index][at / taps];
                float.clamp(rounded - room, rounded + room)
            });
            let channels = self.graph.channels_in(float);
            let [rows, columns] = float.kernel;
            let shape = [float.bias.len(), rows, columns, channels];
            let weight = Tensor::<B, 4>::from_data(TensorData::new(weights.collect::<Vec<_>>(), shape), device);
            let bias = TensorData::new(rounded.bias.clone(), [rounded.bias.len()]);
            RoundedConv {
                weight: Param::from_tensor(weight.permute([0, 3, 1, 2])),
                bias: Param::from_tensor(Tensor::from_data(bias, device)),
                affine: float.norm.as_ref().map(|norm| {
                    let parts = norm.affine.len() / channels;
                    let values = [0, 1].into_iter().flat_map(|i| norm.affine.iter().map(move |pair| pair[i]));
                    let data = TensorData::new(values.collect::<Vec<_>>(), [2, parts, channels]);
                    Param::from_tensor(Tensor::from_data(data, device))
                }),
            }
        });
        RoundedNet { convs: convs.collect() }
    }

    /// The graph with the constants of `net`.
    pub fn trained<B: Backend>(&self, net: &RoundedNet<B>) -> Graph {
        let mut graph = self.graph.clone();
        let convs = graph.ops.iter_mut().filter_map(|op| if let GraphOp::Conv(conv) = op { Some(conv) } else { None });
        for (conv, trained) in convs.zip(&net.convs) {
            conv.weights = values(trained.weight.val().permute([0, 2, 3, 1]));
            conv.bias = values(trained.bias.val());
            if let (Some(norm), Some(affine)) = (&mut conv.norm, &trained.affine) {
                let affine = values(affine.val());
                let (gains, biases) = affine.split_at(affine.len() / 2);
                norm.affine = gains.iter().zip(biases).map(|(&gain, &bias)| [gain, bias]).collect();
            }
        }
        graph
    }

    /// The output of the rounded network.
    ///
    /// # Shapes
    /// - x, result: `[batch, channels, height, width]`
    /// - conditions: `row * classes + class` of each sample
    pub fn forward<B: DenoiserBackend>(
        &self,
        net: &RoundedNet<B>,
        x: Tensor<B, 4>,
        conditions: &[usize],
    ) -> Tensor<B, 4> {
        let conditions: Vec<i64> = conditions.iter().map(|&condition| condition as i64).collect();
        let conditions = Tensor::<B, 1, Int>::from_ints(&conditions[..], &x.device());
        let mut tensors: Vec<Option<Tensor<B, 4>>> = vec![None; self.graph.tensors.len()];
        tensors[0] = Some(x);
        let mut convs = net.convs.iter();
        for (index, op) in self.graph.ops.iter().enumerate() {
            let (output, result) = match op {
                GraphOp::Conv(conv) => {
                    let constants = convs.next().expect("a convolution's constants");
                    let mut result = self.conv(index, conv, constants, &tensors, &conditions);
                    if conv.accumulate {
                        result = result + written(&tensors, conv.output);
                    }
                    (conv.output, result)
                }
                GraphOp::Attention(op) => (op.output, attention(written(&tensors, op.input), op)),
            };
            tensors[output] = Some(self.stored(output, result));
        }
        written(&tensors, 1)
    }

    fn conv<B: DenoiserBackend>(
        &self,
        index: usize,
        conv: &GraphConv,
        constants: &RoundedConv<B>,
        tensors: &[Option<Tensor<B, 4>>],
        conditions: &Tensor<B, 1, Int>,
    ) -> Tensor<B, 4> {
        let mut input = match (&conv.norm, &constants.affine, &self.exported.tables[index]) {
            (Some(norm), Some(affine), Some(table)) => {
                let affine = affine.val();
                let affine = if norm.conditioned { affine.select(1, conditions.clone()) } else { affine };
                activated(normalized(conv, norm, affine, tensors), table)
            }
            _ => written(tensors, conv.input),
        };
        if conv.upsample[1] == 2 {
            input = B::upsample(input, conv.upsample[0]);
        }
        let weight = self.weight(index, constants.weight.val());
        B::conv(input, weight, constants.bias.val(), conv.stride)
    }

    /// Each channel's weights at multiples of its step.
    fn weight<B: Backend>(&self, index: usize, weight: Tensor<B, 4>) -> Tensor<B, 4> {
        let steps = &self.exported.steps[index];
        let data = TensorData::new(steps.clone(), [steps.len(), 1, 1, 1]);
        let step = Tensor::<B, 4>::from_data(data, &weight.device());
        let largest = largest_weight(self.exported.bits[index]);
        let rounded = (weight.clone() / step.clone()).round().clamp(-largest, largest) * step;
        through(weight, rounded)
    }

    /// A tensor's values as they are stored.
    fn stored<B: Backend>(&self, tensor: usize, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let tensor = &self.exported.tensors[tensor];
        on_grid(x, tensor.element, tensor.scale, tensor.zero)
    }
}

/// `rounded`, with the gradient of `x`.
fn through<B: Backend, const D: usize>(x: Tensor<B, D>, rounded: Tensor<B, D>) -> Tensor<B, D> {
    let change = (rounded - x.clone()).detach();
    x + change
}

/// The nearest values that `element`'s integers stand for.
fn on_grid<B: Backend>(x: Tensor<B, 4>, element: Element, scale: f32, zero: i32) -> Tensor<B, 4> {
    let [low, high] = limits(element).map(|end| (end as f32 - zero as f32) * scale);
    let x = x.clamp(low, high);
    let rounded = ((x.clone() / scale + zero as f32 + 0.5).floor() - zero as f32) * scale;
    through(x, rounded)
}

/// The activation function by table, then as it is stored.
fn activated<B: Backend>(z: Tensor<B, 4>, table: &Table) -> Tensor<B, 4> {
    let z = z.clamp(table.low, table.low + table.step * (TABLE_LEN - 1) as f32);
    let entry = ((z.clone() - table.low) / table.step + 0.5).floor();
    let z = through(z, entry * table.step + table.low);
    let a = match table.activation {
        Activation::Silu => silu(z),
        Activation::Identity => z,
    };
    on_grid(a, Element::I8, table.scale, table.zero)
}

/// GroupNorm of a convolution's inputs, beside each other; `affine` is `[2, batch or 1, channels]`.
fn normalized<B: Backend>(
    conv: &GraphConv,
    norm: &GraphNorm,
    affine: Tensor<B, 3>,
    tensors: &[Option<Tensor<B, 4>>],
) -> Tensor<B, 4> {
    let [_, parts, _] = affine.dims();
    let mut first = 0;
    let part = |input| {
        let x = written(tensors, input);
        let channels = x.dims()[1];
        let own = |which: usize| {
            affine.clone().slice([which..which + 1, 0..parts, first..first + channels]).reshape([parts, channels])
        };
        let z = group_norm(x, own(0), own(1), norm.groups);
        first += channels;
        z
    };
    Tensor::cat(Graph::inputs(conv).map(part).collect(), 1)
}

/// See [`GraphAttention`].
fn attention<B: Backend>(x: Tensor<B, 4>, op: &GraphAttention) -> Tensor<B, 4> {
    let [batch, all, height, width] = x.dims();
    let (channels, tokens) = (all / 3, height * width);
    let head = channels / op.heads;
    let part = |kind: usize| x.clone().narrow(1, kind * channels, channels).reshape([batch, op.heads, head, tokens]);
    let scores = part(0).swap_dims(2, 3).matmul(part(1)) / (head as f32).sqrt();
    part(2).matmul(softmax(scores, 3).swap_dims(2, 3)).reshape([batch, channels, height, width])
}

fn written<B: Backend>(tensors: &[Option<Tensor<B, 4>>], tensor: usize) -> Tensor<B, 4> {
    tensors[tensor].clone().expect("a tensor that an operation before wrote")
}

fn values<B: Backend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().to_vec().expect("converted to f32")
}

/// States and what the float network says of them.
struct Examples<B: Backend> {
    /// `[states, channels, height, width]`
    states: Tensor<B, 4>,
    outputs: Tensor<B, 4>,
    conditions: Vec<usize>,
}

impl<B: Backend> Examples<B> {
    fn new(graph: &Graph, states: &States, device: &B::Device) -> Self {
        let [height, width, channels] = graph.tensors[0].shape;
        let image = |values: Vec<f32>| {
            let shape = [values.len() / (height * width * channels), height, width, channels];
            Tensor::<B, 4>::from_data(TensorData::new(values, shape), device).permute([0, 3, 1, 2])
        };
        Examples {
            states: image(states.iter().flat_map(|(_, state)| state.iter().copied()).collect()),
            outputs: image(states.outputs(graph).concat()),
            conditions: states.iter().map(|(condition, _)| condition).collect(),
        }
    }
}

/// Trains the graph of `exported` for the least squared error in `x0` on `states`, and returns it with other constants, made
/// for the same scales. `progress` hears how many steps are done and the loss.
///
/// # Errors
/// A loss that is not finite.
pub fn train<B>(
    graph: &Graph,
    exported: &Exported,
    states: &States,
    config: &QuantizeAwareConfig,
    mut progress: impl FnMut(u64, f32),
) -> anyhow::Result<Graph>
where
    B: AutodiffBackend + DenoiserBackend,
    B::InnerBackend: DenoiserBackend,
{
    let device = B::Device::default();
    let scheme = Scheme::new(graph, exported);
    let mut net: RoundedNet<B> = scheme.net(&device);
    let examples = Examples::<B>::new(graph, states, &device);
    let (count, optimizer) = (examples.conditions.len(), config.optimizer());
    let mut state = AdamW::new(parameters(&net).inner(), &optimizer);
    for step in 0..config.steps {
        let random = &mut StepRandom::new(config.seed, step);
        let picks: Vec<usize> = (0..config.batch).map(|_| random.below(count)).collect();
        let indices: Vec<i64> = picks.iter().map(|&pick| pick as i64).collect();
        let indices = Tensor::<B, 1, Int>::from_ints(&indices[..], &device);
        let conditions: Vec<usize> = picks.iter().map(|&pick| examples.conditions[pick]).collect();
        let of_x0: Vec<f32> = conditions.iter().map(|at| graph.rows[at / graph.classes].q as f32).collect();
        let of_x0 = Tensor::<B, 4>::from_data(TensorData::new(of_x0, [config.batch, 1, 1, 1]), &device);
        net = set_parameters(net, Tensor::from_inner(state.vectors.parameters.clone()));
        let output = scheme.forward(&net, examples.states.clone().select(0, indices.clone()), &conditions);
        let error = (output - examples.outputs.clone().select(0, indices)) * of_x0;
        let loss = (error.clone() * error).mean();
        let number = values(loss.clone())[0];
        anyhow::ensure!(
            number.is_finite(),
            "the loss of step {step} of the training for quantization is {number}: lower --learning-rate"
        );
        let gradient = gradients(&net, &loss.backward());
        state = state.update(gradient, &optimizer, config.steps).0;
        progress(step + 1, number);
    }
    let ema = state.vectors.averages.swap_remove(0);
    Ok(scheme.trained(&set_parameters(net, Tensor::from_inner(ema))))
}

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, Flex};
    use mote_core::kernel::WeightBits;
    use mote_core::plan::Room;
    use mote_core::quant::STATE_ONE;
    use mote_core::step_table::{Objective, StepRow, Variance};
    use mote_core::{Generator, Progress, Request, aligned};

    use super::*;
    use crate::dataset::SampleShape;
    use crate::denoiser::{Architecture, DenoiserConfig, Output, UNetConfig, lower};
    use crate::quantize::{
        Ends, Precision, calibrate, compensated, damage_of, export, export_again, export_with, total_damage, windows,
    };

    /// A U-Net with attention whose parameters are of ordinary size, none of them zero.
    fn graph() -> Graph {
        let unet = UNetConfig {
            widths: vec![8, 12],
            blocks: 1,
            middle: 1,
            groups: 2,
            embedding: 8,
            attention: vec![1],
            heads: 2,
            dropout: 0.0,
        };
        let config = DenoiserConfig {
            shape: SampleShape::image(8, 6, 1),
            classes: 2,
            architecture: Architecture::UNet(unet),
            output: Output::Mean,
            self_conditioning: false,
            condition_channels: 0,
        };
        let device = Default::default();
        let net = config.init::<Flex>(3, &device).unwrap();
        let count = parameters(&net).dims()[0];
        let random: Vec<f32> = (0..count).map(|i| (i as f32 * 0.731).sin() * 0.4).collect();
        let net = set_parameters(net, Tensor::from_data(TensorData::new(random, [count]), &device));
        let row = |t, now, next| StepRow::new(Objective::V, Variance::Eta(0.0), t, now, next);
        lower(&net, &config, "test", vec![row(900, 0.02, 0.6), row(300, 0.6, 1.0)], 1000, [-1.0, 1.0]).unwrap()
    }

    fn exported(graph: &Graph, bits: WeightBits) -> Exported {
        let calibration = calibrate(graph, 1, 12, Ends::default());
        match bits {
            WeightBits::Eight => export(graph, &calibration, Room::Usual).unwrap(),
            WeightBits::Four => {
                let windows = windows(graph, 1, 12);
                let precision = Precision { weights: compensated(graph, &windows), ..Precision::bytes(graph) };
                export_with(graph, &calibration, &precision, Room::Usual).unwrap()
            }
        }
    }

    /// The bound that `core/docs/arithmetic.md` states: what training sees is what core computes, up to values near a boundary
    /// of rounding.
    #[test]
    fn the_trained_forward_agrees_with_core() {
        for bits in [WeightBits::Eight, WeightBits::Four] {
            let graph = graph();
            let exported = exported(&graph, bits);
            let scheme = Scheme::new(&graph, &exported);
            let net = scheme.net::<Flex>(&Default::default());
            let model = Model::parse(&exported.file).unwrap();
            let mut arena = vec![0u8; model.arena_len() + 3];
            let mut generator = Generator::new(&model, aligned(&mut arena)).unwrap();
            let output = model.tensor(1);
            for sample in 0..6u16 {
                let class = sample % 2;
                generator.start(Request { class, seed: 2, sample: sample.into(), ..Request::default() }).unwrap();
                while let Progress::Row(row) = generator.progress() {
                    let state = generator.state().iter().map(|&x| f32::from(x) / f32::from(STATE_ONE));
                    let data = TensorData::new(state.collect::<Vec<f32>>(), [1, 1, 8, 6]);
                    let x = Tensor::<Flex, 4>::from_data(data, &Default::default());
                    let expected = values(scheme.forward(&net, x, &[usize::from(row * 2 + class)]));
                    generator.step();
                    let found = generator.tensor_bytes(1).as_chunks::<2>().0;
                    let peak = expected.iter().fold(0.0f32, |peak, v| peak.max(v.abs()));
                    let difference = |(want, &got): (&f32, &[u8; 2])| {
                        (want - f32::from(i16::from_le_bytes(got)) * output.scale).abs()
                    };
                    let mean = expected.iter().zip(found).map(difference).sum::<f32>() / expected.len() as f32;
                    assert!(mean <= 0.01 * peak, "{bits:?}: {mean} of {peak}");
                }
            }
        }
    }

    #[test]
    fn training_takes_back_damage_and_keeps_the_scales() {
        let graph = graph();
        let before = exported(&graph, WeightBits::Four);
        let states = States::draw(&graph, 3, 40);
        let config = QuantizeAwareConfig { steps: 200, batch: 16, learning_rate: 5e-4, seed: 1 };
        let mut losses = Vec::new();
        let trained = train::<Autodiff<Flex>>(&graph, &before, &states, &config, |_, loss| losses.push(loss)).unwrap();
        let after = export_again(&trained, &before, Room::Usual).unwrap();
        assert_eq!(before.tensors, after.tensors);
        assert_eq!(before.steps, after.steps);
        // Measured on other states than those of training, against the float network.
        let unseen = States::draw(&graph, 4, 12);
        let found = |of: &Graph, exported: &Exported| damage_of(&graph, of, exported, &unseen);
        let damages = [found(&graph, &before), found(&trained, &after)];
        assert!((damages[0] / total_damage(&graph, &before, &unseen) - 1.0).abs() < 1e-9);
        assert!(damages[1] < 0.4 * damages[0], "{damages:?}");
        let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
        assert!(mean(&losses[190..]) < 0.5 * mean(&losses[..10]), "{losses:?}");
    }

    #[test]
    fn training_begins_with_the_integers_of_the_file() {
        let graph = graph();
        let exported = exported(&graph, WeightBits::Four);
        let scheme = Scheme::new(&graph, &exported);
        let same = scheme.trained(&scheme.net::<Flex>(&Default::default()));
        let again = export_again(&same, &exported, Room::Usual).unwrap();
        assert!(exported.file == again.file);
    }
}
