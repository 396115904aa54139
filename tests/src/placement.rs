//! The exact solver that `mote_core::plan` is measured against: is there a smaller arena?
//!
//! It enumerates the placements in which every block lies directly on top of what is below it, lowest first. Any
//! placement can be pushed together into one of these without growing. Branches end where the bytes that are still to be
//! placed no longer fit at some operation, or where the same blocks were placed before no higher.

use mote_core::Model;
use mote_core::format::{AttentionSpec, ConvSpec, NormSpec, OpMemory, OpSpec};
use mote_core::kernel::TABLE_LEN;
use mote_core::model::{Op, Tensor};
use mote_core::plan;
use std::collections::HashMap;
use std::ops::Range;

/// Blocks that need a place: tensors, then the scratch of each operation.
#[derive(Clone, Debug, Default)]
pub struct Problem {
    /// Operations.
    pub times: usize,
    /// Bytes of each block.
    pub bytes: Vec<usize>,
    /// The operations at which each block is there.
    pub lives: Vec<Range<usize>>,
    /// What may lie over what.
    pub overlays: Vec<Overlay>,
}

/// A block that may lie over another one in whose last operation it begins.
#[derive(Clone, Copy, Debug)]
pub struct Overlay {
    /// The block that is read.
    pub input: usize,
    /// The block that is written.
    pub output: usize,
    /// `input` must begin so many bytes after `output`, or more.
    pub lead: i64,
    /// The block of the operation's scratch.
    pub scratch: usize,
    /// The scratch if the two overlap.
    pub scratch_bytes: usize,
}

/// The solver's limit; a problem that takes more is reported, not guessed.
const STATES: usize = 1_000_000;

impl Problem {
    /// The problem that [`plan::place`] solves, with the shortest passes. `in_place` says whether outputs may lie over
    /// inputs at all.
    pub fn new(tensors: &[Tensor], ops: &[OpSpec<'_>], history: Option<u16>, in_place: InPlace) -> Self {
        let mut problem = Problem { times: ops.len(), ..Problem::default() };
        for (index, tensor) in tensors.iter().enumerate() {
            problem.push(tensor.bytes(), plan::lifetime(index as u16, ops, history));
        }
        for (time, op) in ops.iter().enumerate() {
            let pixels = op.pixels(tensors).min(2);
            let scratch = problem.push(op.scratch_len(tensors, pixels, false), time..time + 1);
            for input in op.inputs().filter(|_| in_place == InPlace::Allowed) {
                if let Some(lead) = plan::lead(tensors, ops, history, [input, op.output()], pixels) {
                    let (input, output) = (input as usize, op.output() as usize);
                    let scratch_bytes = op.scratch_len(tensors, pixels, true);
                    problem.overlays.push(Overlay { input, output, lead, scratch, scratch_bytes });
                }
            }
        }
        problem
    }

    /// The schedule without normalization on load: each normalized input is written as an i8 tensor, two inputs as their
    /// concatenation.
    pub fn layer_by_layer(tensors: &[Tensor], ops: &[OpSpec<'_>]) -> Self {
        // Every operation takes two times: normalize, convolve.
        let mut problem = Problem { times: 2 * ops.len(), ..Problem::default() };
        for (index, tensor) in tensors.iter().enumerate() {
            let life = plan::lifetime(index as u16, ops, None);
            let reader = ops.iter().rposition(|op| op.inputs().any(|input| input as usize == index));
            let normalized = |time: usize| matches!(ops[time], OpSpec::Conv(ConvSpec { norm: Some(_), .. }));
            let last_read = reader.is_some_and(|reader| reader + 1 == life.end && normalized(reader));
            let end = life.end.saturating_mul(2) - usize::from(last_read);
            problem.push(tensor.bytes(), 2 * life.start + usize::from(life.start > 0)..end);
        }
        for (time, op) in ops.iter().enumerate() {
            let plain = match *op {
                OpSpec::Conv(conv) => {
                    if conv.norm.is_some() {
                        let bytes = op.inputs().map(|input| tensors[input as usize].elements()).sum();
                        problem.push(bytes, 2 * time..2 * time + 2);
                    }
                    conv.shape(tensors).map_or(0, |shape| shape.work_len(2))
                }
                OpSpec::Attention(_) => op.scratch_len(tensors, 2, false),
            };
            problem.push(plain, 2 * time + 1..2 * time + 2);
        }
        problem
    }

    fn push(&mut self, bytes: usize, life: Range<usize>) -> usize {
        self.bytes.push(bytes.next_multiple_of(4));
        self.lives.push(life.start..life.end.min(self.times));
        self.bytes.len() - 1
    }

    /// The smallest arena; `Err` with the best bounds if that takes too long to prove.
    pub fn optimum(&self) -> Result<usize, Range<usize>> {
        let least = self.least();
        let rings: usize = self.overlays.iter().map(|overlay| overlay.scratch_bytes).sum();
        let (mut low, mut high) = (least, self.bytes.iter().sum::<usize>() + rings);
        while low < high {
            let middle = if low == least { low } else { low + (high - low) / 8 * 4 };
            match self.fits(middle) {
                Some(true) => high = middle,
                Some(false) => low = middle + 4,
                None => return Err(low..high),
            }
        }
        Ok(low)
    }

    /// Whether an arena of `limit` bytes is enough; `None` if that takes too long to find out.
    pub fn fits(&self, limit: usize) -> Option<bool> {
        let mut states = STATES;
        // Each overlay may be used or not: which scratch is needed depends on it.
        for used in 0..1u32 << self.overlays.len() {
            let chosen = self.choose(used);
            let mut search = Search { problem: &chosen, limit, seen: HashMap::new(), left: states };
            let found = search.run(&Placed::none(&chosen));
            states = search.left;
            match found {
                Some(false) => {}
                other => return other,
            }
        }
        Some(false)
    }

    /// With the overlays whose bit is set, and the scratch that they take.
    fn choose(&self, used: u32) -> Problem {
        let mut chosen = self.clone();
        chosen.overlays.clear();
        for (bit, overlay) in self.overlays.iter().enumerate() {
            if used >> bit & 1 == 1 {
                chosen.bytes[overlay.scratch] = overlay.scratch_bytes.next_multiple_of(4);
                chosen.overlays.push(*overlay);
            }
        }
        chosen
    }

    /// Bytes that are needed at one time, at least.
    pub fn least(&self) -> usize {
        (0..1u32 << self.overlays.len())
            .filter_map(|used| {
                let chosen = self.choose(used);
                chosen.needed(&Placed::none(&chosen))
            })
            .min()
            .unwrap_or(0)
    }

    /// The arena that what is placed and what is not needs at least; `None` if some block has no place left.
    fn needed(&self, placed: &Placed) -> Option<usize> {
        let open = |block: &usize| placed.offsets[*block].is_none();
        let opens: Vec<usize> = (0..self.bytes.len()).filter(open).collect();
        let bases: Vec<usize> = opens.iter().map(|&block| self.lowest(placed, block)).collect();
        let mut needed = vec![0; self.times];
        let mut lowest = vec![usize::MAX; self.times];
        for (&block, &base) in opens.iter().zip(&bases) {
            let mut base = base;
            // It was passed over: it will rest on something that is not there yet.
            if !self.tied(block) && (base < placed.last || placed.passed[block] == Some(base)) {
                let below = opens.iter().zip(&bases).filter(|&(&other, _)| other != block && self.meet(block, other));
                base = below.map(|(&other, &at)| at.max(placed.last) + self.bytes[other]).min()?;
            }
            for time in self.lives[block].clone() {
                needed[time] += self.bytes[block];
                lowest[time] = lowest[time].min(base);
            }
        }
        for time in 0..self.times {
            let floor = if needed[time] > 0 { lowest[time].max(placed.tops[time]) } else { placed.tops[time] };
            needed[time] += floor;
        }
        // What one output may share with its inputs.
        let mut shared = HashMap::<usize, usize>::new();
        for overlay in &self.overlays {
            let (input, output) = (self.bytes[overlay.input], self.bytes[overlay.output]);
            let share = match (open(&overlay.input), open(&overlay.output)) {
                (true, true) => (input + output).saturating_sub(output.max(input + overlay.lead.max(0) as usize)),
                (false, false) => 0,
                _ => input.min(output),
            };
            let open_bytes = if open(&overlay.output) { output } else { input };
            let sum = shared.entry(overlay.output).or_default();
            *sum = (*sum + share).min(open_bytes.max(*sum));
        }
        for (output, share) in shared {
            let time = self.lives[output].start;
            needed[time] = needed[time].saturating_sub(share).max(placed.tops[time]);
        }
        needed.into_iter().max()
    }

    /// The lowest offset of `block` on top of what is placed.
    fn lowest(&self, placed: &Placed, block: usize) -> usize {
        let others = || (0..placed.offsets.len()).filter_map(|other| Some((other, placed.offsets[other]?)));
        let tie = |other: usize| {
            let pair = |o: &&Overlay| [o.input, o.output] == [block, other] || [o.input, o.output] == [other, block];
            self.overlays.iter().find(pair)
        };
        let apart = others().filter(|&(other, _)| self.meet(block, other) && tie(other).is_none());
        let mut lowest = apart.map(|(other, at)| at + self.bytes[other]).max().unwrap_or(0);
        loop {
            let before = lowest;
            for (other, at) in others() {
                let Some(overlay) = tie(other) else { continue };
                if overlay.input == block {
                    lowest = lowest.max(usize::try_from(at as i64 + overlay.lead).unwrap_or(0).next_multiple_of(4));
                } else if lowest as i64 > at as i64 - overlay.lead {
                    lowest = lowest.max(at + self.bytes[other]);
                }
            }
            if lowest == before {
                return lowest;
            }
        }
    }

    /// Whether the block may lie over another one or under it.
    fn tied(&self, block: usize) -> bool {
        self.overlays.iter().any(|overlay| [overlay.input, overlay.output].contains(&block))
    }

    fn meet(&self, a: usize, b: usize) -> bool {
        self.lives[a].start.max(self.lives[b].start) < self.lives[a].end.min(self.lives[b].end)
    }
}

/// Whether outputs may lie over inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InPlace {
    /// They may, where no input is overwritten before it is read.
    Allowed,
    /// They may not.
    Forbidden,
}

/// A part of a placement.
#[derive(Clone)]
struct Placed {
    offsets: Vec<Option<usize>>,
    /// The end of what is placed, for each operation.
    tops: Vec<usize>,
    /// The offset of the block placed last.
    last: usize,
    /// Blocks that were tried where they are now: what is still to come must raise them.
    passed: Vec<Option<usize>>,
}

impl Placed {
    fn none(problem: &Problem) -> Self {
        let blocks = problem.bytes.len();
        Placed { offsets: vec![None; blocks], tops: vec![0; problem.times], last: 0, passed: vec![None; blocks] }
    }
}

struct Search<'p> {
    problem: &'p Problem,
    limit: usize,
    /// For the blocks placed: the tops and the last offset of what was searched.
    seen: HashMap<Vec<u64>, Vec<(Vec<usize>, usize)>>,
    left: usize,
}

impl Search<'_> {
    fn run(&mut self, placed: &Placed) -> Option<bool> {
        if self.problem.needed(placed).is_none_or(|needed| needed > self.limit) {
            return Some(false);
        }
        let mut next: Vec<(usize, usize)> = (0..placed.offsets.len())
            .filter(|&block| placed.offsets[block].is_none())
            .map(|block| (self.problem.lowest(placed, block), block))
            .collect();
        if next.is_empty() {
            return Some(true);
        }
        if self.is_dominated(placed) {
            return Some(false);
        }
        self.left = self.left.checked_sub(1)?;
        next.sort_by_key(|&(offset, block)| (offset, usize::MAX - self.problem.bytes[block]));
        let mut passed = placed.passed.clone();
        for (offset, block) in next {
            if !self.problem.tied(block) && (offset < placed.last || passed[block] == Some(offset)) {
                continue;
            }
            let mut more = Placed { passed: passed.clone(), ..placed.clone() };
            passed[block] = Some(offset);
            more.offsets[block] = Some(offset);
            more.last = offset;
            for time in self.problem.lives[block].clone() {
                more.tops[time] = more.tops[time].max(offset + self.problem.bytes[block]);
            }
            match self.run(&more) {
                Some(false) => {}
                other => return other,
            }
        }
        Some(false)
    }

    /// Whether the same blocks were placed before, nowhere higher.
    fn is_dominated(&mut self, placed: &Placed) -> bool {
        // An overlay of which one block is placed also depends on where.
        let mut key = vec![0; placed.offsets.len().div_ceil(64)];
        for (block, _) in placed.offsets.iter().enumerate().filter(|(_, offset)| offset.is_some()) {
            key[block / 64] |= 1 << (block % 64);
        }
        for overlay in &self.problem.overlays {
            if let (Some(at), None) | (None, Some(at)) = (placed.offsets[overlay.input], placed.offsets[overlay.output])
            {
                key.push(at as u64);
            }
        }
        let searched = self.seen.entry(key).or_default();
        let lower = |(tops, last): &(Vec<usize>, usize)| {
            *last <= placed.last && tops.iter().zip(&placed.tops).all(|(a, b)| a <= b)
        };
        if searched.iter().any(lower) {
            return true;
        }
        searched.push((placed.tops.clone(), placed.last));
        false
    }
}

/// The tensors and operations of a file, without constants: what a planner sees.
pub fn graph_of(model: &Model<'_>) -> (Vec<Tensor>, Vec<OpSpec<'static>>, Option<u16>) {
    let tensors: Vec<Tensor> = (0..model.tensors()).map(|index| model.tensor(index)).collect();
    let history = model.history().and_then(|history| tensors.iter().position(|tensor| *tensor == history));
    (tensors, (0..model.ops()).map(|index| spec_of(&model.op(index))).collect(), history.map(|index| index as u16))
}

fn spec_of(op: &Op<'_>) -> OpSpec<'static> {
    match op {
        Op::Conv(conv) => OpSpec::Conv(ConvSpec {
            input: conv.input,
            norm: conv.norm.map(|norm| NormSpec {
                groups: norm.parts[0].map_or(1, |part| part.groups as u16),
                epsilon_q8: 0,
                second: norm.parts[1],
                zero: norm.zero,
                gain_bits: 0,
                bias_bits: 0,
                conditioned: norm.conditioned,
                affine: &[],
                table: &[0; TABLE_LEN],
            }),
            output: conv.output,
            kernel: conv.shape.kernel.map(|side| side as u8),
            stride: conv.shape.stride[1] as u8,
            upsample: conv.shape.upsample[1] as u8,
            destination: conv.destination,
            weights: &[],
            weight_bits: conv.weight_bits(),
            bias: &[],
            multipliers: &[],
            memory: OpMemory { pixels: conv.pixels as u16, scratch: conv.scratch },
        }),
        Op::Attention(attention) => OpSpec::Attention(AttentionSpec {
            input: attention.input,
            output: attention.output,
            heads: attention.shape.heads as u8,
            score_multiplier: attention.score_multiplier,
            value_multiplier: attention.value_multiplier,
            memory: OpMemory { pixels: attention.pixels as u16, scratch: attention.scratch },
        }),
    }
}
