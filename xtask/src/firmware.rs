//! Building the firmware.

use crate::board::Board;
use crate::elf::Firmware;
use crate::places::{firmware_target_dir, root};
use crate::process::{capture, run};
use crate::toolchain::{embedded_cargo, find};
use anyhow::{Context, Result, bail};
use ed25519_compact::PublicKey;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

/// The symbol that a program needs if it can panic: see `firmware/panic-free`.
const PANIC: &str = "mote_core_can_panic";

/// How a program is compiled: a profile of the firmware's workspace, which says what for.
#[derive(Clone, Copy, Debug)]
enum Profile {
    Release,
    Small,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Small => "small",
        }
    }

    fn of(board: &Board, program: &str) -> Self {
        if matches!(program, "generate" | "device") || board.machine().is_none() {
            Profile::Small
        } else {
            Profile::Release
        }
    }
}

/// Builds one program of a board's firmware and reads its ELF file.
pub(crate) fn build(board: &Board, program: &str) -> Result<Firmware> {
    build_with_key(board, program, None)
}

/// The same firmware, which takes models only if they are signed with this key.
pub(crate) fn build_with_key(board: &Board, program: &str, key: Option<&PublicKey>) -> Result<Firmware> {
    let mut cargo = cargo_build(board, Profile::of(board, program))?;
    if let Some(key) = key {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        cargo.args(["--features", "mote-device/ed25519"]).env("MOTE_PUBLIC_KEY", hex);
    }
    finish(board, program, &mut cargo)
}

fn finish(board: &Board, program: &str, cargo: &mut Command) -> Result<Firmware> {
    run(cargo.args(["--bin", program])).with_context(|| format!("the firmware for {} does not build", board.name))?;
    let profile = Profile::of(board, program);
    let built = target_dir(board).join(board.target).join(profile.name()).join(program);
    if board.machine().is_some() {
        return Firmware::read(&built);
    }
    // Real boards that share a target share the name of the file too.
    let own = target_dir(board).join(format!("{}-{program}", board.name));
    fs::copy(&built, &own).with_context(|| format!("cannot copy {}", built.display()))?;
    Firmware::read(&own)
}

/// Builds one program as [`build`] does, with clippy as the compiler of our own packages: it compiles as rustc does, looks at more,
/// and its warnings are errors. What others wrote is compiled once for both. Without clippy, nothing is looked at.
pub(crate) fn build_with_clippy(board: &Board, program: &str) -> Result<Firmware> {
    let mut cargo = cargo_build(board, Profile::of(board, program))?;
    if find(board.target).is_some_and(|toolchain| toolchain.has_clippy()) {
        cargo.env("RUSTC_WORKSPACE_WRAPPER", "clippy-driver").env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
    } else {
        println!("clippy is not installed for {}", board.target);
    }
    finish(board, program, &mut cargo)
}

/// The names of the programs of a board's package.
pub(crate) fn programs(board: &Board) -> Result<Vec<String>> {
    let folder = root().join("firmware").join(board.package).join("src/bin");
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let name = |path: PathBuf| path.file_stem().map(|name| name.to_string_lossy().into_owned());
    let mut names: Vec<String> = entries.flatten().filter_map(|entry| name(entry.path())).collect();
    names.sort_unstable();
    Ok(names)
}

/// Links a program that does all of core's work on a chip and that cannot be linked if any of it may panic. Then links it
/// with a panic put in, which must fail, or the first proves nothing.
pub(crate) fn prove_panic_free(board: &Board) -> Result<()> {
    // A compiler that saves code proves less: one profile says nothing of the other.
    for profile in [Profile::Release, Profile::Small] {
        prove_panic_free_in(board, profile).with_context(|| format!("profile {}", profile.name()))?;
    }
    Ok(())
}

fn prove_panic_free_in(board: &Board, profile: Profile) -> Result<()> {
    let link =
        |arguments: &[&str]| capture(cargo_build(board, profile)?.args(["--package", "panic-free"]).args(arguments));
    link(&[])
        .context("core can panic, or the program does not build: firmware/panic-free says how to find the panic")?;
    match link(&["--features", "panic"]) {
        Err(error) if error.to_string().contains(PANIC) => Ok(()),
        Err(error) => Err(error.context("with a panic put in, linking fails for another reason")),
        Ok(_) => bail!("firmware/panic-free links although a panic was put in"),
    }
}

/// Denies what clippy and rustdoc warn of in the packages that are built for an emulated board.
pub(crate) fn look_at(board: &Board) -> Result<()> {
    let packages = ["-p", "qemu-m4", "-p", "library-use", "-p", "panic-free"];
    run(cargo(board, "clippy")?.args(packages).args(["--", "-Dwarnings"]))?;
    run(cargo(board, "doc")?.args(packages).arg("--no-deps").env("RUSTDOCFLAGS", "-Dwarnings"))
}

/// Each emulated board has its own folder: two that share a target do not share its compiler flags. The real ones have one:
/// what their many dependencies run while compiling is built once.
pub(crate) fn target_dir(board: &Board) -> PathBuf {
    firmware_target_dir().join(board.machine().map_or("boards", |_| board.name))
}

fn cargo_build(board: &Board, profile: Profile) -> Result<Command> {
    let mut cargo = cargo(board, "build")?;
    cargo.args(["--profile", profile.name()]);
    Ok(cargo)
}

/// One of cargo's verbs for a board's package.
fn cargo(board: &Board, verb: &str) -> Result<Command> {
    let mut cargo = embedded_cargo(board.target)?;
    // There cargo finds the workspace: the firmware's or the package's own.
    cargo.current_dir(root().join("firmware").join(board.package));
    cargo.args([verb, "--quiet", "--locked", "--target", board.target, "--target-dir"]);
    cargo.arg(target_dir(board));
    if let Some(cpu) = board.cpu {
        cargo.env("RUSTFLAGS", format!("-Ctarget-cpu={cpu}"));
    }
    Ok(cargo)
}
