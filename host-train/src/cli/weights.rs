//! `mote-train weights`.

use std::path::PathBuf;

use anyhow::Context;

use super::Usage;
use crate::denoiser::{Convention, DenoiserFile};
use crate::files;

/// Hands a run's weights to PyTorch, or takes weights from it.
///
/// Both files are safetensors. PyTorch's has the names and shapes of a module's `state_dict()` (host-train/pytorch/denoiser.py is
/// such a module): Linear weights are [out, in], a normalization's gain is called weight, everything else is the same.
/// What the network is lies in the file's metadata under the key `denoiser`, as JSON.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    way: Way,
}

#[derive(Debug, clap::Subcommand)]
enum Way {
    /// Write a run's weights as PyTorch names them
    Export {
        /// The run's folder
        #[arg(long, value_name = "DIR")]
        run: PathBuf,
        /// Whose weights
        #[arg(long, value_enum, default_value_t)]
        stage: Stage,
        /// The file for PyTorch
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Take weights that are named as PyTorch does into a run that has none; `mote-train train` with the run's preset then
    /// records what distillation needs to know, and trains nothing
    Import {
        /// The run's folder
        #[arg(long, value_name = "DIR")]
        run: PathBuf,
        /// Whose weights
        #[arg(long, value_enum, default_value_t)]
        stage: Stage,
        /// The file of PyTorch
        #[arg(long, value_name = "FILE")]
        weights: PathBuf,
    },
}

/// A network of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Stage {
    #[default]
    Teacher,
    Student,
}

impl Stage {
    /// The file in a run's folder.
    fn file(self) -> &'static str {
        match self {
            Self::Teacher => "teacher.safetensors",
            Self::Student => "student.safetensors",
        }
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let (from, to, conventions) = match args.way {
        Way::Export { run, stage, out } => (run.join(stage.file()), out, [Convention::Own, Convention::PyTorch]),
        Way::Import { run, stage, weights } => {
            let path = run.join(stage.file());
            if path.exists() {
                return Err(
                    Usage(format!("{} is there already; delete it or give another --run", path.display())).into()
                );
            }
            (weights, path, [Convention::PyTorch, Convention::Own])
        }
    };
    if !from.exists() {
        return Err(Usage(format!("there is no {}", from.display())).into());
    }
    let file = DenoiserFile::read(&files::read(&from)?, conventions[0]).with_context(|| from.display().to_string())?;
    if let Some(folder) = to.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    files::write_atomically(&to, &file.write(conventions[1]))?;
    println!("Wrote {}: {} parameters", to.display(), file.parameters.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::denoiser::parameters;
    use crate::preset::Preset;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn weights(words: &str) -> anyhow::Result<()> {
        run(Line::try_parse_from(["weights"].into_iter().chain(words.split(' ')))?.args)
    }

    #[test]
    fn weights_go_to_pytorch_and_come_back_and_overwrite_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let preset = Preset::find("toy").unwrap();
        let network = preset.network(&crate::dataset::embedded());
        let net = network.init::<burn::backend::Flex>(1, &Default::default()).unwrap();
        let file = DenoiserFile {
            network,
            diffusion: preset.diffusion,
            sampling: preset.sample.sampling,
            channels_scale: Vec::new(),
            parameters: parameters(&net).into_data().to_vec().unwrap(),
        };
        std::fs::create_dir(path("old")).unwrap();
        std::fs::write(path("old/teacher.safetensors"), file.to_bytes()).unwrap();
        let [old, new, torch] = ["old", "new", "torch.safetensors"].map(|name| path(name).display().to_string());

        weights(&format!("export --run {old} --out {torch}")).unwrap();
        weights(&format!("import --run {new} --weights {torch}")).unwrap();
        assert_eq!(std::fs::read(path("new/teacher.safetensors")).unwrap(), file.to_bytes());

        for (words, complaint) in [
            (format!("import --run {old} --weights {torch}"), "there already"),
            (format!("export --run {old} --stage student --out {torch}"), "there is no"),
        ] {
            let error = weights(&words).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains(complaint), "{error}");
        }
        let ours = weights(&format!("import --run {new}2 --weights {old}/teacher.safetensors")).unwrap_err();
        assert!(format!("{ours:#}").contains("missing or not F32"), "{ours:#}");
        assert!(!path("new2").exists(), "nothing is left of an import that failed");
    }
}
