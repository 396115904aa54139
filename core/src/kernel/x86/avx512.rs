//! Normalization and softmax with AVX-512: sixteen lanes, of which masks leave out what is not there, and tables in
//! registers.

use core::arch::x86_64::*;

use crate::kernel::group_norm::{Line, Moments, TABLE_LEN};
use crate::kernel::softmax::{POWERS, inverse};
use crate::quant::Activation;

/// Lanes of 32 bits.
pub(super) const LANES: usize = 16;
/// Pixels after which sums of 32 bits are moved to wider ones: a lane grows by two activations a pixel.
const PIXELS_A_SUM: usize = 1 << 14;

/// A table of 512 bytes.
#[derive(Clone, Copy)]
struct Table([__m512i; 8]);

impl Table {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new<T: bytemuck::Pod>(bytes: &[T]) -> Self {
        let words: &[[u8; 64]] = bytemuck::cast_slice::<T, u8>(bytes).as_chunks().0;
        let mut table = [_mm512_setzero_si512(); 8];
        for (register, words) in table.iter_mut().zip(words) {
            // SAFETY: 64 bytes.
            *register = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        }
        Table(table)
    }

    /// The 32-bit words of the table at these places, 0 to 127.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn words(&self, places: __m512i) -> __m512i {
        let [a, b, c, d, e, f, g, h] = self.0;
        let second = _mm512_test_epi32_mask(places, _mm512_set1_epi32(1 << 5));
        let third = _mm512_test_epi32_mask(places, _mm512_set1_epi32(1 << 6));
        let low = _mm512_mask_blend_epi32(
            second,
            _mm512_permutex2var_epi32(a, places, b),
            _mm512_permutex2var_epi32(c, places, d),
        );
        let high = _mm512_mask_blend_epi32(
            second,
            _mm512_permutex2var_epi32(e, places, f),
            _mm512_permutex2var_epi32(g, places, h),
        );
        _mm512_mask_blend_epi32(third, low, high)
    }
}

/// The first `count` lanes, at most all.
#[inline(always)]
pub(super) fn lanes(count: usize) -> __mmask16 {
    ((1u32 << count.min(LANES)) - 1) as __mmask16
}

/// [`crate::quant::requantize`] of the even lanes, then of the odd ones.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn requantize(acc: __m512i, multipliers: __m512i) -> __m512i {
    let half = _mm512_set1_epi64(1 << 31);
    let even = _mm512_add_epi64(_mm512_mul_epi32(acc, multipliers), half);
    let (acc, multipliers) = (_mm512_srli_epi64::<32>(acc), _mm512_srli_epi64::<32>(multipliers));
    let odd = _mm512_add_epi64(_mm512_mul_epi32(acc, multipliers), half);
    _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64::<32>(even), odd)
}

/// The activations that `mask` names, as i16; zeros for the others, which are not read.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load<I: Activation>(from: *const I, mask: __mmask16) -> __m256i {
    // SAFETY: of the caller; the size tells i8 from i16.
    unsafe {
        match size_of::<I>() {
            1 => _mm256_cvtepi8_epi16(_mm_maskz_loadu_epi8(mask, from.cast())),
            _ => _mm256_maskz_loadu_epi16(mask, from.cast()),
        }
    }
}

/// See [`crate::kernel::Kernel::moments`].
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub(super) fn moments<I: Activation>(values: &[I], channels: usize, first: usize, size: usize) -> Moments {
    let mut moments = Moments::default();
    for values in values.chunks((PIXELS_A_SUM * channels).max(1)) {
        for at in (first..first + size).step_by(LANES) {
            let count = (first + size - at).min(LANES);
            let mask = lanes(count);
            let (mut sum, mut squares) = (_mm256_setzero_si256(), [_mm256_setzero_si256(); 2]);
            for pixel in values.chunks_exact(channels.max(1)) {
                let Some(values) = pixel.get(at..at + count) else { break };
                // SAFETY: the mask leaves the slice's elements.
                let values = unsafe { load(values.as_ptr(), mask) };
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(values, _mm256_set1_epi16(1)));
                // Two squares fit 32 bits without a sign.
                let pairs = _mm256_madd_epi16(values, values);
                squares[0] = _mm256_add_epi64(squares[0], _mm256_and_si256(pairs, _mm256_set1_epi64x(0xFFFF_FFFF)));
                squares[1] = _mm256_add_epi64(squares[1], _mm256_srli_epi64::<32>(pairs));
            }
            moments.sum += _mm512_reduce_add_epi64(_mm512_cvtepi32_epi64(sum));
            let squares = _mm512_zextsi256_si512(_mm256_add_epi64(squares[0], squares[1]));
            moments.squares += _mm512_reduce_add_epi64(squares) as u64;
        }
    }
    moments
}

/// See [`crate::kernel::Kernel::normalize`].
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub(super) fn normalize<I: Activation>(
    values: &[I],
    lines: &[Line],
    table: &[i8; TABLE_LEN],
    output: &mut [i8],
    channels_out: usize,
    first: usize,
) {
    let table = Table::new(table);
    let channels = lines.len().max(1);
    for (chunk, lines) in lines.chunks(LANES).enumerate() {
        let (at, count) = (chunk * LANES, lines.len());
        let mask = lanes(count);
        let (half, rest) = lines.split_at(count.min(LANES / 2));
        let both = [half, rest].map(|lines| lines.as_ptr().cast::<i64>());
        // SAFETY: a line is 8 bytes; the masks leave those that there are.
        let (a, b) = unsafe {
            let a = _mm512_maskz_loadu_epi64(lanes(half.len()) as __mmask8, both[0]);
            (a, _mm512_maskz_loadu_epi64(lanes(rest.len()) as __mmask8, both[1]))
        };
        let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        let odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
        let offsets = _mm512_permutex2var_epi32(a, even, b);
        // The slope in the lower half, the shift in the upper.
        let slopes = _mm512_permutex2var_epi32(a, odd, b);
        let shifts = _mm512_srli_epi32::<16>(slopes);
        for (pixel, target) in values.chunks_exact(channels).zip(output.chunks_exact_mut(channels_out.max(1))) {
            let to = first + at;
            let (Some(values), Some(target)) = (pixel.get(at..at + count), target.get_mut(to..to + count)) else {
                break;
            };
            // SAFETY: the mask leaves the slice's elements.
            let values = unsafe { load(values.as_ptr(), mask) };
            // With nothing in the upper half, the sum of two products is the value's with the slope.
            let values = _mm512_cvtepu16_epi32(values);
            let index = _mm512_srav_epi32(_mm512_add_epi32(_mm512_madd_epi16(values, slopes), offsets), shifts);
            let index = _mm512_max_epi32(index, _mm512_setzero_si512());
            let index = _mm512_min_epi32(index, _mm512_set1_epi32(TABLE_LEN as i32 - 1));
            let words = table.words(_mm512_srli_epi32::<2>(index));
            let bits = _mm512_slli_epi32::<3>(_mm512_and_si512(index, _mm512_set1_epi32(3)));
            let bytes = _mm512_cvtepi32_epi8(_mm512_srlv_epi32(words, bits));
            // SAFETY: the same.
            unsafe { _mm_mask_storeu_epi8(target.as_mut_ptr(), mask, bytes) };
        }
    }
}

/// See [`crate::kernel::Kernel::softmax`].
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
pub(super) fn softmax(row: &mut [i16]) {
    let table = Table::new(&POWERS);
    let mut largest = _mm512_set1_epi32(i16::MIN.into());
    for scores in row.chunks(LANES) {
        let (scores, mask) = load_scores(scores);
        largest = _mm512_mask_max_epi32(largest, mask, largest, scores);
    }
    let largest = _mm512_set1_epi32(_mm512_reduce_max_epi32(largest));
    let mut sum = _mm512_setzero_si512();
    for scores in row.chunks(LANES) {
        let (scores, mask) = load_scores(scores);
        sum = _mm512_mask_add_epi32(sum, mask, sum, power(&table, _mm512_sub_epi32(largest, scores)));
    }
    let inverse = _mm512_set1_epi32(inverse(_mm512_reduce_add_epi32(sum) as u32));
    for row in row.chunks_mut(LANES) {
        let (scores, mask) = load_scores(row);
        let probabilities = requantize(power(&table, _mm512_sub_epi32(largest, scores)), inverse);
        // SAFETY: the mask leaves the slice's elements.
        unsafe { _mm256_mask_storeu_epi16(row.as_mut_ptr(), mask, _mm512_cvtepi32_epi16(probabilities)) };
    }
}

/// Up to sixteen scores, and the mask of those that there are.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl")]
fn load_scores(scores: &[i16]) -> (__m512i, __mmask16) {
    let mask = lanes(scores.len());
    // SAFETY: the mask leaves the slice's elements.
    (_mm512_cvtepi16_epi32(unsafe { load(scores.as_ptr(), mask) }), mask)
}

/// See [`crate::kernel::softmax::power`].
#[inline]
#[target_feature(enable = "avx512f")]
fn power(table: &Table, distance: __m512i) -> __m512i {
    let octaves = _mm512_srli_epi32::<8>(distance);
    let entry = _mm512_and_si512(distance, _mm512_set1_epi32(POWERS.len() as i32 - 1));
    let words = table.words(_mm512_srli_epi32::<1>(entry));
    let bits = _mm512_slli_epi32::<4>(_mm512_and_si512(entry, _mm512_set1_epi32(1)));
    let whole = _mm512_and_si512(_mm512_srlv_epi32(words, bits), _mm512_set1_epi32(0xFFFF));
    let half = _mm512_srli_epi32::<1>(_mm512_sllv_epi32(_mm512_set1_epi32(1), octaves));
    let rounded = _mm512_srlv_epi32(_mm512_add_epi32(whole, half), octaves);
    _mm512_maskz_mov_epi32(_mm512_cmple_epu32_mask(octaves, _mm512_set1_epi32(16)), rounded)
}
