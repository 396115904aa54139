//! The network as an ONNX graph with QuantizeLinear and DequantizeLinear nodes (QDQ), for runtimes on larger machines.
//!
//! Inputs: `x`, the state, f32 `[1, channels, height, width]`; `condition`, i64 `[1]`, `row * classes + class`. Output:
//! `f`, the network's output, f32, of `x`'s shape. The sampler is not part of the graph.
//!
//! Weights are int8, a scale an output channel, as in the `.mote` file. Every convolution reads uint8 and gives uint8, with
//! a scale a tensor, so that a runtime can run it in integers; normalization, activation functions and the residual
//! additions between convolutions are floats, because ONNX has no integer normalization. The `.mote` file keeps 16 bits
//! where this has 8, so the two agree closely, not exactly.

mod proto;

use prost::Message;

use crate::{Activation, Calibration, Graph, GraphAttention, GraphConv, GraphNorm, GraphOp, Table, tables};

/// The oldest version of the intermediate representation and of the operator set that have all that is used.
const IR_VERSION: i64 = 8;
const OPSET: i64 = 17;

/// The ONNX file of `graph`, quantized with the ranges of `calibration`.
pub fn to_onnx(graph: &Graph, calibration: &Calibration) -> Vec<u8> {
    let mut builder = Builder { graph, calibration, out: proto::Graph::default(), values: Vec::new() };
    builder.network();
    let model = proto::Model {
        ir_version: IR_VERSION,
        producer_name: "mote-train".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        doc_string: "f = network(x, condition); condition = row * classes + class".to_owned(),
        graph: Some(builder.out),
        opset_import: vec![proto::OperatorSetId { domain: String::new(), version: OPSET }],
    };
    model.encode_to_vec()
}

struct Builder<'g> {
    graph: &'g Graph,
    calibration: &'g Calibration,
    out: proto::Graph,
    /// The name of each tensor's present value.
    values: Vec<String>,
}

/// How numbers of 8 bits stand for values.
#[derive(Clone, Copy)]
struct Scale {
    scale: f32,
    zero: u8,
}

impl Scale {
    /// Over a range, zero among it.
    fn over([low, high]: [f32; 2]) -> Self {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let scale = (high - low).max(1e-6) / 255.0;
        Scale { scale, zero: (-low / scale).round() as u8 }
    }

    /// As the `.mote` file stores a normalized input, counted from 0.
    fn of(table: &Table) -> Self {
        Scale { scale: table.scale, zero: (table.zero + 128) as u8 }
    }
}

impl Builder<'_> {
    fn network(&mut self) {
        let graph = self.graph;
        let [height, width, channels] = graph.tensors[0].shape;
        let sample = [1, channels, height, width];
        self.out.name = graph.name.clone();
        self.out.input = vec![value_info("x", proto::FLOAT, &sample), value_info("condition", proto::INT64, &[1])];
        self.out.output = vec![value_info("f", proto::FLOAT, &sample)];
        self.values = vec![String::new(); graph.tensors.len()];
        self.values[0] = "x".to_owned();
        let tables = tables(graph, self.calibration);
        for (index, (op, table)) in graph.ops.iter().zip(&tables).enumerate() {
            match op {
                GraphOp::Conv(conv) => {
                    let value = self.conv(index, conv, table.as_ref());
                    self.values[conv.output] = match conv.accumulate {
                        true => self.node("Add", &[&self.values[conv.output].clone(), &value], vec![]),
                        false => value,
                    };
                }
                GraphOp::Attention(attention) => self.values[attention.output] = self.attention(attention),
            }
        }
        let last = self.values[1].clone();
        self.push("Identity", "f", &[&last], vec![]);
    }

    /// The result of the convolution `conv`, operation `index`.
    fn conv(&mut self, index: usize, conv: &GraphConv, table: Option<&Table>) -> String {
        let (value, scale) = match (&conv.norm, table) {
            (Some(norm), Some(table)) => (self.norm(conv, norm), Scale::of(table)),
            _ => (self.values[conv.input].clone(), Scale::over(self.calibration.tensors[conv.input])),
        };
        let mut value = self.round(&value, scale);
        if conv.upsample != [1; 2] {
            let [tall, wide] = conv.upsample.map(|factor| factor as f32);
            let scales = self.floats(&[4], &[1.0, 1.0, tall, wide]);
            let modes =
                [("mode", "nearest"), ("coordinate_transformation_mode", "asymmetric"), ("nearest_mode", "floor")];
            let modes = modes.map(|(name, value)| text(name, value)).to_vec();
            value = self.node("Resize", &[&value, "", &scales], modes);
            value = self.round(&value, scale);
        }
        let [weights, bias] = self.constants(conv, scale.scale);
        let [down, across] = conv.kernel.map(|side| (side / 2) as i64);
        let attributes = vec![
            ints("kernel_shape", &conv.kernel.map(|side| side as i64)),
            ints("pads", &[down, across, down, across]),
            ints("strides", &conv.stride.map(|step| step as i64)),
        ];
        let result = self.node("Conv", &[&value, &weights, &bias], attributes);
        self.round(&result, Scale::over(self.calibration.convolved[index]))
    }

    /// What a convolution's input is after normalization and activation function.
    fn norm(&mut self, conv: &GraphConv, norm: &GraphNorm) -> String {
        let inputs: Vec<String> = Graph::inputs(conv).map(|input| self.values[input].clone()).collect();
        let [height, width, _] = self.graph.tensors[conv.input].shape;
        let channels = self.graph.channels_in(conv);
        let joined = match &inputs[..] {
            [one] => one.clone(),
            all => self.node("Concat", &all.iter().map(String::as_str).collect::<Vec<_>>(), vec![int("axis", 1)]),
        };
        // A group of channels is a channel of InstanceNormalization.
        let groups = norm.groups * inputs.len();
        let (ones, zeros) = (self.floats(&[groups], &vec![1.0; groups]), self.floats(&[groups], &vec![0.0; groups]));
        let grouped = self.reshape(&joined, &[1, groups, channels / groups * height * width]);
        let normal = self.node("InstanceNormalization", &[&grouped, &ones, &zeros], vec![]);
        let normal = self.reshape(&normal, &[1, channels, height, width]);
        let scaled = [0, 1].map(|part| {
            let values: Vec<f32> = norm.affine.iter().map(|pair| pair[part]).collect();
            let constants = self.floats(&[values.len() / channels, channels, 1, 1], &values);
            if norm.conditioned {
                self.node("Gather", &[&constants, "condition"], vec![int("axis", 0)])
            } else {
                constants
            }
        });
        let scaled_value = self.node("Mul", &[&normal, &scaled[0]], vec![]);
        let z = self.node("Add", &[&scaled_value, &scaled[1]], vec![]);
        match norm.activation {
            Activation::Silu => {
                let gate = self.node("Sigmoid", &[&z], vec![]);
                self.node("Mul", &[&z, &gate], vec![])
            }
            Activation::Identity => z,
        }
    }

    /// Weights and biases that are read as floats and stored as int8 and int32; `scale` is that of the input.
    fn constants(&mut self, conv: &GraphConv, scale: f32) -> [String; 2] {
        let outputs = conv.bias.len();
        let (area, channels) = (conv.area(), self.graph.channels_in(conv));
        let rows = || conv.weights.chunks_exact(area * channels);
        let peak = |weights: &[f32]| weights.iter().fold(1e-6f32, |peak, w| peak.max(w.abs()));
        let scales: Vec<f32> = rows().map(|weights| peak(weights) / 127.0).collect();
        let mut weights: Vec<i8> = Vec::with_capacity(conv.weights.len());
        for (row, scale) in rows().zip(&scales) {
            let channels_first =
                (0..channels).flat_map(|channel| (0..area).map(move |tap| row[tap * channels + channel]));
            weights.extend(channels_first.map(|weight| (weight / scale).round() as i8));
        }
        let bias_scales: Vec<f32> = scales.iter().map(|weight_scale| weight_scale * scale).collect();
        let bias: Vec<u8> = conv
            .bias
            .iter()
            .zip(&bias_scales)
            .flat_map(|(bias, scale)| ((bias / scale).round() as i32).to_le_bytes())
            .collect();
        let shape = [outputs, channels, conv.kernel[0], conv.kernel[1]];
        let weights = self.initializer(proto::INT8, &shape, weights.iter().map(|&w| w as u8).collect());
        let zeros = self.initializer(proto::INT8, &[outputs], vec![0; outputs]);
        let bias = self.initializer(proto::INT32, &[outputs], bias);
        let [scales, bias_scales] = [&scales, &bias_scales].map(|scales| self.floats(&[outputs], scales));
        [
            self.node("DequantizeLinear", &[&weights, &scales, &zeros], vec![int("axis", 0)]),
            self.node("DequantizeLinear", &[&bias, &bias_scales], vec![int("axis", 0)]),
        ]
    }

    fn attention(&mut self, attention: &GraphAttention) -> String {
        let [height, width, channels] = self.graph.tensors[attention.output].shape;
        let (head, pixels) = (channels / attention.heads, height * width);
        let value = self.values[attention.input].clone();
        let value = self.reshape(&value, &[3, attention.heads, head, pixels]);
        let [queries, keys, values] = [0, 1, 2].map(|part| {
            let index = self.initializer(proto::INT64, &[], i64::to_le_bytes(part).to_vec());
            self.node("Gather", &[&value, &index], vec![int("axis", 0)])
        });
        let swap = || vec![ints("perm", &[0, 2, 1])];
        let queries = self.node("Transpose", &[&queries], swap());
        let scores = self.node("MatMul", &[&queries, &keys], vec![]);
        let factor = self.floats(&[], &[1.0 / (head as f32).sqrt()]);
        let scores = self.node("Mul", &[&scores, &factor], vec![]);
        let weights = self.node("Softmax", &[&scores], vec![int("axis", -1)]);
        let weights = self.node("Transpose", &[&weights], swap());
        let result = self.node("MatMul", &[&values, &weights], vec![]);
        self.reshape(&result, &[1, channels, height, width])
    }

    /// `value` rounded to 8 bits and back.
    fn round(&mut self, value: &str, Scale { scale, zero }: Scale) -> String {
        let scale = self.floats(&[], &[scale]);
        let zero = self.initializer(proto::UINT8, &[], vec![zero]);
        let rounded = self.node("QuantizeLinear", &[value, &scale, &zero], vec![]);
        self.node("DequantizeLinear", &[&rounded, &scale, &zero], vec![])
    }

    fn reshape(&mut self, value: &str, shape: &[usize]) -> String {
        let sides = shape.iter().flat_map(|&side| (side as i64).to_le_bytes()).collect();
        let shape = self.initializer(proto::INT64, &[shape.len()], sides);
        self.node("Reshape", &[value, &shape], vec![])
    }

    fn floats(&mut self, shape: &[usize], values: &[f32]) -> String {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.initializer(proto::FLOAT, shape, bytes)
    }

    fn initializer(&mut self, data_type: i32, shape: &[usize], raw_data: Vec<u8>) -> String {
        let name = format!("constant_{}", self.out.initializer.len());
        let dims = shape.iter().map(|&side| side as i64).collect();
        self.out.initializer.push(proto::Tensor { dims, data_type, name: name.clone(), raw_data });
        name
    }

    /// Adds a node with one output and gives the output's name.
    fn node(&mut self, op_type: &str, inputs: &[&str], attribute: Vec<proto::Attribute>) -> String {
        let output = format!("value_{}", self.out.node.len());
        self.push(op_type, &output, inputs, attribute);
        output
    }

    fn push(&mut self, op_type: &str, output: &str, inputs: &[&str], attribute: Vec<proto::Attribute>) {
        self.out.node.push(proto::Node {
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            name: format!("{op_type}_{}", self.out.node.len()),
            op_type: op_type.to_owned(),
            attribute,
        });
    }
}

fn value_info(name: &str, elem_type: i32, shape: &[usize]) -> proto::ValueInfo {
    let dim = shape.iter().map(|&side| proto::Dimension { dim_value: side as i64 }).collect();
    let tensor_type = Some(proto::TensorType { elem_type, shape: Some(proto::Shape { dim }) });
    proto::ValueInfo { name: name.to_owned(), kind: Some(proto::Type { tensor_type }) }
}

fn int(name: &str, value: i64) -> proto::Attribute {
    proto::Attribute { name: name.to_owned(), i: Some(value), kind: proto::ATTRIBUTE_INT, ..Default::default() }
}

fn ints(name: &str, values: &[i64]) -> proto::Attribute {
    let (name, ints) = (name.to_owned(), values.to_vec());
    proto::Attribute { name, ints, kind: proto::ATTRIBUTE_INTS, ..Default::default() }
}

fn text(name: &str, value: &str) -> proto::Attribute {
    let (name, s) = (name.to_owned(), Some(value.as_bytes().to_vec()));
    proto::Attribute { name, s, kind: proto::ATTRIBUTE_STRING, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_network::network;
    use crate::{Ends, calibrate};

    fn model() -> (Graph, proto::Graph) {
        let graph = network(1, Some(2));
        let file = to_onnx(&graph, &calibrate(&graph, 1, 3, Ends::default()));
        let model = proto::Model::decode(&file[..]).unwrap();
        assert_eq!((model.ir_version, model.opset_import[0].version), (IR_VERSION, OPSET));
        (graph, model.graph.unwrap())
    }

    /// What a runtime needs to run a convolution in integers.
    #[test]
    fn every_convolution_stands_between_quantization_nodes() {
        let (graph, onnx) = model();
        let convolutions: Vec<_> = onnx.node.iter().filter(|node| node.op_type == "Conv").collect();
        let expected = graph.ops.iter().filter(|op| matches!(op, GraphOp::Conv(_))).count();
        assert_eq!(convolutions.len(), expected);
        let maker = |name: &String| onnx.node.iter().find(|node| node.output.contains(name)).unwrap();
        let users = |name: &String| onnx.node.iter().filter(|node| node.input.contains(name)).collect::<Vec<_>>();
        for conv in convolutions {
            assert!(conv.input.iter().all(|input| maker(input).op_type == "DequantizeLinear"), "{}", conv.name);
            let [user] = &users(&conv.output[0])[..] else { panic!("{} has several users", conv.name) };
            assert_eq!(user.op_type, "QuantizeLinear");
        }
    }

    #[test]
    fn every_value_is_made_once_and_before_it_is_read() {
        let (_, onnx) = model();
        let mut known: Vec<&str> = onnx.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        known.extend(onnx.input.iter().map(|input| input.name.as_str()));
        for node in &onnx.node {
            assert!(
                node.input.iter().all(|input| input.is_empty() || known.contains(&input.as_str())),
                "{}",
                node.name
            );
            assert!(node.output.iter().all(|output| !known.contains(&output.as_str())), "{}", node.name);
            known.extend(node.output.iter().map(String::as_str));
        }
        assert!(known.contains(&"f"));
    }
}
