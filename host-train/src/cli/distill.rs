//! `mote-train distill`.

use std::path::PathBuf;

use burn::module::AutodiffModule;

use super::Usage;
use super::settings::{OnBackend, Run, Settings, ahead};
use crate::denoiser::DenoiserFile;
use crate::diffusion::Sampler;
use crate::diffusion::sample::SamplingConfig;
use crate::distill::{Stage, States};
use crate::ops::DenoiserBackend;
use crate::progress::Progress;
use crate::trainer::{Checkpoints, Fit, Keep, Progressing, interrupt_flag};

/// Distills the run's teacher into a student of few steps and one pass a step; goes on where a stopped one left off.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder, where `mote-train train` has been
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let dir = args.run.display();
    let none = || Usage(format!("{dir} holds no trained teacher; run `mote-train train --run {dir}` first"));
    let settings = Settings::recorded(&args.run)?.ok_or_else(none)?;
    if !args.run.join("teacher.safetensors").exists() {
        return Err(none().into());
    }
    Run::open(&args.run, settings)?.on_backend(&Distill)
}

struct Distill;

impl OnBackend for Distill {
    fn run<B>(&self, run: &Run) -> anyhow::Result<()>
    where
        B: burn::tensor::backend::AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let Settings { preset, seed, .. } = &run.settings;
        let path = run.dir.file("student.safetensors");
        if path.exists() {
            eprintln!("{} is there already; delete it to distill anew", path.display());
            return Ok(());
        }
        let begun = std::time::Instant::now();
        let device = B::Device::default();
        let teacher_bytes = crate::files::read(&run.dir.file("teacher.safetensors"))?;
        let teacher_sha256 = crate::files::sha256(&teacher_bytes);
        let mut file = DenoiserFile::from_bytes(&teacher_bytes)?;
        let diffusion = file.diffusion.build()?;
        let total = preset.distill.stages.iter().map(|stage| stage.steps).sum();
        let bar = Progress::new("distilling");
        let (mut losses, mut last_loss, mut before) = (Vec::new(), 0.0, 0);
        let folder = run.dir.file("distill-checkpoints");
        for (index, stage) in preset.distill.stages.iter().enumerate() {
            let net = file.net::<B>(&device)?;
            let teacher_net = net.valid();
            let (network, sampling) = (file.network.clone(), file.sampling.clone());
            let teacher = Sampler { net: &teacher_net, config: &network, diffusion: &diffusion, sampling };
            let checkpoints = Checkpoints::new(folder.join(format!("stage-{}", index + 1)), Keep::default());
            let fit = Fit {
                optimizer: &preset.distill.optimizer,
                steps: stage.steps,
                recipe: run.recipe(&(&preset.distill, index, &teacher_sha256)),
                denoiser: &file,
                checkpoints: &checkpoints,
                explosion: preset.watch.explosion,
                ahead: ahead::<B>(),
                interrupted: interrupt_flag(),
            };
            // Each stage has its own random numbers.
            let seed = seed.wrapping_add((index as u64 + 1) << 32);
            let drawing = match stage.states {
                States::Trajectories { count } => Some((Progress::new("drawing trajectories"), count)),
                States::Data => None,
            };
            let task = Stage::<B>::new(stage, preset.distill.batch, &teacher, run.data.train(), seed, |done| {
                if let Some((bar, count)) = &drawing {
                    bar.update(done, *count);
                }
            });
            // The finished stage stays on disk, so that a run killed in the next one does not repeat it.
            let saved = fit.run::<B, _>(net, &task, &mut Progressing::new(&bar, before, total))?;
            before += stage.steps;
            last_loss = saved.final_loss();
            losses.extend_from_slice(&saved.losses);
            file.parameters = saved.ema().to_vec();
            // Guidance is the student's own now, and its steps are DDIM's.
            let threshold = file.sampling.threshold;
            file.sampling = SamplingConfig { threshold, ..SamplingConfig::ddim(stage.rows, 1.0) };
        }
        bar.finish();
        run.dir.write_losses("distill-loss", &losses, &[], "Student, stage after stage")?;
        run.draw::<B::InnerBackend>(&file, "drawing student samples", "student.npy")?;
        run.record_stage("student", &file, before, last_loss, begun.elapsed())?;
        crate::files::write_atomically(&path, &file.to_bytes())?;
        let _ = std::fs::remove_dir_all(folder);
        println!("Wrote {} ({} steps, loss {last_loss:.4})", path.display(), file.sampling.steps);
        Ok(())
    }
}
