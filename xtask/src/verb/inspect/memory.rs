//! What lies where in the arena, and when.

use anyhow::Result;
use mote_core::Model;
use mote_core::format::{OUTPUT, STATE};
use std::fmt::Write;
use std::ops::Range;

/// Operations beside each other in the chart.
const COLUMNS: usize = 60;
/// Rows of the chart, at most.
const ROWS: usize = 32;
/// Scratch in the chart.
const SCRATCH: char = '#';

/// A tensor or an operation's scratch.
pub(super) struct Block {
    /// The tensor; none for scratch.
    pub(super) tensor: Option<u16>,
    /// Where in the arena.
    pub(super) bytes: Range<usize>,
    /// When, in halves of operations: what is read is there in the first half, what is written from the second half on.
    pub(super) halves: Range<usize>,
}

/// Everything that is ever in the arena.
pub(super) struct Timeline {
    pub(super) blocks: Vec<Block>,
    /// Operations.
    pub(super) ops: usize,
}

impl Timeline {
    pub(super) fn new(model: &Model<'_>) -> Self {
        let tensors = (0..model.tensors()).map(|index| {
            let (bytes, halves) = (model.tensor(index).range(), life(model, index));
            Block { tensor: Some(index), bytes, halves }
        });
        let scratch = (0..model.ops()).map(|index| {
            let half = 2 * usize::from(index);
            Block { tensor: None, bytes: model.op(index).scratch(), halves: half..half + 2 }
        });
        Timeline { blocks: tensors.chain(scratch).collect(), ops: model.ops().into() }
    }

    fn at(&self, half: usize) -> impl Iterator<Item = &Block> {
        self.blocks.iter().filter(move |block| block.halves.contains(&half))
    }

    /// Bytes in use during an operation, where input and output overlap those of the longer.
    pub(super) fn in_use(&self, op: usize) -> usize {
        let bytes = |half| self.at(half).map(|block| block.bytes.len()).sum();
        let apart: usize =
            self.blocks.iter().filter(|b| overlap(&b.halves, &(2 * op..2 * op + 2))).map(|b| b.bytes.len()).sum();
        let shared: usize = (self.at(2 * op).filter(|block| !block.halves.contains(&(2 * op + 1))))
            .flat_map(|read| {
                let written = self.at(2 * op + 1).filter(|block| !block.halves.contains(&(2 * op)));
                written.map(|written| overlap_len(&read.bytes, &written.bytes))
            })
            .sum();
        (apart - shared).max(bytes(2 * op)).max(bytes(2 * op + 1))
    }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> bool {
    overlap_len(a, b) > 0
}

fn overlap_len(a: &Range<usize>, b: &Range<usize>) -> usize {
    a.end.min(b.end).saturating_sub(a.start.max(b.start))
}

/// When a tensor is there.
fn life(model: &Model<'_>, tensor: u16) -> Range<usize> {
    let end = 2 * usize::from(model.ops());
    let ops = || (0..model.ops()).map(|index| (2 * usize::from(index), model.op(index)));
    let reads = ops().filter(|(_, op)| op.inputs().any(|input| input == tensor)).map(|(half, _)| half + 1);
    let writes = || ops().filter(|(_, op)| op.output() == tensor).map(|(half, _)| half + 1);
    let Some(first) = writes().min().filter(|_| tensor != STATE) else {
        // The state, and the history, which no operation writes.
        return 0..end;
    };
    let last = reads.chain(writes().map(|half| half + 1)).max().unwrap_or(end);
    first..if tensor == OUTPUT { end } else { last }
}

/// The letter that stands for a tensor.
pub(super) fn letter(index: usize) -> char {
    let letters = ('A'..='Z').chain('a'..='z');
    letters.clone().nth(index % letters.count()).unwrap_or('?')
}

/// The arena over time: a row a few KiB, two columns an operation.
pub(super) fn chart(model: &Model<'_>, out: &mut String) -> Result<()> {
    let timeline = Timeline::new(model);
    let arena = model.arena_len();
    let mut band = 64;
    while arena.div_ceil(band) > ROWS {
        band *= 2;
    }
    writeln!(out, "\narena: {arena} bytes over the operations of one pass, {band} bytes a row")?;
    writeln!(
        out,
        "two columns an operation: while it reads, while it writes; a letter is a tensor, {SCRATCH} scratch, . free"
    )?;
    for first in (0..timeline.ops).step_by(COLUMNS) {
        let columns = first..(first + COLUMNS).min(timeline.ops);
        for row in (0..arena.div_ceil(band)).rev() {
            let bytes = row * band..((row + 1) * band).min(arena);
            write!(out, "{:>8} ", bytes.start)?;
            for half in 2 * columns.start..2 * columns.end {
                let most = timeline.at(half).max_by_key(|block| overlap_len(&block.bytes, &bytes));
                let most = most.filter(|block| overlap(&block.bytes, &bytes));
                out.push(most.map_or('.', |block| block.tensor.map_or(SCRATCH, |tensor| letter(tensor.into()))));
            }
            writeln!(out)?;
        }
        write!(out, "{:>8} ", "op")?;
        for column in columns.step_by(5) {
            write!(out, "{column:<10}")?;
        }
        let len = out.trim_end().len();
        out.truncate(len);
        writeln!(out)?;
    }
    Ok(())
}
