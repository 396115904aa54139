//! Arguments that several subcommands share.

use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Usage;
use super::settings::Run;
use crate::dataset::{self, DataOptions, Dataset};
use crate::evaluate::judge::{self, Judge, Shape};
use crate::evaluate::score::{Part, Scorer};
use crate::files;

/// Real samples and the classifier that judges others.
#[derive(Debug, clap::Args)]
pub(super) struct DataArgs {
    // Without any, a run's own data, else the embedded set.
    #[command(flatten)]
    data: DataOptions,
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
    /// What names the data.
    pub(super) fn options(&self) -> &DataOptions {
        &self.data
    }

    /// The data and the judge.
    ///
    /// # Errors
    /// If there is no judge of the data: none is trained silently.
    pub(super) fn load(&self, run: Option<&Run>) -> anyhow::Result<Loaded> {
        let source = self.data.source().map_err(|error| Usage(error.to_string()))?;
        let dataset = match (&source, run) {
            (Some(source), _) => source.load()?,
            (None, Some(run)) => run.data.clone(),
            (None, None) => dataset::embedded(),
        };
        let data = self.data.data.as_deref().unwrap_or("DATA");
        let file = find_judge(self.judge.as_deref(), &dataset, data)?;
        let judge = Judge::from_bytes(&file).context("cannot use the judge")?;
        Ok(Loaded { dataset, judge, judge_sha256: files::sha256(&file) })
    }
}

/// The file of the judge of `dataset`, which the user calls `data`: the one at `path`, else the embedded data's, or none
/// but the values themselves.
///
/// # Errors
/// If there is no judge of the data.
pub(super) fn find_judge(path: Option<&Path>, dataset: &Dataset, data: &str) -> anyhow::Result<Vec<u8>> {
    let shape = Shape::of(dataset);
    match path {
        Some(path) => files::read(path),
        None if dataset.sha256 == dataset::embedded().sha256 => Ok(judge::EMBEDDED_FILE.to_vec()),
        None if shape.needs_no_network() => Ok(Judge::of_values(shape).to_bytes()),
        None => {
            let message = format!(
                "there is no judge of these data ({shape}); make one, once: \
                 `mote-train judge --train --data {data} --out judge.safetensors`, then give `--judge judge.safetensors`"
            );
            Err(Usage(message).into())
        }
    }
}

impl Loaded {
    /// A scorer against one part of the data.
    pub(super) fn scorer(&self, part: Part) -> anyhow::Result<Scorer<'_>> {
        Scorer::against(part, self.judge.clone(), &self.dataset)
    }
}
