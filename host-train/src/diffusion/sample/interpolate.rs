//! Between two states.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

/// The point at `fraction` of the great circle's arc from `a` to `b`, each sample for itself (Shoemake, *Animating Rotation
/// with Quaternion Curves*, 1985): halfway between two noises is noise of the same length, where the mean of both is too
/// short for the network. Samples of (nearly) one direction are mixed in a straight line.
///
/// # Shapes
/// a, b and result: `[batch, channels, height, width]`; fraction: one a sample
pub fn slerp<B: Backend>(a: Tensor<B, 4>, b: Tensor<B, 4>, fractions: &[f64]) -> Tensor<B, 4> {
    let each = |x: Tensor<B, 4>| -> Vec<f32> { x.sum_dim(1).sum_dim(2).sum_dim(3).into_data().to_vec().expect("f32") };
    let dots = each(a.clone() * b.clone());
    let (lengths_a, lengths_b) = (each(a.clone() * a.clone()), each(b.clone() * b.clone()));
    let factors = fractions.iter().enumerate().map(|(i, &fraction)| {
        let cosine = f64::from(dots[i]) / (f64::from(lengths_a[i]) * f64::from(lengths_b[i])).sqrt().max(1e-12);
        let angle = cosine.clamp(-1.0, 1.0).acos();
        if angle.sin() < 1e-4 {
            return [1.0 - fraction, fraction];
        }
        [((1.0 - fraction) * angle).sin() / angle.sin(), (fraction * angle).sin() / angle.sin()]
    });
    let factors: Vec<[f64; 2]> = factors.collect();
    let part = |index: usize| {
        let values: Vec<f32> = factors.iter().map(|pair| pair[index] as f32).collect();
        crate::diffusion::per_image(&values, &a.device())
    };
    a.clone() * part(0) + b * part(1)
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::*;

    fn noise(seed: f32) -> Tensor<Flex, 4> {
        let values: Vec<f32> = (0..512).map(|i| (i as f32 * seed).sin() * 1.4).collect();
        Tensor::<Flex, 1>::from_floats(&values[..], &Default::default()).reshape([1, 2, 16, 16])
    }

    fn length(x: Tensor<Flex, 4>) -> f32 {
        (x.clone() * x).sum().into_scalar().sqrt()
    }

    #[test]
    fn the_ends_are_the_noises_and_the_middle_is_as_long() {
        let (a, b) = (noise(1.3), noise(0.7));
        for (fraction, end) in [(0.0, &a), (1.0, &b)] {
            assert!(length(slerp(a.clone(), b.clone(), &[fraction]) - end.clone()) < 1e-3);
        }
        let middle = length(slerp(a.clone(), b.clone(), &[0.5]));
        let (found, straight) = (middle / length(a.clone()), length((a.clone() + b) * 0.5) / length(a.clone()));
        assert!((found - 1.0).abs() < 0.02 && straight < 0.8, "{found}, in a straight line {straight}");
        assert!(length(slerp(a.clone(), a.clone(), &[0.3]) - a) < 1e-4, "from a noise to itself");
    }
}
