//! Two addresses that the instruction counter watches: what runs between them is what is counted.
//!
//! The bodies differ, or the compiler would fold them into one function with one address, and they are assembly, or it
//! would remove the calls.

use core::arch::asm;

/// Counting starts here, this function's own instructions included.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn mote_mark_begin() {
    // SAFETY: does nothing.
    unsafe { asm!("nop") }
}

/// Counting ends at the first instruction of this function.
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn mote_mark_end() {
    // SAFETY: does nothing, twice.
    unsafe { asm!("nop", "nop") }
}
