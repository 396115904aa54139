//! Every sampler draws from a mixture of two Gaussians whose denoiser is known exactly: mean, deviation and the share of each
//! part come out within stated bounds.

use mote_core::noise::{NoiseUse, normals};
use mote_core::schedule::{Schedule, fill_alpha_bars};
use mote_core::step_table::{Level, Method, Objective, Spacing, StepRow, Variance};

/// Share, mean and deviation of each part.
const PARTS: [(f64, f64, f64); 2] = [(0.3, -0.6, 0.1), (0.7, 0.5, 0.2)];
const SAMPLES: usize = 8000;

/// The expected data behind `x = signal x0 + noise eps`: each part's own posterior mean, weighted by how well it explains `x`.
fn denoise(x: f64, signal: f64, noise: f64) -> f64 {
    let (mut total, mut sum) = (0.0, 0.0);
    for (share, mean, deviation) in PARTS {
        let variance = signal * signal * deviation * deviation + noise * noise;
        let distance = x - signal * mean;
        let weight = share / variance.sqrt() * (-0.5 * distance * distance / variance).exp();
        total += weight;
        sum += weight * (mean + signal * deviation * deviation / variance * distance);
    }
    if total > 0.0 { sum / total } else { x / signal }
}

/// The data at the end of the probability-flow ODE through `x`, which a consistency model gives: Heun's method in sigma.
fn trajectory_end(x: f64, signal: f64, noise: f64) -> f64 {
    const STEPS: i32 = 60;
    let (sigma, last) = (noise / signal, 1e-3f64);
    let ratio = (last / sigma).powf(1.0 / f64::from(STEPS));
    // The state over its signal's amplitude is the data and sigma times noise.
    let slope = |x: f64, sigma: f64| {
        let [signal, noise] = amplitude(sigma);
        (x - denoise(x * signal, signal, noise)) / sigma
    };
    let mut x = x / signal;
    for step in 0..STEPS {
        let now = sigma * ratio.powi(step);
        let next = now * ratio;
        let first = slope(x, now);
        x += 0.5 * (next - now) * (first + slope(x + (next - now) * first, next));
    }
    x
}

/// Signal and noise of a variance-preserving state of this sigma.
fn amplitude(sigma: f64) -> [f64; 2] {
    let signal = 1.0 / (1.0 + sigma * sigma).sqrt();
    [signal, sigma * signal]
}

/// The samples that `table` draws with a network that says `estimate(x, signal, noise)`; the noise is the device's.
fn draw(table: &[StepRow], estimate: impl Fn(f64, f64, f64) -> f64) -> Vec<f64> {
    let noise = |noise_use| normals(11, 0, noise_use).take(SAMPLES).map(|z| f64::from(z) / 4096.0).collect::<Vec<_>>();
    let mut states = noise(NoiseUse::Start);
    // The process does not end in pure noise: begin where it does end.
    let first = table[0];
    let (mean, variance) = moments();
    for x in &mut states {
        *x = first.signal * mean + *x * (first.noise * first.noise + first.signal * first.signal * variance).sqrt();
    }
    let mut previous = vec![0.0; SAMPLES];
    for (index, row) in table.iter().enumerate() {
        let fresh = noise(NoiseUse::Row(index as u16));
        for ((x, x0_prev), z) in states.iter_mut().zip(&mut previous).zip(fresh) {
            let x0 = estimate(*x, row.signal, row.noise);
            *x = row.a * *x + row.b * x0 + row.b_prev * *x0_prev + row.c * z;
            *x0_prev = x0;
        }
    }
    states
}

/// Mean and variance of the mixture.
fn moments() -> (f64, f64) {
    let mean: f64 = PARTS.iter().map(|(share, mean, _)| share * mean).sum();
    let square: f64 = PARTS.iter().map(|(share, mean, deviation)| share * (mean * mean + deviation * deviation)).sum();
    (mean, square - mean * mean)
}

/// A table over the cosine schedule.
fn table(method: Method, spacing: Spacing, count: usize) -> Vec<StepRow> {
    let (mut betas, mut alpha_bars) = ([0.0; 1000], [0.0; 1000]);
    Schedule::Cosine { offset: 0.008 }.fill_betas(&mut betas).unwrap();
    fill_alpha_bars(&betas, &mut alpha_bars);
    // A first level of almost no signal would divide by it: begin at the 990th.
    let mut levels = vec![Level::default(); count];
    spacing.fill(&alpha_bars[..990], &mut levels);
    levels.dedup();
    let mut table = vec![StepRow::default(); method.rows(levels.len())];
    method.fill(Objective::V, &levels, &mut table);
    table
}

#[test]
fn every_method_draws_the_mixture() {
    let cases = [
        (Method::Direct(Variance::Eta(0.0)), Spacing::Trailing, 200),
        (Method::Direct(Variance::Posterior), Spacing::Trailing, 500),
        (Method::Direct(Variance::Beta), Spacing::Linspace, 1000),
        (Method::Heun, Spacing::Karras { rho: 7.0 }, 30),
        (Method::DpmPlusPlus2M, Spacing::Karras { rho: 7.0 }, 40),
        (Method::Churn { gamma: 0.1 }, Spacing::Trailing, 500),
        (Method::PredictorCorrector { correctors: 1, snr: 0.16 }, Spacing::Trailing, 200),
        (Method::Langevin { steps: 20, snr: 0.16 }, Spacing::Trailing, 100),
    ];
    for (method, spacing, count) in cases {
        let table = table(method, spacing, count);
        check(&format!("{method:?}"), &draw(&table, denoise));
    }
}

/// A perfect consistency model draws the data in one step; further steps noise the result and do it again.
#[test]
fn consistency_sampling_draws_the_mixture() {
    for count in [1, 2, 4] {
        let table = table(Method::Consistency, Spacing::Trailing, count);
        assert_eq!(table.len(), count);
        check(&format!("consistency, {count} steps"), &draw(&table, trajectory_end));
    }
}

/// Mean, deviation and the share of the left part are the mixture's.
fn check(name: &str, samples: &[f64]) {
    let (mean, variance) = moments();
    let found = samples.iter().sum::<f64>() / SAMPLES as f64;
    let spread = samples.iter().map(|x| (x - found) * (x - found)).sum::<f64>() / SAMPLES as f64;
    let share = samples.iter().filter(|x| **x < -0.1).count() as f64 / SAMPLES as f64;
    let context = format!("{name}: mean {found:.4}, deviation {:.4}, share {share:.4}", spread.sqrt());
    println!("{context}");
    // Three standard errors of 8,000 samples are 0.018, 0.013 and 0.015; the rest is the step size.
    assert!((found - mean).abs() < 0.03, "{context}, wanted a mean of {mean}");
    assert!((spread.sqrt() - variance.sqrt()).abs() < 0.03, "{context}, wanted a deviation of {}", variance.sqrt());
    assert!((share - PARTS[0].0).abs() < 0.03, "{context}, wanted a share of {}", PARTS[0].0);
}
