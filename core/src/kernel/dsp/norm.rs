//! The two passes of GroupNorm: sums, and the line of every channel.

use crate::kernel::group_norm::{self, Line, Moments, TABLE_LEN};
use crate::quant::Activation;
use core::arch::naked_asm;

/// Channels whose sums are taken together.
const TOGETHER: usize = 4;

/// See [`crate::kernel::Kernel::moments`]: down the pixels, four channels at a time; what is left over by the definition.
pub(super) fn moments<I: Activation>(values: &[I], channels: usize, first: usize, size: usize) -> Moments {
    let mut sums = Sums::default();
    let whole = size / TOGETHER * TOGETHER;
    if channels == size && whole == size && values.len().is_multiple_of(size.max(1)) {
        // One group of all that there is.
        sums.add(values, values.len() / TOGETHER, TOGETHER);
        return sums.moments();
    }
    let pixels = values.len() / channels.max(1);
    for at in (first..first + whole).step_by(TOGETHER) {
        sums.add(values.get(at..).unwrap_or_default(), pixels, channels);
    }
    let mut moments = sums.moments();
    if whole < size {
        let rest = group_norm::moments(values, channels, first + whole, size - whole);
        moments.sum += rest.sum;
        moments.squares += rest.squares;
    }
    moments
}

/// What the assembly adds to.
#[derive(Default)]
#[repr(C, align(8))]
struct Sums {
    sum: i64,
    squares: i64,
}

impl Sums {
    /// `count` times four elements, `stride` apart.
    fn add<I: Activation>(&mut self, values: &[I], count: usize, stride: usize) {
        if count == 0 || values.len() < (count - 1) * stride + TOGETHER {
            return;
        }
        // SAFETY: the last four elements end inside `values`; the element's size selects the function.
        unsafe {
            match size_of::<I>() {
                1 => add_i8(values.as_ptr().cast(), count, stride, self),
                _ => add_i16(values.as_ptr().cast(), count, 2 * stride, self),
            }
        }
    }

    fn moments(&self) -> Moments {
        Moments { sum: self.sum, squares: self.squares as u64 }
    }
}

/// Adds `count` times four elements, `stride` bytes apart. `$four` leaves two pairs of them in r9 and r10.
///
/// Registers: r0 values, r1 count, r2 stride, r4 and r5 the sum, r6 and r7 the squares, r8 two ones, r9 and r10 elements. Two
/// fours a turn; an odd count begins in the middle.
macro_rules! add {
    ($name:ident, $element:ty, $four:literal) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(values: *const $element, count: usize, stride: usize, sums: &mut Sums) {
            macro_rules! four {
                () => {
                    concat!(
                        $four,
                        "smlald r4, r5, r9, r8\n",
                        "smlald r6, r7, r9, r9\n",
                        "smlald r4, r5, r10, r8\n",
                        "smlald r6, r7, r10, r10\n",
                    )
                };
            }
            naked_asm!(
                dsp_extension!(),
                "push {{r4, r5, r6, r7, r8, r9, r10, lr}}",
                "ldm r3, {{r4, r5, r6, r7}}",
                "mov r8, #0x00010001",
                "adds r1, #1",
                "lsrs r1, r1, #1",
                "bcc 3f",
                "2:",
                four!(),
                "3:",
                four!(),
                "subs r1, #1",
                "bne 2b",
                "stm r3, {{r4, r5, r6, r7}}",
                "pop {{r4, r5, r6, r7, r8, r9, r10, pc}}",
            )
        }
    };
}

add!(add_i16, i16, "ldr r9, [r0]\nldr r10, [r0, #4]\nadd r0, r0, r2\n");
add!(add_i8, i8, "ldr r10, [r0]\nadd r0, r0, r2\nsxtb16 r9, r10\nsxtb16 r10, r10, ror #8\n");

/// See [`crate::kernel::Kernel::normalize`]: down the pixels, two channels at a time.
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
    let (pairs, last) = lines.as_chunks::<2>();
    for (index, [a, b]) in pairs.iter().enumerate() {
        let (Some(source), Some(target)) = (values.get(2 * index..), output.get_mut(first + 2 * index..)) else {
            return;
        };
        let columns = Columns {
            strides: [channels * size_of::<I>(), channels_out],
            offsets: [a.offset, b.offset],
            slopes: [a.slope, b.slope],
            shifts: [a.shift.into(), b.shift.into()],
            pixels,
        };
        // SAFETY: of every pixel, two channels of the input and of the output lie in the slices, as was checked above; an
        // index is saturated to the table's nine bits. The element's size selects the function.
        unsafe {
            match size_of::<I>() {
                1 => normalize_i8(source.as_ptr().cast(), target.as_mut_ptr(), table, &columns),
                _ => normalize_i16(source.as_ptr().cast(), target.as_mut_ptr(), table, &columns),
            }
        }
    }
    if let [line] = last {
        let source = values.iter().skip(channels - 1).step_by(channels.max(1));
        let target = output.iter_mut().skip(first + channels - 1).step_by(channels_out.max(1));
        target.zip(source).for_each(|(to, from)| *to = table[line.index(from.widen())]);
    }
}

/// Two channels of all pixels, in the order in which the assembly loads them.
#[repr(C)]
struct Columns {
    /// Bytes from pixel to pixel, in and out.
    strides: [usize; 2],
    offsets: [i32; 2],
    slopes: [i16; 2],
    shifts: [u32; 2],
    pixels: usize,
}

/// What both elements' functions do with the indices in r11 and r12.
macro_rules! look_up {
    ($target:literal) => {
        concat!(
            "asr r11, r11, r8\n",
            "asr r12, r12, r9\n",
            "usat r11, #9, r11\n",
            "usat r12, #9, r12\n",
            "ldrb r11, [r2, r11]\n",
            "ldrb r12, [r2, r12]\n",
            "orr r11, r11, r12, lsl #8\n",
            "strh r11, ",
            $target,
            "\n",
        )
    };
}

/// Registers: r0 source, r1 target, r2 table, r3 and r4 strides, r5 and r6 offsets, r7 slopes, r8 and r9 shifts, r10 turns of
/// two pixels, r11 and r12 elements. An odd count begins in the middle of a turn, its pointers a pixel back.
#[unsafe(naked)]
unsafe extern "C" fn normalize_i16(source: *const i16, target: *mut i8, table: &[i8; TABLE_LEN], columns: &Columns) {
    naked_asm!(
        dsp_extension!(),
        "push {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "mov r12, r3",
        "ldm r12, {{r3, r4, r5, r6, r7, r8, r9, r10}}",
        "adds r10, #1",
        "lsrs r10, r10, #1",
        "bcs 2f",
        "sub r0, r0, r3",
        "sub r1, r1, r4",
        "b 3f",
        "2:",
        "ldr r12, [r0]",
        "smlabb r11, r12, r7, r5",
        "smlatt r12, r12, r7, r6",
        look_up!("[r1]"),
        "3:",
        "ldr r12, [r0, r3]",
        "smlabb r11, r12, r7, r5",
        "smlatt r12, r12, r7, r6",
        look_up!("[r1, r4]"),
        "add r0, r0, r3, lsl #1",
        "add r1, r1, r4, lsl #1",
        "subs r10, #1",
        "bne 2b",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11}}",
        "bx lr",
    )
}

/// Registers as in [`normalize_i16`], and lr the source's second channel.
#[unsafe(naked)]
unsafe extern "C" fn normalize_i8(source: *const i8, target: *mut i8, table: &[i8; TABLE_LEN], columns: &Columns) {
    naked_asm!(
        dsp_extension!(),
        "push {{r4, r5, r6, r7, r8, r9, r10, r11, lr}}",
        "mov r12, r3",
        "ldm r12, {{r3, r4, r5, r6, r7, r8, r9, r10}}",
        "adds r10, #1",
        "lsrs r10, r10, #1",
        "add lr, r0, #1",
        "bcs 2f",
        "sub r0, r0, r3",
        "sub r1, r1, r4",
        "sub lr, lr, r3",
        "b 3f",
        "2:",
        "ldrsb r11, [r0]",
        "ldrsb r12, [lr]",
        "smlabb r11, r11, r7, r5",
        "smlabt r12, r12, r7, r6",
        look_up!("[r1]"),
        "3:",
        "ldrsb r11, [r0, r3]",
        "ldrsb r12, [lr, r3]",
        "smlabb r11, r11, r7, r5",
        "smlabt r12, r12, r7, r6",
        look_up!("[r1, r4]"),
        "add r0, r0, r3, lsl #1",
        "add lr, lr, r3, lsl #1",
        "add r1, r1, r4, lsl #1",
        "subs r10, #1",
        "bne 2b",
        "pop {{r4, r5, r6, r7, r8, r9, r10, r11, pc}}",
    )
}
