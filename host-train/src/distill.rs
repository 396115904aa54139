//! Progressive distillation (Salimans, Ho, *Progressive Distillation for Fast Sampling of Diffusion Models*, 2022).
//!
//! A stage trains a student of `rows` DDIM steps to do in one step what its teacher does in `teacher_rows / rows`: for a
//! state `z` at the student's timestep, the teacher's steps end at `z'`, and the student's x0 is to be the one whose single
//! DDIM step ends there too, `(z' - a z) / b`. The first stage's teacher is guided, which folds the two passes of guidance
//! into one (Meng et al., *On Distillation of Guided Diffusion Models*, 2023); each later stage's is the student before.

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};
use mote_core::step_table::StepRow;
use serde::{Deserialize, Serialize};

use crate::dataset::{Augmentation, Split};
use crate::denoiser::{Condition, Denoiser, DenoiserConfig};
use crate::diffusion::{Diffusion, Sampler, Weighting, per_image};
use crate::ops::DenoiserBackend;
use crate::trainer::{Batch, OptimizerConfig, Part, StepRandom, Task};

/// Trajectories computed at once.
const CHUNK: usize = 100;

/// The numbers of distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistillConfig {
    /// States a step.
    pub batch: usize,
    /// The stages in order; the last one's rows are the student's.
    pub stages: Vec<StageConfig>,
    /// The optimizer of each stage, begun anew.
    pub optimizer: OptimizerConfig,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageConfig {
    /// The student's sampling steps.
    pub rows: usize,
    /// The teacher's, a multiple.
    pub teacher_rows: usize,
    /// Training steps.
    pub steps: u64,
    /// Where the student's states come from.
    pub states: States,
}

/// Where a stage's states come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum States {
    /// Noised training images; the teacher runs in every step.
    Data,
    /// The teacher's own sampling trajectories, drawn once.
    Trajectories {
        /// How many.
        count: usize,
    },
}

/// One stage's task.
pub struct Stage<'a, B: AutodiffBackend> {
    config: &'a StageConfig,
    batch: usize,
    teacher: &'a Sampler<'a, B::InnerBackend>,
    split: Split<'a>,
    seed: u64,
    /// The student's rows and the teacher's.
    rows: Vec<StepRow>,
    teacher_rows: Vec<StepRow>,
    /// Of the squared error of the student's output, a row.
    weights: Vec<f32>,
    /// States and the x0 to give, `[count * rows, channels, height, width]`, trajectory by trajectory.
    trajectories: Option<[Tensor<B::InnerBackend, 4>; 2]>,
}

impl<'a, B: AutodiffBackend> Stage<'a, B>
where
    B::InnerBackend: DenoiserBackend,
{
    /// Prepares a stage; draws the trajectories where the stage uses them, and `progress` hears how many are drawn.
    pub fn new(
        config: &'a StageConfig,
        batch: usize,
        teacher: &'a Sampler<'a, B::InnerBackend>,
        split: Split<'a>,
        seed: u64,
        progress: impl FnMut(usize),
    ) -> Self {
        let diffusion = teacher.diffusion;
        let rows = diffusion.ddim(config.rows);
        let teacher_rows = diffusion.ddim(config.teacher_rows);
        let timesteps: Vec<usize> = rows.iter().map(|row| row.timestep as usize).collect();
        let weights = diffusion.weights(Weighting::TruncatedSnr, &timesteps);
        let mut stage = Self { config, batch, teacher, split, seed, rows, teacher_rows, weights, trajectories: None };
        if let States::Trajectories { count } = config.states {
            stage.trajectories = Some(stage.draw(count, progress));
        }
        stage
    }

    /// The teacher's steps from `z` at the student's row `row`: where they end, and the x0 that leads there in one step.
    fn teach(&self, row: usize, z: Tensor<B::InnerBackend, 4>, classes: &[usize]) -> [Tensor<B::InnerBackend, 4>; 2] {
        let each = self.config.teacher_rows / self.config.rows;
        let denoise = self.teacher.given(classes, None);
        let reverse = self.teacher.reverse(&denoise, &self.teacher_rows, self.seed, 0..0, &z.device());
        let (mut end, mut previous) = (z.clone(), None);
        for step in row * each..(row + 1) * each {
            end = reverse.row(step, end, &mut previous, || unreachable!("DDIM adds no noise"));
        }
        let StepRow { a, b, .. } = self.rows[row];
        let x0 = reverse.threshold.apply((end.clone() - z * a) / b);
        [end, x0]
    }

    fn draw(&self, count: usize, mut progress: impl FnMut(usize)) -> [Tensor<B::InnerBackend, 4>; 2] {
        let device = B::Device::default();
        let (mut states, mut targets) = (Vec::new(), Vec::new());
        for begin in (0..count).step_by(CHUNK) {
            let numbers = begin as u64..(begin + CHUNK).min(count) as u64;
            let classes: Vec<usize> = numbers.clone().map(|number| self.class(number as usize)).collect();
            let denoise = self.teacher.given(&classes, None);
            let mut z = self.teacher.reverse(&denoise, &self.teacher_rows, self.seed, numbers.clone(), &device).start();
            let (mut chunk_states, mut chunk_targets) = (Vec::new(), Vec::new());
            for row in 0..self.rows.len() {
                let [end, x0] = self.teach(row, z.clone(), &classes);
                chunk_states.push(std::mem::replace(&mut z, end));
                chunk_targets.push(x0);
            }
            let interleave = |parts: Vec<Tensor<B::InnerBackend, 4>>| {
                let [n, c, h, w] = parts[0].dims();
                let rows = parts.len();
                Tensor::stack::<5>(parts, 1).reshape([n * rows, c, h, w])
            };
            states.push(interleave(chunk_states));
            targets.push(interleave(chunk_targets));
            progress(numbers.end as usize);
        }
        [Tensor::cat(states, 0), Tensor::cat(targets, 0)]
    }

    fn class(&self, trajectory: usize) -> usize {
        trajectory % self.teacher.config.classes
    }

    /// States, the x0 to give, rows and classes of step `step`.
    fn examples(&self, step: u64) -> Examples<B::InnerBackend> {
        let device = B::Device::default();
        let random = &mut StepRandom::new(self.seed, step);
        match (&self.trajectories, self.config.states) {
            (Some([states, targets]), States::Trajectories { count }) => {
                let spread = random.stratified(self.batch);
                let rows: Vec<usize> = spread.iter().map(|u| self.row(*u)).collect();
                let picks: Vec<usize> = rows.iter().map(|_| random.below(count)).collect();
                let indices: Vec<i32> =
                    rows.iter().zip(&picks).map(|(row, pick)| (pick * self.rows.len() + row) as i32).collect();
                let indices = Tensor::<B::InnerBackend, 1, burn::tensor::Int>::from_ints(&indices[..], &device);
                let classes = picks.iter().map(|&pick| self.class(pick)).collect();
                Examples {
                    z: states.clone().select(0, indices.clone()),
                    x0: targets.clone().select(0, indices),
                    rows,
                    classes,
                }
            }
            _ => self.noised(random, &device),
        }
    }

    fn row(&self, u: f64) -> usize {
        ((u * self.rows.len() as f64) as usize).min(self.rows.len() - 1)
    }

    /// Noised training images. A batch is split evenly over rows begun at a random one, so the teacher runs in blocks.
    fn noised(
        &self,
        random: &mut StepRandom,
        device: &<B::InnerBackend as burn::tensor::backend::BackendTypes>::Device,
    ) -> Examples<B::InnerBackend> {
        let config = self.teacher.config;
        let first = random.below(self.rows.len());
        let mut rows: Vec<usize> = (0..self.batch).map(|index| (first + index) % self.rows.len()).collect();
        rows.sort_unstable();
        let Batch { images, labels: classes } =
            Batch::<B::InnerBackend>::draw(&self.split, self.batch, &Augmentation::default(), config, random, device);
        let noise = random.normal(images.dims(), device);
        let each = |factor: &dyn Fn(&StepRow) -> f64| -> Vec<f32> {
            rows.iter().map(|&row| factor(&self.rows[row]) as f32).collect()
        };
        let z =
            images * per_image(&each(&|row| row.signal), device) + noise * per_image(&each(&|row| row.noise), device);
        let mut targets = Vec::new();
        let mut begin = 0;
        for part in rows.chunk_by(|a, b| a == b) {
            let part_z = z.clone().narrow(0, begin, part.len());
            let [_, x0] = self.teach(part[0], part_z, &classes[begin..begin + part.len()]);
            targets.push(x0);
            begin += part.len();
        }
        Examples { z, x0: Tensor::cat(targets, 0), rows, classes }
    }
}

/// What a step trains on.
struct Examples<B: Backend> {
    z: Tensor<B, 4>,
    x0: Tensor<B, 4>,
    rows: Vec<usize>,
    classes: Vec<usize>,
}

impl<B: AutodiffBackend + DenoiserBackend> Task<B, Denoiser<B>> for Stage<'_, B>
where
    B::InnerBackend: DenoiserBackend,
{
    /// The step and the part: the teacher's work is the device's.
    type Plan = (u64, Part);

    fn planner(&self) -> impl Fn(u64, Part) -> (u64, Part) + Send {
        |step, part| (step, part)
    }

    /// The squared error of the student's output, weighted as `max(snr, 1)` of x0.
    fn loss(&self, net: &Denoiser<B>, (step, part): (u64, Part)) -> Tensor<B, 1> {
        let device = B::Device::default();
        let Examples { z, x0, rows, classes } = self.examples(step);
        let (z, x0, rows, classes) = (part.narrow(z), part.narrow(x0), part.slice(&rows), part.slice(&classes));
        let (config, diffusion): (&DenoiserConfig, &Diffusion) = (self.teacher.config, self.teacher.diffusion);
        let each = |factor: &dyn Fn(usize) -> f32| -> Tensor<B::InnerBackend, 4> {
            per_image(&rows.iter().map(|&row| factor(row)).collect::<Vec<f32>>(), &device)
        };
        // The output whose x0 = p z + q f is the one to give.
        let target = (x0 - z.clone() * each(&|row| self.rows[row].p as f32)) / each(&|row| self.rows[row].q as f32);
        let timesteps: Vec<u32> = rows.iter().map(|&row| self.rows[row].timestep).collect();
        let condition = Condition::new(config, &timesteps, diffusion.timesteps(), classes, &device);
        let error = net.forward(Tensor::from_inner(z), &condition) - Tensor::from_inner(target);
        let weights = Tensor::from_inner(each(&|row| self.weights[row]));
        (error.clone() * error * weights).mean()
    }

    fn fault(&self, step: u64) -> Option<String> {
        let Examples { z, x0, .. } = self.examples(step);
        let finite = |x: Tensor<B::InnerBackend, 4>| x.into_data().iter::<f32>().all(f32::is_finite);
        (!finite(z) || !finite(x0)).then(|| "a state or what the teacher makes of it".to_owned())
    }
}
