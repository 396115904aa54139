//! `generate`: pictures and signals from a `.mote` file.

mod signal;

use crate::board::Board;
use crate::drawing::{self, Wanted};
use crate::images::{Samples, write_whole};
use crate::series::Series;
use crate::task::Uses;
use crate::{UsageError, model_file, remote};
use anyhow::{Result, anyhow, bail};
use clap::Args;
use mote_core::{Model, Request};
use serde_json::json;
use std::path::{Path, PathBuf};

use signal::{Common, Signals};

/// Columns of the grid when all samples have one class.
const COLUMNS_OF_ONE_CLASS: usize = 8;

/// Arguments of `generate`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The .mote file
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Class to draw; without it, sample I has class I modulo the number of classes
    #[arg(long, value_name = "N")]
    class: Option<u16>,
    /// Seed of the noise: the same seed draws the same pictures everywhere
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Number of the first sample of this seed
    #[arg(long, default_value_t = 0, value_name = "N")]
    sample: u64,
    /// How many samples; more than one become a grid, classes in columns
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    count: Option<u64>,
    #[command(flatten)]
    uses: Uses,
    #[command(flatten)]
    signals: Signals,
    /// Where to draw: `host`, a board at a serial port, or an emulated one
    #[arg(long, default_value = "host", value_parser = place, value_name = "host|serial:PATH[@BAUD]|qemu-m4|...")]
    on: Place,
    /// The .png to write; of signals and table rows the .csv, in natural units
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also write the samples as a NumPy array u8 [count, height, width, channels]
    #[arg(long, value_name = "FILE")]
    npy: Option<PathBuf>,
    /// Also count the instructions of an emulated chip, and write what drawing took, as JSON
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,
}

/// Where to draw.
#[derive(Clone, Debug)]
enum Place {
    Host,
    Remote(remote::Place),
}

fn place(word: &str) -> Result<Place, String> {
    if word == "host" {
        return Ok(Place::Host);
    }
    remote::place(word).map(Place::Remote).map_err(|error| format!("{error}, host"))
}

/// Draws, and writes what was asked for.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.out.is_none() && arguments.npy.is_none() {
        return Err(UsageError("nothing to write: give --out FILE.png, --npy FILE.npy or both".into()).into());
    }
    let model = model_file::read(&arguments.model)?;
    let count = arguments.count.unwrap_or(1);
    let end =
        arguments.sample.checked_add(count).ok_or_else(|| anyhow!("--sample is too large: use a smaller number"))?;
    let task = arguments.uses.task(&model, arguments.sample..end)?;
    // One thing is worked on: all samples are of one class.
    let class = arguments.class.or(task.begins_elsewhere().then_some(0));
    let wanted = Wanted { seed: arguments.seed, samples: arguments.sample..end, class, task };
    wanted.check(&model)?;
    if text(&model, arguments, &wanted)? {
        return Ok(());
    }
    let samples = match (&arguments.on, &arguments.stats) {
        (Place::Host, None) => drawing::on_host(&model, &wanted)?,
        (Place::Remote(place), None) => drawing::on_board(place, &arguments.model, &wanted)?,
        (Place::Remote(remote::Place::Emulated(board)), Some(stats)) => draw_on_chip(board, arguments, &wanted, stats)?,
        _ => return Err(UsageError("--stats is about an emulated chip: add --on qemu-m4".into()).into()),
    };
    let columns = if wanted.class.is_some() { COLUMNS_OF_ONE_CLASS } else { usize::from(model.classes()) };
    write(&samples, columns, arguments)
}

/// Signals and table rows, as natural values. Whether that was asked for.
fn text(model: &Model<'_>, arguments: &Arguments, wanted: &Wanted) -> Result<bool> {
    let draw = |requests: &[Request<'_>]| match &arguments.on {
        Place::Host => drawing::states_on_host(model, requests),
        Place::Remote(place) => drawing::states_on_board(place, &arguments.model, requests),
    };
    let out = arguments.out.as_deref();
    let common = Common { class: wanted.class.unwrap_or(0), seed: wanted.seed };
    if arguments.signals.run(model, common, &arguments.uses, out, &draw)? {
        return Ok(true);
    }
    let Some(out) = out.filter(|path| path.extension().is_some_and(|extension| extension == "csv")) else {
        return Ok(false);
    };
    let requests: Vec<Request<'_>> = wanted.samples.clone().map(|sample| wanted.request(model, sample)).collect();
    write_whole(out, Series::of(&draw(&requests)?, model).to_csv().as_bytes())?;
    announce(out);
    Ok(true)
}

fn draw_on_chip(board: &'static Board, arguments: &Arguments, wanted: &Wanted, stats: &Path) -> Result<Samples> {
    if wanted.task.begins_elsewhere() {
        bail!("instructions are counted of whole samples only: leave --stats out");
    }
    let drawn = drawing::on_chip(board, &arguments.model, wanted)?;
    let model = model_file::read(&arguments.model)?;
    let (arena, capacity) = (model.arena_len() as u64, drawn.firmware.arena_capacity()?);
    let instructions = drawn.instructions.filter(|counts| !counts.is_empty());
    let mean = instructions.map(|counts| counts.iter().sum::<u64>() / counts.len() as u64);
    if let Some(line) = drawn.log.first() {
        println!("{}: {line}", board.name);
    }
    match mean {
        Some(mean) => println!("{}: {mean} instructions an image, counted in the emulator", board.name),
        None => println!("{}: instructions not counted: that needs QEMU 9 or newer", board.name),
    }
    let found = json!({
        "machine": board.machine().map(|machine| machine.name),
        "processor": board.processor,
        "samples": drawn.samples.count(),
        "seed": wanted.seed,
        "instructions_per_image": mean,
        "flash_bytes": drawn.firmware.flash,
        "ram_bytes": drawn.firmware.ram - capacity + arena,
        "arena_bytes": arena,
    });
    write_whole(stats, serde_json::to_string_pretty(&found)?.as_bytes())?;
    Ok(drawn.samples)
}

fn write(samples: &Samples, columns: usize, arguments: &Arguments) -> Result<()> {
    if let Some(path) = &arguments.npy {
        samples.write_npy(path)?;
        announce(path);
    }
    if let Some(path) = &arguments.out {
        samples.grid(columns.min(samples.count())).write_png(path)?;
        announce(path);
    }
    Ok(())
}

fn announce(path: &Path) {
    println!("wrote {}", path.display());
}
