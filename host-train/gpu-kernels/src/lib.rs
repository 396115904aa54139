//! The GPU kernels that training spends its time in, written with cubecl, some for Hopper GPUs in CUDA C++; no tensor
//! library.
//!
//! Activations are channels last in memory, `[batch, height, width, channels]`: a pixel's channels are one wide load, and a
//! convolution is a matrix product whose rows are pixels. [`Precision`] says how they are kept and multiplied; products
//! are summed in f32. Weights, statistics and all gradients of parameters are f32. Every sum has a fixed order: the same inputs give the same bits on the same GPU.
//!
//! Sizes are known when a kernel is compiled, but for the batch: index arithmetic is multiplications by constants, and a
//! network compiles one kernel a distinct layer, once, into cubecl's cache.

pub mod conv;
pub mod elementwise;
pub mod group_norm;
mod hopper;
pub mod noise;
pub mod optimizer;
pub mod vectors;

use cubecl::prelude::*;
use cubecl::server::Handle;

/// How activations are kept and multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// bfloat16.
    Half,
    /// f32, rounded to tf32 where matrix units multiply.
    Single,
    /// f32, rounded to bfloat16 where matrix units multiply.
    Mixed,
}

impl Precision {
    /// Bytes of a value.
    pub fn size(self) -> usize {
        match self {
            Self::Half => 2,
            Self::Single | Self::Mixed => 4,
        }
    }

    /// Bytes of an operand of the matrix units.
    fn operand_size(self) -> usize {
        match self {
            Self::Half | Self::Mixed => 2,
            Self::Single => 4,
        }
    }
}

/// Threads of a block, in all kernels but the convolutions.
const THREADS: usize = 256;

/// The widest load, of 16 bytes at most, that divides `channels` values.
fn vector_size(channels: usize, precision: Precision) -> usize {
    let widest = 16 / precision.size();
    [8, 4, 2, 1].into_iter().find(|&size| size <= widest && channels.is_multiple_of(size)).unwrap_or(1)
}

/// `len` values as a kernel's argument.
fn array<R: Runtime>(handle: &Handle, len: usize) -> ArrayArg<R> {
    // SAFETY: the callers compute `len` from the shapes that the handle was made for.
    unsafe { ArrayArg::from_raw_parts(handle.clone(), len) }
}

/// Blocks for `count` units of work.
fn blocks(count: usize, each: usize) -> CubeCount {
    CubeCount::Static(count.div_ceil(each) as u32, 1, 1)
}

/// Calls the kernel for the precision's type of activation and of operands of the matrix units.
macro_rules! dispatch {
    ($precision:expr, $kernel:ident :: <$runtime:ident> $arguments:tt) => {
        match $precision {
            // SAFETY: the kernel guards its loads and stores by the shapes it is compiled for.
            $crate::Precision::Half => unsafe { $kernel::launch_unchecked::<half::bf16, $runtime> $arguments },
            // SAFETY: as above.
            $crate::Precision::Single | $crate::Precision::Mixed => unsafe { $kernel::launch_unchecked::<f32, $runtime> $arguments },
        }
    };
}
use dispatch;
