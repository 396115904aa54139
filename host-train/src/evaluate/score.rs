//! Scores of sample sets against real samples, each with what other real samples score: its floor.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};

use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};

use super::confusion::Confusion;
use super::features::Features;
use super::frechet::{self, Gaussian};
use super::judge::{Assessment, Judge, Shape};
use super::kernel::{self, KernelSet};
use super::manifold::Manifold;
use super::neighbours::{Neighbour, copying, mean_pairwise_distance, nearest};
use crate::dataset::{Dataset, Split};

/// Random draws that a real-against-real floor averages.
const FLOOR_DRAWS: usize = 10;
/// Seed of those draws.
const FLOOR_SEED: u64 = 1;
/// The fewest samples that have every measure.
pub const FEWEST: usize = 3;

/// What can be measured of a sample set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// `frechet`: squared Fréchet distance of the judge's features (Heusel et al. 2017); small is good
    Frechet,
    /// `kid`: kernel distance of the judge's features (Binkowski et al. 2018), unbiased; small is good
    Kid,
    /// `precision`, `recall` (Kynkäänniemi et al. 2019), `density`, `coverage` (Naeem et al. 2020); great is good
    Overlap,
    /// `accuracy`: samples that the judge puts in the class they were drawn for, of 1
    Accuracy,
    /// `diversity`: mean distance of two samples of a class in the judge's features; like the real one's is good
    Diversity,
    /// `nearer`: probability that a sample lies nearer to the training set than a held-out one (Meehan et al. 2020), in
    /// the judge's features and (`nearer_values`) in the samples' values; 0.5 is good, 1 is copies
    Copying,
}

impl Metric {
    /// All of them, in the order they are printed.
    pub const ALL: [Self; 6] =
        [Self::Frechet, Self::Kid, Self::Overlap, Self::Accuracy, Self::Diversity, Self::Copying];
    /// What [`Scorer::score`] measures: all that needs no search in the training set.
    const QUICK: [Self; 5] = [Self::Frechet, Self::Kid, Self::Overlap, Self::Accuracy, Self::Diversity];
}

/// The part of a data set that samples are compared with. The floor is drawn from the other one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Samples that no network was trained on
    #[default]
    HeldOut,
    /// Samples that networks are trained on
    Train,
}

impl Part {
    /// The samples of this part.
    pub fn of(self, dataset: &Dataset) -> Split<'_> {
        match self {
            Self::HeldOut => dataset.held_out(),
            Self::Train => dataset.train(),
        }
    }

    fn other(self) -> Self {
        match self {
            Self::HeldOut => Self::Train,
            Self::Train => Self::HeldOut,
        }
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::HeldOut => "held-out",
            Self::Train => "training",
        })
    }
}

/// One number of a sample set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Value {
    /// What it is, as [`Metric`] names it.
    pub name: &'static str,
    /// The number.
    pub value: f64,
    /// Its standard error, where that is known.
    pub error: Option<f64>,
}

/// What real samples of the other part score, at the same number: the bias of few samples and the difference of the parts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Floor {
    /// What it is the floor of.
    pub name: &'static str,
    /// Real samples in a draw, as many of each class.
    pub n: usize,
    /// Mean over the draws.
    pub mean: f64,
    /// Standard deviation over the draws; 0 where a draw takes all there are.
    pub deviation: f64,
}

/// How good a sample set is, as one record: [`Metric`] says what each number is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Score {
    /// Samples measured.
    pub n: usize,
    pub frechet: f64,
    pub kid: f64,
    /// Standard error of `kid`.
    pub kid_error: f64,
    pub precision: f64,
    pub recall: f64,
    pub density: f64,
    pub coverage: f64,
    pub diversity: f64,
    /// `None` for data of a single class.
    pub accuracy: Option<f64>,
}

impl Score {
    fn collect(n: usize, values: impl Iterator<Item = Value>) -> Self {
        let values: Vec<Value> = values.collect();
        let find = |name: &str| values.iter().find(|value| value.name == name);
        let value = |name: &str| find(name).expect("a quick measure").value;
        Self {
            n,
            frechet: value("frechet"),
            kid: value("kid"),
            kid_error: find("kid").and_then(|kid| kid.error).expect("it has one"),
            precision: value("precision"),
            recall: value("recall"),
            density: value("density"),
            coverage: value("coverage"),
            diversity: value("diversity"),
            accuracy: find("accuracy").map(|accuracy| accuracy.value),
        }
    }
}

/// A set of samples, or of real ones, as the judge sees it.
#[derive(Debug, Clone)]
pub struct Assessed {
    /// Features and judged classes.
    pub assessment: Assessment,
    /// The class each was drawn for, or has.
    pub wanted: Vec<u16>,
}

impl Assessed {
    fn features(&self) -> &Features {
        &self.assessment.features
    }

    /// What was drawn and what the judge sees; `None` for data of a single class.
    pub fn confusion(&self, classes: usize) -> Option<Confusion> {
        let judged = self.assessment.classes.as_ref()?.iter().copied();
        Some(Confusion::count(classes, self.wanted.iter().copied().zip(judged)))
    }

    /// The numbers of the samples of each class.
    pub(super) fn by_class(&self, classes: usize) -> Vec<Vec<usize>> {
        let mut found = vec![Vec::new(); classes];
        self.wanted.iter().enumerate().for_each(|(index, &class)| found[usize::from(class)].push(index));
        found
    }

    fn select(&self, indices: &[usize]) -> Self {
        let pick = |classes: &[u16]| indices.iter().map(|&index| classes[index]).collect::<Vec<_>>();
        let classes = self.assessment.classes.as_deref().map(pick);
        let assessment = Assessment { features: self.features().select(indices), classes };
        Self { assessment, wanted: pick(&self.wanted) }
    }
}

/// Measures sample sets against one part of a data set. What is needed of the real samples is computed when it is first
/// needed, and kept.
#[derive(Debug)]
pub struct Scorer<'a> {
    judge: Judge,
    dataset: &'a Dataset,
    part: Part,
    /// The real samples compared with, and the other ones.
    real: Assessed,
    other: OnceLock<Assessed>,
    gaussian: Gaussian,
    kernel: OnceLock<KernelSet>,
    manifold: OnceLock<Manifold>,
    /// Held-out samples' distances to the training set, in features and in values.
    new_ones: OnceLock<[Vec<Neighbour>; 2]>,
    floors: Mutex<HashMap<(Metric, usize), Vec<Floor>>>,
}

impl<'a> Scorer<'a> {
    /// A scorer against the held-out samples.
    ///
    /// # Errors
    /// If the judge is for other data, or there are too few samples.
    pub fn new(judge: Judge, dataset: &'a Dataset) -> anyhow::Result<Self> {
        Self::against(Part::HeldOut, judge, dataset)
    }

    /// A scorer against one part.
    ///
    /// # Errors
    /// If the judge is for other data, or there are too few samples.
    pub fn against(part: Part, judge: Judge, dataset: &'a Dataset) -> anyhow::Result<Self> {
        let (judged, wanted) = (judge.shape, Shape::of(dataset));
        anyhow::ensure!(
            judged == wanted,
            "the judge is for {judged}, the data is {wanted}; train one with `mote-train judge --train --data DATA --out FILE`"
        );
        for part in [Part::HeldOut, Part::Train] {
            let n = part.of(dataset).len();
            anyhow::ensure!(n >= FEWEST, "{n} {part} samples are too few to measure against; {FEWEST} are the fewest");
        }
        let real = assess_split(&judge, &part.of(dataset));
        Ok(Self {
            gaussian: Gaussian::fit(real.features()),
            judge,
            dataset,
            part,
            real,
            other: OnceLock::new(),
            kernel: OnceLock::new(),
            manifold: OnceLock::new(),
            new_ones: OnceLock::new(),
            floors: Mutex::default(),
        })
    }

    /// The samples that can be scored and their classes.
    pub fn shape(&self) -> Shape {
        self.judge.shape
    }

    /// The data.
    pub fn dataset(&self) -> &'a Dataset {
        self.dataset
    }

    /// The real samples that others are compared with.
    pub fn real(&self) -> &Assessed {
        &self.real
    }

    /// The part they are.
    pub fn part(&self) -> Part {
        self.part
    }

    fn of_part(&self, part: Part) -> &Assessed {
        if part == self.part {
            &self.real
        } else {
            self.other.get_or_init(|| assess_split(&self.judge, &part.of(self.dataset)))
        }
    }

    /// The judge's accuracy on the held-out samples; `None` for data of a single class.
    pub fn held_out_accuracy(&self) -> Option<f64> {
        let held_out = self.of_part(Part::HeldOut);
        held_out.assessment.accuracy(held_out.wanted.iter().copied())
    }

    /// Scores `units`, `[n, height, width, channels]`, what a network draws, where sample i was drawn for class
    /// `i % classes`. Quick: what it needs of the real samples is computed once.
    ///
    /// # Panics
    /// With fewer than [`FEWEST`] samples or a part of one.
    pub fn score(&self, units: &[f32]) -> Score {
        let set = self.assess(units);
        let values = Metric::QUICK.iter().flat_map(|&metric| self.measure(metric, &set, units));
        Score::collect(set.wanted.len(), values)
    }

    /// What real samples score at about `n`: the floors.
    pub fn real_score(&self, n: usize) -> Score {
        let floors: Vec<Floor> = Metric::QUICK.iter().flat_map(|&metric| self.floor(metric, n)).collect();
        let value = |floor: &Floor| Value { name: floor.name, value: floor.mean, error: Some(floor.deviation) };
        Score::collect(floors[0].n, floors.iter().map(value))
    }

    /// Features and judged classes of `units`, where sample i was drawn for class `i % classes`.
    pub fn assess(&self, units: &[f32]) -> Assessed {
        let assessment = self.judge.assess(units);
        let classes = self.judge.shape.classes;
        let wanted = (0..assessment.features.len()).map(|index| (index % classes) as u16).collect();
        Assessed { assessment, wanted }
    }

    /// The numbers of one metric, for samples that [`Self::assess`] has seen. Empty where the data have no such thing: the
    /// accuracy of a single class.
    pub fn measure(&self, metric: Metric, set: &Assessed, units: &[f32]) -> Vec<Value> {
        match metric {
            Metric::Copying => {
                let of_new = self.new_ones();
                let of_set = self.nearest_training(set, units);
                let value = |name, space: usize| {
                    let found = copying(&of_set[space], &of_new[space]);
                    Value { name, value: found.nearer, error: Some(found.deviation) }
                };
                vec![value("nearer", 0), value("nearer_values", 1)]
            }
            _ => self.compare(metric, set),
        }
    }

    fn compare(&self, metric: Metric, set: &Assessed) -> Vec<Value> {
        let exact = |name, value| Value { name, value, error: None };
        match metric {
            Metric::Frechet => {
                vec![exact("frechet", frechet::distance(&Gaussian::fit(set.features()), &self.gaussian))]
            }
            Metric::Kid => {
                let real = self.kernel.get_or_init(|| KernelSet::of(self.real.features().clone()));
                let found = kernel::distance(&KernelSet::of(set.features().clone()), real);
                vec![Value { name: "kid", value: found.value, error: Some(found.error) }]
            }
            Metric::Overlap => {
                let real = self.manifold.get_or_init(|| Manifold::of(self.real.features().clone()));
                let found = Manifold::overlap(real, &Manifold::of(set.features().clone()));
                vec![
                    exact("precision", found.precision),
                    exact("recall", found.recall),
                    exact("density", found.density),
                    exact("coverage", found.coverage),
                ]
            }
            Metric::Accuracy => {
                let accuracy = set.assessment.accuracy(set.wanted.iter().copied());
                let error = |p: f64| (p * (1.0 - p) / set.wanted.len() as f64).sqrt();
                accuracy.map(|p| Value { name: "accuracy", value: p, error: Some(error(p)) }).into_iter().collect()
            }
            Metric::Diversity => {
                let classes = set.by_class(self.judge.shape.classes);
                let distances: Vec<f64> = (classes.iter().filter(|class| class.len() >= 2))
                    .map(|class| mean_pairwise_distance(&set.features().select(class)))
                    .collect();
                vec![exact("diversity", distances.iter().sum::<f64>() / distances.len().max(1) as f64)]
            }
            Metric::Copying => Vec::new(),
        }
    }

    /// The nearest training sample of each sample, in the judge's features and in values.
    pub fn nearest_training(&self, set: &Assessed, units: &[f32]) -> [Vec<Neighbour>; 2] {
        let dims = self.judge.shape.sample().len();
        let values = |values: Vec<f32>| Features { values, dims };
        let train = self.of_part(Part::Train);
        [
            nearest(set.features(), train.features()),
            nearest(&values(units.to_vec()), &values(self.dataset.train().all_units())),
        ]
    }

    fn new_ones(&self) -> &[Vec<Neighbour>; 2] {
        self.new_ones
            .get_or_init(|| self.nearest_training(self.of_part(Part::HeldOut), &self.dataset.held_out().all_units()))
    }

    /// What real samples score at about `n`: random ones of the part not compared with, `n / classes` (rounded up) of each
    /// class, all where there are no more than that. The accuracy's is that of the held-out samples, which the judge was
    /// not trained on, with its binomial deviation. Copying has none: 0.5 is its floor. Every floor is computed once.
    pub fn floor(&self, metric: Metric, n: usize) -> Vec<Floor> {
        let mut floors = self.floors.lock().expect("no panic while held");
        floors.entry((metric, n)).or_insert_with(|| self.draw_floor(metric, n)).clone()
    }

    fn draw_floor(&self, metric: Metric, n: usize) -> Vec<Floor> {
        if metric == Metric::Accuracy {
            let n = self.of_part(Part::HeldOut).wanted.len();
            let floor = |p: f64| Floor { name: "accuracy", n, mean: p, deviation: (p * (1.0 - p) / n as f64).sqrt() };
            return self.held_out_accuracy().map(floor).into_iter().collect();
        }
        let other = self.of_part(self.part.other());
        let mut classes = other.by_class(self.judge.shape.classes);
        let filled = classes.iter().filter(|class| !class.is_empty()).count();
        let each = n.div_ceil(filled).max(FEWEST.div_ceil(filled));
        let mut rng = Pcg64::seed_from_u64(FLOOR_SEED);
        let draws: Vec<Vec<Value>> = (0..FLOOR_DRAWS)
            .map(|_| {
                classes.iter_mut().for_each(|samples| samples.shuffle(&mut rng));
                let drawn: Vec<usize> = classes.iter().flat_map(|class| class.iter().take(each)).copied().collect();
                self.compare(metric, &other.select(&drawn))
            })
            .collect();
        let n = classes.iter().map(|class| class.len().min(each)).sum();
        let floor = |index: usize| {
            let values = || draws.iter().map(|values| values[index].value);
            let mean = values().sum::<f64>() / FLOOR_DRAWS as f64;
            let variance = values().map(|value| (value - mean).powi(2)).sum::<f64>() / (FLOOR_DRAWS - 1) as f64;
            Floor { name: draws[0][index].name, n, mean, deviation: variance.sqrt() }
        };
        (0..draws[0].len()).map(floor).collect()
    }
}

fn assess_split(judge: &Judge, split: &Split<'_>) -> Assessed {
    Assessed { assessment: judge.assess(&split.all_units()), wanted: split.labels() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::embedded;

    #[test]
    fn copies_of_training_images_are_found_out_and_held_out_images_are_not() {
        let set = embedded();
        let scorer = Scorer::new(Judge::embedded(), &set).unwrap();
        let nearer = |split: &Split<'_>| {
            let split = Split { dataset: split.dataset, indices: split.indices[..200].to_vec() };
            let units = split.all_units();
            scorer.measure(Metric::Copying, &scorer.assess(&units), &units)
        };
        let copies = nearer(&set.train());
        assert!(copies.iter().all(|value| value.value == 1.0), "{copies:?}");
        let new = nearer(&set.held_out());
        assert!(new.iter().all(|value| (value.value - 0.5).abs() < 4.0 * value.error.unwrap()), "{new:?}");
    }

    #[test]
    fn a_score_is_its_measures_and_real_images_score_like_their_floor() {
        let set = embedded();
        let scorer = Scorer::new(Judge::embedded(), &set).unwrap();
        let units = Split { dataset: &set, indices: set.train().indices[..400].to_vec() }.all_units();
        let (score, assessed) = (scorer.score(&units), scorer.assess(&units));
        assert_eq!(scorer.measure(Metric::Frechet, &assessed, &units)[0].value, score.frechet);
        for (metric, found) in [
            (Metric::Frechet, vec![score.frechet]),
            (Metric::Kid, vec![score.kid]),
            (Metric::Overlap, vec![score.precision, score.recall, score.density, score.coverage]),
            (Metric::Diversity, vec![score.diversity]),
        ] {
            for (floor, value) in scorer.floor(metric, 400).iter().zip(found) {
                // Ten draws estimate a deviation roughly; the draws and this set are of the same 3,200 images.
                assert!((value - floor.mean).abs() < 5.0 * floor.deviation, "{floor:?} {value}");
            }
        }
        let confusion = assessed.confusion(10).unwrap();
        assert_eq!(Some(confusion.accuracy()), score.accuracy);
        assert_eq!(scorer.held_out_accuracy(), Some(scorer.floor(Metric::Accuracy, 400)[0].mean));
    }

    #[test]
    fn against_the_training_part_the_floor_is_drawn_from_the_held_out_one() {
        let set = embedded();
        let scorer = Scorer::against(Part::Train, Judge::embedded(), &set).unwrap();
        let floors = [100, 800, 9999].map(|n| scorer.floor(Metric::Frechet, n)[0]);
        assert_eq!(floors.map(|floor| floor.n), [100, 800, 800]);
        assert!(floors[1].mean < floors[0].mean && floors[1].deviation < 1e-6, "{floors:?}");
        assert_eq!(floors[1].mean, floors[2].mean);
    }

    #[test]
    fn samples_of_half_the_classes_cover_and_vary_less() {
        let set = embedded();
        let scorer = Scorer::new(Judge::embedded(), &set).unwrap();
        let train = set.train();
        let of = |classes: std::ops::Range<u16>| {
            let indices = train.indices.iter().copied().filter(|&index| classes.contains(&set.labels[index]));
            scorer.score(&Split { dataset: &set, indices: indices.take(400).collect() }.all_units())
        };
        let (all, half) = (of(0..10), of(0..5));
        assert!(half.recall < all.recall - 0.2 && half.coverage < all.coverage - 0.2, "{all:?} {half:?}");
        assert!(half.frechet > 2.0 * all.frechet && half.kid > all.kid + 4.0 * half.kid_error, "{all:?} {half:?}");
    }
}
