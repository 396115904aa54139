//! What a preset can ask of training, and `eval --nll`, as a user runs them, at toy size.

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

const TOY: &str = include_str!("../presets/toy.toml");

fn mote_train(folder: &Path, words: &str) -> Output {
    common::mote_train().current_dir(folder).args(words.split_whitespace()).output().unwrap()
}

fn succeed(folder: &Path, words: &str) -> String {
    let Output { status, stdout, stderr } = mote_train(folder, words);
    assert!(status.success(), "{words}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap()
}

/// The toy preset with lines added to some of its sections, and another objective.
fn preset(folder: &Path, objective: &str, lines: &[(&str, &str)]) -> PathBuf {
    let mut text = TOY.replace("objective = \"v\"", &format!("objective = \"{objective}\""));
    for (section, line) in lines {
        text = text.replace(&format!("[{section}]\n"), &format!("[{section}]\n{line}\n"));
    }
    let path = folder.join("mine.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// The JSON that `eval --nll` prints; the bound's terms must sum to it.
fn nll(folder: &Path, samples: usize) -> serde_json::Value {
    let printed = succeed(folder, &format!("eval --nll --run run --samples {samples} --timesteps 40 --json"));
    let printed: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let nll = printed["nll"].clone();
    let terms = &nll["terms"];
    let divergences: f64 = terms["divergences"].as_array().unwrap().iter().map(|bits| bits.as_f64().unwrap()).sum();
    let sum = terms["prior"].as_f64().unwrap() + divergences + terms["decoder"].as_f64().unwrap();
    let total = nll["bits_per_dim"].as_f64().unwrap();
    assert!((sum / total - 1.0).abs() < 1e-6 && total > 0.0, "{sum} {total}");
    assert!((nll["by_entropies"].as_f64().unwrap() / total - 1.0).abs() < 1e-6);
    assert_eq!((nll["n"].as_u64(), nll["density"].as_bool()), (Some(samples as u64), Some(false)));
    nll
}

/// The likelihood is a function of the run, the seed and what is asked.
#[test]
fn a_network_with_a_learned_variance_trains_and_has_a_likelihood() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lines = [
        ("network", "output = \"mean_and_variance\"\nexport = false"),
        ("train", "loss = { kind = \"hybrid\", lambda = 0.001 }"),
    ];
    preset(folder, "epsilon", &lines);
    succeed(folder, "train --preset mine.toml --run run");
    assert_eq!(nll(folder, 10), nll(folder, 10));
    let csv = std::fs::read_to_string(folder.join("run/nll.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1001);
    assert!(std::fs::read_to_string(folder.join("run/manifest.json")).unwrap().contains("\"nll\""));
}

#[test]
fn a_super_resolution_network_draws_from_its_low_resolution() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let lines = [
        ("network", "self_conditioning = true\ncondition_channels = 1\nexport = false"),
        ("diffusion", "time = \"continuous\"\nlow_resolution = { factor = 2, noise = 0.1 }"),
        (
            "train",
            "noise = { offset = 0.1, pyramid = 0.3, immiscible = true }\ndistance = { kind = \"huber\", delta = 1.0 }",
        ),
    ];
    preset(folder, "velocity", &lines);
    succeed(folder, "train --preset mine.toml --run run");
    nll(folder, 10);
    for (name, side, gray) in [("dark", 7, 0), ("bright", 7, 255), ("odd", 9, 0)] {
        image::GrayImage::from_pixel(side, side, image::Luma([gray])).save(folder.join(format!("{name}.png"))).unwrap();
    }
    let draw = |name: &str| {
        succeed(folder, &format!("sample --run run --count 2 --condition {name}.png --out x.npy"));
        std::fs::read(folder.join("x.npy")).unwrap()
    };
    assert!(draw("dark") != draw("bright"));
    assert!(!mote_train(folder, "sample --run run --count 2 --condition odd.png --out x.npy").status.success());
}

#[test]
fn recipes_that_cannot_be_trained_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    for (objective, lines, message) in [
        ("epsilon", ("diffusion", "zero_terminal_snr = true"), "no signal at the last timestep"),
        ("v", ("train", "loss = { kind = \"hybrid\", lambda = 0.001 }"), "mean_and_variance"),
        ("v", ("network", "condition_channels = 1\nexport = false"), "0 channels to give"),
        ("v", ("train", "noise = { pyramid = 1.5 }"), "pyramid is 1.5"),
    ] {
        preset(folder, objective, &[lines]);
        let Output { status, stderr, .. } = mote_train(folder, "train --preset mine.toml --run run");
        let stderr = String::from_utf8_lossy(&stderr);
        assert!(!status.success() && stderr.contains(message), "{message}: {stderr}");
        assert!(!folder.join("run").exists(), "{message}");
    }
}
