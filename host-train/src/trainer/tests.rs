//! The training loop on a line: `y = slope x + offset`, fitted to `2 x + 1`.

use std::cell::Cell;
use std::sync::atomic::AtomicBool;

use burn::backend::{Autodiff, Flex};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::{Backend, BackendTypes};

use super::adamw::tests::config;
use super::*;
use crate::denoiser::DenoiserFile;
use crate::preset::Preset;

type B = Autodiff<Flex>;

const BATCH: usize = 12;

#[derive(Module, Debug)]
struct Line<B: Backend> {
    slope: Param<Tensor<B, 1>>,
    offset: Param<Tensor<B, 1>>,
}

fn line() -> Line<B> {
    let parameter = |value: f32| Param::from_tensor(Tensor::from_floats([value], &Default::default()));
    Line { slope: parameter(-0.5), offset: parameter(0.25) }
}

/// What goes wrong in one step.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    Data,
    Loss,
    Gradient,
    Growth,
}

#[derive(Clone, Copy)]
struct FitLine {
    fault: Fault,
    at: u64,
}

const SOUND: FitLine = FitLine { fault: Fault::None, at: 0 };

impl Task<B, Line<B>> for FitLine {
    type Plan = (u64, Part);

    fn planner(&self) -> impl Fn(u64, Part) -> (u64, Part) + Send {
        |step, part| (step, part)
    }

    fn loss(&self, net: &Line<B>, (step, part): (u64, Part)) -> Tensor<B, 1> {
        let device = Default::default();
        let mut random = StepRandom::new(7, step);
        let x: Vec<f32> = (0..BATCH).map(|_| random.unit() as f32 * 2.0 - 1.0).collect();
        let y: Vec<f32> = x.iter().map(|x| 2.0 * x + 1.0).collect();
        let x = Tensor::<B, 1>::from_floats(part.slice(&x), &device);
        let y = Tensor::<B, 1>::from_floats(part.slice(&y), &device);
        let error = x * net.slope.val() + net.offset.val() - y;
        let loss = (error.clone() * error).mean();
        match self.fault {
            Fault::Growth => loss * (0.05 * step as f32).exp(),
            Fault::None => loss,
            _ if step != self.at => loss,
            Fault::Data | Fault::Loss => loss * f32::NAN,
            // The root's derivative at zero is infinite.
            Fault::Gradient => loss + (net.offset.val() * 0.0).sqrt().sum(),
        }
    }

    fn fault(&self, _: u64) -> Option<String> {
        (self.fault == Fault::Data).then(|| "row 3".to_owned())
    }
}

/// Stops after some steps, which it asks to hear of at once.
struct StopAfter {
    left: Cell<u64>,
    heard: Vec<u64>,
}

impl Observer for StopAfter {
    fn begin(&mut self, _: &Saved) -> anyhow::Result<()> {
        Ok(())
    }

    fn is_due(&self, step: u64, _: u64) -> bool {
        step - self.heard.last().unwrap_or(&0) == self.left.get()
    }

    fn steps(&mut self, done: &[Done], _: &dyn Fn() -> Vec<f32>) -> anyhow::Result<Verdict> {
        self.heard.extend(done.iter().map(|done| done.step));
        self.left.set(self.left.get() - done.len() as u64);
        Ok(if self.left.get() == 0 { Verdict::Stop } else { Verdict::GoOn })
    }
}

/// How many train together, and how many steps they queue.
#[derive(Clone, Copy, Debug)]
struct Workers {
    count: usize,
    ahead: u64,
}

/// A folder of checkpoints and a way to train there.
struct Place {
    _folder: tempfile::TempDir,
    checkpoints: Checkpoints,
    denoiser: DenoiserFile,
}

impl Place {
    fn new(keep: Keep) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let preset = Preset::find("toy").unwrap();
        let denoiser = DenoiserFile {
            network: preset.network(&crate::dataset::embedded()),
            diffusion: preset.diffusion.clone(),
            sampling: preset.sample.sampling.clone(),
            channels_scale: Vec::new(),
            parameters: vec![-0.5, 0.25],
        };
        Self { checkpoints: Checkpoints::new(folder.path().join("checkpoints"), keep), _folder: folder, denoiser }
    }

    fn train(&self, optimizer: &OptimizerConfig, steps: u64, task: &FitLine, stop: u64) -> anyhow::Result<Saved> {
        self.train_by(Workers { count: 1, ahead: 1 }, optimizer, steps, task, stop)
    }

    fn train_by(
        &self,
        Workers { count, ahead }: Workers,
        optimizer: &OptimizerConfig,
        steps: u64,
        task: &FitLine,
        stop: u64,
    ) -> anyhow::Result<Saved> {
        let fit = Fit {
            optimizer,
            steps,
            recipe: "line".to_owned(),
            denoiser: &self.denoiser,
            checkpoints: &self.checkpoints,
            explosion: 20.0,
            ahead,
            interrupted: &AtomicBool::new(false),
        };
        let before = self.checkpoints.load("line", 2).ok().flatten().map_or(0, |saved| saved.step());
        let mut observer = StopAfter { left: Cell::new(stop), heard: vec![before] };
        let result = match count {
            1 => fit.run::<B, _>(line(), task, &mut observer),
            _ => {
                let devices = vec![Default::default(); count];
                fit.run_on::<B, _, _>(&devices, |_| Ok((line(), *task)), &mut observer)
            }
        };
        if let Ok(saved) = &result {
            assert_eq!(observer.heard, (before..=saved.step()).collect::<Vec<_>>(), "each step is heard of once");
        }
        result
    }
}

fn steady() -> OptimizerConfig {
    OptimizerConfig { decay: Decay::Constant, learning_rate: 0.02, ..config() }
}

#[test]
fn parts_of_a_batch_are_the_batch_but_for_rounding() {
    let whole = Place::new(Keep::default()).train(&steady(), 100, &SOUND, u64::MAX).unwrap();
    let parts = OptimizerConfig { accumulate: 4, ..steady() };
    let parts = Place::new(Keep::default()).train(&parts, 100, &SOUND, u64::MAX).unwrap();
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * a.abs().max(1.0));
    assert!(close(&whole.vectors[0], &parts.vectors[0]) && close(&whole.losses, &parts.losses), "{whole:?} {parts:?}");
    assert!(whole.losses[99] < 0.1 * whole.losses[0], "it did not learn: {:?}", whole.losses);
}

/// Two or three workers with a part of the batch each are one worker with the batch in parts, to the bit: the sum of their
/// gradients has the same order. The whole batch at once differs by its rounding.
#[test]
fn several_workers_train_as_one_does() {
    let whole = Place::new(Keep::default()).train(&steady(), 60, &SOUND, u64::MAX).unwrap();
    for count in [2, 3] {
        let snapshots = Some(Snapshots { every: 25, sigma_rels: vec![0.1] });
        let steady = OptimizerConfig { snapshots, ..steady() };
        let parts = OptimizerConfig { accumulate: count, ..steady.clone() };
        let parts = Place::new(Keep::default()).train(&parts, 60, &SOUND, u64::MAX).unwrap();
        let place = Place::new(Keep::default());
        let train = |stop| place.train_by(Workers { count, ahead: 1 }, &steady, 60, &SOUND, stop);
        assert!(train(23).unwrap_err().is::<Interrupted>());
        let workers = train(u64::MAX).unwrap();
        assert_eq!(workers, parts, "{count} workers");
        assert_eq!(place.checkpoints.snapshots().unwrap(), [25, 50, 60]);
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * a.abs().max(1.0));
        assert!(close(&whole.losses, &workers.losses) && close(whole.ema(), workers.ema()), "{whole:?} {workers:?}");
        // Each worker's part in two parts.
        let halves = OptimizerConfig { accumulate: 2, ..steady };
        let place = Place::new(Keep::default());
        let halves = place.train_by(Workers { count, ahead: 1 }, &halves, 60, &SOUND, u64::MAX).unwrap();
        assert!(close(&whole.losses, &halves.losses) && close(whole.ema(), halves.ema()), "{whole:?} {halves:?}");
    }
}

/// However many steps are queued before they are read, and whatever is saved between.
#[test]
fn queued_steps_are_the_same_steps() {
    let snapshots = Some(Snapshots { every: 25, sigma_rels: vec![0.1] });
    let optimizer = OptimizerConfig { snapshots, ..steady() };
    let one_by_one = Place::new(Keep { every: 15, last: 0 });
    let wanted = one_by_one.train(&optimizer, 100, &SOUND, u64::MAX).unwrap();
    for workers in [Workers { count: 1, ahead: 1000 }, Workers { count: 2, ahead: 7 }] {
        let place = Place::new(Keep { every: 15, last: 0 });
        let train = |stop| place.train_by(workers, &optimizer, 100, &SOUND, stop);
        assert!(train(33).unwrap_err().is::<Interrupted>());
        assert_eq!(place.checkpoints.load("line", 2).unwrap().unwrap().step(), 33);
        let saved = train(u64::MAX).unwrap();
        if workers.count == 1 {
            assert_eq!(saved, wanted);
        }
        let files = |place: &Place| {
            let folder = place.checkpoints.latest().parent().unwrap().to_owned();
            let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
            files.collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(files(&place), files(&one_by_one));
    }
}

/// The cause is named though the step was queued with others: all is done once more from the checkpoint.
#[test]
fn a_fault_among_queued_steps_has_its_name() {
    for (fault, count, wanted) in [
        (Fault::Data, 1, "the loss of step 33 is not finite because the data is not: row 3"),
        (Fault::Gradient, 1, "the gradient of offset is not finite in step 33"),
        (Fault::Gradient, 2, "the gradient of offset is not finite in step 33"),
    ] {
        let place = Place::new(Keep::default());
        let workers = Workers { count, ahead: 1000 };
        assert!(place.train_by(workers, &steady(), 60, &SOUND, 30).unwrap_err().is::<Interrupted>());
        let good = std::fs::read(place.checkpoints.latest()).unwrap();
        let task = FitLine { fault, at: 33 };
        let error = place.train_by(workers, &steady(), 60, &task, u64::MAX).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains("The last good state is"), "{error}");
        assert_eq!(std::fs::read(place.checkpoints.latest()).unwrap(), good);
    }
}

/// One worker that cannot go on ends the training with its own error.
#[test]
fn a_worker_that_fails_stops_the_others() {
    let place = Place::new(Keep::default());
    let fit = Fit {
        optimizer: &steady(),
        steps: 60,
        recipe: "line".to_owned(),
        denoiser: &place.denoiser,
        checkpoints: &place.checkpoints,
        explosion: 20.0,
        ahead: 1,
        interrupted: &AtomicBool::new(false),
    };
    let made = std::sync::atomic::AtomicUsize::new(0);
    let make = |_: &<B as BackendTypes>::Device| {
        anyhow::ensure!(made.fetch_add(1, std::sync::atomic::Ordering::SeqCst) < 2, "no memory for a third");
        Ok((line(), SOUND))
    };
    let mut observer = StopAfter { left: Cell::new(u64::MAX), heard: vec![0] };
    let error = fit.run_on::<B, _, _>(&[Default::default(); 3], make, &mut observer).unwrap_err();
    assert_eq!(error.to_string(), "no memory for a third");
}

#[test]
fn a_stopped_training_goes_on_to_the_same_bits() {
    let snapshots = Some(Snapshots { every: 25, sigma_rels: vec![0.05, 0.1] });
    let optimizer = OptimizerConfig { decay: Decay::Cosine, snapshots, ..steady() };
    let (whole, stopped) = (Place::new(Keep::default()), Place::new(Keep::default()));
    let wanted = whole.train(&optimizer, 100, &SOUND, u64::MAX).unwrap();
    for stop in [13, 40] {
        let error = stopped.train(&optimizer, 100, &SOUND, stop).unwrap_err();
        assert!(error.is::<Interrupted>(), "{error}");
    }
    assert_eq!(stopped.train(&optimizer, 100, &SOUND, u64::MAX).unwrap(), wanted);
    let snapshots = stopped.checkpoints.snapshots().unwrap();
    assert_eq!(snapshots, [25, 50, 75, 100]);
    for step in snapshots {
        assert_eq!(stopped.checkpoints.load_snapshot(step).unwrap(), whole.checkpoints.load_snapshot(step).unwrap());
    }
}

/// Where the rate does not depend on the number of steps, a training that is extended is one that was longer at once.
#[test]
fn a_finished_training_can_be_extended() {
    for decay in [Decay::Constant, Decay::InverseSqrt] {
        let optimizer = OptimizerConfig { decay, ..steady() };
        let wanted = Place::new(Keep::default()).train(&optimizer, 90, &SOUND, u64::MAX).unwrap();
        let place = Place::new(Keep::default());
        place.train(&optimizer, 60, &SOUND, u64::MAX).unwrap();
        assert_eq!(place.train(&optimizer, 90, &SOUND, u64::MAX).unwrap(), wanted);
    }
}

#[test]
fn numbered_checkpoints_rotate_and_hold_the_averaged_weights() {
    let place = Place::new(Keep { every: 10, last: 2 });
    let saved = place.train(&steady(), 45, &SOUND, u64::MAX).unwrap();
    let folder = place.checkpoints.latest().parent().unwrap().to_owned();
    let mut names: Vec<String> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["latest.safetensors", "step-00000030.safetensors", "step-00000040.safetensors"]);
    let denoiser = read_denoiser(&place.checkpoints.latest()).unwrap();
    assert_eq!(denoiser, DenoiserFile { parameters: saved.ema().to_vec(), ..place.denoiser.clone() });
    std::fs::write(place.checkpoints.latest(), b"half").unwrap();
    let error = format!("{:#}", place.train(&steady(), 45, &SOUND, u64::MAX).unwrap_err());
    assert!(error.contains("damaged; put step-00000040.safetensors in its place"), "{error}");
    std::fs::copy(folder.join(&names[2]), place.checkpoints.latest()).unwrap();
    assert_eq!(place.train(&steady(), 45, &SOUND, u64::MAX).unwrap(), saved);
}

#[test]
fn what_is_not_finite_stops_training_with_its_cause_and_leaves_the_good_checkpoint() {
    for (fault, wanted) in [
        (Fault::Data, "the data is not: row 3"),
        (Fault::Loss, "the loss of step 33 is NaN at a learning rate of 2.000e-2, though its data is finite"),
        (Fault::Gradient, "the gradient of offset is not finite in step 33"),
    ] {
        let place = Place::new(Keep::default());
        assert!(place.train(&steady(), 60, &SOUND, 30).unwrap_err().is::<Interrupted>());
        let good = std::fs::read(place.checkpoints.latest()).unwrap();
        let error = place.train(&steady(), 60, &FitLine { fault, at: 33 }, u64::MAX).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(wanted) && text.contains("The last good state is"), "{text}");
        assert_eq!(error.downcast::<Diverged>().unwrap().kept, Some(place.checkpoints.latest()));
        assert_eq!(std::fs::read(place.checkpoints.latest()).unwrap(), good);
    }
}

#[test]
fn a_loss_that_grows_without_bound_stops_training() {
    let growth = FitLine { fault: Fault::Growth, at: 0 };
    let optimizer = OptimizerConfig { learning_rate: 1e-6, ..steady() };
    let error = Place::new(Keep::default()).train(&optimizer, 1000, &growth, u64::MAX).unwrap_err();
    let Ok(Diverged { cause, kept: None }) = error.downcast::<Diverged>() else { panic!("another error") };
    assert!(matches!(cause, Divergence::Exploded { step: 100..200, limit: 20.0, .. }), "{cause:?}");
}

#[test]
fn a_state_that_is_not_finite_is_never_saved() {
    let place = Place::new(Keep::default());
    let mut saved = place.train(&steady(), 10, &SOUND, u64::MAX).unwrap();
    let good = std::fs::read(place.checkpoints.latest()).unwrap();
    saved.vectors[2][1] = f32::INFINITY;
    let error = place.checkpoints.save(&saved, "line", &place.denoiser).unwrap_err().to_string();
    assert!(error.contains("after 10 steps is not finite (parameter 1)"), "{error}");
    assert_eq!(std::fs::read(place.checkpoints.latest()).unwrap(), good);
    // A step so large that the weights overflow: the loop finds it where it would save.
    let leap = OptimizerConfig { learning_rate: 1e39, warm_up: 0, ..steady() };
    let error = Place::new(Keep::default()).train(&leap, 1, &SOUND, u64::MAX).unwrap_err().to_string();
    assert!(error.contains("slope is not finite after step 0") && error.contains("No state was saved yet"), "{error}");
}

/// From two stored averages at intervals, one of another width: as if it had been tracked. The weights still move in the
/// end, so that averages of different widths differ.
#[test]
fn a_post_hoc_average_is_the_directly_tracked_one() {
    let tracked = |sigma_rel| {
        let ema = Ema::Power { sigma_rel };
        let snapshots = Some(Snapshots { every: 20, sigma_rels: vec![0.05, 0.1] });
        let optimizer = OptimizerConfig { learning_rate: 0.003, ema, snapshots, ..steady() };
        let place = Place::new(Keep::default());
        let saved = place.train(&optimizer, 600, &SOUND, u64::MAX).unwrap();
        let [parameters, .., ema] = saved.vectors;
        (place, parameters, ema)
    };
    for sigma_rel in [0.07, 0.15, 0.2] {
        let (place, end, wanted) = tracked(sigma_rel);
        let (found, error) = place.checkpoints.reconstruct(sigma_rel, 600).unwrap();
        let off = found.parameters.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off < 1e-3 && error < 0.02, "width {sigma_rel}: off by {off}, {error}");
        assert!((end[0] - wanted[0]).abs() > 50.0 * off, "the average is the end itself: {end:?} {wanted:?}");
    }
    let (place, ..) = tracked(0.1);
    let error = place.checkpoints.reconstruct(0.1, 10).unwrap_err().to_string();
    assert!(error.contains("no snapshots up to step 10"), "{error}");
}
