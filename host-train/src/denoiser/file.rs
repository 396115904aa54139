//! A denoiser's file: safetensors, f32, a tensor a parameter, what it is as JSON under the metadata key `denoiser`.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::{ConfigError, Denoiser, DenoiserConfig, parameters, set_parameters};
use crate::diffusion::DiffusionConfig;

const METADATA_KEY: &str = "denoiser";

/// What a denoiser's file says of it, and its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DenoiserFile {
    /// The network's sizes.
    pub network: DenoiserConfig,
    /// What it was trained to predict.
    pub diffusion: DiffusionConfig,
    /// How samples are drawn: rows of the step table.
    pub steps: usize,
    /// Guidance strength while drawing; 1 is none, two passes a step otherwise.
    pub guidance: f64,
    /// All parameters, in the order of [`parameters`].
    #[serde(skip)]
    pub parameters: Vec<f32>,
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

/// Names and shapes of the parameters in order.
#[derive(Default)]
struct Layout {
    path: Vec<String>,
    found: Vec<(String, Vec<usize>)>,
}

impl<B: Backend> ModuleVisitor<B> for Layout {
    fn enter_module(&mut self, name: &str, container: &str) {
        if !is_enum(container) {
            self.path.push(name.to_owned());
        }
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        if !is_enum(container) {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.found.push((self.path.join("."), param.val().dims().to_vec()));
    }
}

/// Whether burn enters a variant, whose name says nothing that the configuration does not.
fn is_enum(container: &str) -> bool {
    container.starts_with("Enum:")
}

type Host = burn::backend::Flex;

impl DenoiserFile {
    /// Reads a file.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn from_bytes(file: &[u8]) -> Result<Self, FileError> {
        let (_, header) = SafeTensors::read_metadata(file)?;
        let entry = header.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
        let mut found: Self = entry.and_then(|json| serde_json::from_str(json).ok()).ok_or(FileError::Metadata)?;
        let tensors = SafeTensors::deserialize(file)?;
        let layout = found.layout()?;
        if tensors.len() != layout.len() {
            return Err(FileError::Tensors { found: tensors.len(), expected: layout.len() });
        }
        for (name, expected) in layout {
            let tensor = tensors.tensor(&name).ok();
            let tensor = tensor.filter(|tensor| tensor.dtype() == Dtype::F32 && tensor.shape() == expected);
            let tensor = tensor.ok_or(FileError::Tensor { name, expected })?;
            let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
            found.parameters.extend(tensor.data().chunks_exact(4).map(value));
        }
        Ok(found)
    }

    /// The file.
    ///
    /// # Panics
    /// If the parameters are not as many as the network has.
    pub fn to_bytes(&self) -> Vec<u8> {
        let layout = self.layout().expect("a network that was built");
        let bytes: Vec<u8> = self.parameters.iter().flat_map(|value| value.to_le_bytes()).collect();
        let mut rest = &bytes[..];
        let mut views = Vec::new();
        for (name, shape) in layout {
            let (data, after) = rest.split_at(4 * shape.iter().product::<usize>());
            rest = after;
            views.push((name, TensorView::new(Dtype::F32, shape, data).expect("four bytes a value")));
        }
        assert!(rest.is_empty(), "parameters of another network");
        let json = serde_json::to_string(self).expect("plain numbers");
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), json)]);
        safetensors::serialize(views, Some(metadata)).expect("valid views")
    }

    /// The network on a backend.
    ///
    /// # Errors
    /// [`ConfigError`] if there can be no such network.
    pub fn net<B: Backend>(&self, device: &B::Device) -> Result<Denoiser<B>, ConfigError> {
        let values = Tensor::from_data(TensorData::new(self.parameters.clone(), [self.parameters.len()]), device);
        Ok(set_parameters(self.network.init(0, device)?, values))
    }

    /// The same with the parameters of `net`.
    pub fn with_net<B: Backend>(self, net: &Denoiser<B>) -> Self {
        Self { parameters: parameters(net).into_data().to_vec().expect("f32 backend"), ..self }
    }

    fn layout(&self) -> Result<Vec<(String, Vec<usize>)>, ConfigError> {
        let mut layout = Layout::default();
        let net = self.network.init::<Host>(0, &Default::default())?;
        Module::<Host>::visit(&net, &mut layout);
        Ok(layout.found)
    }
}
