//! Averages of the weights over training: the exponential one, the power-function one and, after training, any
//! power-function one from stored snapshots (Karras et al., *Analyzing and Improving the Training Dynamics of Diffusion
//! Models*, 2024, section 3 and appendix C).
//!
//! | paper | here | meaning |
//! |---|---|---|
//! | `sigma_rel` | `sigma_rel` | standard deviation of the profile, as a fraction of the training so far |
//! | `gamma` | `gamma` | exponent: at step `t` the weights of step `tau` count as `tau^gamma` |
//! | `beta_gamma(t)` | [`Profile::keep`] | what step `t` keeps of the average so far |

use serde::{Deserialize, Serialize};

/// The greatest relative width: `gamma` is 0, the plain mean of all steps.
const WIDEST: f64 = 0.288_675_134_594_812_9;

/// How the weights that are used in the end are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields, expecting = "give a decay rate such as 0.999, or { sigma_rel = 0.1 }")]
pub enum Ema {
    /// Exponential, with this decay rate; the first steps use `(1 + step) / (10 + step)` where that is less.
    Decay(f64),
    /// A power function of the step: as wide, relative to the training so far, at every step.
    Power {
        /// Relative width, greater than 0 and less than 0.288.
        sigma_rel: f64,
    },
}

/// Power-function averages kept at intervals, from which [`super::combine`] computes others after training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshots {
    /// Steps between two snapshots; the last step is always kept.
    pub every: u64,
    /// Relative widths of the averages kept; the paper's are 0.05 and 0.1.
    #[serde(default = "paper_widths")]
    pub sigma_rels: Vec<f64>,
}

fn paper_widths() -> Vec<f64> {
    vec![0.05, 0.10]
}

impl Ema {
    /// What step `step`, counted from 0, keeps of the average so far.
    pub fn keep(self, step: u64) -> f64 {
        match self {
            Self::Decay(rate) => rate.min((1 + step) as f64 / (10 + step) as f64),
            Self::Power { sigma_rel } => Profile::new(sigma_rel).keep(step),
        }
    }

    /// # Errors
    /// A rate that is not in `0..1`, or a width that no profile has.
    pub fn check(self) -> anyhow::Result<()> {
        match self {
            Self::Decay(rate) => {
                anyhow::ensure!((0.0..1.0).contains(&rate), "ema = {rate} is not a decay rate: give 0 to 0.99999");
                Ok(())
            }
            Self::Power { sigma_rel } => check_width(sigma_rel),
        }
    }
}

impl Snapshots {
    /// # Errors
    /// A width that no profile has, no widths, or no interval.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.every >= 1, "snapshots.every must be at least 1");
        anyhow::ensure!(!self.sigma_rels.is_empty(), "snapshots.sigma_rels is empty; the paper keeps [0.05, 0.1]");
        self.sigma_rels.iter().try_for_each(|&width| check_width(width))
    }
}

/// # Errors
/// If no power function has this relative width.
pub(super) fn check_width(sigma_rel: f64) -> anyhow::Result<()> {
    anyhow::ensure!(
        (0.001..WIDEST).contains(&sigma_rel),
        "a relative width of {sigma_rel} is not possible: give 0.001 to 0.288"
    );
    Ok(())
}

/// A power function of the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Profile {
    pub(super) gamma: f64,
}

impl Profile {
    /// The profile of relative width `sigma_rel`: `gamma` with
    /// `sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))`, by bisection.
    pub fn new(sigma_rel: f64) -> Self {
        let width = |gamma: f64| ((gamma + 1.0) / (gamma + 3.0)).sqrt() / (gamma + 2.0);
        let (mut low, mut high) = (0.0, 1.0 / sigma_rel);
        for _ in 0..100 {
            let middle = 0.5 * (low + high);
            if width(middle) > sigma_rel { low = middle } else { high = middle }
        }
        Self { gamma: 0.5 * (low + high) }
    }

    /// What step `step`, counted from 0, keeps of the average so far: `(1 - 1/t)^(gamma + 1)` with `t = step + 1`. The
    /// weights of step `tau` then count as the integral of the profile from `tau - 1` to `tau`, exactly.
    pub fn keep(self, step: u64) -> f64 {
        (step as f64 / (step + 1) as f64).powf(self.gamma + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paper's figure 3 and appendix C: sigma_rel 0.05 is gamma 16.97, 0.10 is 6.94.
    #[test]
    fn the_exponents_are_the_papers() {
        for (sigma_rel, gamma) in [(0.05, 16.97), (0.10, 6.94)] {
            assert!((Profile::new(sigma_rel).gamma - gamma).abs() < 0.005, "{:?}", Profile::new(sigma_rel));
        }
    }

    /// The profile's standard deviation over the steps, from its discrete weights.
    #[test]
    fn a_profile_is_as_wide_as_it_says() {
        for sigma_rel in [0.02, 0.05, 0.1, 0.2] {
            let (profile, steps) = (Profile::new(sigma_rel), 4000_u64);
            let mut weights = Vec::new();
            for step in 0..steps {
                let keep = profile.keep(step);
                weights.iter_mut().for_each(|weight| *weight *= keep);
                weights.push(1.0 - keep);
            }
            let moment =
                |power: i32| -> f64 { weights.iter().enumerate().map(|(at, w)| w * (at as f64).powi(power)).sum() };
            assert!((moment(0) - 1.0).abs() < 1e-12);
            let deviation = (moment(2) - moment(1).powi(2)).sqrt() / steps as f64;
            assert!((deviation / sigma_rel - 1.0).abs() < 1e-2, "{deviation}, not {sigma_rel}");
        }
    }

    #[test]
    fn a_number_is_a_decay_rate_and_a_table_a_width() {
        #[derive(Debug, Deserialize)]
        struct Text {
            ema: Ema,
        }
        let parse = |text: &str| toml::from_str::<Text>(text).map(|text| text.ema);
        assert_eq!(parse("ema = 0.999").unwrap(), Ema::Decay(0.999));
        assert_eq!(parse("ema = { sigma_rel = 0.1 }").unwrap(), Ema::Power { sigma_rel: 0.1 });
        assert!(parse("ema = 'slow'").unwrap_err().to_string().contains("such as 0.999"));
        assert!(Ema::Decay(1.0).check().is_err() && Ema::Power { sigma_rel: 0.3 }.check().is_err());
    }
}
