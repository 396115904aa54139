//! mote-core's own check on the chip, and two loops of known length for the instruction counter.
//!
//! Exits with 0 when it logged PASS and the hash that every target gives.
#![no_std]
#![no_main]

use core::arch::asm;
use mote_core::selftest;
use qemu_m4::markers::{mote_mark_begin, mote_mark_end};

#[qemu_m4::entry]
fn main() -> ! {
    match selftest::run() {
        Ok(hash) => defmt::info!("PASS {=u32:08x}", hash),
        Err(error) => qemu_m4::fail("FAIL", defmt::Debug2Format(&error)),
    }
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
