//! What the tests of the program have in common.

use std::process::Command;

/// The program that a user runs; it computes on the processor, whatever this machine has.
pub(crate) fn mote_train() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mote-train"));
    command.env("CUDA_VISIBLE_DEVICES", "");
    command
}
