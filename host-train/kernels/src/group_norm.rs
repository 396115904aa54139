//! Group normalization, gain, offset and SiLU in one pass.

use rayon::prelude::*;

use crate::GROUP_NORM_EPSILON;

/// Accumulators of a sum, a vector of them.
const LANES: usize = 16;

/// Sizes of the operation.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Channels.
    pub channels: usize,
    /// Pixels a channel.
    pub plane: usize,
    /// Groups of all channels together.
    pub groups: usize,
    /// Rows of gain and offset: the batch, or 1.
    pub rows: usize,
}

/// Mean and 1 / standard deviation of each image's groups, `[batch, groups]`.
pub type Moments = Vec<(f32, f32)>;

/// The parameters of one image or of all.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    /// `[rows, channels]`
    pub gain: &'a [f32],
    /// `[rows, channels]`
    pub offset: &'a [f32],
}

/// Gradients of the operation.
pub struct Gradients {
    /// `[batch, channels, plane]`
    pub x: Vec<f32>,
    /// `[rows, channels]`
    pub gain: Vec<f32>,
    /// `[rows, channels]`
    pub offset: Vec<f32>,
}

impl Shape {
    fn image(&self) -> usize {
        self.channels * self.plane
    }

    fn group_channels(&self) -> usize {
        self.channels / self.groups
    }

    /// Where an image's row of gain or offset begins.
    fn row(&self, image: usize) -> usize {
        if self.rows == 1 { 0 } else { image * self.channels }
    }

    fn of_image<'a>(&self, affine: Affine<'a>, image: usize) -> Affine<'a> {
        let row = self.row(image)..self.row(image) + self.channels;
        Affine { gain: &affine.gain[row.clone()], offset: &affine.offset[row] }
    }
}

/// The output, and the moments that [`backward`] needs.
pub fn forward(x: &[f32], affine: Affine<'_>, shape: Shape) -> (Vec<f32>, Moments) {
    let mut out = vec![0.0; x.len()];
    let mut moments = vec![(0.0, 0.0); x.len() / shape.image() * shape.groups];
    out.par_chunks_mut(shape.image())
        .zip(x.par_chunks(shape.image()))
        .zip(moments.par_chunks_mut(shape.groups))
        .enumerate()
        .for_each(|(image, ((out, x), moments))| {
            let affine = shape.of_image(affine, image);
            vectorized(
                #[inline(always)]
                || forward_image(x, affine, shape, out, moments),
            );
        });
    (out, moments)
}

#[inline(always)]
fn forward_image(x: &[f32], affine: Affine<'_>, shape: Shape, out: &mut [f32], moments: &mut [(f32, f32)]) {
    let group_len = shape.group_channels() * shape.plane;
    for (group, (x, out)) in x.chunks_exact(group_len).zip(out.chunks_exact_mut(group_len)).enumerate() {
        let mean = sum(x, |x| x) / group_len as f32;
        let variance = sum(x, |x| (x - mean) * (x - mean)) / group_len as f32;
        let scale = 1.0 / (variance + GROUP_NORM_EPSILON as f32).sqrt();
        moments[group] = (mean, scale);
        for (c, (x, out)) in x.chunks_exact(shape.plane).zip(out.chunks_exact_mut(shape.plane)).enumerate() {
            let channel = group * shape.group_channels() + c;
            let slope = affine.gain[channel] * scale;
            let offset = affine.offset[channel];
            for (out, &x) in out.iter_mut().zip(x) {
                let u = (x - mean) * slope + offset;
                *out = u * sigmoid(u);
            }
        }
    }
}

/// Gradients from `dy`, the gradient of the output.
pub fn backward(x: &[f32], affine: Affine<'_>, moments: &[(f32, f32)], dy: &[f32], shape: Shape) -> Gradients {
    let mut dx = vec![0.0; x.len()];
    // Each image's gradients of gain and offset, [batch, channels, 2].
    let mut sums = vec![0.0; x.len() / shape.plane * 2];
    dx.par_chunks_mut(shape.image())
        .zip(x.par_chunks(shape.image()).zip(dy.par_chunks(shape.image())))
        .zip(moments.par_chunks(shape.groups).zip(sums.par_chunks_mut(2 * shape.channels)))
        .enumerate()
        .for_each(|(image, ((dx, (x, dy)), (moments, sums)))| {
            let affine = shape.of_image(affine, image);
            vectorized(
                #[inline(always)]
                || backward_image((x, dy), affine, moments, shape, dx, sums),
            );
        });
    let zeros = vec![0.0; shape.rows * shape.channels];
    let mut gradients = Gradients { x: dx, gain: zeros.clone(), offset: zeros };
    for (image, sums) in sums.chunks_exact(2 * shape.channels).enumerate() {
        for (c, pair) in sums.chunks_exact(2).enumerate() {
            gradients.gain[shape.row(image) + c] += pair[0];
            gradients.offset[shape.row(image) + c] += pair[1];
        }
    }
    gradients
}

/// With `n = (x - mean) * scale`, `u = gain * n + offset` and averages over the group:
/// `dx = scale * (gain * du - average(gain * du) - n * average(gain * du * n))`.
#[inline(always)]
fn backward_image(
    (x, dy): (&[f32], &[f32]),
    affine: Affine<'_>,
    moments: &[(f32, f32)],
    shape: Shape,
    dx: &mut [f32],
    sums: &mut [f32],
) {
    let group_len = (shape.group_channels() * shape.plane) as f32;
    for (group, &(mean, scale)) in moments.iter().enumerate() {
        let channels = group * shape.group_channels()..(group + 1) * shape.group_channels();
        let (mut average, mut average_n) = (0.0, 0.0);
        for c in channels.clone() {
            let plane = c * shape.plane..(c + 1) * shape.plane;
            let (x, dy, du) = (&x[plane.clone()], &dy[plane.clone()], &mut dx[plane]);
            let (slope, offset) = (affine.gain[c] * scale, affine.offset[c]);
            for ((du, &x), &dy) in du.iter_mut().zip(x).zip(dy) {
                let u = (x - mean) * slope + offset;
                let s = sigmoid(u);
                *du = dy * s * (1.0 + u * (1.0 - s));
            }
            let d_gain = sum2(du, x, |du, x| du * (x - mean)) * scale;
            let d_offset = sum(du, |du| du);
            sums[2 * c] = d_gain;
            sums[2 * c + 1] = d_offset;
            average_n += affine.gain[c] * d_gain / group_len;
            average += affine.gain[c] * d_offset / group_len;
        }
        for c in channels {
            let plane = c * shape.plane..(c + 1) * shape.plane;
            let gain = affine.gain[c];
            for (dx, &x) in dx[plane.clone()].iter_mut().zip(&x[plane]) {
                *dx = scale * (*dx * gain - average - (x - mean) * scale * average_n);
            }
        }
    }
}

#[inline(always)]
fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    sum2(values, values, |value, _| term(value))
}

#[inline(always)]
fn sum2(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(&a, &b)| term(a, b)).sum();
    for (a, b) in a.zip(b) {
        for lane in 0..LANES {
            lanes[lane] += term(a[lane], b[lane]);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `e^x` within 3e-7 of its value, for the compiler to vectorize; x is first clamped to -87..88.
///
/// `2^(n + f)` with n whole and |f| <= 1/2: n goes into the exponent, a polynomial (Cephes `expf`) gives the rest.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding this to a small number leaves the nearest whole number in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let f = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let poly = 1.987_569_2e-4;
    let poly = poly * f + 1.398_2e-3;
    let poly = poly * f + 8.333_452e-3;
    let poly = poly * f + 4.166_579_6e-2;
    let poly = poly * f + 1.666_666_5e-1;
    let poly = poly * f + 0.5;
    let value = poly * f * f + f + 1.0;
    value * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// Runs `body` compiled for AVX2 and FMA where the machine has them.
#[inline(always)]
fn vectorized(body: impl FnOnce()) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx2,fma")]
        fn with_avx2(body: impl FnOnce()) {
            body();
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the machine has AVX2 and FMA.
            return unsafe { with_avx2(body) };
        }
    }
    body();
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn exp_is_within_its_bound() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= 3e-7 * exact, "exp({x}) = {}, not {exact}", exp(x));
        }
        assert!(exp(-1e9) > 0.0 && exp(1e9).is_finite());
    }
}
