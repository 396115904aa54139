//! Reading a `.mote` file, with messages for people.

use anyhow::{Context, Result, anyhow};
use mote_core::Model;
use std::fs;
use std::path::Path;

/// A file's bytes, leaked: a command handles one model and ends.
pub(crate) fn read(path: &Path) -> Result<Model<'static>> {
    let bytes =
        fs::read(path).with_context(|| format!("cannot read the model {}: name a .mote file", path.display()))?;
    Model::parse(bytes.leak()).map_err(|error| anyhow!("{} is no usable model: {error}", path.display()))
}
