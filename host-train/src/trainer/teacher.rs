//! The teacher's task: predict noised training images.

use anyhow::ensure;
use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use mote_process::Bound;
use serde::{Deserialize, Serialize};

use super::adamw::OptimizerConfig;
use super::fit::{Part, Task};
use super::step_random::StepRandom;
use crate::dataset::{Augmentation, Split};
use crate::denoiser::{Condition, Denoiser, DenoiserConfig, Output};
use crate::diffusion::variational::{self, Decoder};
use crate::diffusion::{
    Diffusion, DiffusionConfig, Distance, LossConfig, NoiseConfig, Time, TimeSampling, Times, Weighting, from_pixels,
    is_default, per_image,
};
use crate::ops::DenoiserBackend;

/// The numbers of the teacher's training: the `[train]` section of a preset. What is not in the named presets:
///
/// ```toml
/// weighting = { kind = "p2", gamma = 1.0, k = 1.0 }            # or uniform, min_snr, truncated_snr, edm, vlb
/// loss = { kind = "hybrid", lambda = 0.001 }                   # or simple, vlb
/// distance = { kind = "pseudo_huber", c = 0.01 }               # or squared, absolute, huber
/// timesteps = { kind = "lognormal", mean = -1.2, std = 1.2 }   # or uniform, weighted
/// noise = { offset = 0.1, pyramid = 0.5, immiscible = true }
/// ```
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
    /// What the loss is made of.
    #[serde(default, skip_serializing_if = "is_default")]
    pub loss: LossConfig,
    /// How an error of the network's output counts.
    #[serde(default, skip_serializing_if = "is_default")]
    pub distance: Distance,
    /// At which times a step looks.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timesteps: TimeSampling,
    /// What is done to the noise.
    #[serde(default, skip_serializing_if = "is_default")]
    pub noise: NoiseConfig,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
}

impl TeacherConfig {
    /// Whether a network can be trained so.
    ///
    /// # Errors
    /// The first thing that does not fit, with what to do.
    pub fn check(&self, diffusion: &DiffusionConfig, network: &DenoiserConfig) -> anyhow::Result<()> {
        let checks = [self.weighting.check(), self.distance.check(), self.timesteps.check(), self.noise.check()];
        checks.into_iter().collect::<Result<(), String>>().map_err(anyhow::Error::msg)?;
        ensure!(
            (0.0..=1.0).contains(&self.class_dropout),
            "train.class_dropout is {}; give a probability",
            self.class_dropout
        );
        let learned = network.output == Output::MeanAndVariance;
        match self.loss {
            LossConfig::Simple => ensure!(
                !learned,
                "the simple loss does not train the variance that network.output = \"mean_and_variance\" gives: set \
                 train.loss = {{ kind = \"hybrid\", lambda = 0.001 }}, or network.output = \"mean\""
            ),
            LossConfig::Vlb => ensure!(
                self.weighting == Weighting::Vlb && self.distance == Distance::Squared,
                "train.loss = {{ kind = \"vlb\" }} has its own weights and distance: set train.weighting = \
                 {{ kind = \"vlb\" }} and leave train.distance out"
            ),
            LossConfig::Hybrid { lambda } => ensure!(
                learned && lambda > 0.0 && lambda.is_finite(),
                "train.loss = {{ kind = \"hybrid\", lambda = {lambda} }} trains a variance beside the mean: set \
                 network.output = \"mean_and_variance\" and a positive lambda"
            ),
        }
        if self.loss != LossConfig::Simple {
            ensure!(
                diffusion.time == Time::Discrete && !matches!(self.timesteps, TimeSampling::Lognormal { .. }),
                "the variational bound is a sum over the timesteps: leave diffusion.time and a lognormal train.timesteps \
                 out, or use the simple loss with train.weighting = {{ kind = \"vlb\" }}"
            );
        }
        let given = match diffusion.low_resolution {
            Some(low) => {
                low.check(network.shape).map_err(anyhow::Error::msg)?;
                network.shape.channels
            }
            None => 0,
        };
        ensure!(
            network.condition_channels == given,
            "network.condition_channels is {}, but there are {given} channels to give (diffusion.low_resolution gives as \
             many as a sample has)",
            network.condition_channels
        );
        Ok(())
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
    /// Of each timestep, mean 1.
    weights: Vec<f32>,
    /// The mean that they are divided by.
    mean_weight: f64,
    bound: Bound,
}

/// What a step trains on; all tensors `[batch, channels, height, width]`.
struct Examples<B: Backend> {
    /// The data.
    images: Tensor<B, 4>,
    /// Classes, the hidden ones hidden.
    labels: Vec<usize>,
    /// Where each sample is noised to.
    times: Times,
    /// The noised data.
    x: Tensor<B, 4>,
    /// What the network should say.
    target: Tensor<B, 4>,
    /// The given image that the network also sees.
    given: Option<Tensor<B, 4>>,
}

impl<B: Backend> Examples<B> {
    fn part(self, part: Part) -> Self {
        let Self { images, labels, times: Times { times, importance }, x, target, given } = self;
        Self {
            images: part.narrow(images),
            labels: part.slice(&labels).to_vec(),
            times: Times { times: part.slice(&times).to_vec(), importance: part.slice(&importance).to_vec() },
            x: part.narrow(x),
            target: part.narrow(target),
            given: given.map(|given| part.narrow(given)),
        }
    }
}

impl<'a> TeacherTask<'a> {
    /// The task of fitting `split`. `config` is one that [`TeacherConfig::check`] accepts.
    pub fn new(
        config: &'a TeacherConfig,
        network: &'a DenoiserConfig,
        diffusion: &'a Diffusion,
        split: Split<'a>,
        seed: u64,
    ) -> Self {
        let all: Vec<usize> = (0..diffusion.timesteps()).collect();
        let weights = diffusion.weights(config.weighting, &all);
        let mean_weight = diffusion.mean_weight(config.weighting, &all);
        let bound = diffusion.bound(network.output);
        Self { config, network, diffusion, split, seed, weights, mean_weight, bound }
    }

    /// The examples of step `step`, and the random numbers that are left for its dropout.
    fn examples<B: DenoiserBackend>(&self, step: u64, device: &B::Device) -> (Examples<B>, StepRandom) {
        let (config, diffusion) = (self.config, self.diffusion);
        let mut random = StepRandom::new(self.seed, step);
        let times = config.timesteps.draw(diffusion, &self.weights, &random.stratified(config.batch));
        let Batch { images, mut labels } =
            Batch::<B>::draw(&self.split, config.batch, &config.augment, self.network, &mut random, device);
        for label in &mut labels {
            if random.unit() < config.class_dropout {
                *label = self.network.no_class();
            }
        }
        let noise = random.normal(images.dims(), device);
        let noise = config.noise.shape(&images, noise, |shape| random.normal(shape, device));
        let x = diffusion.noised(&images, &noise, &times.times);
        let target = diffusion.target(&images, &noise, &times.times);
        let given = diffusion.low_resolution.map(|low| {
            let [_, _, height, width] = images.dims();
            let mut small = low.reduce(images.clone());
            if low.noise > 0.0 {
                let deviations: Vec<f32> = labels.iter().map(|_| (low.noise * random.unit()) as f32).collect();
                small = small.clone() + random.normal(small.dims(), device) * per_image(&deviations, device);
            }
            low.enlarge(small, [height, width])
        });
        (Examples { images, labels, times, x, target, given }, random)
    }

    /// The weight of a sample at `time`.
    fn weight(&self, time: f64) -> f64 {
        match time.fract() {
            0.0 => f64::from(self.weights[time as usize]),
            _ => self.diffusion.weight(self.config.weighting, time) / self.mean_weight,
        }
    }

    /// The mean loss of examples, `[1]`.
    fn loss_of<B>(&self, net: &Denoiser<B>, examples: Examples<B>, mut random: StepRandom) -> Tensor<B, 1>
    where
        B: AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let (config, network, diffusion, device) = (self.config, self.network, self.diffusion, B::Device::default());
        let Examples { images, labels, times: Times { times, importance }, x, target, given } = examples;
        let mut condition = Condition::at(network, &times, diffusion.timesteps(), &labels, &device);
        let own = network.self_conditioning.then(|| self.own_estimate(net, &x, &times, &labels, given.as_ref()));
        condition.extra = network.extra(&x, own, given);
        condition.dropout = (network.architecture.dropout() > 0.0).then(|| random.long());
        let output = net.forward(x.clone(), &condition);
        let (f, variance) = network.mean_and_variance(output);
        let simple = |f: Tensor<B, 4>| {
            let weights: Vec<f32> =
                times.iter().zip(&importance).map(|(&time, factor)| (self.weight(time) * factor) as f32).collect();
            config.distance.mean(f - target, per_image(&weights, &device))
        };
        let bound = |f: Tensor<B, 4>| {
            let timesteps: Vec<usize> = times.iter().map(|&time| time as usize).collect();
            let estimate = diffusion.estimate(&x, &f, &times);
            let terms = variational::terms(&self.bound, self.decoder(), &timesteps, images, estimate, variance);
            let whole = diffusion.timesteps() as f64 / std::f64::consts::LN_2;
            let factors: Vec<f32> = importance.iter().map(|factor| (factor * whole) as f32).collect();
            (terms * per_image(&factors, &device)).mean()
        };
        match config.loss {
            LossConfig::Simple => simple(f),
            LossConfig::Vlb => bound(f),
            LossConfig::Hybrid { lambda } => simple(f.clone()) + bound(f.detach()) * lambda,
        }
    }

    fn decoder(&self) -> Decoder {
        Decoder::of(self.split.dataset)
    }

    /// What a network that conditions on itself sees beside `x`: for every second sample its own estimate of the data without
    /// one, from which no gradient flows, for the others zeros (Chen, Zhang, Hinton, *Analog Bits*, 2023, section 3.2).
    fn own_estimate<B>(
        &self,
        net: &Denoiser<B>,
        x: &Tensor<B, 4>,
        times: &[f64],
        labels: &[usize],
        given: Option<&Tensor<B, 4>>,
    ) -> Tensor<B, 4>
    where
        B: AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let device = x.device();
        let even: Vec<i32> = (0..labels.len() as i32).step_by(2).collect();
        let pick = |x: &Tensor<B, 4>| x.clone().inner().select(0, Tensor::from_ints(&even[..], &device));
        let (x_even, times_even): (_, Vec<f64>) = (pick(x), times.iter().copied().step_by(2).collect());
        let labels_even: Vec<usize> = labels.iter().copied().step_by(2).collect();
        let timesteps = self.diffusion.timesteps();
        let mut condition = Condition::at(self.network, &times_even, timesteps, &labels_even, &device);
        condition.extra = self.network.extra(&x_even, None, given.map(pick));
        let (f, _) = self.network.mean_and_variance(net.valid().forward(x_even.clone(), &condition));
        let estimate = self.decoder().limited(self.diffusion.estimate(&x_even, &f, &times_even));
        // Sample i has row i / 2 if it is even, else the row of zeros at the end.
        let rows = Tensor::cat(vec![estimate, x_even.zeros_like().narrow(0, 0, 1)], 0);
        let zeros = even.len() as i32;
        let order: Vec<i32> = (0..labels.len() as i32).map(|i| if i % 2 == 0 { i / 2 } else { zeros }).collect();
        Tensor::from_inner(rows.select(0, Tensor::from_ints(&order[..], &device)))
    }
}

impl<B> Task<B, Denoiser<B>> for TeacherTask<'_>
where
    B: AutodiffBackend + DenoiserBackend,
    B::InnerBackend: DenoiserBackend,
{
    /// At times spread evenly over the batch. Each part has its own masks of dropout.
    fn loss(&self, net: &Denoiser<B>, step: u64, part: Part) -> Tensor<B, 1> {
        let (examples, mut random) = self.examples(step, &B::Device::default());
        (0..part.index).for_each(|_| _ = random.long());
        self.loss_of(net, examples.part(part), random)
    }

    fn fault(&self, _: u64) -> Option<String> {
        let broken = |&index: &usize| self.split.units(index).any(|value| !value.is_finite());
        let index = (0..self.split.len()).find(broken)?;
        let (number, label) = (self.split.indices[index], usize::from(self.split.label(index)));
        Some(format!("sample {number} of the data (class {})", self.split.dataset.class_names[label]))
    }
}

#[cfg(test)]
mod tests;
