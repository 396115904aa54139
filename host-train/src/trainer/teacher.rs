//! The teacher's task: predict noised training images.

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, TensorData};
use mote_core::noise::{Philox, normal_q12};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::adamw::OptimizerConfig;
use crate::dataset::{Augmentation, Split};
use crate::denoiser::{Condition, Denoiser, DenoiserConfig};
use crate::diffusion::{Diffusion, Weighting, from_pixels, per_image};
use crate::ops::DenoiserBackend;

/// 1.0 in the units of core's noise.
const NOISE_ONE: f32 = 4096.0;

/// The numbers of the teacher's training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeacherConfig {
    /// Steps.
    pub steps: u64,
    /// Images a step.
    pub batch: usize,
    /// Probability that an image's class is hidden, so that guidance has an unconditional output.
    pub class_dropout: f64,
    /// How samples are varied.
    pub augment: Augmentation,
    /// The loss at each timestep.
    pub weighting: Weighting,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
}

/// Random numbers of one step: a function of the seed, the step and nothing else.
pub(crate) struct StepRandom(Philox);

impl StepRandom {
    pub(crate) fn new(seed: u64, step: u64) -> Self {
        let mut philox = Philox::new(seed);
        philox.seek(u128::from(step) << 64);
        Self(philox)
    }

    /// Uniform in [0, 1).
    pub(crate) fn unit(&mut self) -> f64 {
        f64::from(self.0.next_u32()) / 4_294_967_296.0
    }

    /// Uniform in `0..below`.
    pub(crate) fn below(&mut self, below: usize) -> usize {
        ((u64::from(self.0.next_u32()) * below as u64) >> 32) as usize
    }

    /// Evenly spread over [0, 1), one a part of the batch, begun at a random place.
    pub(crate) fn stratified(&mut self, batch: usize) -> Vec<f64> {
        let begin = self.unit();
        (0..batch).map(|index| (begin + index as f64 / batch as f64) % 1.0).collect()
    }

    /// Standard normal, `[batch, channels, height, width]`.
    pub(crate) fn normal<B: Backend>(&mut self, shape: [usize; 4], device: &B::Device) -> Tensor<B, 4> {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| f32::from(normal_q12(self.0.next_u32())) / NOISE_ONE).collect();
        Tensor::from_data(TensorData::new(values, shape), device)
    }
}

/// Some training images, drawn with replacement.
pub struct Batch<B: Backend> {
    /// `[batch, channels, height, width]`, in [-1, 1].
    pub images: Tensor<B, 4>,
    /// Classes.
    pub labels: Vec<usize>,
}

impl<B: Backend> Batch<B> {
    pub(crate) fn draw(
        split: &Split<'_>,
        batch: usize,
        augment: &Augmentation,
        config: &DenoiserConfig,
        random: &mut StepRandom,
        device: &B::Device,
    ) -> Self {
        let mut values = Vec::with_capacity(batch * split.dataset.shape.len());
        let mut labels = Vec::with_capacity(batch);
        for _ in 0..batch {
            let index = random.below(split.len());
            labels.push(usize::from(split.label(index)));
            let sample = split.units(index).collect();
            values.extend(augment.apply(sample, split.dataset, &mut || random.unit()));
        }
        Self { images: from_pixels(values, config.shape, device), labels }
    }
}

/// The teacher's loss.
pub struct TeacherTask<'a> {
    config: &'a TeacherConfig,
    network: &'a DenoiserConfig,
    diffusion: &'a Diffusion,
    split: Split<'a>,
    seed: u64,
    /// Of each timestep.
    weights: Vec<f32>,
}

impl<'a> TeacherTask<'a> {
    /// The task of fitting `split`.
    pub fn new(
        config: &'a TeacherConfig,
        network: &'a DenoiserConfig,
        diffusion: &'a Diffusion,
        split: Split<'a>,
        seed: u64,
    ) -> Self {
        let all: Vec<usize> = (0..diffusion.timesteps()).collect();
        let weights = diffusion.weights(config.weighting, &all);
        Self { config, network, diffusion, split, seed, weights }
    }

    /// The loss of step `step`, `[1]`: the weighted squared error at timesteps spread evenly over the batch.
    pub fn loss<B: AutodiffBackend + DenoiserBackend>(&self, net: &Denoiser<B>, step: u64) -> Tensor<B, 1> {
        let (config, diffusion, device) = (self.config, self.diffusion, B::Device::default());
        let random = &mut StepRandom::new(self.seed, step);
        let timesteps: Vec<usize> = (random.stratified(config.batch).iter())
            .map(|u| ((u * diffusion.timesteps() as f64) as usize).min(diffusion.timesteps() - 1))
            .collect();
        let Batch { images, mut labels } =
            Batch::<B>::draw(&self.split, config.batch, &config.augment, self.network, random, &device);
        for label in &mut labels {
            if random.unit() < config.class_dropout {
                *label = self.network.no_class();
            }
        }
        let noise = random.normal(images.dims(), &device);
        let times: Vec<f64> = timesteps.iter().map(|&timestep| timestep as f64).collect();
        let (x, target) = (diffusion.noised(&images, &noise, &times), diffusion.target(&images, &noise, &times));
        let numbers: Vec<u32> = timesteps.iter().map(|&t| t as u32).collect();
        let condition = Condition::new(self.network, &numbers, diffusion.timesteps(), &labels, &device);
        let error = net.forward(x, &condition) - target;
        let weights: Vec<f32> = timesteps.iter().map(|&t| self.weights[t]).collect();
        (error.clone() * error * per_image(&weights, &device)).mean()
    }
}
