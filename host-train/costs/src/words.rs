//! Operations in words.

use mote_core::kernel::{ConvShape, Destination};
use mote_core::model::{ConvOp, NormOp, Op};

/// What an operation does, as `conditioned norm 4, conv 3x3, added`.
pub fn in_words(op: &Op<'_>) -> String {
    match op {
        Op::Conv(op) => conv(op),
        Op::Attention(op) => format!("attention, {} heads", op.shape.heads),
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
