//! Reference kernels: one operation a file, plain loops, the definition that every faster kernel must equal byte for byte.

mod conv;
mod group_norm;

pub use conv::{BLOCK, ConvShape, ConvWeights, Destination, QUAD, conv, weight_index};
pub use group_norm::{Affine, NormInput, SILU_TABLE_LEN, group_norm_silu};
