//! The training loop. Every step is a function of the state before it and the step's number, and the state is saved
//! whole, so a killed run goes on to the same bits. What watches the loop changes nothing in it.
//!
//! Nothing waits that need not. A thread plans the next steps on the host while the device computes; the device is given
//! many steps before their losses are read; files are written beside it all. The steps that are queued are read at once
//! where something is to be saved or measured. If one of them failed, all is done once more from the last checkpoint, each
//! step read, so that the cause has a name.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use burn::module::Module;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Tensor, TensorData};

use super::adamw::{AdamW, OptimizerConfig};
use super::checkpoint::{Checkpoints, Saved};
use super::ema::Snapshots;
use super::guard::{Divergence, tensor_at};
use super::lead::{Lead, Read};
use crate::denoiser::{DenoiserFile, gradients, names, set_parameters};
use crate::ops::{AdamWState, DenoiserBackend};
use crate::peer::{Left, Peer};

/// Steps that are planned ahead.
const PLANNED: usize = 2;
/// Time between two checkpoints.
pub(super) const EVERY: Duration = Duration::from_secs(20);

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
    /// What the host decides of a part of a step's examples.
    type Plan: Send;

    /// Plans parts of steps, in a thread of its own: a function of step and part.
    fn planner(&self) -> impl Fn(u64, Part) -> Self::Plan + Send;

    /// The mean loss of the planned examples, `[1]`; a function of the network and the plan.
    fn loss(&self, net: &M, plan: Self::Plan) -> Tensor<B, 1>;

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

    /// Whether it needs the averaged weights after `step` of `steps`; it then hears of that step as the last of some.
    fn is_due(&self, step: u64, steps: u64) -> bool;

    /// Steps are done, at least one; `ema` fetches the averaged weights after the last.
    fn steps(&mut self, done: &[Done], ema: &dyn Fn() -> Vec<f32>) -> anyhow::Result<Verdict>;
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
    /// The most steps that are queued before their losses are read; they are read every second in any case.
    pub ahead: u64,
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
    /// Trains `net`, on the device where it is, from the denoiser's weights, or from the checkpoint if there is one, and
    /// saves the last state.
    ///
    /// # Errors
    /// [`Interrupted`]; [`Diverged`]; a checkpoint that cannot be read, written or used.
    pub fn run<B: AutodiffBackend, M: Module<B>>(
        &self,
        net: M,
        task: &impl Task<B, M>,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<Saved>
    where
        B::InnerBackend: DenoiserBackend,
    {
        let devices = net.devices();
        self.named(|ahead| {
            let peer = Peer::group(&devices[..1]).remove(0);
            self.lead(peer, net.clone(), task, observer, ahead)
        })
    }

    /// The same on all `devices` together. `make` makes a worker's network and task on its device, in its thread; each
    /// worker computes its parts of every batch.
    ///
    /// # Errors
    /// As [`Fit::run`], and what `make` says.
    ///
    /// # Panics
    /// If there is no device.
    pub fn run_on<B: AutodiffBackend, M: Module<B>, T: Task<B, M>>(
        &self,
        devices: &[B::Device],
        make: impl Fn(&B::Device) -> anyhow::Result<(M, T)> + Sync,
        observer: &mut dyn Observer,
    ) -> anyhow::Result<Saved>
    where
        B::InnerBackend: DenoiserBackend,
    {
        let make = &make;
        self.named(|ahead| {
            let mut peers = Peer::<B::InnerBackend>::group(devices).into_iter();
            let first = peers.next().expect("a device");
            let work = |peer: Peer<B::InnerBackend>| -> anyhow::Result<()> {
                let (net, task) = make(peer.device())?;
                let (state, _) = self.begin(&peer)?;
                self.train(net, &task, state, &peer, None)
            };
            thread::scope(|scope| {
                let others: Vec<_> = peers.map(|peer| scope.spawn(move || work(peer))).collect();
                let result = make(first.device()).and_then(|(net, task)| self.lead(first, net, &task, observer, ahead));
                // A worker that failed on its own says more than one that was left.
                for other in others {
                    match other.join() {
                        Ok(Err(error)) if !error.is::<Left>() => return Err(error),
                        Err(panic) => std::panic::resume_unwind(panic),
                        _ => (),
                    }
                }
                result
            })
        })
    }

    /// Trains with so many steps queued; once more with one, where a step failed somewhere among them.
    fn named(&self, mut train: impl FnMut(u64) -> anyhow::Result<Saved>) -> anyhow::Result<Saved> {
        match train(self.ahead) {
            Err(error) if self.ahead > 1 && error.is::<Diverged>() => train(1),
            result => result,
        }
    }

    /// The first worker's part.
    fn lead<B: AutodiffBackend, M: Module<B>, T: Task<B, M>>(
        &self,
        peer: Peer<B::InnerBackend>,
        net: M,
        task: &T,
        observer: &mut dyn Observer,
        ahead: u64,
    ) -> anyhow::Result<Saved>
    where
        B::InnerBackend: DenoiserBackend,
    {
        let (state, saved) = self.begin(&peer)?;
        observer.begin(&saved)?;
        thread::scope(|scope| {
            let mut lead = Lead::new(self, scope, observer, names(&net), saved, ahead);
            self.train(net, task, state, &peer, Some(&mut lead))?;
            lead.finish()
        })
    }

    /// The state that training goes on from, on the worker's device.
    fn begin<B: DenoiserBackend>(&self, peer: &Peer<B>) -> anyhow::Result<(AdamW<B>, Saved)> {
        let start = &self.denoiser.parameters;
        let vector = |values: &Vec<f32>| {
            Tensor::<B, 1>::from_data(TensorData::new(values.clone(), [values.len()]), peer.device())
        };
        let kept = self.optimizer.profiles().len();
        let saved = match self.checkpoints.load(&self.recipe, start.len())? {
            Some(saved) => {
                ensure!(saved.kept.len() == kept, "the checkpoint keeps other averages; delete it to begin anew");
                saved
            }
            None => {
                let zeros = vec![0.0; start.len()];
                let vectors = [start.clone(), zeros.clone(), zeros, start.clone()];
                Saved { vectors, kept: vec![start.clone(); kept], losses: Vec::new(), norms: Vec::new() }
            }
        };
        let [parameters, first, second] = [0, 1, 2].map(|at| vector(&saved.vectors[at]));
        let averages = if peer.rank() == 0 {
            std::iter::once(&saved.vectors[3]).chain(&saved.kept).map(vector).collect()
        } else {
            Vec::new()
        };
        Ok((AdamW { vectors: AdamWState { parameters, first, second, averages }, step: saved.step() }, saved))
    }

    /// The steps from `state` on, planned by a thread of their own.
    fn train<B: AutodiffBackend, M: Module<B>, T: Task<B, M>>(
        &self,
        net: M,
        task: &T,
        state: AdamW<B::InnerBackend>,
        peer: &Peer<B::InnerBackend>,
        lead: Option<&mut Lead<'_, '_, '_>>,
    ) -> anyhow::Result<()>
    where
        B::InnerBackend: DenoiserBackend,
    {
        let (each, rank, planner) = (self.optimizer.accumulate, peer.rank(), task.planner());
        let of = each * peer.devices().len();
        let (send, plans) = sync_channel(PLANNED * each);
        thread::scope(|scope| {
            let steps = state.step..self.steps;
            let parts = move |step| (0..each).map(move |part| (step, Part { index: rank * each + part, of }));
            // It ends when nobody hears it any more.
            scope.spawn(move || {
                steps.flat_map(parts).try_for_each(|(step, part)| send.send(planner(step, part)).ok());
            });
            self.compute(net, task, plans, state, peer, lead)
        })
    }

    fn compute<B: AutodiffBackend, M: Module<B>, T: Task<B, M>>(
        &self,
        mut net: M,
        task: &T,
        plans: Receiver<T::Plan>,
        mut state: AdamW<B::InnerBackend>,
        peer: &Peer<B::InnerBackend>,
        mut lead: Option<&mut Lead<'_, '_, '_>>,
    ) -> anyhow::Result<()>
    where
        B::InnerBackend: DenoiserBackend,
    {
        let of = self.optimizer.accumulate * peer.devices().len();
        while state.step < self.steps {
            let until = peer.agree(lead.as_mut().map(|lead| lead.until(state.step)))?;
            let names_causes = lead.as_ref().is_some_and(|lead| lead.ahead == 1);
            let (mut queued, mut kept) = (Vec::new(), None);
            while state.step < until {
                net = set_parameters(net, Tensor::from_inner(state.vectors.parameters.clone()));
                let (loss, gradient) = self.sums(&net, task, &plans);
                let sum = B::InnerBackend::all_reduce(gradient, peer)?;
                let gradient = if of == 1 { sum } else { sum / of as f64 };
                kept = names_causes.then(|| gradient.clone());
                let (next, norm) = state.update(gradient, self.optimizer, self.steps);
                state = next;
                queued.extend([loss, norm]);
            }
            let numbers = floats(&Tensor::cat(queued, 0));
            let losses = peer.sum(numbers.iter().copied().step_by(2).collect())?;
            if let Some(lead) = &mut lead {
                lead.read(&Read {
                    losses: losses.into_iter().map(|loss| loss / of as f32).collect(),
                    norms: numbers.into_iter().skip(1).step_by(2).collect(),
                    gradient: &|| kept.as_ref().map(floats),
                    ema: &|| floats(&state.vectors.averages[0]),
                    fault: &|step| task.fault(step),
                })?;
                if lead.is_to_save() {
                    let AdamWState { parameters, first, second, averages } = &state.vectors;
                    let vectors = [parameters, first, second, &averages[0]].map(floats);
                    lead.save(vectors, averages[1..].iter().map(floats).collect())?;
                }
                lead.stop_if_asked()?;
            }
        }
        Ok(())
    }

    /// The sums of the losses, `[1]`, and of the gradients, `[parameters]`, of a worker's parts of the next step.
    fn sums<B: AutodiffBackend, M: Module<B>, T: Task<B, M>>(
        &self,
        net: &M,
        task: &T,
        plans: &Receiver<T::Plan>,
    ) -> (Tensor<B::InnerBackend, 1>, Tensor<B::InnerBackend, 1>) {
        let part = || {
            let loss = task.loss(net, plans.recv().expect("as many plans as parts"));
            let gradient = gradients(net, &loss.backward());
            (loss.inner(), gradient)
        };
        (1..self.optimizer.accumulate).fold(part(), |(loss, gradient), _| {
            let (more, other) = part();
            (loss + more, gradient + other)
        })
    }

    /// Writes a state, whatever else is due after its step.
    pub(super) fn write(&self, saved: &Saved, names: &[(String, usize)]) -> anyhow::Result<()> {
        if let Some(at) = saved.not_finite() {
            let (step, tensor) = (saved.step() - 1, tensor_at(names, at).to_owned());
            return Err(self.diverged(Divergence::Weights {
                step,
                tensor,
                rate: self.optimizer.rate(step, self.steps),
            }));
        }
        if let Some(Snapshots { sigma_rels, .. }) = self.snapshot_at(saved.step()) {
            self.checkpoints.snapshot(saved.step(), &saved.kept, sigma_rels, self.denoiser)?;
        }
        self.checkpoints.save(saved, &self.recipe, self.denoiser)
    }

    /// The averages that are kept after `step`, if any.
    pub(super) fn snapshot_at(&self, step: u64) -> Option<&Snapshots> {
        let snapshots = self.optimizer.snapshots.as_ref();
        snapshots.filter(|kept| step == self.steps || step.is_multiple_of(kept.every))
    }

    pub(super) fn diverged(&self, cause: Divergence) -> anyhow::Error {
        let latest = self.checkpoints.latest();
        Diverged { cause, kept: latest.exists().then_some(latest) }.into()
    }
}

fn floats<B: Backend>(vector: &Tensor<B, 1>) -> Vec<f32> {
    vector.to_data().to_vec().expect("f32 backend")
}
