//! How badly a model of normal data explains a sample.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::Reverse;
use crate::trainer::StepRandom;

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

/// Where [`roc_auc`] lies in the middle 95 % of `draws` draws with replacement, of as many recordings of each side as there are
/// (Efron, *Bootstrap Methods*, 1979, percentiles): samples of one recording are drawn together, as they are alike. Both sides:
/// the normal samples, then the anomalous ones, with the recording of each.
///
/// # Panics
/// If a side is empty or there are no draws.
pub fn roc_auc_interval(scores: [&[f64]; 2], recordings: [&[usize]; 2], seed: u64, draws: u64) -> [f64; 2] {
    let of_recordings = |side: usize| -> Vec<Vec<f64>> {
        let mut found = std::collections::BTreeMap::<usize, Vec<f64>>::new();
        for (&score, &recording) in scores[side].iter().zip(recordings[side]) {
            found.entry(recording).or_default().push(score);
        }
        found.into_values().collect()
    };
    let [normal, anomalous] = [0, 1].map(of_recordings);
    let area = |a: &Vec<f64>, b: &Vec<f64>| roc_auc(a, b) * (a.len() * b.len()) as f64;
    let areas: Vec<Vec<f64>> = normal.iter().map(|a| anomalous.iter().map(|b| area(a, b)).collect()).collect();
    let mut found: Vec<f64> = (0..draws)
        .map(|draw| {
            let random = &mut StepRandom::new(seed, draw);
            let mut pick = |side: &[Vec<f64>]| (0..side.len()).map(|_| random.below(side.len())).collect::<Vec<_>>();
            let (a, b) = (pick(&normal), pick(&anomalous));
            let count = |picks: &[usize], side: &[Vec<f64>]| picks.iter().map(|&at| side[at].len()).sum::<usize>();
            let pairs = count(&a, &normal) * count(&b, &anomalous);
            a.iter().flat_map(|&a| b.iter().map(move |&b| (a, b))).map(|(a, b)| areas[a][b]).sum::<f64>() / pairs as f64
        })
        .collect();
    found.sort_unstable_by(f64::total_cmp);
    [0.025, 0.975].map(|share| found[(share * (found.len() - 1) as f64).round() as usize])
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

    /// By ranks, those of equal scores their mean (Mann, Whitney 1947): `(sum of the anomalous ranks - m (m + 1) / 2) / (n m)`.
    #[test]
    fn the_area_is_the_rank_sums() {
        let score = |at: usize, phase: f64| ((at as f64 * 0.7 + phase).sin() * 4.0).round();
        let normal: Vec<f64> = (0..40).map(|at| score(at, 0.0)).collect();
        let anomalous: Vec<f64> = (0..25).map(|at| score(at, 0.4) + 1.0).collect();
        let all: Vec<f64> = [&normal[..], &anomalous].concat();
        let rank = |score: &f64| {
            let less = all.iter().filter(|other| *other < score).count() as f64;
            let equal = all.iter().filter(|other| *other == score).count() as f64;
            less + (equal + 1.0) / 2.0
        };
        let sum = anomalous.iter().map(rank).sum::<f64>();
        let wanted = (sum - 25.0 * 26.0 / 2.0) / (40.0 * 25.0);
        assert!((roc_auc(&normal, &anomalous) - wanted).abs() < 1e-12 && wanted > 0.55, "{wanted}");
    }

    #[test]
    fn the_interval_is_of_recordings_not_of_their_samples() {
        let (normal, anomalous) = ([0.0, 1.0, 2.0, 4.0, 5.0], [1.0, 3.0, 6.0]);
        let all = [0, 1, 2, 3, 4];
        let single = roc_auc_interval([&normal, &anomalous], [&all, &all[..3]], 1, 500);
        assert!(single[0] < 0.6 && single[1] > 0.9 && single[1] <= 1.0, "{single:?}");
        // Ten samples alike in each recording say no more.
        let copies = |scores: &[f64]| scores.iter().flat_map(|&score| [score; 10]).collect::<Vec<_>>();
        let clusters = |count: usize| (0..count).flat_map(|cluster| [cluster; 10]).collect::<Vec<_>>();
        let copied = roc_auc_interval([&copies(&normal), &copies(&anomalous)], [&clusters(5), &clusters(3)], 1, 500);
        assert!(copied.iter().zip(single).all(|(a, b)| (a - b).abs() < 1e-12), "{copied:?}, not {single:?}");
        // One recording a side is always drawn.
        let one = roc_auc_interval([&normal, &anomalous], [&[0; 5], &[0; 3]], 1, 50);
        assert!(one.iter().all(|area| (area - roc_auc(&normal, &anomalous)).abs() < 1e-12), "{one:?}");
    }

    #[test]
    fn scores_are_counted_in_deviations_of_the_normal_ones() {
        let normal = [vec![1.0, 3.0], vec![10.0, 10.2]];
        let found = standardized(&[vec![2.0, 5.0], vec![10.1, 10.1]], &normal);
        assert!(found[0].abs() < 1e-9 && (found[1] - 1.5).abs() < 1e-9, "{found:?}");
    }
}
