//! Draws what a host asks for on the USB port, with the model in flash and both cores. The light is on while it computes.
#![no_std]
#![no_main]

use embassy_executor::Spawner;
use mote_core::{Arena, Generator, Progress};
use mote_device::{Board, Memory};
use mote_rp::{Parts, Pico};

/// Bytes of working memory for models.
const ARENA_LEN: usize = 384 * 1024;
/// Bytes for what a job begins with.
const INPUT_LEN: usize = 4 * 1024;

/// The working memory. Its name is how the host tells it from other data.
#[unsafe(no_mangle)]
static mut MOTE_ARENA: Arena<ARENA_LEN> = Arena::new();
static mut INPUT: Arena<INPUT_LEN> = Arena::new();

struct Desk(Pico);

impl Board for Desk {
    const NAME: &'static str = "rp2350";
    const CLOCK_HZ: u32 = mote_embassy::CLOCK_HZ;

    fn ticks(&mut self) -> u32 {
        mote_embassy::ticks()
    }

    fn step(&mut self, generator: &mut Generator<'_, '_>) -> Progress {
        self.0.step(generator)
    }
}

#[embassy_executor::main]
async fn main(_spawner: Spawner) -> ! {
    let Parts { usb, models, pico } = Pico::start();
    // SAFETY: `main` runs once and nothing else names them.
    let (arena, input) = unsafe { ((&raw mut MOTE_ARENA).as_mut_unchecked(), (&raw mut INPUT).as_mut_unchecked()) };
    let memory = Memory { arena: &mut arena.0, input: &mut input.0 };
    mote_embassy::serve_usb(usb, Desk(pico), models, memory).await
}
