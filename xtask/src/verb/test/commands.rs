//! What the manual (`firmware/README.md`) has users type, on an emulated board, with its flash in a folder of its own.

use crate::board::Board;
use crate::images::Samples;
use crate::{command, model_file};
use anyhow::{Context, Result, bail, ensure};
use mote_core::Model;
use std::fs;
use std::path::Path;
use tempfile::TempDir;

/// Every command, with the released model and the self-test's.
pub(super) fn check(board: &'static Board, released: &Path, small: &Path) -> Result<()> {
    let desk = Desk { board: board.name, folder: tempfile::tempdir().context("cannot make a folder")? };
    desk.copy(released, "released.mote")?;
    desk.copy(small, "small.mote")?;
    desk.draw(&model_file::read(small)?).context("generate")?;
    desk.flash().context("flash and device")?;
    desk.sign().context("keygen, sign, flash --key and device write")
}

/// A board and the folder that everything lies in, its flash too.
struct Desk {
    board: &'static str,
    folder: TempDir,
}

impl Desk {
    fn copy(&self, from: &Path, name: &str) -> Result<()> {
        fs::copy(from, self.folder.path().join(name)).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>> {
        fs::read(self.folder.path().join(name)).with_context(|| format!("cannot read {name}"))
    }

    /// Runs a command. `BOARD` stands for the board, `./NAME` for a file in the folder.
    fn run(&self, line: &str) -> Result<()> {
        let home = format!("{}/", self.folder.path().display());
        let words = line.split_whitespace().map(|word| match word.strip_prefix("./") {
            Some(name) => format!("{home}{name}"),
            None => word.replace("BOARD", self.board),
        });
        let words: Vec<String> = words.collect();
        println!("$ cargo xtask {}", words.join(" "));
        command(&words.iter().map(String::as_str).collect::<Vec<_>>()).with_context(|| line.to_owned())
    }

    fn flash_board(&self, options: &str) -> Result<()> {
        self.run(&format!("flash --board BOARD --folder ./flash {options}"))
    }

    fn device(&self, what: &str) -> Result<()> {
        self.run(&format!("device --on BOARD --folder ./flash {what}"))
    }

    /// # Errors
    /// If the slot holds another model than the file.
    fn expect(&self, slot: u8, file: &str) -> Result<()> {
        self.device(&format!("read {slot} --out ./found.mote"))?;
        ensure!(self.read("found.mote")? == self.read(file)?, "slot {slot} does not hold {file}");
        Ok(())
    }

    /// # Errors
    /// If a command is done, or is refused without these words.
    fn expect_refused(&self, done: Result<()>, words: &str) -> Result<()> {
        match done.map_err(|error| format!("{error:#}")) {
            Err(error) if error.contains(words) => Ok(()),
            Err(error) => bail!("refused, but not for \"{words}\": {error}"),
            Ok(()) => bail!("done, but it should be refused: {words}"),
        }
    }

    /// Samples, and every use of pictures and signals, are the host's.
    fn draw(&self, model: &Model<'_>) -> Result<()> {
        let (height, width) = (model.height(), model.width());
        let picture: Vec<u8> = (0..model.sample_len()).map(|i| (i * 7) as u8).collect();
        let mask: Vec<u8> = (0..height * width).map(|i| if i % width < width / 2 { 255 } else { 0 }).collect();
        for (name, pixels) in [("picture.png", &picture), ("mask.png", &mask)] {
            let samples = Samples { height, width, channels: 1, pixels: pixels.clone() };
            samples.write_png(&self.folder.path().join(name))?;
        }
        let signal = |gap: usize| -> String {
            let cell = |i: usize| if i == gap { String::new() } else { format!("0.{:02}", i * 37 % 100) };
            (0..50).map(|i| format!("{}\n", cell(i + 1))).collect()
        };
        fs::write(self.folder.path().join("signal.csv"), signal(0))?;
        fs::write(self.folder.path().join("gaps.csv"), signal(9).replace("\n\n", "\nNaN\n"))?;
        for (options, extension) in [
            ("--count 3", "png"),
            ("--from ./picture.png --strength 0.5", "png"),
            ("--interpolate 9 --count 3", "png"),
            ("--inpaint ./picture.png --mask ./mask.png --resamples 2", "npy"),
            ("--denoise ./signal.csv --noise-level 0.3 --mean", "csv"),
            ("--impute ./gaps.csv --draws 2", "csv"),
            ("--score ./signal.csv --normal ./signal.csv", "csv"),
        ] {
            let draw = |place: &str| -> Result<Vec<u8>> {
                let (out, name) = (if extension == "npy" { "--npy" } else { "--out" }, format!("{place}.{extension}"));
                self.run(&format!("generate --model ./small.mote --seed 5 {options} --on {place} {out} ./{name}"))?;
                self.read(&name)
            };
            let (host, chip) = (draw("host")?, draw(self.board)?);
            ensure!(host == chip, "{options}: the board's file differs from the host's");
            if extension == "npy" {
                let drawn = &chip[chip.len() - picture.len()..];
                let mut pixels = drawn.iter().zip(&picture).zip(&mask);
                ensure!(
                    pixels.clone().all(|((drawn, known), &mask)| mask == 0 || drawn == known),
                    "a known pixel was drawn over"
                );
                ensure!(pixels.any(|((drawn, known), _)| drawn != known), "nothing was drawn into the hole");
            }
        }
        Ok(())
    }

    /// Firmware and models, together and each alone, and what the board says.
    fn flash(&self) -> Result<()> {
        self.flash_board("--model ./released.mote")?;
        for what in ["identify", "status", "slots", "selftest", "bench --samples 2", "cancel"] {
            self.device(what)?;
        }
        self.expect(0, "released.mote")?;
        self.device("write ./small.mote --load")?;
        self.expect(1, "small.mote")?;
        self.flash_board("--firmware-only")?;
        self.expect(1, "small.mote")?;
        self.flash_board("--model-only --model ./small.mote")?;
        self.expect(0, "small.mote")?;
        self.expect_refused(self.expect(1, "small.mote"), "holds no model")
    }

    /// Firmware with a key takes what is signed with it, by cable and over the protocol, and nothing else.
    fn sign(&self) -> Result<()> {
        for key in ["ours.key", "other.key"] {
            self.run(&format!("keygen --out ./{key}"))?;
        }
        let unsigned = "--model ./small.mote --key ./ours.key.pub";
        self.expect_refused(self.flash_board(unsigned), "not signed")?;
        self.run("sign ./released.mote --key ./ours.key")?;
        self.flash_board("--model ./released.mote --key ./ours.key.pub")?;
        self.expect(0, "released.mote")?;
        self.expect_refused(self.device("write ./small.mote"), "only signed models")?;
        self.run("sign ./small.mote --key ./other.key")?;
        self.expect_refused(self.device("write ./small.mote"), "only signed models")?;
        self.expect(0, "released.mote")?;
        // By cable nothing stops it, but the firmware does not use it.
        self.flash_board("--model-only --model ./small.mote")?;
        self.expect_refused(self.device("read 0 --out ./found.mote"), "holds no model")?;
        self.run("sign ./small.mote --key ./ours.key")?;
        self.device("write ./small.mote --load")?;
        self.expect(0, "small.mote")
    }
}
