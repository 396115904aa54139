//! Errors of denoising and of filling gaps.

use std::ops::Range;
use std::time::Instant;

use mote_core::noise::{NoiseUse, normals};
use mote_core::quant::STATE_ONE;
use mote_measure::comparison::{Curve, Example};
use mote_measure::signals::{clustered_mean, interpolated, moving_average, recordings};
use serde::Serialize;

use super::{Args, Method, Net, Worker, nearest, one_pass, spread};
use crate::dataset::{ChannelScale, SampleShape, Split};
use crate::diffusion::sample::{Known, Resampling};
use crate::diffusion::{Gaps, Sampler, fill, known_rows};
use crate::ops::DenoiserBackend;
use crate::trainer::StepRandom;

/// Greatest reach of a moving average to either side, in rows.
const FARTHEST: usize = 16;

/// Windows of a split, as a network sees them.
pub(super) struct Windows<'a> {
    /// `[windows, rows, channels]`.
    pub(super) units: Vec<f32>,
    shape: SampleShape,
    scales: &'a [ChannelScale],
    /// Of each window.
    pub(super) recordings: Vec<usize>,
}

impl<'a> Windows<'a> {
    /// `count` windows, evenly spread; all where there are fewer.
    pub(super) fn new(split: &Split<'a>, count: usize) -> Self {
        let (chosen, recordings) = (spread(split, count), recordings(split));
        Self {
            units: chosen.iter().flat_map(|&index| split.units(index)).collect(),
            shape: split.dataset.shape,
            scales: &split.dataset.channels_scale,
            recordings: chosen.iter().map(|&index| recordings[index]).collect(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.recordings.len()
    }

    /// How many recordings the windows are of.
    pub(super) fn recordings(&self) -> usize {
        self.recordings.iter().collect::<std::collections::BTreeSet<_>>().len()
    }

    fn each(&self) -> impl Iterator<Item = &[f32]> {
        self.units.chunks_exact(self.shape.len())
    }

    fn noisy(&self, seed: u64, sigma: f64) -> Vec<f32> {
        noisy(&self.units, self.shape, seed, sigma)
    }

    /// The mean square error of each window's `rows`, and the root mean square of each channel in natural units.
    fn errors(&self, found: &[f32], rows: &[Range<usize>]) -> (Vec<f64>, Vec<f64>) {
        let channels = self.shape.channels;
        let mut squares = vec![0.0; channels];
        let windows = self.each().zip(found.chunks_exact(self.shape.len())).zip(rows);
        let each = windows.map(|((wanted, found), rows)| {
            let mut sum = 0.0;
            for at in rows.start * channels..rows.end * channels {
                let square = f64::from(found[at] - wanted[at]).powi(2);
                sum += square;
                squares[at % channels] += square;
            }
            sum / (rows.len() * channels) as f64
        });
        let each: Vec<f64> = each.collect();
        let count = rows.iter().map(ExactSizeIterator::len).sum::<usize>() as f64;
        let scale = |channel: usize| self.scales.get(channel).map_or(1.0, |scale| f64::from(scale.scale));
        let natural = squares.iter().enumerate().map(|(channel, sum)| (sum / count).sqrt() * scale(channel)).collect();
        (each, natural)
    }
}

/// What a method errs by.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Errors {
    method: Method,
    /// Noise level by noise level, or gap by gap.
    at: Vec<ErrorsAt>,
}

/// The errors at one noise level, or of gaps of one length.
#[derive(Debug, Clone, Serialize)]
struct ErrorsAt {
    /// The noise's deviation, or the gap's rows.
    number: f64,
    /// Root mean square, in the network's units.
    error: f64,
    standard_error: f64,
    /// Root mean square of each channel, in natural units.
    natural: Vec<f64>,
    seconds: f64,
}

impl Errors {
    /// The method's number and its errors, for the picture.
    pub(super) fn curve(&self) -> Curve {
        let points = self.at.iter().map(|at| (at.number, at.error, at.standard_error)).collect();
        (self.method as usize, points)
    }
}

/// The diffusion model and what it is measured on.
pub(super) struct Bench<'a, B: DenoiserBackend> {
    pub(super) args: &'a Args,
    pub(super) model: &'a Net<B>,
    pub(super) sampler: &'a Sampler<'a, B>,
    pub(super) windows: &'a Windows<'a>,
}

/// Errors by method, in the order in which methods are first heard of.
#[derive(Default)]
struct Table(Vec<Errors>);

impl Table {
    /// Hears what a method found since `begun`.
    fn hear(
        &mut self,
        windows: &Windows<'_>,
        method: Method,
        number: f64,
        begun: Instant,
        found: &[f32],
        rows: &[Range<usize>],
    ) {
        let (each, natural) = windows.errors(found, rows);
        let (square, deviation) = clustered_mean(&each, &windows.recordings);
        let error = square.sqrt();
        // Of a root: the derivative is 1 / (2 root).
        let standard_error = deviation / (2.0 * error.max(f64::MIN_POSITIVE));
        let at = ErrorsAt { number, error, standard_error, natural, seconds: begun.elapsed().as_secs_f64() };
        match self.0.iter_mut().find(|errors| errors.method == method) {
            Some(errors) => errors.at.push(at),
            None => self.0.push(Errors { method, at: vec![at] }),
        }
    }
}

impl<B: DenoiserBackend> Bench<'_, B> {
    /// The first draw and the mean of all; `draw` makes one from a seed of its own.
    fn draws(&self, mut draw: impl FnMut(u64) -> Vec<f32>) -> [Vec<f32>; 2] {
        let mut of = |number: u64| draw(self.args.seed.wrapping_add((number + 1) << 32));
        let first = of(0);
        let mut sums: Vec<f64> = first.iter().map(|&value| f64::from(value)).collect();
        for number in 1..self.args.draws {
            sums.iter_mut().zip(of(number)).for_each(|(sum, value)| *sum += f64::from(value));
        }
        let mean = sums.into_iter().map(|sum| (sum / self.args.draws as f64) as f32).collect();
        [first, mean]
    }

    /// Noise of each level, that of a row of the sampler's table, taken away.
    pub(super) fn denoising(&self, denoiser: Option<&Net<B>>, training: &Windows<'_>) -> Vec<Errors> {
        let (Self { args, windows, .. }, mut table) = (self, Table::default());
        let rows = self.sampler.sampling.table(self.sampler.diffusion);
        let whole = vec![0..windows.shape.width; windows.len()];
        let mut done = Vec::new();
        for &wanted in &args.noise_levels {
            let (first_row, row) = nearest(&rows, wanted);
            if done.contains(&first_row) {
                continue;
            }
            done.push(first_row);
            let sigma = row.sigma();
            let noisy = windows.noisy(args.seed, sigma);
            let mut hear = |method, begun, found: &[f32]| table.hear(windows, method, sigma, begun, found, &whole);
            let begun = Instant::now();
            let worker = |seed| self.model.worker(self.sampler, &rows, seed);
            let [sample, mean] = self
                .draws(|seed| worker(seed).map(&noisy, |reverse, noisy| reverse.run(noisy * row.signal, first_row)));
            hear(Method::DiffusionSample, begun, &sample);
            hear(Method::DiffusionMean, begun, &mean);
            let begun = Instant::now();
            hear(Method::DiffusionOnePass, begun, &one_pass(&worker(args.seed), &noisy, first_row));
            if let Some(denoiser) = denoiser {
                let begun = Instant::now();
                hear(Method::Regression, begun, &denoiser.denoised(&noisy, sigma));
            }
            let begun = Instant::now();
            let reach = best_reach(training, args.seed, sigma);
            hear(Method::MovingAverage, begun, &averaged(&noisy, windows.shape, reach));
            hear(Method::Nothing, Instant::now(), &noisy);
        }
        table.0
    }

    /// Gaps of each length, filled; and a window with the longest but one, for a picture.
    pub(super) fn gaps(&self, imputer: Option<&Net<B>>) -> (Vec<Errors>, Example) {
        let (Self { args, windows, .. }, mut table) = (self, Table::default());
        let SampleShape { width, channels, .. } = windows.shape;
        let rows = self.sampler.sampling.table(self.sampler.diffusion);
        let resampling = Resampling { jump: args.jump, resamples: args.resamples };
        let mut lengths = args.gap_rows.clone();
        lengths.sort_unstable();
        lengths.dedup();
        let shown = lengths[lengths.len().saturating_sub(2)];
        let middle = windows.len() / 2;
        let window = |all: &[f32]| all[middle * windows.shape.len()..][..windows.shape.len()].to_vec();
        let mut example = Example {
            window: window(&windows.units),
            channels: vec![String::new(); channels],
            gap: 0..0,
            filled: Vec::new(),
        };
        for length in lengths {
            let mut random = StepRandom::new(args.seed, length as u64);
            let gap = |_| Gaps { rows: [length; 2] }.draw(width, || random.unit());
            let gaps: Vec<Range<usize>> = (0..windows.len()).map(gap).collect();
            let mut hear =
                |method, begun, found: &[f32]| table.hear(windows, method, length as f64, begun, found, &gaps);
            let mut drawn = Vec::new();
            let begun = Instant::now();
            let known = |reverse: &crate::diffusion::sample::Reverse<'_, B>| {
                let of = reverse.noise.samples.start as usize..reverse.noise.samples.end as usize;
                known_rows(&gaps[of], width, &self.model.device)
            };
            let [sample, mean] = self.draws(|seed| {
                let worker: Worker<'_, B> = self.model.worker(self.sampler, &rows, seed);
                let found = worker.map(&windows.units, |reverse, data| {
                    let mask = known(reverse);
                    // What is hidden is not even handed over.
                    reverse.inpaint(&Known { data: data * mask.clone(), mask }, resampling)
                });
                drawn.push(window(&found));
                found
            });
            hear(Method::DiffusionSample, begun, &sample);
            hear(Method::DiffusionMean, begun, &mean);
            let mut filled =
                vec![(Method::DiffusionSample as usize, drawn), (Method::DiffusionMean as usize, vec![window(&mean)])];
            if let Some(imputer) = imputer {
                let begun = Instant::now();
                let sampler = imputer.sampler(imputer.file.sampling.clone());
                let worker = imputer.worker(&sampler, &rows, args.seed);
                let found = worker.map(&windows.units, |reverse, data| {
                    fill(&imputer.net, &imputer.file.network, &data, &known(reverse))
                });
                hear(Method::Regression, begun, &found);
                filled.push((Method::Regression as usize, vec![window(&found)]));
            }
            let begun = Instant::now();
            let lines = windows.each().zip(&gaps).flat_map(|(window, gap)| interpolated(window, channels, gap));
            let lines: Vec<f32> = lines.collect();
            hear(Method::StraightLine, begun, &lines);
            filled.push((Method::StraightLine as usize, vec![window(&lines)]));
            if length == shown {
                example = Example { gap: gaps[middle].clone(), filled, ..example };
            }
        }
        (table.0, example)
    }
}

/// Windows with normal noise, that of window i core's of (seed, i).
pub(super) fn noisy(units: &[f32], shape: SampleShape, seed: u64, sigma: f64) -> Vec<f32> {
    let noise = |index: usize| normals(seed, index as u64, NoiseUse::Start).take(shape.len());
    let noise = (0..units.len() / shape.len()).flat_map(noise).map(|value| f64::from(value) / f64::from(STATE_ONE));
    units.iter().zip(noise).map(|(&unit, noise)| (f64::from(unit) + sigma * noise) as f32).collect()
}

fn averaged(windows: &[f32], shape: SampleShape, reach: usize) -> Vec<f32> {
    windows.chunks_exact(shape.len()).flat_map(|window| moving_average(window, shape.channels, reach)).collect()
}

/// The reach of the moving average that errs least on windows with noise of `sigma`.
fn best_reach(windows: &Windows<'_>, seed: u64, sigma: f64) -> usize {
    let (noisy, whole) = (windows.noisy(seed, sigma), vec![0..windows.shape.width; windows.len()]);
    let error = |&reach: &usize| {
        let (each, _) = windows.errors(&averaged(&noisy, windows.shape, reach), &whole);
        each.iter().sum::<f64>()
    };
    (0..=FARTHEST).min_by(|a, b| error(a).total_cmp(&error(b))).expect("a range with numbers")
}

/// Prints a row a method.
pub(super) fn print(title: &str, errors: &[Errors]) {
    println!("{title}");
    let Some(first) = errors.first() else { return };
    let heads: String = first
        .at
        .iter()
        .map(|at| format!("  {:>16}", format!("{:.3}", at.number).trim_end_matches('0').trim_end_matches('.')))
        .collect();
    println!("{:<28}{heads}", "");
    for Errors { method, at } in errors {
        let cells: String =
            at.iter().map(|at| format!("  {:>16}", format!("{:.4} +- {:.4}", at.error, at.standard_error))).collect();
        println!("{:<28}{cells}", method.name());
    }
    println!();
}
