//! Sampling in floats: the rows that core runs, on core's noise, with classifier-free guidance.

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use mote_core::noise::{NoiseUse, normals};
use mote_core::step_table::StepRow;

use super::Diffusion;
use crate::dataset::SampleShape;
use crate::denoiser::{Condition, Denoiser, DenoiserConfig};
use crate::evaluate::npy::Samples;
use crate::ops::DenoiserBackend;

/// Images drawn at once.
const BATCH: usize = 100;
/// 1.0 in the units of core's noise.
const NOISE_ONE: f32 = 4096.0;

/// Draws samples of a network.
pub struct Sampler<'a, B: Backend> {
    /// The network.
    pub net: &'a Denoiser<B>,
    /// Its sizes.
    pub config: &'a DenoiserConfig,
    /// Its process.
    pub diffusion: &'a Diffusion,
    /// Guidance strength `w`: `uncond + w (cond - uncond)`; 1 is one pass without guidance.
    pub guidance: f64,
}

/// The guided output at one timestep: `uncond + w (cond - uncond)` in one pass of twice the batch; for w = 1 plain.
pub fn guided<B: DenoiserBackend>(
    sampler: &Sampler<'_, B>,
    x: &Tensor<B, 4>,
    timestep: u32,
    classes: &[usize],
) -> Tensor<B, 4> {
    let (batch, device) = (classes.len(), x.device());
    let condition = |classes: &[usize]| {
        let timesteps = vec![timestep; classes.len()];
        Condition::new(sampler.config, &timesteps, sampler.diffusion.timesteps(), classes, &device)
    };
    if sampler.guidance == 1.0 {
        return sampler.net.forward(x.clone(), &condition(classes));
    }
    let both = [classes, &vec![sampler.config.no_class(); batch]].concat();
    let f = sampler.net.forward(Tensor::cat(vec![x.clone(), x.clone()], 0), &condition(&both));
    let (with, without) = (f.clone().narrow(0, 0, batch), f.narrow(0, batch, batch));
    without.clone() + (with - without) * sampler.guidance
}

impl<B: DenoiserBackend> Sampler<'_, B> {
    /// One row: the next state from `x`. `previous` is the x0 of the row before, `noise` is asked for where it is used.
    pub fn row(
        &self,
        row: &StepRow,
        x: Tensor<B, 4>,
        classes: &[usize],
        previous: &mut Option<Tensor<B, 4>>,
        noise: impl FnOnce() -> Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        let f = guided(self, &x, row.timestep, classes);
        let x0 = (x.clone() * row.p + f * row.q).clamp(-1.0, 1.0);
        let mut next = x * row.a + x0.clone() * row.b;
        if let Some(previous) = previous.take().filter(|_| row.b_prev != 0.0) {
            next = next + previous * row.b_prev;
        }
        *previous = Some(x0);
        if row.c == 0.0 { next } else { next + noise() * row.c }
    }

    /// Noise of samples, `[samples, channels, height, width]`.
    pub fn noise(
        &self,
        seed: u64,
        samples: std::ops::Range<u64>,
        noise_use: NoiseUse,
        device: &B::Device,
    ) -> Tensor<B, 4> {
        let values_each = self.config.shape.len();
        let values = samples
            .flat_map(|sample| normals(seed, sample, noise_use).take(values_each))
            .map(|value| f32::from(value) / NOISE_ONE)
            .collect();
        from_pixels(values, self.config.shape, device)
    }

    /// Draws `count` samples: number i from noise `(seed, i)` with class `i % classes`. `progress` hears how many are
    /// done.
    pub fn draw(
        &self,
        table: &[StepRow],
        seed: u64,
        count: usize,
        device: &B::Device,
        mut progress: impl FnMut(usize),
    ) -> Samples {
        let DenoiserConfig { shape, classes, .. } = *self.config;
        let mut units = Vec::with_capacity(count * shape.len());
        for begin in (0..count).step_by(BATCH) {
            let numbers = begin as u64..(begin + BATCH).min(count) as u64;
            let labels: Vec<usize> = numbers.clone().map(|number| number as usize % classes).collect();
            let mut x = self.noise(seed, numbers.clone(), NoiseUse::Start, device);
            let mut previous = None;
            for (index, row) in table.iter().enumerate() {
                let noise = || self.noise(seed, numbers.clone(), NoiseUse::Row(index as u16), device);
                x = self.row(row, x, &labels, &mut previous, noise);
            }
            units.extend(to_units(x));
            progress(numbers.end as usize);
        }
        Samples::from_units(units, shape)
    }
}

/// `[n, channels, height, width]` to values `[n, height, width, channels]`.
pub fn to_units<B: Backend>(x: Tensor<B, 4>) -> Vec<f32> {
    x.permute([0, 2, 3, 1]).into_data().to_vec().expect("f32 backend")
}

/// Values `[n, height, width, channels]` to a tensor `[n, channels, height, width]`.
pub fn from_pixels<B: Backend>(values: Vec<f32>, shape: SampleShape, device: &B::Device) -> Tensor<B, 4> {
    let SampleShape { height, width, channels } = shape;
    let n = values.len() / shape.len();
    if channels == 1 {
        // The same order; a permutation would be copied value by value.
        return Tensor::from_data(TensorData::new(values, [n, 1, height, width]), device);
    }
    Tensor::<B, 4>::from_data(TensorData::new(values, [n, height, width, channels]), device).permute([0, 3, 1, 2])
}
