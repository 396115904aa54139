//! The folder of a run: names of its files, its manifest.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::files;

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
        let mut manifest: Map<String, Value> = if path.exists() {
            serde_json::from_slice(&files::read(&path)?)
                .with_context(|| format!("{} is damaged; delete it", path.display()))?
        } else {
            Map::new()
        };
        manifest.insert(key.to_owned(), serde_json::to_value(value)?);
        files::write_atomically(&path, &(serde_json::to_vec_pretty(&manifest)?))
    }

    /// Writes a loss curve as `<stem>.csv` and `<stem>.png`.
    pub fn write_losses(&self, stem: &str, losses: &[f32], title: &str) -> anyhow::Result<()> {
        let mut text = String::from("step,loss\n");
        for (step, loss) in losses.iter().enumerate() {
            text.push_str(&format!("{step},{loss}\n"));
        }
        let csv = self.file(&format!("{stem}.csv"));
        files::write_atomically(&csv, text.as_bytes())?;
        crate::evaluate::plot::loss_curve(&csv, &self.file(&format!("{stem}.png")), title)
    }
}
