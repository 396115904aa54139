//! Tells on the USB port, twice a second, `PASS` and the hash that every target gives, or `FAIL`. The light stays on or flashes.
#![no_std]
#![no_main]

use embedded_io_async::Write;
use esp_hal::delay::Delay;
use mote_device::{block_on, selftest_line};
use mote_esp32c3::{Chip, Parts};

/// Time between two lines.
const AGAIN_MS: u32 = 500;

#[esp_hal::main]
fn main() -> ! {
    let Parts { mut send, mut chip, .. } = Chip::start();
    let line = selftest_line();
    let passed = line.starts_with(b"PASS");
    let mut on = true;
    loop {
        chip.light(on);
        on = passed || !on;
        let Ok(()) = block_on(async {
            send.write_all(&line).await?;
            send.flush().await
        });
        Delay::new().delay_millis(AGAIN_MS);
    }
}
