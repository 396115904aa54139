//! How samples are drawn: the `[sample]` section of a preset, kept in a denoiser's file, overridden by the flags of
//! `mote-train sample`.
//!
//! Karras et al., *Elucidating the Design Space of Diffusion-Based Generative Models*, 2022 (EDM); Ho, Salimans,
//! *Classifier-Free Diffusion Guidance*, 2022; Kynkäänniemi et al., *Applying Guidance in a Limited Interval*, 2024; Lin et
//! al., *Common Diffusion Noise Schedules and Sample Steps are Flawed*, 2024; Saharia et al., *Photorealistic Text-to-Image
//! Diffusion Models* (Imagen), 2022.

use std::ops::Range;

use mote_core::step_table::{Level, Method, Spacing, StepRow, Variance};
use serde::{Deserialize, Serialize};

use crate::denoiser::Output;
use crate::diffusion::Diffusion;
use crate::diffusion::config::is_default;

/// How samples are drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplingConfig {
    /// Noise levels visited. A sampler with several rows a level asks the network more often.
    pub steps: usize,
    /// Guidance strength `w`: the output is `uncond + w (cond - uncond)`. 1 is the conditional network and 0 the
    /// unconditional one, each in one pass; anything else takes two.
    pub guidance: f64,
    /// The levels at which guidance acts, as the least and the greatest `sigma = noise / signal`; elsewhere `w` is 1
    /// (Kynkäänniemi et al. 2024).
    #[serde(default, skip_serializing_if = "is_default")]
    pub guidance_interval: Option<[f64; 2]>,
    /// How much of the guided output's growth is taken back: 0 nothing, 1 all, 0.7 in the paper (Lin et al. 2024, equation
    /// 16).
    #[serde(default, skip_serializing_if = "is_default")]
    pub guidance_rescale: f64,
    /// The method.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sampler: SamplerConfig,
    /// The levels.
    #[serde(default, skip_serializing_if = "is_default")]
    pub spacing: SpacingConfig,
    /// The levels that are visited at all, as the least and the greatest sigma; every timestep if there is none. 0.002 to 80
    /// in EDM.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sigma_range: Option<[f64; 2]>,
    /// What keeps each estimate of the data within the data's range.
    #[serde(default, skip_serializing_if = "is_default")]
    pub threshold: Threshold,
}

/// The method; [`Method`] has the formulas.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum SamplerConfig {
    /// Ancestral sampling (Ho et al. 2020).
    Ddpm {
        /// Of the fresh noise.
        #[serde(default)]
        variance: VarianceConfig,
    },
    /// Song, Meng, Ermon 2021.
    Ddim {
        /// Fresh noise: 0 none, 1 as much as ancestral sampling.
        #[serde(default)]
        eta: f64,
    },
    /// Euler's method on the probability-flow ODE: DDIM without noise.
    Euler,
    /// Heun's method; two passes a level but the last.
    Heun,
    /// DPM-Solver++ 2M (Lu et al. 2022).
    #[serde(rename = "dpmpp2m")]
    DpmPlusPlus2M,
    /// Stochastic EDM sampler with Euler steps (Karras et al. 2022, algorithm 2).
    Churn {
        /// Relative growth of sigma a row, at most `sqrt(2) - 1` in the paper.
        gamma: f64,
    },
    /// A DDIM row to each level, then Langevin rows (Song et al. 2021, algorithm 5).
    PredictorCorrector {
        /// Langevin rows a level.
        correctors: usize,
        /// Signal-to-noise ratio of a Langevin row; 0.16 in the paper.
        snr: f64,
    },
    /// Annealed Langevin dynamics (Song, Ermon 2019).
    Langevin {
        /// Rows a level.
        steps: usize,
        /// Signal-to-noise ratio of a row.
        snr: f64,
    },
    /// Multistep consistency sampling (Song et al. 2023, algorithm 1).
    Consistency,
}

/// The variance of ancestral sampling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum VarianceConfig {
    /// The forward process's, the larger of Ho et al.'s two (section 3.2)
    Beta,
    /// The posterior's, the smaller
    #[default]
    Posterior,
    /// Between both, as the network's second output says (Nichol, Dhariwal 2021, equation 15)
    Learned,
}

/// The levels; [`Spacing`] has the formulas.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum SpacingConfig {
    #[default]
    Trailing,
    Leading,
    Linspace,
    Karras {
        rho: f64,
    },
    /// These, whatever the schedule.
    At {
        /// As many as there are steps, falling.
        timesteps: Vec<u32>,
    },
}

/// What keeps each estimate of the data within the data's range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Threshold {
    /// Values beyond `-limit..limit` become the limit; the chip does this.
    Clamp {
        /// In the network's units; 1 for images.
        limit: f64,
    },
    /// Each sample is clamped at that quantile of its magnitudes, 1 at least, and divided by it (Imagen, section 2.3).
    Dynamic {
        /// 0 to 1; 0.995 in the paper.
        quantile: f64,
    },
    /// Nothing.
    None,
}

impl Default for SamplerConfig {
    fn default() -> Self {
        Self::Ddim { eta: 0.0 }
    }
}

impl Default for Threshold {
    fn default() -> Self {
        Self::Clamp { limit: 1.0 }
    }
}

/// A setting that no process can follow.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{what} is {found}; {needed}")]
pub struct SamplingError {
    what: &'static str,
    found: String,
    needed: String,
}

impl SamplingConfig {
    /// The default sampler, DDIM without noise on trailing levels.
    pub fn ddim(steps: usize, guidance: f64) -> Self {
        Self {
            steps,
            guidance,
            guidance_interval: None,
            guidance_rescale: 0.0,
            sampler: SamplerConfig::default(),
            spacing: SpacingConfig::default(),
            sigma_range: None,
            threshold: Threshold::default(),
        }
    }

    /// Whether a process can be sampled so.
    ///
    /// # Errors
    /// [`SamplingError`], the first setting that is wrong.
    pub fn check(&self, diffusion: &Diffusion) -> Result<(), SamplingError> {
        let timesteps = self.timesteps(diffusion).len();
        let Self { steps, guidance, guidance_interval, guidance_rescale, sampler, spacing, threshold, .. } = self;
        let none = "no timestep has such a sigma";
        ensure(timesteps >= 1, "sample.sigma_range", format!("{:?}", self.sigma_range.unwrap_or_default()), none)?;
        ensure((1..=timesteps).contains(steps), "sample.steps", steps, format!("give 1 to {timesteps}"))?;
        if let SpacingConfig::At { timesteps: at } = spacing {
            let falling = at.is_sorted_by(|a, b| a > b);
            let right = at.len() == *steps && falling && at.iter().all(|&at| (at as usize) < diffusion.timesteps());
            let needed = format!("give {steps} falling timesteps below {}, or another spacing", diffusion.timesteps());
            ensure(right, "sample.spacing.timesteps", format!("{at:?}"), needed)?;
        }
        ensure(guidance.is_finite(), "sample.guidance", guidance, "give a number")?;
        if let Some([low, high]) = guidance_interval {
            let found = format!("{low} to {high}");
            ensure(0.0 <= *low && low < high, "sample.guidance_interval", found, "give 0 <= low < high, in sigma")?;
        }
        ensure((0.0..=1.0).contains(guidance_rescale), "sample.guidance_rescale", guidance_rescale, "give 0 to 1")?;
        match *sampler {
            SamplerConfig::Ddim { eta } => ensure((0.0..=1.0).contains(&eta), "eta", eta, "give 0 to 1")?,
            SamplerConfig::Churn { gamma } => ensure((0.0..=1.0).contains(&gamma), "churn", gamma, "give 0 to 1")?,
            SamplerConfig::PredictorCorrector { snr, .. } | SamplerConfig::Langevin { snr, .. } => {
                // A row keeps 1 - 2 snr^2 of the state.
                ensure(0.0 < snr && snr <= 0.7, "snr", snr, "give more than 0, at most 0.7")?;
                let rows = sampler.method().rows(*steps);
                ensure(rows <= usize::from(u16::MAX), "the table's length", rows, "give fewer steps or rows a level")?;
            }
            _ => {}
        }
        if let SamplerConfig::Langevin { steps, .. } = *sampler {
            ensure(steps >= 1, "langevin steps", steps, "give at least 1")?;
        }
        // Langevin: what is noise at one level must not drown the next, as the state is only rescaled from one to the other.
        // Heun: the second slope corrects the first one by half the ratio, far from the data an error without bound.
        let (limit, least_sigma) = match *sampler {
            SamplerConfig::Langevin { .. } => (3.0, 0.0),
            SamplerConfig::Heun => (50.0, 0.1),
            _ => (f64::INFINITY, 0.0),
        };
        let levels = self.levels(diffusion);
        let pairs = levels.windows(2).filter(|pair| pair[1].sigma() > least_sigma);
        let ratio = pairs.map(|pair| pair[0].sigma() / pair[1].sigma()).fold(1.0, f64::max);
        let needed =
            format!("give more steps, karras spacing or a narrower sigma_range, so that it is at most {limit}");
        ensure(ratio <= limit, "the greatest ratio of neighboring sigmas", format!("{ratio:.1}"), needed)?;
        if let SpacingConfig::Karras { rho } = *spacing {
            ensure(rho.is_finite() && rho >= 1.0, "rho", rho, "give at least 1")?;
        }
        match *threshold {
            Threshold::Clamp { limit } => ensure(limit > 0.0, "threshold.limit", limit, "give more than 0")?,
            Threshold::Dynamic { quantile } => {
                let right = 0.0 < quantile && quantile <= 1.0;
                ensure(right, "threshold.quantile", quantile, "give more than 0, at most 1")?;
            }
            Threshold::None => {}
        }
        let finite =
            |row: &StepRow| [row.p, row.q, row.a, row.b, row.b_prev, row.c].iter().all(|value| value.is_finite());
        let needed =
            "it cannot begin at pure noise with this objective: take another sampler, spacing, objective or schedule";
        ensure(self.table(diffusion).iter().all(finite), "a row's coefficient", "infinite", needed)
    }

    /// Whether a network with this output can be sampled so.
    ///
    /// # Errors
    /// [`SamplingError`] if the variance is to be learned, but the network gives none.
    pub fn check_output(&self, output: Output) -> Result<(), SamplingError> {
        let right = !self.learned_variance() || output == Output::MeanAndVariance;
        ensure(right, "variance", "learned", "the network gives none: train one with output = \"mean_and_variance\"")
    }

    /// The step table, the noisiest row first.
    pub fn table(&self, diffusion: &Diffusion) -> Vec<StepRow> {
        let levels = self.levels(diffusion);
        let method = self.sampler.method();
        let mut table = vec![StepRow::default(); method.rows(levels.len())];
        method.fill(diffusion.objective, &levels, &mut table);
        table
    }

    /// The levels, the noisiest first.
    fn levels(&self, diffusion: &Diffusion) -> Vec<Level> {
        let spacing = match &self.spacing {
            SpacingConfig::Trailing => Spacing::Trailing,
            SpacingConfig::Leading => Spacing::Leading,
            SpacingConfig::Linspace => Spacing::Linspace,
            SpacingConfig::Karras { rho } => Spacing::Karras { rho: *rho },
            SpacingConfig::At { timesteps } => {
                let level = |&timestep: &u32| Level { timestep, alpha_bar: diffusion.alpha_bars[timestep as usize] };
                return timesteps.iter().map(level).collect();
            }
        };
        let timesteps = self.timesteps(diffusion);
        let mut levels = vec![Level::default(); self.steps];
        spacing.fill(&diffusion.alpha_bars[timesteps.clone()], &mut levels);
        levels.iter_mut().for_each(|level| level.timestep += timesteps.start as u32);
        // A repeated level would be a row that changes nothing, and a division by zero in a multistep method.
        levels.dedup();
        levels
    }

    /// The timesteps within [`SamplingConfig::sigma_range`].
    fn timesteps(&self, diffusion: &Diffusion) -> Range<usize> {
        let Some([low, high]) = self.sigma_range else { return 0..diffusion.timesteps() };
        let sigma = |&alpha_bar: &f64| Level { timestep: 0, alpha_bar }.sigma();
        let below = |limit: f64| diffusion.alpha_bars.partition_point(|alpha_bar| sigma(alpha_bar) < limit);
        below(low)..diffusion.alpha_bars.partition_point(|alpha_bar| sigma(alpha_bar) <= high).max(below(low))
    }

    /// The guidance strength at a row: [`SamplingConfig::guidance`] within the interval, 1 elsewhere.
    pub fn guidance_at(&self, row: &StepRow) -> f64 {
        match self.guidance_interval {
            Some([low, high]) if !(low..=high).contains(&row.sigma()) => 1.0,
            _ => self.guidance,
        }
    }

    /// Whether the network's second output sets the variance.
    pub fn learned_variance(&self) -> bool {
        self.sampler == SamplerConfig::Ddpm { variance: VarianceConfig::Learned }
    }
}

fn ensure(
    right: bool,
    what: &'static str,
    found: impl ToString,
    needed: impl Into<String>,
) -> Result<(), SamplingError> {
    if right { Ok(()) } else { Err(SamplingError { what, found: found.to_string(), needed: needed.into() }) }
}

impl SamplerConfig {
    /// The way to fill the table.
    pub fn method(self) -> Method {
        match self {
            Self::Ddpm { variance: VarianceConfig::Beta } => Method::Direct(Variance::Beta),
            // A learned variance replaces the posterior's row by row.
            Self::Ddpm { .. } => Method::Direct(Variance::Posterior),
            Self::Ddim { eta } => Method::Direct(Variance::Eta(eta)),
            Self::Euler => Method::Direct(Variance::Eta(0.0)),
            Self::Heun => Method::Heun,
            Self::DpmPlusPlus2M => Method::DpmPlusPlus2M,
            Self::Churn { gamma } => Method::Churn { gamma },
            Self::PredictorCorrector { correctors, snr } => Method::PredictorCorrector { correctors, snr },
            Self::Langevin { steps, snr } => Method::Langevin { steps, snr },
            Self::Consistency => Method::Consistency,
        }
    }

    /// Whether each row goes from one level to the next with no memory, so that a process can turn back between rows.
    pub fn one_row_a_level(self) -> bool {
        matches!(self, Self::Ddpm { .. } | Self::Ddim { .. } | Self::Euler | Self::Churn { .. } | Self::Consistency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{DiffusionConfig, Objective, ScheduleConfig};

    fn cosine() -> Diffusion {
        DiffusionConfig::new(Objective::V, 1000, ScheduleConfig::Cosine { offset: 0.008 }).build().unwrap()
    }

    #[test]
    fn the_default_is_ddim_and_adds_nothing_to_a_file() {
        let config = SamplingConfig::ddim(16, 1.5);
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(json, r#"{"steps":16,"guidance":1.5}"#);
        assert_eq!(serde_json::from_str::<SamplingConfig>(&json).unwrap(), config);
        assert_eq!(config.table(&cosine()), cosine().ddim(16));
    }

    #[test]
    fn every_setting_has_a_form_in_toml() {
        let text = r#"
            steps = 20
            guidance = 3.0
            guidance_interval = [0.2, 5.0]
            guidance_rescale = 0.7
            sampler = { kind = "predictor_corrector", correctors = 1, snr = 0.16 }
            spacing = { kind = "karras", rho = 7.0 }
            sigma_range = [0.002, 80.0]
            threshold = { kind = "dynamic", quantile = 0.995 }
        "#;
        let config: SamplingConfig = toml::from_str(text).unwrap();
        config.check(&cosine()).unwrap();
        let table = config.table(&cosine());
        assert_eq!(table.len(), 39);
        assert!(table[0].sigma() <= 80.0 && table[0].timestep > 900);
        assert_eq!(toml::from_str::<SamplingConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
        for kind in [
            "{ kind = \"ddpm\", variance = \"learned\" }",
            "{ kind = \"ddpm\" }",
            "{ kind = \"ddim\", eta = 0.5 }",
            "{ kind = \"euler\" }",
            "{ kind = \"dpmpp2m\" }",
            "{ kind = \"churn\", gamma = 0.2 }",
            "{ kind = \"consistency\" }",
        ] {
            let text = format!("steps = 4\nguidance = 1.0\nsampler = {kind}");
            let config: SamplingConfig = toml::from_str(&text).unwrap_or_else(|error| panic!("{kind}: {error}"));
            config.check(&cosine()).unwrap();
            assert!(config.table(&cosine()).iter().all(|row| row.a.is_finite() && row.b.is_finite()), "{kind}");
        }
    }

    /// Timesteps named one by one give the rows of a spacing that visits the same.
    #[test]
    fn named_timesteps_are_visited() {
        let text = "steps = 4\nguidance = 1.0\nspacing = { kind = \"at\", timesteps = [999, 749, 499, 249] }";
        let config: SamplingConfig = toml::from_str(text).unwrap();
        config.check(&cosine()).unwrap();
        assert_eq!(config.table(&cosine()), cosine().ddim(4));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let base = SamplingConfig::ddim(16, 1.0);
        let langevin = SamplingConfig {
            steps: 20,
            sampler: SamplerConfig::Langevin { steps: 4, snr: 0.16 },
            sigma_range: Some([0.002, 80.0]),
            spacing: SpacingConfig::Karras { rho: 7.0 },
            ..base.clone()
        };
        langevin.check(&cosine()).unwrap();
        SamplingConfig { sampler: SamplerConfig::Heun, sigma_range: Some([0.002, 80.0]), ..base.clone() }
            .check(&cosine())
            .unwrap();
        let wrong = [
            SamplingConfig { steps: 0, ..base.clone() },
            SamplingConfig { steps: 1001, ..base.clone() },
            SamplingConfig { guidance: f64::NAN, ..base.clone() },
            SamplingConfig { guidance_interval: Some([2.0, 1.0]), ..base.clone() },
            SamplingConfig { guidance_rescale: 1.5, ..base.clone() },
            SamplingConfig { sampler: SamplerConfig::Ddim { eta: -0.1 }, ..base.clone() },
            SamplingConfig { sampler: SamplerConfig::Langevin { steps: 0, snr: 0.1 }, ..langevin.clone() },
            SamplingConfig { sampler: SamplerConfig::Langevin { steps: 1, snr: 0.0 }, ..langevin.clone() },
            SamplingConfig { steps: 5, ..langevin.clone() },
            SamplingConfig { sigma_range: Some([1e9, 1e10]), ..base.clone() },
            // The cosine schedule ends at sigma 20,000.
            SamplingConfig { sampler: SamplerConfig::Heun, ..base.clone() },
            SamplingConfig { spacing: SpacingConfig::Karras { rho: 0.0 }, ..base.clone() },
            SamplingConfig { spacing: SpacingConfig::At { timesteps: vec![999, 500] }, ..base.clone() },
            SamplingConfig { steps: 2, spacing: SpacingConfig::At { timesteps: vec![500, 999] }, ..base.clone() },
            SamplingConfig { steps: 2, spacing: SpacingConfig::At { timesteps: vec![1000, 500] }, ..base.clone() },
            SamplingConfig { threshold: Threshold::Clamp { limit: 0.0 }, ..base.clone() },
            SamplingConfig { threshold: Threshold::Dynamic { quantile: 1.1 }, ..base.clone() },
        ];
        base.check(&cosine()).unwrap();
        for config in wrong {
            assert!(config.check(&cosine()).is_err(), "{config:?}");
        }
    }
}
