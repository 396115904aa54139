//! PyTorch on the same task: `pytorch/train_speed.py`, run by the user's Python.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use super::Speed;
use crate::cli::Usage;
use crate::files;

/// The scripts, so that the program needs no repository where it runs.
const SCRIPTS: [(&str, &str); 2] = [
    ("train_speed.py", include_str!("../../../pytorch/train_speed.py")),
    ("denoiser.py", include_str!("../../../pytorch/denoiser.py")),
];

/// Exit status of the script where Python has no torch.
const NO_TORCH: i32 = 3;

/// The part of `bench`'s arguments that is for the peers.
#[derive(Debug, clap::Args)]
pub(super) struct PeerArgs {
    /// Also train the same network with PyTorch, and print how many times as fast we are
    #[arg(long)]
    pub(super) peer: bool,
    /// With --peer: the Python that has torch [default: $PYTHON, else python3]
    #[arg(long, value_name = "PROGRAM", requires = "peer")]
    python: Option<String>,
    /// With --peer: ways to train, separated by commas, such as unet-eager:tf32,unet-compile:bf16-nhwc,ddp-eager:bf16
    /// [default: a dozen on a GPU, three on a processor]
    #[arg(long, value_name = "WAYS", requires = "peer")]
    ways: Option<String>,
    /// With --peer: seconds for all ways; what has no time left is not measured
    #[arg(long, value_name = "SECONDS", requires = "peer", default_value_t = 150.0)]
    budget: f64,
}

/// What the script prints.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Peers {
    /// Version.
    pub(super) torch: String,
    /// The version that it is built for.
    pub(super) cuda: Option<String>,
    pub(super) device: String,
    pub(super) ways: Vec<Way>,
}

/// One way to train.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Way {
    pub(super) way: String,
    /// Why there is no speed.
    pub(super) error: Option<String>,
    #[serde(flatten)]
    pub(super) speed: Option<Speed>,
}

impl PeerArgs {
    /// Runs the script on a task; it and its files lie in `folder`.
    ///
    /// # Errors
    /// If there is no such Python, it has no torch or no such device, or the script fails.
    pub(super) fn measure(&self, folder: &Path, task: &str, device: &str, seconds: f64) -> anyhow::Result<Peers> {
        let named = self.python.clone().or_else(|| std::env::var("PYTHON").ok().filter(|name| !name.is_empty()));
        let python = named.unwrap_or_else(|| "python3".to_owned());
        for (name, text) in SCRIPTS {
            files::write_atomically(&folder.join(name), text.as_bytes())?;
        }
        let file = folder.join("task.json");
        files::write_atomically(&file, task.as_bytes())?;
        let mut command = Command::new(&python);
        command.arg(folder.join(SCRIPTS[0].0)).arg(&file).args(["--device", device]);
        command.args(["--seconds", &seconds.to_string(), "--budget", &self.budget.to_string()]);
        command.args(self.ways.iter().flat_map(|ways| ["--ways", ways]));
        let output = command.stderr(Stdio::inherit()).output().map_err(|error| {
            Usage(format!("cannot start {python}: {error}; --python PROGRAM names the Python that has torch"))
        })?;
        match output.status.code() {
            Some(0) => {}
            Some(NO_TORCH) => {
                let message =
                    format!("{python} has no torch: `{python} -m pip install torch`, or give --python PROGRAM");
                return Err(Usage(message).into());
            }
            _ => bail!("{python} {} failed ({}): see its message above", SCRIPTS[0].0, output.status),
        }
        serde_json::from_slice(&output.stdout).with_context(|| format!("{} printed no result", SCRIPTS[0].0))
    }
}

impl Peers {
    /// The fastest way to train `unet`, the same network, or `ddp`, denoising-diffusion-pytorch's.
    pub(super) fn fastest(&self, network: &str) -> Option<(&str, &Speed)> {
        let of = |way: &Way| way.way.split('-').next() == Some(network);
        let ways = self.ways.iter().filter(|way| of(way)).filter_map(|way| Some((&way.way[..], way.speed.as_ref()?)));
        ways.max_by(|(_, a), (_, b)| a.images_per_second.total_cmp(&b.images_per_second))
    }
}
