//! The flags that override how a network draws.

use crate::cli::Usage;
use crate::diffusion::sample::{SamplerConfig, SamplingConfig, SpacingConfig, Threshold, VarianceConfig};

/// Overrides of the settings kept with the network (`[sample]` of its preset).
#[derive(Debug, Default, Clone, PartialEq, clap::Args)]
#[command(next_help_heading = "How to draw [default: as the network's preset says]")]
pub(in crate::cli) struct SamplingArgs {
    /// The method
    #[arg(long, value_enum)]
    sampler: Option<SamplerName>,
    /// Noise levels visited; heun, predictor-corrector and langevin take several passes a level
    #[arg(long, value_name = "N")]
    pub(in crate::cli) steps: Option<usize>,
    /// Which timesteps they are; karras is EDM's spacing (Karras et al. 2022, equation 5)
    #[arg(long, value_enum)]
    spacing: Option<SpacingName>,
    /// karras: the exponent [default: 7]
    #[arg(long)]
    rho: Option<f64>,
    /// Visit only the levels whose sigma = noise / signal lies in this range; 0.002..80 in EDM
    #[arg(long, value_name = "LO..HI", value_parser = range)]
    sigma_range: Option<[f64; 2]>,
    /// ddim: fresh noise, 0 none, 1 as much as ddpm
    #[arg(long)]
    eta: Option<f64>,
    /// ddpm: of the fresh noise (Ho et al. 2020, section 3.2; Nichol, Dhariwal 2021)
    #[arg(long, value_enum)]
    variance: Option<VarianceConfig>,
    /// churn: relative growth of sigma a step, at most 0.414 in EDM [default: 0.2]
    #[arg(long, value_name = "GAMMA")]
    churn: Option<f64>,
    /// predictor-corrector: Langevin rows a level [default: 1]
    #[arg(long, value_name = "N")]
    correctors: Option<usize>,
    /// langevin: rows a level [default: 20]
    #[arg(long, value_name = "N")]
    langevin_steps: Option<usize>,
    /// predictor-corrector, langevin: signal-to-noise ratio of a Langevin row [default: 0.16]
    #[arg(long)]
    snr: Option<f64>,
    /// Classifier-free guidance w: uncond + w (cond - uncond); 0 is unconditional, 1 plain (Ho, Salimans 2022)
    #[arg(long, value_name = "W")]
    pub(in crate::cli) guidance: Option<f64>,
    /// Guide only where sigma lies in this range (Kynkäänniemi et al. 2024)
    #[arg(long, value_name = "LO..HI", value_parser = range)]
    guidance_interval: Option<[f64; 2]>,
    /// How much of the guided output's growth is taken back, 0 to 1 (Lin et al. 2024)
    #[arg(long, value_name = "PHI")]
    guidance_rescale: Option<f64>,
    /// What keeps the estimated data within its range: a clamp, Imagen's dynamic thresholding, or nothing
    #[arg(long, value_enum)]
    threshold: Option<ThresholdName>,
    /// clamp: the greatest magnitude in the network's units [default: 1]
    #[arg(long)]
    limit: Option<f64>,
    /// dynamic: share of a sample's values left as they are [default: 0.995]
    #[arg(long)]
    quantile: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SamplerName {
    /// Ancestral sampling (Ho et al. 2020)
    Ddpm,
    /// Song, Meng, Ermon 2021
    Ddim,
    /// Euler on the probability-flow ODE
    Euler,
    /// Heun on the probability-flow ODE (Karras et al. 2022); karras levels of sigma 0.002 to 80 unless others are asked for
    Heun,
    /// DPM-Solver++ 2M (Lu et al. 2022)
    Dpmpp2m,
    /// Stochastic EDM sampler (Karras et al. 2022)
    Churn,
    /// Annealed Langevin dynamics (Song, Ermon 2019); karras levels of sigma 0.002 to 80 unless others are asked for
    Langevin,
    /// DDIM with Langevin corrections (Song et al. 2021)
    PredictorCorrector,
    /// Multistep consistency sampling (Song et al. 2023), for networks distilled for it
    Consistency,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SpacingName {
    Trailing,
    Leading,
    Linspace,
    Karras,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ThresholdName {
    Clamp,
    Dynamic,
    None,
}

/// `LO..HI` or `LO,HI`.
pub(in crate::cli) fn range(text: &str) -> Result<[f64; 2], String> {
    let ends = text.split_once("..").or_else(|| text.split_once(','));
    let ends = ends.and_then(|(low, high)| Some([low.trim().parse().ok()?, high.trim().parse().ok()?]));
    ends.ok_or_else(|| "give two numbers, as 0.5..20".to_owned())
}

impl SamplingArgs {
    /// The settings with what is asked for instead.
    ///
    /// # Errors
    /// [`Usage`] if a flag does not belong to the sampler, spacing or threshold.
    pub(in crate::cli) fn apply(&self, base: &SamplingConfig) -> Result<SamplingConfig, Usage> {
        let mut rest = self.clone();
        let mut config = SamplingConfig {
            steps: rest.steps.take().unwrap_or(base.steps),
            guidance: rest.guidance.take().unwrap_or(base.guidance),
            guidance_interval: rest.guidance_interval.take().or(base.guidance_interval),
            guidance_rescale: rest.guidance_rescale.take().unwrap_or(base.guidance_rescale),
            sigma_range: rest.sigma_range.take().or(base.sigma_range),
            ..base.clone()
        };
        config.sampler = rest.sampler(config.sampler);
        // Both take steps in sigma, which is without bound where a schedule ends in noise alone.
        let in_sigma = matches!(config.sampler, SamplerConfig::Langevin { .. } | SamplerConfig::Heun);
        if in_sigma && self.sampler.is_some() && config.sigma_range.is_none() {
            config.sigma_range = Some([0.002, 80.0]);
            if self.spacing.is_none() {
                config.spacing = SpacingConfig::Karras { rho: 7.0 };
            }
        }
        config.spacing = rest.spacing(&config.spacing, config.steps);
        config.threshold = rest.threshold(config.threshold);
        let unused = [
            ("--rho", rest.rho.is_some()),
            ("--eta", rest.eta.is_some()),
            ("--variance", rest.variance.is_some()),
            ("--churn", rest.churn.is_some()),
            ("--correctors", rest.correctors.is_some()),
            ("--langevin-steps", rest.langevin_steps.is_some()),
            ("--snr", rest.snr.is_some()),
            ("--limit", rest.limit.is_some()),
            ("--quantile", rest.quantile.is_some()),
        ];
        if let Some((flag, _)) = unused.iter().find(|(_, given)| *given) {
            let SamplingConfig { sampler, spacing, threshold, .. } = config;
            return Err(Usage(format!("{flag} does not go with {sampler:?}, {spacing:?} and {threshold:?}")));
        }
        Ok(config)
    }

    fn sampler(&mut self, base: SamplerConfig) -> SamplerConfig {
        let name = self.sampler.take();
        let keep = name.is_none();
        match (name.unwrap_or_else(|| SamplerName::of(base)), base) {
            (SamplerName::Ddpm, SamplerConfig::Ddpm { variance }) => {
                SamplerConfig::Ddpm { variance: self.variance.take().unwrap_or(variance) }
            }
            (SamplerName::Ddpm, _) => SamplerConfig::Ddpm { variance: self.variance.take().unwrap_or_default() },
            (SamplerName::Ddim, SamplerConfig::Ddim { eta }) if keep => {
                SamplerConfig::Ddim { eta: self.eta.take().unwrap_or(eta) }
            }
            (SamplerName::Ddim, _) => SamplerConfig::Ddim { eta: self.eta.take().unwrap_or(0.0) },
            (SamplerName::Euler, _) => SamplerConfig::Euler,
            (SamplerName::Heun, _) => SamplerConfig::Heun,
            (SamplerName::Dpmpp2m, _) => SamplerConfig::DpmPlusPlus2M,
            (SamplerName::Churn, SamplerConfig::Churn { gamma }) => {
                SamplerConfig::Churn { gamma: self.churn.take().unwrap_or(gamma) }
            }
            (SamplerName::Churn, _) => SamplerConfig::Churn { gamma: self.churn.take().unwrap_or(0.2) },
            (SamplerName::PredictorCorrector, base) => {
                let (correctors, snr) = match base {
                    SamplerConfig::PredictorCorrector { correctors, snr } => (correctors, snr),
                    _ => (1, 0.16),
                };
                SamplerConfig::PredictorCorrector {
                    correctors: self.correctors.take().unwrap_or(correctors),
                    snr: self.snr.take().unwrap_or(snr),
                }
            }
            (SamplerName::Langevin, base) => {
                let (steps, snr) = match base {
                    SamplerConfig::Langevin { steps, snr } => (steps, snr),
                    _ => (20, 0.16),
                };
                SamplerConfig::Langevin {
                    steps: self.langevin_steps.take().unwrap_or(steps),
                    snr: self.snr.take().unwrap_or(snr),
                }
            }
            (SamplerName::Consistency, _) => SamplerConfig::Consistency,
        }
    }

    fn spacing(&mut self, base: &SpacingConfig, steps: usize) -> SpacingConfig {
        let karras = |rho: Option<f64>, base: f64| SpacingConfig::Karras { rho: rho.unwrap_or(base) };
        match (self.spacing.take(), base) {
            // A network's own timesteps are of its own number of steps.
            (None, SpacingConfig::At { timesteps }) if timesteps.len() != steps => SpacingConfig::Trailing,
            (Some(SpacingName::Trailing), _) => SpacingConfig::Trailing,
            (Some(SpacingName::Leading), _) => SpacingConfig::Leading,
            (Some(SpacingName::Linspace), _) => SpacingConfig::Linspace,
            (_, &SpacingConfig::Karras { rho }) => karras(self.rho.take(), rho),
            (Some(SpacingName::Karras), _) => karras(self.rho.take(), 7.0),
            (None, base) => base.clone(),
        }
    }

    fn threshold(&mut self, base: Threshold) -> Threshold {
        let clamp = |limit: Option<f64>, base: f64| Threshold::Clamp { limit: limit.unwrap_or(base) };
        let dynamic = |quantile: Option<f64>, base: f64| Threshold::Dynamic { quantile: quantile.unwrap_or(base) };
        match (self.threshold.take(), base) {
            (Some(ThresholdName::None), _) | (None, Threshold::None) => Threshold::None,
            (None | Some(ThresholdName::Clamp), Threshold::Clamp { limit }) => clamp(self.limit.take(), limit),
            (Some(ThresholdName::Clamp), _) => clamp(self.limit.take(), 1.0),
            (None | Some(ThresholdName::Dynamic), Threshold::Dynamic { quantile }) => {
                dynamic(self.quantile.take(), quantile)
            }
            (Some(ThresholdName::Dynamic), _) => dynamic(self.quantile.take(), 0.995),
        }
    }
}

impl SamplerName {
    fn of(config: SamplerConfig) -> Self {
        match config {
            SamplerConfig::Ddpm { .. } => Self::Ddpm,
            SamplerConfig::Ddim { .. } => Self::Ddim,
            SamplerConfig::Euler => Self::Euler,
            SamplerConfig::Heun => Self::Heun,
            SamplerConfig::DpmPlusPlus2M => Self::Dpmpp2m,
            SamplerConfig::Churn { .. } => Self::Churn,
            SamplerConfig::PredictorCorrector { .. } => Self::PredictorCorrector,
            SamplerConfig::Langevin { .. } => Self::Langevin,
            SamplerConfig::Consistency => Self::Consistency,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn apply(words: &str) -> Result<SamplingConfig, Usage> {
        let line = Line::try_parse_from(["x"].into_iter().chain(words.split_whitespace())).unwrap();
        line.sampling.apply(&SamplingConfig::ddim(16, 1.5))
    }

    #[test]
    fn flags_override_and_nothing_else_changes() {
        let base = SamplingConfig::ddim(16, 1.5);
        assert_eq!(apply("").unwrap(), base);
        let found = apply("--sampler ddpm --variance beta --steps 50 --guidance-interval 0.3..5").unwrap();
        let sampler = SamplerConfig::Ddpm { variance: VarianceConfig::Beta };
        assert_eq!(found, SamplingConfig { sampler, steps: 50, guidance_interval: Some([0.3, 5.0]), ..base.clone() });
        assert_eq!(apply("--eta 0.5").unwrap().sampler, SamplerConfig::Ddim { eta: 0.5 });
        let langevin = apply("--sampler langevin --snr 0.1").unwrap();
        assert_eq!(langevin.sampler, SamplerConfig::Langevin { steps: 20, snr: 0.1 });
        for config in [langevin, apply("--sampler heun").unwrap()] {
            assert_eq!((config.spacing, config.sigma_range), (SpacingConfig::Karras { rho: 7.0 }, Some([0.002, 80.0])));
        }
        assert_eq!(apply("--sampler heun --spacing linspace").unwrap().spacing, SpacingConfig::Linspace);
        assert_eq!(apply("--threshold dynamic").unwrap().threshold, Threshold::Dynamic { quantile: 0.995 });
    }

    #[test]
    fn a_flag_of_another_sampler_is_refused_not_ignored() {
        for words in ["--sampler heun --eta 0.5", "--snr 0.2", "--rho 7", "--threshold none --limit 2", "--churn 0.1"] {
            let error = apply(words).unwrap_err();
            assert!(error.to_string().contains("does not go with"), "{words}: {error}");
        }
    }
}
