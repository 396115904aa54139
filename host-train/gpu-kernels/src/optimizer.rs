//! One step of AdamW on all parameters as one vector.

use cubecl::prelude::*;
use cubecl::server::Handle;

use crate::{THREADS, array, blocks};

/// Blocks that sum the squares of a gradient: each leaves one part.
const PARTS: usize = 256;
/// Values of a load.
const VECTOR: usize = 4;

/// The numbers of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Learning rate.
    pub rate: f32,
    /// Decay rates of the two moments.
    pub betas: [f32; 2],
    /// `1 / (1 - beta^steps)` for each moment.
    pub corrections: [f32; 2],
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Greatest norm of the gradient.
    pub clip: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// What the average keeps of itself.
    pub keep: f32,
}

/// Parameters, both moments and the average after the step, and the gradient's norm, `[1]`.
///
/// # Shapes
/// - gradient, parameters, first and second moment, average: `[len]`, f32
pub fn adamw<R: Runtime>(
    client: &ComputeClient<R>,
    len: usize,
    [gradient, parameters, first, second, average]: [&Handle; 5],
    step: &Step,
) -> ([Handle; 4], Handle) {
    let vector = if len.is_multiple_of(VECTOR) { VECTOR } else { 1 };
    let bytes = len * size_of::<f32>();
    let dim = CubeDim::new_1d(THREADS as u32);
    let parts = client.empty(PARTS * size_of::<f32>());
    let norm = client.empty(size_of::<f32>());
    let out = [(); 4].map(|()| client.empty(bytes));
    // SAFETY: every unit stays within the vectors' length.
    unsafe {
        let count = CubeCount::Static(PARTS as u32, 1, 1);
        let (gradient, sums) = (array::<R>(gradient, len), array::<R>(&parts, PARTS));
        square_sums::launch_unchecked::<R>(client, count, dim, vector, gradient, sums);
    }
    // SAFETY: as above.
    unsafe {
        move_along::launch_unchecked::<R>(
            client,
            blocks(len / vector, THREADS),
            dim,
            vector,
            array(gradient, len),
            array(parameters, len),
            array(first, len),
            array(second, len),
            array(average, len),
            array(&parts, PARTS),
            array(&out[0], len),
            array(&out[1], len),
            array(&out[2], len),
            array(&out[3], len),
            array(&norm, 1),
            step.rate,
            1.0 - step.rate * step.weight_decay,
            step.betas[0],
            step.betas[1],
            step.corrections[0],
            step.corrections[1],
            step.clip,
            step.epsilon,
            step.keep,
        );
    }
    (out, norm)
}

/// The sum of `values`, one a unit, in a fixed order; every unit gets it.
#[cube]
fn sum_of_units(value: f32) -> f32 {
    let unit = UNIT_POS as usize;
    let mut shared = SharedMemory::<f32>::new(THREADS);
    shared[unit] = value;
    sync_cube();
    let mut half = comptime!(THREADS / 2).runtime();
    while half > 0 {
        if unit < half {
            let other = shared[unit + half];
            shared[unit] += other;
        }
        sync_cube();
        half /= 2;
    }
    shared[0]
}

#[cube(launch_unchecked)]
fn square_sums<N: Size>(values: &Array<Vector<f32, N>>, parts: &mut Array<f32>) {
    let mut squares = Vector::<f32, N>::new(0.0);
    for index in range_stepped(ABSOLUTE_POS, values.len(), comptime!(PARTS * THREADS)) {
        let value = values[index];
        squares += value * value;
    }
    let mut sum = f32::new(0.0);
    #[unroll]
    for e in 0..N::value() {
        sum += squares[e];
    }
    let sum = sum_of_units(sum);
    if UNIT_POS == 0 {
        parts[CUBE_POS] = sum;
    }
}

#[cube(launch_unchecked)]
fn move_along<N: Size>(
    gradient: &Array<Vector<f32, N>>,
    parameters: &Array<Vector<f32, N>>,
    first: &Array<Vector<f32, N>>,
    second: &Array<Vector<f32, N>>,
    average: &Array<Vector<f32, N>>,
    parts: &Array<f32>,
    new_parameters: &mut Array<Vector<f32, N>>,
    new_first: &mut Array<Vector<f32, N>>,
    new_second: &mut Array<Vector<f32, N>>,
    new_average: &mut Array<Vector<f32, N>>,
    norm: &mut Array<f32>,
    rate: f32,
    decay: f32,
    beta1: f32,
    beta2: f32,
    correction1: f32,
    correction2: f32,
    clip: f32,
    epsilon: f32,
    keep: f32,
) {
    // As many parts as units.
    let length = f32::sqrt(sum_of_units(parts[UNIT_POS as usize]));
    if ABSOLUTE_POS == 0 {
        norm[0] = length;
    }
    let factor = f32::min(clip / (length + 1e-6), f32::new(1.0));
    if ABSOLUTE_POS < gradient.len() {
        let gradient = gradient[ABSOLUTE_POS] * Vector::new(factor);
        let first = first[ABSOLUTE_POS] * Vector::new(beta1) + gradient * Vector::new(1.0 - beta1);
        let second = second[ABSOLUTE_POS] * Vector::new(beta2) + gradient * gradient * Vector::new(1.0 - beta2);
        let root = Vector::sqrt(second * Vector::new(correction2)) + Vector::new(epsilon);
        let direction = first * Vector::new(correction1) / root;
        let moved = parameters[ABSOLUTE_POS] * Vector::new(decay) - direction * Vector::new(rate);
        new_first[ABSOLUTE_POS] = first;
        new_second[ABSOLUTE_POS] = second;
        new_parameters[ABSOLUTE_POS] = moved;
        new_average[ABSOLUTE_POS] = average[ABSOLUTE_POS] * Vector::new(keep) + moved * Vector::new(1.0 - keep);
    }
}
