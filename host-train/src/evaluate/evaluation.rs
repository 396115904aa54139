//! Everything that is measured of one sample set, as a record, as text and as a picture.

use std::fmt;
use std::time::Instant;

use serde::Serialize;

use super::canvas::Canvas;
use super::neighbours::mean_pairwise_distance;
use super::npy::Samples;
use super::score::{Assessed, Floor, Metric, Part, Scorer, Value};
use super::sheet::{Legend, Section, rows_of_classes, sheet};
use crate::dataset::{Dataset, Split};

/// Rows of real samples and of drawn ones in the picture.
const ROWS: usize = 4;
/// Vectors in the picture, of each kind.
const POINTS: usize = 2000;
/// A confusion matrix of more classes is left out of the text.
const MAX_MATRIX: usize = 16;

/// What was measured. The fields' names are those of `eval --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluation {
    /// Samples measured; sample i was drawn for class `i % classes`.
    pub n: usize,
    /// The part of the data they are compared with.
    pub against: Part,
    /// Real samples in it.
    pub real: usize,
    /// Each number.
    pub metrics: Vec<Measured>,
    /// Each class; empty for data of a single class.
    pub classes: Vec<ClassRow>,
    /// Samples by the class they were drawn for and the class they were judged to be, `[wanted][judged]`.
    pub confusion: Vec<Vec<u64>>,
}

/// One number, what it is worth, and how long it took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The number.
    #[serde(flatten)]
    pub value: Value,
    /// What real samples score.
    pub floor: Option<Floor>,
    /// Time to measure all numbers of its metric, the floor apart.
    pub seconds: f64,
}

/// One class of a sample set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassRow {
    /// The class.
    pub name: String,
    /// Samples drawn for it.
    pub n: usize,
    /// The fraction judged to be of it, 0 to 1.
    pub accuracy: f64,
    /// The same of the real samples.
    pub real_accuracy: f64,
    /// The other class that its samples are most often judged to be, and how many.
    pub taken_for: Option<(String, u64)>,
    /// Mean distance of two samples in the judge's features.
    pub diversity: f64,
    /// The same of the real samples.
    pub real_diversity: f64,
}

impl Evaluation {
    /// Measures `samples`.
    ///
    /// # Errors
    /// If they are of another shape than the data, or too few.
    pub fn measure(scorer: &Scorer<'_>, samples: &Samples, metrics: &[Metric]) -> anyhow::Result<Self> {
        let (found, wanted, n) = (samples.shape, scorer.shape().sample(), samples.len());
        anyhow::ensure!(
            found == wanted,
            "the samples are {found} (height x width x channels), the data is {wanted}; give --data and --judge that fit"
        );
        anyhow::ensure!(n >= super::score::FEWEST, "{n} samples are too few; {} are the fewest", super::score::FEWEST);
        let units = samples.all_units();
        let set = scorer.assess(&units);
        let mut measured = Vec::new();
        for &metric in metrics {
            let begun = Instant::now();
            let values = scorer.measure(metric, &set, &units);
            let seconds = begun.elapsed().as_secs_f64();
            let floors = scorer.floor(metric, n);
            measured.extend(values.into_iter().map(|value| {
                let floor = floors.iter().find(|floor| floor.name == value.name).copied();
                Measured { value, floor, seconds }
            }));
        }
        let classes = scorer.shape().classes;
        let confusion = set.confusion(classes);
        let confusion = confusion.map(|confusion| confusion.rows().into_iter().map(<[u64]>::to_vec).collect());
        Ok(Self {
            n,
            against: scorer.part(),
            real: scorer.real().wanted.len(),
            metrics: measured,
            classes: class_rows(scorer, &set),
            confusion: confusion.unwrap_or_default(),
        })
    }

    /// The number called `name`.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.metrics.iter().find(|measured| measured.value.name == name).map(|measured| measured.value.value)
    }
}

fn class_rows(scorer: &Scorer<'_>, set: &Assessed) -> Vec<ClassRow> {
    let classes = scorer.shape().classes;
    let real = scorer.real();
    let (Some(confusion), Some(real_confusion)) = (set.confusion(classes), real.confusion(classes)) else {
        return Vec::new();
    };
    let diversities = |set: &Assessed| -> Vec<f64> {
        let classes = set.by_class(classes).into_iter();
        classes.map(|class| mean_pairwise_distance(&set.assessment.features.select(&class))).collect()
    };
    let (diversity, real_diversity) = (diversities(set), diversities(real));
    let names = &scorer.dataset().class_names;
    let row = |class: usize| ClassRow {
        name: names[class].clone(),
        n: confusion.drawn(class) as usize,
        accuracy: confusion.class_accuracy(class),
        real_accuracy: real_confusion.class_accuracy(class),
        taken_for: confusion.worst(class).map(|(other, count)| (names[other].clone(), count)),
        diversity: diversity[class],
        real_diversity: real_diversity[class],
    };
    (0..classes).map(row).collect()
}

impl fmt::Display for Evaluation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} samples against {} {} samples", self.n, self.real, self.against)?;
        writeln!(f)?;
        let floors = self.metrics.iter().filter_map(|measured| measured.floor);
        let drawn = floors.filter(|floor| floor.name != "accuracy").map(|floor| floor.n).next();
        let floor_n = drawn.map_or(String::new(), |n| format!(" (real, n = {n})"));
        writeln!(f, "{:<14}  {:>20}  {:>24}  {:>8}", "", "value", format!("floor{floor_n}"), "seconds")?;
        for Measured { value: Value { name, value, error }, floor, seconds } in &self.metrics {
            let value = with_error(*value, *error);
            let floor = floor.map_or("-".to_owned(), |floor| with_error(floor.mean, Some(floor.deviation)));
            writeln!(f, "{name:<14}  {value:>20}  {floor:>24}  {seconds:>8.2}")?;
        }
        if self.classes.is_empty() {
            return Ok(());
        }
        let width = self.classes.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).clamp(5, 24);
        writeln!(f)?;
        writeln!(
            f,
            "{:<3} {:<width$}  {:>5}  {:>6}  {:>6}  {:>9}  {:>6}  taken for",
            "", "class", "n", "right", "real", "diversity", "real"
        )?;
        for (number, row) in self.classes.iter().enumerate() {
            let taken_for = row.taken_for.as_ref().map_or("-".to_owned(), |(name, count)| format!("{name}, {count}"));
            let name: String = row.name.chars().take(width).collect();
            writeln!(
                f,
                "{number:>3} {name:<width$}  {:>5}  {:>4.0} %  {:>4.0} %  {:>9.3}  {:>6.3}  {taken_for}",
                row.n,
                100.0 * row.accuracy,
                100.0 * row.real_accuracy,
                row.diversity,
                row.real_diversity
            )?;
        }
        if self.classes.len() <= MAX_MATRIX {
            writeln!(f)?;
            writeln!(f, "Drawn for the class at the left, judged to be the class above:")?;
            let cell = |count: &u64| format!("{count:>5}");
            let above: String = (0..self.classes.len() as u64).map(|class| cell(&class)).collect();
            writeln!(f, "   {above}")?;
            for (number, row) in self.confusion.iter().enumerate() {
                writeln!(f, "{number:>3}{}", row.iter().map(cell).collect::<String>())?;
            }
        }
        Ok(())
    }
}

/// Four significant digits and the error to the same place.
fn with_error(value: f64, error: Option<f64>) -> String {
    let places = (3 - value.abs().max(1e-6).log10().floor() as i32).clamp(0, 6) as usize;
    match error {
        Some(error) => format!("{value:.places$} +- {error:.places$}"),
        None => format!("{value:.places$}"),
    }
}

/// Real samples, drawn ones, and the training samples nearest to those: at the same place, first by values, then by the
/// judge's features. Vectors are shown as points, without their neighbours.
///
/// # Errors
/// If the samples are fewer than the classes.
pub fn picture(scorer: &Scorer<'_>, samples: &Samples, heading: &str) -> anyhow::Result<Canvas> {
    let dataset = scorer.dataset();
    let legend = Legend { class_names: &dataset.class_names, scale: &dataset.channels_scale };
    let classes = dataset.classes();
    let rows = if samples.shape.is_vector() { POINTS.div_ceil(classes) } else { ROWS }.min(samples.len() / classes);
    anyhow::ensure!(rows > 0, "{} samples are less than one of each of {classes} classes", samples.len());
    let shown = samples.first(rows * classes);
    let real = rows_of_classes(&scorer.part().of(dataset), rows);
    let label = |lines: &[&str]| lines.iter().map(|&line| line.to_owned()).collect::<Vec<_>>();
    let of_real = label(&["real", &scorer.part().to_string()]);
    let of_drawn = label(&["samples", heading]);
    let mut neighbours = Vec::new();
    if !samples.shape.is_vector() {
        let units = shown.all_units();
        let [by_features, by_values] = scorer.nearest_training(&scorer.assess(&units), &units);
        let train = dataset.train();
        for (name, found) in [("by values", by_values), ("by features", by_features)] {
            let numbers = found.iter().map(|neighbour| train.indices[neighbour.index]).collect();
            let mean = found.iter().map(|neighbour| neighbour.distance).sum::<f64>() / found.len() as f64;
            let label = label(&["nearest", "of training,", name, &format!("mean {mean:.2}")]);
            neighbours.push((label, samples_of(dataset, numbers)));
        }
    }
    let all = [(of_real, real), (of_drawn, shown)].into_iter().chain(neighbours).collect::<Vec<_>>();
    let filled = all.iter().filter(|(_, samples)| !samples.is_empty());
    let sections: Vec<Section<'_>> = filled.map(|(label, samples)| Section { label: label.clone(), samples }).collect();
    let foot = match samples.shape.is_vector() {
        true => "the axes are the real samples'",
        false => "the same place is the same class in every section; below the samples, their nearest neighbours",
    };
    sheet(legend, &sections, rows, foot)
}

fn samples_of(dataset: &Dataset, indices: Vec<usize>) -> Samples {
    Samples::from_units(Split { dataset, indices }.all_units(), dataset.shape)
}

#[cfg(test)]
mod tests {
    use super::super::judge::Judge;
    use super::*;
    use crate::dataset::embedded;

    #[test]
    fn every_metric_is_in_the_text_and_the_record_with_its_floor_and_time() {
        let set = embedded();
        let scorer = Scorer::new(Judge::embedded(), &set).unwrap();
        let samples = rows_of_classes(&set.train(), 10);
        let found = Evaluation::measure(&scorer, &samples, &Metric::ALL).unwrap();
        let (text, json) = (found.to_string(), serde_json::to_value(&found).unwrap());
        let names = [
            "frechet",
            "kid",
            "precision",
            "recall",
            "density",
            "coverage",
            "accuracy",
            "diversity",
            "nearer",
            "nearer_values",
        ];
        assert_eq!(json["metrics"].as_array().unwrap().len(), names.len());
        for (name, metric) in names.iter().zip(json["metrics"].as_array().unwrap()) {
            assert!(text.contains(name) && metric["name"] == *name, "{name} in\n{text}");
            assert!(metric["seconds"].as_f64().unwrap() >= 0.0 && metric["value"].is_f64());
            assert_eq!(metric["floor"].is_object(), !name.starts_with("nearer"), "{name}");
        }
        assert_eq!((json["n"].as_u64(), json["against"].as_str()), (Some(100), Some("held-out")));
        assert_eq!((found.value("nearer"), found.value("nearer_values")), (Some(1.0), Some(1.0)));
        assert_eq!(found.classes.len(), 10);
        let right: u64 = (0..10).map(|class| found.confusion[class][class]).sum();
        assert_eq!(found.value("accuracy"), Some(right as f64 / 100.0));
        let only = Evaluation::measure(&scorer, &samples, &[Metric::Kid]).unwrap();
        assert_eq!((only.metrics.len(), only.value("kid")), (1, found.value("kid")));
    }

    #[test]
    fn the_picture_shows_each_sample_over_its_own_copy_in_the_training_set() {
        let set = embedded();
        let scorer = Scorer::new(Judge::embedded(), &set).unwrap();
        let samples = rows_of_classes(&set.train(), 2);
        let png = picture(&scorer, &samples, "copies").unwrap().to_png().unwrap();
        let picture = image::load_from_memory(&png).unwrap().to_rgb8();
        // Sections of two rows of 62 pixels; neighbours' rows repeat the samples' two sections further down.
        let row =
            |y: u32| (0..picture.width()).filter(|&x| x > 200).map(|x| picture.get_pixel(x, y).0).collect::<Vec<_>>();
        let section = 2 * 62 + 16;
        let samples_at = 18 + 15 + 6 + section;
        for y in samples_at..samples_at + 110 {
            assert_eq!(row(y), row(y + section), "line {y}: by values");
            assert_eq!(row(y), row(y + 2 * section), "line {y}: by features");
        }
        assert_ne!(row(samples_at + 20), row(samples_at + 20 - section), "real ones are others");
    }

    #[test]
    fn samples_of_another_shape_are_refused() {
        let set = embedded();
        let scorer = Scorer::new(Judge::embedded(), &set).unwrap();
        let other = Samples::from_pixels(vec![0; 300], crate::dataset::SampleShape::image(10, 10, 1));
        let error = Evaluation::measure(&scorer, &other, &Metric::ALL).unwrap_err().to_string();
        assert!(error.contains("the samples are 10x10x1"), "{error}");
    }
}
