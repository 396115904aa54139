//! `mote-train distill`.

mod search;
mod settings;

use std::path::PathBuf;

use anyhow::Context;
use burn::tensor::backend::AutodiffBackend;
use serde::Serialize;

use super::Usage;
use super::settings::{OnBackend, Run, Settings, ahead};
use crate::denoiser::{DenoiserConfig, DenoiserFile, DiscriminatorHead};
use crate::diffusion::{Diffusion, Sampler};
use crate::distill::{
    Adversarial, Consistency, Course, DistillConfig, Duel, Path, Regression, StageConfig, States, Store, Target,
    Trajectories, jump_costs, resized,
};
use crate::ops::DenoiserBackend;
use crate::progress::Progress;
use crate::trainer::{Checkpoints, Fit, Keep, Progressing, interrupt_flag};

use settings::RecipeArgs;

/// Distills the run's teacher into a student of few steps and one pass a step; goes on where a stopped one left off.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The run's folder, where `mote-train train` has been
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// The student's name: NAME.safetensors and NAME.npy in the run's folder
    #[arg(long, value_name = "NAME", default_value = "student")]
    name: String,
    /// A denoiser whose weights the student begins with, such as a student of more steps [default: the teacher's]
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    #[command(flatten)]
    recipe: RecipeArgs,
    // The last, for it ends with a heading of its own.
    #[command(flatten)]
    search: search::SearchArgs,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let dir = args.run.display();
    let none = || Usage(format!("{dir} holds no trained teacher; run `mote-train train --run {dir}` first"));
    let settings = Settings::recorded(&args.run)?.ok_or_else(none)?;
    if !args.run.join("teacher.safetensors").exists() {
        return Err(none().into());
    }
    let plain = !args.name.is_empty() && args.name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
    if !plain || args.name == "teacher" {
        return Err(Usage(format!("--name {}: give letters and digits, not teacher", args.name)).into());
    }
    let recipe = args.recipe.apply(&settings.preset, args.from.is_some())?;
    if args.search.is_any() && args.recipe.names_a_student() {
        return Err(
            Usage("--student names the network that --max-flash and its like would search for".to_owned()).into()
        );
    }
    Run::open(&args.run, settings)?.on_backend(&Distill {
        name: args.name,
        from: args.from,
        recipe,
        search: args.search,
    })
}

struct Distill {
    name: String,
    from: Option<PathBuf>,
    recipe: DistillConfig,
    search: search::SearchArgs,
}

/// What the manifest says of how a student was distilled.
#[derive(Serialize)]
struct Record<'a> {
    command: String,
    recipe: &'a DistillConfig,
    /// Of the student's rows.
    timesteps: Vec<u32>,
    teacher_sha256: &'a str,
    /// Of the file that the student began with.
    #[serde(skip_serializing_if = "Option::is_none")]
    from_sha256: Option<&'a str>,
}

impl OnBackend for Distill {
    fn run<B>(&self, run: &Run) -> anyhow::Result<()>
    where
        B: AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let file_name = format!("{}.safetensors", self.name);
        let path = run.dir.file(&file_name);
        if path.exists() {
            eprintln!("{} is there already; delete it to distill anew, or give another --name", path.display());
            return Ok(());
        }
        let begun = std::time::Instant::now();
        let teacher_bytes = crate::files::read(&run.dir.file("teacher.safetensors"))?;
        let teacher_sha256 = crate::files::sha256(&teacher_bytes);
        let mut teacher = DenoiserFile::from_bytes(&teacher_bytes)?;
        teacher.diffusion.check_draws()?;
        let sampling = &mut teacher.sampling;
        sampling.guidance = self.recipe.guidance.unwrap_or(sampling.guidance);
        sampling.guidance_interval = self.recipe.guidance_interval.or(sampling.guidance_interval);
        let from = self.from.as_deref().map(|path| Beginning::read(path, &teacher)).transpose()?;
        let mut stages = Stages {
            run,
            recipe: self.recipe.clone(),
            diffusion: teacher.diffusion.build()?,
            teacher_sha256: &teacher_sha256,
            from,
            folder: run.dir.file("distill-checkpoints").join(&self.name),
        };
        if self.search.is_any() {
            let Some(best) = search::search::<B>(&self.search, &stages, &teacher, &self.name)? else { return Ok(()) };
            stages.recipe.student = Some(best);
        }
        let (file, losses, last_loss) = stages.run::<B>(teacher)?;
        let curve = format!("{}-loss", if self.name == "student" { "distill" } else { &self.name });
        run.dir.write_losses(&curve, &losses, &[], "Student, stage after stage")?;
        run.draw::<B::InnerBackend>(&file, "drawing student samples", &format!("{}.npy", self.name))?;
        run.record_stage(&self.name, &file, losses.len() as u64, last_loss, begun.elapsed())?;
        let timesteps: Vec<u32> = file.sampling.table(&stages.diffusion).iter().map(|row| row.timestep).collect();
        let command = std::env::args().collect::<Vec<_>>().join(" ");
        let record = Record {
            command,
            recipe: &stages.recipe,
            timesteps: timesteps.clone(),
            teacher_sha256: &teacher_sha256,
            from_sha256: stages.from.as_ref().map(|from| &from.sha256[..]),
        };
        run.dir.record(&format!("{}_distill", self.name), record)?;
        crate::files::write_atomically(&path, &file.to_bytes())?;
        let _ = std::fs::remove_dir_all(&stages.folder);
        // Other students may be on their way.
        let _ = std::fs::remove_dir(run.dir.file("distill-checkpoints"));
        println!("Wrote {} ({} steps at {timesteps:?}, loss {last_loss:.4})", path.display(), file.sampling.steps);
        Ok(())
    }
}

/// What the first stage's student begins with, in place of the teacher's weights.
struct Beginning {
    file: DenoiserFile,
    sha256: String,
}

impl Beginning {
    /// The denoiser in a file, for samples and classes such as `teacher`'s.
    fn read(path: &std::path::Path, teacher: &DenoiserFile) -> anyhow::Result<Self> {
        let bytes = crate::files::read(path)?;
        let file = DenoiserFile::from_bytes(&bytes).with_context(|| format!("{} is no denoiser", path.display()))?;
        let of = |file: &DenoiserFile| (file.network.shape, file.network.classes, file.diffusion.clone());
        if of(&file) != of(teacher) {
            let path = path.display();
            return Err(
                Usage(format!("--from {path}: it is of other samples, classes or noise than the teacher")).into()
            );
        }
        Ok(Self { file, sha256: crate::files::sha256(&bytes) })
    }
}

/// A recipe under way.
struct Stages<'a> {
    run: &'a Run,
    recipe: DistillConfig,
    diffusion: Diffusion,
    teacher_sha256: &'a str,
    from: Option<Beginning>,
    /// Where what is not finished is kept.
    folder: PathBuf,
}

impl Stages<'_> {
    /// All stages: the student, the losses of all steps, and the last stage's.
    fn run<B>(&self, teacher: DenoiserFile) -> anyhow::Result<(DenoiserFile, Vec<f32>, f64)>
    where
        B: AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let total = self.recipe.stages.iter().map(|stage| stage.steps).sum();
        let bar = Progress::new("distilling");
        let (mut file, mut losses, mut last_loss) = (teacher.clone(), Vec::new(), 0.0);
        for (index, stage) in self.recipe.stages.iter().enumerate() {
            let from = self.from.as_ref().filter(|_| index == 0);
            let student = self.student(&file, from.map_or(&file, |from| &from.file))?;
            // Each stage has its own random numbers.
            let seed = self.run.settings.seed.wrapping_add((index as u64 + 1) << 32);
            let checkpoints = self.folder.join(format!("stage-{}", index + 1));
            let begun = self.from.as_ref().map(|from| &from.sha256);
            let recipe = match begun {
                None => self.run.recipe(&(&self.recipe, index, self.teacher_sha256)),
                Some(begun) => self.run.recipe(&(&self.recipe, index, self.teacher_sha256, begun)),
            };
            let teaching = Teaching { stages: self, index, stage, seed, recipe, folder: checkpoints };
            let mut progress = Progressing::new(&bar, losses.len() as u64, total);
            let (student, saved) = teaching.run::<B>(&teacher, &file, student, &mut progress)?;
            last_loss = saved.final_loss();
            losses.extend_from_slice(&saved.losses);
            file = student;
        }
        bar.finish();
        Ok((file, losses, last_loss))
    }

    /// The student's network, after that of `teacher`, and the weights that it begins with, after those of `from`.
    fn student(&self, teacher: &DenoiserFile, from: &DenoiserFile) -> anyhow::Result<DenoiserFile> {
        let architecture = self.recipe.student.clone().unwrap_or_else(|| teacher.network.architecture.clone());
        let network = DenoiserConfig { architecture, ..teacher.network.clone() };
        let parameters = resized(from, &network, self.run.settings.seed)?;
        if self.run.settings.preset.network.export {
            network.exportable()?;
        }
        Ok(DenoiserFile { network, parameters, ..teacher.clone() })
    }
}

/// A stage under way.
struct Teaching<'a> {
    stages: &'a Stages<'a>,
    /// Its number, from 0.
    index: usize,
    stage: &'a StageConfig,
    seed: u64,
    /// All that decides its bits, as text.
    recipe: String,
    folder: PathBuf,
}

impl Teaching<'_> {
    /// Trains `student` on what its teacher does: `before`, or `first`, the first stage's, if the stage is adversarial. The student
    /// and what it learned from stay on disk until all stages are done, so that a run killed later does not repeat this.
    fn run<B>(
        &self,
        first: &DenoiserFile,
        before: &DenoiserFile,
        student: DenoiserFile,
        progress: &mut Progressing<'_>,
    ) -> anyhow::Result<(DenoiserFile, crate::trainer::Saved)>
    where
        B: AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let device = B::Device::default();
        let (stages, stage) = (self.stages, self.stage);
        let teacher = if self.follows_the_first() { first } else { before };
        let net = teacher.net::<B::InnerBackend>(&device)?;
        let sampler = self.sampler(&net, teacher);
        let course = self.course(&sampler, &student.network)?;
        let timesteps: Vec<u32> = course.path.rows.iter().map(|row| row.timestep).collect();
        let levels = stage.levels(&timesteps, || match &course.trajectories {
            Some(trajectories) => jump_costs(trajectories, &course.path.rows),
            None => {
                let drawn = Trajectories::draw(&course.path, 0..PLACED, stages.recipe.chunk, None, |_| ());
                jump_costs(&drawn.expect("nothing is written"), &course.path.rows)
            }
        })?;
        let sampling = match self.index {
            // The student goes on with the rows that it has.
            1.. if self.follows_the_first() => before.sampling.clone(),
            _ => stage.sampling(levels.iter().map(|&level| timesteps[level]).collect(), &teacher.sampling),
        };
        let rows = sampling.table(&stages.diffusion);
        let checkpoints = Checkpoints::new(self.folder.clone(), Keep::default());
        let optimizer = stage.optimizer.as_ref().unwrap_or(&stages.recipe.optimizer);
        let fit = |denoiser| Fit {
            optimizer,
            steps: stage.steps,
            recipe: self.recipe.clone(),
            denoiser,
            checkpoints: &checkpoints,
            explosion: stages.run.settings.preset.watch.explosion,
            ahead: ahead::<B>(),
            interrupted: interrupt_flag(),
        };
        let net = student.net::<B>(&device)?;
        let saved = match stage.target {
            Target::Regression => {
                fit(&student).run::<B, _>(net, &Regression::new(&course, &levels, rows, &stages.diffusion), progress)?
            }
            Target::Consistency => fit(&student).run::<B, _>(net, &Consistency::new(&course, stage.steps), progress)?,
            Target::Adversarial(game) => {
                let (discriminator, head) = (first.net::<B>(&device)?, DiscriminatorHead::new(&first.network, &device));
                let net = Duel { student: net, discriminator, head };
                let all = student.clone().with_net(&net);
                let task = Adversarial::new(&course, rows, &stages.diffusion, &first.network, game);
                fit(&all).run::<B, _>(net, &task, progress)?
            }
        };
        // A discriminator's come after them.
        let parameters = saved.ema()[..student.parameters.len()].to_vec();
        Ok((DenoiserFile { sampling, parameters, ..student }, saved))
    }

    /// Whether the teacher is the first stage's.
    fn follows_the_first(&self) -> bool {
        self.index == 0 || matches!(self.stage.target, Target::Adversarial(_))
    }

    fn sampler<'b, B: burn::tensor::backend::Backend>(
        &'b self,
        net: &'b crate::denoiser::Denoiser<B>,
        teacher: &'b DenoiserFile,
    ) -> Sampler<'b, B> {
        let sampling = teacher.sampling.clone();
        Sampler { net, config: &teacher.network, diffusion: &self.stages.diffusion, sampling }
    }

    /// The teacher's way and the training samples; draws the trajectories where the stage uses them.
    fn course<'b, B: DenoiserBackend>(
        &'b self,
        sampler: &'b Sampler<'b, B>,
        student: &'b DenoiserConfig,
    ) -> anyhow::Result<Course<'b, B>> {
        let (stages, stage) = (self.stages, self.stage);
        // A student before has rows of its own; the first teacher's are DDIM's, whatever it draws with.
        let rows = match self.index {
            _ if self.follows_the_first() => stages.diffusion.ddim(stage.teacher_rows),
            _ => sampler.sampling.table(&stages.diffusion),
        };
        let threshold = sampler.sampling.threshold;
        let (shape, classes) = (student.shape, student.classes);
        let path = Path { teacher: sampler, rows, threshold, shape, classes, seed: self.seed };
        let trajectories = match stage.states {
            States::Data => None,
            States::Trajectories { count } => {
                let store = Store { folder: self.folder.clone(), recipe: self.recipe.clone() };
                Some(draw(&path, 0..count, stages.recipe.chunk, Some(&store))?)
            }
        };
        let (split, batch) = (stages.run.data.train(), stage.batch.unwrap_or(stages.recipe.batch));
        Ok(Course { path, trajectories, split, batch, student, timesteps: stages.diffusion.timesteps() })
    }
}

/// Trajectories that a placement is tuned on, where the stage has none itself.
const PLACED: usize = 100;

/// [`Trajectories::draw`] with a bar.
fn draw<B: DenoiserBackend>(
    path: &Path<'_, B>,
    numbers: std::ops::Range<usize>,
    chunk: usize,
    store: Option<&Store>,
) -> anyhow::Result<Trajectories<B>> {
    let (bar, count) = (Progress::new("drawing trajectories"), numbers.len());
    let drawn = Trajectories::draw(path, numbers, chunk, store, |done| bar.update(done, count))?;
    bar.finish();
    Ok(drawn)
}
