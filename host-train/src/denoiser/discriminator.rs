//! A denoiser as a discriminator.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::config::{Architecture, DenoiserConfig};
use super::layers::{Conv, Init, Norm, Start};
use crate::ops::DenoiserBackend;

/// What tells real samples from drawn ones by a denoiser's features: `conv(silu(norm(features)))`, a logit a place of the
/// coarsest level, 0 at first.
#[derive(Module, Debug)]
pub struct DiscriminatorHead<B: Backend> {
    /// Of the features.
    pub norm: Norm<B>,
    /// To one channel.
    pub conv: Conv<B>,
}

impl<B: Backend> DiscriminatorHead<B> {
    /// For the features of a network of these sizes.
    pub fn new(config: &DenoiserConfig, device: &B::Device) -> Self {
        let init = &mut Init::new(0, device);
        let (width, groups) = match &config.architecture {
            Architecture::UNet(unet) => (*unet.widths.last().expect("a checked network has widths"), unet.groups),
            Architecture::Mlp(mlp) => (mlp.width, mlp.groups),
        };
        Self { norm: Norm::new(width, groups, init), conv: Conv::new(width, 1, config.kernel(), Start::Zero, init) }
    }
}

impl<B: DenoiserBackend> DiscriminatorHead<B> {
    /// The logits of features, `[batch, 1, height, width]`; greater than 0 for what looks real.
    pub fn forward(&self, features: Tensor<B, 4>) -> Tensor<B, 4> {
        B::from_activations(self.conv.forward(self.norm.silu(features, None, None)))
    }
}
