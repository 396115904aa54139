//! The float network with every stored value rounded as core stores it: what quantization does, in floats.
//!
//! Core keeps sums in integers and rounds once; here sums are floats of the same rounded factors. The two differ where a
//! sum falls within float error of a rounding boundary, and in the normalization's fixed point. Tests bound the gap.

use super::export::{Exported, Table};
use super::graph::{Graph, GraphOp};
use super::run::Observer;
use mote_core::kernel::SILU_TABLE_LEN;
use mote_core::model::{Element, Model, Op, Tensor};

/// Rounds every tensor of a graph as the exported file does.
#[derive(Clone, Debug)]
pub struct FakeQuant {
    tensors: Vec<Tensor>,
    tables: Vec<Option<Table>>,
}

impl FakeQuant {
    /// The rounding of `exported`.
    pub fn new(exported: &Exported) -> Self {
        FakeQuant { tensors: exported.tensors.clone(), tables: exported.tables.clone() }
    }

    /// `graph` with the weights, biases and coefficients of the file it was exported to.
    pub fn graph(graph: &Graph, model: &Model<'_>) -> Graph {
        let mut rounded = graph.clone();
        for (index, op) in rounded.ops.iter_mut().enumerate() {
            let (GraphOp::Conv(conv), Op::Conv(stored)) = (op, model.op(index as u16)) else { continue };
            let (input, output) = (model.tensor(stored.input), model.tensor(stored.output));
            let taps = stored.shape.taps();
            for channel in 0..stored.shape.channels_out {
                let step =
                    f64::from(stored.constants.multipliers.get(channel)) / 2f64.powi(32) * f64::from(output.scale);
                let weights = || (0..taps).map(|tap| stored.weight(channel, tap));
                let sum: i64 = weights().map(i64::from).sum();
                let bias = i64::from(stored.constants.bias.get(channel)) + i64::from(input.zero) * sum;
                conv.bias[channel] = (bias as f64 * step) as f32;
                for (float, weight) in conv.weights[channel * taps..].iter_mut().zip(weights()) {
                    *float = (f64::from(weight) * step / f64::from(input.scale)) as f32;
                }
            }
        }
        rounded
    }

    fn round(&self, tensor: usize, value: f32) -> f32 {
        let Tensor { element, zero, scale, .. } = self.tensors[tensor];
        let [low, high] = match element {
            Element::I8 => [i8::MIN as f32, i8::MAX as f32],
            Element::I16 => [i16::MIN as f32, i16::MAX as f32],
        };
        let zero = zero as f32;
        (((value / scale + zero + 0.5).floor()).clamp(low, high) - zero) * scale
    }
}

impl Observer for FakeQuant {
    fn tensor(&mut self, tensor: usize, values: &mut [f32]) {
        for value in values {
            *value = self.round(tensor, *value);
        }
    }

    fn normalized(&mut self, tensor: usize, values: &mut [f32]) {
        if let Some(table) = self.tables[tensor] {
            for value in values {
                let entry = ((*value - table.low) / table.step + 0.5).floor();
                *value = table.value(entry.clamp(0.0, (SILU_TABLE_LEN - 1) as f32) as usize);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::run::{NoObserver, Sampler};
    use super::super::{Calibration, GraphConv, GraphNorm, Role, calibrate, export};
    use super::*;
    use mote_core::quant::STATE_ONE;
    use mote_core::step_table::{Objective, StepRow, Variance};
    use mote_core::{Arena, Generator, Progress, Request};
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64;

    /// A network with every operation and random constants: residual blocks at two sizes around a concatenation.
    fn network(seed: u64) -> Graph {
        let mut random = Pcg64::seed_from_u64(seed);
        let mut normal = move |count: usize, deviation: f32| -> Vec<f32> {
            let uniform = |random: &mut Pcg64| random.random_range(-1.0f32..1.0);
            (0..count).map(|_| (0..3).map(|_| uniform(&mut random)).sum::<f32>() * deviation).collect()
        };
        let row = |t, now, next| StepRow::new(Objective::V, Variance::Eta(0.5), t, now, next);
        let rows = vec![row(99, 0.01, 0.6), row(49, 0.6, 1.0)];
        let mut graph = Graph::new("random", [6, 8, 1], 3, [-1.0, 1.0], rows);
        let mut conv = |graph: &mut Graph, input: usize, output, kernel, stride, upsample, accumulate| {
            let [channels_in, channels_out] = [input, output].map(|t: usize| graph.tensors[t].shape[2]);
            let taps = kernel * kernel * channels_in;
            let weights = normal(channels_out * taps, 1.0 / (taps as f32).sqrt());
            let bias = normal(channels_out, 0.1);
            let op = GraphConv { input, output, kernel, stride, upsample, accumulate, weights, bias };
            graph.ops.push(GraphOp::Conv(op));
        };
        let norm = |graph: &mut Graph, inputs: &[usize], output: usize, conditioned| {
            let channels = graph.tensors[output].shape[2];
            let parts = if conditioned { graph.rows.len() * graph.classes } else { 1 };
            let affine = (0..parts * channels).map(|i| [1.0 + 0.01 * (i % 40) as f32, 0.02 * (i % 9) as f32]).collect();
            let inputs = inputs.iter().map(|&tensor| (tensor, 2)).collect();
            graph.ops.push(GraphOp::NormSilu(GraphNorm { inputs, output, epsilon: 1e-5, conditioned, affine }));
        };
        let [full, half] = [[6, 8, 8], [3, 4, 12]];
        let skip = graph.tensor(full, Role::Residual);
        conv(&mut graph, 0, skip, 3, 1, 1, false);
        let act = graph.tensor(full, Role::Activation);
        norm(&mut graph, &[skip], act, true);
        conv(&mut graph, act, skip, 3, 1, 1, true);
        let low = graph.tensor(half, Role::Residual);
        conv(&mut graph, skip, low, 3, 2, 1, false);
        let up = graph.tensor(full, Role::Residual);
        conv(&mut graph, low, up, 3, 1, 2, false);
        let joined = graph.tensor([6, 8, 16], Role::Activation);
        norm(&mut graph, &[up, skip], joined, false);
        let narrow = graph.tensor(full, Role::Residual);
        conv(&mut graph, up, narrow, 1, 1, 1, false);
        conv(&mut graph, joined, narrow, 3, 1, 1, true);
        let last = graph.tensor(full, Role::Activation);
        norm(&mut graph, &[narrow], last, false);
        conv(&mut graph, last, 1, 3, 1, 1, false);
        graph
    }

    /// On the same state, core's integers and the fake-quantized floats give the same output in most passes; in the others
    /// a sum near a rounding boundary fell to the other side, and the difference stays small against the output's peak.
    #[test]
    fn core_and_fake_quant_agree_on_every_pass() {
        let (mut exact, mut passes) = (0, 0);
        for seed in 0..5 {
            let graph = network(seed);
            let exported = export(&graph, &calibrate(&graph, 1, 12)).unwrap();
            let model = Model::parse(&exported.file).unwrap();
            let rounded = FakeQuant::graph(&graph, &model);
            let mut float = Sampler::new(&rounded);
            let mut fake = FakeQuant::new(&exported);
            let mut arena = Arena::<32768>::new();
            let mut generator = Generator::new(&model, &mut arena.0).unwrap();
            let output = model.tensor(1);
            for sample in 0..6 {
                let class = sample % 3;
                generator.start(Request { class, seed: 2, sample: sample.into(), first_row: 0 }).unwrap();
                while let Progress::Row(row) = generator.progress() {
                    let state: Vec<f32> =
                        generator.state().iter().map(|&x| f32::from(x) / f32::from(STATE_ONE)).collect();
                    let condition = usize::from(row) * 3 + usize::from(class);
                    let expected = float.forward(&state, condition, &mut fake);
                    generator.step();
                    let found = generator.tensor_bytes(1).as_chunks::<2>().0;
                    let peak = expected.iter().fold(0.0f32, |peak, v| peak.max(v.abs()));
                    let differences = expected
                        .iter()
                        .zip(found)
                        .map(|(want, &got)| (want - f32::from(i16::from_le_bytes(got)) * output.scale).abs() / peak);
                    let mean = differences.clone().sum::<f32>() / expected.len() as f32;
                    let worst = differences.fold(0.0, f32::max);
                    assert!(mean <= 0.005 && worst <= 0.02, "seed {seed} sample {sample} row {row}: {mean} {worst}");
                    exact += usize::from(worst < 1e-6);
                    passes += 1;
                }
            }
        }
        assert!(2 * exact > passes, "only {exact} of {passes} passes are exact");
    }

    #[test]
    fn int8_samples_stay_close_to_float_samples() {
        let graph = network(9);
        let exported = export(&graph, &calibrate(&graph, 1, 12)).unwrap();
        let model = Model::parse(&exported.file).unwrap();
        let mut arena = Arena::<32768>::new();
        let mut generator = Generator::new(&model, &mut arena.0).unwrap();
        let request = Request { class: 1, seed: 5, ..Request::default() };
        generator.start(request).unwrap();
        generator.finish();
        let float = Sampler::new(&graph).draw(request, &mut NoObserver);
        let error: f32 = float
            .iter()
            .zip(generator.state())
            .map(|(want, &got)| (want - f32::from(got) / f32::from(STATE_ONE)).powi(2))
            .sum::<f32>()
            / float.len() as f32;
        assert!(error.sqrt() < 0.05, "root mean square difference {}", error.sqrt());
    }

    #[test]
    fn a_network_that_diverged_is_refused() {
        let graph = network(1);
        let mut calibration: Calibration = calibrate(&graph, 1, 2);
        calibration.tensors[3][1] = f32::NAN;
        let error = export(&graph, &calibration).unwrap_err().to_string();
        assert!(error.contains("diverged"), "{error}");
    }
}
