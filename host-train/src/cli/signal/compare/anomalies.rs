//! How well windows of classes that a model never saw are told from those of the classes it knows.

use std::path::Path;
use std::time::Instant;

use mote_measure::signals::{Mahalanobis, recordings};
use serde::Serialize;

use super::{Args, Net, Usage, Windows, nearest, spread};
use crate::cli::settings::{Run, Settings};
use crate::dataset::{DataConfig, Split};
use crate::diffusion::sample::{SamplingConfig, Threshold, roc_auc, roc_auc_interval, standardized};
use crate::ops::DenoiserBackend;

/// Noise levels of the diffusion score, spread over the steps.
const LEVELS: usize = 4;
/// Draws of recordings that an interval is of.
const DRAWS: u64 = 1000;

/// What a score makes of left-out classes.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Detection {
    left_out: Vec<String>,
    score: &'static str,
    /// The area under the receiver operating characteristic, and where it lies in 95 % of draws of as many recordings.
    auc: f64,
    interval: [f64; 2],
    /// Held-out windows of known classes, and of those left out.
    windows: [usize; 2],
    seconds: f64,
}

/// Windows whose scores are compared.
struct Side {
    units: Vec<f32>,
    recordings: Vec<usize>,
}

impl Side {
    fn new(split: &Split<'_>, most: Option<usize>) -> Self {
        let (chosen, recordings) = (spread(split, most.unwrap_or(usize::MAX)), recordings(split));
        Self {
            units: chosen.iter().flat_map(|&index| split.units(index)).collect(),
            recordings: chosen.iter().map(|&index| recordings[index]).collect(),
        }
    }
}

/// The classes that a run leaves out.
fn left_out(dir: &Path) -> anyhow::Result<Vec<String>> {
    let settings = Settings::recorded(dir)?;
    let left_out = settings.map(|settings| settings.preset.data.leave_out).unwrap_or_default();
    if left_out.is_empty() {
        return Err(Usage(format!("{} holds no run that leaves something out (data.leave_out)", dir.display())).into());
    }
    Ok(left_out)
}

/// # Errors
/// A run that leaves nothing out, or a denoiser that leaves out what no diffusion model does.
pub(super) fn check(args: &Args) -> anyhow::Result<()> {
    let known: Vec<Vec<String>> = args.without.iter().map(|dir| left_out(dir)).collect::<anyhow::Result<_>>()?;
    for dir in &args.denoiser_without {
        let classes = left_out(dir)?;
        if !known.contains(&classes) {
            let message = format!("{} leaves out {}, no run of --without does", dir.display(), classes.join(", "));
            return Err(Usage(message).into());
        }
    }
    Ok(())
}

/// The scores of the run in `dir`, of the denoiser that leaves out the same, and of the moments; `like` is the run of the
/// comparison.
pub(super) fn detect<B: DenoiserBackend>(
    args: &Args,
    dir: &Path,
    like: &Run,
    threshold: Threshold,
) -> anyhow::Result<Vec<Detection>> {
    let (run, model) = Net::<B>::of_run(dir, like)?;
    model.file.diffusion.check_draws()?;
    let section = &run.settings.preset.data;
    let left_out = section.load_left_out()?;
    anyhow::ensure!(!left_out.held_out().is_empty(), "nothing of {} is held out", section.leave_out.join(", "));
    let known = Side::new(&run.data.held_out(), args.scored);
    let strange = Side::new(&left_out.held_out(), args.scored);
    let usual = Windows::new(&run.data.train(), args.windows).units;
    let mut detections = Vec::new();
    let mut hear = |score, begun: Instant, found: [Vec<f64>; 2]| {
        let [of_known, of_strange] = &found;
        let clusters = [&known.recordings[..], &strange.recordings];
        detections.push(Detection {
            left_out: section.leave_out.clone(),
            score,
            auc: roc_auc(of_known, of_strange),
            interval: roc_auc_interval([of_known, of_strange], clusters, args.seed, DRAWS),
            windows: [of_known.len(), of_strange.len()],
            seconds: begun.elapsed().as_secs_f64(),
        });
    };

    let begun = Instant::now();
    // As the network draws, but nothing else is cut off than in the rest of the comparison.
    let own = &model.file.sampling;
    let sampler = model.sampler(SamplingConfig { threshold, ..own.clone() });
    let table = sampler.sampling.table(&model.diffusion);
    let worker = model.worker(&sampler, &table, args.seed);
    let levels = LEVELS.min(table.len());
    let first_rows: Vec<usize> = (0..levels).map(|level| (2 * level + 1) * table.len() / (2 * levels)).collect();
    let normal = worker.scores(&usual, &first_rows);
    let score = |side: &Side| standardized(&worker.scores(&side.units, &first_rows), &normal);
    hear("diffusion, reconstruction", begun, [score(&known), score(&strange)]);

    for dir in &args.denoiser_without {
        if self::left_out(dir)? != section.leave_out {
            continue;
        }
        let begun = Instant::now();
        let (_, denoiser) = Net::<B>::of_run(dir, like)?;
        denoiser.file.diffusion.check_draws()?;
        let errors = |units: &[f32]| -> Vec<Vec<f64>> {
            args.noise_levels.iter().map(|&sigma| denoising_errors(&denoiser, units, args.seed, sigma)).collect()
        };
        let normal = errors(&usual);
        let score = |side: &Side| standardized(&errors(&side.units), &normal);
        hear("regression, reconstruction", begun, [score(&known), score(&strange)]);
    }

    let begun = Instant::now();
    // The distance is to the nearest class, so it is told them.
    let labelled = DataConfig { unlabelled: false, ..section.clone() }.load()?;
    let moments = Mahalanobis::fit(&labelled.train());
    let len = labelled.shape.len();
    let score = |side: &Side| side.units.chunks_exact(len).map(|window| moments.distance(window)).collect();
    hear("moments, Mahalanobis", begun, [score(&known), score(&strange)]);
    Ok(detections)
}

/// The mean square error of each window after noise of a level is added and taken away in one pass.
fn denoising_errors<B: DenoiserBackend>(denoiser: &Net<B>, units: &[f32], seed: u64, sigma: f64) -> Vec<f64> {
    let every = SamplingConfig::ddim(denoiser.diffusion.timesteps(), 1.0).table(&denoiser.diffusion);
    let sigma = nearest(&every, sigma).1.sigma();
    let noisy = super::errors::noisy(units, denoiser.file.network.shape, seed, sigma);
    let found = denoiser.denoised(&noisy, sigma);
    let len = denoiser.file.network.shape.len();
    let error = |(wanted, found): (&[f32], &[f32])| {
        wanted.iter().zip(found).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / len as f64
    };
    units.chunks_exact(len).zip(found.chunks_exact(len)).map(error).collect()
}

/// Prints a row a score, and the mean over what was left out.
pub(super) fn print(detections: &[Detection]) {
    if detections.is_empty() {
        return;
    }
    println!("Anomalies: area under the ROC [95 % of draws of recordings], known : left-out windows");
    let mut scores: Vec<&str> = Vec::new();
    for detection in detections {
        let Detection { left_out, score, auc, interval: [low, high], windows: [known, strange], .. } = detection;
        println!("{:<12}{score:<28}{auc:.3} [{low:.3}, {high:.3}]  {known} : {strange}", left_out.join("+"));
        if !scores.contains(score) {
            scores.push(score);
        }
    }
    for score in scores {
        let areas: Vec<f64> =
            detections.iter().filter(|detection| detection.score == score).map(|detection| detection.auc).collect();
        println!("{:<12}{score:<28}{:.3}", "mean", areas.iter().sum::<f64>() / areas.len() as f64);
    }
    println!();
}
