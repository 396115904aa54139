//! `--max-flash`, `--max-arena`, `--max-macs`: the student is searched for.

use anyhow::Context;
use burn::tensor::backend::AutodiffBackend;
use clap::ArgGroup;
use serde::{Deserialize, Serialize};

use super::{Stages, Teaching, draw};
use crate::cli::amount;
use crate::cli::settings::ahead;
use crate::denoiser::{Architecture, DenoiserConfig, DenoiserFile};
use crate::distill::{
    Budget, Candidate, Method, Placement, Plan, Regression, Size, StageConfig, States, propose, resized,
};
use crate::files;
use crate::ops::DenoiserBackend;
use crate::progress::Progress;
use crate::trainer::{Checkpoints, Fit, Keep, Progressing, interrupt_flag};

/// Trajectories that a student's loss is measured on, none of them trained on.
const HELD_OUT: usize = 100;

/// The room on the chip, and how much is tried.
#[derive(Debug, Clone, PartialEq, clap::Args)]
#[command(next_help_heading = "Search for the student that fits a chip best, then distill it")]
#[command(group(ArgGroup::new("limit").args(["max_flash", "max_arena", "max_macs"]).multiple(true)))]
pub(super) struct SearchArgs {
    /// Bytes of the .mote file, at most
    #[arg(long, value_name = "BYTES", value_parser = amount)]
    max_flash: Option<usize>,
    /// Bytes of RAM for activations, at most
    #[arg(long, value_name = "BYTES", value_parser = amount)]
    max_arena: Option<usize>,
    /// Multiply-accumulates of a pass, at most
    #[arg(long, value_name = "N", value_parser = amount)]
    max_macs: Option<usize>,
    /// Students that are trained a little to compare them
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..))]
    candidates: u16,
    /// Training steps of each
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    search_steps: u64,
    /// Print the students that fit and what they take, and train none
    #[arg(long, requires = "limit")]
    propose: bool,
}

/// A student that was tried. The fields' names are those of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Tried {
    architecture: Architecture,
    flash: usize,
    arena: usize,
    macs: usize,
    parameters: usize,
    /// On trajectories that it was not trained on.
    loss: f64,
}

/// What is kept of a finished search.
#[derive(Serialize, Deserialize)]
struct Found {
    recipe: String,
    /// The best first.
    students: Vec<Tried>,
}

impl SearchArgs {
    fn budget(&self) -> Budget {
        Budget { flash: self.max_flash, arena: self.max_arena, macs: self.max_macs }
    }

    /// Whether a student is to be searched for.
    pub(super) fn is_any(&self) -> bool {
        self.budget().is_any()
    }
}

/// The best student that fits, or none where students are only to be shown.
pub(super) fn search<B>(
    args: &SearchArgs,
    stages: &Stages<'_>,
    teacher: &DenoiserFile,
    name: &str,
) -> anyhow::Result<Option<Architecture>>
where
    B: AutodiffBackend + DenoiserBackend,
    B::InnerBackend: DenoiserBackend,
{
    let (first, last) = (&stages.recipe.stages[0], &stages.recipe.stages[stages.recipe.stages.len() - 1]);
    let rows = stages.diffusion.ddim(last.rows);
    let timesteps = stages.diffusion.timesteps();
    let students = propose(&teacher.network, &args.budget(), &rows, timesteps, args.candidates.into())?;
    if args.propose {
        students.iter().for_each(|student| println!("{student}"));
        return Ok(None);
    }
    let run = stages.run;
    let recipe = run.recipe(&(&stages.recipe, stages.teacher_sha256, &students, args.search_steps, "search"));
    let path = run.dir.file(&format!("{name}-search.json"));
    let kept = path.exists().then(|| files::read(&path)).transpose()?;
    let kept = kept.and_then(|file| serde_json::from_slice::<Found>(&file).ok()).filter(|kept| kept.recipe == recipe);
    let students = match kept {
        Some(kept) => kept.students,
        None => {
            // In one stage from the guided teacher to the last one's rows, whatever the recipe's way there is.
            let plan = Plan {
                method: Method::Trajectory,
                rows: last.rows,
                teacher_rows: first.teacher_rows,
                steps: args.search_steps,
                states: match first.states {
                    States::Data => States::Trajectories { count: 500 },
                    states => states,
                },
                placement: Placement::Trailing,
                resized: true,
                begun: false,
                optimizer: stages.recipe.optimizer.clone(),
            };
            let stage = &plan.stages()[0];
            let seed = run.settings.seed;
            let folder = stages.folder.join("search");
            let teaching = Teaching { stages, index: 0, stage, seed, recipe: recipe.clone(), folder };
            let students = teaching.compare::<B>(teacher, students)?;
            let found = Found { recipe, students };
            files::write_atomically(&path, &serde_json::to_vec_pretty(&found)?)?;
            found.students
        }
    };
    println!("{:>10}  {:>8}  {:>8}  {:>10}  student", "loss", "flash", "arena", "macs");
    for Tried { architecture, flash, arena, macs, parameters, loss } in &students {
        let size = Size { flash: *flash, arena: *arena, macs: *macs, parameters: *parameters };
        let shown = Candidate { architecture: architecture.clone(), size }.to_string();
        let shown = shown.split_once(':').map_or(&shown[..], |(network, _)| network);
        println!("{loss:>10.5}  {flash:>8}  {arena:>8}  {macs:>10}  {shown}");
    }
    let best = students.into_iter().next().context("there is a student")?;
    Ok(Some(best.architecture))
}

impl Teaching<'_> {
    /// Trains each candidate for the stage's steps and measures it; the best first.
    fn compare<B>(&self, teacher: &DenoiserFile, candidates: Vec<Candidate>) -> anyhow::Result<Vec<Tried>>
    where
        B: AutodiffBackend + DenoiserBackend,
        B::InnerBackend: DenoiserBackend,
    {
        let device = B::Device::default();
        let (stages, stage) = (self.stages, self.stage);
        let networks: Vec<DenoiserConfig> = candidates
            .iter()
            .map(|candidate| DenoiserConfig { architecture: candidate.architecture.clone(), ..teacher.network.clone() })
            .collect();
        let net = teacher.net::<B::InnerBackend>(&device)?;
        let sampler = self.sampler(&net, teacher);
        let mut course = self.course(&sampler, &teacher.network)?;
        let count = course.trajectories.as_ref().map_or(0, |trajectories| trajectories.count());
        let held_out = draw(&course.path, count..count + HELD_OUT, stages.recipe.chunk, None)?;
        let timesteps: Vec<u32> = course.path.rows.iter().map(|row| row.timestep).collect();
        let levels = stage.levels(&timesteps, || unreachable!("a search's rows are even"))?;
        let rows = stage.sampling(Vec::new(), &teacher.sampling).table(&stages.diffusion);
        let bar = Progress::new("comparing students");
        let total = stage.steps * candidates.len() as u64;
        let mut tried = Vec::new();
        for (number, (Candidate { architecture, size }, network)) in candidates.into_iter().zip(&networks).enumerate() {
            let parameters = resized(teacher, network, self.seed)?;
            let student = DenoiserFile { network: network.clone(), parameters, ..teacher.clone() };
            let checkpoints = Checkpoints::new(self.folder.join(number.to_string()), Keep::default());
            let StageConfig { steps, .. } = *stage;
            let fit = Fit {
                optimizer: &stages.recipe.optimizer,
                steps,
                recipe: format!("{} {number}", self.recipe),
                denoiser: &student,
                checkpoints: &checkpoints,
                explosion: stages.run.settings.preset.watch.explosion,
                ahead: ahead::<B>(),
                interrupted: interrupt_flag(),
            };
            course.student = network;
            let task = Regression::new(&course, &levels, rows.clone(), &stages.diffusion);
            let mut progress = Progressing::new(&bar, number as u64 * steps, total);
            let saved = fit.run::<B, _>(student.net::<B>(&device)?, &task, &mut progress)?;
            let trained = DenoiserFile { parameters: saved.ema().to_vec(), ..student };
            let loss = task.loss_on(&trained.net::<B::InnerBackend>(&device)?, &held_out);
            let Size { flash, arena, macs, parameters } = size;
            tried.push(Tried { architecture, flash, arena, macs, parameters, loss });
        }
        bar.finish();
        tried.sort_by(|a, b| a.loss.total_cmp(&b.loss));
        Ok(tried)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        assert_eq!(
            ["512k", "64K", "20M", "1.5M", "700"].map(|text| amount(text).unwrap()),
            [524_288, 65_536, 20_000_000, 1_500_000, 700]
        );
        assert!(["", "k", "-3k", "many", "NaN"].iter().all(|text| amount(text).is_err()));
    }
}
