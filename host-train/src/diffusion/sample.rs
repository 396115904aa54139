//! Sampling in floats: the rows that core runs, on core's noise, and what a float sampler can do beyond the chip.
//!
//! [`Denoise`] is what is asked at each row; [`Reverse`] walks a batch along a table of rows. Both know nothing of networks:
//! a closure that computes the exact denoiser of a Gaussian is as good as a [`Sampler`](super::Sampler).
//!
//! | paper | here |
//! |---|---|
//! | Ho, Salimans 2022; Kynkäänniemi et al. 2024; Lin et al. 2024 | guidance: [`SamplingConfig`] |
//! | Dhariwal, Nichol 2021 | [`ClassifierGuided`], [`NoisyClassifier`] |
//! | Nichol, Dhariwal 2021 (learned variance) | [`Estimate::variance`] |
//! | Saharia et al. 2022 (dynamic thresholding) | [`Threshold`] |
//! | Chen, Zhang, Hinton 2022 (self-conditioning) | the `previous` of [`Denoise::estimate`] |
//! | Lugmayr et al. 2022 (RePaint) | [`Reverse::inpaint`] |
//! | Meng et al. 2021 (SDEdit) | [`Reverse::noised`], then [`Reverse::run`] from a later row |
//! | Shoemake 1985 | [`slerp`] |
//! | Graham et al. 2023 | [`reconstruction_scores`] |

mod anomaly;
mod classifier;
mod config;
mod inpaint;
mod interpolate;
mod noisy_classifier;
mod reverse;

pub use anomaly::{reconstruction_scores, roc_auc, roc_auc_interval, standardized};
pub use classifier::{ClassifierGuided, Classify};
pub use config::{SamplerConfig, SamplingConfig, SamplingError, SpacingConfig, Threshold, VarianceConfig};
pub use inpaint::{Known, Resampling};
pub use interpolate::slerp;
pub use noisy_classifier::{ClassifierRecipe, ClassifierShape, NoisyClassifier};
pub use reverse::{Denoise, Estimate, Noise, Reverse};

#[cfg(test)]
mod tests;
