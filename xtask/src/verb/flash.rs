//! `flash`: firmware and a model onto a board.
//!
//! On an emulated board this does what flashing would: the emulator gets the firmware and the model at their addresses,
//! and the program runs once.

use crate::board::QEMU_M4;
use crate::drawing::{self, Wanted};
use crate::elf::Firmware;
use crate::{firmware, model_file};
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use mote_core::Model;
use std::path::PathBuf;

/// Arguments of `flash`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The board
    #[arg(long, value_enum, default_value_t = BoardName::QemuM4)]
    board: BoardName,
    /// The .mote file
    #[arg(long, value_name = "FILE", default_value = "firmware/models/demo.mote")]
    model: PathBuf,
    /// Only print what would lie where
    #[arg(long)]
    dry_run: bool,
}

/// The boards that can be flashed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum BoardName {
    /// The emulated Cortex-M4 (QEMU's mps2-an386)
    QemuM4,
}

/// Checks that everything fits, then starts the board with it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let board = match arguments.board {
        BoardName::QemuM4 => &QEMU_M4,
    };
    let model = model_file::read(&arguments.model)?;
    let firmware = firmware::build(board, "generate")?;
    drawing::check_fit(&model, &firmware)?;
    memory_map(&model, &firmware)?;
    if arguments.dry_run {
        return Ok(());
    }
    let one = Wanted { seed: 1, samples: 0..1, class: None };
    let drawn = drawing::on_chip(board, &arguments.model, &one)?;
    let identity = drawn.log.first().context("the board started but did not identify itself")?;
    println!("{}: {identity}", board.name);
    Ok(())
}

fn memory_map(model: &Model<'_>, firmware: &Firmware) -> Result<()> {
    let (model_at, region) = firmware.model_region()?;
    let (arena_at, capacity) = (firmware.address("MOTE_ARENA")?, firmware.arena_capacity()?);
    println!("{:<10} {:>12} {:>10} {:>10}", "", "address", "used", "of");
    let firmware_at = firmware.address("mote_firmware_start")?;
    println!("{:<10} {firmware_at:>#12x} {:>10} {:>10}", "firmware", firmware.flash, model_at - firmware_at);
    println!("{:<10} {model_at:>#12x} {:>10} {region:>10}", "model", model.bytes().len());
    println!("{:<10} {arena_at:>#12x} {:>10} {capacity:>10}", "arena", model.arena_len());
    println!("{:<10} {:>12} {:>10}", "other RAM", "", firmware.ram - capacity);
    Ok(())
}
