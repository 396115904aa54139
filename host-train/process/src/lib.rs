//! The diffusion process in f64: what training and the likelihood need of it without a tensor library.
//!
//! Timesteps are indices `0..T` as in [`mote_core::schedule`]: index 0 is the papers' `t = 1`.

mod assignment;
mod bound;
pub mod gaussian;
mod schedule_file;
mod weighting;

pub use assignment::assign;
pub use bound::{Bound, BoundStep, ReverseVariance, Terms};
pub use schedule_file::{ScheduleFileError, read_betas};
pub use weighting::Weighting;
