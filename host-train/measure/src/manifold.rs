//! Fidelity and variety apart, from balls around the vectors of two sets.
//!
//! Precision and recall (Kynkäänniemi et al., *Improved Precision and Recall Metric for Assessing Generative Models*,
//! 2019, eqs. 1 to 3), with balls that reach the third nearest neighbour; density and coverage (Naeem et al., *Reliable
//! Fidelity and Diversity Metrics for Generative Models*, 2020, eqs. 3 and 4), with balls that reach the fifth. All four
//! depend on the number of vectors: compare values of equal numbers, and with the floor of that number.

use super::features::Features;
use super::products::squared_distances;

/// The neighbour whose distance is the radius for precision and recall.
const NEIGHBOUR: usize = 3;
/// The neighbour whose distance is the radius for density and coverage.
const DENSITY_NEIGHBOUR: usize = 5;

/// A set with a ball around each of its vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifold {
    features: Features,
    /// Squared distance of each vector to its third and its fifth nearest neighbour; to the last where there are fewer.
    radii: Vec<[f64; 2]>,
}

/// How samples lie to real ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overlap {
    /// Fraction of samples inside a ball of the real ones, 0 to 1: how many look real.
    pub precision: f64,
    /// Fraction of real ones inside a ball of the samples, 0 to 1: how many are within reach.
    pub recall: f64,
    /// Mean number of real balls a sample is in, divided by the neighbour's number; about 1 for real against real, more
    /// where samples crowd in dense places.
    pub density: f64,
    /// Fraction of real balls with a sample inside, 0 to 1.
    pub coverage: f64,
}

impl Manifold {
    /// Measures every vector's distance to its neighbours.
    ///
    /// # Panics
    /// With fewer than two vectors.
    pub fn of(features: Features) -> Self {
        assert!(features.len() >= 2, "a neighbour needs two vectors, got {}", features.len());
        let radii = squared_distances(&features, &features, |index, distances| {
            // The vector itself goes to the end; the others are ordered as far as they are needed.
            let last = distances.len() - 1;
            distances.swap(index, last);
            let others = &mut distances[..last];
            let farthest = DENSITY_NEIGHBOUR.min(others.len()) - 1;
            let (nearer, &mut fifth, _) = others.select_nth_unstable_by(farthest, f64::total_cmp);
            nearer.sort_unstable_by(f64::total_cmp);
            [nearer.get(NEIGHBOUR - 1).copied().unwrap_or(fifth), fifth]
        });
        Self { features, radii }
    }

    /// Compares samples with real ones.
    pub fn overlap(real: &Self, samples: &Self) -> Overlap {
        let of_sample = squared_distances(&samples.features, &real.features, |_, distances| {
            let balls = |which: usize| {
                distances.iter().zip(&real.radii).filter(|(distance, radii)| **distance <= radii[which]).count()
            };
            (balls(0) > 0, balls(1))
        });
        let of_real = squared_distances(&real.features, &samples.features, |index, distances| {
            let reached = distances.iter().zip(&samples.radii).any(|(distance, radii)| *distance <= radii[0]);
            (reached, distances.iter().any(|distance| *distance <= real.radii[index][1]))
        });
        let (m, n) = (of_sample.len() as f64, of_real.len() as f64);
        let balls: usize = of_sample.iter().map(|sample| sample.1).sum();
        Overlap {
            precision: of_sample.iter().filter(|sample| sample.0).count() as f64 / m,
            recall: of_real.iter().filter(|real| real.0).count() as f64 / n,
            density: balls as f64 / (DENSITY_NEIGHBOUR as f64 * m),
            coverage: of_real.iter().filter(|real| real.1).count() as f64 / n,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::products::tests::{squared, whole_numbers};
    use super::*;

    /// Squared distance to the k-th nearest other vector, by sorting.
    fn radius(set: &Features, index: usize, k: usize) -> f64 {
        let others = (0..set.len()).filter(|&other| other != index);
        let mut distances: Vec<f64> = others.map(|other| squared(set.row(index), set.row(other))).collect();
        distances.sort_by(f64::total_cmp);
        distances[k - 1]
    }

    #[test]
    fn all_four_are_those_of_the_papers_formulas_in_double_loops() {
        let (real, samples) = (whole_numbers(80, 3, 5), whole_numbers(70, 3, 6));
        let found = Manifold::overlap(&Manifold::of(real.clone()), &Manifold::of(samples.clone()));
        let inside = |point: &[f32], set: &Features, k: usize| {
            (0..set.len()).filter(|&i| squared(point, set.row(i)) <= radius(set, i, k)).count()
        };
        let share = |points: &Features, set: &Features| {
            (0..points.len()).filter(|&i| inside(points.row(i), set, 3) > 0).count() as f64 / points.len() as f64
        };
        assert_eq!((found.precision, found.recall), (share(&samples, &real), share(&real, &samples)));
        let balls: usize = (0..70).map(|i| inside(samples.row(i), &real, 5)).sum();
        assert_eq!(found.density, balls as f64 / (5.0 * 70.0));
        let covered = (0..80).filter(|&i| (0..70).any(|j| squared(real.row(i), samples.row(j)) <= radius(&real, i, 5)));
        assert_eq!(found.coverage, covered.count() as f64 / 80.0);
        assert!(found.precision < 1.0 && found.recall < 1.0 && found.coverage < 1.0, "{found:?} tests little");
    }

    #[test]
    fn equal_sets_overlap_wholly_and_distant_ones_not_at_all() {
        let real = Manifold::of(whole_numbers(60, 2, 7));
        let same = Manifold::overlap(&real, &real);
        assert_eq!((same.precision, same.recall, same.coverage), (1.0, 1.0, 1.0));
        let mut far = whole_numbers(60, 2, 8);
        far.values.iter_mut().for_each(|value| *value += 1000.0);
        let none = Manifold::overlap(&real, &Manifold::of(far));
        assert_eq!(none, Overlap { precision: 0.0, recall: 0.0, density: 0.0, coverage: 0.0 });
    }

    #[test]
    fn samples_of_one_mode_of_two_are_precise_and_cover_half() {
        let cluster = |at: f32, n: usize| (0..n).map(move |index| at + index as f32 / 64.0);
        let real = Features { values: cluster(0.0, 40).chain(cluster(100.0, 40)).collect(), dims: 1 };
        let samples = Features { values: cluster(0.0, 80).map(|value| value / 2.0).collect(), dims: 1 };
        let found = Manifold::overlap(&Manifold::of(real), &Manifold::of(samples));
        assert_eq!((found.precision, found.recall, found.coverage), (1.0, 0.5, 0.5));
    }

    #[test]
    fn few_vectors_have_the_radius_of_the_farthest() {
        let three = Manifold::of(Features { values: vec![0.0, 1.0, 5.0], dims: 1 });
        assert_eq!(three.radii, [[25.0, 25.0], [16.0, 16.0], [25.0, 25.0]]);
    }
}
