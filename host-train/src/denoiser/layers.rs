//! Layers and their first values.

use burn::module::{Module, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use mote_core::noise::Philox;
use rand::Rng;

use crate::ops::{DenoiserBackend, recomputed};

/// Source of first values.
pub(super) struct Init<B: Backend> {
    random: Philox,
    device: B::Device,
}

/// First values of a layer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// Uniform within `1 / sqrt(inputs)`.
    Random,
    Zero,
}

impl<B: Backend> Init<B> {
    pub(super) fn new(seed: u64, device: &B::Device) -> Self {
        Self { random: Philox::new(seed), device: device.clone() }
    }

    pub(super) fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f32) -> Param<Tensor<B, D>> {
        let len = shape.iter().product();
        let unit = |word: u32| (word >> 8) as f32 / (1 << 23) as f32 - 1.0;
        let values: Vec<f32> = (0..len).map(|_| bound * unit(self.random.next_u32())).collect();
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), &self.device))
    }

    fn filled<const D: usize>(&self, shape: [usize; D], value: f32) -> Param<Tensor<B, D>> {
        Param::from_tensor(Tensor::full(shape, value, &self.device))
    }

    /// A weight of `inputs` values an output, and a bias.
    fn layer<const D: usize>(
        &mut self,
        shape: [usize; D],
        [inputs, outputs]: [usize; 2],
        start: Start,
    ) -> (Param<Tensor<B, D>>, Param<Tensor<B, 1>>) {
        let bound = 1.0 / (inputs as f32).sqrt();
        match start {
            Start::Random => (self.uniform(shape, bound), self.uniform([outputs], bound)),
            Start::Zero => (self.filled(shape, 0.0), self.filled([outputs], 0.0)),
        }
    }
}

/// A fully connected layer.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    /// `[in, out]`
    pub weight: Param<Tensor<B, 2>>,
    /// `[out]`
    pub bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> Linear<B> {
    pub(super) fn new(input: usize, output: usize, init: &mut Init<B>) -> Self {
        Self::start(input, output, Start::Random, init)
    }

    pub(super) fn start(input: usize, output: usize, start: Start, init: &mut Init<B>) -> Self {
        let (weight, bias) = init.layer([input, output], [input, output], start);
        Self { weight, bias }
    }
}

impl<B: DenoiserBackend> Linear<B> {
    /// `[batch, in]` to `[batch, out]`
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        B::linear_layer(x, self.weight.val(), self.bias.val())
    }
}

/// A convolution with padding `rows / 2` and `columns / 2`.
#[derive(Module, Debug)]
pub struct Conv<B: Backend> {
    /// `[out, in, rows, columns]`
    pub weight: Param<Tensor<B, 4>>,
    /// `[out]`
    pub bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> Conv<B> {
    pub(super) fn new(
        input: usize,
        output: usize,
        [rows, columns]: [usize; 2],
        start: Start,
        init: &mut Init<B>,
    ) -> Self {
        let (weight, bias) = init.layer([output, input, rows, columns], [input * rows * columns, output], start);
        Self { weight, bias }
    }

    /// By how much [`Conv::halve`] divides height and width, and [`Conv::double`] multiplies them.
    pub(super) fn factors(&self) -> [usize; 2] {
        let [_, _, rows, columns] = self.weight.dims();
        [rows, columns].map(|side| if side == 3 { 2 } else { 1 })
    }
}

impl<B: DenoiserBackend> Conv<B> {
    pub(super) fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        B::conv(x, self.weight.val(), self.bias.val(), [1; 2])
    }

    /// `residual` and the convolution of `x`.
    pub(super) fn add(&self, x: Tensor<B, 4>, residual: Tensor<B, 4>) -> Tensor<B, 4> {
        B::conv_add(x, self.weight.val(), self.bias.val(), residual)
    }

    /// With stride 2 where the kernel's side is 3.
    pub(super) fn halve(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        B::conv(x, self.weight.val(), self.bias.val(), self.factors())
    }

    /// Of an enlargement, to twice the side where the kernel's side is 3.
    pub(super) fn double(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [down, _] = self.factors();
        self.forward(recomputed(|| B::upsample(x, down)))
    }
}

/// Group normalization.
#[derive(Module, Debug)]
pub struct Norm<B: Backend> {
    /// `[channels]`
    pub gain: Param<Tensor<B, 1>>,
    /// `[channels]`
    pub bias: Param<Tensor<B, 1>>,
    /// Groups of all channels together.
    pub groups: usize,
}

impl<B: Backend> Norm<B> {
    pub(super) fn new(channels: usize, groups: usize, init: &mut Init<B>) -> Self {
        Self { gain: init.filled([channels], 1.0), bias: init.filled([channels], 0.0), groups }
    }
}

impl<B: DenoiserBackend> Norm<B> {
    /// The normalization and SiLU of `x` and, after its channels, of `skip`; with scale and shift, `[batch, 2 channels]`.
    pub(super) fn silu(
        &self,
        x: Tensor<B, 4>,
        skip: Option<Tensor<B, 4>>,
        affine: Option<Tensor<B, 2>>,
    ) -> Tensor<B, 4> {
        B::norm_silu(x, skip, [self.gain.val(), self.bias.val()], affine, self.groups)
    }
}
