//! A multilayer perceptron for vectors and rows of tables, conditioned as the U-Net is (Sohl-Dickstein et al., *Deep
//! Unsupervised Learning using Nonequilibrium Thermodynamics*, 2015, section 3.1 fits 2-D data with one; residual blocks
//! as in Gorishniy et al., *Revisiting Deep Learning Models for Tabular Data*, 2021, section 3.2).
//!
//! Block: `h = linear1(silu(norm1(x)))`, `h = linear2(dropout(silu(norm2(h) * (1 + scale) + shift)))`, result `x + h`, with
//! `(scale, shift) = affine(silu(e))` and `e` as in [`super::unet`]. With one group, a normalization is LayerNorm.
//!
//! Net: `linear_in`; blocks; `linear_out(silu(norm_out(h)))`.
//!
//! core applies an activation function only after a normalization, while it loads what a convolution reads; this network
//! has one before each activation. So it runs there as 1x1 convolutions on a 1x1 image.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::condition::{Condition, Dropout, Embedding};
use super::config::{ConfigError, DenoiserConfig, at_least_one, at_most};
use super::layers::{Init, Linear, Norm, Start};
use crate::dataset::SampleShape;
use crate::ops::{DenoiserBackend, fold, recomputed};

/// Sizes of an [`Mlp`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MlpConfig {
    /// Values of a hidden layer.
    pub width: usize,
    /// Residual blocks, of two layers each.
    pub blocks: usize,
    /// Groups of a normalization; 1 is LayerNorm.
    #[serde(default = "one")]
    pub groups: usize,
    /// Length of the embedding and of the timestep's features; even.
    pub embedding: usize,
    /// Probability that a value before a block's second layer is dropped while training; at least 0, less than 1.
    #[serde(default)]
    pub dropout: f64,
}

/// The groups when none are named.
fn one() -> usize {
    1
}

impl MlpConfig {
    /// # Errors
    /// [`ConfigError`], the first thing that is wrong with these sizes for samples of `shape`.
    pub(super) fn check(&self, shape: SampleShape) -> Result<(), ConfigError> {
        at_least_one(&[("width", self.width), ("blocks", self.blocks), ("groups", self.groups)])?;
        at_most(&[("width", self.width, 4096), ("blocks", self.blocks, 64)])?;
        if !shape.is_vector() {
            return Err(ConfigError::NotVectors(shape));
        }
        if !self.width.is_multiple_of(self.groups) {
            return Err(ConfigError::Groups { width: self.width, groups: self.groups });
        }
        Ok(())
    }
}

/// A residual block.
#[derive(Module, Debug)]
pub struct MlpBlock<B: Backend> {
    /// Of the input.
    pub norm1: Norm<B>,
    /// `[width, width]`
    pub linear1: Linear<B>,
    /// From the embedding to scale and shift, `[embedding, 2 * width]`.
    pub affine: Linear<B>,
    /// Before scale and shift.
    pub norm2: Norm<B>,
    /// `[width, width]`
    pub linear2: Linear<B>,
}

impl<B: Backend> MlpBlock<B> {
    fn new(mlp: &MlpConfig, init: &mut Init<B>) -> Self {
        let MlpConfig { width, groups, embedding, .. } = *mlp;
        Self {
            norm1: Norm::new(width, groups, init),
            linear1: Linear::new(width, width, init),
            affine: Linear::new(embedding, 2 * width, init),
            norm2: Norm::new(width, groups, init),
            linear2: Linear::start(width, width, Start::Zero, init),
        }
    }
}

impl<B: DenoiserBackend> MlpBlock<B> {
    /// As [`super::Block::folded`].
    pub fn folded(&self, embedding: Tensor<B, 2>) -> [Tensor<B, 2>; 2] {
        fold([self.norm2.gain.val(), self.norm2.bias.val()], self.affine.forward(embedding))
    }

    fn forward(&self, x: Tensor<B, 4>, embedding: Tensor<B, 2>, dropout: &mut Dropout) -> Tensor<B, 4> {
        let affine = self.affine.forward(embedding);
        let h = recomputed(|| {
            let h = pixel(&self.linear1, self.norm1.silu(x.clone(), None, None));
            self.norm2.silu(h, None, Some(affine))
        });
        x + pixel(&self.linear2, dropout.apply(h))
    }
}

/// A layer on `[batch, in, 1, 1]`.
fn pixel<B: DenoiserBackend>(linear: &Linear<B>, x: Tensor<B, 4>) -> Tensor<B, 4> {
    linear.forward(x.flatten(1, 3)).unsqueeze_dims(&[2, 3])
}

/// The network; the module's page has its formulas.
#[derive(Module, Debug)]
pub struct Mlp<B: Backend> {
    /// Of timestep and class.
    pub embedding: Embedding<B>,
    /// From the sample.
    pub linear_in: Linear<B>,
    /// In order.
    pub blocks: Vec<MlpBlock<B>>,
    /// Of the last block's output.
    pub norm_out: Norm<B>,
    /// To the sample.
    pub linear_out: Linear<B>,
    /// Probability that a value is dropped while training.
    pub dropout: f64,
}

impl<B: Backend> Mlp<B> {
    pub(super) fn new(mlp: &MlpConfig, config: &DenoiserConfig, init: &mut Init<B>) -> Self {
        Self {
            embedding: Embedding::new(config, init),
            linear_in: Linear::new(config.input_channels(), mlp.width, init),
            blocks: (0..mlp.blocks).map(|_| MlpBlock::new(mlp, init)).collect(),
            norm_out: Norm::new(mlp.width, mlp.groups, init),
            linear_out: Linear::start(mlp.width, config.output_channels(), Start::Zero, init),
            dropout: mlp.dropout,
        }
    }
}

impl<B: DenoiserBackend> Mlp<B> {
    /// The output, and what the blocks make of `x`, `[batch, width, 1, 1]`.
    pub(super) fn forward(&self, x: Tensor<B, 4>, condition: &Condition<B>) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let h = self.last(x, condition);
        (pixel(&self.linear_out, self.norm_out.silu(h.clone(), None, None)), h)
    }

    /// What the blocks make of `x`, `[batch, width, 1, 1]`.
    pub(super) fn last(&self, x: Tensor<B, 4>, condition: &Condition<B>) -> Tensor<B, 4> {
        let embedding = self.embedding.forward(condition);
        let mut dropout = Dropout::new(self.dropout, condition.dropout);
        let x = condition.input(x, self.linear_in.weight.dims()[0]);
        let h = pixel(&self.linear_in, x);
        self.blocks.iter().fold(h, |h, block| block.forward(h, embedding.clone(), &mut dropout))
    }
}
