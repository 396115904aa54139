//! A network for tests.

use super::graph::{Activation, Graph, GraphAttention, GraphConv, GraphNorm, GraphOp, Role};
use mote_core::step_table::{Objective, StepRow, Variance};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// How a convolution of the random network is wired.
#[derive(Clone)]
struct Wiring {
    /// Side of a square kernel.
    kernel: usize,
    stride: usize,
    upsample: usize,
    accumulate: bool,
    norm: Option<GraphNorm>,
}

const PLAIN: Wiring = Wiring { kernel: 3, stride: 1, upsample: 1, accumulate: false, norm: None };

/// A network with every kind of convolution and random constants: residual blocks at two sizes, one that joins a skip;
/// with an attention if it is given heads.
pub(crate) fn network(seed: u64, heads: Option<usize>) -> Graph {
    let mut random = Pcg64::seed_from_u64(seed);
    let mut normal = move |count: usize, deviation: f32| -> Vec<f32> {
        let uniform = |random: &mut Pcg64| random.random_range(-1.0f32..1.0);
        (0..count).map(|_| (0..3).map(|_| uniform(&mut random)).sum::<f32>() * deviation).collect()
    };
    let row = |t, now, next| StepRow::new(Objective::V, Variance::Eta(0.5), t, now, next);
    let rows = vec![row(99, 0.01, 0.6), row(49, 0.6, 1.0)];
    let mut graph = Graph::new("random", [6, 8, 1], 3, [-1.0, 1.0], rows);
    let mut conv = |graph: &mut Graph, input: usize, output: usize, wiring: Wiring| {
        let Wiring { kernel, stride, upsample, accumulate, norm } = wiring;
        let (weights, bias) = (Vec::new(), Vec::new());
        let [kernel, stride, upsample] = [kernel, stride, upsample].map(|both| [both; 2]);
        let mut op = GraphConv { input, norm, output, kernel, stride, upsample, accumulate, weights, bias };
        let (taps, outputs) = (op.area() * graph.channels_in(&op), graph.tensors[output].shape[2]);
        op.weights = normal(outputs * taps, 1.0 / (taps as f32).sqrt());
        op.bias = normal(outputs, 0.1);
        graph.ops.push(GraphOp::Conv(op));
    };
    let norm = |parts: usize, channels: usize, second, activation| GraphNorm {
        second,
        groups: 2,
        epsilon: 1e-5,
        activation,
        conditioned: parts > 1,
        affine: (0..parts * channels).map(|i| [1.0 + 0.01 * (i % 40) as f32, 0.02 * (i % 9) as f32]).collect(),
    };
    let silu = |parts, channels, second| Some(norm(parts, channels, second, Activation::Silu));
    let [full, half] = [[6, 8, 8], [3, 4, 12]];
    let skip = graph.tensor(full, Role::Residual);
    conv(&mut graph, 0, skip, PLAIN);
    let middle = graph.tensor(full, Role::Residual);
    conv(&mut graph, skip, middle, Wiring { norm: silu(1, 8, None), ..PLAIN });
    conv(&mut graph, middle, skip, Wiring { norm: silu(6, 8, None), accumulate: true, ..PLAIN });
    let low = graph.tensor(half, Role::Residual);
    conv(&mut graph, skip, low, Wiring { stride: 2, ..PLAIN });
    if let Some(heads) = heads {
        let [projected, attended] = [[3, 4, 36], half].map(|shape| graph.tensor(shape, Role::Attention));
        let identity = Some(norm(1, 12, None, Activation::Identity));
        conv(&mut graph, low, projected, Wiring { kernel: 1, norm: identity, ..PLAIN });
        graph.ops.push(GraphOp::Attention(GraphAttention { input: projected, output: attended, heads }));
        conv(&mut graph, attended, low, Wiring { kernel: 1, accumulate: true, ..PLAIN });
    }
    let up = graph.tensor(full, Role::Residual);
    conv(&mut graph, low, up, Wiring { upsample: 2, ..PLAIN });
    let joined = graph.tensor(full, Role::Residual);
    conv(&mut graph, up, joined, Wiring { norm: silu(1, 16, Some(skip)), ..PLAIN });
    conv(&mut graph, joined, up, Wiring { norm: silu(6, 8, None), accumulate: true, ..PLAIN });
    conv(&mut graph, up, 1, Wiring { norm: silu(1, 8, None), ..PLAIN });
    graph
}
