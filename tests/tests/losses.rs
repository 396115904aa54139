//! Loss weights and the terms of the variational bound equal a transcription of the papers' equations (`golden/losses.txt`,
//! made by `golden/losses.py`, where the numbers that go in are).

use mote_core::schedule::{Schedule, fill_alpha_bars, snr};
use mote_core::step_table::Objective;
use mote_process::{Bound, ReverseVariance, Weighting};

const GOLDEN: &str = include_str!("../golden/losses.txt");
const TIMESTEPS: usize = 1000;
const VALUES: [f64; 5] = [-1.0, -0.3, 0.0, 0.4, 1.0];
const PIXELS: [u8; 7] = [0, 3, 120, 140, 141, 200, 255];
const DATA: f64 = 0.4;
const ESTIMATE: f64 = 0.1;
const OUTPUT: f64 = 0.3;

fn some() -> impl Iterator<Item = usize> {
    (1..TIMESTEPS).step_by(111)
}

fn alpha_bars() -> Vec<f64> {
    let (mut betas, mut alpha_bars) = (vec![0.0; TIMESTEPS], vec![0.0; TIMESTEPS]);
    Schedule::Linear { start: 1e-4, end: 0.02 }.fill_betas(&mut betas).unwrap();
    fill_alpha_bars(&betas, &mut alpha_bars);
    alpha_bars
}

fn weighting(name: &str) -> Weighting {
    match name {
        "min_snr" => Weighting::MinSnr { gamma: 5.0 },
        "truncated_snr" => Weighting::TruncatedSnr,
        "p2" => Weighting::P2 { gamma: 0.5, k: 1.0 },
        "edm" => Weighting::Edm { sigma_data: 0.5 },
        "vlb" => Weighting::Vlb,
        other => panic!("weighting {other}"),
    }
}

fn objective(name: &str) -> Objective {
    match name {
        "epsilon" => Objective::Epsilon,
        "x0" => Objective::X0,
        "v" => Objective::V,
        "score" => Objective::Score,
        "velocity" => Objective::Velocity,
        other => panic!("objective {other}"),
    }
}

fn variance(name: &str) -> ReverseVariance {
    match name {
        "posterior" | "any" => ReverseVariance::Posterior,
        "beta" => ReverseVariance::Beta,
        "learned" => ReverseVariance::Learned,
        other => panic!("variance {other}"),
    }
}

#[test]
fn weights_and_terms_of_the_bound_are_the_papers() {
    let alpha_bars = alpha_bars();
    let mut lines = 0;
    for line in GOLDEN.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let bound = |name: &str| Bound::new(&alpha_bars, variance(name));
        let (found, numbers): (Vec<f64>, _) = match words[0] {
            "weight" => {
                let factor = |t: usize| {
                    let fall = || snr(alpha_bars[t - 1]) - snr(alpha_bars[t]);
                    weighting(words[1]).factor(objective(words[2]), alpha_bars[t], fall)
                };
                (some().map(factor).collect(), &words[3..])
            }
            "prior" => (VALUES.map(|x0| bound(words[1]).prior(x0)).to_vec(), &words[2..]),
            "divergence" => {
                let bound = bound(words[1]);
                (some().map(|t| bound.divergence(t, DATA, ESTIMATE, OUTPUT)).collect(), &words[2..])
            }
            "decoder" => {
                let bound = bound(words[1]);
                (VALUES.map(|x0| bound.decoder(x0, ESTIMATE, OUTPUT)).to_vec(), &words[2..])
            }
            "pixel" => {
                let bound = bound(words[1]);
                (PIXELS.map(|pixel| bound.pixel_decoder(pixel, ESTIMATE, OUTPUT)).to_vec(), &words[2..])
            }
            other => panic!("line {other}"),
        };
        assert_eq!(found.len(), numbers.len(), "{line}");
        for (found, expected) in found.iter().zip(numbers) {
            let expected: f64 = expected.parse().unwrap();
            assert!((found - expected).abs() <= 1e-7 * expected.abs().max(1e-3), "{line}\n{found}, not {expected}");
        }
        lines += 1;
    }
    assert_eq!(lines, 5 * 5 + 1 + 3 * 3);
}
