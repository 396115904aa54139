//! The reverse process of one batch: what is asked at each row, and the walk along the table.

use std::ops::Range;

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mote_core::noise::{NoiseUse, normals};
use mote_core::quant::STATE_ONE;
use mote_core::schedule::{jump_variance, posterior_variance};
use mote_core::step_table::StepRow;

use super::Threshold;
use crate::dataset::SampleShape;
use crate::diffusion::from_pixels;

/// Something that estimates the data behind a noised state. All tensors are `[batch, channels, height, width]`.
pub trait Denoise<B: Backend> {
    /// The estimate for `x`, a state that `row` expects: `row.signal` data + `row.noise` noise. `previous` is the estimate at
    /// the row before, within the data's range, for networks with self-conditioning.
    fn estimate(&self, x: &Tensor<B, 4>, row: &StepRow, previous: Option<&Tensor<B, 4>>) -> Estimate<B>;
}

/// What is thought of the data behind a state.
#[derive(Debug, Clone)]
pub struct Estimate<B: Backend> {
    /// The data, beyond its range where the denoiser says so.
    pub x0: Tensor<B, 4>,
    /// Where the reverse step's log-variance lies: -1 at the posterior's, 1 at beta's (Nichol, Dhariwal 2021, equation 15);
    /// the row's own variance if there is none.
    pub variance: Option<Tensor<B, 4>>,
}

/// A function that gives the data is a denoiser.
impl<B: Backend, F: Fn(&Tensor<B, 4>, &StepRow) -> Tensor<B, 4>> Denoise<B> for F {
    fn estimate(&self, x: &Tensor<B, 4>, row: &StepRow, _: Option<&Tensor<B, 4>>) -> Estimate<B> {
        Estimate { x0: self(x, row), variance: None }
    }
}

/// Where a batch takes its noise from, by core's rule: a function of (seed, sample, use, element), the elements in the order
/// height, width, channels.
#[derive(Debug, Clone)]
pub struct Noise<B: Backend> {
    /// The request's seed.
    pub seed: u64,
    /// The requests' samples, one of the batch each.
    pub samples: Range<u64>,
    /// Of a sample.
    pub shape: SampleShape,
    /// Where the tensors are.
    pub device: B::Device,
}

impl<B: Backend> Noise<B> {
    /// Standard normal noise, `[samples, channels, height, width]`.
    pub fn normal(&self, noise_use: NoiseUse) -> Tensor<B, 4> {
        let one = |sample| normals(self.seed, sample, noise_use).take(self.shape.len());
        let values = self.samples.clone().flat_map(one).map(|value| f32::from(value) / f32::from(STATE_ONE)).collect();
        from_pixels(values, self.shape, &self.device)
    }
}

/// The reverse process of one batch.
#[derive(Clone)]
pub struct Reverse<'a, B: Backend> {
    /// What is asked at each row.
    pub denoise: &'a dyn Denoise<B>,
    /// The rows, the noisiest first.
    pub table: &'a [StepRow],
    /// Keeps the estimates within the data's range.
    pub threshold: Threshold,
    /// The batch's noise.
    pub noise: Noise<B>,
}

impl<B: Backend> Reverse<'_, B> {
    /// Pure noise, where a whole sample starts.
    pub fn start(&self) -> Tensor<B, 4> {
        self.noise.normal(NoiseUse::Start)
    }

    /// Data noised to the level that row `first_row` expects (core's `Start::Noised`): image-to-image (Meng et al.,
    /// *SDEdit*, 2021) goes on with [`Reverse::run`] from there.
    pub fn noised(&self, data: Tensor<B, 4>, first_row: usize) -> Tensor<B, 4> {
        let row = &self.table[first_row];
        data * row.signal + self.start() * row.noise
    }

    /// The data that the rows from `first_row` on make of the state `x`.
    pub fn run(&self, x: Tensor<B, 4>, first_row: usize) -> Tensor<B, 4> {
        let (mut x, mut previous) = (x, None);
        for row in first_row..self.table.len() {
            x = self.row(row, x, &mut previous, || self.noise.normal(NoiseUse::Row(row as u16)));
        }
        x
    }

    /// One row: the next state from `x`. `previous` is the estimate of the row before and becomes this row's; `noise` is
    /// asked for where it is used.
    pub fn row(
        &self,
        index: usize,
        x: Tensor<B, 4>,
        previous: &mut Option<Tensor<B, 4>>,
        noise: impl FnOnce() -> Tensor<B, 4>,
    ) -> Tensor<B, 4> {
        let row = &self.table[index];
        let Estimate { x0, variance } = self.denoise.estimate(&x, row, previous.as_ref());
        let x0 = self.threshold.apply(x0);
        let mut next = x * row.a + x0.clone() * row.b;
        if let Some(previous) = previous.take().filter(|_| row.b_prev != 0.0) {
            next = next + previous * row.b_prev;
        }
        *previous = Some(x0);
        match variance {
            _ if row.c == 0.0 => next,
            Some(fraction) => next + noise() * self.deviation(index, fraction),
            None => next + noise() * row.c,
        }
    }

    /// The deviation that a network chose: its logarithm lies between those of the posterior's and of beta's (Nichol,
    /// Dhariwal, *Improved Denoising Diffusion Probabilistic Models*, 2021, equation 15).
    fn deviation(&self, index: usize, fraction: Tensor<B, 4>) -> Tensor<B, 4> {
        let alpha_bar = |row: &StepRow| row.signal * row.signal;
        let (now, next) = (alpha_bar(&self.table[index]), self.table.get(index + 1).map_or(1.0, alpha_bar));
        let [small, large] = [posterior_variance(now, next).ln(), jump_variance(now, next).ln()];
        ((fraction * (large - small) + (large + small)) * 0.25).exp()
    }
}

impl Threshold {
    /// Estimates within the data's range.
    pub fn apply<B: Backend>(self, x0: Tensor<B, 4>) -> Tensor<B, 4> {
        match self {
            Self::None => x0,
            Self::Clamp { limit } => x0.clamp(-limit, limit),
            Self::Dynamic { quantile } => {
                let [batch, ..] = x0.dims();
                let values: Vec<f32> = x0.to_data().to_vec().expect("f32 backend");
                let limits: Vec<f32> =
                    values.chunks(values.len() / batch).map(|sample| magnitude(sample, quantile).max(1.0)).collect();
                let limits = Tensor::<B, 1>::from_floats(&limits[..], &x0.device()).reshape([batch, 1, 1, 1]);
                (x0 / limits).clamp(-1.0, 1.0)
            }
        }
    }
}

/// The value that a share `quantile` of the magnitudes does not exceed, between two of them in a straight line.
fn magnitude(values: &[f32], quantile: f64) -> f32 {
    let mut sorted: Vec<f32> = values.iter().map(|value| value.abs()).collect();
    sorted.sort_unstable_by(f32::total_cmp);
    let at = quantile * (sorted.len() - 1) as f64;
    let (below, fraction) = (at.floor() as usize, at.fract() as f32);
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + fraction * (sorted[above] - sorted[below])
}
