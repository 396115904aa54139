//! Answers a host on the serial port: `cargo xtask device` and `cargo xtask generate` speak with it.
//!
//! Argument: the host's file with the slots' bytes, where what is written into them is kept; without it they are memory.
#![no_std]
#![no_main]

use mote_core::Arena;
use mote_device::{Board, FlashStore, Memory, block_on, serve};
use mote_slots::Layout;
use qemu_m4::clock::{self, Clock};
use qemu_m4::flash::{Flash, mapped};
use qemu_m4::host::{COMMAND_LINE, arguments};
use qemu_m4::{fail, serial};

/// Bytes of working memory: what a model may need at most on this board.
const ARENA_LEN: usize = 128 * 1024;
/// Bytes for what jobs begin with.
const INPUT_LEN: usize = 64 * 1024;

/// The working memory. Its name is how the host tells it from other data.
#[unsafe(no_mangle)]
static mut MOTE_ARENA: Arena<ARENA_LEN> = Arena::new();
static mut INPUT: Arena<INPUT_LEN> = Arena::new();

#[qemu_m4::entry]
fn main() -> ! {
    // SAFETY: `main` runs once and nothing else names these.
    let (arena, input) = unsafe { ((&raw mut MOTE_ARENA).as_mut_unchecked(), (&raw mut INPUT).as_mut_unchecked()) };
    let memory = Memory { arena: &mut arena.0, input: &mut input.0 };
    let (receiver, sender) = serial::start();
    let mut line = [0; COMMAND_LINE];
    let file = arguments(&mut line).and_then(|mut words| words.nth(1));
    // SAFETY: `main` runs once, and nothing else writes the model region.
    let Some(flash) = (unsafe { Flash::new(file) }) else { fail("slots", "the host has no file of this name") };
    let Ok(layout) = Layout::new::<Flash>(0, flash.len()) else { fail("slots", "the model region is not two of them") };
    let store = FlashStore::new(flash, layout, mapped);
    // The port neither fails nor ends.
    let _ = block_on(serve(Emulated(Clock::start()), store, memory, receiver, sender));
    qemu_m4::succeed()
}

/// The serial port's, the only one that is enabled.
#[cfg(target_arch = "arm")]
#[qemu_m4::exception]
unsafe fn DefaultHandler(_number: i16) {
    serial::interrupted();
}

struct Emulated(Clock);

impl Board for Emulated {
    const NAME: &'static str = env!("MOTE_BOARD");
    const CLOCK_HZ: u32 = clock::HZ;

    fn ticks(&mut self) -> u32 {
        self.0.ticks()
    }
}
