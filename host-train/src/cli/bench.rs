//! `mote-train bench`: how fast training is on this machine, beside PyTorch.

mod machine;
mod peers;
mod stopwatch;

use std::cell::OnceCell;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use mote_core::schedule::{noise, signal};
use mote_nvidia::Machine;
use serde::{Deserialize, Serialize};

use super::Usage;
use super::devices::Devices;
use super::settings::{BackendName, OnBackend, Precision, Run, Settings, WantedBackend, ahead};
use crate::dataset::{DataOptions, DataSource, DatasetError, SampleShape};
use crate::denoiser::{Architecture, DenoiserConfig, DenoiserFile, parameters};
use crate::evaluate::npy::{Samples, write_labels};
use crate::ops::DenoiserBackend;
use crate::preset::Preset;
use crate::trainer::{Checkpoints, Fit, Interrupted, Keep, Placement, StepRandom, TeacherTask};

use peers::{PeerArgs, Peers};
use stopwatch::Stopwatch;

/// Random samples that stand for data.
const RANDOM_SAMPLES: usize = 4096;

/// Seed of weights, batches and noise.
const SEED: u64 = 1;

/// Times training steps as `train` does them: data, noise, loss, gradient, optimizer, average of the weights.
///
/// Prints images a second (the median, the least and the greatest of groups of steps, after a warm-up), the time from the start of
/// the command to the end of the first step, and memory: on the processor the program's greatest, on a GPU all that is in use at the
/// end, the driver's included. With --peer the same network is also trained with PyTorch in several ways
/// (host-train/pytorch/train_speed.py) and with denoising-diffusion-pytorch where it is installed, before ours, on the same device.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[arg(long, value_name = "NAME|FILE", default_value = "demo", help = format!("A named preset ({}) or a .toml file", Preset::names()))]
    preset: String,
    /// Set a field of the recipe, as often as wanted: --set network.widths=[64,128,128]
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Samples a step [default: the recipe's]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Train on random samples, HEIGHTxWIDTHxCHANNELS, so that no data are needed
    #[arg(long, value_name = "SHAPE", value_parser = shape, conflicts_with = "data")]
    shape: Option<SampleShape>,
    /// With --shape: classes
    #[arg(long, value_name = "N", default_value_t = 10, requires = "shape", value_parser = clap::value_parser!(u16).range(1..=1000))]
    classes: u16,
    /// What computes
    #[arg(long, value_enum, default_value_t)]
    backend: WantedBackend,
    /// Train on these devices together, as `train --devices`; a batch is that of all
    #[arg(long, value_name = "LIST", conflicts_with = "peer")]
    devices: Option<Devices>,
    /// What it keeps between layers [default: f32; bf16 with --backend cuda]
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Seconds that are timed, after a warm-up of a fifth of them
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    seconds: f64,
    /// Print what the peers are told, as JSON, and train nothing
    #[arg(long, conflicts_with_all = ["peer", "json"])]
    print_task: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    peer: PeerArgs,
    /// The data, in place of the recipe's
    #[command(flatten)]
    data: DataOptions,
}

/// `28x28x1`.
fn shape(text: &str) -> Result<SampleShape, String> {
    let sides: Option<Vec<usize>> = text.split('x').map(|side| side.parse().ok()).collect();
    let shape = match sides.as_deref() {
        Some(&[height, width, channels]) => SampleShape { height, width, channels },
        _ => return Err("give HEIGHTxWIDTHxCHANNELS: 28x28x1, or 1x128x6 for a signal".to_owned()),
    };
    match shape {
        SampleShape { height: 1..=1024, width: 1..=1024, channels: 1..=1024 } => {}
        _ => return Err("each side is 1 to 1024".to_owned()),
    }
    if shape.is_image() && ![1, 3, 4].contains(&shape.channels) {
        return Err("images have 1, 3 or 4 channels".to_owned());
    }
    Ok(shape)
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.01..=3600.0).contains(seconds));
    seconds.ok_or_else(|| "give 0.01 to 3600".to_owned())
}

/// How fast one way of training is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Speed {
    /// The median of the groups of steps.
    images_per_second: f64,
    /// Of the slowest group.
    least: f64,
    /// Of the fastest group.
    most: f64,
    groups: usize,
    /// From the start of the command to the end of the first step.
    seconds_to_first_step: f64,
    /// The greatest of this program; on a GPU all that is in use at the end. None where the system does not tell.
    memory_bytes: Option<u64>,
    /// Of the last step.
    loss: f32,
    parameters: usize,
}

/// What is printed as JSON.
#[derive(Serialize)]
struct Output<'a> {
    preset: &'a str,
    shape: String,
    classes: usize,
    batch: usize,
    device: String,
    backend: BackendName,
    precision: Precision,
    mote: Speed,
    /// PyTorch's ways.
    peers: Option<Peers>,
}

/// What a peer needs to train the same: the network, and the factors of every timestep.
#[derive(Serialize)]
struct Task<'a> {
    network: &'a DenoiserConfig,
    batch: usize,
    class_dropout: f64,
    /// `x = signal * data + noise * eps`.
    signal: Vec<f64>,
    noise: Vec<f64>,
    /// What the network is to say: `target_of_data * data + target_of_noise * eps`.
    target_of_data: Vec<f64>,
    target_of_noise: Vec<f64>,
    /// Of the squared error.
    weight: Vec<f32>,
    optimizer: PeerOptimizer,
}

#[derive(Serialize)]
struct PeerOptimizer {
    learning_rate: f64,
    betas: [f64; 2],
    weight_decay: f64,
    clip: f64,
    ema: f64,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let mut begun = Instant::now();
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let (backend, why) = args.backend.choose(None, &Machine::here())?;
    let settings = args.settings(folder.path(), backend).map_err(|error| Usage(format!("{error:#}")))?;
    let run = Run::open(&folder.path().join("run"), settings).map_err(|error| args.advise(error))?;
    if args.print_task {
        println!("{}", task(&run)?);
        return Ok(());
    }
    why.iter().for_each(|why| eprintln!("{why}"));
    let peers = if args.peer.peer {
        let device = if backend == BackendName::Cuda { "cuda" } else { "cpu" };
        let peers = args.peer.measure(folder.path(), &task(&run)?, device, args.seconds)?;
        begun = Instant::now();
        Some(peers)
    } else {
        None
    };
    let (seconds, devices) = (Duration::from_secs_f64(args.seconds), args.devices.clone().unwrap_or_default());
    let bench = Bench { begun, seconds, devices, speed: OnceCell::new() };
    run.on_backend(&bench)?;
    let Settings { preset, backend, precision, .. } = &run.settings;
    let output = Output {
        preset: &args.preset,
        shape: run.data.shape.to_string(),
        classes: run.data.classes(),
        batch: preset.train.batch,
        device: machine::name(*backend),
        backend: *backend,
        precision: *precision,
        mote: bench.speed.into_inner().context("training ended before it was timed")?,
        peers,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&output)?);
    } else {
        output.print();
    }
    Ok(())
}

impl Args {
    /// What is trained; random samples are written into `folder`.
    fn settings(&self, folder: &Path, backend: BackendName) -> anyhow::Result<Settings> {
        let batch = self.batch.map(|batch| format!("train.batch={batch}"));
        let settings: Vec<String> = self.settings.iter().cloned().chain(batch).collect();
        let mut preset = Preset::find(&self.preset)?.with(&settings)?;
        preset.data.source = match (self.shape, &self.data.data) {
            (Some(shape), _) => random_data(shape, self.classes, &folder.join("data"))?,
            (None, Some(_)) => self.data.source()?.expect("it names data"),
            (None, None) => preset.data.source.with(&self.data.images, &self.data.table)?,
        };
        Ok(Settings { preset, seed: SEED, backend, precision: self.precision.unwrap_or(backend.precision()) })
    }

    /// Says what else there is where the recipe's data are not on this machine.
    fn advise(&self, error: anyhow::Error) -> anyhow::Error {
        match error.downcast_ref() {
            Some(DatasetError::Missing(_)) if self.data.data.is_none() => {
                anyhow::anyhow!("{error:#}; or train on random samples: --shape HEIGHTxWIDTHxCHANNELS")
            }
            _ => error,
        }
    }
}

/// A source of uniformly random samples of each class.
fn random_data(shape: SampleShape, classes: u16, folder: &Path) -> anyhow::Result<DataSource> {
    let mut random = StepRandom::new(SEED, 0);
    let units = (0..RANDOM_SAMPLES * shape.len()).map(|_| (2.0 * random.unit() - 1.0) as f32).collect();
    let labels: Vec<u16> = (0..RANDOM_SAMPLES).map(|index| (index % usize::from(classes)) as u16).collect();
    crate::files::make_folder(folder)?;
    Samples::from_units(units, shape).write(&folder.join("samples.npy"))?;
    write_labels(&folder.join("labels.npy"), &labels)?;
    Ok(DataSource::Npy { path: folder.to_owned(), images: Default::default(), table: Default::default() })
}

/// What the peers are told, as JSON.
///
/// # Errors
/// What the peers cannot do.
fn task(run: &Run) -> anyhow::Result<String> {
    let Preset { train, diffusion, .. } = &run.settings.preset;
    let network = run.settings.preset.network(&run.data);
    let plain = crate::diffusion::LossConfig::Simple == train.loss
        && !network.self_conditioning
        && network.condition_channels == 0
        && train.optimizer.accumulate == 1;
    if !plain || !matches!(network.architecture, Architecture::UNet(_)) {
        let message = "the peers train a U-Net with the simple loss, no self-conditioning, no given image and accumulate = 1; \
                       leave --peer out";
        return Err(Usage(message.to_owned()).into());
    }
    let diffusion = diffusion.build()?;
    let all: Vec<usize> = (0..diffusion.timesteps()).collect();
    let of = |factor: &dyn Fn(f64) -> f64| diffusion.alpha_bars.iter().map(|&alpha_bar| factor(alpha_bar)).collect();
    let optimizer = &train.optimizer;
    let task = Task {
        network: &network,
        batch: train.batch,
        class_dropout: train.class_dropout,
        signal: of(&signal),
        noise: of(&noise),
        target_of_data: of(&|alpha_bar| diffusion.objective.target_factors(alpha_bar)[0]),
        target_of_noise: of(&|alpha_bar| diffusion.objective.target_factors(alpha_bar)[1]),
        weight: diffusion.weights(train.weighting, &all),
        optimizer: PeerOptimizer {
            learning_rate: optimizer.learning_rate,
            betas: optimizer.betas,
            weight_decay: optimizer.weight_decay,
            clip: optimizer.clip,
            // Of a step in the middle of training.
            ema: optimizer.ema.keep(train.steps / 2),
        },
    };
    Ok(serde_json::to_string(&task)?)
}

/// Trains until the stopwatch has enough.
struct Bench {
    begun: Instant,
    seconds: Duration,
    devices: Devices,
    speed: OnceCell<Speed>,
}

impl OnBackend for Bench {
    fn run<B>(&self, run: &Run) -> anyhow::Result<()>
    where
        B: burn::tensor::backend::AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let Settings { preset, seed, backend, .. } = &run.settings;
        let (devices, diffusion) = (self.devices.of::<B::InnerBackend>()?, preset.diffusion.build()?);
        let parts = devices.len() * preset.train.optimizer.accumulate;
        anyhow::ensure!(
            preset.train.batch.is_multiple_of(parts),
            Usage(format!(
                "a batch of {} cannot be divided into {parts} equal parts: give another --batch",
                preset.train.batch
            ))
        );
        let network = preset.network(&run.data);
        let make = |device: &B::Device| -> anyhow::Result<_> {
            let (split, placement) = (run.data.train(), Placement::Device);
            let task = TeacherTask::<B::InnerBackend>::new(
                &preset.train,
                &network,
                &diffusion,
                split,
                *seed,
                placement,
                device,
            );
            Ok((network.init::<B>(*seed, device)?, task))
        };
        let net = network.init::<B::InnerBackend>(*seed, &devices[0])?;
        let start = DenoiserFile {
            network: network.clone(),
            diffusion: preset.diffusion.clone(),
            sampling: preset.sample.sampling.clone(),
            channels_scale: run.data.channels_scale.clone(),
            parameters: parameters(&net).into_data().to_vec().expect("f32 backend"),
        };
        let checkpoints = Checkpoints::new(run.dir.file("checkpoints"), Keep::default());
        let fit = Fit {
            optimizer: &preset.train.optimizer,
            steps: u64::MAX,
            recipe: run.teacher_recipe(),
            denoiser: &start,
            checkpoints: &checkpoints,
            explosion: 0.0,
            ahead: ahead::<B>(),
            interrupted: &AtomicBool::new(false),
        };
        let mut stopwatch = Stopwatch::new(self.begun, self.seconds, preset.train.batch, *backend);
        match fit.run_on::<B, _, _>(&devices, make, &mut stopwatch) {
            Err(error) if error.is::<Interrupted>() => {
                _ = self.speed.set(stopwatch.speed(start.parameters.len()));
                Ok(())
            }
            other => other.map(drop),
        }
    }
}

impl Output<'_> {
    /// The table: ours, then each of PyTorch's ways, and how many times as fast as each we are.
    fn print(&self) {
        let Self { preset, shape, classes, batch, device, backend, precision, mote, peers } = self;
        println!("preset {preset}, {shape}, {classes} classes, {batch} samples a step, on {device}");
        let name = |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
            value().map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        let ours =
            format!("mote {}:{}", name(&|| backend.to_possible_value()), name(&|| precision.to_possible_value()));
        println!(
            "{:<34} {:>10} {:>9} {:>19} {:>7} {:>9} {:>10}",
            "", "parameters", "images/s", "least - most", "ratio", "first", "memory"
        );
        print_row(&ours, mote, None);
        let Some(peers) = peers else { return };
        for way in &peers.ways {
            match (&way.speed, &way.error) {
                (Some(speed), _) => print_row(&way.way, speed, Some(mote)),
                (None, error) => println!("{:<34} {}", way.way, error.as_deref().unwrap_or("no result")),
            }
        }
        println!("PyTorch {} ({}) on {}", peers.torch, peers.cuda.as_deref().unwrap_or("no CUDA"), peers.device);
        for (network, what) in [("unet", "PyTorch's fastest way"), ("ddp", "denoising-diffusion-pytorch's")] {
            if let Some((way, speed)) = peers.fastest(network) {
                let ratio = mote.images_per_second / speed.images_per_second;
                println!("Mote trains {ratio:.2} times as fast as {what} ({way})");
            }
        }
    }
}

fn print_row(name: &str, speed: &Speed, ours: Option<&Speed>) {
    let ratio = ours.map_or("-".to_owned(), |ours| format!("{:.2}", ours.images_per_second / speed.images_per_second));
    let memory = speed.memory_bytes.map_or("-".to_owned(), |bytes| format!("{:.0} MB", bytes as f64 / 1e6));
    println!(
        "{name:<34} {:>10} {:>9.1} {:>19} {ratio:>7} {:>7.1} s {memory:>10}",
        speed.parameters,
        speed.images_per_second,
        format!("{:.1} - {:.1}", speed.least, speed.most),
        speed.seconds_to_first_step,
    );
}

#[cfg(test)]
mod tests;
