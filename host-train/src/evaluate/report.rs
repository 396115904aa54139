//! The report of a run: one table, one contact sheet, one JSON file.

mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use mote_core::Model;
use serde::{Deserialize, Serialize};

use super::SAMPLING_SEED;
use super::draw::draw;
use super::judge::Shape;
use super::npy::Samples;
use super::score::{Floor, Metric, Score, Scorer};
use super::sheet::{Legend, Section, rows_of_classes, sheet};
use crate::dataset::Dataset;
use crate::files;
use crate::trainer::LossByNoise;

/// Rows of each section of the contact sheet.
const SHEET_ROWS: usize = 3;
/// Samples drawn where the run has no samples of its own to match.
const DEFAULT_SAMPLES: usize = 400;

/// What a report is made from.
#[derive(Debug)]
pub struct Inputs<'a> {
    /// The run's folder: `manifest.json`, `teacher.npy` and `student.npy`, each where it exists.
    pub run: &'a Path,
    /// The `.mote` file.
    pub model: &'a Path,
    /// Samples drawn by a chip or its emulator, and what was counted there.
    pub chip: Option<ChipFiles>,
    /// Real samples.
    pub dataset: &'a Dataset,
    /// SHA-256 of the judge's file, for the record.
    pub judge_sha256: String,
}

/// The two files a chip run leaves.
#[derive(Debug, Clone)]
pub struct ChipFiles {
    /// `chip.npy`.
    pub samples: PathBuf,
    /// `chip.json`: [`ChipStats`].
    pub stats: PathBuf,
}

/// What was counted while a chip drew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChipStats {
    /// The board or emulated machine.
    pub machine: String,
    /// Samples drawn.
    pub samples: usize,
    /// Seed of the set.
    pub seed: u64,
    /// Retired instructions, mean over the samples.
    pub instructions_per_image: u64,
    /// Firmware in flash, the model file included.
    pub flash_bytes: u64,
    /// RAM used.
    pub ram_bytes: u64,
    /// The generator's arena, part of the RAM.
    pub arena_bytes: u64,
}

/// One way of drawing, measured. `None`: does not apply or is not known.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Column {
    /// Heading.
    pub name: String,
    /// Network passes a sample.
    pub steps: Option<u64>,
    /// Trained numbers.
    pub parameters: Option<u64>,
    /// The `.mote` file.
    pub file_bytes: Option<u64>,
    /// The generator's arena.
    pub arena_bytes: Option<u64>,
    /// Firmware in flash.
    pub flash_bytes: Option<u64>,
    /// RAM the firmware uses.
    pub ram_bytes: Option<u64>,
    /// Retired instructions.
    pub instructions_per_image: Option<u64>,
    /// Quality of the samples.
    pub score: Score,
    /// What real samples score at the same number.
    pub floor: Floor,
}

/// Everything measured of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Seed of every sample set; sample i has class `i % classes`.
    pub seed: u64,
    /// SHA-256 of the data set's content.
    pub data_sha256: String,
    /// SHA-256 of the judge's file.
    pub judge_sha256: String,
    /// SHA-256 of the `.mote` file.
    pub model_sha256: String,
    /// Held-out samples measured against.
    pub held_out: usize,
    /// Real, float, int8 and chip.
    pub columns: Vec<Column>,
    /// The emulated machine or board, and the samples whose bytes were compared with the host's and found equal.
    pub chip_equals_host: Option<(String, usize)>,
    /// Of the network that was asked last, the teacher where nobody asked.
    pub loss_by_noise: Option<LossByNoise>,
}

/// Draws, measures and compares; writes `report.json` and `sheet.png` into the run's folder. `progress` hears how many
/// of how many samples are drawn.
///
/// # Errors
/// If a file is missing or damaged, or one byte of the chip's samples differs from the host's.
pub fn report(
    inputs: &Inputs<'_>,
    scorer: &Scorer<'_>,
    progress: impl Fn(usize, usize) + Sync,
) -> anyhow::Result<Report> {
    let manifest = Manifest::read(&inputs.run.join("manifest.json"))?;
    let file = files::read(inputs.model)?;
    let model = Model::parse(&file).with_context(|| format!("{} is not a usable model", inputs.model.display()))?;
    let teacher = read_if_there(&inputs.run.join("teacher.npy"))?;
    let student = read_if_there(&inputs.run.join("student.npy"))?;
    let chip = inputs.chip.as_ref().map(read_chip).transpose()?;

    let found = Shape::of_model(&model);
    ensure!(found == scorer.shape(), "the model draws {found}, the data is {}", scorer.shape());
    let floats = [&teacher, &student].into_iter().flatten().map(Samples::len).next().unwrap_or(DEFAULT_SAMPLES);
    let n = floats.max(chip.as_ref().map_or(0, |(samples, _)| samples.len()));
    let host = draw(&file, SAMPLING_SEED, n, |done| progress(done, n))?;
    if let Some((samples, stats)) = &chip {
        compare(samples, stats, &host)?;
    }

    let held_out = rows_of_classes(&inputs.dataset.held_out(), SHEET_ROWS);
    let mut entries = vec![(Column::real(scorer, n), &held_out)];
    for (name, stage, samples) in
        [("float teacher", &manifest.teacher, &teacher), ("float student", &manifest.student, &student)]
    {
        if let Some(samples) = samples {
            let Stage { steps, parameters } = *stage;
            entries.push((Column { steps, parameters, ..Column::measured(name, samples, scorer) }, samples));
        }
    }
    let on_host = Column {
        steps: Some(u64::from(model.rows())),
        parameters: manifest.student.parameters,
        file_bytes: Some(file.len() as u64),
        arena_bytes: Some(model.arena_len() as u64),
        ..Column::measured("int8, host", &host, scorer)
    };
    if let Some((samples, stats)) = &chip {
        let on_chip = Column {
            arena_bytes: Some(stats.arena_bytes),
            flash_bytes: Some(stats.flash_bytes),
            ram_bytes: Some(stats.ram_bytes),
            instructions_per_image: Some(stats.instructions_per_image),
            ..on_host.clone()
        };
        entries.push((on_host, &host));
        let Column { name, score, floor, .. } = Column::measured("int8, chip", samples, scorer);
        entries.push((Column { name, score, floor, ..on_chip }, samples));
    } else {
        entries.push((on_host, &host));
    }

    let chip_equals_host = chip.as_ref().map(|(samples, stats)| (stats.machine.clone(), samples.len()));
    let sections: Vec<Section<'_>> =
        entries.iter().map(|(column, samples)| Section { label: column.label(), samples }).collect();
    let foot = format!(
        "seed {SAMPLING_SEED}; below the real ones, the same place is the same starting noise in every section"
    );
    let legend = Legend { class_names: &inputs.dataset.class_names, scale: &inputs.dataset.channels_scale };
    let picture = sheet(legend, &sections, SHEET_ROWS, &foot)?;
    files::write_atomically(&inputs.run.join("sheet.png"), &picture.to_png()?)?;

    let report = Report {
        seed: SAMPLING_SEED,
        data_sha256: inputs.dataset.sha256.clone(),
        judge_sha256: inputs.judge_sha256.clone(),
        model_sha256: files::sha256(&file),
        held_out: scorer.real().wanted.len(),
        columns: entries.into_iter().map(|(column, _)| column).collect(),
        chip_equals_host,
        loss_by_noise: manifest.loss_by_noise,
    };
    files::write_atomically(&inputs.run.join("report.json"), &serde_json::to_vec_pretty(&report)?)?;
    Ok(report)
}

impl Column {
    fn new(name: &str, score: Score, floor: Floor) -> Self {
        Self {
            name: name.to_owned(),
            steps: None,
            parameters: None,
            file_bytes: None,
            arena_bytes: None,
            flash_bytes: None,
            ram_bytes: None,
            instructions_per_image: None,
            score,
            floor,
        }
    }

    fn measured(name: &str, samples: &Samples, scorer: &Scorer<'_>) -> Self {
        Self::new(name, scorer.score(&samples.all_units()), scorer.floor(Metric::Frechet, samples.len())[0])
    }

    /// Real samples: their score is the floor.
    fn real(scorer: &Scorer<'_>, n: usize) -> Self {
        Self::new("real", scorer.real_score(n), scorer.floor(Metric::Frechet, n)[0])
    }

    /// Lines beside the column's section of the contact sheet.
    fn label(&self) -> Vec<String> {
        let steps = self.steps.map(|steps| format!("{steps} step{}", if steps == 1 { "" } else { "s" }));
        let accuracy = self.score.accuracy.map(|accuracy| format!("{:.0} % judged right", 100.0 * accuracy));
        [Some(self.name.clone()), steps, accuracy].into_iter().flatten().collect()
    }
}

/// What the report takes from a run's `manifest.json`; whatever is not there stays unknown.
#[derive(Debug, Default, Deserialize)]
struct Manifest {
    #[serde(default)]
    teacher: Stage,
    #[serde(default)]
    student: Stage,
    #[serde(default)]
    loss_by_noise: Option<LossByNoise>,
}

/// A float model.
#[derive(Debug, Default, Deserialize)]
struct Stage {
    #[serde(default)]
    steps: Option<u64>,
    #[serde(default)]
    parameters: Option<u64>,
}

impl Manifest {
    fn read(path: &Path) -> anyhow::Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        serde_json::from_slice(&files::read(path)?).with_context(|| format!("{} is damaged", path.display()))
    }
}

fn read_if_there(path: &Path) -> anyhow::Result<Option<Samples>> {
    path.exists().then(|| Samples::read(path)).transpose()
}

fn read_chip(chip: &ChipFiles) -> anyhow::Result<(Samples, ChipStats)> {
    let samples = Samples::read(&chip.samples)?;
    let stats: ChipStats = serde_json::from_slice(&files::read(&chip.stats)?)
        .with_context(|| format!("{} is not a chip's statistics", chip.stats.display()))?;
    Ok((samples, stats))
}

/// Whether the chip drew the host's first samples, byte for byte.
fn compare(chip: &Samples, stats: &ChipStats, host: &Samples) -> anyhow::Result<()> {
    let machine = &stats.machine;
    ensure!(stats.seed == SAMPLING_SEED, "{machine} drew with seed {}; draw again with {SAMPLING_SEED}", stats.seed);
    ensure!(chip.shape == host.shape, "{machine} drew {}, the model draws {}", chip.shape, host.shape);
    let same_kind = std::mem::discriminant(&chip.values) == std::mem::discriminant(&host.values);
    ensure!(same_kind, "one of {machine} and the host drew pixels, the other numbers");
    ensure!(chip.len() <= host.len(), "{machine} drew {} samples, the host {}", chip.len(), host.len());
    for index in 0..chip.len() {
        let (found, expected) = (chip.bytes(index), host.bytes(index));
        if let Some(at) = (0..found.len()).find(|&at| found[at] != expected[at]) {
            let (found, expected) = (found[at], expected[at]);
            bail!(
                "sample {index} of {machine}: byte {at} is {found}, the host's is {expected}; is it the same model file?"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::SampleShape;

    #[test]
    fn a_chip_that_differs_in_one_byte_or_in_its_seed_is_refused() {
        let samples = |n: u8| Samples::from_pixels((0..n).collect(), SampleShape::image(2, 2, 1));
        let (host, chip, mut changed) = (samples(24), samples(12), (0..12).collect::<Vec<u8>>());
        let json = r#"{"machine":"m","samples":3,"seed":1,"instructions_per_image":5,"flash_bytes":6,"ram_bytes":7,"arena_bytes":8}"#;
        let mut stats: ChipStats = serde_json::from_str(json).unwrap();
        compare(&chip, &stats, &host).unwrap();
        changed[9] ^= 1;
        let chip = Samples::from_pixels(changed, chip.shape);
        let error = compare(&chip, &stats, &host).unwrap_err().to_string();
        assert!(error.contains("sample 2 of m: byte 1 is 8, the host's is 9"), "{error}");
        stats.seed = 2;
        assert!(compare(&chip, &stats, &host).unwrap_err().to_string().contains("seed 2"));
    }

    #[test]
    fn a_manifest_gives_what_it_has() {
        let manifest: Manifest = serde_json::from_str(r#"{"seed":1,"teacher":{"steps":16,"loss":0.1}}"#).unwrap();
        assert_eq!(
            (manifest.teacher.steps, manifest.teacher.parameters, manifest.student.steps),
            (Some(16), None, None)
        );
    }
}
