//! `data`: passed on to mote-data, which is compiled when first used, in seconds: it needs no training library.

use crate::places::{root, target_dir};
use crate::process::{pass_on, run as run_program};
use anyhow::Result;
use clap::Args;
use std::env::consts::EXE_SUFFIX;
use std::ffi::OsString;
use std::process::Command;

/// Arguments that are passed on.
#[derive(Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// `fetch NAME..`, `list` or `show PATH|NAME`; `--help` explains them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Runs mote-data in the current folder.
///
/// The whole workspace is named, though one program is built, so that what it shares with mote-train is compiled once.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let build = ["build", "--quiet", "--locked", "--workspace", "--bin", "mote-data"];
    run_program(Command::new("cargo").current_dir(root()).args(build))?;
    let program = target_dir().join("debug").join(format!("mote-data{EXE_SUFFIX}"));
    pass_on(Command::new(program).args(&arguments.arguments))
}
