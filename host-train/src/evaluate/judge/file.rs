//! A judge's file: safetensors, weights as f16, the [`Shape`] as JSON under the metadata key `judge`.

use std::collections::HashMap;

use burn::module::Param;
use burn::tensor::{Tensor, TensorData};
use half::f16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::{Flex, Judge, Net, Shape};

const METADATA_KEY: &str = "judge";

/// Why a file is no judge.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JudgeError {
    /// Not safetensors, or damaged.
    #[error("not a readable safetensors file")]
    Safetensors(#[from] safetensors::SafeTensorError),
    /// Safetensors, but made by something else.
    #[error("not a judge: its metadata has no usable `{METADATA_KEY}` entry; make one with `mote-train judge --train`")]
    Metadata,
    /// A tensor is not what the network needs.
    #[error("tensor {name} is {found}, the network needs F16 {expected:?}")]
    Tensor {
        /// Its name.
        name: String,
        /// Its type and shape.
        found: String,
        /// The shape needed.
        expected: Vec<usize>,
    },
}

impl Judge {
    /// Reads a judge's file.
    pub fn from_bytes(file: &[u8]) -> Result<Self, JudgeError> {
        let (_, header) = SafeTensors::read_metadata(file)?;
        let entry = header.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
        let shape: Shape = entry.and_then(|json| serde_json::from_str(json).ok()).ok_or(JudgeError::Metadata)?;
        let sides = [shape.height, shape.width, shape.channels, shape.classes];
        if sides.iter().any(|side| !(1..=4096).contains(side)) {
            return Err(JudgeError::Metadata);
        }
        if shape.needs_no_network() {
            return Ok(Self::of_values(shape));
        }
        let tensors = SafeTensors::deserialize(file)?;
        let mut net = Net::new(shape, 0.0, &Default::default());
        for (name, slot) in slots(&mut net) {
            match slot {
                Slot::Four(param) => load(&tensors, &name, param)?,
                Slot::Two(param) => load(&tensors, &name, param)?,
                Slot::One(param) => load(&tensors, &name, param)?,
            }
        }
        Ok(Self { net: Some(net), shape })
    }

    /// The file of this judge. Weights that are not f16 numbers are rounded; a judge without a network has no tensors.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut net = self.net.clone();
        let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = net
            .iter_mut()
            .flat_map(slots)
            .map(|(name, slot)| {
                let data = match slot {
                    Slot::Four(param) => param.val().into_data(),
                    Slot::Two(param) => param.val().into_data(),
                    Slot::One(param) => param.val().into_data(),
                };
                let bytes = data.iter::<f32>().flat_map(|value| f16::from_f32(value).to_le_bytes()).collect();
                (name, data.shape.to_vec(), bytes)
            })
            .collect();
        let views = tensors.iter().map(|(name, shape, bytes)| {
            (name, TensorView::new(Dtype::F16, shape.clone(), bytes).expect("two bytes a value"))
        });
        // One key only: the order of several would differ from run to run.
        let shape = serde_json::to_string(&self.shape).expect("four numbers");
        let metadata = HashMap::from([(METADATA_KEY.to_owned(), shape)]);
        safetensors::serialize(views, Some(metadata)).expect("valid views")
    }
}

/// A parameter, by its number of dimensions.
enum Slot<'a> {
    Four(&'a mut Param<Tensor<Flex, 4>>),
    Two(&'a mut Param<Tensor<Flex, 2>>),
    One(&'a mut Param<Tensor<Flex, 1>>),
}

/// Every parameter with its name in the file.
fn slots(net: &mut Net<Flex>) -> Vec<(String, Slot<'_>)> {
    fn bias(bias: &mut Option<Param<Tensor<Flex, 1>>>) -> Slot<'_> {
        Slot::One(bias.as_mut().expect("every layer has a bias"))
    }
    let convs = net.convs.iter_mut().enumerate().flat_map(|(index, conv)| {
        let name = |part| format!("conv{}.{part}", index + 1);
        [(name("weight"), Slot::Four(&mut conv.weight)), (name("bias"), bias(&mut conv.bias))]
    });
    let linears = [("hidden", &mut net.hidden), ("head", &mut net.head)].into_iter().flat_map(|(layer, linear)| {
        let name = |part| format!("{layer}.{part}");
        [(name("weight"), Slot::Two(&mut linear.weight)), (name("bias"), bias(&mut linear.bias))]
    });
    convs.chain(linears).collect()
}

fn load<const D: usize>(
    tensors: &SafeTensors<'_>,
    name: &str,
    param: &mut Param<Tensor<Flex, D>>,
) -> Result<(), JudgeError> {
    let view = tensors.tensor(name)?;
    let expected = param.val().dims();
    if view.dtype() != Dtype::F16 || view.shape() != expected {
        let found = format!("{:?} {:?}", view.dtype(), view.shape());
        return Err(JudgeError::Tensor { name: name.to_owned(), found, expected: expected.to_vec() });
    }
    let halves = view.data().chunks_exact(2).map(|bytes| f16::from_le_bytes([bytes[0], bytes[1]]));
    let data = TensorData::new(halves.map(f16::to_f32).collect(), expected);
    *param = Param::from_tensor(Tensor::from_data(data, &Default::default()));
    Ok(())
}
