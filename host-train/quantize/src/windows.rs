//! What the windows of convolutions hold on a network's own trajectories: their mean and covariance, and rounding that heeds
//! them.

use super::graph::{Graph, GraphOp};
use super::run::{Observer, Sampler};
use mote_core::Request;
use rayon::prelude::*;

/// Windows of a state that are looked at, spread over the pixels.
const OF_A_STATE: usize = 16;
/// Added to every variance, as a part of their mean: windows of zeros leave some taps unseen.
const DAMPING: f64 = 0.01;

/// Mean and covariance of the windows of one convolution, taps in the order of the weights.
#[derive(Clone, Debug)]
pub struct Windows {
    /// `[taps]`
    pub(super) mean: Vec<f64>,
    /// `[taps][taps]`
    pub(super) covariance: Vec<f64>,
    /// The taps in the order in which they are rounded: those that vary most come first.
    order: Vec<usize>,
    /// Upper triangular, in that order: transposed times itself it is the inverse of the damped covariance.
    factor: Vec<f64>,
}

/// Sums over the windows of one convolution.
#[derive(Clone)]
struct Sums {
    count: f64,
    first: Vec<f64>,
    /// Upper triangle.
    second: Vec<f64>,
}

impl Sums {
    fn new(taps: usize) -> Self {
        Sums { count: 0.0, first: vec![0.0; taps], second: vec![0.0; taps * taps] }
    }

    fn add(&mut self, window: &[f32]) {
        let taps = window.len();
        self.count += 1.0;
        for (i, &x) in window.iter().enumerate() {
            self.first[i] += f64::from(x);
            // Many inputs are zero: SiLU of padding, and of what is far below zero.
            if x != 0.0 {
                let row = &mut self.second[i * taps + i..(i + 1) * taps];
                row.iter_mut().zip(&window[i..]).for_each(|(sum, &y)| *sum += f64::from(x * y));
            }
        }
    }

    fn union(mut self, other: Self) -> Self {
        self.count += other.count;
        self.first.iter_mut().zip(other.first).for_each(|(all, more)| *all += more);
        self.second.iter_mut().zip(other.second).for_each(|(all, more)| *all += more);
        self
    }
}

/// Sees some windows of every convolution.
struct Seen {
    sums: Vec<Option<Sums>>,
    /// Windows seen since a convolution began, and the first to be looked at.
    at: usize,
    op: usize,
    phase: usize,
    pixels: Vec<usize>,
}

impl Observer for Seen {
    fn window(&mut self, op: usize, window: &[f32]) {
        if op != self.op {
            (self.op, self.at) = (op, 0);
        }
        let every = self.pixels[op].div_ceil(OF_A_STATE);
        if let (Some(sums), true) = (&mut self.sums[op], self.at % every == self.phase % every) {
            sums.add(window);
        }
        self.at += 1;
    }
}

/// Draws `samples` samples of `seed`, classes in turn, and looks at windows of every convolution.
pub fn windows(graph: &Graph, seed: u64, samples: usize) -> Vec<Option<Windows>> {
    let nothing: Vec<Option<Sums>> = graph
        .ops
        .iter()
        .map(|op| match op {
            GraphOp::Conv(conv) => Some(Sums::new(conv.weights.len() / conv.bias.len())),
            GraphOp::Attention(_) => None,
        })
        .collect();
    let pixels = |op: &GraphOp| match op {
        GraphOp::Conv(conv) => graph.tensors[conv.output].shape[..2].iter().product(),
        GraphOp::Attention(_) => 1,
    };
    let pixels: Vec<usize> = graph.ops.iter().map(pixels).collect();
    // A few tasks only: sums of all operations are large.
    let tasks = rayon::current_num_threads();
    let draw = |task: usize| {
        let mut seen = Seen { sums: nothing.clone(), at: 0, op: 0, phase: 0, pixels: pixels.clone() };
        for index in (task..samples).step_by(tasks) {
            // The same pixel is not looked at in every state.
            seen.phase = index.wrapping_mul(7);
            let class = (index % graph.classes) as u16;
            Sampler::new(graph).draw(Request { class, seed, sample: index as u64, ..Request::default() }, &mut seen);
        }
        seen.sums
    };
    let parts: Vec<Vec<Option<Sums>>> = (0..tasks).into_par_iter().map(draw).collect();
    let all = parts
        .into_iter()
        .fold(nothing, |all, part| all.into_iter().zip(part).map(|(all, part)| Some(all?.union(part?))).collect());
    all.into_par_iter().map(|sums| sums.map(Windows::new)).collect()
}

impl Windows {
    fn new(sums: Sums) -> Self {
        let Sums { count, first, second } = sums;
        let taps = first.len();
        let mean: Vec<f64> = first.iter().map(|sum| sum / count).collect();
        let mut covariance = vec![0.0; taps * taps];
        for i in 0..taps {
            for j in i..taps {
                let value = second[i * taps + j] / count - mean[i] * mean[j];
                covariance[i * taps + j] = value;
                covariance[j * taps + i] = value;
            }
        }
        let variance = |tap: usize| covariance[tap * taps + tap];
        let damping = (DAMPING * (0..taps).map(variance).sum::<f64>() / taps as f64).max(1e-12);
        let mut order: Vec<usize> = (0..taps).collect();
        order.sort_by(|&a, &b| variance(b).total_cmp(&variance(a)));
        let damped = |i: usize, j: usize| covariance[order[i] * taps + order[j]] + if i == j { damping } else { 0.0 };
        let factor = inverse_factor(taps, damped);
        Windows { mean, covariance, order, factor }
    }

    /// Rounds one channel's weights tap by tap; what a tap's rounding changes in the results is made up for by the taps still
    /// to come (Frantar et al., *GPTQ*, 2023, algorithm 1, all columns in one block). Returns the mean squared change of the
    /// results, their mean apart, and the integers.
    pub(super) fn round(&self, weights: &[f32], nearest: impl Fn(f32) -> i8, step: f32) -> (f64, Vec<i8>) {
        let taps = weights.len();
        let mut rest: Vec<f64> = self.order.iter().map(|&tap| weights[tap].into()).collect();
        let mut rounded = vec![0; taps];
        for (i, &tap) in self.order.iter().enumerate() {
            rounded[tap] = nearest(rest[i] as f32);
            let row = &self.factor[i * taps..(i + 1) * taps];
            let error = (rest[i] - f64::from(rounded[tap]) * f64::from(step)) / row[i];
            rest[i + 1..].iter_mut().zip(&row[i + 1..]).for_each(|(weight, share)| *weight -= error * share);
        }
        let difference: Vec<f64> =
            weights.iter().zip(&rounded).map(|(w, &q)| f64::from(w - f32::from(q) * step)).collect();
        let product = |row: &[f64]| row.iter().zip(&difference).map(|(a, b)| a * b).sum::<f64>();
        let change = self.covariance.chunks_exact(taps).zip(&difference).map(|(row, d)| d * product(row)).sum();
        (change, rounded)
    }
}

/// The upper triangular U with `U^T U` the inverse of a symmetric positive matrix: the inverse of its Cholesky factor, taken
/// from the last column on.
fn inverse_factor(n: usize, matrix: impl Fn(usize, usize) -> f64) -> Vec<f64> {
    let mut upper = vec![0.0f64; n * n];
    for j in (0..n).rev() {
        for i in (0..=j).rev() {
            let (row_i, row_j) = (&upper[i * n + j + 1..(i + 1) * n], &upper[j * n + j + 1..(j + 1) * n]);
            let rest = matrix(i, j) - row_i.iter().zip(row_j).map(|(a, b)| a * b).sum::<f64>();
            upper[i * n + j] = if i == j { rest.max(1e-300).sqrt() } else { rest / upper[j * n + j] };
        }
    }
    let mut inverse = vec![0.0f64; n * n];
    for i in (0..n).rev() {
        inverse[i * n + i] = 1.0 / upper[i * n + i];
        let (above, below) = inverse.split_at_mut((i + 1) * n);
        let row = &mut above[i * n..];
        for k in i + 1..n {
            let factor = -upper[i * n + k] / upper[i * n + i];
            let other = &below[(k - i - 1) * n..(k - i) * n];
            row[k..].iter_mut().zip(&other[k..]).for_each(|(sum, value)| *sum += factor * value);
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::super::random_network::network;
    use super::*;

    #[test]
    fn the_factor_gives_the_inverse() {
        let matrix = [[4.0, 1.0, 0.5], [1.0, 3.0, -0.2], [0.5, -0.2, 2.0]];
        let factor = inverse_factor(3, |i, j| matrix[i][j]);
        let inverse = |i: usize, j: usize| (0..3).map(|k| factor[k * 3 + i] * factor[k * 3 + j]).sum::<f64>();
        for (i, row) in matrix.iter().enumerate() {
            for j in 0..3 {
                let product: f64 = (0..3).map(|k| row[k] * inverse(k, j)).sum();
                assert!((product - f64::from(u8::from(i == j))).abs() < 1e-12, "{i} {j} {product}");
            }
        }
        assert_eq!((factor[3], factor[6], factor[7]), (0.0, 0.0, 0.0));
    }

    /// Taps of windows are correlated, so that neighbours can make up for what rounding one of them changes.
    #[test]
    fn rounding_that_heeds_the_windows_changes_results_less() {
        let graph = network(2, None);
        let windows = windows(&graph, 1, 12);
        let (mut heeding, mut plain) = (0.0, 0.0);
        for (op, windows) in graph.ops.iter().zip(&windows) {
            let (GraphOp::Conv(conv), Some(windows)) = (op, windows) else { continue };
            let taps = windows.mean.len();
            for weights in conv.weights.chunks_exact(taps) {
                let step = weights.iter().fold(0.0f32, |peak, w| peak.max(w.abs())) / 7.0;
                let nearest = |w: f32| (w / step).round().clamp(-7.0, 7.0) as i8;
                heeding += windows.round(weights, nearest, step).0;
                let alone = Windows { factor: identity(taps), ..windows.clone() };
                plain += alone.round(weights, nearest, step).0;
            }
        }
        assert!(heeding < 0.6 * plain, "{heeding} and {plain}");
    }

    fn identity(n: usize) -> Vec<f64> {
        (0..n * n).map(|at| f64::from(u8::from(at / n == at % n))).collect()
    }
}
