//! Samplers beyond one ancestral or DDIM row a level: each is a way to fill a table from a list of noise levels.
//!
//! | symbol in the papers | name here |
//! |---|---|
//! | sigma of Karras et al., `noise / signal` | [`Level::sigma`] |
//! | lambda of Lu et al., `ln(signal / noise)` | [`Level::lambda`] |
//! | `D(x; sigma)`, `x_theta`, the denoised sample | `x0` |
//!
//! Karras, Aittala, Aila, Laine, *Elucidating the Design Space of Diffusion-Based Generative Models*, 2022 (EDM); Lu, Zhou, Bao,
//! Chen, Li, Zhu, *DPM-Solver++*, 2022; Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole, *Score-Based Generative Modeling
//! through SDEs*, 2021; Song, Ermon, *Generative Modeling by Estimating Gradients of the Data Distribution*, 2019; Song,
//! Dhariwal, Chen, Sutskever, *Consistency Models*, 2023.

use libm::{exp, fabs, log, pow, sqrt};

use super::{Objective, StepRow, Variance, trailing_timestep};
use crate::schedule::{noise, signal};

/// A noise level of the trained process. The default, pure noise, is what a list of levels holds before [`Spacing::fill`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Level {
    /// The timestep that the network is conditioned on.
    pub timestep: u32,
    /// Squared amplitude of the data.
    pub alpha_bar: f64,
}

/// The level without noise, where every table ends. No network is asked there.
const DATA: Level = Level { timestep: 0, alpha_bar: 1.0 };

impl Level {
    /// Noise amplitude over signal amplitude.
    pub fn sigma(&self) -> f64 {
        noise(self.alpha_bar) / signal(self.alpha_bar)
    }

    /// Natural logarithm of signal amplitude over noise amplitude.
    pub fn lambda(&self) -> f64 {
        -log(self.sigma())
    }
}

/// Which timesteps of the trained process a sampler visits, the noisiest first.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Spacing {
    /// `round(T (n - i) / n) - 1`: always begins at the noisiest (Lin et al. 2024, table 2).
    Trailing,
    /// `floor(T / n) (n - 1 - i)`: always ends at the least noisy (Song, Meng, Ermon 2021).
    Leading,
    /// Equal steps from the noisiest to the least noisy, both visited.
    Linspace,
    /// Equal steps of `sigma^(1 / rho)` (Karras et al. 2022, equation 5, rho = 7 there), each taken to the timestep whose
    /// sigma is nearest in logarithm. Where steps are fine, a timestep may come twice: such a step changes nothing.
    Karras {
        /// The exponent; larger means shorter steps near the data.
        rho: f64,
    },
}

impl Spacing {
    /// Fills `levels` from the process with these `alpha_bars`.
    pub fn fill(self, alpha_bars: &[f64], levels: &mut [Level]) {
        let (timesteps, count) = (alpha_bars.len(), levels.len());
        for (i, level) in levels.iter_mut().enumerate() {
            let timestep = match self {
                Spacing::Trailing => trailing_timestep(i, count, timesteps),
                Spacing::Leading => timesteps / count * (count - 1 - i),
                Spacing::Linspace if count == 1 => timesteps - 1,
                // Rounded, ties up.
                Spacing::Linspace => (2 * (timesteps - 1) * (count - 1 - i) + count - 1) / (2 * (count - 1)),
                Spacing::Karras { rho } => karras_timestep(alpha_bars, rho, i, count),
            };
            *level = Level { timestep: timestep as u32, alpha_bar: alpha_bars[timestep] };
        }
    }
}

fn karras_timestep(alpha_bars: &[f64], rho: f64, i: usize, count: usize) -> usize {
    let sigma = |timestep: usize| Level { timestep: 0, alpha_bar: alpha_bars[timestep] }.sigma();
    let [largest, smallest] = [alpha_bars.len() - 1, 0].map(|timestep| pow(sigma(timestep), 1.0 / rho));
    let fraction = if count == 1 { 0.0 } else { i as f64 / (count - 1) as f64 };
    let wanted = rho * log(largest + fraction * (smallest - largest));
    let distance = |timestep: &usize| fabs(log(sigma(*timestep)) - wanted);
    (0..alpha_bars.len()).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
}

/// How a table is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Method {
    /// One row a level: DDPM or DDIM. With `Eta(0.0)` it is Euler's method on the probability-flow ODE in `sigma`: that
    /// step and DDIM's are the same (Karras et al. 2022, section 3).
    Direct(Variance),
    /// Heun's second order method: a second row at the next level corrects each step but the last (EDM, algorithm 1).
    Heun,
    /// DPM-Solver++ 2M: second order with one row a level, from the previous row's `x0` (Lu et al. 2022, algorithm 2). The
    /// first and the last row are of first order.
    DpmPlusPlus2M,
    /// EDM's stochastic sampler (algorithm 2) with Euler steps: each row goes below the next level by a factor of
    /// `1 + gamma` in sigma, then adds noise back up to it.
    Churn {
        /// 0 adds no noise; at most `sqrt(2) - 1` in the paper.
        gamma: f64,
    },
    /// A DDIM row to each level, then `correctors` Langevin rows there (Song et al. 2021, algorithm 5).
    PredictorCorrector {
        /// Langevin rows a level.
        correctors: usize,
        /// Signal-to-noise ratio of a Langevin row; 0.16 in the paper.
        snr: f64,
    },
    /// Annealed Langevin dynamics (Song, Ermon 2019, algorithm 1): `steps` rows at each level, then one that ends at the data.
    Langevin {
        /// Rows a level.
        steps: usize,
        /// Signal-to-noise ratio of a row.
        snr: f64,
    },
    /// Multistep consistency sampling: each row jumps to the data, then adds the next level's noise afresh (Song et al.
    /// 2023, algorithm 1).
    Consistency,
}

impl Method {
    /// Rows of the table for `levels` levels.
    pub fn rows(self, levels: usize) -> usize {
        match self {
            Method::Direct(_) | Method::DpmPlusPlus2M | Method::Churn { .. } | Method::Consistency => levels,
            Method::Heun => (2 * levels).saturating_sub(1),
            Method::PredictorCorrector { correctors, .. } => levels + levels.saturating_sub(1) * correctors,
            Method::Langevin { steps, .. } => levels * steps + 1,
        }
    }

    /// Fills `table`, which has [`Method::rows`] rows, with the process from `levels`, the noisiest first, to the data.
    pub fn fill(self, objective: Objective, levels: &[Level], table: &mut [StepRow]) {
        let mut slots = table.iter_mut();
        let mut push = |row: StepRow| {
            if let Some(slot) = slots.next() {
                *slot = row;
            }
        };
        for (i, &level) in levels.iter().enumerate() {
            let next = levels.get(i + 1).copied().unwrap_or(DATA);
            let last = i + 1 == levels.len();
            let ddim = StepRow::new(objective, Variance::Eta(0.0), level.timestep, level.alpha_bar, next.alpha_bar);
            match self {
                Method::Direct(variance) => {
                    push(StepRow::new(objective, variance, level.timestep, level.alpha_bar, next.alpha_bar));
                }
                Method::Heun => {
                    push(ddim);
                    if !last {
                        push(heun_corrector(objective, level, next));
                    }
                }
                Method::DpmPlusPlus2M => {
                    let second_order = i > 0 && !last;
                    push(if second_order { dpm_2m(objective, levels[i - 1], level, next) } else { ddim });
                }
                Method::Churn { .. } if last => push(ddim),
                Method::Churn { gamma } => push(churned(objective, level, next, gamma)),
                Method::PredictorCorrector { correctors, snr } => {
                    push(ddim);
                    let rows = if last { 0 } else { correctors };
                    (0..rows).for_each(|_| push(langevin(objective, next, snr)));
                }
                Method::Langevin { steps, snr } => {
                    (1..steps).for_each(|_| push(langevin(objective, level, snr)));
                    let row = langevin(objective, level, snr);
                    push(if last { row } else { moved(row, level, next) });
                    if last {
                        push(ddim);
                    }
                }
                Method::Consistency => {
                    push(StepRow { a: 0.0, b: signal(next.alpha_bar), c: noise(next.alpha_bar), ..ddim });
                }
            }
        }
    }
}

/// A row at `level` that leaves the state as it is.
fn identity(objective: Objective, level: Level) -> StepRow {
    let [p, q] = objective.x0_factors(level.alpha_bar);
    let (signal, noise) = (signal(level.alpha_bar), noise(level.alpha_bar));
    StepRow { p, q, a: 1.0, b: 0.0, b_prev: 0.0, c: 0.0, signal, noise, timestep: level.timestep }
}

/// The second half of a Heun step from `level` to `next`, after the Euler row.
///
/// With `r = sigma_next / sigma` the average of both slopes is
/// `x / signal <- x / signal + (1 - r) / (2 r) (x0 - x0_prev)`: the state of the Euler row contains the older one.
fn heun_corrector(objective: Objective, level: Level, next: Level) -> StepRow {
    let ratio = next.sigma() / level.sigma();
    let b = signal(next.alpha_bar) * (1.0 - ratio) / (2.0 * ratio);
    StepRow { b, b_prev: -b, ..identity(objective, next) }
}

/// Second order multistep: the first order step with `x0` extrapolated from the row before.
fn dpm_2m(objective: Objective, before: Level, level: Level, next: Level) -> StepRow {
    let step = next.lambda() - level.lambda();
    let extrapolation = step / (2.0 * (level.lambda() - before.lambda()));
    let whole = signal(next.alpha_bar) * (1.0 - exp(-step));
    StepRow {
        a: noise(next.alpha_bar) / noise(level.alpha_bar),
        b: whole * (1.0 + extrapolation),
        b_prev: -whole * extrapolation,
        ..identity(objective, level)
    }
}

/// An Euler step below `next`, and noise back up to it.
fn churned(objective: Objective, level: Level, next: Level, gamma: f64) -> StepRow {
    let below = next.sigma() / (1.0 + gamma);
    let ratio = below / level.sigma();
    let scale = signal(next.alpha_bar);
    StepRow {
        a: ratio * scale / signal(level.alpha_bar),
        b: (1.0 - ratio) * scale,
        c: scale * sqrt(next.sigma() * next.sigma() - below * below),
        ..identity(objective, level)
    }
}

/// One Langevin row: `x <- x + step score + sqrt(2 step) z` with `score = -(x - signal x0) / noise^2` and
/// `step = 2 (snr noise)^2`, what Song et al.'s algorithm 5 gives for the norms that a perfect score has.
fn langevin(objective: Objective, level: Level, snr: f64) -> StepRow {
    let share = 2.0 * snr * snr;
    StepRow {
        a: 1.0 - share,
        b: share * signal(level.alpha_bar),
        c: 2.0 * snr * noise(level.alpha_bar),
        ..identity(objective, level)
    }
}

/// A row whose result is taken for a state of `next`: the signal's amplitude changes, what is on top of it stays.
fn moved(row: StepRow, level: Level, next: Level) -> StepRow {
    let scale = signal(next.alpha_bar) / signal(level.alpha_bar);
    StepRow { a: row.a * scale, b: row.b * scale, c: row.c * scale, ..row }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Schedule, fill_alpha_bars};

    fn alpha_bars() -> [f64; 1000] {
        let (mut betas, mut alpha_bars) = ([0.0; 1000], [0.0; 1000]);
        Schedule::Linear { start: 1e-4, end: 0.02 }.fill_betas(&mut betas).unwrap();
        fill_alpha_bars(&betas, &mut alpha_bars);
        alpha_bars
    }

    /// Standard deviation of the data; its exact denoiser is linear.
    const DEVIATION: f64 = 0.5;

    /// Deviation of the result from the data's, for data from N(0, 0.5^2) and a start of the exact variance. The result's
    /// variance is the sum over the independent sources of noise of the squares of what each becomes.
    fn error(method: Method, levels: &[Level]) -> f64 {
        let mut table = [StepRow::default(); 4000];
        let table = &mut table[..method.rows(levels.len())];
        method.fill(Objective::Epsilon, levels, table);
        let data_variance = DEVIATION * DEVIATION;
        let variance = |row: &StepRow| row.signal * row.signal * data_variance + row.noise * row.noise;
        let through = |from: usize, mut x: f64| {
            let mut x0_prev = 0.0;
            for row in &table[from..] {
                let x0 = row.signal * data_variance / variance(row) * x;
                x = row.a * x + row.b * x0 + row.b_prev * x0_prev;
                x0_prev = x0;
            }
            x * x
        };
        // Only rows without memory add noise, so what a row adds starts without one.
        let added = table.iter().enumerate().filter(|(_, row)| row.c != 0.0);
        let total = through(0, sqrt(variance(&table[0]))) + added.map(|(i, row)| through(i + 1, row.c)).sum::<f64>();
        fabs(sqrt(total) - DEVIATION)
    }

    /// Levels of Karras' spacing from sigma 20 to 0.002, of no particular process.
    fn continuous(count: usize) -> [Level; 400] {
        core::array::from_fn(|i| {
            let [largest, smallest] = [20.0, 0.002].map(|sigma| pow(sigma, 1.0 / 7.0));
            let sigma = pow(largest + i as f64 / (count - 1) as f64 * (smallest - largest), 7.0);
            Level { timestep: 0, alpha_bar: 1.0 / (1.0 + sigma * sigma) }
        })
    }

    #[test]
    fn euler_is_of_first_order_and_heun_and_dpm_of_second() {
        let errors = |method| [50, 100].map(|count| error(method, &continuous(count)[..count]));
        let euler = errors(Method::Direct(Variance::Eta(0.0)));
        assert!((1.8..2.2).contains(&(euler[0] / euler[1])), "Euler: {euler:?}");
        for method in [Method::Heun, Method::DpmPlusPlus2M] {
            let errors = errors(method);
            assert!((3.5..4.7).contains(&(errors[0] / errors[1])), "{method:?}: {errors:?}");
            assert!(errors[0] < euler[0] / 5.0, "{method:?}: {errors:?}, Euler {euler:?}");
        }
    }

    #[test]
    fn stochastic_methods_keep_the_variance_of_the_data() {
        let cases = [
            (Method::Direct(Variance::Posterior), 400, 0.03),
            (Method::Churn { gamma: 0.1 }, 400, 0.04),
            (Method::PredictorCorrector { correctors: 1, snr: 0.16 }, 400, 0.03),
            (Method::Langevin { steps: 39, snr: 0.16 }, 100, 0.05),
        ];
        for (method, count, bound) in cases {
            let error = error(method, &continuous(count)[..count]) / DEVIATION;
            assert!(error < bound, "{method:?}: {error}");
        }
    }

    #[test]
    fn churn_without_noise_is_euler() {
        let levels = [Level { timestep: 9, alpha_bar: 0.1 }, Level { timestep: 4, alpha_bar: 0.7 }];
        let (mut euler, mut churn) = ([StepRow::default(); 2], [StepRow::default(); 2]);
        Method::Direct(Variance::Eta(0.0)).fill(Objective::V, &levels, &mut euler);
        Method::Churn { gamma: 0.0 }.fill(Objective::V, &levels, &mut churn);
        for (a, b) in euler.iter().zip(&churn) {
            assert!(fabs(a.a - b.a) < 1e-12 && fabs(a.b - b.b) < 1e-12 && a.c == b.c);
        }
    }

    #[test]
    fn consistency_rows_forget_the_state() {
        let levels = [Level { timestep: 9, alpha_bar: 0.1 }, Level { timestep: 4, alpha_bar: 0.7 }];
        let mut table = [StepRow::default(); 2];
        Method::Consistency.fill(Objective::X0, &levels, &mut table);
        assert_eq!([table[0].a, table[0].b, table[0].c], [0.0, signal(0.7), noise(0.7)]);
        assert_eq!([table[1].a, table[1].b, table[1].c], [0.0, 1.0, 0.0]);
    }

    #[test]
    fn spacings_visit_the_stated_timesteps() {
        let alpha_bars = alpha_bars();
        let timesteps = |spacing: Spacing| {
            let mut levels = [Level::default(); 5];
            spacing.fill(&alpha_bars, &mut levels);
            levels.map(|level| level.timestep)
        };
        assert_eq!(timesteps(Spacing::Trailing), [999, 799, 599, 399, 199]);
        assert_eq!(timesteps(Spacing::Leading), [800, 600, 400, 200, 0]);
        assert_eq!(timesteps(Spacing::Linspace), [999, 749, 500, 250, 0]);
        let karras = timesteps(Spacing::Karras { rho: 7.0 });
        assert_eq!([karras[0], karras[4]], [999, 0]);
        assert!(karras.is_sorted_by(|a, b| a > b), "{karras:?}");
        let sigma = |timestep: u32| Level { timestep, alpha_bar: alpha_bars[timestep as usize] }.sigma();
        let roots = karras.map(|timestep| pow(sigma(timestep), 1.0 / 7.0));
        for pair in roots.windows(3) {
            assert!(fabs((pair[0] - pair[1]) / (pair[1] - pair[2]) - 1.0) < 0.05, "{roots:?}");
        }
    }
}
