//! `mote-train eval --table`: every released model, drawn and measured anew, beside what its card says of the float networks it
//! was made from.
//!
//! A released model is `NAME.mote` with a card `NAME.md` beside it. The card's first block of TOML says what is needed to measure it:
//!
//! ```toml
//! n = 400                                    # samples, of the model and of what is recorded
//! judge = "judge.safetensors"                # beside the card; left out for the embedded data
//! reference = "float student"                # what the model's distance is divided by
//! data = { kind = "embedded" }               # as in a preset
//!
//! [[recorded]]                               # measured when the model was made; not released itself
//! subject = "float student"
//! steps = 4
//! distance = 5.25
//! class_accuracy = 0.888
//! reference = "float teacher"
//! bits = 32                                  # of a weight; left out for a float network
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use mote_core::Model;
use serde::{Deserialize, Serialize};

use crate::cli::data::find_judge;
use crate::dataset::{DataSource, Dataset};
use crate::evaluate::SAMPLING_SEED;
use crate::evaluate::draw::draw;
use crate::evaluate::judge::Judge;
use crate::evaluate::score::{Metric, Scorer};
use crate::files;
use crate::progress::Progress;

/// Where the released models are.
pub(super) const RELEASED: &str = "firmware/models";

/// What a card says of its model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Card {
    data: DataSource,
    judge: Option<PathBuf>,
    n: usize,
    #[serde(default = "eight")]
    bits: u32,
    reference: Option<String>,
    #[serde(default)]
    recorded: Vec<Recorded>,
}

fn eight() -> u32 {
    8
}

/// What was measured when the model was made, on as many samples: a float network, or a model that is not released.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recorded {
    subject: String,
    steps: usize,
    distance: f64,
    class_accuracy: Option<f64>,
    reference: Option<String>,
    #[serde(default = "float")]
    bits: u32,
}

fn float() -> u32 {
    32
}

/// A row of the table. The fields' names are those of `--json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Row {
    data: String,
    subject: String,
    steps: usize,
    /// Of a weight.
    bits: u32,
    n: usize,
    /// Fréchet distance in the judge's features.
    distance: f64,
    /// That of as many real samples.
    floor: Option<f64>,
    /// The row that `ratio` compares with.
    reference: Option<String>,
    /// Of the distances.
    ratio: Option<f64>,
    /// Share of the samples judged to be of the class they were drawn for.
    class_accuracy: Option<f64>,
    /// Whether it was measured just now, from the released file; else the card says so.
    remade: bool,
}

/// Measures the models of `folder` and prints the table.
pub(super) fn run(folder: &Path, json: bool) -> anyhow::Result<()> {
    let mut models: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read {}; give the folder of released models: --table=DIR", folder.display()))?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    models.retain(|path| path.extension().is_some_and(|extension| extension == "mote"));
    models.sort();
    ensure!(!models.is_empty(), "{} holds no .mote files", folder.display());
    let mut table = Vec::new();
    for model in models {
        table.extend(rows(&model).with_context(|| model.display().to_string())?);
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&table)?);
        return Ok(());
    }
    println!(
        "{:<12} {:<16} {:>5} {:>4} {:>6} {:>9} {:>7} {:>6}  {:<16} {:>8}",
        "data", "subject", "steps", "bits", "n", "distance", "floor", "ratio", "to", "class"
    );
    for row in table {
        let number =
            |value: Option<f64>, places: usize| value.map_or("-".to_owned(), |value| format!("{value:.places$}"));
        let class = row.class_accuracy.map_or("-".to_owned(), |share| format!("{:.1} %", 100.0 * share));
        println!(
            "{:<12} {:<16} {:>5} {:>4} {:>6} {:>9.3} {:>7} {:>6}  {:<16} {:>8}{}",
            row.data,
            row.subject,
            row.steps,
            row.bits,
            row.n,
            row.distance,
            number(row.floor, 3),
            number(row.ratio, 3),
            row.reference.as_deref().unwrap_or("-"),
            class,
            if row.remade { "" } else { "  (recorded)" }
        );
    }
    println!(
        "The distance is that of the judge's features to the held-out samples; the floor is that of as many real ones."
    );
    Ok(())
}

/// The rows of one model: what its card recorded, then the model itself.
fn rows(path: &Path) -> anyhow::Result<Vec<Row>> {
    let card = path.with_extension("md");
    let card = Card::parse(&String::from_utf8(files::read(&card)?).context("a card is text")?)
        .with_context(|| card.display().to_string())?;
    let file = files::read(path)?;
    let steps = usize::from(Model::parse(&file).context("not a usable model")?.rows());
    let dataset = card.data.load()?;
    let data = label(&card.data, &dataset);
    let judge = card.judge.as_ref().map(|judge| path.with_file_name(judge));
    let judge = Judge::from_bytes(&find_judge(judge.as_deref(), &dataset, &data)?).context("cannot use the judge")?;
    let scorer = Scorer::new(judge, &dataset)?;
    let n = card.n;
    ensure!(n >= dataset.classes() && n.is_multiple_of(dataset.classes()), "n = {n} is no multiple of the classes");
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let bar = Progress::new(&format!("drawing {name}"));
    let units = draw(&file, SAMPLING_SEED, n, |done| bar.update(done, n))?.all_units();
    bar.finish();
    let set = scorer.assess(&units);
    let value = |metric| scorer.measure(metric, &set, &units).first().map(|found| found.value);
    let measured = Recorded {
        subject: name.clone(),
        steps,
        distance: value(Metric::Frechet).context("there is a distance")?,
        class_accuracy: value(Metric::Accuracy),
        reference: card.reference.clone(),
        bits: card.bits,
    };
    let floor = scorer.floor(Metric::Frechet, n).first().map(|floor| floor.mean);
    let all = card.recorded.iter().map(|row| (row, false)).chain([(&measured, true)]);
    all.map(|(row, remade)| {
        Ok(Row {
            data: data.clone(),
            subject: row.subject.clone(),
            steps: row.steps,
            bits: row.bits,
            n,
            distance: row.distance,
            floor,
            ratio: card.ratio(row)?,
            reference: row.reference.clone(),
            class_accuracy: row.class_accuracy,
            remade,
        })
    })
    .collect()
}

/// A set's name, or the last part of its path.
fn label(source: &DataSource, dataset: &Dataset) -> String {
    match source {
        DataSource::Embedded => "embedded".to_owned(),
        DataSource::Waves => "waves".to_owned(),
        DataSource::Moons => "moons".to_owned(),
        DataSource::Fetched { name, .. } => name.clone(),
        DataSource::Folder { path, .. }
        | DataSource::Idx { path, .. }
        | DataSource::Npy { path, .. }
        | DataSource::Csv { path, .. }
        | DataSource::Parquet { path, .. } => {
            path.file_name().map_or_else(|| dataset.sha256.clone(), |name| name.to_string_lossy().into_owned())
        }
    }
}

impl Card {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let block = text.split_once("```toml\n").and_then(|(_, rest)| rest.split_once("\n```"));
        let (block, _) = block.context("the card has no block of TOML that says how to measure the model")?;
        toml::from_str(block).context("the card's block of TOML is not as `eval --table` needs it")
    }

    /// A row's distance over that of the row it refers to.
    fn ratio(&self, row: &Recorded) -> anyhow::Result<Option<f64>> {
        let Some(reference) = &row.reference else { return Ok(None) };
        let found = self.recorded.iter().find(|row| row.subject == *reference);
        let found = found.with_context(|| format!("the card has no [[recorded]] row of subject = \"{reference}\""))?;
        Ok(Some(row.distance / found.distance))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: &str = "# A model\n\n```toml\nn = 20\nreference = \"float student\"\ndata = { kind = \"embedded\" }\n\n\
        [[recorded]]\nsubject = \"float teacher\"\nsteps = 16\ndistance = 2.0\n\n\
        [[recorded]]\nsubject = \"float student\"\nsteps = 4\ndistance = 2.5\nclass_accuracy = 0.9\n\
        reference = \"float teacher\"\n```\n\nMore text.\n";

    #[test]
    fn a_released_model_is_measured_beside_what_its_card_recorded() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("demo.mote");
        let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware/models/demo.mote");
        std::fs::copy(released, &model).unwrap();
        std::fs::write(model.with_extension("md"), CARD).unwrap();
        let found = rows(&model).unwrap();
        let [teacher, student, int8] = &found[..] else { panic!("{found:?}") };
        assert_eq!((teacher.ratio, student.ratio, student.class_accuracy), (None, Some(1.25), Some(0.9)));
        assert_eq!((student.bits, student.remade, int8.bits, int8.remade), (32, false, 8, true));
        assert_eq!((&int8.subject[..], int8.steps, int8.n, &int8.data[..]), ("demo.mote", 4, 20, "embedded"));
        assert_eq!(int8.ratio, Some(int8.distance / 2.5));
        let floor = int8.floor.unwrap();
        assert!(floor > 0.0 && int8.distance > 0.0 && int8.class_accuracy.unwrap() > 0.5, "{int8:?}");
        let keys = [
            "data",
            "subject",
            "steps",
            "bits",
            "n",
            "distance",
            "floor",
            "reference",
            "ratio",
            "class_accuracy",
            "remade",
        ];
        let json = serde_json::to_value(int8).unwrap();
        assert!(keys.iter().all(|key| json.get(key).is_some()) && json.as_object().unwrap().len() == keys.len());
    }

    #[test]
    fn cards_that_say_too_little_are_named() {
        for (card, wanted) in [
            ("# A model\n", "no block of TOML"),
            ("```toml\nn = 20\n```", "is not as `eval --table` needs it"),
            (&CARD.replace("n = 20", "n = 15")[..], "n = 15 is no multiple"),
            (&CARD.replacen("float student", "nobody", 1)[..], "no [[recorded]] row of subject = \"nobody\""),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let model = folder.path().join("demo.mote");
            let released = Path::new(env!("CARGO_MANIFEST_DIR")).join("../firmware/models/demo.mote");
            std::fs::copy(released, &model).unwrap();
            std::fs::write(model.with_extension("md"), card).unwrap();
            let error = format!("{:#}", rows(&model).unwrap_err());
            assert!(error.contains(wanted), "{error}");
        }
    }
}
