//! What a denoiser is built from, and what may be wrong with it.

use burn::backend::Flex;
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mote_core::step_table::StepRow;
use serde::{Deserialize, Serialize};

use super::layers::Init;
use super::mlp::{Mlp, MlpConfig};
use super::unet::{UNet, UNetConfig};
use super::{Denoiser, lower};
use crate::dataset::SampleShape;
use crate::quantize::TooLarge;

/// A denoiser: what it works on, what it is told, what it says, and the network in between.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenoiserConfig {
    /// A sample's shape.
    pub shape: SampleShape,
    /// Classes; class number `classes` is "no class", for guidance.
    pub classes: usize,
    /// The network.
    pub architecture: Architecture,
    /// What comes out.
    #[serde(default)]
    pub output: Output,
    /// Whether the network also sees its own estimate of `x0` (Chen, Zhang, Hinton, *Analog Bits*, 2023, section 3.2):
    /// as many further input channels as a sample has, first in [`Condition::extra`](super::Condition::extra).
    #[serde(default)]
    pub self_conditioning: bool,
    /// Channels of a given image of the samples' height and width that the network also sees, last in
    /// [`Condition::extra`](super::Condition::extra): the low resolution of super-resolution (Saharia et al., *SR3*,
    /// 2021, section 2), the gray image of a colorization, a signal's gaps.
    #[serde(default)]
    pub condition_channels: usize,
}

/// The network between input and output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Architecture {
    /// For pictures and signals.
    #[serde(rename = "unet")]
    UNet(UNetConfig),
    /// For vectors.
    Mlp(MlpConfig),
}

/// What a denoiser says about a sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// What the reverse step's mean needs: the objective's prediction, a channel for each of the sample's.
    #[default]
    Mean,
    /// The same, then as many channels `v`, in about [-1, 1], that interpolate the log-variance of the reverse step
    /// between `log beta-tilde` (-1) and `log beta` (1) (Nichol, Dhariwal, *Improved DDPM*, 2021, equation 15).
    MeanAndVariance,
}

/// Why there can be no network of these sizes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A number that must not be zero.
    #[error("the network's {0} must be at least 1")]
    Zero(&'static str),
    /// More than any use of it.
    #[error("the network's {what} is {found}, at most {most} is possible")]
    TooLarge {
        /// Which number.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The greatest possible.
        most: usize,
    },
    /// A level cannot be halved and doubled back.
    #[error("samples {width} wide and {height} high cannot be halved {halvings} times: make each side (but a single row) a multiple of {}, or use fewer widths", 1usize << halvings)]
    Odd {
        /// Pixels across.
        width: usize,
        /// Pixels down.
        height: usize,
        /// Levels less one.
        halvings: usize,
    },
    /// A width does not split into groups.
    #[error("{width} channels cannot be split into {groups} groups: make each width a multiple of `groups`")]
    Groups {
        /// Channels.
        width: usize,
        /// The network's groups.
        groups: usize,
    },
    /// An attention at a level that is not there.
    #[error("attention at level {level}, but the network has levels 0 to {last}")]
    NoLevel {
        /// The level.
        level: usize,
        /// The last one.
        last: usize,
    },
    /// A width does not split into heads.
    #[error("a level of {width} channels cannot be split into {heads} heads")]
    Heads {
        /// Channels of the level.
        width: usize,
        /// Heads of an attention.
        heads: usize,
    },
    /// Sines and cosines come in pairs.
    #[error("the embedding's length is {0}; it must be even")]
    Embedding(usize),
    /// A probability that is none, or that leaves nothing.
    #[error("the network's dropout is {0}; it must be at least 0 and less than 1")]
    Dropout(f64),
    /// A vector has no sides to halve.
    #[error(
        "samples are vectors of {0} values, which a U-Net of several widths cannot halve: use kind = \"mlp\", or one width"
    )]
    Vectors(usize),
    /// A perceptron has no notion of neighbors.
    #[error("samples are {0} (height x width x channels); kind = \"mlp\" is for vectors (1x1xN): use kind = \"unet\"")]
    NotVectors(SampleShape),
}

/// Why core cannot run a network that can be trained.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NotExportable {
    /// core's tables have fixed variances.
    #[error("a learned variance (output = \"mean_and_variance\") cannot be exported to a .mote file")]
    LearnedVariance,
    /// core keeps no estimate between rows for the network to read.
    #[error("self-conditioning cannot be exported to a .mote file")]
    SelfConditioning,
    /// A `.mote` file has one input, the state.
    #[error("conditioning channels cannot be exported to a .mote file")]
    ConditionChannels,
    /// core's limits.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// There is no such network at all.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Architecture {
    /// Length of the embedding and of the timestep's features.
    pub fn embedding(&self) -> usize {
        match self {
            Self::UNet(unet) => unet.embedding,
            Self::Mlp(mlp) => mlp.embedding,
        }
    }

    /// Probability that a value is dropped while training.
    pub fn dropout(&self) -> f64 {
        match self {
            Self::UNet(unet) => unet.dropout,
            Self::Mlp(mlp) => mlp.dropout,
        }
    }
}

impl DenoiserConfig {
    /// Whether there is such a network.
    ///
    /// # Errors
    /// [`ConfigError`], the first thing that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let SampleShape { height, width, channels } = self.shape;
        at_least_one(&[("height", height), ("width", width), ("channels", channels), ("classes", self.classes)])?;
        let sides = if self.shape.is_image() { 1024 } else { 1 << 15 };
        at_most(&[
            ("height", height, sides),
            ("width", width, sides),
            ("channels", channels, if self.shape.is_vector() { 1024 } else { 64 }),
            ("classes", self.classes, 1000),
            ("number of condition_channels", self.condition_channels, 64),
            ("embedding", self.architecture.embedding(), 4096),
        ])?;
        let embedding = self.architecture.embedding();
        at_least_one(&[("embedding", embedding)])?;
        if !embedding.is_multiple_of(2) {
            return Err(ConfigError::Embedding(embedding));
        }
        let dropout = self.architecture.dropout();
        if !(0.0..1.0).contains(&dropout) {
            return Err(ConfigError::Dropout(dropout));
        }
        match &self.architecture {
            Architecture::UNet(unet) => unet.check(self.shape),
            Architecture::Mlp(mlp) => mlp.check(self.shape),
        }
    }

    /// Whether core can run it, so that it can become a `.mote` file. Dropout does not matter: it is for training alone.
    ///
    /// # Errors
    /// [`NotExportable`], the first reason why not.
    pub fn exportable(&self) -> Result<(), NotExportable> {
        // What matters of a graph's size depends on neither weights nor rows.
        let net = self.init::<Flex>(0, &Default::default())?;
        lower(&net, self, "", vec![StepRow::default()], 1, [-1.0, 1.0]).map(drop)
    }

    /// Whether core has all that the network is told and says.
    ///
    /// # Errors
    /// [`NotExportable`], the first thing that it has not.
    pub(super) fn check_interface(&self) -> Result<(), NotExportable> {
        if self.output != Output::Mean {
            return Err(NotExportable::LearnedVariance);
        }
        if self.self_conditioning {
            return Err(NotExportable::SelfConditioning);
        }
        if self.condition_channels > 0 {
            return Err(NotExportable::ConditionChannels);
        }
        Ok(())
    }

    /// What the network reads beside `x`, for [`Condition::extra`](super::Condition::extra): its `own` estimate of the data and
    /// the `given` image, `[batch, .., height, width]` each. What it does not read is passed over; zeros where it gets only
    /// one of both, None where it gets neither.
    pub fn extra<B: Backend>(
        &self,
        x: &Tensor<B, 4>,
        own: Option<Tensor<B, 4>>,
        given: Option<Tensor<B, 4>>,
    ) -> Option<Tensor<B, 4>> {
        let [batch, _, height, width] = x.dims();
        let reads =
            [(usize::from(self.self_conditioning) * self.shape.channels, own), (self.condition_channels, given)];
        let reads: Vec<_> = reads.into_iter().filter(|&(channels, _)| channels > 0).collect();
        let zeros = |channels| Tensor::zeros([batch, channels, height, width], &x.device());
        let parts = |(channels, part): (usize, Option<_>)| part.unwrap_or_else(|| zeros(channels));
        let any = reads.iter().any(|(_, part)| part.is_some());
        any.then(|| Tensor::cat(reads.into_iter().map(parts).collect(), 1))
    }

    /// The network's output, `[batch, .., height, width]`, as what the mean needs and the variance's channels, if it has them.
    pub fn mean_and_variance<B: Backend>(&self, output: Tensor<B, 4>) -> (Tensor<B, 4>, Option<Tensor<B, 4>>) {
        let channels = self.shape.channels;
        match self.output {
            Output::Mean => (output, None),
            Output::MeanAndVariance => {
                (output.clone().narrow(1, 0, channels), Some(output.narrow(1, channels, channels)))
            }
        }
    }

    /// The class number that stands for none.
    pub fn no_class(&self) -> usize {
        self.classes
    }

    /// The class number of a sample whose class nobody says: none, or the only one.
    pub fn unknown_class(&self) -> usize {
        if self.classes == 1 { 0 } else { self.no_class() }
    }

    /// Rows and columns of the U-Net's convolutions: 3x3, or 1x3 where samples are one pixel high.
    pub fn kernel(&self) -> [usize; 2] {
        [if self.shape.is_image() { 3 } else { 1 }, 3]
    }

    /// Channels of [`Condition::extra`](super::Condition::extra): the estimate's, then the given image's.
    pub fn extra_channels(&self) -> usize {
        self.condition_channels + if self.self_conditioning { self.shape.channels } else { 0 }
    }

    /// Channels that the network reads: the sample's and the extra ones.
    pub fn input_channels(&self) -> usize {
        self.shape.channels + self.extra_channels()
    }

    /// Channels that the network gives.
    pub fn output_channels(&self) -> usize {
        match self.output {
            Output::Mean => self.shape.channels,
            Output::MeanAndVariance => 2 * self.shape.channels,
        }
    }

    /// A network with random weights; a function of the configuration and the seed alone. The last layer and each
    /// block's second are zero, so that the network begins as the zero function and each block as the identity.
    ///
    /// # Errors
    /// [`ConfigError`] as [`DenoiserConfig::check`].
    pub fn init<B: Backend>(&self, seed: u64, device: &B::Device) -> Result<Denoiser<B>, ConfigError> {
        self.check()?;
        let mut init = Init::new(seed, device);
        Ok(match &self.architecture {
            Architecture::UNet(unet) => Denoiser::UNet(UNet::new(unet, self, &mut init)),
            Architecture::Mlp(mlp) => Denoiser::Mlp(Mlp::new(mlp, self, &mut init)),
        })
    }
}

/// # Errors
/// [`ConfigError::Zero`] for the first that is.
pub(super) fn at_least_one(numbers: &[(&'static str, usize)]) -> Result<(), ConfigError> {
    match numbers.iter().find(|(_, value)| *value == 0) {
        Some((name, _)) => Err(ConfigError::Zero(name)),
        None => Ok(()),
    }
}

/// # Errors
/// [`ConfigError::TooLarge`] for the first name, value and limit where it is.
pub(super) fn at_most(numbers: &[(&'static str, usize, usize)]) -> Result<(), ConfigError> {
    match numbers.iter().find(|(_, found, most)| found > most) {
        Some(&(what, found, most)) => Err(ConfigError::TooLarge { what, found, most }),
        None => Ok(()),
    }
}
