//! Inpainting, guidance by a classifier and anomaly scores against what they should find exactly.

use super::*;

/// `[n, 2, 1, 1]` to the sum and the difference of both values over the root of 2, and back: the principal axes of
/// correlated pairs.
fn axes(x: &State) -> [State; 2] {
    let (first, second) = (x.clone().narrow(1, 0, 1), x.clone().narrow(1, 1, 1));
    let half = std::f64::consts::FRAC_1_SQRT_2;
    [(first.clone() + second.clone()) * half, (first - second) * half]
}

/// The exact denoiser of pairs from N(0, 0.25 [[1, 0.9], [0.9, 1]]).
fn correlated(x: &State, row: &StepRow) -> State {
    let [sum, difference] = axes(x);
    let shrink = |x: State, variance: f64| {
        x * (row.signal * variance / (row.signal * row.signal * variance + row.noise * row.noise))
    };
    let [first, second] = axes(&Tensor::cat(vec![shrink(sum, 0.25 * 1.9), shrink(difference, 0.25 * 0.1)], 1));
    Tensor::cat(vec![first, second], 1)
}

/// With the first of a pair known to be 0.8, the second is N(0.72, 0.0475).
#[test]
fn repaint_draws_from_the_conditional_distribution_and_replacement_does_not() {
    let (count, shape, device) = (2000, SampleShape::vector(2), Default::default());
    let sampler = SamplerConfig::Ddpm { variance: VarianceConfig::Posterior };
    let table = SamplingConfig { sampler, ..SamplingConfig::ddim(100, 1.0) }.table(&diffusion());
    let reverse =
        Reverse { denoise: &correlated, table: &table, threshold: Threshold::None, noise: noise(3, count, shape) };
    let known = Known {
        data: Tensor::<Flex, 1>::from_floats([0.8, 0.0], &device).reshape([1, 2, 1, 1]),
        mask: Tensor::<Flex, 1>::from_floats([1.0, 0.0], &device).reshape([1, 2, 1, 1]),
    };
    let drawn = |resamples| {
        let values = values(reverse.inpaint(&known, Resampling { jump: 10, resamples }));
        assert!(values.iter().step_by(2).all(|first| (first - 0.8).abs() < 1e-6), "the known value is kept");
        moments(&values.into_iter().skip(1).step_by(2).collect::<Vec<f64>>())
    };
    let ([mean, variance], [plain_mean, plain_variance]) = (drawn(10), drawn(1));
    println!("mean {mean:.4}, variance {variance:.4}; by replacement {plain_mean:.4}, {plain_variance:.4}");
    // Three standard errors of 2,000 samples are 0.015 and 0.0045.
    assert!((mean - 0.72).abs() < 0.06 && (variance - 0.0475).abs() < 0.01, "{mean}, {variance}");
    assert!(
        (plain_mean - 0.72).abs() > 0.15 && (plain_variance - 0.0475).abs() > 0.02,
        "{plain_mean}, {plain_variance}"
    );
}

/// With nothing known and one resample the draw is the plain one, bit for bit.
#[test]
fn inpainting_everything_is_sampling() {
    let (shape, device) = (SampleShape::vector(2), Default::default());
    let sampler = SamplerConfig::Ddpm { variance: VarianceConfig::Posterior };
    let table = SamplingConfig { sampler, ..SamplingConfig::ddim(20, 1.0) }.table(&diffusion());
    let reverse =
        Reverse { denoise: &correlated, table: &table, threshold: Threshold::None, noise: noise(3, 9, shape) };
    let zeros = State::zeros([9, 2, 1, 1], &device);
    let known = Known { data: zeros.clone(), mask: zeros };
    let drawn = values(reverse.inpaint(&known, Resampling { jump: 10, resamples: 1 }));
    assert_eq!(drawn, values(reverse.run(reverse.start(), 0)));
}

/// Share, mean and deviation of each class.
const CLASSES: [(f64, f64, f64); 2] = [(0.3, -0.6, 0.1), (0.7, 0.5, 0.2)];

/// The logarithm of share times density of each class for the state `x`, `[n, 2]`; burn's operations, so that it has a gradient.
fn log_densities<B: burn::tensor::backend::Backend>(x: Tensor<B, 4>, row: &StepRow) -> Tensor<B, 2> {
    let x = x.flatten::<2>(1, 3);
    let log = |(share, mean, deviation): (f64, f64, f64)| {
        let variance = (row.signal * deviation).powi(2) + row.noise * row.noise;
        let distance = x.clone() - row.signal * mean;
        distance.clone() * distance * (-0.5 / variance) + (share.ln() - 0.5 * variance.ln())
    };
    Tensor::cat(CLASSES.map(log).to_vec(), 1)
}

/// The exact unconditional denoiser of the mixture.
fn mixture(x: &State, row: &StepRow) -> State {
    let weights = burn::tensor::activation::softmax(log_densities(x.clone(), row), 1);
    let mut x0 = x.zeros_like();
    for (class, (_, mean, deviation)) in CLASSES.into_iter().enumerate() {
        let variance = (row.signal * deviation).powi(2) + row.noise * row.noise;
        let posterior = (x.clone() - row.signal * mean) * (row.signal * deviation * deviation / variance) + mean;
        let weight = weights.clone().narrow(1, class, 1).reshape([x.dims()[0] as i32, 1, 1, 1]);
        x0 = x0 + posterior * weight;
    }
    x0
}

#[test]
fn an_exact_classifier_guides_the_unconditional_denoiser_to_its_class() {
    let (count, shape) = (2000, SampleShape::vector(1));
    let table = SamplingConfig::ddim(200, 1.0).table(&diffusion());
    let classifier = log_densities::<Autodiff<Flex>>;
    for (class, (_, wanted_mean, deviation)) in CLASSES.into_iter().enumerate() {
        let classes = vec![class; count as usize];
        let denoise = ClassifierGuided { denoise: &mixture, classifier: &classifier, classes: &classes, scale: 1.0 };
        let reverse =
            Reverse { denoise: &denoise, table: &table, threshold: Threshold::None, noise: noise(3, count, shape) };
        let [mean, variance] = moments(&values(reverse.run(reverse.start(), 0)));
        println!("class {class}: mean {mean:.4}, deviation {:.4}", variance.sqrt());
        // Three standard errors of the wider class are 0.013 and 0.0095.
        assert!((mean - wanted_mean).abs() < 0.02, "class {class}: {mean}");
        assert!((variance.sqrt() - deviation).abs() < 0.02, "class {class}: {}", variance.sqrt());
    }
}

/// Correlation of two neighbours in a window of normal data, of variance 0.25.
const CORRELATION: f64 = 0.95;
const LENGTH: usize = 32;

/// Windows of a stationary autoregressive process; anomalous ones have a neighbour correlation of 0.6 instead.
fn windows(count: usize, correlation: f64, seed: u64) -> State {
    let mut values = Vec::new();
    for sample in 0..count {
        let mut x = 0.0;
        for (i, z) in normals(seed, sample as u64, NoiseUse::Start).take(LENGTH).enumerate() {
            let z = f64::from(z) / 4096.0;
            x = if i == 0 { z } else { correlation * x + (1.0 - correlation * correlation).sqrt() * z };
            values.push(0.5 * x as f32);
        }
    }
    from_pixels(values, SampleShape::signal(LENGTH, 1), &Default::default())
}

/// The exact denoiser of normal windows: `signal C (signal^2 C + noise^2)^-1 x`, by conjugate gradients.
fn autoregressive(x: &State, row: &StepRow) -> State {
    let [n, ..] = x.dims();
    let covariance: Vec<f32> = (0..LENGTH * LENGTH)
        .map(|at| (0.25 * CORRELATION.powi((at / LENGTH).abs_diff(at % LENGTH) as i32)) as f32)
        .collect();
    let covariance = Tensor::<Flex, 1>::from_floats(&covariance[..], &x.device()).reshape([LENGTH, LENGTH]);
    let x = x.clone().reshape([n, LENGTH]);
    let apply = |v: &Tensor<Flex, 2>| {
        v.clone().matmul(covariance.clone()) * (row.signal * row.signal) + v.clone() * (row.noise * row.noise)
    };
    let dot = |a: &Tensor<Flex, 2>, b: &Tensor<Flex, 2>| (a.clone() * b.clone()).sum_dim(1);
    let (mut solution, mut residual) = (x.zeros_like(), x.clone());
    let (mut direction, mut norm) = (x.clone(), dot(&x, &x));
    for _ in 0..2 * LENGTH {
        let image = apply(&direction);
        let step = norm.clone() / (dot(&direction, &image) + 1e-20);
        solution = solution + direction.clone() * step.clone();
        residual = residual - image * step;
        let next = dot(&residual, &residual);
        direction = residual.clone() + direction * (next.clone() / (norm + 1e-20));
        norm = next;
    }
    (solution.matmul(covariance) * row.signal).reshape([n, 1, 1, LENGTH])
}

/// Windows that wiggle more than the normal ones are reconstructed worse.
#[test]
fn reconstruction_finds_anomalous_windows() {
    let table = SamplingConfig::ddim(20, 1.0).table(&diffusion());
    let scores = |data: &State| {
        let noise = noise(1, data.dims()[0] as u64, SampleShape::signal(LENGTH, 1));
        let reverse = Reverse { denoise: &autoregressive, table: &table, threshold: Threshold::None, noise };
        reconstruction_scores(&reverse, data, &[12, 15, 18])
    };
    let reference = scores(&windows(100, CORRELATION, 1));
    let [normal, anomalous] = [(CORRELATION, 2), (0.6, 3)]
        .map(|(correlation, seed)| standardized(&scores(&windows(60, correlation, seed)), &reference));
    let area = roc_auc(&normal, &anomalous);
    println!("ROC-AUC {area:.3}");
    assert!(area > 0.95, "{area}");
    let other: Vec<f64> = standardized(&scores(&windows(60, CORRELATION, 4)), &reference);
    let chance = roc_auc(&normal, &other);
    assert!((chance - 0.5).abs() < 0.15, "normal windows against normal windows: {chance}");
}

/// A gap of six samples: RePaint's mean is near the exact conditional mean, nearer than the mean of what is around.
#[test]
fn a_gap_is_filled_with_what_its_ends_say() {
    let (count, gap) = (100, 13..19);
    let sampler = SamplerConfig::Ddpm { variance: VarianceConfig::Posterior };
    let table = SamplingConfig { sampler, ..SamplingConfig::ddim(40, 1.0) }.table(&diffusion());
    let shape = SampleShape::signal(LENGTH, 1);
    let reverse =
        Reverse { denoise: &autoregressive, table: &table, threshold: Threshold::None, noise: noise(2, count, shape) };
    let data = windows(1, CORRELATION, 7);
    let mask: Vec<f32> = (0..LENGTH).map(|i| if gap.contains(&i) { 0.0 } else { 1.0 }).collect();
    let known = Known { mask: from_pixels(mask, shape, &Default::default()), data: data.clone() };
    let drawn = values(reverse.inpaint(&known, Resampling { jump: 5, resamples: 8 }));
    let given = values(data);
    // A Markov process between two known ends: the conditional mean is that of a bridge.
    let (left, right, length) = (given[gap.start - 1], given[gap.end], gap.len() as i32 + 1);
    let rho = |steps: i32| CORRELATION.powi(steps);
    for i in gap.clone() {
        let (before, after) = ((i - gap.start + 1) as i32, (gap.end - i) as i32);
        let determinant = 1.0 - rho(2 * length);
        let weights = [rho(before) - rho(after + length), rho(after) - rho(before + length)];
        let exact = (weights[0] * left + weights[1] * right) / determinant;
        let column: Vec<f64> = drawn.iter().skip(i).step_by(LENGTH).copied().collect();
        let [mean, _] = moments(&column);
        println!("{i}: {mean:.3}, exactly {exact:.3}");
        // The bridge's deviation is at most 0.2: three standard errors of 100 draws are 0.06.
        assert!((mean - exact).abs() < 0.09, "sample {i}: {mean}, not {exact}");
    }
}
