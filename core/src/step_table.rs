//! A sampler is a table: one row a network pass.
//!
//! With `f` the network's output at the row's timestep and `z` fresh noise,
//! `x0 = clamp(p x + q f)`, then `x <- a x + b x0 + b_prev x0_prev + c z`. Rows are computed here in f64, stored in Q20 and
//! run by [`crate::Generator`]; a float sampler applies the same rows to floats.
//!
//! With `eps = (x - signal x0) / noise`, going from `alpha_bar` to the cleaner `alpha_bar_next` is
//! `x_next = signal_next x0 + direction eps + sigma z` with `direction^2 + sigma^2 = noise_next^2` (Song, Meng, Ermon,
//! *Denoising Diffusion Implicit Models*, 2021, equation 12).
//!
//! ```
//! use mote_core::schedule::{Schedule, fill_alpha_bars};
//! use mote_core::step_table::{Level, Method, Objective, Spacing, StepRow, Variance};
//!
//! // DDIM with four of a thousand timesteps.
//! let (mut betas, mut alpha_bars) = ([0.0; 1000], [0.0; 1000]);
//! Schedule::Cosine { offset: 0.008 }.fill_betas(&mut betas)?;
//! fill_alpha_bars(&betas, &mut alpha_bars);
//! let (mut levels, mut table) = ([Level::default(); 4], [StepRow::default(); 4]);
//! Spacing::Trailing.fill(&alpha_bars, &mut levels);
//! Method::Direct(Variance::Eta(0.0)).fill(Objective::V, &levels, &mut table);
//! assert_eq!(table.map(|row| row.timestep), [999, 749, 499, 249]);
//!
//! // As a file has them: the last row ends at the data.
//! let last = table[3].quantize()?;
//! assert_eq!([last.a, last.b, last.c], [0, 1 << 20, 0]);
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```

mod method;

use crate::message::messages;
use crate::model::Row;
use crate::quant::COEFFICIENT_BITS;
use crate::schedule::{jump_variance, noise, posterior_variance, signal};
use libm::{floor, sqrt};

pub use method::{Level, Method, Spacing};

/// What the network's output means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Objective {
    /// The noise in `x` (Ho et al. 2020).
    Epsilon,
    /// The data.
    X0,
    /// `signal eps - noise x0` (Salimans, Ho, *Progressive Distillation*, 2022, appendix D).
    V,
    /// `-eps / noise`, the gradient of the log-density of `x` (Song et al., *Score-Based Generative Modeling*, 2021).
    Score,
    /// `eps - x0`, the velocity of the straight path from data to noise (Liu, Gong, Liu, *Flow Straight and Fast*, 2023);
    /// the state on that path is `x / (signal + noise)`.
    Velocity,
}

impl Objective {
    /// `p` and `q` of `x0 = p x + q f`.
    pub fn x0_factors(self, alpha_bar: f64) -> [f64; 2] {
        let (signal, noise) = (signal(alpha_bar), noise(alpha_bar));
        match self {
            Objective::Epsilon => [1.0 / signal, -noise / signal],
            Objective::X0 => [0.0, 1.0],
            Objective::V => [signal, -noise],
            Objective::Score => [1.0 / signal, noise * noise / signal],
            Objective::Velocity => [1.0 / (signal + noise), -noise / (signal + noise)],
        }
    }

    /// Factors of `x0` and `eps` in the output that the network should give.
    pub fn target_factors(self, alpha_bar: f64) -> [f64; 2] {
        match self {
            Objective::Epsilon => [0.0, 1.0],
            Objective::X0 => [1.0, 0.0],
            Objective::V => [-noise(alpha_bar), signal(alpha_bar)],
            Objective::Score => [0.0, -1.0 / noise(alpha_bar)],
            Objective::Velocity => [-1.0, 1.0],
        }
    }

    /// Factors of `x` and of this objective's output in the output that a network of objective `other` would give: the exact
    /// conversion between both.
    pub fn convert_factors(self, other: Objective, alpha_bar: f64) -> [f64; 2] {
        let [p, q] = self.x0_factors(alpha_bar);
        let [of_x0, of_eps] = other.target_factors(alpha_bar);
        // eps = (x - signal x0) / noise
        let of_x0 = of_x0 - of_eps * signal(alpha_bar) / noise(alpha_bar);
        [of_x0 * p + of_eps / noise(alpha_bar), of_x0 * q]
    }
}

/// How much fresh noise a reverse step adds.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Variance {
    /// DDIM: `eta` times the posterior's standard deviation; 0 is deterministic, 1 is ancestral sampling.
    Eta(f64),
    /// DDPM with the posterior's variance: the smaller of Ho et al.'s two choices (section 3.2), `Eta(1.0)`.
    Posterior,
    /// DDPM with the forward variance beta around the posterior's mean: the larger choice.
    Beta,
}

/// One row in f64.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct StepRow {
    /// The state's factor in `x0`.
    pub p: f64,
    /// The output's factor in `x0`.
    pub q: f64,
    /// The state's factor in the next state.
    pub a: f64,
    /// The factor of `x0`.
    pub b: f64,
    /// The factor of the previous row's `x0`.
    pub b_prev: f64,
    /// The factor of fresh noise.
    pub c: f64,
    /// The data's amplitude in the state that this row expects.
    pub signal: f64,
    /// The noise's amplitude in the state that this row expects.
    pub noise: f64,
    /// The timestep that the network is conditioned on.
    pub timestep: u32,
}

/// A coefficient that Q20 in an `i32` cannot hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CoefficientError {
    /// The value; it must lie in [-2048, 2048).
    pub value: f64,
    /// The row's timestep.
    pub timestep: u32,
}

messages! { CoefficientError {
    CoefficientError { value, timestep } =>
        "a step at timestep {} needs the coefficient {}, outside -2048 to 2048: start at a less noisy timestep or use v",
        timestep, value;
} }

impl StepRow {
    /// The reverse step from `alpha_bar` (that of `timestep`) to `alpha_bar_next`; 1 ends at the data.
    pub fn new(objective: Objective, variance: Variance, timestep: u32, alpha_bar: f64, alpha_bar_next: f64) -> Self {
        let [p, q] = objective.x0_factors(alpha_bar);
        let posterior = sqrt(posterior_variance(alpha_bar, alpha_bar_next));
        let (sigma, c) = match variance {
            Variance::Eta(eta) => (eta * posterior, eta * posterior),
            Variance::Posterior => (posterior, posterior),
            // The last step has nothing left to add noise to: its posterior variance is zero.
            Variance::Beta if posterior == 0.0 => (0.0, 0.0),
            Variance::Beta => (posterior, sqrt(jump_variance(alpha_bar, alpha_bar_next))),
        };
        let direction = sqrt((1.0 - alpha_bar_next - sigma * sigma).max(0.0));
        let a = direction / noise(alpha_bar);
        StepRow {
            p,
            q,
            a,
            b: signal(alpha_bar_next) - a * signal(alpha_bar),
            b_prev: 0.0,
            c,
            signal: signal(alpha_bar),
            noise: noise(alpha_bar),
            timestep,
        }
    }

    /// `noise / signal`, the noise level that this row expects (Karras et al., *EDM*, 2022).
    pub fn sigma(&self) -> f64 {
        self.noise / self.signal
    }

    /// The row in Q20.
    ///
    /// # Errors
    /// [`CoefficientError`] if a coefficient does not fit.
    pub fn quantize(&self) -> Result<Row, CoefficientError> {
        let fixed = |value: f64| {
            let scaled = floor(value * (1u64 << COEFFICIENT_BITS) as f64 + 0.5);
            if scaled >= i32::MIN as f64 && scaled <= i32::MAX as f64 {
                Ok(scaled as i32)
            } else {
                Err(CoefficientError { value, timestep: self.timestep })
            }
        };
        Ok(Row {
            p: fixed(self.p)?,
            q: fixed(self.q)?,
            a: fixed(self.a)?,
            b: fixed(self.b)?,
            b_prev: fixed(self.b_prev)?,
            c: fixed(self.c)?,
            signal: fixed(self.signal)?,
            noise: fixed(self.noise)?,
            timestep: self.timestep,
        })
    }
}

/// Timestep of row `row` of `rows` over `timesteps`, counted back from the noisiest, with the last timestep always the
/// first row's ("trailing" spacing: Lin et al., *Common Diffusion Noise Schedules and Sample Steps are Flawed*, 2024).
pub fn trailing_timestep(row: usize, rows: usize, timesteps: usize) -> usize {
    // round(timesteps (rows - row) / rows) - 1, ties up, in integers.
    ((2 * timesteps * (rows - row) + rows) / (2 * rows)).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Schedule, fill_alpha_bars, posterior_mean};

    const OBJECTIVES: [Objective; 5] =
        [Objective::Epsilon, Objective::X0, Objective::V, Objective::Score, Objective::Velocity];

    #[test]
    fn every_objective_recovers_the_data() {
        let (x0, eps, alpha_bar) = (0.7, -1.3, 0.37);
        let x = signal(alpha_bar) * x0 + noise(alpha_bar) * eps;
        for objective in OBJECTIVES {
            let [of_x0, of_eps] = objective.target_factors(alpha_bar);
            let [p, q] = objective.x0_factors(alpha_bar);
            assert!((p * x + q * (of_x0 * x0 + of_eps * eps) - x0).abs() < 1e-12, "{objective:?}");
        }
    }

    #[test]
    fn every_objective_converts_to_every_other() {
        let (x0, eps, alpha_bar) = (0.7, -1.3, 0.37);
        let x = signal(alpha_bar) * x0 + noise(alpha_bar) * eps;
        let output = |objective: Objective| {
            let [of_x0, of_eps] = objective.target_factors(alpha_bar);
            of_x0 * x0 + of_eps * eps
        };
        for (from, to) in OBJECTIVES.into_iter().flat_map(|from| OBJECTIVES.map(|to| (from, to))) {
            let [of_x, of_output] = from.convert_factors(to, alpha_bar);
            let converted = of_x * x + of_output * output(from);
            assert!((converted - output(to)).abs() < 1e-12, "{from:?} to {to:?}");
        }
    }

    #[test]
    fn ancestral_rows_have_the_posterior_mean_and_both_variances() {
        for (now, next) in [(0.1, 0.4), (0.9, 0.95)] {
            let [of_x0, of_x] = posterior_mean(now, next);
            for variance in [Variance::Posterior, Variance::Eta(1.0), Variance::Beta] {
                let row = StepRow::new(Objective::V, variance, 0, now, next);
                assert!((row.a - of_x).abs() < 1e-12 && (row.b - of_x0).abs() < 1e-12, "{variance:?}");
            }
            let small = StepRow::new(Objective::V, Variance::Posterior, 0, now, next).c;
            let large = StepRow::new(Objective::V, Variance::Beta, 0, now, next).c;
            assert!((small * small - posterior_variance(now, next)).abs() < 1e-12);
            assert!((large * large - jump_variance(now, next)).abs() < 1e-12);
        }
    }

    #[test]
    fn the_last_row_ends_at_the_data() {
        for variance in [Variance::Eta(0.0), Variance::Eta(1.0), Variance::Posterior, Variance::Beta] {
            let row = StepRow::new(Objective::V, variance, 0, 0.8, 1.0);
            assert_eq!([row.a, row.b, row.c], [0.0, 1.0, 0.0], "{variance:?}");
        }
    }

    #[test]
    fn trailing_timesteps_begin_at_the_noisiest() {
        let steps = |rows| core::array::from_fn::<_, 4, _>(|row| trailing_timestep(row, rows, 1000));
        assert_eq!(steps(4), [999, 749, 499, 249]);
        assert_eq!(trailing_timestep(999, 1000, 1000), 0);
        assert_eq!(trailing_timestep(2, 3, 10), 2);
    }

    /// For data from N(0, s^2) the exact denoiser is linear, so the whole sampler is a product of row factors.
    fn final_deviation(variance: Variance, rows: usize) -> f64 {
        let (mut betas, mut alpha_bars) = ([0.0; 1000], [0.0; 1000]);
        Schedule::Cosine { offset: 0.008 }.fill_betas(&mut betas).unwrap();
        fill_alpha_bars(&betas, &mut alpha_bars);
        let (mut levels, mut table) = ([Level::default(); 1000], [StepRow::default(); 1000]);
        let (levels, table) = (&mut levels[..rows], &mut table[..rows]);
        Spacing::Trailing.fill(&alpha_bars, levels);
        Method::Direct(variance).fill(Objective::X0, levels, table);
        let data_variance = 0.25;
        let mut state_variance = 1.0;
        for row in table {
            let total = row.signal * row.signal * data_variance + row.noise * row.noise;
            let factor = row.a + row.b * row.signal * data_variance / total;
            state_variance = factor * factor * state_variance + row.c * row.c;
        }
        (sqrt(state_variance) - 0.5).abs()
    }

    #[test]
    fn samplers_converge_on_a_gaussian_at_first_order() {
        for variance in [Variance::Eta(0.0), Variance::Posterior] {
            let (coarse, fine) = (final_deviation(variance, 50), final_deviation(variance, 100));
            assert!(coarse < 0.05, "{variance:?}: {coarse}");
            let ratio = coarse / fine;
            assert!((1.7..2.3).contains(&ratio), "{variance:?}: error fell {ratio} times when the rows doubled");
        }
        assert!(final_deviation(Variance::Beta, 1000) < 0.01);
    }

    #[test]
    fn coefficients_round_or_are_refused() {
        let row = StepRow { p: 0.5, q: -1.0, ..StepRow::default() };
        let fixed = row.quantize().unwrap();
        assert_eq!([fixed.p, fixed.q], [1 << 19, -(1 << 20)]);
        let refused = StepRow { p: 2048.0, timestep: 7, ..StepRow::default() }.quantize();
        assert_eq!(refused, Err(CoefficientError { value: 2048.0, timestep: 7 }));
    }
}
