//! `mote-train sample` and `classifier` as a user runs them, on a teacher of toy size.

mod common;

use std::process::Output;

const SIDE: usize = 14;
const IMAGE: usize = SIDE * SIDE;

fn run(arguments: &[String]) -> Output {
    common::mote_train().args(arguments).output().unwrap()
}

fn succeed(arguments: &[String]) {
    let Output { status, stderr, .. } = run(arguments);
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
}

/// A trained teacher of toy size.
struct Toy {
    folder: tempfile::TempDir,
}

impl Toy {
    fn trained(preset: &str) -> Self {
        let toy = Self { folder: tempfile::tempdir().unwrap() };
        succeed(&toy.arguments(&format!("train --preset {preset}")));
        toy
    }

    /// The numbers of a .csv file, row by row; a gap is not a number.
    fn rows(&self, name: &str) -> Vec<Vec<f64>> {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        let cell = |cell: &str| if cell.is_empty() { f64::NAN } else { cell.parse().unwrap() };
        text.lines().map(|line| line.split(',').map(cell).collect()).collect()
    }

    fn write_rows(&self, name: &str, rows: &[Vec<f64>]) {
        let cell = |value: &f64| if value.is_nan() { String::new() } else { value.to_string() };
        let line = |row: &Vec<f64>| row.iter().map(cell).collect::<Vec<_>>().join(",") + "\n";
        std::fs::write(self.path(name), rows.iter().map(line).collect::<String>()).unwrap();
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("a UTF-8 temporary folder").to_owned()
    }

    /// The words and `--run`; `@` is the temporary folder.
    fn arguments(&self, words: &str) -> Vec<String> {
        let words = words.split_whitespace().map(|word| word.replace('@', &self.path("")));
        words.chain(["--run".to_owned(), self.path("run")]).collect()
    }

    /// The images drawn, `[n, 14, 14, 1]`.
    fn draw(&self, words: &str) -> Vec<u8> {
        succeed(&self.arguments(&format!("sample {words} --out @x.npy")));
        let file = std::fs::read(self.path("x.npy")).unwrap();
        let header = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
        file[header..].to_vec()
    }
}

/// A picture whose left half is bright.
fn write_halves(path: &str) {
    let pixel = |x: u32, _| image::Luma([if x < SIDE as u32 / 2 { 255 } else { 0 }]);
    image::GrayImage::from_fn(SIDE as u32, SIDE as u32, pixel).save(path).unwrap();
}

#[test]
fn every_sampler_and_use_draws_from_a_trained_teacher() {
    let toy = Toy::trained("toy");
    let base = toy.draw("--count 6");
    assert_eq!(base.len(), 6 * IMAGE);
    assert!(
        base == toy.draw("--count 6 --sampler ddim --spacing trailing --threshold clamp"),
        "the preset's own settings"
    );
    assert!(base[..2 * IMAGE] == toy.draw("--count 2"), "a sample does not depend on the others");
    assert!(base[3 * IMAGE..4 * IMAGE] != toy.draw("--count 4 --class 5")[3 * IMAGE..], "class 5 instead of 3");
    let mut seen = vec![base.clone()];
    for words in [
        "--sampler ddpm --variance beta --steps 20",
        "--sampler ddpm --steps 20",
        "--sampler ddim --eta 1 --steps 10",
        "--sampler heun",
        "--sampler dpmpp2m",
        "--sampler churn --churn 0.3",
        "--sampler predictor-corrector --correctors 2",
        "--sampler langevin --steps 20 --langevin-steps 2",
        "--sampler consistency --steps 2",
        "--spacing karras --sigma-range 0.01..80",
        "--guidance 0",
        "--guidance 3",
        "--guidance 3 --guidance-interval 0.2..2",
        "--guidance 3 --guidance-rescale 0.7",
        "--threshold dynamic --quantile 0.9",
        "--seed 2",
    ] {
        let drawn = toy.draw(&format!("--count 6 {words}"));
        assert!(drawn.len() == base.len() && !seen.contains(&drawn), "{words} draws what something else drew");
        assert!(drawn == toy.draw(&format!("--count 6 {words}")), "{words}: the same command drew something else");
        seen.push(drawn);
    }
    succeed(&toy.arguments("sample"));
    let sheet = std::fs::read(toy.path("run/samples.png")).unwrap();
    assert!(sheet.starts_with(b"\x89PNG"));
}

#[test]
fn images_are_begun_from_mixed_and_completed() {
    let toy = Toy::trained("toy");
    write_halves(&toy.path("halves.png"));

    let inpainted = toy.draw("--count 3 --inpaint @halves.png --mask @halves.png --steps 20 --jump 5 --resamples 3");
    let known = |image: &[u8]| (0..IMAGE).filter(|at| at % SIDE < SIDE / 2).all(|at| image[at] == 255);
    assert!(inpainted.chunks(IMAGE).all(known), "the known half is kept");
    assert!(inpainted[..IMAGE] != inpainted[IMAGE..2 * IMAGE], "what is drawn differs");

    let distance = |words: &str| {
        let drawn = toy.draw(&format!("--count 1 --from @halves.png --steps 20 {words}"));
        let wanted = |at: usize| if at % SIDE < SIDE / 2 { 255.0 } else { 0.0 };
        (0..IMAGE).map(|at| (f64::from(drawn[at]) - wanted(at)).abs()).sum::<f64>() / IMAGE as f64
    };
    let (little, much) = (distance("--strength 0.1"), distance("--strength 1"));
    assert!(little < much && little < 20.0, "mean change {little} after little noise, {much} after much");

    let between = toy.draw("--count 5 --seed 4 --interpolate 9 --class 2");
    assert!(between[..IMAGE] == toy.draw("--count 1 --seed 4 --class 2"), "it begins at one seed's sample");
    assert!(between[4 * IMAGE..] == toy.draw("--count 1 --seed 9 --class 2"), "and ends at the other's");
    assert_eq!(toy.draw("--count 3 --between @halves.png @halves.png --strength 0.5").len(), 3 * IMAGE);

    succeed(&toy.arguments("classifier --steps 40"));
    let guided = toy.draw("--count 4 --guidance 0 --classifier @run/classifier.safetensors --classifier-scale 4");
    assert!(guided != toy.draw("--count 4 --guidance 0"), "the classifier changed nothing");
}

#[test]
fn what_cannot_be_drawn_is_said_in_one_line() {
    let toy = Toy::trained("toy");
    write_halves(&toy.path("halves.png"));
    for (words, part) in [
        ("--weights student", "student.safetensors"),
        ("--sampler heun --eta 1", "--eta does not go with"),
        ("--steps 2000", "sample.steps is 2000"),
        ("--class ballgown", "no class ballgown"),
        ("--sampler ddpm --variance learned", "the network gives none"),
        ("--sampler heun --inpaint @halves.png --mask @halves.png", "cannot begin or turn back"),
        ("--inpaint @halves.png --mask @halves.png --steps 5", "does not fit into 5"),
        ("--from @halves.png --strength 0", "--strength 0"),
        ("--condition @halves.png", "low_resolution"),
        ("--sampler langevin --steps 3 --sigma-range 0.01..80", "ratio of neighboring sigmas"),
    ] {
        let Output { status, stderr, .. } = run(&toy.arguments(&format!("sample {words}")));
        let message = String::from_utf8_lossy(&stderr);
        assert_eq!(status.code(), Some(2), "{words}: {message}");
        assert!(message.contains(part) && message.lines().count() == 1, "{words}: {message}");
    }
}

/// The mean squared difference of the rows' numbers.
fn difference(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    assert_eq!(a.len(), b.len());
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>() / a.iter().flatten().count() as f64
}

/// The network's own samples are the signal: they are what it knows.
#[test]
fn signals_are_drawn_denoised_imputed_and_scored() {
    let toy = Toy::trained("toy-signal");
    succeed(&toy.arguments("sample --count 4 --class 1 --guidance 1 --steps 30 --out @signal.csv"));
    let signal = toy.rows("signal.csv");
    assert_eq!((signal.len(), signal[0].len()), (4 * 32, 2));
    let spread = difference(&signal, &vec![vec![0.0; 2]; signal.len()]).sqrt();

    // Noise of half the signal's deviation, the same every time.
    let noise = |at: usize| (at as f64 * 12.9898).sin() * 43758.5453 % 1.0;
    let noised = |row: usize, value: f64, channel: usize| value + 0.6 * spread * noise(2 * row + channel);
    let rows = signal.iter().enumerate();
    let noisy: Vec<Vec<f64>> = rows.map(|(row, cells)| (0..2).map(|c| noised(row, cells[c], c)).collect()).collect();
    toy.write_rows("noisy.csv", &noisy);
    succeed(
        &toy.arguments(
            "signal denoise --mean --class 1 --steps 200 --noise-level 0.2 --in @noisy.csv --out @clean.csv",
        ),
    );
    let (before, after) = (difference(&noisy, &signal), difference(&toy.rows("clean.csv"), &signal));
    println!("denoise: {before:.5} to {after:.5}");
    assert!(after < before, "denoising moved the signal away: {before} to {after}");

    let gap = |row: usize| (10..14).contains(&(row % 32));
    let cut = |(row, cells): (usize, &Vec<f64>)| if gap(row) { vec![f64::NAN, cells[1]] } else { cells.clone() };
    toy.write_rows("gaps.csv", &signal.iter().enumerate().map(cut).collect::<Vec<_>>());
    succeed(&toy.arguments("signal impute --class 1 --steps 40 --jump 5 --draws 3 --in @gaps.csv --out @full.csv"));
    let full = toy.rows("full.csv");
    for (row, (found, wanted)) in full.iter().zip(&signal).enumerate() {
        let kept = |channel: usize| (found[channel] - wanted[channel]).abs() < 1e-5;
        assert!(found[0].is_finite() && kept(1) && (gap(row) || kept(0)), "row {row}: {found:?}, not {wanted:?}");
    }

    // What is shuffled in time is no wave.
    let shuffled: Vec<Vec<f64>> = (0..signal.len()).map(|row| signal[row * 37 % signal.len()].clone()).collect();
    toy.write_rows("shuffled.csv", &shuffled);
    let arguments = "signal score --class 1 --in @signal.csv --anomalies @shuffled.csv --out @scores.csv";
    let output = run(&toy.arguments(arguments));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let area: f64 = text.split("ROC-AUC ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    println!("ROC-AUC {area}");
    assert!(area > 0.8, "{text}");
}

#[test]
fn table_rows_are_drawn_and_imputed() {
    let toy = Toy::trained("toy-table");
    succeed(&toy.arguments("sample --count 50 --sampler dpmpp2m --out @rows.csv"));
    succeed(&toy.arguments("sample --count 50"));
    let mut rows = toy.rows("rows.csv");
    assert_eq!(rows.len(), 50);
    rows.iter_mut().step_by(5).for_each(|row| row[0] = f64::NAN);
    toy.write_rows("gaps.csv", &rows);
    succeed(&toy.arguments("signal impute --steps 30 --in @gaps.csv --out @full.csv"));
    let full = toy.rows("full.csv");
    assert!(full.iter().flatten().all(|value| value.is_finite()));
    let changes = full.iter().flatten().zip(rows.iter().flatten()).filter(|(_, was)| !was.is_nan());
    assert!(changes.clone().count() == 90 && changes.into_iter().all(|(is, was)| (is - was).abs() < 1e-5));
}
