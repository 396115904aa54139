//! The image that a super-resolution network is given.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::is_default;
use crate::dataset::SampleShape;

/// A network that makes samples from their low resolution (Saharia et al., *Image Super-Resolution via Iterative Refinement*,
/// 2021). It sees the low resolution, enlarged to the samples' size, as further input channels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LowResolution {
    /// How many times smaller each side is that is more than 1; a divisor of it, at least 2.
    pub factor: usize,
    /// Noise added to the low resolution while training, its deviation uniform up to this, so that the network forgives
    /// what another model did wrong (conditioning augmentation: Ho et al., *Cascaded Diffusion Models*, 2022, section 4.2;
    /// here the network is not told how much).
    #[serde(default, skip_serializing_if = "is_default")]
    pub noise: f64,
}

impl LowResolution {
    /// What is given of samples `[batch, channels, height, width]`: their low resolution, at their own size.
    pub fn of<B: Backend>(self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [_, _, height, width] = x.dims();
        self.enlarge(self.reduce(x), [height, width])
    }

    /// The low resolution of samples: each block's mean, `[batch, channels, height, width]` with smaller sides.
    pub fn reduce<B: Backend>(self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [batch, channels, height, width] = x.dims();
        let [down, across] = self.blocks(height, width);
        let blocks = x.reshape([batch, channels, height / down, down, width / across, across]);
        blocks.mean_dim(3).mean_dim(5).reshape([batch, channels, height / down, width / across])
    }

    /// The low resolution in samples of `[height, width]`: each value a block.
    pub fn enlarge<B: Backend>(self, x: Tensor<B, 4>, [height, width]: [usize; 2]) -> Tensor<B, 4> {
        let [batch, channels, low_height, low_width] = x.dims();
        let [down, across] = self.blocks(height, width);
        x.reshape([batch, channels, low_height, 1, low_width, 1])
            .expand([batch, channels, low_height, down, low_width, across])
            .reshape([batch, channels, height, width])
    }

    /// The shape of the low resolution of samples of `shape`.
    pub fn shape(self, shape: SampleShape) -> SampleShape {
        let [down, across] = self.blocks(shape.height, shape.width);
        SampleShape { height: shape.height / down, width: shape.width / across, ..shape }
    }

    fn blocks(self, height: usize, width: usize) -> [usize; 2] {
        [height, width].map(|side| if side > 1 { self.factor } else { 1 })
    }

    /// # Errors
    /// Why samples of this shape have no such low resolution.
    pub fn check(self, shape: SampleShape) -> Result<(), String> {
        let SampleShape { height, width, .. } = shape;
        let [down, across] = self.blocks(height, width);
        if self.factor < 2 || down * across == 1 || height % down != 0 || width % across != 0 {
            return Err(format!(
                "diffusion.low_resolution.factor is {}, samples are {shape}; give a divisor of their sides, at least 2",
                self.factor
            ));
        }
        if !(self.noise >= 0.0 && self.noise.is_finite()) {
            return Err(format!("diffusion.low_resolution.noise is {}; it must be at least 0", self.noise));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    #[test]
    fn blocks_become_their_means_and_back() {
        let low = LowResolution { factor: 2, noise: 0.0 };
        let x: Vec<f32> = (0..16).map(|i| i as f32).collect();
        let x = Tensor::<Flex, 1>::from_floats(&x[..], &Default::default()).reshape([1, 1, 4, 4]);
        let small = low.reduce(x);
        assert_eq!(small.to_data().to_vec::<f32>().unwrap(), [2.5, 4.5, 10.5, 12.5]);
        let large = low.enlarge(small.clone(), [4, 4]);
        assert_eq!(large.to_data().to_vec::<f32>().unwrap()[..8], [2.5, 2.5, 4.5, 4.5, 2.5, 2.5, 4.5, 4.5]);
        assert_eq!(low.reduce(large).to_data(), small.to_data());
        let signal = Tensor::<Flex, 1>::from_floats([1.0, 3.0, 5.0, 9.0], &Default::default()).reshape([1, 1, 1, 4]);
        assert_eq!(low.reduce(signal).to_data().to_vec::<f32>().unwrap(), [2.0, 7.0]);
    }

    #[test]
    fn shapes_without_a_low_resolution_are_refused() {
        let low = LowResolution { factor: 4, noise: 0.0 };
        assert!(low.check(SampleShape::image(8, 12, 3)).is_ok());
        assert_eq!(low.shape(SampleShape::image(8, 12, 3)), SampleShape::image(2, 3, 3));
        assert!(low.check(SampleShape::image(8, 14, 3)).unwrap_err().contains("factor is 4"));
        assert!(low.check(SampleShape { height: 1, width: 1, channels: 8 }).is_err());
        assert!(LowResolution { factor: 2, noise: -1.0 }.check(SampleShape::image(4, 4, 1)).is_err());
    }
}
