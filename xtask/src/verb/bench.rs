//! `bench kernels`: what each kernel costs, beside what others measured.
//!
//! Instructions are retired instructions, counted in the emulator: deterministic, but neither cycles nor time.

use crate::board::{BOARDS, Board};
use crate::emulator::Emulator;
use crate::firmware;
use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::time::Duration;

/// What CMSIS-NN was measured to cost.
const PEER: &str = include_str!("../../data/cmsis_nn.json");

/// Longest time for the whole bench in the emulator.
const LIMIT: Duration = Duration::from_secs(120);

/// Arguments of `bench`.
#[derive(Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Instructions of each kernel on the shapes that CMSIS-NN was measured on
    Kernels(Kernels),
}

#[derive(Args)]
struct Kernels {
    /// The emulated board
    #[arg(long, value_name = "BOARD", default_value = "qemu-m4", value_parser = BOARDS.map(|board| board.name))]
    on: String,
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// One kernel on one shape.
struct Row {
    op: String,
    shape: String,
    /// Multiply-accumulates, or elements.
    work: u64,
    scratch_bytes: u64,
    instructions: u64,
    peer_per_unit: Option<f64>,
}

/// Runs the bench.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let What::Kernels(kernels) = &arguments.what;
    let board = BOARDS.iter().find(|board| board.name == kernels.on).context("clap knows the boards' names")?;
    let rows = measure(board)?;
    if kernels.json {
        println!("{}", serde_json::to_string_pretty(&rows.iter().map(|row| row.json(board)).collect::<Vec<_>>())?);
    } else {
        print(board, &rows);
    }
    Ok(())
}

fn measure(board: &'static Board) -> Result<Vec<Row>> {
    let firmware = firmware::build(board, "bench")?;
    let folder = tempfile::tempdir()?;
    let outcome = Emulator::new(board)?.run(&firmware, None, &[], folder.path(), LIMIT, || ())?.succeeded()?;
    let counts =
        outcome.counts.ok_or_else(|| anyhow!("instructions are counted from QEMU 9 on: install a newer one"))?;
    let cases: Vec<&str> = outcome.log.iter().filter_map(|line| line.strip_prefix("info: case ")).collect();
    if cases.len() != counts.len() {
        bail!("the chip logged {} cases but {} were counted", cases.len(), counts.len());
    }
    let peer: Value = serde_json::from_str(PEER)?;
    cases.into_iter().zip(counts).map(|(case, count)| row(board, case, count, &peer)).collect()
}

fn row(board: &Board, case: &str, instructions: u64, peer: &Value) -> Result<Row> {
    let fields: Vec<&str> = case.split("; ").collect();
    let [name, work, scratch] = fields[..] else { bail!("the chip logged the case `{case}`") };
    // `conv 3x3 28x28 16->16`: the last two words are the shape.
    let mut words: Vec<&str> = name.split(' ').collect();
    let shape = words.split_off(words.len().saturating_sub(2)).join(" ");
    Ok(Row {
        op: words.join(" "),
        shape,
        work: work.parse()?,
        scratch_bytes: scratch.parse()?,
        instructions,
        peer_per_unit: peer["cells"][name][board.name].as_f64(),
    })
}

impl Row {
    fn per_unit(&self) -> f64 {
        self.instructions as f64 / self.work as f64
    }

    fn ratio(&self) -> Option<f64> {
        self.peer_per_unit.map(|peer| self.per_unit() / peer)
    }

    fn json(&self, board: &Board) -> Value {
        json!({
            "target": board.name,
            "op": self.op,
            "shape": self.shape,
            "work": self.work,
            "instructions": self.instructions,
            "per_unit": self.per_unit(),
            "peer_per_unit": self.peer_per_unit,
            "ratio": self.ratio(),
            "scratch_bytes": self.scratch_bytes,
        })
    }
}

fn print(board: &Board, rows: &[Row]) {
    println!("{}: retired instructions per multiply-accumulate (per element for group norm)", board.processor);
    println!("{:<18} {:<16} {:>8} {:>9} {:>6} {:>9}", "operation", "shape", "ours", "CMSIS-NN", "ratio", "scratch");
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    for row in rows {
        let (peer, ratio) = (number(row.peer_per_unit), number(row.ratio()));
        let (op, shape, scratch) = (&row.op, &row.shape, row.scratch_bytes);
        println!("{op:<18} {shape:<16} {:>8.3} {peer:>9} {ratio:>6} {scratch:>9}", row.per_unit());
    }
    let convolutions = rows.iter().filter(|row| !row.op.starts_with("group norm")).filter_map(Row::ratio);
    let logs: Vec<f64> = convolutions.map(f64::ln).collect();
    if !logs.is_empty() {
        println!(
            "geometric mean of the ratios, group norm aside: {:.2}",
            (logs.iter().sum::<f64>() / logs.len() as f64).exp()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::QEMU_M4;

    #[test]
    fn a_logged_case_finds_its_peer() {
        let peer = serde_json::from_str(PEER).unwrap();
        let row = row(&QEMU_M4, "conv 3x3 28x28 16->16; 1000; 64", 2280, &peer).unwrap();
        assert_eq!((row.op.as_str(), row.shape.as_str(), row.scratch_bytes), ("conv 3x3", "28x28 16->16", 64));
        assert_eq!(row.ratio(), Some(1.0));
        assert!(super::row(&QEMU_M4, "nonsense", 1, &peer).is_err());
    }
}
