//! The multiplication with AVX-512 VNNI: a tile of up to four output pixels by sixteen output channels, which are four blocks
//! of weights.
//!
//! A register of 512 bits holds a block's weights for four quads of an i8 or two of an i16; a window's quads are repeated to
//! meet them. Sums therefore lie apart by quad, and for i16 by pairs within a quad; [`channels`] brings those of four blocks
//! together.

use core::arch::x86_64::*;

use super::avx512::{LANES, lanes, requantize};
use crate::kernel::conv::{BLOCK, ConvShape, ConvWeights, Destination, QUAD};
use crate::kernel::wide::QUAD_WEIGHTS;
use crate::quant::Activation;

/// Blocks of a tile: its output channels are the lanes.
const BLOCKS: usize = LANES / BLOCK;
/// Every word of a window of i8 whose activations are zero: 128 is added to each, because the instruction wants a factor
/// without a sign.
const OFFSET: i32 = i32::from_ne_bytes([128; 4]);

/// See [`crate::kernel::Kernel::multiply`]. `E` is what windows hold: i16, or u8 for activations of i8 with 128 added.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn multiply<E: bytemuck::Pod, O: Activation>(
    shape: &ConvShape,
    constants: &ConvWeights<'_>,
    count: usize,
    work: &[i16],
    output: &mut [O],
    zero_out: i32,
    destination: Destination,
) {
    let (taps, channels) = (shape.padded_taps(), shape.channels_out);
    let Some(windows) = bytemuck::cast_slice::<i16, E>(work).get(..count * taps) else { return };
    for (tile, weights) in constants.weights.chunks((BLOCKS * BLOCK * taps).max(1)).enumerate() {
        let first = tile * LANES;
        let mask = lanes(channels.saturating_sub(first));
        let pixels = Pixels { windows, taps, count, weights };
        let finish = |excess| Finish::new(constants, first, mask, excess, zero_out, destination);
        let output = output.get_mut(first..).unwrap_or_default();
        match weights.len() / (BLOCK * taps).max(1) {
            1 => pixels.multiply::<1, _>(finish, output, channels),
            2 => pixels.multiply::<2, _>(finish, output, channels),
            3 => pixels.multiply::<3, _>(finish, output, channels),
            4 => pixels.multiply::<4, _>(finish, output, channels),
            _ => return,
        }
    }
}

/// The windows of a pass and the weights of a tile's channels.
#[derive(Clone, Copy)]
struct Pixels<'a, E> {
    windows: &'a [E],
    taps: usize,
    count: usize,
    weights: &'a [i8],
}

impl<E: bytemuck::Pod> Pixels<'_, E> {
    /// Quads that a register holds.
    const STEP: usize = BLOCKS / size_of::<E>();

    /// `B` blocks for every pixel. `output` begins with the first pixel's channels of this tile.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn multiply<const B: usize, O: Activation>(
        self,
        finish: impl Fn(__m512i) -> Finish,
        output: &mut [O],
        channels: usize,
    ) {
        // The slices hold what the tiles read.
        if self.windows.len() < self.count * self.taps || self.weights.len() < B * BLOCK * self.taps {
            return;
        }
        let finish = finish(if size_of::<E>() == 1 { self.excess::<B>() } else { _mm512_setzero_si512() });
        let mut outputs = output.chunks_mut(channels.max(1));
        let mut pixel = 0;
        while pixel + 4 <= self.count {
            // SAFETY: so many pixels follow.
            unsafe { self.tile::<4, B>(pixel) }
                .into_iter()
                .zip(&mut outputs)
                .for_each(|(sums, to)| finish.store(sums, to));
            pixel += 4;
        }
        // SAFETY: the same.
        unsafe {
            match self.count - pixel {
                3 => self.tile::<3, B>(pixel).into_iter().zip(outputs).for_each(|(sums, to)| finish.store(sums, to)),
                2 => self.tile::<2, B>(pixel).into_iter().zip(outputs).for_each(|(sums, to)| finish.store(sums, to)),
                1 => self.tile::<1, B>(pixel).into_iter().zip(outputs).for_each(|(sums, to)| finish.store(sums, to)),
                _ => (),
            }
        }
    }

    /// The sums of `P` pixels from `pixel` on.
    ///
    /// # Safety
    /// There are as many pixels, and weights of `B` blocks.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn tile<const P: usize, const B: usize>(self, pixel: usize) -> [__m512i; P] {
        let mut sums = [[_mm512_setzero_si512(); B]; P];
        let mut step = |quad: usize, count: usize| {
            // SAFETY: of the caller; what lies behind the quads is not read.
            unsafe {
                let weights = self.weights_at::<B>(quad, count);
                for (index, sums) in sums.iter_mut().enumerate() {
                    let window = self.windows.as_ptr().add((pixel + index) * self.taps + quad * QUAD);
                    let window = repeated(window, count);
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = products::<E>(*sum, window, weights);
                    }
                }
            }
        };
        let quads = self.taps / QUAD;
        let mut quad = 0;
        while quad + Self::STEP <= quads {
            step(quad, Self::STEP);
            quad += Self::STEP;
        }
        if quad < quads {
            step(quad, quads - quad);
        }
        let mut result = [_mm512_setzero_si512(); P];
        for (result, sums) in result.iter_mut().zip(sums) {
            *result = channels::<B, E>(sums);
        }
        result
    }

    /// What [`OFFSET`] adds to each channel's sum, modulo 2^32.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn excess<const B: usize>(self) -> __m512i {
        let mut sums = [_mm512_setzero_si512(); B];
        let mut step = |quad: usize, count: usize| {
            // SAFETY: there are as many weights; what lies behind the quads is not read.
            let weights = unsafe { self.weights_at::<B>(quad, count) };
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_set1_epi32(OFFSET), weights);
            }
        };
        let quads = self.taps / QUAD;
        let mut quad = 0;
        while quad + Self::STEP <= quads {
            step(quad, Self::STEP);
            quad += Self::STEP;
        }
        if quad < quads {
            step(quad, quads - quad);
        }
        channels::<B, E>(sums)
    }

    /// Each block's weights of `count` quads from `quad` on, zeros behind them.
    ///
    /// # Safety
    /// There are as many weights.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn weights_at<const B: usize>(self, quad: usize, count: usize) -> [__m512i; B] {
        let mut weights = [_mm512_setzero_si512(); B];
        for (block, weights) in weights.iter_mut().enumerate() {
            // SAFETY: of the caller.
            unsafe {
                let from = self.weights.as_ptr().add(block * BLOCK * self.taps + quad * QUAD_WEIGHTS).cast();
                *weights = match size_of::<E>() {
                    1 => _mm512_maskz_loadu_epi32(lanes(count * BLOCK), from),
                    _ => {
                        let bytes = _mm256_maskz_loadu_epi32(lanes(count * BLOCK) as __mmask8, from);
                        _mm512_cvtepi8_epi16(bytes)
                    }
                };
            }
        }
        weights
    }
}

/// `count` quads of a window, each four times.
///
/// # Safety
/// There are as many elements.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn repeated<E>(from: *const E, count: usize) -> __m512i {
    let mask = lanes(count) as __mmask8;
    // SAFETY: of the caller.
    unsafe {
        match size_of::<E>() {
            1 => {
                let words = _mm512_castsi128_si512(_mm_maskz_loadu_epi32(mask, from.cast()));
                let places = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
                _mm512_permutexvar_epi32(places, words)
            }
            _ => {
                let words = _mm512_castsi128_si512(_mm_maskz_loadu_epi64(mask, from.cast()));
                _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 0, 0, 0, 1, 1, 1, 1), words)
            }
        }
    }
}

/// `sums` plus the products of four u8 and i8 a lane, or two i16.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn products<E>(sums: __m512i, window: __m512i, weights: __m512i) -> __m512i {
    match size_of::<E>() {
        1 => _mm512_dpbusd_epi32(sums, window, weights),
        _ => _mm512_dpwssd_epi32(sums, window, weights),
    }
}

/// The sums of up to four blocks, one lane a channel.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
fn channels<const B: usize, E>(sums: [__m512i; B]) -> __m512i {
    let block = |block: usize| sums.get(block).copied().unwrap_or(_mm512_setzero_si512());
    // A quarter of a register is a block: first two for each block, then one.
    let quarters = |a, b| match size_of::<E>() {
        1 => _mm512_add_epi32(_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xEE>(a, b)),
        _ => {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
            _mm512_add_epi32(_mm512_permutex2var_epi32(a, even, b), _mm512_permutex2var_epi32(a, odd, b))
        }
    };
    let (ab, cd) = (quarters(block(0), block(1)), quarters(block(2), block(3)));
    _mm512_add_epi32(_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xDD>(ab, cd))
}

/// What becomes of a tile's sums.
struct Finish {
    bias: __m512i,
    multipliers: __m512i,
    zero_out: __m512i,
    destination: Destination,
    mask: __mmask16,
}

impl Finish {
    /// For the channels from `first` on that `mask` names.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn new(
        constants: &ConvWeights<'_>,
        first: usize,
        mask: __mmask16,
        excess: __m512i,
        zero_out: i32,
        destination: Destination,
    ) -> Self {
        let load = |bytes: &[u8]| {
            let bytes = bytes.get(size_of::<i32>() * first..).unwrap_or_default();
            let there = lanes(bytes.len() / size_of::<i32>());
            // SAFETY: the mask leaves the slice's words.
            unsafe { _mm512_maskz_loadu_epi32(mask & there, bytes.as_ptr().cast()) }
        };
        let bias = _mm512_sub_epi32(load(constants.bias.bytes()), excess);
        let (multipliers, zero_out) = (load(constants.multipliers.bytes()), _mm512_set1_epi32(zero_out));
        Finish { bias, multipliers, zero_out, destination, mask }
    }

    /// Stores one pixel's channels at the beginning of `output`.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
    fn store<O: Activation>(&self, sums: __m512i, output: &mut [O]) {
        let values = requantize(_mm512_add_epi32(sums, self.bias), self.multipliers);
        let (mask, to) = (self.mask & lanes(output.len()), output.as_mut_ptr());
        // SAFETY: the mask leaves the slice's elements; the size tells i8 from i16.
        unsafe {
            let base = match (self.destination, size_of::<O>()) {
                (Destination::Overwrite, _) => self.zero_out,
                (Destination::Accumulate, 1) => _mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, to.cast())),
                (Destination::Accumulate, _) => _mm512_cvtepi16_epi32(_mm256_maskz_loadu_epi16(mask, to.cast())),
            };
            let values = _mm512_add_epi32(base, values);
            match size_of::<O>() {
                1 => _mm_mask_storeu_epi8(to.cast(), mask, _mm512_cvtsepi32_epi8(values)),
                _ => _mm256_mask_storeu_epi16(to.cast(), mask, _mm512_cvtsepi32_epi16(values)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;
    use crate::kernel::x86::{Best, Level};
    use crate::kernel::{Reference, convolve};
    use crate::view::I32s;

    /// [`crate::kernel::parity`] has fewer channels than a tile.
    fn agree<I: Activation, O: Activation + PartialEq>(channels_out: usize, pixels: usize, destination: Destination) {
        let (input, channels_in) = ([3, 4], 1 + channels_out % 6);
        let shape = ConvShape {
            input,
            channels_in,
            output: input,
            channels_out,
            kernel: [3; 2],
            stride: [1; 2],
            upsample: [1; 2],
        };
        let numbers = |len: usize| (0..len as i32).map(|i| i.wrapping_mul(0x9E37_79B9_u32 as i32));
        let values: Vec<I> = numbers(12 * channels_in).map(|value| I::saturate(value >> 24)).collect();
        let weights: Vec<i8> = numbers(shape.packed_len()).map(|weight| (weight >> 24).max(-127) as i8).collect();
        let constants: Vec<u8> = numbers(channels_out).flat_map(|value| (value & 0xFFF_FFFF).to_le_bytes()).collect();
        let constants =
            ConvWeights { weights: &weights, bias: I32s::new(&constants), multipliers: I32s::new(&constants) };
        let outputs = [convolve::<Best, I, O>, convolve::<Reference, I, O>].map(|convolve| {
            let (mut output, mut work) =
                (std::vec![O::saturate(7); 12 * channels_out], std::vec![0; shape.work_len(pixels) / 2]);
            convolve(&shape, &constants, &values, -3, &mut output, 5, destination, pixels, &mut work);
            output
        });
        assert!(outputs[0] == outputs[1], "{shape:?}, {pixels} pixels, {destination:?}");
    }

    #[test]
    fn every_number_of_channels_and_pixels_equals_the_reference() {
        if !Level::Avx512Vnni.can_run() {
            return std::println!("SKIPPED: this processor lacks AVX-512 VNNI");
        }
        for channels_out in 1..=2 * LANES + 1 {
            for pixels in 1..=9 {
                agree::<i8, i8>(channels_out, pixels, Destination::Overwrite);
                agree::<i8, i16>(channels_out, pixels, Destination::Accumulate);
                agree::<i16, i8>(channels_out, pixels, Destination::Accumulate);
                agree::<i16, i16>(channels_out, pixels, Destination::Overwrite);
            }
        }
    }
}
