//! `demo`: the whole way, from the embedded data to a picture drawn by an emulated microcontroller.
//!
//! A stage is skipped when its output is there and nothing it reads has changed since: each stage leaves a stamp, a hash of
//! its inputs and its command, in the run's `stages.json`. A killed training goes on where it stopped. Setting up, compiling
//! and reporting are cheap when nothing has changed, and always run.

use super::{setup, training};
use crate::board::QEMU_M4;
use crate::firmware;
use crate::images::write_whole;
use crate::places::root;
use crate::process::run as run_program;
use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Map, Value};
use std::env::current_exe;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice::from_ref;
use std::time::Instant;

/// Where the stamps are kept, in the run's folder.
const STAMPS: &str = "stages.json";

/// Arguments of `demo`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Begin anew: delete what an earlier demo left
    #[arg(long)]
    fresh: bool,
    /// The run's folder
    #[arg(long, value_name = "DIR", default_value = "runs/demo")]
    run: PathBuf,
    /// The training recipe
    #[arg(long, value_name = "NAME|FILE", default_value = "demo")]
    preset: String,
    /// How many samples the emulated chip draws, a multiple of the number of classes
    #[arg(long, value_name = "N", default_value_t = 400)]
    samples: u32,
}

/// Runs the stages.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut demo = Demo::new(arguments)?;
    let file = |name: &str| demo.run.join(name);
    let (teacher, student, model) = (file("teacher.safetensors"), file("student.safetensors"), file("model.mote"));
    let (chip, stats) = (file("chip.npy"), file("chip.json"));

    demo.always("setup", || setup::run(&setup::Arguments { minimal: true }))?;
    demo.always("build the training program and the firmware", || {
        training::build_mote_train(&[])?;
        firmware::build(&QEMU_M4, "generate").map(drop)
    })?;
    let data = [root().join("host-train/data"), root().join("host-train/presets")];
    let mut train = demo.mote_train("train");
    train.args(["--preset", &arguments.preset]);
    demo.stage("train", &data, &[&teacher], train)?;
    demo.stage("distill", from_ref(&teacher), &[&student], demo.mote_train("distill"))?;
    demo.stage("quantize", from_ref(&student), &[&model], demo.mote_train("quantize"))?;
    let firmware = firmware::build(&QEMU_M4, "generate")?.path;
    let draw = demo.draw(arguments.samples, &model, &chip, &stats)?;
    demo.stage("draw on the emulated chip", &[model.clone(), firmware], &[&chip, &stats], draw)?;
    let mut measure = demo.mote_train("report");
    measure.arg("--chip").arg(&chip).arg("--chip-stats").arg(&stats);
    demo.always("report", || run_program(&mut measure))?;
    println!("\ndone in {}: look at {}", minutes(demo.started), demo.run.join("sheet.png").display());
    Ok(())
}

struct Demo {
    run: PathBuf,
    started: Instant,
    stamps: Map<String, Value>,
}

impl Demo {
    fn new(arguments: &Arguments) -> Result<Self> {
        let run = arguments.run.clone();
        if arguments.fresh && run.exists() {
            fs::remove_dir_all(&run).with_context(|| format!("cannot delete {}", run.display()))?;
        }
        fs::create_dir_all(&run).with_context(|| format!("cannot make the folder {}", run.display()))?;
        let stamps = fs::read_to_string(run.join(STAMPS)).ok().and_then(|text| serde_json::from_str(&text).ok());
        Ok(Demo { run, started: Instant::now(), stamps: stamps.unwrap_or_default() })
    }

    fn mote_train(&self, verb: &str) -> Command {
        let mut command = training::mote_train();
        command.arg(verb).arg("--run").arg(&self.run);
        command
    }

    /// This program's own `generate`, as a command, so that it is a stage like the others.
    fn draw(&self, samples: u32, model: &Path, chip: &Path, stats: &Path) -> Result<Command> {
        let mut command = Command::new(current_exe()?);
        command.args(["generate", "--on", QEMU_M4.name, "--seed", "1", "--count", &samples.to_string()]);
        command.arg("--model").arg(model).arg("--npy").arg(chip).arg("--stats").arg(stats);
        Ok(command)
    }

    fn always(&self, name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.announce(name);
        work()
    }

    /// Runs the command unless its outputs are there and its inputs and words are those of the last time.
    fn stage(&mut self, name: &str, inputs: &[PathBuf], outputs: &[&Path], mut command: Command) -> Result<()> {
        let stamp = format!("{:016x}", stamp(inputs, &command)?);
        let unchanged = self.stamps.get(name).is_some_and(|old| *old == stamp);
        if unchanged && outputs.iter().all(|output| output.exists()) {
            self.announce(&format!("{name}: nothing has changed, skipped"));
            return Ok(());
        }
        self.announce(name);
        run_program(&mut command).with_context(|| format!("the stage `{name}` of the demo failed"))?;
        self.stamps.insert(name.to_owned(), stamp.into());
        write_whole(&self.run.join(STAMPS), serde_json::to_string_pretty(&self.stamps)?.as_bytes())
    }

    fn announce(&self, name: &str) {
        println!("\n[{}] {name}", minutes(self.started));
    }
}

/// A hash of the inputs' contents and the command's words.
fn stamp(inputs: &[PathBuf], command: &Command) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    for word in command.get_args() {
        hasher.write(word.as_encoded_bytes());
        hasher.write_u8(0);
    }
    inputs.iter().try_for_each(|input| hash_path(input, &mut hasher))?;
    Ok(hasher.finish())
}

/// Hashes a file, or all files below a folder in the order of their names.
fn hash_path(path: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let cannot = || format!("cannot read {}", path.display());
    if !path.is_dir() {
        hasher.write(&fs::read(path).with_context(cannot)?);
        return Ok(());
    }
    let mut entries: Vec<PathBuf> =
        fs::read_dir(path).with_context(cannot)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    entries.sort();
    entries.iter().try_for_each(|entry| hash_path(entry, hasher))
}

fn minutes(started: Instant) -> String {
    let seconds = started.elapsed().as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_changes_with_an_input_and_with_the_command() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("input");
        fs::write(&input, "one").unwrap();
        let of = |word: &str| stamp(&[folder.path().to_owned()], Command::new("x").arg(word)).unwrap();
        let (first, other_word) = (of("a"), of("b"));
        fs::write(&input, "two").unwrap();
        assert!(first != other_word && first != of("a"));
    }
}
