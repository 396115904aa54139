//! The few tensor operations that training spends its time in, with kernels of our own on the CPU.
//!
//! [`DenoiserBackend`] gives each a definition in burn's operations: what NdArray and a GPU run, and the reference.
//! burn-flex replaces them with `kernel`, forward and backward: a training step is several times faster than with
//! burn-flex's own convolution gradients, and the sums over a batch have a fixed order, whatever the threads do.

mod flex;

use burn::tensor::Tensor;
use burn::tensor::activation::silu;
use burn::tensor::backend::Backend;
use burn::tensor::module::{conv2d, interpolate};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};

pub use mote_train_kernels::GROUP_NORM_EPSILON;

/// A backend that can run and train the denoiser. The provided operations are burn's.
pub trait DenoiserBackend: Backend {
    /// Convolution with padding `rows / 2` and `columns / 2`.
    ///
    /// # Shapes
    /// - x: `[batch, in, height, width]`
    /// - weight: `[out, in, rows, columns]`, each 1 or 3; bias: `[out]`
    /// - result: `[batch, out, ceil(height / stride[0]), ceil(width / stride[1])]`; a stride is 1, or 2 where the kernel's
    ///   side is 3
    fn conv(x: Tensor<Self, 4>, weight: Tensor<Self, 4>, bias: Tensor<Self, 1>, stride: [usize; 2]) -> Tensor<Self, 4> {
        let [_, _, rows, columns] = weight.dims();
        conv2d(x, weight, Some(bias), ConvOptions::new(stride, [rows / 2, columns / 2], [1; 2], 1))
    }

    /// `silu(gain * (x - mean) / sqrt(variance + epsilon) + offset)`, mean and variance over each group of channels.
    ///
    /// # Shapes
    /// - x and result: `[batch, channels, height, width]`
    /// - gain, offset: `[batch, channels]`, or `[1, channels]` for the whole batch
    fn group_norm_silu(
        x: Tensor<Self, 4>,
        gain: Tensor<Self, 2>,
        offset: Tensor<Self, 2>,
        groups: usize,
    ) -> Tensor<Self, 4> {
        silu(group_norm(x, gain, offset, groups))
    }

    /// Each pixel becomes `down` x 2 pixels; `down` is 1 or 2.
    ///
    /// # Shapes
    /// `[batch, channels, height, width]` to `[batch, channels, down * height, 2 * width]`
    fn upsample(x: Tensor<Self, 4>, down: usize) -> Tensor<Self, 4> {
        let [_, _, height, width] = x.dims();
        interpolate(x, [down * height, 2 * width], InterpolateOptions::new(InterpolateMode::Nearest))
    }
}

/// [`DenoiserBackend::group_norm_silu`] without the activation function.
pub fn group_norm<B: Backend>(
    x: Tensor<B, 4>,
    gain: Tensor<B, 2>,
    offset: Tensor<B, 2>,
    groups: usize,
) -> Tensor<B, 4> {
    let shape = x.dims();
    let [batch, channels, height, width] = shape;
    let grouped = x.reshape([batch, groups, channels / groups * height * width]);
    let centered = grouped.clone() - grouped.mean_dim(2);
    let variance = (centered.clone() * centered.clone()).mean_dim(2);
    let normal = (centered / (variance + GROUP_NORM_EPSILON).sqrt()).reshape(shape);
    normal * gain.unsqueeze_dims(&[2, 3]) + offset.unsqueeze_dims(&[2, 3])
}

impl DenoiserBackend for burn::backend::NdArray {}
impl DenoiserBackend for burn::backend::Autodiff<burn::backend::NdArray> {}

#[cfg(feature = "cuda")]
impl DenoiserBackend for burn_cuda::Cuda {}
#[cfg(feature = "cuda")]
impl DenoiserBackend for burn::backend::Autodiff<burn_cuda::Cuda> {}

#[cfg(test)]
mod tests;
