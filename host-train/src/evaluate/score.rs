//! Scores of sample sets against the held-out images.

use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use super::frechet::{Features, Gaussian, distance};
use super::judge::{Judge, Shape};
use crate::dataset::Dataset;

/// Random draws that a real-against-real floor averages.
const FLOOR_DRAWS: usize = 10;
/// Seed of those draws.
const FLOOR_SEED: u64 = 1;

/// How good a sample set is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Samples measured.
    pub n: usize,
    /// Squared Fréchet distance to the held-out images in the judge's features.
    pub frechet: f64,
    /// Fraction of samples judged to be of the class they were drawn for, 0 to 1.
    pub accuracy: f64,
}

/// What real images score, at the same n: the finite-n bias and the difference between the two splits.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Floor {
    /// Training images in a draw, as many of each class.
    pub n: usize,
    /// Mean squared Fréchet distance of the draws to the held-out images.
    pub frechet: f64,
    /// Standard deviation over the draws; 0 where all training images were taken.
    pub deviation: f64,
}

/// Measures sample sets against one data set's held-out images.
#[derive(Debug)]
pub struct Scorer {
    judge: Judge,
    /// Of the held-out images.
    held_out: Gaussian,
    /// The judge's accuracy on the held-out images.
    pub held_out_accuracy: f64,
    /// Number of held-out images.
    pub held_out_len: usize,
    train: Features,
    /// Numbers of the training images of each class.
    train_classes: Vec<Vec<usize>>,
}

impl Scorer {
    /// Assesses the real images.
    pub fn new(judge: Judge, dataset: &Dataset) -> anyhow::Result<Self> {
        let (judged, wanted) = (judge.shape, Shape::of(dataset));
        anyhow::ensure!(
            judged == wanted,
            "the judge is for {judged:?}, the data is {wanted:?}; train one with `mote-train judge --train --data DIR`"
        );
        let (train, held_out) = (dataset.train(), dataset.held_out());
        let assessed = judge.assess(&held_out.pixels()?);
        let mut train_classes = vec![Vec::new(); dataset.classes()];
        (0..train.len()).for_each(|index| train_classes[usize::from(train.label(index))].push(index));
        Ok(Self {
            held_out: Gaussian::fit(&assessed.features),
            held_out_accuracy: assessed.accuracy(held_out.labels()),
            held_out_len: held_out.len(),
            train: judge.assess(&train.pixels()?).features,
            train_classes,
            judge,
        })
    }

    /// The images that can be scored and their classes.
    pub fn shape(&self) -> Shape {
        self.judge.shape
    }

    /// Scores `pixels`, `[n, height, width, channels]`, where sample i was drawn for class `i % classes`.
    ///
    /// # Panics
    /// With fewer than two samples or a part of one.
    pub fn score(&self, pixels: &[u8]) -> Score {
        let assessed = self.judge.assess(pixels);
        let classes = self.judge.shape.classes;
        Score {
            n: assessed.classes.len(),
            frechet: distance(&Gaussian::fit(&assessed.features), &self.held_out),
            accuracy: assessed.accuracy((0..).map(|index: usize| (index % classes) as u16)),
        }
    }

    /// What real images score at about `n`: random training images, `n / classes` (rounded up) of each class, against the
    /// held-out ones. All training images where there are no more than that.
    pub fn floor(&self, n: usize) -> Floor {
        let each = n.div_ceil(self.train_classes.len());
        let mut rng = Pcg64::seed_from_u64(FLOOR_SEED);
        let mut classes = self.train_classes.clone();
        let distances: Vec<f64> = (0..FLOOR_DRAWS)
            .map(|_| {
                classes.iter_mut().for_each(|images| images.shuffle(&mut rng));
                let drawn: Vec<usize> = classes.iter().flat_map(|images| images.iter().take(each)).copied().collect();
                distance(&Gaussian::fit(&self.train.select(&drawn)), &self.held_out)
            })
            .collect();
        let mean = distances.iter().sum::<f64>() / FLOOR_DRAWS as f64;
        let variance = distances.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (FLOOR_DRAWS - 1) as f64;
        let n = self.train_classes.iter().map(|images| images.len().min(each)).sum();
        Floor { n, frechet: mean, deviation: variance.sqrt() }
    }
}
