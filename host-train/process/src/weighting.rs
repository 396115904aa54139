//! How much the loss counts at each noise level.
//!
//! All weights are factors of the squared error of the network's output. A squared error of x0 is that times `q^2`, since
//! `x0 = p x + q f` ([`Objective::x0_factors`]); one of epsilon is that of x0 times the signal-to-noise ratio.

use mote_core::schedule::snr;
use mote_core::step_table::Objective;
use serde::{Deserialize, Serialize};

/// How the loss depends on the timestep, before it is scaled to a mean of 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Weighting {
    /// The squared error of the network's output (with epsilon: Ho et al. 2020, equation 14).
    Uniform,
    /// `min(snr, gamma)` on the squared error of x0 (Hang et al., *Min-SNR*, 2023).
    MinSnr {
        /// The greatest weight; the paper's is 5.
        gamma: f64,
    },
    /// `max(snr, 1)` on the squared error of x0 (Salimans, Ho 2022, section 4).
    TruncatedSnr,
    /// `1 / (k + snr)^gamma` on the squared error of epsilon (Choi et al., *Perception Prioritized Training*, 2022,
    /// equation 8).
    P2 {
        /// How much little noise is held back; 1 in the paper, 0.5 its milder choice.
        gamma: f64,
        /// Keeps the weight finite; 1 in the paper.
        k: f64,
    },
    /// `(sigma^2 + sigma_data^2) / (sigma sigma_data)^2` on the squared error of x0, `sigma^2 = 1 / snr` (Karras et al.,
    /// *EDM*, 2022, table 1).
    Edm {
        /// Standard deviation of the data; 0.5 in the paper.
        sigma_data: f64,
    },
    /// The variational bound's own: half of what the signal-to-noise ratio falls by, on the squared error of x0 (Kingma et
    /// al., *Variational Diffusion Models*, 2021, equations 13 and 18), which is the divergence in nats at the posterior's
    /// variance; at the first timestep `1 / (2 beta)`, a normal decoder's of variance beta.
    Vlb,
}

impl Weighting {
    /// The factor of the squared error of the network's output at `alpha_bar`. `snr_fall` is by how much this timestep (in
    /// continuous time: a timestep at the slope here) lowers the signal-to-noise ratio; only [`Weighting::Vlb`] asks for it.
    pub fn factor(self, objective: Objective, alpha_bar: f64, snr_fall: impl FnOnce() -> f64) -> f64 {
        let [_, q] = objective.x0_factors(alpha_bar);
        let snr = snr(alpha_bar);
        match self {
            Weighting::Uniform => 1.0,
            Weighting::MinSnr { gamma } => snr.min(gamma) * q * q,
            Weighting::TruncatedSnr => snr.max(1.0) * q * q,
            Weighting::P2 { gamma, k } => snr * q * q / (k + snr).powf(gamma),
            Weighting::Edm { sigma_data } => (snr + 1.0 / (sigma_data * sigma_data)) * q * q,
            Weighting::Vlb => 0.5 * snr_fall() * q * q,
        }
    }

    /// # Errors
    /// The number that makes no sense.
    pub fn check(self) -> Result<(), String> {
        let positive = |name: &str, value: f64| {
            let good = value > 0.0 && value.is_finite();
            if good { Ok(()) } else { Err(format!("train.weighting: {name} is {value}; it must be positive")) }
        };
        match self {
            Weighting::MinSnr { gamma } => positive("gamma", gamma),
            Weighting::P2 { gamma, k } => positive("gamma", gamma).and_then(|()| positive("k", k)),
            Weighting::Edm { sigma_data } => positive("sigma_data", sigma_data),
            Weighting::Uniform | Weighting::TruncatedSnr | Weighting::Vlb => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_core::schedule::{noise, signal};

    const LEVELS: [f64; 4] = [0.9999, 0.7, 0.2, 1e-4];

    fn factor(weighting: Weighting, objective: Objective, alpha_bar: f64) -> f64 {
        weighting.factor(objective, alpha_bar, || unreachable!())
    }

    /// Hang et al., table 1: min(snr, gamma) / snr for epsilon, / (snr + 1) for v, as it is for x0.
    #[test]
    fn min_snr_is_the_papers() {
        let weighting = Weighting::MinSnr { gamma: 5.0 };
        for alpha_bar in LEVELS {
            let snr = snr(alpha_bar);
            for (objective, expected) in [
                (Objective::X0, snr.min(5.0)),
                (Objective::Epsilon, snr.min(5.0) / snr),
                (Objective::V, snr.min(5.0) / (snr + 1.0)),
            ] {
                let found = factor(weighting, objective, alpha_bar);
                assert!((found / expected - 1.0).abs() < 1e-12, "{objective:?} at {alpha_bar}");
            }
        }
    }

    /// Choi et al., equation 8: the simplified loss of epsilon over (k + snr)^gamma.
    #[test]
    fn p2_is_the_papers() {
        for alpha_bar in LEVELS {
            let expected = (1.0 + snr(alpha_bar)).powf(-0.5);
            let found = factor(Weighting::P2 { gamma: 0.5, k: 1.0 }, Objective::Epsilon, alpha_bar);
            assert!((found / expected - 1.0).abs() < 1e-12, "{alpha_bar}");
        }
    }

    /// Karras et al.: lambda(sigma) c_out(sigma)^2 = 1, the weight of their network's own output.
    #[test]
    fn edm_is_one_over_the_square_of_c_out() {
        for alpha_bar in LEVELS {
            let (sigma, sigma_data) = (noise(alpha_bar) / signal(alpha_bar), 0.5);
            let c_out = sigma * sigma_data / (sigma * sigma + sigma_data * sigma_data).sqrt();
            let found = factor(Weighting::Edm { sigma_data }, Objective::X0, alpha_bar);
            assert!((found * c_out * c_out - 1.0).abs() < 1e-12, "{alpha_bar}");
        }
    }

    /// Salimans, Ho: max(|x - x0|^2, |eps - eps_hat|^2).
    #[test]
    fn truncated_snr_is_the_greater_error_of_x0_and_epsilon() {
        for alpha_bar in LEVELS {
            let [x0, epsilon] = [1.0, snr(alpha_bar)];
            let found = factor(Weighting::TruncatedSnr, Objective::X0, alpha_bar);
            assert_eq!(found, f64::max(x0, epsilon));
        }
    }

    /// Every weight but the uniform one speaks of an error of x0: what the network's output means must not matter.
    #[test]
    fn a_weighted_error_is_the_same_in_every_objective() {
        let weightings = [
            Weighting::MinSnr { gamma: 5.0 },
            Weighting::TruncatedSnr,
            Weighting::P2 { gamma: 1.0, k: 1.0 },
            Weighting::Edm { sigma_data: 0.5 },
            Weighting::Vlb,
        ];
        for weighting in weightings {
            for alpha_bar in LEVELS {
                let weighted = |objective: Objective| {
                    let [_, q] = objective.x0_factors(alpha_bar);
                    let error_of_output = 0.01 / q;
                    weighting.factor(objective, alpha_bar, || 0.3) * error_of_output * error_of_output
                };
                let expected = weighted(Objective::X0);
                for objective in [Objective::Epsilon, Objective::V, Objective::Score, Objective::Velocity] {
                    let found = weighted(objective);
                    assert!((found / expected - 1.0).abs() < 1e-9, "{weighting:?} {objective:?} at {alpha_bar}");
                }
            }
        }
    }

    #[test]
    fn numbers_that_make_no_sense_are_named() {
        assert!(Weighting::MinSnr { gamma: 0.0 }.check().unwrap_err().contains("gamma is 0"));
        assert!(Weighting::Edm { sigma_data: f64::NAN }.check().unwrap_err().contains("sigma_data"));
        assert!(Weighting::P2 { gamma: 1.0, k: -1.0 }.check().unwrap_err().contains("k is -1"));
        assert!(Weighting::TruncatedSnr.check().is_ok());
    }
}
