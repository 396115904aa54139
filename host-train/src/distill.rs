//! Distillation: a student of few steps and one pass a step, from a guided teacher of many steps and two passes.
//!
//! A teacher's DDIM rows are *levels*, counted from pure noise (0) to the data (as many as there are rows). Along them a state
//! follows the teacher's ordinary differential equation, guidance included (Meng et al., *On Distillation of Guided Diffusion
//! Models*, 2023), so that from each level to each later one there is one right answer.
//!
//! | [`Method`] | what the student learns | from |
//! |---|---|---|
//! | [`Method::Progressive`] | to do two steps of its teacher in one; each stage's teacher is the student before | Salimans, Ho, *Progressive Distillation for Fast Sampling of Diffusion Models*, 2022 |
//! | [`Method::Trajectory`] | to jump between a few levels of the guided teacher's trajectories, all in one stage | the same target with a longer jump |
//! | [`Method::Adversarial`] | the same, then all its steps together to end near a trajectory's end with a sample that a discriminator takes for real | Sauer et al., *Adversarial Diffusion Distillation*, 2023 |
//! | [`Method::Consistency`] | to jump to the data from any level, by agreeing with itself one teacher's step later | Song et al., *Consistency Models*, 2023; Geng et al., *Consistency Models Made Easy* (ECT), 2024 |
//!
//! The first two are [`Regression`], the third ends with [`Adversarial`], the fourth is [`Consistency`]. [`best_levels`] says which levels a student's few rows are
//! best placed at, [`resized`] what weights a student of other sizes begins with, [`Budget`] which sizes fit a chip.

mod adversarial;
mod consistency;
mod placement;
mod regression;
mod resize;
mod search;
mod trajectories;

use adversarial::adversarial_optimizer;
use anyhow::{Context, ensure};
use mote_core::step_table::trailing_timestep;
use serde::{Deserialize, Serialize};

use crate::denoiser::Architecture;
use crate::diffusion::is_default;
use crate::diffusion::sample::{SamplerConfig, SamplingConfig, SpacingConfig};
use crate::trainer::OptimizerConfig;

pub use adversarial::{Adversarial, Duel, Game};
pub use consistency::Consistency;
pub use placement::{best_levels, jump_costs};
pub use regression::Regression;
pub use resize::resized;
pub use search::{Budget, Candidate, Size, propose, size};
pub use trajectories::{Course, Path, Store, Teacher, Trajectories};

/// The numbers of distillation: the `[distill]` section of a preset.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// States a step.
    pub batch: usize,
    /// Trajectories drawn at once: as many as the memory of what computes allows.
    #[serde(default = "hundred")]
    pub chunk: usize,
    /// The guidance that is folded in; the teacher's own if nothing is said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub guidance: Option<f64>,
    /// The sigmas between which it acts; the teacher's own if nothing is said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub guidance_interval: Option<[f64; 2]>,
    /// The student's network; the teacher's if nothing is said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub student: Option<Architecture>,
    /// The stages in order; the last one's rows are the student's.
    pub stages: Vec<StageConfig>,
    /// The optimizer of each stage, begun anew.
    pub optimizer: OptimizerConfig,
}

fn hundred() -> usize {
    100
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// The student's sampling steps.
    pub rows: usize,
    /// The teacher's; of a later stage's, the rows of the stage before; of an adversarial one's, those of the first.
    pub teacher_rows: usize,
    /// Training steps.
    pub steps: u64,
    /// Where the student's states come from.
    pub states: States,
    /// What it learns.
    #[serde(default, skip_serializing_if = "is_default")]
    pub target: Target,
    /// At which of the teacher's levels the student's rows are.
    #[serde(default, skip_serializing_if = "is_default")]
    pub placement: Placement,
    /// States a step; as many as in all stages if nothing is said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub batch: Option<usize>,
    /// The stage's own optimizer; that of all stages if nothing is said.
    #[serde(default, skip_serializing_if = "is_default")]
    pub optimizer: Option<OptimizerConfig>,
}

/// Where a stage's states come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum States {
    /// Noised training samples; the teacher runs in every step.
    Data,
    /// The teacher's own sampling trajectories, drawn once and kept in memory.
    Trajectories {
        /// How many.
        count: usize,
    },
}

/// What a stage's student learns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// Where the teacher's steps end: [`Regression`].
    #[default]
    Regression,
    /// Its own answer one teacher's step later: [`Consistency`].
    Consistency,
    /// To end near the ends of the first stage's guided teacher's trajectories, with samples that look real: [`Adversarial`]. The
    /// states are the student's own.
    Adversarial(Game),
}

/// At which of the teacher's levels the student's rows are. The first is always pure noise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Placement {
    /// Evenly spread.
    #[default]
    Trailing,
    /// Where the teacher's trajectories bend least between two of them: [`best_levels`].
    Tuned,
    /// The levels nearest to these timesteps.
    At {
        /// As many as there are rows, falling.
        timesteps: Vec<u32>,
    },
}

/// The way to a student of few steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// Halve the steps again and again (Salimans, Ho 2022)
    Progressive,
    /// Regress on the guided teacher's trajectories, in one stage
    Trajectory,
    /// Begin as trajectory, then end near trajectories' ends with samples that a discriminator takes for real (Sauer et al. 2023)
    Adversarial,
    /// Agree with itself one teacher's step later, which shrinks (Song et al. 2023; Geng et al. 2024)
    Consistency,
}

/// What [`Plan::stages`] makes stages of.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The way.
    pub method: Method,
    /// The student's sampling steps.
    pub rows: usize,
    /// The guided teacher's.
    pub teacher_rows: usize,
    /// Training steps of all stages together.
    pub steps: u64,
    /// Where the states come from.
    pub states: States,
    /// Where the student's rows are.
    pub placement: Placement,
    /// Whether the student is of other sizes than the teacher: then progressive distillation begins with a stage that
    /// keeps the number of steps.
    pub resized: bool,
    /// Whether the student begins as one that was distilled before, and need not begin on trajectories.
    pub begun: bool,
    /// Of all stages whose method has no other.
    pub optimizer: OptimizerConfig,
}

impl Plan {
    /// The stages. Those of progressive distillation get 3, 4, 5, ... parts of the steps: later ones have more to learn. Those
    /// of an adversarial student get the same.
    pub fn stages(&self) -> Vec<StageConfig> {
        let Self { rows, teacher_rows, steps, states, .. } = *self;
        if self.method == Method::Adversarial {
            let on_trajectories = if self.begun { 0 } else { steps / 2 };
            let mut stages = Self { method: Method::Trajectory, steps: on_trajectories, ..self.clone() }.stages();
            stages.push(StageConfig {
                steps: steps - on_trajectories,
                target: Target::Adversarial(Game::default()),
                optimizer: Some(adversarial_optimizer(&self.optimizer)),
                ..stages[0].clone()
            });
            return stages.split_off(usize::from(self.begun));
        }
        let target = if self.method == Method::Consistency { Target::Consistency } else { Target::Regression };
        let mut way = vec![teacher_rows];
        if self.method == Method::Progressive {
            if self.resized {
                way.push(teacher_rows);
            }
            while way[way.len() - 1] / 2 > rows {
                way.push(way[way.len() - 1] / 2);
            }
        }
        way.push(rows);
        let count = way.len() as u64 - 1;
        let parts = |stages: u64| (0..stages).map(|stage| stage + 3).sum::<u64>();
        let until = |stage: u64| steps * parts(stage) / parts(count);
        let stage = |(stage, pair): (u64, &[usize])| StageConfig {
            rows: pair[1],
            teacher_rows: pair[0],
            steps: until(stage + 1) - until(stage),
            states,
            target,
            placement: if stage + 1 == count { self.placement.clone() } else { Placement::Trailing },
            batch: None,
            optimizer: None,
        };
        (0..).zip(way.windows(2)).map(stage).collect()
    }
}

impl DistillConfig {
    /// Whether a process of `timesteps` can be distilled so.
    ///
    /// # Errors
    /// The first number that makes no sense, with what to do.
    pub fn check(&self, timesteps: usize) -> anyhow::Result<()> {
        ensure!(self.batch >= 1, "distill.batch must be at least 1");
        ensure!(self.chunk >= 1, "distill.chunk must be at least 1");
        ensure!(!self.stages.is_empty(), "distill.stages is empty; give at least one");
        self.optimizer.check(self.batch)?;
        for (index, stage) in self.stages.iter().enumerate() {
            let StageConfig { rows, teacher_rows, steps, .. } = *stage;
            let what = format!("distill.stages.{index}: {rows} steps from a teacher of {teacher_rows}");
            ensure!((1..=timesteps).contains(&teacher_rows), "{what}: a teacher has 1 to {timesteps}");
            ensure!((1..=teacher_rows).contains(&rows), "{what}: a student has 1 to {teacher_rows}");
            ensure!(steps >= 1, "{what}: steps must be at least 1");
            ensure!(stage.states != States::Trajectories { count: 0 }, "{what}: states.count must be at least 1");
            if let Some(before) = index.checked_sub(1).map(|before| &self.stages[before]) {
                match stage.target {
                    Target::Adversarial(_) => {
                        let first = self.stages[0].teacher_rows;
                        ensure!(teacher_rows == first, "{what}: it follows the first stage's teacher of {first} steps");
                        ensure!(rows == before.rows, "{what}: the student before has {} steps", before.rows);
                    }
                    _ => ensure!(teacher_rows == before.rows, "{what}: the student before has {} steps", before.rows),
                }
                ensure!(before.target != Target::Consistency, "{what}: a consistency model cannot be a teacher");
            }
            if let Target::Adversarial(game) = stage.target {
                game.check().with_context(|| what.clone())?;
                ensure!(stage.states != States::Data, "{what}: an adversarial stage needs trajectories");
            }
            let batch = stage.batch.unwrap_or(self.batch);
            ensure!(batch >= 1, "{what}: batch must be at least 1");
            stage.optimizer.as_ref().unwrap_or(&self.optimizer).check(batch).with_context(|| what.clone())?;
            if let Placement::At { timesteps: at } = &stage.placement {
                let last = timesteps - 1;
                let right = at.len() == rows && at.is_sorted_by(|a, b| a > b) && at[0] as usize <= last;
                ensure!(right, "{what}: placement.timesteps {at:?}: give {rows} falling timesteps, {last} at most");
            }
        }
        Ok(())
    }
}

impl StageConfig {
    /// The levels of the student's rows, rising from 0, for a teacher whose rows are at `timesteps`; `costs` is asked for
    /// [`jump_costs`] where the placement needs them.
    ///
    /// # Errors
    /// Timesteps that are nearest to the same level.
    pub fn levels(&self, timesteps: &[u32], costs: impl FnOnce() -> Vec<Vec<f64>>) -> anyhow::Result<Vec<usize>> {
        let (rows, levels) = (self.rows, timesteps.len());
        let nearest = |&wanted: &u32| {
            let distance = |&level: &usize| timesteps[level].abs_diff(wanted);
            (0..levels).min_by_key(distance).expect("a teacher has rows")
        };
        let picks: Vec<usize> = match &self.placement {
            // The data's level is not a row's.
            Placement::Trailing => (0..rows).map(|row| levels - 1 - trailing_timestep(row, rows, levels)).collect(),
            Placement::Tuned => best_levels(&costs(), rows),
            Placement::At { timesteps: wanted } => wanted.iter().map(nearest).collect(),
        };
        let rising = picks.is_sorted_by(|a, b| a < b) && picks[0] == 0;
        ensure!(rising, "{:?} are levels {picks:?} of a teacher at {timesteps:?}: give it more steps", self.placement);
        Ok(picks)
    }

    /// How the student draws whose rows are at these timesteps. Guidance is its own now.
    pub fn sampling(&self, timesteps: Vec<u32>, teacher: &SamplingConfig) -> SamplingConfig {
        let sampler = match self.target {
            Target::Regression | Target::Adversarial(_) => SamplerConfig::default(),
            Target::Consistency => SamplerConfig::Consistency,
        };
        let spacing = match self.placement {
            Placement::Trailing => SpacingConfig::Trailing,
            _ => SpacingConfig::At { timesteps },
        };
        SamplingConfig { threshold: teacher.threshold, sampler, spacing, ..SamplingConfig::ddim(self.rows, 1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(method: Method, rows: usize) -> Plan {
        Plan {
            method,
            rows,
            teacher_rows: 16,
            steps: 1000,
            states: States::Trajectories { count: 10 },
            placement: Placement::Tuned,
            resized: false,
            begun: false,
            optimizer: crate::preset::Preset::find("toy").unwrap().distill.optimizer,
        }
    }

    fn ways(plan: &Plan) -> Vec<(usize, usize, u64)> {
        plan.stages().iter().map(|stage| (stage.teacher_rows, stage.rows, stage.steps)).collect()
    }

    #[test]
    fn progressive_stages_halve_and_share_the_steps() {
        let plan = plan(Method::Progressive, 2);
        assert_eq!(ways(&plan), [(16, 8, 250), (8, 4, 333), (4, 2, 417)]);
        assert_eq!(ways(&Plan { resized: true, rows: 8, ..plan.clone() }), [(16, 16, 428), (16, 8, 572)]);
        assert_eq!(ways(&Plan { rows: 3, ..plan.clone() }), [(16, 8, 250), (8, 4, 333), (4, 3, 417)]);
        assert_eq!(ways(&Plan { rows: 16, ..plan.clone() }), [(16, 16, 1000)]);
        let placements: Vec<Placement> = plan.stages().into_iter().map(|stage| stage.placement).collect();
        assert_eq!(placements, [Placement::Trailing, Placement::Trailing, Placement::Tuned]);
    }

    #[test]
    fn the_other_methods_are_one_stage() {
        assert_eq!(ways(&plan(Method::Trajectory, 4)), [(16, 4, 1000)]);
        let stages = plan(Method::Consistency, 1).stages();
        assert_eq!((stages.len(), stages[0].target), (1, Target::Consistency));
    }

    #[test]
    fn an_adversarial_student_begins_on_trajectories_unless_it_began_before() {
        let plan = Plan { placement: Placement::Trailing, ..plan(Method::Adversarial, 2) };
        assert_eq!(ways(&plan), [(16, 2, 500), (16, 2, 500)]);
        let targets = |plan: &Plan| plan.stages().into_iter().map(|stage| stage.target).collect::<Vec<_>>();
        assert_eq!(targets(&plan), [Target::Regression, Target::Adversarial(Game::default())]);
        let begun = Plan { begun: true, ..plan };
        assert_eq!((ways(&begun), targets(&begun).len()), (vec![(16, 2, 1000)], 1));
    }

    #[test]
    fn even_levels_are_those_of_trailing_timesteps() {
        let teacher: Vec<u32> = (0..16).map(|row| trailing_timestep(row, 16, 1000) as u32).collect();
        let unasked = || unreachable!("no placement is tuned");
        for rows in [1, 2, 4, 8, 16] {
            let stage = StageConfig {
                placement: Placement::Trailing,
                rows,
                ..plan(Method::Trajectory, rows).stages()[0].clone()
            };
            let levels = stage.levels(&teacher, unasked).unwrap();
            let expected: Vec<u32> = (0..rows).map(|row| trailing_timestep(row, rows, 1000) as u32).collect();
            assert_eq!(levels.iter().map(|&level| teacher[level]).collect::<Vec<_>>(), expected);
        }
        let at = |timesteps: &[u32]| {
            let placement = Placement::At { timesteps: timesteps.to_vec() };
            let stage = StageConfig { placement, ..plan(Method::Trajectory, timesteps.len()).stages()[0].clone() };
            stage.levels(&teacher, unasked)
        };
        assert_eq!(at(&[999, 600, 100]).unwrap(), [0, 6, 14]);
        assert!(at(&[999, 990]).unwrap_err().to_string().contains("give it more steps"));
        assert!(at(&[500, 100]).is_err(), "it begins in the middle");
    }

    #[test]
    fn stages_that_do_not_fit_together_are_named() {
        let preset = crate::preset::Preset::find("toy").unwrap();
        let config = preset.distill;
        config.check(1000).unwrap();
        type Spoil = fn(&mut DistillConfig);
        fn judged(spoil: fn(&mut Game)) -> Target {
            let mut game = Game::default();
            spoil(&mut game);
            Target::Adversarial(game)
        }
        const JUDGED: Target = Target::Adversarial(Game { weight: 0.1, mislabelled: 0.0, smoothness: 0.0 });
        let broken: [(&str, Spoil); 13] = [
            ("batch", |config| config.batch = 0),
            ("empty", |config| config.stages.clear()),
            ("a student has 1 to 8", |config| config.stages[0].rows = 9),
            ("the student before has 4 steps", |config| config.stages[1].teacher_rows = 8),
            ("cannot be a teacher", |config| config.stages[0].target = Target::Consistency),
            ("weight must be", |config| config.stages[0].target = judged(|game| game.weight = 0.0)),
            ("mislabelled must be", |config| config.stages[0].target = judged(|game| game.mislabelled = 1.0)),
            ("smoothness must be", |config| config.stages[0].target = judged(|game| game.smoothness = -1.0)),
            ("the first stage's teacher of 8 steps", |config| config.stages[1].target = JUDGED),
            ("needs trajectories", |config| {
                config.stages.truncate(1);
                config.stages[0].target = JUDGED;
                config.stages[0].states = States::Data;
            }),
            ("batch must be", |config| config.stages[1].batch = Some(0)),
            ("states.count", |config| config.stages[0].states = States::Trajectories { count: 0 }),
            ("falling timesteps", |config| config.stages[0].placement = Placement::At { timesteps: vec![999, 5] }),
        ];
        for (what, spoil) in broken {
            let mut config = config.clone();
            spoil(&mut config);
            let error = format!("{:#}", config.check(1000).unwrap_err());
            assert!(error.contains(what), "{what}: {error}");
        }
    }
}
