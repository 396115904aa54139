//! x86-64: AVX2, AVX-VNNI or AVX-512 VNNI, whatever the processor has.
//!
//! Asking the processor needs no standard library: `CPUID` says which instructions there are, `XGETBV` which registers the
//! operating system has switched on; where it has not, the definition runs. Everybody who asks gets the same answer, so
//! threads that ask first at the same time do no harm. A target without SSE, such as `x86_64-unknown-none`, has the
//! definition at compile time.

#![allow(unsafe_code, reason = "vector instructions, once the processor is known to have them")]

mod avx512;
mod detect;
mod dot;
mod tile;

use super::conv::{ConvShape, ConvWeights, Destination, Rows};
use super::group_norm::{self, Line, Moments, TABLE_LEN};
use super::{Kernel, conv, softmax, wide};
use crate::quant::Activation;
use dot::{Avx2, AvxVnni};

pub use detect::Level;

/// Kernels of the best [`Level`] that can run, up to the one of number `HIGHEST`.
#[derive(Clone, Copy, Debug)]
pub struct X86<const HIGHEST: u8>;

/// Every level that can run.
pub type Best = X86<{ Level::Avx512Vnni as u8 }>;

impl<const HIGHEST: u8> Kernel for X86<HIGHEST> {
    fn gather<I: Activation>(
        shape: &ConvShape,
        rows: &Rows<'_, I>,
        zero_in: i32,
        first: usize,
        count: usize,
        work: &mut [i16],
    ) {
        // SAFETY: the level can run, so there is AVX2.
        unsafe {
            match (Level::best(HIGHEST), size_of::<I>()) {
                (Level::Definition, _) => conv::gather(shape, rows, zero_in, first, count, work),
                (Level::AvxVnni | Level::Avx512Vnni, 1) => {
                    gather_avx2::<u8, I>(shape, rows, zero_in, first, count, work)
                }
                _ => gather_avx2::<i16, I>(shape, rows, zero_in, first, count, work),
            }
        }
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
        // SAFETY: the level can run.
        unsafe {
            let run = match (Level::best(HIGHEST), size_of::<I>()) {
                (Level::Definition, _) => {
                    return conv::multiply(shape, constants, count, work, output, zero_out, destination);
                }
                (Level::AvxVnni, 1) => multiply_avx_vnni,
                (Level::Avx512Vnni, 1) => tile::multiply::<u8, O>,
                (Level::Avx512Vnni, _) => tile::multiply::<i16, O>,
                _ => multiply_avx2,
            };
            run(shape, constants, count, work, output, zero_out, destination);
        }
    }

    fn moments<I: Activation>(values: &[I], channels: usize, first: usize, size: usize) -> Moments {
        match Level::best(HIGHEST) {
            // SAFETY: the level can run.
            Level::Avx512Vnni => unsafe { avx512::moments(values, channels, first, size) },
            _ => group_norm::moments(values, channels, first, size),
        }
    }

    fn normalize<I: Activation>(
        values: &[I],
        lines: &[Line],
        table: &[i8; TABLE_LEN],
        output: &mut [i8],
        channels_out: usize,
        first: usize,
    ) {
        // SAFETY: the level can run; all but the definition have AVX2.
        unsafe {
            match Level::best(HIGHEST) {
                Level::Definition => group_norm::normalize(values, lines, table, output, channels_out, first),
                Level::Avx2 | Level::AvxVnni => normalize_avx2(values, lines, table, output, channels_out, first),
                Level::Avx512Vnni => avx512::normalize(values, lines, table, output, channels_out, first),
            }
        }
    }

    fn softmax(row: &mut [i16]) {
        match Level::best(HIGHEST) {
            // SAFETY: the level can run.
            Level::Avx512Vnni => unsafe { avx512::softmax(row) },
            _ => softmax::softmax(row),
        }
    }
}

/// The shared gather with AVX2 enabled; windows hold `W`.
#[target_feature(enable = "avx2")]
fn gather_avx2<W: wide::WindowElement, I: Activation>(
    shape: &ConvShape,
    rows: &Rows<'_, I>,
    zero_in: i32,
    first: usize,
    count: usize,
    work: &mut [i16],
) {
    wide::gather::<W, I>(shape, rows, zero_in, first, count, work);
}

/// The shared multiplication with a level's instructions enabled.
macro_rules! multiply {
    ($name:ident, $dot:ident, $features:literal) => {
        #[target_feature(enable = $features)]
        fn $name<O: Activation>(
            shape: &ConvShape,
            constants: &ConvWeights<'_>,
            count: usize,
            work: &[i16],
            output: &mut [O],
            zero_out: i32,
            destination: Destination,
        ) {
            wide::multiply($dot::new(), shape, constants, count, work, output, zero_out, destination);
        }
    };
}
multiply!(multiply_avx2, Avx2, "avx2");
multiply!(multiply_avx_vnni, AvxVnni, "avx2,avxvnni");

/// The shared normalization with AVX2 enabled.
#[target_feature(enable = "avx2")]
fn normalize_avx2<I: Activation>(
    values: &[I],
    lines: &[Line],
    table: &[i8; TABLE_LEN],
    output: &mut [i8],
    channels_out: usize,
    first: usize,
) {
    wide::normalize(values, lines, table, output, channels_out, first);
}
