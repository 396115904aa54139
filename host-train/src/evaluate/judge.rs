//! The judge: a small fixed classifier whose features measure samples.
//!
//! 3x3 convolutions of 16, 32 and 64 channels, the second and each later one halving the sides, then further ones of 64
//! until no side is longer than 8 pixels; a linear layer of [`FEATURES`] features; a linear layer of logits; SiLU
//! between them. Signals, images one pixel high, have 1x3 kernels. On vectors, images of one pixel, the convolutions are
//! 1x1: a plain multilayer perceptron.
//!
//! Data of a single class have nothing to classify. Their judge tells four variants of a sample apart
//! (as it is, run backwards, upside down, both), after Gidaris et al., *Unsupervised Representation Learning by Predicting Image Rotations*, 2018;
//! vectors of a single class are measured by their own values, without a network.
//!
//! The embedded judge was trained once on fashion14; `data/fashion14-judge.md` has its recipe, hash and accuracy.

mod file;
mod train;

use burn::module::Module;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::activation::silu;
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::features::Features;
use crate::dataset::{Dataset, SampleShape};
use crate::ops::DenoiserBackend;

pub use file::JudgeError;
pub use train::Recipe;

/// Length of a feature vector.
pub const FEATURES: usize = 48;

/// The embedded judge's weights, for the embedded data set.
pub const EMBEDDED_FILE: &[u8] = include_bytes!("../../data/fashion14-judge.safetensors");

/// Longest side of what the linear layer sees.
const FLAT_SIDE: usize = 8;
/// Outputs of a judge of data of a single class.
const VARIANTS: usize = 4;
/// Samples assessed at once.
const BATCH: usize = 200;

/// The backend that judges.
type Flex = burn::backend::Flex;

/// The samples a judge takes and the classes it tells apart.
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

/// `28x28x1, 10 classes`.
impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {} class{}", self.sample(), self.classes, if self.classes == 1 { "" } else { "es" })
    }
}

impl Shape {
    /// The shape of a data set.
    pub fn of(dataset: &Dataset) -> Self {
        let SampleShape { height, width, channels } = dataset.shape;
        Self { height, width, channels, classes: dataset.classes() }
    }

    /// The shape of what a model draws.
    pub fn of_model(model: &mote_core::Model<'_>) -> Self {
        let classes = usize::from(model.classes());
        Self { height: model.height(), width: model.width(), channels: model.channels(), classes }
    }

    /// The sides of a sample.
    pub fn sample(&self) -> SampleShape {
        let &Self { height, width, channels, .. } = self;
        SampleShape { height, width, channels }
    }

    /// Whether the samples are their own features.
    pub fn needs_no_network(&self) -> bool {
        self.classes == 1 && self.sample().is_vector()
    }

    fn outputs(&self) -> usize {
        if self.classes == 1 { VARIANTS } else { self.classes }
    }

    /// Channels of each convolution.
    fn widths(&self) -> Vec<usize> {
        let mut side = self.height.max(self.width).div_ceil(4);
        let mut widths = vec![16, 32, 64];
        while side > FLAT_SIDE {
            side = side.div_ceil(2);
            widths.push(64);
        }
        widths
    }

    /// Kernel and stride of a convolution, each down and across.
    fn kernel(&self, number: usize) -> [[usize; 2]; 2] {
        let stride = if number == 0 { 1 } else { 2 };
        match self.sample() {
            shape if shape.is_vector() => [[1, 1], [1, 1]],
            shape if shape.is_signal() => [[1, 3], [1, stride]],
            _ => [[3, 3], [stride, stride]],
        }
    }
}

/// What measures samples of one shape.
#[derive(Debug, Clone)]
pub struct Judge {
    /// `None`: samples are their own features.
    net: Option<Net<Flex>>,
    /// What it takes.
    pub shape: Shape,
}

/// What a judge says of a set of samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Assessment {
    /// `[n, FEATURES]`: the layer before the logits, after SiLU. The samples themselves where there is no network.
    pub features: Features,
    /// The class with the greatest logit, one a sample; `None` for data of a single class.
    pub classes: Option<Vec<u16>>,
}

impl Assessment {
    /// The fraction of samples whose judged class is the wanted one, 0 to 1; `None` for data of a single class.
    pub fn accuracy(&self, wanted: impl IntoIterator<Item = u16>) -> Option<f64> {
        let classes = self.classes.as_ref()?;
        let right = classes.iter().zip(wanted).filter(|(found, wanted)| *found == wanted).count();
        Some(right as f64 / classes.len() as f64)
    }
}

impl Judge {
    /// The judge of the embedded data set.
    pub fn embedded() -> Self {
        Self::from_bytes(EMBEDDED_FILE).expect("the embedded file is under a hash test")
    }

    /// The judge of vectors of a single class: their own values.
    pub fn of_values(shape: Shape) -> Self {
        Self { net: None, shape }
    }

    /// Features and classes of `units`, `[n, height, width, channels]`, the values a network draws, about [-1, 1].
    ///
    /// # Panics
    /// If `units` is not a whole number of samples.
    pub fn assess(&self, units: &[f32]) -> Assessment {
        let sample = self.shape.sample();
        assert_eq!(units.len() % sample.len(), 0, "values end inside a sample");
        let Some(net) = &self.net else {
            return Assessment { features: Features { values: units.to_vec(), dims: sample.len() }, classes: None };
        };
        let mut values = Vec::new();
        let mut classes = Vec::new();
        for batch in units.chunks(BATCH * sample.len()) {
            let features = net.features(images(batch.to_vec(), self.shape, &Default::default()));
            let logits = net.head.forward(features.clone());
            let floats = |tensor: Tensor<Flex, 2>| tensor.into_data().into_vec::<f32>().expect("f32 backend");
            values.extend(floats(features));
            classes.extend(floats(logits).chunks(self.shape.outputs()).map(greatest));
        }
        let classes = (self.shape.classes > 1).then_some(classes);
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
    let n = values.len() / shape.sample().len();
    let data = TensorData::new(values, [n, shape.height, shape.width, shape.channels]);
    Tensor::from_data(data, device).permute([0, 3, 1, 2])
}

#[derive(Module, Debug)]
struct Net<B: Backend> {
    convs: Vec<Conv2d<B>>,
    dropout: Dropout,
    hidden: Linear<B>,
    head: Linear<B>,
}

impl<B: DenoiserBackend> Net<B> {
    fn new(shape: Shape, dropout: f64, device: &B::Device) -> Self {
        let widths = shape.widths();
        let (mut channels, [mut height, mut width]) = (shape.channels, [shape.height, shape.width]);
        let mut convs = Vec::new();
        for (number, &to) in widths.iter().enumerate() {
            let [kernel, stride] = shape.kernel(number);
            convs.push(Conv2dConfig::new([channels, to], kernel).with_stride(stride).init(device));
            (channels, height, width) = (to, height.div_ceil(stride[0]), width.div_ceil(stride[1]));
        }
        Self {
            convs,
            dropout: DropoutConfig::new(dropout).init(),
            hidden: LinearConfig::new(channels * height * width, FEATURES).init(device),
            head: LinearConfig::new(FEATURES, shape.outputs()).init(device),
        }
    }

    /// `[n, channels, height, width]`, about [-1, 1] -> `[n, FEATURES]`.
    fn features(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        let x = self.convs.iter().fold(images, |x, conv| {
            let bias = conv.bias.as_ref().expect("every layer has a bias").val();
            silu(B::conv(x, conv.weight.val(), bias, conv.stride))
        });
        silu(self.hidden.forward(self.dropout.forward(x.flatten(1, 3))))
    }

    /// `[n, channels, height, width]`, about [-1, 1] -> logits, with dropout while training.
    fn logits(&self, images: Tensor<B, 4>) -> Tensor<B, 2> {
        self.head.forward(self.dropout.forward(self.features(images)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Augmentation, Values, embedded};

    #[test]
    fn the_embedded_judge_is_the_documented_one_and_is_right_on_held_out_images() {
        let page = include_str!("../../data/fashion14-judge.md");
        assert!(page.contains(&crate::files::sha256(EMBEDDED_FILE)), "its hash is not in fashion14-judge.md");
        let set = embedded();
        let held_out = set.held_out();
        let accuracy = Judge::embedded().assess(&held_out.all_units()).accuracy(held_out.labels()).unwrap();
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

    fn trained(set: &Dataset, recipe: Recipe) -> Judge {
        let mut losses = Vec::new();
        let judge = Judge::train(&set.train(), &recipe, |_, _, loss| losses.push(loss));
        assert!(losses.last() < losses.first(), "{losses:?}");
        judge
    }

    fn names() -> Vec<String> {
        vec!["first".to_owned(), "second".to_owned()]
    }

    #[test]
    fn a_small_judge_learns_black_from_white() {
        let image = |index: usize| [if index.is_multiple_of(2) { 10 } else { 240 }; 48];
        let pixels: Vec<u8> = (0..40).flat_map(image).collect();
        let labels: Vec<u16> = (0..40).map(|index| index % 2).collect();
        let set = Dataset::new(SampleShape::image(2, 8, 3), Values::Bytes(pixels), labels, names());
        let judge =
            trained(&set, Recipe { epochs: 15, batch: 8, augment: Augmentation::default(), ..Recipe::default() });
        assert_eq!(judge.assess(&set.train().all_units()).accuracy(set.train().labels()), Some(1.0));
    }

    fn signals<W: Iterator<Item = f32>>(classes: u16, wave: impl Fn(usize) -> W) -> Dataset {
        let labels = (0..60).map(|index| index % classes).collect();
        let values = Values::Floats((0..60).flat_map(wave).collect());
        Dataset::new(SampleShape::signal(40, 1), values, labels, names()[..usize::from(classes)].to_vec())
    }

    #[test]
    fn a_judge_of_signals_tells_slow_from_quick_ones_it_has_not_seen() {
        let wave = |index: usize| {
            let speed = [0.1f32, 0.5][index % 2];
            (0..40).map(move |time| (index as f32 * 1.3 + speed * time as f32).sin())
        };
        let set = signals(2, wave);
        let judge = trained(&set, Recipe { epochs: 40, batch: 16, ..Recipe::of(&set.train()) });
        let found = judge.assess(&set.held_out().all_units());
        assert_eq!((found.accuracy(set.held_out().labels()), found.features.dims), (Some(1.0), FEATURES));
        assert_eq!(Judge::from_bytes(&judge.to_bytes()).unwrap().assess(&set.held_out().all_units()), found);
    }

    #[test]
    fn a_judge_of_vectors_is_a_perceptron_that_learns_what_no_line_separates() {
        let vector = |index: usize| [[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0f32]][index % 4];
        let labels = (0..64).map(|index| index % 2).collect();
        let values = Values::Floats((0..64).flat_map(vector).collect());
        let set = Dataset::new(SampleShape::vector(2), values, labels, names());
        let judge = trained(&set, Recipe { epochs: 60, batch: 16, ..Recipe::of(&set.train()) });
        assert_eq!(judge.assess(&set.held_out().all_units()).accuracy(set.held_out().labels()), Some(1.0));
    }

    #[test]
    fn a_judge_of_one_class_has_features_and_no_accuracy_and_vectors_are_their_own() {
        // Decay to zero: backwards or with the other sign it is something else.
        let set = signals(1, |index| (0..40).map(move |time| (-(time as f32) / (5 + index % 7) as f32).exp()));
        let judge = trained(&set, Recipe { epochs: 10, batch: 16, ..Recipe::of(&set.train()) });
        let found = judge.assess(&set.held_out().all_units());
        assert_eq!((found.classes.clone(), found.accuracy([0; 12])), (None, None));
        assert_eq!(found.features.len(), set.held_out().len());

        let vectors = Dataset::new(
            SampleShape::vector(2),
            Values::Floats(vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            vec![0; 3],
            names()[..1].to_vec(),
        );
        let judge = Judge::train(&vectors.train(), &Recipe::default(), |_, _, _| panic!("nothing to train"));
        assert_eq!(judge.assess(&vectors.train().all_units()).features.row(1), [3.0, 4.0]);
        assert_eq!(Judge::from_bytes(&judge.to_bytes()).unwrap().shape, judge.shape);
    }

    #[test]
    fn variants_are_the_four_of_an_image_and_of_a_signal() {
        let image = [1.0, 2.0, 3.0, 4.0];
        let of = |shape| [0, 1, 2, 3].map(|number| train::variant(&image, shape, number));
        let images = [[1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0], [3.0, 4.0, 1.0, 2.0], [4.0, 3.0, 2.0, 1.0]];
        assert_eq!(of(SampleShape::image(2, 2, 1)), images.map(|image| image.to_vec()));
        let signals = [[1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 1.0, 2.0], [-1.0, -2.0, -3.0, -4.0], [-3.0, -4.0, -1.0, -2.0]];
        assert_eq!(of(SampleShape::signal(2, 2)), signals.map(|signal| signal.to_vec()));
    }
}
