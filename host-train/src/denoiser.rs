//! The denoiser: a U-Net or a perceptron, its parameters as one vector, its file, its form for core.

mod block;
mod condition;
mod config;
mod discriminator;
mod file;
mod layers;
mod layout;
mod lower;
pub mod mlp;
mod parameters;
pub mod unet;

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

pub use block::{Attention, Block};
pub use condition::{Condition, Embedding, Features};
pub use config::{Architecture, ConfigError, DenoiserConfig, NotExportable, Output};
pub use discriminator::DiscriminatorHead;
pub use file::{Convention, DenoiserFile, FileError};
pub use layers::{Conv, Linear, Norm};
pub use layout::names;
pub use lower::lower;
pub use mlp::{Mlp, MlpBlock, MlpConfig};
pub use parameters::{gradients, parameters, set_parameters};
pub use unet::{DownLevel, UNet, UNetConfig, UpLevel};

use crate::ops::DenoiserBackend;

/// A network of either architecture.
#[derive(Module, Debug)]
pub enum Denoiser<B: Backend> {
    /// For pictures and signals.
    UNet(UNet<B>),
    /// For vectors.
    Mlp(Mlp<B>),
}

impl<B: Backend> Denoiser<B> {
    /// From the condition to what the blocks' scale and shift are made of.
    pub fn embedding(&self) -> &Embedding<B> {
        match self {
            Self::UNet(net) => &net.embedding,
            Self::Mlp(net) => &net.embedding,
        }
    }
}

impl<B: DenoiserBackend> Denoiser<B> {
    /// The network's output for noised samples.
    ///
    /// # Shapes
    /// - x: `[batch, channels, height, width]`
    /// - condition: a row a sample
    /// - result: as x; with [`Output::MeanAndVariance`] twice the channels
    pub fn forward(&self, x: Tensor<B, 4>, condition: &Condition<B>) -> Tensor<B, 4> {
        self.forward_with_features(x, condition).0
    }

    /// The same, and the features that [`DiscriminatorHead`] reads.
    pub fn forward_with_features(&self, x: Tensor<B, 4>, condition: &Condition<B>) -> (Tensor<B, 4>, Tensor<B, 4>) {
        match self {
            Self::UNet(net) => net.forward(x, condition),
            Self::Mlp(net) => net.forward(x, condition),
        }
    }

    /// The features alone: what the U-Net's middle blocks or the perceptron's last one make of `x`,
    /// `[batch, width, height, width]` of the coarsest level.
    pub fn features(&self, x: Tensor<B, 4>, condition: &Condition<B>) -> Tensor<B, 4> {
        match self {
            Self::UNet(net) => net.middle(x, condition),
            Self::Mlp(net) => net.last(x, condition),
        }
    }
}

#[cfg(test)]
mod tests;
