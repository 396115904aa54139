//! The variational bound on the negative log-likelihood, term by term, in nats.
//!
//! `-ln p(x_0) <= L_T + sum_t L_t + L_0` (Ho, Jain, Abbeel 2020, equation 5): the divergence of what the forward process
//! ends in from the prior `N(0, 1)`; the divergences of the reverse steps from the posteriors; the decoder's. All
//! distributions are normal with independent values, so every term is a sum over the values of an image, and the functions
//! here take one value.

use mote_core::schedule::{jump_variance, posterior_mean, posterior_variance, signal};
use serde::{Deserialize, Serialize};

use crate::gaussian::{entropy, kl, log_density, log_pixel_probability};

/// The variance of the reverse steps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReverseVariance {
    /// The posterior's: right for data that are a single point (Ho et al., section 3.2). The first timestep's is zero; the
    /// decoder takes the second's in its place (Nichol, Dhariwal 2021).
    Posterior,
    /// The forward step's beta: right for data from `N(0, 1)` (Ho et al., section 3.2), and the better bound for images: 5.96
    /// against 6.61 bits a value for a toy network after 600 steps.
    #[default]
    Beta,
    /// Between both, as a second output of the network says: `exp(u ln beta + (1 - u) ln posterior)` (Nichol, Dhariwal,
    /// *Improved DDPM*, 2021, equation 15); the output is `2 u - 1`, so it is 0 halfway.
    #[serde(skip)]
    Learned,
}

/// What the bound needs of one timestep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundStep {
    /// The factor of x0 in the mean of the posterior `q(x_prev | x, x_0)`.
    pub of_x0: f64,
    /// Logarithm of the posterior's variance; of the next timestep's at the first one, where it is zero.
    pub log_posterior: f64,
    /// Logarithm of the forward step's variance.
    pub log_beta: f64,
}

/// The bound of a process.
#[derive(Debug, Clone)]
pub struct Bound {
    steps: Vec<BoundStep>,
    alpha_bars: Vec<f64>,
    variance: ReverseVariance,
}

impl Bound {
    /// The bound for a schedule and the variance of its reverse steps.
    ///
    /// # Panics
    /// If there are no timesteps.
    pub fn new(alpha_bars: &[f64], variance: ReverseVariance) -> Self {
        let step = |timestep: usize| {
            let before = |timestep: usize| if timestep == 0 { 1.0 } else { alpha_bars[timestep - 1] };
            let (now, before_now) = (alpha_bars[timestep], before(timestep));
            let log_beta = jump_variance(now, before_now).ln();
            let log_posterior = match timestep.max(1) {
                timestep if timestep < alpha_bars.len() => {
                    posterior_variance(alpha_bars[timestep], before(timestep)).ln()
                }
                _ => log_beta,
            };
            BoundStep { of_x0: posterior_mean(now, before_now)[0], log_posterior, log_beta }
        };
        assert!(!alpha_bars.is_empty(), "a schedule has at least one timestep");
        Self { steps: (0..alpha_bars.len()).map(step).collect(), alpha_bars: alpha_bars.to_owned(), variance }
    }

    /// Number of timesteps.
    pub fn timesteps(&self) -> usize {
        self.steps.len()
    }

    /// What the terms of a timestep are made of.
    pub fn step(&self, timestep: usize) -> BoundStep {
        self.steps[timestep]
    }

    /// Logarithm of the reverse step's variance; `output` is the network's second output there, read only where the
    /// variance is learned.
    pub fn log_variance(&self, timestep: usize, output: f64) -> f64 {
        let BoundStep { log_posterior, log_beta, .. } = self.steps[timestep];
        match self.variance {
            ReverseVariance::Posterior => log_posterior,
            ReverseVariance::Beta => log_beta,
            ReverseVariance::Learned => {
                let share = 0.5 * (output + 1.0);
                share * log_beta + (1.0 - share) * log_posterior
            }
        }
    }

    /// `L_T`: `KL(q(x_T | x_0) || N(0, 1))`.
    pub fn prior(&self, x0: f64) -> f64 {
        let last = self.alpha_bars[self.timesteps() - 1];
        kl([signal(last) * x0, libm::log1p(-last)], [0.0, 0.0])
    }

    /// `L_t` of `timestep` from 1 on: `KL(q(x_prev | x, x_0) || p(x_prev | x))`, both with the posterior's mean, of x0 and of
    /// the network's estimate of it; what they have of x cancels.
    pub fn divergence(&self, timestep: usize, x0: f64, estimate: f64, output: f64) -> f64 {
        let step = self.steps[timestep];
        kl([step.of_x0 * (x0 - estimate), step.log_posterior], [0.0, self.log_variance(timestep, output)])
    }

    /// `L_0` for a real value: `-ln` of the density of `p(x_0 | x_1)`, whose mean is the estimate of x0.
    pub fn decoder(&self, x0: f64, estimate: f64, output: f64) -> f64 {
        -log_density(x0, estimate, self.log_variance(0, output))
    }

    /// `L_0` for an 8-bit value: `-ln` of its probability under `p(x_0 | x_1)` (equation 13).
    pub fn pixel_decoder(&self, pixel: u8, estimate: f64, output: f64) -> f64 {
        -log_pixel_probability(pixel, estimate, self.log_variance(0, output))
    }
}

/// The terms of the bound, each a mean over values, in nats a value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// `L_T`
    pub prior: f64,
    /// `L_t`; 0 at the first timestep, which is the decoder's.
    pub divergences: Vec<f64>,
    /// `L_0`
    pub decoder: f64,
}

impl Terms {
    /// The bound: the sum of all terms.
    pub fn total(&self) -> f64 {
        self.prior + self.divergences.iter().sum::<f64>() + self.decoder
    }

    /// The same bound in the form of Sohl-Dickstein et al., *Deep Unsupervised Learning using Nonequilibrium Thermodynamics*,
    /// 2015, equation 14, with the sign turned:
    /// `sum_t KL - H_q(X_T | X_0) + H_q(X_1 | X_0) + H_p(X_T)`, plus the two parts that the paper has vanish:
    /// - `ln p(X_T)` is taken for the entropy `H_p(X_T)`; for data of mean square `m` it differs by `alpha_bar_T (m - 1) / 2`;
    /// - the last reverse step is set to the forward step's inverse (its section 2.3), whose expected `-ln p(x_0 | x_1)` is
    ///   `H_q(X_1 | X_0)`; any other decoder differs by what it has more.
    ///
    /// `mean_square` is that of the data's values.
    pub fn from_entropies(&self, bound: &Bound, mean_square: f64) -> f64 {
        let (first, last) = (bound.alpha_bars[0], bound.alpha_bars[bound.timesteps() - 1]);
        let (of_first, of_last, of_prior) = (entropy(libm::log1p(-first)), entropy(libm::log1p(-last)), entropy(0.0));
        let papers = self.divergences.iter().sum::<f64>() - of_last + of_first + of_prior;
        papers + 0.5 * last * (mean_square - 1.0) + (self.decoder - of_first)
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::{E, PI};

    use mote_core::schedule::{Schedule, fill_alpha_bars, noise, posterior_mean, snr};
    use mote_core::step_table::Objective;

    use super::*;
    use crate::Weighting;

    fn process(schedule: Schedule<'_>, timesteps: usize) -> (Vec<f64>, Vec<f64>) {
        let mut betas = vec![0.0; timesteps];
        let mut alpha_bars = betas.clone();
        schedule.fill_betas(&mut betas).unwrap();
        fill_alpha_bars(&betas, &mut alpha_bars);
        (betas, alpha_bars)
    }

    /// Data from `N(0, variance)` and a network whose estimate of x0 is `factor(timestep) x`: every expectation is closed.
    struct Linear<'a> {
        alpha_bars: &'a [f64],
        variance: f64,
        factor: &'a dyn Fn(usize) -> f64,
    }

    impl Linear<'_> {
        /// Expected square of x0 less its estimate.
        fn error(&self, timestep: usize) -> f64 {
            let (alpha_bar, factor) = (self.alpha_bars[timestep], (self.factor)(timestep));
            let of_x0 = 1.0 - factor * signal(alpha_bar);
            self.variance * of_x0 * of_x0 + factor * factor * (1.0 - alpha_bar)
        }

        /// The expected terms: each is a square function of an error, so it may be taken at the root of its mean square.
        fn terms(&self, bound: &Bound, output: &dyn Fn(usize) -> f64) -> Terms {
            let divergence = |timestep: usize| match timestep {
                0 => 0.0,
                _ => bound.divergence(timestep, self.error(timestep).sqrt(), 0.0, output(timestep)),
            };
            Terms {
                prior: bound.prior(self.variance.sqrt()),
                divergences: (0..self.alpha_bars.len()).map(divergence).collect(),
                decoder: bound.decoder(self.error(0).sqrt(), 0.0, output(0)),
            }
        }

        /// The factor that makes the estimate the conditional mean, `signal s^2 / (alpha_bar s^2 + 1 - alpha_bar)`.
        fn exact(alpha_bars: &[f64], variance: f64) -> impl Fn(usize) -> f64 {
            move |timestep| {
                let alpha_bar = alpha_bars[timestep];
                signal(alpha_bar) * variance / (alpha_bar * variance + 1.0 - alpha_bar)
            }
        }

        /// The bound as it is defined, `E[ln q(x_1..T | x_0) - ln p(x_0..T)]`, along the Markov chain: nothing of the posterior.
        fn by_definition(&self, betas: &[f64], log_variance: &dyn Fn(usize) -> f64) -> f64 {
            let last = self.alpha_bars[betas.len() - 1];
            let mut total = 0.5 * ((2.0 * PI).ln() + last * self.variance + 1.0 - last);
            for (timestep, beta) in betas.iter().enumerate() {
                let before = if timestep == 0 { 1.0 } else { self.alpha_bars[timestep - 1] };
                let alpha_bar = self.alpha_bars[timestep];
                let [of_x0, of_x] = posterior_mean(alpha_bar, before);
                // x_prev - mean, and x = sqrt(1 - beta) x_prev + sqrt(beta) z: second moments of x_prev and z.
                let factor = of_x0 * (self.factor)(timestep) + of_x;
                let of_prev = 1.0 - factor * (1.0 - beta).sqrt();
                let second = before * self.variance + 1.0 - before;
                let error = of_prev * of_prev * second + factor * factor * beta;
                let log_variance = log_variance(timestep);
                total += 0.5 * ((2.0 * PI).ln() + log_variance + error * (-log_variance).exp());
                total -= 0.5 * (2.0 * PI * E * beta).ln();
            }
            total
        }
    }

    const COSINE: Schedule<'static> = Schedule::Cosine { offset: 0.008 };

    /// Three ways to one number: terms, entropies, definition; for wrong networks as for the right one.
    #[test]
    fn divergences_entropies_and_the_definition_agree() {
        for (schedule, timesteps) in [(COSINE, 50), (Schedule::Linear { start: 1e-4, end: 0.02 }, 1000)] {
            let (betas, alpha_bars) = process(schedule, timesteps);
            for variance in [1.0, 0.25, 3.0] {
                let exact = Linear::exact(&alpha_bars, variance);
                let wrong = |timestep: usize| 0.8 * exact(timestep) + 0.05;
                for factor in [&exact as &dyn Fn(usize) -> f64, &wrong] {
                    for kind in [ReverseVariance::Posterior, ReverseVariance::Beta, ReverseVariance::Learned] {
                        let bound = Bound::new(&alpha_bars, kind);
                        let linear = Linear { alpha_bars: &alpha_bars, variance, factor };
                        let output = |timestep: usize| (timestep as f64).sin();
                        let terms = linear.terms(&bound, &output);
                        let log_variance = |timestep: usize| bound.log_variance(timestep, output(timestep));
                        let definition = linear.by_definition(&betas, &log_variance);
                        let entropies = terms.from_entropies(&bound, variance);
                        let scale = definition.abs().max(1.0);
                        assert!((terms.total() - entropies).abs() < 1e-9 * scale, "{} {entropies}", terms.total());
                        assert!((terms.total() - definition).abs() < 1e-9 * scale, "{} {definition}", terms.total());
                    }
                }
            }
        }
    }

    /// Under the paper's two conditions, data of mean square 1 and the last reverse step the forward step's inverse, its
    /// equation is the bound to the letter.
    #[test]
    fn the_entropies_of_the_paper_need_no_correction_under_its_conditions() {
        let (betas, alpha_bars) = process(COSINE, 100);
        let bound = Bound::new(&alpha_bars, ReverseVariance::Beta);
        let exact = Linear::exact(&alpha_bars, 1.0);
        let terms = Linear { alpha_bars: &alpha_bars, variance: 1.0, factor: &exact }.terms(&bound, &|_| 0.0);
        let half_log = |variance: f64| 0.5 * (2.0 * PI * E * variance).ln();
        let kl: f64 = terms.divergences.iter().sum();
        let papers = kl - half_log(1.0 - alpha_bars[99]) + half_log(betas[0]) + half_log(1.0);
        assert!((papers / terms.total() - 1.0).abs() < 1e-12, "{papers} {}", terms.total());
    }

    /// With the exact denoiser and the exact reverse variance the bound misses the likelihood by the divergence of the
    /// process's end from the prior and nothing else.
    #[test]
    fn the_bound_of_the_exact_reverse_process_is_the_likelihood() {
        let (betas, alpha_bars) = process(Schedule::Linear { start: 1e-4, end: 0.02 }, 1000);
        for variance in [0.3, 0.9] {
            let bound = Bound::new(&alpha_bars, ReverseVariance::Learned);
            let exact = Linear::exact(&alpha_bars, variance);
            // Of the reverse step: the posterior's variance and what is not known of x0.
            let of_step = |timestep: usize| {
                let alpha_bar = alpha_bars[timestep];
                let unknown = variance * (1.0 - alpha_bar) / (alpha_bar * variance + 1.0 - alpha_bar);
                let BoundStep { of_x0, log_posterior, log_beta } = bound.step(timestep);
                let posterior = if timestep == 0 { 0.0 } else { log_posterior.exp() };
                let log_variance = (posterior + of_x0 * of_x0 * unknown).ln();
                2.0 * (log_variance - log_posterior) / (log_beta - log_posterior) - 1.0
            };
            assert!((1..1000).all(|timestep| (-1.0..=1.0).contains(&of_step(timestep))), "between both variances");
            let terms = Linear { alpha_bars: &alpha_bars, variance, factor: &exact }.terms(&bound, &of_step);
            let likelihood = 0.5 * (2.0 * PI * E * variance).ln();
            let end = alpha_bars[999] * (variance - 1.0);
            let gap = kl([0.0, end.ln_1p()], [0.0, 0.0]);
            assert!((terms.total() - likelihood - gap).abs() < 1e-9, "{} {likelihood} {gap}", terms.total());
            assert!(gap < 1e-9 && betas.len() == 1000);
        }
    }

    /// A fixed variance costs what its steps diverge from the exact ones: for beta that halves when the timesteps double (for
    /// data from N(0, 0.5) 1.5e-4 nats a value at 1000 timesteps), for the posterior's it falls more slowly, since the
    /// first few steps, where it is half of the exact one and less, stay wrong (0.40 nats a value).
    #[test]
    fn a_fixed_variance_misses_the_likelihood_by_less_with_more_timesteps() {
        let gap = |kind, timesteps| {
            let (_, alpha_bars) = process(COSINE, timesteps);
            let exact = Linear::exact(&alpha_bars, 0.5);
            let linear = Linear { alpha_bars: &alpha_bars, variance: 0.5, factor: &exact };
            let terms = linear.terms(&Bound::new(&alpha_bars, kind), &|_| 0.0);
            // The decoder's variance is another matter: the exact one in its place.
            let exact_decoder = 0.5 * (2.0 * PI * E * linear.error(0)).ln();
            terms.total() - terms.decoder + exact_decoder - 0.5 * (2.0 * PI * E * 0.5f64).ln()
        };
        let gaps = |kind| [250, 500, 1000].map(|timesteps| gap(kind, timesteps));
        let (beta, posterior) = (gaps(ReverseVariance::Beta), gaps(ReverseVariance::Posterior));
        assert!((1.95..2.05).contains(&(beta[0] / beta[1])) && (1.95..2.05).contains(&(beta[1] / beta[2])), "{beta:?}");
        assert!((1e-4..1.6e-4).contains(&beta[2]), "{beta:?}");
        assert!(posterior.is_sorted_by(|a, b| a > b) && (0.3..0.41).contains(&posterior[2]), "{posterior:?}");
    }

    /// Bayes' rule on a grid: `q(x_prev | x, x_0)` is `q(x | x_prev) q(x_prev | x_0)`, normalized.
    #[test]
    fn the_posterior_is_bayes_rule() {
        let (_, alpha_bars) = process(COSINE, 20);
        for timestep in [1, 7, 15] {
            let (now, before) = (alpha_bars[timestep], alpha_bars[timestep - 1]);
            let (x0, x) = (0.4, -0.7);
            let beta = jump_variance(now, before);
            let [of_x0, of_x] = posterior_mean(now, before);
            let (mean, variance) = (of_x0 * x0 + of_x * x, posterior_variance(now, before));
            let moments = (-4000..=4000).fold([0.0; 3], |sums, i| {
                let previous = mean + variance.sqrt() * f64::from(i) / 400.0;
                let joint = log_density(x, (1.0 - beta).sqrt() * previous, beta.ln())
                    + log_density(previous, signal(before) * x0, (1.0 - before).ln());
                let weight = joint.exp();
                [sums[0] + weight, sums[1] + weight * previous, sums[2] + weight * previous * previous]
            });
            let found = moments[1] / moments[0];
            assert!((found - mean).abs() < 1e-9, "{timestep}: {found} not {mean}");
            assert!((moments[2] / moments[0] - found * found - variance).abs() < 1e-9, "{timestep}");
        }
    }

    /// `L_t` is the integral of `q ln(q / p)` over x_prev, with p's mean made from the estimate.
    #[test]
    fn divergences_are_their_integrals() {
        let (_, alpha_bars) = process(COSINE, 20);
        for kind in [ReverseVariance::Posterior, ReverseVariance::Beta, ReverseVariance::Learned] {
            let bound = Bound::new(&alpha_bars, kind);
            for timestep in [1, 7, 19] {
                let (x0, estimate, x, output) = (0.4, 0.1, -0.7, 0.3);
                let (now, before) = (alpha_bars[timestep], alpha_bars[timestep - 1]);
                let [of_x0, of_x] = posterior_mean(now, before);
                let (mean, deviation) = (of_x0 * x0 + of_x * x, posterior_variance(now, before).sqrt());
                let log_variance = bound.log_variance(timestep, output);
                let integral: f64 = (-4000..=4000)
                    .map(|i| {
                        let previous = mean + deviation * f64::from(i) / 400.0;
                        let q = log_density(previous, mean, 2.0 * deviation.ln());
                        let p = log_density(previous, of_x0 * estimate + of_x * x, log_variance);
                        q.exp() * (q - p) * deviation / 400.0
                    })
                    .sum();
                let found = bound.divergence(timestep, x0, estimate, output);
                assert!((found / integral - 1.0).abs() < 1e-8, "{kind:?} {timestep}: {found} not {integral}");
            }
        }
    }

    /// The weight of the variational bound is what the divergence multiplies the squared error of x0 with.
    #[test]
    fn the_bounds_weight_is_its_divergence() {
        let (betas, alpha_bars) = process(COSINE, 30);
        let bound = Bound::new(&alpha_bars, ReverseVariance::Posterior);
        for timestep in 1..30 {
            let fall = || snr(alpha_bars[timestep - 1]) - snr(alpha_bars[timestep]);
            let weight = Weighting::Vlb.factor(Objective::X0, alpha_bars[timestep], fall);
            let found = bound.divergence(timestep, 0.3, 0.1, 0.0) / 0.04;
            assert!((found / weight - 1.0).abs() < 1e-9, "{timestep}: {found} not {weight}");
        }
        let decoder = |estimate| Bound::new(&alpha_bars, ReverseVariance::Beta).decoder(0.3, estimate, 0.0);
        let found = (decoder(0.1) - decoder(0.3)) / 0.04;
        assert!((found * 2.0 * betas[0] - 1.0).abs() < 1e-9);
        assert!((noise(alpha_bars[0]).powi(2) / betas[0] - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_learned_variance_lies_between_its_ends() {
        let (_, alpha_bars) = process(COSINE, 30);
        let [learned, posterior, beta] = [ReverseVariance::Learned, ReverseVariance::Posterior, ReverseVariance::Beta]
            .map(|kind| Bound::new(&alpha_bars, kind));
        for timestep in 0..30 {
            assert_eq!(learned.log_variance(timestep, -1.0), posterior.log_variance(timestep, 0.0));
            assert_eq!(learned.log_variance(timestep, 1.0), beta.log_variance(timestep, 0.0));
            let middle = 0.5 * (posterior.log_variance(timestep, 0.0) + beta.log_variance(timestep, 0.0));
            assert!((learned.log_variance(timestep, 0.0) - middle).abs() < 1e-12);
        }
        assert_eq!(posterior.log_variance(0, 0.0), posterior.log_variance(1, 0.0));
    }
}
