//! A network as a denoiser: its process, its classes, classifier-free guidance.

use std::ops::Range;

use burn::tensor::backend::Backend;
use burn::tensor::{Tensor, TensorData};
use mote_core::step_table::StepRow;

use super::Diffusion;
use super::sample::{Denoise, Estimate, Noise, Reverse, SamplingConfig};
use crate::dataset::{SampleShape, Split};
use crate::denoiser::{Condition, Denoiser, DenoiserConfig};
use crate::evaluate::npy::Samples;
use crate::ops::DenoiserBackend;

/// Samples drawn at once.
const BATCH: usize = 100;

/// Draws samples of a network.
pub struct Sampler<'a, B: Backend> {
    /// The network.
    pub net: &'a Denoiser<B>,
    /// Its sizes.
    pub config: &'a DenoiserConfig,
    /// Its process.
    pub diffusion: &'a Diffusion,
    /// How it draws.
    pub sampling: SamplingConfig,
}

/// Which samples are drawn: number i from noise `(seed, i)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// The noise's seed.
    pub seed: u64,
    /// How many.
    pub count: usize,
    /// The class of all; number i has class `i % classes` if there is none.
    pub class: Option<usize>,
}

/// A sampler that is told what to draw, as a [`Denoise`].
pub struct Conditioned<'a, B: Backend> {
    sampler: &'a Sampler<'a, B>,
    /// One a sample.
    classes: &'a [usize],
    /// Images that the network sees beside the state, `[batch, condition channels, height, width]`.
    condition: Option<Tensor<B, 4>>,
}

impl<B: DenoiserBackend> Denoise<B> for Conditioned<'_, B> {
    fn estimate(&self, x: &Tensor<B, 4>, row: &StepRow, previous: Option<&Tensor<B, 4>>) -> Estimate<B> {
        let f = self.guided(x, row, previous);
        let (mean, variance) = self.sampler.config.mean_and_variance(f);
        let variance = variance.filter(|_| self.sampler.sampling.learned_variance());
        Estimate { x0: x.clone() * row.p + mean * row.q, variance }
    }
}

impl<B: DenoiserBackend> Conditioned<'_, B> {
    /// The guided output, `uncond + w (cond - uncond)`, in one pass of twice the batch; for w = 0 and w = 1 one plain pass.
    /// A learned variance is the conditional one's.
    fn guided(&self, x: &Tensor<B, 4>, row: &StepRow, previous: Option<&Tensor<B, 4>>) -> Tensor<B, 4> {
        let batch = self.classes.len();
        let none = vec![self.sampler.config.no_class(); batch];
        let strength = self.sampler.sampling.guidance_at(row);
        if strength == 1.0 {
            return self.output(x.clone(), row, self.classes, previous.cloned(), self.condition.clone());
        }
        if strength == 0.0 {
            return self.output(x.clone(), row, &none, previous.cloned(), self.condition.clone());
        }
        let twice = |tensor: &Tensor<B, 4>| Tensor::cat(vec![tensor.clone(), tensor.clone()], 0);
        let both = [self.classes, &none].concat();
        let f = self.output(twice(x), row, &both, previous.map(twice), self.condition.as_ref().map(twice));
        let (with, without) = (f.clone().narrow(0, 0, batch), f.narrow(0, batch, batch));
        let guide = |with: Tensor<B, 4>, without: Tensor<B, 4>| {
            let guided = without.clone() + (with.clone() - without) * strength;
            rescaled(guided, with, self.sampler.sampling.guidance_rescale)
        };
        let (with, variance) = self.sampler.config.mean_and_variance(with);
        let (without, _) = self.sampler.config.mean_and_variance(without);
        let mean = guide(with, without);
        match variance {
            None => mean,
            Some(variance) => Tensor::cat(vec![mean, variance], 1),
        }
    }

    fn output(
        &self,
        x: Tensor<B, 4>,
        row: &StepRow,
        classes: &[usize],
        previous: Option<Tensor<B, 4>>,
        image: Option<Tensor<B, 4>>,
    ) -> Tensor<B, 4> {
        let Sampler { net, config, diffusion, .. } = self.sampler;
        let timesteps = vec![row.timestep; classes.len()];
        let condition = Condition::new(config, &timesteps, diffusion.timesteps(), classes, &x.device());
        let extra = config.extra(&x, previous, image);
        net.forward(x, &Condition { extra, ..condition })
    }
}

/// The guided output with a share `phi` of its deviation taken back to that of the conditional output, sample by sample (Lin et
/// al., *Common Diffusion Noise Schedules and Sample Steps are Flawed*, 2024, equations 15 and 16).
fn rescaled<B: Backend>(guided: Tensor<B, 4>, conditional: Tensor<B, 4>, phi: f64) -> Tensor<B, 4> {
    if phi == 0.0 {
        return guided;
    }
    let deviation = |x: Tensor<B, 4>| {
        let [batch, channels, height, width] = x.dims();
        let x = x.reshape([batch, channels * height * width]);
        let centered = x.clone() - x.mean_dim(1);
        (centered.clone() * centered).mean_dim(1).sqrt().reshape([batch, 1, 1, 1])
    };
    let ratio = deviation(conditional) / (deviation(guided.clone()) + 1e-8);
    guided * (ratio * phi + (1.0 - phi))
}

impl<'a, B: DenoiserBackend> Sampler<'a, B> {
    /// The sampler told which class each sample of a batch has, and what images it sees if its network wants some.
    pub fn given(&'a self, classes: &'a [usize], condition: Option<Tensor<B, 4>>) -> Conditioned<'a, B> {
        Conditioned { sampler: self, classes, condition }
    }

    /// The reverse process of the samples `samples` of `seed` along `table`.
    pub fn reverse<'b>(
        &self,
        denoise: &'b dyn Denoise<B>,
        table: &'b [StepRow],
        seed: u64,
        samples: Range<u64>,
        device: &B::Device,
    ) -> Reverse<'b, B> {
        let noise = Noise { seed, samples, shape: self.config.shape, device: device.clone() };
        Reverse { denoise, table, threshold: self.sampling.threshold, noise }
    }

    /// Draws samples in batches, each by `draw` from its reverse process and its classes; values as the network sees them,
    /// `[count, height, width, channels]`. `condition` is what the network sees beside each sample, `[count or 1, condition
    /// channels, height, width]`; `progress` hears how many are done.
    pub fn draw_with(
        &self,
        request: Request,
        condition: Option<Tensor<B, 4>>,
        device: &B::Device,
        mut progress: impl FnMut(usize),
        mut draw: impl FnMut(&Reverse<'_, B>, &[usize]) -> Tensor<B, 4>,
    ) -> Vec<f32> {
        let Request { seed, count, class } = request;
        let table = self.sampling.table(self.diffusion);
        let mut values = Vec::with_capacity(count * self.config.shape.len());
        for begin in (0..count).step_by(BATCH) {
            let numbers = begin as u64..(begin + BATCH).min(count) as u64;
            let end = numbers.end as usize;
            let classes: Vec<usize> =
                (begin..end).map(|number| class.unwrap_or(number % self.config.classes)).collect();
            let condition = condition.as_ref().map(|images| match images.dims() {
                [1, channels, height, width] => images.clone().expand([classes.len(), channels, height, width]),
                _ => images.clone().narrow(0, begin, classes.len()),
            });
            let denoise = self.given(&classes, condition);
            let x = draw(&self.reverse(&denoise, &table, seed, numbers, device), &classes);
            values.extend(to_units(x));
            progress(end);
        }
        values
    }

    /// What a super-resolution network is given where nobody gives it an image: the low resolution of a split's samples, for
    /// sample number i the next one of its class, `[count, channels, height, width]`. None for other networks.
    pub fn given_of(&self, split: &Split<'_>, request: Request, device: &B::Device) -> Option<Tensor<B, 4>> {
        let low = self.diffusion.low_resolution.filter(|_| !split.is_empty())?;
        let mut of_class = vec![Vec::new(); self.config.classes];
        (0..split.len()).for_each(|index| of_class[usize::from(split.label(index))].push(index));
        let mut units = Vec::with_capacity(request.count * self.config.shape.len());
        for number in 0..request.count {
            let (class, turn) = match request.class {
                Some(class) => (class, number),
                None => (number % self.config.classes, number / self.config.classes),
            };
            let indices = &of_class[class];
            units.extend(split.units(*indices.get(turn % indices.len().max(1)).unwrap_or(&0)));
        }
        Some(low.of(from_pixels(units, self.config.shape, device)))
    }

    /// Draws whole samples; a super-resolution network is given those of `split` ([`Sampler::given_of`]).
    pub fn draw(
        &self,
        request: Request,
        split: &Split<'_>,
        device: &B::Device,
        progress: impl FnMut(usize),
    ) -> Samples {
        let given = self.given_of(split, request, device);
        let units = self.draw_with(request, given, device, progress, |reverse, _| reverse.run(reverse.start(), 0));
        Samples::from_units(units, self.config.shape)
    }
}

/// `[n, channels, height, width]` to values `[n, height, width, channels]`.
pub fn to_units<B: Backend>(x: Tensor<B, 4>) -> Vec<f32> {
    x.permute([0, 2, 3, 1]).into_data().to_vec().expect("f32 backend")
}

/// Values `[n, height, width, channels]` to a tensor `[n, channels, height, width]`.
pub fn from_pixels<B: Backend>(values: Vec<f32>, shape: SampleShape, device: &B::Device) -> Tensor<B, 4> {
    let SampleShape { height, width, channels } = shape;
    let n = values.len() / shape.len();
    if channels == 1 {
        // The same order; a permutation would be copied value by value.
        return Tensor::from_data(TensorData::new(values, [n, 1, height, width]), device);
    }
    Tensor::<B, 4>::from_data(TensorData::new(values, [n, height, width, channels]), device).permute([0, 3, 1, 2])
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;
    use crate::denoiser::{Architecture, Output, UNetConfig, parameters, set_parameters};
    use crate::diffusion::{DiffusionConfig, Objective, ScheduleConfig};

    type State = Tensor<Flex, 4>;

    fn diffusion() -> Diffusion {
        DiffusionConfig::new(Objective::V, 1000, ScheduleConfig::Cosine { offset: 0.008 }).build().unwrap()
    }

    fn config() -> DenoiserConfig {
        let unet: UNetConfig =
            serde_json::from_str(r#"{"widths": [4], "blocks": 1, "middle": 1, "groups": 2, "embedding": 8}"#).unwrap();
        DenoiserConfig {
            shape: SampleShape::image(4, 4, 1),
            classes: 3,
            architecture: Architecture::UNet(unet),
            output: Output::Mean,
            self_conditioning: false,
            condition_channels: 0,
        }
    }

    /// A network none of whose weights is zero.
    fn net(config: &DenoiserConfig) -> Denoiser<Flex> {
        let net = config.init::<Flex>(1, &Default::default()).unwrap();
        let count = parameters(&net).dims()[0];
        let values: Vec<f32> = (0..count).map(|i| 0.4 * (i as f32 * 12.9898).sin()).collect();
        set_parameters(net, Tensor::from_floats(&values[..], &Default::default()))
    }

    fn close(a: &State, b: &State) -> bool {
        (a.clone() - b.clone()).abs().max().into_scalar() < 1e-5
    }

    const CLASSES: [usize; 2] = [2, 0];

    /// The output at one row for two samples.
    fn output(sampling: SamplingConfig, row: usize) -> State {
        let (config, diffusion) = (config(), diffusion());
        let net = net(&config);
        let table = sampling.table(&diffusion);
        let sampler = Sampler { net: &net, config: &config, diffusion: &diffusion, sampling };
        let conditioned = sampler.given(&CLASSES, None);
        let noise = sampler.reverse(&conditioned, &table, 7, 0..2, &Default::default()).start();
        conditioned.guided(&noise, &table[row], None)
    }

    #[test]
    fn guidance_of_zero_and_one_is_one_network_and_two_goes_beyond() {
        let at = |guidance| output(SamplingConfig::ddim(4, guidance), 1);
        let (without, with, twice) = (at(0.0), at(1.0), at(2.0));
        assert!(!close(&with, &without));
        assert!(close(&twice, &(with.clone() * 2.0 - without.clone())));
        // Just beside 0 and 1 there are two passes; they must give the same.
        assert!(close(&at(1e-7), &without) && close(&at(1.0 + 1e-7), &with));
    }

    #[test]
    fn guidance_keeps_to_its_interval() {
        let table = SamplingConfig::ddim(4, 1.0).table(&diffusion());
        let sigma = |row: usize| table[row].sigma();
        let interval = Some([sigma(2) - 0.01, sigma(1) + 0.01]);
        for row in 0..4 {
            let at = |guidance, guidance_interval| {
                output(SamplingConfig { guidance_interval, ..SamplingConfig::ddim(4, guidance) }, row)
            };
            let wanted = if (1..=2).contains(&row) { at(3.0, None) } else { at(1.0, None) };
            assert!(close(&at(3.0, interval), &wanted), "row {row}");
        }
    }

    #[test]
    fn rescaled_guidance_has_the_deviation_of_the_conditional_output() {
        let deviations = |x: State| {
            let values: Vec<f32> = x.into_data().to_vec().unwrap();
            [0, 1].map(|sample| {
                let sample = &values[sample * 16..][..16];
                let mean = sample.iter().sum::<f32>() / 16.0;
                (sample.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / 16.0).sqrt()
            })
        };
        let at = |guidance, guidance_rescale| {
            deviations(output(SamplingConfig { guidance_rescale, ..SamplingConfig::ddim(4, guidance) }, 1))
        };
        let (plain, guided, half, whole) = (at(1.0, 0.0), at(30.0, 0.0), at(30.0, 0.5), at(30.0, 1.0));
        for sample in 0..2 {
            assert!((guided[sample] / plain[sample] - 1.0).abs() > 0.05, "guidance changed nothing: {guided:?}");
            assert!((whole[sample] / plain[sample] - 1.0).abs() < 1e-3, "{whole:?}, not {plain:?}");
            let middle = 0.5 * (guided[sample] + plain[sample]);
            assert!((half[sample] / middle - 1.0).abs() < 1e-3, "{half:?}");
        }
    }

    #[test]
    fn a_sample_is_its_seed_number_and_class_whatever_is_drawn_beside_it() {
        let (config, diffusion) = (config(), diffusion());
        let net = net(&config);
        let sampling = SamplingConfig::ddim(3, 2.0);
        let sampler = Sampler { net: &net, config: &config, diffusion: &diffusion, sampling };
        let data = crate::dataset::embedded();
        let draw =
            |count, class| sampler.draw(Request { seed: 3, count, class }, &data.train(), &Default::default(), |_| {});
        let (many, few) = (draw(BATCH + 5, None), draw(5, None));
        assert!((0..5).all(|number| many.bytes(number) == few.bytes(number)));
        assert_eq!(draw(5, Some(1)).bytes(4), few.bytes(4), "number 4 has class 4 % 3 = 1");
        assert_ne!(draw(5, Some(1)).bytes(3), few.bytes(3));
    }

    #[test]
    fn extra_channels_get_the_estimate_then_the_image() {
        let config = DenoiserConfig {
            self_conditioning: true,
            condition_channels: 2,
            output: Output::MeanAndVariance,
            ..config()
        };
        let (net, diffusion) = (net(&config), diffusion());
        let device = Default::default();
        let sampling = SamplingConfig::ddim(4, 2.0);
        let table = sampling.table(&diffusion);
        let sampler = Sampler { net: &net, config: &config, diffusion: &diffusion, sampling };
        let [x, previous] = [0.3, -0.8].map(|value| State::full([2, 1, 4, 4], value, &device));
        let image = State::full([2, 2, 4, 4], 0.5, &device);
        let found = sampler.given(&CLASSES, Some(image.clone())).guided(&x, &table[1], Some(&previous));
        let forward = |classes: &[usize]| {
            let condition = Condition::new(&config, &[table[1].timestep; 2], 1000, classes, &device);
            let extra = Some(Tensor::cat(vec![previous.clone(), image.clone()], 1));
            net.forward(x.clone(), &Condition { extra, ..condition })
        };
        let (with, without) = (forward(&CLASSES), forward(&[3, 3]));
        let part = |x: &State, channel| x.clone().narrow(1, channel, 1);
        assert!(close(&part(&found, 0), &(part(&with, 0) * 2.0 - part(&without, 0))));
        assert!(close(&part(&found, 1), &part(&with, 1)), "the variance is the conditional one's");
        assert!(!close(&found, &sampler.given(&CLASSES, Some(image)).guided(&x, &table[1], None)));
        assert!(!close(&found, &sampler.given(&CLASSES, None).guided(&x, &table[1], Some(&previous))));
    }

    #[test]
    fn a_super_resolution_network_is_given_the_next_sample_of_each_class() {
        let data = crate::dataset::embedded();
        let config = DenoiserConfig { shape: data.shape, classes: 10, condition_channels: 1, ..config() };
        let (net, device) = (net(&config), Default::default());
        let low = crate::diffusion::LowResolution { factor: 2, noise: 0.0 };
        let diffusion = Diffusion { low_resolution: Some(low), ..diffusion() };
        let sampling = SamplingConfig::ddim(2, 1.0);
        let sampler = Sampler { net: &net, config: &config, diffusion: &diffusion, sampling };
        let held_out = data.held_out();
        let request = Request { seed: 1, count: 23, class: None };
        let given = sampler.given_of(&held_out, request, &device).unwrap();
        // Sample 21 has class 1 and is the third of it.
        let third = (0..held_out.len()).filter(|&index| held_out.label(index) == 1).nth(2).unwrap();
        let sample = from_pixels::<Flex>(held_out.units(third).collect(), data.shape, &device);
        assert!(close(&low.reduce(given.clone().narrow(0, 21, 1)), &low.reduce(sample)));
        let of_one_class =
            sampler.given_of(&held_out, Request { class: Some(1), count: 3, ..request }, &device).unwrap();
        assert!(close(&of_one_class.narrow(0, 2, 1), &given.narrow(0, 21, 1)));
        let drawn = |split: &Split<'_>| sampler.draw(Request { count: 1, ..request }, split, &device, |_| {}).bytes(0);
        assert_ne!(drawn(&held_out), drawn(&data.train()), "what is given changes what is drawn");
    }
}
