//! How the judge is trained: cross-entropy on shifted and mirrored images.

use burn::backend::Autodiff;
use burn::module::AutodiffModule;
use burn::optim::{AdamWConfig, GradientsParams, Optimizer};
use burn::tensor::activation::log_softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;

use super::{Flex, Judge, Net, Shape, images};
use crate::dataset::Split;

type Train = Autodiff<Flex>;

/// The numbers that decide a training run.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Passes over the images.
    pub epochs: usize,
    /// Images a step; a last, smaller batch is dropped.
    pub batch: usize,
    /// Greatest learning rate; a cosine takes it to 0.
    pub learning_rate: f64,
    /// AdamW's weight decay.
    pub weight_decay: f32,
    /// Probability that a value before a linear layer is dropped.
    pub dropout: f64,
    /// Probability mass spread evenly over the classes.
    pub label_smoothing: f32,
    /// Greatest shift of an image, in pixels, along each axis.
    pub max_shift: i32,
    /// Seed of the initial weights, the order and the shifts.
    pub seed: u64,
}

impl Default for Recipe {
    /// The embedded judge's recipe.
    fn default() -> Self {
        Self {
            epochs: 50,
            batch: 64,
            learning_rate: 4e-3,
            weight_decay: 0.05,
            dropout: 0.1,
            label_smoothing: 0.05,
            max_shift: 1,
            seed: 1,
        }
    }
}

impl Judge {
    /// Trains a judge on a split; `progress` hears the epoch (from 1) and its mean loss. The weights are f16 numbers.
    pub fn train(split: &Split<'_>, recipe: &Recipe, mut progress: impl FnMut(usize, f64)) -> Self {
        let shape = Shape::of(split.dataset);
        let device = Default::default();
        Train::seed(&device, recipe.seed);
        let mut rng = Pcg64::seed_from_u64(recipe.seed);
        let mut net = Net::<Train>::new(shape, recipe.dropout, &device);
        let mut optimizer = AdamWConfig::new().with_weight_decay(recipe.weight_decay).init();
        let mut order: Vec<usize> = (0..split.len()).collect();
        let steps = recipe.epochs * (order.len() / recipe.batch);
        let mut step = 0;
        for epoch in 1..=recipe.epochs {
            order.shuffle(&mut rng);
            let mut total = 0.0;
            for batch in order.chunks_exact(recipe.batch) {
                let values = batch.iter().flat_map(|&index| {
                    let image: Vec<f32> = split.units(index).collect();
                    augment(&image, shape, recipe.max_shift, &mut rng)
                });
                let logits = net.logits(images(values.collect(), shape, &device));
                let targets =
                    smooth_targets(batch.iter().map(|&index| split.label(index)), shape, recipe.label_smoothing);
                let loss = (log_softmax(logits, 1) * targets).sum_dim(1).mean().neg();
                total += f64::from(loss.clone().into_scalar());
                let gradients = GradientsParams::from_grads(loss.backward(), &net);
                let phase = std::f64::consts::PI * step as f64 / steps as f64;
                net = optimizer.step(recipe.learning_rate * 0.5 * (1.0 + phase.cos()), net, gradients);
                step += 1;
            }
            progress(epoch, total / (order.len() / recipe.batch) as f64);
        }
        let trained = Self { net: net.valid(), shape };
        Self::from_bytes(&trained.to_bytes()).expect("its own file")
    }
}

/// The image, in [-1, 1], mirrored half the time and shifted by up to `max_shift`, black where nothing is left.
fn augment(image: &[f32], shape: Shape, max_shift: i32, rng: &mut Pcg64) -> Vec<f32> {
    let mirrored = rng.random_range(0..2) == 1;
    let [down, across] = [0; 2].map(|_: i32| rng.random_range(-max_shift..=max_shift));
    let (height, width) = (shape.height as i32, shape.width as i32);
    let mut out = Vec::with_capacity(image.len());
    for y in 0..height {
        for x in 0..width {
            let x = if mirrored { width - 1 - x } else { x };
            let (y, x) = (y + down, x + across);
            for channel in 0..shape.channels {
                let inside = (0..height).contains(&y) && (0..width).contains(&x);
                let at = (y * width + x) as isize * shape.channels as isize + channel as isize;
                out.push(if inside { image[at as usize] } else { -1.0 });
            }
        }
    }
    out
}

/// `[n, classes]`: `1 - smoothing` on the label and `smoothing / classes` everywhere.
fn smooth_targets(labels: impl Iterator<Item = u16>, shape: Shape, smoothing: f32) -> Tensor<Train, 2> {
    let classes = shape.classes;
    let even = smoothing / classes as f32;
    let rows: Vec<f32> = labels
        .flat_map(|label| {
            (0..classes).map(move |class| if class == usize::from(label) { 1.0 - smoothing + even } else { even })
        })
        .collect();
    let n = rows.len() / classes;
    Tensor::from_data(TensorData::new(rows, [n, classes]), &Default::default())
}
