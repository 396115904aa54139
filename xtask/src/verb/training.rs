//! `train`, `distill`, `quantize`, `eval`: passed on to mote-train, which is compiled when first used.

use crate::places::root;
use crate::process::pass_on;
use anyhow::Result;
use clap::Args;
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
    let mut command = mote_train();
    command.arg(verb).args(&arguments.arguments);
    let named = |name: &str| arguments.arguments.iter().any(|word| word.to_string_lossy().starts_with(name));
    if verb != "eval" && !named("--run") && !named("--help") && !named("-h") {
        command.args(["--run", DEFAULT_RUN]);
    }
    pass_on(&mut command)
}

/// mote-train, compiled first if it is not up to date.
pub(crate) fn mote_train() -> Command {
    let mut command = Command::new("cargo");
    command.args(["run", "--quiet", "--locked", "--package", "mote-train", "--manifest-path"]);
    command.arg(root().join("Cargo.toml")).arg("--");
    command
}
