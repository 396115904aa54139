//! `mote-train diff`.

use std::path::PathBuf;

use anyhow::Context;
use mote_core::Model;
use mote_costs::in_words;
use serde::Serialize;

use super::student;
use crate::evaluate::SAMPLING_SEED;
use crate::files;
use crate::quantize::{Agreement, compare, first_divergence};

/// Compares a run's float student with its model, operation by operation, on the states of the model's own trajectories, and
/// names the first operation that diverges.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    student: student::StudentArgs,
    /// The model [default: DIR/model.mote]
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// An operation whose signal is less than so many decibels above its noise diverges: at 20 the error is a tenth
    #[arg(long, value_name = "DB", default_value_t = 20.0)]
    below: f64,
    /// Samples to draw, classes in turn
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Output {
    /// The first operation that diverges.
    first_divergence: Option<usize>,
    below_db: f64,
    operations: Vec<Operation>,
}

#[derive(Serialize)]
struct Operation {
    op: usize,
    what: String,
    /// Root mean square of the floats.
    size: f64,
    /// Root mean square of the differences.
    error: f64,
    worst: f64,
    signal_to_noise_db: f64,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let path = args.model.unwrap_or_else(|| args.student.run.join("model.mote"));
    let file = files::read(&path)?;
    let model = Model::parse(&file).with_context(|| path.display().to_string())?;
    let graph = args.student.lowered()?;
    // What `quantize --halves apart` wrote has more operations.
    let apart = graph.with_halves_apart();
    let graph = if apart.ops.len() == usize::from(model.ops()) { apart } else { graph };
    let agreements = compare(&graph, &model, SAMPLING_SEED, args.samples as usize)?;
    let first = first_divergence(&agreements, args.below);
    let operation = |(op, agreement): (usize, &Agreement)| Operation {
        op,
        what: in_words(&model.op(op as u16)),
        size: agreement.size(),
        error: agreement.error(),
        worst: agreement.worst,
        signal_to_noise_db: agreement.decibels(),
    };
    let operations: Vec<Operation> = agreements.iter().enumerate().map(operation).collect();
    if args.json {
        let output = Output { first_divergence: first, below_db: args.below, operations };
        println!("{}", serde_json::to_string_pretty(&output)?);
        return Ok(());
    }
    println!("{:>3}  {:<35} {:>10} {:>10} {:>10} {:>7}", "op", "what", "size", "error", "worst", "SNR dB");
    for Operation { op, what, size, error, worst, signal_to_noise_db } in &operations {
        let mark = if first == Some(*op) { "  <- diverges" } else { "" };
        println!("{op:>3}  {what:<35} {size:>10.5} {error:>10.5} {worst:>10.5} {signal_to_noise_db:>7.1}{mark}");
    }
    match first {
        Some(op) => {
            println!("Operation {op} is the first below {} dB: look at what it reads and at its weights.", args.below)
        }
        None => println!("No operation is below {} dB.", args.below),
    }
    Ok(())
}
