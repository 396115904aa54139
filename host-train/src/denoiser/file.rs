//! A denoiser's file: safetensors, f32, a tensor a parameter, what it is as JSON under the metadata key `denoiser`.
//!
//! A tensor is named as the fields that lead to it in [`Denoiser`]'s networks, with dots between. [`Convention::PyTorch`]
//! renames and turns what PyTorch's layers have otherwise.

use std::collections::HashMap;

use burn::module::Module;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::layout::{Entry, layout};
use super::{ConfigError, Denoiser, DenoiserConfig, parameters, set_parameters};
use crate::dataset::ChannelScale;
use crate::diffusion::DiffusionConfig;
use crate::diffusion::sample::SamplingConfig;
use crate::ops::DenoiserBackend;

const METADATA_KEY: &str = "denoiser";

/// What a denoiser's file says of it, and its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DenoiserFile {
    /// The network's sizes.
    pub network: DenoiserConfig,
    /// What it was trained to predict.
    pub diffusion: DiffusionConfig,
    /// How samples are drawn.
    #[serde(flatten)]
    pub sampling: SamplingConfig,
    /// How each channel's natural values follow from the network's; empty for pixels.
    #[serde(default)]
    pub channels_scale: Vec<ChannelScale>,
    /// All parameters, in the order of [`parameters`].
    #[serde(skip)]
    pub parameters: Vec<f32>,
}

/// How a file names and arranges parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// As the modules here do.
    Own,
    /// As a PyTorch module of the same structure does in its `state_dict()`:
    ///
    /// | here | there |
    /// |---|---|
    /// | `weight` of a [`super::Linear`], `[in, out]` | `weight` of an `nn.Linear`, `[out, in]` |
    /// | `gain`, `bias` of a [`super::Norm`] | `weight`, `bias` of an `nn.GroupNorm` |
    /// | `weight` of a [`super::Conv`], `[out, in, rows, columns]` | the same of an `nn.Conv2d`, 1x3 for signals |
    /// | `embedding.class`, `[classes + 1, embedding]` | the same, an `nn.Parameter` |
    PyTorch,
}

/// Why a file is no denoiser.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// Not safetensors, or damaged.
    #[error("not a readable safetensors file: {0}")]
    Safetensors(#[from] safetensors::SafeTensorError),
    /// Safetensors, but made by something else.
    #[error("not a denoiser: its metadata has no usable `{METADATA_KEY}` entry")]
    Metadata,
    /// Its network cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It has tensors that the network does not: it was made by another version.
    #[error("{found} tensors where the network has {expected}: made by another version of mote-train; train again")]
    Tensors {
        /// How many there are.
        found: usize,
        /// How many the network has.
        expected: usize,
    },
    /// A tensor is not what the network needs.
    #[error("tensor {name} is missing or not F32 {expected:?}")]
    Tensor {
        /// Its name.
        name: String,
        /// The shape needed.
        expected: Vec<usize>,
    },
}

impl DenoiserFile {
    /// Reads a file of [`Convention::Own`].
    ///
    /// # Errors
    /// [`FileError`].
    pub fn from_bytes(file: &[u8]) -> Result<Self, FileError> {
        Self::read(file, Convention::Own)
    }

    /// The file in [`Convention::Own`].
    ///
    /// # Panics
    /// If the parameters are not as many as the network has.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.write(Convention::Own)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn read(file: &[u8], convention: Convention) -> Result<Self, FileError> {
        let (_, header) = SafeTensors::read_metadata(file)?;
        let entry = header.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
        let mut found: Self = entry.and_then(|json| serde_json::from_str(json).ok()).ok_or(FileError::Metadata)?;
        let tensors = SafeTensors::deserialize(file)?;
        let layout = layout(&found.network)?;
        if tensors.len() != layout.len() {
            return Err(FileError::Tensors { found: tensors.len(), expected: layout.len() });
        }
        for entry in layout {
            let (name, expected) = (entry.name(convention), entry.shape(convention));
            let tensor = tensors.tensor(&name).ok();
            let tensor = tensor.filter(|tensor| tensor.dtype() == Dtype::F32 && tensor.shape() == expected);
            let tensor = tensor.ok_or(FileError::Tensor { name, expected })?;
            let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
            let values: Vec<f32> = tensor.data().chunks_exact(4).map(value).collect();
            found.parameters.extend(entry.read(values, convention));
        }
        Ok(found)
    }

    /// The file.
    ///
    /// # Panics
    /// If the parameters are not as many as the network has.
    pub fn write(&self, convention: Convention) -> Vec<u8> {
        let layout = layout(&self.network).expect("a network that was built");
        let mut rest = &self.parameters[..];
        let tensors: Vec<(Entry, Vec<u8>)> = layout
            .into_iter()
            .map(|entry| {
                let (values, after) = rest.split_at(entry.len());
                rest = after;
                let bytes = entry.write(values, convention).into_iter().flat_map(f32::to_le_bytes).collect();
                (entry, bytes)
            })
            .collect();
        assert!(rest.is_empty(), "parameters of another network");
        let views = tensors.iter().map(|(entry, bytes)| {
            let view = TensorView::new(Dtype::F32, entry.shape(convention), bytes).expect("four bytes a value");
            (entry.name(convention), view)
        });
        let json = serde_json::to_string(self).expect("plain numbers");
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
        safetensors::serialize(views, Some(metadata)).expect("valid views")
    }

    /// The same without what comes after the network's own parameters.
    ///
    /// # Errors
    /// [`ConfigError`] if there can be no such network.
    pub(crate) fn own_parameters(mut self) -> Result<Self, ConfigError> {
        self.parameters.truncate(layout(&self.network)?.iter().map(Entry::len).sum());
        Ok(self)
    }

    /// The network on a backend.
    ///
    /// # Errors
    /// [`ConfigError`] if there can be no such network.
    pub fn net<B: DenoiserBackend>(&self, device: &B::Device) -> Result<Denoiser<B>, ConfigError> {
        let values = Tensor::from_data(TensorData::new(self.parameters.clone(), [self.parameters.len()]), device);
        Ok(set_parameters(self.network.init(0, device)?, values))
    }

    /// The same with the parameters of `net`.
    pub fn with_net<B: Backend>(self, net: &impl Module<B>) -> Self {
        Self { parameters: parameters(net).into_data().to_vec().expect("f32 backend"), ..self }
    }
}
