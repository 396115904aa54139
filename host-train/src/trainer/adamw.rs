//! AdamW (Loshchilov, Hutter, *Decoupled Weight Decay Regularization*, 2019) on all parameters as one vector, with
//! global-norm clipping (Pascanu et al. 2013) and averages of the weights: the numbers; the step is
//! [`DenoiserBackend::adamw`].

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use super::ema::{Ema, Profile, Snapshots};
use super::learning_rate::Decay;
use crate::ops::{AdamWState, AdamWStep, DenoiserBackend};

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
    /// The least the decay comes to, as a fraction of the greatest learning rate.
    #[serde(default)]
    pub floor: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Weight decay, decoupled, on every parameter.
    pub weight_decay: f64,
    /// Greatest norm of all gradients together.
    pub clip: f64,
    /// Parts a batch is computed in, one after the other, their gradients added: less memory, the same numbers but for
    /// their rounding.
    #[serde(default = "one_part")]
    pub accumulate: usize,
    /// The average of the weights that is used in the end.
    pub ema: Ema,
    /// Averages kept for other widths after training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshots: Option<Snapshots>,
}

fn one_part() -> usize {
    1
}

impl OptimizerConfig {
    /// The learning rate of step `step` of `steps`, counted from 0.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        let warm = ((step + 1) as f64 / self.warm_up.max(1) as f64).min(1.0);
        self.learning_rate * warm * self.decay.fraction(step, steps, self.warm_up, self.floor)
    }

    /// Whether the numbers make sense with batches of `batch`.
    ///
    /// # Errors
    /// The first number that does not, with what to do.
    pub fn check(&self, batch: usize) -> anyhow::Result<()> {
        let positive = [("learning_rate", self.learning_rate), ("clip", self.clip)];
        for (name, value) in positive {
            anyhow::ensure!(value > 0.0 && value.is_finite(), "optimizer.{name} = {value} must be greater than 0");
        }
        let fractions = [
            ("floor", self.floor),
            ("betas", self.betas[0]),
            ("betas", self.betas[1]),
            ("weight_decay", self.weight_decay),
        ];
        for (name, value) in fractions {
            anyhow::ensure!(
                (0.0..1.0).contains(&value),
                "optimizer.{name} = {value} must be at least 0 and less than 1"
            );
        }
        anyhow::ensure!(
            self.accumulate >= 1 && batch.is_multiple_of(self.accumulate),
            "a batch of {batch} cannot be computed in {} equal parts: make batch a multiple of optimizer.accumulate",
            self.accumulate
        );
        self.ema.check()?;
        self.snapshots.iter().try_for_each(Snapshots::check)
    }

    /// The numbers of step `step` of `steps`, counted from 0.
    pub fn numbers(&self, step: u64, steps: u64) -> AdamWStep {
        let keep = self.profiles().into_iter().map(|profile| profile.keep(step));
        AdamWStep {
            rate: self.rate(step, steps),
            betas: self.betas,
            corrections: self.betas.map(|beta| 1.0 / (1.0 - beta.powf((step + 1) as f64))),
            weight_decay: self.weight_decay,
            clip: self.clip,
            keep: std::iter::once(self.ema.keep(step)).chain(keep).collect(),
        }
    }

    /// The profiles of the averages kept beside the used one.
    pub(super) fn profiles(&self) -> Vec<Profile> {
        let widths = self.snapshots.iter().flat_map(|snapshots| &snapshots.sigma_rels);
        widths.map(|&width| Profile::new(width)).collect()
    }
}

/// Parameters and what the optimizer remembers of them.
#[derive(Debug, Clone)]
pub struct AdamW<B: DenoiserBackend> {
    /// The vectors: the first average is [`OptimizerConfig::ema`], the others are those of [`OptimizerConfig::snapshots`],
    /// one a relative width.
    pub vectors: AdamWState<B>,
    /// Steps done.
    pub step: u64,
}

impl<B: DenoiserBackend> AdamW<B> {
    /// Nothing done yet.
    pub fn new(parameters: Tensor<B, 1>, config: &OptimizerConfig) -> Self {
        let zeros = parameters.zeros_like();
        let averages = vec![parameters.clone(); 1 + config.profiles().len()];
        Self { vectors: AdamWState { first: zeros.clone(), second: zeros, averages, parameters }, step: 0 }
    }

    /// One step of `steps` along `gradient`, and the gradient's norm, `[1]`.
    pub fn update(self, gradient: Tensor<B, 1>, config: &OptimizerConfig, steps: u64) -> (Self, Tensor<B, 1>) {
        let (vectors, norm) = B::adamw(self.vectors, gradient, &config.numbers(self.step, steps));
        (Self { vectors, step: self.step + 1 }, norm)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use burn::backend::Flex;

    use super::*;

    /// Rises for 10 steps to 0.1, no weight decay, clipped to a norm of 1.
    pub(in super::super) fn config() -> OptimizerConfig {
        OptimizerConfig {
            learning_rate: 0.1,
            warm_up: 10,
            decay: Decay::Cosine,
            floor: 0.0,
            betas: [0.9, 0.99],
            weight_decay: 0.0,
            clip: 1.0,
            accumulate: 1,
            ema: Ema::Decay(0.5),
            snapshots: None,
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
        let config = config();
        let (moved, norm) = AdamW::new(start, &config).update(gradient, &config, 1000);
        let moved = moved.vectors.parameters.into_data().to_vec::<f32>().unwrap();
        assert!((moved[0] - 0.99).abs() < 1e-5 && (moved[1] + 1.99).abs() < 1e-5, "{moved:?}");
        let norm: f32 = norm.into_scalar();
        assert!((norm / 90_000.16f32.sqrt() - 1.0).abs() < 1e-6, "{norm}");
    }

    #[test]
    fn numbers_that_make_no_sense_are_named() {
        type Spoil = fn(&mut OptimizerConfig);
        let broken: [(&str, Spoil); 5] = [
            ("optimizer.learning_rate", |config| config.learning_rate = f64::NAN),
            ("optimizer.floor", |config| config.floor = 1.5),
            ("optimizer.betas", |config| config.betas[1] = 1.0),
            ("optimizer.accumulate", |config| config.accumulate = 3),
            ("snapshots.sigma_rels", |config| config.snapshots = Some(Snapshots { every: 1, sigma_rels: vec![] })),
        ];
        config().check(16).unwrap();
        for (name, spoil) in broken {
            let mut config = config();
            spoil(&mut config);
            assert!(config.check(16).unwrap_err().to_string().contains(name), "{name}");
        }
    }
}
