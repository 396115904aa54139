//! Finding every tensor's range on the model's own sampling trajectories.

use super::graph::Graph;
use super::run::{Observer, Sampler};
use mote_core::Request;
use rayon::prelude::*;

/// Ranges seen.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// Smallest and largest value written to each tensor.
    pub tensors: Vec<[f32; 2]>,
    /// Smallest and largest value that each operation reads before the activation function, where it normalizes.
    pub normalized: Vec<[f32; 2]>,
    /// Smallest and largest result of each convolution, before it is added to the output.
    pub convolved: Vec<[f32; 2]>,
}

impl Calibration {
    fn empty(graph: &Graph) -> Self {
        let nothing = |count| vec![[f32::INFINITY, f32::NEG_INFINITY]; count];
        let ops = graph.ops.len();
        Calibration { tensors: nothing(graph.tensors.len()), normalized: nothing(ops), convolved: nothing(ops) }
    }

    fn ranges(&self) -> impl Iterator<Item = &[f32; 2]> {
        self.tensors.iter().chain(&self.normalized).chain(&self.convolved)
    }

    fn union(mut self, other: &Self) -> Self {
        let all = self.tensors.iter_mut().chain(&mut self.normalized).chain(&mut self.convolved);
        for (range, more) in all.zip(other.ranges()) {
            *range = [range[0].min(more[0]), range[1].max(more[1])];
        }
        self
    }
}

impl Observer for Calibration {
    fn tensor(&mut self, tensor: usize, values: &mut [f32]) {
        widen(&mut self.tensors[tensor], values);
    }

    fn normalized(&mut self, op: usize, values: &mut [f32]) {
        widen(&mut self.normalized[op], values);
    }

    fn convolved(&mut self, op: usize, values: &mut [f32]) {
        widen(&mut self.convolved[op], values);
    }
}

fn widen(range: &mut [f32; 2], values: &[f32]) {
    for &value in values {
        *range = [range[0].min(value), range[1].max(value)];
    }
}

/// Draws `samples` samples of `seed`, classes in turn, and records the ranges.
pub fn calibrate(graph: &Graph, seed: u64, samples: usize) -> Calibration {
    let draw = |index: usize| {
        let mut seen = Calibration::empty(graph);
        let class = (index % graph.classes) as u16;
        Sampler::new(graph).draw(Request { class, seed, sample: index as u64, ..Request::default() }, &mut seen);
        seen
    };
    let parts: Vec<Calibration> = (0..samples).into_par_iter().map(draw).collect();
    parts.iter().fold(Calibration::empty(graph), Calibration::union)
}
