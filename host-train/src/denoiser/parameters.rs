//! All parameters of a network as one vector, in the order in which burn visits the module.

use std::marker::PhantomData;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::{AutodiffBackend, Backend};

/// The parameters, `[all]`.
pub fn parameters<B: Backend, M: Module<B>>(net: &M) -> Tensor<B, 1> {
    let mut collect = Collect { parts: Vec::new() };
    net.visit(&mut collect);
    Tensor::cat(collect.parts, 0)
}

/// The parameters' gradients, `[all]`, zero where the loss does not depend on one.
pub fn gradients<B: AutodiffBackend, M: Module<B>>(net: &M, grads: &B::Gradients) -> Tensor<B::InnerBackend, 1> {
    let mut collect = CollectGradients { grads, parts: Vec::new() };
    net.visit(&mut collect);
    Tensor::cat(collect.parts, 0)
}

/// The network with other parameters, `[all]`; each is a leaf that tracks its gradient.
pub fn set_parameters<B: Backend, M: Module<B>>(net: M, parameters: Tensor<B, 1>) -> M {
    let mut replace = Replace { parameters, used: 0, backend: PhantomData };
    let net = net.map(&mut replace);
    assert_eq!(replace.used, replace.parameters.dims()[0], "a vector of another network");
    net
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
    parameters: Tensor<B, 1>,
    used: usize,
    backend: PhantomData<B>,
}

impl<B: Backend> ModuleMapper<B> for Replace<B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let shape = param.val().shape();
        let len = shape.num_elements();
        let part = self.parameters.clone().narrow(0, self.used, len).reshape(shape);
        self.used += len;
        Param::initialized(param.id, part.detach().require_grad())
    }
}
