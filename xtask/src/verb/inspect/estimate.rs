//! How long a sample would take on common chips: an estimate, never measured on any of them.
//!
//! A convolution costs so much for each multiply-accumulate, output, gathered window element and widened weight; the four prices are
//! fitted to what `bench kernels` counted for the convolutions of `data/kernel_costs.json`, so that their relative errors
//! are least. Normalization, softmax and additions cost what their rows say. Noise and the state's update are left out.
//! `core/docs/memory.md` compares the estimate with what the emulator counts for a whole network.

use anyhow::{Context, Result};
use mote_core::Model;
use mote_core::kernel::{BLOCK, ConvShape, Destination};
use mote_core::model::Op;
use serde_json::Value;
use std::fmt::Write;

/// What `bench kernels --json` printed for every board.
const COSTS: &str = include_str!("../../../data/kernel_costs.json");

/// A chip that people have.
struct Chip {
    name: &'static str,
    processor: &'static str,
    mhz: f64,
    /// The emulated board whose costs are taken.
    board: &'static str,
    /// Assumed where the board's cycles are not modelled.
    cycles_per_instruction: f64,
}

const fn chip(
    name: &'static str,
    processor: &'static str,
    mhz: f64,
    board: &'static str,
    cycles_per_instruction: f64,
) -> Chip {
    Chip { name, processor, mhz, board, cycles_per_instruction }
}

/// Clocks are the highest that the makers state.
const CHIPS: [Chip; 8] = [
    chip("RP2040", "Cortex-M0+", 133.0, "qemu-m0", 1.4),
    chip("RP2350", "Cortex-M33", 150.0, "qemu-m33", 1.4),
    chip("STM32F405", "Cortex-M4", 168.0, "qemu-m4", 1.5),
    chip("STM32H743", "Cortex-M7", 480.0, "qemu-m7", 1.0),
    chip("nRF52840", "Cortex-M4", 64.0, "qemu-m4", 1.5),
    chip("nRF5340", "Cortex-M33", 128.0, "qemu-m33", 1.4),
    chip("Alif Ensemble E3", "Cortex-M55", 400.0, "qemu-m55", 1.4),
    chip("ESP32-C3", "RV32IMC", 160.0, "qemu-rv32", 1.3),
];

/// The estimate for each chip.
pub(super) fn table(model: &Model<'_>, out: &mut String) -> Result<()> {
    let costs: Value = serde_json::from_str(COSTS).context("data/kernel_costs.json")?;
    let rows = costs["rows"].as_array().context("data/kernel_costs.json has no rows")?;
    writeln!(out, "\nestimated time, never measured on hardware: memory without wait states, one core")?;
    writeln!(
        out,
        "{:<17} {:<11} {:>5} {:>16} {:>6} {:>10} {:>10}  cycles by",
        "chip", "processor", "MHz", "instr. a pass", "a MAC", "ms a pass", "ms a sample"
    )?;
    let macs = super::macs(model);
    let mut worst = 0.0f64;
    for chip in &CHIPS {
        let of_board = || rows.iter().filter(|row| row["target"] == chip.board);
        let instructions = Prices::fit(of_board(), "per_unit")?;
        let cycles = Prices::fit(of_board(), "cycles_per_unit");
        worst = worst.max(instructions.error);
        let count = instructions.pass(model);
        let (cycles, by) = match cycles {
            Ok(prices) => (prices.pass(model), "bench kernels".to_owned()),
            Err(_) => (
                count * chip.cycles_per_instruction,
                format!("{} an instruction, assumed", chip.cycles_per_instruction),
            ),
        };
        let ms = cycles / chip.mhz / 1e3;
        writeln!(
            out,
            "{:<17} {:<11} {:>5} {count:>16.0} {:>6.2} {ms:>10.1} {:>11.1}  {by}",
            chip.name,
            chip.processor,
            chip.mhz,
            count / macs as f64,
            ms * f64::from(model.rows())
        )?;
    }
    writeln!(
        out,
        "Instructions are those that `bench kernels` counted, modelled as so much for each multiply-accumulate, output,"
    )?;
    writeln!(
        out,
        "gathered and widened value; that misses no convolution of the bench by more than {:.0} %.",
        100.0 * worst
    )?;
    Ok(())
}

/// What kernels cost on one board, in instructions or in cycles.
struct Prices {
    /// For each of a convolution's [`quantities`].
    conv: [f64; 4],
    /// An output that is added to.
    add: f64,
    /// An element that is normalized.
    norm: f64,
    /// A score of an attention.
    softmax: f64,
    /// A multiply-accumulate of an attention.
    attention: f64,
    /// The greatest relative error of the fit.
    error: f64,
}

impl Prices {
    /// From the rows of one board.
    fn fit<'r>(rows: impl Iterator<Item = &'r Value> + Clone, unit: &str) -> Result<Self> {
        let price = |op: &str| {
            let row = rows.clone().find(|row| row["op"] == op);
            let row = row.with_context(|| format!("data/kernel_costs.json lacks {op}"))?;
            row[unit].as_f64().with_context(|| format!("data/kernel_costs.json: {op} has no {unit}"))
        };
        let mut shares = Vec::new();
        for row in rows.clone() {
            if let Some((shape, pixels)) = conv_shape(row) {
                let cost = row[unit].as_f64().context("no cost")? * shape.macs() as f64;
                shares.push(quantities(&shape, pixels).map(|quantity| quantity / cost));
            }
        }
        let conv = least_squares(&shares);
        let error = |share: &[f64; 4]| (dot(share, &conv) - 1.0).abs();
        Ok(Prices {
            conv,
            add: price("add")?,
            norm: price("group norm + SiLU")?,
            softmax: price("softmax")?,
            attention: price("attention products")?,
            error: shares.iter().map(error).fold(0.0, f64::max),
        })
    }

    /// One pass of the network.
    fn pass(&self, model: &Model<'_>) -> f64 {
        (0..model.ops()).map(|index| self.op(&model.op(index))).sum()
    }

    fn op(&self, op: &Op<'_>) -> f64 {
        match op {
            Op::Conv(op) => {
                let outputs = (op.shape.pixels() * op.shape.channels_out) as f64;
                let inputs = (op.shape.input[0] * op.shape.input[1] * op.shape.channels_in) as f64;
                let norm = op.norm.map_or(0.0, |_| self.norm * inputs);
                let add = if op.destination == Destination::Accumulate { self.add * outputs } else { 0.0 };
                dot(&quantities(&op.shape, op.pixels), &self.conv) + norm + add
            }
            Op::Attention(op) => {
                let scores = (op.shape.tokens * op.shape.tokens * op.shape.heads) as f64;
                self.attention * op.shape.macs() as f64 + self.softmax * scores
            }
        }
    }
}

/// What a convolution has much of: multiply-accumulates, outputs, elements of windows, weights widened once a pass.
fn quantities(shape: &ConvShape, pixels: usize) -> [f64; 4] {
    let passes = shape.pixels().div_ceil(pixels.max(1));
    let counts = [
        shape.macs() as usize,
        shape.pixels() * shape.channels_out,
        shape.pixels() * shape.padded_taps(),
        shape.packed_len() * passes,
    ];
    counts.map(|count| count as f64)
}

/// The convolution of a row of the bench, and its pixels a pass; `None` if it is another kernel.
fn conv_shape(row: &Value) -> Option<(ConvShape, usize)> {
    let numbers: Vec<usize> =
        row["shape"].as_str()?.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    let (output, channels_in, channels_out) = match *numbers.as_slice() {
        [height, width, channels_in, channels_out] => ([height, width], channels_in, channels_out),
        [pixels, channels_in, channels_out] => ([1, pixels], channels_in, channels_out),
        [channels_in, channels_out] => ([1, 1], channels_in, channels_out),
        _ => return None,
    };
    let kernel = match row["op"].as_str()? {
        op if op.starts_with("conv 3x3") => [3; 2],
        "conv 1x1" | "matmul" | "fully connected" => [1; 2],
        _ => return None,
    };
    let shape =
        ConvShape { input: output, channels_in, output, channels_out, kernel, stride: [1; 2], upsample: [1; 2] };
    // `ConvShape::work_len` backwards.
    let windows = usize::try_from(row["scratch_bytes"].as_u64()?).ok()? / (2 * shape.padded_taps());
    Some((shape, windows.checked_sub(BLOCK)?))
}

/// The prices, none negative, with which the sums of price times share are nearest to 1 (coordinate descent).
fn least_squares(shares: &[[f64; 4]]) -> [f64; 4] {
    let mut prices = [0.0; 4];
    for _ in 0..5_000 {
        for i in 0..prices.len() {
            let rest = |share: &[f64; 4]| 1.0 - dot(share, &prices) + share[i] * prices[i];
            let best = shares.iter().map(|share| share[i] * rest(share)).sum::<f64>()
                / shares.iter().map(|share| share[i] * share[i]).sum::<f64>();
            prices[i] = best.max(0.0);
        }
    }
    prices
}

fn dot(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_found_again() {
        let truth = [0.5, 20.0, 3.0, 0.0];
        let shapes = [(28, 16, 16, 3), (7, 64, 64, 3), (28, 1, 16, 3), (14, 64, 32, 1), (1, 256, 256, 1)];
        let shares: Vec<[f64; 4]> = shapes
            .map(|(side, channels_in, channels_out, kernel)| {
                let sides = [side, side];
                let shape = ConvShape {
                    input: sides,
                    channels_in,
                    output: sides,
                    channels_out,
                    kernel: [kernel; 2],
                    stride: [1; 2],
                    upsample: [1; 2],
                };
                let all = quantities(&shape, 8);
                all.map(|quantity| quantity / dot(&all, &truth))
            })
            .to_vec();
        for (found, truth) in least_squares(&shares).into_iter().zip(truth) {
            assert!((found - truth).abs() < 0.05 * truth.max(0.5), "{found} for {truth}");
        }
    }

    #[test]
    fn every_chip_has_costs() {
        let costs: Value = serde_json::from_str(COSTS).unwrap();
        for chip in &CHIPS {
            let rows = costs["rows"].as_array().unwrap().iter().filter(|row| row["target"] == chip.board);
            let prices = Prices::fit(rows, "per_unit").unwrap();
            assert!(prices.error < 0.35, "{}: {}", chip.name, prices.error);
        }
    }
}
