//! Placing activations in the arena.
//!
//! Greedy by size (Pisarchyk, Lee, *Efficient Memory Management for Deep Neural Net Inference*, 2020, section 5.2): the
//! largest tensor first, at the lowest offset where no tensor that is alive at the same time lies.

use crate::format::{OUTPUT, OpSpec, STATE};
use crate::model::Tensor;

/// Offset of a tensor that has none yet.
const UNPLACED: usize = usize::MAX;

/// Sets the offset of every tensor and returns the bytes of arena that they need.
///
/// A tensor is alive from its first write to its last read; the state, the output's last value and the history always are.
pub fn place(tensors: &mut [Tensor], ops: &[OpSpec<'_>], history: Option<u16>) -> usize {
    for tensor in tensors.iter_mut() {
        tensor.offset = UNPLACED;
    }
    while let Some(next) = largest_unplaced(tensors) {
        let life = lifetime(next as u16, ops, history);
        tensors[next].offset = lowest_fit(tensors, next, |other| {
            let alive = lifetime(other as u16, ops, history);
            alive.start < life.end && life.start < alive.end
        });
    }
    tensors.iter().map(|tensor| tensor.range().end).max().unwrap_or(0)
}

fn largest_unplaced(tensors: &[Tensor]) -> Option<usize> {
    let unplaced = (0..tensors.len()).filter(|&i| tensors[i].offset == UNPLACED);
    unplaced.max_by_key(|&i| (bytes(&tensors[i]), core::cmp::Reverse(i)))
}

fn bytes(tensor: &Tensor) -> usize {
    tensor.elements() * tensor.element.size()
}

/// The lowest multiple of 4 where `tensor` overlaps no placed tensor that `conflicts`.
fn lowest_fit(tensors: &[Tensor], tensor: usize, conflicts: impl Fn(usize) -> bool) -> usize {
    let len = bytes(&tensors[tensor]);
    let mut offset = 0;
    loop {
        let blocking = (0..tensors.len()).filter(|&other| tensors[other].offset != UNPLACED && conflicts(other));
        let blocked_to = blocking
            .map(|other| tensors[other].range())
            .filter(|range| range.start < offset + len && offset < range.end)
            .map(|range| range.end)
            .max();
        match blocked_to {
            Some(end) => offset = end.next_multiple_of(4),
            None => return offset,
        }
    }
}

/// The operations during which `tensor` may not be overwritten: from its first write up to and with its last use.
fn lifetime(tensor: u16, ops: &[OpSpec<'_>], history: Option<u16>) -> core::ops::Range<usize> {
    if tensor == STATE || Some(tensor) == history {
        return 0..usize::MAX;
    }
    let uses = |op: &OpSpec<'_>| match *op {
        OpSpec::Conv { input, output, .. } => input == tensor || output == tensor,
        OpSpec::GroupNormSilu { input, second, output, .. } => {
            input.tensor == tensor || second.is_some_and(|part| part.tensor == tensor) || output == tensor
        }
    };
    let first = ops.iter().position(uses).unwrap_or(0);
    let last = ops.iter().rposition(uses).map_or(0, |last| last + 1);
    first..if tensor == OUTPUT { usize::MAX } else { last }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Destination;
    use crate::model::Element;

    fn tensor(elements: usize) -> Tensor {
        Tensor { offset: 0, height: 1, width: elements, channels: 1, element: Element::I8, zero: 0, scale: 1.0 }
    }

    fn link(input: u16, output: u16) -> OpSpec<'static> {
        OpSpec::Conv {
            input,
            output,
            kernel: 1,
            stride: 1,
            upsample: 1,
            destination: Destination::Overwrite,
            weights: &[],
            bias: &[],
            multipliers: &[],
        }
    }

    #[test]
    fn a_chain_reuses_the_space_of_dead_tensors() {
        let mut tensors = [8, 8, 100, 60, 100].map(tensor);
        let ops = [link(0, 2), link(2, 3), link(3, 4), link(4, 1)];
        let arena = place(&mut tensors, &ops, None);
        assert_eq!(arena, 100 + 60 + 8);
        assert_eq!(tensors[2].offset, tensors[4].offset);
    }

    #[test]
    fn tensors_alive_together_never_overlap_and_offsets_are_aligned() {
        let mut tensors = [5, 5, 31, 17, 9, 5].map(tensor);
        let ops = [link(0, 2), link(2, 3), link(3, 4), link(2, 4), link(4, 1)];
        place(&mut tensors, &ops, Some(5));
        for (i, a) in tensors.iter().enumerate() {
            assert_eq!(a.offset % 4, 0);
            for (j, b) in tensors.iter().enumerate().skip(i + 1) {
                let (x, y) = (lifetime(i as u16, &ops, Some(5)), lifetime(j as u16, &ops, Some(5)));
                let alive = x.start < y.end && y.start < x.end;
                let overlap = a.range().start < b.range().end && b.range().start < a.range().end;
                assert!(!(alive && overlap), "{i} and {j}");
            }
        }
    }
}
