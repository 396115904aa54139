//! The forward process on tensors.

use burn::tensor::Tensor;
use burn::tensor::backend::Backend;
use mote_core::schedule::{jump, noise, signal};

use super::Diffusion;

/// `values[i]` for image i, to be multiplied with `[batch, channels, height, width]`.
pub fn per_image<B: Backend>(values: &[f32], device: &B::Device) -> Tensor<B, 4> {
    Tensor::<B, 1>::from_floats(values, device).reshape([values.len(), 1, 1, 1])
}

impl Diffusion {
    /// `x_t = signal x_0 + noise eps`, sample i at `times[i]`: the closed form (Ho et al. 2020, equation 4).
    pub fn noised<B: Backend>(&self, x0: &Tensor<B, 4>, eps: &Tensor<B, 4>, times: &[f64]) -> Tensor<B, 4> {
        self.mix(x0, eps, times, |alpha_bar| [signal(alpha_bar), noise(alpha_bar)])
    }

    /// What the network should say there.
    pub fn target<B: Backend>(&self, x0: &Tensor<B, 4>, eps: &Tensor<B, 4>, times: &[f64]) -> Tensor<B, 4> {
        self.mix(x0, eps, times, |alpha_bar| self.objective.target_factors(alpha_bar))
    }

    /// The estimate of x0 that the network's output `f` at `x` stands for.
    pub fn estimate<B: Backend>(&self, x: &Tensor<B, 4>, f: &Tensor<B, 4>, times: &[f64]) -> Tensor<B, 4> {
        self.mix(x, f, times, |alpha_bar| self.objective.x0_factors(alpha_bar))
    }

    /// One step of the Markov chain, `x_t = sqrt(1 - beta) x_prev + sqrt(beta) z` (equation 2): from the data, or from the
    /// timestep before, to `timestep`.
    pub fn step<B: Backend>(&self, x_prev: Tensor<B, 4>, z: Tensor<B, 4>, timestep: usize) -> Tensor<B, 4> {
        let before = if timestep == 0 { 1.0 } else { self.alpha_bars[timestep - 1] };
        let [of_prev, of_z] = jump(self.alpha_bars[timestep], before);
        x_prev * of_prev + z * of_z
    }

    fn mix<B: Backend>(
        &self,
        a: &Tensor<B, 4>,
        b: &Tensor<B, 4>,
        times: &[f64],
        factors: impl Fn(f64) -> [f64; 2],
    ) -> Tensor<B, 4> {
        let device = a.device();
        let each = |part: usize| -> Tensor<B, 4> {
            let factors: Vec<f32> = times.iter().map(|&time| factors(self.alpha_bar(time))[part] as f32).collect();
            per_image(&factors, &device)
        };
        a.clone() * each(0) + b.clone() * each(1)
    }
}

#[cfg(test)]
mod tests {
    use burn::backend::Flex;

    use super::super::{DiffusionConfig, Objective, ScheduleConfig};
    use super::*;

    fn diffusion(objective: Objective) -> Diffusion {
        DiffusionConfig::new(objective, 60, ScheduleConfig::Linear { start: 1e-3, end: 0.1 }).build().unwrap()
    }

    fn numbers(phase: f32) -> Tensor<Flex, 4> {
        let values: Vec<f32> = (0..24).map(|i| (i as f32 * 0.71 + phase).cos()).collect();
        Tensor::<Flex, 1>::from_floats(&values[..], &Default::default()).reshape([2, 3, 2, 2])
    }

    fn worst(a: Tensor<Flex, 4>, b: Tensor<Flex, 4>) -> f32 {
        (a - b).abs().max().into_scalar()
    }

    /// The chain's noises add up to the closed form's: `noise eps` is the sum of what each step's `z` becomes.
    #[test]
    fn steps_of_the_chain_end_at_the_closed_form() {
        let diffusion = diffusion(Objective::V);
        let (mut x, mut variance) = (numbers(0.0), 0.0);
        let mut added = numbers(0.0) * 0.0;
        for timestep in 0..60 {
            let z = numbers(timestep as f32);
            x = diffusion.step(x, z.clone(), timestep);
            // The same z, shrunk by all later steps: sqrt(alpha_bar_T / alpha_bar_t).
            let shrunk = diffusion.alpha_bars[59] / diffusion.alpha_bars[timestep];
            let beta = jump(
                diffusion.alpha_bars[timestep],
                if timestep == 0 { 1.0 } else { diffusion.alpha_bars[timestep - 1] },
            )[1];
            added = added + z * (beta * shrunk.sqrt());
            variance += beta * beta * shrunk;
        }
        assert!((variance - (1.0 - diffusion.alpha_bars[59])).abs() < 1e-12);
        let eps = added / variance.sqrt();
        let closed = diffusion.noised(&numbers(0.0), &eps, &[59.0, 59.0]);
        assert!(worst(x, closed) < 1e-5);
    }

    #[test]
    fn the_estimate_of_the_target_is_the_data_in_every_objective() {
        for objective in [Objective::Epsilon, Objective::X0, Objective::V, Objective::Score, Objective::Velocity] {
            let (diffusion, times) = (diffusion(objective), [7.0, 30.25]);
            let (x0, eps) = (numbers(0.3), numbers(1.9));
            let x = diffusion.noised(&x0, &eps, &times);
            let found = diffusion.estimate(&x, &diffusion.target(&x0, &eps, &times), &times);
            assert!(worst(found, x0) < 1e-5, "{objective:?}");
        }
    }
}
