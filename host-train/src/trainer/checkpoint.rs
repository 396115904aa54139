//! What training keeps on disk: its whole state, to go on from, and averages of the weights.
//!
//! A stage's folder holds `latest.safetensors`, `step-<N>.safetensors` (the same, every so many steps) and, where the
//! recipe asks for them, `snapshot-<N>.safetensors` (averages for [`super::combine`]). All are written whole or not at all.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};

use super::ema::{Profile, check_width};
use super::post_hoc::{Average, Combination, combine};
use crate::denoiser::DenoiserFile;
use crate::files;

/// Keys of a file's metadata.
const RECIPE: &str = "recipe";
const DENOISER: &str = "denoiser";
const PROFILES: &str = "sigma_rels";

/// Names of the four vectors every state has, in the order of [`Saved::vectors`].
const NAMES: [&str; 4] = ["parameters", "first_moment", "second_moment", "ema"];

/// Which checkpoints stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Keep {
    /// Steps between numbered checkpoints; 0 for none. The latest is kept besides, at most 20 s old.
    pub every: u64,
    /// How many of them stay, the newest; 0 for all.
    pub last: usize,
}

impl Default for Keep {
    fn default() -> Self {
        Self { every: 0, last: 3 }
    }
}

/// The state of training.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Weights as trained, first and second moment, averaged weights.
    pub vectors: [Vec<f32>; 4],
    /// The averages kept for other widths.
    pub kept: Vec<Vec<f32>>,
    /// The loss of each step.
    pub losses: Vec<f32>,
    /// The norm of each step's gradient, before clipping.
    pub norms: Vec<f32>,
}

impl Saved {
    /// Steps done.
    pub fn step(&self) -> u64 {
        self.losses.len() as u64
    }

    /// The averaged weights.
    pub fn ema(&self) -> &[f32] {
        &self.vectors[3]
    }

    /// The mean of the last hundredth of the losses, at least 100.
    pub fn final_loss(&self) -> f64 {
        let last = &self.losses[self.losses.len().saturating_sub((self.losses.len() / 100).max(100))..];
        last.iter().map(|&loss| f64::from(loss)).sum::<f64>() / last.len().max(1) as f64
    }

    /// The first element of the weights, moments or averages that is not finite, as its place among the parameters.
    pub(super) fn not_finite(&self) -> Option<usize> {
        let find = |vector: &Vec<f32>| vector.iter().position(|value| !value.is_finite());
        self.vectors.iter().chain(&self.kept).find_map(find)
    }
}

/// The checkpoints of one stage of training.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    folder: PathBuf,
    keep: Keep,
}

impl Checkpoints {
    /// Those in `folder`, which is made with the first of them.
    pub fn new(folder: PathBuf, keep: Keep) -> Self {
        Self { folder, keep }
    }

    /// The newest state.
    pub fn latest(&self) -> PathBuf {
        self.folder.join("latest.safetensors")
    }

    /// The averaged weights that were best in validation, a denoiser's file.
    pub fn best(&self) -> PathBuf {
        self.folder.join("best.safetensors")
    }

    /// Keeps the best weights so far.
    pub(super) fn save_best(&self, best: &DenoiserFile) -> anyhow::Result<()> {
        files::make_folder(&self.folder)?;
        files::write_atomically(&self.best(), &best.to_bytes())
    }

    /// Whether the state after `step` steps gets a number.
    pub(super) fn is_numbered(&self, step: u64) -> bool {
        self.keep.every > 0 && step.is_multiple_of(self.keep.every)
    }

    /// Writes the newest state, and a numbered one where it is due; removes numbered ones that are no longer to stay.
    ///
    /// # Errors
    /// If the disk does not take it; a state that is not finite is refused, and what was there stays.
    pub fn save(&self, state: &Saved, recipe: &str, denoiser: &DenoiserFile) -> anyhow::Result<()> {
        if let Some(at) = state.not_finite() {
            bail!("the state after {} steps is not finite (parameter {at}); it is not saved", state.step());
        }
        files::make_folder(&self.folder)?;
        let kept: Vec<String> = (0..state.kept.len()).map(kept_name).collect();
        let vectors = NAMES.iter().copied().zip(&state.vectors).chain(kept.iter().map(String::as_str).zip(&state.kept));
        let vectors = vectors.chain([("losses", &state.losses), ("norms", &state.norms)]);
        let metadata = [(RECIPE, recipe.to_owned()), (DENOISER, about(denoiser))];
        let file = serialize(vectors, metadata);
        files::write_atomically(&self.latest(), &file)?;
        if self.is_numbered(state.step()) {
            files::write_atomically(&self.folder.join(numbered("step", state.step())), &file)?;
            let steps = numbers(&self.folder, "step")?;
            let gone = if self.keep.last == 0 { 0 } else { steps.len().saturating_sub(self.keep.last) };
            for &step in &steps[..gone] {
                std::fs::remove_file(self.folder.join(numbered("step", step)))?;
            }
        }
        Ok(())
    }

    /// The newest state, if there is one; it must be of this recipe and of `len` parameters.
    ///
    /// # Errors
    /// A file that is damaged or of another recipe.
    pub fn load(&self, recipe: &str, len: usize) -> anyhow::Result<Option<Saved>> {
        let path = self.latest();
        if !path.exists() {
            return Ok(None);
        }
        let file = files::read(&path)?;
        let load = || -> anyhow::Result<(Option<String>, Saved)> {
            let (metadata, tensors) = open(&file)?;
            let [a, b, c, d] = NAMES;
            let vectors = [floats(&tensors, a)?, floats(&tensors, b)?, floats(&tensors, c)?, floats(&tensors, d)?];
            let kept = (0..).map(kept_name).take_while(|name| tensors.tensor(name).is_ok());
            let kept = kept.map(|name| floats(&tensors, &name)).collect::<anyhow::Result<Vec<_>>>()?;
            let (losses, norms) = (floats(&tensors, "losses")?, floats(&tensors, "norms")?);
            ensure!(losses.len() == norms.len(), "its history is not whole");
            Ok((metadata.get(RECIPE).cloned(), Saved { vectors, kept, losses, norms }))
        };
        let broken = || {
            let older = numbers(&self.folder, "step").ok().and_then(|steps| steps.last().copied());
            let instead = older.map(|step| format!("put {} in its place, or ", numbered("step", step)));
            format!("{} is damaged; {}delete it to begin anew", path.display(), instead.unwrap_or_default())
        };
        let (found, saved) = load().with_context(broken)?;
        ensure!(
            found.as_deref() == Some(recipe),
            "{} was made by another recipe, seed, data or backend; use another --run, or delete it to begin anew",
            path.display()
        );
        ensure!(saved.vectors.iter().chain(&saved.kept).all(|vector| vector.len() == len), broken());
        Ok(Some(saved))
    }

    /// Writes the averages kept after `step` steps.
    pub(super) fn snapshot(
        &self,
        step: u64,
        kept: &[Vec<f32>],
        sigma_rels: &[f64],
        denoiser: &DenoiserFile,
    ) -> anyhow::Result<()> {
        files::make_folder(&self.folder)?;
        let names: Vec<String> = (0..kept.len()).map(kept_name).collect();
        let profiles = serde_json::to_string(sigma_rels).expect("plain numbers");
        let metadata = [(PROFILES, profiles), (DENOISER, about(denoiser))];
        let file = serialize(names.iter().map(String::as_str).zip(kept), metadata);
        files::write_atomically(&self.folder.join(numbered("snapshot", step)), &file)
    }

    /// The steps at which averages were kept, ascending.
    pub fn snapshots(&self) -> anyhow::Result<Vec<u64>> {
        numbers(&self.folder, "snapshot")
    }

    /// The weights averaged by the profile of relative width `sigma_rel` over the first `steps` steps, from the
    /// snapshots, and how far the combined profile is from that one ([`super::Combination::error`]).
    ///
    /// # Errors
    /// A width that no profile has; no snapshots up to `steps`, or damaged ones.
    pub fn reconstruct(&self, sigma_rel: f64, steps: u64) -> anyhow::Result<(DenoiserFile, f64)> {
        check_width(sigma_rel)?;
        let mut found = None;
        let (mut averages, mut vectors) = (Vec::new(), Vec::new());
        for step in self.snapshots()?.into_iter().filter(|&step| step <= steps) {
            let (sigma_rels, kept, denoiser) = self.load_snapshot(step)?;
            averages.extend(sigma_rels.iter().map(|&width| Average { step, profile: Profile::new(width) }));
            vectors.extend(kept);
            found = Some(denoiser);
        }
        let folder = self.folder.display();
        let denoiser = found.with_context(|| {
            format!("{folder} has no snapshots up to step {steps}; train with train.optimizer.snapshots.every = N")
        })?;
        let wanted = Average { step: steps, profile: Profile::new(sigma_rel) };
        let Combination { factors, error } = combine(&averages, wanted);
        let element = |at: usize| {
            vectors.iter().zip(&factors).map(|(vector, factor)| f64::from(vector[at]) * factor).sum::<f64>()
        };
        let parameters = (0..vectors[0].len()).map(|at| element(at) as f32).collect();
        Ok((DenoiserFile { parameters, ..denoiser }, error))
    }

    /// The relative widths and the averages kept after `step` steps, and whose weights they are.
    pub fn load_snapshot(&self, step: u64) -> anyhow::Result<(Vec<f64>, Vec<Vec<f32>>, DenoiserFile)> {
        let path = self.folder.join(numbered("snapshot", step));
        let file = files::read(&path)?;
        let load = || -> anyhow::Result<_> {
            let (metadata, tensors) = open(&file)?;
            let sigma_rels: Vec<f64> = serde_json::from_str(metadata.get(PROFILES).context("no widths")?)?;
            let denoiser = serde_json::from_str(metadata.get(DENOISER).context("no denoiser")?)?;
            let kept = (0..sigma_rels.len()).map(|index| floats(&tensors, &kept_name(index)));
            Ok((sigma_rels, kept.collect::<anyhow::Result<Vec<_>>>()?, denoiser))
        };
        load().with_context(|| format!("{} is damaged", path.display()))
    }
}

/// The denoiser in a file of weights or in any checkpoint, there with its averaged weights.
///
/// # Errors
/// If the file is neither.
pub fn read_denoiser(path: &Path) -> anyhow::Result<DenoiserFile> {
    let file = files::read(path)?;
    let context = || format!("{} is no denoiser and no checkpoint", path.display());
    let (metadata, tensors) = open(&file).with_context(context)?;
    if tensors.tensor(NAMES[3]).is_err() {
        return DenoiserFile::from_bytes(&file).with_context(context);
    }
    let denoiser: DenoiserFile =
        metadata.get(DENOISER).and_then(|json| serde_json::from_str(json).ok()).with_context(context)?;
    // A student's discriminator may come after it.
    DenoiserFile { parameters: floats(&tensors, NAMES[3])?, ..denoiser }.own_parameters().with_context(context)
}

fn about(denoiser: &DenoiserFile) -> String {
    serde_json::to_string(denoiser).expect("plain numbers")
}

fn kept_name(index: usize) -> String {
    format!("kept.{index}")
}

fn numbered(kind: &str, step: u64) -> String {
    format!("{kind}-{step:08}.safetensors")
}

/// The numbers of the files of a kind, ascending.
fn numbers(folder: &Path, kind: &str) -> anyhow::Result<Vec<u64>> {
    let mut steps = Vec::new();
    if folder.exists() {
        for entry in std::fs::read_dir(folder)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let number = name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-'));
            let number = number.and_then(|rest| rest.strip_suffix(".safetensors"));
            steps.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
    }
    steps.sort_unstable();
    Ok(steps)
}

fn serialize<'a, const N: usize>(
    vectors: impl Iterator<Item = (&'a str, &'a Vec<f32>)>,
    metadata: [(&str, String); N],
) -> Vec<u8> {
    let bytes = |values: &[f32]| -> Vec<u8> { values.iter().flat_map(|value| value.to_le_bytes()).collect() };
    let parts: Vec<(&str, Vec<u8>)> = vectors.map(|(name, vector)| (name, bytes(vector))).collect();
    let views = parts.iter().map(|(name, data)| {
        (*name, TensorView::new(Dtype::F32, vec![data.len() / 4], data).expect("four bytes a value"))
    });
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into();
    safetensors::serialize(views, Some(metadata)).expect("valid views")
}

fn open(file: &[u8]) -> anyhow::Result<(HashMap<String, String>, SafeTensors<'_>)> {
    let (_, header) = SafeTensors::read_metadata(file)?;
    Ok((header.metadata().clone().unwrap_or_default(), SafeTensors::deserialize(file)?))
}

fn floats(tensors: &SafeTensors<'_>, name: &str) -> anyhow::Result<Vec<f32>> {
    let tensor = tensors.tensor(name)?;
    ensure!(tensor.dtype() == Dtype::F32, "its {name} is not F32");
    let value = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
    Ok(tensor.data().chunks_exact(4).map(value).collect())
}
