//! The inner loops for Armv6-M.
//!
//! Of the 8 registers that most instructions take, 4 hold words, one a weight and 3 addresses; the sums are in the others,
//! which an addition reaches. A product destroys a factor: the words are loaded anew for each channel, four an instruction.

use super::{CHUNK, Finish};
use crate::kernel::conv::{BLOCK, Destination, QUAD};
use crate::quant::Activation;
use core::arch::naked_asm;
use core::mem::MaybeUninit;

/// Sums of products modulo 2^32 of each word of a window element with each of four channels' packed weights.
#[inline(always)]
pub(super) fn dot<const W: usize>(words: &[[u32; W]], weights: &[i8]) -> [[u32; W]; BLOCK] {
    if weights.len() < BLOCK * words.len() {
        return [[0; W]; BLOCK];
    }
    let mut sums = MaybeUninit::uninit();
    let (from, to) = (words.as_ptr().cast(), sums.as_mut_ptr());
    let to = <*mut [[u32; W]; BLOCK]>::cast(to);
    let ends = [words.as_chunks::<QUAD>().0.as_ptr_range().end.cast(), words.as_ptr_range().end.cast()];
    // SAFETY: there are `W` words an element and weights of as many elements; `W` sums of four channels are written.
    unsafe {
        match W {
            1 => one_word(from, weights.as_ptr(), to, &ends),
            2 => two_words(from, weights.as_ptr(), to, &ends),
            _ => four_words(from, weights.as_ptr(), to, &ends),
        }
        sums.assume_init()
    }
}

/// Adds the sums of products of words, three pixels in two of them, with each of four channels' packed weights.
#[inline(always)]
pub(super) fn accumulate<const N: usize, const W: usize>(
    sums: &mut [[i32; N]; BLOCK],
    words: &[[u32; W]],
    weights: &[i8],
) {
    if weights.len() < BLOCK * words.len() {
        return;
    }
    let to = sums.as_mut_ptr().cast();
    for (words, weights) in words.chunks(CHUNK).zip(weights.chunks(CHUNK * BLOCK)) {
        let ends = [words.as_chunks::<QUAD>().0.as_ptr_range().end.cast(), words.as_ptr_range().end.cast()];
        // SAFETY: there are `W` words an element and weights of as many elements; three sums for two words of four channels
        // are added to.
        unsafe {
            match W {
                2 => three_pixels(words.as_ptr().cast(), weights.as_ptr(), to, &ends),
                _ => six_pixels(words.as_ptr().cast(), weights.as_ptr(), to, &ends),
            }
        }
    }
}

/// A weight of one channel times the four words of a window element; `$next` is the distance to the next weight.
macro_rules! four_words {
    ($next:literal) => {
        concat!(
            "ldrsb r2, [r1, r3]\n",
            "ldm r0!, {{r4, r5, r6, r7}}\n",
            "muls r4, r2, r4\n",
            "add r8, r4\n",
            "muls r5, r2, r5\n",
            "add r9, r5\n",
            "muls r6, r2, r6\n",
            "add r10, r6\n",
            "muls r7, r2, r7\n",
            "add r11, r7\n",
            "adds r3, #",
            $next,
            "\n",
        )
    };
}

/// A weight of one channel times the two words of a window element.
macro_rules! two_words {
    ($next:literal) => {
        concat!(
            "ldrsb r2, [r1, r3]\n",
            "ldm r0!, {{r4, r5}}\n",
            "muls r4, r2, r4\n",
            "add r8, r4\n",
            "muls r5, r2, r5\n",
            "add r9, r5\n",
            "adds r3, #",
            $next,
            "\n",
        )
    };
}

/// A weight of each of four channels times the word of a window element.
macro_rules! one_word {
    ($next:literal) => {
        concat!(
            "ldm r0!, {{r7}}\n",
            "ldrsb r6, [r1, r2]\n",
            "muls r6, r7, r6\n",
            "add r8, r6\n",
            "ldrsb r6, [r1, r3]\n",
            "muls r6, r7, r6\n",
            "add r9, r6\n",
            "ldrsb r6, [r1, r4]\n",
            "muls r6, r7, r6\n",
            "add r10, r6\n",
            "ldrsb r6, [r1, r5]\n",
            "muls r6, r7, r6\n",
            "add r11, r6\n",
            "adds r1, #",
            $next,
            "\n",
        )
    };
}

/// Quad by quad to r12, then one by one to lr.
macro_rules! all_taps {
    ($tap:ident) => {
        concat!(
            "cmp r0, r12\n",
            "beq 3f\n",
            "2:\n",
            $tap!("1"),
            $tap!("1"),
            $tap!("1"),
            $tap!("13"),
            "cmp r0, r12\n",
            "bne 2b\n",
            "3:\n",
            "cmp r0, lr\n",
            "beq 5f\n",
            "4:\n",
            $tap!("1"),
            "cmp r0, lr\n",
            "bne 4b\n",
            "5:\n",
        )
    };
}

/// Saves registers and takes the ends from r3.
macro_rules! enter {
    () => {
        concat!(
            "push {{r4, r5, r6, r7, lr}}\n",
            "mov r4, r8\n",
            "mov r5, r9\n",
            "mov r6, r10\n",
            "mov r7, r11\n",
            "push {{r4, r5, r6, r7}}\n",
            "ldm r3!, {{r4, r5}}\n",
            "mov r12, r4\n",
            "mov lr, r5\n",
        )
    };
}

macro_rules! leave {
    () => {
        concat!(
            "pop {{r4, r5, r6, r7}}\n",
            "mov r8, r4\n",
            "mov r9, r5\n",
            "mov r10, r6\n",
            "mov r11, r7\n",
            "pop {{r4, r5, r6, r7, pc}}\n",
        )
    };
}

/// A function that goes over the channels one by one. Registers: r0 words, r1 a channel's weights, r3 the place of the next of
/// them, r2 a weight, r4-r7 words and products, r8-r11 sums; the stack has the words, and where the sums go and end.
macro_rules! channel_by_channel {
    ($name:ident, $tap:ident, $bytes:literal, $store:expr) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(words: *const u32, weights: *const i8, sums: *mut u32, ends: &[*const u32; 2]) {
            naked_asm!(
                enter!(),
                "mov r3, r2",
                concat!("adds r3, #4*", $bytes),
                "push {{r0, r2, r3, r4}}",
                "6:",
                "movs r3, #0",
                "mov r8, r3",
                "mov r9, r3",
                "mov r10, r3",
                "mov r11, r3",
                all_taps!($tap),
                "adds r1, #4",
                "ldr r0, [sp, #4]",
                $store,
                "str r0, [sp, #4]",
                "ldr r2, [sp, #8]",
                "cmp r0, r2",
                "beq 7f",
                "ldr r0, [sp]",
                "b 6b",
                "7:",
                "add sp, #16",
                leave!(),
            )
        }
    };
}

/// Takes three sums out of two words, as [`super::unpack`] does, and adds them to those in memory.
macro_rules! unpack {
    ($low:literal, $high:literal) => {
        concat!(
            "mov r4, ",
            $low,
            "\n",
            "mov r5, ",
            $high,
            "\n",
            "lsls r6, r5, #11\n",
            "asrs r6, r6, #11\n",
            "subs r5, r5, r6\n",
            "asrs r5, r5, #21\n",
            "lsls r7, r5, #11\n",
            "subs r4, r4, r7\n",
            "lsls r7, r4, #10\n",
            "asrs r7, r7, #10\n",
            "subs r4, r4, r7\n",
            "asrs r4, r4, #22\n",
            "lsls r4, r4, #11\n",
            "adds r5, r5, r4\n",
            "ldm r0!, {{r2, r3, r4}}\n",
            "adds r2, r2, r7\n",
            "adds r3, r3, r6\n",
            "adds r4, r4, r5\n",
            "subs r0, #12\n",
            "stm r0!, {{r2, r3, r4}}\n",
        )
    };
}

channel_by_channel!(
    four_words,
    four_words,
    "16",
    "mov r4, r8\nmov r5, r9\nmov r6, r10\nmov r7, r11\nstm r0!, {{r4, r5, r6, r7}}"
);
channel_by_channel!(two_words, two_words, "8", "mov r4, r8\nmov r5, r9\nstm r0!, {{r4, r5}}");
channel_by_channel!(six_pixels, four_words, "24", concat!(unpack!("r8", "r9"), unpack!("r10", "r11")));
channel_by_channel!(three_pixels, two_words, "12", unpack!("r8", "r9"));

/// Four channels at once. Registers: r0 words, r1 weights, r2-r5 the distances to the channels' weights, r6 a weight and a
/// product, r7 a word, r8-r11 sums; the stack has where the sums go.
#[unsafe(naked)]
unsafe extern "C" fn one_word(words: *const u32, weights: *const i8, sums: *mut u32, ends: &[*const u32; 2]) {
    naked_asm!(
        enter!(),
        "push {{r2}}",
        "movs r2, #0",
        "movs r3, #4",
        "movs r4, #8",
        "movs r5, #12",
        "mov r8, r2",
        "mov r9, r2",
        "mov r10, r2",
        "mov r11, r2",
        all_taps!(one_word),
        "mov r4, r8",
        "mov r5, r9",
        "mov r6, r10",
        "mov r7, r11",
        "pop {{r0}}",
        "stm r0!, {{r4, r5, r6, r7}}",
        leave!(),
    )
}

/// `output = saturate(zero + requantize(bias + sum))` for each of the sums, or with the old output in `zero`'s place.
///
/// # Safety
/// As many outputs as sums, of which there is one, must be where `constants` says.
#[inline(always)]
pub(super) unsafe fn finish<O: Activation>(sums: &[i32], constants: &Finish<O>, destination: Destination) {
    let (from, end, constants) = (sums.as_ptr(), sums.as_ptr_range().end, (&raw const *constants).cast());
    // SAFETY: the caller's; the element's size selects the function.
    unsafe {
        match (size_of::<O>(), destination) {
            (1, Destination::Overwrite) => overwrite_i8(from, end, constants),
            (1, Destination::Accumulate) => accumulate_i8(from, end, constants),
            (_, Destination::Overwrite) => overwrite_i16(from, end, constants),
            (_, Destination::Accumulate) => accumulate_i16(from, end, constants),
        }
    }
}

/// The function for one element and destination. Registers: r0 sums, r1 the output, r2 its step, r3-r6 the product as in
/// [`super::requantize_by_halves`], r8 and r9 the multiplier's halves, r10 a half, r12 zero, lr the sums' end.
macro_rules! finish {
    ($name:ident, $extend:literal, $largest:expr, $store:literal, $base:expr) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name(sums: *const i32, end: *const i32, constants: *const ()) {
            naked_asm!(
                "push {{r4, r5, r6, lr}}",
                "mov r4, r8",
                "mov r5, r9",
                "mov r6, r10",
                "push {{r4, r5, r6}}",
                "mov lr, r1",
                "ldm r2!, {{r1, r3, r5, r6}}",
                "uxth r4, r5",
                "mov r8, r4",
                "asrs r5, r5, #16",
                "mov r9, r5",
                "mov r12, r6",
                "movs r4, #1",
                "lsls r4, r4, #15",
                "mov r10, r4",
                "mov r2, r3",
                "2:",
                "ldm r0!, {{r3}}",
                "asrs r4, r3, #16",
                "uxth r3, r3",
                "mov r5, r8",
                "mov r6, r5",
                "muls r6, r3, r6",
                "lsrs r6, r6, #16",
                "muls r5, r4, r5",
                "adds r5, r5, r6",
                "add r5, r10",
                "mov r6, r9",
                "muls r4, r6, r4",
                "muls r3, r6, r3",
                "uxth r6, r5",
                "adds r3, r3, r6",
                "lsrs r3, r3, #16",
                "asrs r5, r5, #16",
                "adds r3, r3, r5",
                "adds r3, r3, r4",
                $base,
                concat!($extend, " r4, r3"),
                "cmp r4, r3",
                "bne 4f",
                "3:",
                concat!($store, " r3, [r1]"),
                "adds r1, r1, r2",
                "cmp r0, lr",
                "bne 2b",
                "pop {{r4, r5, r6}}",
                "mov r8, r4",
                "mov r9, r5",
                "mov r10, r6",
                "pop {{r4, r5, r6, pc}}",
                // The largest value, or its complement, which is the smallest.
                "4:",
                "asrs r4, r3, #31",
                $largest,
                "eors r3, r4",
                "b 3b",
            )
        }
    };
}

finish!(overwrite_i8, "sxtb", "movs r3, #127", "strb", "add r3, r12");
finish!(accumulate_i8, "sxtb", "movs r3, #127", "strb", "movs r4, #0\nldrsb r4, [r1, r4]\nadds r3, r3, r4");
finish!(overwrite_i16, "sxth", "mov r3, r10\nsubs r3, #1", "strh", "add r3, r12");
finish!(accumulate_i16, "sxth", "mov r3, r10\nsubs r3, #1", "strh", "movs r4, #0\nldrsh r4, [r1, r4]\nadds r3, r3, r4");
