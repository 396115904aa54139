//! Group norm: the sums eight elements at a time, the lines and the table sixteen channels at a time.

use super::super::group_norm::{self, Line, Moments, TABLE_LEN};
use crate::quant::Activation;
use core::arch::naked_asm;
use core::mem::offset_of;

/// Elements of a vector register in 16 bits.
const LANES: usize = 8;
/// Elements whose sum fits an `i32`.
const MOST: usize = 1 << 16;

/// See [`super::super::Kernel::moments`].
pub(super) fn moments<I: Activation>(values: &[I], channels: usize, first: usize, size: usize) -> Moments {
    let pixels = values.len() / channels.max(1);
    if pixels * size > MOST || first + size > channels || pixels == 0 {
        return group_norm::moments(values, channels, first, size);
    }
    let mut sums = Sums { sum: 0, squares: 0 };
    let from = values.as_ptr().wrapping_add(first).cast();
    let wide = size_of::<I>() == 2;
    // Several pixels of a small group fill a vector, if their places fit 16 bits.
    if size.is_power_of_two() && size <= LANES && channels < 1024 {
        let small = if wide { small_groups_i16 } else { small_groups_i8 };
        // SAFETY: `pixels * size` elements are read, `size` of each pixel.
        unsafe { small(from, channels, size.trailing_zeros(), pixels * size, &mut sums) }
    } else {
        let (runs, len) = if size == channels { (1, pixels * size) } else { (pixels, size) };
        let long = if wide { long_groups_i16 } else { long_groups_i8 };
        // SAFETY: `len` elements are read from each of `runs` places, `channels` apart; a single run is all of it.
        unsafe { long(from, channels * size_of::<I>(), len, runs, &mut sums) }
    }
    Moments { sum: sums.sum.into(), squares: sums.squares }
}

/// What the assembly leaves.
#[repr(C)]
struct Sums {
    squares: u64,
    sum: i32,
}

/// Eight elements, widened to 16 bits: from a pointer that moves on, or from places around it.
macro_rules! load {
    (i8, $to:literal, $at:literal) => {
        concat!("vldrb.s16 ", $to, ", [", $at, "], #8\n")
    };
    (i16, $to:literal, $at:literal) => {
        concat!("vldrh.u16 ", $to, ", [", $at, "], #16\n")
    };
    ($predicate:literal, i8, $to:literal, $at:literal, $places:literal) => {
        concat!("vldrb", $predicate, ".s16 ", $to, ", [", $at, ", ", $places, "]\n")
    };
    ($predicate:literal, i16, $to:literal, $at:literal, $places:literal) => {
        concat!("vldrh", $predicate, ".u16 ", $to, ", [", $at, ", ", $places, ", uxtw #1]\n")
    };
}

/// Adds a vector's elements to r4 and their squares to r6 and r7.
macro_rules! add {
    ($values:literal) => {
        concat!("vaddva.s16 r4, ", $values, "\n", "vmlaldava.s16 r6, r7, ", $values, ", ", $values, "\n")
    };
}

/// Four vectors, at the places in q0 to q3.
macro_rules! four {
    ($element:ident, $at:literal) => {
        concat!(
            load!("", $element, "q4", $at, "q0"),
            add!("q4"),
            load!("", $element, "q5", $at, "q1"),
            add!("q5"),
            load!("", $element, "q4", $at, "q2"),
            add!("q4"),
            load!("", $element, "q5", $at, "q3"),
            add!("q5"),
        )
    };
}

/// Groups of 1, 2, 4 or 8 channels: eight vectors a turn. `elements` counts all of a group's.
macro_rules! small_groups {
    ($name:ident, $element:ident, $scale:literal) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(
            values: *const u8,
            channels: usize,
            size_log2: u32,
            elements: usize,
            sums: &mut Sums,
        ) {
            naked_asm!(
                mve!(),
                "push {{r4, r5, r6, r7, r8, lr}}",
                "vpush {{d8, d9, d10, d11}}",
                // The places of a vector's elements: pixel * channels + channel.
                "movs r4, #0",
                "vidup.u16 q0, r4, #1",
                "rsbs r5, r2, #0",
                "vmov q1, q0",
                "vshl.u16 q1, r5",
                "movs r4, #1",
                "lsls r4, r2",
                "subs r4, #1",
                "vdup.16 q2, r4",
                "vand q0, q0, q2",
                "vmul.i16 q1, q1, r1",
                "vadd.i16 q0, q0, q1",
                // Those of the next three vectors, and where the next four begin.
                "movs r4, #8",
                "lsrs r4, r2",
                "muls r1, r4, r1",
                "vadd.i16 q1, q0, r1",
                "vadd.i16 q2, q1, r1",
                "vadd.i16 q3, q2, r1",
                concat!("lsl.w r8, r1, #", $scale),
                "movs r4, #0",
                "movs r6, #0",
                "movs r7, #0",
                "add.w r2, r0, r8",
                "lsrs r5, r3, #6",
                "and r3, r3, #63",
                "wls lr, r5, 2f",
                "1:",
                four!($element, "r0"),
                four!($element, "r2"),
                "add.w r0, r0, r8, lsl #1",
                "add.w r2, r2, r8, lsl #1",
                "le lr, 1b",
                "2:",
                "cbz r3, 4f",
                "3:",
                "vctp.16 r3",
                "vpst",
                load!("t", $element, "q4", "r0", "q0"),
                add!("q4"),
                "add.w r0, r0, r8, lsr #2",
                "subs r3, #8",
                "bgt 3b",
                "4:",
                "ldr r3, [sp, #56]",
                "strd r6, r7, [r3]",
                "str r4, [r3, #8]",
                "vpop {{d8, d9, d10, d11}}",
                "pop {{r4, r5, r6, r7, r8, pc}}",
            )
        }
    };
}

small_groups!(small_groups_i8, i8, 2);
small_groups!(small_groups_i16, i16, 3);

/// Groups of any size: `len` elements from each of `runs` places, `step` bytes apart.
macro_rules! long_groups {
    ($name:ident, $element:ident) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(values: *const u8, step: usize, len: usize, runs: usize, sums: &mut Sums) {
            naked_asm!(
                mve!(),
                "push {{r4, r5, r6, r7, r8, lr}}",
                "movs r4, #0",
                "movs r6, #0",
                "movs r7, #0",
                "1:",
                "mov r5, r0",
                "wlstp.16 lr, r2, 3f",
                "2:",
                load!($element, "q0", "r5"),
                add!("q0"),
                "letp lr, 2b",
                "3:",
                "add r0, r1",
                "subs r3, #1",
                "bne 1b",
                "ldr r3, [sp, #24]",
                "strd r6, r7, [r3]",
                "str r4, [r3, #8]",
                "pop {{r4, r5, r6, r7, r8, pc}}",
            )
        }
    };
}

long_groups!(long_groups_i8, i8);
long_groups!(long_groups_i16, i16);

/// A range of channels of every pixel of a row, and the lines of these channels.
#[derive(Clone, Copy)]
#[repr(C)]
struct Chunk {
    values: *const u8,
    output: *mut i8,
    table: *const i8,
    lines: *const Line,
    /// Bytes from one pixel to the next.
    value_step: usize,
    output_step: usize,
    pixels: usize,
    /// Channels that are left.
    channels: usize,
}

/// See [`super::super::Kernel::normalize`].
pub(super) fn normalize<I: Activation>(
    values: &[I],
    lines: &[Line],
    table: &[i8; TABLE_LEN],
    output: &mut [i8],
    channels_out: usize,
    first: usize,
) {
    let channels = lines.len();
    let pixels = group_norm::pixels(values, channels, output, channels_out, first);
    if pixels == 0 {
        return;
    }
    let mut chunk = Chunk {
        values: values.as_ptr().cast(),
        output: output.as_mut_ptr().wrapping_add(first),
        table: table.as_ptr(),
        lines: lines.as_ptr(),
        value_step: channels * size_of::<I>(),
        output_step: channels_out,
        pixels,
        channels,
    };
    let (sixteens, eight) = if size_of::<I>() == 2 {
        (sixteens_i16 as Normalize, eight_i16 as Normalize)
    } else {
        (sixteens_i8 as Normalize, eight_i8 as Normalize)
    };
    loop {
        // SAFETY: `chunk.channels` channels of `pixels` pixels can be read and written, and there are as many lines.
        unsafe { sixteens(&mut chunk) };
        if chunk.channels == 0 {
            return;
        }
        let rest = lines.get(channels - chunk.channels..).unwrap_or_default();
        let mut padded = [Line::default(); LANES];
        padded.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        // SAFETY: as above; there are always eight lines to read.
        unsafe { eight(&mut Chunk { lines: padded.as_ptr(), ..chunk }) };
        let done = LANES.min(chunk.channels);
        chunk.values = chunk.values.wrapping_add(done * size_of::<I>());
        chunk.output = chunk.output.wrapping_add(done);
        chunk.lines = chunk.lines.wrapping_add(done);
        chunk.channels -= done;
    }
}

/// Normalizes a chunk or its beginning.
type Normalize = unsafe extern "C" fn(&mut Chunk);

/// Eight channels of a pixel: slopes, offsets of the even and the odd ones; r6 is the last left shift.
///
/// `index = line >> shift`, cut to 9 bits: `bits` are cut first, which leaves 16 bits without sign; a saturating shift to
/// the left, by up to 7, and 7 to the right cut the rest. The left shift is left out where it is 0.
macro_rules! index {
    ($element:ident, $bits:literal, $left:literal, $slopes:literal, $even:literal, $odd:literal) => {
        concat!(
            load!($element, "q6", "r0"),
            "vmullt.s16 q7, q6, ",
            $slopes,
            "\n",
            "vmullb.s16 q6, q6, ",
            $slopes,
            "\n",
            "vadd.i32 q7, q7, ",
            $odd,
            "\n",
            "vadd.i32 q6, q6, ",
            $even,
            "\n",
            "vqshrunb.s32 q6, q6, #",
            $bits,
            "\n",
            "vqshrunt.s32 q6, q7, #",
            $bits,
            "\n",
            $left,
            "vshr.u16 q6, q6, #7\n",
            "vldrb.u16 q7, [r2, q6]\n",
            "vstrb.16 q7, [r1], #8\n",
        )
    };
}

/// Sixteen channels of a pixel.
macro_rules! pixel {
    ($element:ident, $bits:literal, $left:literal) => {
        concat!(index!($element, $bits, $left, "q0", "q2", "q3"), index!($element, $bits, $left, "q1", "q4", "q5"),)
    };
}

/// All pixels of a chunk: four a turn where they lie beside each other, which r12 says, then one a turn.
macro_rules! pixels {
    ($element:ident, $bits:literal, $left:literal) => {
        concat!(
            "cmp r12, #0\n",
            "bne 3f\n",
            "lsrs r8, r7, #2\n",
            "and r7, r7, #3\n",
            "wls lr, r8, 3f\n",
            "2:\n",
            pixel!($element, $bits, $left),
            pixel!($element, $bits, $left),
            pixel!($element, $bits, $left),
            pixel!($element, $bits, $left),
            "le lr, 2b\n",
            "3:\n",
            "wls lr, r7, 8f\n",
            "4:\n",
            pixel!($element, $bits, $left),
            "add r0, r4\n",
            "add r1, r5\n",
            "le lr, 4b\n",
            "b.w 8f\n",
        )
    };
}

/// The shift, which is 20 - r6, chooses the code: its bits less 7 are cut at once, or r6 becomes the left shift of [`index`].
macro_rules! shifts {
    (i16) => {
        concat!(
            "cmp r6, #6\n",
            "bhi.w 9f\n",
            "tbh [pc, r6, lsl #1]\n",
            "5: .short (20f - 5b) / 2, (21f - 5b) / 2, (22f - 5b) / 2, (23f - 5b) / 2\n",
            ".short (24f - 5b) / 2, (25f - 5b) / 2, (26f - 5b) / 2, 0\n",
            "20:\n",
            pixels!(i16, "13", ""),
            "21:\n",
            pixels!(i16, "12", ""),
            "22:\n",
            pixels!(i16, "11", ""),
            "23:\n",
            pixels!(i16, "10", ""),
            "24:\n",
            pixels!(i16, "9", ""),
            "25:\n",
            pixels!(i16, "8", ""),
            "26:\n",
            pixels!(i16, "7", ""),
        )
    };
    (i8) => {
        concat!(
            "cmp r6, #7\n",
            "bhi.w 5f\n",
            pixels!(i8, "13", "vqshl.u16 q6, r6\n"),
            "5:\n",
            "subs r6, #7\n",
            "cmp r6, #7\n",
            "bhi.w 9f\n",
            pixels!(i8, "6", "vqshl.u16 q6, r6\n"),
        )
    };
}

/// Sixteen channels at a time, as long as there are so many and their lines have the same shift, of at least 14 bits (i16) or
/// 6 (i8). The chunk becomes what is left.
///
/// Registers: r0 values, r1 outputs, r2 table, r3 lines, r4 and r5 steps, r6 shift, r7 pixels, r10 channels, r11 the chunk;
/// q0 and q1 slopes, q2 to q5 offsets of even and odd channels.
macro_rules! sixteens {
    ($name:ident, $element:ident, $pixel_len:literal) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(chunk: &mut Chunk) {
            naked_asm!(
                mve!(),
                "push {{r4, r5, r6, r7, r8, r10, r11, lr}}",
                "ldr.w r10, [r0, #{channels}]",
                "mov r11, r0",
                "vpush {{d8, d9, d10, d11, d12, d13, d14, d15}}",
                "1:",
                "cmp.w r10, #16",
                "blt.w 9f",
                "ldm r11, {{r0, r1, r2, r3, r4, r5, r7}}",
                // All shifts are as the first.
                "mov.w r8, #{shift}",
                "vidup.u16 q7, r8, #8",
                "vldrh.u16 q0, [r3, q7]",
                "add.w r12, r3, #64",
                "vldrh.u16 q1, [r12, q7]",
                "ldrh r6, [r3, #{shift}]",
                "vcmp.i16 ne, q0, r6",
                "vmrs r8, p0",
                "vcmp.i16 ne, q1, r6",
                "vmrs lr, p0",
                "orrs.w r8, r8, lr",
                "bne.w 9f",
                "mov.w r8, #{slope}",
                "vidup.u16 q7, r8, #8",
                "vldrh.u16 q0, [r3, q7]",
                "vldrh.u16 q1, [r12, q7]",
                "mov.w r8, #0",
                "vidup.u32 q7, r8, #4",
                "vldrw.u32 q2, [r3, q7, uxtw #2]",
                "adds r3, #8",
                "vldrw.u32 q3, [r3, q7, uxtw #2]",
                "vldrw.u32 q4, [r12, q7, uxtw #2]",
                "add.w r12, r12, #8",
                "vldrw.u32 q5, [r12, q7, uxtw #2]",
                // What lies between the pixels' chunks.
                concat!("subs r4, #", $pixel_len),
                "subs r5, #16",
                "orr.w r12, r4, r5",
                "rsbs r6, r6, #20",
                shifts!($element),
                "8:",
                "subs.w r10, r10, #16",
                "beq 9f",
                "ldrd r0, r1, [r11]",
                "ldr.w r3, [r11, #{lines}]",
                concat!("adds r0, #", $pixel_len),
                "adds r1, #16",
                "adds r3, #128",
                "strd r0, r1, [r11]",
                "str.w r3, [r11, #{lines}]",
                "b.w 1b",
                "9:",
                "str.w r10, [r11, #{channels}]",
                "vpop {{d8, d9, d10, d11, d12, d13, d14, d15}}",
                "pop {{r4, r5, r6, r7, r8, r10, r11, pc}}",
                slope = const offset_of!(Line, slope),
                shift = const offset_of!(Line, shift),
                lines = const offset_of!(Chunk, lines),
                channels = const offset_of!(Chunk, channels),
            )
        }
    };
}

sixteens!(sixteens_i8, i8, 16);
sixteens!(sixteens_i16, i16, 32);

/// Eight values that lie together, as many as the predicate says.
macro_rules! load_some {
    (i8) => {
        "vldrbt.s16 q6, [r0]"
    };
    (i16) => {
        "vldrht.u16 q6, [r0]"
    };
}

/// Up to eight channels whose lines have any shifts.
///
/// Registers: as in [`sixteens`]; r6 pixels, r7 channels; q0 slopes, q1 and q2 offsets, q3 and q4 shifts, q5 the last index.
macro_rules! eight {
    ($name:ident, $element:ident) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(chunk: &mut Chunk) {
            naked_asm!(
                mve!(),
                "push {{r4, r5, r6, r7, r8, lr}}",
                "vpush {{d8, d9, d10, d11, d12, d13, d14, d15}}",
                "ldm r0, {{r0, r1, r2, r3, r4, r5, r6, r7}}",
                "mov r8, #0",
                "vidup.u16 q7, r8, #8",
                "add.w r12, r3, #{slope}",
                "vldrh.u16 q0, [r12, q7]",
                "mov r8, #0",
                "vidup.u32 q7, r8, #8",
                "vshl.i32 q7, q7, #1",
                "vldrw.u32 q1, [r3, q7]",
                "add.w r12, r3, #{shift}",
                "vldrh.u32 q3, [r12, q7]",
                "add.w r12, r3, #8",
                "vldrw.u32 q2, [r12, q7]",
                "add.w r12, r12, #{shift}",
                "vldrh.u32 q4, [r12, q7]",
                "vneg.s32 q3, q3",
                "vneg.s32 q4, q4",
                "movw r12, #511",
                "vdup.16 q5, r12",
                "vctp.16 r7",
                "wls lr, r6, 2f",
                "1:",
                "vpst",
                load_some!($element),
                "vmullt.s16 q7, q6, q0",
                "vmullb.s16 q6, q6, q0",
                "vadd.i32 q7, q7, q2",
                "vadd.i32 q6, q6, q1",
                "vshl.s32 q7, q7, q4",
                "vshl.s32 q6, q6, q3",
                "vqmovunb.s32 q6, q6",
                "vqmovunt.s32 q6, q7",
                "vmin.u16 q6, q6, q5",
                "vldrb.u16 q7, [r2, q6]",
                "vpst",
                "vstrbt.16 q7, [r1]",
                "add r0, r4",
                "add r1, r5",
                "le lr, 1b",
                "2:",
                "vpop {{d8, d9, d10, d11, d12, d13, d14, d15}}",
                "pop {{r4, r5, r6, r7, r8, pc}}",
                slope = const offset_of!(Line, slope),
                shift = const offset_of!(Line, shift),
            )
        }
    };
}

eight!(eight_i8, i8);
eight!(eight_i16, i16);
