//! How badly a model of normal data explains a sample.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::Reverse;

/// Reconstruction errors: each sample is noised to the level of each of `first_rows` and denoised by the rows from there; the
/// score is the mean squared difference, `[first_rows][batch]`. Little noise finds what is fine, much noise what is large, so
/// several levels are taken (Graham et al., *Denoising Diffusion Models for Out-of-Distribution Detection*, 2023).
pub fn reconstruction_scores<B: Backend>(
    reverse: &Reverse<'_, B>,
    data: &Tensor<B, 4>,
    first_rows: &[usize],
) -> Vec<Vec<f64>> {
    let score = |&first_row: &usize| {
        let difference = reverse.run(reverse.noised(data.clone(), first_row), first_row) - data.clone();
        let squares = (difference.clone() * difference).mean_dim(1).mean_dim(2).mean_dim(3);
        let values: Vec<f32> = squares.into_data().to_vec().expect("f32 backend");
        values.into_iter().map(f64::from).collect()
    };
    first_rows.iter().map(score).collect()
}

/// The mean over levels of how many standard deviations each score lies above the mean of the normal samples' at that level
/// (Graham et al. 2023, section 3.3). Both are `[levels][samples]`; one value a sample.
pub fn standardized(scores: &[Vec<f64>], normal: &[Vec<f64>]) -> Vec<f64> {
    let mut sums = vec![0.0; scores.first().map_or(0, Vec::len)];
    for (level, normal) in scores.iter().zip(normal) {
        let count = normal.len() as f64;
        let mean = normal.iter().sum::<f64>() / count;
        let variance = normal.iter().map(|score| (score - mean) * (score - mean)).sum::<f64>() / count;
        for (sum, score) in sums.iter_mut().zip(level) {
            *sum += (score - mean) / variance.sqrt().max(1e-12) / scores.len() as f64;
        }
    }
    sums
}

/// The probability that an anomalous sample has the greater score than a normal one, ties counted half: the area under the
/// receiver operating characteristic (Hanley, McNeil 1982). 0.5 is chance.
pub fn roc_auc(normal: &[f64], anomalous: &[f64]) -> f64 {
    let wins = |&score: &f64| {
        let won = |other: &f64| if score > *other { 1.0 } else { 0.5 * f64::from(u8::from(score == *other)) };
        normal.iter().map(won).sum::<f64>()
    };
    anomalous.iter().map(wins).sum::<f64>() / (normal.len() * anomalous.len()) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_area_is_the_share_of_pairs_in_order() {
        assert_eq!(roc_auc(&[1.0, 2.0], &[3.0, 4.0]), 1.0);
        assert_eq!(roc_auc(&[3.0, 4.0], &[1.0, 2.0]), 0.0);
        assert_eq!(roc_auc(&[1.0, 3.0], &[2.0, 3.0]), 0.625);
    }

    #[test]
    fn scores_are_counted_in_deviations_of_the_normal_ones() {
        let normal = [vec![1.0, 3.0], vec![10.0, 10.2]];
        let found = standardized(&[vec![2.0, 5.0], vec![10.1, 10.1]], &normal);
        assert!(found[0].abs() < 1e-9 && (found[1] - 1.5).abs() < 1e-9, "{found:?}");
    }
}
