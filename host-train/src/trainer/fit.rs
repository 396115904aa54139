//! The training loop. Every step is a function of the state before it and the step's number, and the state is saved
//! whole, so a killed run goes on to the same bits.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{ElementConversion, Tensor, TensorData};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::adamw::{AdamW, OptimizerConfig};
use crate::denoiser::{Denoiser, gradients, set_parameters};
use crate::files;
use crate::progress::Progress;

/// Time between two checkpoints.
const EVERY: Duration = Duration::from_secs(20);
/// Key of the recipe in a checkpoint's metadata.
const METADATA_KEY: &str = "recipe";

/// The user asked to stop; the checkpoint is written.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; the same command goes on from {0}")]
pub struct Interrupted(pub String);

/// How one stage of training is run.
pub struct Fit<'a> {
    /// The optimizer.
    pub optimizer: &'a OptimizerConfig,
    /// Steps to do.
    pub steps: u64,
    /// All that decides the result, as text; a checkpoint of another recipe is refused.
    pub recipe: String,
    /// Where the state is saved.
    pub checkpoint: &'a Path,
    /// Set when the run should stop.
    pub interrupted: &'a AtomicBool,
}

/// What a stage of training gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Weights as trained, first and second moment, averaged weights.
    pub vectors: [Vec<f32>; 4],
    /// The loss of each step.
    pub losses: Vec<f32>,
}

/// What the progress bar says.
pub struct Progressing<'a> {
    /// The bar.
    pub bar: &'a Progress,
    /// Steps of the stages before.
    pub before: u64,
    /// Steps of all stages.
    pub total: u64,
}

const NAMES: [&str; 4] = ["parameters", "first_moment", "second_moment", "ema"];

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
    /// Trains from `net`'s weights, or from the checkpoint if there is one. `loss` gives a step's loss, `[1]`.
    ///
    /// # Errors
    /// [`Interrupted`]; a checkpoint that cannot be read, written or used; a loss that is not finite.
    pub fn run<B: AutodiffBackend>(
        &self,
        start: &[f32],
        mut net: Denoiser<B>,
        progress: &Progressing<'_>,
        mut loss: impl FnMut(&Denoiser<B>, u64) -> Tensor<B, 1>,
    ) -> anyhow::Result<Saved> {
        let device = B::Device::default();
        let vector = |values: &[f32]| {
            Tensor::<B::InnerBackend, 1>::from_data(TensorData::new(values.to_vec(), [values.len()]), &device)
        };
        let mut state = AdamW::new(vector(start));
        let mut losses = Vec::new();
        if self.checkpoint.exists() {
            let saved = self.load(start.len())?;
            let [parameters, first, second, ema] = saved.vectors.each_ref().map(|values| vector(values));
            state = AdamW { parameters, first, second, ema, step: saved.losses.len() as u64 };
            losses = saved.losses;
        }
        let mut saved_at = Instant::now();
        while state.step < self.steps {
            net = set_parameters(net, Tensor::from_inner(state.parameters.clone()));
            let value = loss(&net, state.step);
            let number: f32 = value.clone().into_scalar().elem();
            ensure!(number.is_finite(), "the loss of step {} is {number}; lower the learning rate", state.step);
            losses.push(number);
            let gradient = gradients(&net, &value.backward());
            state = state.update(gradient, self.optimizer, self.steps);
            let recent = &losses[losses.len().saturating_sub(100)..];
            let mean = recent.iter().sum::<f32>() / recent.len() as f32;
            progress.bar.update_with(
                (progress.before + state.step) as usize,
                progress.total as usize,
                &format!("loss {mean:.4}"),
            );
            let stop = self.interrupted.load(Ordering::SeqCst) && state.step < self.steps;
            if stop || saved_at.elapsed() >= EVERY {
                self.save(&saved(&state, &losses))?;
                saved_at = Instant::now();
            }
            if stop {
                return Err(Interrupted(self.checkpoint.display().to_string()).into());
            }
        }
        Ok(saved(&state, &losses))
    }

    /// Writes a checkpoint.
    pub fn save(&self, saved: &Saved) -> anyhow::Result<()> {
        let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
        let mut parts: Vec<(&str, Vec<u8>)> =
            NAMES.into_iter().zip(saved.vectors.iter().map(|vector| bytes(vector))).collect();
        parts.push(("losses", bytes(&saved.losses)));
        let views = parts.iter().map(|(name, data)| {
            (*name, TensorView::new(Dtype::F32, vec![data.len() / 4], data).expect("four bytes a value"))
        });
        let metadata = [(METADATA_KEY.to_owned(), self.recipe.clone())].into();
        let file = safetensors::serialize(views, Some(metadata)).expect("valid views");
        files::write_atomically(self.checkpoint, &file)
    }

    fn load(&self, len: usize) -> anyhow::Result<Saved> {
        let path = self.checkpoint.display();
        let broken = || format!("{path} is damaged; delete it to begin this stage anew");
        let file = files::read(self.checkpoint)?;
        let (_, header) = SafeTensors::read_metadata(&file).with_context(broken)?;
        let recipe = header.metadata().as_ref().and_then(|entries| entries.get(METADATA_KEY));
        ensure!(
            recipe == Some(&self.recipe),
            "{path} was made by another recipe, seed, data or backend; use another --run, or delete it to begin anew"
        );
        let tensors = SafeTensors::deserialize(&file).with_context(broken)?;
        let floats = |name: &str| -> anyhow::Result<Vec<f32>> {
            let tensor = tensors.tensor(name).with_context(broken)?;
            ensure!(tensor.dtype() == Dtype::F32, broken());
            let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
            Ok(tensor.data().chunks_exact(4).map(value).collect())
        };
        let vectors = [floats(NAMES[0])?, floats(NAMES[1])?, floats(NAMES[2])?, floats(NAMES[3])?];
        let losses = floats("losses")?;
        ensure!(vectors.iter().all(|vector| vector.len() == len), broken());
        Ok(Saved { vectors, losses })
    }
}

impl Saved {
    /// The averaged weights.
    pub fn ema(&self) -> &[f32] {
        &self.vectors[3]
    }

    /// The mean of the last hundredth of the losses, at least 100.
    pub fn final_loss(&self) -> f64 {
        let last = &self.losses[self.losses.len().saturating_sub((self.losses.len() / 100).max(100))..];
        last.iter().map(|&loss| f64::from(loss)).sum::<f64>() / last.len().max(1) as f64
    }
}

fn saved<B: burn::tensor::backend::Backend>(state: &AdamW<B>, losses: &[f32]) -> Saved {
    let floats = |vector: &Tensor<B, 1>| vector.to_data().to_vec().expect("f32 backend");
    let vectors = [&state.parameters, &state.first, &state.second, &state.ema].map(floats);
    Saved { vectors, losses: losses.to_vec() }
}
