//! `setup`: find or install the embedded targets and the emulator.
//!
//! What is there is left alone, so it can run any number of times. Targets come from rustup where it can download them,
//! else from Debian's compiler (see `debian`); the emulator comes from the distribution.

mod debian;

use crate::board::{AARCH64, Board, CORE_TARGETS, EMULATED, QEMU_M4, USER_EMULATOR};
use crate::emulator;
use crate::process::capture;
use crate::toolchain::find;
use anyhow::{Result, bail};
use clap::Args;
use std::process::Command;

/// Oldest QEMU major version that has the boards and semihosting as they are used here.
const OLDEST_EMULATOR: u32 = 8;

/// Arguments of `setup`.
#[derive(Args, Clone, Copy, Default)]
pub(crate) struct Arguments {
    /// Only what `demo` and `generate --on qemu-m4` need: the Cortex-M4 target and its emulator
    #[arg(long)]
    pub(crate) minimal: bool,
}

/// Sets up what is missing and says what there is.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let targets: &[&str] = if arguments.minimal { &[QEMU_M4.target] } else { &CORE_TARGETS };
    let emulators: &[&str] =
        if arguments.minimal { &["qemu-system-arm"] } else { &["qemu-system-arm", "qemu-system-riscv32"] };
    add_targets(&missing_targets(targets));
    let (targets_left, emulators_left) = (missing_targets(targets), missing_emulators(emulators));
    if !targets_left.is_empty() || !emulators_left.is_empty() {
        if !debian::is_here() {
            bail!("{}", by_hand(&targets_left, &emulators_left));
        }
        debian::install(&targets_left, !emulators_left.is_empty())?;
    }
    for target in targets {
        let Some(toolchain) = find(target) else { bail!("{}", by_hand(&[target], &[])) };
        println!("{target:<30} {toolchain}");
    }
    for emulator in emulators {
        let Some(version) = emulator::version(emulator) else { bail!("{}", by_hand(&[], &[emulator])) };
        let boards: Vec<&str> =
            EMULATED.iter().filter(|board| runs_on(board, emulator)).map(|board| board.name).collect();
        println!("{emulator:<30} QEMU {version} for {}", boards.join(", "));
    }
    if !arguments.minimal {
        offer_aarch64();
    }
    Ok(())
}

fn runs_on(board: &Board, emulator: &str) -> bool {
    board.machine().is_some_and(|machine| machine.emulator == emulator)
}

/// What the tests of the kernels for AArch64 need; they are skipped without it.
fn offer_aarch64() {
    add_targets(&missing_targets(&[AARCH64]));
    let target = find(AARCH64).map_or("missing".to_owned(), |toolchain| toolchain.to_string());
    println!("{AARCH64:<30} {target}");
    let emulator = emulator::version(USER_EMULATOR);
    println!("{USER_EMULATOR:<30} {}", emulator.map_or("missing".to_owned(), |version| format!("QEMU {version}")));
}

fn missing_targets<'a>(targets: &[&'a str]) -> Vec<&'a str> {
    targets.iter().copied().filter(|target| find(target).is_none()).collect()
}

fn missing_emulators<'a>(emulators: &[&'a str]) -> Vec<&'a str> {
    let too_old = |name: &&str| emulator::version(name).is_none_or(|version| version < OLDEST_EMULATOR);
    emulators.iter().copied().filter(too_old).collect()
}

/// Lets rustup download the targets, if it can.
fn add_targets(targets: &[&str]) {
    if targets.is_empty() {
        return;
    }
    println!("adding {} with rustup", targets.join(", "));
    match capture(Command::new("rustup").args(["target", "add"]).args(targets)) {
        Ok(_) => {}
        Err(error) => {
            let error = error.to_string();
            let reason = error.lines().find_map(|line| line.split_once("error: "));
            println!("rustup cannot: {}", reason.map_or("it gave no reason", |(_, reason)| reason));
        }
    }
}

/// What a person has to do where we may not or cannot.
fn by_hand(targets: &[&str], emulators: &[&str]) -> String {
    let mut steps = Vec::new();
    if !targets.is_empty() {
        steps.push(format!("run `rustup target add {}` where the internet can be reached", targets.join(" ")));
    }
    if !emulators.is_empty() {
        steps.push(format!(
            "install QEMU {OLDEST_EMULATOR} or newer with {} (for instance `brew install qemu`, `dnf install qemu-system-arm qemu-system-riscv`)",
            emulators.join(" and ")
        ));
    }
    format!("something is missing that cannot be installed from here: {}", steps.join("; "))
}
