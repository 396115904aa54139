//! Running a [`Graph`] in f32, channels last, with core's noise and step table: the float reference that quantization is
//! measured against.

use super::graph::{Graph, GraphAttention, GraphConv, GraphNorm, GraphOp, OUTPUT, STATE};
use mote_core::Request;
use mote_core::noise::{NoiseUse, normals};
use mote_core::quant::STATE_ONE;
use std::borrow::Cow;

/// Sees, and may change, the values of a pass; does neither by default.
pub trait Observer {
    /// `values` is what an operation wrote to `tensor`.
    fn tensor(&mut self, tensor: usize, values: &mut [f32]) {
        let _ = (tensor, values);
    }

    /// `values` are the input of operation `op`, normalized, after gain and bias, before the activation function.
    fn normalized(&mut self, op: usize, values: &mut [f32]) {
        let _ = (op, values);
    }

    /// `values` are the same after the activation function.
    fn activated(&mut self, op: usize, values: &mut [f32]) {
        let _ = (op, values);
    }

    /// `window` is what convolution `op` reads for one output pixel: kernel rows, columns, channels; pixel by pixel.
    fn window(&mut self, op: usize, window: &[f32]) {
        let _ = (op, window);
    }

    /// `values` is the result of convolution `op`, before it is added to the output's old content.
    fn convolved(&mut self, op: usize, values: &mut [f32]) {
        let _ = (op, values);
    }
}

/// Does nothing.
pub struct NoObserver;

impl Observer for NoObserver {}

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

    /// Draws one sample, height x width x channels; of `request` the class, the seed and the sample count.
    pub fn draw(&mut self, request: Request<'_>, observer: &mut impl Observer) -> Vec<f32> {
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
        for (index, op) in graph.ops.iter().enumerate() {
            let (output, values) = match op {
                GraphOp::Conv(conv) => {
                    let input = self.input(index, conv, condition, observer);
                    let mut values = self.conv(conv, &input, |window| observer.window(index, window));
                    observer.convolved(index, &mut values);
                    if conv.accumulate {
                        values.iter_mut().zip(&self.values[conv.output]).for_each(|(new, old)| *new += old);
                    }
                    (conv.output, values)
                }
                GraphOp::Attention(attention) => (attention.output, self.attention(attention)),
            };
            self.values[output] = values;
            observer.tensor(output, &mut self.values[output]);
        }
    }

    /// What the convolution `conv`, operation `index`, reads: its input tensor, normalized if it says so.
    fn input(&self, index: usize, conv: &GraphConv, condition: usize, observer: &mut impl Observer) -> Cow<'_, [f32]> {
        let Some(norm) = &conv.norm else { return Cow::Borrowed(&self.values[conv.input]) };
        let mut values = self.norm(conv, norm, condition);
        observer.normalized(index, &mut values);
        values.iter_mut().for_each(|z| *z = norm.activation.of(*z));
        observer.activated(index, &mut values);
        Cow::Owned(values)
    }

    fn conv(&self, conv: &GraphConv, input: &[f32], mut see: impl FnMut(&[f32])) -> Vec<f32> {
        let [height, width, _] = self.graph.tensors[conv.input].shape;
        let [height_out, width_out, channels_out] = self.graph.tensors[conv.output].shape;
        let channels = self.graph.channels_in(conv);
        let taps = conv.area() * channels;
        let [rows, columns] = conv.kernel;
        let [tall, wide] = conv.upsample;
        let mut window = vec![0.0; taps];
        let mut output = Vec::with_capacity(height_out * width_out * channels_out);
        for (row, column) in (0..height_out).flat_map(|row| (0..width_out).map(move |column| (row, column))) {
            for (tap, part) in window.chunks_exact_mut(channels).enumerate() {
                let y = (row * conv.stride[0] + tap / columns).wrapping_sub(rows / 2);
                let x = (column * conv.stride[1] + tap % columns).wrapping_sub(columns / 2);
                if y < height * tall && x < width * wide {
                    let at = (y / tall * width + x / wide) * channels;
                    part.copy_from_slice(&input[at..at + channels]);
                } else {
                    part.fill(0.0);
                }
            }
            see(&window);
            let outputs = conv.weights.chunks_exact(taps).zip(&conv.bias);
            output.extend(outputs.map(|(weights, bias)| bias + dot(weights, &window)));
        }
        output
    }

    fn norm(&self, conv: &GraphConv, norm: &GraphNorm, condition: usize) -> Vec<f32> {
        let channels_out = self.graph.channels_in(conv);
        let part = if norm.conditioned { condition * channels_out } else { 0 };
        let affine = &norm.affine[part..part + channels_out];
        let [height, width, _] = self.graph.tensors[conv.input].shape;
        let mut output = vec![0.0; height * width * channels_out];
        let mut first = 0;
        for tensor in Graph::inputs(conv) {
            let channels = self.graph.tensors[tensor].shape[2];
            let input = &self.values[tensor];
            let size = channels / norm.groups;
            for group in (0..channels).step_by(size) {
                let members = || input.chunks_exact(channels).flat_map(|pixel| &pixel[group..group + size]);
                let count = (input.len() / norm.groups) as f64;
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
        output
    }

    fn attention(&self, attention: &GraphAttention) -> Vec<f32> {
        let channels = self.graph.tensors[attention.output].shape[2];
        let head = channels / attention.heads;
        let tokens = || self.values[attention.input].chunks_exact(3 * channels);
        let part = |token: &'_ [f32], kind: usize, at: usize| token[kind * channels + at..][..head].to_vec();
        let mut output = vec![0.0; tokens().len() * channels];
        for (result, token) in output.chunks_exact_mut(channels).zip(tokens()) {
            for at in (0..channels).step_by(head) {
                let query = part(token, 0, at);
                let score = |token| dot(&query, &part(token, 1, at)) / (head as f32).sqrt();
                let scores: Vec<f32> = tokens().map(score).collect();
                let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let weights: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
                let sum: f32 = weights.iter().sum();
                for (weight, token) in weights.iter().zip(tokens()) {
                    for (result, value) in result[at..at + head].iter_mut().zip(part(token, 2, at)) {
                        *result += weight / sum * value;
                    }
                }
            }
        }
        output
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
