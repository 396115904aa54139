//! `mote-train signal`: what a model of signals (or of table rows) does with data that it did not draw.

mod compare;

use std::path::{Path, PathBuf};

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use clap::Subcommand;
use mote_core::step_table::StepRow;

use super::Usage;
use super::sample::{Form, NetworkArgs, SamplingArgs, Series, check_restarts, class_number};
use super::settings::{OnBackend, Run};
use crate::diffusion::sample::{
    Known, Resampling, Reverse, SamplerConfig, SamplingConfig, reconstruction_scores, roc_auc, standardized,
};
use crate::diffusion::{Request, Sampler, fill, from_pixels};
use crate::evaluate::SAMPLING_SEED;
use crate::files;
use crate::ops::DenoiserBackend;
use crate::progress::Progress;

/// Most windows of the run's held-out data that scores are compared with.
const REFERENCE: usize = 500;

/// Denoises, imputes or scores a signal (or the rows of a table) with a run's network, or compares it with others.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[command(flatten)]
    One(Box<Task>),
    /// Compare what the network makes of held-out signals with plain regression and with what needs no network
    Compare(Box<compare::Args>),
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
    /// Fill the empty cells by RePaint (Lugmayr et al. 2022), by ddpm unless --sampler says otherwise; by a network trained for it
    /// (diffusion.gaps) in one pass, where a row with an empty cell is filled as a whole row is
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
    match args.verb {
        Verb::One(task) => task.common().network.open()?.on_backend(&*task),
        Verb::Compare(args) => compare::run(&args),
    }
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
        check_restarts(&sampling)?;
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
        if !matches!(self, Self::Impute { .. }) {
            file.diffusion.check_draws()?;
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
                let (found, wanted) = (form.shape, run.data.shape);
                anyhow::ensure!(found == wanted, "the network draws {found}, the run's data are {wanted}");
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
    println!("from step {} of {}, made for noise of {:.3}", first_row + 1, worker.table.len(), row.sigma());
    Ok(())
}

/// The row whose sigma is nearest, in its logarithm.
fn nearest(table: &[StepRow], sigma: f64) -> (usize, &StepRow) {
    let distance = |row: &StepRow| (row.sigma() / sigma).ln().abs();
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
    let in_one_pass = worker.sampler.diffusion.gaps.is_some();
    if !in_one_pass {
        resampling.check(worker.table.len()).map_err(|error| Usage(error.to_string()))?;
    }
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
        let drawn = worker.map(&windows, |reverse, data| {
            let known = known(&data);
            if in_one_pass {
                let rows = known.mask.min_dim(1);
                return fill(worker.sampler.net, worker.sampler.config, &known.data, &rows);
            }
            reverse.inpaint(&known, resampling)
        });
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

#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use clap::Parser;

    use super::*;
    use crate::dataset::SampleShape;
    use crate::denoiser::{Architecture, DenoiserConfig, DenoiserFile, Output, UNetConfig};
    use crate::diffusion::{DiffusionConfig, Gaps, Objective, ScheduleConfig};

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        task: Task,
    }

    /// Runs a task on the text with an untrained network of windows of 8 rows and 2 channels; what it writes.
    fn run(words: &str, text: &str) -> anyhow::Result<String> {
        run_with(words, text, None)
    }

    /// The same, the network one that fills gaps.
    fn run_with(words: &str, text: &str, gaps: Option<Gaps>) -> anyhow::Result<String> {
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name).to_str().expect("a UTF-8 temporary folder").to_owned();
        std::fs::write(path("in.csv"), text)?;
        let words = format!("signal {words} --run none --in {} --out {}", path("in.csv"), path("out.csv"));
        let task = Line::try_parse_from(words.split_whitespace()).unwrap_or_else(|error| panic!("{error}")).task;
        let unet: UNetConfig =
            serde_json::from_str(r#"{"widths": [4], "blocks": 1, "middle": 1, "groups": 2, "embedding": 8}"#)?;
        let (architecture, output) = (Architecture::UNet(unet), Output::Mean);
        let (shape, self_conditioning) = (SampleShape::signal(8, 2), false);
        let condition_channels = usize::from(gaps.is_some());
        let network = DenoiserConfig { shape, classes: 1, architecture, output, self_conditioning, condition_channels };
        let net = network.init::<Flex>(1, &Default::default())?;
        let file = DenoiserFile {
            network,
            diffusion: DiffusionConfig {
                gaps,
                ..DiffusionConfig::new(Objective::V, 1000, ScheduleConfig::Cosine { offset: 0.008 })
            },
            sampling: SamplingConfig::ddim(12, 1.5),
            channels_scale: Vec::new(),
            parameters: Vec::new(),
        };
        let (diffusion, sampling) = (file.diffusion.build()?, task.sampling(&file.sampling, 1)?);
        let (table, form) = (sampling.table(&diffusion), Form::of(&file));
        let sampler = Sampler { net: &net, config: &file.network, diffusion: &diffusion, sampling };
        let worker = Worker { sampler: &sampler, table: &table, seed: 1, class: 0, device: Default::default() };
        match &task {
            Task::Denoise { common, noise_level, mean } => denoise(common, &form, &worker, *noise_level, *mean)?,
            Task::Impute { common, jump, resamples, draws } => {
                impute(common, &form, &worker, Resampling { jump: *jump, resamples: *resamples }, *draws)?;
            }
            Task::Score { common, levels, .. } => {
                let reference: Vec<f32> = (0..10 * 16).map(|i| 0.3 * (i as f32).sin()).collect();
                score(common, &form, &worker, *levels, None, &reference)?;
            }
        }
        Ok(std::fs::read_to_string(path("out.csv"))?)
    }

    /// 20 rows: two windows and a half.
    fn rows(cell: impl Fn(usize, usize) -> String) -> String {
        (0..20).map(|row| format!("{},{}\n", cell(row, 0), cell(row, 1))).collect()
    }

    #[test]
    fn gaps_are_filled_and_what_is_known_stays() {
        let gap = |row: usize, channel: usize| row % 7 == 3 && channel == 0 || row > 17;
        let text = rows(|row, channel| if gap(row, channel) { String::new() } else { format!("0.1{row:02}") });
        // By RePaint, and by a network that is trained for it.
        for (words, gaps) in
            [("impute --jump 3 --resamples 2 --draws 2", None), ("impute", Some(Gaps { rows: [1, 4] }))]
        {
            let filled = run_with(words, &text, gaps).unwrap();
            assert_eq!(filled.lines().count(), 20);
            for (row, line) in filled.lines().enumerate() {
                for (channel, cell) in line.split(',').enumerate() {
                    let value: f32 = cell.parse().unwrap_or_else(|_| panic!("row {row}: {line}"));
                    let as_written = value == format!("0.1{row:02}").parse::<f32>().unwrap();
                    assert!(value.is_finite() && as_written != gap(row, channel), "row {row}: {line}");
                }
            }
        }
    }

    /// The untrained network says v = 0, so that the data are `signal x`: for noise of 0.5 that is a signal over 1.25.
    #[test]
    fn the_expected_signal_is_the_estimate_at_the_step_of_that_noise() {
        let text = rows(|row, channel| format!("{}", 0.02 * (row + channel) as f32));
        let found = run("denoise --mean --steps 1000 --noise-level 0.5", &text).unwrap();
        for (row, line) in found.lines().enumerate() {
            let value: f32 = line.split(',').next().unwrap().parse().unwrap();
            assert!((value - 0.02 * row as f32 / 1.25).abs() < 2e-3, "row {row}: {value}");
        }
        assert_eq!(run("denoise --noise-level 0.5", &text).unwrap().lines().count(), 20);
    }

    #[test]
    fn each_window_gets_a_score_and_gaps_are_refused() {
        let text = rows(|row, _| format!("{}", if row < 8 { 0.3 } else { 3.0 }));
        let scores = run("score --levels 2", &text).unwrap();
        let score = |line: &str| line.split(',').nth(1).unwrap().parse::<f64>().unwrap();
        let values: Vec<f64> = scores.lines().skip(1).map(score).collect();
        assert!(scores.starts_with("row,score\n0,") && values.len() == 3 && values[2] > values[0] + 3.0, "{scores}");
        let gap = rows(|row, _| if row == 4 { String::new() } else { "1".to_owned() });
        let error = run("score", &gap).unwrap_err();
        assert!(error.to_string().contains("gap in row 5"), "{error}");
        assert!(run("denoise --noise-level 0", &text).unwrap_err().to_string().contains("must be more than 0"));
        let error = run("impute --sampler heun", &text).unwrap_err().to_string();
        assert!(error.contains("cannot begin or turn back"), "{error}");
    }
}
