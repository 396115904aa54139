//! Names, shapes and order of a network's parameters.

use burn::backend::Flex;
use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use burn::tensor::backend::Backend;

use super::{ConfigError, Convention, DenoiserConfig};

/// One parameter.
pub(super) struct Entry {
    path: Vec<String>,
    shape: Vec<usize>,
    /// The struct that it is a field of, as burn says it.
    container: String,
}

/// The parameters in the order of [`super::parameters`].
///
/// # Errors
/// [`ConfigError`] if there is no such network.
pub(super) fn layout(network: &DenoiserConfig) -> Result<Vec<Entry>, ConfigError> {
    Ok(entries(&network.init::<Flex>(0, &Default::default())?))
}

/// The names and numbers of values of a module's parameters, in the order of [`super::parameters`].
pub fn names<B: Backend, M: Module<B>>(net: &M) -> Vec<(String, usize)> {
    entries(net).iter().map(|entry| (entry.name(Convention::Own), entry.len())).collect()
}

fn entries<B: Backend, M: Module<B>>(net: &M) -> Vec<Entry> {
    let mut visitor = Visitor::default();
    net.visit(&mut visitor);
    visitor.found
}

impl Entry {
    /// Number of values.
    pub(super) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// The name in a file.
    pub(super) fn name(&self, convention: Convention) -> String {
        let name = self.path.join(".");
        match (convention, name.strip_suffix("gain")) {
            (Convention::PyTorch, Some(norm)) => format!("{norm}weight"),
            _ => name,
        }
    }

    /// The shape in a file.
    pub(super) fn shape(&self, convention: Convention) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if self.is_turned(convention) {
            shape.reverse();
        }
        shape
    }

    /// The values for a file.
    pub(super) fn write(&self, values: &[f32], convention: Convention) -> Vec<f32> {
        if self.is_turned(convention) { transposed(values, self.shape[1]) } else { values.to_vec() }
    }

    /// The values of a file.
    pub(super) fn read(&self, values: Vec<f32>, convention: Convention) -> Vec<f32> {
        if self.is_turned(convention) { transposed(&values, self.shape[0]) } else { values }
    }

    fn is_turned(&self, convention: Convention) -> bool {
        convention == Convention::PyTorch && self.container == "Struct:Linear" && self.shape.len() == 2
    }
}

/// Rows of `columns` values as columns.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns)).copied().collect()
}

#[derive(Default)]
struct Visitor {
    /// Names and containers of the fields that lead here.
    path: Vec<(String, String)>,
    found: Vec<Entry>,
}

/// Whether burn enters a variant, whose name says nothing that the configuration does not.
fn is_enum(container: &str) -> bool {
    container.starts_with("Enum:")
}

impl<B: Backend> ModuleVisitor<B> for Visitor {
    fn enter_module(&mut self, name: &str, container: &str) {
        if !is_enum(container) {
            self.path.push((name.to_owned(), container.to_owned()));
        }
    }

    fn exit_module(&mut self, _: &str, container: &str) {
        if !is_enum(container) {
            self.path.pop();
        }
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<B, D>>) {
        let path = self.path.iter().map(|(name, _)| name.clone()).collect();
        let container = self.path.last().map(|(_, container)| container.clone()).unwrap_or_default();
        self.found.push(Entry { path, shape: param.val().dims().to_vec(), container });
    }
}
