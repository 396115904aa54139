//! The loss on held-out samples, at fixed noise levels with fixed noise: two validations differ by the weights alone.

use burn::tensor::{Tensor, TensorData};

use super::step_random::StepRandom;
use crate::dataset::Split;
use crate::denoiser::{Condition, Denoiser, DenoiserConfig};
use crate::diffusion::{Diffusion, Weighting, from_pixels, known_rows};
use crate::ops::DenoiserBackend;

/// Samples computed at once.
const BATCH: usize = 100;
/// Seed of the noise.
const SEED: u64 = 0x7661_6c69_6461_7465;

/// Held-out samples and their noise.
pub(super) struct HeldOut<'a> {
    network: &'a DenoiserConfig,
    diffusion: &'a Diffusion,
    labels: Vec<usize>,
    /// `[samples, height, width, channels]`.
    values: Vec<f32>,
    /// Standard normal, as many.
    noise: Vec<f32>,
}

/// Held-out samples at fixed noise levels.
pub struct Validation<'a> {
    held_out: HeldOut<'a>,
    /// The middle timestep of each of equal parts.
    timesteps: Vec<usize>,
    /// Of the levels, mean 1, as training weights them.
    weights: Vec<f32>,
}

/// What a validation found.
#[derive(Debug, Clone, PartialEq)]
pub struct Validated {
    /// The mean over the levels, weighted as in training.
    pub loss: f64,
    /// The mean squared error of the network's output at each level, not weighted.
    pub levels: Vec<f64>,
}

impl<'a> Validation<'a> {
    /// `samples` of `held_out`, evenly spread over it (all where there are fewer), at `levels` noise levels.
    ///
    /// # Panics
    /// If there is no sample or no level.
    pub fn new(
        network: &'a DenoiserConfig,
        diffusion: &'a Diffusion,
        weighting: Weighting,
        held_out: &Split<'_>,
        samples: usize,
        levels: usize,
    ) -> Self {
        assert!(levels > 0, "nothing to validate on");
        let timesteps: Vec<usize> =
            (0..levels).map(|level| (2 * level + 1) * diffusion.timesteps() / (2 * levels)).collect();
        Self {
            held_out: HeldOut::new(network, diffusion, held_out, samples),
            weights: diffusion.weights(weighting, &timesteps),
            timesteps,
        }
    }

    /// The timestep of each level, ascending: from little noise to much.
    pub fn timesteps(&self) -> &[usize] {
        &self.timesteps
    }

    /// Validates `net`.
    pub fn run<B: DenoiserBackend>(&self, net: &Denoiser<B>) -> Validated {
        let levels: Vec<f64> = self.timesteps.iter().map(|&timestep| self.level(net, timestep)).collect();
        let weighted = levels.iter().zip(&self.weights).map(|(level, &weight)| level * f64::from(weight));
        Validated { loss: weighted.sum::<f64>() / levels.len() as f64, levels }
    }

    fn level<B: DenoiserBackend>(&self, net: &Denoiser<B>, timestep: usize) -> f64 {
        let errors = self.held_out.errors(net, &vec![timestep as f64; self.held_out.len()]);
        errors.iter().map(|[output, _]| output).sum::<f64>() / errors.len() as f64
    }
}

impl<'a> HeldOut<'a> {
    /// `samples` of `held_out`, evenly spread over it; all where there are fewer.
    ///
    /// # Panics
    /// If there is no sample.
    pub(super) fn new(
        network: &'a DenoiserConfig,
        diffusion: &'a Diffusion,
        held_out: &Split<'_>,
        samples: usize,
    ) -> Self {
        assert!(!held_out.is_empty() && samples > 0, "nothing to validate on");
        let samples = samples.min(held_out.len());
        let chosen: Vec<usize> = (0..samples).map(|number| number * held_out.len() / samples).collect();
        let values: Vec<f32> = chosen.iter().flat_map(|&index| held_out.units(index)).collect();
        Self {
            network,
            diffusion,
            labels: chosen.iter().map(|&index| usize::from(held_out.label(index))).collect(),
            noise: StepRandom::new(SEED, 0).normals(values.len()),
            values,
        }
    }

    /// The number of samples.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// Of each sample, noised to its time: the mean squared errors of the network's output, and of the estimate of the data
    /// that the output gives. Of a network that fills gaps: those of the filled samples, whatever the time.
    pub(super) fn errors<B: DenoiserBackend>(&self, net: &Denoiser<B>, times: &[f64]) -> Vec<[f64; 2]> {
        let device = net.embedding().class.val().device();
        let (each, width) = (self.network.shape.len(), self.network.shape.width);
        // A network that fills gaps has other ones at each time, but is itself of time 0.
        let mut random = StepRandom::new(SEED, 1 + times[0] as u64);
        let zeros = vec![0.0; times.len()];
        let times = if self.diffusion.gaps.is_some() { &zeros[..] } else { times };
        let mut errors = Vec::with_capacity(self.len());
        for (begin, (labels, times)) in self.labels.chunks(BATCH).zip(times.chunks(BATCH)).enumerate() {
            let range = begin * BATCH * each..(begin * BATCH + labels.len()) * each;
            let images = from_pixels::<B>(self.values[range.clone()].to_vec(), self.network.shape, &device);
            let noise = Tensor::from_data(TensorData::new(self.noise[range].to_vec(), images.dims()), &device);
            let (x, target, given) = match self.diffusion.gaps {
                Some(gaps) => {
                    let gaps: Vec<_> = labels.iter().map(|_| gaps.draw(width, || random.unit())).collect();
                    let known = known_rows(&gaps, width, &device);
                    (images.clone() * known.clone(), images.clone(), Some(known))
                }
                None => (
                    self.diffusion.noised(&images, &noise, times),
                    self.diffusion.target(&images, &noise, times),
                    // The sample's low resolution where it is trained to enlarge.
                    self.diffusion.low_resolution.map(|low| low.of(images.clone())),
                ),
            };
            let mut condition = Condition::at(self.network, times, self.diffusion.timesteps(), labels, &device);
            // No estimate of its own.
            condition.extra = self.network.extra(&x, None, given.clone());
            let (f, _) = self.network.mean_and_variance(net.forward(x.clone(), &condition));
            let estimate = self.diffusion.estimate(&x, &f, times);
            let hidden = given.filter(|_| self.diffusion.gaps.is_some()).map(|known| -known + 1.0);
            let squares = |error: Tensor<B, 4>| -> Vec<f32> {
                let error = match &hidden {
                    Some(hidden) => error * hidden.clone(),
                    None => error,
                };
                let error: Tensor<B, 2> = error.flatten(1, 3);
                (error.clone() * error).mean_dim(1).into_data().to_vec().expect("f32 backend")
            };
            let both = squares(f - target).into_iter().zip(squares(estimate - images));
            errors.extend(both.map(|(output, data)| [output, data].map(f64::from)));
        }
        errors
    }
}
