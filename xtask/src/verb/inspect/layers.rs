//! The operations, the tensors and the file's sections, as tables.

use super::memory::{Timeline, letter};
use anyhow::Result;
use mote_core::Model;
use mote_core::format::{HEADER_LEN, OP_LEN, ROW_LEN, TENSOR_LEN};
use mote_core::kernel::{ConvShape, Destination, TABLE_LEN};
use mote_core::model::{AttentionOp, ConvOp, Element, NormOp, Op, Tensor};
use std::fmt::Write;

/// What each operation does, on which tensors, and what it costs.
pub(super) fn operations(model: &Model<'_>, out: &mut String) -> Result<()> {
    let timeline = Timeline::new(model);
    writeln!(out, "\noperations of one pass; pass: output pixels at a time; in use: bytes of the arena")?;
    writeln!(
        out,
        "{:>4}  {:<35} {:<31} {:<15} {:>5} {:>9} {:>9} {:>8} {:>8}",
        "op", "what", "from", "to", "pass", "macs", "constants", "scratch", "in use"
    )?;
    for index in 0..model.ops() {
        let op = model.op(index);
        let (what, pixels, constants) = match &op {
            Op::Conv(op) => (conv(op), op.pixels, Constants::of(model, op).total()),
            Op::Attention(op) => (attention(op), op.pixels, 0),
        };
        let from: Vec<String> = op.inputs().map(|input| named(model, input)).collect();
        let (from, to, macs, scratch) =
            (from.join(" + "), named(model, op.output()), super::op_macs(&op), op.scratch());
        let (scratch, used) = (scratch.len(), timeline.in_use(index as usize));
        writeln!(
            out,
            "{index:>4}  {what:<35} {from:<31} {to:<15} {pixels:>5} {macs:>9} {constants:>9} {scratch:>8} {used:>8}"
        )?;
    }
    Ok(())
}

/// Where each tensor lies.
pub(super) fn tensors(model: &Model<'_>, out: &mut String) -> Result<()> {
    writeln!(out, "\ntensors")?;
    writeln!(
        out,
        "{:>6} {:>3} {:<14} {:>8} {:>8} {:>6} {:>10}",
        "tensor", "", "shape", "offset", "bytes", "zero", "scale"
    )?;
    for index in 0..model.tensors() {
        let t = model.tensor(index);
        let (name, bytes) = (letter(index as usize), t.bytes());
        let (shape, offset, zero, scale) = (shape(&t), t.offset, t.zero, t.scale);
        writeln!(out, "{index:>6} {name:>3} {shape:<14} {offset:>8} {bytes:>8} {zero:>6} {scale:>10.3e}")?;
    }
    Ok(())
}

/// What the file consists of.
pub(super) fn sections(model: &Model<'_>, out: &mut String) -> Result<()> {
    let ops: Vec<Op<'_>> = (0..model.ops()).map(|index| model.op(index)).collect();
    let convs = || ops.iter().filter_map(|op| if let Op::Conv(conv) = op { Some(conv) } else { None });
    let norms = convs().filter(|conv| conv.norm.is_some()).count();
    let constants = convs().map(|conv| Constants::of(model, conv));
    let all = constants.fold(Constants::default(), |all, one| Constants {
        weights: all.weights + one.weights,
        sums: all.sums + one.sums,
        table: all.table + one.table,
        pairs: all.pairs + one.pairs,
    });
    let [rows, tensors, ops] = [model.rows(), model.tensors(), model.ops()].map(usize::from);
    let mut lines = vec![
        ("header", 1, HEADER_LEN),
        ("tensor records", tensors, tensors * TENSOR_LEN),
        ("operation records", ops, ops * OP_LEN),
        ("step table rows", rows, rows * ROW_LEN),
        ("name", 1, model.name().len()),
        ("weights", convs().count(), all.weights),
        ("biases and multipliers", convs().count(), all.sums),
        ("activation tables", norms, all.table),
        ("gains and biases of norms", norms, all.pairs),
    ];
    let known: usize = lines.iter().map(|line| line.2).sum();
    // Operations may share constants; then the parts are more than the whole.
    lines.push(("padding", 1, model.bytes().len().saturating_sub(known)));
    writeln!(out, "\nfile: {} bytes", model.bytes().len())?;
    for (what, count, bytes) in lines {
        writeln!(out, "  {what:<26} {count:>4} {bytes:>8} bytes")?;
    }
    Ok(())
}

/// Bytes of a convolution's constants.
#[derive(Clone, Copy, Default)]
struct Constants {
    /// One byte each.
    weights: usize,
    /// A bias and a multiplier of four bytes for each output channel.
    sums: usize,
    /// Of the activation.
    table: usize,
    /// A gain and a bias of two bytes for each normalized channel, once or for each (row, class).
    pairs: usize,
}

impl Constants {
    fn of(model: &Model<'_>, op: &ConvOp<'_>) -> Self {
        let conditions = usize::from(model.rows()) * usize::from(model.classes());
        let parts = op.norm.map_or(0, |norm| if norm.conditioned { conditions } else { 1 });
        Constants {
            weights: op.constants.weights.len(),
            sums: 8 * op.shape.channels_out,
            table: op.norm.map_or(0, |_| TABLE_LEN),
            pairs: op.norm.map_or(0, |norm| 4 * parts * norm.channels),
        }
    }

    fn total(self) -> usize {
        self.weights + self.sums + self.table + self.pairs
    }
}

fn conv(op: &ConvOp<'_>) -> String {
    let ConvShape { kernel: [height, width], stride: [_, stride], upsample: [_, upsample], .. } = op.shape;
    let mut what = op.norm.as_ref().map_or(String::new(), norm);
    what += &format!("conv {height}x{width}");
    if stride > 1 {
        what += &format!(" stride {stride}");
    }
    if upsample > 1 {
        what += &format!(" of x{upsample}");
    }
    if matches!(op.destination, Destination::Accumulate) {
        what += ", added";
    }
    what
}

fn norm(op: &NormOp<'_>) -> String {
    let groups: Vec<String> = op.parts.iter().flatten().map(|part| part.groups.to_string()).collect();
    let conditioned = if op.conditioned { "conditioned " } else { "" };
    format!("{conditioned}norm {}, ", groups.join("+"))
}

fn attention(op: &AttentionOp) -> String {
    format!("attention, {} heads", op.shape.heads)
}

/// A tensor's letter and shape.
pub(super) fn named(model: &Model<'_>, index: u16) -> String {
    format!("{} {}", letter(index.into()), shape(&model.tensor(index)))
}

fn shape(tensor: &Tensor) -> String {
    let element = match tensor.element {
        Element::I8 => "i8",
        Element::I16 => "i16",
    };
    format!("{}x{}x{} {element}", tensor.height, tensor.width, tensor.channels)
}
