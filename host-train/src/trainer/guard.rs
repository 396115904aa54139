//! Training that cannot go on: what is not finite, and a loss that grows without bound.

use std::collections::VecDeque;

/// Losses that are averaged before they are compared.
const WINDOW: usize = 100;

/// Why a step could not be done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Divergence {
    /// The data is not finite, so the loss is not either.
    #[error("the loss of step {step} is not finite because the data is not: {fault}; mend or remove it")]
    Data {
        /// The step, counted from 0.
        step: u64,
        /// Which example, and its value.
        fault: String,
    },
    /// The data is finite, the loss is not.
    #[error(
        "the loss of step {step} is {loss} at a learning rate of {rate:.3e}, though its data is finite; lower train.optimizer.learning_rate"
    )]
    Loss {
        /// The step, counted from 0.
        step: u64,
        /// The loss.
        loss: f32,
        /// The step's learning rate.
        rate: f64,
    },
    /// The loss is finite, a gradient is not.
    #[error(
        "the gradient of {tensor} is not finite in step {step} (loss {loss}, learning rate {rate:.3e}); lower train.optimizer.learning_rate or use f32"
    )]
    Gradient {
        /// The step, counted from 0.
        step: u64,
        /// The first parameter whose gradient is not finite.
        tensor: String,
        /// The loss.
        loss: f32,
        /// The step's learning rate.
        rate: f64,
    },
    /// The step's result is not finite.
    #[error("{tensor} is not finite after step {step} (learning rate {rate:.3e}); lower train.optimizer.learning_rate")]
    Weights {
        /// The step, counted from 0.
        step: u64,
        /// The first parameter that is not finite.
        tensor: String,
        /// The step's learning rate.
        rate: f64,
    },
    /// The loss has grown away from its least.
    #[error(
        "the mean loss of {WINDOW} steps has grown from {least:.4} to {mean:.4}, more than watch.explosion = {limit} times, by step {step} (learning rate {rate:.3e}); lower train.optimizer.learning_rate or train.optimizer.clip"
    )]
    Exploded {
        /// The step, counted from 0.
        step: u64,
        /// The mean of the last losses.
        mean: f64,
        /// The least such mean.
        least: f64,
        /// What was allowed.
        limit: f64,
        /// The step's learning rate.
        rate: f64,
    },
}

/// The running mean of the loss against its least value so far.
#[derive(Debug, Clone)]
pub(super) struct Explosion {
    limit: f64,
    recent: VecDeque<f32>,
    least: f64,
}

impl Explosion {
    /// `limit` is how many times the mean may exceed its least; 0 is any number.
    pub(super) fn new(limit: f64) -> Self {
        Self { limit, recent: VecDeque::with_capacity(WINDOW), least: f64::INFINITY }
    }

    /// Hears a loss; the mean and its least where it has exploded.
    pub(super) fn hear(&mut self, loss: f32) -> Option<(f64, f64)> {
        if self.recent.len() == WINDOW {
            self.recent.pop_front();
        }
        self.recent.push_back(loss);
        if self.recent.len() < WINDOW {
            return None;
        }
        let mean = self.recent.iter().map(|&loss| f64::from(loss)).sum::<f64>() / WINDOW as f64;
        self.least = self.least.min(mean);
        (self.limit > 0.0 && self.least > 0.0 && mean > self.limit * self.least).then_some((mean, self.least))
    }
}

/// The name of the tensor that element `at` of all parameters belongs to; `names` are names and lengths.
pub(super) fn tensor_at(names: &[(String, usize)], at: usize) -> &str {
    let mut end = 0;
    let holds = |(_, len): &&(String, usize)| {
        end += len;
        at < end
    };
    names.iter().find(holds).map_or("?", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_that_leaves_its_least_behind_is_found() {
        let mut explosion = Explosion::new(10.0);
        assert!((0..300).all(|step| explosion.hear(1.0 / (1.0 + step as f32 / 100.0)).is_none()));
        let found = (0..100).find_map(|step| explosion.hear(20.0).map(|found| (step, found)));
        let (step, (mean, least)) = found.unwrap();
        assert!(mean > 10.0 * least && step < 30, "{step} {mean} {least}");
    }

    #[test]
    fn noise_and_a_bad_start_are_no_explosion() {
        let mut explosion = Explosion::new(10.0);
        assert!((0..50).all(|_| explosion.hear(1e9).is_none()));
        assert!((0..1000).all(|step| explosion.hear(if step % 10 == 0 { 3.0 } else { 0.3 }).is_none()));
        let mut off = Explosion::new(0.0);
        assert!((0..300).all(|step| off.hear((step as f32).exp()).is_none()));
    }

    #[test]
    fn an_element_is_named_by_its_tensor() {
        let names = [("conv_in.weight".to_owned(), 6), ("conv_in.bias".to_owned(), 2)];
        assert_eq!(
            [0, 5, 6, 7, 8].map(|at| tensor_at(&names, at)),
            ["conv_in.weight", "conv_in.weight", "conv_in.bias", "conv_in.bias", "?"]
        );
    }
}
