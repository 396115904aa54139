//! The operations, the tensors and the file's sections, as tables.

use super::memory::{Timeline, letter};
use anyhow::Result;
use mote_core::Model;
use mote_core::format::{HEADER_LEN, OP_LEN, ROW_LEN, TENSOR_LEN};
use mote_core::model::{Element, Op, Tensor};
use mote_costs::{Constants, in_words};
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
        let pixels = match &op {
            Op::Conv(op) => op.pixels,
            Op::Attention(op) => op.pixels,
        };
        let (what, constants) = (in_words(&op), Constants::of(model, &op).total());
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
    let all = ops.iter().map(|op| Constants::of(model, op)).fold(Constants::default(), |all, one| all + one);
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
