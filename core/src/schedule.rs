//! The forward process: noise schedules and the quantities that follow from them, in f64.
//!
//! | symbol in the paper | name here | unit |
//! |---|---|---|
//! | T | number of timesteps, the length of the slices | |
//! | beta_t | `betas[timestep]` | variance added by one step |
//! | alpha-bar_t | `alpha_bars[timestep]`, the product of `1 - beta` up to and with it | squared signal |
//! | sqrt(alpha-bar_t) | [`signal`] | amplitude of the data in `x_t` |
//! | sqrt(1 - alpha-bar_t) | [`noise`] | amplitude of the noise in `x_t` |
//! | beta-tilde_t | [`posterior_variance`] | |
//!
//! Timesteps are indices `0..T`: index 0 is the paper's `t = 1`, the first, smallest noising. Equation numbers are those of
//! Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models*, 2020.

use libm::{cos, exp, log, sqrt, tanh};

use crate::message::messages;

/// Variance of each forward step.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Schedule<'a> {
    /// The same variance at every step.
    Constant {
        /// The variance, in (0, 1).
        beta: f64,
    },
    /// From `start` to `end` in equal steps (Ho et al., section 4: 1e-4 to 0.02 over 1000).
    Linear {
        /// First variance, in (0, 1).
        start: f64,
        /// Last variance, in (0, 1).
        end: f64,
    },
    /// `alpha-bar` falls as a squared cosine (Nichol, Dhariwal, *Improved DDPM*, 2021, equation 17; `offset` is its `s`,
    /// 0.008 there). Betas are cut at 0.999.
    Cosine {
        /// Keeps the first variances from vanishing; at least 0.
        offset: f64,
    },
    /// From `start` to `end` along a logistic curve over -6..=6.
    Sigmoid {
        /// The curve's lower end, in (0, 1).
        start: f64,
        /// The curve's upper end, in (0, 1).
        end: f64,
    },
    /// From `start` to `end` along a hyperbolic tangent over -3..=3.
    Tanh {
        /// The curve's lower end, in (0, 1).
        start: f64,
        /// The curve's upper end, in (0, 1).
        end: f64,
    },
    /// Given variances, each in (0, 1), as many as there are timesteps.
    Custom(&'a [f64]),
}

/// Why a schedule cannot be made.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScheduleError {
    /// No timesteps.
    Empty,
    /// A custom schedule of another length.
    Length {
        /// Variances given.
        given: usize,
        /// Timesteps asked for.
        timesteps: usize,
    },
    /// A variance outside (0, 1), or one that is not a number.
    Beta {
        /// Where.
        timestep: usize,
        /// What.
        beta: f64,
    },
}

messages! { ScheduleError {
    ScheduleError::Empty => "a schedule needs at least one timestep";
    ScheduleError::Length { given, timesteps } => "{} variances for {} timesteps: give one a timestep", given, timesteps;
    ScheduleError::Beta { timestep, beta } =>
        "the variance at timestep {} is {}; it must lie between 0 and 1", timestep, beta;
} }

/// Largest variance of the cosine schedule.
const COSINE_LIMIT: f64 = 0.999;

impl Schedule<'_> {
    /// Fills `betas`, whose length is the number of timesteps.
    ///
    /// # Errors
    /// [`ScheduleError`] if there are no timesteps or a variance is not in (0, 1).
    pub fn fill_betas(&self, betas: &mut [f64]) -> Result<(), ScheduleError> {
        let timesteps = betas.len();
        if timesteps == 0 {
            return Err(ScheduleError::Empty);
        }
        if let Schedule::Custom(given) = self
            && given.len() != timesteps
        {
            return Err(ScheduleError::Length { given: given.len(), timesteps });
        }
        for (timestep, slot) in betas.iter_mut().enumerate() {
            let beta = self.beta(timestep, timesteps);
            if !(beta > 0.0 && beta < 1.0) {
                return Err(ScheduleError::Beta { timestep, beta });
            }
            *slot = beta;
        }
        Ok(())
    }

    fn beta(&self, timestep: usize, timesteps: usize) -> f64 {
        let ramp = if timesteps == 1 { 0.0 } else { timestep as f64 / (timesteps - 1) as f64 };
        let between = |start: f64, end: f64, fraction: f64| start + (end - start) * fraction;
        match *self {
            Schedule::Constant { beta } => beta,
            Schedule::Linear { start, end } => between(start, end, ramp),
            Schedule::Cosine { offset } => {
                let angle = |step: usize| {
                    (step as f64 / timesteps as f64 + offset) / (1.0 + offset) * core::f64::consts::FRAC_PI_2
                };
                let squared = |step: usize| cos(angle(step)) * cos(angle(step));
                (1.0 - squared(timestep + 1) / squared(timestep)).min(COSINE_LIMIT)
            }
            Schedule::Sigmoid { start, end } => between(start, end, 1.0 / (1.0 + exp(6.0 - 12.0 * ramp))),
            Schedule::Tanh { start, end } => between(start, end, 0.5 * (1.0 + tanh(6.0 * ramp - 3.0))),
            Schedule::Custom(betas) => betas[timestep],
        }
    }
}

/// Fills `alpha_bars` with the running products of `1 - beta`. Lengths must agree; the shorter decides.
pub fn fill_alpha_bars(betas: &[f64], alpha_bars: &mut [f64]) {
    let mut product = 1.0;
    for (alpha_bar, beta) in alpha_bars.iter_mut().zip(betas) {
        product *= 1.0 - beta;
        *alpha_bar = product;
    }
}

/// Shifts and scales the amplitudes of the data so that the last is zero and the first stays: the process then ends in pure
/// noise (Lin, Liu, Li, Yang, *Common Diffusion Noise Schedules and Sample Steps are Flawed*, 2024, algorithm 1).
///
/// At the last timestep only objectives that need no division by the signal can be used: `X0`, `V`, `Velocity`.
pub fn rescale_to_zero_snr(alpha_bars: &mut [f64]) {
    let (Some(&first), Some(&last)) = (alpha_bars.first(), alpha_bars.last()) else { return };
    let (first, last) = (signal(first), signal(last));
    if first <= last {
        return;
    }
    for alpha_bar in alpha_bars {
        let amplitude = (signal(*alpha_bar) - last) * first / (first - last);
        *alpha_bar = amplitude * amplitude;
    }
}

/// Amplitude of the data at `alpha_bar`: `q(x_t | x_0) = N(signal x_0, noise^2)` (equation 4).
pub fn signal(alpha_bar: f64) -> f64 {
    sqrt(alpha_bar)
}

/// Amplitude of the noise at `alpha_bar` (equation 4).
pub fn noise(alpha_bar: f64) -> f64 {
    sqrt(1.0 - alpha_bar)
}

/// Signal-to-noise ratio of variances.
pub fn snr(alpha_bar: f64) -> f64 {
    alpha_bar / (1.0 - alpha_bar)
}

/// Natural logarithm of [`snr`].
pub fn log_snr(alpha_bar: f64) -> f64 {
    log(snr(alpha_bar))
}

/// Squared amplitude of the data at a logarithm of the signal-to-noise ratio: the inverse of [`log_snr`].
pub fn alpha_bar_of_log_snr(log_snr: f64) -> f64 {
    1.0 / (1.0 + exp(-log_snr))
}

/// [`log_snr`] at a timestep in continuous time, `0.0..=T - 1.0`: on straight lines between the timesteps, which keep their
/// own. The process is decided by how this falls with time (Kingma, Salimans, Poole, Ho, *Variational Diffusion Models*,
/// 2021, section 3.1).
///
/// Times outside are taken for the nearer end. `alpha_bars` must not be empty, and its last must not be zero.
pub fn log_snr_at(alpha_bars: &[f64], timestep: f64) -> f64 {
    let [before, after, share] = around(alpha_bars, timestep);
    before + share * (after - before)
}

/// By how much [`log_snr_at`] falls per timestep at `timestep`; at a whole one, from there to the next.
pub fn log_snr_fall(alpha_bars: &[f64], timestep: f64) -> f64 {
    let [before, after, _] = around(alpha_bars, timestep);
    before - after
}

/// The logarithms at the two timesteps around `timestep`, and the share of the way to the second.
fn around(alpha_bars: &[f64], timestep: f64) -> [f64; 3] {
    let last = alpha_bars.len() - 1;
    let timestep = timestep.clamp(0.0, last as f64);
    let index = (timestep as usize).min(last.saturating_sub(1));
    [log_snr(alpha_bars[index]), log_snr(alpha_bars[(index + 1).min(last)]), timestep - index as f64]
}

/// The timestep in continuous time where [`log_snr_at`] is `log_snr`; an end where it is nowhere.
pub fn timestep_of_log_snr(alpha_bars: &[f64], wanted: f64) -> f64 {
    let index = alpha_bars.partition_point(|&alpha_bar| log_snr(alpha_bar) > wanted);
    if index == 0 || index == alpha_bars.len() {
        return index.saturating_sub(1) as f64;
    }
    let [before, after] = [log_snr(alpha_bars[index - 1]), log_snr(alpha_bars[index])];
    (index - 1) as f64 + (before - wanted) / (before - after)
}

/// Variance of one jump of the forward process from `alpha_bar_prev` to the noisier `alpha_bar`; for neighbors, beta.
pub fn jump_variance(alpha_bar: f64, alpha_bar_prev: f64) -> f64 {
    1.0 - alpha_bar / alpha_bar_prev
}

/// One forward jump (equation 2): `x_t = sqrt(1 - beta) x_prev + sqrt(beta) z`. Returns the two factors.
pub fn jump(alpha_bar: f64, alpha_bar_prev: f64) -> [f64; 2] {
    let beta = jump_variance(alpha_bar, alpha_bar_prev);
    [sqrt(1.0 - beta), sqrt(beta)]
}

/// Factors of `x_0` and `x_t` in the mean of `q(x_prev | x_t, x_0)` (equation 7).
pub fn posterior_mean(alpha_bar: f64, alpha_bar_prev: f64) -> [f64; 2] {
    let beta = jump_variance(alpha_bar, alpha_bar_prev);
    [sqrt(alpha_bar_prev) * beta / (1.0 - alpha_bar), sqrt(1.0 - beta) * (1.0 - alpha_bar_prev) / (1.0 - alpha_bar)]
}

/// Variance of `q(x_prev | x_t, x_0)` (equation 7).
pub fn posterior_variance(alpha_bar: f64, alpha_bar_prev: f64) -> f64 {
    jump_variance(alpha_bar, alpha_bar_prev) * (1.0 - alpha_bar_prev) / (1.0 - alpha_bar)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: [Schedule<'static>; 6] = [
        Schedule::Constant { beta: 0.01 },
        Schedule::Linear { start: 1e-4, end: 0.02 },
        Schedule::Cosine { offset: 0.008 },
        Schedule::Sigmoid { start: 1e-4, end: 0.02 },
        Schedule::Tanh { start: 1e-4, end: 0.02 },
        Schedule::Custom(&[0.1; 500]),
    ];

    #[test]
    fn every_schedule_only_ever_adds_noise() {
        for schedule in EVERY {
            let (mut betas, mut alpha_bars) = ([0.0; 500], [0.0; 500]);
            schedule.fill_betas(&mut betas).unwrap();
            fill_alpha_bars(&betas, &mut alpha_bars);
            assert!(alpha_bars.is_sorted_by(|a, b| a > b), "{schedule:?}");
            assert!(alpha_bars[0] < 1.0 && alpha_bars[499] > 0.0, "{schedule:?}");
        }
    }

    #[test]
    fn curves_have_the_stated_ends_and_middle() {
        let mut betas = [0.0; 1001];
        Schedule::Linear { start: 0.1, end: 0.3 }.fill_betas(&mut betas).unwrap();
        assert_eq!([betas[0], betas[1000]], [0.1, 0.3]);
        for schedule in [Schedule::Sigmoid { start: 0.1, end: 0.3 }, Schedule::Tanh { start: 0.1, end: 0.3 }] {
            schedule.fill_betas(&mut betas).unwrap();
            assert!((betas[500] - 0.2).abs() < 1e-12, "{schedule:?}");
            assert!((betas[0] - 0.1).abs() < 2e-3 && (betas[1000] - 0.3).abs() < 2e-3, "{schedule:?}");
        }
    }

    /// The cosine schedule's products telescope to the cosine itself.
    #[test]
    fn cosine_products_follow_the_cosine() {
        let (mut betas, mut alpha_bars) = ([0.0; 1000], [0.0; 1000]);
        Schedule::Cosine { offset: 0.008 }.fill_betas(&mut betas).unwrap();
        fill_alpha_bars(&betas, &mut alpha_bars);
        let curve = |u: f64| {
            let c = libm::cos((u + 0.008) / 1.008 * core::f64::consts::FRAC_PI_2);
            c * c
        };
        for (timestep, alpha_bar) in alpha_bars.iter().enumerate().take(990) {
            let expected = curve((timestep + 1) as f64 / 1000.0) / curve(0.0);
            assert!((alpha_bar - expected).abs() < 1e-12, "{timestep}");
        }
    }

    /// Marginalizing the posterior over `q(x_t | x_0)` must give back `q(x_prev | x_0)`.
    #[test]
    fn posterior_is_consistent_with_the_marginals() {
        for (now, before) in [(0.5, 0.6), (0.01, 0.9), (0.98, 0.999), (1e-5, 1e-3)] {
            let [of_x0, of_xt] = posterior_mean(now, before);
            assert!((of_x0 + of_xt * signal(now) - signal(before)).abs() < 1e-12);
            let variance = posterior_variance(now, before) + of_xt * of_xt * (1.0 - now);
            assert!((variance - (1.0 - before)).abs() < 1e-12);
        }
    }

    #[test]
    fn jumps_compose() {
        let [first, first_noise] = jump(0.6, 0.9);
        let [second, second_noise] = jump(0.2, 0.6);
        let [whole, whole_noise] = jump(0.2, 0.9);
        assert!((first * second - whole).abs() < 1e-12);
        let variance = first_noise * first_noise * second * second + second_noise * second_noise;
        assert!((variance - whole_noise * whole_noise).abs() < 1e-12);
    }

    #[test]
    fn log_snr_is_zero_at_equal_amplitudes() {
        assert_eq!(log_snr(0.5), 0.0);
    }

    #[test]
    fn continuous_time_meets_the_timesteps_and_inverts() {
        for schedule in EVERY {
            let (mut betas, mut alpha_bars) = ([0.0; 500], [0.0; 500]);
            schedule.fill_betas(&mut betas).unwrap();
            fill_alpha_bars(&betas, &mut alpha_bars);
            for timestep in [0, 1, 250, 499] {
                let found = alpha_bar_of_log_snr(log_snr_at(&alpha_bars, timestep as f64));
                assert!((found / alpha_bars[timestep] - 1.0).abs() < 1e-12, "{schedule:?} {timestep}");
            }
            for timestep in [0.0, 0.25, 77.7, 498.5, 499.0] {
                let found = timestep_of_log_snr(&alpha_bars, log_snr_at(&alpha_bars, timestep));
                assert!((found - timestep).abs() < 1e-9, "{schedule:?}: {found}, not {timestep}");
            }
            let middle = 0.5 * (log_snr(alpha_bars[77]) + log_snr(alpha_bars[78]));
            assert!((log_snr_at(&alpha_bars, 77.5) - middle).abs() < 1e-12);
            let fall = log_snr(alpha_bars[77]) - log_snr(alpha_bars[78]);
            assert!((log_snr_fall(&alpha_bars, 77.5) - fall).abs() < 1e-12);
            assert_eq!([timestep_of_log_snr(&alpha_bars, 1e3), timestep_of_log_snr(&alpha_bars, -1e3)], [0.0, 499.0]);
        }
        assert_eq!(log_snr_at(&[0.5], 3.0), 0.0);
    }

    #[test]
    fn rescaling_ends_in_pure_noise_and_keeps_the_first_step() {
        for schedule in EVERY {
            let (mut betas, mut alpha_bars) = ([0.0; 500], [0.0; 500]);
            schedule.fill_betas(&mut betas).unwrap();
            fill_alpha_bars(&betas, &mut alpha_bars);
            let first = alpha_bars[0];
            rescale_to_zero_snr(&mut alpha_bars);
            assert!((alpha_bars[0] - first).abs() < 1e-15 && alpha_bars[499] == 0.0, "{schedule:?}");
            assert!(alpha_bars.is_sorted_by(|a, b| a > b), "{schedule:?}");
        }
        let mut one = [0.3];
        rescale_to_zero_snr(&mut one);
        assert_eq!(one, [0.3]);
    }

    #[test]
    fn bad_schedules_are_named() {
        assert_eq!(Schedule::Constant { beta: 0.1 }.fill_betas(&mut []), Err(ScheduleError::Empty));
        let short = Schedule::Custom(&[0.1]).fill_betas(&mut [0.0; 2]);
        assert_eq!(short, Err(ScheduleError::Length { given: 1, timesteps: 2 }));
        let high = Schedule::Linear { start: 0.5, end: 1.0 }.fill_betas(&mut [0.0; 3]);
        assert_eq!(high, Err(ScheduleError::Beta { timestep: 2, beta: 1.0 }));
        assert!(Schedule::Constant { beta: f64::NAN }.fill_betas(&mut [0.0; 3]).is_err());
    }
}
