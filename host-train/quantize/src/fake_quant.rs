//! The float network with every stored value rounded as core stores it: what quantization does, in floats.
//!
//! Core keeps sums in integers and rounds once; here sums are floats of the same rounded factors. The two differ where a
//! sum falls within float error of a rounding boundary, and in the normalization's fixed point. Tests bound the gap.

use super::agreement::limits;
use super::export::{Exported, Table};
use super::graph::{Graph, GraphOp};
use super::run::Observer;
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
        Self::with_tables(exported, exported.tables.clone())
    }

    /// The same with other tables for the operations that normalize.
    pub fn with_tables(exported: &Exported, tables: Vec<Option<Table>>) -> Self {
        FakeQuant { tensors: exported.tensors.clone(), tables }
    }

    /// `graph` with the weights and biases of `model`, the file in `exported`.
    pub fn graph(graph: &Graph, exported: &Exported, model: &Model<'_>) -> Graph {
        let mut rounded = graph.clone();
        for (index, op) in rounded.ops.iter_mut().enumerate() {
            let (GraphOp::Conv(conv), Op::Conv(stored)) = (op, model.op(index as u16)) else { continue };
            let (input, output) = (model.tensor(stored.input), model.tensor(stored.output));
            let (scale, zero) = match exported.tables[index] {
                Some(table) => (table.scale, table.zero),
                None => (input.scale, input.zero),
            };
            let taps = stored.shape.taps();
            for channel in 0..stored.shape.channels_out {
                let step =
                    f64::from(stored.constants.multipliers.get(channel)) / 2f64.powi(32) * f64::from(output.scale);
                let weights = || (0..taps).map(|tap| stored.weight(channel, tap));
                let sum: i64 = weights().map(i64::from).sum();
                let bias = i64::from(stored.constants.bias.get(channel)) + i64::from(zero) * sum;
                conv.bias[channel] = (bias as f64 * step) as f32;
                for (float, weight) in conv.weights[channel * taps..].iter_mut().zip(weights()) {
                    *float = (f64::from(weight) * step / f64::from(scale)) as f32;
                }
            }
        }
        rounded
    }
}

/// The nearest value that a number of `element`'s range stands for.
fn round(value: f32, element: Element, scale: f32, zero: i32) -> f32 {
    let [low, high] = limits(element).map(|end| end as f32);
    let zero = zero as f32;
    (((value / scale + zero + 0.5).floor()).clamp(low, high) - zero) * scale
}

impl Observer for FakeQuant {
    fn tensor(&mut self, tensor: usize, values: &mut [f32]) {
        let Tensor { element, zero, scale, .. } = self.tensors[tensor];
        values.iter_mut().for_each(|value| *value = round(*value, element, scale, zero));
    }

    fn normalized(&mut self, op: usize, values: &mut [f32]) {
        if let Some(table) = self.tables[op] {
            for value in values {
                *value = table.value(table.index(*value));
            }
        }
    }

    fn activated(&mut self, op: usize, values: &mut [f32]) {
        if let Some(Table { scale, zero, .. }) = self.tables[op] {
            values.iter_mut().for_each(|value| *value = round(*value, Element::I8, scale, zero));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::random_network::network;
    use super::super::run::{NoObserver, Sampler};
    use super::super::{Calibration, Ends, calibrate, export};
    use super::*;
    use mote_core::plan::Room;
    use mote_core::quant::STATE_ONE;
    use mote_core::{Arena, Generator, Progress, Request};

    /// How far core's integers are from the fake-quantized floats on the same states.
    struct Gap {
        /// Passes with the same output.
        exact: usize,
        passes: usize,
        /// Largest mean difference of a pass, and largest difference, against the output's peak.
        mean: f32,
        worst: f32,
    }

    fn gap(heads: Option<usize>) -> Gap {
        let mut gap = Gap { exact: 0, passes: 0, mean: 0.0, worst: 0.0 };
        for seed in 0..5 {
            let graph = network(seed, heads);
            let exported = export(&graph, &calibrate(&graph, 1, 12, Ends::default()), Room::Smallest).unwrap();
            let model = Model::parse(&exported.file).unwrap();
            let rounded = FakeQuant::graph(&graph, &exported, &model);
            let mut float = Sampler::new(&rounded);
            let mut fake = FakeQuant::new(&exported);
            let mut arena = Arena::<32768>::new();
            let mut generator = Generator::new(&model, &mut arena.0).unwrap();
            let output = model.tensor(1);
            for sample in 0..6 {
                let class = sample % 3;
                generator.start(Request { class, seed: 2, sample: sample.into(), ..Request::default() }).unwrap();
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
                    let worst = differences.clone().fold(0.0, f32::max);
                    gap.mean = gap.mean.max(differences.sum::<f32>() / expected.len() as f32);
                    gap.worst = gap.worst.max(worst);
                    gap.exact += usize::from(worst < 1e-6);
                    gap.passes += 1;
                }
            }
        }
        gap
    }

    /// In some passes the outputs are the same; in the others a value near a rounding boundary fell to the other side.
    #[test]
    fn core_and_fake_quant_agree_on_every_pass() {
        let Gap { exact, passes, mean, worst } = gap(None);
        assert!(mean <= 0.01 && worst <= 0.03, "{mean} {worst}");
        assert!(10 * exact > passes, "only {exact} of {passes} passes are exact");
    }

    /// An attention's steps are coarse and everything depends on each of them, so that hardly a pass is exact.
    #[test]
    fn core_and_fake_quant_agree_closely_on_an_attention() {
        let Gap { mean, worst, .. } = gap(Some(2));
        assert!(mean <= 0.01 && worst <= 0.03, "{mean} {worst}");
    }

    #[test]
    fn int8_samples_stay_close_to_float_samples() {
        let graph = network(9, Some(3));
        let exported = export(&graph, &calibrate(&graph, 1, 12, Ends::default()), Room::Smallest).unwrap();
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
        let graph = network(1, None);
        let mut calibration: Calibration = calibrate(&graph, 1, 2, Ends::default());
        calibration.tensors[3][1] = f32::NAN;
        let error = export(&graph, &calibration, Room::Smallest).unwrap_err().to_string();
        assert!(error.contains("diverged"), "{error}");
    }
}
