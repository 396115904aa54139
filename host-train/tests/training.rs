//! `mote-train train` as its users run it: fields set from the command line, what is watched, averages, longer training.

mod common;

use std::path::Path;
use std::process::{Output, Stdio};

fn mote_train(args: &[&str], run: &Path) -> Output {
    common::mote_train().args(args).arg("--run").arg(run).stdin(Stdio::null()).output().unwrap()
}

fn succeed(args: &[&str], run: &Path) -> String {
    let Output { status, stdout, stderr } = mote_train(args, run);
    assert!(status.success(), "{args:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap()
}

fn fail(args: &[&str], run: &Path, code: i32) -> String {
    let Output { status, stderr, .. } = mote_train(args, run);
    let stderr = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{args:?}: {stderr}");
    stderr
}

const TOY: [&str; 5] = ["train", "--preset", "toy", "--set", "sample.samples=10"];

/// What is watched is there, changes nothing in the weights, and may be changed while a run goes on.
#[test]
fn what_is_watched_changes_nothing_in_what_is_trained() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, watched) = (folder.path().join("plain"), folder.path().join("watched"));
    succeed(&TOY, &plain);
    let watch = [
        "watch.validate_every=20",
        "watch.noise_levels=4",
        "watch.validation_samples=20",
        "watch.sample_every=40",
        "watch.sample_rows=1",
        "watch.score_every=60",
        "watch.score_samples=50",
        "watch.checkpoints.every=20",
        "watch.checkpoints.last=2",
    ];
    let sets: Vec<&str> = TOY.into_iter().chain(watch.iter().flat_map(|set| ["--set", set])).collect();
    // Without a terminal the dashboard is a line, and nothing that is drawn.
    let said = succeed(&[&sets[..], &["--dashboard"]].concat(), &watched);
    assert!(said.contains("--dashboard needs a terminal") && !said.contains('\u{1b}'), "{said:?}");
    for name in ["teacher.safetensors", "teacher.npy"] {
        let read = |run: &Path| std::fs::read(run.join(name)).unwrap();
        assert!(read(&plain) == read(&watched), "{name} differs");
    }
    let text = |name: &str| std::fs::read_to_string(watched.join(name)).unwrap();
    let steps = |name: &str| -> Vec<u64> {
        text(name).lines().skip(1).map(|row| row.split(',').next().unwrap().parse().unwrap()).collect()
    };
    assert_eq!(steps("logs/train.csv"), (1..=60).collect::<Vec<_>>());
    assert_eq!(steps("logs/validation.csv"), [20, 40, 60]);
    assert!(text("logs/validation.csv").starts_with("step,val_loss,mse_125,mse_375,mse_625,mse_875\n"));
    assert_eq!(steps("logs/scores.csv"), [60]);
    assert!(text("loss.csv").starts_with("step,loss,val_loss\n"));
    for name in [
        "logs/validation.png",
        "loss-by-noise.png",
        "samples/step-00000040.png",
        "samples/step-00000060.png",
        "checkpoints/best.safetensors",
        "checkpoints/latest.safetensors",
        "checkpoints/step-00000060.safetensors",
    ] {
        assert!(watched.join(name).exists(), "{name} is missing");
    }
    // The same samples are asked again; only the last of the two is kept.
    let by_noise = || std::fs::read_to_string(watched.join("loss-by-noise.csv")).unwrap();
    let trained = by_noise();
    let said = succeed(&["eval", "--loss-by-noise", "--samples", "20"], &watched);
    assert!(said.contains("20 held-out samples") && by_noise() == trained && trained.lines().count() == 21, "{said}");
    succeed(&["eval", "--loss-by-noise", "--samples", "30", "--json"], &watched);
    assert!(by_noise() != trained);
    assert!(fail(&["eval", "--loss-by-noise", "--samples", "999999"], &watched, 2).contains("give 1 to"));
    assert!(!watched.join("checkpoints/step-00000020.safetensors").exists());
    // The validation is of the averaged weights: the last one's file and the best are the same where it was the best.
    let losses: Vec<f64> = text("logs/validation.csv")
        .lines()
        .skip(1)
        .map(|row| row.split(',').nth(1).unwrap().parse().unwrap())
        .collect();
    if losses[2] < losses[1] && losses[2] < losses[0] {
        let read = |name: &str| std::fs::read(watched.join(name)).unwrap();
        assert!(read("checkpoints/best.safetensors") == read("teacher.safetensors"));
    }
    let said = succeed(&["train", "--set", "watch.validate_every=0"], &watched);
    assert!(said.contains("is there already"), "{said}");
}

/// A network for gaps is trained on data without a class and without labels, goes on where it was, fills in one pass, and is
/// refused by what draws.
#[test]
fn a_network_for_gaps_trains_goes_on_fills_and_draws_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, extended) = (folder.path().join("whole"), folder.path().join("extended"));
    let sets = [
        "data.leave_out=[\"triangle\"]",
        "data.unlabelled=true",
        "diffusion.gaps.rows=[4, 16]",
        "diffusion.objective=x0",
        "train.weighting.kind=uniform",
        "train.optimizer.decay=constant",
        "network.condition_channels=1",
        "network.export=false",
        "watch.validate_every=10",
        "watch.noise_levels=2",
        "watch.sample_every=0",
    ];
    let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
    let train = [&["train", "--preset", "toy-signal"], &sets[..]].concat();
    succeed(&[&train[..], &["--steps", "20"]].concat(), &whole);
    succeed(&[&train[..], &["--steps", "10"]].concat(), &extended);
    succeed(&["train", "--steps", "20"], &extended);
    let read = |run: &Path| std::fs::read(run.join("teacher.safetensors")).unwrap();
    assert!(read(&whole) == read(&extended));
    assert!(std::fs::read_to_string(whole.join("logs/validation.csv")).unwrap().lines().count() == 3);
    assert!(!whole.join("teacher.npy").exists() && !whole.join("loss-by-noise.csv").exists());
    let (input, out) = (folder.path().join("in.csv"), folder.path().join("out.csv"));
    let cell = |row: usize| if (9..14).contains(&row) { ",".to_owned() } else { format!("0.25,{}", row as f64 / 64.0) };
    let rows: Vec<String> = (0..40).map(cell).collect();
    std::fs::write(&input, rows.join("\n")).unwrap();
    let files = ["--in", input.to_str().unwrap(), "--out", out.to_str().unwrap()];
    assert!(succeed(&[&["signal", "impute"], &files[..]].concat(), &whole).contains("10 cells filled"));
    for (row, line) in std::fs::read_to_string(&out).unwrap().lines().enumerate() {
        let numbers: Vec<f64> = line.split(',').map(|cell| cell.parse().unwrap()).collect();
        assert!(numbers.iter().all(|number| number.is_finite()), "{line}");
        assert!((9..14).contains(&row) || numbers == [0.25, row as f64 / 64.0], "row {row} has changed: {line}");
    }
    assert!(fail(&["sample"], &whole, 1).contains("fills gaps"));
    assert!(fail(&["distill"], &whole, 1).contains("fills gaps"));
    assert!(fail(&[&["signal", "score"], &files[..]].concat(), &whole, 1).contains("fills gaps"));
    let other = folder.path().join("other");
    let said = fail(&["train", "--preset", "toy-signal", "--set", "data.leave_out=[\"saw\"]"], &other, 1);
    assert!(said.contains("there is no class saw; the classes are sine, triangle, square"), "{said}");
    assert!(!other.exists(), "nothing is written where the data cannot be had");
}

/// With a constant rate a run that is extended has the bits of one that was longer from the start; its averages of other
/// widths come from snapshots.
#[test]
fn a_finished_run_goes_on_and_keeps_averages() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, extended) = (folder.path().join("whole"), folder.path().join("extended"));
    let sets = ["train.optimizer.decay=constant", "train.optimizer.snapshots.every=10", "train.batch=8"];
    let train: Vec<&str> = TOY.into_iter().chain(sets.iter().flat_map(|set| ["--set", set])).collect();
    succeed(&[&train[..], &["--steps", "40"]].concat(), &whole);
    succeed(&[&train[..], &["--steps", "25"]].concat(), &extended);
    assert!(fail(&["train", "--steps", "20"], &extended, 2).contains("other settings"));
    succeed(&["train", "--steps", "40"], &extended);
    let read = |run: &Path, name: &str| std::fs::read(run.join(name)).unwrap();
    assert!(read(&whole, "teacher.safetensors") == read(&extended, "teacher.safetensors"));
    let said = succeed(&["ema", "--sigma-rel", "0.15"], &whole);
    assert!(said.contains("ema-0.15.safetensors (up to step 40, profile error"), "{said}");
    let weights = |name: &str| {
        let file = mote_train::trainer::read_denoiser(&whole.join(name)).unwrap();
        (file.network, file.parameters)
    };
    let (averaged, plain) = (weights("ema-0.15.safetensors"), weights("checkpoints/latest.safetensors"));
    assert!(averaged.0 == plain.0 && averaged.1 != plain.1 && averaged.1.iter().all(|value| value.is_finite()));
    assert!(fail(&["ema", "--step", "5"], &whole, 1).contains("no snapshots up to step 5"));
}

#[test]
fn the_whole_recipe_is_printed_and_its_fields_can_be_set() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let print = ["train", "--preset", "toy", "--set", "diffusion.objective=epsilon", "--steps", "7", "--print-preset"];
    let printed = succeed(&print, &run);
    for line in ["objective = \"epsilon\"", "steps = 7", "accumulate = 1", "[watch.checkpoints]"] {
        assert!(printed.lines().any(|printed| printed == line), "{line} is not in\n{printed}");
    }
    let unknown = fail(&["train", "--preset", "toy", "--set", "train.bach=3"], &run, 2);
    assert!(unknown.contains("--set train.bach=3") && unknown.contains("unknown field `bach`"), "{unknown}");
    let half = fail(&["train", "--preset", "toy", "--precision", "bf16"], &run, 1);
    assert!(half.contains("computes in f32 alone"), "{half}");
    let parts = fail(&["train", "--preset", "toy", "--set", "train.optimizer.accumulate=3"], &run, 1);
    assert!(parts.contains("make batch a multiple of optimizer.accumulate"), "{parts}");
    assert!(!run.exists(), "a refused run left its folder");
}

/// The three kinds of samples, from data to a student, in seconds: an image (`resume.rs` has more), a signal, a vector.
#[test]
fn a_signal_and_a_table_train_to_a_student() {
    let folder = tempfile::tempdir().unwrap();
    for preset in ["toy-signal", "toy-table"] {
        let run = folder.path().join(preset);
        let said = succeed(&["train", "--preset", preset], &run);
        assert!(said.contains("computed by mote-dataset"), "{said}");
        succeed(&["distill"], &run);
        // The first step's loss is the untrained network's.
        let losses = |name: &str| -> Vec<f64> {
            let text = std::fs::read_to_string(run.join(name)).unwrap();
            text.lines().skip(1).map(|row| row.split(',').nth(1).unwrap().parse().unwrap()).collect()
        };
        let (untrained, validated) = (losses("logs/train.csv")[0], losses("logs/validation.csv"));
        assert!(validated.last().unwrap() < &(0.8 * untrained), "{preset}: {validated:?}, untrained {untrained}");
        assert!(run.join("student.safetensors").exists());
    }
}

/// Two workers are the bits of one that computes the batch in two parts, and it does not matter where the data are.
#[test]
fn several_workers_and_streamed_data_are_the_same_training() {
    let folder = tempfile::tempdir().unwrap();
    let train = |name: &str, args: &[&str]| {
        let run = folder.path().join(name);
        succeed(&[&TOY[..], args].concat(), &run);
        std::fs::read(run.join("teacher.safetensors")).unwrap()
    };
    let in_parts = ["--set", "train.optimizer.accumulate=2"];
    assert!(train("workers", &["--devices", "0,0"]) == train("parts", &in_parts), "two workers differ from two parts");
    assert!(train("streamed", &["--stream-data"]) == train("plain", &[]), "streamed data differ");
    let refused =
        |devices: &str| fail(&[&TOY[..], &["--devices", devices]].concat(), &folder.path().join("refused"), 2);
    assert!(refused("0,1").contains("this backend has 1"));
    assert!(refused("0,0,0").contains("make train.batch a multiple of 3"));
    assert!(refused("gpu").contains("numbers such as 0,1"));
}

/// Gradient checkpointing changes no bit of what is trained, in any network.
#[test]
fn computing_activations_again_changes_no_bit() {
    let folder = tempfile::tempdir().unwrap();
    let networks: [&[&str]; 4] = [
        &["--preset", "toy"],
        &["--preset", "toy", "--set", "network.attention=[1]", "--set", "network.dropout=0.1"],
        &["--preset", "toy-signal"],
        &["--preset", "toy-table"],
    ];
    for (number, network) in networks.into_iter().enumerate() {
        let trained = |name: &str, more: &[&str]| {
            let run = folder.path().join(format!("{name}-{number}"));
            succeed(&[&["train", "--steps", "10"], network, more].concat(), &run);
            ["teacher.safetensors", "loss.csv"].map(|file| std::fs::read(run.join(file)).unwrap())
        };
        let again = trained("again", &["--set", "train.gradient_checkpointing=true"]);
        assert!(trained("kept", &[]) == again, "{network:?}");
    }
}

/// It needs less memory: of this network's activations, a block's input in place of four tensors of its size.
#[test]
fn computing_activations_again_takes_less_memory() {
    let peak = |checkpointing: bool| {
        let mut command = common::mote_train();
        command.args([
            "bench",
            "--preset",
            "toy",
            "--shape",
            "32x32x1",
            "--batch",
            "32",
            "--seconds",
            "0.01",
            "--json",
        ]);
        command.args(["--backend", "cpu", "--set", "network.widths=[32,32]", "--set", "network.blocks=6"]);
        let output =
            command.args(["--set", &format!("train.gradient_checkpointing={checkpointing}")]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        found["mote"]["memory_bytes"].as_u64()
    };
    let (Some(kept), Some(again)) = (peak(false), peak(true)) else {
        println!("SKIPPED: this system does not tell how much memory a program took");
        return;
    };
    // A tensor at the first level is 4 MB; its 12 blocks keep about 4 each, or 1.
    assert!(again + 60_000_000 < kept, "{again} bytes, {kept} without");
}
