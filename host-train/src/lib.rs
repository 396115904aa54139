//! Mote's host side: data sets, training, distillation, quantization and evaluation of small diffusion models.

pub mod cli;
pub mod dataset;
pub mod denoiser;
pub mod diffusion;
pub mod distill;
pub mod evaluate;
pub mod files;
pub mod onnx;
pub mod ops;
pub mod preset;
pub mod progress;
pub mod quantize;
pub mod run_dir;
pub mod trainer;
