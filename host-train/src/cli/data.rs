//! Arguments that several subcommands share.

use std::path::PathBuf;

use anyhow::Context;

use super::Usage;
use super::settings::Run;
use crate::dataset::{self, Dataset};
use crate::evaluate::judge::{self, Judge, Shape};
use crate::evaluate::score::{Part, Scorer};
use crate::files;

/// Real samples and the classifier that judges others.
#[derive(Debug, clap::Args)]
pub(super) struct DataArgs {
    /// Data folder, a sub-folder of images a class [default: the run's, else the embedded data set]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Judge made by `mote-train judge --train` for that data [default: the embedded one, for the embedded data set]
    #[arg(long, value_name = "FILE")]
    judge: Option<PathBuf>,
}

/// What [`DataArgs`] name.
pub(super) struct Loaded {
    pub(super) dataset: Dataset,
    judge: Judge,
    pub(super) judge_sha256: String,
}

impl DataArgs {
    /// The data and the judge.
    ///
    /// # Errors
    /// If there is no judge of the data: none is trained silently.
    pub(super) fn load(&self, run: Option<&Run>) -> anyhow::Result<Loaded> {
        let dataset = match (&self.data, run) {
            (Some(path), _) => dataset::DataSource::guess(&path.to_string_lossy())?.load()?,
            (None, Some(run)) => run.data.clone(),
            (None, None) => dataset::embedded(),
        };
        let shape = Shape::of(&dataset);
        let file = match &self.judge {
            Some(path) => files::read(path)?,
            None if dataset.sha256 == dataset::embedded().sha256 => judge::EMBEDDED_FILE.to_vec(),
            None if shape.needs_no_network() => Judge::of_values(shape).to_bytes(),
            None => {
                let data = self.data.as_ref().or(run.and_then(|run| run.settings.data.as_ref()));
                let data = data.map_or("DATA".to_owned(), |path| path.display().to_string());
                let message = format!(
                    "there is no judge of these data ({shape}); make one, once: \
                     `mote-train judge --train --data {data} --out judge.safetensors`, then give `--judge judge.safetensors`"
                );
                return Err(Usage(message).into());
            }
        };
        let judge = Judge::from_bytes(&file).context("cannot use the judge")?;
        Ok(Loaded { dataset, judge, judge_sha256: files::sha256(&file) })
    }
}

impl Loaded {
    /// A scorer against one part of the data.
    pub(super) fn scorer(&self, part: Part) -> anyhow::Result<Scorer<'_>> {
        Scorer::against(part, self.judge.clone(), &self.dataset)
    }
}
