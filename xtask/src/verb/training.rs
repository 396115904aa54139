//! Verbs of mote-train (`train`, `distill`, `sample`, `eval` and others), passed on to it; it is compiled when first used.

use crate::places::{root, target_dir};
use crate::process::{pass_on, run as run_program};
use anyhow::Result;
use clap::Args;
use std::env::consts::EXE_SUFFIX;
use std::ffi::OsString;
use std::process::Command;

/// The run's folder when none is named.
const DEFAULT_RUN: &str = "runs/default";

/// Arguments that are passed on.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Arguments of mote-train's subcommand of the same name; `--help` lists them. The run's folder is runs/default
    /// unless `--run DIR` names another
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs one of mote-train's subcommands in the current folder.
pub(crate) fn run(verb: &str, arguments: &Arguments) -> Result<()> {
    build_mote_train(features(&arguments.arguments))?;
    if arguments.arguments.iter().any(|word| word == "--dashboard") {
        build(&["--bin", "mote-train-dashboard"])?;
    }
    let mut command = mote_train();
    command.arg(verb).args(&arguments.arguments);
    let named = |name: &str| arguments.arguments.iter().any(|word| word.to_string_lossy().starts_with(name));
    if !["eval", "judge"].contains(&verb) && !named("--run") && !named("--help") && !named("-h") {
        command.args(["--run", DEFAULT_RUN]);
    }
    pass_on(&mut command)
}

/// Compiles mote-train if it is not up to date; the first time takes minutes and shows its progress.
///
/// The whole workspace is named, though one program is built: so the dependencies have the features that `cargo test
/// --workspace` gives them, and burn is compiled once for both.
pub(crate) fn build_mote_train(features: &[&str]) -> Result<()> {
    let features = features.iter().flat_map(|feature| ["--features", feature]);
    build(&["--bin", "mote-train"].into_iter().chain(features).collect::<Vec<_>>())
}

fn build(what: &[&str]) -> Result<()> {
    run_program(Command::new("cargo").current_dir(root()).args(["build", "--locked", "--workspace"]).args(what))
}

/// The features of mote-train that the backend and the devices named by `arguments` need.
fn features(arguments: &[OsString]) -> &'static [&'static str] {
    let words: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    let value = |option: &str| {
        words.iter().enumerate().find_map(|(index, word)| match word.strip_prefix(option)? {
            "" => words.get(index + 1).map(|name| name.as_ref()),
            rest => rest.strip_prefix('='),
        })
    };
    let several = value("--devices").is_some_and(|devices| devices == "all" || devices.contains(','));
    match value("--backend") {
        Some("ndarray") => &["mote-train/ndarray"],
        Some("cuda") if several => &["mote-train/nccl"],
        Some("cuda") => &["mote-train/cuda"],
        _ => &[],
    }
}

/// The compiled mote-train.
pub(crate) fn mote_train() -> Command {
    Command::new(target_dir().join("debug").join(format!("mote-train{EXE_SUFFIX}")))
}
