//! The ESP32-C3: the serial port that the chip itself shows on USB, the light of most boards on GPIO 8, models in flash.
#![no_std]

mod descriptor;
mod flash;
mod port;

use esp_hal::clock::CpuClock;
use esp_hal::gpio::{Level, Output, OutputConfig};
use esp_hal::time::Instant;
use esp_hal::usb::usb_serial_jtag::UsbSerialJtag;

pub use flash::{CachedFlash, Models};
pub use port::{Receive, Send};

/// Ticks of [`Chip::ticks`] in a second.
pub const CLOCK_HZ: u32 = 1_000_000;

/// What is on the board besides its light.
pub struct Parts {
    /// What comes from the host.
    pub receive: Receive,
    /// What goes to the host.
    pub send: Send,
    /// The models.
    pub models: Models,
    /// The rest.
    pub chip: Chip,
}

/// The board.
pub struct Chip {
    light: Output<'static>,
}

impl Chip {
    /// Sets the clock, 160 MHz, and maps the models into memory. To be called once.
    pub fn start() -> Parts {
        let peripherals = esp_hal::init(esp_hal::Config::default().with_cpu_clock(CpuClock::max()));
        let models = CachedFlash::store(peripherals.FLASH);
        let (receive, send) = UsbSerialJtag::new(peripherals.USB_DEVICE).split();
        let light = Output::new(peripherals.GPIO8, Level::High, OutputConfig::default());
        Parts { receive: Receive(receive), send: Send(send), models, chip: Chip { light } }
    }

    /// Sets the light, which is lit when the pin is low.
    pub fn light(&mut self, on: bool) {
        self.light.set_level((!on).into());
    }

    /// Microseconds, wrapped.
    pub fn ticks(&mut self) -> u32 {
        Instant::now().duration_since_epoch().as_micros() as u32
    }
}

/// Starts anew.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    esp_hal::system::software_reset()
}
