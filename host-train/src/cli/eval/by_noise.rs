//! `mote-train eval --loss-by-noise`: where a network errs on held-out data.

use std::path::{Path, PathBuf};

use burn::backend::Flex;
use serde::Serialize;

use super::subject::SubjectArgs;
use crate::cli::Usage;
use crate::cli::settings::{OnBackend, Run};
use crate::dataset::{DataOptions, Split};
use crate::denoiser::DenoiserFile;
use crate::evaluate::loss_by_noise::loss_by_noise;
use crate::files;
use crate::ops::DenoiserBackend;
use crate::progress::Progress;
use crate::trainer::LossByNoise;

/// The part of `eval`'s arguments that is for the loss by noise level.
#[derive(Debug, clap::Args)]
pub(super) struct NoiseArgs {
    /// Instead: the mean squared error of a float network on held-out data by noise level, of --run (kept in its manifest and as
    /// loss-by-noise.png) or of --network. --samples says how many, --sheet draws it
    #[arg(long, conflicts_with_all = ["nll", "model", "samples_file"])]
    pub(super) loss_by_noise: bool,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Output {
    network_sha256: String,
    data_sha256: String,
    /// The samples' part of the data.
    split: &'static str,
    #[serde(flatten)]
    loss: LossByNoise,
}

struct Evaluate<'a> {
    weights: PathBuf,
    samples: usize,
    sheet: Option<&'a Path>,
    json: bool,
}

/// Measures the run's network, or a file's on the data that are named, and prints the table.
pub(super) fn run(subject: &SubjectArgs, data: &DataOptions, sheet: Option<&Path>, json: bool) -> anyhow::Result<()> {
    let evaluate = |weights| Evaluate { weights, samples: subject.samples, sheet, json };
    if let Some(run) = subject.open_run()? {
        return run.on_backend(&evaluate(subject.weights_of(&run)?));
    }
    let (Some(network), Some(source)) = (&subject.network, data.source().map_err(|error| Usage(error.to_string()))?)
    else {
        return Err(Usage("--loss-by-noise needs --run DIR, or --network FILE and --data".to_owned()).into());
    };
    let data = source.load()?;
    let evaluate = evaluate(network.clone());
    evaluate.print(&evaluate.measure::<Flex>(&data.held_out(), &data.sha256)?)
}

impl OnBackend for Evaluate<'_> {
    fn run<B>(&self, run: &Run) -> anyhow::Result<()>
    where
        B: burn::tensor::backend::AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let output = self.measure::<B::InnerBackend>(&run.data.held_out(), &run.data.sha256)?;
        let name = self.weights.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        run.dir.write_loss_by_noise(&name, &output.loss)?;
        self.print(&output)
    }
}

impl Evaluate<'_> {
    fn measure<B: DenoiserBackend>(&self, held_out: &Split<'_>, data_sha256: &str) -> anyhow::Result<Output> {
        let bytes = files::read(&self.weights)?;
        let file = DenoiserFile::from_bytes(&bytes)?;
        file.diffusion.check_draws()?;
        if !(1..=held_out.len()).contains(&self.samples) {
            return Err(Usage(format!("--samples {}: give 1 to {}", self.samples, held_out.len())).into());
        }
        let (found, wanted) = (held_out.dataset.shape, file.network.shape);
        if found != wanted || held_out.dataset.classes() != file.network.classes {
            let message = format!(
                "{} is for {wanted} in {} classes, the data are {found} in {}; name its own --data",
                self.weights.display(),
                file.network.classes,
                held_out.dataset.classes()
            );
            return Err(Usage(message).into());
        }
        let (net, diffusion) = (file.net::<B>(&Default::default())?, file.diffusion.build()?);
        let bar = Progress::new("measuring the loss by noise level");
        let progress = |done, of| bar.update(done, of);
        let loss = LossByNoise::measure(&net, &file.network, &diffusion, held_out, self.samples, progress);
        bar.finish();
        Ok(Output {
            network_sha256: files::sha256(&bytes),
            data_sha256: data_sha256.to_owned(),
            split: "held out",
            loss,
        })
    }

    fn print(&self, output: &Output) -> anyhow::Result<()> {
        if let Some(png) = self.sheet {
            let csv = tempfile::NamedTempFile::new()?;
            files::write_atomically(csv.path(), output.loss.to_csv().as_bytes())?;
            loss_by_noise(csv.path(), png, "Held-out loss by noise level")?;
        }
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(output)?),
            false => print!("{}", output.loss),
        }
        Ok(())
    }
}
