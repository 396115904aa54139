//! The kernels against burn's own operations on NdArray.

use burn::backend::{Autodiff, Flex, NdArray};
use burn::tensor::{Tensor, TensorData};

use super::{DenoiserBackend, checkpointing, recomputed};

/// Values of a smooth, aperiodic function: the same on every backend.
fn filled<B: DenoiserBackend, const D: usize>(shape: [usize; D], seed: f32) -> Tensor<B, D> {
    let len: usize = shape.iter().product();
    let values: Vec<f32> = (0..len).map(|i| ((i as f32) * 0.7368 + seed).sin() * 1.3 + seed * 0.1).collect();
    Tensor::from_data(TensorData::new(values, shape), &Default::default())
}

fn floats<B: DenoiserBackend, const D: usize>(tensor: Tensor<B, D>) -> Vec<f32> {
    tensor.into_data().to_vec().unwrap()
}

/// Output and gradients of the operation `run` on three inputs.
fn traced<B, const D1: usize, const D2: usize, const D3: usize>(
    shapes: ([usize; D1], [usize; D2], [usize; D3]),
    run: impl Fn(Tensor<B, D1>, Tensor<B, D2>, Tensor<B, D3>) -> Tensor<B, 4>,
) -> [Vec<f32>; 4]
where
    B: DenoiserBackend + burn::tensor::backend::AutodiffBackend,
{
    let a = filled::<B, D1>(shapes.0, 0.3).require_grad();
    let b = filled::<B, D2>(shapes.1, 1.1).require_grad();
    let c = filled::<B, D3>(shapes.2, 2.2).require_grad();
    let out = run(a.clone(), b.clone(), c.clone());
    let weights = filled::<B, 4>(out.dims(), 3.7);
    let grads = (out.clone() * weights).sum().backward();
    let of = |data: TensorData| data.to_vec::<f32>().unwrap();
    [
        floats(out),
        of(a.grad(&grads).unwrap().into_data()),
        of(b.grad(&grads).unwrap().into_data()),
        of(c.grad(&grads).unwrap().into_data()),
    ]
}

/// Greatest difference, relative to the greatest value.
fn assert_close(name: &str, found: [Vec<f32>; 4], wanted: [Vec<f32>; 4]) {
    for (what, (found, wanted)) in ["output", "first", "second", "third"].iter().zip(found.iter().zip(&wanted)) {
        assert_eq!(found.len(), wanted.len());
        let scale = wanted.iter().fold(0f32, |most, value| most.max(value.abs()));
        let worst = found.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst <= 1e-4 * scale, "{name}, {what}: off by {worst} of {scale}");
    }
}

type Ours = Autodiff<Flex>;
type Theirs = Autodiff<NdArray>;

#[test]
fn convolution_equals_burns() {
    let (square, row, point) = ([3, 3], [1, 3], [1, 1]);
    for (batch, input, output, height, width, kernel, stride) in [
        (3, 4, 8, 14, 14, square, [1, 1]),
        (9, 3, 5, 7, 5, square, [1, 1]),
        (17, 1, 16, 6, 9, square, [1, 1]),
        (2, 16, 1, 8, 8, square, [1, 1]),
        (3, 32, 16, 7, 7, point, [1, 1]),
        (10, 4, 6, 14, 14, square, [2, 2]),
        (3, 3, 9, 7, 5, square, [2, 2]),
        (1, 2, 2, 1, 1, square, [1, 1]),
        (9, 3, 5, 1, 16, row, [1, 1]),
        (10, 4, 6, 1, 16, row, [1, 2]),
        (3, 2, 3, 1, 7, row, [1, 2]),
        (1, 2, 2, 1, 1, row, [1, 1]),
        (2, 3, 4, 5, 6, row, [1, 2]),
        (2, 3, 4, 5, 6, square, [1, 2]),
        (2, 3, 4, 5, 6, [3, 1], [2, 1]),
    ] {
        let shapes = ([batch, input, height, width], [output, input, kernel[0], kernel[1]], [output]);
        assert_close(
            &format!("{shapes:?} stride {stride:?}"),
            traced::<Ours, 4, 4, 1>(shapes, |x, w, b| Ours::conv(x, w, b, stride)),
            traced::<Theirs, 4, 4, 1>(shapes, |x, w, b| Theirs::conv(x, w, b, stride)),
        );
    }
}

#[test]
fn group_norm_silu_equals_burns() {
    for (batch, channels, height, width, groups, rows) in
        [(3, 8, 14, 14, 4, 3), (5, 16, 7, 7, 8, 1), (2, 6, 3, 5, 1, 2), (1, 4, 2, 2, 4, 1)]
    {
        let shapes = ([batch, channels, height, width], [rows, channels], [rows, channels]);
        assert_close(
            &format!("{shapes:?} in {groups} groups"),
            traced::<Ours, 4, 2, 2>(shapes, |x, g, o| Ours::group_norm_silu(x, g, o, groups)),
            traced::<Theirs, 4, 2, 2>(shapes, |x, g, o| Theirs::group_norm_silu(x, g, o, groups)),
        );
    }
}

#[test]
fn upsampling_equals_burns() {
    fn upsample<B: DenoiserBackend>(x: Tensor<B, 4>, a: Tensor<B, 1>, b: Tensor<B, 1>, down: usize) -> Tensor<B, 4> {
        B::upsample(x, down) * a.reshape([1, 1, 1, 1]) + b.reshape([1, 1, 1, 1])
    }
    for (height, down) in [(7, 2), (1, 1), (3, 1)] {
        let shapes = ([5, 3, height, 4], [1], [1]);
        assert_close(
            &format!("{shapes:?} {down} down"),
            traced::<Ours, 4, 1, 1>(shapes, |x, a, b| upsample(x, a, b, down)),
            traced::<Theirs, 4, 1, 1>(shapes, |x, a, b| upsample(x, a, b, down)),
        );
    }
}

#[test]
fn operations_without_gradients_are_the_same_bits() {
    let (x, w, b) =
        (filled::<Flex, 4>([9, 4, 6, 6], 0.3), filled::<Flex, 4>([8, 4, 3, 3], 1.1), filled::<Flex, 1>([8], 2.2));
    let traced = traced::<Ours, 4, 4, 1>(([9, 4, 6, 6], [8, 4, 3, 3], [8]), |x, w, b| Ours::conv(x, w, b, [2, 2]));
    assert_eq!(floats(Flex::conv(x, w, b, [2, 2])), traced[0]);
}

/// A chain in which a result is read by the operation after it and by one further on, inside what is computed again.
#[test]
fn what_is_computed_again_has_the_same_bits() {
    let shapes = ([5, 8, 6, 4], [8, 8, 3, 3], [8]);
    let chain = || {
        traced::<Ours, 4, 4, 1>(shapes, |x, w, b| {
            let [gain, offset] = [b.clone().unsqueeze(), (b.clone() * 0.5).unsqueeze()];
            let (inner, twice) = recomputed(|| {
                let h = Ours::group_norm_silu(x.clone(), gain.clone(), offset.clone(), 4);
                let h = Ours::conv(h, w.clone(), b.clone(), [1; 2]);
                let twice = Ours::upsample(h.clone(), 2);
                (Ours::group_norm_silu(h, gain, offset, 2), twice)
            });
            let out = x + Ours::conv(inner, w.clone(), b.clone(), [1; 2]);
            Ours::conv(twice, w, b, [2; 2]) + out
        })
    };
    let plain = chain();
    assert_eq!(checkpointing(chain), plain);
    // The mode ends with what was run in it.
    assert_eq!(chain(), plain);
}
