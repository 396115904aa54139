//! `mote-train eval --nll`: how likely held-out data are under a run's network.

use std::path::PathBuf;

use serde::Serialize;

use super::subject::SubjectArgs;
use crate::cli::Usage;
use crate::cli::settings::{OnBackend, Run};
use crate::denoiser::DenoiserFile;
use crate::diffusion::{Likelihood, Nll};
use crate::files;
use crate::ops::DenoiserBackend;
use crate::progress::Progress;

/// Another than that of sampling and training.
const SEED: u64 = 0x6e6c6c;

/// The part of `eval`'s arguments that is for the likelihood.
#[derive(Debug, clap::Args)]
pub(super) struct NllArgs {
    /// Instead: an upper bound on the negative log-likelihood of held-out data under the run's float network, in bits per
    /// dimension, term by term (Ho et al. 2020, equation 5). Of 8-bit images it is a probability's, of other data that of a
    /// density of the scaled values
    #[arg(long, requires = "run")]
    pub(super) nll: bool,
    /// With --nll: timesteps asked for each sample, spread over all; more are slower and less noisy
    #[arg(long, value_name = "K", default_value_t = 100, requires = "nll", value_parser = clap::value_parser!(u32).range(1..))]
    timesteps: u32,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Output {
    model_sha256: String,
    data_sha256: String,
    /// The samples' part of the data.
    split: &'static str,
    seed: u64,
    nll: Nll,
}

struct Evaluate {
    weights: PathBuf,
    samples: usize,
    timesteps: usize,
    json: bool,
}

/// Measures the run's network on held-out samples, prints the bound, writes each timestep's term to `nll.csv` and keeps the
/// whole in the manifest.
pub(super) fn run(args: &NllArgs, subject: &SubjectArgs, json: bool) -> anyhow::Result<()> {
    let run = subject.open_run()?.ok_or_else(|| Usage("--nll needs --run DIR".to_owned()))?;
    let weights = subject.weights_of(&run)?;
    run.on_backend(&Evaluate { weights, samples: subject.samples, timesteps: args.timesteps as usize, json })
}

impl OnBackend for Evaluate {
    fn run<B>(&self, run: &Run) -> anyhow::Result<()>
    where
        B: burn::tensor::backend::AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let (bytes, split) = (files::read(&self.weights)?, run.data.held_out());
        let file = DenoiserFile::from_bytes(&bytes)?;
        file.diffusion.check_draws()?;
        if !(2..=split.len()).contains(&self.samples) {
            return Err(Usage(format!("--samples {}: give 2 to {}", self.samples, split.len())).into());
        }
        let (net, diffusion) = (file.net::<B::InnerBackend>(&Default::default())?, file.diffusion.build()?);
        let bar = Progress::new("measuring the likelihood");
        let likelihood = Likelihood { samples: self.samples, timesteps: self.timesteps, seed: SEED };
        let nll = likelihood.measure(&net, &file.network, &diffusion, &split, |done, of| bar.update(done, of));
        bar.finish();
        let mut csv = String::from("timestep,bits_per_dim\n");
        for (timestep, bits) in nll.terms.divergences.iter().enumerate() {
            let bits = if timestep == 0 { nll.terms.decoder } else { *bits };
            csv.push_str(&format!("{timestep},{bits}\n"));
        }
        files::write_atomically(&run.dir.file("nll.csv"), csv.as_bytes())?;
        let (model_sha256, data_sha256) = (files::sha256(&bytes), run.data.sha256.clone());
        let output = Output { model_sha256, data_sha256, split: "held out", seed: SEED, nll };
        run.dir.record("nll", &output)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&output)?);
            return Ok(());
        }
        let Nll { bits_per_dim, standard_error, terms, by_entropies, n, dimensions, timesteps, density } = &output.nll;
        let what = match density {
            true => "a density of the scaled values, which may be negative",
            false => "a lossless code's length for a value of 8 bits",
        };
        println!("negative log-likelihood  <= {bits_per_dim:.4} +- {standard_error:.4} bits/dim ({what})");
        println!("  prior                  {:.6}", terms.prior);
        println!("  divergences            {:.4}, each in nll.csv", terms.divergences.iter().sum::<f64>());
        println!("  decoder                {:.4}", terms.decoder);
        println!("  by entropies           {by_entropies:.4}");
        println!(
            "{n} held-out samples of {dimensions} values, given their classes, {timesteps} of {} timesteps each, seed {SEED}",
            terms.divergences.len()
        );
        Ok(())
    }
}
