//! A small classifier of noised data, its training and its file.

use std::collections::HashMap;

use anyhow::{Context, ensure};
use burn::module::{AutodiffModule, Module};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams, Optimizer};
use burn::tensor::activation::{log_softmax, silu};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Int, Tensor, TensorData};
use mote_core::schedule::{noise, signal};
use mote_core::step_table::StepRow;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::Classify;
use crate::dataset::{SampleShape, Split};
use crate::denoiser::{parameters, set_parameters};
use crate::diffusion::{Diffusion, from_pixels, per_image};
use crate::ops::DenoiserBackend;
use crate::trainer::StepRandom;

/// Channels of the three convolutions.
const WIDTHS: [usize; 3] = [32, 64, 64];
/// Values before the logits.
const HIDDEN: usize = 64;
/// Key of the classifier's description in its file.
const METADATA_KEY: &str = "noisy_classifier";
/// The one tensor of the file.
const TENSOR: &str = "parameters";

/// A small trained classifier of noised data: three convolutions, 3 wide along each side that is more than 1, two of which
/// halve those sides, and two linear layers, SiLU between them. It sees the state and two channels that hold `signal` and `noise`.
#[derive(Debug)]
pub struct NoisyClassifier<B: Backend> {
    net: Net<B>,
    /// What it takes.
    pub shape: ClassifierShape,
}

/// The data that a classifier takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassifierShape {
    /// Of a sample.
    pub shape: SampleShape,
    /// Number of classes.
    pub classes: usize,
}

/// The numbers of a classifier's training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifierRecipe {
    /// Steps.
    pub steps: u64,
    /// Samples a step.
    pub batch: usize,
    /// Greatest learning rate; a cosine takes it to 0.
    pub learning_rate: f64,
    /// Seed of weights, batches and noise.
    pub seed: u64,
}

impl Default for ClassifierRecipe {
    fn default() -> Self {
        Self { steps: 1500, batch: 64, learning_rate: 3e-3, seed: 1 }
    }
}

impl ClassifierShape {
    /// The shape of a split's data.
    pub fn of(split: &Split<'_>) -> Self {
        Self { shape: split.dataset.shape, classes: split.dataset.classes() }
    }
}

#[derive(Module, Debug)]
struct Net<B: Backend> {
    convs: Vec<Conv2d<B>>,
    hidden: Linear<B>,
    head: Linear<B>,
}

impl<B: Backend> Net<B> {
    fn new(ClassifierShape { shape, classes }: ClassifierShape, device: &B::Device) -> Self {
        let inputs = [shape.channels + 2, WIDTHS[0], WIDTHS[1]];
        let conv = |(input, output)| {
            Conv2dConfig::new([input, output], [shape.height, shape.width].map(|side| if side > 1 { 3 } else { 1 }))
                .init(device)
        };
        let flat = WIDTHS[2] * shape.height.div_ceil(4) * shape.width.div_ceil(4);
        Self {
            convs: inputs.into_iter().zip(WIDTHS).map(conv).collect(),
            hidden: LinearConfig::new(flat, HIDDEN).init(device),
            head: LinearConfig::new(HIDDEN, classes).init(device),
        }
    }
}

impl<B: DenoiserBackend> Net<B> {
    /// `levels` are signal and noise of each sample.
    fn logits(&self, x: Tensor<B, 4>, levels: &[[f64; 2]]) -> Tensor<B, 2> {
        let [batch, _, height, width] = x.dims();
        let plane = |part: usize| {
            let values: Vec<f32> = levels.iter().map(|level| level[part] as f32).collect();
            per_image::<B>(&values, &x.device()).expand([batch, 1, height, width])
        };
        let mut x = Tensor::cat(vec![x.clone(), plane(0), plane(1)], 1);
        for (conv, stride) in self.convs.iter().zip([1, 2, 2]) {
            let bias = conv.bias.as_ref().expect("made with a bias");
            let [_, _, rows, columns] = conv.weight.dims();
            let strides = [rows, columns].map(|side| if side == 3 { stride } else { 1 });
            x = silu(B::conv(x, conv.weight.val(), bias.val(), strides));
        }
        self.head.forward(silu(self.hidden.forward(x.flatten(1, 3))))
    }
}

impl<B: DenoiserBackend> Classify<B> for NoisyClassifier<B> {
    fn logits(&self, x: Tensor<B, 4>, row: &StepRow) -> Tensor<B, 2> {
        let levels = vec![[row.signal, row.noise]; x.dims()[0]];
        self.net.logits(x, &levels)
    }
}

impl<B: DenoiserBackend> NoisyClassifier<B> {
    /// Reads a file.
    ///
    /// # Errors
    /// If it is not a classifier's.
    pub fn from_bytes(file: &[u8], device: &B::Device) -> anyhow::Result<Self> {
        let (_, header) = SafeTensors::read_metadata(file).context("not a readable safetensors file")?;
        let entry = header.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
        let json = entry.context("not a classifier of noised data; `mote-train classifier` makes one")?;
        let shape: ClassifierShape = serde_json::from_str(json).context("its description is damaged")?;
        let tensors = SafeTensors::deserialize(file)?;
        let tensor = tensors.tensor(TENSOR)?;
        let net = Net::new(shape, device);
        let expected = net.num_params();
        ensure!(
            tensor.dtype() == Dtype::F32 && tensor.shape() == [expected],
            "its parameters are {:?} {:?}, {expected} F32 are needed",
            tensor.dtype(),
            tensor.shape()
        );
        let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
        let values: Vec<f32> = tensor.data().chunks_exact(4).map(value).collect();
        let vector = Tensor::from_data(TensorData::new(values, [expected]), device);
        Ok(Self { net: set_parameters(net, vector), shape })
    }

    /// The file: safetensors, all parameters as one tensor.
    pub fn to_bytes(&self) -> Vec<u8> {
        let values: Vec<f32> = parameters(&self.net).into_data().to_vec().expect("f32 backend");
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let view = TensorView::new(Dtype::F32, vec![values.len()], &bytes).expect("four bytes a value");
        let json = serde_json::to_string(&self.shape).expect("plain numbers");
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
        safetensors::serialize([(TENSOR, view)], Some(metadata)).expect("a valid view")
    }
}

impl<B: AutodiffBackend + DenoiserBackend> NoisyClassifier<B>
where
    B::InnerBackend: DenoiserBackend,
{
    /// Trains by cross-entropy on samples noised to levels spread evenly over the process; `progress` hears each step
    /// (from 1) and its loss.
    pub fn train(
        split: &Split<'_>,
        diffusion: &Diffusion,
        recipe: &ClassifierRecipe,
        mut progress: impl FnMut(u64, f64),
    ) -> Self {
        let shape = ClassifierShape::of(split);
        let device = B::Device::default();
        B::seed(&device, recipe.seed);
        let mut net = Net::<B>::new(shape, &device);
        let mut optimizer = AdamWConfig::new().with_weight_decay(0.05).init();
        for step in 0..recipe.steps {
            let random = &mut StepRandom::new(recipe.seed, step);
            let timesteps: Vec<usize> = (random.stratified(recipe.batch).iter())
                .map(|u| ((u * diffusion.timesteps() as f64) as usize).min(diffusion.timesteps() - 1))
                .collect();
            let indices: Vec<usize> = timesteps.iter().map(|_| random.below(split.len())).collect();
            let Noised { x, levels, labels } = Noised::<B>::new(split, diffusion, &timesteps, &indices, random);
            let loss = log_softmax(net.logits(x, &levels), 1).gather(1, labels).mean().neg();
            progress(step + 1, f64::from(loss.clone().into_data().to_vec::<f32>().expect("f32 backend")[0]));
            let gradients = GradientsParams::from_grads(loss.backward(), &net);
            let phase = std::f64::consts::PI * step as f64 / recipe.steps as f64;
            net = optimizer.step(recipe.learning_rate * 0.5 * (1.0 + phase.cos()), net, gradients);
        }
        Self { net, shape }
    }

    /// The share of the split's samples, each noised to `timestep`, whose class is found.
    pub fn accuracy(&self, split: &Split<'_>, diffusion: &Diffusion, timestep: usize) -> f64 {
        let net = self.net.valid();
        let random = &mut StepRandom::new(0, 0);
        let mut right = 0;
        for batch in (0..split.len()).collect::<Vec<_>>().chunks(200) {
            let timesteps = vec![timestep; batch.len()];
            let Noised { x, levels, labels } =
                Noised::<B::InnerBackend>::new(split, diffusion, &timesteps, batch, random);
            let found = net.logits(x, &levels).argmax(1);
            right += found.equal(labels).int().sum().into_data().iter::<i64>().sum::<i64>();
        }
        right as f64 / split.len() as f64
    }
}

/// Noised samples and what they are.
struct Noised<B: Backend> {
    /// `[batch, channels, height, width]`
    x: Tensor<B, 4>,
    /// Signal and noise of each.
    levels: Vec<[f64; 2]>,
    /// `[batch, 1]`
    labels: Tensor<B, 2, Int>,
}

impl<B: DenoiserBackend> Noised<B> {
    fn new(
        split: &Split<'_>,
        diffusion: &Diffusion,
        timesteps: &[usize],
        indices: &[usize],
        random: &mut StepRandom,
    ) -> Self {
        let device = B::Device::default();
        let values = indices.iter().flat_map(|&index| split.units(index)).collect();
        let data = from_pixels::<B>(values, split.dataset.shape, &device);
        let levels: Vec<[f64; 2]> = timesteps
            .iter()
            .map(|&timestep| diffusion.alpha_bars[timestep])
            .map(|alpha_bar| [signal(alpha_bar), noise(alpha_bar)])
            .collect();
        let each =
            |part: usize| per_image::<B>(&levels.iter().map(|level| level[part] as f32).collect::<Vec<_>>(), &device);
        let noise = random.normal(data.dims(), &device);
        let labels: Vec<i32> = indices.iter().map(|&index| i32::from(split.label(index))).collect();
        Self {
            x: data * each(0) + noise * each(1),
            labels: Tensor::<B, 1, Int>::from_ints(&labels[..], &device).unsqueeze_dim(1),
            levels,
        }
    }
}
