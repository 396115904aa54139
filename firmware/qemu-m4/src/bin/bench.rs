//! Runs each kernel once on the shapes that peers are measured on, between the markers of the instruction counter.
//!
//! Logs a line a case, in the order of the counts: `case NAME; WORK; SCRATCH`, the work in multiply-accumulates or
//! elements, the scratch in bytes.
#![no_std]
#![no_main]

use core::hint::black_box;
use mote_core::kernel::{Chosen, ConvShape, ConvWeights, Destination, GroupScale, Kernel, Line, TABLE_LEN, convolve};
use mote_core::noise::philox4x32_10;
use mote_core::view::I32s;
use qemu_m4::markers::{mote_mark_begin, mote_mark_end};

/// A convolution's name, side of the image, input channels, output channels, side of the kernel.
const CONVOLUTIONS: [(&str, usize, usize, usize, usize); 8] = [
    ("conv 3x3", 28, 16, 16, 3),
    ("conv 3x3", 14, 32, 32, 3),
    ("conv 3x3", 7, 64, 64, 3),
    ("conv 3x3", 28, 1, 16, 3),
    ("conv 1x1", 14, 32, 64, 1),
    ("conv 1x1", 14, 64, 32, 1),
    ("fully connected", 1, 256, 256, 1),
    ("matmul", 7, 576, 64, 1),
];

/// The largest arrays of the cases above, in elements.
const INPUT: usize = 7 * 7 * 576;
const RESIDUAL: usize = 28 * 28 * 16;
const OUTPUT: usize = 28 * 28 * 16;
const WEIGHTS: usize = 256 * 256;
const SCRATCH: usize = 16 * 1024;

struct Memory {
    input: [i8; INPUT],
    residual: [i16; RESIDUAL],
    output: [i8; OUTPUT],
    weights: [i8; WEIGHTS],
    scratch: [i16; SCRATCH],
    bias: [u8; 4 * 256],
    multipliers: [u8; 4 * 256],
}

static mut MEMORY: Memory = Memory {
    input: [0; INPUT],
    residual: [0; RESIDUAL],
    output: [0; OUTPUT],
    weights: [0; WEIGHTS],
    scratch: [0; SCRATCH],
    bias: [0; 4 * 256],
    multipliers: [0; 4 * 256],
};

#[qemu_m4::entry]
fn main() -> ! {
    // SAFETY: `main` runs once and nothing else names the memory.
    let memory = unsafe { &mut *(&raw mut MEMORY) };
    fill(memory);
    for (name, side, channels_in, channels_out, kernel) in CONVOLUTIONS {
        let sides = [side, side];
        let shape =
            ConvShape { input: sides, channels_in, output: sides, channels_out, kernel, stride: 1, upsample: 1 };
        run_conv(memory, &shape);
        let (macs, scratch) = (shape.macs(), shape.work_len(pixels_a_pass(&shape)));
        defmt::info!(
            "case {=str} {=usize}x{=usize} {=usize}->{=usize}; {=u64}; {=usize}",
            name,
            side,
            side,
            channels_in,
            channels_out,
            macs,
            scratch
        );
    }
    run_norm(memory);
    defmt::info!("case group norm + SiLU 28x28 16->16; {=u64}; {=usize}", RESIDUAL as u64, 0);
    qemu_m4::succeed()
}

/// Bytes without pattern; the kernels' time does not depend on them.
fn fill(memory: &mut Memory) {
    let mut words = (0..).flat_map(|block| philox4x32_10([block, 0, 0, 0], [1, 0]));
    let mut byte = || words.next().unwrap_or(0) as i8;
    memory.input.fill_with(&mut byte);
    memory.weights.fill_with(&mut byte);
    memory.residual.fill_with(|| i16::from(byte()) << 5);
    for multiplier in memory.multipliers.as_chunks_mut().0 {
        *multiplier = 4_000_000i32.to_le_bytes();
    }
}

fn run_conv(memory: &mut Memory, shape: &ConvShape) {
    let area = shape.pixels();
    let constants = ConvWeights {
        weights: &memory.weights[..shape.packed_len()],
        bias: I32s::new(&memory.bias[..4 * shape.channels_out]),
        multipliers: I32s::new(&memory.multipliers[..4 * shape.channels_out]),
    };
    let input = &memory.input[..area * shape.channels_in];
    let output = &mut memory.output[..area * shape.channels_out];
    let (pixels, scratch) = (pixels_a_pass(shape), &mut memory.scratch[..]);
    mote_mark_begin();
    // As in a model, nothing of this is known to the compiler.
    let [zero_in, zero_out] = black_box([-3, 5]);
    let destination = black_box(Destination::Overwrite);
    convolve::<Chosen, _, _>(
        black_box(shape),
        &constants,
        input,
        zero_in,
        output,
        zero_out,
        destination,
        pixels,
        scratch,
    );
    mote_mark_end();
}

/// Output pixels a pass: what fits in 8 kB of windows.
fn pixels_a_pass(shape: &ConvShape) -> usize {
    (8192 / (4 * shape.padded_taps()) * 2).clamp(2, shape.pixels().next_multiple_of(2))
}

fn run_norm(memory: &mut Memory) {
    let Some(table) = memory.input.first_chunk::<TABLE_LEN>() else { return };
    let mut lines = [Line::default(); 16];
    mote_mark_begin();
    for (index, lines) in lines.chunks_mut(4).enumerate() {
        let moments = Chosen::moments(&memory.residual, 16, 4 * index, 4);
        lines.fill(GroupScale::new(&moments, 28 * 28 * 4, 100, 8).line([4_000, 100], 6));
    }
    Chosen::normalize(&memory.residual, black_box(&lines), table, &mut memory.output, 16, 0);
    mote_mark_end();
}
