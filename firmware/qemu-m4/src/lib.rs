//! What the bins share: the boards' start-up, the model in flash, arguments, markers and the way out.
//!
//! The emulator gives a program its arguments, its files and its exit status by semihosting; logs leave by defmt over
//! the same channel. Nothing here is particular to the Cortex-M4 but the default target.
#![no_std]

pub mod clock;
pub mod flash;
pub mod host;
mod log;
pub mod markers;
pub mod serial;
pub mod stack;

use defmt::Format;

#[cfg(target_arch = "arm")]
pub use cortex_m_rt::{entry, exception};
#[cfg(target_arch = "riscv32")]
pub use riscv_rt::entry;

// The compiler uses the floating-point and vector unit of a processor that it is told: the unit is switched on right after
// reset, by giving all access to coprocessors 10 and 11 (CPACR).
#[cfg(named_processor)]
core::arch::global_asm!(
    ".global __pre_init",
    ".thumb_func",
    "__pre_init:",
    "ldr r0, =0xE000ED88",
    "ldr r1, [r0]",
    "orr r1, r1, #0xF00000",
    "str r1, [r0]",
    "dsb",
    "isb",
    "bx lr",
    ".pool",
);

unsafe extern "C" {
    /// First byte of the model's flash region; the memory layout defines it.
    static mote_model_start: u8;
    /// One past the last byte of the model's flash region.
    static mote_model_end: u8;
}

/// The whole flash region that a model may fill. An erased region holds anything: parse it.
pub fn model_region() -> &'static [u8] {
    let start = &raw const mote_model_start;
    let end = &raw const mote_model_end;
    // SAFETY: the memory layout reserves start..end in flash for the model; it is readable, no section lies in it, and
    // nothing writes it while the firmware runs.
    unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// Logs `what: error` and ends the program with status 1.
pub fn fail(what: &str, error: impl Format) -> ! {
    defmt::error!("{=str}: {}", what, error);
    host::exit(1)
}

/// Ends the program with status 0.
pub fn succeed() -> ! {
    host::exit(0)
}

/// Logs where, and the message if it is fixed text: to format others takes 6 kB of flash.
#[panic_handler]
fn panic(info: &core::panic::PanicInfo) -> ! {
    let (file, line) = info.location().map_or(("", 0), |location| (location.file(), location.line()));
    defmt::error!("panic at {=str}:{=u32}: {=str}", file, line, info.message().as_str().unwrap_or_default());
    host::exit(101)
}
