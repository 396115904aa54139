//! The diffusion process as training sees it: objective, schedule, losses, likelihood, and the sampler in floats.

mod config;
mod forward;
mod gaps;
mod likelihood;
mod loss;
mod low_resolution;
mod noise;
pub mod sample;
mod sampler;
mod times;
pub mod variational;

use mote_core::schedule::{alpha_bar_of_log_snr, log_snr_at, log_snr_fall, snr};
use mote_core::step_table::{self, Level, Method, Spacing, StepRow, Variance};
use mote_process::Bound;

pub(crate) use config::is_default;
pub use config::{DiffusionConfig, DiffusionError, Objective, ScheduleConfig, Time};
pub use forward::per_image;
pub use gaps::{Gaps, fill, known_rows};
pub use likelihood::{Likelihood, Nll};
pub use loss::{Distance, LossConfig};
pub use low_resolution::LowResolution;
pub use mote_process::{ReverseVariance, Weighting};
pub use noise::NoiseConfig;
pub use sampler::{Conditioned, Request, Sampler, from_pixels, to_units};
pub use times::{TimeSampling, Times};

use crate::denoiser::Output;

/// A [`DiffusionConfig`] with its numbers.
#[derive(Debug, Clone)]
pub struct Diffusion {
    /// What the network predicts.
    pub objective: step_table::Objective,
    /// `alpha-bar` of each timestep.
    pub alpha_bars: Vec<f64>,
    /// At which times there is training.
    pub time: Time,
    /// The reverse steps' variance in the variational bound, where the network has no second output for it.
    pub variance: ReverseVariance,
    /// The low resolution that the network is given, if any.
    pub low_resolution: Option<LowResolution>,
    /// The gaps that the network fills in place of drawing, if any.
    pub gaps: Option<Gaps>,
}

impl Diffusion {
    /// Number of timesteps.
    pub fn timesteps(&self) -> usize {
        self.alpha_bars.len()
    }

    /// `alpha-bar` at a time, `0.0..=timesteps - 1.0`; between the timesteps on a straight line of the log-SNR.
    pub fn alpha_bar(&self, time: f64) -> f64 {
        if time.fract() == 0.0 {
            return self.alpha_bars[time as usize];
        }
        alpha_bar_of_log_snr(log_snr_at(&self.alpha_bars, time))
    }

    /// The variational bound for a network with such outputs.
    pub fn bound(&self, output: Output) -> Bound {
        let variance = match output {
            Output::Mean => self.variance,
            Output::MeanAndVariance => ReverseVariance::Learned,
        };
        Bound::new(&self.alpha_bars, variance)
    }

    /// The deterministic DDIM table of `rows` rows.
    pub fn ddim(&self, rows: usize) -> Vec<StepRow> {
        let (mut levels, mut table) = (vec![Level::default(); rows], vec![StepRow::default(); rows]);
        Spacing::Trailing.fill(&self.alpha_bars, &mut levels);
        Method::Direct(Variance::Eta(0.0)).fill(self.objective, &levels, &mut table);
        table
    }

    /// Factors of the squared error of the network's output at each of `timesteps`, mean 1 over them.
    pub fn weights(&self, weighting: Weighting, timesteps: &[usize]) -> Vec<f32> {
        let mean = self.mean_weight(weighting, timesteps);
        timesteps.iter().map(|&timestep| (self.weight(weighting, timestep as f64) / mean) as f32).collect()
    }

    /// What [`Diffusion::weights`] divides by.
    pub fn mean_weight(&self, weighting: Weighting, timesteps: &[usize]) -> f64 {
        let weights = timesteps.iter().map(|&timestep| self.weight(weighting, timestep as f64));
        weights.sum::<f64>() / timesteps.len() as f64
    }

    /// The weight at a time, not scaled.
    pub fn weight(&self, weighting: Weighting, time: f64) -> f64 {
        let alpha_bar = self.alpha_bar(time);
        weighting.factor(self.objective, alpha_bar, || match (self.time, time as usize) {
            // Of the logarithm times the value: the slope of the signal-to-noise ratio.
            (Time::Continuous, _) => log_snr_fall(&self.alpha_bars, time) * snr(alpha_bar),
            // The decoder's: 1 / beta.
            (Time::Discrete, 0) => 1.0 / (1.0 - alpha_bar),
            (Time::Discrete, timestep) => snr(self.alpha_bars[timestep - 1]) - snr(alpha_bar),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(objective: Objective) -> Diffusion {
        DiffusionConfig::new(objective, 1000, ScheduleConfig::Cosine { offset: 0.008 }).build().unwrap()
    }

    /// Hang et al., table 1: min(snr, gamma) / snr for epsilon, / (snr + 1) for v, up to the common scale.
    #[test]
    fn min_snr_weights_are_the_papers() {
        let timesteps: Vec<usize> = (0..1000).collect();
        for (objective, denominator) in [(Objective::Epsilon, 0.0), (Objective::V, 1.0)] {
            let diffusion = cosine(objective);
            let weights = diffusion.weights(Weighting::MinSnr { gamma: 5.0 }, &timesteps);
            let paper = |t: usize| {
                let snr = snr(diffusion.alpha_bars[t]);
                snr.min(5.0) / (snr + denominator)
            };
            for t in [10, 300, 600, 990] {
                let (found, wanted) = (f64::from(weights[t] / weights[500]), paper(t) / paper(500));
                assert!((found / wanted - 1.0).abs() < 1e-4, "{objective:?} at {t}: {found}, not {wanted}");
            }
            let mean = weights.iter().sum::<f32>() / 1000.0;
            assert!((mean - 1.0).abs() < 1e-3);
        }
    }

    /// Kingma et al. 2021, equations 13 and 17: the continuous bound is the limit of the discrete one.
    #[test]
    fn the_bounds_weights_in_discrete_and_continuous_time_sum_to_the_same() {
        let config = DiffusionConfig::new(Objective::X0, 1000, ScheduleConfig::Cosine { offset: 0.008 });
        let discrete = config.build().unwrap();
        let continuous = DiffusionConfig { time: Time::Continuous, ..config }.build().unwrap();
        // Over an error that does not depend on time, both are half of what the signal-to-noise ratio falls by.
        let sum: f64 = (101..=900).map(|timestep| discrete.weight(Weighting::Vlb, f64::from(timestep))).sum();
        let fine = |i: i32| 100.0 + (f64::from(i) + 0.5) / 100.0;
        let integral: f64 = (0..80_000).map(|i| continuous.weight(Weighting::Vlb, fine(i)) / 100.0).sum();
        let fall = 0.5 * (snr(discrete.alpha_bars[100]) - snr(discrete.alpha_bars[900]));
        assert!((sum / fall - 1.0).abs() < 1e-9 && (integral / fall - 1.0).abs() < 1e-6, "{sum} {integral} {fall}");
    }
}
