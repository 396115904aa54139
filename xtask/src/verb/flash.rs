//! `flash`: firmware, a model or both onto a board.
//!
//! Everything is checked before anything is erased: that the model's format is this build's, that it and the firmware fit,
//! that its signature is right where the firmware is to have a key, that the program which reaches the board is there.

mod drive;
pub(crate) mod emulated;
mod image;
mod picture;
mod tools;
pub(crate) mod uf2;

use crate::board::{self, Board, Programmer, QEMU_M4};
use crate::elf::Firmware;
use crate::images::write_whole;
use crate::places::root;
use crate::remote::{self, Content, Place, Remote, model_line};
use crate::verb::sign;
use crate::{UsageError, firmware, model_file};
use anyhow::{Context, Result};
use clap::Args;
use clap::builder::PossibleValuesParser;
use emulated::Flash;
use image::Part;
use mote_core::Model;
use std::path::{Path, PathBuf};
use tools::{ESPFLASH, Options, PROBE_RS};

/// The program that answers a host, on real boards and on emulated ones.
fn program(board: &Board) -> &'static str {
    if board.machine().is_some() { remote::PROGRAM } else { "serve" }
}

/// Arguments of `flash`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The board: an emulated one, or the family of a real one
    #[arg(long, value_name = "BOARD", default_value = QEMU_M4.name,
        value_parser = PossibleValuesParser::new(board::boards().map(|board| board.name)))]
    board: String,
    /// The .mote file; its signature, FILE.sig, goes along if there is one
    #[arg(long, value_name = "FILE", default_value = "firmware/models/demo.mote", conflicts_with = "firmware_only")]
    model: PathBuf,
    /// Leave the models on the board as they are
    #[arg(long, conflicts_with = "model_only")]
    firmware_only: bool,
    /// Leave the firmware on the board as it is
    #[arg(long)]
    model_only: bool,
    /// Firmware that takes only models signed with this key (a file that `cargo xtask keygen` wrote)
    #[arg(long, value_name = "FILE", conflicts_with = "model_only")]
    key: Option<PathBuf>,
    /// Which debug probe (`VID:PID[:SERIAL]`, or `any`), or which serial port on an esp32c3. On a board that takes UF2 files:
    /// use a probe instead of its drive
    #[arg(long, value_name = "SEL")]
    probe: Option<String>,
    /// Where the files lie that play an emulated board's flash: target/emulated/BOARD without
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Read back what was written and compare
    #[arg(long)]
    verify: bool,
    /// On a board that takes UF2 files: only write the file
    #[arg(long, value_name = "FILE")]
    uf2: Option<PathBuf>,
    /// Only check, and print what would lie where
    #[arg(long)]
    dry_run: bool,
}

/// What goes onto the board.
struct Load<'a> {
    firmware: Option<&'a Firmware>,
    model: Option<(&'a Model<'a>, Option<[u8; 64]>)>,
}

impl Load<'_> {
    /// What is written into the slots.
    fn slots(&self, board: &Board) -> Vec<Part> {
        self.model.map_or(Vec::new(), |(model, signature)| image::slots(board, model, signature).to_vec())
    }

    /// The firmware's file.
    fn elf(&self) -> Option<&Path> {
        self.firmware.map(|firmware| firmware.path.as_path())
    }
}

/// Checks that everything fits, prints what lies where, and writes it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let board = board::find(&arguments.board).context("the command line takes names of boards only")?;
    let is_uf2 = matches!(board.programmer, Programmer::Uf2 { .. });
    if arguments.uf2.is_some() && !is_uf2 {
        return Err(UsageError(format!("--uf2: {} takes no UF2 files", board.name)).into());
    }
    if arguments.probe.is_some() && board.machine().is_some() {
        return Err(UsageError(format!("--probe: {} is emulated", board.name)).into());
    }
    if arguments.folder.is_some() && board.machine().is_none() {
        return Err(UsageError(format!("--folder: {} is not emulated", board.name)).into());
    }
    let emulated = board.machine().map(|_| Flash::of(board, arguments.folder.as_deref()));
    let key = arguments.key.as_deref().map(sign::read_public).transpose()?;
    let model = if arguments.firmware_only { None } else { Some(model_file::read(&arguments.model)?) };
    let signature = match &model {
        Some(model) => sign::signature(&arguments.model, model.bytes(), key.as_ref())?,
        None => None,
    };
    let firmware =
        if arguments.model_only { None } else { Some(firmware::build_with_key(board, program(board), key.as_ref())?) };
    check(board, firmware.as_ref(), model.as_ref(), emulated.as_ref())?;
    print!("{}", picture::memory_map(board, firmware.as_ref(), model.as_ref())?);
    if arguments.dry_run {
        return Ok(());
    }
    let load = Load { firmware: firmware.as_ref(), model: model.as_ref().map(|model| (model, signature)) };
    write(board, &load, arguments)?;
    if let Some(flash) = emulated {
        return identify(board, &flash, arguments);
    }
    println!("flashed; `cargo xtask device --on serial:PORT identify` asks the board what it has");
    Ok(())
}

/// Starts an emulated board, if it has firmware, and prints what it says it is.
fn identify(board: &'static Board, flash: &Flash, arguments: &Arguments) -> Result<()> {
    if !flash.firmware.exists() {
        println!("flashed; {} has no firmware yet", board.name);
        return Ok(());
    }
    let mut remote =
        Remote::connect(&Place::Emulated(board), Content::Flashed(arguments.folder.as_deref()), remote::PATIENCE)?;
    println!("{}: {}", board.name, model_line(&remote.client.identify()?));
    Ok(())
}

fn check(
    board: &Board,
    firmware: Option<&Firmware>,
    model: Option<&Model<'_>>,
    emulated: Option<&Flash>,
) -> Result<()> {
    if let Some(firmware) = firmware
        && !matches!(board.programmer, Programmer::Espflash { .. })
    {
        image::check_firmware(board, firmware)?;
    }
    let arena = match (firmware, emulated.and_then(Flash::installed)) {
        (Some(firmware), _) => firmware.arena_capacity()?,
        (None, Some(installed)) => installed?.arena_capacity()?,
        (None, None) => u64::from(board.memory.arena),
    };
    model.map_or(Ok(()), |model| image::check_fit(board, model, arena))
}

fn write(board: &Board, load: &Load<'_>, arguments: &Arguments) -> Result<()> {
    let selector = arguments.probe.as_deref().filter(|&selector| selector != "any");
    let options = Options { selector, verify: arguments.verify };
    let folder = tempfile::tempdir().context("cannot make a folder for temporary files")?;
    let slots = load.slots(board);
    for Part { what, address, bytes } in &slots {
        println!("{address:#010x}: {what}, {} bytes", bytes.len());
    }
    match &board.programmer {
        Programmer::Emulator(_) => Flash::of(board, arguments.folder.as_deref()).write(board, load.elf(), &slots),
        Programmer::Uf2 { drive, firmware, data, .. } if arguments.probe.is_none() => {
            let family = if load.firmware.is_some() { firmware } else { data };
            let mut parts = load.firmware.map_or(Ok(Vec::new()), |firmware| image::firmware(board, firmware))?;
            parts.extend(slots);
            let file = uf2::file(*family, &parts);
            match &arguments.uf2 {
                Some(path) => write_whole(path, &file).map(|()| println!("wrote {}", path.display())),
                None if arguments.verify => Err(UsageError(
                    "--verify: a drive that takes UF2 files cannot be read back; use --probe, or `cargo xtask generate \
                     --on serial:PORT`, whose answer names the model's checksum"
                        .into(),
                )
                .into()),
                None => drive::write(drive, &file),
            }
        }
        Programmer::Probe { chip } | Programmer::Uf2 { chip, .. } => {
            PROBE_RS.check()?;
            PROBE_RS.run(&tools::probe_rs(chip, load.elf(), &slots, options, folder.path())?)
        }
        Programmer::Espflash { chip } => {
            ESPFLASH.check()?;
            let partitions = root().join("firmware").join(board.package).join("partitions.csv");
            let firmware = load.elf().map(|elf| (elf, partitions.as_path()));
            ESPFLASH.run(&tools::espflash(chip, firmware, &slots, options, folder.path())?)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use mote_core::selftest;
    use std::fs;

    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn flash(words: &[&str]) -> Result<()> {
        run(&CommandLine::try_parse_from([&["flash"], words].concat())?.arguments)
    }

    fn small_model(folder: &Path) -> String {
        let mut file = [0; 8192];
        let path = folder.join("small.mote");
        fs::write(&path, selftest::write_model(&mut file).unwrap().bytes()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_dry_run_with_a_model_alone_works_for_every_board_and_needs_no_tool() {
        let folder = tempfile::tempdir().unwrap();
        let model = small_model(folder.path());
        for board in board::boards() {
            flash(&["--board", board.name, "--model-only", "--model", &model, "--dry-run"]).unwrap();
        }
    }

    #[test]
    fn a_model_becomes_a_uf2_file_at_the_slots_addresses() {
        let folder = tempfile::tempdir().unwrap();
        let (model, out) = (small_model(folder.path()), folder.path().join("model.uf2"));
        let out_name = out.to_str().unwrap();
        flash(&["--board", "rp2350", "--model-only", "--model", &model, "--uf2", out_name]).unwrap();
        let file = fs::read(&out).unwrap();
        let word = |block: usize, at: usize| u32::from_le_bytes(file[512 * block + at..][..4].try_into().unwrap());
        assert_eq!((word(0, 12), word(0, 28)), (0x1010_0000, 0xE48B_FF57));
        assert_eq!(&file[32..36], b"MSLT");
        let last = file.len() / 512 - 1;
        assert_eq!(word(last, 12), 0x1028_0F00, "the last page of slot B's first sector");
    }

    #[test]
    fn wrong_usage_is_named() {
        let usage = |words: &[&str]| flash(words).unwrap_err().to_string();
        assert!(usage(&["--board", "pico"]).contains("rp2040"), "the boards that there are");
        assert!(usage(&["--board", "nrf52840", "--uf2", "x.uf2"]).contains("takes no UF2"));
        assert!(usage(&["--board", "qemu-m4", "--probe", "1:2"]).contains("emulated"));
        assert!(usage(&["--board", "rp2040", "--folder", "x"]).contains("not emulated"));
        assert!(usage(&["--firmware-only", "--model-only"]).contains("cannot be used with"));
    }

    #[test]
    fn another_format_version_is_named_before_anything_else() {
        let folder = tempfile::tempdir().unwrap();
        let model = small_model(folder.path());
        let mut bytes = fs::read(&model).unwrap();
        bytes[mote_core::format::header::VERSION] += 1;
        fs::write(&model, bytes).unwrap();
        let error = format!("{:#}", flash(&["--board", "rp2040", "--model-only", "--model", &model]).unwrap_err());
        assert!(error.contains("format version"), "{error}");
    }
}
