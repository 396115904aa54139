//! Schedules, posteriors and trajectories equal those of diffusers' schedulers on the same network
//! (`golden/schedulers.txt`, made by `golden/schedulers.py`).

use mote_core::schedule::{
    Schedule, fill_alpha_bars, jump_variance, log_snr, noise, posterior_mean, posterior_variance, rescale_to_zero_snr,
    signal,
};
use mote_core::step_table::{Level, Method, Objective, Spacing, StepRow, Variance};
use mote_process::{Bound, ReverseVariance};

const GOLDEN: &str = include_str!("../golden/schedulers.txt");
const TIMESTEPS: usize = 1000;
const START: f64 = 0.8;
/// Between two timesteps of a table of coefficients.
const EVERY: usize = 37;
/// Greatest difference, relative to the largest value: diffusers computes some of it in single precision.
const BOUND: f64 = 1e-5;

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

fn assert_equal(name: &str, steps: usize, found: &[f64]) {
    let expected = golden(name, steps);
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
    let difference = found.iter().zip(&expected).fold(0.0f64, |worst, (a, b)| worst.max((a - b).abs())) / largest;
    println!("{name}, {steps} steps: {difference:.1e}");
    assert!(difference < BOUND, "{name}, {steps} steps: {difference}\n{found:?}\n{expected:?}");
}

/// What the golden file's network gives.
fn network(x: f64, timestep: u32) -> f64 {
    0.3 * (3.0 * x).sin() + x * (0.2 + f64::from(timestep) / 2000.0)
}

/// The fresh noise of a pass.
fn fresh(pass: usize) -> f64 {
    1.4 * (12.9 * pass as f64 + 1.0).sin()
}

fn table(alpha_bars: &[f64], objective: Objective, method: Method, spacing: Spacing, steps: usize) -> Vec<StepRow> {
    let mut levels = vec![Level::default(); steps];
    spacing.fill(alpha_bars, &mut levels);
    let mut table = vec![StepRow::default(); method.rows(steps)];
    method.fill(objective, &levels, &mut table);
    table
}

/// The states after each row, the estimate of the data kept within `limit`.
fn trajectory(table: &[StepRow], limit: f64) -> Vec<f64> {
    let (mut x, mut x0_prev) = (START, 0.0);
    let pass = |(index, row): (usize, &StepRow)| {
        let x0 = (row.p * x + row.q * network(x, row.timestep)).clamp(-limit, limit);
        x = row.a * x + row.b * x0 + row.b_prev * x0_prev + row.c * fresh(index);
        x0_prev = x0;
        x
    };
    table.iter().enumerate().map(pass).collect()
}

#[test]
fn trajectories_equal_those_of_diffusers() {
    use Objective::{Epsilon, V, Velocity, X0};
    use Spacing::{Leading, Linspace, Trailing};
    let alpha_bars = alpha_bars();
    let ddim = Method::Direct(Variance::Eta(0.0));
    let ddpm = Method::Direct(Variance::Posterior);
    let check = |name: &str, objective, method, spacing, steps| {
        assert_equal(name, steps, &trajectory(&table(&alpha_bars, objective, method, spacing, steps), f64::INFINITY));
    };
    for steps in [5, 20] {
        check("ddim-leading", Epsilon, ddim, Leading, steps);
        check("ddim-trailing", Epsilon, ddim, Trailing, steps);
        check("dpm++2m-trailing", Epsilon, Method::DpmPlusPlus2M, Trailing, steps);
        check("heun-trailing", Epsilon, Method::Heun, Trailing, steps);
        check("churn-trailing", Epsilon, Method::Churn { gamma: 0.3 }, Trailing, steps);
        check("flow-euler-trailing", Velocity, ddim, Trailing, steps);
        check("consistency-trailing", X0, Method::Consistency, Trailing, steps);
    }
    check("euler-linspace", Epsilon, ddim, Linspace, 28);
    check("ddpm-small-leading", Epsilon, ddpm, Leading, 20);
    check("ddpm-large-leading", Epsilon, Method::Direct(Variance::Beta), Leading, 20);
    check("ddpm-small-trailing", Epsilon, ddpm, Trailing, 20);
    for eta in [0.5, 1.0] {
        check(&format!("ddim-eta{eta:?}-trailing"), Epsilon, Method::Direct(Variance::Eta(eta)), Trailing, 20);
    }
    for (name, objective) in [("v", V), ("x0", X0)] {
        check(&format!("ddim-{name}-trailing"), objective, ddim, Trailing, 20);
        check(&format!("ddpm-{name}-small-leading"), objective, ddpm, Leading, 20);
        check(&format!("dpm++2m-{name}-trailing"), objective, Method::DpmPlusPlus2M, Trailing, 20);
    }
}

#[test]
fn clipped_and_thousand_step_trajectories_equal_those_of_diffusers() {
    let alpha_bars = alpha_bars();
    let [ddim, ddpm] = [Variance::Eta(0.0), Variance::Posterior].map(Method::Direct);
    let rows = |method, spacing, steps| table(&alpha_bars, Objective::Epsilon, method, spacing, steps);
    assert_equal("ddim-clipped-trailing", 20, &trajectory(&rows(ddim, Spacing::Trailing, 20), 1.0));
    assert_equal("ddpm-small-clipped-leading", 20, &trajectory(&rows(ddpm, Spacing::Leading, 20), 1.0));
    let whole = trajectory(&rows(ddpm, Spacing::Leading, TIMESTEPS), f64::INFINITY);
    assert_equal("ddpm-small-leading", TIMESTEPS, &whole.into_iter().step_by(EVERY).collect::<Vec<_>>());
}

#[test]
fn zero_terminal_snr_equals_that_of_diffusers() {
    let mut alpha_bars = alpha_bars();
    rescale_to_zero_snr(&mut alpha_bars);
    let found: Vec<f64> = alpha_bars.iter().copied().step_by(EVERY).collect();
    assert_equal("alpha-bar-zero-snr", TIMESTEPS, &found);
    let rows = table(&alpha_bars, Objective::V, Method::Direct(Variance::Eta(0.0)), Spacing::Trailing, 20);
    assert_equal("ddim-v-zero-snr-trailing", 20, &trajectory(&rows, f64::INFINITY));
}

/// The known value is noised to the next row's level with the noise that the step adds.
#[test]
fn repaint_states_equal_those_of_diffusers() {
    let rows = table(&alpha_bars(), Objective::Epsilon, Method::Direct(Variance::Posterior), Spacing::Leading, 20);
    let unknown = trajectory(&rows, f64::INFINITY);
    let known = (0..20).map(|index| {
        let (signal, noise) = rows.get(index + 1).map_or((1.0, 0.0), |row| (row.signal, row.noise));
        signal * 0.5 + noise * fresh(index)
    });
    let both: Vec<f64> = unknown.into_iter().zip(known).flat_map(|(unknown, known)| [unknown, known]).collect();
    assert_equal("repaint-leading", 20, &both);
}

#[test]
fn langevin_corrections_equal_those_of_diffusers() {
    let mut found = Vec::new();
    for (timestep, alpha_bar) in alpha_bars().into_iter().enumerate().skip(1).step_by(EVERY) {
        let mut rows = [StepRow::default(); 2];
        let level = Level { timestep: timestep as u32, alpha_bar };
        Method::Langevin { steps: 1, snr: 0.16 }.fill(Objective::Epsilon, &[level], &mut rows);
        for (x, output, z) in [(START, 0.6, 0.8), (-0.3, 0.8, -0.6)] {
            let row = &rows[0];
            found.push(row.a * x + row.b * (row.p * x + row.q * output) + row.c * z);
        }
    }
    assert_equal("langevin-correction", found.len() / 2, &found);
}

#[test]
fn schedules_equal_those_of_diffusers() {
    let alpha_bars = alpha_bars();
    assert_equal("alpha-bar-linear", TIMESTEPS, &alpha_bars.iter().copied().step_by(EVERY).collect::<Vec<_>>());
    let log_snrs: Vec<f64> = alpha_bars.iter().skip(1).step_by(EVERY).map(|&alpha_bar| log_snr(alpha_bar)).collect();
    assert_equal("log-snr", TIMESTEPS, &log_snrs);
    for (name, schedule) in [
        ("beta-cosine", Schedule::Cosine { offset: 0.008 }),
        ("beta-sigmoid", Schedule::Sigmoid { start: 1e-4, end: 0.02 }),
    ] {
        let mut betas = vec![0.0; TIMESTEPS];
        schedule.fill_betas(&mut betas).unwrap();
        assert_equal(name, TIMESTEPS, &betas.into_iter().step_by(EVERY).collect::<Vec<_>>());
    }
}

/// diffusers lists Karras' sigmas from the smallest; ours are taken to the nearest timestep.
#[test]
fn karras_levels_are_the_timesteps_nearest_to_the_sigmas_of_diffusers() {
    let alpha_bars = alpha_bars();
    let mut levels = [Level { timestep: 0, alpha_bar: 1.0 }; 20];
    Spacing::Karras { rho: 7.0 }.fill(&alpha_bars, &mut levels);
    let distance = |timestep: usize, sigma: f64| {
        (Level { timestep: 0, alpha_bar: alpha_bars[timestep] }.sigma() / sigma).ln().abs()
    };
    for (level, sigma) in levels.iter().rev().zip(golden("sigmas-karras", 20)) {
        let timestep = level.timestep as usize;
        let neighbors = [timestep.saturating_sub(1), (timestep + 1).min(TIMESTEPS - 1)];
        let nearest = neighbors.iter().all(|&other| distance(timestep, sigma) <= distance(other, sigma) + 1e-6);
        assert!(nearest, "timestep {timestep} for sigma {sigma}");
    }
}

#[test]
fn coefficients_equal_those_of_diffusers() {
    let alpha_bars = alpha_bars();
    let each = |name: &str, of: &dyn Fn(f64, f64) -> f64| {
        let found = (1..TIMESTEPS).step_by(EVERY).map(|t| of(alpha_bars[t], alpha_bars[t - 1]));
        assert_equal(name, TIMESTEPS, &found.collect::<Vec<_>>());
    };
    each("posterior-mean-of-x0", &|now, before| posterior_mean(now, before)[0]);
    each("posterior-mean-of-x", &|now, before| posterior_mean(now, before)[1]);
    each("variance-fixed_small", &posterior_variance);
    each("variance-fixed_large", &jump_variance);
    each("deviation-fixed_small_log", &|now, before| posterior_variance(now, before).sqrt());
    each("noised-of-x0", &|now, _| signal(now));
    each("noised-of-noise", &|now, _| noise(now));
    each("v-of-x0", &|now, _| Objective::V.target_factors(now)[0]);
    each("v-of-noise", &|now, _| Objective::V.target_factors(now)[1]);
    let learned = Bound::new(&alpha_bars, ReverseVariance::Learned);
    for output in [-1.0, -0.25, 0.6, 1.0] {
        let found = (1..TIMESTEPS).step_by(EVERY).map(|t| learned.log_variance(t, output));
        assert_equal(&format!("log-variance-learned_range({output:?})"), TIMESTEPS, &found.collect::<Vec<_>>());
    }
}
