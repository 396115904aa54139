//! Runs each kernel once on the shapes that peers are measured on, between the markers of the instruction counter.
//!
//! Logs a line a case, in the order of the counts: `case OP; SHAPE; WORK; SCRATCH; BEYOND`, see `kernel_cases::Case`.
#![no_std]
#![no_main]

use kernel_cases::{Case, Memory, Meter};
use qemu_m4::markers::{mote_mark_begin, mote_mark_end};

static mut MEMORY: Memory = Memory::new();

#[qemu_m4::entry]
fn main() -> ! {
    // SAFETY: `main` runs once and nothing else names the memory.
    let memory = unsafe { (&raw mut MEMORY).as_mut_unchecked() };
    kernel_cases::run(memory, &mut Markers);
    qemu_m4::succeed()
}

/// The markers, and a line of the log.
struct Markers;

impl Meter for Markers {
    fn begin(&mut self) {
        mote_mark_begin();
    }

    fn end(&mut self, case: &Case) {
        mote_mark_end();
        let Case { op, shape, work, scratch_bytes, beyond } = *case;
        defmt::info!("case {=str}; {=str}; {=u64}; {=usize}; {=str}", op, shape, work, scratch_bytes, beyond);
    }
}
