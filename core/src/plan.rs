//! Placing activations and scratch in the arena. `docs/memory.md` shows what comes out.
//!
//! A tensor is a block that lives from its first write to its last read; the scratch of an operation is a block that lives for
//! that operation alone. Blocks that live together lie apart, with one exception: where a convolution reads a tensor for
//! the last time, its output may lie over that tensor, [`input_lead`] bytes before it or further ([`crate::network`]).
//!
//! Blocks are placed one after the other, each at the lowest offset that those already placed leave it (greedy by size:
//! Pisarchyk, Lee, *Efficient Memory Management for Deep Neural Net Inference*, 2020, section 5.2). Where that takes more
//! than what some operation needs at once, a search looks for something better. `tests/tests/plan.rs` compares the
//! result with the exact optimum.

use core::cmp::Reverse;
use core::ops::Range;

use crate::format::{OUTPUT, OpMemory, OpSpec, STATE};
use crate::kernel::Destination;
use crate::model::{Tensor, overlap};
use crate::network::input_lead;

/// Offset of a block that has none yet.
const UNPLACED: usize = usize::MAX;
/// Output pixels a pass at least, in any plan; fewer would widen each weight for a single product.
const FEWEST_PIXELS: usize = 2;
/// Output pixels a pass that are tried for all operations at once, where the limit allows as many.
const PASSES: [usize; 2] = [8, 4];
/// Bytes of arena that 64 KiB of RAM leave room for.
const SMALL_RAM: usize = 63_000;
/// Which outputs may lie over inputs: of operations that normalize, and of others.
const WAYS: [[bool; 2]; 3] = [[true, true], [true, false], [false, false]];
/// A pass needs no more scratch than this, unpacked weights apart, in bytes: what each weight costs is then spread thin enough.
const ENOUGH_SCRATCH: usize = 24 * 1024;
/// Blocks that a model may have for its plan to be searched for.
const SEARCHED: usize = 256;
/// Arenas that are searched for, from the smallest possible one up to what greed gives.
const LIMITS: usize = 4;
/// Searches for each, with different orders: a few short ones find what a long one does not.
const ORDERS: u32 = 16;
/// Steps of a search.
const STEPS: u32 = 300;
/// Random factors are multiples of 1 / this.
const RANDOM_STEPS: u64 = 32;
/// In [`Search::passed`]: not passed over.
const NOT_PASSED: (u32, u16) = (u32::MAX, u16::MAX);

/// How large an arena may become for the sake of longer passes, which are faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Room {
    /// As small as possible: passes are longer only where there is room anyway.
    Smallest,
    /// What an exporter takes if nobody asks for anything else; [`usual_limit`] says how much and why.
    Usual,
    /// So many bytes, or what the smallest plan needs if that is more.
    Bytes(usize),
}

/// The arena that [`Room::Usual`] allows where the smallest has `smallest` bytes, and `long` bytes are needed at once with
/// passes of eight pixels: those and a 64th more, but no more than 63,000 bytes or a 64th above the smallest.
///
/// A pass of N pixels spends about 0.7 / N instructions for each multiply-accumulate on widening weights, beside 0.9 that it
/// takes anyway on a Cortex-M4: eight pixels are long enough, two are a third slower. A pixel more takes two bytes for each
/// tap, which every application pays in RAM. That is worth it as long as a chip with 64 KiB of RAM still has room for
/// its stack; a larger arena stays as small as it can be. Who knows the chip asks for [`Room::Bytes`].
pub fn usual_limit(smallest: usize, long: usize) -> usize {
    (long + long / 64).min((smallest + smallest / 64).max(SMALL_RAM)).max(smallest)
}

/// Sets the offset of every tensor and the memory of every operation, and returns the bytes of arena that they need.
///
/// A tensor is alive from its first write to its last read; the state, the output's last value and the history always are.
/// The smallest arena is that of the shortest passes; `room` says how much larger it may be. Then every operation gets passes as
/// long as they fit.
pub fn place(tensors: &mut [Tensor], ops: &mut [OpSpec<'_>], history: Option<u16>, room: Room) -> usize {
    let mut plan = Plan { tensors, ops, history, in_place: [true; 2], known: [None; SEARCHED] };
    let smallest = plan.place_smallest();
    let limit = match room {
        Room::Smallest => smallest,
        Room::Usual => usual_limit(smallest, plan.least_with(PASSES[0])),
        Room::Bytes(bytes) => bytes.max(smallest),
    };
    // If nothing longer fits everywhere, it may still fit here and there.
    if !PASSES.into_iter().any(|pixels| plan.place_within(limit, pixels)) {
        plan.place_smallest();
    }
    for index in 0..plan.ops.len() {
        plan.lengthen(index, limit);
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
pub fn scratch(tensors: &[Tensor], ops: &[OpSpec<'_>], index: usize) -> Range<usize> {
    let memory = ops[index].memory();
    let in_place = overlaps_input(tensors, &ops[index]);
    memory.scratch..memory.scratch + ops[index].scratch_len(tensors, memory.pixels as usize, in_place)
}

/// The operations during which `tensor` may not be overwritten: from its first write up to and with its last use.
pub fn lifetime(tensor: u16, ops: &[OpSpec<'_>], history: Option<u16>) -> Range<usize> {
    if tensor == STATE || Some(tensor) == history {
        return 0..usize::MAX;
    }
    let uses = |op: &OpSpec<'_>| op.output() == tensor || op.inputs().any(|input| input == tensor);
    let first = ops.iter().position(uses).unwrap_or(0);
    let last = ops.iter().rposition(uses).map_or(0, |last| last + 1);
    first..if tensor == OUTPUT { usize::MAX } else { last }
}

/// If `output` may be written in the place of `input`, which no other operation reads after the one that writes `output`
/// first: the bytes that `input` must begin after `output`, at least (less than none: it may begin before).
pub fn lead(
    tensors: &[Tensor],
    ops: &[OpSpec<'_>],
    history: Option<u16>,
    [input, output]: [u16; 2],
    pixels: usize,
) -> Option<i64> {
    let index = lifetime(output, ops, history).start;
    let op @ OpSpec::Conv(conv) = ops.get(index)? else { return None };
    let reads = op.inputs().any(|tensor| tensor == input) && lifetime(input, ops, history).end == index + 1;
    let writes = conv.output == output && conv.destination == Destination::Overwrite;
    (reads && writes).then(|| lead_of(tensors, op, input, pixels))
}

/// [`input_lead`] of an operation, at least minus the input's length: further away there is nothing to overlap.
fn lead_of(tensors: &[Tensor], op: &OpSpec<'_>, input: u16, pixels: usize) -> i64 {
    let shape = if let OpSpec::Conv(conv) = op { conv.shape(tensors) } else { None };
    let (input, output) = (&tensors[input as usize], &tensors[op.output() as usize]);
    let pixel_len = output.channels * output.element.size();
    let lead = |shape| input_lead(&shape, pixels, input.bytes() / input.height.max(1), pixel_len);
    shape.map_or(i64::MAX, lead).max(-(input.bytes() as i64))
}

fn overlaps_input(tensors: &[Tensor], op: &OpSpec<'_>) -> bool {
    let tensor = |index: u16| tensors.get(index as usize);
    let overlaps = |input: u16| matches!((tensor(input), tensor(op.output())), (Some(a), Some(b)) if a.overlaps(b));
    op.inputs().any(overlaps)
}

/// A plan in the making. Its blocks are numbered: the tensors, then the scratch of each operation.
struct Plan<'p, 'a> {
    tensors: &'p mut [Tensor],
    ops: &'p mut [OpSpec<'a>],
    history: Option<u16>,
    /// Whether outputs may lie over inputs, where those are normalized and where they are not (which takes a ring).
    in_place: [bool; 2],
    /// What takes long to find out about the first blocks.
    known: [Option<Known>; SEARCHED],
}

/// What placing does not change about a block.
#[derive(Clone, Copy)]
struct Known {
    len: u32,
    life: [u16; 2],
}

impl Plan<'_, '_> {
    /// Places everything with the shortest passes; returns the bytes of arena.
    fn place_smallest(&mut self) -> usize {
        let least = self.least_with(FEWEST_PIXELS);
        let greedy = WAYS.map(|in_place| {
            self.clear(in_place, FEWEST_PIXELS, usize::MAX);
            self.place_greedily()
        });
        let most = greedy.into_iter().min().unwrap_or(least).max(least);
        // The last limit is what greed needs.
        for limit in (0..=LIMITS).map(|index| least + (most - least) * index / LIMITS) {
            if self.place_within(limit, FEWEST_PIXELS) {
                break;
            }
        }
        arena_len(self.tensors, self.ops)
    }

    /// Bytes that are needed at once with passes of `pixels`, at least; nothing is placed then.
    fn least_with(&mut self, pixels: usize) -> usize {
        self.clear([true; 2], pixels, usize::MAX);
        self.least(|_| 0)
    }

    /// Places everything below `limit`, with passes of `pixels` where the limit is not hopeless for them; `false` if that
    /// was not found possible.
    fn place_within(&mut self, limit: usize, pixels: usize) -> bool {
        for in_place in WAYS {
            self.clear(in_place, pixels, limit);
            if self.place_greedily() <= limit {
                return true;
            }
        }
        let orders = if self.blocks().len() <= SEARCHED { ORDERS } else { 0 };
        (0..orders).any(|order| {
            self.clear([true; 2], pixels, limit);
            let passed = &mut [NOT_PASSED; SEARCHED];
            Search { limit, order, passed, steps: STEPS }.run(self, 0, 0)
        })
    }

    /// Nothing is placed. Each operation gets passes of `pixels`, or as many as what it needs at once leaves below `limit`.
    fn clear(&mut self, in_place: [bool; 2], pixels: usize, limit: usize) {
        self.in_place = in_place;
        self.known = [None; SEARCHED];
        self.tensors.iter_mut().for_each(|tensor| tensor.offset = UNPLACED);
        for index in 0..self.ops.len() {
            let most = self.ops[index].pixels(self.tensors).max(1);
            for pixels in (FEWEST_PIXELS..=pixels).rev().step_by(2) {
                *self.ops[index].memory_mut() = OpMemory { pixels: pixels.min(most) as u16, scratch: UNPLACED };
                if self.least_at(index, |_| 0) <= limit {
                    break;
                }
            }
        }
        for block in self.blocks().take(SEARCHED) {
            let life = self.life(block);
            let life = [life.start, life.end].map(|time| time.min(u16::MAX as usize) as u16);
            self.known[block] = Some(Known { len: self.len(block) as u32, life });
        }
    }

    /// Places the longest block first, at the lowest offset that the others leave it; returns the bytes of arena.
    fn place_greedily(&mut self) -> usize {
        while let Some(block) = self.unplaced().max_by_key(|&block| (self.len(block), Reverse(block))) {
            let offset = self.lowest_fit(block, 0);
            self.set_offset(block, offset);
        }
        arena_len(self.tensors, self.ops)
    }

    fn blocks(&self) -> Range<usize> {
        0..self.tensors.len() + self.ops.len()
    }

    /// Blocks without a place.
    fn unplaced(&self) -> impl Iterator<Item = usize> {
        self.blocks().filter(|&block| self.offset(block) == UNPLACED)
    }

    fn set_offset(&mut self, block: usize, offset: usize) {
        match block.checked_sub(self.tensors.len()) {
            None => self.tensors[block].offset = offset,
            Some(op) => self.ops[op].memory_mut().scratch = offset,
        }
    }

    fn offset(&self, block: usize) -> usize {
        match block.checked_sub(self.tensors.len()) {
            None => self.tensors[block].offset,
            Some(op) => self.ops[op].memory().scratch,
        }
    }

    /// Bytes of a block; of scratch, what the operation needs if its output may lie over its input.
    fn len(&self, block: usize) -> usize {
        if let Some(Some(known)) = self.known.get(block) {
            return known.len as usize;
        }
        match block.checked_sub(self.tensors.len()) {
            None => self.tensors[block].bytes(),
            Some(index) => {
                let op = &self.ops[index];
                let in_place = op.inputs().any(|input| self.lead([input, op.output()]).is_some());
                op.scratch_len(self.tensors, op.memory().pixels as usize, in_place)
            }
        }
    }

    fn life(&self, block: usize) -> Range<usize> {
        if let Some(Some(Known { life: [start, end], .. })) = self.known.get(block) {
            return *start as usize..*end as usize;
        }
        match block.checked_sub(self.tensors.len()) {
            None => lifetime(block as u16, self.ops, self.history),
            Some(op) => op..op + 1,
        }
    }

    /// [`lead`], where this plan allows it.
    fn lead(&self, [input, output]: [u16; 2]) -> Option<i64> {
        let index = self.life(output as usize).start;
        let OpSpec::Conv(conv) = self.ops.get(index)? else { return None };
        if !self.in_place[conv.norm.is_none() as usize] || self.life(input as usize).end != index + 1 {
            return None;
        }
        lead(self.tensors, self.ops, self.history, [input, output], conv.memory.pixels as usize)
    }

    /// The lowest multiple of 4 from `offset` on at which `block` is in the way of nothing placed.
    fn lowest_fit(&self, block: usize, mut offset: usize) -> usize {
        let (len, life) = (self.len(block), self.life(block));
        let in_the_way = |other: usize, offset: usize| {
            let start = self.offset(other);
            let overlaps = start != UNPLACED && offset + len > start && offset < start + self.len(other);
            let meets = overlaps && overlap(&life, &self.life(other));
            if meets { self.blocked_until(block, offset as i64, other) } else { None }
        };
        while let Some(next) = self.blocks().filter_map(|other| in_the_way(other, offset)).max() {
            offset = next.next_multiple_of(4);
        }
        offset
    }

    /// The lowest multiple of 4 at which nothing placed is above `block`, what it may overlap apart.
    fn on_top(&self, block: usize) -> usize {
        let life = self.life(block);
        let below = |&other: &usize| self.offset(other) != UNPLACED && overlap(&life, &self.life(other));
        let apart = |&other: &usize| !self.may_overlap(block, other);
        let end = |other: usize| (self.offset(other) + self.len(other)).next_multiple_of(4);
        let top = self.blocks().filter(below).filter(apart).map(end).max().unwrap_or(0);
        self.lowest_fit(block, top)
    }

    fn may_overlap(&self, a: usize, b: usize) -> bool {
        let [first, second] = [a, b].map(|block| block as u16);
        let tensors = a.max(b) < self.tensors.len();
        tensors && (self.lead([first, second]).is_some() || self.lead([second, first]).is_some())
    }

    /// `block` at `offset` overlaps `placed`, which is alive at the same time: unless it may, the offset from which on it does
    /// not.
    fn blocked_until(&self, block: usize, offset: i64, placed: usize) -> Option<usize> {
        let (start, end) = (self.offset(placed) as i64, self.offset(placed) + self.len(placed));
        if block.max(placed) >= self.tensors.len() {
            return Some(end);
        }
        let [block, placed] = [block, placed].map(|tensor| tensor as u16);
        if let Some(lead) = self.lead([block, placed]) {
            return (offset < start + lead).then_some((start + lead) as usize);
        }
        match self.lead([placed, block]) {
            Some(lead) if offset <= start - lead => None,
            _ => Some(end),
        }
    }

    /// Bytes that are needed at some operation, at least.
    fn least(&self, least_offset: impl Fn(usize) -> usize) -> usize {
        (0..self.ops.len()).map(|index| self.least_at(index, &least_offset)).max().unwrap_or(0)
    }

    /// Bytes that are needed at an operation, at least. `least_offset` is the lowest that a block may still get.
    fn least_at(&self, index: usize, least_offset: impl Fn(usize) -> usize) -> usize {
        let (mut top, mut rest, mut lowest) = (0, 0, usize::MAX);
        for block in self.blocks().filter(|&block| self.life(block).contains(&index)) {
            match self.offset(block) {
                UNPLACED => {
                    rest += self.len(block);
                    lowest = lowest.min(least_offset(block));
                }
                offset => top = top.max(offset + self.len(block)),
            }
        }
        let all = if rest > 0 { top.max(lowest) + rest } else { top };
        top.max(all.saturating_sub(self.shared(index)))
    }

    /// Bytes that the output of an operation may have in common with its inputs, or by which its scratch is shorter if it
    /// has none.
    fn shared(&self, index: usize) -> usize {
        let op = &self.ops[index];
        let (output, scratch) = (op.output() as usize, self.tensors.len() + index);
        let over = |input: u16| {
            let lead = self.lead([input, op.output()])?.max(0) as usize;
            let (input_len, output_len) = (self.len(input as usize), self.len(output));
            match [input as usize, output].map(|tensor| self.offset(tensor) == UNPLACED) {
                [true, true] => Some((input_len + output_len).saturating_sub(output_len.max(input_len + lead))),
                [false, false] => None,
                _ => Some(input_len.min(output_len)),
            }
        };
        let shared = op.inputs().filter_map(over).sum::<usize>().min(self.len(output));
        let pixels = op.memory().pixels as usize;
        shared.max(self.len(scratch) - op.scratch_len(self.tensors, pixels, false))
    }

    /// Gives the operation the longest passes for which its scratch fits below `limit`.
    fn lengthen(&mut self, index: usize, limit: usize) {
        let op = &self.ops[index];
        let in_place = overlaps_input(self.tensors, op);
        let most = op.pixels(self.tensors).next_multiple_of(2).min(u16::MAX as usize - 1);
        for pixels in (FEWEST_PIXELS..=most).rev().step_by(2) {
            let len = op.scratch_len(self.tensors, pixels, in_place);
            if len - op.unpacked_len(self.tensors) > ENOUGH_SCRATCH || !self.keeps_its_distance(op, pixels) {
                continue;
            }
            if let Some(scratch) = self.lowest_gap(index, len, limit) {
                *self.ops[index].memory_mut() = OpMemory { pixels: pixels as u16, scratch };
                return;
            }
        }
    }

    /// Whether the output of a pass of `pixels` never overtakes what it reads.
    fn keeps_its_distance(&self, op: &OpSpec<'_>, pixels: usize) -> bool {
        let output = &self.tensors[op.output() as usize];
        op.inputs().all(|index| {
            let input = &self.tensors[index as usize];
            let distance = input.offset as i64 - output.offset as i64;
            !input.overlaps(output) || distance >= lead_of(self.tensors, op, index, pixels)
        })
    }

    /// The lowest place below `limit` for scratch of `len` bytes beside the tensors that are alive.
    fn lowest_gap(&self, index: usize, len: usize, limit: usize) -> Option<usize> {
        let alive = |tensor: &u16| lifetime(*tensor, self.ops, self.history).contains(&index);
        let mut at = 0;
        loop {
            let blocking = (0..self.tensors.len() as u16).filter(alive).map(|t| self.tensors[t as usize].range());
            match blocking.filter(|range| overlap(range, &(at..at + len))).map(|range| range.end).max() {
                Some(end) => at = end.next_multiple_of(4),
                None => return (at + len <= limit).then_some(at),
            }
        }
    }
}

/// A search for a plan that ends at `limit`: each block is placed on top of all that is there, the lowest first. Any plan can
/// be pushed together into one of this form, but the search gives up after some steps.
struct Search<'s> {
    limit: usize,
    /// Which of two blocks at the same offset comes first.
    order: u32,
    /// The blocks that were passed over, where they were then, and how many blocks were placed then. Putting one there
    /// again was tried already: something else must come under it.
    passed: &'s mut [(u32, u16); SEARCHED],
    steps: u32,
}

impl Search<'_> {
    /// Places what `plan` lacks. `bottom` is the offset of the last of the blocks that are `placed`.
    fn run(&mut self, plan: &mut Plan<'_, '_>, bottom: usize, placed: u16) -> bool {
        if self.steps == 0 || !self.may_fit(plan, bottom) {
            return false;
        }
        self.steps -= 1;
        let mut tried = None;
        loop {
            let key = |block: usize| (plan.on_top(block), Reverse(self.weight(plan, block)), block);
            let next = plan.unplaced().map(key).filter(|&key| Some(key) > tried);
            let next = next.filter(|&(offset, _, block)| self.may_go_to(block, offset, bottom)).min();
            let Some(key @ (offset, _, block)) = next else { break };
            plan.set_offset(block, offset);
            if self.run(plan, offset, placed + 1) {
                return true;
            }
            plan.set_offset(block, UNPLACED);
            self.passed[block] = (offset as u32, placed);
            tried = Some(key);
        }
        self.passed.iter_mut().filter(|passed| passed.1 == placed).for_each(|passed| *passed = NOT_PASSED);
        plan.unplaced().next().is_none()
    }

    /// Bytes times operations, times a random number between 1 and 2.
    fn weight(&self, plan: &Plan<'_, '_>, block: usize) -> u64 {
        let area = plan.len(block) * plan.life(block).len().min(plan.ops.len());
        area as u64 * (RANDOM_STEPS + hash(self.order, block) % RANDOM_STEPS)
    }

    fn may_go_to(&self, block: usize, offset: usize, bottom: usize) -> bool {
        offset >= bottom && self.passed[block].0 != offset as u32
    }

    /// Whether what is not placed yet may still fit below the limit.
    fn may_fit(&self, plan: &Plan<'_, '_>, bottom: usize) -> bool {
        let mut on_top = [0; SEARCHED];
        plan.unplaced().for_each(|block| on_top[block] = plan.on_top(block));
        let mut offsets = on_top;
        for block in plan.unplaced().filter(|&block| !self.may_go_to(block, on_top[block], bottom)) {
            // Something else must come under it first.
            let life = plan.life(block);
            let under = plan.unplaced().filter(|&other| other != block && overlap(&life, &plan.life(other)));
            let Some(least) = under.map(|other| on_top[other].max(bottom) + plan.len(other)).min() else {
                return false;
            };
            offsets[block] = least;
        }
        plan.least(|block| offsets[block]) <= self.limit
    }
}

/// A random number for a block (SplitMix64: Steele, Lea, Flood, *Fast Splittable Pseudorandom Number Generators*, 2014).
fn hash(order: u32, block: usize) -> u64 {
    let mut value = ((order as u64) << 32 | block as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::ConvSpec;
    use crate::kernel::WeightBits;
    use crate::model::Element;

    fn tensor(elements: usize) -> Tensor {
        Tensor { offset: 0, height: elements, width: 1, channels: 1, element: Element::I8, zero: 0, scale: 1.0 }
    }

    fn link(input: u16, output: u16, destination: Destination) -> OpSpec<'static> {
        OpSpec::Conv(ConvSpec {
            input,
            norm: None,
            output,
            kernel: [1, 1],
            stride: 1,
            upsample: 1,
            destination,
            weights: &[],
            weight_bits: WeightBits::Eight,
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
        let arena = place(&mut tensors, &mut ops, None, Room::Smallest);
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
        for room in [Room::Smallest, Room::Usual, Room::Bytes(10_000)] {
            let mut tensors = [5, 5, 31, 17, 9, 5].map(tensor);
            let accumulate = link(2, 4, Destination::Accumulate);
            let mut ops = [link(0, 2, SET), link(2, 3, SET), link(3, 4, SET), accumulate, link(4, 1, SET)];
            let arena = place(&mut tensors, &mut ops, Some(5), room);
            assert_sound(&tensors, &ops, Some(5));
            assert!(arena >= 31 + 17 + 5);
        }
    }
}
