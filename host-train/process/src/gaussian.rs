//! One-dimensional normal distributions: entropies, divergences, densities and the probabilities of pixel values.
//!
//! A distribution is given by its mean and the natural logarithm of its variance. Everything is in nats.

use std::f64::consts::{E, PI, SQRT_2};

use libm::{erfc, exp, log, log1p, sqrt};

/// Beyond this many standard deviations the upper tail is taken from its asymptotic series.
const FAR: f64 = 20.0;

/// Logarithm of the density of `N(mean, exp(log_variance))` at `x`.
pub fn log_density(x: f64, mean: f64, log_variance: f64) -> f64 {
    let error = x - mean;
    -0.5 * (log(2.0 * PI) + log_variance + error * error * exp(-log_variance))
}

/// Entropy of a normal distribution, `ln(2 pi e variance) / 2`.
pub fn entropy(log_variance: f64) -> f64 {
    0.5 * (log(2.0 * PI * E) + log_variance)
}

/// Kullback-Leibler divergence from `q` to `p`, each `[mean, log_variance]`:
/// `(ln(var_p / var_q) + (var_q + (mean_q - mean_p)^2) / var_p - 1) / 2`.
pub fn kl(q: [f64; 2], p: [f64; 2]) -> f64 {
    let (error, log_ratio) = (q[0] - p[0], q[1] - p[1]);
    0.5 * (exp(log_ratio) - 1.0 - log_ratio + error * error * exp(-p[1]))
}

/// Logarithm of the probability that `N(mean, exp(log_variance))` falls into the bin of an 8-bit value: half a value to
/// each side of `pixel / 127.5 - 1`, and all beyond the ends for 0 and 255 (Ho, Jain, Abbeel 2020, equation 13).
///
/// Far tails come from a series, so the result is finite wherever the square of the distance in standard deviations is.
pub fn log_pixel_probability(pixel: u8, mean: f64, log_variance: f64) -> f64 {
    let deviation = exp(0.5 * log_variance);
    let edge = |value: f64| (value / 127.5 - 1.0 - mean) / deviation;
    let lower = if pixel == 0 { f64::NEG_INFINITY } else { edge(f64::from(pixel) - 0.5) };
    let upper = if pixel == 255 { f64::INFINITY } else { edge(f64::from(pixel) + 0.5) };
    // The tail that is smaller at the nearer edge keeps the digits.
    let (near, far) = if lower + upper > 0.0 { (lower, upper) } else { (-upper, -lower) };
    let near = log_upper_tail(near);
    near + log1p(-exp(log_upper_tail(far) - near))
}

/// Logarithm of the probability that a standard normal variate exceeds `z`.
fn log_upper_tail(z: f64) -> f64 {
    if z < FAR {
        return log(0.5 * erfc(z / SQRT_2));
    }
    if z == f64::INFINITY {
        return f64::NEG_INFINITY;
    }
    let inverse = 1.0 / (z * z);
    let series = 1.0 - inverse * (1.0 - inverse * (3.0 - inverse * (15.0 - inverse * 105.0)));
    -0.5 * z * z - log(z * sqrt(2.0 * PI)) + log(series)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Integral of `f` over `center +- 12 deviation` by the trapezoidal rule, which is exact to rounding for normals.
    fn integral(center: f64, deviation: f64, f: impl Fn(f64) -> f64) -> f64 {
        let step = deviation / 50.0;
        (-600..=600).map(|i| f(center + step * f64::from(i)) * step).sum()
    }

    #[test]
    fn divergence_and_entropy_are_their_integrals() {
        for (q, p) in [([0.3, -1.0], [-0.2, 0.4]), ([0.0, 2.0], [1.5, 1.0]), ([0.7, -9.0], [0.69, -8.5])] {
            let deviation = exp(0.5 * q[1]);
            let density = |x: f64| exp(log_density(x, q[0], q[1]));
            let found =
                integral(q[0], deviation, |x| density(x) * (log_density(x, q[0], q[1]) - log_density(x, p[0], p[1])));
            assert!((kl(q, p) - found).abs() < 1e-10 * found.abs().max(1.0), "{q:?} {p:?}: {} not {found}", kl(q, p));
            let found = -integral(q[0], deviation, |x| density(x) * log_density(x, q[0], q[1]));
            assert!((entropy(q[1]) - found).abs() < 1e-10);
        }
        assert_eq!(kl([0.4, -3.0], [0.4, -3.0]), 0.0);
    }

    #[test]
    fn the_probabilities_of_all_pixels_sum_to_one() {
        for mean in [-1.7, -1.0, -0.3, 0.0, 0.999, 1.2] {
            for log_variance in [-12.0, -6.0, -2.0, 1.0] {
                let sum: f64 = (0..=255).map(|pixel| exp(log_pixel_probability(pixel, mean, log_variance))).sum();
                assert!((sum - 1.0).abs() < 1e-12, "mean {mean}, log-variance {log_variance}: {sum}");
            }
        }
    }

    /// A bin's probability is its density times its width, where the density is nearly straight over it.
    #[test]
    fn a_bin_of_a_wide_normal_has_the_density_times_the_width() {
        for pixel in [1, 77, 200, 254] {
            let x = f64::from(pixel) / 127.5 - 1.0;
            let expected = log_density(x, 0.2, 0.5) + log(1.0 / 127.5);
            assert!((log_pixel_probability(pixel, 0.2, 0.5) - expected).abs() < 1e-5, "{pixel}");
        }
    }

    #[test]
    fn far_tails_stay_finite_and_join_the_near_ones() {
        assert!((log_upper_tail(FAR) - log_upper_tail(FAR - 1e-12)).abs() < 1e-8);
        // 200 standard deviations: erfc is zero there.
        let far = log_pixel_probability(255, -1.0, 2.0 * log(0.01));
        let z = (254.5 / 127.5) / 0.01;
        assert!((far / (-0.5 * z * z) - 1.0).abs() < 1e-3, "{far}");
        let symmetric = [log_pixel_probability(10, 0.8, -7.0), log_pixel_probability(245, -0.8, -7.0)];
        assert!((symmetric[0] / symmetric[1] - 1.0).abs() < 1e-12, "{symmetric:?}");
    }
}
