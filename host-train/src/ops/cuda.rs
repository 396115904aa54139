//! The operations on burn-cuda, with and without gradients.
//!
//! Activations are channels last in memory, whatever burn's order of the dimensions, and bfloat16 unless
//! [`set_precision`] says otherwise; parameters and their gradients are f32.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::Autodiff;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::tensor::{DType, FloatDType, Shape, Tensor, TensorMetadata, TensorPrimitive};
use burn_cubecl::kernel::{cast, into_contiguous};
use burn_cubecl::tensor::CubeTensor;
use burn_cuda::Cuda;
use cubecl::Runtime;
use cubecl::cuda::CudaRuntime;
use cubecl::server::Handle;
use mote_core::noise::quantile_nodes;
use mote_train_gpu_kernels::conv::{self, ConvShape, Weights};
use mote_train_gpu_kernels::elementwise::{self, UpsampleShape};
use mote_train_gpu_kernels::group_norm::{self, NormShape};
use mote_train_gpu_kernels::{noise, optimizer, vectors};

pub use mote_train_gpu_kernels::Precision;

use super::recompute::{Keep, Kept, traced};
use super::{ADAMW_EPSILON, AdamWState, AdamWStep, DenoiserBackend};
#[cfg(feature = "nccl")]
use crate::peer::{Left, Peer};

type Primitive = CubeTensor<CudaRuntime>;
type Differentiable = Autodiff<Cuda>;

static SINGLE: AtomicBool = AtomicBool::new(false);

/// In what all networks of this process keep their activations from now on; [`Precision::Half`] at first.
pub fn set_precision(precision: Precision) {
    SINGLE.store(precision == Precision::Single, Ordering::Relaxed);
}

fn dims<const D: usize>(tensor: &Primitive) -> [usize; D] {
    tensor.shape().dims()
}

fn wrap<B, const D: usize>(primitive: B::FloatTensorPrimitive) -> Tensor<B, D>
where
    B: burn::tensor::backend::Backend,
{
    Tensor::from_primitive(TensorPrimitive::Float(primitive))
}

fn precision(tensor: &Primitive) -> Precision {
    match tensor.dtype {
        DType::BF16 => Precision::Half,
        DType::F32 => Precision::Single,
        other => panic!("activations are BF16 or F32, not {other:?}"),
    }
}

fn dtype(precision: Precision) -> DType {
    match precision {
        Precision::Half => DType::BF16,
        Precision::Single | Precision::Mixed => DType::F32,
    }
}

/// As another type, if it is not of that type already.
fn as_type(tensor: Primitive, wanted: DType) -> Primitive {
    if tensor.dtype == wanted { tensor } else { cast(tensor, wanted) }
}

/// Memory order of `[batch, channels, height, width]` kept channels last.
fn last_strides(dims: [usize; 4]) -> [usize; 4] {
    let [_, channels, height, width] = dims;
    [height * width * channels, 1, width * channels, channels]
}

/// The tensor, `[batch, channels, height, width]`, channels last in memory.
fn channels_last(mut tensor: Primitive) -> Primitive {
    let found = dims::<4>(&tensor);
    let [batch, channels, height, width] = found;
    let strides = tensor.meta.strides();
    let wanted = last_strides(found);
    if found.iter().zip(strides.iter()).zip(wanted).all(|((&dim, &is), wanted)| dim == 1 || is == wanted) {
        return tensor;
    }
    let strides = [strides[0], strides[2], strides[3], strides[1]];
    *tensor.meta = burn_std::Metadata::new(Shape::new([batch, height, width, channels]), strides);
    let mut tensor = into_contiguous(tensor);
    *tensor.meta = burn_std::Metadata::new(Shape::new(found), wanted);
    tensor
}

/// A tensor of activations in `handle`, which is channels last.
fn activations(like: &Primitive, handle: Handle, shape: [usize; 4]) -> Primitive {
    let meta = burn_std::Metadata::new(Shape::new(shape), last_strides(shape));
    CubeTensor::new(like.client.clone(), handle, meta, like.device.clone(), like.dtype)
}

/// A contiguous tensor of f32 in `handle`.
fn floats<const D: usize>(like: &Primitive, handle: Handle, shape: [usize; D]) -> Primitive {
    CubeTensor::new_contiguous(like.client.clone(), like.device.clone(), Shape::new(shape), handle, DType::F32)
}

/// What reaches an operation's output, as its kernels read it.
fn gradient<const N: usize, S>(ops: &Ops<S, N>, grads: &mut Gradients, like: Precision) -> Primitive {
    channels_last(as_type(grads.consume::<Cuda>(&ops.node), dtype(like)))
}

/// Registers the gradient that `value` gives, if one is wanted. What reached the node before is left to burn, which adds
/// it with a launch of its own.
fn register(grads: &mut Gradients, node: Option<NodeId>, value: impl FnOnce() -> Primitive) {
    if let Some(node) = node {
        grads.register::<Cuda>(node, value());
    }
}

/// The nodes of an operation's inputs.
fn nodes<const N: usize, S>(ops: &Ops<S, N>) -> [Option<NodeId>; N] {
    std::array::from_fn(|i| ops.parents[i].as_ref().map(|node| node.id))
}

/// Takes what has reached the input `index`, a tensor like `of`, as kernels read it, so that they can add to it.
fn reached<const N: usize, S>(
    ops: &Ops<S, N>,
    index: usize,
    of: &Primitive,
    grads: &mut Gradients,
) -> Option<Primitive> {
    let node = ops.parents[index].clone()?;
    // burn gives out what reached a tensor's node: a tensor with this node.
    let mut at = Tensor::<Differentiable, 1>::from_inner(wrap(of.clone())).into_primitive().tensor();
    at.node = node;
    let before = as_type(grads.remove::<Cuda>(&at)?, of.dtype);
    Some(if before.rank() == 4 { channels_last(before) } else { into_contiguous(before) })
}

fn conv_shape(x: &Primitive, weight: &Primitive, stride: [usize; 2]) -> ConvShape {
    let [_, input, height, width] = dims(x);
    let [output, weight_input, rows, columns] = dims(weight);
    assert!(weight_input == input, "weight {:?} for {input} channels", weight.shape());
    ConvShape { input, output, height, width, kernel: [rows, columns], stride, weights: Weights::OutputFirst }
}

/// What a convolution reads, as its kernels want it.
struct Operands {
    x: Primitive,
    weight: Primitive,
    bias: Primitive,
    residual: Option<Primitive>,
    shape: ConvShape,
    precision: Precision,
}

impl Operands {
    fn conv(x: Primitive, weight: Primitive, bias: Primitive, residual: Option<Primitive>, stride: [usize; 2]) -> Self {
        let shape = conv_shape(&x, &weight, stride);
        let precision = precision(&x);
        let kind = dtype(precision);
        let residual = residual.map(|residual| channels_last(as_type(residual, kind)));
        Self {
            x: channels_last(x),
            weight: into_contiguous(weight),
            bias: into_contiguous(bias),
            residual,
            shape,
            precision,
        }
    }

    fn linear(x: Primitive, weight: Primitive, bias: Primitive) -> Self {
        let [input, output] = dims(&weight);
        let [_, inputs] = dims(&x);
        assert!(inputs == input, "weight {:?} for {inputs} inputs", weight.shape());
        let precision = match precision(&x) {
            // What is f32 beside activations of bfloat16 need not be multiplied more finely than they.
            Precision::Single if !SINGLE.load(Ordering::Relaxed) => Precision::Mixed,
            other => other,
        };
        let x = pixels(x);
        let (weight, bias) = (into_contiguous(weight), into_contiguous(bias));
        Self { x, weight, bias, residual: None, shape: ConvShape::linear(input, output), precision }
    }

    /// `[batch, output, height, width]`
    fn forward(&self) -> Primitive {
        let batch = dims::<4>(&self.x)[0];
        let operands = [&self.x.handle, &self.weight.handle, &self.bias.handle];
        let residual = self.residual.as_ref().map(|residual| &residual.handle);
        let out = conv::forward(&self.x.client, self.precision, &self.shape, batch, operands, residual);
        activations(&self.x, out, [batch, self.shape.output, self.shape.out_height(), self.shape.out_width()])
    }
}

/// A convolution with three or, with a residual, four inputs; or a linear layer.
#[derive(Debug)]
struct Conv;

/// Input, weight, shape and precision.
type ConvState = (Kept<Primitive>, Kept<Primitive>, ConvShape, Precision);

/// What is kept of a convolution's or a linear layer's operands.
fn conv_state(keep: Keep<'_, Cuda>, of: Operands) -> ConvState {
    (keep(0, of.x), keep(1, of.weight), of.shape, of.precision)
}

fn conv_backward<const N: usize>(
    ops: Ops<ConvState, N>,
    grads: &mut Gradients,
    checkpointer: &mut Checkpointer,
    dy: Primitive,
    linear: bool,
) {
    let nodes = nodes(&ops);
    let node = |index: usize| nodes.get(index).copied().flatten();
    let (x, weight, shape, precision) = ops.state.clone();
    let (x, weight) = (x.get(checkpointer), into_contiguous(weight.get(checkpointer)));
    let x = if linear { pixels(x) } else { channels_last(x) };
    let before = reached(&ops, 0, &x, grads);
    let found = dims::<4>(&x);
    let batch = found[0];
    register(grads, node(3), || dy.clone());
    register(grads, node(0), || {
        let (operands, before) = ([&dy.handle, &weight.handle], before.as_ref().map(|before| &before.handle));
        let dx = conv::backward_input(&x.client, precision, &shape, batch, operands, before);
        let mut dx = activations(&x, dx, found);
        if linear {
            *dx.meta = burn_std::Metadata::new(Shape::new([batch, shape.input]), [shape.input, 1]);
        }
        dx
    });
    if node(1).is_some() || node(2).is_some() {
        let [dw, db] = conv::backward_weights(&x.client, precision, &shape, batch, [&x.handle, &dy.handle]);
        register(grads, node(1), || {
            let mut dw = floats(&x, dw, [shape.output, shape.input, shape.kernel[0], shape.kernel[1]]);
            if linear {
                *dw.meta = burn_std::Metadata::new(Shape::new([shape.input, shape.output]), [shape.output, 1]);
            }
            dw
        });
        register(grads, node(2), || floats(&x, db, [shape.output]));
    }
}

impl<const N: usize> Backward<Cuda, N> for Conv {
    type State = ConvState;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let dy = gradient(&ops, grads, ops.state.3);
        conv_backward(ops, grads, checkpointer, dy, false);
    }
}

#[derive(Debug)]
struct Linear;

impl Backward<Cuda, 3> for Linear {
    type State = ConvState;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let dy = as_type(grads.consume::<Cuda>(&ops.node), dtype(ops.state.3));
        conv_backward(ops, grads, checkpointer, into_contiguous(dy), true);
    }
}

/// `[batch, in]` as `[batch, in, 1, 1]`, if it is not that already.
fn pixels(tensor: Primitive) -> Primitive {
    if tensor.rank() == 4 {
        return tensor;
    }
    let mut tensor = into_contiguous(tensor);
    let [batch, input] = dims(&tensor);
    let shape = [batch, input, 1, 1];
    *tensor.meta = burn_std::Metadata::new(Shape::new(shape), last_strides(shape));
    tensor
}

/// `[batch, out, 1, 1]` as `[batch, out]`.
fn flat(mut tensor: Primitive) -> Primitive {
    let [batch, channels, _, _] = dims(&tensor);
    *tensor.meta = burn_std::Metadata::new(Shape::new([batch, channels]), [channels, 1]);
    tensor
}

/// What a normalization reads, as its kernels want it.
struct Normalization {
    /// One or, for a concatenation, two inputs.
    parts: Vec<Primitive>,
    gain: Primitive,
    offset: Primitive,
    affine: Option<Primitive>,
    groups: usize,
    silu: bool,
}

impl Normalization {
    fn new(
        parts: Vec<Primitive>,
        [gain, offset]: [Primitive; 2],
        affine: Option<Primitive>,
        groups: usize,
        silu: bool,
    ) -> Self {
        let kind = dtype(precision(&parts[0]));
        let parts: Vec<_> = parts.into_iter().map(|part| channels_last(as_type(part, kind))).collect();
        let channels: usize = parts.iter().map(|part| dims::<4>(part)[1]).sum();
        assert!(dims::<1>(&gain) == [channels] && dims::<1>(&offset) == [channels], "gain {:?}", gain.shape());
        assert!(channels.is_multiple_of(groups) && groups.is_multiple_of(parts.len()), "{channels} in {groups} groups");
        let affine = affine.map(|affine| into_contiguous(as_type(affine, DType::F32)));
        Self { parts, gain: into_contiguous(gain), offset: into_contiguous(offset), affine, groups, silu }
    }

    /// Of the inputs in their order, the first `parts` of them to be normalized.
    fn of(inputs: Vec<Primitive>, parts: usize, groups: usize, silu: bool) -> Self {
        let mut inputs = inputs.into_iter();
        let parts = inputs.by_ref().take(parts).collect();
        let mut next = || inputs.next().expect("gain and offset come behind the parts");
        let parameters = [next(), next()];
        Self::new(parts, parameters, inputs.next(), groups, silu)
    }

    fn channels(&self) -> usize {
        dims::<1>(&self.gain)[0]
    }

    fn affine(&self) -> &Handle {
        self.affine.as_ref().map_or(&self.gain.handle, |affine| &affine.handle)
    }

    /// Each part's shape; the parts lie one behind the other in the output's channels.
    fn shapes(&self) -> Vec<NormShape> {
        let mut first = 0;
        let shape = |part: &Primitive| {
            let [_, channels, height, width] = dims(part);
            let shape = NormShape {
                channels,
                plane: height * width,
                groups: self.groups / self.parts.len(),
                out_channels: self.channels(),
                first,
                scaled: self.affine.is_some(),
                silu: self.silu,
            };
            first += channels;
            shape
        };
        self.parts.iter().map(shape).collect()
    }

    /// The output and each part's moments.
    fn forward(&self) -> (Primitive, Vec<Handle>) {
        let x = &self.parts[0];
        let [batch, _, height, width] = dims(x);
        let precision = precision(x);
        let out = x.client.empty(batch * self.channels() * height * width * precision.size());
        let shapes = self.shapes();
        let moments = self.parts.iter().zip(shapes).map(|(part, shape)| {
            let operands = [&part.handle, &self.gain.handle, &self.offset.handle, self.affine()];
            group_norm::forward(&x.client, precision, shape, batch, operands, &out)
        });
        let moments = moments.collect();
        (activations(x, out, [batch, self.channels(), height, width]), moments)
    }
}

/// Inputs: the parts, gain, offset, and scale and shift if there are any.
#[derive(Debug)]
struct Norm;

#[derive(Debug, Clone)]
struct NormState {
    inputs: Vec<Kept<Primitive>>,
    /// Each part's.
    moments: Vec<Handle>,
    parts: usize,
    groups: usize,
    silu: bool,
}

impl<const N: usize> Backward<Cuda, N> for Norm {
    type State = NormState;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let nodes = nodes(&ops);
        let NormState { inputs, moments, parts, groups, silu } = ops.state.clone();
        let inputs = inputs.into_iter().map(|kept| kept.get(checkpointer)).collect();
        let of = Normalization::of(inputs, parts, groups, silu);
        let precision = precision(&of.parts[0]);
        let dy = gradient(&ops, grads, precision);
        let parts = of.parts.iter().enumerate();
        let before: Vec<_> = parts.map(|(index, part)| reached(&ops, index, part, grads)).collect();
        let (client, channels) = (&dy.client, of.channels());
        let batch = dims::<4>(&dy)[0];
        let sums = [(); 2].map(|()| client.empty(batch * channels * size_of::<f32>()));
        for (index, (part, shape)) in of.parts.iter().zip(of.shapes()).enumerate() {
            let (moments, before) = (&moments[index], before[index].as_ref().map(|before| &before.handle));
            let operands = [&part.handle, &of.gain.handle, &of.offset.handle, of.affine(), moments, &dy.handle];
            // Gain and offset need the sums that come with it, wanted or not.
            let dx = group_norm::backward(client, precision, shape, batch, operands, sums.each_ref(), before);
            register(grads, nodes[index], || activations(part, dx, dims(part)));
        }
        let scaled = of.affine.is_some();
        let operands = [&sums[0], &sums[1], &of.gain.handle, &of.offset.handle, of.affine()];
        let [gain, offset, affine] = group_norm::backward_affine(client, batch, channels, scaled, operands);
        let after = of.parts.len();
        register(grads, nodes[after], || floats(&dy, gain, [channels]));
        register(grads, nodes[after + 1], || floats(&dy, offset, [channels]));
        if scaled {
            register(grads, nodes[after + 2], || floats(&dy, affine, [batch, 2 * channels]));
        }
    }
}

#[derive(Debug)]
struct Upsample;

fn upsample_shape([_, channels, height, width]: [usize; 4], down: usize) -> UpsampleShape {
    UpsampleShape { channels, height, width, down }
}

fn upsampled(x: &Primitive, down: usize) -> Primitive {
    let [batch, channels, height, width] = dims(x);
    let shape = upsample_shape(dims(x), down);
    let out = elementwise::upsample(&x.client, precision(x), shape, batch, &x.handle);
    activations(x, out, [batch, channels, down * height, 2 * width])
}

impl Backward<Cuda, 1> for Upsample {
    /// Shape of the input, factor of its height, type.
    type State = ([usize; 4], usize, Precision);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (small, down, precision) = ops.state;
        let dy = gradient(&ops, grads, precision);
        let [node] = nodes(&ops);
        register(grads, node, || {
            let shape = upsample_shape(small, down);
            let dx = elementwise::upsample_backward(&dy.client, precision, shape, small[0], &dy.handle);
            activations(&dy, dx, small)
        });
    }
}

fn taken<const D: usize>(tensor: Tensor<Cuda, D>) -> Primitive {
    tensor.into_primitive().tensor()
}

impl DenoiserBackend for Cuda {
    const QUEUES: bool = true;

    /// By NCCL, whose order of adding is fixed for a machine and a number of devices.
    #[cfg(feature = "nccl")]
    fn all_reduce(vector: Tensor<Self, 1>, peer: &Peer<Self>) -> Result<Tensor<Self, 1>, Left> {
        use burn::tensor::backend::Device;
        use burn_backend::distributed::{DistributedBackend, ReduceOperation};

        if peer.devices().len() == 1 {
            return Ok(vector);
        }
        // NCCL itself would wait forever for a worker that has stopped.
        peer.meet()?;
        let devices = peer.devices().iter().map(Device::to_id).collect();
        let sum = <Self as DistributedBackend>::all_reduce(taken(vector), ReduceOperation::Sum, devices).resolve();
        Ok(wrap(sum))
    }

    fn conv(x: Tensor<Self, 4>, weight: Tensor<Self, 4>, bias: Tensor<Self, 1>, stride: [usize; 2]) -> Tensor<Self, 4> {
        wrap(Operands::conv(taken(x), taken(weight), taken(bias), None, stride).forward())
    }

    fn conv_add(
        x: Tensor<Self, 4>,
        weight: Tensor<Self, 4>,
        bias: Tensor<Self, 1>,
        residual: Tensor<Self, 4>,
    ) -> Tensor<Self, 4> {
        wrap(Operands::conv(taken(x), taken(weight), taken(bias), Some(taken(residual)), [1; 2]).forward())
    }

    fn linear_layer(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 1>) -> Tensor<Self, 2> {
        wrap(flat(Operands::linear(taken(x), taken(weight), taken(bias)).forward()))
    }

    fn norm_silu(
        x: Tensor<Self, 4>,
        skip: Option<Tensor<Self, 4>>,
        [gain, offset]: [Tensor<Self, 1>; 2],
        affine: Option<Tensor<Self, 2>>,
        groups: usize,
    ) -> Tensor<Self, 4> {
        let parts = [Some(x), skip].into_iter().flatten().map(taken).collect();
        let of = Normalization::new(parts, [taken(gain), taken(offset)], affine.map(taken), groups, true);
        wrap(of.forward().0)
    }

    fn group_norm(x: Tensor<Self, 4>, [gain, offset]: [Tensor<Self, 1>; 2], groups: usize) -> Tensor<Self, 4> {
        wrap(Normalization::new(vec![taken(x)], [taken(gain), taken(offset)], None, groups, false).forward().0)
    }

    fn upsample(x: Tensor<Self, 4>, down: usize) -> Tensor<Self, 4> {
        wrap(upsampled(&channels_last(taken(x)), down))
    }

    fn into_activations(x: Tensor<Self, 4>) -> Tensor<Self, 4> {
        if SINGLE.load(Ordering::Relaxed) { x } else { x.cast(FloatDType::BF16) }
    }

    fn from_activations(x: Tensor<Self, 4>) -> Tensor<Self, 4> {
        x.cast(FloatDType::F32)
    }

    fn join(parts: Vec<Tensor<Self, 1>>) -> Tensor<Self, 1> {
        let parts: Vec<_> = parts.into_iter().map(|part| into_contiguous(taken(part))).collect();
        let handles: Vec<_> = parts.iter().map(|part| (part.handle.clone(), dims::<1>(part)[0])).collect();
        let len = handles.iter().map(|(_, len)| len).sum();
        let first = &parts[0];
        wrap(floats(first, vectors::join(&first.client, &handles), [len]))
    }

    fn split(vector: Tensor<Self, 1>, lens: &[usize]) -> Vec<Tensor<Self, 1>> {
        let vector = into_contiguous(taken(vector));
        let parts = vectors::split(&vector.client, &vector.handle, lens);
        parts.into_iter().zip(lens).map(|(part, &len)| wrap(floats(&vector, part, [len]))).collect()
    }

    fn adamw(
        state: AdamWState<Self>,
        gradient: Tensor<Self, 1>,
        step: &AdamWStep,
    ) -> (AdamWState<Self>, Tensor<Self, 1>) {
        let AdamWState { parameters, first, second, mut averages } = state;
        // Only one of several workers averages.
        let none = averages.is_empty();
        let others = averages.split_off(averages.len().min(1));
        let average = averages.pop().unwrap_or_else(|| parameters.clone());
        let [gradient, parameters, first, second, average] =
            [gradient, parameters, first, second, average].map(|vector| into_contiguous(taken(vector)));
        let [len] = dims(&gradient);
        let numbers = optimizer::Step {
            rate: step.rate as f32,
            betas: step.betas.map(|beta| beta as f32),
            corrections: step.corrections.map(|correction| correction as f32),
            weight_decay: step.weight_decay as f32,
            clip: step.clip as f32,
            epsilon: ADAMW_EPSILON as f32,
            keep: step.keep.first().map_or(0.0, |&keep| keep as f32),
        };
        let operands = [&gradient, &parameters, &first, &second, &average].map(|vector| &vector.handle);
        let (moved, norm) = optimizer::adamw(&gradient.client, len, operands, &numbers);
        let [parameters, first, second, average] =
            moved.map(|handle| wrap::<Self, 1>(floats(&gradient, handle, [len])));
        let others = others.into_iter().zip(step.keep.iter().skip(1));
        let others = others.map(|(other, &keep)| other * keep + parameters.clone() * (1.0 - keep));
        let averages = (!none).then_some(average).into_iter().chain(others).collect();
        (AdamWState { parameters, first, second, averages }, wrap(floats(&gradient, norm, [1])))
    }

    fn normals(seed: u64, begin: u128, count: usize, device: &Self::Device) -> Tensor<Self, 1> {
        let client = CudaRuntime::client(device);
        let handle = noise::normals(&client, quantile_nodes(), seed, begin, count);
        let shape = Shape::new([count]);
        wrap(CubeTensor::new_contiguous(client, device.clone(), shape, handle, DType::F32))
    }
}

/// The normalization and its place in the graph; `N` is the number of its inputs.
fn normalized<const N: usize>(
    x: Tensor<Differentiable, 4>,
    skip: Option<Tensor<Differentiable, 4>>,
    [gain, offset]: [Tensor<Differentiable, 1>; 2],
    affine: Option<Tensor<Differentiable, 2>>,
    groups: usize,
    silu: bool,
) -> Tensor<Differentiable, 4> {
    let parts = if skip.is_some() { 2 } else { 1 };
    let inputs = [Some(x), skip].into_iter().flatten().map(|part| part.into_primitive().tensor());
    let inputs = inputs.chain([gain, offset].map(|vector| vector.into_primitive().tensor()));
    let inputs: Vec<_> = inputs.chain(affine.map(|affine| affine.into_primitive().tensor())).collect();
    let inputs: [_; N] = inputs.try_into().expect("as many inputs as the caller counted");
    let forward = move |inputs: [Primitive; N]| {
        let of = Normalization::of(inputs.into(), parts, groups, silu);
        let (out, moments) = of.forward();
        (out, (of, moments))
    };
    wrap(traced(Norm, inputs, forward, |keep, (of, moments)| {
        let Normalization { parts: ready, gain, offset, affine, .. } = of;
        let ready = ready.into_iter().chain([gain, offset]).chain(affine).enumerate();
        let inputs = ready.map(|(index, input)| keep(index, input)).collect();
        NormState { inputs, moments, parts, groups, silu }
    }))
}

impl DenoiserBackend for Differentiable {
    fn conv(x: Tensor<Self, 4>, weight: Tensor<Self, 4>, bias: Tensor<Self, 1>, stride: [usize; 2]) -> Tensor<Self, 4> {
        let inputs = [x.into_primitive().tensor(), weight.into_primitive().tensor(), bias.into_primitive().tensor()];
        let forward = move |[x, weight, bias]: [Primitive; 3]| {
            let of = Operands::conv(x, weight, bias, None, stride);
            (of.forward(), of)
        };
        wrap(traced(Conv, inputs, forward, conv_state))
    }

    fn conv_add(
        x: Tensor<Self, 4>,
        weight: Tensor<Self, 4>,
        bias: Tensor<Self, 1>,
        residual: Tensor<Self, 4>,
    ) -> Tensor<Self, 4> {
        let (weight, bias) = (weight.into_primitive().tensor(), bias.into_primitive().tensor());
        let inputs = [x.into_primitive().tensor(), weight, bias, residual.into_primitive().tensor()];
        let forward = move |[x, weight, bias, residual]: [Primitive; 4]| {
            let of = Operands::conv(x, weight, bias, Some(residual), [1; 2]);
            (of.forward(), of)
        };
        wrap(traced(Conv, inputs, forward, conv_state))
    }

    fn linear_layer(x: Tensor<Self, 2>, weight: Tensor<Self, 2>, bias: Tensor<Self, 1>) -> Tensor<Self, 2> {
        let inputs = [x.into_primitive().tensor(), weight.into_primitive().tensor(), bias.into_primitive().tensor()];
        let forward = |[x, weight, bias]: [Primitive; 3]| {
            let of = Operands::linear(x, weight, bias);
            (flat(of.forward()), of)
        };
        wrap(traced(Linear, inputs, forward, conv_state))
    }

    fn norm_silu(
        x: Tensor<Self, 4>,
        skip: Option<Tensor<Self, 4>>,
        parameters: [Tensor<Self, 1>; 2],
        affine: Option<Tensor<Self, 2>>,
        groups: usize,
    ) -> Tensor<Self, 4> {
        match (skip.is_some(), affine.is_some()) {
            (false, false) => normalized::<3>(x, skip, parameters, affine, groups, true),
            (true, true) => normalized::<5>(x, skip, parameters, affine, groups, true),
            _ => normalized::<4>(x, skip, parameters, affine, groups, true),
        }
    }

    fn group_norm(x: Tensor<Self, 4>, parameters: [Tensor<Self, 1>; 2], groups: usize) -> Tensor<Self, 4> {
        normalized::<3>(x, None, parameters, None, groups, false)
    }

    fn upsample(x: Tensor<Self, 4>, down: usize) -> Tensor<Self, 4> {
        let forward = move |[x]: [Primitive; 1]| {
            let x = channels_last(x);
            (upsampled(&x, down), (dims(&x), down, precision(&x)))
        };
        wrap(traced(Upsample, [x.into_primitive().tensor()], forward, |_, state| state))
    }

    fn into_activations(x: Tensor<Self, 4>) -> Tensor<Self, 4> {
        if SINGLE.load(Ordering::Relaxed) { x } else { x.cast(FloatDType::BF16) }
    }

    fn from_activations(x: Tensor<Self, 4>) -> Tensor<Self, 4> {
        x.cast(FloatDType::F32)
    }

    fn split(vector: Tensor<Self, 1>, lens: &[usize]) -> Vec<Tensor<Self, 1>> {
        Cuda::split(vector.inner(), lens).into_iter().map(Tensor::from_inner).collect()
    }

    fn normals(seed: u64, begin: u128, count: usize, device: &Self::Device) -> Tensor<Self, 1> {
        Tensor::from_inner(Cuda::normals(seed, begin, count, device))
    }
}
