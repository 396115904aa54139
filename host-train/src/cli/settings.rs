//! What a run was asked for, kept in its manifest, and the backend it runs on.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use burn::backend::Autodiff;
use burn::tensor::backend::AutodiffBackend;
use serde::{Deserialize, Serialize};

use crate::dataset::Dataset;
use crate::denoiser::DenoiserFile;
use crate::diffusion::{Request, Sampler};
use crate::evaluate::SAMPLING_SEED;
use crate::files;
use crate::ops::DenoiserBackend;
use crate::preset::Preset;
use crate::progress::Progress;
use crate::run_dir::RunDir;
use crate::trainer::TeacherConfig;

/// What computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum BackendName {
    /// This machine's processor, fast
    #[default]
    Flex,
    /// This machine's processor, slow; a second opinion
    #[cfg(feature = "ndarray")]
    Ndarray,
    /// An Nvidia GPU
    #[cfg(feature = "cuda")]
    Cuda,
}

/// What numbers a backend computes in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Precision {
    /// 32 bits: every backend
    #[default]
    F32,
    /// bfloat16: no backend yet
    Bf16,
    /// 16 bits: no backend yet
    F16,
}

/// What decides a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub(super) preset: Preset,
    pub(super) seed: u64,
    pub(super) backend: BackendName,
    #[serde(default)]
    pub(super) precision: Precision,
}

impl Settings {
    /// Whether a run with settings `before` can go on with these: all is the same but what is watched, and the steps are
    /// as many or more.
    pub(super) fn goes_on_with(&self, before: &Self) -> bool {
        let mut same = self.clone();
        same.preset.watch = before.preset.watch.clone();
        same.preset.train.steps = before.preset.train.steps;
        same == *before && self.preset.train.steps >= before.preset.train.steps
    }

    /// What the folder's manifest holds, if there is one.
    pub(super) fn recorded(dir: &Path) -> anyhow::Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Manifest {
            settings: Option<Settings>,
        }
        let path = dir.join("manifest.json");
        if !path.exists() {
            return Ok(None);
        }
        let manifest: Manifest = serde_json::from_slice(&files::read(&path)?)
            .with_context(|| format!("{} is damaged or of another version; use another --run", path.display()))?;
        Ok(manifest.settings)
    }
}

/// A run's folder, settings and data.
pub(super) struct Run {
    pub(super) dir: RunDir,
    pub(super) settings: Settings,
    pub(super) data: Dataset,
}

/// The most steps that training queues on a backend before it reads their losses.
pub(super) fn ahead<B: AutodiffBackend>() -> u64
where
    B::InnerBackend: DenoiserBackend,
{
    if B::InnerBackend::QUEUES { 100 } else { 1 }
}

/// Something to do on the backend that the settings name.
pub(super) trait OnBackend {
    fn run<B>(&self, run: &Run) -> anyhow::Result<()>
    where
        B: AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend;
}

/// What the manifest says of a trained network.
#[derive(Serialize)]
struct StageRecord<'a> {
    command: String,
    /// Sampling steps.
    steps: usize,
    guidance: f64,
    parameters: usize,
    training_steps: u64,
    loss: f64,
    seconds: f64,
    network: &'a crate::denoiser::DenoiserConfig,
}

impl Run {
    /// Loads the data, checks that everything fits and records the settings; nothing is written if it does not.
    pub(super) fn open(dir: &Path, settings: Settings) -> anyhow::Result<Self> {
        settings.preset.check()?;
        anyhow::ensure!(
            settings.precision == Precision::F32,
            "the {:?} backend computes in f32 alone, not in {:?}; leave --precision out",
            settings.backend,
            settings.precision
        );
        let data = settings.preset.data.load()?;
        settings.preset.checked_network(&data)?;
        settings.preset.train.augment.check(data.shape)?;
        let dir = RunDir::create(dir)?;
        dir.record("version", env!("CARGO_PKG_VERSION"))?;
        dir.record("seed", settings.seed)?;
        dir.record("data_sha256", &data.sha256)?;
        dir.record("class_names", &data.class_names)?;
        if let Some(provenance) = &data.provenance {
            dir.record("data_provenance", provenance)?;
        }
        dir.record("settings", &settings)?;
        Ok(Self { dir, settings, data })
    }

    /// Runs `what` on the settings' backend.
    pub(super) fn on_backend(&self, what: &impl OnBackend) -> anyhow::Result<()> {
        match self.settings.backend {
            BackendName::Flex => what.run::<Autodiff<burn::backend::Flex>>(self),
            #[cfg(feature = "ndarray")]
            BackendName::Ndarray => what.run::<Autodiff<burn::backend::NdArray>>(self),
            #[cfg(feature = "cuda")]
            BackendName::Cuda => what.run::<Autodiff<burn_cuda::Cuda>>(self),
        }
    }

    /// All that decides the teacher's bits but the number of steps, as text.
    pub(super) fn teacher_recipe(&self) -> String {
        let Preset { network, diffusion, train, .. } = &self.settings.preset;
        self.recipe(&(network, diffusion, TeacherConfig { steps: 0, ..train.clone() }))
    }

    /// The steps that a stage of the manifest was trained for.
    pub(super) fn trained_steps(&self, key: &str) -> anyhow::Result<u64> {
        let stage = self.dir.recorded(key)?;
        Ok(stage.and_then(|stage| stage.get("training_steps")?.as_u64()).unwrap_or(0))
    }

    /// All that decides a stage's bits, as text.
    pub(super) fn recipe(&self, stage: &impl Serialize) -> String {
        let all = (stage, self.settings.seed, self.settings.backend, &self.data.sha256, env!("CARGO_PKG_VERSION"));
        serde_json::to_string(&all).expect("plain numbers")
    }

    /// Draws the run's number of samples into the file `name`.
    pub(super) fn draw<B: DenoiserBackend>(&self, file: &DenoiserFile, task: &str, name: &str) -> anyhow::Result<()> {
        let (device, diffusion) = (B::Device::default(), file.diffusion.build()?);
        let net = file.net::<B>(&device)?;
        let sampling = file.sampling.clone();
        let sampler = Sampler { net: &net, config: &file.network, diffusion: &diffusion, sampling };
        let count = self.settings.preset.samples(file.network.classes);
        let bar = Progress::new(task);
        let request = Request { seed: SAMPLING_SEED, count, class: None };
        let samples = sampler.draw(request, &self.data.held_out(), &device, |done| bar.update(done, count));
        bar.finish();
        samples.write(&self.dir.file(name))
    }

    /// Records a finished network in the manifest.
    pub(super) fn record_stage(
        &self,
        key: &str,
        file: &DenoiserFile,
        training_steps: u64,
        loss: f64,
        took: Duration,
    ) -> anyhow::Result<()> {
        let record = StageRecord {
            command: std::env::args().collect::<Vec<_>>().join(" "),
            steps: file.sampling.steps,
            guidance: file.sampling.guidance,
            parameters: file.parameters.len(),
            training_steps,
            loss,
            seconds: (took.as_secs_f64() * 10.0).round() / 10.0,
            network: &file.network,
        };
        self.dir.record(key, record)
    }
}
