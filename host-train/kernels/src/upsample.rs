//! Nearest upsampling by two, of both sides or of the width alone.

use rayon::prelude::*;

/// Planes a task.
const CHUNK: usize = 64;

/// Planes `[height, width]` to planes `[down * height, 2 * width]`; `down` is 1 or 2.
pub fn forward(x: &[f32], [height, width]: [usize; 2], down: usize) -> Vec<f32> {
    let (plane, wide) = (height * width, 2 * width);
    let mut out = vec![0.0; down * 2 * x.len()];
    out.par_chunks_mut(CHUNK * down * 2 * plane).zip(x.par_chunks(CHUNK * plane)).for_each(|(out, x)| {
        for (out, x) in out.chunks_exact_mut(down * wide).zip(x.chunks_exact(width)) {
            let (top, bottom) = out.split_at_mut(wide);
            top.chunks_exact_mut(2).zip(x).for_each(|(pair, &value)| pair.fill(value));
            if down == 2 {
                bottom.copy_from_slice(top);
            }
        }
    });
    out
}

/// The gradient of the input, of planes `[height, width]`: sums of `down` x 2.
pub fn backward(dy: &[f32], [height, width]: [usize; 2], down: usize) -> Vec<f32> {
    let (plane, wide) = (height * width, 2 * width);
    let mut dx = vec![0.0; dy.len() / (down * 2)];
    dx.par_chunks_mut(CHUNK * plane).zip(dy.par_chunks(CHUNK * down * 2 * plane)).for_each(|(dx, dy)| {
        for (dx, dy) in dx.chunks_exact_mut(width).zip(dy.chunks_exact(down * wide)) {
            let (top, bottom) = dy.split_at(wide);
            dx.iter_mut().zip(top.chunks_exact(2)).for_each(|(dx, pair)| *dx = pair[0] + pair[1]);
            if down == 2 {
                dx.iter_mut().zip(bottom.chunks_exact(2)).for_each(|(dx, pair)| *dx += pair[0] + pair[1]);
            }
        }
    });
    dx
}
