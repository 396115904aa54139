//! `mote-train eval`.

mod by_noise;
mod nll;
mod subject;
mod table;

use std::path::PathBuf;

use serde::Serialize;

use super::data::DataArgs;
use crate::evaluate::SAMPLING_SEED;
use crate::evaluate::evaluation::{Evaluation, picture};
use crate::evaluate::score::{Metric, Part};
use crate::files;

use subject::{Subject, SubjectArgs};

/// What to measure, and against what.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to measure, separated by commas [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "METRICS")]
    metrics: Vec<Metric>,
    /// Real samples to measure against
    #[arg(long, value_enum, default_value_t, value_name = "PART")]
    against: Part,
    /// Draw a picture: real samples, these, and the training samples nearest to them
    #[arg(long, value_name = "PNG")]
    sheet: Option<PathBuf>,
    /// Draw and measure every released model of a folder and print them as one table, beside what their cards recorded
    #[arg(long, value_name = "DIR", num_args = 0..=1, require_equals = true, default_missing_value = table::RELEASED)]
    table: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    nll: nll::NllArgs,
    #[command(flatten)]
    noise: by_noise::NoiseArgs,
    #[command(flatten)]
    data: DataArgs,
    // The last, for it ends with a heading of its own.
    #[command(flatten)]
    subject: SubjectArgs,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Output {
    /// The model, the network or the file of samples.
    subject: String,
    /// Of its file.
    subject_sha256: String,
    data_sha256: String,
    judge_sha256: String,
    /// Of the samples, where they were drawn here.
    seed: Option<u64>,
    /// Time to draw them.
    drawing_seconds: Option<f64>,
    #[serde(flatten)]
    evaluation: Evaluation,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    if let Some(folder) = &args.table {
        return table::run(folder, args.json);
    }
    if args.nll.nll {
        return nll::run(&args.nll, &args.subject, args.json);
    }
    if args.noise.loss_by_noise {
        return by_noise::run(&args.subject, args.data.options(), args.sheet.as_deref(), args.json);
    }
    let run = args.subject.open_run()?;
    let loaded = args.data.load(run.as_ref())?;
    let scorer = loaded.scorer(args.against)?;
    let Subject { name, file_sha256, samples, drawing } = args.subject.samples(run.as_ref(), scorer.shape())?;
    let metrics = if args.metrics.is_empty() { &Metric::ALL[..] } else { &args.metrics };
    let evaluation = Evaluation::measure(&scorer, &samples, metrics)?;
    if let Some(path) = &args.sheet {
        files::write_atomically(path, &picture(&scorer, &samples, &name)?.to_png()?)?;
    }
    let output = Output {
        subject: name,
        subject_sha256: file_sha256,
        data_sha256: loaded.dataset.sha256.clone(),
        judge_sha256: loaded.judge_sha256.clone(),
        seed: drawing.map(|_| SAMPLING_SEED),
        drawing_seconds: drawing,
        evaluation,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&output)?);
        return Ok(());
    }
    print!("{}: {}", output.subject, output.evaluation);
    println!();
    if let Some(seconds) = drawing {
        println!("Drawn in {seconds:.1} s: seed {SAMPLING_SEED}, sample i has class i % {}.", scorer.shape().classes);
    }
    println!("Judge {}, data {}.", short(&output.judge_sha256), short(&output.data_sha256));
    println!(
        "frechet, kid: small is good. precision, recall, coverage: 1 is best; density: about 1. nearer: 0.5, 1 is copies."
    );
    println!(
        "As many of each class in turn are not drawn at random, so few of them have a kid below 0: its floor says how far."
    );
    if let Some(path) = &args.sheet {
        println!("Wrote {}", path.display());
    }
    Ok(())
}

/// The first 12 digits of a hash.
fn short(sha256: &str) -> &str {
    sha256.get(..12).unwrap_or(sha256)
}
