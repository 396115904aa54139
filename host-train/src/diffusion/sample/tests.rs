//! The sampler on denoisers that are known exactly: no network, no training.

mod uses;

use burn::backend::{Autodiff, Flex};
use burn::tensor::Tensor;
use mote_core::noise::{NoiseUse, normals};
use mote_core::schedule::{jump_variance, posterior_variance};
use mote_core::step_table::StepRow;
use mote_core::{Arena, Generator, Request, Start, Values, selftest};

use super::*;
use crate::dataset::SampleShape;
use crate::diffusion::{Diffusion, DiffusionConfig, Objective, ScheduleConfig, from_pixels};

type State = Tensor<Flex, 4>;

fn diffusion() -> Diffusion {
    DiffusionConfig::new(Objective::V, 1000, ScheduleConfig::Cosine { offset: 0.008 }).build().unwrap()
}

fn noise(seed: u64, count: u64, shape: SampleShape) -> Noise<Flex> {
    Noise { seed, samples: 0..count, shape, device: Default::default() }
}

/// Values in the order of [`Noise`]: sample, height, width, channels.
fn values(x: State) -> Vec<f64> {
    x.permute([0, 2, 3, 1]).into_data().iter::<f64>().collect()
}

fn moments(values: &[f64]) -> [f64; 2] {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / values.len() as f64;
    [mean, variance]
}

const SAMPLERS: [SamplerConfig; 11] = [
    SamplerConfig::Ddpm { variance: VarianceConfig::Posterior },
    SamplerConfig::Ddpm { variance: VarianceConfig::Beta },
    SamplerConfig::Ddim { eta: 0.0 },
    SamplerConfig::Ddim { eta: 0.5 },
    SamplerConfig::Euler,
    SamplerConfig::Heun,
    SamplerConfig::DpmPlusPlus2M,
    SamplerConfig::Churn { gamma: 0.2 },
    SamplerConfig::PredictorCorrector { correctors: 2, snr: 0.16 },
    SamplerConfig::Langevin { steps: 3, snr: 0.16 },
    SamplerConfig::Consistency,
];

/// Whatever the sampler and the shape: the tensors hold what the table gives by hand, number by number, on core's noise.
#[test]
fn the_walk_is_the_table_by_hand_on_cores_noise() {
    let shapes = [SampleShape::image(2, 3, 2), SampleShape::signal(6, 1), SampleShape::vector(5)];
    for (sampler, shape) in SAMPLERS.into_iter().flat_map(|sampler| shapes.map(|shape| (sampler, shape))) {
        let config = SamplingConfig { sampler, ..SamplingConfig::ddim(7, 1.0) };
        let table = SamplingConfig { sigma_range: Some([0.0, 20.0]), ..config }.table(&diffusion());
        let denoise = |x: &State, row: &StepRow| (x.clone() * (row.signal + 0.3)).sin() * 1.3;
        let threshold = Threshold::default();
        let reverse = Reverse { denoise: &denoise, table: &table, threshold, noise: noise(5, 2, shape) };
        let found = values(reverse.run(reverse.start(), 0));
        let by_hand = (0..2u64).flat_map(|sample| {
            let z = |noise_use| normals(5, sample, noise_use).map(|z| f64::from(z) / 4096.0);
            let mut x: Vec<f64> = z(NoiseUse::Start).take(shape.len()).collect();
            let mut x0_prev = vec![0.0; shape.len()];
            for (index, row) in table.iter().enumerate() {
                for ((x, x0_prev), z) in x.iter_mut().zip(&mut x0_prev).zip(z(NoiseUse::Row(index as u16))) {
                    let x0 = ((*x * (row.signal + 0.3)).sin() * 1.3).clamp(-1.0, 1.0);
                    *x = row.a * *x + row.b * x0 + row.b_prev * *x0_prev + row.c * z;
                    *x0_prev = x0;
                }
            }
            x
        });
        for (found, wanted) in found.into_iter().zip(by_hand) {
            assert!((found - wanted).abs() < 1e-4, "{sampler:?}, {shape}: {found}, not {wanted}");
        }
    }
}

/// Where a sample begins, whole or from a picture, is core's state: Q12, so within half of 1 / 4096.
#[test]
fn a_request_begins_where_cores_generator_does() {
    let (mut file, mut arena) = ([0; 8192], Arena::<8192>::new());
    let model = selftest::write_model(&mut file).unwrap();
    let shape = SampleShape::image(model.height(), model.width(), model.channels());
    let fixed = |value: i32| f64::from(value) / f64::from(1 << 20);
    let row = model.row(1);
    let rows =
        [StepRow::default(), StepRow { signal: fixed(row.signal), noise: fixed(row.noise), ..StepRow::default() }];
    let denoise = |x: &State, _: &StepRow| x.clone();
    let noise = Noise { samples: 4..5, ..noise(9, 5, shape) };
    let reverse = Reverse { denoise: &denoise, table: &rows, threshold: Threshold::None, noise };
    let picture: Vec<u8> = (0..shape.len()).map(|i| (i * 37 % 256) as u8).collect();
    let units = picture.iter().map(|&pixel| crate::dataset::to_unit(pixel)).collect();
    let picture_units = from_pixels(units, shape, &Default::default());

    let mut generator = Generator::new(&model, &mut arena.0).unwrap();
    let mut request = Request { class: 1, seed: 9, sample: 4, ..Request::default() };
    generator.start(request).unwrap();
    let state = |generator: &Generator<'_, '_>| generator.state().iter().map(|&x| f64::from(x) / 4096.0).collect();
    let whole: Vec<f64> = state(&generator);
    (request.first_row, request.start) = (1, Start::Noised(Values::Pixels(&picture)));
    generator.start(request).unwrap();
    let from_picture: Vec<f64> = state(&generator);
    assert_eq!(values(reverse.start()), whole);
    for (found, wanted) in values(reverse.noised(picture_units, 1)).into_iter().zip(from_picture) {
        // The picture's pixels are rounded to Q12 first.
        assert!((found - wanted).abs() < 1.01 / 4096.0, "{found}, not {wanted}");
    }
}

#[test]
fn a_denoiser_gets_the_estimate_of_the_row_before_within_its_range() {
    struct Recorder(std::cell::RefCell<Vec<Option<f64>>>);
    impl Denoise<Flex> for Recorder {
        fn estimate(&self, x: &State, row: &StepRow, previous: Option<&State>) -> Estimate<Flex> {
            self.0.borrow_mut().push(previous.map(|previous| values(previous.clone())[0]));
            Estimate { x0: x.zeros_like() + 3.0 * row.signal, variance: None }
        }
    }
    let table = SamplingConfig::ddim(4, 1.0).table(&diffusion());
    let (denoise, noise) = (Recorder(Default::default()), noise(1, 1, SampleShape::vector(1)));
    let reverse = Reverse { denoise: &denoise, table: &table, threshold: Threshold::default(), noise };
    reverse.run(reverse.start(), 0);
    let wanted: Vec<f64> = table[..3].iter().map(|row| (3.0 * row.signal).min(1.0)).collect();
    let found = denoise.0.into_inner();
    assert_eq!(found[0], None);
    assert!(found[1..].iter().zip(&wanted).all(|(found, wanted)| (found.unwrap() - wanted).abs() < 1e-6), "{found:?}");
    assert!(wanted[2] == 1.0 && wanted[0] < 1.0, "one estimate is beyond the range, one is not: {wanted:?}");
}

#[test]
fn a_learned_variance_lies_between_the_posteriors_and_betas_by_its_logarithm() {
    struct Fraction(f64);
    impl Denoise<Flex> for Fraction {
        fn estimate(&self, x: &State, _: &StepRow, _: Option<&State>) -> Estimate<Flex> {
            Estimate { x0: x.zeros_like(), variance: Some(x.zeros_like() + self.0) }
        }
    }
    let sampler = SamplerConfig::Ddpm { variance: VarianceConfig::Learned };
    let table = SamplingConfig { sampler, ..SamplingConfig::ddim(10, 1.0) }.table(&diffusion());
    let next = |fraction: f64, row: usize| {
        let denoise = Fraction(fraction);
        let noise = noise(1, 1, SampleShape::vector(1));
        let reverse = Reverse { denoise: &denoise, table: &table, threshold: Threshold::None, noise };
        let (zeros, ones) =
            (State::zeros([1, 1, 1, 1], &Default::default()), State::ones([1, 1, 1, 1], &Default::default()));
        values(reverse.row(row, zeros, &mut None, || ones))[0]
    };
    for row in [1, 5, 8] {
        let alpha_bars = [row, row + 1].map(|row: usize| table[row].signal.powi(2));
        let [small, large] =
            [posterior_variance(alpha_bars[0], alpha_bars[1]), jump_variance(alpha_bars[0], alpha_bars[1])];
        for (fraction, wanted) in [(-1.0, small), (1.0, large), (0.0, (small * large).sqrt())] {
            let found = next(fraction, row);
            assert!(
                (found / wanted.sqrt() - 1.0).abs() < 1e-4,
                "row {row}, {fraction}: {found}, not {}",
                wanted.sqrt()
            );
        }
    }
    assert_eq!(next(1.0, 9), 0.0, "the last row adds no noise");
}

#[test]
fn thresholds_keep_estimates_within_the_range() {
    let data: Vec<f32> = (0..101).map(|i| i as f32 / 25.0 - 2.0).collect();
    let small: Vec<f32> = data.iter().map(|x| x / 4.0).collect();
    let shape = SampleShape::signal(101, 1);
    let x0 = from_pixels::<Flex>([data.clone(), small.clone()].concat(), shape, &Default::default());
    let of = |threshold: Threshold| values(threshold.apply(x0.clone()));
    let close = |found: &[f64], wanted: &dyn Fn(f64) -> f64, data: &[f32]| {
        found.iter().zip(data).all(|(found, &x)| (found - wanted(f64::from(x))).abs() < 1e-5)
    };
    let clamped = of(Threshold::Clamp { limit: 1.5 });
    assert!(close(&clamped[..101], &|x| x.clamp(-1.5, 1.5), &data));
    // Magnitudes 0, 0.04, 0.04, ... 2, 2: nine tenths do not exceed 1.8. The small sample stays as it is.
    let dynamic = of(Threshold::Dynamic { quantile: 0.9 });
    assert!(close(&dynamic[..101], &|x| (x / 1.8).clamp(-1.0, 1.0), &data), "{dynamic:?}");
    assert!(close(&dynamic[101..], &|x| x, &small));
    assert!(close(&of(Threshold::None)[..101], &|x| x, &data));
}
