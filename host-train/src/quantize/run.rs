//! Running a [`Graph`] in f32, channels last, with core's noise and step table: the float reference that quantization is
//! measured against.

use super::graph::{Graph, GraphConv, GraphNorm, GraphOp, OUTPUT, STATE};
use mote_core::Request;
use mote_core::noise::{NoiseUse, normals};
use mote_core::quant::STATE_ONE;

/// Sees, and may change, every tensor right after an operation wrote it.
pub trait Observer {
    /// `values` is what an operation wrote to `tensor`.
    fn tensor(&mut self, tensor: usize, values: &mut [f32]);

    /// `values` are normalized values after gain and bias, before SiLU, on their way to `tensor`.
    fn normalized(&mut self, tensor: usize, values: &mut [f32]);
}

/// Looks at nothing.
pub struct NoObserver;

impl Observer for NoObserver {
    fn tensor(&mut self, _: usize, _: &mut [f32]) {}
    fn normalized(&mut self, _: usize, _: &mut [f32]) {}
}

/// Draws samples of a graph in floats.
pub struct Sampler<'g> {
    graph: &'g Graph,
    values: Vec<Vec<f32>>,
}

impl<'g> Sampler<'g> {
    /// A sampler over `graph`.
    pub fn new(graph: &'g Graph) -> Self {
        let values = graph.tensors.iter().map(|tensor| vec![0.0; tensor.elements()]).collect();
        Sampler { graph, values }
    }

    /// Draws one sample, height x width x channels; `request.first_row` must be 0.
    pub fn draw(&mut self, request: Request, observer: &mut impl Observer) -> Vec<f32> {
        let unit = f32::from(STATE_ONE);
        let noise = |noise_use| normals(request.seed, request.sample, noise_use).map(move |z| f32::from(z) / unit);
        for (x, z) in self.values[STATE].iter_mut().zip(noise(NoiseUse::Start)) {
            *x = z;
        }
        let mut previous = vec![0.0; self.values[STATE].len()];
        for (index, row) in self.graph.rows.iter().enumerate() {
            observer.tensor(STATE, &mut self.values[STATE]);
            self.pass(index * self.graph.classes + request.class as usize, observer);
            let [low, high] = self.graph.clamp;
            let fresh = noise(NoiseUse::Row(index as u16));
            let (state, rest) = self.values.split_at_mut(OUTPUT);
            let elements = state[STATE].iter_mut().zip(&rest[0]).zip(&mut previous).zip(fresh);
            for (((x, &f), x0_prev), z) in elements {
                let x0 = (row.p as f32 * *x + row.q as f32 * f).clamp(low, high);
                *x = row.a as f32 * *x + row.b as f32 * x0 + row.b_prev as f32 * *x0_prev + row.c as f32 * z;
                *x0_prev = x0;
            }
        }
        self.values[STATE].clone()
    }

    /// One pass of the network on `state` for the `condition`-th (row, class) pair; returns its output.
    pub fn forward(&mut self, state: &[f32], condition: usize, observer: &mut impl Observer) -> &[f32] {
        self.values[STATE].copy_from_slice(state);
        self.pass(condition, observer);
        &self.values[OUTPUT]
    }

    fn pass(&mut self, condition: usize, observer: &mut impl Observer) {
        let graph = self.graph;
        for op in &graph.ops {
            match op {
                GraphOp::Conv(conv) => {
                    let mut output = std::mem::take(&mut self.values[conv.output]);
                    self.conv(conv, &mut output);
                    observer.tensor(conv.output, &mut output);
                    self.values[conv.output] = output;
                }
                GraphOp::NormSilu(norm) => {
                    let mut output = std::mem::take(&mut self.values[norm.output]);
                    self.norm(norm, condition, &mut output);
                    observer.normalized(norm.output, &mut output);
                    output.iter_mut().for_each(|z| *z /= 1.0 + (-*z).exp());
                    observer.tensor(norm.output, &mut output);
                    self.values[norm.output] = output;
                }
            }
        }
    }

    fn conv(&self, conv: &GraphConv, output: &mut [f32]) {
        let [height, width, channels] = self.graph.tensors[conv.input].shape;
        let [_, width_out, channels_out] = self.graph.tensors[conv.output].shape;
        let input = &self.values[conv.input];
        let taps = conv.kernel * conv.kernel * channels;
        let mut window = vec![0.0; taps];
        for (index, pixel) in output.chunks_exact_mut(channels_out).enumerate() {
            let (row, column) = (index / width_out, index % width_out);
            for (tap, part) in window.chunks_exact_mut(channels).enumerate() {
                let y = (row * conv.stride + tap / conv.kernel).wrapping_sub(conv.kernel / 2);
                let x = (column * conv.stride + tap % conv.kernel).wrapping_sub(conv.kernel / 2);
                if y < height * conv.upsample && x < width * conv.upsample {
                    let at = (y / conv.upsample * width + x / conv.upsample) * channels;
                    part.copy_from_slice(&input[at..at + channels]);
                } else {
                    part.fill(0.0);
                }
            }
            for ((out, weights), bias) in pixel.iter_mut().zip(conv.weights.chunks_exact(taps)).zip(&conv.bias) {
                let old = if conv.accumulate { *out } else { 0.0 };
                *out = old + bias + weights.iter().zip(&window).map(|(w, x)| w * x).sum::<f32>();
            }
        }
    }

    fn norm(&self, norm: &GraphNorm, condition: usize, output: &mut [f32]) {
        let channels_out = self.graph.tensors[norm.output].shape[2];
        let part = if norm.conditioned { condition * channels_out } else { 0 };
        let affine = &norm.affine[part..part + channels_out];
        let mut first = 0;
        for &(tensor, groups) in &norm.inputs {
            let channels = self.graph.tensors[tensor].shape[2];
            let input = &self.values[tensor];
            let size = channels / groups;
            for group in (0..channels).step_by(size) {
                let members = || input.chunks_exact(channels).flat_map(|pixel| &pixel[group..group + size]);
                let count = (input.len() / groups) as f64;
                let mean = members().map(|&v| f64::from(v)).sum::<f64>() / count;
                let variance = members().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / count;
                let inverse = 1.0 / (variance + f64::from(norm.epsilon)).sqrt();
                for (source, target) in input.chunks_exact(channels).zip(output.chunks_exact_mut(channels_out)) {
                    for channel in group..group + size {
                        let [gain, bias] = affine[first + channel];
                        let normalized = ((f64::from(source[channel]) - mean) * inverse) as f32;
                        target[first + channel] = normalized * gain + bias;
                    }
                }
            }
            first += channels;
        }
    }
}
