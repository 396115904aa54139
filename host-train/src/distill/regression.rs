//! Regression on where a teacher's steps end.
//!
//! For a state `z` at a student's row the teacher's rows up to the student's next one end at `z'`, and the student's x0 is to
//! be the one whose single DDIM row ends there too, `(z' - a z) / b` (Salimans, Ho 2022, appendix G).

use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend, BackendTypes};
use mote_core::step_table::StepRow;

use super::trajectories::{Course, Trajectories, in_blocks};
use crate::denoiser::{Condition, Denoiser};
use crate::diffusion::{Diffusion, Weighting, per_image};
use crate::ops::DenoiserBackend;
use crate::trainer::{Part, StepRandom, Task};

/// A stage that learns where its teacher's steps end.
pub struct Regression<'a, B: Backend> {
    course: &'a Course<'a, B>,
    /// The levels of the student's rows and of the data.
    levels: Vec<usize>,
    /// The student's rows.
    rows: Vec<StepRow>,
    /// Of the squared error of the student's output, a row; `max(snr, 1)` of x0.
    weights: Vec<f32>,
    /// The course's trajectories at the student's levels.
    ends: Option<Trajectories<B>>,
}

/// What a step trains on.
struct Examples<B: Backend> {
    z: Tensor<B, 4>,
    x0: Tensor<B, 4>,
    rows: Vec<usize>,
    classes: Vec<usize>,
}

impl<'a, B: DenoiserBackend> Regression<'a, B> {
    /// A student whose rows are `rows`, at the teacher's levels `levels`.
    pub fn new(course: &'a Course<'a, B>, levels: &[usize], rows: Vec<StepRow>, diffusion: &Diffusion) -> Self {
        let timesteps: Vec<usize> = rows.iter().map(|row| row.timestep as usize).collect();
        let weights = diffusion.weights(Weighting::TruncatedSnr, &timesteps);
        let levels = [levels, &[course.path.rows.len()]].concat();
        let ends = course.trajectories.as_ref().map(|trajectories| trajectories.at(&levels));
        Self { course, levels, rows, weights, ends }
    }

    /// The x0 that leads from `z` to `end` in the student's row `row` alone.
    fn leading_to(&self, row: usize, z: Tensor<B, 4>, end: Tensor<B, 4>) -> Tensor<B, 4> {
        let StepRow { a, b, .. } = self.rows[row];
        self.course.path.threshold.apply((end - z * a) / b)
    }

    fn row(&self, u: f64) -> usize {
        ((u * self.rows.len() as f64) as usize).min(self.rows.len() - 1)
    }

    /// The examples of step `step`.
    fn examples(&self, step: u64) -> Examples<B> {
        let random = &mut StepRandom::new(self.course.path.seed, step);
        match &self.ends {
            Some(ends) => {
                let spread = random.stratified(self.course.batch);
                let rows: Vec<usize> = spread.iter().map(|u| self.row(*u)).collect();
                let picks: Vec<usize> = rows.iter().map(|_| random.below(ends.count())).collect();
                self.picked(ends, rows, &picks)
            }
            None => self.noised(random, &B::Device::default()),
        }
    }

    /// The examples of the rows `rows` of the trajectories `picks` of `ends`.
    fn picked(&self, ends: &Trajectories<B>, rows: Vec<usize>, picks: &[usize]) -> Examples<B> {
        let pairs = || picks.iter().copied().zip(rows.iter().copied());
        let z = ends.select(pairs());
        let end = ends.select(pairs().map(|(pick, row)| (pick, row + 1)));
        let device = z.device();
        let each = |factor: &dyn Fn(&StepRow) -> f64| -> Tensor<B, 4> {
            per_image(&rows.iter().map(|&row| factor(&self.rows[row]) as f32).collect::<Vec<f32>>(), &device)
        };
        let x0 = (end - z.clone() * each(&|row| row.a)) / each(&|row| row.b);
        let classes = picks.iter().map(|pick| self.course.path.class(ends.first() + pick)).collect();
        Examples { x0: self.course.path.threshold.apply(x0), z, rows, classes }
    }

    /// Noised training samples. A batch is split evenly over rows begun at a random one, so the teacher runs in blocks.
    fn noised(&self, random: &mut StepRandom, device: &<B as BackendTypes>::Device) -> Examples<B> {
        let batch = self.course.batch;
        let first = random.below(self.rows.len());
        let mut rows: Vec<usize> = (0..batch).map(|index| (first + index) % self.rows.len()).collect();
        rows.sort_unstable();
        let levels: Vec<&StepRow> = rows.iter().map(|&row| &self.rows[row]).collect();
        let (z, classes) = self.course.noised(&levels, random, device);
        let x0 = in_blocks(&z, &rows, &classes, |row, z, classes| {
            let end = self.course.path.follow(self.levels[row]..self.levels[row + 1], z.clone(), classes);
            self.leading_to(row, z, end)
        });
        Examples { z, x0, rows, classes }
    }

    /// The weighted squared error of the student's output, `[1]`.
    fn error<C: DenoiserBackend>(
        &self,
        net: &Denoiser<C>,
        z: Tensor<C, 4>,
        x0: Tensor<C, 4>,
        rows: &[usize],
        classes: &[usize],
    ) -> Tensor<C, 1> {
        let device = z.device();
        let each = |factor: &dyn Fn(usize) -> f32| -> Tensor<C, 4> {
            per_image(&rows.iter().map(|&row| factor(row)).collect::<Vec<f32>>(), &device)
        };
        // The output whose x0 = p z + q f is the one to give.
        let target = (x0 - z.clone() * each(&|row| self.rows[row].p as f32)) / each(&|row| self.rows[row].q as f32);
        let timesteps: Vec<u32> = rows.iter().map(|&row| self.rows[row].timestep).collect();
        let condition = Condition::new(self.course.student, &timesteps, self.course.timesteps, classes, &device);
        let error = net.forward(z, &condition) - target;
        (error.clone() * error * each(&|row| self.weights[row])).mean()
    }

    /// The mean loss over every row of `trajectories`, which have all of the path's levels.
    pub fn loss_on(&self, net: &Denoiser<B>, trajectories: &Trajectories<B>) -> f64 {
        let ends = trajectories.at(&self.levels);
        let picks: Vec<usize> = (0..ends.count()).collect();
        let loss = |row: usize| {
            let Examples { z, x0, rows, classes } = self.picked(&ends, vec![row; picks.len()], &picks);
            f64::from(self.error(net, z, x0, &rows, &classes).into_data().iter::<f32>().next().expect("one value"))
        };
        (0..self.rows.len()).map(loss).sum::<f64>() / self.rows.len() as f64
    }
}

impl<B: AutodiffBackend + DenoiserBackend> Task<B, Denoiser<B>> for Regression<'_, B::InnerBackend>
where
    B::InnerBackend: DenoiserBackend,
{
    /// The step and the part: what else there is to decide is the device's work.
    type Plan = (u64, Part);

    fn planner(&self) -> impl Fn(u64, Part) -> (u64, Part) + Send {
        |step, part| (step, part)
    }

    fn loss(&self, net: &Denoiser<B>, (step, part): (u64, Part)) -> Tensor<B, 1> {
        let Examples { z, x0, rows, classes } = self.examples(step);
        let [z, x0] = [z, x0].map(|x| Tensor::from_inner(part.narrow(x)));
        self.error(net, z, x0, part.slice(&rows), part.slice(&classes))
    }

    fn fault(&self, step: u64) -> Option<String> {
        let Examples { z, x0, .. } = self.examples(step);
        not_finite([z, x0])
    }
}

/// What to say where a task's states are not finite.
pub(super) fn not_finite<B: Backend>(states: [Tensor<B, 4>; 2]) -> Option<String> {
    let finite = |x: Tensor<B, 4>| x.into_data().iter::<f32>().all(f32::is_finite);
    (!states.into_iter().all(finite)).then(|| "a state or what the teacher makes of it".to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use burn::backend::{Autodiff, Flex};

    use super::super::trajectories::tests::{Gaussian, SHAPE, cosine, floats, path};
    use super::*;
    use crate::dataset::{Dataset, Values};
    use crate::denoiser::{Architecture, DenoiserConfig, Output, UNetConfig};

    pub(in super::super) fn student() -> DenoiserConfig {
        let unet = UNetConfig {
            widths: vec![4],
            blocks: 1,
            middle: 1,
            groups: 2,
            embedding: 8,
            attention: vec![],
            heads: 1,
            dropout: 0.0,
        };
        DenoiserConfig {
            shape: SHAPE,
            classes: 2,
            architecture: Architecture::UNet(unet),
            output: Output::Mean,
            self_conditioning: false,
            condition_channels: 0,
        }
    }

    pub(in super::super) fn dataset() -> Dataset {
        let bytes: Vec<u8> = (0..10 * SHAPE.len()).map(|i| (i * 37 % 256) as u8).collect();
        let labels = (0..10).map(|i| i % 2).collect();
        Dataset::new(SHAPE, Values::Bytes(bytes), labels, vec!["a".to_owned(), "b".to_owned()])
    }

    /// The student's answer is known: the teacher multiplies a state by a number in each row, so the x0 to give is a number
    /// times the state, for states of trajectories and noised samples alike.
    #[test]
    fn the_target_of_a_linear_teacher_is_in_closed_form() {
        let (teacher, student, dataset, diffusion) = (Gaussian { deviation: 0.5 }, student(), dataset(), cosine());
        let levels = [0, 3, 4];
        for trajectories in [0, 12] {
            let path = path::<Flex>(&teacher, 8);
            let drawn =
                (trajectories > 0).then(|| Trajectories::draw(&path, 0..trajectories, 5, None, |_| ()).unwrap());
            let split = dataset.train();
            let course = Course { path, trajectories: drawn, split, batch: 12, student: &student, timesteps: 1000 };
            let at = |level: &usize| course.path.rows[*level].timestep;
            let rows = rows_at(&diffusion, &levels.iter().map(at).collect::<Vec<_>>());
            let regression = Regression::new(&course, &levels, rows.clone(), &diffusion);
            let Examples { z, x0, rows: picked, .. } = regression.examples(3);
            let (z, x0) = (floats(z), floats(x0));
            let mut seen = [false; 3];
            for (example, &row) in picked.iter().enumerate() {
                let end = *levels.get(row + 1).unwrap_or(&8);
                let factor: f64 = course.path.rows[levels[row]..end]
                    .iter()
                    .map(|row| row.a + row.b * row.signal * 0.25 / teacher.deviation_at(row).powi(2))
                    .product();
                let wanted = (factor - rows[row].a) / rows[row].b;
                seen[row] = true;
                for value in example * SHAPE.len()..(example + 1) * SHAPE.len() {
                    let (found, z) = (f64::from(x0[value]), f64::from(z[value]));
                    assert!((found - wanted * z).abs() < 2e-4 * (1.0 + z.abs()), "row {row}: {found}, {wanted} x {z}");
                }
            }
            assert_eq!(seen, [true; 3]);
        }
    }

    /// With ever more teacher's rows the target becomes that of the exact way, on which a state keeps its number of standard
    /// deviations; the error is of the first order, as DDIM's.
    #[test]
    fn with_more_teacher_steps_the_target_becomes_the_exact_ways() {
        let (teacher, student, dataset, diffusion) = (Gaussian { deviation: 0.5 }, student(), dataset(), cosine());
        let error = |teacher_rows: usize| {
            let path = path::<Flex>(&teacher, teacher_rows);
            let drawn = Trajectories::draw(&path, 0..4, 4, None, |_| ()).unwrap();
            let (split, trajectories) = (dataset.train(), Some(drawn));
            let course = Course { path, trajectories, split, batch: 4, student: &student, timesteps: 1000 };
            let regression = Regression::new(&course, &[0], rows_at(&diffusion, &[999]), &diffusion);
            let Examples { z, x0, .. } = regression.examples(0);
            let exact = 0.5 / teacher.deviation_at(&course.path.rows[0]);
            let errors = floats(z).into_iter().zip(floats(x0));
            errors.map(|(z, x0)| (f64::from(x0) - exact * f64::from(z)).abs()).fold(0.0, f64::max)
        };
        let [coarse, fine] = [40, 80].map(error);
        assert!((1.7..2.3).contains(&(coarse / fine)) && fine < 0.1, "{coarse} {fine}");
    }

    /// A student that says what it is to say has no loss; the loss of one that says nothing is the target's own square.
    #[test]
    fn the_loss_is_the_weighted_square_of_what_is_missing() {
        let (teacher, dataset, diffusion) = (Gaussian { deviation: 0.5 }, dataset(), cosine());
        let student = student();
        let path = path::<Flex>(&teacher, 8);
        let drawn = Trajectories::draw(&path, 0..6, 6, None, |_| ()).unwrap();
        let (split, trajectories) = (dataset.train(), Some(drawn.clone()));
        let course = Course { path, trajectories, split, batch: 6, student: &student, timesteps: 1000 };
        let rows = rows_at(&diffusion, &[999, 499]);
        let regression = Regression::new(&course, &[0, 4], rows.clone(), &diffusion);
        let net = student.init::<Autodiff<Flex>>(1, &Default::default()).unwrap();
        let found: f32 = Task::loss(&regression, &net, (5, Part::ALL)).into_scalar();
        let Examples { z, x0, rows: picked, .. } = regression.examples(5);
        let (z, x0) = (floats(z), floats(x0));
        // A new network is the zero function.
        let square = |value: usize| {
            let row = picked[value / SHAPE.len()];
            let output = (f64::from(x0[value]) - rows[row].p * f64::from(z[value])) / rows[row].q;
            output * output * f64::from(regression.weights[row])
        };
        let wanted = (0..z.len()).map(square).sum::<f64>() / z.len() as f64;
        assert!((f64::from(found) / wanted - 1.0).abs() < 1e-4, "{found} {wanted}");
        let half =
            [0, 1].map(|index| -> f32 { Task::loss(&regression, &net, (5, Part { index, of: 2 })).into_scalar() });
        assert!(((half[0] + half[1]) / 2.0 / found - 1.0).abs() < 1e-5, "{half:?} {found}");
        // Over all trajectories and rows once, not in a random choice.
        let net = student.init::<Flex>(1, &Default::default()).unwrap();
        let all =
            regression.picked(&drawn.at(&[0, 4, 8]), [vec![0; 6], vec![1; 6]].concat(), &[0, 1, 2, 3, 4, 5].repeat(2));
        let mean = regression.error(&net, all.z, all.x0, &all.rows, &all.classes).into_scalar();
        assert!((regression.loss_on(&net, &drawn) / f64::from(mean) - 1.0).abs() < 1e-5);
    }

    fn rows_at(diffusion: &Diffusion, timesteps: &[u32]) -> Vec<StepRow> {
        use crate::diffusion::sample::{SamplingConfig, SpacingConfig};
        let spacing = SpacingConfig::At { timesteps: timesteps.to_vec() };
        SamplingConfig { spacing, ..SamplingConfig::ddim(timesteps.len(), 1.0) }.table(diffusion)
    }
}
