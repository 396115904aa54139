//! Instructions and cycles of an operation: prices fitted to what `cargo xtask bench kernels` counted.
//!
//! A convolution costs so much for each multiply-accumulate, output, gathered window element and widened weight; the four
//! prices are fitted to the convolutions of `xtask/data/kernel_costs.json`, so that their relative errors are least.
//! Normalization, softmax and additions cost what their rows say. Noise and the state's update are left out.

use anyhow::{Context, Result, ensure};
use mote_core::Model;
use mote_core::kernel::{BLOCK, ConvShape, Destination};
use mote_core::model::Op;
use serde_json::Value;

/// What `bench kernels --json` printed for every board.
const COSTS: &str = include_str!("../../../xtask/data/kernel_costs.json");

/// What kernels cost on one board, in instructions or in cycles.
#[derive(Clone, Copy, Debug)]
pub struct Prices {
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
    /// In instructions, on the emulated board of this name.
    ///
    /// # Errors
    /// Nothing was counted on such a board.
    pub fn instructions(board: &str) -> Result<Self> {
        Self::of(board, "per_unit")
    }

    /// In cycles, on the emulated board of this name.
    ///
    /// # Errors
    /// The cycles of this board are not modelled.
    pub fn cycles(board: &str) -> Result<Self> {
        Self::of(board, "cycles_per_unit")
    }

    fn of(board: &str, unit: &str) -> Result<Self> {
        let costs: Value = serde_json::from_str(COSTS).context("data/kernel_costs.json")?;
        let rows = costs["rows"].as_array().context("data/kernel_costs.json has no rows")?;
        let of_board = rows.iter().filter(|row| row["target"] == board);
        ensure!(of_board.clone().next().is_some(), "data/kernel_costs.json has nothing of the board {board}");
        Self::fit(of_board, unit)
    }

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

    /// The greatest relative error with which the prices explain the convolutions that were counted.
    pub fn error(&self) -> f64 {
        self.error
    }

    /// One pass of the network.
    pub fn pass(&self, model: &Model<'_>) -> f64 {
        (0..model.ops()).map(|index| self.op(&model.op(index))).sum()
    }

    /// One operation.
    pub fn op(&self, op: &Op<'_>) -> f64 {
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
    fn an_unknown_board_is_named() {
        assert!(Prices::instructions("qemu-m99").unwrap_err().to_string().contains("qemu-m99"));
    }
}
