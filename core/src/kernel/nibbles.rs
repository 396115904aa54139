//! Weights of 4 bits: half the flash. Before a convolution begins they are unpacked to bytes, so that every kernel multiplies
//! what it always does.

use super::conv::{ConvShape, QUAD};

/// How many bits a weight has in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum WeightBits {
    /// -127 to 127.
    #[default]
    Eight,
    /// -8 to 7.
    Four,
}

impl WeightBits {
    /// Bytes of a convolution's packed weights in the file.
    pub fn stored_len(self, shape: &ConvShape) -> usize {
        match self {
            WeightBits::Eight => shape.packed_len(),
            WeightBits::Four => shape.packed_len() / 2,
        }
    }

    /// Bytes of scratch that the weights are unpacked to.
    pub fn unpacked_len(self, shape: &ConvShape) -> usize {
        match self {
            WeightBits::Eight => 0,
            WeightBits::Four => shape.packed_len(),
        }
    }

    /// The smallest and the largest weight.
    pub fn range(self) -> [i8; 2] {
        match self {
            WeightBits::Eight => [-127, 127],
            WeightBits::Four => [-8, 7],
        }
    }
}

/// Where weight `index` of the packed order lies among 4-bit weights: the byte, and how far up in it.
///
/// Of eight weights in four bytes, the first four are the low halves and the last four the high ones, each as the weight
/// plus 8: two words of four weights come out with three instructions each.
pub fn nibble_index(index: usize) -> (usize, u32) {
    (index / 8 * 4 + index % 4, (index % 8 / 4 * 4) as u32)
}

/// The two quads in four bytes.
#[inline(always)]
pub(crate) fn quads(nibbles: [u8; 4]) -> [[i8; QUAD]; 2] {
    words(nibbles).map(|word| word.to_le_bytes().map(|byte| byte as i8))
}

/// [`quads`], each in a word.
#[inline(always)]
fn words(nibbles: [u8; 4]) -> [u32; 2] {
    let word = u32::from_le_bytes(nibbles);
    // In each byte 0..=15 plus 0x78 carries nothing, and a flipped top bit makes it that number minus 8.
    [word, word >> 4].map(|part| ((part & 0x0F0F_0F0F) + 0x7878_7878) ^ 0x8080_8080)
}

/// Unpacks weights to the order of [`weight_index`](super::weight_index): four in each of `weights`, the first in the lowest
/// byte in memory.
pub(crate) fn unpack(nibbles: &[u8], weights: &mut [u32]) {
    for (to, from) in weights.as_chunks_mut::<2>().0.iter_mut().zip(nibbles.as_chunks::<4>().0) {
        *to = words(*from).map(u32::to_le);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unpacked_is_what_was_packed() {
        let mut nibbles = [0u8; 16];
        let mut expected = [0i8; 32];
        for (index, weight) in expected.iter_mut().enumerate() {
            *weight = (index * 7 % 16) as i8 - 8;
            let (byte, up) = nibble_index(index);
            nibbles[byte] |= ((*weight + 8) as u8) << up;
        }
        let mut words = [0u32; 8];
        unpack(&nibbles, &mut words);
        assert_eq!(bytemuck::cast_slice::<u32, i8>(&words), expected);
        assert_eq!(quads([nibbles[0], nibbles[1], nibbles[2], nibbles[3]]).as_flattened(), &expected[..8]);
    }
}
