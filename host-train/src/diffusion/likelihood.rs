//! The negative log-likelihood of held-out data, as the variational bound that a network gives, in bits a value.

use std::ops::Range;

use burn::tensor::backend::Backend;
use mote_process::{Bound, Terms};
use serde::{Deserialize, Serialize};

use super::variational::Decoder;
use super::{Diffusion, from_pixels, to_units};
use crate::dataset::{Split, to_pixel};
use crate::denoiser::{Condition, Denoiser, DenoiserConfig};
use crate::ops::DenoiserBackend;
use crate::trainer::StepRandom;

/// Samples in one pass of the network.
const BATCH: usize = 100;

/// How a likelihood is measured.
#[derive(Debug, Clone, Copy)]
pub struct Likelihood {
    /// Samples of the split, evenly chosen; at least 2.
    pub samples: usize,
    /// Timesteps asked for each sample, at most: the first, and one at random of each part of the others, the parts of about
    /// the same weight. All of them leave no error but that of the samples and their noise; fewer are as right on average.
    pub timesteps: usize,
    /// Of the noise and the choice of timesteps.
    pub seed: u64,
}

/// An upper bound on the negative log-likelihood of samples given their classes, in bits a value (a pixel's channel, a
/// signal's sample, a table's number), a mean over samples.
///
/// For 8-bit images the likelihood is a probability, so it is bits an image's value costs in a lossless code. For real values
/// it is a density of the values that the network sees (scaled to about [-1, 1]), so it may be negative; in natural units add
/// the binary logarithm of the channels' scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Nll {
    /// The bound.
    pub bits_per_dim: f64,
    /// The standard error of its mean over the samples.
    pub standard_error: f64,
    /// Its terms: prior, the divergence of each timestep, decoder. Of timesteps that were asked for together, each has their
    /// mean.
    pub terms: Terms,
    /// The bound by the entropies of Sohl-Dickstein et al. 2015, equation 14 ([`Terms::from_entropies`]).
    pub by_entropies: f64,
    /// Samples.
    pub n: usize,
    /// Values a sample.
    pub dimensions: usize,
    /// Timesteps asked for each sample.
    pub timesteps: usize,
    /// Whether it is a density of real values, not a probability of pixels.
    pub density: bool,
}

impl Likelihood {
    /// Measures `net` on samples of `split`. `progress` hears how many of how many passes are done.
    ///
    /// # Panics
    /// If `split` is empty.
    pub fn measure<B: DenoiserBackend>(
        &self,
        net: &Denoiser<B>,
        config: &DenoiserConfig,
        diffusion: &Diffusion,
        split: &Split<'_>,
        mut progress: impl FnMut(usize, usize),
    ) -> Nll {
        let n = self.samples.clamp(1, split.len());
        let parts = parts(&diffusion.alpha_bars, self.timesteps);
        let batches = n.div_ceil(BATCH);
        let (decoder, bound) = (Decoder::of(split.dataset), diffusion.bound(config.output));
        let measured = Measured { net, config, diffusion, decoder, bound };
        let mut totals = vec![0.0; n];
        let mut terms = Terms { prior: 0.0, divergences: vec![0.0; diffusion.timesteps()], decoder: 0.0 };
        let mut mean_square = 0.0;
        for batch in 0..batches {
            let numbers = batch * BATCH..((batch + 1) * BATCH).min(n);
            let examples = Examples::new(split, numbers.clone().map(|number| number * split.len() / n));
            let totals = &mut totals[numbers];
            for (total, sample) in totals.iter_mut().zip(examples.samples()) {
                let prior = mean(sample.iter().map(|&x0| measured.bound.prior(x0.into())));
                *total += prior;
                terms.prior += prior / n as f64;
                mean_square += mean(sample.iter().map(|&x0| f64::from(x0).powi(2))) / n as f64;
            }
            for (index, part) in parts.iter().enumerate() {
                let mut random = StepRandom::new(self.seed, (index * batches + batch) as u64);
                let timesteps: Vec<usize> =
                    examples.labels.iter().map(|_| part.start + random.below(part.len())).collect();
                let found = measured.terms(&examples, &timesteps, &mut random);
                for (total, term) in totals.iter_mut().zip(found) {
                    // One timestep stands for all of its part.
                    *total += term * part.len() as f64;
                    match part.start {
                        0 => terms.decoder += term / n as f64,
                        _ => terms.divergences[part.clone()].iter_mut().for_each(|mean| *mean += term / n as f64),
                    }
                }
                progress(batch * parts.len() + index + 1, batches * parts.len());
            }
        }
        let bits = |nats: f64| nats / std::f64::consts::LN_2;
        let by_entropies = bits(terms.from_entropies(&measured.bound, mean_square));
        let mean_total = mean(totals.iter().copied());
        let variance = totals.iter().map(|total| (total - mean_total).powi(2)).sum::<f64>() / (n.max(2) - 1) as f64;
        let Terms { prior, divergences, decoder } = terms;
        let divergences = divergences.into_iter().map(bits).collect();
        Nll {
            bits_per_dim: bits(mean_total),
            standard_error: bits((variance / n as f64).sqrt()),
            terms: Terms { prior: bits(prior), divergences, decoder: bits(decoder) },
            by_entropies,
            n,
            dimensions: config.shape.len(),
            timesteps: parts.len(),
            density: measured.decoder == Decoder::Density,
        }
    }
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let len = values.len();
    values.sum::<f64>() / len as f64
}

/// The first timestep alone, and the others in at most `asked - 1` parts, each of about the same expected divergence; alone too
/// if that many are asked for. A timestep that lowers the signal-to-noise ratio by `d` adds `d / (1 + snr)` to the bound for
/// normal data of variance 1, a fall of `-ln(1 - alpha_bar)`; most of it is in the first few.
fn parts(alpha_bars: &[f64], asked: usize) -> Vec<Range<usize>> {
    let (last, count) = (alpha_bars.len() - 1, asked.saturating_sub(1).max(1));
    let logarithm = |timestep: usize| (1.0 - alpha_bars[timestep]).ln();
    let fraction = |timestep: usize| {
        let middle = 0.5 * (logarithm(timestep - 1) + logarithm(timestep));
        (middle - logarithm(0)) / (logarithm(last) - logarithm(0))
    };
    let part = |timestep: usize| if count >= last { timestep } else { (fraction(timestep) * count as f64) as usize };
    let others: Vec<usize> = (1..=last).collect();
    let others = others.chunk_by(|&a, &b| part(a) == part(b)).map(|part| part[0]..part[part.len() - 1] + 1);
    std::iter::once(0..1).chain(others).collect()
}

/// A batch of samples.
struct Examples {
    /// What the network sees of them, `[batch, height, width, channels]`.
    values: Vec<f32>,
    labels: Vec<usize>,
}

impl Examples {
    fn new(split: &Split<'_>, numbers: impl Iterator<Item = usize> + Clone) -> Self {
        let values = numbers.clone().flat_map(|number| split.units(number)).collect();
        Self { values, labels: numbers.map(|number| usize::from(split.label(number))).collect() }
    }

    fn samples(&self) -> impl Iterator<Item = &[f32]> {
        self.values.chunks(self.values.len() / self.labels.len())
    }
}

/// What is measured.
struct Measured<'a, B: Backend> {
    net: &'a Denoiser<B>,
    config: &'a DenoiserConfig,
    diffusion: &'a Diffusion,
    decoder: Decoder,
    bound: Bound,
}

impl<B: DenoiserBackend> Measured<'_, B> {
    /// The term of each sample at its timestep, a mean over its values, in nats.
    fn terms(&self, examples: &Examples, timesteps: &[usize], random: &mut StepRandom) -> Vec<f64> {
        let device = B::Device::default();
        let times: Vec<f64> = timesteps.iter().map(|&timestep| timestep as f64).collect();
        let x0 = from_pixels::<B>(examples.values.clone(), self.config.shape, &device);
        let x = self.diffusion.noised(&x0, &random.normal(x0.dims(), &device), &times);
        let mut condition = Condition::at(self.config, &times, self.diffusion.timesteps(), &examples.labels, &device);
        // A network that conditions on itself has no estimate yet.
        condition.extra = self.config.extra(&x, None, self.diffusion.low_resolution.map(|low| low.of(x0)));
        let (f, variance) = self.config.mean_and_variance(self.net.forward(x.clone(), &condition));
        let estimate = self.diffusion.estimate(&x, &f, &times);
        let estimates = to_units(self.decoder.limited(estimate));
        let variances = variance.map_or_else(|| vec![0.0; estimates.len()], to_units);
        let each = self.config.shape.len();
        let value = |timestep: usize, at: usize| {
            let [x0, estimate, variance] = [examples.values[at], estimates[at], variances[at]].map(f64::from);
            match (timestep, self.decoder) {
                (0, Decoder::Pixels) => self.bound.pixel_decoder(to_pixel(examples.values[at]), estimate, variance),
                (0, Decoder::Density) => self.bound.decoder(x0, estimate, variance),
                _ => self.bound.divergence(timestep, x0, estimate, variance),
            }
        };
        let sample = |(index, &timestep): (usize, &usize)| {
            mean((index * each..(index + 1) * each).map(|at| value(timestep, at)))
        };
        timesteps.iter().enumerate().map(sample).collect()
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use mote_core::noise::{NoiseUse, normals};
    use mote_process::gaussian::log_density;

    use super::*;
    use crate::dataset::{Dataset, SampleShape, Values};
    use crate::denoiser::{Architecture, MlpConfig, Output};
    use crate::diffusion::{DiffusionConfig, Objective, ReverseVariance, ScheduleConfig};

    /// The untrained network is the zero function, whose v means the estimate `signal x`: exact for data from N(0, 1). So its
    /// bound is their negative log-likelihood, but for the reverse variance's part, below 1e-3 bits at 200 timesteps, and
    /// the noise of the measurement.
    #[test]
    fn the_exact_denoiser_of_normal_data_has_their_likelihood() {
        let (n, shape) = (600, SampleShape::vector(4));
        let values: Vec<f32> =
            normals(5, 0, NoiseUse::Start).take(n * shape.len()).map(|value| f32::from(value) / 4096.0).collect();
        let data = Dataset::new(shape, Values::Floats(values), vec![0; n], vec!["all".to_owned()]);
        let architecture = Architecture::Mlp(MlpConfig { width: 8, blocks: 1, groups: 1, embedding: 8, dropout: 0.0 });
        let (output, self_conditioning, condition_channels) = (Output::Mean, false, 0);
        let config = DenoiserConfig { shape, classes: 1, architecture, output, self_conditioning, condition_channels };
        let net = config.init::<Flex>(1, &Default::default()).unwrap();
        let cosine = DiffusionConfig::new(Objective::V, 200, ScheduleConfig::Cosine { offset: 0.008 });
        let diffusion = DiffusionConfig { variance: ReverseVariance::Beta, ..cosine }.build().unwrap();
        let split = data.train();
        let exact =
            mean((0..split.len()).map(|i| {
                mean(split.units(i).collect::<Vec<f32>>().into_iter().map(|x| -log_density(x.into(), 0.0, 0.0)))
            })) / std::f64::consts::LN_2;
        for timesteps in [200, 40] {
            let likelihood = Likelihood { samples: split.len(), timesteps, seed: 3 };
            let found = likelihood.measure(&net, &config, &diffusion, &split, |_, _| ());
            let error = (found.bits_per_dim - exact).abs();
            assert!(error < 1e-3 + 3.0 * found.standard_error, "{timesteps}: {} not {exact}", found.bits_per_dim);
            assert!(found.standard_error < 0.06, "{timesteps}: {}", found.standard_error);
            assert!((found.terms.total() / found.bits_per_dim - 1.0).abs() < 1e-9);
            assert!((found.by_entropies / found.bits_per_dim - 1.0).abs() < 1e-6);
            assert!(found.density && found.n == split.len() && found.timesteps <= timesteps);
        }
    }

    #[test]
    fn parts_are_all_timesteps_once_and_the_first_ones_alone() {
        for (timesteps, asked) in [(1, 5), (2, 1), (1000, 1), (1000, 20), (1000, 100), (10, 1000), (10, 10)] {
            let cosine = ScheduleConfig::Cosine { offset: 0.008 };
            let diffusion = DiffusionConfig::new(Objective::V, timesteps, cosine).build().unwrap();
            let found = parts(&diffusion.alpha_bars, asked);
            assert!(found.len() <= asked.max(2) && found[0] == (0..1), "{timesteps} {asked}: {found:?}");
            assert!(found.windows(2).all(|pair| pair[0].end == pair[1].start && !pair[1].is_empty()));
            assert_eq!(found[found.len() - 1].end, timesteps);
            assert!(asked < timesteps || found.len() == timesteps);
            assert!(asked != 100 || (found[10].len() == 1 && found[found.len() - 1].len() > 50), "{found:?}");
        }
    }
}
