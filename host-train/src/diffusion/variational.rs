//! The variational bound's terms on tensors, for training; [`mote_process::Bound`] has them in f64, one value at a time.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mote_process::Bound;

use super::per_image;
use crate::dataset::{Dataset, Values};

/// Half the width of a pixel value's bin, in the network's units.
const HALF_BIN: f64 = 1.0 / 255.0;
/// Beyond this the data are at the end of the pixels' range.
const END: f64 = 0.999;
/// The least probability of a pixel; what is less cannot be told from rounding.
const LEAST: f64 = 1e-12;

/// What the last reverse step gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoder {
    /// Probabilities of 8-bit values (Ho et al. 2020, equation 13).
    Pixels,
    /// Densities of real values, in the network's units.
    Density,
}

impl Decoder {
    /// The one for a data set's values.
    pub fn of(data: &Dataset) -> Self {
        match data.values {
            Values::Bytes(_) => Self::Pixels,
            Values::Floats(_) => Self::Density,
        }
    }

    /// An estimate of the data within their range: pixels have one.
    pub fn limited<B: Backend>(self, estimate: Tensor<B, 4>) -> Tensor<B, 4> {
        match self {
            Self::Pixels => estimate.clamp(-1.0, 1.0),
            Self::Density => estimate,
        }
    }
}

/// The bound's term of sample i at `timesteps[i]`, the mean over its values, in nats: `[batch, 1, 1, 1]`.
///
/// # Shapes
/// `[batch, channels, height, width]`: the data, the network's estimate of them, and its second output where the variance is
/// learned.
pub fn terms<B: Backend>(
    bound: &Bound,
    decoder: Decoder,
    timesteps: &[usize],
    x0: Tensor<B, 4>,
    estimate: Tensor<B, 4>,
    variance: Option<Tensor<B, 4>>,
) -> Tensor<B, 4> {
    let device = x0.device();
    let each = |value: &dyn Fn(usize) -> f64| -> Tensor<B, 4> {
        per_image(&timesteps.iter().map(|&timestep| value(timestep) as f32).collect::<Vec<f32>>(), &device)
    };
    // Straight in the second output, or flat.
    let middle = each(&|timestep| bound.log_variance(timestep, 0.0));
    let slope = each(&|timestep| bound.log_variance(timestep, 1.0) - bound.log_variance(timestep, 0.0));
    let log_variance = match variance {
        Some(output) => output * slope + middle,
        None => middle.expand(x0.dims()),
    };
    let mean = |x: Tensor<B, 4>| x.mean_dim(1).mean_dim(2).mean_dim(3);
    let error = x0.clone() - estimate.clone();
    let square = error.clone() * error * (-log_variance.clone()).exp();
    let log_ratio = each(&|timestep| bound.step(timestep).log_posterior) - log_variance.clone();
    let of_x0 = each(&|timestep| bound.step(timestep).of_x0.powi(2));
    let divergence = mean((log_ratio.clone().exp() - 1.0 - log_ratio + square.clone() * of_x0) * 0.5);
    if !timesteps.contains(&0) {
        return divergence;
    }
    let decoded = mean(match decoder {
        Decoder::Density => (square + log_variance + (2.0 * std::f64::consts::PI).ln()) * 0.5,
        Decoder::Pixels => -log_pixel_probability(x0, estimate, log_variance),
    });
    // A choice, not a sum with zero weights: a term that is not asked for must not spoil the other's gradient.
    let first = each(&|timestep| f64::from(u8::from(timestep == 0))).greater_elem(0.5);
    divergence.mask_where(first, decoded)
}

fn log_pixel_probability<B: Backend>(x0: Tensor<B, 4>, mean: Tensor<B, 4>, log_variance: Tensor<B, 4>) -> Tensor<B, 4> {
    let per_deviation = (log_variance * -0.5).exp();
    let centered = x0.clone() - mean;
    let below = |edge: Tensor<B, 4>| ((edge * per_deviation.clone() / std::f64::consts::SQRT_2).erf() + 1.0) * 0.5;
    let (lower, upper) = (below(centered.clone() - HALF_BIN), below(centered + HALF_BIN));
    let lower = lower.mask_fill(x0.clone().lower_elem(-END), 0.0);
    let upper = upper.mask_fill(x0.greater_elem(END), 1.0);
    (upper - lower).clamp_min(LEAST).log()
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use mote_process::ReverseVariance;

    use super::super::{DiffusionConfig, Objective, ScheduleConfig};
    use super::*;
    use crate::dataset::to_unit;

    /// Every term in f32 tensors is the f64 one.
    #[test]
    fn terms_are_those_of_the_bound_in_f64() {
        let schedule = ScheduleConfig::Linear { start: 1e-3, end: 0.1 };
        let diffusion = DiffusionConfig::new(Objective::V, 60, schedule).build().unwrap();
        let timesteps = [0, 1, 17, 59, 0];
        let pixels: Vec<u8> = (0..20).map(|i| [0, 3, 128, 255][i % 4]).collect();
        let x0: Vec<f32> = pixels.iter().map(|&pixel| to_unit(pixel)).collect();
        let estimate: Vec<f32> = x0.iter().enumerate().map(|(i, x)| x + 0.03 * (i as f32).sin()).collect();
        let output: Vec<f32> = (0..20).map(|i| (i as f32 * 0.7).cos()).collect();
        let tensor = |values: &[f32]| Tensor::<Flex, 1>::from_floats(values, &Default::default()).reshape([5, 1, 2, 2]);
        for kind in [ReverseVariance::Posterior, ReverseVariance::Beta, ReverseVariance::Learned] {
            let bound = Bound::new(&diffusion.alpha_bars, kind);
            for decoder in [Decoder::Pixels, Decoder::Density] {
                let second = (kind == ReverseVariance::Learned).then(|| tensor(&output));
                let found = terms(&bound, decoder, &timesteps, tensor(&x0), tensor(&estimate), second);
                let found: Vec<f32> = found.into_data().to_vec().unwrap();
                for (sample, &timestep) in timesteps.iter().enumerate() {
                    let value = |i: usize| {
                        let [x0, estimate, output] = [&x0, &estimate, &output].map(|values| f64::from(values[i]));
                        match (timestep, decoder) {
                            (0, Decoder::Pixels) => bound.pixel_decoder(pixels[i], estimate, output),
                            (0, Decoder::Density) => bound.decoder(x0, estimate, output),
                            _ => bound.divergence(timestep, x0, estimate, output),
                        }
                    };
                    let expected = (4 * sample..4 * sample + 4).map(value).sum::<f64>() / 4.0;
                    let error = (f64::from(found[sample]) - expected).abs();
                    assert!(
                        error < 1e-3 * expected.abs().max(0.1),
                        "{kind:?} {decoder:?} at {timestep}: {error} of {expected}"
                    );
                }
            }
        }
    }
}
