//! What a run was asked for, kept in its manifest, and the backend it runs on.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use burn::backend::Autodiff;
use burn::tensor::backend::AutodiffBackend;
use mote_nvidia::Machine;
use serde::{Deserialize, Serialize};

use super::Usage;
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

/// What is asked to compute: `--backend`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum WantedBackend {
    /// What the run has; for a new one cuda where there is an Nvidia GPU with its driver, else cpu
    #[default]
    Auto,
    /// This machine's processor
    #[value(alias = "flex")]
    Cpu,
    /// This machine's processor, slow; a second opinion
    Ndarray,
    /// An Nvidia GPU
    Cuda,
}

/// What computes, as manifests name it: burn's backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum BackendName {
    #[default]
    Flex,
    Ndarray,
    Cuda,
}

/// What numbers a backend keeps between a network's layers; weights, sums and the optimizer are f32 on all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Precision {
    /// 32 bits; the cuda backend multiplies in tf32
    #[default]
    F32,
    /// bfloat16: the cuda backend alone, and its default
    Bf16,
}

impl WantedBackend {
    /// The backend to train on, and in words why it is that one; nothing where it was named. `recorded` is that of a run
    /// that goes on.
    ///
    /// # Errors
    /// [`Usage`] if it cannot be had here.
    pub(super) fn choose(
        self,
        recorded: Option<BackendName>,
        machine: &Machine,
    ) -> anyhow::Result<(BackendName, Option<String>)> {
        let named = |name: BackendName, option: &str| match name.missing(machine) {
            None => Ok((name, None)),
            Some(why) => Err(Usage(format!("{option}: {why}; leave --backend out to use what there is"))),
        };
        Ok(match (self, recorded) {
            (Self::Cpu, _) => (BackendName::Flex, None),
            (Self::Ndarray, _) => named(BackendName::Ndarray, "--backend ndarray")?,
            (Self::Cuda, _) => named(BackendName::Cuda, "--backend cuda")?,
            (Self::Auto, Some(recorded)) => match recorded.missing(machine) {
                None => (recorded, Some(format!("computing on {}: this run began there", recorded.in_words()))),
                Some(why) => {
                    let where_it_began = recorded.in_words();
                    let message = format!(
                        "this run began on {where_it_began}, and {why}; go on where it began, or give another --run"
                    );
                    return Err(Usage(message).into());
                }
            },
            (Self::Auto, None) => match (machine.has_gpu(), BackendName::Cuda.missing(machine)) {
                (Ok(why), None) => (BackendName::Cuda, Some(format!("computing on an Nvidia GPU: {why}"))),
                (Err(why), _) | (_, Some(why)) => {
                    (BackendName::Flex, Some(format!("computing on the processor: {why}")))
                }
            },
        })
    }
}

impl BackendName {
    /// Why it cannot compute here, if it cannot: this program or the machine lacks something.
    fn missing(self, machine: &Machine) -> Option<String> {
        match self {
            Self::Ndarray if !cfg!(feature = "ndarray") => Some(built_without("ndarray")),
            Self::Cuda => machine.has_driver().err().or_else(|| match cfg!(feature = "cuda") {
                true => machine.has_compiler().err(),
                false => Some(built_without("cuda")),
            }),
            Self::Flex | Self::Ndarray => None,
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Flex => "the processor",
            Self::Ndarray => "the processor (ndarray)",
            Self::Cuda => "an Nvidia GPU",
        }
    }

    /// The precision when none is asked for: the fastest.
    pub(super) fn precision(self) -> Precision {
        match self {
            Self::Cuda => Precision::Bf16,
            Self::Flex | Self::Ndarray => Precision::F32,
        }
    }

    fn has(self, precision: Precision) -> bool {
        precision == Precision::F32 || precision == self.precision()
    }
}

fn built_without(feature: &str) -> String {
    format!(
        "this program was built without {feature}; `cargo xtask train` builds it in, as does the Cargo feature {feature}"
    )
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
    /// What computes: the settings' backend, or the processor where that cannot be had.
    backend: BackendName,
}

/// The most steps that training queues on a backend before it reads their losses.
pub(super) fn ahead<B: AutodiffBackend>() -> u64
where
    B::InnerBackend: DenoiserBackend,
{
    if B::InnerBackend::QUEUES { 100 } else { 1 }
}

/// Something to do on the backend that computes.
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
    /// What computed it.
    backend: BackendName,
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
            settings.backend.has(settings.precision),
            "the {:?} backend computes in f32 alone, not in {:?}; leave --precision out, or use --backend cuda",
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
        // A trained network may be used where it was not trained; training itself has chosen what there is.
        let backend = match settings.backend.missing(&Machine::here()) {
            None => settings.backend,
            Some(why) => {
                eprintln!("computing on the processor, not on {}: {why}", settings.backend.in_words());
                BackendName::Flex
            }
        };
        Ok(Self { dir, settings, data, backend })
    }

    /// Runs `what` on the backend that computes.
    pub(super) fn on_backend(&self, what: &impl OnBackend) -> anyhow::Result<()> {
        match self.backend {
            #[cfg(feature = "ndarray")]
            BackendName::Ndarray => what.run::<Autodiff<burn::backend::NdArray>>(self),
            #[cfg(feature = "cuda")]
            BackendName::Cuda => {
                use crate::ops::cuda::{Precision as Activations, set_precision};
                set_precision(match self.settings.precision {
                    Precision::F32 => Activations::Single,
                    Precision::Bf16 => Activations::Half,
                });
                what.run::<Autodiff<burn_cuda::Cuda>>(self)
            }
            // It is no backend that this program lacks.
            _ => what.run::<Autodiff<burn::backend::Flex>>(self),
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
        let all = (stage, self.settings.seed, self.backend, &self.data.sha256, env!("CARGO_PKG_VERSION"));
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
            backend: self.backend,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(gpu: bool) -> Machine {
        let file = |name: &str| Some(std::path::PathBuf::from(name));
        let whole = Machine {
            driver: file("/usr/lib/libcuda.so.1"),
            gpu: Some("/dev/nvidia0".to_owned()),
            compiler: file("/usr/lib/libnvrtc.so"),
            toolkit: file("/usr/local/cuda"),
            ..Machine::default()
        };
        if gpu { whole } else { Machine::default() }
    }

    #[test]
    fn a_new_run_computes_on_what_there_is() {
        let choose = |wanted: WantedBackend, gpu| wanted.choose(None, &machine(gpu)).unwrap();
        let (name, why) = choose(WantedBackend::Auto, false);
        assert_eq!(name, BackendName::Flex);
        assert!(why.unwrap().contains("processor: no Nvidia driver"));
        let (name, why) = choose(WantedBackend::Auto, true);
        let why = why.unwrap();
        if cfg!(feature = "cuda") {
            assert_eq!(name, BackendName::Cuda);
            assert!(why.contains("/dev/nvidia0"), "{why}");
        } else {
            assert_eq!(name, BackendName::Flex);
            assert!(why.contains("built without cuda"), "{why}");
        }
        assert_eq!(choose(WantedBackend::Cpu, true), (BackendName::Flex, None));
        // A GPU that another program is to have is not taken.
        let hidden = Machine { hidden: true, ..machine(true) };
        let (name, why) = WantedBackend::Auto.choose(None, &hidden).unwrap();
        assert!(name == BackendName::Flex && why.is_some_and(|why| !cfg!(feature = "cuda") || why.contains("hides")));
    }

    #[test]
    fn a_run_goes_on_where_it_began_or_says_why_not() {
        let choose = |wanted: WantedBackend, before, gpu| wanted.choose(Some(before), &machine(gpu));
        assert_eq!(choose(WantedBackend::Auto, BackendName::Flex, true).unwrap().0, BackendName::Flex);
        let error = choose(WantedBackend::Auto, BackendName::Cuda, false).unwrap_err();
        assert!(error.is::<Usage>() && error.to_string().contains("began on an Nvidia GPU, and no Nvidia driver"));
        let error = choose(WantedBackend::Cuda, BackendName::Flex, false).unwrap_err();
        assert!(error.to_string().starts_with("--backend cuda: no Nvidia driver"), "{error}");
        if cfg!(feature = "cuda") {
            assert_eq!(choose(WantedBackend::Auto, BackendName::Cuda, true).unwrap().0, BackendName::Cuda);
            let bare = Machine { compiler: None, ..machine(true) };
            let error = WantedBackend::Cuda.choose(None, &bare).unwrap_err();
            assert!(error.to_string().contains("run-time compiler"), "{error}");
        } else {
            let error = choose(WantedBackend::Cuda, BackendName::Flex, true).unwrap_err();
            assert!(error.to_string().contains("built without cuda"), "{error}");
        }
    }

    /// What a run of another program says of its backend can be read by one that lacks it.
    #[test]
    fn every_backends_name_is_read() {
        for (name, text) in
            [(BackendName::Flex, "flex"), (BackendName::Ndarray, "ndarray"), (BackendName::Cuda, "cuda")]
        {
            assert_eq!(serde_json::to_value(name).unwrap(), text);
            assert_eq!(serde_json::from_value::<BackendName>(text.into()).unwrap(), name);
        }
    }
}
