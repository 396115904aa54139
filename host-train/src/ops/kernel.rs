//! Convolution, group normalization and upsampling on slices of f32, forward and backward.
//!
//! Parallel over fixed chunks of images; what is summed over a batch is summed a chunk at a time, chunks in order.

pub(super) mod conv;
pub(super) mod group_norm;
mod lanes;
pub(super) mod upsample;
