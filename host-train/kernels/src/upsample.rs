//! Nearest upsampling by two.

use rayon::prelude::*;

/// Planes a task.
const CHUNK: usize = 64;

/// Planes `[height, width]` to planes `[2 height, 2 width]`.
pub fn forward(x: &[f32], height: usize, width: usize) -> Vec<f32> {
    let plane = height * width;
    let mut out = vec![0.0; 4 * x.len()];
    out.par_chunks_mut(CHUNK * 4 * plane).zip(x.par_chunks(CHUNK * plane)).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(4 * width).zip(x.chunks_exact(width)) {
            let (top, bottom) = out.split_at_mut(2 * width);
            top.chunks_exact_mut(2).zip(x).for_each(|(pair, &value)| pair.fill(value));
            bottom.copy_from_slice(top);
        }
    });
    out
}

/// The gradient of the input, of planes `[height, width]`: sums of 2x2.
pub fn backward(dy: &[f32], height: usize, width: usize) -> Vec<f32> {
    let plane = height * width;
    let mut dx = vec![0.0; dy.len() / 4];
    dx.par_chunks_mut(CHUNK * plane).zip(dy.par_chunks(CHUNK * 4 * plane)).for_each(|(dx, dy)| {
        for (dx, dy) in dx.chunks_exact_mut(width).zip(dy.chunks_exact(4 * width)) {
            let (top, bottom) = dy.split_at(2 * width);
            for (dx, (top, bottom)) in dx.iter_mut().zip(top.chunks_exact(2).zip(bottom.chunks_exact(2))) {
                *dx = (top[0] + top[1]) + (bottom[0] + bottom[1]);
            }
        }
    });
    dx
}
