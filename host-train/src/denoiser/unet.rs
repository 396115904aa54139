//! A 2-D U-Net of residual blocks, conditioned on timestep and class by scale and shift, with self-attention where the
//! recipe asks for it (Dhariwal, Nichol, *Diffusion Models Beat GANs*, 2021).
//!
//! Block: `h = conv1(silu(norm1(x)))`, `h = conv2(silu(norm2(h) * (1 + scale) + shift))`, result `x + h`.
//! `(scale, shift) = affine(silu(e))` with `e = time_out(silu(time_in(features))) + class_embedding[class]`.
//!
//! Attention, after a block: `x + out(softmax(q k^T / sqrt(channels of a head)) v)` with `(q, k, v) = qkv(norm(x))`.
//!
//! Net: `conv_in`; each level but the last: blocks, then a stride 2 convolution to the next level's width; the middle
//! blocks at the last level; back up: nearest upsampling, a convolution to the level's width, blocks, the first of which
//! joins the level's skip; `conv_out(silu(norm_out(h)))`. A joining block normalizes and convolves the concatenation
//! `(x, skip)` but adds to `x` alone, so it needs no 1x1 convolution and nothing reads the skip after its `conv1`, which
//! may take its memory. A group of channels never straddles the two halves of a concatenation: both halves have the
//! network's number of groups.

use burn::module::{Module, Param};
use burn::tensor::activation::{silu, softmax};
use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use mote_core::noise::Philox;
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::ops::{DenoiserBackend, group_norm};

/// Longest period of the timestep's sines and cosines, in timesteps / 2 pi.
const MAX_PERIOD: f64 = 10_000.0;

/// Sizes of a [`UNet`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UNetConfig {
    /// Pixels down.
    pub height: usize,
    /// Pixels across.
    pub width: usize,
    /// Values a pixel.
    pub channels: usize,
    /// Classes; class number `classes` is "no class", for guidance.
    pub classes: usize,
    /// Channels of each level, the finest first; each level halves the sides.
    pub widths: Vec<usize>,
    /// Residual blocks a level, on the way down and on the way up.
    pub blocks: usize,
    /// Residual blocks at the last level.
    pub middle: usize,
    /// Groups of a normalization; of each half where it normalizes a concatenation.
    pub groups: usize,
    /// Length of the embedding and of the timestep's features; even.
    pub embedding: usize,
    /// Levels whose blocks an attention follows; 0 is the finest.
    #[serde(default)]
    pub attention: Vec<usize>,
    /// Heads of an attention.
    #[serde(default = "one")]
    pub heads: usize,
}

/// The heads when none are named.
pub(crate) fn one() -> usize {
    1
}

/// Why a network of these sizes cannot be trained or run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A number that must not be zero.
    #[error("the network's {0} must be at least 1")]
    Zero(&'static str),
    /// More than core's format holds.
    #[error("the network's {what} is {found}, at most {most} is possible")]
    TooLarge {
        /// Which number.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The greatest possible.
        most: usize,
    },
    /// A level cannot be halved and doubled back.
    #[error("images of {width}x{height} pixels cannot be halved {halvings} times: make both sides multiples of {}, or use fewer widths", 1usize << halvings)]
    Odd {
        /// Pixels across.
        width: usize,
        /// Pixels down.
        height: usize,
        /// Levels less one.
        halvings: usize,
    },
    /// A width does not split into groups.
    #[error("a level of {width} channels cannot be split into {groups} groups: make each width a multiple of `groups`")]
    Groups {
        /// Channels of the level.
        width: usize,
        /// The network's groups.
        groups: usize,
    },
    /// An attention at a level that is not there.
    #[error("attention at level {level}, but the network has levels 0 to {last}")]
    NoLevel {
        /// The level.
        level: usize,
        /// The last one.
        last: usize,
    },
    /// A width does not split into heads.
    #[error("a level of {width} channels cannot be split into {heads} heads")]
    Heads {
        /// Channels of the level.
        width: usize,
        /// Heads of an attention.
        heads: usize,
    },
    /// Sines and cosines come in pairs.
    #[error("the embedding's length is {0}; it must be even")]
    Embedding(usize),
}

impl UNetConfig {
    /// Whether core can run it.
    ///
    /// # Errors
    /// [`ConfigError`], the first thing that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let positive = [
            ("height", self.height),
            ("width", self.width),
            ("channels", self.channels),
            ("classes", self.classes),
            ("number of widths", self.widths.len()),
            ("blocks", self.blocks),
            ("middle", self.middle),
            ("groups", self.groups),
            ("embedding", self.embedding),
            ("heads", self.heads),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Zero(name));
        }
        let limits = [
            ("height", self.height, 1024),
            ("width", self.width, 1024),
            ("channels", self.channels, 16),
            ("classes", self.classes, 1000),
            ("number of widths", self.widths.len(), 8),
            ("blocks", self.blocks, 16),
            ("middle", self.middle, 16),
            ("greatest width", self.widths.iter().copied().max().unwrap_or(0), 1024),
            ("embedding", self.embedding, 4096),
        ];
        if let Some(&(what, found, most)) = limits.iter().find(|(_, found, most)| found > most) {
            return Err(ConfigError::TooLarge { what, found, most });
        }
        let halvings = self.widths.len() - 1;
        if [self.height, self.width].iter().any(|side| !side.is_multiple_of(1 << halvings)) {
            return Err(ConfigError::Odd { width: self.width, height: self.height, halvings });
        }
        if let Some(&width) = self.widths.iter().find(|&&width| width == 0 || width % self.groups != 0) {
            return Err(ConfigError::Groups { width, groups: self.groups });
        }
        for &level in &self.attention {
            let &width = self.widths.get(level).ok_or(ConfigError::NoLevel { level, last: halvings })?;
            if !width.is_multiple_of(self.heads) {
                return Err(ConfigError::Heads { width, heads: self.heads });
            }
        }
        if !self.embedding.is_multiple_of(2) {
            return Err(ConfigError::Embedding(self.embedding));
        }
        Ok(())
    }

    /// The class number that stands for none.
    pub fn no_class(&self) -> usize {
        self.classes
    }

    /// A network with random weights; a function of the seed alone. The last convolution and each block's second are
    /// zero, so that the network begins as the zero function and each block as the identity.
    ///
    /// # Errors
    /// [`ConfigError`] as [`UNetConfig::check`].
    pub fn init<B: Backend>(&self, seed: u64, device: &B::Device) -> Result<UNet<B>, ConfigError> {
        self.check()?;
        let mut init = Init { rng: Philox::new(seed), device: device.clone() };
        let embedding = self.embedding;
        let levels = || self.widths.windows(2).enumerate();
        let last = self.widths.len() - 1;
        let blocks = |first: Input, level: usize, count: usize, init: &mut Init<B>| -> Vec<Block<B>> {
            let input = |index| if index == 0 { first } else { Input::Plain };
            (0..count).map(|index| Block::new(input(index), self, level, init)).collect()
        };
        Ok(UNet {
            time_in: Linear::new(embedding, embedding, &mut init),
            time_out: Linear::new(embedding, embedding, &mut init),
            class_embedding: init.uniform([self.classes + 1, embedding], 0.5),
            conv_in: Conv::new(self.channels, self.widths[0], 3, Start::Random, &mut init),
            down: levels()
                .map(|(level, pair)| DownLevel {
                    blocks: blocks(Input::Plain, level, self.blocks, &mut init),
                    down: Conv::new(pair[0], pair[1], 3, Start::Random, &mut init),
                })
                .collect(),
            middle: blocks(Input::Plain, last, self.middle, &mut init),
            up: levels()
                .rev()
                .map(|(level, pair)| UpLevel {
                    up: Conv::new(pair[1], pair[0], 3, Start::Random, &mut init),
                    blocks: blocks(Input::Joined, level, self.blocks, &mut init),
                })
                .collect(),
            norm_out: Norm::new(self.widths[0], self.groups, &mut init),
            conv_out: Conv::new(self.widths[0], self.channels, 3, Start::Zero, &mut init),
        })
    }
}

/// Source of first values.
struct Init<B: Backend> {
    rng: Philox,
    device: B::Device,
}

/// First values of a convolution.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// Uniform within `1 / sqrt(inputs)`.
    Random,
    Zero,
}

impl<B: Backend> Init<B> {
    fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f32) -> Param<Tensor<B, D>> {
        let len = shape.iter().product();
        let unit = |word: u32| (word >> 8) as f32 / (1 << 23) as f32 - 1.0;
        let values: Vec<f32> = (0..len).map(|_| bound * unit(self.rng.next_u32())).collect();
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), &self.device))
    }

    fn filled<const D: usize>(&self, shape: [usize; D], value: f32) -> Param<Tensor<B, D>> {
        Param::from_tensor(Tensor::full(shape, value, &self.device))
    }
}

/// What the network is told, a row an image.
#[derive(Debug, Clone)]
pub struct Condition<B: Backend> {
    /// The timestep's features, `[batch, embedding]`: `cos(t w_i)` then `sin(t w_i)` for
    /// `w_i = 10000^(-i / (embedding / 2))`, the timestep t counted as if there were 1000.
    pub time: Tensor<B, 2>,
    /// One-hot class, `[batch, classes + 1]`.
    pub class: Tensor<B, 2>,
}

impl<B: Backend> Condition<B> {
    /// One row for each timestep (of `timesteps`) and class; class `config.classes` is none.
    ///
    /// # Panics
    /// If the lengths differ or a class is greater than `config.classes`.
    pub fn new(config: &UNetConfig, of: &[u32], timesteps: usize, classes: &[usize], device: &B::Device) -> Self {
        assert_eq!(of.len(), classes.len());
        let half = config.embedding / 2;
        let angle =
            |t: u32, i: usize| f64::from(t) * 1000.0 / timesteps as f64 * MAX_PERIOD.powf(-(i as f64) / half as f64);
        let mut time = Vec::with_capacity(of.len() * config.embedding);
        let mut class = vec![0f32; of.len() * (config.classes + 1)];
        for (row, (&t, &label)) in of.iter().zip(classes).enumerate() {
            assert!(label <= config.classes, "class {label}");
            time.extend((0..half).map(|i| angle(t, i).cos() as f32));
            time.extend((0..half).map(|i| angle(t, i).sin() as f32));
            class[row * (config.classes + 1) + label] = 1.0;
        }
        Self {
            time: Tensor::from_data(TensorData::new(time, [of.len(), config.embedding]), device),
            class: Tensor::from_data(TensorData::new(class, [of.len(), config.classes + 1]), device),
        }
    }
}

/// A fully connected layer.
#[derive(Module, Debug)]
pub struct Linear<B: Backend> {
    /// `[in, out]`
    pub weight: Param<Tensor<B, 2>>,
    /// `[out]`
    pub bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> Linear<B> {
    fn new(input: usize, output: usize, init: &mut Init<B>) -> Self {
        let bound = 1.0 / (input as f32).sqrt();
        Self { weight: init.uniform([input, output], bound), bias: init.uniform([output], bound) }
    }

    /// `[batch, in]` to `[batch, out]`
    pub fn forward(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        x.matmul(self.weight.val()) + self.bias.val().unsqueeze()
    }
}

/// A convolution with padding `kernel / 2`.
#[derive(Module, Debug)]
pub struct Conv<B: Backend> {
    /// `[out, in, kernel, kernel]`
    pub weight: Param<Tensor<B, 4>>,
    /// `[out]`
    pub bias: Param<Tensor<B, 1>>,
}

impl<B: Backend> Conv<B> {
    fn new(input: usize, output: usize, kernel: usize, start: Start, init: &mut Init<B>) -> Self {
        let shape = [output, input, kernel, kernel];
        let bound = 1.0 / ((input * kernel * kernel) as f32).sqrt();
        match start {
            Start::Random => Self { weight: init.uniform(shape, bound), bias: init.uniform([output], bound) },
            Start::Zero => Self { weight: init.filled(shape, 0.0), bias: init.filled([output], 0.0) },
        }
    }
}

impl<B: DenoiserBackend> Conv<B> {
    fn forward(&self, x: Tensor<B, 4>, stride: usize) -> Tensor<B, 4> {
        B::conv(x, self.weight.val(), self.bias.val(), stride)
    }
}

/// Group normalization.
#[derive(Module, Debug)]
pub struct Norm<B: Backend> {
    /// `[channels]`
    pub gain: Param<Tensor<B, 1>>,
    /// `[channels]`
    pub bias: Param<Tensor<B, 1>>,
    /// Groups of all channels together.
    pub groups: usize,
}

impl<B: Backend> Norm<B> {
    fn new(channels: usize, groups: usize, init: &mut Init<B>) -> Self {
        Self { gain: init.filled([channels], 1.0), bias: init.filled([channels], 0.0), groups }
    }
}

/// A residual block.
#[derive(Module, Debug)]
pub struct Block<B: Backend> {
    /// Of the input.
    pub norm1: Norm<B>,
    /// 3x3, to the block's width.
    pub conv1: Conv<B>,
    /// From the embedding to scale and shift, `[embedding, 2 * width]`.
    pub affine: Linear<B>,
    /// Before scale and shift.
    pub norm2: Norm<B>,
    /// 3x3.
    pub conv2: Conv<B>,
    /// After the block, where the level has one.
    pub attention: Option<Attention<B>>,
}

/// What a block's first normalization and convolution read.
#[derive(Clone, Copy)]
enum Input {
    /// The block's input.
    Plain,
    /// The block's input and a skip of the same width.
    Joined,
}

impl<B: Backend> Block<B> {
    fn new(input: Input, config: &UNetConfig, level: usize, init: &mut Init<B>) -> Self {
        let (width, groups, embedding) = (config.widths[level], config.groups, config.embedding);
        let parts = match input {
            Input::Plain => 1,
            Input::Joined => 2,
        };
        Self {
            norm1: Norm::new(parts * width, parts * groups, init),
            conv1: Conv::new(parts * width, width, 3, Start::Random, init),
            affine: Linear::new(embedding, 2 * width, init),
            norm2: Norm::new(width, groups, init),
            conv2: Conv::new(width, width, 3, Start::Zero, init),
            attention: config.attention.contains(&level).then(|| Attention::new(width, groups, config.heads, init)),
        }
    }

    /// Gain and offset of the second normalization, scale and shift folded in, each `[batch, width]`:
    /// `gain (1 + scale)` and `bias (1 + scale) + shift`. `embedding` is [`UNet::embed`]'s.
    pub fn folded(&self, embedding: Tensor<B, 2>) -> [Tensor<B, 2>; 2] {
        let affine = self.affine.forward(embedding);
        let width = affine.dims()[1] / 2;
        let scale = affine.clone().narrow(1, 0, width) + 1.0;
        let shift = affine.narrow(1, width, width);
        let gain = scale.clone() * self.norm2.gain.val().unsqueeze();
        [gain, scale * self.norm2.bias.val().unsqueeze() + shift]
    }
}

impl<B: DenoiserBackend> Norm<B> {
    fn silu(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        B::group_norm_silu(x, self.gain.val().unsqueeze(), self.bias.val().unsqueeze(), self.groups)
    }
}

impl<B: DenoiserBackend> Block<B> {
    fn forward(&self, x: Tensor<B, 4>, skip: Option<Tensor<B, 4>>, embedding: Tensor<B, 2>) -> Tensor<B, 4> {
        let joined = match skip {
            Some(skip) => Tensor::cat(vec![x.clone(), skip], 1),
            None => x.clone(),
        };
        let h = self.conv1.forward(self.norm1.silu(joined), 1);
        let [gain, offset] = self.folded(embedding);
        let h = B::group_norm_silu(h, gain, offset, self.norm2.groups);
        let x = x + self.conv2.forward(h, 1);
        match &self.attention {
            Some(attention) => attention.forward(x),
            None => x,
        }
    }
}

/// Self-attention over the pixels, with a residual connection.
#[derive(Module, Debug)]
pub struct Attention<B: Backend> {
    /// Of the input.
    pub norm: Norm<B>,
    /// 1x1, to queries, keys and values.
    pub qkv: Conv<B>,
    /// 1x1.
    pub out: Conv<B>,
    /// Heads.
    pub heads: usize,
}

impl<B: Backend> Attention<B> {
    fn new(width: usize, groups: usize, heads: usize, init: &mut Init<B>) -> Self {
        Self {
            norm: Norm::new(width, groups, init),
            qkv: Conv::new(width, 3 * width, 1, Start::Random, init),
            out: Conv::new(width, width, 1, Start::Zero, init),
            heads,
        }
    }
}

impl<B: DenoiserBackend> Attention<B> {
    fn forward(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        let [batch, channels, height, width] = x.dims();
        let head = channels / self.heads;
        let Norm { gain, bias, groups } = &self.norm;
        let normal = group_norm(x.clone(), gain.val().unsqueeze(), bias.val().unsqueeze(), *groups);
        let qkv = self.qkv.forward(normal, 1);
        let [queries, keys, values] = [0, 1, 2].map(|part| {
            let part = qkv.clone().narrow(1, part * channels, channels);
            part.reshape([batch, self.heads, head, height * width])
        });
        let scores = queries.swap_dims(2, 3).matmul(keys) / (head as f64).sqrt();
        let attended = values.matmul(softmax(scores, 3).swap_dims(2, 3));
        x + self.out.forward(attended.reshape([batch, channels, height, width]), 1)
    }
}

/// A level on the way down.
#[derive(Module, Debug)]
pub struct DownLevel<B: Backend> {
    /// At the level's size; their last output is the skip of the same level on the way up.
    pub blocks: Vec<Block<B>>,
    /// 3x3, stride 2, to the next level's width.
    pub down: Conv<B>,
}

/// A level on the way up.
#[derive(Module, Debug)]
pub struct UpLevel<B: Backend> {
    /// 3x3 after nearest upsampling, to this level's width.
    pub up: Conv<B>,
    /// The first one joins the skip.
    pub blocks: Vec<Block<B>>,
}

/// The network; the module's page has its formulas.
#[derive(Module, Debug)]
pub struct UNet<B: Backend> {
    /// `[embedding, embedding]`
    pub time_in: Linear<B>,
    /// `[embedding, embedding]`
    pub time_out: Linear<B>,
    /// `[classes + 1, embedding]`
    pub class_embedding: Param<Tensor<B, 2>>,
    /// 3x3, from the image.
    pub conv_in: Conv<B>,
    /// Finest level first.
    pub down: Vec<DownLevel<B>>,
    /// At the last level.
    pub middle: Vec<Block<B>>,
    /// Coarsest level first.
    pub up: Vec<UpLevel<B>>,
    /// Of the last block's output.
    pub norm_out: Norm<B>,
    /// 3x3, to the image.
    pub conv_out: Conv<B>,
}

impl<B: Backend> UNet<B> {
    /// What every block's [`Block::folded`] takes, `[batch, embedding]`.
    pub fn embed(&self, condition: &Condition<B>) -> Tensor<B, 2> {
        let time = self.time_out.forward(silu(self.time_in.forward(condition.time.clone())));
        silu(time + condition.class.clone().matmul(self.class_embedding.val()))
    }
}

impl<B: DenoiserBackend> UNet<B> {
    /// The network's output for noised images.
    ///
    /// # Shapes
    /// - x and result: `[batch, channels, height, width]`
    /// - condition: a row an image
    pub fn forward(&self, x: Tensor<B, 4>, condition: &Condition<B>) -> Tensor<B, 4> {
        let embedding = self.embed(condition);
        let through = |blocks: &[Block<B>], mut skip: Option<Tensor<B, 4>>, h| {
            blocks.iter().fold(h, |h, block| block.forward(h, skip.take(), embedding.clone()))
        };
        let mut h = self.conv_in.forward(x, 1);
        let mut skips = Vec::new();
        for level in &self.down {
            h = through(&level.blocks, None, h);
            skips.push(h.clone());
            h = level.down.forward(h, 2);
        }
        h = through(&self.middle, None, h);
        for (level, skip) in self.up.iter().zip(skips.into_iter().rev()) {
            h = level.up.forward(B::upsample(h), 1);
            h = through(&level.blocks, Some(skip), h);
        }
        self.conv_out.forward(self.norm_out.silu(h), 1)
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, Flex, NdArray};

    use super::*;
    use crate::denoiser::{gradients, parameters, set_parameters};

    pub(crate) fn small() -> UNetConfig {
        UNetConfig {
            height: 6,
            width: 4,
            channels: 1,
            classes: 3,
            widths: vec![4, 8],
            blocks: 1,
            middle: 1,
            groups: 2,
            embedding: 8,
            attention: vec![1],
            heads: 2,
        }
    }

    /// The gradient of all parameters for some fixed weights, images and conditions.
    fn gradient<B: DenoiserBackend + burn::tensor::backend::AutodiffBackend>() -> Vec<f32> {
        let (config, device) = (small(), Default::default());
        let net = config.init::<B>(7, &device).unwrap();
        let len = parameters(&net).dims()[0];
        let values: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin() * 0.3).collect();
        let net = set_parameters(net, Tensor::from_data(TensorData::new(values, [len]), &device));
        let x: Vec<f32> = (0..3 * 24).map(|i| (i as f32 * 0.71).cos()).collect();
        let x = Tensor::from_data(TensorData::new(x, [3, 1, 6, 4]), &device);
        let condition = Condition::new(&config, &[0, 500, 999], 1000, &[2, 0, 3], &device);
        let loss = (net.forward(x, &condition) - 0.5).powi_scalar(2).mean();
        gradients(&net, &loss.backward()).into_data().to_vec().unwrap()
    }

    #[test]
    fn gradients_agree_between_flex_and_ndarray() {
        let (ours, theirs) = (gradient::<Autodiff<Flex>>(), gradient::<Autodiff<NdArray>>());
        let most = theirs.iter().fold(0f32, |most, value| most.max(value.abs()));
        let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst < 1e-4 * most, "off by {worst} of {most}");
        assert!(ours.iter().filter(|value| **value != 0.0).count() > ours.len() / 2);
    }

    #[test]
    fn networks_that_core_cannot_run_are_refused() {
        let odd = UNetConfig { width: 5, ..small() };
        assert!(odd.check().unwrap_err().to_string().contains("5x6 pixels cannot be halved 1 times"));
        let groups = UNetConfig { groups: 3, ..small() };
        assert_eq!(groups.check(), Err(ConfigError::Groups { width: 4, groups: 3 }));
        let level = UNetConfig { attention: vec![2], ..small() };
        assert_eq!(level.check(), Err(ConfigError::NoLevel { level: 2, last: 1 }));
        assert_eq!(UNetConfig { heads: 3, ..small() }.check(), Err(ConfigError::Heads { width: 8, heads: 3 }));
        assert_eq!(UNetConfig { middle: 0, ..small() }.check(), Err(ConfigError::Zero("middle")));
        assert_eq!(UNetConfig { embedding: 7, ..small() }.check(), Err(ConfigError::Embedding(7)));
        assert_eq!(UNetConfig { widths: vec![], ..small() }.check(), Err(ConfigError::Zero("number of widths")));
    }
}
