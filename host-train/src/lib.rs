//! Mote's host side: data sets, training, distillation, quantization and evaluation of small diffusion models.

pub mod cli;
pub mod denoiser;
pub mod diffusion;
pub mod distill;
pub mod evaluate;
pub mod ops;
pub mod peer;
pub mod preset;
pub mod quantize_aware;
pub mod run_dir;
pub mod trainer;

pub use mote_dataset as dataset;
pub use mote_quantize as quantize;
pub use mote_train_support::{csv_log, dashboard, files, progress, tensorboard};
