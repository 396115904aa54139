//! A U-Net of residual blocks, conditioned on timestep and class by scale and shift, with self-attention where the
//! recipe asks for it (Dhariwal, Nichol, *Diffusion Models Beat GANs*, 2021).
//!
//! All convolutions are 3x3 with zeros around, but an attention's 1x1. Where samples are one pixel high (signals), they are
//! 1x3 instead, and what halves or doubles the sides below is of the width alone. Normalizations are group normalizations
//! with epsilon 1e-5 inside the root; `features` are [`Condition::time`]; `label` is the class, or `classes` for none.
//!
//! Block: `h = conv1(silu(norm1(x)))`, `h = conv2(dropout(silu(norm2(h) * (1 + scale) + shift)))`, result `x + h`.
//! `(scale, shift) = affine(silu(e))` with `e = time_out(silu(time_in(features))) + class[label]`.
//!
//! Attention, after a block: `x + out(softmax(q k^T / sqrt(channels of a head)) v)` with `(q, k, v) = qkv(norm(x))`, over all
//! pixels; q, k and v are thirds of the channels, heads are consecutive parts of each.
//!
//! Net: `conv_in`; each level but the last: blocks, then a stride 2 convolution to the next level's width; the middle
//! blocks at the last level; back up: nearest upsampling to twice the sides, a convolution to the level's width, blocks,
//! the first of which joins the level's skip; `conv_out(silu(norm_out(h)))`. A joining block normalizes and convolves the
//! concatenation `(x, skip)` but adds to `x` alone, so it needs no 1x1 convolution and nothing reads the skip after its
//! `conv1`, which may take its memory. A group of channels never straddles the two halves of a concatenation: both halves
//! have the network's number of groups.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::block::{Block, Input};
use super::condition::{Condition, Dropout, Embedding};
use super::config::{ConfigError, DenoiserConfig, at_least_one, at_most};
use super::layers::{Conv, Init, Norm, Start};
use crate::dataset::SampleShape;
use crate::ops::DenoiserBackend;

/// Sizes of a [`UNet`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UNetConfig {
    /// Channels of each level, the finest first; each level halves the sides.
    pub widths: Vec<usize>,
    /// Residual blocks a level, on the way down and on the way up.
    pub blocks: usize,
    /// Residual blocks at the last level.
    pub middle: usize,
    /// Groups of a normalization; of each half where it normalizes a concatenation.
    pub groups: usize,
    /// Length of the embedding and of the timestep's features; even.
    pub embedding: usize,
    /// Levels whose blocks an attention follows; 0 is the finest.
    #[serde(default)]
    pub attention: Vec<usize>,
    /// Heads of an attention.
    #[serde(default = "one")]
    pub heads: usize,
    /// Probability that a value before a block's second convolution is dropped while training; at least 0, less than 1.
    #[serde(default)]
    pub dropout: f64,
}

/// The heads when none are named.
fn one() -> usize {
    1
}

impl UNetConfig {
    /// # Errors
    /// [`ConfigError`], the first thing that is wrong with these sizes for samples of `shape`.
    pub(super) fn check(&self, shape: SampleShape) -> Result<(), ConfigError> {
        at_least_one(&[
            ("number of widths", self.widths.len()),
            ("blocks", self.blocks),
            ("middle", self.middle),
            ("groups", self.groups),
            ("heads", self.heads),
        ])?;
        at_most(&[
            ("number of widths", self.widths.len(), 8),
            ("blocks", self.blocks, 16),
            ("middle", self.middle, 16),
            ("greatest width", self.widths.iter().copied().max().unwrap_or(0), 1024),
        ])?;
        let SampleShape { height, width, .. } = shape;
        let halvings = self.widths.len() - 1;
        if shape.is_vector() && halvings > 0 {
            return Err(ConfigError::Vectors(shape.channels));
        }
        // A signal's one row is not halved.
        let sides = if shape.height == 1 { vec![width] } else { vec![height, width] };
        if sides.iter().any(|side| !side.is_multiple_of(1 << halvings)) {
            return Err(ConfigError::Odd { width, height, halvings });
        }
        if let Some(&width) = self.widths.iter().find(|&&width| width == 0 || width % self.groups != 0) {
            return Err(ConfigError::Groups { width, groups: self.groups });
        }
        for &level in &self.attention {
            let &width = self.widths.get(level).ok_or(ConfigError::NoLevel { level, last: halvings })?;
            if !width.is_multiple_of(self.heads) {
                return Err(ConfigError::Heads { width, heads: self.heads });
            }
        }
        Ok(())
    }
}

/// A level on the way down.
#[derive(Module, Debug)]
pub struct DownLevel<B: Backend> {
    /// At the level's size; their last output is the skip of the same level on the way up.
    pub blocks: Vec<Block<B>>,
    /// Stride 2, to the next level's width.
    pub down: Conv<B>,
}

/// A level on the way up.
#[derive(Module, Debug)]
pub struct UpLevel<B: Backend> {
    /// After nearest upsampling, to this level's width.
    pub up: Conv<B>,
    /// The first one joins the skip.
    pub blocks: Vec<Block<B>>,
}

/// The network; the module's page has its formulas.
#[derive(Module, Debug)]
pub struct UNet<B: Backend> {
    /// Of timestep and class.
    pub embedding: Embedding<B>,
    /// From the sample and the extra channels after it.
    pub conv_in: Conv<B>,
    /// Finest level first.
    pub down: Vec<DownLevel<B>>,
    /// At the last level.
    pub middle: Vec<Block<B>>,
    /// Coarsest level first.
    pub up: Vec<UpLevel<B>>,
    /// Of the last block's output.
    pub norm_out: Norm<B>,
    /// To the sample, or the sample and its variance.
    pub conv_out: Conv<B>,
    /// Probability that a value is dropped while training.
    pub dropout: f64,
}

impl<B: Backend> UNet<B> {
    pub(super) fn new(unet: &UNetConfig, config: &DenoiserConfig, init: &mut Init<B>) -> Self {
        let levels = || unet.widths.windows(2).enumerate();
        let last = unet.widths.len() - 1;
        let kernel = config.kernel();
        let blocks = |first: Input, level: usize, count: usize, init: &mut Init<B>| -> Vec<Block<B>> {
            let input = |index| if index == 0 { first } else { Input::Plain };
            (0..count).map(|index| Block::new(input(index), unet, kernel, level, init)).collect()
        };
        Self {
            embedding: Embedding::new(config, init),
            conv_in: Conv::new(config.input_channels(), unet.widths[0], kernel, Start::Random, init),
            down: levels()
                .map(|(level, pair)| DownLevel {
                    blocks: blocks(Input::Plain, level, unet.blocks, init),
                    down: Conv::new(pair[0], pair[1], kernel, Start::Random, init),
                })
                .collect(),
            middle: blocks(Input::Plain, last, unet.middle, init),
            up: levels()
                .rev()
                .map(|(level, pair)| UpLevel {
                    up: Conv::new(pair[1], pair[0], kernel, Start::Random, init),
                    blocks: blocks(Input::Joined, level, unet.blocks, init),
                })
                .collect(),
            norm_out: Norm::new(unet.widths[0], unet.groups, init),
            conv_out: Conv::new(unet.widths[0], config.output_channels(), kernel, Start::Zero, init),
            dropout: unet.dropout,
        }
    }
}

/// What a network knows half way.
struct Encoded<B: Backend> {
    /// Of the middle blocks.
    h: Tensor<B, 4>,
    /// Of the levels on the way down, the finest first.
    skips: Vec<Tensor<B, 4>>,
    embedding: Tensor<B, 2>,
    dropout: Dropout,
}

fn through<B: DenoiserBackend>(
    blocks: &[Block<B>],
    mut skip: Option<Tensor<B, 4>>,
    h: Tensor<B, 4>,
    embedding: &Tensor<B, 2>,
    dropout: &mut Dropout,
) -> Tensor<B, 4> {
    blocks.iter().fold(h, |h, block| block.forward(h, skip.take(), embedding.clone(), dropout))
}

impl<B: DenoiserBackend> UNet<B> {
    /// The output, and what the middle blocks make of `x`, `[batch, last width, height / .., width / ..]`, in the backend's
    /// activations.
    pub(super) fn forward(&self, x: Tensor<B, 4>, condition: &Condition<B>) -> (Tensor<B, 4>, Tensor<B, 4>) {
        let Encoded { mut h, skips, embedding, mut dropout } = self.encode(x, condition);
        let middle = h.clone();
        for (level, skip) in self.up.iter().zip(skips.into_iter().rev()) {
            h = level.up.double(h);
            h = through(&level.blocks, Some(skip), h, &embedding, &mut dropout);
        }
        (B::from_activations(self.conv_out.forward(self.norm_out.silu(h, None, None))), middle)
    }

    /// What the middle blocks make of `x`, as [`UNet::forward`] has it, at half its cost.
    pub(super) fn middle(&self, x: Tensor<B, 4>, condition: &Condition<B>) -> Tensor<B, 4> {
        self.encode(x, condition).h
    }

    fn encode(&self, x: Tensor<B, 4>, condition: &Condition<B>) -> Encoded<B> {
        let embedding = self.embedding.forward(condition);
        let mut dropout = Dropout::new(self.dropout, condition.dropout);
        let mut h = self.conv_in.forward(B::into_activations(condition.input(x, self.conv_in.weight.dims()[1])));
        let mut skips = Vec::new();
        for level in &self.down {
            h = through(&level.blocks, None, h, &embedding, &mut dropout);
            skips.push(h.clone());
            h = level.down.halve(h);
        }
        h = through(&self.middle, None, h, &embedding, &mut dropout);
        Encoded { h, skips, embedding, dropout }
    }
}
