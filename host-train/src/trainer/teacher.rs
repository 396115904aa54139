//! The teacher's task: predict noised training images.

use std::ops::Range;

use anyhow::ensure;
use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use mote_process::Bound;
use serde::{Deserialize, Serialize};

use super::adamw::OptimizerConfig;
use super::batch::{Kept, Picks, Samples};
use super::fit::{Part, Task};
use super::step_random::StepRandom;
use crate::dataset::{Augmentation, Split};
use crate::denoiser::{Condition, Denoiser, DenoiserConfig, Features, Output};
use crate::diffusion::variational::{self, Decoder};
use crate::diffusion::{
    Diffusion, DiffusionConfig, Distance, LossConfig, NoiseConfig, Objective, Time, TimeSampling, Times, Weighting,
    is_default, known_rows, per_image,
};
use crate::ops::{DenoiserBackend, checkpointing};

/// The numbers of the teacher's training: the `[train]` section of a preset. What is not in the named presets:
///
/// ```toml
/// weighting = { kind = "p2", gamma = 1.0, k = 1.0 }            # or uniform, min_snr, truncated_snr, edm, vlb
/// loss = { kind = "hybrid", lambda = 0.001 }                   # or simple, vlb
/// distance = { kind = "pseudo_huber", c = 0.01 }               # or squared, absolute, huber
/// timesteps = { kind = "lognormal", mean = -1.2, std = 1.2 }   # or uniform, weighted
/// noise = { offset = 0.1, pyramid = 0.5, immiscible = true }
/// gradient_checkpointing = true
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
    /// Whether the backward pass computes again what a block keeps between its input and its last convolution: less memory,
    /// more time, the same bits.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gradient_checkpointing: bool,
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
        let given = match (diffusion.low_resolution, diffusion.gaps) {
            (Some(_), Some(_)) => anyhow::bail!("a network has diffusion.low_resolution or diffusion.gaps, not both"),
            (Some(low), None) => {
                low.check(network.shape).map_err(anyhow::Error::msg)?;
                network.shape.channels
            }
            (None, Some(gaps)) => {
                gaps.check(network.shape).map_err(anyhow::Error::msg)?;
                ensure!(
                    diffusion.objective == Objective::X0
                        && self.weighting == Weighting::Uniform
                        && self.loss == LossConfig::Simple
                        && !network.self_conditioning,
                    "diffusion.gaps is regression: set diffusion.objective = \"x0\" and train.weighting = {{ kind = \"uniform\" \
                     }}, leave train.loss and network.self_conditioning out"
                );
                1
            }
            (None, None) => 0,
        };
        ensure!(
            network.condition_channels == given,
            "network.condition_channels is {}, but there are {given} channels to give (diffusion.low_resolution gives as \
             many as a sample has, diffusion.gaps 1)",
            network.condition_channels
        );
        Ok(())
    }
}

/// Where a training's data are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// On the device, all of them, sent once.
    Device,
    /// With the host; each step's samples are sent for it.
    Host,
}

/// The teacher's loss, on one device.
pub struct TeacherTask<'a, B: DenoiserBackend> {
    host: Host<'a>,
    network: &'a DenoiserConfig,
    bound: Bound,
    /// The mean that the weights are divided by.
    mean_weight: f64,
    /// All samples, where the device keeps them.
    samples: Option<Samples<B>>,
    features: Features<B>,
    device: B::Device,
}

/// What the host needs to plan steps.
struct Host<'a> {
    config: &'a TeacherConfig,
    diffusion: &'a Diffusion,
    split: Split<'a>,
    /// The class that stands for a hidden one.
    no_class: usize,
    seed: u64,
    /// Of each timestep, mean 1.
    weights: Vec<f32>,
    placement: Placement,
}

/// What the host decides of a part of a step, ahead of the device.
pub struct Plan {
    part: Part,
    /// The part that examples are made of: all, where the noise of one depends on the others.
    made: Part,
    picks: Picks,
    /// The samples, where the device does not keep them.
    sent: Option<Kept>,
    /// Classes, the hidden ones hidden.
    labels: Vec<usize>,
    times: Times,
    /// Each sample's gap, for a network that fills them.
    gaps: Option<Vec<Range<usize>>>,
    /// What is left of the step's random numbers.
    random: StepRandom,
}

impl Host<'_> {
    fn plan(&self, step: u64, part: Part) -> Plan {
        let config = self.config;
        let mut random = StepRandom::new(self.seed, step);
        let Times { times, importance } = match self.diffusion.gaps {
            None => config.timesteps.draw(self.diffusion, &self.weights, &random.stratified(config.batch)),
            Some(_) => Times { times: vec![0.0; config.batch], importance: vec![1.0; config.batch] },
        };
        let picks = Picks::draw(&self.split, config.batch, &config.augment, &mut random);
        let mut labels = picks.labels(&self.split);
        for label in &mut labels {
            if random.unit() < config.class_dropout {
                *label = self.no_class;
            }
        }
        let width = self.split.dataset.shape.width;
        let gaps = self.diffusion.gaps.map(|gaps| -> Vec<Range<usize>> {
            (0..config.batch).map(|_| gaps.draw(width, || random.unit())).collect()
        });
        let made = if config.noise.immiscible { Part::ALL } else { part };
        let gaps = gaps.map(|gaps| made.slice(&gaps).to_vec());
        let times = Times { times: made.slice(&times).to_vec(), importance: made.slice(&importance).to_vec() };
        let (sent, picks) = match self.placement {
            Placement::Device => (None, picks.part(made)),
            Placement::Host => {
                let (kept, picks) = picks.part(made).take(&self.split);
                (Some(kept), picks)
            }
        };
        Plan { part, made, picks, sent, labels: made.slice(&labels).to_vec(), times, gaps, random }
    }
}

/// What a step trains on; all tensors `[batch, channels, height, width]`.
struct Examples<B: Backend> {
    /// The data.
    images: Tensor<B, 4>,
    /// Classes, the hidden ones hidden.
    labels: Vec<usize>,
    /// Where each sample is noised to.
    times: Times,
    /// The noised data, or those with gaps.
    x: Tensor<B, 4>,
    /// What the network should say.
    target: Tensor<B, 4>,
    /// The given image that the network also sees, or where it is known.
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

impl<'a, B: DenoiserBackend> TeacherTask<'a, B> {
    /// The task of fitting `split` on `device`. `config` is one that [`TeacherConfig::check`] accepts. Data that a device
    /// cannot number stay with the host, whatever `placement` says.
    pub fn new(
        config: &'a TeacherConfig,
        network: &'a DenoiserConfig,
        diffusion: &'a Diffusion,
        split: Split<'a>,
        seed: u64,
        placement: Placement,
        device: &B::Device,
    ) -> Self {
        let all: Vec<usize> = (0..diffusion.timesteps()).collect();
        let placement = if Samples::<B>::can_keep(&split) { placement } else { Placement::Host };
        Self {
            network,
            bound: diffusion.bound(network.output),
            mean_weight: diffusion.mean_weight(config.weighting, &all),
            samples: (placement == Placement::Device).then(|| Samples::all(&split, device)),
            features: Features::new(network, diffusion.timesteps(), device),
            device: device.clone(),
            host: Host {
                config,
                diffusion,
                split,
                no_class: network.no_class(),
                seed,
                weights: diffusion.weights(config.weighting, &all),
                placement,
            },
        }
    }

    /// The planned examples, and the random numbers that are left for their dropout.
    fn examples(&self, plan: Plan) -> (Examples<B>, StepRandom) {
        let device = &self.device;
        let Plan { part, made, picks, sent, labels, times, gaps, mut random } = plan;
        let sent = sent.map(|kept| Samples::send(kept, self.host.split.dataset, device));
        let samples = sent.as_ref().or(self.samples.as_ref()).expect("samples are there or sent");
        let images = picks.gather(samples, &mut random, made);
        let (x, target, given) = match gaps {
            Some(gaps) => {
                let known = known_rows(&gaps, images.dims()[3], device);
                (images.clone() * known.clone(), images.clone(), Some(known))
            }
            None => self.noised(&images, &times, made, &mut random),
        };
        let examples = Examples { images, labels, times, x, target, given };
        (if made == part { examples } else { examples.part(part) }, random)
    }

    /// The noised samples `made` of a step, what the network should say, and the low resolution that it sees.
    fn noised(
        &self,
        images: &Tensor<B, 4>,
        times: &Times,
        made: Part,
        random: &mut StepRandom,
    ) -> (Tensor<B, 4>, Tensor<B, 4>, Option<Tensor<B, 4>>) {
        let (config, diffusion, device) = (self.host.config, self.host.diffusion, &self.device);
        let noise = random.normal_part(images.dims(), made, device);
        let noise = config.noise.shape(images, noise, |shape| random.normal_part(shape, made, device));
        let x = diffusion.noised(images, &noise, &times.times);
        let target = diffusion.target(images, &noise, &times.times);
        let given = diffusion.low_resolution.map(|low| {
            let [_, _, height, width] = images.dims();
            let mut small = low.reduce(images.clone());
            if low.noise > 0.0 {
                let deviations: Vec<f32> = (0..config.batch).map(|_| (low.noise * random.unit()) as f32).collect();
                let noise = random.normal_part(small.dims(), made, device);
                small = small + noise * per_image(made.slice(&deviations), device);
            }
            low.enlarge(small, [height, width])
        });
        (x, target, given)
    }

    /// The weight of a sample at `time`.
    fn weight(&self, time: f64) -> f64 {
        match time.fract() {
            0.0 => f64::from(self.host.weights[time as usize]),
            _ => self.host.diffusion.weight(self.host.config.weighting, time) / self.mean_weight,
        }
    }

    /// The mean loss of examples, `[1]`.
    fn loss_of<A>(&self, net: &Denoiser<A>, examples: Examples<B>, mut random: StepRandom) -> Tensor<A, 1>
    where
        A: AutodiffBackend<InnerBackend = B, Device = B::Device> + DenoiserBackend,
    {
        let (config, diffusion, device) = (self.host.config, self.host.diffusion, &self.device);
        let network = self.network;
        let own = network.self_conditioning.then(|| self.own_estimate(&net.valid(), &examples));
        let Examples { images, labels, times: Times { times, importance }, x, target, given } = examples;
        let [images, x, target] = [images, x, target].map(Tensor::<A, 4>::from_inner);
        let hidden = given
            .as_ref()
            .filter(|_| diffusion.gaps.is_some())
            .map(|known| Tensor::<A, 4>::from_inner(-known.clone() + 1.0));
        let condition = Condition {
            extra: network.extra(&x, own.map(Tensor::from_inner), given.map(Tensor::from_inner)),
            dropout: (network.architecture.dropout() > 0.0).then(|| random.long()),
            ..self.features.condition(network, &times, &labels).tracked()
        };
        let forward = || net.forward(x.clone(), &condition);
        let output = if config.gradient_checkpointing { checkpointing(forward) } else { forward() };
        let (f, variance) = network.mean_and_variance(output);
        let simple = |f: Tensor<A, 4>| {
            let weights: Vec<f32> =
                times.iter().zip(&importance).map(|(&time, factor)| (self.weight(time) * factor) as f32).collect();
            let error = f - target;
            let error = match &hidden {
                Some(hidden) => error * hidden.clone(),
                None => error,
            };
            config.distance.mean(error, per_image(&weights, device))
        };
        let bound = |f: Tensor<A, 4>| {
            let timesteps: Vec<usize> = times.iter().map(|&time| time as usize).collect();
            let estimate = diffusion.estimate(&x, &f, &times);
            let terms = variational::terms(&self.bound, self.decoder(), &timesteps, images, estimate, variance);
            let whole = diffusion.timesteps() as f64 / std::f64::consts::LN_2;
            let factors: Vec<f32> = importance.iter().map(|factor| (factor * whole) as f32).collect();
            (terms * per_image(&factors, device)).mean()
        };
        match config.loss {
            LossConfig::Simple => simple(f),
            LossConfig::Vlb => bound(f),
            LossConfig::Hybrid { lambda } => simple(f.clone()) + bound(f.detach()) * lambda,
        }
    }

    fn decoder(&self) -> Decoder {
        Decoder::of(self.host.split.dataset)
    }

    /// What a network that conditions on itself sees beside `x`: for every second sample its own estimate of the data without
    /// one, from which no gradient flows, for the others zeros (Chen, Zhang, Hinton, *Analog Bits*, 2023, section 3.2).
    fn own_estimate(&self, net: &Denoiser<B>, examples: &Examples<B>) -> Tensor<B, 4> {
        let (Examples { x, times, labels, given, .. }, device) = (examples, &self.device);
        let even: Vec<i32> = (0..labels.len() as i32).step_by(2).collect();
        let pick = |x: &Tensor<B, 4>| x.clone().select(0, Tensor::from_ints(&even[..], device));
        let (x_even, times_even): (_, Vec<f64>) = (pick(x), times.times.iter().copied().step_by(2).collect());
        let labels_even: Vec<usize> = labels.iter().copied().step_by(2).collect();
        let diffusion = self.host.diffusion;
        let mut condition = self.features.condition(self.network, &times_even, &labels_even);
        condition.extra = self.network.extra(&x_even, None, given.as_ref().map(pick));
        let (f, _) = self.network.mean_and_variance(net.forward(x_even.clone(), &condition));
        let estimate = self.decoder().limited(diffusion.estimate(&x_even, &f, &times_even));
        // Sample i has row i / 2 if it is even, else the row of zeros at the end.
        let rows = Tensor::cat(vec![estimate, x_even.zeros_like().narrow(0, 0, 1)], 0);
        let zeros = even.len() as i32;
        let order: Vec<i32> = (0..labels.len() as i32).map(|i| if i % 2 == 0 { i / 2 } else { zeros }).collect();
        rows.select(0, Tensor::from_ints(&order[..], device))
    }
}

impl<A, B> Task<A, Denoiser<A>> for TeacherTask<'_, B>
where
    A: AutodiffBackend<InnerBackend = B, Device = B::Device> + DenoiserBackend,
    B: DenoiserBackend,
{
    type Plan = Plan;

    fn planner(&self) -> impl Fn(u64, Part) -> Plan + Send {
        let host = &self.host;
        move |step, part| host.plan(step, part)
    }

    /// At times spread evenly over the batch. Each part has its own masks of dropout.
    fn loss(&self, net: &Denoiser<A>, plan: Plan) -> Tensor<A, 1> {
        let part = plan.part;
        let (examples, mut random) = self.examples(plan);
        (0..part.index).for_each(|_| _ = random.long());
        self.loss_of(net, examples, random)
    }

    fn fault(&self, _: u64) -> Option<String> {
        let split = &self.host.split;
        let broken = |&index: &usize| split.units(index).any(|value| !value.is_finite());
        let index = (0..split.len()).find(broken)?;
        let (number, label) = (split.indices[index], usize::from(split.label(index)));
        Some(format!("sample {number} of the data (class {})", split.dataset.class_names[label]))
    }
}

#[cfg(test)]
mod tests;
