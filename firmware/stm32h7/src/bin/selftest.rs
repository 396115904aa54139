//! Tells on the serial port, twice a second, `PASS` and the hash that every target gives, or `FAIL`. The light stays on or flashes.
#![no_std]
#![no_main]

use embassy_executor::Spawner;
use stm32h7::{Nucleo, Parts};

#[embassy_executor::main]
async fn main(_spawner: Spawner) -> ! {
    let Parts { port, mut board, .. } = Nucleo::start();
    mote_embassy::selftest(port, |on| board.light(on)).await;
    defmt::panic!("the serial port failed")
}
