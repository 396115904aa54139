//! Measures and pictures of sample sets.

pub mod canvas;
pub mod frechet;
pub mod npy;
pub mod plot;
pub mod sheet;
