//! The kernels for Armv8.1-M processors with the M-profile vector extension (MVE, Helium): Cortex-M55 and M85.
//!
//! Windows stay in the element's own size. All assembly is for the whole of a loop, in naked functions over pointers into
//! checked slices.

#![allow(unsafe_code, reason = "naked functions over pointers into checked slices")]

/// The assembler takes the extension from a processor that has it: the target's floating-point convention hides it.
macro_rules! mve {
    () => {
        ".cpu cortex-m55"
    };
}

mod gather;
mod multiply;
mod norm;
mod softmax;

use super::Kernel;
use super::conv::{ConvShape, ConvWeights, Destination, Rows};
use super::group_norm::{Line, Moments, TABLE_LEN};
use crate::quant::Activation;
use core::arch::naked_asm;

/// Kernels with the M-profile vector extension.
#[derive(Clone, Copy, Debug)]
pub struct Mve;

impl Kernel for Mve {
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
        multiply::multiply::<I, O>(shape, constants, count, work, output, zero_out, destination);
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

    fn softmax(row: &mut [i16]) {
        softmax::softmax(row);
    }
}

/// Copies `len` bytes to where they do not overlap.
#[unsafe(naked)]
unsafe extern "C" fn copy(from: *const u8, to: *mut u8, len: usize) {
    naked_asm!(
        mve!(),
        "mov r3, lr",
        "wlstp.8 lr, r2, 2f",
        "1:",
        "vldrb.u8 q0, [r0], #16",
        "vstrb.8 q0, [r1], #16",
        "letp lr, 1b",
        "2:",
        "bx r3",
    )
}
