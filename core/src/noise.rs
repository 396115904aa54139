//! Random numbers: the same bits on every target, seekable by sample, row and element.
//!
//! Words come from Philox4x32-10 (Salmon, Moraes, Dror, Shaw: *Parallel random numbers: as easy as 1, 2, 3*, SC 2011), a
//! counter-based generator: the value at a counter depends on nothing before it. Normal variates invert the normal
//! distribution function by a table over the tail probability, segmented by powers of two (Cheung, Lee, Luk, Villasenor:
//! *Hardware generation of arbitrary random number distributions from uniform distributions via the inversion method*,
//! IEEE TVLSI 15(8), 2007), in integers.

mod nodes;

use core::array;
use core::convert::Infallible;
use rand_core::{SeedableRng, TryRng};

/// Words in one Philox block.
const LANES: usize = 4;

/// One block of Philox4x32-10: four uniform words for a 128-bit counter under a 64-bit key.
pub fn philox4x32_10(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let mut c = counter;
    let mut k = key;
    for _ in 0..10 {
        let left = c[0] as u64 * MULTIPLIERS[0] as u64;
        let right = c[2] as u64 * MULTIPLIERS[1] as u64;
        c = [(right >> 32) as u32 ^ c[1] ^ k[0], right as u32, (left >> 32) as u32 ^ c[3] ^ k[1], left as u32];
        k = [k[0].wrapping_add(WEYL[0]), k[1].wrapping_add(WEYL[1])];
    }
    c
}

/// One standard normal variate in Q12 (4096 is 1.0) from one uniform word.
///
/// Bit 31 is the sign; the other 31 bits are the tail probability `(r + 1/2) / 2^32`, so the largest magnitude is 6.23.
/// Each octave of the tail has 16 linear pieces. Measured over all octaves: within 1.5 / 4096 of the exact quantile below
/// 4 standard deviations; mean 0 by symmetry, variance 1 + 2e-4, kurtosis 3 + 1e-3 (see the tests).
pub fn normal_q12(word: u32) -> i16 {
    let tail = (word & 0x7FFF_FFFF).max(1);
    let octave = tail.leading_zeros() - 1;
    let mantissa = tail << octave;
    let node = 16 * (30 - octave as usize) + (mantissa >> 26 & 15) as usize;
    let fraction = (mantissa >> 14 & 0xFFF) as i32;
    let around = nodes::NODES.get(node..).and_then(|nodes| nodes.first_chunk());
    let [outer, inner] = around.unwrap_or(&[0; 2]).map(i32::from);
    // Q13 nodes and a Q12 fraction make Q25; the result is Q12.
    let magnitude = ((outer << 12) + (inner - outer) * fraction + (1 << 12)) >> 13;
    (if word >> 31 == 1 { -magnitude } else { magnitude }) as i16
}

/// The table that [`normal_q12`] reads, for twins of it on other machines: quantiles in Q13, entry `16 (30 - k) + j` of the
/// tail probability `2^-(k + 2) (1 + j / 16)`, the last one 0.
pub fn quantile_nodes() -> &'static [u16] {
    &nodes::NODES
}

/// Which noise: that of sample `sample` of seed `seed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Stream {
    /// The key.
    pub seed: u64,
    /// The sample's number.
    pub sample: u64,
}

/// Which use of a sample's noise: the starting state, or the fresh noise of one row of the step table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum NoiseUse {
    /// The state that sampling starts from.
    Start,
    /// The fresh noise `z` of this row.
    Row(u16),
}

/// Standard normal noise in Q12 for one sample and one use, element 0 onwards.
///
/// Element `i` is lane `i % 4` of the Philox block with counter `[i / 4, use, sample low, sample high]` and key `seed`;
/// `use` is 0 for the start and `row + 1` for a row.
///
/// ```
/// use mote_core::noise::{NoiseUse, normals};
///
/// // -0.28, -0.27, -1.37 and -0.80, on every target.
/// let noise: Vec<i16> = normals(1, 0, NoiseUse::Start).take(4).collect();
/// assert_eq!(noise, [-1141, -1094, -5602, -3285]);
/// ```
pub fn normals(seed: u64, sample: u64, noise_use: NoiseUse) -> impl Iterator<Item = i16> {
    let lane = match noise_use {
        NoiseUse::Start => 0,
        NoiseUse::Row(row) => row as u32 + 1,
    };
    let key = [seed as u32, (seed >> 32) as u32];
    let counter = [0, lane, sample as u32, (sample >> 32) as u32];
    Normals { key, counter, words: philox4x32_10(counter, key).into_iter() }
}

/// See [`normals`].
struct Normals {
    key: [u32; 2],
    counter: [u32; 4],
    /// What is left of the counter's block.
    words: array::IntoIter<u32, LANES>,
}

impl Iterator for Normals {
    type Item = i16;

    fn next(&mut self) -> Option<i16> {
        if self.words.len() == 0 {
            self.counter[0] = self.counter[0].wrapping_add(1);
            self.words = philox4x32_10(self.counter, self.key).into_iter();
        }
        self.words.next().map(normal_q12)
    }
}

/// Philox4x32-10 as a sequential generator of the `rand_core` traits.
///
/// The seed is the key; [`Philox::seek`] jumps to any block.
#[derive(Clone, Debug)]
pub struct Philox {
    key: [u32; 2],
    counter: u128,
    block: [u32; LANES],
    used: usize,
}

impl Philox {
    /// A generator under `key`, at block 0.
    pub fn new(key: u64) -> Self {
        Philox { key: [key as u32, (key >> 32) as u32], counter: 0, block: [0; LANES], used: LANES }
    }

    /// Moves to the first word of block `counter`.
    pub fn seek(&mut self, counter: u128) {
        self.counter = counter;
        self.used = LANES;
    }

    fn next_word(&mut self) -> u32 {
        if self.used == LANES {
            let c = self.counter;
            self.block = philox4x32_10([c as u32, (c >> 32) as u32, (c >> 64) as u32, (c >> 96) as u32], self.key);
            self.counter = c.wrapping_add(1);
            self.used = 0;
        }
        self.used += 1;
        self.block[self.used - 1]
    }
}

impl SeedableRng for Philox {
    type Seed = [u8; 8];
    fn from_seed(seed: [u8; 8]) -> Self {
        Philox::new(u64::from_le_bytes(seed))
    }
}

impl TryRng for Philox {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.next_word())
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.next_word() as u64 | (self.next_word() as u64) << 32)
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(4) {
            chunk.copy_from_slice(&self.next_word().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers published with the authors' Random123 library (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox4x32_10([!0; 4], [!0; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox4x32_10([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    /// The quantile by bisection on `erfc`, which shares nothing with how the table was made.
    fn upper_quantile(tail: f64) -> f64 {
        let (mut low, mut high) = (0.0, 8.0);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if 0.5 * libm::erfc(middle / core::f64::consts::SQRT_2) > tail { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }

    #[test]
    fn nodes_are_the_normal_quantiles() {
        for (i, &node) in nodes::NODES.iter().enumerate().take(496) {
            let (octave, piece) = (30 - i as i32 / 16, i % 16);
            let tail = libm::ldexp(1.0 + piece as f64 / 16.0, -(octave + 2));
            let expected = upper_quantile(tail) * 8192.0;
            assert!((node as f64 - expected).abs() <= 0.501, "node {i}: {node} against {expected}");
        }
        assert_eq!(nodes::NODES[496], 0);
    }

    #[test]
    fn normal_follows_the_exact_quantile() {
        for i in 0..200_000u32 {
            let word = i.wrapping_mul(0x9E37_79B9) >> (1 + i % 24);
            let exact = upper_quantile((word as f64 + 0.5) / 4294967296.0);
            let error = (normal_q12(word) as f64 - exact * 4096.0).abs();
            let bound = if exact < 4.0 { 1.5 } else { 600.0 };
            assert!(error < bound, "word {word}: {} against {}", normal_q12(word), exact * 4096.0);
        }
        assert_eq!(normal_q12(0x8000_1234), -normal_q12(0x1234));
    }

    /// An even grid over the words integrates the quantile, so the moments carry no sampling error.
    #[test]
    fn moments_are_those_of_a_standard_normal() {
        let (mut second, mut fourth) = (0.0, 0.0);
        let count = 1 << 20;
        for i in 0..count {
            let z = normal_q12((i << 11) + (1 << 10)) as f64 / 4096.0;
            second += z * z;
            fourth += z * z * z * z;
        }
        let variance = second / count as f64;
        let kurtosis = fourth / count as f64 / (variance * variance);
        assert!((variance - 1.0).abs() < 2e-4, "variance {variance}");
        assert!((kurtosis - 3.0).abs() < 1e-3, "kurtosis {kurtosis}");
    }

    #[test]
    fn streams_of_samples_rows_and_seeds_differ() {
        let first = |seed, sample, noise_use| normals(seed, sample, noise_use).take(6).sum::<i16>();
        let base = first(1, 0, NoiseUse::Start);
        assert_eq!(base, first(1, 0, NoiseUse::Start));
        assert_ne!(base, first(2, 0, NoiseUse::Start));
        assert_ne!(base, first(1, 1, NoiseUse::Start));
        assert_ne!(base, first(1, 1 << 32, NoiseUse::Start));
        assert_ne!(base, first(1, 0, NoiseUse::Row(0)));
    }

    #[test]
    fn the_generator_seeks_to_any_block() {
        let mut sequential = Philox::new(7);
        let words: [u32; 12] = core::array::from_fn(|_| sequential.next_word());
        let mut jumped = Philox::from_seed(7u64.to_le_bytes());
        jumped.seek(2);
        assert_eq!(words[8..], [(); 4].map(|()| jumped.next_word()));
    }
}
