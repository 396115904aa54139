//! Drawing samples: on the host, on boards that answer, and on emulated chips whose instructions are counted.

use crate::UsageError;
use crate::board::Board;
use crate::elf::Firmware;
use crate::emulator::Emulator;
use crate::images::Samples;
use crate::remote::{Content, Place, Remote};
use crate::task::Task;
use crate::{firmware, model_file};
use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use mote_core::{Generator, Model, Request, aligned};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, available_parallelism};
use std::time::Duration;
use std::{fs, ops::Range};

/// Longest time that one picture may take in the emulator; a hang is found after it.
const LIMIT_PER_SAMPLE: Duration = Duration::from_secs(60);

/// Which samples to draw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Key of the noise.
    pub(crate) seed: u64,
    /// Sample numbers.
    pub(crate) samples: Range<u64>,
    /// The class of all, or sample `i` has class `i % classes`.
    pub(crate) class: Option<u16>,
    /// What they are made of.
    pub(crate) task: Task,
}

impl Wanted {
    /// The request for one of the samples.
    pub(crate) fn request(&self, model: &Model<'_>, sample: u64) -> Request<'_> {
        let class = self.class.unwrap_or((sample % u64::from(model.classes())) as u16);
        self.task.request(class, self.seed, sample)
    }

    /// # Errors
    /// A usage error if the model has no such class.
    pub(crate) fn check(&self, model: &Model<'_>) -> Result<()> {
        match self.class {
            Some(class) if class >= model.classes() => Err(UsageError(format!(
                "class {class} does not exist: this model has {}, numbered from 0",
                model.classes()
            ))
            .into()),
            _ => Ok(()),
        }
    }
}

/// Samples from a chip and what they cost.
#[derive(Debug)]
pub(crate) struct FromChip {
    /// The samples.
    pub(crate) samples: Samples,
    /// Instructions of each sample, if the emulator could count.
    pub(crate) instructions: Option<Vec<u64>>,
    /// The firmware that drew them.
    pub(crate) firmware: Firmware,
    /// Its log.
    pub(crate) log: Vec<String>,
}

/// Draws on the host.
pub(crate) fn on_host(model: &Model<'_>, wanted: &Wanted) -> Result<Samples> {
    wanted.check(model)?;
    let mut arena = vec![0; model.arena_len() + 3];
    let mut generator = Generator::new(model, aligned(&mut arena))?;
    let mut pixels = Vec::new();
    for sample in wanted.samples.clone() {
        generator.start(wanted.request(model, sample))?;
        generator.finish();
        pixels.extend(generator.pixels());
    }
    Ok(samples(model, pixels))
}

/// Draws on the host: the states, Q12.
pub(crate) fn states_on_host(model: &Model<'_>, requests: &[Request<'_>]) -> Result<Vec<Vec<i16>>> {
    let mut arena = vec![0; model.arena_len() + 3];
    let mut generator = Generator::new(model, aligned(&mut arena))?;
    let mut states = Vec::new();
    for request in requests {
        generator.start(*request)?;
        generator.finish();
        states.push(generator.state().to_vec());
    }
    Ok(states)
}

/// Draws on a board that answers; of emulated boards, on as many as this machine has cores.
pub(crate) fn on_board(place: &Place, path: &Path, wanted: &Wanted) -> Result<Samples> {
    let model = model_file::read(path)?;
    wanted.check(&model)?;
    let parts = if let Place::Emulated(_) = place { split(wanted) } else { vec![wanted.clone()] };
    let bar = progress_bar(wanted.samples.end - wanted.samples.start);
    let draw = |part: Wanted| -> Result<Vec<u8>> {
        let mut remote = Remote::connect(place, Content::Model(path), place.timing())?;
        remote.check_model(&model)?;
        let mut pixels = Vec::new();
        for sample in part.samples.clone() {
            let request = part.request(&model, sample);
            pixels.extend(remote.ask(|client| client.draw(&request, |_| ()))?);
            bar.inc(1);
        }
        Ok(pixels)
    };
    let parts: Vec<Result<Vec<u8>>> = thread::scope(|scope| {
        let draw = &draw;
        let threads: Vec<_> = parts.into_iter().map(|part| scope.spawn(move || draw(part))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a drawing thread does not panic")).collect()
    });
    bar.finish_and_clear();
    let pixels = parts.into_iter().collect::<Result<Vec<_>>>()?.concat();
    Ok(samples(&model, pixels))
}

/// Draws on a board that answers: the states, Q12.
pub(crate) fn states_on_board(place: &Place, path: &Path, requests: &[Request<'_>]) -> Result<Vec<Vec<i16>>> {
    let model = model_file::read(path)?;
    let mut remote = Remote::connect(place, Content::Model(path), place.timing())?;
    remote.check_model(&model)?;
    let mut states = Vec::new();
    for request in requests {
        remote.ask(|client| client.draw(request, |_| ()))?;
        states.push(remote.ask(|client| client.read_values())?);
    }
    Ok(states)
}

/// Draws on an emulated chip and counts its instructions, on as many chips as this machine has cores.
pub(crate) fn on_chip(board: &'static Board, path: &Path, wanted: &Wanted) -> Result<FromChip> {
    let model = model_file::read(path)?;
    wanted.check(&model)?;
    let firmware = firmware::build(board, "generate")?;
    check_fit(&model, &firmware)?;
    let emulator = Emulator::new(board)?;
    let total = wanted.samples.end - wanted.samples.start;
    let bytes_done = AtomicU64::new(0);
    let bar = progress_bar(total);
    let show = || bar.set_position(bytes_done.load(Relaxed) / model.sample_len() as u64);
    let draw = |part: Wanted| Part::draw(&emulator, &firmware, path, part, &bytes_done, show);
    let parts: Vec<Result<Part>> = thread::scope(|scope| {
        let draw = &draw;
        let draw = |part| scope.spawn(move || draw(part));
        let threads: Vec<_> = split(wanted).into_iter().map(draw).collect();
        threads.into_iter().map(|thread| thread.join().expect("a drawing thread does not panic")).collect()
    });
    bar.finish_and_clear();
    let (mut pixels, mut instructions, mut log) = (Vec::new(), Some(Vec::new()), Vec::new());
    for part in parts {
        let part = part?;
        pixels.extend(part.pixels);
        instructions = instructions.zip(part.counts).map(|(all, more)| [all, more].concat());
        log.extend(part.log);
    }
    if pixels.len() as u64 != total * model.sample_len() as u64 {
        bail!(
            "the emulated chip wrote {} bytes for {total} samples of {}: it is broken",
            pixels.len(),
            model.sample_len()
        );
    }
    Ok(FromChip { samples: samples(&model, pixels), instructions, firmware, log })
}

/// # Errors
/// If the model's file or its working memory is too large for the board.
pub(crate) fn check_fit(model: &Model<'_>, firmware: &Firmware) -> Result<()> {
    let (file, region) = (model.bytes().len() as u64, firmware.model_region()?.1);
    if file > region {
        bail!("the model has {file} bytes, but its flash region on this board {region}: make a smaller student");
    }
    let (arena, capacity) = (model.arena_len() as u64, firmware.arena_capacity()?);
    if arena > capacity {
        bail!(
            "the model needs {arena} bytes of arena, but this board's firmware has {capacity}: make a smaller student"
        );
    }
    Ok(())
}

struct Part {
    pixels: Vec<u8>,
    counts: Option<Vec<u64>>,
    log: Vec<String>,
}

impl Part {
    fn draw(
        emulator: &Emulator,
        firmware: &Firmware,
        model: &Path,
        wanted: Wanted,
        bytes_done: &AtomicU64,
        show: impl Fn(),
    ) -> Result<Part> {
        const OUT: &str = "pixels.bin";
        let folder = tempfile::tempdir().context("cannot make a folder for temporary files")?;
        let out = folder.path().join(OUT);
        let count = wanted.samples.end - wanted.samples.start;
        let class = wanted.class.map_or("all".to_owned(), |class| class.to_string());
        let arguments =
            [OUT.to_owned(), wanted.seed.to_string(), wanted.samples.start.to_string(), count.to_string(), class];
        let mut seen = 0;
        let limit = LIMIT_PER_SAMPLE * u32::try_from(count).unwrap_or(u32::MAX);
        let outcome = emulator.run(firmware, Some(model), &arguments, folder.path(), limit, || {
            let len = fs::metadata(&out).map_or(0, |file| file.len());
            bytes_done.fetch_add(len - seen, Relaxed);
            seen = len;
            show();
        })?;
        let outcome = outcome.succeeded()?;
        Ok(Part { pixels: fs::read(&out)?, counts: outcome.counts, log: outcome.log })
    }
}

/// One part for each core of this machine, of about the same size, in order.
fn split(wanted: &Wanted) -> Vec<Wanted> {
    let Range { start, end } = wanted.samples;
    let parts = available_parallelism().map_or(1, |n| n.get() as u64).clamp(1, (end - start).max(1));
    let edge = |part: u64| start + (end - start) * part / parts;
    (0..parts).map(|part| Wanted { samples: edge(part)..edge(part + 1), ..wanted.clone() }).collect()
}

fn samples(model: &Model<'_>, pixels: Vec<u8>) -> Samples {
    Samples { height: model.height(), width: model.width(), channels: model.channels(), pixels }
}

fn progress_bar(total: u64) -> ProgressBar {
    let bar = if total > 1 { ProgressBar::new(total) } else { ProgressBar::hidden() };
    let style = ProgressStyle::with_template("  drawing {bar:30} {pos}/{len}  {per_sec}, {eta} left");
    bar.with_style(style.expect("the template is valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_samples_in_order() {
        let wanted = Wanted { seed: 1, samples: 5..18, ..Wanted::default() };
        let parts = split(&wanted);
        let all: Vec<u64> = parts.into_iter().flat_map(|part| part.samples).collect();
        assert_eq!(all, (5..18).collect::<Vec<u64>>());
    }
}
