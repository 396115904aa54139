//! Measures and pictures of sample sets.

pub mod axes;
pub mod canvas;
pub mod comparison;
pub mod confusion;
pub mod features;
pub mod frechet;
pub mod histograms;
pub mod kernel;
pub mod loss_by_noise;
pub mod manifold;
pub mod neighbours;
pub mod noise_levels;
pub mod npy;
pub mod plot;
mod products;
pub mod scatter;
pub mod sheet;
pub mod signals;
