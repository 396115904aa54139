//! The products: two pixels x four channels, or one pixel x eight channels, sixteen i8 or eight i16 elements at a time.
//!
//! `VLD4` takes four quads of four channels apart into a register a channel; `VMLADAVA` adds sixteen products to one of the
//! eight even general registers. So 128 multiply-accumulates take 4 loads of weights, 2 of elements and 8 `VMLADAVA`. The
//! sums then go to two vector registers and are requantized, saturated and stored four channels at a time.
//!
//! A *chunk* is what one vector register holds of a window. Quads that fill no chunk come first, as the *head*: their
//! weights are copied and padded with zeros once a block, so whatever lies behind the head's elements in memory is taken
//! times zero. The loop behind it is four chunks long and entered in its middle.

use super::super::conv::{BLOCK, ConvShape, ConvWeights, Destination, QUAD};
use crate::quant::Activation;
use core::arch::naked_asm;
use core::mem::offset_of;

/// Bytes of a vector register.
const VECTOR: usize = 16;
/// Chunks of the unrolled loop.
const UNROLL: usize = 4;
/// Bytes of the instructions of a chunk in [`pairs_i8`] and [`pairs_i16`].
const PAIR_CHUNK: usize = 14 * 4;
/// Bytes of the instructions of a chunk in [`last_i8`] and [`last_i16`].
const LAST_CHUNK: usize = 17 * 4;

/// Where in a pass the assembly's pointer points: the sums before it, the bias from it on.
const BASE: usize = offset_of!(Pass, bias);

/// What the assembly works on, and where it keeps what does not fit in registers.
#[repr(C, align(8))]
struct Pass {
    /// On the way from general to vector registers.
    sums: [i32; BLOCK],
    /// Of the present block; of the second one for a last pixel.
    bias: [[i32; BLOCK]; 2],
    /// Of the second block.
    multiplier: [i32; BLOCK],
    /// The head's weights, padded, of both blocks.
    head: [[u8; 64]; 2],
    /// Weights behind the head, and turns of the loop. They are loaded together.
    weights: *const u8,
    turns: usize,
    /// Bytes from one output pixel to the next, and the windows' end. They are loaded together.
    pixel_len: usize,
    end: *const u8,
    /// Where the code goes on: at a pixel's start, behind its head, with its sums.
    entry: usize,
    after_head: usize,
    finish: usize,
    /// Bytes of the loop's instructions that the first turn leaves out.
    skip: usize,
    /// Which way to finish: 2 for an i16 output, 1 for adding to it.
    kind: usize,
    windows: *const u8,
    window_len: usize,
    /// Bytes of the elements of the head.
    head_len: usize,
    /// Quads of the head to copy from the weights, and bytes of a block behind them.
    head_quads: usize,
    block_rest: usize,
    /// A last pixel's second block.
    second_weights: *const u8,
    second_head: *const u8,
    /// Constants, weights and outputs of the blocks to come. Neighbors are loaded together.
    next_bias: *const u8,
    next_multiplier: *const u8,
    source: *const u8,
    channels: usize,
    output: *mut u8,
    /// Bytes of a block's outputs.
    block_len: usize,
    zero_out: i32,
}

/// See [`super::super::Kernel::multiply`]; the windows lie at the beginning of `work`, one after the other.
pub(super) fn multiply<I: Activation, O: Activation>(
    shape: &ConvShape,
    constants: &ConvWeights<'_>,
    count: usize,
    work: &mut [i16],
    output: &mut [O],
    zero_out: i32,
    destination: Destination,
) {
    let (taps, channels) = (shape.padded_taps(), shape.channels_out);
    let block_weights = taps * BLOCK;
    let window_len = taps * size_of::<I>();
    let Some((windows, spare)) = work.split_at_mut_checked(count * window_len / 2) else { return };
    let (bias, multipliers) = (constants.bias.bytes(), constants.multipliers.bytes());
    // What the assembly relies on; parse and the driver see to it.
    let fits = shape.packed_len() <= constants.weights.len()
        && 4 * channels <= bias.len().min(multipliers.len())
        && count * channels <= output.len()
        && 8 * taps <= 2 * spare.len()
        && windows.as_ptr().addr().is_multiple_of(4)
        && taps > 0;
    if !fits {
        return;
    }
    let wide = size_of::<I>() == 2;
    let quads = taps / QUAD;
    let chunk_quads = VECTOR / QUAD / size_of::<I>();
    let (chunks, head_quads) = (quads / chunk_quads, quads % chunk_quads);
    // One block at a time where the weights are first copied to the spare memory: widened, or to where they are aligned.
    let copied = wide || !constants.weights.as_ptr().addr().is_multiple_of(4);
    let step = if copied { BLOCK } else { channels };
    // A widened head is put in its place here.
    let copied_quads = if wide { 0 } else { head_quads };
    let windows = windows.as_ptr().cast::<u8>();
    let pixel_len = channels * size_of::<O>();
    let pairs_end = windows.wrapping_add(count / 2 * 2 * window_len);
    let mut pass = Pass {
        sums: [0; BLOCK],
        bias: [[0; BLOCK]; 2],
        multiplier: [0; BLOCK],
        head: [[0; 64]; 2],
        weights: core::ptr::null(),
        turns: chunks.div_ceil(UNROLL),
        pixel_len,
        end: pairs_end,
        entry: 0,
        after_head: 0,
        finish: 0,
        skip: 0,
        kind: 2 * (size_of::<O>() - 1) + usize::from(destination == Destination::Accumulate),
        windows,
        window_len,
        head_len: head_quads * QUAD * size_of::<I>(),
        head_quads: copied_quads,
        block_rest: (quads - copied_quads) * BLOCK * QUAD,
        second_weights: core::ptr::null(),
        second_head: core::ptr::null(),
        next_bias: core::ptr::null(),
        next_multiplier: core::ptr::null(),
        source: core::ptr::null(),
        channels: 0,
        output: core::ptr::null_mut(),
        block_len: BLOCK * size_of::<O>(),
        zero_out,
    };
    let (pairs, last): (Run, Run) = if wide { (pairs_i16, last_i16) } else { (pairs_i8, last_i8) };
    for first in (0..channels).step_by(step.max(1)) {
        let Some(weights) = constants.weights.get(first * taps..) else { return };
        let source = if copied {
            let Some((head, rest)) = weights.split_at_checked((head_quads - copied_quads) * BLOCK * QUAD) else {
                return;
            };
            // SAFETY: a block's weights fit the spare memory, which has 8 bytes for each of its `taps`: one byte each, or two
            // where pairs of quads of four channels, 32 bytes, are widened.
            unsafe {
                if wide {
                    widen_head(head, &mut pass.head[0]);
                    widen(rest.as_ptr(), spare.as_mut_ptr(), chunks);
                } else {
                    super::copy(weights.as_ptr().cast(), spare.as_mut_ptr().cast(), block_weights);
                }
            }
            spare.as_ptr().cast()
        } else {
            weights.as_ptr().cast()
        };
        let mut run = |windows: *const u8, from: usize, chunk_len: usize, code: Run| {
            pass.windows = windows;
            pass.pixel_len = pixel_len;
            pass.skip = chunks.wrapping_neg() % UNROLL * chunk_len;
            pass.next_bias = bias.as_ptr().wrapping_add(4 * first);
            pass.next_multiplier = multipliers.as_ptr().wrapping_add(4 * first);
            pass.source = source;
            pass.channels = step.min(channels - first);
            pass.output = output.as_mut_ptr().wrapping_add(from * channels + first).cast();
            // SAFETY: windows, weights, constants and outputs of `count` pixels lie inside their slices (`fits`), the weights
            // at a multiple of 4. Behind a head's elements up to 12 bytes more are read, which lie in `work`: the spare
            // memory has 8 bytes for each tap.
            unsafe { code(&mut pass) }
        };
        if count > 1 {
            run(windows, 0, PAIR_CHUNK, pairs);
        }
        if !count.is_multiple_of(2) {
            run(pairs_end, count - 1, LAST_CHUNK, last);
        }
    }
}

/// A pass over all of its blocks.
type Run = unsafe extern "C" fn(&mut Pass);

/// One quad of four channels, widened: for each channel its four weights and four zeros.
fn widen_head(quad: &[i8], head: &mut [u8; 64]) {
    for (from, to) in quad.as_chunks::<QUAD>().0.iter().zip(head.as_chunks_mut::<16>().0) {
        for (&weight, bytes) in from.iter().zip(to.as_chunks_mut::<2>().0) {
            *bytes = i16::from(weight).to_le_bytes();
        }
    }
}

/// Pairs of quads of four channels, widened: for each pair and channel its eight weights.
#[unsafe(naked)]
unsafe extern "C" fn widen(weights: *const i8, widened: *mut i16, pairs: usize) {
    naked_asm!(
        mve!(),
        "push {{r4, lr}}",
        "adr r3, 3f",
        "vldrb.u16 q0, [r3]",
        "wls lr, r2, 2f",
        "1:",
        "adds r2, r0, #4",
        "add.w r3, r0, #8",
        "add.w r4, r0, #12",
        "vldrb.s16 q1, [r0, q0]",
        "vstrh.16 q1, [r1], #16",
        "vldrb.s16 q1, [r2, q0]",
        "vstrh.16 q1, [r1], #16",
        "vldrb.s16 q1, [r3, q0]",
        "vstrh.16 q1, [r1], #16",
        "vldrb.s16 q1, [r4, q0]",
        "vstrh.16 q1, [r1], #16",
        "adds r0, #32",
        "le lr, 1b",
        "2:",
        "pop {{r4, pc}}",
        // Where a channel's weights lie in a pair of quads.
        ".p2align 2",
        "3: .byte 0, 1, 2, 3, 16, 17, 18, 19",
    )
}

/// One block's weights of a chunk, from the register on: i8 in quads, or i16 channel by channel.
macro_rules! weights {
    (i8, $at:literal) => {
        concat!(
            "vld40.32 {{q0, q1, q2, q3}}, [",
            $at,
            "]\n",
            "vld41.32 {{q0, q1, q2, q3}}, [",
            $at,
            "]\n",
            "vld42.32 {{q0, q1, q2, q3}}, [",
            $at,
            "]\n",
            "vld43.32 {{q0, q1, q2, q3}}, [",
            $at,
            "]!\n",
        )
    };
    (i16, $at:literal) => {
        concat!(
            "vldrh.u16 q0, [",
            $at,
            "], #16\n",
            "vldrh.u16 q1, [",
            $at,
            "], #16\n",
            "vldrh.u16 q2, [",
            $at,
            "], #16\n",
            "vldrh.u16 q3, [",
            $at,
            "], #16\n",
        )
    };
}

/// A chunk's elements of one pixel, and whether the pointer moves on.
macro_rules! elements {
    (i8, $to:literal, $at:literal, $update:literal) => {
        concat!("vldrb.u8 ", $to, ", [", $at, "]", $update, "\n")
    };
    (i16, $to:literal, $at:literal, $update:literal) => {
        concat!("vldrh.u16 ", $to, ", [", $at, "]", $update, "\n")
    };
}

/// Products of a chunk with the four channels, added to four registers.
macro_rules! products {
    (i8, $with:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        products!("s8", $with, $a, $b, $c, $d)
    };
    (i16, $with:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        products!("s16", $with, $a, $b, $c, $d)
    };
    ($type:literal, $with:literal, $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "vmladava.",
            $type,
            " ",
            $a,
            ", q0, ",
            $with,
            "\n",
            "vmladava.",
            $type,
            " ",
            $b,
            ", q1, ",
            $with,
            "\n",
            "vmladava.",
            $type,
            " ",
            $c,
            ", q2, ",
            $with,
            "\n",
            "vmladava.",
            $type,
            " ",
            $d,
            ", q3, ",
            $with,
            "\n",
        )
    };
}

/// A chunk of two pixels and four channels: [`PAIR_CHUNK`] bytes.
macro_rules! pair_chunk {
    ($element:ident, $update:literal) => {
        concat!(
            weights!($element, "r1"),
            elements!($element, "q4", "r3", $update),
            elements!($element, "q5", "r5", $update),
            products!($element, "q4", "r0", "r2", "r4", "r6"),
            products!($element, "q5", "r8", "r10", "r12", "lr"),
        )
    };
}

/// A chunk of one pixel and eight channels: [`LAST_CHUNK`] bytes.
macro_rules! last_chunk {
    ($element:ident, $update:literal) => {
        concat!(
            weights!($element, "r1"),
            elements!($element, "q4", "r5", $update),
            products!($element, "q4", "r0", "r2", "r4", "r6"),
            weights!($element, "r3"),
            products!($element, "q4", "r8", "r10", "r12", "lr"),
        )
    };
}

/// Saves registers, takes the pass to r11 and the output's zero point to q7, and says where the code goes on: label 30 is
/// the head, 40 the loop, 50 what follows it, 70 the ways to finish.
macro_rules! begin {
    () => {
        concat!(
            "push {{r4, r5, r6, r7, r8, r9, r10, r11, lr}}\n",
            "vpush {{d8, d9, d10, d11, d12, d13, d14, d15}}\n",
            "add.w r11, r0, #16\n",
            "ldr.w r1, [r11, #{zero_out}]\n",
            "vdup.32 q7, r1\n",
            "adr.w r1, 40f\n",
            "ldr.w r2, [r11, #{skip}]\n",
            "add r1, r2\n",
            "ldr.w r3, [r11, #{turns}]\n",
            "cbnz r3, 1f\n",
            "adr.w r1, 50f\n",
            "1: adds r1, #1\n",
            "str.w r1, [r11, #{after_head}]\n",
            "ldr.w r2, [r11, #{head_len}]\n",
            "cbz r2, 2f\n",
            "adr.w r1, 30f\n",
            "adds r1, #1\n",
            "2: str.w r1, [r11, #{entry}]\n",
            "adr.w r1, 70f\n",
            "ldr.w r2, [r11, #{kind}]\n",
            "ldr.w r2, [r1, r2, lsl #2]\n",
            "add r1, r2\n",
            "adds r1, #1\n",
            "str.w r1, [r11, #{finish}]\n",
        )
    };
}

/// Constants of the next block, the first of `r2` channels: bias to q0, multipliers to q6, the predicate for its channels.
macro_rules! constants {
    () => {
        concat!(
            "ldr.w r2, [r11, #{channels}]\n",
            "ldrd r0, r1, [r11, #{next_bias}]\n",
            "ldr.w r3, [r11, #{source}]\n",
            "vctp.32 r2\n",
            "vpstt\n",
            "vldrbt.u8 q0, [r0], #16\n",
            "vldrbt.u8 q6, [r1], #16\n",
            "vstrw.32 q0, [r11]\n",
        )
    };
}

/// Copies the head's weights from r3 to r5.
macro_rules! copy_head {
    () => {
        concat!(
            "ldr.w r4, [r11, #{head_quads}]\n",
            "cbz r4, 4f\n",
            "3: vldrb.u8 q2, [r3], #16\n",
            "vstrw.32 q2, [r5], #16\n",
            "subs r4, #1\n",
            "bne 3b\n",
            "4:\n",
        )
    };
}

/// The sums to q4 and q5.
macro_rules! sums {
    () => {
        concat!(
            "stmdb r11, {{r0, r2, r4, r6}}\n",
            "vldrw.u32 q4, [r11, #-16]\n",
            "stmdb r11, {{r8, r10, r12, lr}}\n",
            "vldrw.u32 q5, [r11, #-16]\n",
        )
    };
}

/// The four ways to finish: q4 goes to r7, q5 behind it by r0, whose address stays in r4.
macro_rules! finish {
    () => {
        concat!(
            // i8, added to.
            "62: add.w r4, r7, r0\n",
            "vpstt\n",
            "vldrbt.s32 q0, [r7]\n",
            "vldrbt.s32 q1, [r4]\n",
            "vadd.i32 q4, q4, q0\n",
            "vadd.i32 q5, q5, q1\n",
            "b 5f\n",
            // i16, added to.
            "64: add.w r4, r7, r0\n",
            "vpstt\n",
            "vldrht.s32 q0, [r7]\n",
            "vldrht.s32 q1, [r4]\n",
            "vadd.i32 q4, q4, q0\n",
            "vadd.i32 q5, q5, q1\n",
            "b 6f\n",
            // i16.
            "63: vadd.i32 q4, q4, q7\n",
            "vadd.i32 q5, q5, q7\n",
            "6: vqmovnb.s32 q4, q4\n",
            "vqmovnb.s32 q5, q5\n",
            "add.w r4, r7, r0\n",
            "vpstt\n",
            "vstrht.32 q4, [r7]\n",
            "vstrht.32 q5, [r4]\n",
            "b 80f\n",
            // i8.
            "61: vadd.i32 q4, q4, q7\n",
            "vadd.i32 q5, q5, q7\n",
            "5: vqmovnb.s32 q4, q4\n",
            "vqmovnb.s32 q5, q5\n",
            "vqmovnb.s16 q4, q4\n",
            "vqmovnb.s16 q5, q5\n",
            "add.w r4, r7, r0\n",
            "vpstt\n",
            "vstrbt.32 q4, [r7]\n",
            "vstrbt.32 q5, [r4]\n",
        )
    };
}

/// Returns. Behind it the ways to finish, in the order of [`Pass::kind`].
macro_rules! end {
    () => {
        concat!(
            "vpop {{d8, d9, d10, d11, d12, d13, d14, d15}}\n",
            "pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}\n",
            ".p2align 2\n",
            "70: .word 61b - 70b, 62b - 70b, 63b - 70b, 64b - 70b\n",
        )
    };
}

/// A function's instructions; the assembly names what of a pass both functions take, and what `$only` adds to that.
macro_rules! pass_asm {
    ($($line:expr,)+ ; $($only:ident),+) => {
        naked_asm!(
            $($line,)+
            head = const offset_of!(Pass, head) - BASE,
            weights = const offset_of!(Pass, weights) - BASE,
            turns = const offset_of!(Pass, turns) - BASE,
            pixel_len = const offset_of!(Pass, pixel_len) - BASE,
            entry = const offset_of!(Pass, entry) - BASE,
            after_head = const offset_of!(Pass, after_head) - BASE,
            finish = const offset_of!(Pass, finish) - BASE,
            skip = const offset_of!(Pass, skip) - BASE,
            kind = const offset_of!(Pass, kind) - BASE,
            windows = const offset_of!(Pass, windows) - BASE,
            head_len = const offset_of!(Pass, head_len) - BASE,
            head_quads = const offset_of!(Pass, head_quads) - BASE,
            block_rest = const offset_of!(Pass, block_rest) - BASE,
            next_bias = const offset_of!(Pass, next_bias) - BASE,
            source = const offset_of!(Pass, source) - BASE,
            channels = const offset_of!(Pass, channels) - BASE,
            output = const offset_of!(Pass, output) - BASE,
            zero_out = const offset_of!(Pass, zero_out) - BASE,
            $($only = const offset_of!(Pass, $only) - BASE,)+
        )
    };
}

/// Pairs of pixels, for all blocks.
///
/// Registers: r0, r2, r4, r6 the first pixel's sums, r8, r10, r12, lr the second's; r1 weights, r3 and r5 elements, r7
/// outputs, r9 turns, r11 the pass; q0 to q3 weights, q4 and q5 elements, q6 multipliers, q7 the zero point.
macro_rules! pairs {
    ($name:ident, $element:ident) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(pass: &mut Pass) {
            pass_asm!(
                mve!(),
                begin!(),
                "10:",
                constants!(),
                "strd r0, r1, [r11, #{next_bias}]",
                "add.w r5, r11, #{head}",
                copy_head!(),
                "str.w r3, [r11, #{weights}]",
                "ldr.w r4, [r11, #{block_rest}]",
                "add r3, r4",
                "str.w r3, [r11, #{source}]",
                "ldrd r3, r4, [r11, #{windows}]",
                "adds r5, r3, r4",
                "ldr.w r7, [r11, #{output}]",
                "20:",
                "ldm r11, {{r0, r2, r4, r6}}",
                "ldm r11, {{r8, r10, r12, lr}}",
                "ldrd r1, r9, [r11, #{weights}]",
                "ldr.w pc, [r11, #{entry}]",
                "30:",
                "add.w r1, r11, #{head}",
                pair_chunk!($element, ""),
                "ldr.w r1, [r11, #{head_len}]",
                "add r3, r1",
                "add r5, r1",
                "ldr.w r1, [r11, #{weights}]",
                "ldr.w pc, [r11, #{after_head}]",
                ".p2align 2",
                "40:",
                pair_chunk!($element, ", #16"),
                pair_chunk!($element, ", #16"),
                pair_chunk!($element, ", #16"),
                pair_chunk!($element, ", #16"),
                "subs.w r9, r9, #1",
                "bne 40b",
                ".p2align 2",
                "50:",
                sums!(),
                "ldrd r0, r2, [r11, #{pixel_len}]",
                "vrmulh.s32 q4, q4, q6",
                "vrmulh.s32 q5, q5, q6",
                "ldr.w pc, [r11, #{finish}]",
                finish!(),
                "80:",
                "add.w r7, r4, r0",
                "cmp r5, r2",
                "mov r3, r5",
                "ldr.w r4, [r11, #{window_len}]",
                "add r5, r4",
                "bne.w 20b",
                "ldrd r0, r1, [r11, #{output}]",
                "add r0, r1",
                "str.w r0, [r11, #{output}]",
                "ldr.w r2, [r11, #{channels}]",
                "subs r2, #4",
                "str.w r2, [r11, #{channels}]",
                "bgt.w 10b",
                end!(),
                ; window_len
            )
        }
    };
}

/// A last pixel without a partner, for all blocks: two at a time, or one twice.
///
/// Registers: r0, r2, r4, r6 the first block's sums, r8, r10, r12, lr the second's; r1 and r3 weights, r5 elements, r7 outputs,
/// r9 turns, r11 the pass; q0 to q3 weights, q4 elements, q6 the first block's multipliers, q7 the zero point.
macro_rules! last {
    ($name:ident, $element:ident) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(pass: &mut Pass) {
            pass_asm!(
                mve!(),
                begin!(),
                "10:",
                constants!(),
                "add.w r5, r11, #{head}",
                "mov r8, r5",
                copy_head!(),
                "str.w r3, [r11, #{weights}]",
                "mov r7, r3",
                "ldr.w r9, [r11, #{block_rest}]",
                "add r3, r9",
                "movs r6, #0",
                "vmov q1, q6",
                "cmp r2, #8",
                "blt 7f",
                "vldrb.u8 q0, [r0], #16",
                "vldrb.u8 q1, [r1], #16",
                "add.w r5, r8, #64",
                "mov r8, r5",
                copy_head!(),
                "mov r7, r3",
                "add r3, r9",
                "ldr.w r6, [r11, #{block_len}]",
                "7:",
                "strd r0, r1, [r11, #{next_bias}]",
                "str.w r3, [r11, #{source}]",
                "vstrw.32 q0, [r11, #16]",
                "vstrw.32 q1, [r11, #32]",
                "str.w r6, [r11, #{pixel_len}]",
                "strd r7, r8, [r11, #{second_weights}]",
                "mov r3, r7",
                "ldr.w r5, [r11, #{windows}]",
                "ldm r11, {{r0, r2, r4, r6}}",
                "add.w r8, r11, #16",
                "ldm r8, {{r8, r10, r12, lr}}",
                "ldrd r1, r9, [r11, #{weights}]",
                "ldr.w pc, [r11, #{entry}]",
                "30:",
                "add.w r1, r11, #{head}",
                "ldr.w r3, [r11, #{second_head}]",
                last_chunk!($element, ""),
                "ldr.w r1, [r11, #{head_len}]",
                "add r5, r1",
                "ldr.w r3, [r11, #{second_weights}]",
                "ldr.w r1, [r11, #{weights}]",
                "ldr.w pc, [r11, #{after_head}]",
                ".p2align 2",
                "40:",
                last_chunk!($element, ", #16"),
                last_chunk!($element, ", #16"),
                last_chunk!($element, ", #16"),
                last_chunk!($element, ", #16"),
                "subs.w r9, r9, #1",
                "bne.w 40b",
                ".p2align 2",
                "50:",
                sums!(),
                "vldrw.u32 q0, [r11, #32]",
                "vrmulh.s32 q4, q4, q6",
                "vrmulh.s32 q5, q5, q0",
                "ldr.w r0, [r11, #{pixel_len}]",
                "ldr.w r7, [r11, #{output}]",
                "ldr.w pc, [r11, #{finish}]",
                finish!(),
                "80:",
                // A second block was another one if its outputs lie elsewhere.
                "ldr.w r1, [r11, #{block_len}]",
                "add r4, r1",
                "str.w r4, [r11, #{output}]",
                "ldr.w r2, [r11, #{channels}]",
                "subs r2, #4",
                "cmp r0, #0",
                "it ne",
                "subne r2, #4",
                "str.w r2, [r11, #{channels}]",
                "cmp r2, #0",
                "bgt.w 10b",
                end!(),
                ; second_weights, second_head, block_len
            )
        }
    };
}

pairs!(pairs_i8, i8);
pairs!(pairs_i16, i16);
last!(last_i8, i8);
last!(last_i16, i16);
