//! `mote-train classifier`.

use std::path::PathBuf;

use burn::tensor::backend::AutodiffBackend;

use super::Usage;
use super::settings::{OnBackend, Run, Settings};
use crate::diffusion::sample::{ClassifierRecipe, NoisyClassifier};
use crate::files;
use crate::ops::DenoiserBackend;
use crate::progress::Progress;

/// Trains a classifier of the run's data with noise added, for `mote-train sample --classifier` (Dhariwal, Nichol 2021).
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder, which names the data and the process
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Where the classifier goes [default: RUN/classifier.safetensors]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Training steps
    #[arg(long, value_name = "N", default_value_t = ClassifierRecipe::default().steps)]
    steps: u64,
    /// Samples a step
    #[arg(long, value_name = "N", default_value_t = ClassifierRecipe::default().batch)]
    batch: usize,
    /// Seed of weights, batches and noise
    #[arg(long, default_value_t = ClassifierRecipe::default().seed)]
    seed: u64,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let dir = args.run.display();
    let none = || Usage(format!("{dir} holds no run; `mote-train train --run {dir}` begins one"));
    if args.steps == 0 || args.batch == 0 {
        return Err(Usage("--steps and --batch must be at least 1".to_owned()).into());
    }
    let settings = Settings::recorded(&args.run)?.ok_or_else(none)?;
    Run::open(&args.run, settings)?.on_backend(&args)
}

impl OnBackend for Args {
    fn run<B>(&self, run: &Run) -> anyhow::Result<()>
    where
        B: AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let diffusion = run.settings.preset.diffusion.build()?;
        let recipe =
            ClassifierRecipe { steps: self.steps, batch: self.batch, seed: self.seed, ..ClassifierRecipe::default() };
        let bar = Progress::new("training the classifier");
        let classifier = NoisyClassifier::<B>::train(&run.data.train(), &diffusion, &recipe, |step, loss| {
            bar.update_with(step as usize, recipe.steps as usize, &format!("loss {loss:.3}"));
        });
        bar.finish();
        let out = self.out.clone().unwrap_or_else(|| run.dir.file("classifier.safetensors"));
        files::write_atomically(&out, &classifier.to_bytes())?;
        let held_out = run.data.held_out();
        println!("Wrote {}; right on {} held-out samples, by noise:", out.display(), held_out.len());
        for timestep in [0, 1, 2, 3, 4].map(|quarter| quarter * (diffusion.timesteps() - 1) / 4) {
            let accuracy = 100.0 * classifier.accuracy(&held_out, &diffusion, timestep);
            println!("  timestep {timestep:>4}  {accuracy:5.1} %");
        }
        Ok(())
    }
}
