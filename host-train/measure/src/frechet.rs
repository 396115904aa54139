//! Fréchet distance between two Gaussians fitted to feature vectors.
//!
//! `d^2 = |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1^1/2 S2 S1^1/2)^1/2)` (Dowson and Landau 1982; FID: Heusel et al.
//! 2017, eq. 6), all in f64.

use nalgebra::{DMatrix, DVector, SymmetricEigen};

use super::features::Features;

/// A mean and a covariance.
#[derive(Debug, Clone, PartialEq)]
pub struct Gaussian {
    /// `[dims]`.
    pub mean: DVector<f64>,
    /// `[dims, dims]`, symmetric.
    pub covariance: DMatrix<f64>,
}

impl Gaussian {
    /// The sample mean and the unbiased sample covariance (divided by n - 1).
    ///
    /// # Panics
    /// With fewer than two vectors.
    pub fn fit(features: &Features) -> Self {
        let n = features.len();
        assert!(n >= 2, "a covariance needs two vectors, got {n}");
        let values = features.values.iter().copied().map(f64::from);
        let mut centered = DMatrix::from_iterator(features.dims, n, values).transpose();
        let mean = centered.row_mean().transpose();
        for mut row in centered.row_iter_mut() {
            row -= mean.transpose();
        }
        // Many times quicker than `tr_mul`, which takes inner products one by one.
        let covariance = centered.transpose() * &centered / (n - 1) as f64;
        Self { mean, covariance }
    }
}

/// The squared Fréchet distance, as FID is reported; 0 for equal Gaussians.
pub fn distance(a: &Gaussian, b: &Gaussian) -> f64 {
    let root = square_root(&a.covariance);
    let cross = &root * &b.covariance * &root;
    let cross_root_trace: f64 = eigen(&cross).eigenvalues.iter().map(|value| value.max(0.0).sqrt()).sum();
    (&a.mean - &b.mean).norm_squared() + a.covariance.trace() + b.covariance.trace() - 2.0 * cross_root_trace
}

/// The symmetric square root; eigenvalues that rounding made negative count as 0.
fn square_root(matrix: &DMatrix<f64>) -> DMatrix<f64> {
    let SymmetricEigen { eigenvectors, eigenvalues } = eigen(matrix);
    let scaled = &eigenvectors * DMatrix::from_diagonal(&eigenvalues.map(|value| value.max(0.0).sqrt()));
    scaled * eigenvectors.transpose()
}

/// Eigenvalues and vectors of a matrix that is symmetric but for rounding.
fn eigen(matrix: &DMatrix<f64>) -> SymmetricEigen<f64, nalgebra::Dyn> {
    SymmetricEigen::new((matrix + matrix.transpose()) * 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaussian(mean: &[f64], covariance: &[f64]) -> Gaussian {
        let dims = mean.len();
        Gaussian { mean: DVector::from_row_slice(mean), covariance: DMatrix::from_row_slice(dims, dims, covariance) }
    }

    #[test]
    fn commuting_covariances_have_the_closed_form() {
        // Diagonal: sum of (m1 - m2)^2 + (s1 - s2)^2.
        let a = gaussian(&[1.0, 2.0, 3.0], &[4.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 0.25]);
        let b = gaussian(&[0.0, 2.0, 5.0], &[1.0, 0.0, 0.0, 0.0, 16.0, 0.0, 0.0, 0.0, 0.25]);
        let expected = (1.0 + 4.0) + ((2.0f64 - 1.0).powi(2) + (3.0f64 - 4.0).powi(2));
        assert!((distance(&a, &b) - expected).abs() < 1e-12);
        assert!((distance(&b, &a) - expected).abs() < 1e-12);
        assert!(distance(&a, &a).abs() < 1e-12);
    }

    #[test]
    fn two_by_two_covariances_that_do_not_commute_have_the_closed_form() {
        // For 2x2, tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)), with M similar to S1 S2.
        let (s1, s2) = ([2.0, 0.6, 0.6, 1.0], [1.0, -0.4, -0.4, 3.0]);
        let trace = s1[0] * s2[0] + s1[1] * s2[2] + s1[2] * s2[1] + s1[3] * s2[3];
        let determinant: f64 = (s1[0] * s1[3] - s1[1] * s1[2]) * (s2[0] * s2[3] - s2[1] * s2[2]);
        let expected = 7.0 - 2.0 * (trace + 2.0 * determinant.sqrt()).sqrt();
        let found = distance(&gaussian(&[0.0; 2], &s1), &gaussian(&[0.0; 2], &s2));
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    }

    #[test]
    fn a_singular_covariance_is_no_obstacle() {
        let flat = gaussian(&[0.0, 0.0], &[1.0, 0.0, 0.0, 0.0]);
        let round = gaussian(&[0.0, 0.0], &[1.0, 0.0, 0.0, 1.0]);
        assert!((distance(&flat, &round) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_fit_is_the_sample_mean_and_the_unbiased_covariance() {
        let features = Features { values: vec![1.0, 0.0, 3.0, 4.0, 5.0, 2.0], dims: 2 };
        let fit = Gaussian::fit(&features);
        assert_eq!((fit.mean[0], fit.mean[1]), (3.0, 2.0));
        let expected = DMatrix::from_row_slice(2, 2, &[4.0, 2.0, 2.0, 4.0]);
        assert!((fit.covariance - expected).norm() < 1e-12);
    }
}
