//! How good samples are: a fixed classifier (the judge), distances in its features, the report of a run.

pub mod draw;
pub mod evaluation;
pub mod judge;
pub mod report;
pub mod score;

pub use mote_measure::{
    canvas, confusion, features, frechet, histograms, kernel, loss_by_noise, manifold, neighbours, noise_levels, npy,
    plot, sheet,
};

/// Seed of every sample set that is measured: sample i of a set is `(SAMPLING_SEED, i)` with class `i % classes`.
pub const SAMPLING_SEED: u64 = 1;
