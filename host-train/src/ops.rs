//! The few tensor operations that training spends its time in, with kernels of our own.
//!
//! [`DenoiserBackend`] gives each a definition in burn's operations: what NdArray runs, and the reference. burn-flex
//! (`mote-train-kernels`) and burn-cuda (`mote-train-gpu-kernels`) replace them, forward and backward: a training step is
//! several times faster than with burn's own, and the sums over a batch have a fixed order, whatever the threads do.
//!
//! What a training step does outside the network is here, too, for backends on which each of burn's operations is a kernel
//! launch: the optimizer's step and the random numbers.

#[cfg(feature = "cuda")]
pub mod cuda;
mod flex;
mod recompute;

use burn::tensor::activation::silu;
use burn::tensor::backend::Backend;
use burn::tensor::module::{conv2d, interpolate};
use burn::tensor::ops::{ConvOptions, InterpolateMode, InterpolateOptions};
use burn::tensor::{Tensor, TensorData};
use mote_core::noise::{Philox, normal_q12};
use mote_core::quant::STATE_ONE;
use rand::Rng;

use crate::peer::{Left, Peer};

pub use mote_train_kernels::GROUP_NORM_EPSILON;
pub use recompute::{checkpointing, recomputed};

/// The normal number of a word of the generator: [`normal_q12`] over 4096.
pub(crate) fn normal(word: u32) -> f32 {
    f32::from(normal_q12(word)) / f32::from(STATE_ONE)
}

/// A backend that can run and train the denoiser. The provided operations are burn's.
pub trait DenoiserBackend: Backend {
    /// Whether operations are queued, so that reading a number waits for all that were asked for before it.
    const QUEUES: bool = false;

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

    /// One step of AdamW along `gradient`, scaled to a norm of at most [`AdamWStep::clip`], and of all averages; the state
    /// after it, and the gradient's norm before it was scaled, `[1]`. Nothing here waits for the device.
    ///
    /// With `g = gradient min(1, clip / (norm + 1e-6))` and every factor a number of `step`:
    ///
    /// - `first <- beta1 first + (1 - beta1) g`
    /// - `second <- beta2 second + (1 - beta2) g^2`
    /// - `parameters <- (1 - rate weight_decay) parameters - rate correction1 first / (sqrt(correction2 second) + 1e-8)`
    /// - `average <- keep average + (1 - keep) parameters`, each average with its own `keep`
    ///
    /// # Shapes
    /// - gradient and every vector of the state: `[parameters]`, f32
    fn adamw(
        state: AdamWState<Self>,
        gradient: Tensor<Self, 1>,
        step: &AdamWStep,
    ) -> (AdamWState<Self>, Tensor<Self, 1>) {
        let AdamWState { parameters, first, second, averages } = state;
        let ([beta1, beta2], [correction1, correction2]) = (step.betas, step.corrections);
        let norm = norm(&gradient);
        let gradient = gradient * (norm.clone().add_scalar(1e-6).recip() * step.clip).clamp_max(1.0);
        let second = second * beta2 + gradient.clone() * gradient.clone() * (1.0 - beta2);
        let first = first * beta1 + gradient * (1.0 - beta1);
        let direction = first.clone() * correction1 / ((second.clone() * correction2).sqrt() + ADAMW_EPSILON);
        let parameters = parameters * (1.0 - step.rate * step.weight_decay) - direction * step.rate;
        let average = |(average, &keep): (Tensor<Self, 1>, &f64)| average * keep + parameters.clone() * (1.0 - keep);
        let averages = averages.into_iter().zip(&step.keep).map(average).collect();
        (AdamWState { parameters, first, second, averages }, norm)
    }

    /// The sum of the vectors that all workers give, on each worker's device; waits for those that are late. Every worker
    /// gets the same bits, and gets them again in another run: the order of the sum is that of the ranks, or fixed otherwise.
    ///
    /// # Errors
    /// If another worker has stopped.
    ///
    /// # Shapes
    /// - vector and result: `[n]`, the same for all
    fn all_reduce(vector: Tensor<Self, 1>, peer: &Peer<Self>) -> Result<Tensor<Self, 1>, Left> {
        let vectors = peer.gather(vector)?.into_iter().map(|vector| vector.to_device(peer.device()));
        Ok(vectors.reduce(|sum, vector| sum + vector).expect("this worker's is one of them"))
    }

    /// Standard normal numbers, the same bits on every backend: element i is [`normal_q12`] of word `begin + i` of the
    /// generator [`Philox`] under `seed`, over 4096; word w is word `w % 4` of its block `w / 4`.
    ///
    /// # Shapes
    /// `[count]`
    fn normals(seed: u64, begin: u128, count: usize, device: &Self::Device) -> Tensor<Self, 1> {
        let mut philox = Philox::new(seed);
        philox.seek(begin / 4);
        (0..begin % 4).for_each(|_| _ = philox.next_u32());
        let values: Vec<f32> = (0..count).map(|_| normal(philox.next_u32())).collect();
        Tensor::from_data(TensorData::new(values, [count]), device)
    }

    /// `residual` plus a convolution of stride 1; shapes as [`DenoiserBackend::conv`]'s.
    fn conv_add(
        x: Tensor<Self, 4>,
        weight: Tensor<Self, 4>,
        bias: Tensor<Self, 1>,
        residual: Tensor<Self, 4>,
    ) -> Tensor<Self, 4> {
        residual + Self::conv(x, weight, bias, [1; 2])
    }

    /// [`DenoiserBackend::group_norm_silu`] of `x` and, after its channels, of `skip`, with scale and shift.
    ///
    /// # Shapes
    /// - x, skip: `[batch, channels, height, width]`, each with half of the groups; the result has the channels of both
    /// - gain, offset: `[all channels]`
    /// - affine: `[batch, 2 * all channels]`, scale then shift: the gain is `gain (1 + scale)`, the offset
    ///   `offset (1 + scale) + shift`
    fn norm_silu(
        x: Tensor<Self, 4>,
        skip: Option<Tensor<Self, 4>>,
        [gain, offset]: [Tensor<Self, 1>; 2],
        affine: Option<Tensor<Self, 2>>,
        groups: usize,
    ) -> Tensor<Self, 4> {
        let x = match skip {
            Some(skip) => Tensor::cat(vec![x, skip], 1),
            None => x,
        };
        let [gain, offset] = match affine {
            Some(affine) => fold([gain, offset], affine),
            None => [gain.unsqueeze(), offset.unsqueeze()],
        };
        Self::group_norm_silu(x, gain, offset, groups)
    }

    /// Group normalization alone; shapes as [`DenoiserBackend::norm_silu`]'s.
    fn group_norm(x: Tensor<Self, 4>, [gain, offset]: [Tensor<Self, 1>; 2], groups: usize) -> Tensor<Self, 4> {
        group_norm(x, gain.unsqueeze(), offset.unsqueeze(), groups)
    }

    /// The vectors one behind the other.
    fn join(parts: Vec<Tensor<Self, 1>>) -> Tensor<Self, 1> {
        Tensor::cat(parts, 0)
    }

    /// The parts, of `lens` values each, that lie one behind the other in `vector`.
    fn split(vector: Tensor<Self, 1>, lens: &[usize]) -> Vec<Tensor<Self, 1>> {
        let mut start = 0;
        let part = |&len: &usize| {
            let part = vector.clone().narrow(0, start, len);
            start += len;
            part
        };
        lens.iter().map(part).collect()
    }

    /// A linear layer: `x weight + bias`.
    ///
    /// # Shapes
    /// x: `[batch, in]`; weight: `[in, out]`; bias: `[out]`; result: `[batch, out]`
    fn linear_layer(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 1>) -> Tensor<Self, 2> {
        x.matmul(weight) + bias.unsqueeze()
    }

    /// `x` as this backend keeps activations: a type of fewer bits, channels last, or as it is.
    fn into_activations(x: Tensor<Self, 4>) -> Tensor<Self, 4> {
        x
    }

    /// Activations as f32.
    fn from_activations(x: Tensor<Self, 4>) -> Tensor<Self, 4> {
        x
    }
}

/// Gain and offset, `[channels]`, with scale and shift folded in, each `[batch, channels]`; `affine` as
/// [`DenoiserBackend::norm_silu`]'s.
pub fn fold<B: Backend>([gain, offset]: [Tensor<B, 1>; 2], affine: Tensor<B, 2>) -> [Tensor<B, 2>; 2] {
    let channels = gain.dims()[0];
    let scale = affine.clone().narrow(1, 0, channels) + 1.0;
    let shift = affine.narrow(1, channels, channels);
    [scale.clone() * gain.unsqueeze(), scale * offset.unsqueeze() + shift]
}

/// Added to the root of the second moment in [`DenoiserBackend::adamw`].
pub const ADAMW_EPSILON: f64 = 1e-8;

/// What a step of [`DenoiserBackend::adamw`] changes: vectors `[parameters]`.
#[derive(Debug, Clone)]
pub struct AdamWState<B: Backend> {
    /// The weights being trained.
    pub parameters: Tensor<B, 1>,
    /// First moment.
    pub first: Tensor<B, 1>,
    /// Second moment.
    pub second: Tensor<B, 1>,
    /// Averages of the weights.
    pub averages: Vec<Tensor<B, 1>>,
}

/// The numbers of one step of [`DenoiserBackend::adamw`].
#[derive(Debug, Clone, PartialEq)]
pub struct AdamWStep {
    /// Learning rate.
    pub rate: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// `1 / (1 - beta^steps)` for each moment, the steps counted with this one: it began at zero.
    pub corrections: [f64; 2],
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Greatest norm of the gradient.
    pub clip: f64,
    /// What each average keeps of itself.
    pub keep: Vec<f64>,
}

/// The Euclidean norm of a vector, `[1]`.
pub fn norm<B: Backend>(vector: &Tensor<B, 1>) -> Tensor<B, 1> {
    (vector.clone() * vector.clone()).sum().sqrt()
}

/// [`DenoiserBackend::group_norm_silu`] without the activation function.
pub(crate) fn group_norm<B: Backend>(
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

#[cfg(test)]
mod tests;
