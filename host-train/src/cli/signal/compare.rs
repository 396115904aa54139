//! `mote-train signal compare`: a diffusion model of signals beside plain regression and what needs no network.

mod anomalies;
mod errors;

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::backend::{AutodiffBackend, Backend};
use mote_measure::comparison::{Curves, Example, comparison};
use serde::Serialize;

use super::{Usage, Worker, nearest};
use crate::cli::sample::{NetworkArgs, SamplingArgs, open_run, weights_file};
use crate::cli::settings::{OnBackend, Run};
use crate::dataset::Split;
use crate::denoiser::{Denoiser, DenoiserFile};
use crate::diffusion::sample::{Resampling, SamplerConfig, SamplingConfig, Threshold};
use crate::diffusion::{Diffusion, Sampler};
use crate::files;
use crate::ops::DenoiserBackend;
use crate::trainer::read_denoiser;
use anomalies::Detection;
use errors::{Errors, Windows};

/// Compares what a diffusion model makes of held-out windows with networks trained for the task by regression (README.md,
/// "Regression beside diffusion"), and with a filter, straight lines and a distance of moments.
///
/// Errors are root mean squares in the network's units (a channel's natural unit divided by its scale), over all channels, with
/// standard errors in which windows of one recording count as one. --json has each channel's in natural units, too. Gaps are of
/// all channels. Nobody is told a window's class.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// The run of a network that was trained to denoise by regression
    #[arg(long, value_name = "DIR")]
    denoiser: Option<PathBuf>,
    /// The run of a network that was trained to fill gaps by regression
    #[arg(long, value_name = "DIR")]
    imputer: Option<PathBuf>,
    /// Runs of diffusion models, each trained with other classes left out (data.leave_out): how well their held-out windows are
    /// told from those of the known classes
    #[arg(long, value_name = "DIR", num_args = 1..)]
    without: Vec<PathBuf>,
    /// Runs of networks that were trained to denoise by regression with the same classes left out
    #[arg(long, value_name = "DIR", num_args = 1.., requires = "without")]
    denoiser_without: Vec<PathBuf>,
    /// Held-out windows whose errors are measured, evenly spread; of the training side as many choose the filter and say what
    /// scores are usual
    #[arg(long, value_name = "N", default_value_t = 100)]
    windows: usize,
    /// Standard deviations of the noise, in the network's units; the nearest that the process has are taken
    #[arg(long, value_name = "SIGMA,...", value_delimiter = ',', default_values_t = [0.1, 0.2, 0.5, 1.0])]
    noise_levels: Vec<f64>,
    /// Rows of the gaps
    #[arg(long, value_name = "ROWS,...", value_delimiter = ',', default_values_t = [8, 16, 32, 64])]
    gap_rows: Vec<usize>,
    /// Diffusion's samples of each window; their mean is a method of its own
    #[arg(long, value_name = "N", default_value_t = 8)]
    draws: u64,
    /// Gaps: steps that each turn of RePaint goes back
    #[arg(long, value_name = "STEPS", default_value_t = 10)]
    jump: usize,
    /// Gaps: times that each stretch is walked
    #[arg(long, value_name = "N", default_value_t = 10)]
    resamples: usize,
    /// Anomalies: the most held-out windows of known and of left-out classes each [default: all]
    #[arg(long, value_name = "N")]
    scored: Option<usize>,
    /// Seed of noise and gaps
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Draw the errors, and what fills the longest gap but one of a window
    #[arg(long, value_name = "FILE.png")]
    picture: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    // Denoising and gaps are drawn by ddpm unless --sampler says otherwise.
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Something that denoises or fills gaps; its number is its color.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Method {
    /// One sample of the diffusion model.
    DiffusionSample,
    /// The mean of several.
    DiffusionMean,
    /// The diffusion model's estimate of the expected signal, in one pass.
    DiffusionOnePass,
    /// A network trained for the task by regression, one pass.
    Regression,
    /// Denoising: the moving average whose reach was best on the training side.
    MovingAverage,
    /// Gaps: straight lines.
    StraightLine,
    /// Denoising: the noisy window as it is.
    Nothing,
}

impl Method {
    /// In the order of their numbers.
    const NAMES: [&str; 7] = [
        "diffusion, a sample",
        "diffusion, mean of samples",
        "diffusion, one pass",
        "regression",
        "moving average",
        "straight line",
        "nothing done",
    ];

    fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// The whole comparison.
#[derive(Serialize)]
struct Comparison {
    network_sha256: String,
    data_sha256: String,
    windows: usize,
    recordings: usize,
    draws: u64,
    sampling: SamplingConfig,
    denoising: Vec<Errors>,
    gaps: Vec<Errors>,
    anomalies: Vec<Detection>,
    seconds: f64,
}

/// A network in memory.
pub(super) struct Net<B: Backend> {
    file: DenoiserFile,
    sha256: String,
    net: Denoiser<B>,
    diffusion: Diffusion,
    device: B::Device,
}

impl<B: DenoiserBackend> Net<B> {
    fn open(path: &Path) -> anyhow::Result<Self> {
        let (file, device) = (read_denoiser(path)?, B::Device::default());
        let (net, diffusion) = (file.net(&device)?, file.diffusion.build()?);
        Ok(Self { sha256: files::sha256(&files::read(path)?), file, net, diffusion, device })
    }

    /// The teacher of another run, whose samples are of the same form.
    fn of_run(dir: &Path, like: &Run) -> anyhow::Result<(Run, Self)> {
        let run = open_run(dir)?;
        let net = Self::open(&weights_file(&run.dir, "teacher")?)?;
        let same = net.file.network.shape == like.data.shape && net.file.channels_scale == like.data.channels_scale;
        if !same {
            return Err(
                Usage(format!("{} is of other data than --run, or scales them otherwise", dir.display())).into()
            );
        }
        Ok((run, net))
    }

    /// Draws of samples whose class nobody says.
    fn sampler(&self, sampling: SamplingConfig) -> Sampler<'_, B> {
        let guidance = if self.file.network.classes > 1 { 0.0 } else { 1.0 };
        let sampling = SamplingConfig { guidance, ..sampling };
        Sampler { net: &self.net, config: &self.file.network, diffusion: &self.diffusion, sampling }
    }

    /// What a network that was trained to denoise says of noisy windows, in one pass; nothing is cut off.
    fn denoised(&self, noisy: &[f32], sigma: f64) -> Vec<f32> {
        let every = SamplingConfig::ddim(self.diffusion.timesteps(), 1.0);
        let sampler = self.sampler(SamplingConfig { threshold: Threshold::None, ..every });
        let table = sampler.sampling.table(&self.diffusion);
        let worker = self.worker(&sampler, &table, 0);
        one_pass(&worker, noisy, nearest(&table, sigma).0)
    }

    fn worker<'a>(
        &self,
        sampler: &'a Sampler<'a, B>,
        table: &'a [mote_core::step_table::StepRow],
        seed: u64,
    ) -> Worker<'a, B> {
        Worker { sampler, table, seed, class: 0, device: self.device.clone() }
    }
}

/// The expected signal of noisy ones at the level of a row.
fn one_pass<B: DenoiserBackend>(worker: &Worker<'_, B>, noisy: &[f32], row: usize) -> Vec<f32> {
    let row = &worker.table[row];
    worker.map(noisy, |reverse, noisy| {
        reverse.threshold.apply(reverse.denoise.estimate(&(noisy * row.signal), row, None).x0)
    })
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    for (name, wrong) in [
        ("--windows", args.windows < 2),
        ("--draws", args.draws == 0),
        ("--scored", args.scored.is_some_and(|scored| scored < 2)),
        ("--noise-levels", args.noise_levels.iter().any(|&sigma| !(sigma > 0.0 && sigma.is_finite()))),
        ("--gap-rows", args.gap_rows.contains(&0)),
    ] {
        if wrong {
            return Err(Usage(format!("{name}: too small a number")).into());
        }
    }
    anomalies::check(args)?;
    args.network.open()?.on_backend(args)
}

impl OnBackend for Args {
    fn run<B>(&self, run: &Run) -> anyhow::Result<()>
    where
        B: AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let begun = Instant::now();
        let model = Net::<B::InnerBackend>::open(&self.network.path(&run.dir)?)?;
        model.file.diffusion.check_draws()?;
        let (shape, held_out) = (run.data.shape, run.data.held_out());
        if shape.is_image() || shape.is_vector() {
            return Err(Usage(format!("the data are {shape}; `signal compare` is for signals")).into());
        }
        if let Some(rows) = self.gap_rows.iter().find(|&&rows| rows >= shape.width) {
            return Err(Usage(format!("--gap-rows {rows}: a window has {} rows", shape.width)).into());
        }
        anyhow::ensure!(held_out.len() >= 2, "nothing is held out to compare on");
        let base = SamplingConfig {
            sampler: SamplerConfig::Ddpm { variance: Default::default() },
            ..model.file.sampling.clone()
        };
        let sampling = self.sampling.apply(&base)?;
        super::check_restarts(&sampling)?;
        sampling.check(&model.diffusion).map_err(|error| Usage(error.to_string()))?;
        Resampling { jump: self.jump, resamples: self.resamples }
            .check(sampling.table(&model.diffusion).len())
            .map_err(|error| Usage(error.to_string()))?;
        let other = |dir: &Option<PathBuf>| dir.as_deref().map(|dir| Net::of_run(dir, run)).transpose();
        let (denoiser, imputer) = (other(&self.denoiser)?, other(&self.imputer)?);
        if let Some((_, net)) = &denoiser {
            net.file.diffusion.check_draws()?;
        }
        if let (Some(dir), Some((_, net))) = (&self.imputer, &imputer)
            && net.diffusion.gaps.is_none()
        {
            return Err(Usage(format!("{} was not trained to fill gaps (diffusion.gaps)", dir.display())).into());
        }
        let mut detections = Vec::new();
        for dir in &self.without {
            detections.extend(anomalies::detect::<B::InnerBackend>(self, dir, run, sampling.threshold)?);
        }
        let windows = Windows::new(&held_out, self.windows);
        let training = Windows::new(&run.data.train(), self.windows);
        let sampler = model.sampler(sampling);
        let bench = errors::Bench { args: self, model: &model, sampler: &sampler, windows: &windows };
        let denoising = bench.denoising(denoiser.as_ref().map(|(_, net)| net), &training);
        let (gaps, example) = bench.gaps(imputer.as_ref().map(|(_, net)| net));
        let result = Comparison {
            network_sha256: model.sha256.clone(),
            data_sha256: run.data.sha256.clone(),
            windows: windows.len(),
            recordings: windows.recordings(),
            draws: self.draws,
            sampling: sampler.sampling.clone(),
            denoising,
            gaps,
            anomalies: detections,
            seconds: begun.elapsed().as_secs_f64(),
        };
        if let Some(path) = &self.picture {
            files::write_atomically(path, &result.picture(&run.data.channel_names, example).to_png()?)?;
            eprintln!("Wrote {}", path.display());
        }
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&result)?),
            false => result.print(),
        }
        Ok(())
    }
}

impl Comparison {
    fn print(&self) {
        let of = format!("{} held-out windows of {} recordings", self.windows, self.recordings);
        errors::print(&format!("Denoising: error by the noise's deviation, {of}"), &self.denoising);
        errors::print(&format!("Gaps: error in the gap by its rows, {of}"), &self.gaps);
        anomalies::print(&self.anomalies);
        println!("{:.0} s", self.seconds);
    }

    fn picture(&self, channel_names: &[String], example: Example) -> mote_measure::canvas::Canvas {
        let curves = |title: &str, across: &str, errors: &[Errors]| Curves {
            title: title.to_owned(),
            across: across.to_owned(),
            methods: errors.iter().map(Errors::curve).collect(),
        };
        let channels = match channel_names.is_empty() {
            true => (0..example.channels.len()).map(|channel| format!("channel {channel}")).collect(),
            false => channel_names.to_vec(),
        };
        let title = format!("A held-out window with a gap, and errors of {} windows (network's units)", self.windows);
        let curves = [
            curves("error in a gap", "rows of the gap", &self.gaps),
            curves("error after denoising", "deviation of the noise", &self.denoising),
        ];
        comparison(&title, &Method::NAMES, Some(&Example { channels, ..example }), &curves)
    }
}

/// Numbers of `count` of a split's samples, evenly spread; all where there are fewer.
fn spread(split: &Split<'_>, count: usize) -> Vec<usize> {
    let count = count.min(split.len());
    (0..count).map(|number| number * split.len() / count).collect()
}
