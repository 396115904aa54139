//! The command line of `mote-train`. Each subcommand is a file in `cli/` with its `Args` and a `run`.
//!
//! Exit codes: 0 done, 1 failure, 2 wrong usage (clap's own, or an error that is [`Usage`]).

mod data;
mod eval;
mod judge;
mod report;

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
    /// Draw a .mote model's samples on this machine; print their Fréchet distance and class accuracy
    Eval(eval::Args),
    /// Print the accuracy of the classifier that judges samples, or train it anew
    Judge(judge::Args),
    /// Compare real, float, int8 and chip samples of a run: report.json, sheet.png and a table
    Report(report::Args),
}

impl Cli {
    /// Runs the subcommand. Results go to standard output, progress to standard error.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Eval(args) => eval::run(args),
            Command::Judge(args) => judge::run(args),
            Command::Report(args) => report::run(args),
        }
    }
}

/// An argument whose value cannot be right, found after parsing; ends the program with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);
