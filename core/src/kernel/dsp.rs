//! Kernels for Armv7E-M and Armv8-M with the DSP extension (Cortex-M4, M7, M33): two products an instruction (`SMLAD`),
//! rounding once in one (`SMMULR`).
//!
//! What the compiler does not find is in naked functions, each over pointers that a safe function beside it has checked.
//! Single loads and stores may be unaligned on these processors, loads and stores of several registers may not.

#![allow(unsafe_code, reason = "naked functions over pointers into checked slices")]

use super::Kernel;
use super::conv::{ConvShape, ConvWeights, Destination, Rows};
use super::group_norm::{Line, Moments, TABLE_LEN};
use crate::quant::Activation;

/// Armv8-M has the instructions only as an extension, which the assembler takes from a processor that has it. On Armv7E-M
/// there is nothing to name.
#[cfg(mote_dsp_extension)]
macro_rules! dsp_extension {
    () => {
        ".cpu cortex-m33"
    };
}
#[cfg(not(mote_dsp_extension))]
macro_rules! dsp_extension {
    () => {
        ""
    };
}

mod gather;
mod lane;
mod multiply;
mod norm;
mod packed;
mod pairs;
mod single;

/// Kernels with the DSP instructions.
#[derive(Clone, Copy, Debug)]
pub struct Dsp;

impl Kernel for Dsp {
    fn gather<I: Activation>(
        shape: &ConvShape,
        rows: &Rows<'_, I>,
        zero_in: i32,
        first: usize,
        count: usize,
        work: &mut [i16],
    ) {
        gather::gather(shape, rows, zero_in, first, count, work);
    }

    fn multiply<I: Activation, O: Activation>(
        shape: &ConvShape,
        constants: &ConvWeights<'_>,
        count: usize,
        work: &mut [i16],
        output: &mut [O],
        zero_out: i32,
        destination: Destination,
    ) {
        let target = multiply::Target { size: size_of::<O>(), base: zero_out, destination };
        multiply::multiply(shape, constants, count, work, bytemuck::cast_slice_mut(output), target);
    }

    fn moments<I: Activation>(values: &[I], channels: usize, first: usize, size: usize) -> Moments {
        norm::moments(values, channels, first, size)
    }

    fn normalize<I: Activation>(
        values: &[I],
        lines: &[Line],
        table: &[i8; TABLE_LEN],
        output: &mut [i8],
        channels_out: usize,
        first: usize,
    ) {
        norm::normalize(values, lines, table, output, channels_out, first);
    }
}
