//! The denoiser: a U-Net that core can run, its parameters as one vector, its file.

mod file;
mod lower;
mod parameters;
mod unet;

pub use file::{DenoiserFile, FileError};
pub use lower::lower;
pub use parameters::{gradients, parameters, set_parameters};
pub(crate) use unet::one;
pub use unet::{Attention, Block, Condition, ConfigError, Conv, DownLevel, Linear, Norm, UNet, UNetConfig, UpLevel};
