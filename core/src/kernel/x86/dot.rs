//! The product of windows and weights with registers of 256 bits.

use core::arch::x86_64::*;

use crate::kernel::conv::QUAD;
use crate::kernel::wide::{Dot, LANES, PIXELS, QUAD_WEIGHTS, quads};

/// What a window's element is more than the activation: the instructions want one factor without a sign.
const OFFSET: i8 = i8::MIN;

type Sums = [[i32; LANES]; PIXELS];

/// i16 products, two an instruction and lane: activations of both sizes.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The proof that its instructions are enabled.
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(super) fn new() -> Self {
        Avx2(())
    }
}

impl Dot for Avx2 {
    type Element = i16;

    #[inline(always)]
    fn sums(self, windows: [&[i16]; PIXELS], weights: [&[i8]; 2]) -> Sums {
        // SAFETY: there is a value only where the instructions can run.
        unsafe { avx2_sums(windows, weights) }
    }

    #[inline(always)]
    fn requantize(self, acc: [i32; LANES], multipliers: [i32; LANES]) -> [i32; LANES] {
        // SAFETY: there is a value only where the instructions can run.
        unsafe { requantize(acc, multipliers) }
    }
}

/// i8 products, four an instruction and lane, 256 bits.
#[derive(Clone, Copy)]
pub(super) struct AvxVnni(());

impl AvxVnni {
    /// The proof that its instructions are enabled.
    #[inline]
    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn new() -> Self {
        AvxVnni(())
    }
}

impl Dot for AvxVnni {
    type Element = u8;

    #[inline(always)]
    fn sums(self, windows: [&[u8]; PIXELS], weights: [&[i8]; 2]) -> Sums {
        // SAFETY: there is a value only where the instructions can run.
        unsafe { avx_vnni_sums(windows, weights) }
    }

    #[inline(always)]
    fn requantize(self, acc: [i32; LANES], multipliers: [i32; LANES]) -> [i32; LANES] {
        // SAFETY: there is a value only where the instructions can run.
        unsafe { requantize(acc, multipliers) }
    }

    #[inline(always)]
    fn excess(self, weights: [&[i8]; 2]) -> [i32; LANES] {
        // SAFETY: there is a value only where the instructions can run.
        unsafe { avx_vnni_excess(weights) }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn avx2_sums(windows: [&[i16]; PIXELS], weights: [&[i8]; 2]) -> Sums {
    let mut sums = [[_mm256_setzero_si256(); 2]; PIXELS];
    for quad in 0..quads(windows, weights) {
        for (block, weights) in weights.into_iter().enumerate() {
            // SAFETY: every slice holds more than `quad` quads.
            let weights = _mm256_cvtepi8_epi16(unsafe { load_128(weights.as_ptr().add(quad * QUAD_WEIGHTS)) });
            for (sums, window) in sums.iter_mut().zip(windows) {
                // SAFETY: the same.
                let window = unsafe { window.as_ptr().add(quad * QUAD).cast::<i64>().read_unaligned() };
                let products = _mm256_madd_epi16(_mm256_set1_epi64x(window), weights);
                sums[block] = _mm256_add_epi32(sums[block], products);
            }
        }
    }
    let mut result = [[0; LANES]; PIXELS];
    for (lanes, [a, b]) in result.iter_mut().zip(sums) {
        *lanes = to_array(add_neighbors(a, b));
    }
    result
}

/// Turns the first words into 32-bit lanes, four of each: what the four channels of a quad are multiplied with.
#[inline]
#[target_feature(enable = "avx2")]
fn each_four_times(words: __m128i) -> __m256i {
    _mm256_permutevar8x32_epi32(_mm256_castsi128_si256(words), _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1))
}

/// Two quads a step.
#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn avx_vnni_sums(windows: [&[u8]; PIXELS], weights: [&[i8]; 2]) -> Sums {
    let mut sums = [[_mm256_setzero_si256(); 2]; PIXELS];
    let quads = quads(windows, weights);
    for quad in (0..quads / 2 * 2).step_by(2) {
        for (sums, window) in sums.iter_mut().zip(windows) {
            // SAFETY: every slice holds more than `quad + 1` quads.
            let window = each_four_times(unsafe { _mm_loadl_epi64(window.as_ptr().add(quad * QUAD).cast()) });
            for (sum, weights) in sums.iter_mut().zip(weights) {
                // SAFETY: the same.
                let weights = unsafe { _mm256_loadu_si256(weights.as_ptr().add(quad * QUAD_WEIGHTS).cast()) };
                *sum = _mm256_dpbusd_avx_epi32(*sum, window, weights);
            }
        }
    }
    if quads % 2 == 1 {
        let quad = quads - 1;
        for (sums, window) in sums.iter_mut().zip(windows) {
            // SAFETY: every slice holds more than `quad` quads.
            let window = unsafe { window.as_ptr().add(quad * QUAD).cast::<i32>().read_unaligned() };
            for (sum, weights) in sums.iter_mut().zip(weights) {
                // SAFETY: the same.
                let weights = unsafe { load_128(weights.as_ptr().add(quad * QUAD_WEIGHTS)) };
                *sum = _mm256_dpbusd_avx_epi32(*sum, _mm256_set1_epi32(window), _mm256_zextsi128_si256(weights));
            }
        }
    }
    let mut result = [[0; LANES]; PIXELS];
    for (lanes, [a, b]) in result.iter_mut().zip(sums) {
        *lanes = to_array(add_halves(a, b));
    }
    result
}

#[inline]
#[target_feature(enable = "avx2,avxvnni")]
fn avx_vnni_excess(weights: [&[i8]; 2]) -> [i32; LANES] {
    let mut sums = [_mm_setzero_si128(); 2];
    for (sum, weights) in sums.iter_mut().zip(weights) {
        for weights in weights.as_chunks::<QUAD_WEIGHTS>().0 {
            // SAFETY: a quad's weights.
            let weights = unsafe { load_128(weights.as_ptr()) };
            *sum = _mm_dpbusd_avx_epi32(*sum, _mm_set1_epi8(OFFSET), weights);
        }
    }
    to_array(_mm256_set_m128i(sums[1], sums[0]))
}

/// [`crate::quant::requantize`]: the even lanes' products, then the odd ones'.
#[inline]
#[target_feature(enable = "avx2")]
fn requantize(acc: [i32; LANES], multipliers: [i32; LANES]) -> [i32; LANES] {
    let (acc, multipliers, half) = (to_register(&acc), to_register(&multipliers), _mm256_set1_epi64x(1 << 31));
    let even = _mm256_add_epi64(_mm256_mul_epi32(acc, multipliers), half);
    let (acc, multipliers) = (_mm256_srli_epi64::<32>(acc), _mm256_srli_epi64::<32>(multipliers));
    let odd = _mm256_add_epi64(_mm256_mul_epi32(acc, multipliers), half);
    to_array(_mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<32>(even), odd))
}

/// The sums of neighboring lanes, which hold one channel: channels 0 and 1 of a block are in its lower half.
#[inline]
#[target_feature(enable = "avx2")]
fn add_neighbors(a: __m256i, b: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(a, b))
}

/// The sums of the lower and the upper half: of `a` in the lower half, of `b` in the upper.
#[inline]
#[target_feature(enable = "avx2")]
fn add_halves(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b))
}

#[inline]
#[target_feature(enable = "avx")]
fn to_register(lanes: &[i32; LANES]) -> __m256i {
    // SAFETY: eight lanes of four bytes.
    unsafe { _mm256_loadu_si256(lanes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx")]
fn to_array(register: __m256i) -> [i32; LANES] {
    let mut lanes = [0; LANES];
    // SAFETY: eight lanes of four bytes.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), register) };
    lanes
}

#[inline]
#[target_feature(enable = "sse2")]
unsafe fn load_128(from: *const i8) -> __m128i {
    // SAFETY: of the caller: 16 bytes.
    unsafe { _mm_loadu_si128(from.cast()) }
}
