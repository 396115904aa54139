//! The one front door: `cargo xtask <verb>`.
//!
//! It runs cargo, the training program and the emulator; it never compiles the training library into itself, so it is
//! ready in seconds.

mod board;
mod chip_log;
mod cuda;
mod cycles;
mod drawing;
mod elf;
mod emulator;
mod firmware;
mod images;
mod model_file;
mod places;
mod process;
mod remote;
mod series;
mod task;
mod toolchain;
mod verb;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Train a small diffusion model, shrink it, and draw with it on a microcontroller.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find or install what is missing: the embedded targets and the emulator
    Setup(verb::setup::Arguments),
    /// From data to a picture drawn by an emulated microcontroller: train, distill, quantize, draw, report
    Demo(verb::demo::Arguments),
    /// Set up what is missing, then run every check and test, the emulated firmware's included
    Test(verb::test::Arguments),
    /// Fetch data sets, list them, and look at any data before training on it (passed on to mote-data)
    Data(verb::data::Arguments),
    /// Train a teacher (passed on to mote-train)
    Train(verb::training::Arguments),
    /// Distill the trained teacher into a small student with few steps (passed on to mote-train)
    Distill(verb::training::Arguments),
    /// Average a run's weights over another part of training, after training (passed on to mote-train)
    Ema(verb::training::Arguments),
    /// Quantize the student and write a .mote file (passed on to mote-train)
    Quantize(verb::training::Arguments),
    /// Compare the float student with the .mote file, operation by operation: the first that diverges (passed on to mote-train)
    Diff(verb::training::Arguments),
    /// Write the student as an ONNX network for other runtimes (passed on to mote-train)
    Export(verb::training::Arguments),
    /// Draw with a teacher, a student or any checkpoint: samplers, guidance, inpainting, interpolation (passed on to mote-train)
    Sample(verb::training::Arguments),
    /// Denoise, impute or score a signal or the rows of a table, or compare with regression (passed on to mote-train)
    Signal(verb::training::Arguments),
    /// Train a classifier of noised data to guide samples (passed on to mote-train)
    Classifier(verb::training::Arguments),
    /// Exchange a run's weights with PyTorch (passed on to mote-train)
    Weights(verb::training::Arguments),
    /// Measure samples: of a .mote file, a run's float network, a file, or all released models (passed on to mote-train)
    Eval(verb::training::Arguments),
    /// Train the classifier that `eval` measures samples of other data with, or print its accuracy (passed on to mote-train)
    Judge(verb::training::Arguments),
    /// Compare real, float, int8 and chip samples of a run (passed on to mote-train)
    Report(verb::training::Arguments),
    /// Show everything about a .mote file: shapes, steps, operations, memory over time, estimated times on chips
    Inspect(verb::inspect::Arguments),
    /// Draw pictures with a .mote file, on the host or on the emulated chip: the same bytes either way
    Generate(Box<verb::generate::Arguments>),
    /// Ask a board that runs Mote's firmware: identity, self-test, benchmark, model slots
    Device(verb::device::Arguments),
    /// Put firmware, a model or both on a board, real or emulated; show what lies where in its memory
    Flash(verb::flash::Arguments),
    /// Make a key for signing models: a secret file and a public one
    Keygen(verb::sign::KeygenArguments),
    /// Sign a model: FILE.sig beside it, which `flash` and updates pass on to the board
    Sign(verb::sign::SignArguments),
    /// Make a stand-alone firmware project for a board
    NewFirmware(verb::new_firmware::Arguments),
    /// Measure speed beside others: kernels on an emulated chip, training on this machine
    Bench(verb::bench::Arguments),
    /// What continuous integration runs: `test`, without progress bars
    Ci(verb::test::Arguments),
}

/// A mistake in how the command was called: exit status 2 instead of 1.
#[derive(Debug)]
struct UsageError(String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Runs a command as it is typed after `cargo xtask`.
fn command(words: &[&str]) -> anyhow::Result<()> {
    run(CommandLine::try_parse_from([&["xtask"], words].concat())?.verb)
}

fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Setup(arguments) => verb::setup::run(&arguments),
        Verb::Demo(arguments) => verb::demo::run(&arguments),
        Verb::Test(arguments) | Verb::Ci(arguments) => verb::test::run(&arguments),
        Verb::Data(arguments) => verb::data::run(&arguments),
        Verb::Train(arguments) => verb::training::run("train", &arguments),
        Verb::Distill(arguments) => verb::training::run("distill", &arguments),
        Verb::Ema(arguments) => verb::training::run("ema", &arguments),
        Verb::Quantize(arguments) => verb::training::run("quantize", &arguments),
        Verb::Diff(arguments) => verb::training::run("diff", &arguments),
        Verb::Export(arguments) => verb::training::run("export", &arguments),
        Verb::Sample(arguments) => verb::training::run("sample", &arguments),
        Verb::Signal(arguments) => verb::training::run("signal", &arguments),
        Verb::Classifier(arguments) => verb::training::run("classifier", &arguments),
        Verb::Weights(arguments) => verb::training::run("weights", &arguments),
        Verb::Eval(arguments) => verb::training::run("eval", &arguments),
        Verb::Judge(arguments) => verb::training::run("judge", &arguments),
        Verb::Report(arguments) => verb::training::run("report", &arguments),
        Verb::Inspect(arguments) => verb::inspect::run(&arguments),
        Verb::Generate(arguments) => verb::generate::run(&arguments),
        Verb::Device(arguments) => verb::device::run(&arguments),
        Verb::Flash(arguments) => verb::flash::run(&arguments),
        Verb::Keygen(arguments) => verb::sign::keygen(&arguments),
        Verb::Sign(arguments) => verb::sign::sign(&arguments),
        Verb::NewFirmware(arguments) => verb::new_firmware::run(&arguments),
        Verb::Bench(arguments) => verb::bench::run(&arguments),
    }
}

fn main() -> ExitCode {
    match run(CommandLine::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is::<process::Reported>() {
                eprintln!("error: {error:#}");
            }
            ExitCode::from(process::exit_status(&error))
        }
    }
}
