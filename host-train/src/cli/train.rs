//! `mote-train train`.

use std::path::PathBuf;

use super::Usage;
use super::settings::{BackendName, Run, Settings};
use crate::denoiser::DenoiserFile;
use crate::ops::DenoiserBackend;
use crate::preset::Preset;
use crate::progress::Progress;
use crate::trainer::{Fit, Progressing, TeacherTask, interrupt_flag};

/// Trains a teacher; goes on where a stopped run of the same folder left off.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// A named preset (demo, toy) or a .toml file [default: demo]
    #[arg(long, value_name = "NAME|FILE")]
    preset: Option<String>,
    /// What computes [default: flex]
    #[arg(long, value_enum)]
    backend: Option<BackendName>,
    /// Seed of everything that is random [default: 1]
    #[arg(long)]
    seed: Option<u64>,
    /// Data folder, a sub-folder of images a class [default: the embedded data set]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let recorded = Settings::recorded(&args.run)?;
    let preset = args.preset.as_deref().map(Preset::find).transpose().map_err(|error| Usage(format!("{error:#}")))?;
    let settings = match recorded {
        Some(recorded) => {
            let data = args.data.clone().or(recorded.data.clone());
            let wanted = Settings {
                preset: preset.unwrap_or_else(|| recorded.preset.clone()),
                seed: args.seed.unwrap_or(recorded.seed),
                backend: args.backend.unwrap_or(recorded.backend),
                data,
            };
            if wanted != recorded {
                let dir = args.run.display();
                return Err(Usage(format!(
                    "{dir} holds a run with other settings; leave them out to go on with it, or give another --run"
                ))
                .into());
            }
            wanted
        }
        None => Settings {
            preset: preset.map_or_else(|| Preset::find("demo"), Ok)?,
            seed: args.seed.unwrap_or(1),
            backend: args.backend.unwrap_or_default(),
            data: args.data,
        },
    };
    let run = Run::open(&args.run, settings)?;
    run.on_backend(&Train)
}

struct Train;

impl super::settings::OnBackend for Train {
    fn run<B>(&self, run: &Run) -> anyhow::Result<()>
    where
        B: burn::tensor::backend::AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let Settings { preset, seed, .. } = &run.settings;
        let path = run.dir.file("teacher.safetensors");
        if path.exists() {
            eprintln!("{} is there already; delete it to train anew", path.display());
            return Ok(());
        }
        let begun = std::time::Instant::now();
        let (device, diffusion) = (B::Device::default(), preset.diffusion.build()?);
        let network = preset.network(&run.data);
        let net = network.init::<B>(*seed, &device)?;
        let start: Vec<f32> = crate::denoiser::parameters(&net).into_data().to_vec().expect("f32 backend");
        let task = TeacherTask::new(&preset.train, &network, &diffusion, run.data.train(), *seed);
        let checkpoint = run.dir.file("train.checkpoint");
        let fit = Fit {
            optimizer: &preset.train.optimizer,
            steps: preset.train.steps,
            recipe: run.recipe(&(&preset.network, &preset.diffusion, &preset.train)),
            checkpoint: &checkpoint,
            interrupted: interrupt_flag(),
        };
        let bar = Progress::new("training the teacher");
        let progress = Progressing { bar: &bar, before: 0, total: preset.train.steps };
        let saved = fit.run(&start, net, &progress, |net, step| task.loss(net, step))?;
        bar.finish();
        run.dir.write_losses("loss", &saved.losses, "Teacher")?;
        let file = DenoiserFile {
            network,
            diffusion: preset.diffusion.clone(),
            sampling: preset.sample.sampling.clone(),
            channels_scale: run.data.channels_scale.clone(),
            parameters: saved.ema().to_vec(),
        };
        run.draw::<B::InnerBackend>(&file, "drawing teacher samples", "teacher.npy")?;
        run.record_stage("teacher", &file, saved.losses.len() as u64, saved.final_loss(), begun.elapsed())?;
        crate::files::write_atomically(&path, &file.to_bytes())?;
        let _ = std::fs::remove_file(&checkpoint);
        println!("Wrote {} (loss {:.4})", path.display(), saved.final_loss());
        Ok(())
    }
}
