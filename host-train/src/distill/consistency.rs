//! Consistency distillation with a gap that shrinks.
//!
//! | in the papers | here |
//! |---|---|
//! | f(x, t), the consistency function | the student's x0, unclamped |
//! | t, r | the teacher's levels `from` and `to`, the later the cleaner |
//! | the ODE solver's one step from t to r | one DDIM row with the guided teacher's estimate, or the trajectory's own state |
//! | stop gradient | the target is computed without one |
//!
//! The student's x0 at a state is to be its x0 at the state that the teacher's step makes of it (Song et al. 2023, algorithm 2,
//! without an average of the weights in the target: Song, Dhariwal, *Improved Techniques for Training Consistency Models*, 2023,
//! section 3.2); at the data it is the data. The step begins long and is halved again and again (Geng et al. 2024, section 3.1:
//! `r = t (1 - 1 / q^k)` with q = 2, k rising over training): at first it goes all the way, where the student is the teacher, which it
//! begins as; at last it goes to the next level. Errors count by pseudo-Huber with `c = 0.00054 sqrt(values)` and by one over
//! the gap (both papers).

use burn::module::AutodiffModule;
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend, BackendTypes};
use mote_core::step_table::StepRow;

use super::regression::not_finite;
use super::trajectories::{Course, Trajectories, in_blocks};
use crate::denoiser::{Condition, Denoiser};
use crate::diffusion::{Distance, per_image};
use crate::ops::DenoiserBackend;
use crate::trainer::{Part, StepRandom, Task};

/// Levels of a batch of noised samples: the teacher takes its step at each of them in one block.
const BLOCKS: usize = 4;
/// Of pseudo-Huber's constant, for a sample of one value.
const HUBER: f64 = 0.000_54;

/// A stage that learns to agree with itself.
pub struct Consistency<'a, B: Backend> {
    course: &'a Course<'a, B>,
    /// Training steps of the stage.
    steps: u64,
}

/// What a step trains on: states and what the teacher's step makes of them.
struct Pairs<B: Backend> {
    z: Tensor<B, 4>,
    next: Tensor<B, 4>,
    from: Vec<usize>,
    to: Vec<usize>,
    classes: Vec<usize>,
}

/// The level to which a step leads from level `from` of `levels` (the data's), in phase `phase`: `1 / 2^phase` of the way to the
/// data, rounded up to a level.
fn reached(from: usize, levels: usize, phase: u32) -> usize {
    from + (levels - from).div_ceil(1 << phase)
}

/// The phase of step `step` of `steps`: as many phases of the same length as it takes until each step leads to the next of
/// `levels` levels.
fn phase(step: u64, steps: u64, levels: usize) -> u32 {
    let phases = u64::from(levels.next_power_of_two().ilog2()) + 1;
    (step * phases / steps.max(1)).min(phases - 1) as u32
}

impl<'a, B: DenoiserBackend> Consistency<'a, B> {
    /// A stage of `steps` training steps.
    pub fn new(course: &'a Course<'a, B>, steps: u64) -> Self {
        Self { course, steps }
    }

    /// The data's level.
    fn levels(&self) -> usize {
        self.course.path.rows.len()
    }

    fn pairs(&self, step: u64) -> Pairs<B> {
        let random = &mut StepRandom::new(self.course.path.seed, step);
        let phase = phase(step, self.steps, self.levels());
        match &self.course.trajectories {
            Some(trajectories) => self.picked(trajectories, random, phase),
            None => self.noised(random, phase, &B::Device::default()),
        }
    }

    fn level(&self, u: f64) -> usize {
        ((u * self.levels() as f64) as usize).min(self.levels() - 1)
    }

    /// States of trajectories.
    fn picked(&self, trajectories: &Trajectories<B>, random: &mut StepRandom, phase: u32) -> Pairs<B> {
        let from: Vec<usize> = random.stratified(self.course.batch).into_iter().map(|u| self.level(u)).collect();
        let to: Vec<usize> = from.iter().map(|&from| reached(from, self.levels(), phase)).collect();
        let picks: Vec<usize> = from.iter().map(|_| random.below(trajectories.count())).collect();
        let at = |levels: &[usize]| trajectories.select(picks.iter().copied().zip(levels.iter().copied()));
        let (z, next) = (at(&from), at(&to));
        let classes = picks.iter().map(|pick| self.course.path.class(trajectories.first() + pick)).collect();
        Pairs { z, next, from, to, classes }
    }

    /// Noised training samples at a few levels, and one guided DDIM step from them.
    fn noised(&self, random: &mut StepRandom, phase: u32, device: &<B as BackendTypes>::Device) -> Pairs<B> {
        let Course { batch, path, .. } = self.course;
        let blocks: Vec<usize> = random.stratified(BLOCKS.min(*batch)).into_iter().map(|u| self.level(u)).collect();
        let mut from: Vec<usize> = (0..*batch).map(|index| blocks[index % blocks.len()]).collect();
        from.sort_unstable();
        let to = |from: usize| reached(from, self.levels(), phase);
        let rows: Vec<&StepRow> = from.iter().map(|&from| &path.rows[from]).collect();
        let (z, classes) = self.course.noised(&rows, random, device);
        let next = in_blocks(&z, &from, &classes, |from, z, classes| path.leap(from, to(from), z, classes));
        let to = from.iter().map(|&from| to(from)).collect();
        Pairs { z, next, from, to, classes }
    }

    /// The student's x0 of states at levels of rows; `[batch, channels, height, width]`.
    fn x0<C: DenoiserBackend>(
        &self,
        net: &Denoiser<C>,
        z: Tensor<C, 4>,
        levels: &[usize],
        classes: &[usize],
    ) -> Tensor<C, 4> {
        let Course { path, student, timesteps, .. } = self.course;
        let device = z.device();
        let each = |factor: &dyn Fn(&StepRow) -> f64| -> Tensor<C, 4> {
            per_image(&levels.iter().map(|&level| factor(&path.rows[level]) as f32).collect::<Vec<f32>>(), &device)
        };
        let of: Vec<u32> = levels.iter().map(|&level| path.rows[level].timestep).collect();
        let condition = Condition::new(student, &of, *timesteps, classes, &device);
        z.clone() * each(&|row| row.p) + net.forward(z, &condition) * each(&|row| row.q)
    }

    /// What the student is to say: the data where the step ends there, else its own x0.
    fn target(&self, net: &Denoiser<B>, next: Tensor<B, 4>, to: &[usize], classes: &[usize]) -> Tensor<B, 4> {
        let data = self.levels();
        let rows: Vec<usize> = to.iter().map(|&to| to.min(data - 1)).collect();
        let is_data: Vec<f32> = to.iter().map(|&to| if to == data { 1.0 } else { 0.0 }).collect();
        let is_data = per_image(&is_data, &next.device());
        let own = self.course.path.threshold.apply(self.x0(net, next.clone(), &rows, classes));
        own.clone() + (next - own) * is_data
    }
}

impl<B: AutodiffBackend + DenoiserBackend> Task<B, Denoiser<B>> for Consistency<'_, B::InnerBackend>
where
    B::InnerBackend: DenoiserBackend,
{
    /// The step and the part: what else there is to decide is the device's work.
    type Plan = (u64, Part);

    fn planner(&self) -> impl Fn(u64, Part) -> (u64, Part) + Send {
        |step, part| (step, part)
    }

    fn loss(&self, net: &Denoiser<B>, (step, part): (u64, Part)) -> Tensor<B, 1> {
        let Pairs { z, next, from, to, classes } = self.pairs(step);
        let [z, next] = [z, next].map(|x| part.narrow(x));
        let [from, to, classes] = [&from, &to, &classes].map(|all| part.slice(all));
        let target = Tensor::from_inner(self.target(&net.valid(), next, to, classes));
        let error = self.x0(net, Tensor::from_inner(z), from, classes) - target;
        let weights: Vec<f32> = from.iter().zip(to).map(|(from, to)| 1.0 / (to - from) as f32).collect();
        let c = HUBER * (self.course.student.shape.len() as f64).sqrt();
        let device = error.device();
        Distance::PseudoHuber { c }.mean(error, per_image(&weights, &device))
    }

    fn fault(&self, step: u64) -> Option<String> {
        let Pairs { z, next, .. } = self.pairs(step);
        not_finite([z, next])
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, Flex};

    use super::super::regression::tests::{dataset, student};
    use super::super::trajectories::tests::{Gaussian, SHAPE, floats, path};
    use super::*;

    #[test]
    fn the_gap_begins_at_all_of_the_way_and_ends_at_one_level() {
        assert_eq!((0..16).map(|from| reached(from, 16, 0)).collect::<Vec<_>>(), [16; 16]);
        assert_eq!([0, 5, 14, 15].map(|from| reached(from, 16, 1)), [8, 11, 15, 16]);
        for from in 0..16 {
            assert_eq!(reached(from, 16, 4), from + 1);
            let gaps = (0..5).map(|phase| reached(from, 16, phase) - from);
            assert!(gaps.is_sorted_by(|a, b| a >= b));
        }
        // 16 levels take five phases: 16, 8, 4, 2 and 1 sixteenths.
        let phases: Vec<u32> = (0..10).map(|step| phase(step, 10, 16)).collect();
        assert_eq!(phases, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]);
        assert_eq!((phase(0, 1, 1), phase(9, 10, 1)), (0, 0));
        assert_eq!(phase(9, 10, 12), 4);
    }

    /// One step of the exact teacher of a Gaussian multiplies a state by `keep + (signal' - keep signal) E[x0 | z] / z`; of a
    /// trajectory it is the product of all rows between.
    #[test]
    fn the_earlier_state_is_the_teachers() {
        let (teacher, student, dataset) = (Gaussian { deviation: 0.5 }, student(), dataset());
        for trajectories in [0, 12] {
            let path = path::<Flex>(&teacher, 8);
            let drawn =
                (trajectories > 0).then(|| Trajectories::draw(&path, 0..trajectories, 5, None, |_| ()).unwrap());
            let split = dataset.train();
            let course = Course { path, trajectories: drawn, split, batch: 12, student: &student, timesteps: 1000 };
            let consistency = Consistency::new(&course, 4);
            for step in 0..4 {
                let Pairs { z, next, from, to, .. } = consistency.pairs(step);
                let (z, next) = (floats(z), floats(next));
                for (example, (&from, &to)) in from.iter().zip(&to).enumerate() {
                    assert_eq!(to - from, (8 - from).div_ceil(1 << step));
                    let rows = &course.path.rows;
                    let of_x0 = |row: &StepRow| row.signal * 0.25 / teacher.deviation_at(row).powi(2);
                    let factor = if trajectories > 0 {
                        rows[from..to].iter().map(|row| row.a + row.b * of_x0(row)).product()
                    } else {
                        let [signal, noise] = rows.get(to).map_or([1.0, 0.0], |row| [row.signal, row.noise]);
                        let keep = noise / rows[from].noise;
                        keep + (signal - keep * rows[from].signal) * of_x0(&rows[from])
                    };
                    for value in example * SHAPE.len()..(example + 1) * SHAPE.len() {
                        let error = f64::from(next[value]) - factor * f64::from(z[value]);
                        assert!(error.abs() < 1e-4 * (1.0 + f64::from(z[value]).abs()), "{from} to {to}: {error}");
                    }
                }
            }
        }
    }

    /// Where a step ends at the data the target is the state itself; elsewhere it is the student's own x0.
    #[test]
    fn the_target_is_the_data_or_the_student() {
        let (teacher, student, dataset) = (Gaussian { deviation: 0.5 }, student(), dataset());
        let (path, split) = (path::<Flex>(&teacher, 4), dataset.train());
        let course = Course { path, trajectories: None, split, batch: 2, student: &student, timesteps: 1000 };
        let consistency = Consistency::new(&course, 1);
        let net = student.init::<Flex>(1, &Default::default()).unwrap();
        let next = Tensor::<Flex, 4>::ones([2, 1, 2, 2], &Default::default()) * 0.5;
        let target = floats(consistency.target(&net, next, &[2, 4], &[0, 1]));
        // A new network is the zero function, so its x0 is p z.
        let own = (course.path.rows[2].p * 0.5) as f32;
        assert!(target[..4].iter().all(|found| (found - own).abs() < 1e-6), "{target:?}");
        assert_eq!(target[4..], [0.5; 4]);
    }

    /// In closed form for a student that says zero: it gives `p z` everywhere.
    #[test]
    fn the_loss_is_pseudo_huber_over_the_gap() {
        let (teacher, student, dataset) = (Gaussian { deviation: 0.5 }, student(), dataset());
        let path = path::<Flex>(&teacher, 8);
        let drawn = Trajectories::draw(&path, 0..9, 9, None, |_| ()).unwrap();
        let (split, trajectories) = (dataset.train(), Some(drawn));
        let course = Course { path, trajectories, split, batch: 8, student: &student, timesteps: 1000 };
        let consistency = Consistency::new(&course, 4);
        let net = student.init::<Autodiff<Flex>>(1, &Default::default()).unwrap();
        for step in 0..4 {
            let found: f32 = Task::loss(&consistency, &net, (step, Part::ALL)).into_scalar();
            let Pairs { z, next, from, to, .. } = consistency.pairs(step);
            let (z, next) = (floats(z), floats(next));
            let c = 0.000_54 * 2.0;
            let one = |example: usize| {
                let (from, to) = (from[example], to[example]);
                let of_next = course.path.rows.get(to).map_or(1.0, |row| row.p);
                let values = example * 4..example * 4 + 4;
                let error =
                    |value: usize| course.path.rows[from].p * f64::from(z[value]) - of_next * f64::from(next[value]);
                let square: f64 = values.map(|value| error(value).powi(2)).sum();
                ((square + c * c).sqrt() - c) / (to - from) as f64
            };
            let wanted = (0..8).map(one).sum::<f64>() / 8.0;
            assert!((f64::from(found) / wanted - 1.0).abs() < 1e-3, "step {step}: {found} {wanted}");
        }
    }
}
