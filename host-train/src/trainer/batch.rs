//! The samples of a batch: picked and varied at random on the host, put together on the device.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};

use super::fit::Part;
use super::step_random::StepRandom;
use crate::dataset::{Augmentation, Dataset, SampleShape, Split, Values, Variation};
use crate::denoiser::DenoiserConfig;
use crate::ops::DenoiserBackend;

/// Which samples a batch is of, drawn with replacement, and how each is varied.
#[derive(Debug, Clone)]
pub(crate) struct Picks {
    /// Their numbers among the [`Samples`] that they are gathered from.
    numbers: Vec<usize>,
    variations: Vec<Variation>,
}

impl Picks {
    pub(crate) fn draw(split: &Split<'_>, count: usize, augment: &Augmentation, random: &mut StepRandom) -> Self {
        let mut pick = |_| {
            let number = random.below(split.len());
            (number, augment.draw(split.dataset.shape, &mut || random.unit()))
        };
        let (numbers, variations) = (0..count).map(&mut pick).unzip();
        Self { numbers, variations }
    }

    /// Their classes.
    pub(crate) fn labels(&self, split: &Split<'_>) -> Vec<usize> {
        self.numbers.iter().map(|&number| usize::from(split.label(number))).collect()
    }

    pub(crate) fn part(&self, part: Part) -> Self {
        Self { numbers: part.slice(&self.numbers).to_vec(), variations: part.slice(&self.variations).to_vec() }
    }

    /// Only the samples picked, to be sent to a device that does not hold them all, and these picks among them.
    pub(crate) fn take(self, split: &Split<'_>) -> (Kept, Self) {
        let kept = Kept::of(split, &self.numbers);
        (kept, Self { numbers: (0..self.numbers.len()).collect(), ..self })
    }

    /// The samples, varied; `random` gives the noise of those that are varied by noise, of a part of the examples.
    ///
    /// # Shapes
    /// `[picks, channels, height, width]`, in [-1, 1]
    pub(crate) fn gather<B: DenoiserBackend>(
        &self,
        samples: &Samples<B>,
        random: &mut StepRandom,
        part: Part,
    ) -> Tensor<B, 4> {
        let device = samples.device();
        let each = |value: &dyn Fn(&Variation) -> f32| -> Option<Tensor<B, 4>> {
            let values: Vec<f32> = self.variations.iter().map(value).collect();
            let n = values.len();
            let any = values.iter().any(|&value| value != 0.0);
            any.then(|| Tensor::from_data(TensorData::new(values, [n, 1, 1, 1]), &device))
        };
        let mut values = samples.at(self.places(samples.shape, &device));
        if let Some(growth) = each(&|variation| variation.gain - 1.0) {
            values = values.clone() + growth * (values + samples.moved.clone());
        }
        if let Some(jitter) = each(&|variation| variation.jitter) {
            values = values.clone() + random.normal_part(values.dims(), part, &device) * jitter;
        }
        values
    }

    /// The numbers of the values among all samples' values, `[picks, channels, height, width]`.
    fn places<B: Backend>(&self, shape: SampleShape, device: &B::Device) -> Tensor<B, 4, Int> {
        let (n, SampleShape { height, width, channels }) = (self.numbers.len(), shape);
        let mut table = Vec::with_capacity(n * (height + width + channels));
        for (number, variation) in self.numbers.iter().zip(&self.variations) {
            let begin = number * shape.len();
            table.extend(variation.rows.iter().map(|row| (begin + row) as i32));
            table.extend(variation.columns.iter().chain(&variation.channels).map(|&place| place as i32));
        }
        let table = TensorData::new(table, [n, height + width + channels]);
        let table = Tensor::<B, 2, Int>::from_data(table, (device, DType::I32));
        let side = |begin, len, shape: [usize; 4]| table.clone().narrow(1, begin, len).reshape(shape);
        side(0, height, [n, 1, height, 1])
            + side(height, width, [n, 1, 1, width])
            + side(height + width, channels, [n, channels, 1, 1])
    }
}

/// Samples on the host as a device keeps them, `[n, height, width, channels]`.
#[derive(Debug)]
pub(crate) enum Kept {
    /// Pixels.
    Bytes(Vec<u8>),
    /// What a network sees.
    Units(Vec<f32>),
}

impl Kept {
    fn of(split: &Split<'_>, numbers: &[usize]) -> Self {
        match split.dataset.values {
            Values::Bytes(_) => {
                let image = |&number: &usize| split.image(number).expect("the values are bytes");
                Self::Bytes(numbers.iter().flat_map(image).copied().collect())
            }
            Values::Floats(_) => Self::Units(numbers.iter().flat_map(|&number| split.units(number)).collect()),
        }
    }
}

/// Samples on a device.
#[derive(Debug, Clone)]
pub(crate) struct Samples<B: Backend> {
    values: OnDevice<B>,
    shape: SampleShape,
    /// The network's value of the natural zero, negated, `[1, channels, 1, 1]`.
    moved: Tensor<B, 4>,
}

/// `[n * height * width * channels]`.
#[derive(Debug, Clone)]
enum OnDevice<B: Backend> {
    Bytes(Tensor<B, 1, Int>),
    Units(Tensor<B, 1>),
}

impl<B: Backend> Samples<B> {
    /// The most values that a place among them can tell apart.
    const MOST: usize = i32::MAX as usize;

    /// Whether a device can keep all samples.
    pub(crate) fn can_keep(split: &Split<'_>) -> bool {
        split.len() * split.dataset.shape.len() <= Self::MOST
    }

    /// All samples.
    pub(crate) fn all(split: &Split<'_>, device: &B::Device) -> Self {
        let numbers: Vec<usize> = (0..split.len()).collect();
        Self::send(Kept::of(split, &numbers), split.dataset, device)
    }

    /// These samples.
    pub(crate) fn send(kept: Kept, dataset: &Dataset, device: &B::Device) -> Self {
        let values = match kept {
            Kept::Bytes(values) => OnDevice::Bytes(Tensor::from_data(&values[..], (device, DType::U8))),
            Kept::Units(values) => OnDevice::Units(Tensor::from_data(&values[..], device)),
        };
        let scale = &dataset.channels_scale;
        let moved = |channel: usize| scale.get(channel).map_or(0.0, |of| of.offset / of.scale);
        let moved: Vec<f32> = (0..dataset.shape.channels).map(moved).collect();
        let moved = TensorData::new(moved, [1, dataset.shape.channels, 1, 1]);
        Self { values, shape: dataset.shape, moved: Tensor::from_data(moved, device) }
    }

    fn device(&self) -> B::Device {
        self.moved.device()
    }

    /// What a network sees at these places, of the same shape.
    fn at(&self, places: Tensor<B, 4, Int>) -> Tensor<B, 4> {
        let (shape, places) = (places.dims(), places.flatten(0, 3));
        match &self.values {
            OnDevice::Bytes(bytes) => bytes.clone().select(0, places).float().reshape(shape) / 127.5 - 1.0,
            OnDevice::Units(units) => units.clone().select(0, places).reshape(shape),
        }
    }
}

/// Some training samples, drawn with replacement.
pub struct Batch<B: Backend> {
    /// `[batch, channels, height, width]`, in [-1, 1].
    pub images: Tensor<B, 4>,
    /// Classes.
    pub labels: Vec<usize>,
}

impl<B: DenoiserBackend> Batch<B> {
    pub(crate) fn draw(
        split: &Split<'_>,
        batch: usize,
        augment: &Augmentation,
        config: &DenoiserConfig,
        random: &mut StepRandom,
        device: &B::Device,
    ) -> Self {
        assert_eq!(config.shape, split.dataset.shape, "data of another shape than the network's");
        let picks = Picks::draw(split, batch, augment, random);
        let labels = picks.labels(split);
        let (kept, picks) = picks.take(split);
        let images = picks.gather(&Samples::send(kept, split.dataset, device), random, Part::ALL);
        Self { images, labels }
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::dataset::{Augment, ChannelScale};

    fn of(shape: SampleShape, values: Values) -> Dataset {
        Dataset::new(shape, values, vec![0; 10], vec!["a".to_owned()])
    }

    fn floats(x: Tensor<Flex, 4>) -> Vec<f32> {
        x.into_data().to_vec().unwrap()
    }

    /// What the host would make of the samples, in the order of a tensor.
    fn on_host(split: &Split<'_>, count: usize, augment: &Augmentation, mut random: StepRandom) -> Vec<f32> {
        let SampleShape { height, width, channels } = split.dataset.shape;
        let mut values = Vec::new();
        for _ in 0..count {
            let sample: Vec<f32> = split.units(random.below(split.len())).collect();
            let varied = augment.apply(&sample, split.dataset, &mut || random.unit());
            for channel in 0..channels {
                values.extend((0..height * width).map(|pixel| varied[pixel * channels + channel]));
            }
        }
        values
    }

    /// Of all samples and of those sent for the step; each part of the whole.
    #[test]
    fn a_batch_of_the_device_is_that_of_the_host() {
        let image = SampleShape::image(5, 5, 3);
        let pictures = of(image, Values::Bytes((0..750).map(|i| (i * 77 % 256) as u8).collect()));
        let signal = SampleShape::signal(8, 2);
        let scale = vec![ChannelScale { offset: 3.0, scale: 2.0 }, ChannelScale { offset: -1.0, scale: 0.5 }];
        let signals = of(signal, Values::Floats((0..160).map(|i| (i as f32 * 0.3).sin()).collect())).with_scale(scale);
        let turned =
            vec![Augment::Mirror, Augment::QuarterTurns, Augment::Shift(2), Augment::ColorOrder, Augment::Flip];
        for (dataset, augment) in [
            (&pictures, Augmentation::default()),
            (&pictures, Augmentation(turned)),
            (&signals, Augmentation(vec![Augment::Shift(3), Augment::Gain(0.3)])),
        ] {
            let (split, device, random) = (dataset.train(), Default::default(), StepRandom::new(5, 7));
            let expected = on_host(&split, 6, &augment, random.clone());
            let mut left = random.clone();
            let picks = Picks::draw(&split, 6, &augment, &mut left);
            let samples = Samples::<Flex>::all(&split, &device);
            let near = |found: Tensor<Flex, 4>| {
                let found = floats(found);
                let off = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(found.len() == expected.len() && off < 1e-6, "{augment:?}: off by {off}");
                found
            };
            let whole = near(picks.gather(&samples, &mut left.clone(), Part::ALL));
            let parts = (0..3).map(|index| Part { index, of: 3 });
            let parts = parts.map(|part| picks.part(part).gather(&samples, &mut left.clone(), part));
            assert_eq!(floats(Tensor::cat(parts.collect(), 0)), whole);
            let (kept, taken) = picks.take(&split);
            let sent = taken.gather(&Samples::send(kept, dataset, &device), &mut left.clone(), Part::ALL);
            assert_eq!(floats(sent), whole);
            if augment == Augmentation::default() {
                assert_eq!(whole, expected, "unvaried samples are what the data set says to the bit");
            }
        }
    }

    /// The noise is of the natural size of what is asked for, another for each value and part.
    #[test]
    fn jitter_is_made_on_the_device() {
        let shape = SampleShape::signal(400, 2);
        let dataset = of(shape, Values::Floats(vec![0.0; 8000]));
        let (split, device) = (dataset.train(), Default::default());
        let samples = Samples::<Flex>::all(&split, &device);
        let mut random = StepRandom::new(1, 1);
        let picks = Picks::draw(&split, 4, &Augmentation(vec![Augment::Jitter(0.2)]), &mut random);
        let whole = floats(picks.gather(&samples, &mut random.clone(), Part::ALL));
        let deviation = (whole.iter().map(|value| value * value).sum::<f32>() / 3200.0).sqrt();
        assert!((deviation - 0.2).abs() < 0.01, "{deviation}");
        let half = |index| {
            let part = Part { index, of: 2 };
            floats(picks.part(part).gather(&samples, &mut random.clone(), part))
        };
        assert_eq!([half(0), half(1)].concat(), whole);
    }
}
