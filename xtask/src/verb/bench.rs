//! `bench kernels`: what each kernel costs, beside what others measured. `core/docs/kernels.md` says how it is counted.
//! `bench train` is mote-train's.

mod host;
mod peer;
mod table;

use crate::board::{Board, EMULATED, QEMU_M4};
use crate::cycles::Model;
use crate::elf::Firmware;
use crate::emulator::{Block, Emulator};
use crate::firmware;
use crate::verb::training;
use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use peer::Peer;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest time for the whole bench in the emulator.
const LIMIT: Duration = Duration::from_secs(120);

/// This machine's name on our command line.
const HOST: &str = "host";

/// Arguments of `bench`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Cost of each kernel on the shapes that CMSIS-NN was measured on
    Kernels(Kernels),
    /// Time training steps, with --peer beside PyTorch's (passed on to mote-train)
    Train(training::Arguments),
}

#[derive(Args)]
struct Kernels {
    /// Where the kernels run: an emulated board, or `host`
    #[arg(long, value_name = "BOARD", default_value = QEMU_M4.name, value_parser = places())]
    on: String,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
    /// Also print each kernel's functions and their share of its instructions
    #[arg(long, conflicts_with = "json")]
    functions: bool,
}

fn places() -> Vec<&'static str> {
    EMULATED.iter().map(|board| board.name).chain([HOST]).collect()
}

/// What was measured in one place.
struct Report {
    target: &'static str,
    processor: &'static str,
    quantity: Quantity,
    /// The models that gave cycles, in the order of [`Row::cycles`].
    models: Vec<Model>,
    /// Why other models gave none.
    notes: Vec<String>,
    rows: Vec<Row>,
}

/// What the figures count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantity {
    Instructions,
    /// The smallest of many runs.
    Nanoseconds,
}

/// One kernel on one shape.
#[derive(Clone, Debug)]
struct Row {
    op: String,
    shape: String,
    /// Multiply-accumulates, or elements.
    work: u64,
    scratch_bytes: u64,
    /// The row whose cost [`take_off`] takes off, `OP SHAPE`, or nothing.
    beyond: String,
    /// Instructions or nanoseconds.
    amount: u64,
    cycles: Vec<f64>,
    /// The functions that ran, those with most instructions first.
    functions: Vec<(String, u64)>,
    peer: Option<Peer>,
}

/// Runs the bench.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let kernels = match &arguments.what {
        What::Kernels(kernels) => kernels,
        What::Train(arguments) => return training::run("bench", arguments),
    };
    let report = match EMULATED.iter().find(|board| board.name == kernels.on) {
        Some(board) => measure(board)?,
        None => host::measure()?,
    };
    if kernels.json {
        let rows: Vec<Value> = report.rows.iter().map(|row| row.json(report.target, report.quantity)).collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        table::print(&report);
        if kernels.functions {
            report.rows.iter().for_each(table::print_functions);
        }
    }
    Ok(())
}

fn measure(board: &'static Board) -> Result<Report> {
    let firmware = firmware::build(board, "bench")?;
    let folder = tempfile::tempdir()?;
    let emulator = Emulator::new(board)?.with_blocks();
    let outcome = emulator.run(&firmware, None, &[], folder.path(), LIMIT, || ())?.succeeded()?;
    let counts =
        outcome.counts.ok_or_else(|| anyhow!("instructions are counted from QEMU 9 on: install a newer one"))?;
    let cases: Vec<&str> = outcome.log.iter().filter_map(|line| line.strip_prefix("info: case ")).collect();
    if cases.len() != counts.len() {
        bail!("the chip logged {} cases but {} were counted", cases.len(), counts.len());
    }
    let (mut models, mut notes, mut cycles) = (Vec::new(), Vec::new(), vec![Vec::new(); counts.len()]);
    for &model in Model::of(board) {
        match model.cycles(&firmware, &outcome.blocks) {
            Ok(spans) => {
                models.push(model);
                cycles.iter_mut().zip(spans).for_each(|(cycles, more)| cycles.push(more));
            }
            Err(error) => {
                let reason = format!("{error:#}");
                notes.push(format!("no cycles by {model}: {}", reason.lines().next().unwrap_or_default()));
            }
        }
    }
    let mut rows = Vec::new();
    for ((case, count), cycles) in cases.into_iter().zip(counts).zip(cycles) {
        rows.push(row(case, count, cycles)?);
    }
    for (row, blocks) in rows.iter_mut().zip(&outcome.blocks) {
        row.functions = functions(&firmware, blocks);
    }
    take_off(&mut rows)?;
    peer::add(&mut rows, board)?;
    Ok(Report { target: board.name, processor: board.processor, quantity: Quantity::Instructions, models, notes, rows })
}

/// Reads a case as the chip logged it, `OP; SHAPE; WORK; SCRATCH; BEYOND`.
fn row(case: &str, amount: u64, cycles: Vec<f64>) -> Result<Row> {
    let fields: Vec<&str> = case.split("; ").collect();
    let [op, shape, work, scratch, beyond] = fields[..] else { bail!("the chip logged the case `{case}`") };
    Ok(Row { cycles, ..Row::new(op, shape, work.parse()?, scratch.parse()?, beyond, amount) })
}

/// Instructions by function, the most first.
fn functions(firmware: &Firmware, blocks: &[Block]) -> Vec<(String, u64)> {
    let mut sums = BTreeMap::new();
    for block in blocks {
        let name = firmware.function_at(block.address).unwrap_or_else(|| format!("{:#x}", block.address));
        *sums.entry(name).or_default() += block.instructions * block.executions;
    }
    let mut sums: Vec<(String, u64)> = sums.into_iter().collect();
    sums.sort_by_key(|&(_, instructions)| Reverse(instructions));
    sums
}

/// Leaves in a row that is measured against another one what it costs more.
fn take_off(rows: &mut [Row]) -> Result<()> {
    let all = rows.to_vec();
    for row in rows.iter_mut().filter(|row| !row.beyond.is_empty()) {
        let base = all.iter().find(|base| format!("{} {}", base.op, base.shape) == row.beyond);
        let base = base.with_context(|| format!("{} is measured against an unknown case: {}", row.op, row.beyond))?;
        row.amount = row.amount.saturating_sub(base.amount);
        row.cycles.iter_mut().zip(&base.cycles).for_each(|(cycles, base)| *cycles -= base);
    }
    Ok(())
}

impl Row {
    /// What a case costs, without anything that only a board tells.
    fn new(op: &str, shape: &str, work: u64, scratch_bytes: u64, beyond: &str, amount: u64) -> Self {
        let [op, shape, beyond] = [op, shape, beyond].map(str::to_owned);
        Row { op, shape, work, scratch_bytes, beyond, amount, cycles: Vec::new(), functions: Vec::new(), peer: None }
    }

    fn per_unit(&self) -> f64 {
        self.amount as f64 / self.work as f64
    }

    fn cycles_per_unit(&self, model: usize) -> Option<f64> {
        self.cycles.get(model).map(|cycles| cycles / self.work as f64)
    }

    fn ratio(&self) -> Option<f64> {
        self.peer.map(|peer| self.per_unit() / peer.per_unit)
    }

    /// Modelled cycles beside the peer's, where it has some: both on the Cortex-M4.
    fn cycles_ratio(&self) -> Option<f64> {
        Some(self.cycles_per_unit(0)? / self.peer?.cycles_per_unit?)
    }

    fn json(&self, target: &str, quantity: Quantity) -> Value {
        let mut value = json!({
            "target": target,
            "op": self.op,
            "shape": self.shape,
            "work": self.work,
            "instructions": null,
            "per_unit": null,
            "peer_per_unit": self.peer.map(|peer| peer.per_unit),
            "ratio": self.ratio(),
            "cycles_per_unit": self.cycles_per_unit(0),
            "scratch_bytes": self.scratch_bytes,
        });
        match quantity {
            Quantity::Instructions => {
                value["instructions"] = self.amount.into();
                value["per_unit"] = self.per_unit().into();
            }
            Quantity::Nanoseconds => value["nanoseconds"] = self.amount.into(),
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logged_case_finds_its_peer() {
        let mut rows = vec![row("conv 3x3; 28x28 16->16; 1000; 64; ", 2280, vec![1390.0]).unwrap()];
        peer::add(&mut rows, &QEMU_M4).unwrap();
        let Row { op, shape, scratch_bytes, .. } = &rows[0];
        assert_eq!((op.as_str(), shape.as_str(), *scratch_bytes), ("conv 3x3", "28x28 16->16", 64));
        assert_eq!(rows[0].ratio(), Some(1.0));
        assert_eq!(rows[0].cycles_ratio(), Some(0.5));
        assert!(row("nonsense", 1, Vec::new()).is_err());
    }

    #[test]
    fn a_case_beyond_another_costs_the_difference() {
        let plain = row("conv; small; 10; 0; ", 100, vec![200.0]).unwrap();
        let add = row("add; small; 10; 0; conv small", 130, vec![250.0]).unwrap();
        let mut rows = [plain, add];
        take_off(&mut rows).unwrap();
        assert_eq!((rows[1].amount, rows[1].cycles.as_slice()), (30, &[50.0][..]));
        rows[1].beyond = "conv large".into();
        assert!(take_off(&mut rows).is_err());
    }
}
