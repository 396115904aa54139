//! Schedules, posterior and DDIM quantities against 50-digit decimals (`golden/schedules.tsv`), and the sampler's moments
//! on data whose exact denoiser is known.

use mote_core::noise::{NoiseUse, normals};
use mote_core::schedule::{Schedule, fill_alpha_bars, posterior_mean, posterior_variance};
use mote_core::step_table::{Level, Method, Objective, Spacing, StepRow, Variance};

const GOLDEN: &str = include_str!("../golden/schedules.tsv");
const TIMESTEPS: usize = 50;

fn schedule(name: &str) -> Schedule<'static> {
    let (start, end) = (0.001, 0.2);
    match name {
        "constant" => Schedule::Constant { beta: 0.05 },
        "linear" => Schedule::Linear { start, end },
        "cosine" => Schedule::Cosine { offset: 0.008 },
        "sigmoid" => Schedule::Sigmoid { start, end },
        "tanh" => Schedule::Tanh { start, end },
        other => panic!("the golden file names a schedule that this test does not know: {other}"),
    }
}

#[test]
fn every_quantity_agrees_with_exact_decimals() {
    let mut lines = 0;
    for line in GOLDEN.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let timestep: usize = fields[1].parse().unwrap();
        let expected: Vec<f64> = fields[2..].iter().map(|field| field.parse().unwrap()).collect();

        let (mut betas, mut alpha_bars) = ([0.0; TIMESTEPS], [0.0; TIMESTEPS]);
        schedule(fields[0]).fill_betas(&mut betas).unwrap();
        fill_alpha_bars(&betas, &mut alpha_bars);
        let now = alpha_bars[timestep];
        let before = if timestep == 0 { 1.0 } else { alpha_bars[timestep - 1] };
        let [of_x0, of_xt] = posterior_mean(now, before);
        let row = StepRow::new(Objective::V, Variance::Eta(0.5), timestep as u32, now, before);
        let found = [betas[timestep], now, posterior_variance(now, before), of_x0, of_xt, row.a, row.b, row.c];

        for (column, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let error = (found - expected).abs();
            assert!(error <= 1e-11 * expected.abs().max(1e-3), "{line}\ncolumn {}: {found}", column + 2);
        }
        lines += 1;
    }
    assert_eq!(lines, 5 * TIMESTEPS);
}

/// Data from N(0.4, 0.3^2): the posterior mean of x0 is known, so the whole reverse process runs without a network, on
/// core's own noise. With 4,000 samples the standard error of the deviation is 0.0034 and of the mean 0.0047.
#[test]
fn samples_of_a_gaussian_have_its_moments() {
    let (mean, deviation) = (0.4, 0.3);
    let (mut betas, mut alpha_bars) = ([0.0; 1000], [0.0; 1000]);
    Schedule::Cosine { offset: 0.008 }.fill_betas(&mut betas).unwrap();
    fill_alpha_bars(&betas, &mut alpha_bars);
    for variance in [Variance::Eta(0.0), Variance::Posterior, Variance::Beta] {
        let (mut levels, mut table) = ([Level::default(); 250], [StepRow::default(); 250]);
        Spacing::Trailing.fill(&alpha_bars, &mut levels);
        Method::Direct(variance).fill(Objective::X0, &levels, &mut table);
        let count = 4000;
        let mut states: Vec<f64> = noise(NoiseUse::Start, count);
        for (index, row) in table.iter().enumerate() {
            let fresh = noise(NoiseUse::Row(index as u16), count);
            for (x, z) in states.iter_mut().zip(fresh) {
                let total = (row.signal * deviation).powi(2) + row.noise.powi(2);
                let x0 = mean + row.signal * deviation * deviation / total * (*x - row.signal * mean);
                *x = row.a * *x + row.b * x0 + row.c * z;
            }
        }
        let found_mean = states.iter().sum::<f64>() / count as f64;
        let found_variance = states.iter().map(|x| (x - found_mean).powi(2)).sum::<f64>() / count as f64;
        assert!((found_mean - mean).abs() < 0.02, "{variance:?}: mean {found_mean}");
        assert!((found_variance.sqrt() - deviation).abs() < 0.02, "{variance:?}: deviation {}", found_variance.sqrt());
    }
}

fn noise(noise_use: NoiseUse, count: usize) -> Vec<f64> {
    normals(3, 0, noise_use).take(count).map(|z| f64::from(z) / 4096.0).collect()
}
