//! `mote-train judge`.

use std::path::PathBuf;

use super::Usage;
use crate::dataset::{Augmentation, DataOptions, Dataset};
use crate::evaluate::judge::{EMBEDDED_FILE, Judge, Recipe, Shape};
use crate::evaluate::score::Scorer;
use crate::files;
use crate::progress::Progress;

/// Prints the judge's accuracy on held-out samples; with --train, trains it first.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Train a new judge (minutes) and write it to --out
    #[arg(long, requires = "out")]
    train: bool,
    /// Where the new judge goes, a .safetensors file
    #[arg(long, value_name = "FILE", requires = "train")]
    out: Option<PathBuf>,
    /// Judge to read instead of the embedded one
    #[arg(long, value_name = "FILE", conflicts_with = "train")]
    judge: Option<PathBuf>,
    #[command(flatten)]
    data: DataOptions,
    /// Seed of the training
    #[arg(long, default_value_t = Recipe::default().seed, requires = "train")]
    seed: u64,
    /// How training samples are varied, as in a preset: 'none', '[{ shift = 1 }]' (digits and letters must not be mirrored)
    /// [default: images mirrored and shifted, signals shifted]
    #[arg(long, value_name = "TOML", requires = "train", value_parser = augmentation)]
    augment: Option<Augmentation>,
    /// Passes over the training samples [default: 50, fewer for more than 8,000 samples]
    #[arg(long, requires = "train")]
    epochs: Option<usize>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let source = args.data.source().map_err(|error| Usage(error.to_string()))?;
    let set = source.unwrap_or_default().load()?;
    let file = match (&args.out, &args.judge) {
        (Some(out), _) => {
            let recipe = Recipe::of(&set.train());
            let recipe = Recipe {
                seed: args.seed,
                epochs: args.epochs.unwrap_or(recipe.epochs),
                augment: args.augment.clone().unwrap_or(recipe.augment),
                ..recipe
            };
            recipe.augment.check(set.shape).map_err(|error| Usage(error.to_string()))?;
            let file = train(&set, &recipe).to_bytes();
            files::write_atomically(out, &file)?;
            file
        }
        (None, Some(path)) => files::read(path)?,
        (None, None) => EMBEDDED_FILE.to_vec(),
    };
    let judge = Judge::from_bytes(&file)?;
    let (found, wanted) = (judge.shape, Shape::of(&set));
    if found != wanted {
        return Err(
            Usage(format!("the judge is for {found}, the data is {wanted}; give --data and --judge that fit")).into()
        );
    }
    let scorer = Scorer::new(judge, &set)?;
    println!("judge    {} bytes, sha256 {}", file.len(), files::sha256(&file));
    println!("data     sha256 {}", set.sha256);
    let Some(confusion) = scorer.real().confusion(found.classes) else {
        println!("accuracy none: the data have a single class");
        return Ok(());
    };
    println!("accuracy {:.2} % of {} held-out samples", 100.0 * confusion.accuracy(), set.held_out().len());
    for (class, name) in set.class_names.iter().enumerate() {
        println!("  {name:<12} {:5.1} %", 100.0 * confusion.class_accuracy(class));
    }
    Ok(())
}

/// What a preset may say: text, a table or a list.
fn augmentation(text: &str) -> Result<Augmentation, String> {
    #[derive(serde::Deserialize)]
    struct Written {
        augment: Augmentation,
    }
    let value = if text.starts_with(['[', '{']) { text.to_owned() } else { format!("{text:?}") };
    let written: Written = toml::from_str(&format!("augment = {value}")).map_err(|error| error.message().to_owned())?;
    Ok(written.augment)
}

fn train(set: &Dataset, recipe: &Recipe) -> Judge {
    let progress = Progress::new("training the judge");
    let judge = Judge::train(&set.train(), recipe, |step, steps, loss| {
        progress.update_with(step, steps, &format!("loss {loss:.3}"));
    });
    progress.finish();
    judge
}
