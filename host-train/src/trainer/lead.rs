//! What the first worker does beside computing: it hears the losses, has them watched, saves, and says how far all go on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::checkpoint::Saved;
use super::fit::{Done, EVERY, Fit, Interrupted, Observer, Verdict};
use super::guard::{Divergence, Explosion, tensor_at};

/// Time between two readings of what was queued.
const READ: Duration = Duration::from_secs(1);

/// What was read of the steps that were queued.
pub(super) struct Read<'a> {
    /// Of each step.
    pub(super) losses: Vec<f32>,
    /// Of each step's gradient, before clipping.
    pub(super) norms: Vec<f32>,
    /// The last step's gradient, where steps are read one by one.
    pub(super) gradient: &'a dyn Fn() -> Option<Vec<f32>>,
    /// The averaged weights after the last step.
    pub(super) ema: &'a dyn Fn() -> Vec<f32>,
    /// What is not finite in a step's data.
    pub(super) fault: &'a dyn Fn(u64) -> Option<String>,
}

/// The first worker's books. `'env` is how long the training takes, `'scope` how long its threads, `'watch` the observer.
pub(super) struct Lead<'scope, 'env, 'watch> {
    /// The most steps that are queued.
    pub(super) ahead: u64,
    fit: &'env Fit<'env>,
    scope: &'scope Scope<'scope, 'env>,
    observer: &'watch mut dyn Observer,
    /// Names and lengths of the parameters.
    names: Arc<[(String, usize)]>,
    losses: Vec<f32>,
    norms: Vec<f32>,
    explosion: Explosion,
    /// Steps that are queued next, as many as take [`READ`].
    length: u64,
    asked_at: Instant,
    is_asked_to_stop: bool,
    /// The newest state read from the device, and when.
    saved: Arc<Saved>,
    saved_at: Instant,
    /// It is being written.
    writing: Option<ScopedJoinHandle<'scope, anyhow::Result<()>>>,
}

impl<'scope, 'env, 'watch> Lead<'scope, 'env, 'watch> {
    /// Goes on from `saved`.
    pub(super) fn new(
        fit: &'env Fit<'env>,
        scope: &'scope Scope<'scope, 'env>,
        observer: &'watch mut dyn Observer,
        names: Vec<(String, usize)>,
        saved: Saved,
        ahead: u64,
    ) -> Self {
        let mut explosion = Explosion::new(fit.explosion);
        saved.losses.iter().for_each(|&loss| _ = explosion.hear(loss));
        let now = Instant::now();
        Self {
            ahead,
            fit,
            scope,
            observer,
            names: names.into(),
            losses: saved.losses.clone(),
            norms: saved.norms.clone(),
            explosion,
            length: 1,
            asked_at: now,
            is_asked_to_stop: false,
            saved: Arc::new(saved),
            saved_at: now,
            writing: None,
        }
    }

    /// After which step the losses are read next, `step` being done.
    pub(super) fn until(&mut self, step: u64) -> u64 {
        self.asked_at = Instant::now();
        let end = (step + self.length).min(self.fit.steps);
        (step + 1..end).find(|&step| self.is_due(step)).unwrap_or(end)
    }

    /// Whether something is saved or measured after `step` for certain.
    fn is_due(&self, step: u64) -> bool {
        let fit = self.fit;
        fit.checkpoints.is_numbered(step) || fit.snapshot_at(step).is_some() || self.observer.is_due(step, fit.steps)
    }

    /// Hears of the steps up to the one that [`Lead::until`] said.
    ///
    /// # Errors
    /// If training cannot go on.
    pub(super) fn read(&mut self, read: &Read<'_>) -> anyhow::Result<()> {
        let taken = self.asked_at.elapsed().as_secs_f64() / read.losses.len() as f64;
        self.length = ((READ.as_secs_f64() / taken) as u64).clamp(1, self.ahead);
        let mut heard = Vec::with_capacity(read.losses.len());
        for (&loss, &norm) in read.losses.iter().zip(&read.norms) {
            if let Err(cause) = self.hear(loss, norm, read) {
                // What is being written is from before.
                self.wait()?;
                return Err(self.fit.diverged(cause));
            }
            let (step, steps) = (self.losses.len() as u64, self.fit.steps);
            heard.push(Done { step, steps, loss, norm, rate: self.fit.optimizer.rate(step - 1, steps) });
        }
        let verdict = self.observer.steps(&heard, read.ema)?;
        self.is_asked_to_stop = verdict == Verdict::Stop || self.fit.interrupted.load(Ordering::SeqCst);
        Ok(())
    }

    fn hear(&mut self, loss: f32, norm: f32, read: &Read<'_>) -> Result<(), Divergence> {
        let step = self.losses.len() as u64;
        let rate = self.fit.optimizer.rate(step, self.fit.steps);
        if !loss.is_finite() {
            return Err(match (read.fault)(step) {
                Some(fault) => Divergence::Data { step, fault },
                None => Divergence::Loss { step, loss, rate },
            });
        }
        if !norm.is_finite() {
            let at = (read.gradient)().and_then(|gradient| gradient.iter().position(|value| !value.is_finite()));
            // A norm also overflows where every element is finite.
            let tensor = at.map_or("all parameters together", |at| tensor_at(&self.names, at)).to_owned();
            return Err(Divergence::Gradient { step, tensor, loss, rate });
        }
        self.losses.push(loss);
        self.norms.push(norm);
        match self.explosion.hear(loss) {
            Some((mean, least)) => {
                Err(Divergence::Exploded { step: step + 1, mean, least, limit: self.fit.explosion, rate })
            }
            None => Ok(()),
        }
    }

    /// Whether the state is to be saved now.
    pub(super) fn is_to_save(&self) -> bool {
        let step = self.losses.len() as u64;
        self.is_asked_to_stop
            || step == self.fit.steps
            || self.fit.checkpoints.is_numbered(step)
            || self.fit.snapshot_at(step).is_some()
            || self.saved_at.elapsed() >= EVERY
    }

    /// Saves the state in a thread of its own, when what was saved before is written.
    pub(super) fn save(&mut self, vectors: [Vec<f32>; 4], kept: Vec<Vec<f32>>) -> anyhow::Result<()> {
        self.wait()?;
        self.saved = Arc::new(Saved { vectors, kept, losses: self.losses.clone(), norms: self.norms.clone() });
        self.saved_at = Instant::now();
        let (fit, saved, names) = (self.fit, Arc::clone(&self.saved), Arc::clone(&self.names));
        self.writing = Some(self.scope.spawn(move || fit.write(&saved, &names)));
        Ok(())
    }

    /// # Errors
    /// [`Interrupted`] if someone asked for it and there are steps left; the state is saved.
    pub(super) fn stop_if_asked(&mut self) -> anyhow::Result<()> {
        if self.is_asked_to_stop && (self.losses.len() as u64) < self.fit.steps {
            self.wait()?;
            return Err(Interrupted(self.fit.checkpoints.latest().display().to_string()).into());
        }
        Ok(())
    }

    /// The last state, written.
    pub(super) fn finish(mut self) -> anyhow::Result<Saved> {
        self.wait()?;
        Ok(Arc::unwrap_or_clone(self.saved))
    }

    fn wait(&mut self) -> anyhow::Result<()> {
        match self.writing.take().map(ScopedJoinHandle::join) {
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            Some(Ok(result)) => result,
            None => Ok(()),
        }
    }
}
