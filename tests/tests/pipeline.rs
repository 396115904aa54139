//! The demo's host stages at toy size, as a user runs them, and what they say when something is wrong.

use mote_core::{Generator, Model, Request};
use mote_tests::programs::{fail, root, succeed};
use std::path::Path;

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 temporary folder")
}

#[test]
fn toy_stages_make_a_model_that_draws_and_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("toy");
    let dir = text(&dir);
    succeed("mote-train", &["train", "--run", dir, "--preset", "toy"]);
    succeed("mote-train", &["distill", "--run", dir]);
    succeed("mote-train", &["quantize", "--run", dir, "--samples", "20"]);
    let model = folder.path().join("toy/model.mote");
    let bytes = std::fs::read(&model).unwrap();
    let parsed = Model::parse(&bytes).unwrap();
    assert_eq!((parsed.height(), parsed.width(), parsed.classes(), parsed.rows()), (14, 14, 10, 2));

    let picture = folder.path().join("a.png");
    let arguments = ["generate", "--on", "host", "--class", "9", "--seed", "1", "--model", text(&model), "--out"];
    succeed("xtask", &[&arguments[..], &[text(&picture)]].concat());
    assert!(std::fs::read(&picture).unwrap().starts_with(b"\x89PNG"));

    let table = succeed("mote-train", &["report", "--run", dir]);
    assert!(table.contains("int8") && folder.path().join("toy/sheet.png").exists(), "{table}");

    // The same command again changes nothing; the same seed elsewhere gives the same file.
    let again = folder.path().join("again");
    succeed("mote-train", &["train", "--run", text(&again), "--preset", "toy"]);
    let weights = |run: &str| std::fs::read(folder.path().join(run).join("teacher.safetensors")).unwrap();
    assert!(weights("toy") == weights("again"), "the same seed trained another teacher");
}

/// A signal and a table from data to a chip's file, each stage as a user runs it. Pictures go the same way above.
#[test]
fn toy_signals_and_tables_go_the_whole_way() {
    for (preset, data, shape, classes) in [("toy-signal", "waves", [1, 32, 2], 3), ("toy-table", "moons", [1, 1, 2], 2)]
    {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().expect("a UTF-8 temporary folder").to_owned();
        let (run, samples, model) = (path("run"), path("samples.csv"), path("run/model.mote"));
        succeed("mote-train", &["train", "--run", &run, "--preset", preset]);

        succeed("mote-train", &["sample", "--run", &run, "--count", "6", "--class", "1", "--out", &samples]);
        let values = std::fs::read_to_string(&samples).unwrap();
        let rows: Vec<&str> = values.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(rows.len(), 6 * shape[1], "{preset}: {values}");
        let is_number = |cell: &str| cell.parse::<f64>().is_ok_and(f64::is_finite);
        assert!(rows.iter().all(|row| row.split(',').filter(|cell| is_number(cell)).count() >= shape[2]), "{values}");

        let count = (50 * classes).to_string();
        let judge = path("judge.safetensors");
        succeed("mote-train", &["judge", "--train", "--data", data, "--epochs", "2", "--out", &judge]);
        let eval = ["eval", "--run", &run, "--judge", &judge, "--samples", &count, "--metrics", "frechet"];
        let measured = succeed("mote-train", &eval);
        assert!(measured.contains("frechet"), "{preset}: {measured}");

        succeed("mote-train", &["distill", "--run", &run]);
        succeed("mote-train", &["quantize", "--run", &run, "--samples", &count]);
        let bytes = std::fs::read(&model).unwrap();
        let parsed = Model::parse(&bytes).unwrap();
        assert_eq!([parsed.height(), parsed.width(), parsed.channels()].map(usize::from), shape, "{preset}");
        assert_eq!((usize::from(parsed.classes()), parsed.rows()), (classes, 2), "{preset}");
        let draw = |seed| {
            let mut arena = vec![0u64; parsed.arena_len().div_ceil(8)];
            let mut generator = Generator::new(&parsed, bytemuck::cast_slice_mut(&mut arena)).unwrap();
            generator.start(Request { class: 1, seed, ..Request::default() }).unwrap();
            generator.finish();
            generator.pixels().collect::<Vec<u8>>()
        };
        assert_eq!(draw(1).len(), shape.iter().product::<usize>());
        assert!(draw(1) == draw(1) && draw(1) != draw(2), "{preset}: the seed does not decide what is drawn");
    }
}

#[test]
fn a_missing_data_folder_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("run");
    let message =
        fail("mote-train", &["train", "--run", text(&dir), "--preset", "toy", "--data", "/no/such/folder"], 2);
    assert!(message.contains("/no/such/folder"), "{message}");
    assert!(!dir.exists(), "a run folder was left behind");
}

#[test]
fn images_of_different_sizes_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let class = folder.path().join("data/shoe");
    std::fs::create_dir_all(&class).unwrap();
    for index in 0..6 {
        write_png(&class.join(format!("{index}.png")), if index == 3 { 13 } else { 14 });
    }
    let (data, dir) = (folder.path().join("data"), folder.path().join("run"));
    let arguments = ["train", "--run", text(&dir), "--preset", "toy", "--data", text(&data)];
    let message = fail("mote-train", &arguments, 1);
    assert!(message.contains("3.png") && message.contains("13"), "{message}");
    std::fs::write(class.join("3.png"), b"not a picture").unwrap();
    let message = fail("mote-train", &[&arguments[..], &["--data-strict"]].concat(), 1);
    assert!(message.contains("3.png"), "{message}");
}

fn write_png(path: &Path, side: u32) {
    let file = std::fs::File::create(path).unwrap();
    let mut encoder = png::Encoder::new(file, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    let mut writer = encoder.write_header().unwrap();
    writer.write_image_data(&vec![100; (side * side) as usize]).unwrap();
}

#[test]
fn generate_names_what_is_wrong_with_a_model_or_a_class() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("a.png");
    let bytes = include_bytes!("../../firmware/models/demo.mote");
    let cut = folder.path().join("cut.mote");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    let generate = |model: &Path, class: &str, code| {
        let arguments =
            ["generate", "--on", "host", "--seed", "1", "--class", class, "--model", text(model), "--out", text(&out)];
        fail("xtask", &arguments, code)
    };
    let message = generate(&cut, "0", 1);
    assert!(message.contains("cut off"), "{message}");
    let mut newer = bytes.to_vec();
    newer[4] = 99;
    std::fs::write(&cut, newer).unwrap();
    let message = generate(&cut, "0", 1);
    assert!(message.contains("version 99"), "{message}");
    let demo = root().join("firmware/models/demo.mote");
    let message = generate(&demo, "10", 2);
    assert!(message.contains("10"), "{message}");
    assert!(!out.exists(), "a picture was left behind");
}

#[test]
fn stages_out_of_order_say_what_to_run_first() {
    let folder = tempfile::tempdir().unwrap();
    let dir = text(folder.path());
    assert!(fail("mote-train", &["distill", "--run", dir], 2).contains("mote-train train"));
    assert!(fail("mote-train", &["quantize", "--run", dir], 2).contains("mote-train distill"));
}
