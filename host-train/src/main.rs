//! The `mote-train` binary: see `mote-train --help`.

use std::process::ExitCode;

use clap::Parser;
use mote_train::cli::{Cli, Usage};

fn main() -> ExitCode {
    match Cli::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}
