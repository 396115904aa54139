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
//!
//! Two additions of [`Game`]: training samples under another class's name count as drawn, so that a sample has to look like its
//! class (Reed et al., *Generative Adversarial Text to Image Synthesis*, 2016, algorithm 1); and the discriminator pays for
//! logits that change with a little more noise, which is the penalty of its gradient at training samples (Mescheder et al.,
//! *Which Training Methods for GANs do actually Converge?*, 2018, equation 9) without second derivatives (Lin et al., *Diffusion
//! Adversarial Post-Training for One-Step Video Generation*, 2025, equation 3).

use anyhow::ensure;
use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::activation::softplus;
use burn::tensor::backend::{AutodiffBackend, Backend};
use mote_core::step_table::StepRow;
use serde::{Deserialize, Serialize};

use super::regression::not_finite;
use super::trajectories::{Course, Trajectories};
use crate::dataset::Augmentation;
use crate::denoiser::{Denoiser, DenoiserConfig, DiscriminatorHead, Features};
use crate::diffusion::sample::Threshold;
use crate::diffusion::{Diffusion, is_default};
use crate::ops::DenoiserBackend;
use crate::trainer::{Batch, OptimizerConfig, Part, StepRandom, Task};

/// How an adversarial stage is played.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Game {
    /// Of the discriminator beside the distance to the trajectories' ends; more than 0.
    pub weight: f64,
    /// Which share of what the discriminator is to refuse is training samples under another class's name; from 0 to less than 1.
    /// It changes nothing where there is one class.
    #[serde(default, skip_serializing_if = "is_default")]
    pub mislabelled: f64,
    /// The weight of the squared change of its logits at training samples by noise of deviation 0.1; 0 or more.
    #[serde(default, skip_serializing_if = "is_default")]
    pub smoothness: f64,
}

impl Default for Game {
    fn default() -> Self {
        Self { weight: 0.03, mislabelled: 0.0, smoothness: 0.0 }
    }
}

impl Game {
    /// # Errors
    /// The first number that makes no sense.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.weight > 0.0 && self.weight.is_finite(), "weight must be greater than 0");
        ensure!((0.0..1.0).contains(&self.mislabelled), "mislabelled must be from 0 to less than 1");
        ensure!(self.smoothness >= 0.0 && self.smoothness.is_finite(), "smoothness must be 0 or more");
        Ok(())
    }
}

/// The standard deviation of the noise by which [`Game::smoothness`] is measured, where the data are from -1 to 1.
const NUDGE: f64 = 0.1;

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
    /// Of those that the student is told.
    student_features: Features<B>,
    /// The beginnings and ends of the teacher's trajectories.
    ends: Trajectories<B>,
    game: Game,
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
    /// Another class for each training sample, where the game has such.
    mislabels: Option<Vec<usize>>,
    /// A little noise for the training samples, where the discriminator is to be smooth.
    nudge: Option<Tensor<B, 4>>,
}

/// `x` within the data's range, for which gradients are as if it were `x`.
fn clamped<B: Backend>(threshold: Threshold, x: Tensor<B, 4>) -> Tensor<B, 4> {
    let beyond = (threshold.apply(x.clone()) - x.clone()).detach();
    x + beyond
}

impl<'a, B: DenoiserBackend> Adversarial<'a, B> {
    /// A student whose rows are `rows`, of a course with trajectories; `discriminator` has the sizes of the network that judges
    /// them.
    ///
    /// # Panics
    /// If the course has no trajectories.
    pub fn new(
        course: &'a Course<'a, B>,
        rows: Vec<StepRow>,
        diffusion: &'a Diffusion,
        discriminator: &'a DenoiserConfig,
        game: Game,
    ) -> Self {
        let trajectories = course.trajectories.as_ref().expect("a checked recipe has trajectories");
        let ends = trajectories.at(&[0, course.path.rows.len()]);
        let features = Features::new(discriminator, course.timesteps, &B::Device::default());
        let student_features = Features::new(course.student, course.timesteps, &B::Device::default());
        Self { course, rows, diffusion, discriminator, features, student_features, ends, game }
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
        let mislabels = (self.game.mislabelled > 0.0 && student.classes > 1).then(|| {
            let shifts: Vec<usize> = (0..*batch).map(|_| 1 + random.below(student.classes - 1)).collect();
            let other = |(label, shift): (&usize, &usize)| (label + shift) % student.classes;
            real.labels.iter().zip(part.slice(&shifts)).map(other).collect()
        });
        let nudge = (self.game.smoothness > 0.0).then(|| random.normal_part(shape, part, &device) * NUDGE);
        Examples { classes, start, end, real, noises, timesteps, mislabels, nudge }
    }

    /// What the student draws from `z`, `[batch, channels, height, width]`.
    fn draw<C>(&self, net: &Denoiser<C>, mut z: Tensor<C, 4>, classes: &[usize]) -> Tensor<C, 4>
    where
        C: AutodiffBackend<InnerBackend = B, Device = B::Device> + DenoiserBackend,
    {
        let Course { path, student, .. } = self.course;
        for row in &self.rows {
            let timesteps = vec![f64::from(row.timestep); classes.len()];
            let condition = self.student_features.condition(student, &timesteps, classes).tracked();
            let (f, _) = student.mean_and_variance(net.forward(z.clone(), &condition));
            let x0 = clamped(path.threshold, z.clone() * row.p + f * row.q);
            z = z * row.a + x0 * row.b;
        }
        z
    }

    /// The logits of samples noised at their timesteps, greater than 0 for what looks real.
    fn logits<C>(&self, net: &Duel<C>, noised: Tensor<C, 4>, timesteps: &[f64], classes: &[usize]) -> Tensor<C, 4>
    where
        C: AutodiffBackend<InnerBackend = B, Device = B::Device> + DenoiserBackend,
    {
        let condition = self.features.condition(self.discriminator, timesteps, classes).tracked();
        net.head.forward(net.discriminator.features(noised, &condition))
    }

    /// What the discriminator pays for taking `drawn` for real, training samples for drawn, and what else the game asks of it.
    fn verdict<C>(&self, net: &Duel<C>, drawn: Tensor<C, 4>, examples: &Examples<B>) -> Tensor<C, 1>
    where
        C: AutodiffBackend<InnerBackend = B, Device = B::Device> + DenoiserBackend,
    {
        let Examples { classes, real, noises: [of_drawn, of_real, _], timesteps: [timesteps, _], .. } = examples;
        let noised = |x: &Tensor<C, 4>, noise: &Tensor<B, 4>| {
            self.diffusion.noised(x, &Tensor::from_inner(noise.clone()), timesteps)
        };
        let true_noised = noised(&Tensor::from_inner(real.images.clone()), of_real);
        // All in one pass.
        let mut samples = vec![noised(&drawn, of_drawn), true_noised.clone()];
        let mut told = [&classes[..], &real.labels].concat();
        if let Some(mislabels) = &examples.mislabels {
            samples.push(true_noised.clone());
            told.extend(mislabels);
        }
        if let Some(nudge) = &examples.nudge {
            samples.push(true_noised + Tensor::from_inner(nudge.clone()));
            told.extend(&real.labels);
        }
        let logits = self.logits(net, Tensor::cat(samples.clone(), 0), &timesteps.repeat(samples.len()), &told);
        let mut parts = logits.chunk(samples.len(), 0).into_iter();
        let mut next = || parts.next().expect("a part a sample");
        let (fake, real) = (next(), next());
        let mut cost = softplus(fake, 1.0).mean();
        if examples.mislabels.is_some() {
            let share = self.game.mislabelled;
            cost = cost * (1.0 - share) + softplus(next(), 1.0).mean() * share;
        }
        if examples.nudge.is_some() {
            let change = next() - real.clone();
            cost = cost + (change.clone() * change).mean() * self.game.smoothness;
        }
        cost + softplus(-real, 1.0).mean()
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
        let examples = self.examples(step, part);
        let Examples { classes, start, end, noises: [_, _, noise], timesteps: [_, timesteps], .. } = &examples;
        let drawn = self.draw(&net.student, Tensor::from_inner(start.clone()), classes);
        let distance = drawn.clone() - Tensor::from_inner(end.clone());
        let distance = (distance.clone() * distance).mean();
        // Neither learns for the other.
        let judge = Duel { student: net.student.clone(), ..net.clone().no_grad() };
        let noised = self.diffusion.noised(&drawn, &Tensor::from_inner(noise.clone()), timesteps);
        let persuasion = softplus(-self.logits(&judge, noised, timesteps, classes), 1.0).mean();
        distance + (persuasion + self.verdict(net, drawn.detach(), &examples)) * self.game.weight
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
    fn with_stage(dataset: &Dataset, game: Game, check: impl FnOnce(&Adversarial<'_, Flex>)) {
        let (teacher, student, diffusion) = (Gaussian { deviation: 0.5 }, student(), cosine());
        let path = path::<Flex>(&teacher, 8);
        let trajectories = Some(Trajectories::draw(&path, 0..40, 40, None, |_| ()).unwrap());
        let split = dataset.train();
        let course = Course { path, trajectories, split, batch: 12, student: &student, timesteps: 1000 };
        check(&Adversarial::new(&course, diffusion.ddim(2), &diffusion, &student, game));
    }

    fn weighted(weight: f64) -> Game {
        Game { weight, ..Game::default() }
    }

    /// A new network is the zero function, a new head's logits are 0: all terms are known.
    #[test]
    fn the_loss_is_the_distance_and_the_weighted_game() {
        with_stage(&dataset(), Game { weight: 0.25, mislabelled: 0.3, smoothness: 2.0 }, |stage| {
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
        with_stage(&dataset(), weighted(1.0), |stage| {
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
            with_stage(&dataset, weighted(weight), |stage| {
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

    /// Steps in which the discriminator alone learns, by the sign of its gradient.
    fn taught(stage: &Adversarial<'_, Flex>, steps: u64) -> Duel<Train> {
        let mut net = duel(stage.discriminator);
        let students = parameters(&net.student).dims()[0];
        for step in 0..steps {
            let grads = Task::loss(stage, &net, (step, Part::ALL)).backward();
            let all = parameters(&net).inner();
            let count = all.dims()[0];
            let discriminator = gradients(&net, &grads).sign().narrow(0, students, count - students);
            let direction = Tensor::cat(vec![Tensor::zeros([students], &all.device()), discriminator], 0);
            net = set_parameters(net, Tensor::from_inner(all - direction * 3e-3));
        }
        net
    }

    /// The mean logits of training samples under their own class's name and under the other's, without noise.
    fn own_and_other(stage: &Adversarial<'_, Flex>, net: &Duel<Train>) -> [f32; 2] {
        let Examples { real, .. } = stage.examples(5000, Part::ALL);
        let other: Vec<usize> = real.labels.iter().map(|label| 1 - label).collect();
        [&real.labels, &other].map(|labels| {
            let images = Tensor::from_inner(real.images.clone());
            stage.logits(net, images, &vec![0.0; labels.len()], labels).mean().into_scalar()
        })
    }

    /// Class a is all -1, class b all 1.
    fn extremes() -> Dataset {
        let bytes = (0..40).flat_map(|i| [if i % 2 == 0 { 0 } else { 255 }; SHAPE.len()]).collect();
        let labels = (0..40).map(|i| i % 2).collect();
        Dataset::new(SHAPE, Values::Bytes(bytes), labels, vec!["a".to_owned(), "b".to_owned()])
    }

    #[test]
    fn a_discriminator_that_sees_wrong_names_learns_the_classes() {
        let game = Game { weight: 1.0, mislabelled: 0.5, smoothness: 0.0 };
        with_stage(&extremes(), game, |stage| {
            let Examples { real, mislabels, .. } = stage.examples(0, Part::ALL);
            assert!(mislabels.unwrap().iter().zip(&real.labels).all(|(wrong, label)| wrong != label));
            let [own, other] = own_and_other(stage, &taught(stage, 60));
            assert!(own > other + 1.0, "{own} {other}");
        });
    }

    #[test]
    fn a_discriminator_that_pays_for_change_is_smoother() {
        let change = |smoothness| {
            let mut mean = 0.0;
            with_stage(&extremes(), Game { weight: 1.0, mislabelled: 0.0, smoothness }, |stage| {
                let net = taught(stage, 60);
                let Examples { real, noises: [noise, ..], .. } = stage.examples(5000, Part::ALL);
                let images = real.images;
                let [still, nudged] = [images.clone(), images + noise * NUDGE]
                    .map(|images| stage.logits(&net, Tensor::from_inner(images), &[0.0; 12], &real.labels).inner());
                mean = f64::from((nudged - still).abs().mean().into_scalar());
            });
            mean
        };
        let (smooth, free) = (change(30.0), change(0.0));
        assert!(smooth < 0.7 * free, "{smooth} {free}");
    }
}
