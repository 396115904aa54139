//! The learning rate of each step: a warm-up, then a decay.

use serde::{Deserialize, Serialize};

/// The learning rate after the warm-up, as a fraction of the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// 1.
    Constant,
    /// Half a cosine from 1 to the floor (Loshchilov, Hutter, *SGDR*, 2017, without restarts).
    Cosine,
    /// A straight line from 1 to the floor.
    Linear,
    /// `sqrt(warm_up / step)`, at least the floor; it does not depend on the number of steps, so a run can be extended at
    /// any time (Karras et al., *Analyzing and Improving the Training Dynamics of Diffusion Models*, 2024, eq. 67).
    InverseSqrt,
}

impl Decay {
    /// The fraction at `step` of `steps`, counted from 0, after `warm_up` steps.
    pub(super) fn fraction(self, step: u64, steps: u64, warm_up: u64, floor: f64) -> f64 {
        let done = (step as f64 / steps as f64).min(1.0);
        let above = |fraction: f64| floor + (1.0 - floor) * fraction;
        match self {
            Self::Constant => 1.0,
            Self::Cosine => above(0.5 * (1.0 + (std::f64::consts::PI * done).cos())),
            Self::Linear => above(1.0 - done),
            Self::InverseSqrt => {
                let warm_up = warm_up.max(1);
                (warm_up as f64 / (step + 1).max(warm_up) as f64).sqrt().max(floor)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_decay_begins_at_one_and_ends_at_its_floor() {
        for decay in [Decay::Cosine, Decay::Linear] {
            assert_eq!(decay.fraction(0, 1000, 10, 0.1), 1.0);
            assert!((decay.fraction(500, 1000, 10, 0.1) - 0.55).abs() < 1e-12);
            assert!((decay.fraction(1000, 1000, 10, 0.1) - 0.1).abs() < 1e-12);
        }
        assert_eq!(Decay::Constant.fraction(999, 1000, 10, 0.1), 1.0);
    }

    #[test]
    fn the_inverse_root_does_not_know_the_number_of_steps() {
        let decay = Decay::InverseSqrt;
        assert_eq!(decay.fraction(99, 100, 100, 0.0), 1.0);
        assert_eq!(decay.fraction(399, 400, 100, 0.0), 0.5);
        assert_eq!(decay.fraction(399, 9000, 100, 0.0), 0.5);
        assert_eq!(decay.fraction(999_999, 9000, 100, 0.02), 0.02);
    }
}
