//! Tells on the USB port, twice a second, `PASS` and the hash that every target gives, or `FAIL`. The light stays on or flashes.
#![no_std]
#![no_main]

use embassy_executor::Spawner;
use nrf52840::{Kit, Parts};

#[embassy_executor::main]
async fn main(_spawner: Spawner) -> ! {
    let Parts { port, mut board, .. } = Kit::start();
    mote_embassy::selftest_usb(port, "nrf52840 selftest", |on| board.light(on)).await
}
