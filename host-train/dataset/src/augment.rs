//! Augmentation: training samples varied at random, each variation a sample that the data could have held.
//!
//! A network trained long on few samples copies them; variations that leave a sample's meaning as it is make the set
//! larger (Karras et al., *Training Generative Adversarial Networks with Limited Data*, 2020, section 2). What is varied
//! here is generated as varied: a set trained with `mirror` is drawn mirrored half the time.

use serde::{Deserialize, Serialize};

use super::{Dataset, SampleShape};

/// One kind of variation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Augment {
    /// Half of the images mirrored left to right.
    Mirror,
    /// Half of the images mirrored top to bottom.
    Flip,
    /// Square images turned by 0, 90, 180 or 270 degrees.
    QuarterTurns,
    /// The red, green and blue channels of an image in one of their six orders; alpha stays.
    ColorOrder,
    /// Images shifted by up to so many pixels along both axes, signals by up to so many samples in time. What is shifted
    /// in repeats the edge.
    Shift(usize),
    /// Natural values of a signal times one factor of `1 - gain` to `1 + gain`, `0 < gain < 1`.
    Gain(f32),
    /// Normal noise of this standard deviation added to every value of a signal or vector, in the network's units
    /// (all of the data spans about 2).
    Jitter(f32),
}

/// The variations of a data set, applied in order, the noise of jitter last. In TOML: `"none"`, one, or a list:
/// `augment = ["mirror", { shift = 2 }]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Vec<Augment>")]
pub struct Augmentation(pub Vec<Augment>);

/// A variation that makes no sense for the data.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("augmentation {augment:?} needs {needs}, and the samples are {shape} (height x width x channels); remove it")]
pub struct AugmentError {
    augment: Augment,
    needs: &'static str,
    shape: SampleShape,
}

/// How an [`Augmentation`] may be written.
#[derive(Deserialize)]
#[serde(untagged, rename_all = "snake_case")]
enum Written {
    None(Nothing),
    One(Augment),
    Many(Vec<Augment>),
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Nothing {
    None,
}

impl From<Written> for Augmentation {
    fn from(written: Written) -> Self {
        Self(match written {
            Written::None(Nothing::None) => Vec::new(),
            Written::One(augment) => vec![augment],
            Written::Many(augments) => augments,
        })
    }
}

impl From<Augmentation> for Vec<Augment> {
    fn from(augmentation: Augmentation) -> Self {
        augmentation.0
    }
}

impl Augmentation {
    /// # Errors
    /// If a variation makes no sense for samples of this shape, or its number is out of range.
    pub fn check(&self, shape: SampleShape) -> Result<(), AugmentError> {
        for &augment in &self.0 {
            let SampleShape { height, width, channels } = shape;
            let (fits, needs) = match augment {
                Augment::Mirror | Augment::Flip => (shape.is_image(), "images"),
                Augment::QuarterTurns => (shape.is_image() && height == width, "square images"),
                Augment::ColorOrder => (shape.is_image() && (3..=4).contains(&channels), "images of 3 or 4 channels"),
                Augment::Shift(by) => {
                    ((1..width).contains(&by) && (by < height || height == 1), "1 or more, and less than a side")
                }
                Augment::Gain(gain) => (shape.is_signal() && gain > 0.0 && gain < 1.0, "signals, and 0 < gain < 1"),
                Augment::Jitter(sigma) => (!shape.is_image() && sigma > 0.0, "signals or vectors, and more than 0"),
            };
            if !fits {
                return Err(AugmentError { augment, needs, shape });
            }
        }
        Ok(())
    }

    /// Varies one sample of `dataset`, the network's values `[height, width, channels]`. `unit` gives numbers uniform in
    /// [0, 1); how many are drawn depends on the variations alone, not on the numbers.
    pub fn apply(&self, values: &[f32], dataset: &Dataset, unit: &mut impl FnMut() -> f64) -> Vec<f32> {
        self.draw(dataset.shape, unit).of(values, dataset, || normal(unit))
    }

    /// How a sample of this shape is varied.
    pub fn draw(&self, shape: SampleShape, unit: &mut impl FnMut() -> f64) -> Variation {
        let mut variation = Variation::none(shape);
        for augment in &self.0 {
            match *augment {
                Augment::Mirror => {
                    if unit() < 0.5 {
                        variation.columns.reverse();
                    }
                }
                Augment::Flip => {
                    if unit() < 0.5 {
                        variation.rows.reverse();
                    }
                }
                Augment::QuarterTurns => {
                    for _ in 0..(unit() * 4.0) as usize {
                        variation.columns.reverse();
                        std::mem::swap(&mut variation.rows, &mut variation.columns);
                    }
                }
                Augment::ColorOrder => {
                    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
                    let order = ORDERS[(unit() * 6.0) as usize];
                    let colors = order.map(|channel| variation.channels[channel]);
                    variation.channels[..3].copy_from_slice(&colors);
                }
                Augment::Shift(by) => {
                    for side in [&mut variation.rows, &mut variation.columns] {
                        let shift = (unit() * (2 * by + 1) as f64) as usize;
                        let from = |at: usize| side[(at + shift).saturating_sub(by).min(side.len() - 1)];
                        *side = (0..side.len()).map(from).collect();
                    }
                }
                Augment::Gain(gain) => {
                    let factor = 1.0 + gain * (2.0 * unit() - 1.0) as f32;
                    variation.gain *= factor;
                    variation.jitter *= factor;
                }
                // The sum of two normal noises is one.
                Augment::Jitter(sigma) => variation.jitter = variation.jitter.hypot(sigma),
            }
        }
        variation
    }
}

/// How one sample is varied. Its values change places, then `value` becomes
/// `gain value + (gain - 1) offset / scale + jitter z`: natural values times `gain`, by the channel's scale, and noise.
#[derive(Debug, Clone, PartialEq)]
pub struct Variation {
    /// Where values come from, `[height]`: that of row y, column x, channel c is number
    /// `rows[y] + columns[x] + channels[c]` of the sample `[height, width, channels]`.
    pub rows: Vec<usize>,
    /// `[width]`
    pub columns: Vec<usize>,
    /// `[channels]`
    pub channels: Vec<usize>,
    /// Factor of natural values.
    pub gain: f32,
    /// Deviation of the noise, in the network's units; z is standard normal, another for each value.
    pub jitter: f32,
}

impl Variation {
    fn none(shape: SampleShape) -> Self {
        let SampleShape { height, width, channels } = shape;
        Self {
            rows: (0..height).map(|y| y * width * channels).collect(),
            columns: (0..width).map(|x| x * channels).collect(),
            channels: (0..channels).collect(),
            gain: 1.0,
            jitter: 0.0,
        }
    }

    fn of(&self, values: &[f32], dataset: &Dataset, mut normal: impl FnMut() -> f32) -> Vec<f32> {
        let mut varied = Vec::with_capacity(values.len());
        for row in &self.rows {
            for column in &self.columns {
                for (channel, from) in self.channels.iter().enumerate() {
                    let moved = dataset.channels_scale.get(channel).map_or(0.0, |of| of.offset / of.scale);
                    let noise = if self.jitter > 0.0 { self.jitter * normal() } else { 0.0 };
                    varied.push(self.gain * values[row + column + from] + (self.gain - 1.0) * moved + noise);
                }
            }
        }
        varied
    }
}

/// Standard normal, from two uniform numbers (Box, Muller, 1958).
fn normal(unit: &mut impl FnMut() -> f64) -> f32 {
    let radius = (-2.0 * (1.0 - unit()).ln()).sqrt();
    (radius * (std::f64::consts::TAU * unit()).cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChannelScale, Values};

    /// One 2x2 RGB image of the values 0, 1, .. 11 (not pixels: nothing here depends on the range).
    fn square() -> (Dataset, Vec<f32>) {
        let set = Dataset::new(SampleShape::image(2, 2, 3), Values::Bytes(vec![0; 12]), vec![0], vec!["a".to_owned()]);
        (set, (0..12u8).map(f32::from).collect())
    }

    fn signal() -> (Dataset, Vec<f32>) {
        let shape = SampleShape::signal(4, 1);
        let set = Dataset::new(shape, Values::Floats(vec![10.0, 20.0, 30.0, 40.0]), vec![0], vec!["a".to_owned()])
            .with_scale(vec![ChannelScale { offset: 20.0, scale: 10.0 }]);
        let values = set.units(0).collect();
        (set, values)
    }

    /// The variation with all random numbers equal to `u`; only the first value of each pixel.
    fn with(augment: Augment, (set, values): (Dataset, Vec<f32>), u: f64) -> Vec<f32> {
        let varied = Augmentation(vec![augment]).apply(&values, &set, &mut || u);
        varied.into_iter().step_by(set.shape.channels).collect()
    }

    #[test]
    fn each_variation_moves_the_pixels_it_says() {
        assert_eq!(with(Augment::Mirror, square(), 0.4), [3.0, 0.0, 9.0, 6.0]);
        assert_eq!(with(Augment::Mirror, square(), 0.5), [0.0, 3.0, 6.0, 9.0]);
        assert_eq!(with(Augment::Flip, square(), 0.4), [6.0, 9.0, 0.0, 3.0]);
        let turns = [0.0, 0.25, 0.5, 0.75].map(|u| with(Augment::QuarterTurns, square(), u));
        assert_eq!(turns[1], [3.0, 9.0, 0.0, 6.0]);
        assert_eq!(turns[2], [9.0, 6.0, 3.0, 0.0]);
        assert_eq!(turns[3], [6.0, 0.0, 9.0, 3.0]);
        assert_eq!(with(Augment::ColorOrder, square(), 0.99), [2.0, 5.0, 8.0, 11.0]);
        assert_eq!(with(Augment::Shift(1), square(), 0.0), [0.0, 0.0, 0.0, 0.0], "down and right");
        assert_eq!(with(Augment::Shift(1), square(), 0.99), [9.0, 9.0, 9.0, 9.0], "up and left");
        assert_eq!(with(Augment::Shift(1), signal(), 0.99), [0.0, 1.0, 2.0, 2.0]);
    }

    #[test]
    fn gain_is_of_natural_values() {
        // 10, 20, 30, 40 times 1.5 are 15, 30, 45, 60.
        assert_eq!(with(Augment::Gain(0.5), signal(), 1.0), [-0.5, 1.0, 2.5, 4.0]);
    }

    /// Turned, then mirrored, is not mirrored, then turned; and a gain is of the noise that was there before it.
    #[test]
    fn variations_follow_each_other_in_order() {
        let both = |augments: [Augment; 2], u: f64| {
            let (set, values) = square();
            let varied = Augmentation(augments.to_vec()).apply(&values, &set, &mut || u);
            varied.into_iter().step_by(3).collect::<Vec<f32>>()
        };
        // A quarter turn is 3, 9, 0, 6; a mirrored image is 3, 0, 9, 6.
        assert_eq!(both([Augment::QuarterTurns, Augment::Mirror], 0.25), [9.0, 3.0, 6.0, 0.0]);
        assert_eq!(both([Augment::Mirror, Augment::QuarterTurns], 0.25), [0.0, 6.0, 3.0, 9.0]);
        let shape = SampleShape::signal(4, 1);
        let drawn = |augments: [Augment; 2]| Augmentation(augments.to_vec()).draw(shape, &mut || 1.0);
        assert_eq!(drawn([Augment::Jitter(0.3), Augment::Gain(0.5)]).jitter, 1.5 * 0.3);
        assert_eq!(drawn([Augment::Gain(0.5), Augment::Jitter(0.3)]).jitter, 0.3);
        assert!((drawn([Augment::Jitter(0.3), Augment::Jitter(0.4)]).jitter - 0.5).abs() < 1e-6);
    }

    #[test]
    fn jitter_has_its_deviation() {
        let shape = SampleShape::vector(2000);
        let set = Dataset::new(shape, Values::Floats(vec![0.0; 2000]), vec![0], vec!["a".to_owned()]);
        let mut state = 1u64;
        let mut unit = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let noise = Augmentation(vec![Augment::Jitter(0.1)]).apply(&[0.0; 2000], &set, &mut unit);
        let mean = noise.iter().sum::<f32>() / 2000.0;
        let deviation = (noise.iter().map(|value| value * value).sum::<f32>() / 2000.0).sqrt();
        assert!(mean.abs() < 0.01 && (deviation - 0.1).abs() < 0.006, "{mean} {deviation}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let image = SampleShape::image(8, 12, 1);
        let (signal, vector) = (SampleShape::signal(64, 6), SampleShape::vector(3));
        for (augment, fitting, unfitting) in [
            (Augment::Mirror, image, signal),
            (Augment::Flip, image, vector),
            (Augment::QuarterTurns, SampleShape::image(8, 8, 1), image),
            (Augment::ColorOrder, SampleShape::image(8, 12, 4), image),
            (Augment::Shift(7), image, vector),
            (Augment::Shift(7), signal, SampleShape::image(7, 12, 1)),
            (Augment::Gain(0.2), signal, image),
            (Augment::Jitter(0.2), vector, image),
        ] {
            let check = |shape| Augmentation(vec![augment]).check(shape);
            assert_eq!(check(fitting), Ok(()), "{augment:?}");
            let message = check(unfitting).unwrap_err().to_string();
            assert!(message.contains(&format!("{augment:?}")) && message.contains(&unfitting.to_string()), "{message}");
        }
        for augment in [Augment::Gain(1.0), Augment::Jitter(f32::NAN), Augment::Shift(0)] {
            assert!(Augmentation(vec![augment]).check(signal).is_err(), "{augment:?}");
        }
    }

    #[test]
    fn it_is_written_as_none_one_or_a_list() {
        #[derive(Deserialize)]
        struct Preset {
            augment: Augmentation,
        }
        let read = |text: &str| toml::from_str::<Preset>(&format!("augment = {text}")).map(|preset| preset.augment.0);
        assert_eq!(read("\"none\"").unwrap(), []);
        assert_eq!(read("\"mirror\"").unwrap(), [Augment::Mirror]);
        assert_eq!(read("{ shift = 2 }").unwrap(), [Augment::Shift(2)]);
        assert_eq!(read("[\"mirror\", { gain = 0.5 }]").unwrap(), [Augment::Mirror, Augment::Gain(0.5)]);
        assert!(read("\"miror\"").is_err());
    }
}
