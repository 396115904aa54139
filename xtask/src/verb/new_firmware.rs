//! `new-firmware`: a stand-alone project for a board.
//!
//! For an emulated board it is a program of one page that draws a picture, from the templates in `xtask/template`. For a real
//! one it is that board's package, with its dependencies' paths rewritten. Either is a workspace of its own, wherever it lies,
//! and needs of this repository only the crates that it depends on.

use crate::UsageError;
use crate::board::{Board, Machine, Memory, Programmer, boards};
use crate::model_file;
use crate::places::root;
use anyhow::{Context, Result, bail};
use clap::Args;
use std::fs;
use std::path::{Path, PathBuf};

const MANIFEST: &str = include_str!("../../template/Cargo.toml.in");
const BUILD: &str = include_str!("../../template/build.rs");
const MAIN: &str = include_str!("../../template/src/main.rs");
const COPROCESSOR: &str = include_str!("../../template/src/coprocessor.rs");

/// The line of [`MAIN`] after which modules are named.
const NO_MAIN: &str = "#![no_main]\n";

/// Arguments of `new-firmware`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The board: an emulated one (qemu-m4, ...) or a real one (rp2350, ...)
    #[arg(long, value_parser = board, value_name = "BOARD")]
    pub(crate) board: &'static Board,
    /// The folder to make: it must not be there yet
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// The model that an emulated board's program draws with
    #[arg(long, value_name = "FILE", default_value = "firmware/models/demo.mote")]
    pub(crate) model: PathBuf,
}

fn board(word: &str) -> Result<&'static Board, String> {
    let names: Vec<&str> = boards().map(|board| board.name).collect();
    boards().find(|board| board.name == word).ok_or_else(|| format!("possible boards are {}", names.join(", ")))
}

/// Makes the project and says how to run it.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { board, out, model } = arguments;
    if out.exists() {
        return Err(UsageError(format!("{} is already there: name a folder to make", out.display())).into());
    }
    match board.machine() {
        Some(machine) => emulated(board, machine, model, out)?,
        None => real(board, out)?,
    }
    write(&out.join("rust-toolchain.toml"), &toolchain(board))?;
    write(&out.join("README.md"), &readme(board))?;
    write(&out.join(".gitignore"), "/target\n")?;
    println!("made {}: its README.md says how to run it", out.display());
    Ok(())
}

fn emulated(board: &Board, machine: &Machine, model: &Path, out: &Path) -> Result<()> {
    let parsed = model_file::read(model)?;
    let name = out.file_name().map(|name| name.to_string_lossy()).context("--out must end with the project's name")?;
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        || !name.starts_with(char::is_alphabetic)
    {
        return Err(UsageError(format!("{name} is no name for a package: use letters, digits, - and _")).into());
    }
    let manifest = MANIFEST.replace("{name}", &name).replace("{repository}", &repository()?);
    write(&out.join("Cargo.toml"), &manifest)?;
    write(&out.join("build.rs"), BUILD)?;
    write(&out.join("memory.x"), &layout(board))?;
    let main = match board.cpu {
        Some(_) => MAIN.replace(NO_MAIN, &format!("{NO_MAIN}\nmod coprocessor;\n")),
        None => MAIN.to_owned(),
    };
    write(&out.join("src/main.rs"), &main)?;
    if board.cpu.is_some() {
        write(&out.join("src/coprocessor.rs"), COPROCESSOR)?;
    }
    let options = machine.options.join(" ");
    let runner = format!(
        "{} -machine {} {options} -display none -monitor none -serial none -semihosting-config enable=on,target=native -kernel",
        machine.emulator, machine.name
    );
    write(&out.join(".cargo/config.toml"), &settings(board, &runner, ""))?;
    fs::write(out.join("model.mote"), parsed.bytes()).context("cannot write the model")
}

/// The memory layout: the program and the model in it share the flash as far as it is in one piece.
fn layout(board: &Board) -> String {
    let Memory { firmware, slots, ram, .. } = board.memory;
    let flash = if firmware.end() == u64::from(slots.start) { firmware.len + slots.len } else { firmware.len };
    let mut text = format!(
        "/* {} */\nMEMORY\n{{\n  FLASH : ORIGIN = {:#010x}, LENGTH = {}K\n  RAM : ORIGIN = {:#010x}, LENGTH = {}K\n}}\n",
        board.processor,
        firmware.start,
        flash / 1024,
        ram.start,
        ram.len / 1024
    );
    if board.target.starts_with("riscv") {
        for (alias, region) in
            [("TEXT", "FLASH"), ("RODATA", "FLASH"), ("DATA", "RAM"), ("BSS", "RAM"), ("HEAP", "RAM"), ("STACK", "RAM")]
        {
            text += &format!("REGION_ALIAS(\"REGION_{alias}\", {region});\n");
        }
    }
    text
}

fn real(board: &Board, out: &Path) -> Result<()> {
    let package = root().join("firmware").join(board.package);
    copy(&package, out)?;
    let manifest = fs::read_to_string(package.join("Cargo.toml"))?;
    write(&out.join("Cargo.toml"), &stand_alone(&manifest, &package)?)?;
    let own_lock = package.join("Cargo.lock");
    let lock = if own_lock.exists() { own_lock } else { root().join("firmware/Cargo.lock") };
    fs::copy(lock, out.join("Cargo.lock")).context("cannot copy the versions of the dependencies")?;
    if !out.join("build.rs").exists() {
        fs::copy(root().join("firmware/build.rs"), out.join("build.rs")).context("cannot copy build.rs")?;
    }
    let (runner, environment) = match &board.programmer {
        Programmer::Probe { chip } | Programmer::Uf2 { chip, .. } => (
            format!("probe-rs run --chip {chip}"),
            "\n# defmt reads its filter when the firmware is compiled.\n[env]\nDEFMT_LOG = \"info\"\n",
        ),
        Programmer::Espflash { chip } => {
            (format!("espflash flash --chip {chip} --partition-table partitions.csv --monitor"), "")
        }
        Programmer::Emulator(_) => bail!("{} is emulated", board.name),
    };
    write(&out.join(".cargo/config.toml"), &settings(board, &runner, environment))
}

/// A package's manifest as it is outside of the repository's workspace.
fn stand_alone(manifest: &str, package: &Path) -> Result<String> {
    let mut text = String::new();
    for line in manifest.lines().filter(|line| !line.starts_with("build = ")) {
        match line.split_once("path = \"").and_then(|(before, rest)| Some((before, rest.split_once('"')?))) {
            Some((before, (path, after))) => {
                let path = package.join(path).canonicalize().with_context(|| format!("{line}: no such folder"))?;
                text += &format!("{before}path = \"{}\"{after}\n", path.display());
            }
            None => text += &format!("{line}\n"),
        }
    }
    if !text.contains("[workspace]") {
        text += "\n[workspace]\n\n[profile.small]\ninherits = \"release\"\nopt-level = \"s\"\nlto = \"fat\"\ncodegen-units = 1\npanic = \"abort\"\n";
    }
    Ok(text)
}

/// Copies what git would: sources, not what cargo made.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    for entry in fs::read_dir(from)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if name == "target" || name == "Cargo.lock" {
            continue;
        }
        if path.is_dir() {
            copy(&path, &to.join(name))?;
        } else {
            fs::copy(&path, to.join(name)).with_context(|| format!("cannot copy {}", path.display()))?;
        }
    }
    Ok(())
}

/// `.cargo/config.toml`.
fn settings(board: &Board, runner: &str, more: &str) -> String {
    let target = board.target;
    let flags = board.cpu.map_or(String::new(), |cpu| format!("rustflags = [\"-Ctarget-cpu={cpu}\"]\n"));
    format!("[build]\ntarget = \"{target}\"\n\n[target.{target}]\nrunner = \"{runner}\"\n{flags}{more}")
}

/// With rustup, cargo then downloads the target by itself.
fn toolchain(board: &Board) -> String {
    format!("[toolchain]\nchannel = \"stable\"\ntargets = [\"{}\"]\n", board.target)
}

fn readme(board: &Board) -> String {
    let run = match board.machine() {
        Some(machine) => format!(
            "```sh\ncargo run --release      # needs {}\n```\n\nIt draws a picture in the terminal and writes `picture.pgm`. The model is `model.mote`.\n",
            machine.emulator
        ),
        None => {
            let how = match board.programmer {
                Programmer::Espflash { .. } => "espflash",
                _ => "a debug probe and probe-rs",
            };
            format!(
                "```sh\ncargo build --profile small --bins\ncargo run --profile small --bin selftest   # by {how}\ncargo run --profile small --bin serve\n```\n\n`selftest` says PASS and a hash on the serial port; `serve` draws what a host asks for with the model in flash, which\n`cargo xtask flash --board {} --model-only` puts there.\n",
                board.name
            )
        }
    };
    format!("# Mote on {}\n\n{run}", board.processor)
}

/// The repository's path, as a manifest takes it on every system.
fn repository() -> Result<String> {
    Ok(root().canonicalize()?.to_string_lossy().replace('\\', "/"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::HARDWARE;

    #[test]
    fn a_real_board_s_project_names_no_folder_beside_it() {
        for board in &HARDWARE {
            let folder = tempfile::tempdir().unwrap();
            let out = folder.path().join("mine");
            run(&Arguments { board, out: out.clone(), model: PathBuf::new() }).unwrap();
            let manifest = fs::read_to_string(out.join("Cargo.toml")).unwrap();
            assert!(!manifest.contains("\"../") && manifest.contains("[workspace]"), "{manifest}");
            for file in ["build.rs", "src/bin/serve.rs", "src/bin/selftest.rs", "Cargo.lock", ".cargo/config.toml"] {
                assert!(out.join(file).exists(), "{}: {file}", board.name);
            }
        }
    }

    #[test]
    fn a_folder_that_is_there_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().to_owned();
        let error = run(&Arguments { board: &HARDWARE[0], out, model: PathBuf::new() }).unwrap_err();
        assert!(error.is::<UsageError>());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
