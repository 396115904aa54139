//! Arguments that several subcommands share.

use std::path::PathBuf;

use anyhow::Context;

use crate::dataset::{self, Dataset};
use crate::evaluate::judge::{self, Judge};
use crate::evaluate::score::{Part, Scorer};
use crate::files;

/// Real images and the classifier that judges samples of them.
#[derive(Debug, clap::Args)]
pub(super) struct DataArgs {
    /// Data folder, a sub-folder of images a class [default: the embedded data set]
    #[arg(long, value_name = "DIR", requires = "judge")]
    data: Option<PathBuf>,
    /// Judge made by `mote-train judge --train` for that data [default: the embedded one]
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
    pub(super) fn load(&self) -> anyhow::Result<Loaded> {
        let dataset = match &self.data {
            Some(path) => dataset::folder(path, 1)?,
            None => dataset::embedded(),
        };
        let file = match &self.judge {
            Some(path) => files::read(path)?,
            None => judge::EMBEDDED_FILE.to_vec(),
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
