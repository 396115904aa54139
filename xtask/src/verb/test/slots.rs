//! An emulated board's slots: a model is replaced while the old one draws, and the power is cut in updates.

use crate::board::Board;
use crate::drawing::{self, Wanted};
use crate::elf::Firmware;
use crate::emulator::Serving;
use crate::remote::{PATIENCE, PROGRAM};
use crate::verb::flash::emulated::Flash;
use crate::{firmware, model_file};
use anyhow::{Context, Result, bail};
use mote_client::Client;
use mote_client::protocol::{Loaded, State};
use mote_core::{Model, Request};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

/// In how many places of the update the power is cut.
const CUTS: usize = 4;

/// With `old` in flash, updates to `new`.
pub(super) fn check(board: &'static Board, old: &Path, new: &Path) -> Result<()> {
    let (old, new) = (model_file::read(old)?, model_file::read(new)?);
    let folder = tempfile::tempdir()?;
    let flash = Flash::in_folder(folder.path());
    flash.write_model(board, &old)?;
    let desk = Desk { board, firmware: firmware::build(board, PROGRAM)?.path, flash };
    for cut in 0..CUTS {
        let bytes = new.bytes().len() * cut / CUTS;
        desk.cut_update(&new, bytes)?;
        desk.expect(&old).with_context(|| format!("after a cut at {bytes} bytes of the new model"))?;
    }
    desk.update_while_drawing(&old, &new)?;
    desk.expect(&new).context("after the update and a restart")
}

/// A board whose flash outlives its power.
struct Desk {
    board: &'static Board,
    firmware: PathBuf,
    flash: Flash,
}

impl Desk {
    fn power_on(&self) -> Result<(Serving, Client<TcpStream>)> {
        let serving = Serving::start(self.board, Firmware::read(&self.firmware)?, &self.flash.slots)?;
        let client = Client::connect(serving.stream.try_clone()?, PATIENCE)?;
        Ok((serving, client))
    }

    /// Begins an update, and cuts the power when so many bytes are written.
    fn cut_update(&self, new: &Model<'_>, bytes: usize) -> Result<()> {
        let (mut serving, mut client) = self.power_on()?;
        let cut = |written: u32| {
            if written as usize >= bytes {
                serving.kill();
            }
        };
        if client.update(new.bytes(), &[], cut).is_ok() {
            bail!("the update ended although the power was cut at {bytes} bytes");
        }
        Ok(())
    }

    /// The board draws with the old model while the new one is written, and goes on with it.
    fn update_while_drawing(&self, old: &Model<'_>, new: &Model<'_>) -> Result<()> {
        let (_serving, mut client) = self.power_on()?;
        // Longer than any update takes.
        client.begin_benchmark(u16::MAX)?;
        client.update(new.bytes(), &[], |_| ())?;
        let State::Benchmarking { done, .. } = client.status()?.state else {
            bail!("the update ended what the board was drawing");
        };
        println!("{done} pictures were drawn while {} bytes were written", new.bytes().len());
        client.cancel()?;
        // Again, and what is drawn meanwhile is right.
        client.begin_draw(&request())?;
        client.update(new.bytes(), &[], |_| ())?;
        if client.finish_draw(|_| ())? != drawn_on_host(old)? {
            bail!("the picture that was drawn during the update is not the old model's");
        }
        Ok(())
    }

    /// # Errors
    /// If the board, switched on again, does not draw this model's picture.
    fn expect(&self, model: &Model<'_>) -> Result<()> {
        let (_serving, mut client) = self.power_on()?;
        match client.identify()?.model {
            Loaded::Model(loaded) if loaded.checksum == model.checksum() => {}
            other => bail!("the board should have {} {:08x}, but has {other:?}", model.name(), model.checksum()),
        }
        if client.draw(&request(), |_| ())? != drawn_on_host(model)? {
            bail!("the picture differs from the host's");
        }
        Ok(())
    }
}

fn request() -> Request<'static> {
    Request { class: 0, seed: 1, ..Request::default() }
}

fn drawn_on_host(model: &Model<'_>) -> Result<Vec<u8>> {
    Ok(drawing::on_host(model, &Wanted { seed: 1, samples: 0..1, class: Some(0), ..Wanted::default() })?.pixels)
}
