//! Classifier guidance (Dhariwal, Nichol, *Diffusion Models Beat GANs on Image Synthesis*, 2021): the gradient of
//! `log p(class | x)` of a classifier of noised data moves each estimate towards a class.

use burn::tensor::activation::log_softmax;
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{Int, Tensor};
use mote_core::step_table::StepRow;

use super::{Denoise, Estimate};

/// Something that tells classes of noised data apart.
pub trait Classify<B: Backend> {
    /// Logits, `[batch, classes]`, of states that `row` expects, `[batch, channels, height, width]`.
    fn logits(&self, x: Tensor<B, 4>, row: &StepRow) -> Tensor<B, 2>;
}

impl<B: Backend, F: Fn(Tensor<B, 4>, &StepRow) -> Tensor<B, 2>> Classify<B> for F {
    fn logits(&self, x: Tensor<B, 4>, row: &StepRow) -> Tensor<B, 2> {
        self(x, row)
    }
}

/// A denoiser whose score is moved by `scale` times the gradient of `log p(class | x)` (algorithm 2 of the paper:
/// `eps <- eps - scale noise gradient`).
pub struct ClassifierGuided<'a, B: AutodiffBackend> {
    /// The denoiser to be guided; conditional or not.
    pub denoise: &'a dyn Denoise<B::InnerBackend>,
    /// The classifier of its states.
    pub classifier: &'a dyn Classify<B>,
    /// The class wanted of each sample.
    pub classes: &'a [usize],
    /// 1 draws from the conditional distribution where denoiser and classifier are exact; more prefers typical samples.
    pub scale: f64,
}

impl<B: AutodiffBackend> ClassifierGuided<'_, B> {
    /// The gradient of each sample's `log p(class | x)`, of x's shape.
    fn gradient(&self, x: &Tensor<B::InnerBackend, 4>, row: &StepRow) -> Tensor<B::InnerBackend, 4> {
        let leaf = Tensor::<B, 4>::from_inner(x.clone()).require_grad();
        let wanted: Vec<i32> = self.classes.iter().map(|&class| class as i32).collect();
        let wanted = Tensor::<B, 1, Int>::from_ints(&wanted[..], &leaf.device()).unsqueeze_dim(1);
        let log_p = log_softmax(self.classifier.logits(leaf.clone(), row), 1).gather(1, wanted).sum();
        let gradients = log_p.backward();
        leaf.grad(&gradients).unwrap_or_else(|| x.zeros_like())
    }
}

impl<B: AutodiffBackend> Denoise<B::InnerBackend> for ClassifierGuided<'_, B> {
    fn estimate(
        &self,
        x: &Tensor<B::InnerBackend, 4>,
        row: &StepRow,
        previous: Option<&Tensor<B::InnerBackend, 4>>,
    ) -> Estimate<B::InnerBackend> {
        let Estimate { x0, variance } = self.denoise.estimate(x, row, previous);
        // x0 = (x - noise eps) / signal
        let factor = self.scale * row.noise * row.noise / row.signal;
        Estimate { x0: x0 + self.gradient(x, row) * factor, variance }
    }
}
