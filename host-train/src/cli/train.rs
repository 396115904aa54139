//! `mote-train train`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use mote_nvidia::Machine;

use super::Usage;
use super::data::find_judge;
use super::devices::Devices;
use super::settings::{BackendName, OnBackend, Precision, Run, Settings, WantedBackend, ahead};
use crate::dashboard::Dashboard;
use crate::dataset::{DataOptions, Provenance};
use crate::denoiser::{DenoiserConfig, DenoiserFile, parameters};
use crate::diffusion::Diffusion;
use crate::evaluate::judge::Judge;
use crate::evaluate::score::Scorer;
use crate::evaluate::sheet::Legend;
use crate::ops::DenoiserBackend;
use crate::preset::Preset;
use crate::trainer::{
    Checkpoints, Fit, LossByNoise, Placement, RunLog, TeacherTask, Validation, Watch, interrupt_flag,
};

/// Trains a teacher; goes on where a stopped run of the same folder left off.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder
    #[arg(long, value_name = "DIR", required_unless_present = "print_preset")]
    run: Option<PathBuf>,
    /// A named preset or a .toml file [default: demo]
    #[arg(long, value_name = "NAME|FILE", help = format!("A named preset ({}) or a .toml file [default: demo]", Preset::names()))]
    preset: Option<String>,
    /// Set a field of the recipe, as often as wanted: --set train.batch=32 --set diffusion.schedule.kind=cosine.
    /// `--print-preset` lists the fields
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<String>,
    /// Training steps, in place of the recipe's; a finished run goes on to a greater number
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Print the whole recipe as TOML, with its defaults and what --set changes, and do nothing
    #[arg(long)]
    print_preset: bool,
    /// Show the training on the whole terminal: loss curve, measures; q saves and stops, s draws samples
    #[arg(long)]
    dashboard: bool,
    /// What computes; a run keeps what it began on
    #[arg(long, value_enum, default_value_t)]
    backend: WantedBackend,
    /// Train on these devices together: numbers such as 0,1, or all [default: the first]. Each computes an equal part of
    /// every batch, so the loss is that of one device but for rounding. The processor is one device; 0,0 trains in two
    /// threads of it. A run may go on on other devices
    #[arg(long, value_name = "LIST")]
    devices: Option<Devices>,
    /// Leave the data with the host and send each batch to the device, for data larger than its memory
    #[arg(long)]
    stream_data: bool,
    /// What it keeps between layers [default: f32; bf16 with --backend cuda]
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// Seed of everything that is random [default: 1]
    #[arg(long)]
    seed: Option<u64>,
    /// The data, in place of the recipe's
    #[command(flatten)]
    data: DataOptions,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let recorded = args.run.as_deref().map(Settings::recorded).transpose()?.flatten();
    let recorded_backend = recorded.as_ref().map(|recorded| recorded.backend);
    let (backend, why) = args.backend.choose(recorded_backend, &Machine::here())?;
    let wanted = args.wanted(recorded.as_ref(), backend).map_err(|error| Usage(format!("{error:#}")))?;
    let Some(dir) = args.run.filter(|_| !args.print_preset) else {
        print!("{}", wanted.preset.to_toml());
        return Ok(());
    };
    if recorded.is_some_and(|recorded| !wanted.goes_on_with(&recorded)) {
        return Err(Usage(format!(
            "{} holds a run with other settings; leave them out to go on with it, or give another --run",
            dir.display()
        ))
        .into());
    }
    let run = Run::open(&dir, wanted)?;
    why.iter().chain(&run.data.notes).for_each(|note| eprintln!("{note}"));
    if let Some(Provenance { name, licence, attribution, .. }) = &run.data.provenance {
        eprintln!("data {name}: {attribution} ({licence})");
    }
    let placement = if args.stream_data { Placement::Host } else { Placement::Device };
    run.on_backend(&Train { dashboard: args.dashboard, devices: args.devices.unwrap_or_default(), placement })
}

impl Args {
    /// What is asked for, with what a run had before for the rest.
    fn wanted(&self, recorded: Option<&Settings>, backend: BackendName) -> anyhow::Result<Settings> {
        let preset = match (&self.preset, recorded) {
            (None, Some(recorded)) => recorded.preset.clone(),
            (name, _) => Preset::find(name.as_deref().unwrap_or("demo"))?,
        };
        let steps = self.steps.map(|steps| format!("train.steps={steps}"));
        let settings: Vec<String> = self.settings.iter().cloned().chain(steps).collect();
        let mut preset = preset.with(&settings)?;
        preset.data.source = match self.data.data {
            Some(_) => self.data.source()?.expect("it names data"),
            None => preset.data.source.with(&self.data.images, &self.data.table)?,
        };
        let precision = self.precision.or(recorded.map(|recorded| recorded.precision));
        Ok(Settings {
            preset,
            seed: self.seed.or(recorded.map(|recorded| recorded.seed)).unwrap_or(1),
            backend,
            precision: precision.unwrap_or(backend.precision()),
        })
    }
}

struct Train {
    dashboard: bool,
    devices: Devices,
    placement: Placement,
}

impl OnBackend for Train {
    fn run<B>(&self, run: &Run) -> anyhow::Result<()>
    where
        B: burn::tensor::backend::AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let Settings { preset, seed, .. } = &run.settings;
        let path = run.dir.file("teacher.safetensors");
        let checkpoints = Checkpoints::new(run.dir.file("checkpoints"), preset.watch.checkpoints);
        if path.exists() {
            if run.dir.recorded("teacher")?.is_none() && !checkpoints.latest().exists() {
                return adopt(&path, &run.settings.preset.network(&run.data));
            }
            if run.trained_steps("teacher")? >= preset.train.steps {
                eprintln!("{} is there already; give more --steps to go on, or another --run", path.display());
                return Ok(());
            }
            let latest = checkpoints.latest();
            anyhow::ensure!(
                latest.exists(),
                "{} is gone, so training cannot go on; give another --run",
                latest.display()
            );
        }
        let begun = std::time::Instant::now();
        let (devices, diffusion) = (self.devices.of::<B::InnerBackend>()?, preset.diffusion.build()?);
        let parts = devices.len() * preset.train.optimizer.accumulate;
        anyhow::ensure!(
            preset.train.batch.is_multiple_of(parts),
            Usage(format!(
                "a batch of {} cannot be divided among {} workers in {} equal parts each: make train.batch a multiple of {parts}",
                preset.train.batch,
                devices.len(),
                preset.train.optimizer.accumulate
            ))
        );
        let network = preset.network(&run.data);
        let make = |device: &B::Device| -> anyhow::Result<_> {
            let task = TeacherTask::<B::InnerBackend>::new(
                &preset.train,
                &network,
                &diffusion,
                run.data.train(),
                *seed,
                self.placement,
                device,
            );
            Ok((network.init::<B>(*seed, device)?, task))
        };
        let start = DenoiserFile {
            network: network.clone(),
            diffusion: preset.diffusion.clone(),
            sampling: preset.sample.sampling.clone(),
            channels_scale: run.data.channels_scale.clone(),
            parameters: parameters(&network.init::<B::InnerBackend>(*seed, &devices[0])?)
                .into_data()
                .to_vec()
                .expect("f32 backend"),
        };
        let fit = Fit {
            optimizer: &preset.train.optimizer,
            steps: preset.train.steps,
            recipe: run.teacher_recipe(),
            denoiser: &start,
            checkpoints: &checkpoints,
            explosion: preset.watch.explosion,
            ahead: ahead::<B>(),
            interrupted: interrupt_flag(),
        };
        let mut watch = self.watch(run, &start, &diffusion, &checkpoints)?;
        let saved = fit.run_on::<B, _, _>(&devices, make, &mut watch.on::<B::InnerBackend>(&devices[0]))?;
        let validations = watch.log.validations()?;
        watch.log.finish();
        run.dir.write_losses("loss", &saved.losses, &validations, "Teacher")?;
        let file = DenoiserFile { parameters: saved.ema().to_vec(), ..start };
        let draws = preset.diffusion.check_draws().is_ok();
        if draws && !run.data.held_out().is_empty() {
            let (net, samples) = (file.net::<B::InnerBackend>(&devices[0])?, preset.watch.validation_samples);
            let held_out = run.data.held_out();
            let loss = LossByNoise::measure(&net, &network, &diffusion, &held_out, samples, |_, _| ());
            run.dir.write_loss_by_noise("teacher", &loss)?;
        }
        if draws {
            run.draw::<B::InnerBackend>(&file, "drawing teacher samples", "teacher.npy")?;
        }
        run.record_stage("teacher", &file, saved.losses.len() as u64, saved.final_loss(), begun.elapsed())?;
        crate::files::write_atomically(&path, &file.to_bytes())?;
        println!("Wrote {} (loss {:.4})", path.display(), saved.final_loss());
        let student = run.dir.file("student.safetensors");
        if student.exists() {
            println!("{} is of the teacher before; delete it to distill this one", student.display());
        }
        Ok(())
    }
}

/// Says whether the weights that were brought to a run, not trained in it, are what its recipe makes; the run's settings, which
/// distillation needs, are recorded by now.
fn adopt(path: &Path, network: &DenoiserConfig) -> anyhow::Result<()> {
    let file = DenoiserFile::from_bytes(&crate::files::read(path)?).with_context(|| path.display().to_string())?;
    anyhow::ensure!(
        file.network == *network,
        "{} is another network than the recipe's: give the --preset or --set that it was trained with, with another --run",
        path.display()
    );
    println!("{} was trained elsewhere: the recipe is recorded, `distill` comes next", path.display());
    Ok(())
}

impl Train {
    /// The dashboard, if it is asked for and there is a terminal.
    fn open_dashboard(&self) -> anyhow::Result<Option<Dashboard>> {
        if !self.dashboard {
            return Ok(None);
        }
        let name = format!("mote-train-dashboard{}", std::env::consts::EXE_SUFFIX);
        let program = std::env::current_exe()?.with_file_name(name);
        let dashboard = Dashboard::open(&program).with_context(|| {
            format!("cannot start {}; `cargo build --bin mote-train-dashboard` makes it", program.display())
        })?;
        if dashboard.is_none() {
            eprintln!("--dashboard needs a terminal; plain progress instead");
        }
        Ok(dashboard)
    }

    /// What is watched; everything that is asked for and impossible is refused before training.
    fn watch<'a>(
        &self,
        run: &'a Run,
        denoiser: &'a DenoiserFile,
        diffusion: &'a Diffusion,
        checkpoints: &'a Checkpoints,
    ) -> anyhow::Result<Watch<'a>> {
        let (preset, config) = (&run.settings.preset, &run.settings.preset.watch);
        if config.sample_every > 0 || config.score_every > 0 {
            preset.diffusion.check_draws().context("set watch.sample_every and watch.score_every to 0")?;
        }
        let (held_out, weighting) = (run.data.held_out(), preset.train.weighting);
        let validation = (config.validate_every > 0 && !held_out.is_empty()).then(|| {
            let (samples, levels) = (config.validation_samples, config.noise_levels.min(diffusion.timesteps()));
            Validation::new(&denoiser.network, diffusion, weighting, &held_out, samples, levels)
        });
        let scorer = if config.score_every > 0 { Some(scorer(run)?) } else { None };
        Ok(Watch {
            config,
            denoiser,
            diffusion,
            legend: Legend { class_names: &run.data.class_names, scale: &run.data.channels_scale },
            held_out: run.data.held_out(),
            validation,
            scorer,
            checkpoints,
            samples: run.dir.file("samples"),
            log: RunLog::new(run.dir.file("logs"), "training the teacher", preset.train.steps, self.open_dashboard()?),
        })
    }
}

/// The judge of the run's data.
fn scorer(run: &Run) -> anyhow::Result<Scorer<'_>> {
    let file = find_judge(run.settings.preset.watch.judge.as_deref(), &run.data, "DATA")
        .context("watch.score_every needs a judge: set watch.judge to its file")?;
    Scorer::new(Judge::from_bytes(&file).context("cannot use the judge")?, &run.data)
}
