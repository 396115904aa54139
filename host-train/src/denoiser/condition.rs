//! What a denoiser is told beside the noised sample.

use burn::module::{Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, TensorData};

use super::DenoiserConfig;
use super::layers::{Init, Linear};
use crate::ops::{DenoiserBackend, normal};

/// Longest period of the timestep's sines and cosines, in timesteps / 2 pi.
const MAX_PERIOD: f64 = 10_000.0;

/// What the network is told, a row a sample.
#[derive(Debug, Clone)]
pub struct Condition<B: Backend> {
    /// The timestep's features, `[batch, embedding]`: `cos(t w_i)` then `sin(t w_i)` for
    /// `w_i = 10000^(-i / (embedding / 2))`, the timestep t counted as if there were 1000.
    pub time: Tensor<B, 2>,
    /// One-hot class, `[batch, classes + 1]`.
    pub class: Tensor<B, 2>,
    /// Input channels beside the sample's, `[batch, extra_channels, height, width]`: the estimate of `x0` where the
    /// network conditions on itself, then the given image. None stands for zeros.
    pub extra: Option<Tensor<B, 4>>,
    /// While training, the seed of dropout's masks. None drops nothing.
    pub dropout: Option<u64>,
}

impl<B: Backend> Condition<B> {
    /// One row for each timestep (of `timesteps`) and class, without extra channels or dropout; class `config.classes`
    /// is none.
    ///
    /// # Panics
    /// If the lengths differ or a class is greater than `config.classes`.
    pub fn new(config: &DenoiserConfig, of: &[u32], timesteps: usize, classes: &[usize], device: &B::Device) -> Self {
        let times: Vec<f64> = of.iter().map(|&timestep| f64::from(timestep)).collect();
        Self::at(config, &times, timesteps, classes, device)
    }

    /// The same for times that need not be whole.
    ///
    /// # Panics
    /// As [`Condition::new`].
    pub fn at(config: &DenoiserConfig, of: &[f64], timesteps: usize, classes: &[usize], device: &B::Device) -> Self {
        let features = Features::<B>::rows(config, of.iter().copied(), timesteps);
        Self::told(config, Tensor::from_data(features, device), classes, device)
    }

    /// Features of timesteps, `[batch, embedding]`, and the classes.
    fn told(config: &DenoiserConfig, time: Tensor<B, 2>, classes: &[usize], device: &B::Device) -> Self {
        assert_eq!(time.dims()[0], classes.len());
        let mut class = vec![0f32; classes.len() * (config.classes + 1)];
        for (row, &label) in classes.iter().enumerate() {
            assert!(label <= config.classes, "class {label}");
            class[row * (config.classes + 1) + label] = 1.0;
        }
        let class = Tensor::from_data(TensorData::new(class, [classes.len(), config.classes + 1]), device);
        Self { time, class, extra: None, dropout: None }
    }

    /// The same for a network whose gradients are asked for.
    pub fn tracked<A: AutodiffBackend<InnerBackend = B>>(self) -> Condition<A> {
        Condition {
            time: Tensor::from_inner(self.time),
            class: Tensor::from_inner(self.class),
            extra: self.extra.map(Tensor::from_inner),
            dropout: self.dropout,
        }
    }

    /// `x` and the extra channels of a network that reads `inputs` channels.
    ///
    /// # Panics
    /// If there are extra channels, but not as many as the network reads.
    pub(super) fn input(&self, x: Tensor<B, 4>, inputs: usize) -> Tensor<B, 4> {
        let [batch, channels, height, width] = x.dims();
        let wanted = [batch, inputs - channels, height, width];
        let extra = match &self.extra {
            Some(extra) => {
                assert_eq!(extra.dims(), wanted, "extra channels");
                extra.clone()
            }
            None if inputs == channels => return x,
            None => Tensor::zeros(wanted, &x.device()),
        };
        Tensor::cat(vec![x, extra], 1)
    }
}

/// The features of all timesteps, computed once and kept on the device: a training step picks its rows there.
#[derive(Debug, Clone)]
pub struct Features<B: Backend> {
    /// `[timesteps, embedding]`
    table: Tensor<B, 2>,
    timesteps: usize,
}

impl<B: Backend> Features<B> {
    /// Of each of `timesteps`, for the network of `config`.
    pub fn new(config: &DenoiserConfig, timesteps: usize, device: &B::Device) -> Self {
        let rows = Self::rows(config, (0..timesteps).map(|timestep| timestep as f64), timesteps);
        Self { table: Tensor::from_data(rows, device), timesteps }
    }

    /// [`Condition::at`] the times, with the same bits.
    ///
    /// # Panics
    /// As [`Condition::new`].
    pub fn condition(&self, config: &DenoiserConfig, of: &[f64], classes: &[usize]) -> Condition<B> {
        let device = &self.table.device();
        if of.iter().any(|&time| time.fract() != 0.0 || time < 0.0 || time >= self.timesteps as f64) {
            return Condition::at(config, of, self.timesteps, classes, device);
        }
        let rows: Vec<i32> = of.iter().map(|&timestep| timestep as i32).collect();
        Condition::told(config, self.table.clone().select(0, Tensor::from_ints(&rows[..], device)), classes, device)
    }

    /// A row of features for each of the times.
    fn rows(config: &DenoiserConfig, times: impl ExactSizeIterator<Item = f64>, timesteps: usize) -> TensorData {
        let (rows, embedding) = (times.len(), config.architecture.embedding());
        let half = embedding / 2;
        let frequencies: Vec<f64> = (0..half).map(|i| MAX_PERIOD.powf(-(i as f64) / half as f64)).collect();
        let mut features = Vec::with_capacity(rows * embedding);
        for time in times {
            let angles = frequencies.iter().map(|frequency| time * 1000.0 / timesteps as f64 * frequency);
            features.extend(angles.clone().map(|angle| angle.cos() as f32));
            features.extend(angles.map(|angle| angle.sin() as f32));
        }
        TensorData::new(features, [rows, embedding])
    }
}

/// From the condition to what every block's scale and shift are made of.
#[derive(Module, Debug)]
pub struct Embedding<B: Backend> {
    /// `[embedding, embedding]`
    pub time_in: Linear<B>,
    /// `[embedding, embedding]`
    pub time_out: Linear<B>,
    /// `[classes + 1, embedding]`
    pub class: Param<Tensor<B, 2>>,
}

impl<B: Backend> Embedding<B> {
    pub(super) fn new(config: &DenoiserConfig, init: &mut Init<B>) -> Self {
        let embedding = config.architecture.embedding();
        Self {
            time_in: Linear::new(embedding, embedding, init),
            time_out: Linear::new(embedding, embedding, init),
            class: init.uniform([config.classes + 1, embedding], 0.5),
        }
    }
}

impl<B: DenoiserBackend> Embedding<B> {
    /// `silu(time_out(silu(time_in(features))) + class[label])`, `[batch, embedding]`.
    pub fn forward(&self, condition: &Condition<B>) -> Tensor<B, 2> {
        let time = self.time_out.forward(silu(self.time_in.forward(condition.time.clone())));
        silu(time + condition.class.clone().matmul(self.class.val()))
    }
}

/// The masks of one forward pass (Srivastava et al., *Dropout*, 2014): a value is zeroed with probability `rate`, and
/// multiplied by `1 / (1 - rate)` if it is not.
pub(super) struct Dropout {
    rate: f64,
    /// The seed of [`DenoiserBackend::normals`], and how many of its numbers were drawn.
    drawn: Option<(u64, u128)>,
}

impl Dropout {
    /// The masks are a function of `seed` and of the shapes asked for, in order; without a seed nothing is dropped.
    pub(super) fn new(rate: f64, seed: Option<u64>) -> Self {
        Self { rate, drawn: seed.filter(|_| rate > 0.0).map(|seed| (seed, 0)) }
    }

    /// Normal numbers decide, for they are made where `x` is.
    pub(super) fn apply<B: DenoiserBackend>(&mut self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let Some((seed, drawn)) = &mut self.drawn else { return x };
        let shape = x.dims();
        let count: usize = shape.iter().product();
        let normals = B::normals(*seed, *drawn, count, &x.device()).reshape(shape);
        *drawn += count as u128;
        let kept = normals.lower_equal_elem(exceeded(self.rate)).float() * (1.0 / (1.0 - self.rate));
        let kept = kept.cast(x.dtype());
        x * kept
    }
}

/// What a normal number exceeds with probability `rate`, as near as twelve bits say it.
fn exceeded(rate: f64) -> f32 {
    let of = |tail: f64| normal(((tail * 4_294_967_296.0) as u32).min(i32::MAX as u32));
    if rate < 0.5 { of(rate) } else { -of(1.0 - rate) }
}
