//! The operations on burn-flex, with and without gradients.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::{Autodiff, Flex};
use burn::tensor::{Tensor, TensorData, TensorPrimitive};
use burn_flex::FlexTensor;

use super::DenoiserBackend;
use super::recompute::{Kept, traced};
use mote_train_kernels::{conv, group_norm, upsample};

type Differentiable = Autodiff<Flex>;

fn dims<const D: usize>(tensor: &FlexTensor) -> [usize; D] {
    tensor.layout().shape().dims()
}

/// The tensor with its values in one slice.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.as_slice::<f32>().is_some() { tensor } else { tensor.to_contiguous() }
}

fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("made contiguous, f32")
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

fn wrap<B: burn::tensor::backend::Backend, const D: usize>(primitive: B::FloatTensorPrimitive) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

fn conv_shape(x: &FlexTensor, weight: &FlexTensor, stride: [usize; 2]) -> conv::Shape {
    let [_, input, height, width] = dims(x);
    let [output, weight_input, rows, columns] = dims(weight);
    assert!(weight_input == input, "weight {:?} for {input} channels", weight.layout().shape());
    let kernel = [rows, columns];
    let mut sides = kernel.into_iter().zip(stride);
    assert!(sides.all(|side| matches!(side, (1 | 3, 1) | (3, 2))), "kernel {rows}x{columns} with stride {stride:?}");
    conv::Shape { input, output, height, width, kernel, stride }
}

fn conv_forward(x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor, shape: conv::Shape) -> FlexTensor {
    let out = conv::forward(values(x), values(weight), values(bias), shape);
    tensor(out, [dims::<4>(x)[0], shape.output, shape.out_height(), shape.out_width()])
}

fn norm_shape(x: &FlexTensor, gain: &FlexTensor, groups: usize) -> group_norm::Shape {
    let [batch, channels, height, width] = dims(x);
    let [rows, gains] = dims(gain);
    assert!(gains == channels && (rows == 1 || rows == batch), "gain {:?}", gain.layout().shape());
    assert!(channels % groups == 0, "{channels} channels in {groups} groups");
    group_norm::Shape { channels, plane: height * width, groups, rows }
}

fn affine<'a>(gain: &'a FlexTensor, offset: &'a FlexTensor) -> group_norm::Affine<'a> {
    group_norm::Affine { gain: values(gain), offset: values(offset) }
}

fn upsampled(x: &FlexTensor, down: usize) -> FlexTensor {
    let [batch, channels, height, width] = dims(x);
    tensor(upsample::forward(values(x), [height, width], down), [batch, channels, down * height, 2 * width])
}

impl DenoiserBackend for Flex {
    fn conv(x: Tensor<Self, 4>, weight: Tensor<Self, 4>, bias: Tensor<Self, 1>, stride: [usize; 2]) -> Tensor<Self, 4> {
        let x = contiguous(x.into_primitive().tensor());
        let weight = contiguous(weight.into_primitive().tensor());
        let bias = contiguous(bias.into_primitive().tensor());
        let shape = conv_shape(&x, &weight, stride);
        wrap(conv_forward(&x, &weight, &bias, shape))
    }

    fn group_norm_silu(
        x: Tensor<Self, 4>,
        gain: Tensor<Self, 2>,
        offset: Tensor<Self, 2>,
        groups: usize,
    ) -> Tensor<Self, 4> {
        let x = contiguous(x.into_primitive().tensor());
        let gain = contiguous(gain.into_primitive().tensor());
        let offset = contiguous(offset.into_primitive().tensor());
        let (out, _) = group_norm::forward(values(&x), affine(&gain, &offset), norm_shape(&x, &gain, groups));
        wrap(tensor(out, dims::<4>(&x)))
    }

    fn upsample(x: Tensor<Self, 4>, down: usize) -> Tensor<Self, 4> {
        wrap(upsampled(&contiguous(x.into_primitive().tensor()), down))
    }
}

#[derive(Debug)]
struct Conv;

impl Backward<Flex, 3> for Conv {
    /// Input, weight, stride.
    type State = (Kept<FlexTensor>, Kept<FlexTensor>, [usize; 2]);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (x, weight, stride) = ops.state;
        let [x, weight] = [x, weight].map(|kept| contiguous(kept.get(checkpointer)));
        let [x_node, weight_node, bias_node] = ops.parents;
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let shape = conv_shape(&x, &weight, stride);
        let wanted = if x_node.is_some() { conv::Wanted::All } else { conv::Wanted::Parameters };
        let found = conv::backward(values(&x), values(&weight), values(&dy), shape, wanted);
        if let (Some(node), Some(dx)) = (x_node, found.x) {
            grads.register::<Flex>(node.id, tensor(dx, dims::<4>(&x)));
        }
        if let Some(node) = weight_node {
            grads.register::<Flex>(node.id, tensor(found.weight, dims::<4>(&weight)));
        }
        if let Some(node) = bias_node {
            grads.register::<Flex>(node.id, tensor(found.bias, [shape.output]));
        }
    }
}

#[derive(Debug)]
struct GroupNormSilu;

impl Backward<Flex, 3> for GroupNormSilu {
    /// Input, gain, offset; moments; groups.
    type State = ([Kept<FlexTensor>; 3], group_norm::Moments, usize);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (kept, moments, groups) = ops.state;
        let [x, gain, offset] = kept.map(|kept| contiguous(kept.get(checkpointer)));
        let [x_node, gain_node, offset_node] = ops.parents;
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let shape = norm_shape(&x, &gain, groups);
        let found = group_norm::backward(values(&x), affine(&gain, &offset), &moments, values(&dy), shape);
        if let Some(node) = x_node {
            grads.register::<Flex>(node.id, tensor(found.x, dims::<4>(&x)));
        }
        if let Some(node) = gain_node {
            grads.register::<Flex>(node.id, tensor(found.gain, dims::<2>(&gain)));
        }
        if let Some(node) = offset_node {
            grads.register::<Flex>(node.id, tensor(found.offset, dims::<2>(&offset)));
        }
    }
}

#[derive(Debug)]
struct Upsample;

impl Backward<Flex, 1> for Upsample {
    /// Factor of the height.
    type State = usize;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let [batch, channels, height, width] = dims(&dy);
        if let [Some(node)] = ops.parents {
            let [height, width] = [height / ops.state, width / 2];
            let dx = upsample::backward(values(&dy), [height, width], ops.state);
            grads.register::<Flex>(node.id, tensor(dx, [batch, channels, height, width]));
        }
    }
}

impl DenoiserBackend for Differentiable {
    fn conv(x: Tensor<Self, 4>, weight: Tensor<Self, 4>, bias: Tensor<Self, 1>, stride: [usize; 2]) -> Tensor<Self, 4> {
        let inputs = [x.into_primitive().tensor(), weight.into_primitive().tensor(), bias.into_primitive().tensor()];
        let forward = move |inputs: [FlexTensor; 3]| {
            let [x, weight, bias] = inputs.map(contiguous);
            (conv_forward(&x, &weight, &bias, conv_shape(&x, &weight, stride)), (x, weight))
        };
        wrap(traced(Conv, inputs, forward, |keep, (x, weight)| (keep(0, x), keep(1, weight), stride)))
    }

    fn group_norm_silu(
        x: Tensor<Self, 4>,
        gain: Tensor<Self, 2>,
        offset: Tensor<Self, 2>,
        groups: usize,
    ) -> Tensor<Self, 4> {
        let inputs = [x.into_primitive().tensor(), gain.into_primitive().tensor(), offset.into_primitive().tensor()];
        let forward = move |inputs: [FlexTensor; 3]| {
            let [x, gain, offset] = inputs.map(contiguous);
            let shape = norm_shape(&x, &gain, groups);
            let (out, moments) = group_norm::forward(values(&x), affine(&gain, &offset), shape);
            (tensor(out, dims::<4>(&x)), ([x, gain, offset], moments))
        };
        wrap(traced(GroupNormSilu, inputs, forward, |keep, ([x, gain, offset], moments)| {
            ([keep(0, x), keep(1, gain), keep(2, offset)], moments, groups)
        }))
    }

    fn upsample(x: Tensor<Self, 4>, down: usize) -> Tensor<Self, 4> {
        let forward = move |[x]: [FlexTensor; 1]| (upsampled(&contiguous(x), down), ());
        wrap(traced(Upsample, [x.into_primitive().tensor()], forward, |_, ()| down))
    }
}
