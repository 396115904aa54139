//! The diffusion process as training sees it: objective, schedule, loss weights, and the sampler in floats.

mod sampler;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mote_core::schedule::{Schedule, ScheduleError, fill_alpha_bars, snr};
use mote_core::step_table::{self, Level, Method, Spacing, StepRow, Variance};
use serde::{Deserialize, Serialize};

pub use sampler::{Sampler, from_pixels, guided, to_pixels};

/// What the network's output means; [`step_table::Objective`] has the formulas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The noise.
    Epsilon,
    /// The data.
    X0,
    /// `signal eps - noise x0`.
    V,
}

impl From<Objective> for step_table::Objective {
    fn from(objective: Objective) -> Self {
        match objective {
            Objective::Epsilon => Self::Epsilon,
            Objective::X0 => Self::X0,
            Objective::V => Self::V,
        }
    }
}

/// The variances of the forward process; [`Schedule`] has the formulas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum ScheduleConfig {
    Constant { beta: f64 },
    Linear { start: f64, end: f64 },
    Cosine { offset: f64 },
    Sigmoid { start: f64, end: f64 },
    Tanh { start: f64, end: f64 },
    Custom { betas: Vec<f64> },
}

/// How the loss depends on the timestep, before it is scaled to a mean of 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Weighting {
    /// The squared error of the network's output.
    Uniform,
    /// `min(snr, gamma)` on the squared error of x0 (Hang et al., *Min-SNR*, 2023).
    MinSnr {
        /// The greatest weight; the paper's is 5.
        gamma: f64,
    },
    /// `max(snr, 1)` on the squared error of x0 (Salimans, Ho 2022, section 4).
    TruncatedSnr,
}

/// The process and the objective.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiffusionConfig {
    /// What the network predicts.
    pub objective: Objective,
    /// Number of timesteps.
    pub timesteps: usize,
    /// Their variances.
    pub schedule: ScheduleConfig,
}

/// A [`DiffusionConfig`] with its numbers.
#[derive(Debug, Clone)]
pub struct Diffusion {
    /// What the network predicts.
    pub objective: step_table::Objective,
    /// `alpha-bar` of each timestep.
    pub alpha_bars: Vec<f64>,
}

impl DiffusionConfig {
    /// Computes the schedule.
    ///
    /// # Errors
    /// [`ScheduleError`] if a variance is not in (0, 1).
    pub fn build(&self) -> Result<Diffusion, ScheduleError> {
        let mut betas = vec![0.0; self.timesteps];
        let mut alpha_bars = betas.clone();
        self.schedule.borrow().fill_betas(&mut betas)?;
        fill_alpha_bars(&betas, &mut alpha_bars);
        Ok(Diffusion { objective: self.objective.into(), alpha_bars })
    }
}

impl ScheduleConfig {
    fn borrow(&self) -> Schedule<'_> {
        match *self {
            Self::Constant { beta } => Schedule::Constant { beta },
            Self::Linear { start, end } => Schedule::Linear { start, end },
            Self::Cosine { offset } => Schedule::Cosine { offset },
            Self::Sigmoid { start, end } => Schedule::Sigmoid { start, end },
            Self::Tanh { start, end } => Schedule::Tanh { start, end },
            Self::Custom { ref betas } => Schedule::Custom(betas),
        }
    }
}

impl Diffusion {
    /// Number of timesteps.
    pub fn timesteps(&self) -> usize {
        self.alpha_bars.len()
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
        let weight = |&timestep: &usize| {
            let alpha_bar = self.alpha_bars[timestep];
            let [_, q] = self.objective.x0_factors(alpha_bar);
            // x0 = p x + q f, so an error of f is an error of x0 times q.
            match weighting {
                Weighting::Uniform => 1.0,
                Weighting::MinSnr { gamma } => snr(alpha_bar).min(gamma) * q * q,
                Weighting::TruncatedSnr => snr(alpha_bar).max(1.0) * q * q,
            }
        };
        let weights: Vec<f64> = timesteps.iter().map(weight).collect();
        let mean = weights.iter().sum::<f64>() / weights.len() as f64;
        weights.iter().map(|weight| (weight / mean) as f32).collect()
    }
}

/// `values[i]` for image i, to be multiplied with `[batch, channels, height, width]`.
pub fn per_image<B: Backend>(values: &[f32], device: &B::Device) -> Tensor<B, 4> {
    Tensor::<B, 1>::from_floats(values, device).reshape([values.len(), 1, 1, 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(objective: Objective) -> Diffusion {
        let schedule = ScheduleConfig::Cosine { offset: 0.008 };
        DiffusionConfig { objective, timesteps: 1000, schedule }.build().unwrap()
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
}
