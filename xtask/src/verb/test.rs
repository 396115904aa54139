//! `test` and `ci`: every check and every test, with one closing line.

mod commands;
mod slots;

use super::{new_firmware, setup};
use crate::board::{AARCH64, Board, CORE_TARGETS, EMULATED, HARDWARE, QEMU_M4, USER_EMULATOR};
use crate::cycles::Model;
use crate::drawing::{self, FromChip, Wanted};
use crate::emulator::{self, Emulator};
use crate::images::write_whole;
use crate::places::{firmware_target_dir, root};
use crate::process::run as run_program;
use crate::remote::{Content, Place, Remote};
use crate::task::Task;
use crate::toolchain::{Toolchain, embedded_cargo, find};
use crate::{firmware, model_file};
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use mote_client::protocol::State;
use mote_core::{Resampling, selftest};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Longest time for the firmware's self-test.
const SELFTEST_LIMIT: Duration = Duration::from_secs(60);

/// The turns of the self-test's two loops, and the instructions of a turn.
const LOOP_TURNS: [u64; 2] = [1_000, 3_000];
const INSTRUCTIONS_A_TURN: u64 = 2;
/// Instructions, and modelled cycles, around a loop: the markers, and loading its length.
const AROUND_A_LOOP: u64 = 16;
/// Cycles of a turn by the Cortex-M4's table: two instructions and a taken branch's two more.
const M4_CYCLES_A_TURN: u64 = 4;

/// The model whose pictures are compared, once there is one, and with how many seeds.
const RELEASED_MODEL: &str = "firmware/models/demo.mote";
const SEEDS: u64 = 20;
/// The model for the smallest chips, and the bytes of flash and of RAM that it may take with all of its firmware.
const TINY_MODEL: &str = "firmware/models/tiny.mote";
const TINY_FLASH: u64 = 128_000;
const TINY_RAM: u64 = 20_000;
/// Seeds for the self-test's model.
const SEEDS_OF_SMALL_MODEL: u64 = 3;

/// The table of sizes: board, flash, RAM without the arena, stack.
const SIZES: &str = include_str!("../../../core/docs/size.md");
/// The same of the real boards: board, flash, RAM without the arena, both with the released model.
const BOARD_SIZES: &str = include_str!("../../../firmware/sizes.md");
/// The real boards' program that answers a host.
const SERVER: &str = "serve";
/// Another compiler's code may differ by one part in so many, and by so many bytes.
const SIZE_TOLERANCE: u64 = 25;
const SIZE_SLACK: u64 = 64;

/// Arguments of `test`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Run only the checks whose name contains this
    filter: Option<String>,
}

/// How many checks passed and failed so far.
struct Tally<'a> {
    filter: Option<&'a str>,
    passed: u32,
    skipped: u32,
    failed: Vec<String>,
}

/// What a check that did not fail says.
enum Verdict {
    Passed,
    /// It cannot run here, for this reason.
    Skipped(String),
}

/// Runs everything; the first failures do not stop the rest.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let mut tally = Tally { filter: arguments.filter.as_deref(), passed: 0, skipped: 0, failed: Vec::new() };
    setup::run(&setup::Arguments::default())?;
    tally.program("fmt", cargo(&["fmt", "--all", "--check"]));
    for workspace in ["firmware", "firmware/esp32c3"] {
        tally.program(&format!("fmt {workspace}"), cargo_in(workspace, &["fmt", "--all", "--check"]));
    }
    tally.program("clippy", cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-Dwarnings"]));
    let mut doc = cargo(&["doc", "--locked", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-Dwarnings");
    tally.program("doc", doc);
    for target in CORE_TARGETS {
        tally.check(&format!("core for {target}"), || build_core(target));
        tally.check(&format!("library use for {target}"), || check_library_use(target));
    }
    for board in &EMULATED {
        tally.check(&format!("firmware for {}", board.name), || build_firmware(board));
        tally.check(&format!("no panic on {}", board.name), || {
            firmware::prove_panic_free(board).map(|()| Verdict::Passed)
        });
        tally.check(&format!("size on {}", board.name), || size(board));
        tally.check(&format!("selftest on {}", board.name), || selftest(board));
        tally.check(&format!("the host's pictures on {}", board.name), || same_pictures(board));
        tally.check(&format!("a conversation with {}", board.name), || conversation(board));
        tally.check(&format!("slots on {}", board.name), || update(board));
    }
    tally.check(&format!("commands on {}", QEMU_M4.name), || commands(&QEMU_M4));
    for board in [&EMULATED[0], &EMULATED[4], &EMULATED[5]] {
        tally.check(&format!("clippy and doc for {}", board.name), || look_at_firmware(board));
    }
    let smallest = &EMULATED[1];
    tally.check(&format!("tiny on {}", smallest.name), || tiny(smallest));
    for board in &HARDWARE {
        tally.check(&format!("boards: {}", board.name), || build_real_board(board));
    }
    for board in [&EMULATED[0], &EMULATED[3], &EMULATED[5]] {
        tally.check(&format!("new-firmware: {}", board.name), || new_firmware(board));
    }
    tally.check("new-firmware: a real board", || new_real_firmware(&HARDWARE[1]));
    for features in ["+neon", "+dotprod"] {
        tally.check(&format!("kernels on AArch64 {features}"), || kernels_on_aarch64(features));
    }
    tally.program(
        "core's images",
        cargo(&["test", "--locked", "-p", "mote-core", "--features", "embedded-graphics", "--lib", "picture"]),
    );
    tally.program("cargo test", cargo(&["test", "--locked", "--workspace", "--no-fail-fast"]));
    tally.finish(started)
}

impl Tally<'_> {
    fn program(&mut self, name: &str, mut command: Command) {
        self.check(name, || run_program(&mut command).map(|()| Verdict::Passed));
    }

    fn check(&mut self, name: &str, check: impl FnOnce() -> Result<Verdict>) {
        if self.filter.is_some_and(|filter| !name.contains(filter)) {
            return;
        }
        let started = Instant::now();
        println!("--- {name}");
        let verdict = match check() {
            Ok(Verdict::Passed) => {
                self.passed += 1;
                "ok".to_owned()
            }
            Ok(Verdict::Skipped(reason)) => {
                self.skipped += 1;
                format!("SKIPPED: {reason}")
            }
            Err(error) => {
                self.failed.push(name.to_owned());
                format!("FAILED: {error:#}")
            }
        };
        println!("--- {name}: {verdict} ({:.0} s)", started.elapsed().as_secs_f64());
    }

    fn finish(self, started: Instant) -> Result<()> {
        if let Some(filter) = self.filter.filter(|_| self.passed + self.skipped == 0 && self.failed.is_empty()) {
            bail!("no check's name contains {filter}: leave the filter out to see them all");
        }
        let (passed, failed, skipped) = (self.passed, self.failed.len(), self.skipped);
        println!("total time {:.0} s", started.elapsed().as_secs_f64());
        println!(
            "{passed} passed, {failed} failed{}",
            if skipped > 0 { format!(", {skipped} skipped") } else { String::new() }
        );
        if failed > 0 {
            bail!("failed: {}: see their messages above", self.failed.join(", "));
        }
        Ok(())
    }
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root()).args(arguments);
    command
}

fn cargo_in(workspace: &str, arguments: &[&str]) -> Command {
    let mut command = cargo(arguments);
    command.current_dir(root().join(workspace));
    command
}

fn build_core(target: &str) -> Result<Verdict> {
    let mut command = embedded_cargo(target)?;
    command.current_dir(root()).args(["build", "--quiet", "--locked", "-p", "mote-core", "--target", target]);
    run_program(command.arg("--target-dir").arg(firmware_target_dir()))?;
    Ok(Verdict::Passed)
}

/// Every form of the call, in a firmware of one's own.
fn check_library_use(target: &str) -> Result<Verdict> {
    let mut command = embedded_cargo(target)?;
    command.current_dir(root().join("firmware"));
    command.args(["check", "--quiet", "--locked", "-p", "library-use", "--target", target]);
    run_program(command.arg("--target-dir").arg(firmware_target_dir()))?;
    Ok(Verdict::Passed)
}

/// Core's tests of kernels in QEMU's user mode. The target brings its own C library and needs no linker but Rust's.
fn kernels_on_aarch64(features: &str) -> Result<Verdict> {
    if emulator::version(USER_EMULATOR).is_none() {
        return Ok(Verdict::Skipped(format!("{USER_EMULATOR} is not installed")));
    }
    if find(AARCH64) != Some(Toolchain::Host) {
        return Ok(Verdict::Skipped(format!("{AARCH64} is not installed: `rustup target add {AARCH64}`")));
    }
    let mut command = embedded_cargo(AARCH64)?;
    command.current_dir(root()).args(["test", "--quiet", "--locked", "-p", "mote-core", "--lib", "--target", AARCH64]);
    command.arg("--target-dir").arg(firmware_target_dir()).args(["--", "parity", "selftest"]);
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
    command.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUNNER", USER_EMULATOR);
    run_program(command.env("RUSTFLAGS", format!("-Ctarget-feature={features}")))?;
    Ok(Verdict::Passed)
}

fn build_firmware(board: &Board) -> Result<Verdict> {
    let firmware = firmware::build(board, "generate")?;
    println!("flash {} bytes, RAM {} bytes", firmware.flash, firmware.ram);
    Ok(Verdict::Passed)
}

/// Clippy and rustdoc have nothing to say of the emulated boards' packages. Those of the real boards are built with clippy.
fn look_at_firmware(board: &Board) -> Result<Verdict> {
    if !find(board.target).is_some_and(|toolchain| toolchain.has_clippy()) {
        return Ok(Verdict::Skipped(format!("clippy is not installed for {}", board.target)));
    }
    firmware::look_at(board).map(|()| Verdict::Passed)
}

/// The chip draws the host's bytes: some seeds, all classes.
fn same_pictures(board: &'static Board) -> Result<Verdict> {
    if !is_here(board) {
        return Ok(not_installed(board));
    }
    let folder = tempfile::tempdir()?;
    let released = root().join(RELEASED_MODEL);
    let (path, seeds) = if *board == QEMU_M4 && released.exists() {
        (released, SEEDS)
    } else {
        (small_model(folder.path())?, SEEDS_OF_SMALL_MODEL)
    };
    let model = model_file::read(&path)?;
    for seed in 0..seeds {
        let wanted = Wanted { seed, samples: 0..u64::from(model.classes()), ..Wanted::default() };
        let chip = drawing::on_chip(board, &path, &wanted)?;
        if chip.samples != drawing::on_host(&model, &wanted)? {
            bail!("seed {seed} of {}: the chip's pixels differ from the host's", model.name());
        }
    }
    println!("{}: {seeds} seeds, {} classes, the same bytes", model.name(), model.classes());
    Ok(Verdict::Passed)
}

/// The board answers on its serial port: who it is, every request with the host's bytes, a benchmark, a cancel, its self-test.
fn conversation(board: &'static Board) -> Result<Verdict> {
    if !is_here(board) {
        return Ok(not_installed(board));
    }
    let folder = tempfile::tempdir()?;
    let path = small_model(folder.path())?;
    let model = model_file::read(&path)?;
    let place = Place::Emulated(board);
    let picture: Vec<u8> = (0..model.sample_len()).map(|i| (7 * i) as u8).collect();
    let mask: Vec<u8> = (0..model.sample_len()).map(|i| (i % 3) as u8).collect();
    for task in [
        Task::Whole,
        Task::From(picture.clone(), 1),
        Task::Interpolate(9, 0..2),
        Task::Inpaint(picture, mask, Resampling::default()),
    ] {
        let wanted = Wanted { seed: 5, samples: 0..2, class: Some(1), task };
        if drawing::on_board(&place, &path, &wanted)? != drawing::on_host(&model, &wanted)? {
            bail!("the board's pixels differ from the host's: {:?}", wanted.task);
        }
    }
    let mut remote = Remote::connect(&place, Content::Model(&path), place.timing())?;
    let name = remote.client.identify()?.board.to_owned();
    if name != board.name {
        bail!("{} says that it is {name}", board.name);
    }
    let measured = remote.ask(|client| client.benchmark(2, |_| ()))?;
    if measured.seconds_per_sample <= 0.0 || measured.longest_layer > measured.seconds_per_sample {
        bail!("the board's clock is broken: {measured:?}");
    }
    remote.ask(|client| client.begin_benchmark(u16::MAX))?;
    remote.ask(|client| client.cancel())?;
    let state = remote.ask(|client| client.status())?.state;
    if state != State::Cancelled {
        bail!("a cancelled job is {state:?}");
    }
    let hash = remote.ask(|client| client.selftest())?;
    println!("{name}: {measured:?}, self-test {hash:08x}");
    if hash != selftest::EXPECTED {
        Err(anyhow!("the host's self-test gives {:08x}", selftest::EXPECTED))
    } else {
        Ok(Verdict::Passed)
    }
}

/// A model is replaced while the board draws, and a cut of power leaves the old one.
fn update(board: &'static Board) -> Result<Verdict> {
    if !is_here(board) {
        return Ok(not_installed(board));
    }
    let folder = tempfile::tempdir()?;
    slots::check(board, &root().join(RELEASED_MODEL), &small_model(folder.path())?)?;
    Ok(Verdict::Passed)
}

/// What the manual has users type, one command after the other.
fn commands(board: &'static Board) -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    commands::check(board, &root().join(RELEASED_MODEL), &small_model(folder.path())?)?;
    Ok(Verdict::Passed)
}

/// What `generate` takes stays what the table of sizes says, and its stack is measured.
fn size(board: &'static Board) -> Result<Verdict> {
    if !is_here(board) {
        return Ok(not_installed(board));
    }
    let folder = tempfile::tempdir()?;
    let path = small_model(folder.path())?;
    let drawn = drawing::on_chip(board, &path, &Wanted { seed: 1, samples: 0..1, ..Wanted::default() })?;
    compare_sizes(SIZES, "core/docs/size.md", board, &taken(&drawn)?)?;
    Ok(Verdict::Passed)
}

/// Flash, RAM without the arena and stack of firmware that drew.
fn taken(drawn: &FromChip) -> Result<[u64; 3]> {
    let stack = drawn.log.iter().find_map(|line| line.strip_prefix("info: stack "));
    let stack: u64 = stack.context("the chip did not log its stack")?.parse()?;
    Ok([drawn.firmware.flash, drawn.firmware.ram - drawn.firmware.arena_capacity()?, stack])
}

/// The smallest released model draws the host's pictures, and fits a chip of the smallest kind with its firmware.
fn tiny(board: &'static Board) -> Result<Verdict> {
    if !is_here(board) {
        return Ok(not_installed(board));
    }
    let path = root().join(TINY_MODEL);
    let model = model_file::read(&path)?;
    let wanted = Wanted { seed: 1, samples: 0..1, ..Wanted::default() };
    let (chip, host) = (drawing::on_chip(board, &path, &wanted)?, drawing::on_host(&model, &wanted)?);
    if chip.samples.pixels != host.pixels {
        bail!("{TINY_MODEL}: the chip's picture differs from the host's");
    }
    let [firmware, statics, stack] = taken(&chip)?;
    let (flash, ram) = (firmware + model.bytes().len() as u64, statics + stack + model.arena_len() as u64);
    println!("{flash} bytes of flash, {ram} of RAM, everything counted");
    if flash > TINY_FLASH || ram > TINY_RAM {
        bail!("{TINY_MODEL} and its firmware may take {TINY_FLASH} bytes of flash and {TINY_RAM} of RAM");
    }
    Ok(Verdict::Passed)
}

/// A board's row of a table of sizes says what was measured, as near as two compilers come to each other.
fn compare_sizes(table: &str, name: &str, board: &Board, measured: &[u64]) -> Result<()> {
    let cells: Vec<String> = measured.iter().map(u64::to_string).collect();
    println!("| {} | {} |", board.name, cells.join(" | "));
    let recorded = table.lines().find_map(|line| line.strip_prefix(&format!("| {} |", board.name)));
    let recorded =
        recorded.with_context(|| format!("{name} has no row for {}: put the line above there", board.name))?;
    let recorded: Vec<u64> = recorded.split('|').filter_map(|cell| cell.trim().parse().ok()).collect();
    let fits = |(&now, &then): (&u64, &u64)| now.abs_diff(then) <= then / SIZE_TOLERANCE + SIZE_SLACK;
    if recorded.len() != measured.len() || !measured.iter().zip(&recorded).all(fits) {
        bail!("{name} says {recorded:?}: if the change is meant, put the line above there");
    }
    Ok(())
}

/// All programs of a real board build, and the server takes what the table of sizes says.
fn build_real_board(board: &Board) -> Result<Verdict> {
    for program in firmware::programs(board)? {
        if program != SERVER {
            firmware::build_with_clippy(board, &program)?;
        }
    }
    let server = firmware::build_with_clippy(board, SERVER)?;
    let model = model_file::read(&root().join(RELEASED_MODEL))?;
    let (flash, ram) = (server.flash, server.ram - server.arena_capacity()?);
    let with_model = [flash + model.bytes().len() as u64, ram + model.arena_len() as u64];
    compare_sizes(BOARD_SIZES, "firmware/sizes.md", board, &[flash, ram, with_model[0], with_model[1]])?;
    Ok(Verdict::Passed)
}

/// A new project for an emulated board builds and draws the host's bytes.
fn new_firmware(board: &'static Board) -> Result<Verdict> {
    if !is_here(board) {
        return Ok(not_installed(board));
    }
    let folder = tempfile::tempdir()?;
    let (out, path) = (folder.path().join("mine"), root().join(RELEASED_MODEL));
    new_firmware::run(&new_firmware::Arguments { board, out: out.clone(), model: path.clone() })?;
    let mut command = embedded_cargo(board.target)?;
    command.current_dir(&out).args(["run", "--quiet", "--release", "--target-dir"]);
    run_program(command.arg(firmware::target_dir(board).join("new-firmware")))?;
    let model = model_file::read(&path)?;
    let host = drawing::on_host(&model, &Wanted { seed: 1, samples: 0..1, class: Some(0), ..Wanted::default() })?;
    let head = format!("P5\n{} {}\n255\n", model.width(), model.height());
    if fs::read(out.join("picture.pgm"))? != [head.as_bytes(), &host.pixels].concat() {
        bail!("the new project's picture differs from the host's");
    }
    Ok(Verdict::Passed)
}

/// A new project for a real board builds.
fn new_real_firmware(board: &'static Board) -> Result<Verdict> {
    let folder = tempfile::tempdir()?;
    let out = folder.path().join("mine");
    new_firmware::run(&new_firmware::Arguments { board, out: out.clone(), model: root().join(RELEASED_MODEL) })?;
    let mut command = embedded_cargo(board.target)?;
    command.current_dir(&out).args(["build", "--quiet", "--profile", "small", "--bins", "--target-dir"]);
    run_program(command.arg(firmware::target_dir(board)))?;
    Ok(Verdict::Passed)
}

/// The model of the self-test, as a file.
fn small_model(folder: &Path) -> Result<PathBuf> {
    let mut file = [0; 8192];
    let model = selftest::write_model(&mut file).context("the self-test's model cannot be written")?;
    let path = folder.join("small.mote");
    write_whole(&path, model.bytes())?;
    Ok(path)
}

fn is_here(board: &Board) -> bool {
    // Without the first board's emulator the checks fail, not only skip.
    *board == QEMU_M4 || board.machine().is_some_and(|machine| emulator::version(machine.emulator).is_some())
}

fn not_installed(board: &Board) -> Verdict {
    Verdict::Skipped(format!("the emulator of {} is not installed", board.name))
}

/// The chip computes the host's bits, and the instruction counter counts what runs.
fn selftest(board: &'static Board) -> Result<Verdict> {
    if !is_here(board) {
        return Ok(not_installed(board));
    }
    let host = selftest::run().map_err(|error| anyhow!("the host itself fails: {error:?}"))?;
    let firmware = firmware::build(board, "selftest")?;
    let folder = tempfile::tempdir()?;
    let emulator = Emulator::new(board)?.with_blocks();
    let outcome = emulator.run(&firmware, None, &[], folder.path(), SELFTEST_LIMIT, || ())?.succeeded()?;
    println!("{}: {}", board.processor, outcome.log.join("; "));
    let expected = format!("info: PASS {host:08x}");
    if !outcome.log.contains(&expected) {
        bail!("the chip's log lacks the line `{expected}`");
    }
    match outcome.counts {
        None => println!("instructions not counted: that needs QEMU 9 or newer"),
        Some(counts) => {
            check_loops(&counts, INSTRUCTIONS_A_TURN).context("instructions")?;
            if *board == QEMU_M4 {
                let cycles = Model::CortexM4Table.cycles(&firmware, &outcome.blocks)?;
                let cycles: Vec<u64> = cycles.into_iter().map(|cycles| cycles as u64).collect();
                check_loops(&cycles, M4_CYCLES_A_TURN).context("modelled cycles")?;
            }
        }
    }
    Ok(Verdict::Passed)
}

/// The self-test's loops cost so much a turn, and little more around them.
fn check_loops(costs: &[u64], a_turn: u64) -> Result<()> {
    let exact = |(&cost, turns): (&u64, u64)| {
        let in_loop = a_turn * turns;
        (in_loop..in_loop + AROUND_A_LOOP).contains(&cost)
    };
    if costs.len() != LOOP_TURNS.len() || !costs.iter().zip(LOOP_TURNS).all(exact) {
        bail!("loops of {LOOP_TURNS:?} turns that cost {a_turn} each were counted as {costs:?}");
    }
    Ok(())
}
