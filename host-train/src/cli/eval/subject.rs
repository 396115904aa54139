//! What is measured: an int8 model, a run's float network, or a file of samples.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::backend::Flex;
use clap::ArgGroup;

use crate::cli::Usage;
use crate::cli::sample::{SamplingArgs, open_run, weights_file};
use crate::cli::settings::Run;
use crate::diffusion::{Request, Sampler};
use crate::evaluate::SAMPLING_SEED;
use crate::evaluate::draw::draw;
use crate::evaluate::judge::Shape;
use crate::evaluate::npy::Samples;
use crate::evaluate::score::FEWEST;
use crate::files;
use crate::progress::Progress;
use crate::trainer::read_denoiser;

/// Which samples.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("samples of").required(true).args(["model", "run", "samples_file", "table", "network"])))]
pub(super) struct SubjectArgs {
    /// An int8 model; its samples are those of the chip
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// A run; its float network draws as its preset says, and its data are measured against
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// With --loss-by-noise and --data: a file of float weights, as a run's teacher.safetensors
    #[arg(long, value_name = "FILE", requires = "loss_by_noise")]
    pub(super) network: Option<PathBuf>,
    /// With --run: teacher, student, latest or best (checkpoints of the training that goes on), or a file of weights
    /// [default: teacher]
    #[arg(long, value_name = "WEIGHTS")]
    weights: Option<String>,
    /// A NumPy file, [n, height, width, channels], u8 pixels or f32 network values; sample i has class i % classes
    #[arg(long, value_name = "NPY")]
    samples_file: Option<PathBuf>,
    /// Samples to draw, a multiple of the number of classes
    #[arg(long, value_name = "N", default_value_t = 400, conflicts_with = "samples_file")]
    pub(super) samples: usize,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// Samples and where they come from.
pub(super) struct Subject {
    pub(super) name: String,
    pub(super) file_sha256: String,
    pub(super) samples: Samples,
    /// Seconds that drawing took; `None` where they were drawn before.
    pub(super) drawing: Option<f64>,
}

impl SubjectArgs {
    /// The run, where one is asked for.
    pub(super) fn open_run(&self) -> anyhow::Result<Option<Run>> {
        self.run.as_deref().map(open_run).transpose()
    }

    /// The file that --weights names.
    pub(super) fn weights_of(&self, run: &Run) -> anyhow::Result<PathBuf> {
        weights_file(&run.dir, self.weights.as_deref().unwrap_or("teacher"))
    }

    /// Reads or draws the samples; `wanted` is what the judge takes.
    pub(super) fn samples(&self, run: Option<&Run>, wanted: Shape) -> anyhow::Result<Subject> {
        if run.is_none() && (self.weights.is_some() || self.sampling != SamplingArgs::default()) {
            let message = "--weights and how to draw are of a --run; a model draws as it was made, a file is drawn";
            return Err(Usage(message.to_owned()).into());
        }
        if let Some(path) = &self.samples_file {
            let (samples, file_sha256) = (Samples::read(path)?, files::sha256(&files::read(path)?));
            return Ok(Subject { name: path.display().to_string(), file_sha256, samples, drawing: None });
        }
        let (n, classes) = (self.samples, wanted.classes);
        if n < FEWEST || !n.is_multiple_of(classes) {
            let message = format!("--samples {n} is not a multiple of the {classes} classes, {FEWEST} or more");
            return Err(Usage(message).into());
        }
        let path = match (run, &self.model) {
            (Some(run), _) => self.weights_of(run)?,
            (None, Some(model)) => model.clone(),
            (None, None) => return Err(Usage("give --model, --run or --samples-file".to_owned()).into()),
        };
        let file = files::read(&path)?;
        let begun = Instant::now();
        let progress = Progress::new("drawing samples");
        let update = |done| progress.update(done, n);
        let samples = match run {
            Some(run) => self.draw_floats(run, &path, update)?,
            None => draw(&file, SAMPLING_SEED, n, update)?,
        };
        progress.finish();
        let drawing = Some(begun.elapsed().as_secs_f64());
        Ok(Subject { name: path.display().to_string(), file_sha256: files::sha256(&file), samples, drawing })
    }

    fn draw_floats(&self, run: &Run, path: &Path, progress: impl FnMut(usize)) -> anyhow::Result<Samples> {
        let file = read_denoiser(path)?;
        file.diffusion.check_draws()?;
        let sampling = self.sampling.apply(&file.sampling)?;
        let (device, diffusion) = (Default::default(), file.diffusion.build()?);
        sampling.check(&diffusion).map_err(|error| Usage(error.to_string()))?;
        sampling.check_output(file.network.output).map_err(|error| Usage(error.to_string()))?;
        let net = file.net::<Flex>(&device)?;
        let sampler = Sampler { net: &net, config: &file.network, diffusion: &diffusion, sampling };
        let request = Request { seed: SAMPLING_SEED, count: self.samples, class: None };
        Ok(sampler.draw(request, &run.data.held_out(), &device, progress))
    }
}
