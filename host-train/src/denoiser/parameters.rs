//! All parameters of a network as one vector, in the order in which burn visits the module.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

use crate::ops::DenoiserBackend;

/// The parameters, `[all]`.
pub fn parameters<B: Backend, M: Module<B>>(net: &M) -> Tensor<B, 1> {
    let mut collect = Collect { parts: Vec::new() };
    net.visit(&mut collect);
    Tensor::cat(collect.parts, 0)
}

/// The parameters' gradients, `[all]`, zero where the loss does not depend on one.
pub fn gradients<B, M: Module<B>>(net: &M, grads: &B::Gradients) -> Tensor<B::InnerBackend, 1>
where
    B: AutodiffBackend,
    B::InnerBackend: DenoiserBackend,
{
    let mut collect = CollectGradients { grads, parts: Vec::new() };
    net.visit(&mut collect);
    B::InnerBackend::join(collect.parts)
}

/// The network with other parameters, `[all]`; each is a leaf that tracks its gradient.
pub fn set_parameters<B: DenoiserBackend, M: Module<B>>(net: M, parameters: Tensor<B, 1>) -> M {
    let mut lens = Lens(Vec::new());
    net.visit(&mut lens);
    assert_eq!(lens.0.iter().sum::<usize>(), parameters.dims()[0], "a vector of another network");
    net.map(&mut Replace { parts: B::split(parameters, &lens.0).into_iter() })
}

/// How many values each parameter has.
struct Lens(Vec<usize>);

impl<B: Backend> ModuleVisitor<B> for Lens {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        self.0.push(param.val().shape().num_elements());
    }
}

struct Collect<B: Backend> {
    parts: Vec<Tensor<B, 1>>,
}

impl<B: Backend> ModuleVisitor<B> for Collect<B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let values = param.val();
        let len = values.shape().num_elements();
        self.parts.push(values.reshape([len]));
    }
}

struct CollectGradients<'a, B: AutodiffBackend> {
    grads: &'a B::Gradients,
    parts: Vec<Tensor<B::InnerBackend, 1>>,
}

impl<B: AutodiffBackend> ModuleVisitor<B> for CollectGradients<'_, B> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let values = param.val();
        let len = values.shape().num_elements();
        self.parts.push(match values.grad(self.grads) {
            Some(gradient) => gradient.reshape([len]),
            None => Tensor::zeros([len], &values.device()),
        });
    }
}

struct Replace<B: Backend> {
    parts: std::vec::IntoIter<Tensor<B, 1>>,
}

impl<B: Backend> ModuleMapper<B> for Replace<B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let part = self.parts.next().expect("a part for each parameter").reshape(param.val().shape());
        Param::initialized(param.id, part.detach().require_grad())
    }
}
