//! The noise that training adds.

use burn::tensor::backend::Backend;
use burn::tensor::{Int, Tensor, TensorData};
use mote_process::assign;
use serde::{Deserialize, Serialize};

use super::is_default;

/// What is done to standard normal noise before it is added to the data. What the network is to say is made of the same
/// noise, so nothing here makes target and input disagree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoiseConfig {
    /// How much noise common to a whole channel is added, so that the network learns to change the mean (Guttenberg,
    /// *Diffusion with Offset Noise*, 2023: 0.1); 0 is none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub offset: f64,
    /// How much noise of half the resolution is added, of a quarter its square, and so on; the sum is scaled to variance 1
    /// (Whitaker, *Multi-Resolution Noise*, 2023: 0.9); 0 is none, less than 1.
    #[serde(default, skip_serializing_if = "is_default")]
    pub pyramid: f64,
    /// Whether each sample gets the noise of the batch that lies near it, all together as near as possible (Li, Jiang,
    /// Kodaira et al., *Immiscible Diffusion*, 2024).
    #[serde(default, skip_serializing_if = "is_default")]
    pub immiscible: bool,
}

impl NoiseConfig {
    /// The noise for the samples `x0`, both `[batch, channels, height, width]`. `normal` draws as many standard normal
    /// numbers of a shape as it is asked for.
    pub fn shape<B: Backend>(
        self,
        x0: &Tensor<B, 4>,
        mut noise: Tensor<B, 4>,
        mut normal: impl FnMut([usize; 4]) -> Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        let [batch, channels, height, width] = x0.dims();
        if self.pyramid > 0.0 {
            let (mut scale, mut variance) = (1.0, 1.0);
            let halvings = usize::BITS - height.max(width).leading_zeros();
            for halving in 1..halvings {
                scale *= self.pyramid;
                variance += scale * scale;
                let coarse = normal([batch, channels, height.div_ceil(1 << halving), width.div_ceil(1 << halving)]);
                noise = noise + enlarge(coarse, [height, width], 1 << halving) * scale;
            }
            noise = noise / f64::sqrt(variance);
        }
        if self.offset > 0.0 {
            noise = noise + normal([batch, channels, 1, 1]) * self.offset;
        }
        if self.immiscible { nearest(x0, noise) } else { noise }
    }

    /// # Errors
    /// The number that makes no sense.
    pub fn check(self) -> Result<(), String> {
        if !(self.offset >= 0.0 && self.offset.is_finite()) {
            return Err(format!("train.noise.offset is {}; it must be at least 0", self.offset));
        }
        if !(0.0..1.0).contains(&self.pyramid) {
            return Err(format!("train.noise.pyramid is {}; it must be at least 0 and less than 1", self.pyramid));
        }
        Ok(())
    }
}

/// Each value becomes a block of `factor` x `factor` values; what is beyond `sides` is cut.
fn enlarge<B: Backend>(x: Tensor<B, 4>, sides: [usize; 2], factor: usize) -> Tensor<B, 4> {
    let device = x.device();
    let indices = |side: usize| {
        let indices: Vec<i32> = (0..side).map(|at| (at / factor) as i32).collect();
        Tensor::<B, 1, Int>::from_ints(&indices[..], &device)
    };
    x.select(2, indices(sides[0])).select(3, indices(sides[1]))
}

/// The noises in the order in which the squared distances to their samples sum to the least. The squares of samples and noises
/// are the same in any order, so only the products decide.
fn nearest<B: Backend>(x0: &Tensor<B, 4>, noise: Tensor<B, 4>) -> Tensor<B, 4> {
    let (batch, device) = (x0.dims()[0], x0.device());
    let flat = |x: Tensor<B, 4>| x.flatten::<2>(1, 3);
    let products = flat(x0.clone()).matmul(flat(noise.clone()).transpose());
    let costs: Vec<f32> = (-products).into_data().to_vec().expect("f32 backend");
    let order: Vec<i32> = assign(&costs).into_iter().map(|column| column as i32).collect();
    noise.select(0, Tensor::<B, 1, Int>::from_data(TensorData::new(order, [batch]), &device))
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use mote_core::noise::{Philox, normal_q12};
    use rand::Rng;

    use super::*;

    fn normal(seed: u64) -> impl FnMut([usize; 4]) -> Tensor<Flex, 4> {
        let mut philox = Philox::new(seed);
        move |shape| {
            let one = |_| f32::from(normal_q12(philox.next_u32())) / 4096.0;
            let values: Vec<f32> = (0..shape.iter().product()).map(one).collect();
            Tensor::from_data(TensorData::new(values, shape), &Default::default())
        }
    }

    fn distance(a: &Tensor<Flex, 4>, b: &Tensor<Flex, 4>) -> f32 {
        (a.clone() - b.clone()).powi_scalar(2).sum().into_scalar()
    }

    #[test]
    fn immiscible_noise_is_the_same_noise_nearer_to_its_samples() {
        let mut random = normal(3);
        let (x0, noise) = (random([16, 1, 2, 2]), random([16, 1, 2, 2]));
        let config = NoiseConfig { immiscible: true, ..Default::default() };
        let assigned = config.shape(&x0, noise.clone(), |_| unreachable!());
        assert!(distance(&x0, &assigned) < 0.6 * distance(&x0, &noise));
        let rows = |x: Tensor<Flex, 4>| -> Vec<Vec<u32>> {
            let values: Vec<f32> = x.into_data().to_vec().unwrap();
            let mut rows: Vec<Vec<u32>> =
                values.chunks(4).map(|row| row.iter().map(|value| value.to_bits()).collect()).collect();
            rows.sort();
            rows
        };
        assert_eq!(rows(assigned), rows(noise));
    }

    #[test]
    fn offset_and_pyramid_noise_have_the_stated_variances() {
        let mut random = normal(5);
        let x0 = Tensor::zeros([2000, 1, 4, 5], &Default::default());
        let variance = |x: Tensor<Flex, 4>| f64::from(x.powi_scalar(2).mean().into_scalar());
        let noise = random([2000, 1, 4, 5]);
        let pyramid = NoiseConfig { pyramid: 0.8, ..Default::default() }.shape(&x0, noise.clone(), &mut random);
        assert!((variance(pyramid.clone()) - 1.0).abs() < 0.05);
        // Of a sample's mean: (0.05 + 0.8^2 0.18 + 0.8^4 0.68) / (1 + 0.8^2 + 0.8^4); white noise alone has 1 / 20.
        assert!((variance(pyramid.mean_dim(2).mean_dim(3)) - 0.217).abs() < 0.03);
        let offset = NoiseConfig { offset: 0.5, ..Default::default() }.shape(&x0, noise, &mut random);
        assert!((variance(offset.clone()) - 1.25).abs() < 0.05);
        assert!((variance(offset.mean_dim(2).mean_dim(3)) - 0.3).abs() < 0.03);
    }

    #[test]
    fn numbers_that_make_no_sense_are_named() {
        assert!(NoiseConfig { pyramid: 1.0, ..Default::default() }.check().unwrap_err().contains("pyramid is 1"));
        assert!(NoiseConfig { offset: -0.1, ..Default::default() }.check().unwrap_err().contains("offset is -0.1"));
    }
}
