//! The command line of `mote-train`. Each subcommand is a file in `cli/` with its `Args` and a `run`.
//!
//! Exit codes: 0 done, 1 failure, 2 wrong usage (clap's own, or an error that is [`Usage`]).

mod bench;
mod classifier;
mod data;
mod devices;
mod diff;
mod distill;
mod ema;
mod eval;
mod export;
mod judge;
mod quantize;
mod report;
mod sample;
mod settings;
mod signal;
mod student;
mod train;
mod weights;

use clap::{Parser, Subcommand};

/// Trains, distills, quantizes and evaluates small diffusion models for microcontrollers.
#[derive(Debug, Parser)]
#[command(name = "mote-train", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a teacher; goes on where a stopped run of the same folder left off
    Train(train::Args),
    /// Distill a run's teacher into a student of few steps, one pass a step
    Distill(distill::Args),
    /// Average a run's weights over another part of training, after training
    Ema(ema::Args),
    /// Calibrate a run's student and write it as an int8 .mote model
    Quantize(quantize::Args),
    /// Compare a run's float student with its int8 model, operation by operation
    Diff(diff::Args),
    /// Write a run's student as an ONNX network with quantization nodes
    Export(export::Args),
    /// Exchange a run's weights with PyTorch
    Weights(weights::Args),
    /// Draw with a teacher, a student or any checkpoint: every sampler, guidance, inpainting, interpolation
    Sample(sample::Args),
    /// Denoise, impute or score a signal or the rows of a table, or compare with regression
    Signal(signal::Args),
    /// Train a classifier of noised data, which guides `sample --classifier`
    Classifier(classifier::Args),
    /// Measure samples: of an int8 model, of a run's float network, of a file, or of all released models
    ///
    /// Prints every metric with what real samples of the same number score (its floor) and the time it took, then what the
    /// judge says of each class. Distances are taken in the features of the data set's judge, a small classifier: those of
    /// different judges cannot be compared, nor with published ones.
    Eval(eval::Args),
    /// Print the accuracy of the classifier whose features measure samples, or train one for other data
    ///
    /// Data of a single class have nothing to classify: their judge learns to tell variants of a sample apart. Vectors of a
    /// single class need none.
    Judge(judge::Args),
    /// Time training steps, beside PyTorch's
    Bench(bench::Args),
    /// Compare real, float, int8 and chip samples of a run: report.json, sheet.png and a table
    Report(report::Args),
}

impl Cli {
    /// Runs the subcommand. Results go to standard output, progress to standard error.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Train(args) => train::run(args),
            Command::Distill(args) => distill::run(args),
            Command::Ema(args) => ema::run(args),
            Command::Quantize(args) => quantize::run(args),
            Command::Diff(args) => diff::run(args),
            Command::Export(args) => export::run(args),
            Command::Weights(args) => weights::run(args),
            Command::Sample(args) => sample::run(args),
            Command::Signal(args) => signal::run(args),
            Command::Classifier(args) => classifier::run(args),
            Command::Eval(args) => eval::run(args),
            Command::Judge(args) => judge::run(args),
            Command::Bench(args) => bench::run(args),
            Command::Report(args) => report::run(args),
        }
    }
}

/// An argument whose value cannot be right, found after parsing; ends the program with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// A number; `k` is 1024, `M` a million.
fn amount(text: &str) -> Result<usize, String> {
    let (digits, factor) = match text.char_indices().last() {
        Some((end, 'k' | 'K')) => (&text[..end], 1024.0),
        Some((end, 'm' | 'M')) => (&text[..end], 1e6),
        _ => (text, 1.0),
    };
    let number = digits.parse::<f64>().ok().filter(|number| *number > 0.0 && *number < 1e12);
    number
        .map(|number| (number * factor) as usize)
        .ok_or_else(|| "give a number, as 64k (of 1024) or 20M (a million)".to_owned())
}
