//! Building the firmware.

use crate::board::Board;
use crate::elf::Firmware;
use crate::places::{firmware_target_dir, root};
use crate::process::run;
use crate::toolchain::embedded_cargo;
use anyhow::{Context, Result};

/// Builds one program of the emulated boards' firmware and reads its ELF file.
pub(crate) fn build(board: &Board, program: &str) -> Result<Firmware> {
    let target_dir = firmware_target_dir();
    run(embedded_cargo(board.target)?
        .current_dir(root().join("firmware/qemu-m4"))
        .args(["build", "--quiet", "--release", "--locked", "--bin", program, "--target", board.target, "--target-dir"])
        .arg(&target_dir))
    .with_context(|| format!("the firmware for {} does not build", board.target))?;
    Firmware::read(&target_dir.join(board.target).join("release").join(program))
}
