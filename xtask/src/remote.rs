//! Boards that answer: over a serial port, or emulated and started here.

use crate::board::{Board, EMULATED};
use crate::elf::Firmware;
use crate::emulator::Serving;
use crate::verb::flash::emulated::Flash;
use crate::{firmware, model_file};
use anyhow::{Context, Result, anyhow, bail};
use mote_client::protocol::{Identity, Loaded};
use mote_client::{Client, ClientError, Timing, serial};
use mote_core::Model;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// The emulated boards' program that answers.
pub(crate) const PROGRAM: &str = "device";

/// Where a board is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// At a serial port.
    Serial {
        /// The port's name.
        path: String,
        /// Its speed.
        baud: u32,
    },
    /// In the emulator.
    Emulated(&'static Board),
}

impl Place {
    /// How long to wait there.
    pub(crate) fn timing(&self) -> Timing {
        match self {
            Place::Serial { .. } => Timing::default(),
            Place::Emulated(_) => PATIENCE,
        }
    }
}

/// How long to wait for an emulated board: it loses nothing, but its time stands still while the machine is busy.
pub(crate) const PATIENCE: Timing =
    Timing { answer: Duration::from_secs(1), attempts: 60, job: Duration::from_secs(600) };

/// Reads `serial:PATH`, `serial:PATH@BAUD` or the name of an emulated board.
pub(crate) fn place(word: &str) -> Result<Place, String> {
    if let Some(port) = word.strip_prefix("serial:") {
        let (path, baud) = port.rsplit_once('@').unwrap_or((port, ""));
        let baud = if baud.is_empty() { Ok(serial::BAUD) } else { baud.parse() };
        let baud = baud.map_err(|_| format!("{word}: after the @ comes the speed, such as 115200"))?;
        return Ok(Place::Serial { path: path.to_owned(), baud });
    }
    let board = EMULATED.iter().find(|board| board.name == word);
    let names = EMULATED.map(|board| board.name).join(", ");
    board.map(Place::Emulated).ok_or_else(|| format!("possible places are serial:PATH[@BAUD], {names}"))
}

/// What an emulated board begins with; a real one has what it has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Content<'c> {
    /// This model, for this once.
    Model(&'c Path),
    /// What was flashed: into this folder, or where its flash lies if none is named.
    Flashed(Option<&'c Path>),
}

/// What bytes travel over.
pub(crate) trait Transport: Read + Write {}

impl<T: Read + Write> Transport for T {}

/// A board that has answered. An emulated one ends with this.
pub(crate) struct Remote {
    /// Speaks with it.
    pub(crate) client: Client<Box<dyn Transport>>,
    /// What the emulator gave, if there is one; it must outlive the client.
    emulated: Option<Serving>,
    /// The slots of an emulated board that was given a model for this once.
    _slots: Option<TempDir>,
}

impl Remote {
    /// Opens the port, or starts the emulator.
    pub(crate) fn connect(place: &Place, content: Content<'_>, timing: Timing) -> Result<Self> {
        match place {
            Place::Serial { path, baud } => {
                let port = serial::open(path, *baud).with_context(|| format!("cannot open the serial port {path}"))?;
                let client = Client::connect(Box::new(port) as Box<dyn Transport>, timing)
                    .with_context(|| format!("at {path}, {baud} baud"))?;
                Ok(Remote { client, emulated: None, _slots: None })
            }
            Place::Emulated(board) => {
                let (firmware, flash, slots) = match content {
                    Content::Model(model) => {
                        let folder = tempfile::tempdir().context("cannot make a folder for temporary files")?;
                        let flash = Flash::in_folder(folder.path());
                        flash.write_model(board, &model_file::read(model)?)?;
                        (firmware::build(board, PROGRAM)?, flash, Some(folder))
                    }
                    Content::Flashed(folder) => {
                        let flash = Flash::of(board, folder);
                        if !flash.firmware.exists() {
                            bail!(
                                "{0} has no firmware: run `cargo xtask flash --board {0}`, or give --model",
                                board.name
                            );
                        }
                        (Firmware::read(&flash.firmware)?, flash, None)
                    }
                };
                let serving = Serving::start(board, firmware, &flash.slots)?;
                let transport = Box::new(serving.stream.try_clone()?) as Box<dyn Transport>;
                match Client::connect(transport, timing) {
                    Ok(client) => Ok(Remote { client, emulated: Some(serving), _slots: slots }),
                    Err(error) => Err(told(error, Some(&serving))),
                }
            }
        }
    }

    /// Does something with the client; what an emulated board logged explains an error.
    pub(crate) fn ask<T>(
        &mut self,
        work: impl FnOnce(&mut Client<Box<dyn Transport>>) -> Result<T, ClientError>,
    ) -> Result<T> {
        work(&mut self.client).map_err(|error| told(error, self.emulated.as_ref()))
    }

    /// # Errors
    /// If the board does not draw with this very model.
    pub(crate) fn check_model(&mut self, model: &Model<'_>) -> Result<()> {
        let identity = self.client.identify()?;
        match identity.model {
            Loaded::Model(loaded) if loaded.checksum == model.checksum() => Ok(()),
            Loaded::Model(loaded) => bail!(
                "the board has the model {} {:08x}, not {} {:08x}: write this one with `cargo xtask device`, or draw with that file",
                loaded.name,
                loaded.checksum,
                model.name(),
                model.checksum()
            ),
            _ => bail!("{}", model_line(&identity)),
        }
    }
}

/// The error, and the last thing that an emulated board logged.
fn told(error: ClientError, emulated: Option<&Serving>) -> anyhow::Error {
    match emulated.and_then(Serving::last_log) {
        Some(line) => anyhow!(error).context(format!("the emulated board logged: {line}")),
        None => error.into(),
    }
}

/// What a board says of its model, in a line.
pub(crate) fn model_line(identity: &Identity<'_>) -> String {
    match identity.model {
        Loaded::Nothing => "no model, or none that is signed as the firmware wants it: write one".to_owned(),
        Loaded::Unreadable => format!(
            "no usable model: what its flash holds is no .mote file of format {}; write another one",
            identity.format
        ),
        Loaded::TooLarge { arena_len } => format!(
            "no usable model: the one in its flash needs {arena_len} bytes of arena of {}; write a smaller one",
            identity.arena_len
        ),
        Loaded::Model(model) => format!(
            "model {} {:08x}: {}x{}x{}, {} classes, {} rows, {} bytes, arena {} of {}",
            model.name,
            model.checksum,
            model.height,
            model.width,
            model.channels,
            model.classes,
            model.rows,
            model.len,
            model.arena_len,
            identity.arena_len
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_from_the_command_line() {
        let port = |path: &str, baud| Ok(Place::Serial { path: path.to_owned(), baud });
        assert_eq!(place("serial:/dev/ttyACM0"), port("/dev/ttyACM0", 115_200));
        assert_eq!(place("serial:COM3@1000000"), port("COM3", 1_000_000));
        assert_eq!(place("qemu-m4"), Ok(Place::Emulated(&EMULATED[0])));
        assert!(place("serial:/dev/ttyACM0@fast").unwrap_err().contains("115200"));
        assert!(place("qemu-m5").unwrap_err().contains("qemu-m55"));
    }
}
