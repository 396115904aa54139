//! The training loop on a line: `y = slope x + offset`, fitted to `2 x + 1`.

use std::cell::Cell;
use std::sync::atomic::AtomicBool;

use burn::backend::{Autodiff, Flex};
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

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

struct FitLine {
    fault: Fault,
    at: u64,
}

const SOUND: FitLine = FitLine { fault: Fault::None, at: 0 };

impl Task<B, Line<B>> for FitLine {
    fn loss(&self, net: &Line<B>, step: u64, part: Part) -> Tensor<B, 1> {
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

/// Stops after some steps.
struct StopAfter(Cell<u64>);

impl Observer for StopAfter {
    fn begin(&mut self, _: &Saved) -> anyhow::Result<()> {
        Ok(())
    }

    fn step(&mut self, _: &Done, _: &dyn Fn() -> Vec<f32>) -> anyhow::Result<Verdict> {
        self.0.set(self.0.get() - 1);
        Ok(if self.0.get() == 0 { Verdict::Stop } else { Verdict::GoOn })
    }
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
        let fit = Fit {
            optimizer,
            steps,
            recipe: "line".to_owned(),
            denoiser: &self.denoiser,
            checkpoints: &self.checkpoints,
            explosion: 20.0,
            interrupted: &AtomicBool::new(false),
        };
        fit.run::<B, _>(line(), task, &mut StopAfter(Cell::new(stop)))
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
