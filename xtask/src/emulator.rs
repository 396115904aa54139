//! Running firmware in QEMU.
//!
//! The firmware gets its arguments, writes its files and leaves its exit status by semihosting; its log is defmt frames on
//! the emulator's standard output; the model is placed in flash; a plugin counts the instructions between two markers. A program
//! that answers on the board's serial port ([`Serving`]) is spoken with over TCP.

mod serving;

use crate::board::{Board, Machine};
use crate::elf::Firmware;
use crate::places::{root, target_dir};
use crate::process::{capture, run};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(crate) use serving::Serving;

/// First QEMU release whose plugin interface the instruction counter speaks.
const PLUGIN_SINCE: u32 = 9;

/// Semihosting, for the log and the exit status at least.
const SEMIHOSTING: &str = "enable=on,target=native";

/// The file with the program's log, in the run's folder.
const LOG: &str = "log.defmt";
/// The file with the emulator's own messages.
const MESSAGES: &str = "messages.txt";
/// The file with the instruction counts.
const COUNTS: &str = "counts.txt";
/// The file with the blocks that ran.
const BLOCKS: &str = "blocks.txt";

/// An emulator that is ready to run one board's programs.
#[derive(Clone, Debug)]
pub(crate) struct Emulator {
    machine: &'static Machine,
    counter: Option<PathBuf>,
    wants_blocks: bool,
}

/// A block of straight code that ran between the markers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Address of its first instruction.
    pub(crate) address: u64,
    /// Its length in bytes.
    pub(crate) len: u64,
    /// Its instructions.
    pub(crate) instructions: u64,
    /// How often it ran.
    pub(crate) executions: u64,
    /// How often it ended with a taken branch.
    pub(crate) taken: u64,
}

/// What a program left behind, besides its files.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Whether it ended with status 0.
    pub(crate) success: bool,
    /// Its log, a line a message.
    pub(crate) log: Vec<String>,
    /// Instructions between the markers, for each time it passed them; `None` if the emulator cannot count.
    pub(crate) counts: Option<Vec<u64>>,
    /// The blocks that ran between the markers, for each time it passed them; empty unless they were asked for.
    pub(crate) blocks: Vec<Vec<Block>>,
}

impl Outcome {
    /// The outcome, if the program ended with status 0.
    ///
    /// # Errors
    /// With the last line of the log.
    pub(crate) fn succeeded(self) -> Result<Self> {
        if !self.success {
            let last = self.log.last().map_or("it left no log", |line| line.trim_start_matches("error: "));
            bail!("on the emulated chip: {last}");
        }
        Ok(self)
    }
}

impl Emulator {
    /// Finds the emulator and builds the instruction counter.
    pub(crate) fn new(board: &'static Board) -> Result<Self> {
        let machine = board.machine().with_context(|| format!("{} is no emulated board", board.name))?;
        let Some(version) = version(machine.emulator) else {
            bail!("{} is not installed: run `cargo xtask setup`", machine.emulator);
        };
        let counter = if version >= PLUGIN_SINCE { Some(build_counter()?) } else { None };
        Ok(Emulator { machine, counter, wants_blocks: false })
    }

    /// The same emulator, which also tells the blocks that ran.
    pub(crate) fn with_blocks(self) -> Self {
        Emulator { wants_blocks: true, ..self }
    }

    /// Runs a program in `folder`, where its files and its log will lie.
    ///
    /// `poll` is called some ten times a second while it runs.
    ///
    /// # Errors
    /// If the emulator does not start or the program is not done after `limit`. A program that ends with another status
    /// than 0 is no error here: see [`Outcome::succeeded`].
    pub(crate) fn run(
        &self,
        firmware: &Firmware,
        model: Option<&Path>,
        arguments: &[String],
        folder: &Path,
        limit: Duration,
        mut poll: impl FnMut(),
    ) -> Result<Outcome> {
        let mut child = self.start(firmware, model, arguments, folder)?;
        let started = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if started.elapsed() > limit {
                child.kill()?;
                child.wait()?;
                bail!(
                    "the emulated chip was not done after {} s: it may hang, or the limit is too short",
                    limit.as_secs()
                );
            }
            poll();
            sleep(Duration::from_millis(if started.elapsed().as_millis() < 500 { 10 } else { 100 }));
        };
        self.outcome(firmware, folder, status)
    }

    fn start(&self, firmware: &Firmware, model: Option<&Path>, arguments: &[String], folder: &Path) -> Result<Child> {
        let mut command = command(self.machine, firmware, model, folder)?;
        command.args(["-serial", "none"]).stdin(Stdio::null());
        let mut semihosting = format!("{SEMIHOSTING},arg=mote");
        for word in arguments {
            semihosting += &format!(",arg={}", escaped(word));
        }
        command.args(["-semihosting-config", &semihosting]);
        if let Some(counter) = &self.counter {
            let begin = firmware.code_address("mote_mark_begin")?;
            let end = firmware.code_address("mote_mark_end")?;
            let counter = escaped(&counter.to_string_lossy());
            let blocks = if self.wants_blocks { format!(",blocks={BLOCKS}") } else { String::new() };
            command.args(["-plugin", &format!("{counter},begin={begin:#x},end={end:#x},out={COUNTS}{blocks}")]);
        }
        spawn(&mut command)
    }

    fn outcome(&self, firmware: &Firmware, folder: &Path, status: ExitStatus) -> Result<Outcome> {
        let log = firmware.formats.decode(&fs::read(folder.join(LOG))?);
        let messages = fs::read_to_string(folder.join(MESSAGES))?;
        if !status.success() && log.is_empty() {
            bail!("{} failed ({status}): {}", self.machine.emulator, messages.trim());
        }
        let counts = match &self.counter {
            Some(_) => {
                let counts = fs::read_to_string(folder.join(COUNTS))?.lines().map(str::parse).collect::<Result<_, _>>();
                Some(counts.context("the instruction counts are unreadable")?)
            }
            None => None,
        };
        let blocks = if self.wants_blocks && counts.is_some() {
            read_blocks(&fs::read_to_string(folder.join(BLOCKS))?).context("the executed blocks are unreadable")?
        } else {
            Vec::new()
        };
        Ok(Outcome { success: status.success(), log, counts, blocks })
    }
}

/// The emulator with a program and a model, its log and messages in `folder`.
fn command(machine: &Machine, firmware: &Firmware, model: Option<&Path>, folder: &Path) -> Result<Command> {
    let mut command = Command::new(machine.emulator);
    command.current_dir(folder).args(["-machine", machine.name]).args(machine.options);
    command.args(["-display", "none", "-monitor", "none"]);
    command.arg("-kernel").arg(firmware.path.canonicalize()?);
    if let Some(model) = model {
        let (address, _) = firmware.model_region()?;
        let model = model.canonicalize().with_context(|| format!("cannot read the model {}", model.display()))?;
        let model = escaped(&model.to_string_lossy());
        command.args(["-device", &format!("loader,file={model},addr={address:#x},force-raw=on")]);
    }
    command.stdout(File::create(folder.join(LOG))?).stderr(File::create(folder.join(MESSAGES))?);
    Ok(command)
}

fn spawn(command: &mut Command) -> Result<Child> {
    command.spawn().with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))
}

/// The emulator's major version, if it is installed.
pub(crate) fn version(emulator: &str) -> Option<u32> {
    let text = capture(Command::new(emulator).arg("--version")).ok()?;
    text.split_whitespace().find_map(|word| word.split_once('.')?.0.parse().ok())
}

/// Reads the plugin's lines, `SPAN ADDRESS BYTES INSTRUCTIONS EXECUTIONS TAKEN`, sorted by span.
fn read_blocks(text: &str) -> Option<Vec<Vec<Block>>> {
    let mut spans: Vec<Vec<Block>> = Vec::new();
    for line in text.lines() {
        let mut words = line.split(' ');
        let span: usize = words.next()?.parse().ok()?;
        let address = u64::from_str_radix(words.next()?, 16).ok()?;
        let mut number = || words.next()?.parse().ok();
        let (len, instructions) = (number()?, number()?);
        let block = Block { address, len, instructions, executions: number()?, taken: number()? };
        if span == spans.len() {
            spans.push(Vec::new());
        }
        spans.get_mut(span)?.push(block);
    }
    Some(spans)
}

fn build_counter() -> Result<PathBuf> {
    run(Command::new("cargo").current_dir(root()).args(["build", "--quiet", "--locked", "-p", "instruction-counter"]))?;
    let name = format!("{}instruction_counter{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    Ok(target_dir().join("debug").join(name))
}

/// A comma separates QEMU's options; two stand for one.
fn escaped(word: &str) -> String {
    word.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_span_by_span() {
        let block =
            |address, len, instructions, executions, taken| Block { address, len, instructions, executions, taken };
        let spans = read_blocks("0 1c 4 2 10 9\n0 20 2 1 1 0\n1 1c 4 2 30 29\n").unwrap();
        assert_eq!(spans, [vec![block(0x1c, 4, 2, 10, 9), block(0x20, 2, 1, 1, 0)], vec![block(0x1c, 4, 2, 30, 29)]]);
        assert_eq!(read_blocks("0 1c 4 2 10"), None);
        assert_eq!(read_blocks("3 1c 4 2 10 9"), None);
    }
}
