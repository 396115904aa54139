//! `mote-train ema`.

use std::path::PathBuf;

use anyhow::Context;

use crate::files;
use crate::trainer::{Checkpoints, Keep};

/// Computes the weights averaged over another part of training, after training (Karras et al., Analyzing and Improving
/// the Training Dynamics of Diffusion Models, 2024). The run must have kept snapshots: train with
/// --set train.optimizer.snapshots.every=N
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder, where `mote-train train` has been
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Relative width of the average: its standard deviation as a fraction of training, 0.001 to 0.288
    #[arg(long, value_name = "WIDTH", default_value_t = 0.1)]
    sigma_rel: f64,
    /// Average up to this step [default: the last snapshot's]
    #[arg(long, value_name = "N")]
    step: Option<u64>,
    /// Where the denoiser goes [default: ema-<WIDTH>.safetensors in the run's folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let checkpoints = Checkpoints::new(args.run.join("checkpoints"), Keep::default());
    let last = checkpoints.snapshots()?.last().copied();
    let step = args.step.or(last).with_context(|| {
        format!("{} has no snapshots; train with --set train.optimizer.snapshots.every=N", args.run.display())
    })?;
    let (denoiser, error) = checkpoints.reconstruct(args.sigma_rel, step)?;
    let out = args.out.unwrap_or_else(|| args.run.join(format!("ema-{}.safetensors", args.sigma_rel)));
    files::write_atomically(&out, &denoiser.to_bytes())?;
    println!("Wrote {} (up to step {step}, profile error {:.2} %)", out.display(), 100.0 * error);
    Ok(())
}
