//! What training lowers: the distance of the network's output from its target, and the parts of the variational bound.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

/// What a step's loss is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum LossConfig {
    /// The weighted distance of the network's output from its target (with the uniform weighting: Ho et al. 2020, equation
    /// 14).
    #[default]
    Simple,
    /// The variational bound in bits a value: the term of each sample's timestep, times the number of timesteps. The prior's
    /// term is left out: nothing can lower it.
    Vlb,
    /// The simple loss plus `lambda` times the bound, where the bound trains the variance alone: the mean's gradient is
    /// stopped there (Nichol, Dhariwal 2021, section 3.1). The network needs a second output for the variance.
    Hybrid {
        /// 0.001 in the paper.
        lambda: f64,
    },
}

/// How an error of the network's output counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Distance {
    /// Its square.
    #[default]
    Squared,
    /// Its magnitude.
    Absolute,
    /// Half its square up to `delta`, beyond it `delta` times the magnitude less `delta / 2` (Huber 1964).
    Huber {
        /// Where the square ends; positive.
        delta: f64,
    },
    /// `sqrt(|error|^2 + c^2) - c` with the norm over the whole sample (Song, Dhariwal, *Improved Techniques for Training
    /// Consistency Models*, 2023, section 3.3: `c = 0.00054 sqrt(values of a sample)`).
    PseudoHuber {
        /// Where it turns from a square to a norm; positive.
        c: f64,
    },
}

impl Distance {
    /// The mean over samples (and, but for pseudo-Huber, their values) of the distance times the sample's weight, `[1]`.
    ///
    /// # Shapes
    /// - error: `[batch, channels, height, width]`
    /// - weights: `[batch, 1, 1, 1]`
    pub fn mean<B: Backend>(self, error: Tensor<B, 4>, weights: Tensor<B, 4>) -> Tensor<B, 1> {
        let each = match self {
            Self::Squared => error.clone() * error,
            Self::Absolute => error.abs(),
            Self::Huber { delta } => {
                let magnitude = error.abs();
                let inner = magnitude.clone().clamp_max(delta);
                (magnitude - inner.clone()) * delta + inner.clone() * inner * 0.5
            }
            Self::PseudoHuber { c } => {
                let norm = (error.clone() * error).sum_dim(1).sum_dim(2).sum_dim(3);
                (norm + c * c).sqrt() - c
            }
        };
        (each * weights).mean()
    }

    /// # Errors
    /// The number that makes no sense.
    pub fn check(self) -> Result<(), String> {
        match self {
            Self::Huber { delta: number } | Self::PseudoHuber { c: number }
                if !(number > 0.0 && number.is_finite()) =>
            {
                Err(format!("train.distance: {number} must be positive"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    fn mean(distance: Distance) -> f64 {
        let error = Tensor::<Flex, 1>::from_floats([0.1, -3.0, 0.5, 2.0], &Default::default()).reshape([2, 2, 1, 1]);
        let weights = Tensor::<Flex, 1>::from_floats([1.0, 2.0], &Default::default()).reshape([2, 1, 1, 1]);
        f64::from(distance.mean(error, weights).into_scalar())
    }

    #[test]
    fn distances_are_their_formulas() {
        let close = |distance, expected: f64| assert!((mean(distance) - expected).abs() < 1e-5, "{distance:?}");
        close(Distance::Squared, (0.01 + 9.0 + 2.0 * (0.25 + 4.0)) / 4.0);
        close(Distance::Absolute, (0.1 + 3.0 + 2.0 * (0.5 + 2.0)) / 4.0);
        let huber = |error: f64| if error < 1.0 { 0.5 * error * error } else { error - 0.5 };
        close(Distance::Huber { delta: 1.0 }, (huber(0.1) + huber(3.0) + 2.0 * (huber(0.5) + huber(2.0))) / 4.0);
        let pseudo = |square: f64| (square + 0.04).sqrt() - 0.2;
        close(Distance::PseudoHuber { c: 0.2 }, (pseudo(9.01) + 2.0 * pseudo(4.25)) / 2.0);
        assert!(Distance::Huber { delta: -1.0 }.check().unwrap_err().contains("-1 must be positive"));
    }
}
