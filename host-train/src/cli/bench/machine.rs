//! What this machine is called, and how much memory is in use.

use std::process::Command;

use crate::cli::settings::BackendName;

/// The device's name.
pub(super) fn name(backend: BackendName) -> String {
    if backend == BackendName::Cuda {
        return ask_gpu("name").unwrap_or_else(|| "a GPU that nvidia-smi does not name".to_owned());
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let model = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    format!("{model}, {threads} threads")
}

/// The greatest memory of this program so far; of a GPU, all that is in use now. None where the system does not tell.
pub(super) fn memory(backend: BackendName) -> Option<u64> {
    let (number, unit) = match backend == BackendName::Cuda {
        true => (ask_gpu("memory.used")?, 1 << 20),
        false => (field("/proc/self/status", "VmHWM")?, 1 << 10),
    };
    Some(number.split_whitespace().next()?.parse::<u64>().ok()? * unit)
}

/// What `nvidia-smi` says of the first GPU.
fn ask_gpu(what: &str) -> Option<String> {
    let query = [&format!("--query-gpu={what}"), "--format=csv,noheader,nounits", "--id=0"];
    let output = Command::new("nvidia-smi").args(query).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The text behind the first `name :` of a file of the system.
fn field(file: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let value = |line: &str| Some(line.strip_prefix(name)?.trim_start().strip_prefix(':')?.trim().to_owned());
    text.lines().find_map(value)
}
