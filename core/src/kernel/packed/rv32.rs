//! The inner loops for RV32IM, where the compiler neither unrolls nor keeps all sums in registers.

use super::BLOCKS;
use crate::kernel::conv::{BLOCK, QUAD};
use core::arch::asm;

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
