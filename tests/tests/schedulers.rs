//! Schedules, variances and trajectories equal those of diffusers' schedulers on the same denoiser
//! (`golden/schedulers.txt`, made by `golden/schedulers.py`).

use mote_core::schedule::{Schedule, fill_alpha_bars, jump_variance, posterior_variance};
use mote_core::step_table::{Level, Method, Objective, Spacing, StepRow, Variance};

const GOLDEN: &str = include_str!("../golden/schedulers.txt");
const TIMESTEPS: usize = 1000;
const START: f64 = 0.8;

/// The golden file's line `name` for `steps` steps.
fn golden(name: &str, steps: usize) -> Vec<f64> {
    let start = format!("{name} {steps} ");
    let line = GOLDEN.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_else(|| panic!("no line {start}"));
    line.split(' ').map(|value| value.parse().unwrap()).collect()
}

fn alpha_bars() -> Vec<f64> {
    let (mut betas, mut alpha_bars) = (vec![0.0; TIMESTEPS], vec![0.0; TIMESTEPS]);
    Schedule::Linear { start: 1e-4, end: 0.02 }.fill_betas(&mut betas).unwrap();
    fill_alpha_bars(&betas, &mut alpha_bars);
    alpha_bars
}

/// The largest difference, relative to the largest value.
fn difference(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    found.iter().zip(expected).fold(0.0f64, |worst, (a, b)| worst.max((a - b).abs())) / largest
}

/// The states after each row.
fn trajectory(method: Method, spacing: Spacing, steps: usize) -> Vec<f64> {
    let mut levels = vec![Level { timestep: 0, alpha_bar: 1.0 }; steps];
    spacing.fill(&alpha_bars(), &mut levels);
    let empty = StepRow::new(Objective::Epsilon, Variance::Eta(0.0), 0, 0.5, 1.0);
    let mut table = vec![empty; method.rows(steps)];
    method.fill(Objective::Epsilon, &levels, &mut table);
    let (mut x, mut x0_prev) = (START, 0.0);
    let pass = |row: &StepRow| {
        let eps = 0.3 * (3.0 * x).sin() + x * (0.2 + f64::from(row.timestep) / 2000.0);
        let x0 = row.p * x + row.q * eps;
        x = row.a * x + row.b * x0 + row.b_prev * x0_prev;
        x0_prev = x0;
        x
    };
    table.iter().map(pass).collect()
}

#[test]
fn trajectories_equal_those_of_diffusers() {
    let euler = Method::Direct(Variance::Eta(0.0));
    let mut cases = vec![("euler-linspace", euler, Spacing::Linspace, 28)];
    for steps in [5, 20] {
        cases.push(("ddim-leading", euler, Spacing::Leading, steps));
        cases.push(("ddim-trailing", euler, Spacing::Trailing, steps));
        cases.push(("dpm++2m-trailing", Method::DpmPlusPlus2M, Spacing::Trailing, steps));
        cases.push(("heun-trailing", Method::Heun, Spacing::Trailing, steps));
    }
    for (name, method, spacing, steps) in cases {
        let difference = difference(&trajectory(method, spacing, steps), &golden(name, steps));
        println!("{name}, {steps} steps: {difference:.1e}");
        assert!(difference < 1e-5, "{name}, {steps} steps: {difference}");
    }
}

#[test]
fn schedules_and_variances_equal_those_of_diffusers() {
    let alpha_bars = alpha_bars();
    let every = |start| (start..TIMESTEPS).step_by(37);
    let found: Vec<f64> = every(0).map(|t| alpha_bars[t]).collect();
    assert!(difference(&found, &golden("alpha-bar-linear", TIMESTEPS)) < 1e-8);
    let small: Vec<f64> = every(1).map(|t| posterior_variance(alpha_bars[t], alpha_bars[t - 1])).collect();
    assert!(difference(&small, &golden("variance-fixed_small", TIMESTEPS)) < 1e-6);
    let large: Vec<f64> = every(1).map(|t| jump_variance(alpha_bars[t], alpha_bars[t - 1])).collect();
    assert!(difference(&large, &golden("variance-fixed_large", TIMESTEPS)) < 1e-6);
    let mut betas = vec![0.0; TIMESTEPS];
    Schedule::Cosine { offset: 0.008 }.fill_betas(&mut betas).unwrap();
    let cosine: Vec<f64> = every(0).map(|t| betas[t]).collect();
    assert!(difference(&cosine, &golden("beta-cosine", TIMESTEPS)) < 1e-6);
}
