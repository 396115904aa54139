//! `mote-train signal`: what a model of signals (or of table rows) does with data that it did not draw.

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use clap::Subcommand;
use mote_core::step_table::StepRow;

use super::Usage;
use super::sample::{Form, NetworkArgs, SamplingArgs, Series, class_number};
use super::settings::{OnBackend, Run};
use crate::diffusion::sample::{
    Known, Resampling, Reverse, SamplerConfig, SamplingConfig, reconstruction_scores, roc_auc, standardized,
};
use crate::diffusion::{Request, Sampler, from_pixels};
use crate::evaluate::SAMPLING_SEED;
use crate::files;
use crate::ops::DenoiserBackend;
use crate::progress::Progress;

/// Most windows of the run's held-out data that scores are compared with.
const REFERENCE: usize = 500;

/// Denoises, imputes or scores a signal (or the rows of a table) with a run's network.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Take noise of a known level away: the reverse process from the step whose noise that is
    Denoise {
        #[command(flatten)]
        common: Common,
        /// The noise's standard deviation, in the network's units (a channel's natural unit divided by its scale)
        #[arg(long, value_name = "SIGMA")]
        noise_level: f64,
        /// Give the expected signal, of least squared error, in one pass; otherwise a likely one, which is rougher
        #[arg(long)]
        mean: bool,
    },
    /// Fill the empty cells by RePaint (Lugmayr et al. 2022), by ddpm unless --sampler says otherwise
    Impute {
        #[command(flatten)]
        common: Common,
        /// Steps that each turn goes back
        #[arg(long, value_name = "STEPS", default_value_t = 10)]
        jump: usize,
        /// Times that each stretch is walked; 1 only replaces the known part
        #[arg(long, value_name = "N", default_value_t = 10)]
        resamples: usize,
        /// Fill with the mean of so many draws
        #[arg(long, value_name = "N", default_value_t = 1)]
        draws: u64,
    },
    /// Score how anomalous each window is: its error after noise of several levels is added and taken away (Graham et al.
    /// 2023), in standard deviations of the run's held-out data
    Score {
        #[command(flatten)]
        common: Common,
        /// Noise levels, spread over the steps
        #[arg(long, value_name = "N", default_value_t = 4)]
        levels: usize,
        /// Anomalous data of the same form: prints how well the score tells both apart (ROC-AUC)
        #[arg(long, value_name = "FILE")]
        anomalies: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    network: NetworkArgs,
    /// The signal: .csv, a row an instant (or a table's row), a column a channel, in natural units; empty cells are gaps
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// Where the result goes: a .csv of the same form; for scores, each window's first row and score
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The data's class, its number or its name [default: unknown]
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Seed of the noise
    #[arg(long, default_value_t = SAMPLING_SEED)]
    seed: u64,
    #[command(flatten)]
    sampling: SamplingArgs,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    args.task.common().network.open()?.on_backend(&args.task)
}

impl Task {
    fn common(&self) -> &Common {
        match self {
            Self::Denoise { common, .. } | Self::Impute { common, .. } | Self::Score { common, .. } => common,
        }
    }

    fn sampling(&self, drawn_as: &SamplingConfig, classes: usize) -> anyhow::Result<SamplingConfig> {
        let common = self.common();
        let mut base = drawn_as.clone();
        if matches!(self, Self::Impute { .. }) {
            base.sampler = SamplerConfig::Ddpm { variance: Default::default() };
        }
        // Of an unknown class: the unconditional network, where there is more than one class to be unknown.
        base.guidance = if common.class.is_none() && classes > 1 { 0.0 } else { 1.0 };
        let sampling = common.sampling.apply(&base)?;
        if !sampling.sampler.one_row_a_level() {
            let message =
                "cannot begin or turn back within its steps; take --sampler ddpm, ddim, euler, churn or consistency";
            return Err(Usage(format!("{:?} {message}", sampling.sampler)).into());
        }
        Ok(sampling)
    }
}

impl OnBackend for Task {
    fn run<B>(&self, run: &Run) -> anyhow::Result<()>
    where
        B: AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let (common, device) = (self.common(), B::Device::default());
        let file = common.network.file(&run.dir)?;
        let (form, network) = (Form::of(&file), &file.network);
        if form.shape.is_image() {
            let message = "the network draws images; `mote-train signal` is for signals and table rows";
            return Err(Usage(message.to_owned()).into());
        }
        let diffusion = file.diffusion.build()?;
        let sampling = self.sampling(&file.sampling, network.classes)?;
        sampling.check(&diffusion).map_err(|error| Usage(error.to_string()))?;
        let class = common.class.as_deref().map(|class| class_number(class, &run.data.class_names)).transpose()?;
        let net = file.net::<B::InnerBackend>(&device)?;
        let table = sampling.table(&diffusion);
        let sampler = Sampler { net: &net, config: network, diffusion: &diffusion, sampling };
        let worker = Worker { sampler: &sampler, table: &table, seed: common.seed, class: class.unwrap_or(0), device };
        match self {
            Self::Denoise { noise_level, mean, .. } => denoise(common, &form, &worker, *noise_level, *mean),
            Self::Impute { jump, resamples, draws, .. } => {
                impute(common, &form, &worker, Resampling { jump: *jump, resamples: *resamples }, *draws)
            }
            Self::Score { levels, anomalies, .. } => {
                let wanted = format!("the network draws {}, the run's data are {}", form.shape, run.data.shape);
                anyhow::ensure!(form.shape == run.data.shape, wanted);
                score(common, &form, &worker, *levels, anomalies.as_deref(), &reference(run))
            }
        }
    }
}

/// A network at work on windows.
struct Worker<'a, B: Backend> {
    sampler: &'a Sampler<'a, B>,
    table: &'a [StepRow],
    seed: u64,
    class: usize,
    device: B::Device,
}

impl<B: DenoiserBackend> Worker<'_, B> {
    /// What `each` makes of the windows, `[windows, 1, width, channels]`, batch by batch.
    fn map(&self, windows: &[f32], mut each: impl FnMut(&Reverse<'_, B>, Tensor<B, 4>) -> Tensor<B, 4>) -> Vec<f32> {
        let len = self.sampler.config.shape.len();
        let count = windows.len() / len;
        let bar = Progress::new("working on windows");
        let request = Request { seed: self.seed, count, class: Some(self.class) };
        let done = |done| bar.update(done, count);
        let results = self.sampler.draw_with(request, None, &self.device, done, |reverse, _| {
            let numbers = reverse.noise.samples.start as usize * len..reverse.noise.samples.end as usize * len;
            each(reverse, from_pixels(windows[numbers].to_vec(), self.sampler.config.shape, &self.device))
        });
        bar.finish();
        results
    }

    /// Reconstruction errors of windows, `[levels][windows]`.
    fn scores(&self, windows: &[f32], first_rows: &[usize]) -> Vec<Vec<f64>> {
        let mut scores = vec![Vec::new(); first_rows.len()];
        self.map(windows, |reverse, data| {
            for (all, part) in scores.iter_mut().zip(reconstruction_scores(reverse, &data, first_rows)) {
                all.extend(part);
            }
            data
        });
        scores
    }
}

fn denoise<B: DenoiserBackend>(
    common: &Common,
    form: &Form,
    worker: &Worker<'_, B>,
    noise_level: f64,
    mean: bool,
) -> anyhow::Result<()> {
    if !(noise_level.is_finite() && noise_level > 0.0) {
        return Err(Usage(format!("--noise-level {noise_level} must be more than 0")).into());
    }
    let series = whole_series(form, &common.input)?;
    let width = form.shape.width;
    let (first_row, row) = nearest(worker.table, noise_level);
    let found = worker.map(&series.cut(width), |reverse, data| {
        // Noise on the signal is noise on the state once the state has the signal's amplitude.
        let state = data * row.signal;
        if mean {
            return reverse.threshold.apply(reverse.denoise.estimate(&state, row, None).x0);
        }
        reverse.run(state, first_row)
    });
    write_series(common, form, &series.joined(width, &found))?;
    println!("from step {} of {}, made for noise of {:.3}", first_row + 1, worker.table.len(), row.noise / row.signal);
    Ok(())
}

/// The row whose sigma is nearest, in its logarithm.
fn nearest(table: &[StepRow], sigma: f64) -> (usize, &StepRow) {
    let distance = |row: &StepRow| (row.noise / row.signal / sigma).ln().abs();
    let rows = table.iter().enumerate();
    rows.min_by(|a, b| distance(a.1).total_cmp(&distance(b.1))).expect("a table has rows")
}

fn impute<B: DenoiserBackend>(
    common: &Common,
    form: &Form,
    worker: &Worker<'_, B>,
    resampling: Resampling,
    draws: u64,
) -> anyhow::Result<()> {
    resampling.check(worker.table.len()).map_err(|error| Usage(error.to_string()))?;
    if draws == 0 {
        return Err(Usage("--draws must be at least 1".to_owned()).into());
    }
    let series = form.series(&common.input)?;
    let width = form.shape.width;
    let windows = series.cut(width);
    let gaps = series.units.iter().filter(|unit| unit.is_nan()).count();
    let known = |data: &Tensor<B, 4>| {
        let mask = data.clone().is_nan().bool_not().float();
        Known { data: data.clone().mask_fill(data.clone().is_nan(), 0.0), mask }
    };
    let mut sums = vec![0.0; windows.len()];
    for draw in 0..draws {
        // Each draw has noise of its own; the first one's is the request's.
        let worker = Worker { seed: worker.seed.wrapping_add(draw << 32), device: worker.device.clone(), ..*worker };
        let drawn = worker.map(&windows, |reverse, data| reverse.inpaint(&known(&data), resampling));
        sums.iter_mut().zip(drawn).for_each(|(sum, value)| *sum += value / draws as f32);
    }
    let filled = series.joined(width, &sums);
    // What was known stays as it was written.
    let units = series.units.iter().zip(&filled.units).map(|(&was, &is)| if was.is_nan() { is } else { was }).collect();
    write_series(common, form, &Series { units, ..series })?;
    println!("{gaps} cells filled");
    Ok(())
}

fn score<B: DenoiserBackend>(
    common: &Common,
    form: &Form,
    worker: &Worker<'_, B>,
    levels: usize,
    anomalies: Option<&Path>,
    reference: &[f32],
) -> anyhow::Result<()> {
    let rows = worker.table.len();
    if !(1..=rows).contains(&levels) {
        return Err(Usage(format!("--levels {levels} of {rows} steps; give 1 to {rows}")).into());
    }
    let first_rows: Vec<usize> = (0..levels).map(|level| (2 * level + 1) * rows / (2 * levels)).collect();
    let series = whole_series(form, &common.input)?;
    let width = form.shape.width;
    let normal = worker.scores(reference, &first_rows);
    let scores = |series: &Series| standardized(&worker.scores(&series.cut(width), &first_rows), &normal);
    let found = scores(&series);
    let mut text = String::from("row,score\n");
    for (row, score) in series.windows(width).iter().zip(&found) {
        text.push_str(&format!("{row},{score:.4}\n"));
    }
    files::write_atomically(&common.out, text.as_bytes())?;
    println!("Wrote {} ({} windows of {width} rows)", common.out.display(), found.len());
    if let Some(path) = anomalies {
        let anomalous = scores(&whole_series(form, path)?);
        println!(
            "ROC-AUC {:.3} against {} windows of {}",
            roc_auc(&found, &anomalous),
            anomalous.len(),
            path.display()
        );
    }
    Ok(())
}

/// Windows that the network was not trained on.
fn reference(run: &Run) -> Vec<f32> {
    let held_out = run.data.held_out();
    (0..held_out.len().min(REFERENCE)).flat_map(|index| held_out.units(index)).collect()
}

fn whole_series(form: &Form, path: &Path) -> anyhow::Result<Series> {
    let series = form.series(path)?;
    let gap = series.units.iter().position(|unit| unit.is_nan());
    if let Some(at) = gap {
        let row = at / series.channels + 1;
        anyhow::bail!("{} has a gap in row {row}; fill it with `mote-train signal impute`", path.display());
    }
    Ok(series)
}

fn write_series(common: &Common, form: &Form, series: &Series) -> anyhow::Result<()> {
    files::write_atomically(&common.out, form.to_csv(series).as_bytes())?;
    println!("Wrote {} ({} rows)", common.out.display(), series.rows());
    Ok(())
}
