//! The training loop. Every step is a function of the state before it and the step's number, and the state is saved
//! whole, so a killed run goes on to the same bits. What watches the loop changes nothing in it.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use burn::module::Module;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{ElementConversion, Tensor, TensorData};

use super::adamw::{AdamW, OptimizerConfig};
use super::checkpoint::{Checkpoints, Saved};
use super::ema::Snapshots;
use super::guard::{Divergence, Explosion, tensor_at};
use crate::denoiser::{DenoiserFile, gradients, names, set_parameters};
use crate::ops::{AdamWState, DenoiserBackend};

/// Time between two checkpoints.
const EVERY: Duration = Duration::from_secs(20);

/// The user asked to stop; the checkpoint is written.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; the same command goes on from {0}")]
pub struct Interrupted(pub String);

/// A step could not be done, and what is left.
#[derive(Debug, thiserror::Error)]
#[error("{cause}. {}", match kept { Some(path) => format!("The last good state is {}", path.display()), None => "No state was saved yet".to_owned() })]
pub struct Diverged {
    /// Why.
    pub cause: Divergence,
    /// The newest checkpoint; it is from before the cause.
    pub kept: Option<PathBuf>,
}

/// A part of a step's examples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Its number, counted from 0.
    pub index: usize,
    /// How many equal parts there are.
    pub of: usize,
}

impl Part {
    /// All examples.
    pub const ALL: Self = Self { index: 0, of: 1 };

    /// The part's examples.
    pub fn slice<'a, T>(&self, examples: &'a [T]) -> &'a [T] {
        let each = examples.len() / self.of;
        &examples[self.index * each..][..each]
    }

    /// The part's examples of a tensor `[examples, ...]`.
    pub fn narrow<B: Backend, const D: usize>(&self, examples: Tensor<B, D>) -> Tensor<B, D> {
        let each = examples.dims()[0] / self.of;
        if self.of == 1 { examples } else { examples.narrow(0, self.index * each, each) }
    }
}

/// What is learned.
pub trait Task<B: AutodiffBackend, M> {
    /// The mean loss of a part of the examples of step `step`, `[1]`; a function of the network, the step and the part.
    fn loss(&self, net: &M, step: u64, part: Part) -> Tensor<B, 1>;

    /// What is not finite in the data of step `step`, if anything; asked after a loss that is not finite.
    fn fault(&self, step: u64) -> Option<String>;
}

/// A step that was done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Done {
    /// Steps done.
    pub step: u64,
    /// Steps to do.
    pub steps: u64,
    /// The loss.
    pub loss: f32,
    /// The norm of the gradient, before clipping.
    pub norm: f32,
    /// The learning rate.
    pub rate: f64,
}

/// Whether training goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    GoOn,
    /// The state is saved, then [`Interrupted`].
    Stop,
}

/// Sees training go by: logs, progress, validation, samples. It must not change what is trained.
pub trait Observer {
    /// Training begins, after the steps that `saved` holds.
    fn begin(&mut self, saved: &Saved) -> anyhow::Result<()>;

    /// A step is done; `ema` fetches the averaged weights.
    fn step(&mut self, done: &Done, ema: &dyn Fn() -> Vec<f32>) -> anyhow::Result<Verdict>;
}

/// How one stage of training is run.
pub struct Fit<'a> {
    /// The optimizer.
    pub optimizer: &'a OptimizerConfig,
    /// Steps to do.
    pub steps: u64,
    /// All that decides the result but the number of steps, as text; a checkpoint of another recipe is refused.
    pub recipe: String,
    /// What is trained, for the checkpoints; its parameters are where training starts.
    pub denoiser: &'a DenoiserFile,
    /// Where the state is saved.
    pub checkpoints: &'a Checkpoints,
    /// How many times the mean loss may exceed its least; 0 for any.
    pub explosion: f64,
    /// Set when the run should stop.
    pub interrupted: &'a AtomicBool,
}

/// A flag that Ctrl-C sets; a second Ctrl-C ends the program at once.
pub fn interrupt_flag() -> &'static AtomicBool {
    static FLAG: AtomicBool = AtomicBool::new(false);
    static HANDLER: OnceLock<()> = OnceLock::new();
    HANDLER.get_or_init(|| {
        let handler = || {
            if FLAG.swap(true, Ordering::SeqCst) {
                std::process::exit(1);
            }
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            eprintln!("Ctrl-C will lose up to {} s of work: {error}", EVERY.as_secs());
        }
    });
    &FLAG
}

impl Fit<'_> {
    /// Trains `net` from the denoiser's weights, or from the checkpoint if there is one, and saves the last state.
    ///
    /// # Errors
    /// [`Interrupted`]; [`Diverged`]; a checkpoint that cannot be read, written or used.
    pub fn run<B: AutodiffBackend + DenoiserBackend, M: Module<B>>(
        &self,
        mut net: M,
        task: &impl Task<B, M>,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<Saved>
    where
        B::InnerBackend: DenoiserBackend,
    {
        let start = &self.denoiser.parameters;
        let names = names(&net);
        let mut state = AdamW::new(vector::<B::InnerBackend>(start), self.optimizer);
        let (mut losses, mut norms) = (Vec::new(), Vec::new());
        if let Some(saved) = self.checkpoints.load(&self.recipe, start.len())? {
            ensure!(
                1 + saved.kept.len() == state.vectors.averages.len(),
                "the checkpoint keeps other averages; delete it to begin anew"
            );
            let [parameters, first, second, ema] = saved.vectors.each_ref().map(|values| vector(values));
            let kept = saved.kept.iter().map(|values| vector(values));
            let averages = std::iter::once(ema).chain(kept).collect();
            state = AdamW { vectors: AdamWState { parameters, first, second, averages }, step: saved.step() };
            (losses, norms) = (saved.losses, saved.norms);
        }
        let mut explosion = Explosion::new(self.explosion);
        losses.iter().for_each(|&loss| _ = explosion.hear(loss));
        observer.begin(&saved(&state, &losses, &norms))?;
        let mut saved_at = Instant::now();
        while state.step < self.steps {
            let (step, rate) = (state.step, self.optimizer.rate(state.step, self.steps));
            net = set_parameters(net, Tensor::from_inner(state.vectors.parameters.clone()));
            let (loss, gradient) = self.gradient(&net, task, step);
            if !loss.is_finite() {
                return Err(self.diverged(match task.fault(step) {
                    Some(fault) => Divergence::Data { step, fault },
                    None => Divergence::Loss { step, loss, rate },
                }));
            }
            let (next, norm) = state.update(gradient.clone(), self.optimizer, self.steps);
            let norm: f32 = norm.into_scalar().elem();
            if !norm.is_finite() {
                let tensor = not_finite(&gradient, &names);
                return Err(self.diverged(Divergence::Gradient { step, tensor, loss, rate }));
            }
            state = next;
            losses.push(loss);
            norms.push(norm);
            if let Some((mean, least)) = explosion.hear(loss) {
                return Err(self.diverged(Divergence::Exploded { step, mean, least, limit: self.explosion, rate }));
            }
            let done = Done { step: state.step, steps: self.steps, loss, norm, rate };
            let verdict = observer.step(&done, &|| floats(&state.vectors.averages[0]))?;
            let last = state.step == self.steps;
            let stop = !last && (verdict == Verdict::Stop || self.interrupted.load(Ordering::SeqCst));
            let snapshot =
                self.optimizer.snapshots.as_ref().filter(|kept| last || state.step.is_multiple_of(kept.every));
            let numbered = self.checkpoints.is_numbered(state.step);
            if stop || last || numbered || snapshot.is_some() || saved_at.elapsed() >= EVERY {
                let saved = saved(&state, &losses, &norms);
                if let Some(at) = saved.not_finite() {
                    let tensor = tensor_at(&names, at).to_owned();
                    return Err(self.diverged(Divergence::Weights { step, tensor, rate }));
                }
                if let Some(Snapshots { sigma_rels, .. }) = snapshot {
                    self.checkpoints.snapshot(state.step, &saved.kept, sigma_rels, self.denoiser)?;
                }
                self.checkpoints.save(&saved, &self.recipe, self.denoiser)?;
                saved_at = Instant::now();
            }
            if stop {
                return Err(Interrupted(self.checkpoints.latest().display().to_string()).into());
            }
        }
        Ok(saved(&state, &losses, &norms))
    }

    /// The mean loss of a step's parts and its gradient, `[parameters]`.
    fn gradient<B: AutodiffBackend + DenoiserBackend, M: Module<B>>(
        &self,
        net: &M,
        task: &impl Task<B, M>,
        step: u64,
    ) -> (f32, Tensor<B::InnerBackend, 1>)
    where
        B::InnerBackend: DenoiserBackend,
    {
        let of = self.optimizer.accumulate;
        let part = |index| {
            let loss = task.loss(net, step, Part { index, of });
            let number: f32 = loss.clone().into_scalar().elem();
            (number, gradients(net, &loss.backward()))
        };
        let (mut loss, mut gradient) = part(0);
        for index in 1..of {
            let (more, other) = part(index);
            loss += more;
            gradient = gradient + other;
        }
        if of == 1 { (loss, gradient) } else { (loss / of as f32, gradient / of as f64) }
    }

    fn diverged(&self, cause: Divergence) -> anyhow::Error {
        let latest = self.checkpoints.latest();
        Diverged { cause, kept: latest.exists().then_some(latest) }.into()
    }
}

fn vector<B: Backend>(values: &[f32]) -> Tensor<B, 1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &B::Device::default())
}

fn floats<B: Backend>(vector: &Tensor<B, 1>) -> Vec<f32> {
    vector.to_data().to_vec().expect("f32 backend")
}

/// The name of the first tensor in which `vector` is not finite.
fn not_finite<B: Backend>(vector: &Tensor<B, 1>, names: &[(String, usize)]) -> String {
    let at = floats(vector).iter().position(|value| !value.is_finite());
    // A norm also overflows where every element is finite.
    at.map_or_else(|| "all parameters together".to_owned(), |at| tensor_at(names, at).to_owned())
}

fn saved<B: DenoiserBackend>(state: &AdamW<B>, losses: &[f32], norms: &[f32]) -> Saved {
    let AdamWState { parameters, first, second, averages } = &state.vectors;
    let vectors = [parameters, first, second, &averages[0]].map(floats);
    let kept = averages[1..].iter().map(floats).collect();
    Saved { vectors, kept, losses: losses.to_vec(), norms: norms.to_vec() }
}
