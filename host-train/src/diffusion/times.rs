//! At which times a training step looks.

use mote_core::noise::normal_q12;
use mote_core::quant::STATE_ONE;
use mote_core::schedule::timestep_of_log_snr;
use serde::{Deserialize, Serialize};

use super::{Diffusion, Time};

/// How the times of a batch are drawn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum TimeSampling {
    /// Every time alike.
    #[default]
    Uniform,
    /// `ln(noise / signal)` normal, taken to the nearest time (Karras et al., *EDM*, 2022, table 1: mean -1.2, deviation 1.2).
    Lognormal {
        /// Of the logarithm.
        mean: f64,
        /// Of the logarithm; positive.
        std: f64,
    },
    /// As often as the weighting is large, and weighted less for it: the same expectation with less variance where the
    /// weights differ much, as the variational bound's do (importance sampling; Nichol, Dhariwal 2021, section 3.3, with the
    /// weights in place of a history of losses, so that a step depends on nothing but its number).
    Weighted,
}

/// Times of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Times {
    /// One a sample, in `0.0..=timesteps - 1.0`; whole in discrete time.
    pub times: Vec<f64>,
    /// What makes up for how often each was drawn: factors of the loss. 1 where that is meant to matter.
    pub importance: Vec<f64>,
}

impl TimeSampling {
    /// The times for uniform variates in [0, 1), one a sample. `weights` are those of all timesteps.
    pub fn draw(self, diffusion: &Diffusion, weights: &[f32], uniform: &[f64]) -> Times {
        let last = diffusion.timesteps() - 1;
        let each = |time: &dyn Fn(f64) -> f64| Times {
            times: uniform.iter().map(|&u| time(u)).collect(),
            importance: vec![1.0; uniform.len()],
        };
        match (self, diffusion.time) {
            (Self::Uniform, Time::Discrete) => {
                each(&|u| (((u * diffusion.timesteps() as f64) as usize).min(last)) as f64)
            }
            (Self::Uniform, Time::Continuous) => each(&|u| u * last as f64),
            (Self::Lognormal { mean, std }, time) => each(&|u| {
                let z = f64::from(normal_q12((u * 4_294_967_296.0) as u32)) / f64::from(STATE_ONE);
                let found = timestep_of_log_snr(&diffusion.alpha_bars, -2.0 * (mean + std * z));
                if time == Time::Discrete { found.round() } else { found }
            }),
            (Self::Weighted, time) => weighted(time, weights, uniform),
        }
    }

    /// # Errors
    /// The number that makes no sense.
    pub fn check(self) -> Result<(), String> {
        match self {
            Self::Lognormal { mean, std } if !(mean.is_finite() && std > 0.0 && std.is_finite()) => {
                Err(format!("train.timesteps: mean {mean} and std {std}; both must be numbers, std positive"))
            }
            _ => Ok(()),
        }
    }
}

/// In continuous time a timestep's share is spread evenly up to the next, the last one's at the end.
fn weighted(time: Time, weights: &[f32], uniform: &[f64]) -> Times {
    let shares: Vec<f64> = weights.iter().map(|&weight| f64::from(weight)).collect();
    let total: f64 = shares.iter().sum();
    let ends: Vec<f64> = shares
        .iter()
        .scan(0.0, |sum, share| {
            *sum += share / total;
            Some(*sum)
        })
        .collect();
    let last = weights.len() - 1;
    // Rounding may leave the sum below 1; a timestep without a share is never drawn.
    let last_drawn = shares.iter().rposition(|&share| share > 0.0).unwrap_or(last);
    let (mut times, mut importance) = (Vec::new(), Vec::new());
    for &u in uniform {
        let index = ends.partition_point(|&end| end <= u).min(last_drawn);
        let share = shares[index] / total;
        let within = ((u - (ends[index] - share)) / share).clamp(0.0, 1.0);
        times.push(match time {
            Time::Discrete => index as f64,
            Time::Continuous => (index as f64 + within).min(last as f64),
        });
        importance.push(1.0 / (share * weights.len() as f64));
    }
    Times { times, importance }
}

#[cfg(test)]
mod tests {
    use super::super::{DiffusionConfig, Objective, ScheduleConfig, Weighting};
    use super::*;

    fn diffusion(time: Time) -> Diffusion {
        let config = DiffusionConfig::new(Objective::Epsilon, 200, ScheduleConfig::Cosine { offset: 0.008 });
        DiffusionConfig { time, ..config }.build().unwrap()
    }

    fn spread() -> Vec<f64> {
        (0..20_000).map(|i| (f64::from(i) + 0.5) / 20_000.0).collect()
    }

    #[test]
    fn uniform_times_come_alike() {
        let Times { times, .. } = TimeSampling::Uniform.draw(&diffusion(Time::Discrete), &[1.0; 200], &spread());
        assert!((0..200).all(|timestep| times.iter().filter(|&&time| time == f64::from(timestep)).count() == 100));
        let Times { times, .. } = TimeSampling::Uniform.draw(&diffusion(Time::Continuous), &[1.0; 200], &spread());
        let mean = times.iter().sum::<f64>() / 20_000.0;
        assert!((mean - 99.5).abs() < 1e-9 && times.iter().all(|time| (0.0..=199.0).contains(time)));
    }

    #[test]
    fn lognormal_times_have_the_stated_moments() {
        let diffusion = diffusion(Time::Continuous);
        let sampling = TimeSampling::Lognormal { mean: -1.2, std: 0.5 };
        let Times { times, .. } = sampling.draw(&diffusion, &[1.0; 200], &spread());
        let logs: Vec<f64> = times
            .iter()
            .map(|&time| {
                let alpha_bar = diffusion.alpha_bar(time);
                0.5 * ((1.0 - alpha_bar) / alpha_bar).ln()
            })
            .collect();
        let mean = logs.iter().sum::<f64>() / 20_000.0;
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / 20_000.0;
        assert!((mean + 1.2).abs() < 1e-3 && (variance.sqrt() - 0.5).abs() < 1e-3, "{mean} {variance}");
        assert!(TimeSampling::Lognormal { mean: 0.0, std: 0.0 }.check().unwrap_err().contains("std 0"));
    }

    #[test]
    fn a_timestep_without_weight_is_never_drawn() {
        let weights = [[0.0, 1.0, 3.0], [1.0, 3.0, 0.0]].map(|[a, b, c]| {
            let Times { times, importance } = weighted(Time::Discrete, &[a, b, c], &[0.0, 0.2, 0.5, 0.999_999_999_999]);
            assert!(importance.iter().all(|factor| factor.is_finite()), "{importance:?}");
            times
        });
        assert_eq!(weights, [[1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]]);
    }

    /// The expectation of weight times importance times anything is that of the weighted loss at uniform times.
    #[test]
    fn weighted_times_do_not_move_the_expectation() {
        let anything = |time: f64| (time / 40.0).sin() + 2.0;
        for time in [Time::Discrete, Time::Continuous] {
            let diffusion = diffusion(time);
            let all: Vec<usize> = (0..200).collect();
            let weights = diffusion.weights(Weighting::MinSnr { gamma: 5.0 }, &all);
            let mean = |sampling: TimeSampling| {
                let Times { times, importance } = sampling.draw(&diffusion, &weights, &spread());
                let value = |(&time, importance): (&f64, &f64)| {
                    importance * diffusion.weight(Weighting::MinSnr { gamma: 5.0 }, time) * anything(time)
                };
                times.iter().zip(&importance).map(value).sum::<f64>() / 20_000.0
            };
            let (uniform, weighted) = (mean(TimeSampling::Uniform), mean(TimeSampling::Weighted));
            // In continuous time the last timestep's share stands at a point.
            let bound = if time == Time::Discrete { 2e-3 } else { 2e-2 };
            assert!((weighted / uniform - 1.0).abs() < bound, "{time:?}: {weighted} not {uniform}");
        }
    }
}
