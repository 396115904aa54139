//! How good samples are: a fixed classifier (the judge), Fréchet distance in its features, the report of a run.

pub mod canvas;
pub mod draw;
pub mod frechet;
pub mod judge;
pub mod npy;
pub mod plot;
pub mod report;
pub mod score;
pub mod sheet;

/// Seed of every sample set that is measured: sample i of a set is `(SAMPLING_SEED, i)` with class `i % classes`.
pub const SAMPLING_SEED: u64 = 1;
