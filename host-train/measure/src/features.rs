//! Vectors that stand for samples: a classifier's features, or a sample's own values.

/// Vectors of one length, one a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// `[n, dims]`.
    pub values: Vec<f32>,
    /// Length of a vector, at least 1.
    pub dims: usize,
}

impl Features {
    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.values.len() / self.dims
    }

    /// Whether there are no vectors.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Vector `index`, `[dims]`.
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.dims..][..self.dims]
    }

    /// The vectors with the given numbers, in that order.
    pub fn select(&self, indices: &[usize]) -> Self {
        let values = indices.iter().flat_map(|&index| self.row(index)).copied().collect();
        Self { values, dims: self.dims }
    }
}
