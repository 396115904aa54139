//! The GPU's kernels against burn's own operations on NdArray. Needs a GPU: `cargo test -p mote-train --features cuda --test cuda`.
#![cfg(feature = "cuda")]

use std::sync::Mutex;

use burn::backend::{Autodiff, NdArray};
use burn::tensor::backend::AutodiffBackend;
use burn::tensor::{Tensor, TensorData};
use burn_cuda::Cuda;

use mote_train::ops::cuda::{Precision, set_precision};
use mote_train::ops::{AdamWState, AdamWStep, DenoiserBackend};

type Ours = Autodiff<Cuda>;
type Theirs = Autodiff<NdArray>;

/// Values of a smooth, aperiodic function, exact in bfloat16: the same on every backend and in every precision.
fn filled<B: DenoiserBackend, const D: usize>(shape: [usize; D], seed: f32) -> Tensor<B, D> {
    let len: usize = shape.iter().product();
    let value = |i: usize| ((i as f32) * 0.7368 + seed).sin() * 1.3 + seed * 0.1;
    let values: Vec<f32> = (0..len).map(|i| half::bf16::from_f32(value(i)).to_f32()).collect();
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

/// An operation of pictures and parameters, on any backend.
trait Operation {
    fn run<B: DenoiserBackend>(&self, x: &[Tensor<B, 4>], parameters: &[Tensor<B, 1>]) -> Tensor<B, 4>;
}

/// Output, then the gradients of the pictures and of the parameters.
fn traced<B: DenoiserBackend + AutodiffBackend>(
    operation: &impl Operation,
    pictures: &[[usize; 4]],
    parameters: &[usize],
) -> Vec<Vec<f32>> {
    let pictures: Vec<_> =
        pictures.iter().zip(0..).map(|(&shape, i)| filled::<B, 4>(shape, 0.3 + i as f32).require_grad()).collect();
    let parameters: Vec<_> = parameters
        .iter()
        .zip(0..)
        .map(|(&len, i)| filled::<B, 1>([len], 1.1 + 0.4 * i as f32).require_grad())
        .collect();
    let inputs: Vec<_> = pictures.iter().map(|picture| B::into_activations(picture.clone())).collect();
    let out = B::from_activations(operation.run(&inputs, &parameters));
    let weights = filled::<B, 4>(out.dims(), 3.7);
    let grads = (out.clone() * weights).sum().backward();
    let mut found = vec![out.into_data().to_vec().unwrap()];
    found.extend(pictures.iter().map(|tensor| tensor.grad(&grads).unwrap().into_data().to_vec().unwrap()));
    found.extend(parameters.iter().map(|tensor| tensor.grad(&grads).unwrap().into_data().to_vec().unwrap()));
    found
}

/// The distance of `found` from `wanted`, relative to the norm of `wanted`.
fn distance(found: &[f32], wanted: &[f32]) -> f32 {
    assert_eq!(found.len(), wanted.len());
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|value| value * value).sum::<f32>().sqrt();
    norm(&mut found.iter().zip(wanted).map(|(a, b)| a - b)) / norm(&mut wanted.iter().copied()).max(1e-30)
}

/// Compares both precisions with the reference: within 1e-3 in f32, 4e-3 in bfloat16, which rounds by up to 2e-3.
fn compare(name: &str, operation: &impl Operation, pictures: &[[usize; 4]], parameters: &[usize]) {
    compare_within(4e-3, name, operation, pictures, parameters);
}

fn compare_within(half: f32, name: &str, operation: &impl Operation, pictures: &[[usize; 4]], parameters: &[usize]) {
    let wanted = traced::<Theirs>(operation, pictures, parameters);
    for (precision, bound) in [(Precision::Single, 1e-3), (Precision::Half, half)] {
        set_precision(precision);
        let found = traced::<Ours>(operation, pictures, parameters);
        let distances: Vec<f32> = found.iter().zip(&wanted).map(|(found, wanted)| distance(found, wanted)).collect();
        println!("{name} of {pictures:?}, {precision:?}: {distances:.4?}");
        assert!(
            distances.iter().all(|&distance| distance <= bound),
            "{name} of {pictures:?}, {precision:?}: {distances:?}"
        );
    }
}

struct Conv {
    weight: [usize; 4],
    stride: [usize; 2],
    residual: bool,
}

impl Operation for Conv {
    fn run<B: DenoiserBackend>(&self, x: &[Tensor<B, 4>], parameters: &[Tensor<B, 1>]) -> Tensor<B, 4> {
        let [weight, bias] = [0, 1].map(|index: usize| parameters[index].clone());
        let weight = weight.reshape(self.weight);
        if self.residual {
            B::conv_add(x[0].clone(), weight, bias, x[1].clone())
        } else {
            B::conv(x[0].clone(), weight, bias, self.stride)
        }
    }
}

struct Linear {
    weight: [usize; 2],
}

impl Operation for Linear {
    fn run<B: DenoiserBackend>(&self, x: &[Tensor<B, 4>], parameters: &[Tensor<B, 1>]) -> Tensor<B, 4> {
        let weight = parameters[0].clone().reshape(self.weight);
        B::linear_layer(x[0].clone().flatten(1, 3), weight, parameters[1].clone()).unsqueeze_dims(&[2, 3])
    }
}

struct Norm {
    groups: usize,
    scaled: Option<[usize; 2]>,
    silu: bool,
}

impl Operation for Norm {
    fn run<B: DenoiserBackend>(&self, x: &[Tensor<B, 4>], parameters: &[Tensor<B, 1>]) -> Tensor<B, 4> {
        let [gain, offset] = [0, 1].map(|index: usize| parameters[index].clone());
        if !self.silu {
            return B::group_norm(x[0].clone(), [gain, offset], self.groups);
        }
        let affine = self.scaled.map(|shape| parameters[2].clone().reshape(shape));
        B::norm_silu(x[0].clone(), x.get(1).cloned(), [gain, offset], affine, self.groups)
    }
}

/// A picture that four operations use: their gradients meet.
struct Shared;

impl Operation for Shared {
    fn run<B: DenoiserBackend>(&self, x: &[Tensor<B, 4>], p: &[Tensor<B, 1>]) -> Tensor<B, 4> {
        let [x, weight] = [x[0].clone(), p[0].clone().reshape([32, 32, 3, 3])];
        let conv = |x| B::conv(x, weight.clone(), p[1].clone(), [1; 2]);
        let norm = |x, skip| B::norm_silu(x, skip, [p[2].clone(), p[3].clone()], None, 8);
        let h = norm(conv(x.clone()), None);
        let h = B::conv_add(h, weight.clone(), p[1].clone(), x.clone());
        let joined = [p[2].clone(), p[3].clone()].map(|half| Tensor::cat(vec![half.clone(), half], 0));
        let joined = B::norm_silu(h, Some(x.clone()), joined, None, 16);
        let wide = Tensor::cat(vec![weight.clone(), weight.clone()], 1);
        norm(B::conv(joined, wide, p[1].clone(), [1; 2]) + conv(x), None)
    }
}

struct Upsample {
    down: usize,
}

impl Operation for Upsample {
    fn run<B: DenoiserBackend>(&self, x: &[Tensor<B, 4>], _parameters: &[Tensor<B, 1>]) -> Tensor<B, 4> {
        B::upsample(x[0].clone(), self.down)
    }
}

/// Held while the precision, which is the process's, is not the usual one.
static PRECISION: Mutex<()> = Mutex::new(());

#[test]
fn convolutions_equal_burns() {
    let _held = PRECISION.lock();
    let (square, row, point) = ([3, 3], [1, 3], [1, 1]);
    for (batch, input, output, height, width, [rows, columns], stride) in [
        (3, 16, 32, 14, 14, square, [1, 1]),
        (5, 64, 64, 28, 28, square, [1, 1]),
        (2, 128, 64, 7, 7, square, [1, 1]),
        (9, 64, 128, 1, 40, row, [1, 1]),
        (100, 64, 64, 26, 26, point, [1, 1]),
        (9, 3, 5, 7, 5, square, [1, 1]),
        (17, 1, 16, 6, 9, square, [1, 1]),
        (2, 16, 1, 8, 8, square, [1, 1]),
        (4, 24, 48, 8, 8, square, [1, 1]),
        (3, 32, 96, 7, 7, point, [1, 1]),
        (10, 4, 6, 14, 14, square, [2, 2]),
        (3, 32, 64, 7, 5, square, [2, 2]),
        (1, 2, 2, 1, 1, square, [1, 1]),
        (9, 6, 24, 1, 16, row, [1, 1]),
        (10, 24, 48, 1, 16, row, [1, 2]),
        (3, 2, 3, 1, 7, row, [1, 2]),
    ] {
        let conv = Conv { weight: [output, input, rows, columns], stride, residual: false };
        let parameters = [output * input * rows * columns, output];
        compare("convolution", &conv, &[[batch, input, height, width]], &parameters);
        if stride == [1, 1] {
            let pictures = [[batch, input, height, width], [batch, output, height, width]];
            compare("convolution and residual", &Conv { residual: true, ..conv }, &pictures, &parameters);
        }
    }
    set_precision(Precision::Half);
}

#[test]
fn linear_layers_equal_burns() {
    let _held = PRECISION.lock();
    for (batch, input, output) in [(7, 64, 128), (200, 32, 48), (3, 5, 2)] {
        let parameters = [input * output, output];
        compare("linear layer", &Linear { weight: [input, output] }, &[[batch, input, 1, 1]], &parameters);
    }
    set_precision(Precision::Half);
}

#[test]
fn normalizations_equal_burns() {
    let _held = PRECISION.lock();
    for (batch, channels, height, width, groups) in [
        (3, 16, 14, 14, 4),
        (2, 16, 40, 64, 4),
        (2, 64, 28, 28, 8),
        (5, 24, 7, 7, 4),
        (2, 6, 3, 5, 1),
        (1, 4, 2, 2, 4),
        (4, 96, 1, 32, 4),
    ] {
        let picture = [batch, channels, height, width];
        let (plain, scaled) = ([channels; 2], [channels, channels, 2 * batch * channels]);
        compare("normalization", &Norm { groups, scaled: None, silu: false }, &[picture], &plain);
        compare("normalization, SiLU", &Norm { groups, scaled: None, silu: true }, &[picture], &plain);
        let affine = Some([batch, 2 * channels]);
        compare("scaled normalization, SiLU", &Norm { groups, scaled: affine, silu: true }, &[picture], &scaled);
        let joined = Norm { groups: 2 * groups, scaled: None, silu: true };
        compare("joined normalization, SiLU", &joined, &[picture, picture], &[2 * channels; 2]);
    }
    set_precision(Precision::Half);
}

#[test]
fn other_operations_equal_burns() {
    let _held = PRECISION.lock();
    // Seven operations, one after the other.
    compare_within(1.5e-2, "shared picture", &Shared, &[[3, 32, 14, 14]], &[32 * 32 * 9, 32, 32, 32]);
    for (height, down) in [(7, 2), (1, 1), (3, 1)] {
        compare("upsampling", &Upsample { down }, &[[5, 3, height, 4]], &[]);
        compare("upsampling", &Upsample { down }, &[[3, 64, height, 4]], &[]);
    }
    set_precision(Precision::Half);
}

/// A step on the GPU, and the same step in burn's operations.
#[test]
fn the_optimizers_step_equals_burns() {
    fn stepped<B: DenoiserBackend>(len: usize) -> Vec<Vec<f32>> {
        let vector = |seed| filled::<B, 1>([len], seed);
        let second = vector(2.2) * vector(2.2);
        let state = AdamWState {
            parameters: vector(0.3),
            first: vector(1.1),
            second,
            averages: vec![vector(3.1), vector(4.1)],
        };
        let step = AdamWStep {
            rate: 0.01,
            betas: [0.9, 0.99],
            corrections: [1.3, 2.1],
            weight_decay: 0.02,
            clip: 1.0,
            keep: vec![0.75, 0.5],
        };
        let (state, norm) = B::adamw(state, vector(5.0), &step);
        let AdamWState { parameters, first, second, averages } = state;
        let vectors = [parameters, first, second, norm].into_iter().chain(averages);
        vectors.map(|vector| vector.into_data().to_vec().unwrap()).collect()
    }
    for len in [1, 1000, 100_003] {
        for (found, wanted) in stepped::<Cuda>(len).iter().zip(stepped::<NdArray>(len)) {
            assert!(distance(found, &wanted) < 1e-5, "{len}: {}", distance(found, &wanted));
        }
    }
}

#[test]
fn normal_numbers_are_the_hosts_bits() {
    let device = Default::default();
    for (seed, begin, count) in
        [(1, 0, 1), (0x1234_5678_9abc_def0, 4 * 0xffff_ffff + 3, 10_000), (7, (5 << 64) + 2, 1001)]
    {
        let found = Cuda::normals(seed, begin, count, &device).into_data().to_vec::<f32>().unwrap();
        let wanted = NdArray::normals(seed, begin, count, &Default::default()).into_data().to_vec::<f32>().unwrap();
        assert_eq!(found, wanted, "seed {seed}, word {begin}");
    }
}
