//! How the judge is trained: cross-entropy on augmented samples.

use burn::backend::Autodiff;
use burn::module::AutodiffModule;
use burn::optim::{AdamWConfig, GradientsParams, Optimizer};
use burn::tensor::activation::log_softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;

use super::{Flex, Judge, Net, Shape, VARIANTS, images};
use crate::dataset::{Augment, Augmentation, SampleShape, Split};

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
    /// How samples are varied.
    pub augment: Augmentation,
    /// Seed of the initial weights, the order and the variations.
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
            augment: Augmentation(vec![Augment::Mirror, Augment::Shift(1)]),
            seed: 1,
        }
    }
}

/// Samples that a judge of a large data set sees in training.
const ENOUGH: usize = 400_000;

impl Recipe {
    /// The default with fewer passes over more than 8,000 samples (7 over 60,000), batches no larger than the split, and
    /// variations that suit the shape: images are mirrored and shifted by a pixel, signals shifted by up to a sixteenth.
    pub fn of(split: &Split<'_>) -> Self {
        let (default, shape) = (Self::default(), split.dataset.shape);
        let augment = if shape.is_signal() {
            Augmentation(vec![Augment::Shift((shape.width / 16).clamp(1, shape.width - 1))])
        } else if default.augment.check(shape).is_ok() {
            default.augment
        } else {
            Augmentation::default()
        };
        let epochs = ENOUGH.div_ceil(split.len().max(1)).clamp(4, default.epochs);
        Self { epochs, batch: default.batch.min(split.len()), augment, ..default }
    }
}

impl Judge {
    /// Trains a judge on a split; `progress` hears the steps done, of how many, and the mean loss of the last 100. The
    /// weights are f16 numbers.
    ///
    /// # Panics
    /// If a batch is empty or larger than the split.
    pub fn train(split: &Split<'_>, recipe: &Recipe, mut progress: impl FnMut(usize, usize, f64)) -> Self {
        let shape = Shape::of(split.dataset);
        if shape.needs_no_network() {
            return Self::of_values(shape);
        }
        assert!((1..=split.len()).contains(&recipe.batch), "batches of {} of {} samples", recipe.batch, split.len());
        let device = Default::default();
        Train::seed(&device, recipe.seed);
        let mut rng = Pcg64::seed_from_u64(recipe.seed);
        let mut net = Net::<Train>::new(shape, recipe.dropout, &device);
        let mut optimizer = AdamWConfig::new().with_weight_decay(recipe.weight_decay).init();
        let mut order: Vec<usize> = (0..split.len()).collect();
        let steps = recipe.epochs * (order.len() / recipe.batch);
        let mut losses = Vec::with_capacity(steps);
        for _ in 0..recipe.epochs {
            order.shuffle(&mut rng);
            for batch in order.chunks_exact(recipe.batch) {
                let mut values = Vec::with_capacity(recipe.batch * shape.sample().len());
                let mut labels = Vec::with_capacity(recipe.batch);
                for &index in batch {
                    let sample: Vec<f32> = split.units(index).collect();
                    let sample = recipe.augment.apply(&sample, split.dataset, &mut || rng.random());
                    if shape.classes > 1 {
                        labels.push(usize::from(split.label(index)));
                        values.extend(sample);
                    } else {
                        let number = rng.random_range(0..VARIANTS);
                        labels.push(number);
                        values.extend(variant(&sample, shape.sample(), number));
                    }
                }
                let logits = net.logits(images(values, shape, &device));
                let targets = smooth_targets(&labels, shape.outputs(), recipe.label_smoothing);
                let loss = (log_softmax(logits, 1) * targets).sum_dim(1).mean().neg();
                let phase = std::f64::consts::PI * losses.len() as f64 / steps as f64;
                losses.push(f64::from(loss.clone().into_scalar()));
                let gradients = GradientsParams::from_grads(loss.backward(), &net);
                net = optimizer.step(recipe.learning_rate * 0.5 * (1.0 + phase.cos()), net, gradients);
                let recent = &losses[losses.len().saturating_sub(100)..];
                progress(losses.len(), steps, recent.iter().sum::<f64>() / recent.len() as f64);
            }
        }
        let trained = Self { net: Some(net.valid()), shape };
        Self::from_bytes(&trained.to_bytes()).expect("its own file")
    }
}

/// One of [`VARIANTS`] variants of a sample: 0 is the sample; 1 and 3 run backwards across; 2 and 3 are upside down, a
/// signal by its sign.
pub(super) fn variant(sample: &[f32], shape: SampleShape, number: usize) -> Vec<f32> {
    let (backwards, upside_down) = (number % 2 == 1, number >= 2);
    let SampleShape { height, width, channels } = shape;
    let sign = if upside_down && shape.is_signal() { -1.0 } else { 1.0 };
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| (y, x)));
    let from = pixels.map(|(y, x)| {
        let y = if upside_down { height - 1 - y } else { y };
        let x = if backwards { width - 1 - x } else { x };
        (y * width + x) * channels
    });
    from.flat_map(|at| &sample[at..at + channels]).map(|value| sign * value).collect()
}

/// `[n, classes]`: `1 - smoothing` on the label and `smoothing / classes` everywhere.
fn smooth_targets(labels: &[usize], classes: usize, smoothing: f32) -> Tensor<Train, 2> {
    let even = smoothing / classes as f32;
    let value = |label: usize, class: usize| if class == label { 1.0 - smoothing + even } else { even };
    let rows: Vec<f32> = labels.iter().flat_map(|&label| (0..classes).map(move |class| value(label, class))).collect();
    Tensor::from_data(TensorData::new(rows, [labels.len(), classes]), &Default::default())
}
