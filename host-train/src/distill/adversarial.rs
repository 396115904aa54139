//! Adversarial distillation: the student's few steps as one generator, whose samples are to end where the teacher's do and to
//! look like training samples.
//!
//! | in the papers | here |
//! |---|---|
//! | G, the generator | all the student's rows from noise to data, as the chip runs them; gradients flow through every one |
//! | the distillation loss | the squared distance to the end of the guided teacher's trajectory from the same noise |
//! | D, the discriminator | the teacher's network down to its middle, trained on, and [`DiscriminatorHead`] |
//! | what D sees | samples noised to a random timestep, the timestep and the class |
//!
//! A small student cannot follow every trajectory, and what it cannot follow a squared error blurs. The discriminator tells
//! blurred from sharp, so the student chooses among the samples that are near enough one that could be real (Sauer et al.,
//! *Adversarial Diffusion Distillation*, 2023, equation 1; the teacher's own network as the discriminator: Sauer et al.,
//! *Fast High-Resolution Image Synthesis with Latent Adversarial Diffusion Distillation*, 2024). Noise on what it sees keeps it
//! from winning at once (Wang et al., *Diffusion-GAN*, 2023). The trajectories keep the student from leaving samples out, which
//! it does without them. Losses are the non-saturating ones (Goodfellow et al., *Generative Adversarial Networks*, 2014).

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::softplus;
use burn::tensor::backend::{AutodiffBackend, Backend};
use mote_core::step_table::StepRow;

use super::regression::not_finite;
use super::trajectories::{Course, Trajectories};
use crate::dataset::Augmentation;
use crate::denoiser::{Condition, Denoiser, DenoiserConfig, DiscriminatorHead, Features};
use crate::diffusion::Diffusion;
use crate::diffusion::sample::Threshold;
use crate::ops::DenoiserBackend;
use crate::trainer::{Batch, OptimizerConfig, Part, StepRandom, Task};

/// The weight of the discriminator, where nothing else is said.
pub(super) const WEIGHT: f64 = 0.03;

/// The optimizer of such a stage, where `of` is that of the others: slower, and without the first moment, as two networks that
/// answer each other want it.
pub(super) fn adversarial_optimizer(of: &OptimizerConfig) -> OptimizerConfig {
    OptimizerConfig { learning_rate: of.learning_rate * 0.3, betas: [0.0, of.betas[1]], ..of.clone() }
}

/// A student and its discriminator, trained together; the student's parameters come first.
#[derive(Module, Debug)]
pub struct Duel<B: Backend> {
    /// What draws.
    pub student: Denoiser<B>,
    /// What makes features of noised samples; of the teacher's sizes.
    pub discriminator: Denoiser<B>,
    /// What makes logits of the features.
    pub head: DiscriminatorHead<B>,
}

/// A stage that learns to end near where its teacher does, with samples that look real.
pub struct Adversarial<'a, B: Backend> {
    course: &'a Course<'a, B>,
    /// The student's rows.
    rows: Vec<StepRow>,
    diffusion: &'a Diffusion,
    /// The discriminator's sizes.
    discriminator: &'a DenoiserConfig,
    /// Of the timesteps that the discriminator is told.
    features: Features<B>,
    /// The beginnings and ends of the teacher's trajectories.
    ends: Trajectories<B>,
    /// Of the discriminator.
    weight: f64,
}

/// What a step trains on.
struct Examples<B: Backend> {
    classes: Vec<usize>,
    start: Tensor<B, 4>,
    end: Tensor<B, 4>,
    /// Training samples.
    real: Batch<B>,
    /// What the student's samples and the training samples are noised with for the discriminator to learn, and the student's
    /// for the student.
    noises: [Tensor<B, 4>; 3],
    /// At which timesteps, the discriminator's and the student's.
    timesteps: [Vec<f64>; 2],
}

/// `x` within the data's range, for which gradients are as if it were `x`.
fn clamped<B: Backend>(threshold: Threshold, x: Tensor<B, 4>) -> Tensor<B, 4> {
    let beyond = (threshold.apply(x.clone()) - x.clone()).detach();
    x + beyond
}

impl<'a, B: DenoiserBackend> Adversarial<'a, B> {
    /// A student whose rows are `rows`, of a course with trajectories; `discriminator` has the sizes of the network that judges
    /// them, whose verdict counts `weight` times.
    ///
    /// # Panics
    /// If the course has no trajectories.
    pub fn new(
        course: &'a Course<'a, B>,
        rows: Vec<StepRow>,
        diffusion: &'a Diffusion,
        discriminator: &'a DenoiserConfig,
        weight: f64,
    ) -> Self {
        let trajectories = course.trajectories.as_ref().expect("a checked recipe has trajectories");
        let ends = trajectories.at(&[0, course.path.rows.len()]);
        let features = Features::new(discriminator, course.timesteps, &B::Device::default());
        Self { course, rows, diffusion, discriminator, features, ends, weight }
    }

    fn examples(&self, step: u64, part: Part) -> Examples<B> {
        let random = &mut StepRandom::new(self.course.path.seed, step);
        let Course { path, split, batch, student, timesteps, .. } = self.course;
        let picks: Vec<usize> = (0..*batch).map(|_| random.below(self.ends.count())).collect();
        let picks = part.slice(&picks);
        let at = |level: usize| self.ends.select(picks.iter().map(|&pick| (pick, level)));
        let (start, end) = (at(0), at(1));
        let classes = picks.iter().map(|pick| path.class(self.ends.first() + pick)).collect();
        let device = start.device();
        let real = Batch::draw(split, *batch, &Augmentation::default(), student, random, &device);
        let real = Batch { images: part.narrow(real.images), labels: part.slice(&real.labels).to_vec() };
        let shape = [picks.len(), student.shape.channels, student.shape.height, student.shape.width];
        let noises = [(); 3].map(|()| random.normal_part(shape, part, &device));
        let timesteps = [(); 2].map(|()| {
            let spread = random.stratified(*batch);
            part.slice(&spread).iter().map(|u| (u * *timesteps as f64).floor()).collect()
        });
        Examples { classes, start, end, real, noises, timesteps }
    }

    /// What the student draws from `z`, `[batch, channels, height, width]`.
    fn draw<C: DenoiserBackend>(&self, net: &Denoiser<C>, mut z: Tensor<C, 4>, classes: &[usize]) -> Tensor<C, 4> {
        let Course { path, student, timesteps, .. } = self.course;
        for row in &self.rows {
            let condition =
                Condition::new(student, &vec![row.timestep; classes.len()], *timesteps, classes, &z.device());
            let (f, _) = student.mean_and_variance(net.forward(z.clone(), &condition));
            let x0 = clamped(path.threshold, z.clone() * row.p + f * row.q);
            z = z * row.a + x0 * row.b;
        }
        z
    }

    /// The logits of samples noised at their timesteps, greater than 0 for what looks real.
    fn logits<C>(
        &self,
        net: &Duel<C>,
        x: &Tensor<C, 4>,
        (noise, timesteps): (&Tensor<B, 4>, &[f64]),
        classes: &[usize],
    ) -> Tensor<C, 4>
    where
        C: AutodiffBackend<InnerBackend = B, Device = B::Device> + DenoiserBackend,
    {
        let noised = self.diffusion.noised(x, &Tensor::from_inner(noise.clone()), timesteps);
        let condition = self.features.condition(self.discriminator, timesteps, classes).tracked();
        net.head.forward(net.discriminator.features(noised, &condition))
    }
}

impl<B: AutodiffBackend + DenoiserBackend> Task<B, Duel<B>> for Adversarial<'_, B::InnerBackend>
where
    B::InnerBackend: DenoiserBackend,
{
    /// The step and the part: what else there is to decide is the device's work.
    type Plan = (u64, Part);

    fn planner(&self) -> impl Fn(u64, Part) -> (u64, Part) + Send {
        |step, part| (step, part)
    }

    /// The student's squared distance to the trajectories' ends, and `weight` times what both make of each other.
    fn loss(&self, net: &Duel<B>, (step, part): (u64, Part)) -> Tensor<B, 1> {
        let Examples { classes, start, end, real, noises, timesteps } = self.examples(step, part);
        let [of_drawn, of_real, of_student] = &noises;
        let [timesteps, student_timesteps] = &timesteps;
        let drawn = self.draw(&net.student, Tensor::from_inner(start), &classes);
        let distance = drawn.clone() - Tensor::from_inner(end);
        let distance = (distance.clone() * distance).mean();
        // Neither learns for the other.
        let judge = Duel { student: net.student.clone(), ..net.clone().no_grad() };
        let persuasion = self.logits(&judge, &drawn, (of_student, student_timesteps), &classes);
        let (fake, real_images) = (drawn.detach(), Tensor::from_inner(real.images));
        let fake = self.logits(net, &fake, (of_drawn, timesteps), &classes);
        let real = self.logits(net, &real_images, (of_real, timesteps), &real.labels);
        let game = [-persuasion, fake, -real].map(|logits| softplus(logits, 1.0).mean());
        distance + game.into_iter().reduce(|sum, term| sum + term).expect("three terms") * self.weight
    }

    fn fault(&self, step: u64) -> Option<String> {
        let Examples { end, real, .. } = self.examples(step, Part::ALL);
        not_finite([end, real.images])
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::{Autodiff, Flex};

    use super::super::regression::tests::{dataset, student};
    use super::super::trajectories::tests::{Gaussian, cosine, floats, path};
    use super::*;
    use crate::dataset::{Dataset, Values};
    use crate::denoiser::{gradients, parameters, set_parameters};
    use crate::distill::trajectories::tests::SHAPE;

    type Train = Autodiff<Flex>;

    fn duel(config: &DenoiserConfig) -> Duel<Train> {
        let device = Default::default();
        Duel {
            student: config.init(1, &device).unwrap(),
            discriminator: config.init(2, &device).unwrap(),
            head: DiscriminatorHead::new(config, &device),
        }
    }

    /// Calls `check` with a stage of two rows whose teacher's samples are from N(0, 0.5^2).
    fn with_stage(dataset: &Dataset, weight: f64, check: impl FnOnce(&Adversarial<'_, Flex>)) {
        let (teacher, student, diffusion) = (Gaussian { deviation: 0.5 }, student(), cosine());
        let path = path::<Flex>(&teacher, 8);
        let trajectories = Some(Trajectories::draw(&path, 0..40, 40, None, |_| ()).unwrap());
        let split = dataset.train();
        let course = Course { path, trajectories, split, batch: 12, student: &student, timesteps: 1000 };
        check(&Adversarial::new(&course, diffusion.ddim(2), &diffusion, &student, weight));
    }

    /// A new network is the zero function, a new head's logits are 0: all terms are known.
    #[test]
    fn the_loss_is_the_distance_and_the_weighted_game() {
        with_stage(&dataset(), 0.25, |stage| {
            let net = duel(stage.discriminator);
            let loss = |part| -> f64 { f64::from(Task::loss(stage, &net, (3, part)).into_scalar()) };
            let Examples { start, end, .. } = stage.examples(3, Part::ALL);
            let factor = stage.rows.iter().fold(1.0, |factor, row| factor * (row.a + row.b * row.p));
            let (start, end) = (floats(start), floats(end));
            let square = |(z, x): (&f32, &f32)| (f64::from(*z) * factor - f64::from(*x)).powi(2);
            let distance = start.iter().zip(&end).map(square).sum::<f64>() / start.len() as f64;
            let wanted = distance + 0.25 * 3.0 * std::f64::consts::LN_2;
            assert!((loss(Part::ALL) / wanted - 1.0).abs() < 1e-4, "{} {wanted}", loss(Part::ALL));
            let halves = [0, 1].map(|index| loss(Part { index, of: 2 }));
            assert!(((halves[0] + halves[1]) / 2.0 / wanted - 1.0).abs() < 1e-4, "{halves:?} {wanted}");
        });
    }

    /// The bias of a head whose logits are 0 is drawn as much towards real as towards drawn samples; what the student has to
    /// gain would draw it to one side.
    #[test]
    fn the_discriminator_does_not_learn_for_the_student() {
        with_stage(&dataset(), 1.0, |stage| {
            let net = duel(stage.discriminator);
            let grads = Task::loss(stage, &net, (0, Part::ALL)).backward();
            let all: Vec<f32> = gradients(&net, &grads).into_data().to_vec().unwrap();
            let bias = all[all.len() - 1];
            assert!(bias.abs() < 1e-6, "{bias}");
            let students = parameters(&net.student).dims()[0];
            let head = parameters(&net.head).dims()[0];
            assert!(all[..students].iter().any(|gradient| *gradient != 0.0), "the student learns");
            assert!(all[all.len() - head..].iter().any(|gradient| *gradient != 0.0), "the discriminator learns");
        });
    }

    /// The teacher's samples are within about 0.5, the training samples are all -1 or 1: a student that is judged goes farther out
    /// than the trajectories lead.
    #[test]
    fn a_judged_student_draws_what_looks_like_the_training_samples() {
        let bytes: Vec<u8> = (0..40 * SHAPE.len()).map(|i| if i * 7919 % 13 < 6 { 0 } else { 255 }).collect();
        let labels = (0..40).map(|i| i % 2).collect();
        let dataset = Dataset::new(SHAPE, Values::Bytes(bytes), labels, vec!["a".to_owned(), "b".to_owned()]);
        let magnitude = |weight: f64| {
            let mut mean = 0.0;
            with_stage(&dataset, weight, |stage| {
                let mut net = duel(stage.discriminator);
                let mut second = parameters(&net).inner().zeros_like();
                for step in 0..150 {
                    let grads = Task::loss(stage, &net, (step, Part::ALL)).backward();
                    let gradient = gradients(&net, &grads);
                    second = second * 0.9 + gradient.clone() * gradient.clone() * 0.1;
                    let moved = parameters(&net).inner() - gradient / (second.clone().sqrt() + 1e-6) * 3e-3;
                    net = set_parameters(net, Tensor::from_inner(moved));
                }
                let Examples { start, classes, .. } = stage.examples(1000, Part::ALL);
                let drawn = floats(stage.draw(&net.student, Tensor::from_inner(start), &classes).inner());
                mean = drawn.iter().map(|value| value.abs()).sum::<f32>() / drawn.len() as f32;
            });
            mean
        };
        let (judged, alone) = (magnitude(1.0), magnitude(1e-9));
        assert!(judged > alone + 0.1 && judged < 1.5, "{judged} {alone}");
    }
}
