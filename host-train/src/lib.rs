//! Mote's host side: data sets, training, distillation, quantization and evaluation of small diffusion models.

pub mod cli;
pub mod dataset;
pub mod evaluate;
pub mod files;
pub mod progress;
