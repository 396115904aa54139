//! Convolution, group normalization and upsampling on slices of f32, forward and backward.
//!
//! Parallel over fixed chunks of images; what is summed over a batch is summed a chunk at a time, chunks in order.

pub mod conv;
pub mod group_norm;
mod lanes;
pub mod upsample;

/// Added to the variance of a group.
pub const GROUP_NORM_EPSILON: f64 = 1e-5;
