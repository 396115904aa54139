//! The released models: each draws the same pixels for ever, different ones of each seed, and has a card.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use mote_core::{Generator, Model, Request};
use mote_tests::programs::root;
use sha2::{Digest, Sha256};

/// Seeds that are drawn of each model; the class is the seed modulo the classes.
const SEEDS: u64 = 20;
/// `model seed sha256-of-the-pixels`, a line each.
const GOLDEN: &str = include_str!("../golden/released.txt");

/// The released files, by name.
fn released() -> Vec<(String, Vec<u8>)> {
    let folder = fs::read_dir(root().join("firmware/models")).expect("the folder of released models");
    let mut paths: Vec<PathBuf> = folder.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "mote"));
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        (name, fs::read(path).expect("a readable model"))
    };
    paths.into_iter().map(read).collect()
}

/// The pixels of each seed.
fn draw(file: &[u8]) -> Vec<Vec<u8>> {
    let model = Model::parse(file).expect("a released model parses");
    let mut arena = vec![0u64; model.arena_len().div_ceil(8)];
    let mut generator = Generator::new(&model, bytemuck::cast_slice_mut(&mut arena)).expect("room");
    let classes = u64::from(model.classes());
    let image = |seed: u64| {
        generator.start(Request { class: (seed % classes) as u16, seed, ..Request::default() }).expect("a request");
        generator.finish();
        generator.pixels().collect()
    };
    (0..SEEDS).map(image).collect()
}

#[test]
fn every_seed_draws_the_pixels_that_it_drew_on_the_day_of_release() {
    let golden: String =
        GOLDEN.lines().filter(|line| !line.starts_with('#')).fold(String::new(), |all, line| all + line + "\n");
    let mut found = String::new();
    for (name, file) in released() {
        for (seed, pixels) in draw(&file).iter().enumerate() {
            writeln!(found, "{name} {seed} {:x}", Sha256::digest(pixels)).expect("room");
        }
    }
    assert!(found == golden, "tests/golden/released.txt: if a model is new, its lines are these:\n{found}");
}

/// Two seeds of a class are two pictures: they differ by more than a few grey levels.
#[test]
fn seeds_of_a_class_are_different_pictures() {
    for (name, file) in released() {
        let classes = usize::from(Model::parse(&file).expect("a released model parses").classes());
        let drawn = draw(&file);
        for first in 0..drawn.len() {
            for second in (first + classes..drawn.len()).step_by(classes) {
                let pairs = drawn[first].iter().zip(&drawn[second]);
                let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
                let mean = sum as f64 / drawn[first].len() as f64;
                assert!(mean > 4.0, "{name}: seeds {first} and {second} differ by {mean:.1} of 255 on average");
            }
        }
    }
}

#[test]
fn every_released_model_has_a_card_that_names_its_file() {
    for (name, file) in released() {
        let path = root().join(format!("firmware/models/{name}.md"));
        let card = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let hash = format!("{:x}", Sha256::digest(&file));
        for part in [&hash[..], "licence", "cargo xtask", "seed"] {
            assert!(card.contains(part), "{}: nothing on {part}", path.display());
        }
    }
}
