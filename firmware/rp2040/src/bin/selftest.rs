//! Tells on the USB port, twice a second, `PASS` and the hash that every target gives, or `FAIL`. The light stays on or flashes.
#![no_std]
#![no_main]

use embassy_executor::Spawner;
use mote_rp::{Parts, Pico};

#[embassy_executor::main]
async fn main(_spawner: Spawner) -> ! {
    let Parts { usb, mut pico, .. } = Pico::start();
    mote_embassy::selftest_usb(usb, "rp2040 selftest", |on| pico.light(on)).await
}
