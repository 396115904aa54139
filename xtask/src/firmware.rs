//! Building the firmware.

use crate::board::Board;
use crate::elf::Firmware;
use crate::places::{firmware_target_dir, root};
use crate::process::run;
use crate::toolchain::embedded_cargo;
use anyhow::{Context, Result};

/// Builds one program of the emulated boards' firmware and reads its ELF file.
///
/// Each board has its own folder: two that share a target do not share its compiler flags.
pub(crate) fn build(board: &Board, program: &str) -> Result<Firmware> {
    let target_dir = firmware_target_dir().join(board.name);
    let mut cargo = embedded_cargo(board.target)?;
    cargo.current_dir(root().join("firmware/qemu-m4"));
    cargo.args(["build", "--quiet", "--release", "--locked", "--bin", program, "--target", board.target]);
    cargo.arg("--target-dir").arg(&target_dir);
    if let Some(cpu) = board.cpu {
        cargo.env("RUSTFLAGS", format!("-Ctarget-cpu={cpu}"));
    }
    run(&mut cargo).with_context(|| format!("the firmware for {} does not build", board.name))?;
    Firmware::read(&target_dir.join(board.target).join("release").join(program))
}
