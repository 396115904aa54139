//! The U-Net's residual blocks and their attention; its page ([`super::unet`]) has the formulas.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use burn::tensor::backend::Backend;

use super::condition::Dropout;
use super::layers::{Conv, Init, Linear, Norm, Start};
use super::unet::UNetConfig;
use crate::ops::{DenoiserBackend, fold, recomputed};

/// A residual block.
#[derive(Module, Debug)]
pub struct Block<B: Backend> {
    /// Of the input.
    pub norm1: Norm<B>,
    /// 3x3 or 1x3, to the block's width.
    pub conv1: Conv<B>,
    /// From the embedding to scale and shift, `[embedding, 2 * width]`.
    pub affine: Linear<B>,
    /// Before scale and shift.
    pub norm2: Norm<B>,
    /// 3x3 or 1x3.
    pub conv2: Conv<B>,
    /// After the block, where the level has one.
    pub attention: Option<Attention<B>>,
}

/// What a block's first normalization and convolution read.
#[derive(Clone, Copy)]
pub(super) enum Input {
    /// The block's input.
    Plain,
    /// The block's input and a skip of the same width.
    Joined,
}

impl<B: Backend> Block<B> {
    pub(super) fn new(input: Input, config: &UNetConfig, kernel: [usize; 2], level: usize, init: &mut Init<B>) -> Self {
        let (width, groups) = (config.widths[level], config.groups);
        let parts = match input {
            Input::Plain => 1,
            Input::Joined => 2,
        };
        Self {
            norm1: Norm::new(parts * width, parts * groups, init),
            conv1: Conv::new(parts * width, width, kernel, Start::Random, init),
            affine: Linear::new(config.embedding, 2 * width, init),
            norm2: Norm::new(width, groups, init),
            conv2: Conv::new(width, width, kernel, Start::Zero, init),
            attention: config.attention.contains(&level).then(|| Attention::new(width, groups, config.heads, init)),
        }
    }
}

impl<B: DenoiserBackend> Block<B> {
    /// Gain and offset of the second normalization, scale and shift folded in, each `[batch, width]`:
    /// `gain (1 + scale)` and `bias (1 + scale) + shift`. `embedding` is [`super::Embedding::forward`]'s.
    pub fn folded(&self, embedding: Tensor<B, 2>) -> [Tensor<B, 2>; 2] {
        fold([self.norm2.gain.val(), self.norm2.bias.val()], self.affine.forward(embedding))
    }

    pub(super) fn forward(
        &self,
        x: Tensor<B, 4>,
        skip: Option<Tensor<B, 4>>,
        embedding: Tensor<B, 2>,
        dropout: &mut Dropout,
    ) -> Tensor<B, 4> {
        let affine = self.affine.forward(embedding);
        let h = recomputed(|| {
            let h = self.conv1.forward(self.norm1.silu(x.clone(), skip, None));
            self.norm2.silu(h, None, Some(affine))
        });
        let x = self.conv2.add(dropout.apply(h), x);
        match &self.attention {
            Some(attention) => attention.forward(x),
            None => x,
        }
    }
}

/// Self-attention over the pixels, with a residual connection.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// Of the input.
    pub norm: Norm<B>,
    /// 1x1, to queries, keys and values.
    pub qkv: Conv<B>,
    /// 1x1.
    pub out: Conv<B>,
    /// Heads.
    pub heads: usize,
}

impl<B: Backend> Attention<B> {
    fn new(width: usize, groups: usize, heads: usize, init: &mut Init<B>) -> Self {
        Self {
            norm: Norm::new(width, groups, init),
            qkv: Conv::new(width, 3 * width, [1; 2], Start::Random, init),
            out: Conv::new(width, width, [1; 2], Start::Zero, init),
            heads,
        }
    }
}

impl<B: DenoiserBackend> Attention<B> {
    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [batch, channels, height, width] = x.dims();
        let head = channels / self.heads;
        let Norm { gain, bias, groups } = &self.norm;
        let normal = B::group_norm(x.clone(), [gain.val(), bias.val()], *groups);
        let qkv = self.qkv.forward(normal);
        let [queries, keys, values] = [0, 1, 2].map(|part| {
            let part = qkv.clone().narrow(1, part * channels, channels);
            part.reshape([batch, self.heads, head, height * width])
        });
        let scores = queries.swap_dims(2, 3).matmul(keys) / (head as f64).sqrt();
        let attended = values.matmul(softmax(scores, 3).swap_dims(2, 3));
        self.out.add(attended.reshape([batch, channels, height, width]), x)
    }
}
