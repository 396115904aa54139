//! Kernels for 32-bit cores that multiply one pair of numbers an instruction and keep 32 bits of the product: Armv6-M
//! (Cortex-M0+) and RV32IM.
//!
//! **Three pixels in two words.** For a window element the i8 activations a, b, c of three pixels are packed as
//! `a + 2^11 c` and `b + 2^21 c`. Each word times a weight, added up modulo 2^32, gives `A + 2^11 C` and `B + 2^21 C`, with A,
//! B and C the three sums of products; [`unpack`] takes them apart as long as each is within 2^20, which 64 products are:
//! `64 * 128 * 127 < 2^20`. So 3 multiply-accumulates take 2 multiplications and 2 additions, and a dozen instructions more
//! every 64 window elements. i16 activations stay one a word.
//!
//! Weights are read byte by byte where the file has them, so they may lie at any address.
//!
//! The work area holds *words* for a few pixels at a time, in front, and the *windows* of all pixels of a pass, at its end
//! and in the input's type. A *group* is the pixels whose words are made at once; its windows are interleaved, a quad of
//! each pixel in turn, so that words may overwrite the windows that they are made of.

#![allow(unsafe_code, reason = "pointers into checked slices, and naked functions")]

#[cfg(target_arch = "arm")]
mod armv6m;
mod norm;
#[cfg(not(target_arch = "arm"))]
mod plain;
#[cfg(target_arch = "riscv32")]
mod rv32;
mod windows;

use super::Kernel;
use super::conv::{BLOCK, ConvShape, ConvWeights, Destination, Rows};
use super::group_norm::{Line, Moments, TABLE_LEN};
use crate::quant::Activation;
use crate::view::I32s;
use windows::Windows;

#[cfg(not(any(target_arch = "arm", target_arch = "riscv32")))]
use self::add_unpacked as accumulate;
#[cfg(target_arch = "arm")]
use self::requantize_by_halves as requantize;
#[cfg(target_arch = "arm")]
use armv6m::{accumulate, dot, finish};
#[cfg(not(any(target_arch = "arm", target_arch = "riscv32")))]
use plain::dot;
#[cfg(not(target_arch = "arm"))]
use plain::{finish, requantize};
#[cfg(target_arch = "riscv32")]
use rv32::{accumulate, dot, dot_one};

/// Kernels with packed activations.
#[derive(Clone, Copy, Debug)]
pub struct Packed;

/// Window elements whose sums of products [`unpack`] can tell apart.
const CHUNK: usize = 64;

/// Blocks of channels that one pixel is multiplied with at once.
#[cfg(target_arch = "riscv32")]
const BLOCKS: usize = 4;
#[cfg(not(target_arch = "riscv32"))]
const BLOCKS: usize = 1;

impl Kernel for Packed {
    fn gather<I: Activation>(
        shape: &ConvShape,
        rows: &Rows<'_, I>,
        zero_in: i32,
        first: usize,
        count: usize,
        work: &mut [i16],
    ) {
        Windows::<I>::new(shape, count).gather(rows, I::saturate(zero_in), first, work);
    }

    fn multiply<I: Activation, O: Activation>(
        shape: &ConvShape,
        constants: &ConvWeights<'_>,
        count: usize,
        work: &mut [i16],
        output: &mut [O],
        zero_out: i32,
        destination: Destination,
    ) {
        let mut windows = Windows::<I>::new(shape, count);
        let mut rest = output;
        while let Some(pixels) = windows.next_group() {
            let Some(output) = rest.split_off_mut(..pixels * shape.channels_out) else { return };
            let mut group = Group { shape, constants, output, pixels, zero_out, destination };
            match (size_of::<I>(), pixels) {
                (1, 6) => group.packed::<6, 4>(windows.pack::<6, 4>(work)),
                (1, 5) => group.packed::<6, 4>(windows.pack::<5, 4>(work)),
                (1, 4) => group.packed::<6, 4>(windows.pack::<4, 4>(work)),
                (1, 3) => group.packed::<3, 2>(windows.pack::<3, 2>(work)),
                (1, 2) => group.packed::<3, 2>(windows.pack::<2, 2>(work)),
                (1, _) => group.one(windows.pack::<1, 1>(work)),
                (_, 4) => group.single(windows.widen::<4>(work)),
                (_, 2) => group.single(windows.widen::<2>(work)),
                (_, _) => group.one(windows.widen::<1>(work)),
            }
        }
    }

    fn moments<I: Activation>(values: &[I], channels: usize, first: usize, size: usize) -> Moments {
        norm::moments(values, channels, first, size)
    }

    fn normalize<I: Activation>(
        values: &[I],
        lines: &[Line],
        table: &[i8; TABLE_LEN],
        output: &mut [i8],
        channels_out: usize,
        first: usize,
    ) {
        norm::normalize(values, lines, table, output, channels_out, first);
    }
}

/// The output pixels of a group, and what they are computed with.
struct Group<'a, O> {
    shape: &'a ConvShape,
    constants: &'a ConvWeights<'a>,
    output: &'a mut [O],
    pixels: usize,
    zero_out: i32,
    destination: Destination,
}

impl<O: Activation> Group<'_, O> {
    /// Of at most `N` pixels, three in two of the `W` words of a window element.
    fn packed<const N: usize, const W: usize>(&mut self, words: &[[u32; W]]) {
        self.each_block(1, |group, block, weights| {
            let mut sums = [0, 1, 2, 3].map(|lane| [constant(group.constants.bias, block + lane); N]);
            accumulate(&mut sums, words, weights);
            for (channel, sums) in (block..).zip(&sums) {
                group.store(channel, sums);
            }
        });
    }

    /// Of one pixel.
    fn one(&mut self, words: &[[u32; 1]]) {
        self.each_block(BLOCKS, |group, first, weights| {
            group.store_pixel(first, dot_one(words, weights).as_flattened());
        });
    }

    /// Of `N` pixels, a word each.
    fn single<const N: usize>(&mut self, words: &[[u32; N]]) {
        self.each_block(1, |group, block, weights| {
            for (channel, sums) in (block..).zip(&dot(words, weights)) {
                let bias = constant(group.constants.bias, channel);
                group.store(channel, &sums.map(|sum| bias + sum as i32));
            }
        });
    }

    /// Calls `compute` with the first channel of each `blocks` blocks, the last of them fewer, and their weights.
    #[inline(always)]
    fn each_block(&mut self, blocks: usize, mut compute: impl FnMut(&mut Self, usize, &[i8])) {
        let len = self.shape.padded_taps() * BLOCK * blocks;
        let mut rest = self.constants.weights;
        for first in (0..self.shape.channels_out).step_by(BLOCK * blocks) {
            let Some(weights) = rest.split_off(..len.min(rest.len())) else { return };
            compute(self, first, weights);
        }
    }

    /// Stores channels of one pixel.
    fn store_pixel(&mut self, first: usize, sums: &[u32]) {
        let ConvWeights { bias, multipliers, .. } = self.constants;
        let outputs = self.output.get_mut(first..).unwrap_or_default().iter_mut().zip(sums);
        let store = |out: &mut O, sum: u32, bias: i32, multiplier: i32| {
            let base = self.destination.base(self.zero_out, *out);
            *out = saturate(base + requantize(bias + sum as i32, multiplier));
        };
        if let (Some(bias), Some(multipliers)) = (bias.aligned(), multipliers.aligned()) {
            for ((out, &sum), (&bias, &multiplier)) in outputs.zip(bias.iter().zip(multipliers).skip(first)) {
                store(out, sum, bias, multiplier);
            }
        } else {
            for (channel, (out, &sum)) in (first..).zip(outputs) {
                store(out, sum, constant_by_bytes(*bias, channel), constant_by_bytes(*multipliers, channel));
            }
        }
    }

    /// Stores one channel.
    #[inline(always)]
    fn store<const N: usize>(&mut self, channel: usize, sums: &[i32; N]) {
        let channels = self.shape.channels_out;
        if channel >= channels {
            return;
        }
        let sums = &sums[..self.pixels.min(N)];
        let constants = Finish {
            // SAFETY: `output` has the channels of `pixels` pixels.
            output: unsafe { self.output.as_mut_ptr().add(channel) },
            step: channels * size_of::<O>(),
            multiplier: constant(self.constants.multipliers, channel),
            zero: self.zero_out,
        };
        // SAFETY: see above; there are at most as many sums as pixels.
        unsafe { finish(sums, &constants, self.destination) };
    }
}

/// What makes outputs of the sums of one channel.
#[repr(C)]
struct Finish<O> {
    /// The first pixel's place.
    output: *mut O,
    /// From one pixel to the next, in bytes.
    step: usize,
    multiplier: i32,
    zero: i32,
}

/// A channel's constant.
#[inline(always)]
fn constant(constants: I32s<'_>, channel: usize) -> i32 {
    match constants.aligned().and_then(|constants| constants.get(channel)) {
        Some(&constant) => constant,
        None => constant_by_bytes(constants, channel),
    }
}

/// Apart, or the compiler makes one load by bytes of both.
#[cold]
#[inline(never)]
fn constant_by_bytes(constants: I32s<'_>, channel: usize) -> i32 {
    constants.get(channel)
}

/// Adds the sums of products of words, three pixels in two of them, with each of four channels' packed weights.
#[cfg(not(target_arch = "arm"))]
fn add_unpacked<const N: usize, const W: usize>(sums: &mut [[i32; N]; BLOCK], words: &[[u32; W]], weights: &[i8]) {
    for (words, weights) in words.chunks(CHUNK).zip(weights.chunks(CHUNK * BLOCK)) {
        for (sums, packed) in sums.iter_mut().zip(&dot(words, weights)) {
            for (sums, &packed) in sums.as_chunks_mut::<3>().0.iter_mut().zip(packed.as_chunks().0) {
                sums.iter_mut().zip(unpack(packed)).for_each(|(sum, part)| *sum += part);
            }
        }
    }
}

/// [`dot`] for one word.
#[cfg(not(target_arch = "riscv32"))]
fn dot_one(words: &[[u32; 1]], weights: &[i8]) -> [[u32; BLOCK]; BLOCKS] {
    [dot(words, weights).map(|[sum]| sum)]
}

/// [`Activation::saturate`] with one comparison, as most values are in range.
#[inline(always)]
fn saturate<O: Activation>(value: i32) -> O {
    let least = O::saturate(i32::MIN).widen();
    if value.wrapping_sub(least) as u32 > (O::saturate(i32::MAX).widen() - least) as u32 {
        return saturate_rare(value);
    }
    O::saturate(value)
}

#[cold]
#[inline(never)]
fn saturate_rare<O: Activation>(value: i32) -> O {
    O::saturate(value)
}

/// [`crate::quant::requantize`] from products of 16 bits.
#[cfg(any(target_arch = "arm", test))]
#[inline(always)]
fn requantize_by_halves(acc: i32, multiplier: i32) -> i32 {
    let (acc_low, acc_high) = (acc as u32 & 0xFFFF, acc >> 16);
    let (low, high) = (multiplier as u32 & 0xFFFF, multiplier >> 16);
    // At most 32767 * 65535 + 65534 + 32768 = 2^31 - 1.
    let middle = acc_high * low as i32 + ((acc_low * low) >> 16) as i32 + (1 << 15);
    let cross = acc_low * high as u32 + (middle as u32 & 0xFFFF);
    acc_high * high + (middle >> 16) + (cross >> 16) as i32
}

/// Three sums, each within 2^20, from `first + 2^11 third` and `second + 2^21 third`, both modulo 2^32.
#[cfg(any(not(target_arch = "arm"), test))]
#[inline(always)]
fn unpack([low, high]: [u32; 2]) -> [i32; 3] {
    let (low, high) = (low as i32, high as i32);
    let second = high << 11 >> 11;
    // The third's last 11 bits, signed, then the others from what they leave of the first word.
    let last = high.wrapping_sub(second) >> 21;
    let low = low.wrapping_sub(last << 11);
    let first = low << 10 >> 10;
    [first, second, last + (low.wrapping_sub(first) >> 22 << 11)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_sums_of_64_extreme_products_come_apart() {
        let largest = CHUNK as i32 * 128 * 127;
        let sums = [-largest, -largest + 1, -(1 << 10) - 1, -(1 << 10), -1, 0, 1, (1 << 10) - 1, 1 << 10, largest];
        for first in sums {
            for second in sums {
                for third in sums {
                    let word = |sum: i32, bits: u32| (sum as u32).wrapping_add((third as u32) << bits);
                    assert_eq!(unpack([word(first, 11), word(second, 21)]), [first, second, third]);
                }
            }
        }
    }

    #[test]
    fn products_of_halves_round_alike() {
        let values = [i32::MIN, i32::MIN + 1, -65536, -65535, -32768, -1, 0, 1, 32767, 32768, 65535, 65536, i32::MAX];
        let mut random = crate::noise::Philox::new(1);
        let mut any = || rand_core::Rng::next_u32(&mut random) as i32;
        let cases = (0..1_000_000).map(|_| (any(), any() & i32::MAX));
        for (acc, multiplier) in values.into_iter().flat_map(|a| values.map(|m| (a, m.max(1)))).chain(cases) {
            assert_eq!(requantize(acc, multiplier), crate::quant::requantize(acc, multiplier));
            assert_eq!(requantize_by_halves(acc, multiplier), crate::quant::requantize(acc, multiplier));
        }
    }

    #[test]
    fn equals_the_reference() {
        for case in 0..4000 {
            assert_eq!(super::super::parity::check::<Packed>(case), Ok(()), "case {case}");
        }
    }
}
