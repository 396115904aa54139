//! The folder of a run: names of its files, its manifest.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::files;
use crate::trainer::LossByNoise;

/// The key of the loss by noise level in a manifest.
pub const LOSS_BY_NOISE: &str = "loss_by_noise";

/// A run's folder.
#[derive(Debug, Clone)]
pub struct RunDir(PathBuf);

impl RunDir {
    /// Makes the folder if it is not there.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("cannot make the run folder {}", path.display()))?;
        Ok(Self(path.to_owned()))
    }

    /// The path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Sets `key` in manifest.json and keeps the rest.
    pub fn record(&self, key: &str, value: impl Serialize) -> anyhow::Result<()> {
        let path = self.file("manifest.json");
        let mut manifest = self.manifest()?;
        manifest.insert(key.to_owned(), serde_json::to_value(value)?);
        files::write_atomically(&path, &(serde_json::to_vec_pretty(&manifest)?))
    }

    /// What manifest.json says under `key`, if anything.
    pub fn recorded(&self, key: &str) -> anyhow::Result<Option<Value>> {
        Ok(self.manifest()?.remove(key))
    }

    fn manifest(&self) -> anyhow::Result<Map<String, Value>> {
        let path = self.file("manifest.json");
        if !path.exists() {
            return Ok(Map::new());
        }
        serde_json::from_slice(&files::read(&path)?)
            .with_context(|| format!("{} is damaged; delete it", path.display()))
    }

    /// Writes a loss curve as `<stem>.csv` and `<stem>.png`: the loss of each step, counted from 0, and the validation
    /// losses after so many steps.
    pub fn write_losses(
        &self,
        stem: &str,
        losses: &[f32],
        validations: &[(u64, f64)],
        title: &str,
    ) -> anyhow::Result<()> {
        let validations: HashMap<u64, f64> = validations.iter().copied().collect();
        let column = if validations.is_empty() { "" } else { ",val_loss" };
        let mut text = format!("step,loss{column}\n");
        for (step, loss) in (0..).zip(losses) {
            let cell = match validations.get(&(step + 1)) {
                Some(loss) => format!(",{loss}"),
                None if validations.is_empty() => String::new(),
                None => ",".to_owned(),
            };
            text.push_str(&format!("{step},{loss}{cell}\n"));
        }
        let csv = self.file(&format!("{stem}.csv"));
        files::write_atomically(&csv, text.as_bytes())?;
        crate::evaluate::plot::loss_curve(&csv, &self.file(&format!("{stem}.png")), title)
    }

    /// Keeps the loss by noise level of a network: `loss_by_noise` in the manifest, `loss-by-noise.csv` and `.png`.
    pub fn write_loss_by_noise(&self, network: &str, loss: &LossByNoise) -> anyhow::Result<()> {
        self.record(LOSS_BY_NOISE, loss)?;
        let csv = self.file("loss-by-noise.csv");
        files::write_atomically(&csv, loss.to_csv().as_bytes())?;
        let title = format!("Held-out loss by noise level, {network}");
        crate::evaluate::loss_by_noise::loss_by_noise(&csv, &self.file("loss-by-noise.png"), &title)
    }
}
