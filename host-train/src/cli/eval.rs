//! `mote-train eval`.

use std::path::PathBuf;

use serde::Serialize;

use super::Usage;
use super::data::DataArgs;
use super::nll;
use crate::evaluate::SAMPLING_SEED;
use crate::evaluate::draw::draw;
use crate::evaluate::score::{FEWEST, Floor, Metric, Part, Score};
use crate::files;
use crate::progress::Progress;

/// Draws samples of a .mote model on this machine and prints how good they are.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The int8 model
    #[arg(long, value_name = "FILE", required_unless_present = "nll")]
    model: Option<PathBuf>,
    /// Samples to draw, a multiple of the number of classes
    #[arg(long, value_name = "N", default_value_t = 400)]
    samples: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    nll: nll::Args,
    #[command(flatten)]
    data: DataArgs,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Output {
    model_sha256: String,
    data_sha256: String,
    judge_sha256: String,
    seed: u64,
    score: Score,
    floor: Floor,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    if args.nll.nll {
        return nll::run(&args.nll, args.samples, args.json);
    }
    let loaded = args.data.load()?;
    let scorer = loaded.scorer(Part::HeldOut)?;
    let classes = scorer.shape().classes;
    if args.samples < FEWEST || !args.samples.is_multiple_of(classes) {
        return Err(Usage(format!("--samples {} is not a multiple of the {classes} classes", args.samples)).into());
    }
    let model = args.model.as_deref().ok_or_else(|| Usage("eval needs --model FILE".to_owned()))?;
    let file = files::read(model)?;
    let progress = Progress::new("drawing int8 samples");
    let samples = draw(&file, SAMPLING_SEED, args.samples, |done| progress.update(done, args.samples))?;
    progress.finish();
    anyhow::ensure!(
        samples.shape == scorer.shape().sample(),
        "the model draws {}, the data is {}; give --data and --judge that fit",
        samples.shape,
        scorer.shape()
    );
    let output = Output {
        model_sha256: files::sha256(&file),
        data_sha256: loaded.dataset.sha256.clone(),
        judge_sha256: loaded.judge_sha256.clone(),
        seed: SAMPLING_SEED,
        score: scorer.score(&samples.all_units()),
        floor: scorer.floor(Metric::Frechet, args.samples)[0],
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&output)?);
        return Ok(());
    }
    let Output { score, floor, .. } = &output;
    println!("samples           {} (seed {SAMPLING_SEED}, sample i has class i % {classes})", score.n);
    println!("Fréchet distance  {:.3} to {} held-out images", score.frechet, scorer.real().wanted.len());
    println!("  real floor      {:.3} +- {:.3} with {} training images", floor.mean, floor.deviation, floor.n);
    Ok(())
}
