//! Cycles by LLVM's machine code analyzer, which knows the pipelines of the Cortex-M7, M33, M55 and M85.
//!
//! A block's cycles are its steady state: those of one turn when the block runs again and again, all branches predicted.
//! That is right for the loops, where the time goes, and near for a block that others follow. A hardware loop's own
//! instructions (`DLS`, `WLS`, `LE`, ...) take nothing, and the pause between two different blocks is not known.
//!
//! One LLVM release is used, because another one may model differently.

use crate::elf::Firmware;
use crate::emulator::Block;
use crate::process::capture;
use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

/// The LLVM release whose models are used.
const RELEASE: u32 = 22;
/// Turns of a block that one measurement takes.
const TURNS: u32 = 100;
/// What the analyzer has no model for and costs nothing: hardware loops.
const LOOP_INSTRUCTIONS: [&str; 7] = ["dls", "dlstp", "wls", "wlstp", "le", "letp", "lctp"];

/// The cycles of each span on the processor.
pub(super) fn cycles(processor: &str, firmware: &Firmware, spans: &[Vec<Block>]) -> Result<Vec<f64>> {
    let mut blocks: Vec<(u64, u64)> = spans.iter().flatten().map(|block| (block.address, block.len)).collect();
    blocks.sort_unstable();
    blocks.dedup();
    let text = disassemble(processor, firmware)?;
    let analyzed = analyze(processor, &assembly(&text, &blocks))?;
    let once = |block: &Block| analyzed.get(&name(block.address, block.len)).copied().unwrap_or(0.0);
    let span = |blocks: &Vec<Block>| blocks.iter().map(|block| once(block) * block.executions as f64).sum();
    Ok(spans.iter().map(span).collect())
}

fn name(address: u64, len: u64) -> String {
    format!("{address:x}+{len}")
}

/// One of LLVM's programs, under its release's name or without.
fn tool(program: &str) -> Result<Command> {
    let names = [format!("{program}-{RELEASE}"), program.to_owned()];
    let is_it = |name: &&String| {
        let version = capture(Command::new(name).arg("--version")).unwrap_or_default();
        version.contains(&format!("LLVM version {RELEASE}."))
    };
    let found = names.iter().find(is_it);
    found.map(Command::new).ok_or_else(|| anyhow!("{program} of LLVM {RELEASE} is not installed"))
}

/// The firmware's instructions by address.
fn disassemble(processor: &str, firmware: &Firmware) -> Result<BTreeMap<u64, String>> {
    let mut objdump = tool("llvm-objdump")?;
    objdump.args(["--disassemble", "--no-show-raw-insn", "--no-print-imm-hex"]).arg(format!("--mcpu={processor}"));
    let listing = capture(objdump.arg(&firmware.path))?;
    let instruction = |line: &str| {
        let (address, text) = line.split_once(':')?;
        let address = u64::from_str_radix(address.trim(), 16).ok()?;
        // Comments begin with `@`, the names of branches' targets with `<`.
        let text = text.split(['@', '<']).next().unwrap_or_default().trim();
        Some((address, without_target(text)))
    };
    Ok(listing.lines().filter_map(instruction).collect())
}

/// A branch to an address, which may be out of its reach in another place, becomes one to a name.
fn without_target(instruction: &str) -> String {
    match instruction.rsplit_once(char::is_whitespace) {
        Some((branch, target)) if target.starts_with("0x") => format!("{branch} target"),
        _ => instruction.to_owned(),
    }
}

/// The blocks as regions of the analyzer's input.
fn assembly(text: &BTreeMap<u64, String>, blocks: &[(u64, u64)]) -> String {
    let mut assembly = ".syntax unified\n.thumb\n".to_owned();
    for &(address, len) in blocks {
        let _ = writeln!(assembly, "# LLVM-MCA-BEGIN {}", name(address, len));
        for instruction in text.range(address..address + len).map(|(_, text)| text) {
            let mnemonic = instruction.split_whitespace().next().unwrap_or_default();
            if !LOOP_INSTRUCTIONS.contains(&mnemonic.split('.').next().unwrap_or_default()) {
                let _ = writeln!(assembly, "{instruction}");
            }
        }
        let _ = writeln!(assembly, "# LLVM-MCA-END");
    }
    assembly
}

/// Cycles of one turn, by region.
fn analyze(processor: &str, assembly: &str) -> Result<HashMap<String, f64>> {
    let folder = tempfile::tempdir()?;
    let input = folder.path().join("blocks.s");
    fs::write(&input, assembly)?;
    let mut mca = tool("llvm-mca")?;
    mca.args(["--mtriple=thumbv8.1m.main-none-eabi", "--json", "--call-latency=1"]);
    mca.args(["--skip-unsupported-instructions=lack-sched", &format!("--iterations={TURNS}")]);
    let report = capture(mca.arg(format!("--mcpu={processor}")).arg(&input))?;
    let report: Value = serde_json::from_str(&report).context("llvm-mca's report is unreadable")?;
    let Some(regions) = report["CodeRegions"].as_array() else { bail!("llvm-mca reported no regions") };
    let region = |region: &Value| {
        let cycles = region["SummaryView"]["TotalCycles"].as_f64()?;
        Some((region["Name"].as_str()?.to_owned(), cycles / f64::from(TURNS)))
    };
    regions.iter().map(region).collect::<Option<_>>().context("llvm-mca's report lacks a region's cycles")
}
