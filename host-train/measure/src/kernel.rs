//! Kernel distance between two sets of features: the squared maximum mean discrepancy (Gretton et al., *A Kernel
//! Two-Sample Test*, 2012, eq. 3) with the kernel of KID, `k(x, y) = (x.y / dims + 1)^3` (Binkowski et al., *Demystifying
//! MMD GANs*, 2018, section 4).
//!
//! Unlike the Fréchet distance it is unbiased: sets from one distribution give 0 on average at every n, so values of
//! different n can be compared, and a value may be negative. That holds for vectors drawn independently: a small set with as
//! many of every class has fewer alike than chance would give it, and lies below 0.

use super::features::Features;
use super::products::products;

/// A set and the sums of its kernel matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct KernelSet {
    features: Features,
    /// For each vector, its kernel with all others but itself, summed.
    rows: Vec<f64>,
}

/// An estimate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The estimate itself.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

impl KernelSet {
    /// Sums the kernel of every pair.
    ///
    /// # Panics
    /// With fewer than three vectors.
    pub fn of(features: Features) -> Self {
        assert!(features.len() >= 3, "a standard error needs three vectors, got {}", features.len());
        let rows = products(&features, &features, |index, values| {
            let all: f64 = values.iter().map(|&product| kernel(product, features.dims)).sum();
            all - kernel(values[index], features.dims)
        });
        Self { features, rows }
    }
}

/// The unbiased estimate of the squared distance, with the standard error that leaving out one vector at a time gives
/// (the jackknife for two samples: Arvesen, *Jackknifing U-Statistics*, 1969). It errs on the large side where the
/// distributions are nearly equal.
pub fn distance(a: &KernelSet, b: &KernelSet) -> Estimate {
    let dims = a.features.dims;
    let sums = |from: &Features, to: &Features| {
        products(from, to, |_, values| values.iter().map(|&product| kernel(product, dims)).sum::<f64>())
    };
    let (m, n) = (a.rows.len() as f64, b.rows.len() as f64);
    let (within_a, within_b) = (a.rows.iter().sum::<f64>(), b.rows.iter().sum::<f64>());
    let (cross_a, cross_b) = (sums(&a.features, &b.features), sums(&b.features, &a.features));
    let cross = cross_a.iter().sum::<f64>();
    let estimate = |m: f64, within_a: f64, n: f64, within_b: f64, cross: f64| {
        within_a / (m * (m - 1.0)) + within_b / (n * (n - 1.0)) - 2.0 * cross / (m * n)
    };
    let without_a = a.rows.iter().zip(&cross_a);
    let without_a = without_a.map(|(row, c)| estimate(m - 1.0, within_a - 2.0 * row, n, within_b, cross - c));
    let without_b = b.rows.iter().zip(&cross_b);
    let without_b = without_b.map(|(row, c)| estimate(m, within_a, n - 1.0, within_b - 2.0 * row, cross - c));
    let variance = jackknife(without_a.collect()) + jackknife(without_b.collect());
    Estimate { value: estimate(m, within_a, n, within_b, cross), error: variance.sqrt() }
}

/// The variance of an estimate from its values without each vector.
fn jackknife(without: Vec<f64>) -> f64 {
    let n = without.len() as f64;
    let mean = without.iter().sum::<f64>() / n;
    (n - 1.0) / n * without.iter().map(|value| (value - mean).powi(2)).sum::<f64>()
}

fn kernel(product: f64, dims: usize) -> f64 {
    (product / dims as f64 + 1.0).powi(3)
}

#[cfg(test)]
mod tests {
    use super::super::products::tests::whole_numbers;
    use super::*;

    /// The estimate by its definition, in double loops.
    fn by_definition(a: &Features, b: &Features) -> f64 {
        let k = |x: &[f32], y: &[f32]| {
            let product: f64 = x.iter().zip(y).map(|(x, y)| f64::from(x * y)).sum();
            (product / a.dims as f64 + 1.0).powi(3)
        };
        let (m, n) = (a.len(), b.len());
        let mean = |from: &Features, to: &Features, pairs: &dyn Fn(usize, usize) -> bool, count: usize| {
            let all = (0..from.len()).flat_map(|i| (0..to.len()).map(move |j| (i, j)));
            all.filter(|&(i, j)| pairs(i, j)).map(|(i, j)| k(from.row(i), to.row(j))).sum::<f64>() / count as f64
        };
        let others = |i: usize, j: usize| i != j;
        mean(a, a, &others, m * (m - 1)) + mean(b, b, &others, n * (n - 1)) - 2.0 * mean(a, b, &|_, _| true, m * n)
    }

    #[test]
    fn the_estimate_and_its_error_are_those_of_the_double_loops() {
        let (a, b) = (whole_numbers(9, 3, 3), whole_numbers(6, 3, 4));
        let found = distance(&KernelSet::of(a.clone()), &KernelSet::of(b.clone()));
        assert!((found.value - by_definition(&a, &b)).abs() < 1e-9 * found.value.abs());
        let without = |set: &Features, left_out: usize| {
            set.select(&(0..set.len()).filter(|&index| index != left_out).collect::<Vec<_>>())
        };
        let variance = jackknife((0..9).map(|i| by_definition(&without(&a, i), &b)).collect())
            + jackknife((0..6).map(|j| by_definition(&a, &without(&b, j))).collect());
        assert!((found.error - variance.sqrt()).abs() < 1e-9 * found.error, "{found:?} {}", variance.sqrt());
    }

    /// Values of +1 and -1 in one dimension: the kernel is 8 where two are equal and 0 elsewhere, so the distance is
    /// `8 (P(x = x') + P(y = y') - 2 P(x = y)) = 16 (p_a - p_b)^2`, with `p` the probability of +1.
    #[test]
    fn coins_have_the_closed_form_and_the_error_is_the_spread_over_repetitions() {
        let coins = |n: usize, heads: f64, seed: u64| {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut unit = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 11) as f64 / (1u64 << 53) as f64
            };
            KernelSet::of(Features {
                values: (0..n).map(|_| if unit() < heads { 1.0 } else { -1.0 }).collect(),
                dims: 1,
            })
        };
        let wanted = 16.0 * (0.7f64 - 0.4).powi(2);
        let runs: Vec<Estimate> =
            (0..200).map(|run| distance(&coins(150, 0.7, 2 * run + 1), &coins(250, 0.4, 2 * run + 2))).collect();
        let mean = runs.iter().map(|run| run.value).sum::<f64>() / 200.0;
        let spread = (runs.iter().map(|run| (run.value - mean).powi(2)).sum::<f64>() / 199.0).sqrt();
        let error = runs.iter().map(|run| run.error).sum::<f64>() / 200.0;
        // Four standard errors of a mean of 200, and 20 % for the spread of 200 values.
        assert!((mean - wanted).abs() < 4.0 * spread / 200f64.sqrt(), "{mean} {wanted}");
        assert!((error / spread - 1.0).abs() < 0.2, "error {error}, spread {spread}");
    }
}
