//! Measures of sample sets equal their papers' definitions, computed in numpy (`golden/measures.txt`, made by
//! `golden/measures.py`, where the two sets are).

use mote_measure::features::Features;
use mote_measure::frechet::{self, Gaussian};
use mote_measure::kernel::{self, KernelSet};
use mote_measure::manifold::Manifold;
use mote_measure::neighbours::{mean_pairwise_distance, nearest};

const GOLDEN: &str = include_str!("../golden/measures.txt");

fn golden(name: &str) -> Vec<f64> {
    let line = GOLDEN.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no line {name}"));
    line.split_whitespace().map(|value| value.parse().unwrap()).collect()
}

/// `count` vectors of 4 values.
fn features(count: usize, value: impl Fn(f64, f64) -> f64) -> Features {
    let values = (0..4 * count).map(|index| value((index / 4) as f64, (index % 4) as f64) as f32).collect();
    Features { values, dims: 4 }
}

fn real() -> Features {
    features(40, |i, j| (1.7 * i + 2.3 * j).sin() + 0.3 * (0.9 * i * j).cos())
}

fn samples() -> Features {
    features(50, |i, j| 0.9 * (1.1 * i + 1.9 * j + 0.4).sin() + 0.2 * (0.7 * i * j).cos())
}

fn assert_near(name: &str, found: &[f64]) {
    let expected = golden(name);
    assert_eq!(found.len(), expected.len(), "{name}");
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0), "{name}: {found}, not {expected}");
    }
}

#[test]
fn distances_of_distributions_equal_those_of_numpy() {
    let [real, samples] = [real(), samples()];
    assert_near("frechet", &[frechet::distance(&Gaussian::fit(&real), &Gaussian::fit(&samples))]);
    assert_near("kernel", &[kernel::distance(&KernelSet::of(real), &KernelSet::of(samples)).value]);
}

#[test]
fn precision_recall_density_and_coverage_equal_those_of_numpy() {
    let found = Manifold::overlap(&Manifold::of(real()), &Manifold::of(samples()));
    assert_near("overlap", &[found.precision, found.recall, found.density, found.coverage]);
}

#[test]
fn nearest_neighbours_equal_those_of_numpy() {
    let found = nearest(&samples(), &real());
    let mean = found.iter().map(|neighbour| neighbour.distance).sum::<f64>() / found.len() as f64;
    let indices = found.iter().take(10).map(|neighbour| neighbour.index as f64);
    assert_near("nearest", &[mean].into_iter().chain(indices).collect::<Vec<_>>());
    assert_near("pairwise", &[mean_pairwise_distance(&samples())]);
}
