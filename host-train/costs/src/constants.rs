//! Bytes of an operation's constants in the file.

use mote_core::Model;
use mote_core::kernel::TABLE_LEN;
use mote_core::model::{ConvOp, Op};

/// Bytes of a convolution's constants. Operations may share theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Constants {
    /// One byte each, or two to a byte.
    pub weights: usize,
    /// A bias and a multiplier of four bytes for each output channel.
    pub sums: usize,
    /// Of the activation.
    pub table: usize,
    /// A gain and a bias of two bytes for each normalized channel, once or for each (row, class).
    pub pairs: usize,
}

impl Constants {
    /// Those of any operation: an attention has none.
    pub fn of(model: &Model<'_>, op: &Op<'_>) -> Self {
        match op {
            Op::Conv(op) => Self::of_conv(model, op),
            Op::Attention(_) => Self::default(),
        }
    }

    fn of_conv(model: &Model<'_>, op: &ConvOp<'_>) -> Self {
        let conditions = usize::from(model.rows()) * usize::from(model.classes());
        let parts = op.norm.map_or(0, |norm| if norm.conditioned { conditions } else { 1 });
        Constants {
            weights: op.weight_bits().stored_len(&op.shape),
            sums: 8 * op.shape.channels_out,
            table: op.norm.map_or(0, |_| TABLE_LEN),
            pairs: op.norm.map_or(0, |norm| 4 * parts * norm.channels),
        }
    }

    /// All of them.
    pub fn total(self) -> usize {
        self.weights + self.sums + self.table + self.pairs
    }
}

impl std::ops::Add for Constants {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Constants {
            weights: self.weights + other.weights,
            sums: self.sums + other.sums,
            table: self.table + other.table,
            pairs: self.pairs + other.pairs,
        }
    }
}
