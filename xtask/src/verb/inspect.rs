//! `inspect`: everything about a `.mote` file, before anything is flashed.

use crate::model_file;
use anyhow::Result;
use clap::Args;
use mote_core::Model;
use mote_core::kernel::{Destination, TABLE_LEN};
use mote_core::model::{ConvOp, Element, NormOp, Op, Tensor};
use std::path::PathBuf;

/// The step table's unit: coefficients are Q20.
const Q20: f64 = (1 << 20) as f64;

/// Arguments of `inspect`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// The .mote file
    file: PathBuf,
}

/// Prints the model's shape, step table, operations and memory plan.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let model = model_file::read(&arguments.file)?;
    summary(&model);
    steps(&model);
    operations(&model);
    memory(&model);
    Ok(())
}

fn summary(model: &Model<'_>) {
    let (file, macs) = (model.bytes().len(), macs(model));
    println!("{} ({:08x})", model.name(), model.checksum());
    println!("  sample      {} x {} x {}", model.height(), model.width(), model.channels());
    println!("  classes     {}", model.classes());
    println!("  file        {file} bytes");
    println!("  arena       {} bytes", model.arena_len());
    println!("  one pass    {} operations, {macs} multiply-accumulates in convolutions", model.ops());
    println!("  one sample  {} passes, {} multiply-accumulates", model.rows(), macs * u64::from(model.rows()));
}

fn steps(model: &Model<'_>) {
    println!("\nstep table: x0 = clamp(p x + q f), then x <- a x + b x0 + b_prev x0_prev + c z");
    println!("{:>4} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}", "row", "timestep", "p", "q", "a", "b", "b_prev", "c");
    for index in 0..model.rows() {
        let row = model.row(index);
        print!("{index:>4} {:>8}", row.timestep);
        for coefficient in [row.p, row.q, row.a, row.b, row.b_prev, row.c] {
            print!(" {:>9.5}", f64::from(coefficient) / Q20);
        }
        println!();
    }
}

fn operations(model: &Model<'_>) {
    println!("\noperations of one pass");
    println!("{:>4}  {:<34} {:>20} {:>20} {:>9} {:>9}", "op", "what", "from", "to", "macs", "bytes");
    for index in 0..model.ops() {
        let op = model.op(index);
        let (what, bytes) = match &op {
            Op::Conv(op) => (conv(op), conv_bytes(model, op)),
            Op::Attention(op) => (format!("attention, {} heads", op.shape.heads), 0),
        };
        let from: Vec<String> = op.inputs().map(|input| shape(&model.tensor(input))).collect();
        let (from, to, macs) = (from.join(" + "), shape(&model.tensor(op.output())), op_macs(&op));
        println!("{index:>4}  {what:<34} {from:>20} {to:>20} {macs:>9} {bytes:>9}");
    }
}

fn memory(model: &Model<'_>) {
    println!("\narena plan: {} bytes", model.arena_len());
    println!("{:>6} {:>8} {:>8}  shape", "tensor", "offset", "bytes");
    for index in 0..model.tensors() {
        let tensor = model.tensor(index);
        println!("{index:>6} {:>8} {:>8}  {}", tensor.offset, tensor.range().len(), shape(&tensor));
    }
}

fn conv(op: &ConvOp<'_>) -> String {
    let kernel = op.shape.kernel;
    let mut what = op.norm.as_ref().map_or(String::new(), norm);
    what += &format!("convolution {kernel}x{kernel}");
    if op.shape.stride > 1 {
        what += &format!(", stride {}", op.shape.stride);
    }
    if op.shape.upsample > 1 {
        what += &format!(", upsampled x{}", op.shape.upsample);
    }
    if matches!(op.destination, Destination::Accumulate) {
        what += ", added";
    }
    what
}

fn norm(op: &NormOp<'_>) -> String {
    let groups: Vec<String> = op.parts.iter().flatten().map(|part| part.groups.to_string()).collect();
    let conditioned = if op.conditioned { "conditioned " } else { "" };
    format!("{conditioned}group norm {}, ", groups.join("+"))
}

fn shape(tensor: &Tensor) -> String {
    let element = match tensor.element {
        Element::I8 => "i8",
        Element::I16 => "i16",
    };
    format!("{}x{}x{} {element}", tensor.height, tensor.width, tensor.channels)
}

/// Weights, one byte each, and a bias and a multiplier of four bytes for each output channel; for a normalized input the
/// table of the activation, and a gain and a bias of two bytes for each channel, once or for each (row, class).
fn conv_bytes(model: &Model<'_>, op: &ConvOp<'_>) -> usize {
    let norm = op.norm.map_or(0, |norm| {
        let conditions = if norm.conditioned { usize::from(model.rows()) * usize::from(model.classes()) } else { 1 };
        TABLE_LEN + 4 * conditions * norm.channels
    });
    op.constants.weights.len() + 8 * op.shape.channels_out + norm
}

fn op_macs(op: &Op<'_>) -> u64 {
    match op {
        Op::Conv(op) => op.shape.macs(),
        Op::Attention(op) => op.shape.macs(),
    }
}

fn macs(model: &Model<'_>) -> u64 {
    (0..model.ops()).map(|index| op_macs(&model.op(index))).sum()
}
