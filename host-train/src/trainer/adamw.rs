//! AdamW (Loshchilov, Hutter 2019) on all parameters as one vector, with global-norm clipping and an exponential moving
//! average of the weights.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

/// Added to the root of the second moment.
const EPSILON: f64 = 1e-8;

/// The learning rate after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// As it is.
    Constant,
    /// Half a cosine to zero.
    Cosine,
    /// A straight line to zero.
    Linear,
}

/// The numbers of the optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// Greatest learning rate.
    pub learning_rate: f64,
    /// Steps over which it rises from zero, in a straight line.
    pub warm_up: u64,
    /// What it does afterwards.
    pub decay: Decay,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Weight decay, decoupled, on every parameter.
    pub weight_decay: f64,
    /// Greatest norm of all gradients together.
    pub clip: f64,
    /// Decay rate of the average; the first steps use `(1 + step) / (10 + step)` where that is less.
    pub ema: f64,
}

impl OptimizerConfig {
    /// The learning rate of step `step` of `steps`, counted from 0.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        let warm = ((step + 1) as f64 / self.warm_up.max(1) as f64).min(1.0);
        let done = step as f64 / steps as f64;
        let decay = match self.decay {
            Decay::Constant => 1.0,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            Decay::Linear => 1.0 - done,
        };
        self.learning_rate * warm * decay
    }
}

/// Parameters and what the optimizer remembers of them; all vectors `[parameters]`.
#[derive(Debug, Clone)]
pub struct AdamW<B: Backend> {
    /// The weights being trained.
    pub parameters: Tensor<B, 1>,
    /// First moment.
    pub first: Tensor<B, 1>,
    /// Second moment.
    pub second: Tensor<B, 1>,
    /// Averaged weights.
    pub ema: Tensor<B, 1>,
    /// Steps done.
    pub step: u64,
}

impl<B: Backend> AdamW<B> {
    /// Nothing done yet.
    pub fn new(parameters: Tensor<B, 1>) -> Self {
        let zeros = parameters.zeros_like();
        Self { first: zeros.clone(), second: zeros, ema: parameters.clone(), parameters, step: 0 }
    }

    /// One step of `steps` along `gradient`.
    pub fn update(self, gradient: Tensor<B, 1>, config: &OptimizerConfig, steps: u64) -> Self {
        let Self { parameters, first, second, ema, step } = self;
        let [beta1, beta2] = config.betas;
        let norm = (gradient.clone() * gradient.clone()).sum().sqrt();
        let gradient = gradient * (norm.add_scalar(1e-6).recip() * config.clip).clamp_max(1.0);
        let second = second * beta2 + gradient.clone() * gradient.clone() * (1.0 - beta2);
        let first = first * beta1 + gradient * (1.0 - beta1);
        let correction = |beta: f64| 1.0 / (1.0 - beta.powf((step + 1) as f64));
        let direction = first.clone() * correction(beta1) / ((second.clone() * correction(beta2)).sqrt() + EPSILON);
        let rate = config.rate(step, steps);
        let parameters = parameters * (1.0 - rate * config.weight_decay) - direction * rate;
        let keep = config.ema.min((1 + step) as f64 / (10 + step) as f64);
        let ema = ema * keep + parameters.clone() * (1.0 - keep);
        Self { parameters, first, second, ema, step: step + 1 }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    fn config() -> OptimizerConfig {
        let decay = Decay::Cosine;
        OptimizerConfig {
            learning_rate: 0.1,
            warm_up: 10,
            decay,
            betas: [0.9, 0.99],
            weight_decay: 0.0,
            clip: 1.0,
            ema: 0.5,
        }
    }

    #[test]
    fn the_rate_rises_then_falls_to_zero() {
        let config = config();
        assert!((config.rate(0, 1000) - 0.01).abs() < 1e-9);
        assert!((config.rate(500, 1000) - 0.05).abs() < 1e-9);
        assert!(config.rate(999, 1000) < 1e-6);
    }

    /// Adam's first step is the learning rate times the gradient's sign, whatever the gradient's size.
    #[test]
    fn the_first_step_is_the_rate_times_the_sign() {
        let start = Tensor::<Flex, 1>::from_floats([1.0, -2.0], &Default::default());
        let gradient = Tensor::from_floats([300.0, -0.4], &Default::default());
        let moved = AdamW::new(start).update(gradient, &config(), 1000).parameters.into_data().to_vec::<f32>().unwrap();
        assert!((moved[0] - 0.99).abs() < 1e-5 && (moved[1] + 1.99).abs() < 1e-5, "{moved:?}");
    }
}
