//! The `[diffusion]` section of a preset, kept in a denoiser's file.

use std::path::{Path, PathBuf};

use mote_core::schedule::{Schedule, ScheduleError, fill_alpha_bars, rescale_to_zero_snr};
use mote_core::step_table;
use mote_process::{ReverseVariance, ScheduleFileError, read_betas};
use serde::{Deserialize, Serialize};

use super::{Diffusion, Gaps, LowResolution};

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
    /// `-eps / noise`, the gradient of the logarithm of the noised data's density.
    Score,
    /// `eps - x0`, the velocity of the straight path from data to noise (flow matching).
    Velocity,
}

impl From<Objective> for step_table::Objective {
    fn from(objective: Objective) -> Self {
        match objective {
            Objective::Epsilon => Self::Epsilon,
            Objective::X0 => Self::X0,
            Objective::V => Self::V,
            Objective::Score => Self::Score,
            Objective::Velocity => Self::Velocity,
        }
    }
}

/// The variances of the forward process; [`Schedule`] has the formulas.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum ScheduleConfig {
    Constant {
        beta: f64,
    },
    Linear {
        start: f64,
        end: f64,
    },
    Cosine {
        offset: f64,
    },
    Sigmoid {
        start: f64,
        end: f64,
    },
    Tanh {
        start: f64,
        end: f64,
    },
    Custom {
        betas: Vec<f64>,
    },
    /// The variances are in a file ([`read_betas`]), named from the preset's folder; [`ScheduleConfig::load`] makes them
    /// [`ScheduleConfig::Custom`], so that a model's file is complete.
    File {
        path: PathBuf,
    },
}

/// At which times a network is trained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Time {
    /// At the timesteps (Ho et al. 2020).
    #[default]
    Discrete,
    /// At real times from the first to the last timestep, the log-SNR on straight lines between them (Kingma, Salimans,
    /// Poole, Ho, *Variational Diffusion Models*, 2021, section 3.1). Sampling and the likelihood use the timesteps.
    Continuous,
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
    /// Whether the amplitudes are rescaled so that the process ends in noise alone ([`rescale_to_zero_snr`]).
    #[serde(default, skip_serializing_if = "is_default")]
    pub zero_terminal_snr: bool,
    /// At which times there is training.
    #[serde(default, skip_serializing_if = "is_default")]
    pub time: Time,
    /// The reverse steps' variance in the variational bound, where the network has no second output for it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub variance: ReverseVariance,
    /// The low resolution that the network is given, if any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub low_resolution: Option<LowResolution>,
    /// The gaps that the network fills by regression in place of drawing, if any.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gaps: Option<Gaps>,
}

/// Whether a field may be left out of a file, as files of older versions do.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Why there is no such process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffusionError {
    /// The schedule is none.
    #[error("diffusion.schedule: {0}")]
    Schedule(#[from] ScheduleError),
    /// The schedule's file gives none.
    #[error("diffusion.schedule: {0}")]
    File(#[from] ScheduleFileError),
    /// A file that was not loaded.
    #[error("diffusion.schedule: {} is not loaded", .0.display())]
    NotLoaded(PathBuf),
    /// An objective that says nothing of the data where there is no signal.
    #[error(
        "diffusion.zero_terminal_snr leaves no signal at the last timestep, where the data cannot be had from \
         {0:?}: set diffusion.objective to \"v\", \"x0\" or \"velocity\""
    )]
    NoSignal(Objective),
    /// The log-SNR at the end is no number.
    #[error(
        "diffusion.zero_terminal_snr makes the last log-SNR infinite, so there is no line to it for \
         diffusion.time = \"continuous\": set one of both"
    )]
    NoLine,
    /// What a network for gaps cannot do.
    #[error(
        "this network fills gaps (diffusion.gaps) and draws nothing; use it with `mote-train signal impute` or `compare`"
    )]
    FillsGaps,
}

impl DiffusionConfig {
    /// The process of the schedule as it is, in discrete time.
    pub fn new(objective: Objective, timesteps: usize, schedule: ScheduleConfig) -> Self {
        let (zero_terminal_snr, time, variance, low_resolution, gaps) = Default::default();
        Self { objective, timesteps, schedule, zero_terminal_snr, time, variance, low_resolution, gaps }
    }

    /// Computes the schedule.
    ///
    /// # Errors
    /// [`DiffusionError`]
    pub fn build(&self) -> Result<Diffusion, DiffusionError> {
        let mut betas = vec![0.0; self.timesteps];
        let mut alpha_bars = betas.clone();
        self.schedule.borrow()?.fill_betas(&mut betas)?;
        fill_alpha_bars(&betas, &mut alpha_bars);
        if self.zero_terminal_snr {
            if matches!(self.objective, Objective::Epsilon | Objective::Score) {
                return Err(DiffusionError::NoSignal(self.objective));
            }
            if self.time == Time::Continuous {
                return Err(DiffusionError::NoLine);
            }
            rescale_to_zero_snr(&mut alpha_bars);
        }
        let Self { time, variance, low_resolution, gaps, .. } = *self;
        Ok(Diffusion { objective: self.objective.into(), alpha_bars, time, variance, low_resolution, gaps })
    }

    /// Whether the network draws.
    ///
    /// # Errors
    /// [`DiffusionError::FillsGaps`]
    pub fn check_draws(&self) -> Result<(), DiffusionError> {
        if self.gaps.is_some() { Err(DiffusionError::FillsGaps) } else { Ok(()) }
    }
}

impl ScheduleConfig {
    /// Reads a schedule's file; `folder` is where its path begins if it is relative.
    ///
    /// # Errors
    /// [`DiffusionError::File`]
    pub fn load(self, folder: &Path) -> Result<Self, DiffusionError> {
        match self {
            Self::File { path } => Ok(Self::Custom { betas: read_betas(&folder.join(path))? }),
            other => Ok(other),
        }
    }

    fn borrow(&self) -> Result<Schedule<'_>, DiffusionError> {
        Ok(match *self {
            Self::Constant { beta } => Schedule::Constant { beta },
            Self::Linear { start, end } => Schedule::Linear { start, end },
            Self::Cosine { offset } => Schedule::Cosine { offset },
            Self::Sigmoid { start, end } => Schedule::Sigmoid { start, end },
            Self::Tanh { start, end } => Schedule::Tanh { start, end },
            Self::Custom { ref betas } => Schedule::Custom(betas),
            Self::File { ref path } => return Err(DiffusionError::NotLoaded(path.clone())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> DiffusionConfig {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn old_sections_stay_as_they_were() {
        let text = "objective = \"v\"\ntimesteps = 1000\n\n[schedule]\nkind = \"cosine\"\noffset = 0.008\n";
        let config = parse(text);
        assert_eq!(config, DiffusionConfig::new(Objective::V, 1000, ScheduleConfig::Cosine { offset: 0.008 }));
        assert_eq!(toml::to_string(&config).unwrap(), text);
    }

    #[test]
    fn zero_terminal_snr_ends_in_noise_and_refuses_what_cannot_be_trained_there() {
        let text = |objective: &str, rest: &str| {
            format!(
                "objective = \"{objective}\"\ntimesteps = 100\nzero_terminal_snr = true\n{rest}\n\
                 schedule = {{ kind = \"linear\", start = 1e-3, end = 0.2 }}"
            )
        };
        for objective in ["v", "x0", "velocity"] {
            let diffusion = parse(&text(objective, "")).build().unwrap();
            assert_eq!(diffusion.alpha_bars[99], 0.0);
            let weights = diffusion.weights(mote_process::Weighting::MinSnr { gamma: 5.0 }, &[0, 50, 99]);
            assert!(weights.iter().all(|weight| weight.is_finite()), "{objective}: {weights:?}");
        }
        for objective in ["epsilon", "score"] {
            let error = parse(&text(objective, "")).build().unwrap_err().to_string();
            assert!(error.contains("no signal at the last timestep") && error.contains("\"v\""), "{error}");
        }
        let error = parse(&text("v", "time = \"continuous\"")).build().unwrap_err().to_string();
        assert!(error.contains("set one of both"), "{error}");
    }

    #[test]
    fn a_schedule_of_a_file_is_the_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("betas.csv"), "0.1, 0.2, 0.3").unwrap();
        let mut config =
            parse("objective = \"epsilon\"\ntimesteps = 3\nschedule = { kind = \"file\", path = \"betas.csv\" }");
        assert!(config.build().unwrap_err().to_string().contains("betas.csv is not loaded"));
        config.schedule = config.schedule.load(dir.path()).unwrap();
        let found = config.build().unwrap().alpha_bars;
        assert!(found.iter().zip([0.9, 0.72, 0.504]).all(|(found, wanted)| (found - wanted).abs() < 1e-12));
        let error = DiffusionConfig { timesteps: 4, ..config }.build().unwrap_err().to_string();
        assert!(error.contains("3 variances for 4 timesteps"), "{error}");
    }
}
