//! The loss on held-out samples, at fixed noise levels with fixed noise: two validations differ by the weights alone.

use burn::tensor::{Tensor, TensorData};

use super::step_random::StepRandom;
use crate::dataset::Split;
use crate::denoiser::{Condition, Denoiser, DenoiserConfig};
use crate::diffusion::{Diffusion, Weighting, from_pixels};
use crate::ops::DenoiserBackend;

/// Samples computed at once.
const BATCH: usize = 100;
/// Seed of the noise.
const SEED: u64 = 0x7661_6c69_6461_7465;

/// Held-out samples and their noise.
pub struct Validation<'a> {
    network: &'a DenoiserConfig,
    diffusion: &'a Diffusion,
    /// The middle timestep of each of equal parts.
    timesteps: Vec<usize>,
    /// Of the levels, mean 1, as training weights them.
    weights: Vec<f32>,
    labels: Vec<usize>,
    /// `[samples, height, width, channels]`.
    values: Vec<f32>,
    /// Standard normal, as many.
    noise: Vec<f32>,
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
        assert!(!held_out.is_empty() && samples > 0 && levels > 0, "nothing to validate on");
        let samples = samples.min(held_out.len());
        let chosen: Vec<usize> = (0..samples).map(|number| number * held_out.len() / samples).collect();
        let timesteps: Vec<usize> =
            (0..levels).map(|level| (2 * level + 1) * diffusion.timesteps() / (2 * levels)).collect();
        let values: Vec<f32> = chosen.iter().flat_map(|&index| held_out.units(index)).collect();
        Self {
            network,
            diffusion,
            weights: diffusion.weights(weighting, &timesteps),
            timesteps,
            labels: chosen.iter().map(|&index| usize::from(held_out.label(index))).collect(),
            noise: StepRandom::new(SEED, 0).normals(values.len()),
            values,
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
        let device = net.embedding().class.val().device();
        let each = self.network.shape.len();
        let mut sum = 0.0;
        for (begin, labels) in self.labels.chunks(BATCH).enumerate() {
            let range = begin * BATCH * each..(begin * BATCH + labels.len()) * each;
            let images = from_pixels::<B>(self.values[range.clone()].to_vec(), self.network.shape, &device);
            let noise = Tensor::from_data(TensorData::new(self.noise[range].to_vec(), images.dims()), &device);
            let times = vec![timestep as f64; labels.len()];
            let x = self.diffusion.noised(&images, &noise, &times);
            let target = self.diffusion.target(&images, &noise, &times);
            let mut condition = Condition::at(self.network, &times, self.diffusion.timesteps(), labels, &device);
            // No estimate of its own; the sample's low resolution where it is trained to enlarge.
            condition.extra = self.network.extra(&x, None, self.diffusion.low_resolution.map(|low| low.of(images)));
            let (f, _) = self.network.mean_and_variance(net.forward(x, &condition));
            let error = f - target;
            let squares: f32 = (error.clone() * error).mean().into_data().to_vec().expect("f32 backend")[0];
            sum += f64::from(squares) * labels.len() as f64;
        }
        sum / self.labels.len() as f64
    }
}
