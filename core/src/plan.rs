//! Placing activations and scratch in the arena.
//!
//! Greedy by size (Pisarchyk, Lee, *Efficient Memory Management for Deep Neural Net Inference*, 2020, section 5.2): the
//! largest block first, at the lowest offset where nothing lies that is alive at the same time. A tensor is a block, and so is
//! the scratch of an operation, which lives for that operation alone. Where an operation reads a tensor for the last time,
//! its output may be written in that tensor's place ([`crate::network`]): both then form one block with a fixed distance.

use crate::format::{OUTPUT, OpSpec, STATE};
use crate::kernel::Destination;
use crate::model::{Tensor, overlap};
use crate::network::input_lead;

/// Offset of a block that has none yet.
const UNPLACED: usize = usize::MAX;
/// Output pixels a pass at least, in any plan; fewer would widen each weight for a single product.
const FEWEST_PIXELS: usize = 2;
/// A pass needs no more scratch than this, in bytes: what each weight costs is then spread thin enough.
const ENOUGH_SCRATCH: usize = 24 * 1024;

/// What decides a plan.
#[derive(Clone, Copy)]
struct Graph<'p, 'a> {
    tensors: &'p [Tensor],
    ops: &'p [OpSpec<'a>],
    history: Option<u16>,
    /// Whether outputs may take the place of inputs, where those are normalized and where they are not.
    in_place: [bool; 2],
}

/// Something that needs a place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    /// A tensor with all that are written in its place before or after.
    Tensors(u16),
    /// The scratch of an operation.
    Scratch(u16),
}

/// Sets the offset of every tensor and the memory of every operation, and returns the bytes of arena that they need.
///
/// A tensor is alive from its first write to its last read; the state, the output's last value and the history always are.
/// The arena is as small as this way of placing gives, then `slack` bytes more are allowed for larger passes, which are
/// faster; what they cannot use is not taken.
pub fn place(tensors: &mut [Tensor], ops: &mut [OpSpec<'_>], history: Option<u16>, slack: usize) -> usize {
    let ways = [[true, true], [true, false], [false, false]];
    let best = ways.into_iter().min_by_key(|&in_place| place_one_way(tensors, ops, history, in_place));
    let smallest = place_one_way(tensors, ops, history, best.unwrap_or_default());
    for index in 0..ops.len() {
        enlarge(tensors, ops, history, index, smallest + slack);
    }
    arena_len(tensors, ops)
}

/// Bytes of arena that the tensors and the scratch reach up to, a multiple of 4.
pub fn arena_len(tensors: &[Tensor], ops: &[OpSpec<'_>]) -> usize {
    let tensors_end = tensors.iter().map(|tensor| tensor.range().end).max().unwrap_or(0);
    let scratch_end = (0..ops.len()).map(|index| scratch(tensors, ops, index).end).max().unwrap_or(0);
    tensors_end.max(scratch_end).next_multiple_of(4)
}

/// Where the scratch of an operation lies.
pub fn scratch(tensors: &[Tensor], ops: &[OpSpec<'_>], index: usize) -> core::ops::Range<usize> {
    let memory = ops[index].memory();
    let in_place = overlaps_input(tensors, &ops[index]);
    memory.scratch..memory.scratch + ops[index].scratch_len(tensors, memory.pixels as usize, in_place)
}

fn overlaps_input(tensors: &[Tensor], op: &OpSpec<'_>) -> bool {
    let tensor = |index: u16| tensors.get(index as usize);
    let overlaps = |input: u16| matches!((tensor(input), tensor(op.output())), (Some(a), Some(b)) if a.overlaps(b));
    op.inputs().any(overlaps)
}

/// The operations during which `tensor` may not be overwritten: from its first write up to and with its last use.
pub fn lifetime(tensor: u16, ops: &[OpSpec<'_>], history: Option<u16>) -> core::ops::Range<usize> {
    if tensor == STATE || Some(tensor) == history {
        return 0..usize::MAX;
    }
    let uses = |op: &OpSpec<'_>| op.output() == tensor || op.inputs().any(|input| input == tensor);
    let first = ops.iter().position(uses).unwrap_or(0);
    let last = ops.iter().rposition(uses).map_or(0, |last| last + 1);
    first..if tensor == OUTPUT { usize::MAX } else { last }
}

/// Places everything with the smallest passes; returns the bytes of arena.
fn place_one_way(tensors: &mut [Tensor], ops: &mut [OpSpec<'_>], history: Option<u16>, in_place: [bool; 2]) -> usize {
    tensors.iter_mut().for_each(|tensor| tensor.offset = UNPLACED);
    for op in ops.iter_mut() {
        let pixels = op.pixels(tensors).clamp(1, FEWEST_PIXELS);
        *op.memory_mut() = crate::format::OpMemory { pixels: pixels as u16, scratch: UNPLACED };
    }
    loop {
        let graph = Graph { tensors, ops, history, in_place };
        let Some(block) = graph.largest_unplaced() else { break };
        let base = graph.lowest_fit(block);
        match block {
            Block::Scratch(index) => ops[index as usize].memory_mut().scratch = base,
            Block::Tensors(root) => {
                for tensor in 0..tensors.len() as u16 {
                    let graph = Graph { tensors, ops, history, in_place };
                    if let Some(distance) = graph.distance(tensor, root) {
                        tensors[tensor as usize].offset = base + distance;
                    }
                }
            }
        }
    }
    arena_len(tensors, ops)
}

/// Gives the operation the largest passes for which its scratch fits below `limit`.
fn enlarge(tensors: &[Tensor], ops: &mut [OpSpec<'_>], history: Option<u16>, index: usize, limit: usize) {
    let in_place = overlaps_input(tensors, &ops[index]);
    let most = ops[index].pixels(tensors).next_multiple_of(2).min(u16::MAX as usize - 1);
    let mut pixels = FEWEST_PIXELS;
    while pixels < most {
        pixels += 2;
        let len = ops[index].scratch_len(tensors, pixels, in_place);
        if len > ENOUGH_SCRATCH || !keeps_its_distance(tensors, &ops[index], pixels) {
            break;
        }
        let Some(scratch) = lowest_gap(tensors, ops, history, index, len, limit) else { break };
        *ops[index].memory_mut() = crate::format::OpMemory { pixels: pixels as u16, scratch };
    }
}

/// Whether the output of a pass of `pixels` never overtakes what it reads.
fn keeps_its_distance(tensors: &[Tensor], op: &OpSpec<'_>, pixels: usize) -> bool {
    op.inputs().all(|input| {
        let (input, output) = (&tensors[input as usize], &tensors[op.output() as usize]);
        !input.overlaps(output) || input.offset as i64 - output.offset as i64 >= lead(tensors, op, input, pixels)
    })
}

/// [`input_lead`] of an operation.
fn lead(tensors: &[Tensor], op: &OpSpec<'_>, input: &Tensor, pixels: usize) -> i64 {
    let OpSpec::Conv(conv) = op else { return i64::MAX };
    let Some(shape) = conv.shape(tensors) else { return i64::MAX };
    let output = &tensors[conv.output as usize];
    input_lead(&shape, pixels, input.bytes() / input.height.max(1), output.channels * output.element.size())
}

/// The lowest place below `limit` for scratch of `len` bytes beside the tensors that are alive.
fn lowest_gap(
    tensors: &[Tensor],
    ops: &[OpSpec<'_>],
    history: Option<u16>,
    index: usize,
    len: usize,
    limit: usize,
) -> Option<usize> {
    let alive = |tensor: &u16| lifetime(*tensor, ops, history).contains(&index);
    let mut at = 0;
    loop {
        let blocking = (0..tensors.len() as u16).filter(alive).map(|tensor| tensors[tensor as usize].range());
        match blocking.filter(|range| overlap(range, &(at..at + len))).map(|range| range.end).max() {
            Some(end) => at = end.next_multiple_of(4),
            None => return (at + len <= limit).then_some(at),
        }
    }
}

impl Graph<'_, '_> {
    /// The tensor in whose place, `distance` bytes further, `tensor` lies: the output of the operation that reads it last.
    fn host(&self, tensor: u16) -> Option<(u16, usize)> {
        if tensor == STATE || tensor == OUTPUT || Some(tensor) == self.history {
            return None;
        }
        let life = lifetime(tensor, self.ops, self.history);
        let index = life.end.checked_sub(1)?;
        let op @ OpSpec::Conv(conv) = self.ops.get(index)? else { return None };
        let allowed = self.in_place[conv.norm.is_none() as usize];
        let first_written = lifetime(conv.output, self.ops, self.history).start == index;
        if !allowed || conv.output == tensor || conv.destination == Destination::Accumulate || !first_written {
            return None;
        }
        // Of two inputs that end here the larger one's place is taken.
        let bytes = |tensor: u16| self.tensors[tensor as usize].bytes();
        let ends_here = |other: &u16| lifetime(*other, self.ops, self.history).end == life.end && *other > OUTPUT;
        let chosen = op.inputs().filter(ends_here).max_by_key(|&other| (bytes(other), other));
        if chosen != Some(tensor) {
            return None;
        }
        let pixels = conv.memory.pixels as usize;
        let lead = lead(self.tensors, op, &self.tensors[tensor as usize], pixels);
        let distance = usize::try_from(lead.max(0)).ok()?.next_multiple_of(4);
        // Further away than the output is long there is nothing to share.
        (distance < bytes(conv.output)).then_some((conv.output, distance))
    }

    /// How many bytes after the start of `root`'s block `tensor` lies; `None` if it is in another block.
    fn distance(&self, tensor: u16, root: u16) -> Option<usize> {
        let (mut at, mut distance) = (tensor, 0);
        while let Some((host, further)) = self.host(at) {
            (at, distance) = (host, distance + further);
        }
        (at == root).then_some(distance)
    }

    /// The parts of a block: bytes from its start, and when they are alive.
    fn parts(&self, block: Block) -> impl Iterator<Item = (core::ops::Range<usize>, core::ops::Range<usize>)> {
        let count = if let Block::Tensors(_) = block { self.tensors.len() as u16 } else { 0 };
        let tensors = (0..count).filter_map(move |tensor| {
            let Block::Tensors(root) = block else { return None };
            let distance = self.distance(tensor, root)?;
            let bytes = self.tensors[tensor as usize].bytes();
            Some((distance..distance + bytes, lifetime(tensor, self.ops, self.history)))
        });
        let scratch = match block {
            Block::Scratch(index) => Some((0..self.scratch_len(index), index as usize..index as usize + 1)),
            Block::Tensors(_) => None,
        };
        tensors.chain(scratch)
    }

    fn scratch_len(&self, index: u16) -> usize {
        let op = &self.ops[index as usize];
        let hosted = op.inputs().any(|input| self.host(input).is_some_and(|(host, _)| host == op.output()));
        op.scratch_len(self.tensors, op.memory().pixels as usize, hosted)
    }

    fn largest_unplaced(&self) -> Option<Block> {
        let roots = (0..self.tensors.len() as u16)
            .filter(|&tensor| self.tensors[tensor as usize].offset == UNPLACED && self.host(tensor).is_none());
        let scratches = (0..self.ops.len() as u16).filter(|&op| self.ops[op as usize].memory().scratch == UNPLACED);
        let blocks = roots.map(Block::Tensors).chain(scratches.map(Block::Scratch));
        blocks.enumerate().max_by_key(|&(order, block)| (self.len(block), core::cmp::Reverse(order))).map(|(_, b)| b)
    }

    fn len(&self, block: Block) -> usize {
        self.parts(block).map(|(bytes, _)| bytes.end).max().unwrap_or(0)
    }

    /// The lowest multiple of 4 where no part of `block` overlaps anything placed that is alive at the same time.
    fn lowest_fit(&self, block: Block) -> usize {
        let mut base = 0;
        while let Some(next) = self.parts(block).filter_map(|part| self.blocked_until(base, &part)).max() {
            base = next.next_multiple_of(4);
        }
        base
    }

    /// If `part` of a block at `base` is in the way of something placed: the base that is past all of it.
    fn blocked_until(
        &self,
        base: usize,
        (bytes, life): &(core::ops::Range<usize>, core::ops::Range<usize>),
    ) -> Option<usize> {
        let here = base + bytes.start..base + bytes.end;
        let tensors = (0..self.tensors.len() as u16).map(|tensor| {
            let t = &self.tensors[tensor as usize];
            let offset = t.offset;
            (offset, t.bytes(), lifetime(tensor, self.ops, self.history))
        });
        let scratches = (0..self.ops.len() as u16).map(|index| {
            (self.ops[index as usize].memory().scratch, self.scratch_len(index), index as usize..index as usize + 1)
        });
        let placed = tensors.chain(scratches).filter(|&(offset, ..)| offset != UNPLACED);
        let blocking = placed
            .filter(|(offset, len, alive)| overlap(alive, life) && *offset < here.end && here.start < offset + len);
        blocking.map(|(offset, len, _)| offset + len - bytes.start).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{ConvSpec, OpMemory};
    use crate::model::Element;

    fn tensor(elements: usize) -> Tensor {
        Tensor { offset: 0, height: elements, width: 1, channels: 1, element: Element::I8, zero: 0, scale: 1.0 }
    }

    fn link(input: u16, output: u16, destination: Destination) -> OpSpec<'static> {
        OpSpec::Conv(ConvSpec {
            input,
            norm: None,
            output,
            kernel: 1,
            stride: 1,
            upsample: 1,
            destination,
            weights: &[],
            bias: &[],
            multipliers: &[],
            memory: OpMemory::default(),
        })
    }

    const SET: Destination = Destination::Overwrite;

    #[test]
    fn a_chain_of_pixel_by_pixel_operations_stays_in_one_place() {
        let mut tensors = [200, 200, 1000, 1000, 1000].map(tensor);
        let mut ops = [link(0, 2, SET), link(2, 3, SET), link(3, 4, SET), link(4, 1, SET)];
        let arena = place(&mut tensors, &mut ops, None, 0);
        assert_eq!(tensors[2].offset, tensors[4].offset);
        assert!(arena < 200 + 200 + 1000 + 200, "{arena}");
    }

    /// Everything alive at the same time lies apart, but for outputs in the place of inputs.
    fn assert_sound(tensors: &[Tensor], ops: &[OpSpec<'_>], history: Option<u16>) {
        let life = |tensor: usize| lifetime(tensor as u16, ops, history);
        for (i, a) in tensors.iter().enumerate() {
            assert_eq!(a.offset % 4, 0);
            for (j, b) in tensors.iter().enumerate().skip(i + 1) {
                let both = life(i).start.max(life(j).start)..life(i).end.min(life(j).end);
                let shared_at_one = both.len() == 1 && {
                    let op = &ops[both.start];
                    let output = op.output() as usize;
                    (output == i || output == j) && op.inputs().any(|input| input as usize == i + j - output)
                };
                assert!(!a.overlaps(b) || both.is_empty() || shared_at_one, "{i} and {j}");
            }
            for index in life(i).start..life(i).end.min(ops.len()) {
                assert!(!overlap(&a.range(), &scratch(tensors, ops, index)), "{i} and the scratch of {index}");
            }
        }
    }

    #[test]
    fn what_is_alive_together_never_overlaps() {
        for slack in [0, 100, 10_000] {
            let mut tensors = [5, 5, 31, 17, 9, 5].map(tensor);
            let accumulate = link(2, 4, Destination::Accumulate);
            let mut ops = [link(0, 2, SET), link(2, 3, SET), link(3, 4, SET), accumulate, link(4, 1, SET)];
            let arena = place(&mut tensors, &mut ops, Some(5), slack);
            assert_sound(&tensors, &ops, Some(5));
            assert!(arena >= 31 + 17 + 5);
        }
    }
}
