//! Presets: complete recipes, as TOML.

use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, SampleShape};
use crate::denoiser::{UNetConfig, one};
use crate::diffusion::DiffusionConfig;
use crate::distill::DistillConfig;
use crate::files;
use crate::trainer::TeacherConfig;

/// The named presets, `presets/*.toml`.
pub const NAMED: [(&str, &str); 2] =
    [("demo", include_str!("../presets/demo.toml")), ("toy", include_str!("../presets/toy.toml"))];

/// A complete recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preset {
    /// Sizes of the network that do not come from the data.
    pub network: NetworkPreset,
    /// Process and objective.
    pub diffusion: DiffusionConfig,
    /// The teacher's training.
    pub train: TeacherConfig,
    /// How the teacher draws.
    pub sample: SamplePreset,
    /// The way to a student of few steps.
    pub distill: DistillConfig,
}

/// Sizes of the network; [`UNetConfig`] explains them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct NetworkPreset {
    pub widths: Vec<usize>,
    pub blocks: usize,
    pub middle: usize,
    pub groups: usize,
    pub embedding: usize,
    #[serde(default)]
    pub attention: Vec<usize>,
    #[serde(default = "one")]
    pub heads: usize,
}

/// How the teacher draws.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplePreset {
    /// Rows of the DDIM table.
    pub steps: usize,
    /// Guidance strength; 1 is none.
    pub guidance: f64,
    /// Images drawn for the report, at least; a whole number for each class is drawn.
    pub samples: usize,
}

impl Preset {
    /// A named preset, or a TOML file.
    ///
    /// # Errors
    /// If there is no such preset or file, or it is not a recipe.
    pub fn find(name: &str) -> anyhow::Result<Self> {
        let named = NAMED.iter().find(|(known, _)| *known == name);
        let text = match named {
            Some((_, text)) => (*text).to_owned(),
            None if !name.ends_with(".toml") => {
                let known: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
                anyhow::bail!("there is no preset {name}; give one of {}, or a .toml file", known.join(", "))
            }
            None => String::from_utf8(files::read(Path::new(name))?).context("a preset is text")?,
        };
        toml::from_str(&text).with_context(|| format!("preset {name} is not a recipe"))
    }

    /// The network for a data set.
    pub fn network(&self, data: &Dataset) -> UNetConfig {
        let NetworkPreset { widths, blocks, middle, groups, embedding, attention, heads } = self.network.clone();
        let SampleShape { height, width, channels } = data.shape;
        let classes = data.classes();
        UNetConfig { height, width, channels, classes, widths, blocks, middle, groups, embedding, attention, heads }
    }

    /// Samples to draw for `classes` classes: [`SamplePreset::samples`] rounded up to a multiple.
    pub fn samples(&self, classes: usize) -> usize {
        self.sample.samples.next_multiple_of(classes)
    }

    /// # Errors
    /// The first number that makes no sense, with what to do.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(self.diffusion.timesteps >= 1, "diffusion.timesteps must be at least 1");
        let rows = self.distill.stages.iter().flat_map(|stage| [stage.rows, stage.teacher_rows]);
        for rows in rows.chain([self.sample.steps]) {
            let timesteps = self.diffusion.timesteps;
            anyhow::ensure!(
                (1..=timesteps).contains(&rows),
                "{rows} sampling steps of {timesteps} timesteps: give 1 to {timesteps}"
            );
        }
        anyhow::ensure!(self.train.batch >= 1 && self.distill.batch >= 1, "a batch must hold at least one image");
        anyhow::ensure!(self.train.steps >= 1, "train.steps must be at least 1");
        anyhow::ensure!(self.sample.samples >= 1, "sample.samples must be at least 1");
        for stage in &self.distill.stages {
            anyhow::ensure!(
                stage.teacher_rows % stage.rows == 0 && stage.steps >= 1,
                "a distillation stage of {} rows cannot follow {} teacher rows in {} steps: teacher_rows must be a multiple of rows, steps at least 1",
                stage.rows,
                stage.teacher_rows,
                stage.steps
            );
        }
        anyhow::ensure!(!self.distill.stages.is_empty(), "distill.stages is empty; give at least one");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_presets_are_usable_with_the_embedded_data() {
        for (name, _) in NAMED {
            let preset = Preset::find(name).unwrap();
            preset.check().unwrap();
            preset.network(&crate::dataset::embedded()).check().unwrap();
            preset.diffusion.build().unwrap();
        }
    }

    #[test]
    fn an_unknown_preset_names_the_known_ones() {
        assert!(Preset::find("dmeo").unwrap_err().to_string().contains("one of demo, toy"));
    }
}
