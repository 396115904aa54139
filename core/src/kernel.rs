//! Kernels: one operation a file, plain loops, the definition; `dsp` holds the faster twin of the convolution, which must
//! equal it byte for byte. The build script chooses.

mod conv;
#[cfg(mote_dsp)]
mod dsp;
mod group_norm;

#[cfg(not(mote_dsp))]
pub use conv::conv;
pub use conv::{BLOCK, ConvShape, ConvWeights, Destination, QUAD, conv as conv_reference, weight_index};
#[cfg(mote_dsp)]
pub use dsp::conv;
pub use group_norm::{Affine, NormInput, SILU_TABLE_LEN, group_norm_silu};
