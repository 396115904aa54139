//! What a program needs beside the driver to compute on an Nvidia GPU: CUDA's run-time compiler and headers, and NCCL for
//! several GPUs. A toolkit that is installed is used; what is missing is fetched with pip, once, into cargo's target folder.

use crate::places::target_dir;
use crate::process::run as run_program;
use anyhow::{Context, Result};
use mote_nvidia::Machine;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The compiler with its built-in functions, and the headers: `crt/` is a part of the second that comes in the third.
const COMPILER: [&str; 3] =
    ["nvidia-cuda-nvrtc-cu12==12.9.86", "nvidia-cuda-runtime-cu12==12.9.79", "nvidia-cuda-nvcc-cu12==12.9.86"];
const COLLECTIVES: [&str; 1] = ["nvidia-nccl-cu12==2.27.5"];

/// Whether one GPU computes or several together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gpus {
    One,
    Several,
}

/// The variables under which a program finds all that it needs on `machine`.
///
/// # Errors
/// If something is missing and cannot be fetched.
pub(crate) fn environment(machine: &Machine, gpus: Gpus) -> Result<Vec<(&'static str, OsString)>> {
    let folder = target_dir().join("cuda");
    let (mut libraries, mut variables) = (Vec::new(), Vec::new());
    let installed = machine.toolkit.as_ref().map(|toolkit| (toolkit, toolkit.join("lib64")));
    match installed {
        Some((toolkit, _)) if machine.compiler.is_some() => variables.push(("CUDA_PATH", toolkit.into())),
        Some((toolkit, lib)) if lib.join("libnvrtc.so").exists() => {
            libraries.push(lib);
            variables.push(("CUDA_PATH", toolkit.into()));
        }
        _ => {
            let place = fetch(&folder.join("compiler"), &COMPILER, join_compiler)?;
            libraries.push(place.join("nvidia/cuda_nvrtc/lib"));
            variables.push(("CUDA_PATH", place.join("nvidia/cuda_runtime").into()));
        }
    }
    if gpus == Gpus::Several && machine.collectives.is_none() {
        libraries.push(fetch(&folder.join("nccl"), &COLLECTIVES, join_collectives)?.join("nvidia/nccl/lib"));
    }
    if !libraries.is_empty() {
        let before = env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let before: Vec<PathBuf> = env::split_paths(&before).filter(|path| !path.as_os_str().is_empty()).collect();
        variables.push(("LD_LIBRARY_PATH", env::join_paths(libraries.into_iter().chain(before))?));
    }
    Ok(variables)
}

/// Unpacks Python packages into `place`, unless they are there already; whole or not at all.
fn fetch(place: &Path, packages: &[&str], join: fn(&Path) -> Result<()>) -> Result<PathBuf> {
    let done = place.join("packages");
    let names = packages.join(" ");
    if fs::read_to_string(&done).is_ok_and(|before| before == names) {
        return Ok(place.to_owned());
    }
    eprintln!("fetching {names} into {}, once", place.display());
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| format!("cannot empty {}", place.display()))?;
    }
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--root-user-action=ignore",
        "--no-deps",
        "--target",
    ]);
    run_program(pip.arg(place).args(packages)).with_context(|| {
        format!(
            "cannot fetch {names}: install CUDA's toolkit and set CUDA_PATH to its folder, or `--backend cpu` computes on \
             the processor"
        )
    })?;
    join(place)?;
    fs::write(&done, names)?;
    Ok(place.to_owned())
}

fn join_compiler(place: &Path) -> Result<()> {
    let nvidia = place.join("nvidia");
    link(&nvidia.join("cuda_nvcc/include/crt"), &nvidia.join("cuda_runtime/include/crt"))?;
    let lib = nvidia.join("cuda_nvrtc/lib");
    link(&lib.join("libnvrtc.so.12"), &lib.join("libnvrtc.so"))
}

/// cudarc loads `libnccl.so`; the package has it under its version alone.
fn join_collectives(place: &Path) -> Result<()> {
    let lib = place.join("nvidia/nccl/lib");
    link(&lib.join("libnccl.so.2"), &lib.join("libnccl.so"))
}

/// A link to what is there, unless it is there already.
fn link(to: &Path, from: &Path) -> Result<()> {
    if from.exists() {
        return Ok(());
    }
    anyhow::ensure!(to.exists(), "a package that was fetched has no {}", to.display());
    #[cfg(unix)]
    std::os::unix::fs::symlink(to, from).with_context(|| format!("cannot make {}", from.display()))?;
    Ok(())
}
