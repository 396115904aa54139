//! Inner products and distances between all vectors of two sets, a block at a time, so that memory grows with n, not n^2.

use nalgebra::DMatrix;
use rayon::prelude::*;

use super::features::Features;

/// Vectors of the first set whose products are in memory at once, for each thread.
const ROWS: usize = 64;
/// Vectors of the second set that are converted to f64 at once.
const TILE: usize = 512;

/// `each(i, products)` for every vector i of `a`, where `products[j]` is its inner product with vector j of `b`, in f64.
/// The closure may overwrite them.
///
/// # Panics
/// If the vectors' lengths differ.
pub(crate) fn products<T: Send>(a: &Features, b: &Features, each: impl Fn(usize, &mut [f64]) -> T + Sync) -> Vec<T> {
    assert_eq!(a.dims, b.dims, "vectors of different lengths");
    let dims = a.dims;
    let doubles = |values: &[f32]| -> Vec<f64> { values.iter().copied().map(f64::from).collect() };
    let block = |number: usize| -> Vec<T> {
        let begin = number * ROWS;
        let rows = ROWS.min(a.len() - begin);
        let left = DMatrix::from_vec(dims, rows, doubles(&a.values[begin * dims..][..rows * dims]));
        let mut out = DMatrix::zeros(b.len(), rows);
        for (tile, values) in b.values.chunks(TILE * dims).enumerate() {
            let count = values.len() / dims;
            // Not a strided view: where a side is short, nalgebra 0.35 writes past the end for one.
            let right = DMatrix::from_row_slice(count, dims, &doubles(values));
            out.rows_mut(tile * TILE, count).gemm(1.0, &right, &left, 0.0);
        }
        let columns = out.as_mut_slice().chunks_exact_mut(b.len());
        columns.enumerate().map(|(row, products)| each(begin + row, products)).collect()
    };
    let blocks: Vec<Vec<T>> = (0..a.len().div_ceil(ROWS)).into_par_iter().map(block).collect();
    blocks.into_iter().flatten().collect()
}

/// `each(i, distances)` for every vector i of `a`, where `distances[j]` is its squared Euclidean distance to vector j of
/// `b`.
pub(crate) fn squared_distances<T: Send>(
    a: &Features,
    b: &Features,
    each: impl Fn(usize, &mut [f64]) -> T + Sync,
) -> Vec<T> {
    let square = |row: &[f32]| row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>();
    let norms: Vec<f64> = b.values.chunks_exact(b.dims).map(square).collect();
    products(a, b, |index, values| {
        let norm = square(a.row(index));
        for (value, other) in values.iter_mut().zip(&norms) {
            *value = (norm + other - 2.0 * *value).max(0.0);
        }
        each(index, values)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Small whole numbers, so that every product and distance is exact.
    pub(crate) fn whole_numbers(n: usize, dims: usize, seed: u32) -> Features {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 24) % 17) as f32 - 8.0
        };
        Features { values: (0..n * dims).map(|_| next()).collect(), dims }
    }

    pub(crate) fn squared(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
    }

    #[test]
    fn blocks_and_tiles_give_every_pair() {
        // More than a block and a tile, and parts of both.
        let (a, b) = (whole_numbers(130, 7, 1), whole_numbers(1100, 7, 2));
        let rows = squared_distances(&a, &b, |index, row| (index, row.to_vec()));
        assert_eq!(rows.len(), 130);
        for (i, (index, row)) in rows.iter().enumerate() {
            assert_eq!((*index, row.len()), (i, 1100));
            assert!((0..1100).all(|j| row[j] == squared(a.row(i), b.row(j))), "row {i}");
        }
    }
}
