//! The inner loops for RV32IM, where the compiler neither unrolls nor keeps all sums in registers.

use super::{BLOCKS, CHUNK, add_unpacked};
use crate::kernel::conv::{BLOCK, QUAD};
use core::arch::{asm, naked_asm};

/// Adds the sums of products of words, three pixels in two of them, with each of four channels' packed weights.
#[inline(always)]
pub(super) fn accumulate<const N: usize, const W: usize>(
    sums: &mut [[i32; N]; BLOCK],
    words: &[[u32; W]],
    weights: &[i8],
) {
    if (N, W) != (6, 4) {
        return add_unpacked(sums, words, weights);
    }
    if weights.len() < BLOCK * words.len() {
        return;
    }
    let (whole, end) = (words.as_chunks::<QUAD>().0.as_ptr_range().end.cast(), words.as_ptr_range().end.cast());
    // SAFETY: reads the words up to `end`, four an element, and the weights of as many elements; adds to four times six sums.
    unsafe { six_pixels(words.as_ptr().cast(), weights.as_ptr(), whole, sums.as_mut_ptr().cast(), end) }
}

/// A window element for [`six_pixels`]: its words, then each channel's weight times each of them.
macro_rules! element {
    ($tap:literal; $($channel:literal $a:literal $b:literal $c:literal $d:literal)*) => {
        concat!(
            "lw a4, 16*", $tap, "(a0)\n",
            "lw a5, 16*", $tap, "+4(a0)\n",
            "lw a6, 16*", $tap, "+8(a0)\n",
            "lw a7, 16*", $tap, "+12(a0)\n",
            $(
                "lb t0, 4*", $channel, "+", $tap, "(a1)\n",
                "mul t1, t0, a4\n",
                "add ", $a, ", ", $a, ", t1\n",
                "mul t1, t0, a5\n",
                "add ", $b, ", ", $b, ", t1\n",
                "mul t1, t0, a6\n",
                "add ", $c, ", ", $c, ", t1\n",
                "mul t1, t0, a7\n",
                "add ", $d, ", ", $d, ", t1\n",
            )*
        )
    };
    ($tap:literal) => {
        element!($tap; "0" "s0" "s1" "s2" "s3" "1" "s4" "s5" "s6" "s7" "2" "s8" "s9" "s10" "s11" "3" "t3" "t4" "t5" "t6")
    };
}

/// Takes three sums out of two words, as [`super::unpack`] does, and adds them to those in memory.
macro_rules! unpack {
    ($($pair:literal $low:literal $high:literal)*) => {
        concat!($(
            "slli t0, ", $high, ", 11\n",
            "srai t0, t0, 11\n",
            "sub t1, ", $high, ", t0\n",
            "srai t1, t1, 21\n",
            "slli a4, t1, 11\n",
            "sub ", $low, ", ", $low, ", a4\n",
            "slli a4, ", $low, ", 10\n",
            "srai a4, a4, 10\n",
            "sub ", $low, ", ", $low, ", a4\n",
            "srai ", $low, ", ", $low, ", 22\n",
            "slli ", $low, ", ", $low, ", 11\n",
            "add t1, t1, ", $low, "\n",
            "lw a5, 12*", $pair, "(a3)\n",
            "lw a6, 12*", $pair, "+4(a3)\n",
            "lw a7, 12*", $pair, "+8(a3)\n",
            "add a5, a5, a4\n",
            "add a6, a6, t0\n",
            "add a7, a7, t1\n",
            "sw a5, 12*", $pair, "(a3)\n",
            "sw a6, 12*", $pair, "+4(a3)\n",
            "sw a7, 12*", $pair, "+8(a3)\n",
        )*)
    };
}

/// Every register but those of the system: a0 words, a1 weights, a2 the end of a chunk's whole quads, t2 that of all, ra the end
/// of the words, a3 the sums in memory, a4-a7 words, t0 a weight, t1 a product, s0-s11 and t3-t6 sums in words. The stack has
/// the end of a whole chunk.
#[unsafe(naked)]
unsafe extern "C" fn six_pixels(
    words: *const u32,
    weights: *const i8,
    whole: *const u32,
    sums: *mut i32,
    end: *const u32,
) {
    naked_asm!(
        // A function of assembly knows nothing of the target's extensions.
        ".option push",
        ".option arch, +m",
        "addi sp, sp, -64",
        "sw ra, 60(sp)",
        "sw s0, 56(sp)",
        "sw s1, 52(sp)",
        "sw s2, 48(sp)",
        "sw s3, 44(sp)",
        "sw s4, 40(sp)",
        "sw s5, 36(sp)",
        "sw s6, 32(sp)",
        "sw s7, 28(sp)",
        "sw s8, 24(sp)",
        "sw s9, 20(sp)",
        "sw s10, 16(sp)",
        "sw s11, 12(sp)",
        "mv t2, a2",
        "mv ra, a4",
        "beq a0, ra, 8f",
        // A chunk.
        "2:",
        "addi a2, a0, 16*{chunk}",
        "sw a2, 8(sp)",
        "bgeu t2, a2, 3f",
        "mv a2, t2",
        "3:",
        "li s0, 0",
        "li s1, 0",
        "li s2, 0",
        "li s3, 0",
        "li s4, 0",
        "li s5, 0",
        "li s6, 0",
        "li s7, 0",
        "li s8, 0",
        "li s9, 0",
        "li s10, 0",
        "li s11, 0",
        "li t3, 0",
        "li t4, 0",
        "li t5, 0",
        "li t6, 0",
        "beq a0, a2, 5f",
        "4:",
        element!("0"),
        element!("1"),
        element!("2"),
        element!("3"),
        "addi a0, a0, 64",
        "addi a1, a1, 16",
        "bne a0, a2, 4b",
        // The elements after the last whole quad, unless the chunk is full.
        "5:",
        "bne a0, t2, 7f",
        "lw t0, 8(sp)",
        "beq a0, t0, 7f",
        "beq a0, ra, 7f",
        "6:",
        element!("0"),
        "addi a0, a0, 16",
        "addi a1, a1, 1",
        "bne a0, ra, 6b",
        "7:",
        unpack!("0" "s0" "s1" "1" "s2" "s3" "2" "s4" "s5" "3" "s6" "s7" "4" "s8" "s9" "5" "s10" "s11" "6" "t3" "t4" "7" "t5" "t6"),
        "bne a0, ra, 2b",
        "8:",
        "lw ra, 60(sp)",
        "lw s0, 56(sp)",
        "lw s1, 52(sp)",
        "lw s2, 48(sp)",
        "lw s3, 44(sp)",
        "lw s4, 40(sp)",
        "lw s5, 36(sp)",
        "lw s6, 32(sp)",
        "lw s7, 28(sp)",
        "lw s8, 24(sp)",
        "lw s9, 20(sp)",
        "lw s10, 16(sp)",
        "lw s11, 12(sp)",
        "addi sp, sp, 64",
        "ret",
        ".option pop",
        chunk = const CHUNK,
    )
}

/// The words of window element `$tap` of a quad.
macro_rules! load {
    ($tap:literal; $bytes:literal; $($word:literal)*) => {
        concat!($("lw {x", $word, "}, ", $bytes, "*", $tap, "+4*", $word, "({words})\n"),*)
    };
}

/// A weight of a channel times each of the words.
macro_rules! add {
    ($tap:literal; $channel:literal; $($word:literal $sum:literal)*) => {
        concat!(
            "lb {w}, 4*", $channel, "+", $tap, "({weights})\n",
            $("mul {t}, {w}, {x", $word, "}\n", "add {", $sum, "}, {", $sum, "}, {t}\n"),*
        )
    };
}

macro_rules! four_words {
    ($tap:literal) => {
        concat!(
            load!($tap; "16"; "0" "1" "2" "3"),
            add!($tap; "0"; "0" "s0" "1" "s1" "2" "s2" "3" "s3"),
            add!($tap; "1"; "0" "s4" "1" "s5" "2" "s6" "3" "s7"),
            add!($tap; "2"; "0" "s8" "1" "s9" "2" "s10" "3" "s11"),
            add!($tap; "3"; "0" "s12" "1" "s13" "2" "s14" "3" "s15"),
        )
    };
}

macro_rules! two_words {
    ($tap:literal) => {
        concat!(
            load!($tap; "8"; "0" "1"),
            add!($tap; "0"; "0" "s0" "1" "s1"),
            add!($tap; "1"; "0" "s2" "1" "s3"),
            add!($tap; "2"; "0" "s4" "1" "s5"),
            add!($tap; "3"; "0" "s6" "1" "s7"),
        )
    };
}

/// A word times the weights of a block at `$weights`.
macro_rules! block {
    ($tap:literal; $weights:literal; $($channel:literal $sum:literal)*) => {
        concat!($(
            "lb {t}, 4*", $channel, "+", $tap, "({", $weights, "})\n",
            "mul {t}, {t}, {x0}\n",
            "add {", $sum, "}, {", $sum, "}, {t}\n",
        )*)
    };
}

macro_rules! one_word {
    ($tap:literal) => {
        concat!(
            load!($tap; "4"; "0"),
            block!($tap; "weights"; "0" "s0" "1" "s1" "2" "s2" "3" "s3"),
            block!($tap; "w1"; "0" "s4" "1" "s5" "2" "s6" "3" "s7"),
            block!($tap; "w2"; "0" "s8" "1" "s9" "2" "s10" "3" "s11"),
            block!($tap; "w3"; "0" "s12" "1" "s13" "2" "s14" "3" "s15"),
        )
    };
}

/// Goes over the window elements, quad by quad, then the last few one by one.
macro_rules! all_taps {
    ($tap:ident, $bytes:literal, $words:ident, $weights:ident $($more:ident)*, $sums:ident; $($x:ident)*; $($sum:ident $index:literal)*) => {
        asm!(
            "beq {words}, {whole}, 3f",
            "2:",
            $tap!("0"),
            $tap!("1"),
            $tap!("2"),
            $tap!("3"),
            concat!("addi {words}, {words}, 4*", $bytes),
            "addi {weights}, {weights}, 16",
            $(concat!("addi {", stringify!($more), "}, {", stringify!($more), "}, 16"),)*
            "bne {words}, {whole}, 2b",
            "3:",
            "beq {words}, {end}, 5f",
            "4:",
            $tap!("0"),
            concat!("addi {words}, {words}, ", $bytes),
            "addi {weights}, {weights}, 1",
            $(concat!("addi {", stringify!($more), "}, {", stringify!($more), "}, 1"),)*
            "bne {words}, {end}, 4b",
            "5:",
            words = inout(reg) $words.as_ptr() => _,
            weights = inout(reg) $weights.as_ptr() => _,
            $($more = inout(reg) $more => _,)*
            whole = in(reg) $words.as_chunks::<QUAD>().0.as_ptr_range().end,
            end = in(reg) $words.as_ptr_range().end,
            t = out(reg) _,
            $($x = out(reg) _,)*
            $($sum = inout(reg) $sums[$index],)*
            options(nostack, readonly)
        )
    };
}

/// Sums of products modulo 2^32 of each word of a window element with each of four channels' packed weights.
#[inline(never)]
pub(super) fn dot<const W: usize>(words: &[[u32; W]], weights: &[i8]) -> [[u32; W]; BLOCK] {
    let mut result = [[0; W]; BLOCK];
    let sums = result.as_flattened_mut();
    if weights.len() < BLOCK * words.len() {
        return result;
    }
    // SAFETY: reads every word of `words`, of which there are `W` an element, and the weights of as many elements.
    unsafe {
        match W {
            2 => all_taps!(two_words, "8", words, weights, sums; w x0 x1; s0 0 s1 1 s2 2 s3 3 s4 4 s5 5 s6 6 s7 7),
            4 => all_taps!(four_words, "16", words, weights, sums; w x0 x1 x2 x3;
                s0 0 s1 1 s2 2 s3 3 s4 4 s5 5 s6 6 s7 7 s8 8 s9 9 s10 10 s11 11 s12 12 s13 13 s14 14 s15 15),
            _ => {}
        }
    }
    result
}

/// Sums of products of one word a window element with each channel of up to four blocks.
#[inline(never)]
pub(super) fn dot_one(words: &[[u32; 1]], weights: &[i8]) -> [[u32; BLOCK]; BLOCKS] {
    let mut result = [[0; BLOCK]; BLOCKS];
    let sums = result.as_flattened_mut();
    let len = BLOCK * words.len().next_multiple_of(QUAD);
    if weights.len() < len {
        return result;
    }
    // What lies past the last block is never used: the first block again.
    let block = |block: usize| weights.get(block * len..(block + 1) * len).unwrap_or(weights).as_ptr();
    let [w1, w2, w3] = [block(1), block(2), block(3)];
    // SAFETY: reads every word of `words` and the weights of as many elements in four blocks.
    unsafe {
        all_taps!(one_word, "4", words, weights w1 w2 w3, sums; x0;
            s0 0 s1 1 s2 2 s3 3 s4 4 s5 5 s6 6 s7 7 s8 8 s9 9 s10 10 s11 11 s12 12 s13 13 s14 14 s15 15);
    }
    result
}
