//! `mote-data`: fetches data sets and shows what a run would train on. Needs no training library.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use mote_dataset::{DataOptions, Dataset, DatasetError, Provenance, Split, Values, fetch};
use mote_measure::npy::{Samples, write_labels};
use mote_measure::sheet::{Legend, Section, rows_of_classes, sheet};
use mote_train_support::files::{make_folder, write_atomically};

/// Fetch data sets, list them, and look at any data before training on it.
#[derive(Parser)]
#[command(name = "mote-data", version, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Fetch data sets with the package clients of this machine, check them, and unpack them
    ///
    /// Each set is checked against a SHA-256 hash and kept with its licence. It appears whole or not at all; one that is
    /// there is not fetched again (remove its folder to do so). Where a client is missing or fails, the message says
    /// which file to get by hand.
    Fetch(FetchArguments),
    /// List the data sets that can be fetched, their licences, and which are here
    List(ListArguments),
    /// Print what data hold and draw some samples of each class
    ///
    /// Loads the data as a run would, so whatever a run would refuse is refused here.
    Show(Box<ShowArguments>),
    /// Write data as NumPy files, for other programs to train on
    ///
    /// `train/` and `held-out/` in the folder get samples.npy, [n, height, width, channels], u8 pixels of images and else f32
    /// of the values that a network sees, about -1 to 1; labels.npy, u16; and classes.txt, a name a line. Both folders can be
    /// given as data again.
    Export(Box<ExportArguments>),
}

#[derive(clap::Args)]
struct FetchArguments {
    /// Data sets, as `list` names them
    #[arg(required = true)]
    names: Vec<String>,
    /// Folder that the sets' folders go into [default: $MOTE_DATA, else data/ in the project]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The archive of the one set named, got by hand
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,
}

#[derive(clap::Args)]
struct ListArguments {
    /// Folder to look for them in [default: $MOTE_DATA, else data/ in the project]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(clap::Args)]
struct ShowArguments {
    /// The same as --data
    #[arg(value_name = "PATH|NAME", conflicts_with = "data")]
    what: Option<String>,
    #[command(flatten)]
    options: DataOptions,
    /// Samples of each class in the picture
    #[arg(long, default_value_t = 6, value_name = "N")]
    rows: usize,
    /// The picture
    #[arg(long, default_value = "data.png", value_name = "FILE")]
    picture: PathBuf,
}

#[derive(clap::Args)]
struct ExportArguments {
    /// The same as --data
    #[arg(value_name = "PATH|NAME", conflicts_with = "data")]
    what: Option<String>,
    #[command(flatten)]
    options: DataOptions,
    /// The folder; it is made
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let result = match CommandLine::parse().verb {
        Verb::Fetch(arguments) => run_fetch(&arguments),
        Verb::List(arguments) => {
            print_list(&arguments.out.unwrap_or_else(fetch::folder));
            Ok(())
        }
        Verb::Show(arguments) => run_show(*arguments),
        Verb::Export(arguments) => run_export(*arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            let usage = error.downcast_ref::<DatasetError>();
            ExitCode::from(if matches!(usage, Some(DatasetError::Option(_))) { 2 } else { 1 })
        }
    }
}

fn run_fetch(arguments: &FetchArguments) -> anyhow::Result<()> {
    let sets = arguments.names.iter().map(|name| fetch::find(name)).collect::<Result<Vec<_>, _>>()?;
    ensure!(arguments.archive.is_none() || sets.len() == 1, "--archive is of one set; name only that one");
    let into = arguments.out.clone().unwrap_or_else(fetch::folder);
    for set in sets {
        eprintln!("{}: fetching {}", set.name, megabytes(set.bytes));
        let place = set.fetch(&into, arguments.archive.as_deref())?;
        println!("{} is in {}", set.name, place.display());
        println!("  {}\n  licence: {}\n  attribution: {}\n  {}", set.about, set.licence, set.attribution, set.url);
    }
    Ok(())
}

fn print_list(folder: &Path) {
    println!("Data sets in {} (`fetch NAME` gets one, `--data NAME` trains on it):", folder.display());
    for set in fetch::SETS {
        let here = if folder.join(set.name).is_dir() { "here".to_owned() } else { megabytes(set.bytes) };
        println!("  {:<8} {here:>8}  {}\n{:20}{}; {}", set.name, set.about, "", set.licence, set.attribution);
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn run_show(arguments: ShowArguments) -> anyhow::Result<()> {
    let ShowArguments { what, mut options, rows, picture } = arguments;
    options.data = options.data.or(what);
    let set = options.source()?.unwrap_or_default().load()?;
    print!("{}", describe(&set));
    let file = draw(&set, rows)?;
    write_atomically(&picture, &file)?;
    println!("picture   {}", picture.display());
    Ok(())
}

fn run_export(arguments: ExportArguments) -> anyhow::Result<()> {
    let ExportArguments { what, mut options, out } = arguments;
    options.data = options.data.or(what);
    let set = options.source()?.unwrap_or_default().load()?;
    for (name, split) in [("train", set.train()), ("held-out", set.held_out())] {
        let folder = out.join(name);
        make_folder(&folder)?;
        Samples::from_units(split.all_units(), set.shape).write(&folder.join("samples.npy"))?;
        write_labels(&folder.join("labels.npy"), &split.labels())?;
        write_atomically(&folder.join("classes.txt"), (set.class_names.join("\n") + "\n").as_bytes())?;
        if let Some(origin) = &set.provenance {
            write_atomically(&folder.join(Provenance::FILE), &serde_json::to_vec_pretty(origin)?)?;
        }
        println!("{}: {} samples, {}, {} classes", folder.display(), split.len(), set.shape, set.classes());
    }
    Ok(())
}

/// What a data set holds, for reading.
fn describe(set: &Dataset) -> String {
    let shape = set.shape;
    let kind = match &set.values {
        Values::Bytes(_) => "images of bytes",
        Values::Floats(_) if shape.is_image() => "images of numbers",
        Values::Floats(_) if shape.is_signal() => "windows of a signal",
        Values::Floats(_) => "vectors",
    };
    let (train, held_out) = (set.train(), set.held_out());
    let mut text = format!("samples   {} {kind}, {shape} (height x width x channels)\n", set.len());
    text += &format!("split     {} train, {} held out\n", train.len(), held_out.len());
    text += &format!("classes   {}\n", set.classes());
    let count =
        |split: &Split<'_>, class: usize| split.labels().iter().filter(|&&label| usize::from(label) == class).count();
    for (class, name) in set.class_names.iter().enumerate() {
        text += &format!("  {name:<16} {:>6} train, {:>6} held out\n", count(&train, class), count(&held_out, class));
    }
    for (channel, scale) in set.channels_scale.iter().enumerate() {
        let name = set.channel_names.get(channel).cloned().unwrap_or_else(|| channel.to_string());
        let (low, high) = (scale.to_natural(-1.0), scale.to_natural(1.0));
        text += &format!("channel   {name:<16} -1 is {low}, 1 is {high}\n");
    }
    if let Some(origin) = &set.provenance {
        text += &format!("licence   {}\ncredit    {}, {}\n", origin.licence, origin.attribution, origin.url);
    }
    set.notes.iter().for_each(|note| text += &format!("note      {note}\n"));
    text + &format!("sha256    {}\n", set.sha256)
}

/// A contact sheet of both splits as a PNG file.
fn draw(set: &Dataset, rows: usize) -> anyhow::Result<Vec<u8>> {
    let splits = [("training", set.train()), ("held out", set.held_out())];
    let samples = splits.map(|(name, split)| (name, split.len(), rows_of_classes(&split, rows)));
    let sections: Vec<Section<'_>> = (samples.iter())
        .filter(|(_, _, samples)| !samples.is_empty())
        .map(|(name, len, samples)| Section { label: vec![(*name).to_owned(), format!("{len} samples")], samples })
        .collect();
    ensure!(!sections.is_empty(), "a class has neither training nor held-out samples; there is nothing to draw");
    let legend = Legend { class_names: &set.class_names, scale: &set.channels_scale };
    // The licence's name; what more is said of it is in `describe`.
    let licence = |licence: &str| licence.split(';').next().unwrap_or_default().to_owned();
    let foot = set.provenance.as_ref().map(|origin| format!("{} ({})", origin.attribution, licence(&origin.licence)));
    let foot = foot.unwrap_or_default();
    sheet(legend, &sections, rows, &foot)?.to_png().context("cannot make the picture")
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_dataset::DataSource;

    fn run(arguments: &[&str]) -> Result<Verb, clap::Error> {
        CommandLine::try_parse_from([&["mote-data"], arguments].concat()).map(|line| line.verb)
    }

    #[test]
    fn a_table_is_described_and_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let (table, picture) = (dir.path().join("x.csv"), dir.path().join("x.png"));
        let rows = (0..400).fold("speed,label\n".to_owned(), |text, row| {
            format!("{text}{},{}\n", row % 17, ["up", "down"][row / 200])
        });
        std::fs::write(&table, rows).unwrap();
        let (table, picture_path) = (table.to_str().unwrap(), picture.to_str().unwrap());
        let Ok(Verb::Show(arguments)) = run(&["show", table, "--data-window", "10", "--picture", picture_path]) else {
            panic!()
        };
        let mut options = arguments.options.clone();
        options.data = arguments.what.clone();
        let text = describe(&options.source().unwrap().unwrap().load().unwrap());
        for part in [
            "40 windows of a signal, 1x10x1",
            "32 train, 8 held out",
            "  up ",
            "channel   speed",
            "-1 is 0, 1 is 16",
            "sha256",
        ] {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        run_show(*arguments).unwrap();
        let drawn = image::open(picture).unwrap();
        assert!(drawn.width() > 300 && drawn.height() > 200, "{}x{}", drawn.width(), drawn.height());
    }

    #[test]
    fn exported_data_are_read_again_with_the_same_split_values_and_names() {
        let dir = tempfile::tempdir().unwrap();
        let export = |name: &str| {
            let out = dir.path().join(name);
            let Ok(Verb::Export(arguments)) = run(&["export", name, "--out", out.to_str().unwrap()]) else { panic!() };
            run_export(*arguments).unwrap();
            let load = |side: &str| DataSource::guess(out.join(side).to_str().unwrap()).unwrap().load().unwrap();
            (load("train"), load("held-out"))
        };
        let (set, (train, held_out)) = (mote_dataset::embedded(), export("embedded"));
        assert_eq!((train.len(), held_out.len(), &train.class_names), (3200, 800, &set.class_names));
        assert_eq!((train.values, train.labels), (Values::Bytes(set.train().pixels().unwrap()), set.train().labels()));
        assert_eq!(held_out.values, Values::Bytes(set.held_out().pixels().unwrap()));
        let (waves, (train, _)) = (mote_dataset::synthetic::waves(), export("waves"));
        assert_eq!((train.shape, train.values), (waves.shape, Values::Floats(waves.train().all_units())));
    }

    #[test]
    fn an_archive_is_of_one_set_and_unknown_sets_are_refused() {
        let fetch = |arguments: &[&str]| match run(arguments) {
            Ok(Verb::Fetch(arguments)) => run_fetch(&arguments).unwrap_err().to_string(),
            _ => panic!("{arguments:?}"),
        };
        assert!(fetch(&["fetch", "silk", "mnist", "--archive", "x"]).contains("--archive is of one set"));
        assert!(fetch(&["fetch", "silck"]).contains("the sets are fashion"));
        assert!(run(&["fetch"]).is_err());
    }
}
