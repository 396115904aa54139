//! The report and the evaluation of a run, on a model that draws clamped noise.

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use mote_core::format::{ConvSpec, OpMemory, OpSpec, Spec, emit, emitted_len};
use mote_core::kernel::{Destination, WeightBits};
use mote_core::model::{Element, Row, Tensor};
use mote_core::plan::{self, Room};
use mote_train::dataset::{DataSource, Dataset, embedded};
use mote_train::evaluate::SAMPLING_SEED;
use mote_train::evaluate::draw::draw;
use mote_train::evaluate::judge::Judge;
use mote_train::evaluate::score::{Metric, Scorer};
use mote_train::evaluate::sheet::rows_of_classes;

const SAMPLES: usize = 40;

/// A file whose one row sets `x <- clamp(x)`: its samples are the starting noise.
fn noise_model() -> Vec<u8> {
    let one = 1 << 20;
    let row = Row { p: one, q: 0, a: 0, b: one, b_prev: 0, c: 0, signal: 0, noise: one, timestep: 0 };
    let tensor = Tensor { offset: 0, height: 14, width: 14, channels: 1, element: Element::I16, zero: 0, scale: 1.0 };
    let mut tensors = [tensor; 2];
    let mut ops = [OpSpec::Conv(ConvSpec {
        input: 0,
        norm: None,
        output: 1,
        kernel: [3, 3],
        stride: 1,
        upsample: 1,
        destination: Destination::Overwrite,
        weights: &[0; 9],
        weight_bits: WeightBits::Eight,
        bias: &[0],
        multipliers: &[1 << 20],
        memory: OpMemory::default(),
    })];
    plan::place(&mut tensors, &mut ops, None, Room::Usual);
    let spec = Spec {
        name: "noise",
        sample: [14, 14, 1],
        classes: 10,
        clamp: [-4096, 4096],
        units: &[],
        history: None,
        rows: &[row],
        tensors: &tensors,
        ops: &ops,
    };
    let mut file = vec![0; emitted_len(&spec)];
    emit(&spec, &mut file).expect("a valid specification");
    file
}

/// A run's folder: the model, real images as the teacher's samples, noise as the chip's.
fn toy_run(set: &Dataset) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("model.mote"), noise_model()).unwrap();
    std::fs::write(at("manifest.json"), r#"{"seed":1,"teacher":{"steps":16,"parameters":1234567}}"#).unwrap();
    rows_of_classes(&set.train(), SAMPLES / 10).write(&at("teacher.npy")).unwrap();
    draw(&noise_model(), SAMPLING_SEED, SAMPLES, |_| {}).unwrap().write(&at("chip.npy")).unwrap();
    let stats = format!(
        r#"{{"machine":"mps2-an386","samples":{SAMPLES},"seed":{SAMPLING_SEED},"instructions_per_image":98765432,
        "flash_bytes":100000,"ram_bytes":60000,"arena_bytes":784}}"#
    );
    std::fs::write(at("chip.json"), stats).unwrap();
    dir
}

fn mote_train(args: &[&str], paths: &[(&str, PathBuf)]) -> Output {
    let mut command = common::mote_train();
    command.args(args);
    paths.iter().for_each(|(flag, path)| _ = command.arg(flag).arg(path));
    command.output().unwrap()
}

fn report(run: &Path) -> Output {
    let paths = [("--run", run.to_owned()), ("--chip", run.join("chip.npy")), ("--chip-stats", run.join("chip.json"))];
    mote_train(&["report"], &paths)
}

#[test]
fn a_run_is_reported_as_a_table_a_sheet_and_json() {
    let dir = toy_run(&embedded());
    let output = report(dir.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for part in ["1,234,567", "98,765,432", "float teacher", "int8, chip", "All 40 samples of mps2-an386 equal"] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }

    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("report.json")).unwrap()).unwrap();
    let score = |column: usize, name: &str| json["columns"][column]["score"][name].as_f64().unwrap();
    let [real, teacher, host, chip] = [0, 1, 2, 3];
    assert_eq!(score(host, "frechet"), score(chip, "frechet"), "the same bytes have the same score");
    assert!(score(teacher, "frechet") < 3.0 * score(real, "frechet"), "real images are near the floor");
    assert!(score(host, "frechet") > 5.0 * score(teacher, "frechet"), "noise is far from real images");
    assert!(score(teacher, "accuracy") > 0.8 && score(host, "accuracy") < 0.4);

    let sheet = image::open(dir.path().join("sheet.png")).unwrap();
    assert!(sheet.width() > 600 && sheet.height() > 600, "{}x{}", sheet.width(), sheet.height());
}

#[test]
fn a_chip_that_draws_other_bytes_fails_the_report_and_leaves_none() {
    let dir = toy_run(&embedded());
    let path = dir.path().join("chip.npy");
    let mut file = std::fs::read(&path).unwrap();
    let pixels = file.len() - SAMPLES * 196;
    file[pixels + 5 * 196 + 3] ^= 1;
    std::fs::write(&path, file).unwrap();
    let output = report(dir.path());
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("sample 5 of mps2-an386: byte 3"), "{error}");
    assert!(!dir.path().join("report.json").exists() && !dir.path().join("sheet.png").exists());
}

/// The value of one metric in what `eval --json` prints.
fn metric(json: &serde_json::Value, name: &str) -> f64 {
    let metrics = json["metrics"].as_array().unwrap();
    let found = metrics.iter().find(|metric| metric["name"] == name).unwrap_or_else(|| panic!("no {name} in {json}"));
    found["value"].as_f64().unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn eval_scores_a_model_and_refuses_bad_arguments_with_their_exit_codes() {
    let dir = toy_run(&embedded());
    let model = dir.path().join("model.mote");
    let output = mote_train(&["eval", "--samples", "40", "--json"], &[("--model", model.clone())]);
    let found = json(&output);
    assert_eq!((found["n"].as_u64(), found["real"].as_u64(), found["seed"].as_u64()), (Some(40), Some(800), Some(1)));
    let frechet = &found["metrics"][0];
    assert!(
        frechet["value"].as_f64() > frechet["floor"]["mean"].as_f64(),
        "noise is worse than real images: {frechet}"
    );
    assert!(metric(&found, "coverage") < 0.1, "noise covers little of what is real");
    assert_eq!(found["confusion"].as_array().unwrap().len(), 10);

    let cases = [
        (vec!["--samples", "41"], model.clone(), 2, "not a multiple of the 10 classes"),
        (vec!["--smaples", "40"], model.clone(), 2, "--smaples"),
        (vec!["--metrics", "fid"], model.clone(), 2, "possible values: frechet, kid"),
        (vec!["--run", "runs/none"], model.clone(), 2, "cannot be used with"),
        (vec!["--steps", "8"], model.clone(), 2, "are of a --run"),
        (vec!["--weights", "student"], model.clone(), 2, "are of a --run"),
        (vec![], dir.path().join("none.mote"), 1, "cannot read"),
        (vec![], dir.path().join("manifest.json"), 1, "not a usable model"),
    ];
    for (args, path, code, message) in cases {
        let output = mote_train(&[&["eval"], &args[..]].concat(), &[("--model", path)]);
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn eval_of_a_file_of_training_images_finds_good_copies_and_draws_them_beside_their_originals() {
    let dir = toy_run(&embedded());
    let sheet = dir.path().join("eval.png");
    let paths = [("--samples-file", dir.path().join("teacher.npy")), ("--sheet", sheet.clone())];
    let found = json(&mote_train(&["eval", "--json", "--metrics", "copying,accuracy"], &paths));
    assert_eq!(found["metrics"].as_array().unwrap().len(), 3, "only what was asked for");
    assert_eq!((metric(&found, "nearer"), metric(&found, "nearer_values")), (1.0, 1.0));
    assert!(metric(&found, "accuracy") > 0.8 && found["seed"].is_null());
    let picture = image::open(&sheet).unwrap();
    assert!(picture.width() > 600 && picture.height() > 900, "{}x{}", picture.width(), picture.height());
    let text = String::from_utf8(mote_train(&["eval"], &paths[..1]).stdout).unwrap();
    for part in ["40 samples against 800 held-out samples", "coverage", "taken for", "9 boot", "floor (real, n = 40)"] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }
}

#[test]
fn eval_of_other_data_without_a_judge_says_how_to_make_one_and_that_works() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    for (class, shade) in [("dark", 20u8), ("light", 220)] {
        let folder = data.join(class);
        std::fs::create_dir_all(&folder).unwrap();
        for number in 0..90u8 {
            let image = image::RgbImage::from_fn(8, 6, |x, y| image::Rgb([shade, number, (10 * x + y) as u8]));
            image.save(folder.join(format!("{number:02}.png"))).unwrap();
        }
    }
    let samples = dir.path().join("samples.npy");
    rows_of_classes(&DataSource::guess(&data.to_string_lossy()).unwrap().load().unwrap().held_out(), 10)
        .write(&samples)
        .unwrap();
    let judge = dir.path().join("judge.safetensors");
    let paths = [("--samples-file", samples), ("--data", data.clone())];
    let output = mote_train(&["eval"], &paths);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("no judge of these data (6x8x3, 2 classes)"), "{error}");
    assert!(error.contains(&format!("mote-train judge --train --data {}", data.display())), "{error}");

    let made =
        mote_train(&["judge", "--train", "--epochs", "20"], &[("--data", data.clone()), ("--out", judge.clone())]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let found = json(&mote_train(&["eval", "--json"], &[&paths[..], &[("--judge", judge)]].concat()));
    assert_eq!((metric(&found, "accuracy"), found["n"].as_u64()), (1.0, Some(20)));
}

#[test]
fn eval_of_a_run_draws_with_its_float_network() {
    let dir = tempfile::tempdir().unwrap();
    let (run, preset) = (dir.path().join("run"), dir.path().join("quick.toml"));
    let toy = include_str!("../presets/toy.toml").replacen("steps = 60", "steps = 2", 1);
    std::fs::write(&preset, toy).unwrap();
    let trained = mote_train(&["train"], &[("--run", run.clone()), ("--preset", preset)]);
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    let found =
        json(&mote_train(&["eval", "--json", "--samples", "20", "--against", "train"], &[("--run", run.clone())]));
    assert_eq!((found["n"].as_u64(), found["against"].as_str()), (Some(20), Some("train")));
    // The samples that training left are drawn by the same network and seed.
    let file = mote_train(&["eval", "--json", "--against", "train"], &[("--samples-file", run.join("teacher.npy"))]);
    assert_eq!(metric(&found, "frechet"), metric(&json(&file), "frechet"));
    let other = json(&mote_train(&["eval", "--json", "--samples", "20", "--steps", "1"], &[("--run", run.clone())]));
    assert_ne!(metric(&other, "diversity"), metric(&found, "diversity"), "fewer steps draw other samples");
    let nll = json(&mote_train(
        &["eval", "--nll", "--json", "--samples", "10", "--timesteps", "5"],
        &[("--run", run.clone())],
    ));
    assert!(nll["nll"]["bits_per_dim"].as_f64().unwrap() > 0.0);
    let output = mote_train(&["eval", "--weights", "student"], &[("--run", run)]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("give teacher, student, latest, best or a file"));
}

#[test]
fn the_floor_falls_towards_zero_as_more_images_are_drawn() {
    let set = embedded();
    let scorer = Scorer::new(Judge::embedded(), &set).unwrap();
    let floors = [50, 200, 800, 3200].map(|n| scorer.floor(Metric::Frechet, n)[0]);
    assert!(floors.windows(2).all(|pair| pair[1].mean < pair[0].mean), "{floors:?}");
    assert_eq!((floors[3].n, scorer.floor(Metric::Frechet, 9999)[0].n), (3200, 3200));
    assert!(floors[3].deviation < 1e-6, "all training images are one draw");
}
