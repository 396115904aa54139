//! The judge: a small fixed classifier whose features measure samples.
//!
//! Three 3x3 convolutions (16, 32 and 64 channels; the second and third halve the image), a linear layer of
//! [`FEATURES`] features, a linear layer of logits; SiLU between them. The embedded one was trained once on fashion14;
//! `data/fashion14-judge.md` has its recipe, hash and accuracy.

mod file;
mod train;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig, PaddingConfig2d};
use burn::tensor::activation::silu;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::frechet::Features;
use crate::dataset::{Dataset, SampleShape, to_unit};

pub use file::JudgeError;
pub use train::Recipe;

/// Length of a feature vector.
pub const FEATURES: usize = 48;

/// The embedded judge's weights, for the embedded data set.
pub const EMBEDDED_FILE: &[u8] = include_bytes!("../../data/fashion14-judge.safetensors");

/// Images assessed at once.
const BATCH: usize = 200;

/// The backend that judges.
type Flex = burn::backend::Flex;

/// The images a judge takes and the classes it tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Pixels down.
    pub height: usize,
    /// Pixels across.
    pub width: usize,
    /// Values a pixel.
    pub channels: usize,
    /// Number of classes.
    pub classes: usize,
}

impl Shape {
    /// The shape of a data set.
    pub fn of(dataset: &Dataset) -> Self {
        let SampleShape { height, width, channels } = dataset.shape;
        Self { height, width, channels, classes: dataset.classes() }
    }

    fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }
}

/// A trained classifier.
#[derive(Debug)]
pub struct Judge {
    net: Net<Flex>,
    /// What it takes.
    pub shape: Shape,
}

/// What a judge says of a set of images.
#[derive(Debug, Clone, PartialEq)]
pub struct Assessment {
    /// `[n, FEATURES]`: the layer before the logits, after SiLU.
    pub features: Features,
    /// The class with the greatest logit, one an image.
    pub classes: Vec<u16>,
}

impl Assessment {
    /// The fraction of images whose judged class is the wanted one, 0 to 1.
    pub fn accuracy(&self, wanted: impl IntoIterator<Item = u16>) -> f64 {
        let right = self.classes.iter().zip(wanted).filter(|(found, wanted)| *found == wanted).count();
        right as f64 / self.classes.len() as f64
    }
}

impl Judge {
    /// The judge of the embedded data set.
    pub fn embedded() -> Self {
        Self::from_bytes(EMBEDDED_FILE).expect("the embedded file is under a hash test")
    }

    /// Features and classes of `pixels`, `[n, height, width, channels]`, 0..=255.
    ///
    /// # Panics
    /// If `pixels` is not a whole number of images.
    pub fn assess(&self, pixels: &[u8]) -> Assessment {
        let mut values = Vec::new();
        let mut classes = Vec::new();
        assert_eq!(pixels.len() % self.shape.image_len(), 0, "pixels end inside an image");
        for batch in pixels.chunks(BATCH * self.shape.image_len()) {
            let batch = batch.iter().copied().map(to_unit).collect();
            let features = self.net.features(images(batch, self.shape, &Default::default()));
            let logits = self.net.head.forward(features.clone());
            let floats = |tensor: Tensor<Flex, 2>| tensor.into_data().into_vec::<f32>().expect("f32 backend");
            values.extend(floats(features).into_iter().map(f64::from));
            classes.extend(floats(logits).chunks(self.shape.classes).map(greatest));
        }
        Assessment { features: Features { values, dims: FEATURES }, classes }
    }
}

/// The index of the greatest value, the first of equals.
fn greatest(values: &[f32]) -> u16 {
    let best = (0..values.len()).reduce(|best, index| if values[index] > values[best] { index } else { best });
    best.unwrap_or(0) as u16
}

/// NHWC floats as a NCHW tensor.
fn images<B: Backend>(values: Vec<f32>, shape: Shape, device: &B::Device) -> Tensor<B, 4> {
    let n = values.len() / shape.image_len();
    let data = TensorData::new(values, [n, shape.height, shape.width, shape.channels]);
    Tensor::from_data(data, device).permute([0, 3, 1, 2])
}

#[derive(Module, Debug)]
struct Net<B: Backend> {
    conv1: Conv2d<B>,
    conv2: Conv2d<B>,
    conv3: Conv2d<B>,
    dropout: Dropout,
    hidden: Linear<B>,
    head: Linear<B>,
}

impl<B: Backend> Net<B> {
    fn new(shape: Shape, dropout: f64, device: &B::Device) -> Self {
        let conv = |from, to, stride| {
            let config = Conv2dConfig::new([from, to], [3, 3]).with_stride([stride, stride]);
            config.with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1)).init(device)
        };
        let flat = 64 * shape.height.div_ceil(4) * shape.width.div_ceil(4);
        Self {
            conv1: conv(shape.channels, 16, 1),
            conv2: conv(16, 32, 2),
            conv3: conv(32, 64, 2),
            dropout: DropoutConfig::new(dropout).init(),
            hidden: LinearConfig::new(flat, FEATURES).init(device),
            head: LinearConfig::new(FEATURES, shape.classes).init(device),
        }
    }

    /// `[n, channels, height, width]` in [-1, 1] -> `[n, FEATURES]`.
    fn features(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        let x = silu(self.conv1.forward(images));
        let x = silu(self.conv2.forward(x));
        let x = silu(self.conv3.forward(x));
        silu(self.hidden.forward(self.dropout.forward(x.flatten(1, 3))))
    }

    /// `[n, channels, height, width]` in [-1, 1] -> logits `[n, classes]`, with dropout while training.
    fn logits(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        self.head.forward(self.dropout.forward(self.features(images)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Values, embedded};

    #[test]
    fn the_embedded_judge_is_the_documented_one_and_is_right_on_held_out_images() {
        let page = include_str!("../../data/fashion14-judge.md");
        assert!(page.contains(&crate::files::sha256(EMBEDDED_FILE)), "its hash is not in fashion14-judge.md");
        let set = embedded();
        let held_out = set.held_out();
        let accuracy = Judge::embedded().assess(&held_out.pixels().unwrap()).accuracy(held_out.labels());
        assert!(accuracy >= 0.8, "{accuracy}");
        assert!(page.contains(&format!("{:.2} %", 100.0 * accuracy)), "{accuracy} is not in fashion14-judge.md");
    }

    #[test]
    fn a_judge_survives_its_file_byte_for_byte() {
        assert_eq!(Judge::embedded().to_bytes(), EMBEDDED_FILE);
    }

    #[test]
    fn other_files_are_no_judge() {
        assert!(matches!(Judge::from_bytes(b"nonsense"), Err(JudgeError::Safetensors(_))));
        assert!(Judge::from_bytes(&EMBEDDED_FILE[..EMBEDDED_FILE.len() - 1]).is_err());
        let text = |from: &str, to: &str| {
            let at = EMBEDDED_FILE.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
            [&EMBEDDED_FILE[..at], to.as_bytes(), &EMBEDDED_FILE[at + from.len()..]].concat()
        };
        assert!(matches!(Judge::from_bytes(&text("\"judge\"", "\"jadge\"")), Err(JudgeError::Metadata)));
        let error = Judge::from_bytes(&text("\\\"classes\\\":10", "\\\"classes\\\":11")).unwrap_err();
        assert!(error.to_string().contains("head.weight is F16 [48, 10]"), "{error}");
    }

    #[test]
    fn a_small_judge_learns_black_from_white() {
        let image = |index: usize| [if index.is_multiple_of(2) { 10 } else { 240 }; 16];
        let pixels: Vec<u8> = (0..40).flat_map(image).collect();
        let labels: Vec<u16> = (0..40).map(|index| index % 2).collect();
        let names = vec!["black".to_owned(), "white".to_owned()];
        let set = Dataset::new(SampleShape::image(4, 4, 1), Values::Bytes(pixels.clone()), labels.clone(), names);
        let recipe = Recipe { epochs: 15, batch: 8, max_shift: 0, ..Recipe::default() };
        let mut losses = Vec::new();
        let judge = Judge::train(&set.train(), &recipe, |_, loss| losses.push(loss));
        assert!(losses[14] < losses[0], "{losses:?}");
        assert_eq!(judge.assess(&pixels).accuracy(labels), 1.0);
    }
}
