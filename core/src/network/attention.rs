//! Self-attention over the pixels of one tensor: two products of matrices, which the convolution's kernels compute with the
//! keys and the values in the place of weights, and a softmax between them.

use crate::kernel::{BLOCK, ConvShape, ConvWeights, Destination, Kernel, QUAD, convolve, weight_index};
use crate::view::{I32s, elements, elements_mut, part, part_mut};

/// The geometry of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct AttentionShape {
    /// Pixels.
    pub tokens: usize,
    /// Channels of the output, of all heads together.
    pub channels: usize,
    /// Heads.
    pub heads: usize,
}

/// How the scratch of an attention is divided, in this order; bytes, each a multiple of 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct AttentionMemory {
    /// One head's keys, packed as weights.
    keys: usize,
    /// One head's values, packed as weights.
    values: usize,
    /// Three times: biases of zero, the score multiplier, the value multiplier; as many as there are channels.
    constants: usize,
    /// The queries of a pass, then their results.
    queries: usize,
    /// The scores of a pass, i16, then the probabilities.
    scores: usize,
    /// What the products need.
    work: usize,
}

impl AttentionMemory {
    /// All of it.
    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.keys + self.values + 3 * self.constants + self.queries + self.scores + self.work
    }
}

impl AttentionShape {
    /// Channels of one head.
    pub fn head(&self) -> usize {
        self.channels / self.heads.max(1)
    }

    /// The scratch for `pixels` queries at a time.
    pub fn memory(&self, pixels: usize) -> AttentionMemory {
        let (scores, values) = (product(pixels, self.head(), self.tokens), product(pixels, self.tokens, self.head()));
        AttentionMemory {
            keys: scores.packed_len(),
            values: values.packed_len(),
            constants: 4 * self.tokens.max(self.head()),
            queries: (pixels * self.head()).next_multiple_of(4),
            scores: (2 * pixels * self.tokens).next_multiple_of(4),
            work: scores.work_len(pixels).max(values.work_len(pixels)),
        }
    }

    /// Multiply-accumulates of both products.
    pub fn macs(&self) -> u64 {
        2 * self.tokens as u64 * self.tokens as u64 * self.channels as u64
    }
}

/// A product of matrices: `pixels x channels_in` by `channels_in x channels_out`.
fn product(pixels: usize, channels_in: usize, channels_out: usize) -> ConvShape {
    let row = [1, pixels];
    ConvShape { input: row, channels_in, output: row, channels_out, kernel: [1; 2], stride: [1; 2], upsample: [1; 2] }
}

/// `output = softmax(queries keys^T) values` for each head, `pixels` queries at a time.
///
/// `input` is tokens x 3 channels: queries, keys and values, each of all heads in order, around zero. The multipliers turn
/// sums of query times key into 1/256 of an octave and sums of probability (Q15) times value into output steps; `zero_out`
/// is the output's zero point. `scratch` has the bytes of [`AttentionShape::memory`], at a multiple of 4.
pub fn attention<K: Kernel>(
    shape: &AttentionShape,
    input: &[i8],
    [score, value]: [i32; 2],
    output: &mut [i8],
    zero_out: i32,
    pixels: usize,
    scratch: &mut [u8],
) {
    let memory = shape.memory(pixels);
    let mut rest = scratch;
    let mut take = |len| rest.split_off_mut(..len).unwrap_or_default();
    let [keys, values] = [memory.keys, memory.values].map(&mut take);
    let [zeros, scores_by, values_by] = [0, score, value].map(|constant| {
        let bytes = take(memory.constants);
        bytes.as_chunks_mut().0.fill(constant.to_le_bytes());
        &*bytes
    });
    let [queries, scores, work] = [memory.queries, memory.scores, memory.work].map(take);
    let (queries, scores, work) = (elements_mut::<i8>(queries), elements_mut::<i16>(scores), elements_mut(work));
    let (channels, head) = (shape.channels, shape.head());
    let heads = (0..channels).step_by(head.max(1));
    for at in heads {
        let third = |kind: usize| {
            let tokens = input.chunks_exact((3 * channels).max(1));
            tokens.map(move |token| part(token, kind * channels + at, head))
        };
        // A key is the weights of an output channel; a value's channels are output channels, for one window element.
        pack_rows(third(1), head, keys);
        let value_taps = shape.tokens.next_multiple_of(QUAD);
        pack::<false>(third(2), values, |token| weight_index(value_taps, 0, token), BLOCK * value_taps);
        let mut waiting = third(0);
        for results in output.chunks_mut((pixels * channels).max(1)) {
            let count = results.len() / channels.max(1);
            for (to, from) in queries.chunks_exact_mut(head.max(1)).zip(waiting.by_ref().take(count)) {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
            }
            let (to_scores, to_values) = (product(count, head, shape.tokens), product(count, shape.tokens, head));
            let constants = |weights, multipliers| ConvWeights {
                weights: elements(weights),
                bias: I32s::new(zeros),
                multipliers: I32s::new(multipliers),
            };
            let queries = part_mut(queries, 0, count * head);
            let scores = part_mut(scores, 0, count * shape.tokens);
            let by = constants(keys, scores_by);
            convolve::<K, _, _>(&to_scores, &by, queries, 0, scores, 0, Destination::Overwrite, count, work);
            scores.chunks_exact_mut(shape.tokens.max(1)).for_each(K::softmax);
            let by = constants(values, values_by);
            convolve::<K, _, _>(&to_values, &by, scores, 0, queries, zero_out, Destination::Overwrite, count, work);
            for (to, from) in results.chunks_exact_mut(channels.max(1)).zip(queries.chunks_exact(head.max(1))) {
                to.iter_mut().skip(at).zip(from).for_each(|(to, from)| *to = *from);
            }
        }
    }
}

/// Packs the rows of a matrix of `columns` columns as weights, -128 as -127: a row becomes an output channel. So a convolution
/// of a 1x1 kernel multiplies two matrices that are both computed on the device. `packed` has [`ConvShape::packed_len`] bytes.
pub fn pack_rows<'t>(rows: impl Iterator<Item = &'t [i8]>, columns: usize, packed: &mut [u8]) {
    let taps = columns.next_multiple_of(QUAD);
    pack::<true>(rows, packed, |row| weight_index(taps, row, 0), BLOCK * QUAD);
}

/// Packs a matrix as weights, -128 as -127 like every weight: see [`weight_index`]. The values of a token are taken four at a
/// time: `place` says where a token's first four go, the next four go `step` bytes further. They lie beside each other,
/// or [`QUAD`] bytes apart.
fn pack<'t, const BESIDE: bool>(
    tokens: impl Iterator<Item = &'t [i8]>,
    packed: &mut [u8],
    place: impl Fn(usize) -> usize,
    step: usize,
) {
    packed.fill(0);
    for (token, values) in tokens.enumerate() {
        let mut rest = packed.get_mut(place(token)..).unwrap_or_default();
        let (fours, last) = bytemuck::cast_slice(values).as_chunks::<QUAD>();
        for &four in fours {
            scatter::<BESIDE>(four, rest);
            rest = rest.get_mut(step..).unwrap_or_default();
        }
        if !last.is_empty() {
            let mut four = [0; QUAD];
            four.iter_mut().zip(last).for_each(|(to, from)| *to = *from);
            scatter::<BESIDE>(four, rest);
        }
    }
}

/// Four weights beside each other, or [`QUAD`] bytes apart.
#[inline(always)]
fn scatter<const BESIDE: bool>(four: [u8; QUAD], to: &mut [u8]) {
    let word = u32::from_le_bytes(four);
    // A byte of -128 is one whose lower bits are zero while its sign is set: 1 is added to it.
    let lower = (word & 0x7F7F_7F7F) + 0x7F7F_7F7F;
    let four = (word + ((word & !lower & 0x8080_8080) >> 7)).to_le_bytes();
    if BESIDE {
        if let Some(to) = to.first_chunk_mut() {
            *to = four;
        }
    } else if let Some(to) = to.first_chunk_mut::<{ 3 * QUAD + 1 }>() {
        [to[0], to[QUAD], to[2 * QUAD], to[3 * QUAD]] = four;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_smallest_weight_changes() {
        for value in i8::MIN..=i8::MAX {
            for (at, other) in [(0, 0), (1, -128), (2, 127), (3, -1)] {
                let mut four = [other; QUAD];
                four[at] = value;
                let mut packed = [0; 13];
                scatter::<false>(four.map(|v: i8| v as u8), &mut packed);
                let weights: [i8; QUAD] = core::array::from_fn(|i| packed[4 * i] as i8);
                assert_eq!(weights, four.map(|v| v.max(-127)));
            }
        }
    }
}
