//! Distances between samples and to the training set: variety and memorization.

use super::features::Features;
use super::products::squared_distances;

/// A vector of a set, and how far it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Its number in the set.
    pub index: usize,
    /// Its Euclidean distance.
    pub distance: f64,
}

/// The nearest vector of `set` to each query; of equally near ones the first.
///
/// # Panics
/// If `set` is empty or its vectors have another length.
pub fn nearest(queries: &Features, set: &Features) -> Vec<Neighbour> {
    squared_distances(queries, set, |_, distances| {
        let best =
            (0..distances.len()).reduce(|best, index| if distances[index] < distances[best] { index } else { best });
        let index = best.expect("a set to search");
        Neighbour { index, distance: distances[index].sqrt() }
    })
}

/// The mean Euclidean distance of all pairs; 0 with fewer than two vectors.
pub fn mean_pairwise_distance(features: &Features) -> f64 {
    let n = features.len();
    if n < 2 {
        return 0.0;
    }
    let sums = squared_distances(features, features, |index, distances| {
        // A distance to itself is 0 but for rounding.
        distances[index] = 0.0;
        distances.iter().map(|distance| distance.sqrt()).sum::<f64>()
    });
    sums.iter().sum::<f64>() / (n * (n - 1)) as f64
}

/// Whether samples lie nearer to the training set than new real ones do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Copying {
    /// Probability that a random sample is nearer to its nearest training vector than a random held-out one is to its own,
    /// ties counting half: 0.5 for new samples of the same distribution, 1 for copies.
    pub nearer: f64,
    /// The standard deviation of `nearer` where nothing is copied.
    pub deviation: f64,
}

/// The Mann-Whitney test of Meehan et al. (*A Non-Parametric Test to Detect Data-Copying in Generative Models*, 2020,
/// section 4, over the whole space); their z-score is `(0.5 - nearer) / deviation`.
///
/// # Panics
/// Without distances.
pub fn copying(samples: &[Neighbour], held_out: &[Neighbour]) -> Copying {
    assert!(!samples.is_empty() && !held_out.is_empty(), "nothing to compare");
    let mut sorted: Vec<f64> = held_out.iter().map(|neighbour| neighbour.distance).collect();
    sorted.sort_unstable_by(f64::total_cmp);
    let (m, n) = (samples.len() as f64, sorted.len() as f64);
    let farther = |neighbour: &Neighbour| {
        let below = sorted.partition_point(|&distance| distance < neighbour.distance);
        let not_above = sorted.partition_point(|&distance| distance <= neighbour.distance);
        n - 0.5 * (below + not_above) as f64
    };
    let pairs: f64 = samples.iter().map(farther).sum();
    Copying { nearer: pairs / (m * n), deviation: ((m + n + 1.0) / (12.0 * m * n)).sqrt() }
}

#[cfg(test)]
mod tests {
    use super::super::products::tests::{squared, whole_numbers};
    use super::*;

    #[test]
    fn the_nearest_is_the_double_loops_and_a_copy_has_distance_zero() {
        let (queries, set) = (whole_numbers(50, 4, 9), whole_numbers(600, 4, 10));
        for (query, found) in nearest(&queries, &set).iter().enumerate() {
            let distance = |index: usize| squared(queries.row(query), set.row(index));
            let best = (0..600).min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap();
            assert_eq!((found.index, found.distance), (best, distance(best).sqrt()));
        }
        let copies = nearest(&set.select(&[599, 3]), &set);
        assert!(copies.iter().all(|copy| copy.distance == 0.0) && copies[1].index <= 3);
    }

    #[test]
    fn the_mean_distance_of_pairs_is_the_double_loops() {
        let set = whole_numbers(70, 3, 11);
        let pairs = (0..70).flat_map(|i| (0..i).map(move |j| (i, j)));
        let sum: f64 = pairs.map(|(i, j)| squared(set.row(i), set.row(j)).sqrt()).sum();
        assert!((mean_pairwise_distance(&set) - sum / (70.0 * 69.0 / 2.0)).abs() < 1e-12);
        assert_eq!(mean_pairwise_distance(&set.select(&[4])), 0.0);
        assert_eq!(mean_pairwise_distance(&set.select(&[4, 4, 4])), 0.0);
    }

    #[test]
    fn copies_are_nearer_than_held_out_ones_and_new_samples_are_not() {
        let at = |distances: &[f64]| -> Vec<Neighbour> {
            distances.iter().map(|&distance| Neighbour { index: 0, distance }).collect()
        };
        assert_eq!(copying(&at(&[0.0, 0.1]), &at(&[1.0, 2.0, 3.0])).nearer, 1.0);
        assert_eq!(copying(&at(&[2.0, 2.0]), &at(&[1.0, 2.0, 3.0])).nearer, 0.5);
        // 1.5 is nearer than 2 and 3; 2.5 than 3 alone.
        assert_eq!(copying(&at(&[1.5, 2.5]), &at(&[1.0, 2.0, 3.0])).nearer, 0.5);
        let found = copying(&at(&[4.0, 5.0]), &at(&[1.0, 2.0, 3.0]));
        assert_eq!((found.nearer, found.deviation), (0.0, (6.0f64 / 72.0).sqrt()));
    }
}
