//! Verbs of mote-train (`train`, `distill`, `sample`, `eval` and others), passed on to it; it is compiled when first used.

use crate::UsageError;
use crate::cuda::{self, Gpus};
use crate::places::{root, target_dir};
use crate::process::{pass_on, run as run_program};
use anyhow::Result;
use clap::Args;
use mote_nvidia::Machine;
use serde_json::Value;
use std::borrow::Cow;
use std::env::consts::EXE_SUFFIX;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
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
    let words = Words(arguments.arguments.iter().map(|word| word.to_string_lossy()).collect());
    // These have no run unless one is named.
    let default = (!["bench", "eval", "judge"].contains(&verb)).then_some(DEFAULT_RUN);
    let recorded = words.value("--run").or(default).and_then(|run| recorded_backend(Path::new(run)));
    let machine = Machine::here();
    let backend = backend(verb, &words, recorded.as_deref(), &machine)?;
    build_mote_train(backend.features())?;
    if arguments.arguments.iter().any(|word| word == "--dashboard") {
        build(&["--bin", "mote-train-dashboard"])?;
    }
    let mut command = mote_train();
    command.arg(verb).args(&arguments.arguments);
    let named = |name: &str| words.0.iter().any(|word| word.starts_with(name));
    let is_help = named("--help") || named("-h");
    if let (Some(run), false, false) = (default, named("--run"), is_help) {
        command.args(["--run", run]);
    }
    if let (Backend::Cuda(gpus), false) = (backend, is_help) {
        command.envs(cuda::environment(&machine, gpus)?);
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

/// What mote-train has to be compiled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    Processor,
    NdArray,
    Cuda(Gpus),
}

impl Backend {
    fn features(self) -> &'static [&'static str] {
        match self {
            Backend::Processor => &[],
            Backend::NdArray => &["mote-train/ndarray"],
            Backend::Cuda(Gpus::One) => &["mote-train/cuda"],
            Backend::Cuda(Gpus::Several) => &["mote-train/nccl"],
        }
    }
}

/// What a verb needs: what `--backend` names, else what the run has; for a new run CUDA where there is a GPU. A machine
/// without a driver never compiles CUDA. mote-train says itself what it then computes on, and why.
///
/// # Errors
/// If `--backend cuda` is asked for and there is no driver.
fn backend(verb: &str, words: &Words<'_>, recorded: Option<&str>, machine: &Machine) -> Result<Backend> {
    let several = words.value("--devices").is_some_and(|devices| devices == "all" || devices.contains(','));
    let cuda = Backend::Cuda(if several { Gpus::Several } else { Gpus::One });
    let named = words.value("--backend").filter(|&name| name != "auto");
    if named == Some("cuda") {
        machine.has_driver().map_err(|why| {
            UsageError(format!(
                "--backend cuda: {why}. Install the driver, or leave --backend out to use the processor"
            ))
        })?;
        return Ok(cuda);
    }
    let begins = ["train", "bench"].contains(&verb);
    Ok(match named.or(recorded) {
        Some("ndarray") => Backend::NdArray,
        Some("cuda") if machine.has_driver().is_ok() => cuda,
        None if begins && machine.has_gpu().is_ok() => cuda,
        _ => Backend::Processor,
    })
}

/// The words of a command line.
struct Words<'a>(Vec<Cow<'a, str>>);

impl Words<'_> {
    /// What follows an option, as the next word or after `=`.
    fn value(&self, option: &str) -> Option<&str> {
        self.0.iter().enumerate().find_map(|(index, word)| match word.strip_prefix(option)? {
            "" => self.0.get(index + 1).map(AsRef::as_ref),
            rest => rest.strip_prefix('='),
        })
    }
}

/// The backend that a run began on, if the folder holds one.
fn recorded_backend(run: &Path) -> Option<String> {
    let manifest: Value = serde_json::from_str(&fs::read_to_string(run.join("manifest.json")).ok()?).ok()?;
    manifest["settings"]["backend"].as_str().map(str::to_owned)
}

/// The compiled mote-train.
pub(crate) fn mote_train() -> Command {
    Command::new(target_dir().join("debug").join(format!("mote-train{EXE_SUFFIX}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_gpu() -> Machine {
        Machine { gpu: Some("/dev/nvidia0".to_owned()), ..with_driver() }
    }

    fn with_driver() -> Machine {
        Machine { driver: Some("/usr/lib/libcuda.so.1".into()), ..Machine::default() }
    }

    fn found(line: &str, recorded: Option<&str>, machine: &Machine) -> Result<Backend> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        backend(verb, &Words(rest.split_whitespace().map(Cow::from).collect()), recorded, machine)
    }

    #[test]
    fn cuda_is_compiled_where_a_driver_is_and_nowhere_else() {
        let (none, one, several) = (Machine::default(), Backend::Cuda(Gpus::One), Backend::Cuda(Gpus::Several));
        for (line, recorded, without, with) in [
            ("train --preset fashion", None, Backend::Processor, one),
            ("train --backend auto --devices=0,1", None, Backend::Processor, several),
            ("train --devices all", None, Backend::Processor, several),
            ("bench train", None, Backend::Processor, one),
            ("train --backend cpu", None, Backend::Processor, Backend::Processor),
            ("train --backend=flex --devices 0,0", None, Backend::Processor, Backend::Processor),
            ("train --backend ndarray", None, Backend::NdArray, Backend::NdArray),
            // What a run has is kept, and what only reads it needs no more.
            ("train", Some("flex"), Backend::Processor, Backend::Processor),
            ("train", Some("cuda"), Backend::Processor, one),
            ("sample", Some("cuda"), Backend::Processor, one),
            ("sample", Some("ndarray"), Backend::NdArray, Backend::NdArray),
            ("eval --model m.mote", None, Backend::Processor, Backend::Processor),
        ] {
            assert_eq!(found(line, recorded, &none).unwrap(), without, "{line}, no driver");
            assert_eq!(found(line, recorded, &with_gpu()).unwrap(), with, "{line}, a GPU");
        }
        // A driver alone is no reason to compile it, but enough if it is asked for.
        assert_eq!(found("train", None, &with_driver()).unwrap(), Backend::Processor);
        assert_eq!(found("train --backend cuda", None, &with_driver()).unwrap(), one);
        let error = found("train --backend cuda", None, &none).unwrap_err();
        assert!(error.is::<UsageError>() && error.to_string().contains("no Nvidia driver"), "{error}");
    }

    #[test]
    fn a_runs_backend_is_read_from_its_manifest() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(recorded_backend(folder.path()), None);
        let write = |text: &str| fs::write(folder.path().join("manifest.json"), text).unwrap();
        write("{ damaged");
        assert_eq!(recorded_backend(folder.path()), None);
        write(r#"{ "settings": { "backend": "cuda" } }"#);
        assert_eq!(recorded_backend(folder.path()).as_deref(), Some("cuda"));
    }
}
