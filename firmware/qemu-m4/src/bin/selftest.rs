//! Golden vectors on the chip, and two loops of known length for the instruction counter.
//!
//! Exits with 0 when every line says PASS.
#![no_std]
#![no_main]

use core::arch::asm;
use mote_core::noise::philox4x32_10;
use qemu_m4::markers::{mote_mark_begin, mote_mark_end};

/// Known answers of Random123's `kat_vectors` for philox4x32-10: counter, key, output.
const PHILOX: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
    ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
    ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
    (
        [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
        [0xa409_3822, 0x299f_31d0],
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
    ),
];

#[qemu_m4::entry]
fn main() -> ! {
    if PHILOX.iter().any(|&(counter, key, words)| philox4x32_10(counter, key) != words) {
        qemu_m4::fail("FAIL philox4x32-10", "differs from Random123's known answers");
    }
    defmt::info!("PASS philox4x32-10");
    for turns in [1_000, 3_000] {
        mote_mark_begin();
        two_instructions_a_turn(turns);
        mote_mark_end();
    }
    qemu_m4::succeed()
}

/// Runs exactly `2 * turns` instructions, besides what sets it up.
fn two_instructions_a_turn(turns: u32) {
    // SAFETY: counts a register down to zero and touches nothing else.
    #[cfg(target_arch = "arm")]
    unsafe {
        asm!("2:", "subs {0}, #1", "bne 2b", inout(reg) turns => _);
    }
    // SAFETY: counts a register down to zero and touches nothing else.
    #[cfg(target_arch = "riscv32")]
    unsafe {
        asm!("2:", "addi {0}, {0}, -1", "bnez {0}, 2b", inout(reg) turns => _);
    }
}
