//! The run's student, ready for quantization.

use std::path::{Path, PathBuf};

use anyhow::Context;
use burn::backend::Flex;

use super::Usage;
use crate::denoiser::{DenoiserFile, lower};
use crate::evaluate::SAMPLING_SEED;
use crate::files;
use crate::quantize::{Calibration, Ends, Graph, calibrate};

/// Range of `x0`: pixels from black to white.
const CLAMP: [f32; 2] = [-1.0, 1.0];
/// Calibration draws other samples than evaluation does.
pub(super) const CALIBRATION_SEED: u64 = SAMPLING_SEED + 1;

/// Which student.
#[derive(Debug, clap::Args)]
pub(super) struct StudentArgs {
    /// The run's folder, where `mote-train distill` has been
    #[arg(long, value_name = "DIR")]
    pub(super) run: PathBuf,
    /// The student's name, as `mote-train distill --name` was given it
    #[arg(long, value_name = "NAME", default_value = "student")]
    student: String,
    /// A name kept in the file [default: the run folder's]
    #[arg(long)]
    name: Option<String>,
}

/// What `quantize` and `export` have in common.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) student: StudentArgs,
    /// Samples to calibrate on, classes in turn
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) samples: u32,
    /// Where the tables of activations end
    #[arg(long, value_enum, default_value_t)]
    ends: EndsName,
    /// How a convolution reads a concatenation
    #[arg(long, value_enum, default_value_t)]
    halves: Halves,
}

/// [`Ends`] on the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum EndsName {
    /// Where the mean squared error of what they store is least
    #[default]
    LeastError,
    /// At the smallest and the largest value seen
    Extremes,
}

/// How many scales a concatenation has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Halves {
    /// Both halves at once, with one activation scale
    #[default]
    Together,
    /// One half after the other, each with an activation scale of its own: more arena, hardly less damage
    Apart,
}

impl Args {
    /// The student as core's operations, and the ranges of its values on its own trajectories.
    pub(super) fn calibrated(&self) -> anyhow::Result<(Graph, Calibration)> {
        let graph = match (self.student.lowered()?, self.halves) {
            (graph, Halves::Together) => graph,
            (graph, Halves::Apart) => graph.with_halves_apart(),
        };
        let ends = match self.ends {
            EndsName::LeastError => Ends::LeastError,
            EndsName::Extremes => Ends::Extremes,
        };
        let calibration = calibrate(&graph, CALIBRATION_SEED, self.samples as usize, ends);
        Ok((graph, calibration))
    }
}

impl StudentArgs {
    /// The student as core's operations.
    pub(super) fn lowered(&self) -> anyhow::Result<Graph> {
        let dir = self.run.display();
        let path = self.run.join(format!("{}.safetensors", self.student));
        if !path.exists() {
            let message = format!("{dir} holds no {}; run `mote-train distill --run {dir}` first", self.student);
            return Err(Usage(message).into());
        }
        let student = DenoiserFile::from_bytes(&files::read(&path)?).with_context(|| path.display().to_string())?;
        let name = match &self.name {
            Some(name) => name.clone(),
            None => folder_name(&self.run)?,
        };
        let diffusion = student.diffusion.build()?;
        let net = student.net::<Flex>(&Default::default())?;
        let rows = student.sampling.table(&diffusion);
        let mut graph = lower(&net, &student.network, &name, rows, diffusion.timesteps(), CLAMP)?;
        graph.units = student.channels_scale.iter().map(|of| [of.offset, of.scale]).collect();
        Ok(graph)
    }
}

fn folder_name(path: &Path) -> anyhow::Result<String> {
    Ok(path.canonicalize()?.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
}
