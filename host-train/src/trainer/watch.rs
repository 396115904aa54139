//! What is watched while a teacher trains: validation, samples, scores, logs. Nothing in here changes the weights or the
//! random numbers of training; what is measured depends on the weights and the step alone, so a resumed run measures the
//! same.

use std::path::PathBuf;

use burn::tensor::backend::Backend;
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoints, Keep, Saved};
use super::fit::{Done, Observer, Verdict};
use super::run_log::{RunLog, Wishes};
use super::validation::{Validated, Validation};
use crate::dataset::Split;
use crate::denoiser::DenoiserFile;
use crate::diffusion::{Diffusion, Request, Sampler};
use crate::evaluate::SAMPLING_SEED;
use crate::evaluate::npy::Samples;
use crate::evaluate::score::Scorer;
use crate::evaluate::sheet::{Legend, Section, sheet};
use crate::files;
use crate::ops::DenoiserBackend;

/// What is watched, and how often. It changes nothing in what is trained, so a run may go on with another one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchConfig {
    /// Steps between two validations: the loss on held-out samples by noise level; 0 for none.
    pub validate_every: u64,
    /// Held-out samples it uses, at every noise level.
    pub validation_samples: usize,
    /// Noise levels.
    pub noise_levels: usize,
    /// Steps between two pictures of samples; 0 for none.
    pub sample_every: u64,
    /// Samples of each class in a picture.
    pub sample_rows: usize,
    /// Steps between two scores of samples against the data set's judge: Fréchet distance, precision, recall, class accuracy; 0
    /// for none.
    pub score_every: u64,
    /// Samples that are scored, at least; a whole number for each class.
    pub score_samples: usize,
    /// The judge made by `mote-train judge --train` for the data; the embedded one judges the embedded data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<PathBuf>,
    /// By what the best weights are chosen.
    pub best: Best,
    /// Which checkpoints stay.
    pub checkpoints: Keep,
    /// How many times the mean loss of 100 steps may exceed its least before training stops; 0 for any.
    pub explosion: f64,
}

/// By what the best weights are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Best {
    /// The least validation loss.
    Validation,
    /// The least Fréchet distance.
    Frechet,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            validate_every: 0,
            validation_samples: 100,
            noise_levels: 10,
            sample_every: 0,
            sample_rows: 4,
            score_every: 0,
            score_samples: 200,
            judge: None,
            best: Best::Validation,
            checkpoints: Keep::default(),
            explosion: 20.0,
        }
    }
}

impl WatchConfig {
    /// # Errors
    /// The first number that makes no sense, with what to do.
    pub fn check(&self) -> anyhow::Result<()> {
        for (name, value) in [
            ("validation_samples", self.validation_samples),
            ("noise_levels", self.noise_levels),
            ("sample_rows", self.sample_rows),
            ("score_samples", self.score_samples),
        ] {
            anyhow::ensure!(value >= 1, "watch.{name} must be at least 1");
        }
        anyhow::ensure!(self.explosion == 0.0 || self.explosion > 1.0, "watch.explosion must be 0 or more than 1");
        Ok(())
    }
}

/// Watches a teacher.
pub struct Watch<'a> {
    /// What is watched.
    pub config: &'a WatchConfig,
    /// What is trained; its parameters do not matter.
    pub denoiser: &'a DenoiserFile,
    /// Its process.
    pub diffusion: &'a Diffusion,
    /// Names of the classes and units of the values.
    pub legend: Legend<'a>,
    /// Held-out samples, whose low resolution a super-resolution network is given.
    pub held_out: Split<'a>,
    /// Held-out samples, where there are any.
    pub validation: Option<Validation<'a>>,
    /// The judge, where the data has one.
    pub scorer: Option<Scorer<'a>>,
    /// Where the best weights go.
    pub checkpoints: &'a Checkpoints,
    /// Where pictures of samples go.
    pub samples: PathBuf,
    /// Where numbers go.
    pub log: RunLog,
}

/// [`Watch`] on the backend that computes.
pub struct Watching<'a, 'b, B: Backend> {
    watch: &'b mut Watch<'a>,
    device: B::Device,
}

impl<'a> Watch<'a> {
    /// The observer that computes on a device.
    pub fn on<B: Backend>(&mut self, device: &B::Device) -> Watching<'a, '_, B> {
        Watching { watch: self, device: device.clone() }
    }
}

impl<B: DenoiserBackend> Observer for Watching<'_, '_, B> {
    fn begin(&mut self, saved: &Saved) -> anyhow::Result<()> {
        self.watch.log.begin(saved)
    }

    fn is_due(&self, step: u64, steps: u64) -> bool {
        let WatchConfig { validate_every, score_every, sample_every, .. } = self.watch.config;
        [validate_every, score_every, sample_every].into_iter().any(|&every| falls_due(every, step, steps))
    }

    fn steps(&mut self, done: &[Done], ema: &dyn Fn() -> Vec<f32>) -> anyhow::Result<Verdict> {
        let mut wishes = Wishes::default();
        for done in done {
            let Wishes { stop, sample } = self.watch.log.step(done)?;
            wishes = Wishes { stop: wishes.stop || stop, sample: wishes.sample || sample };
        }
        let Some(&Done { step, steps, .. }) = done.last() else { return Ok(Verdict::GoOn) };
        let config = self.watch.config;
        let due = |every: u64| falls_due(every, step, steps);
        let validate = due(config.validate_every) && self.watch.validation.is_some();
        let score = due(config.score_every) && self.watch.scorer.is_some();
        let sample = wishes.sample || due(config.sample_every);
        if validate || score || sample {
            let file = DenoiserFile { parameters: ema(), ..self.watch.denoiser.clone() };
            let net = file.net::<B>(&self.device)?;
            if validate {
                self.validate(step, &net, &file)?;
            }
            if score {
                self.score(step, &net, &file)?;
            }
            if sample {
                self.sample(step, &net)?;
            }
            self.watch.log.note("");
        }
        Ok(if wishes.stop { Verdict::Stop } else { Verdict::GoOn })
    }
}

/// Whether what is done every so many steps, 0 for never, is done after `step` of `steps`.
fn falls_due(every: u64, step: u64, steps: u64) -> bool {
    every > 0 && (step.is_multiple_of(every) || step == steps)
}

impl<B: DenoiserBackend> Watching<'_, '_, B> {
    fn validate(&mut self, step: u64, net: &crate::denoiser::Denoiser<B>, file: &DenoiserFile) -> anyhow::Result<()> {
        self.watch.log.note("validating");
        let Watch { validation, log, config, checkpoints, .. } = &mut *self.watch;
        let validation = validation.as_ref().expect("asked for where there is one");
        let Validated { loss, levels } = validation.run(net);
        let best = log.validation(step, loss, validation.timesteps(), &levels)?;
        if best && config.best == Best::Validation {
            checkpoints.save_best(file)?;
        }
        Ok(())
    }

    fn score(&mut self, step: u64, net: &crate::denoiser::Denoiser<B>, file: &DenoiserFile) -> anyhow::Result<()> {
        let count = self.watch.config.score_samples.next_multiple_of(self.watch.denoiser.network.classes);
        let samples = self.draw(net, count, "drawing samples to score")?;
        let Watch { scorer, log, config, checkpoints, .. } = &mut *self.watch;
        let score = scorer.as_ref().expect("asked for where there is one").score(&samples.all_units());
        let best = log.score(step, &score)?;
        if best && config.best == Best::Frechet {
            checkpoints.save_best(file)?;
        }
        Ok(())
    }

    fn sample(&mut self, step: u64, net: &crate::denoiser::Denoiser<B>) -> anyhow::Result<()> {
        let count = self.watch.config.sample_rows * self.watch.denoiser.network.classes;
        let samples = self.draw(net, count, "drawing samples")?;
        let folder = &self.watch.samples;
        files::make_folder(folder)?;
        let section = Section { label: vec![format!("step {step}")], samples: &samples };
        let canvas = sheet(self.watch.legend, &[section], self.watch.config.sample_rows, "")?;
        let png = canvas.to_png()?;
        files::write_atomically(&folder.join(format!("step-{step:08}.png")), &png)?;
        self.watch.log.picture(step, canvas.dimensions(), &png)
    }

    fn draw(&mut self, net: &crate::denoiser::Denoiser<B>, count: usize, note: &str) -> anyhow::Result<Samples> {
        self.watch.log.note(note);
        let DenoiserFile { network, sampling, .. } = self.watch.denoiser;
        let sampler = Sampler { net, config: network, diffusion: self.watch.diffusion, sampling: sampling.clone() };
        let request = Request { seed: SAMPLING_SEED, count, class: None };
        Ok(sampler.draw(request, &self.watch.held_out, &self.device, |_| ()))
    }
}
