//! The two inner loops of convolution over vectors of f32, for the best instruction set of the machine.

/// A vector of [`Lanes::N`] values.
///
/// # Safety
/// The machine has the implementor's instruction set; pointers hold N values.
trait Lanes: Copy {
    const N: usize;
    unsafe fn splat(value: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// `self + a * b`
    unsafe fn add_product(self, a: Self, b: Self) -> Self;
    /// The sum of the N values.
    unsafe fn sum(self) -> f32;
}

/// `out[o][i] = sum over c, t of weights[o][c][t] * x[c][i + taps[t]]` for i in `0..len`.
///
/// `x[c][i]` is `x[origin + c * x_stride + i]`. `out` has [`blocks`] whole blocks of channels and is overwritten.
pub(super) struct Product<'a> {
    pub(super) x: &'a [f32],
    pub(super) origin: usize,
    pub(super) x_stride: usize,
    pub(super) channels: usize,
    pub(super) taps: &'a [isize],
    /// `[block of out channels][channel][tap][BLOCK]`
    pub(super) weights: &'a [f32],
    pub(super) out: &'a mut [f32],
    pub(super) out_stride: usize,
    pub(super) out_channels: usize,
    pub(super) len: usize,
}

/// `sums[o][c][t] += sum over i of y[o][i] * x[c][i + taps[t]]` for i in `0..len`; addresses as in [`Product`].
pub(super) struct Correlation<'a> {
    pub(super) x: &'a [f32],
    pub(super) origin: usize,
    pub(super) x_stride: usize,
    pub(super) channels: usize,
    pub(super) taps: &'a [isize],
    /// Zero wherever it is not a pixel.
    pub(super) y: &'a [f32],
    pub(super) y_stride: usize,
    pub(super) out_channels: usize,
    pub(super) len: usize,
    /// `[out channel][channel][tap]`
    pub(super) sums: &'a mut [f32],
}

/// Output channels computed together.
pub(super) const BLOCK: usize = 8;
/// `len` is rounded up to a multiple of this; slices hold as much.
pub(super) const LEN_MULTIPLE: usize = 32;

/// Blocks of [`BLOCK`] that hold `channels`.
pub(super) fn blocks(channels: usize) -> usize {
    channels.div_ceil(BLOCK)
}

/// Panics unless all that `x` is read at lies inside it.
fn check_reads(x: &[f32], origin: usize, last_row: usize, len: usize, taps: &[isize]) {
    for &tap in taps {
        let (first, end) = (origin as isize + tap, (origin + last_row + len) as isize + tap);
        assert!(first >= 0 && end <= x.len() as isize, "reads {first}..{end} of {}", x.len());
    }
}

impl Product<'_> {
    pub(super) fn run(self) {
        let len = self.len.next_multiple_of(LEN_MULTIPLE);
        check_reads(self.x, self.origin, (self.channels - 1) * self.x_stride, len, self.taps);
        assert!(self.weights.len() >= blocks(self.out_channels) * self.channels * self.taps.len() * BLOCK);
        assert!(self.out.len() >= (blocks(self.out_channels) * BLOCK - 1) * self.out_stride + len);
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the machine has AVX-512F; the assertions above bound every address.
                return unsafe { x86::product_avx512(self) };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the machine has AVX2 and FMA; the assertions above bound every address.
                return unsafe { x86::product_avx2(self) };
            }
        }
        // SAFETY: the assertions above bound every address.
        unsafe { product::<Portable, 4, 1>(self) }
    }
}

impl Correlation<'_> {
    pub(super) fn run(self) {
        let len = self.len.next_multiple_of(LEN_MULTIPLE);
        check_reads(self.x, self.origin, (self.channels - 1) * self.x_stride, len, self.taps);
        assert!(self.y.len() >= (self.out_channels - 1) * self.y_stride + len);
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the machine has AVX-512F; the assertions above bound every address.
                return unsafe { x86::correlation_avx512(self) };
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                // SAFETY: the machine has AVX2 and FMA; the assertions above bound every address.
                return unsafe { x86::correlation_avx2(self) };
            }
        }
        // SAFETY: the assertions above bound every address.
        unsafe { correlation::<Portable, 1, 3>(self) }
    }
}

/// O channels by V vectors at a time; O divides [`BLOCK`], V vectors divide [`LEN_MULTIPLE`].
#[inline(always)]
unsafe fn product<L: Lanes, const O: usize, const V: usize>(job: Product<'_>) {
    let parts = BLOCK / O;
    let block_weights = job.channels * job.taps.len() * BLOCK;
    let out = job.out.as_mut_ptr();
    for i in (0..job.len).step_by(V * L::N) {
        for part in 0..blocks(job.out_channels) * parts {
            // SAFETY: `Product::run` has checked the least and the greatest address.
            unsafe {
                let x = job.x.as_ptr().add(job.origin + i);
                let mut weights = job.weights.as_ptr().add(part / parts * block_weights + part % parts * O);
                let mut sums = [[L::splat(0.0); V]; O];
                for c in 0..job.channels {
                    for &tap in job.taps {
                        let row = x.add(c * job.x_stride).offset(tap);
                        let mut values = [L::splat(0.0); V];
                        for (v, value) in values.iter_mut().enumerate() {
                            *value = L::load(row.add(v * L::N));
                        }
                        for (o, sums) in sums.iter_mut().enumerate() {
                            let weight = L::splat(*weights.add(o));
                            for (sum, value) in sums.iter_mut().zip(values) {
                                *sum = sum.add_product(weight, value);
                            }
                        }
                        weights = weights.add(BLOCK);
                    }
                }
                for (o, sums) in sums.iter().enumerate() {
                    for (v, sum) in sums.iter().enumerate() {
                        sum.store(out.add((part * O + o) * job.out_stride + i + v * L::N));
                    }
                }
            }
        }
    }
}

/// O out channels by P pairs of channel and tap at a time, what is left one by one.
#[inline(always)]
unsafe fn correlation<L: Lanes, const O: usize, const P: usize>(mut job: Correlation<'_>) {
    let pairs = job.channels * job.taps.len();
    let (whole_o, whole_pairs) = (job.out_channels / O * O, pairs / P * P);
    // SAFETY: `Correlation::run` has checked the least and the greatest address.
    unsafe {
        for o in (0..whole_o).step_by(O) {
            (0..whole_pairs).step_by(P).for_each(|pair| block::<L, O, P>(&mut job, o, pair));
            (whole_pairs..pairs).for_each(|pair| block::<L, O, 1>(&mut job, o, pair));
        }
        for o in whole_o..job.out_channels {
            (0..whole_pairs).step_by(P).for_each(|pair| block::<L, 1, P>(&mut job, o, pair));
            (whole_pairs..pairs).for_each(|pair| block::<L, 1, 1>(&mut job, o, pair));
        }
    }
}

/// O out channels from `o` on by P pairs from `pair` on.
#[inline(always)]
unsafe fn block<L: Lanes, const O: usize, const P: usize>(job: &mut Correlation<'_>, o: usize, pair: usize) {
    let taps = job.taps.len();
    // SAFETY: as the caller.
    unsafe {
        let x: [*const f32; P] = std::array::from_fn(|p| {
            let (c, tap) = ((pair + p) / taps, job.taps[(pair + p) % taps]);
            job.x.as_ptr().add(job.origin + c * job.x_stride).offset(tap)
        });
        let y = job.y.as_ptr().add(o * job.y_stride);
        let mut sums = [[L::splat(0.0); P]; O];
        for i in (0..job.len).step_by(L::N) {
            let x = x.map(|x| L::load(x.add(i)));
            for (o, sums) in sums.iter_mut().enumerate() {
                let y = L::load(y.add(o * job.y_stride + i));
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = sum.add_product(x, y);
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            let at = (o + row) * job.channels * taps + pair;
            job.sums[at..at + P].iter_mut().zip(sums).for_each(|(to, sum)| *to += sum.sum());
        }
    }
}

/// Eight values, for the compiler to vectorize.
#[derive(Clone, Copy)]
struct Portable([f32; 8]);

impl Lanes for Portable {
    const N: usize = 8;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's pointer holds eight values.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's pointer holds eight values.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add_product(self, a: Self, b: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] + a.0[i] * b.0[i]))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        self.0.iter().sum()
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Correlation, Lanes, Product, correlation, product};

    /// # Safety
    /// `Product::run` has checked the job.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn product_avx512(job: Product<'_>) {
        // SAFETY: as this function.
        unsafe { product::<__m512, 8, 2>(job) }
    }

    /// # Safety
    /// `Product::run` has checked the job.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn product_avx2(job: Product<'_>) {
        // SAFETY: as this function.
        unsafe { product::<__m256, 4, 2>(job) }
    }

    /// # Safety
    /// `Correlation::run` has checked the job.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn correlation_avx512(job: Correlation<'_>) {
        // SAFETY: as this function.
        unsafe { correlation::<__m512, 8, 3>(job) }
    }

    /// # Safety
    /// `Correlation::run` has checked the job.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn correlation_avx2(job: Correlation<'_>) {
        // SAFETY: as this function.
        unsafe { correlation::<__m256, 4, 3>(job) }
    }

    impl Lanes for __m512 {
        const N: usize = 16;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller has the instruction set; so below.
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: sixteen values by the caller's word.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: sixteen values by the caller's word.
            unsafe { _mm512_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller has the instruction set.
            unsafe { _mm512_fmadd_ps(a, b, self) }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            // SAFETY: the caller has the instruction set.
            unsafe { _mm512_reduce_add_ps(self) }
        }
    }

    impl Lanes for __m256 {
        const N: usize = 8;
        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            // SAFETY: the caller has the instruction set; so below.
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: eight values by the caller's word.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: eight values by the caller's word.
            unsafe { _mm256_storeu_ps(to, self) }
        }
        #[inline(always)]
        unsafe fn add_product(self, a: Self, b: Self) -> Self {
            // SAFETY: the caller has the instruction set.
            unsafe { _mm256_fmadd_ps(a, b, self) }
        }
        #[inline(always)]
        unsafe fn sum(self) -> f32 {
            let mut values = [0.0; Self::N];
            // SAFETY: room for all values.
            unsafe { self.store(values.as_mut_ptr()) };
            values.iter().sum()
        }
    }
}

/// Every machine runs one of the variants; here each runs that this machine can, against the formulas in f64.
#[cfg(test)]
mod tests {
    use super::*;

    /// Neither channels nor pairs of channel and tap are whole blocks.
    const CHANNELS: usize = 4;
    const OUT: usize = 10;
    const TAPS: [isize; 4] = [-5, 0, 7, 1];
    const LEN: usize = 96;
    const STRIDE: usize = LEN + 16;
    const ORIGIN: usize = 8;

    fn wave(count: usize, pitch: f32) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * pitch).sin()).collect()
    }

    fn x() -> Vec<f32> {
        wave(ORIGIN + CHANNELS * STRIDE + LEN, 0.37)
    }

    fn at(values: &[f32], channel: usize, i: usize, tap: isize) -> f64 {
        f64::from(values[(ORIGIN + channel * STRIDE + i).strict_add_signed(tap)])
    }

    type ProductVariant = (&'static str, for<'a> unsafe fn(Product<'a>));
    type CorrelationVariant = (&'static str, for<'a> unsafe fn(Correlation<'a>));

    fn check(name: &str, found: f32, expected: f64) {
        assert!((f64::from(found) - expected).abs() < 1e-4, "{name}: {found} against {expected}");
    }

    #[test]
    fn every_product_follows_its_formula() {
        #[allow(unused_mut, reason = "other processors have the portable variant alone")]
        let mut variants: Vec<ProductVariant> = vec![("portable", product::<Portable, 4, 1>)];
        #[cfg(target_arch = "x86_64")]
        {
            variants.extend(is_x86_feature_detected!("avx512f").then_some(("AVX-512", x86::product_avx512 as _)));
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            variants.extend(avx2.then_some(("AVX2", x86::product_avx2 as _)));
        }
        let (x, weights) = (x(), wave(blocks(OUT) * CHANNELS * TAPS.len() * BLOCK, 0.71));
        for (name, run) in variants {
            let mut out = vec![0.0; blocks(OUT) * BLOCK * LEN];
            let job = Product {
                x: &x,
                origin: ORIGIN,
                x_stride: STRIDE,
                channels: CHANNELS,
                taps: &TAPS,
                weights: &weights,
                out: &mut out,
                out_stride: LEN,
                out_channels: OUT,
                len: LEN,
            };
            // SAFETY: the machine has the variant's instructions; `x` and `out` hold every address of the formula.
            unsafe { run(job) };
            for (o, i) in (0..OUT).flat_map(|o| (0..LEN).map(move |i| (o, i))) {
                let weight = |c: usize, t: usize| {
                    let place = ((o / BLOCK * CHANNELS + c) * TAPS.len() + t) * BLOCK + o % BLOCK;
                    f64::from(weights[place])
                };
                let terms = (0..CHANNELS).flat_map(|c| (0..TAPS.len()).map(move |t| (c, t)));
                check(name, out[o * LEN + i], terms.map(|(c, t)| weight(c, t) * at(&x, c, i, TAPS[t])).sum());
            }
        }
    }

    #[test]
    fn every_correlation_follows_its_formula() {
        #[allow(unused_mut, reason = "other processors have the portable variant alone")]
        let mut variants: Vec<CorrelationVariant> = vec![("portable", correlation::<Portable, 1, 3>)];
        #[cfg(target_arch = "x86_64")]
        {
            variants.extend(is_x86_feature_detected!("avx512f").then_some(("AVX-512", x86::correlation_avx512 as _)));
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            variants.extend(avx2.then_some(("AVX2", x86::correlation_avx2 as _)));
        }
        let (x, y) = (x(), wave(OUT * LEN, 0.53));
        for (name, run) in variants {
            let mut sums = vec![1.0; OUT * CHANNELS * TAPS.len()];
            let job = Correlation {
                x: &x,
                origin: ORIGIN,
                x_stride: STRIDE,
                channels: CHANNELS,
                taps: &TAPS,
                y: &y,
                y_stride: LEN,
                out_channels: OUT,
                len: LEN,
                sums: &mut sums,
            };
            // SAFETY: the machine has the variant's instructions; `x`, `y` and `sums` hold every address of the formula.
            unsafe { run(job) };
            for (index, sum) in sums.iter().enumerate() {
                let (pair, t) = (index / TAPS.len(), index % TAPS.len());
                let (o, c) = (pair / CHANNELS, pair % CHANNELS);
                let terms = (0..LEN).map(|i| f64::from(y[o * LEN + i]) * at(&x, c, i, TAPS[t]));
                check(name, *sum, 1.0 + terms.sum::<f64>());
            }
        }
    }
}
