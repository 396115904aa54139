//! Pins and clocks of the nRF52840 development kit: the light LED1 on P0.13, lit when low; USB of the chip itself.
#![no_std]

use embassy_nrf::bind_interrupts;
use embassy_nrf::config::{Config, HfclkSource};
use embassy_nrf::gpio::{Level, Output, OutputDrive};
use embassy_nrf::nvmc::Nvmc;
use embassy_nrf::peripherals::USBD;
use embassy_nrf::usb::vbus_detect::{self, HardwareVbusDetect};
use embassy_nrf::usb::{Driver, InterruptHandler};
use mote_device::FlashStore;

bind_interrupts!(struct Interrupts {
    USBD => InterruptHandler<USBD>;
    CLOCK_POWER => vbus_detect::InterruptHandler;
});

/// The models in flash, which is mapped at 0. While a page is erased, 85 ms, the processor stands still.
pub type Models = FlashStore<Nvmc<'static>>;

/// What is on the board besides its light.
pub struct Parts {
    /// The USB port.
    pub port: Driver<'static, HardwareVbusDetect>,
    /// The models.
    pub models: Models,
    /// The rest.
    pub board: Kit,
}

/// The board.
pub struct Kit {
    light: Output<'static>,
}

impl Kit {
    /// Starts the crystal of 32 MHz, which USB needs. To be called once.
    pub fn start() -> Parts {
        let mut config = Config::default();
        config.hfclk_source = HfclkSource::ExternalXtal;
        let peripherals = embassy_nrf::init(config);
        let port = Driver::new(peripherals.USBD, Interrupts, HardwareVbusDetect::new(Interrupts));
        let board = Kit { light: Output::new(peripherals.P0_13, Level::High, OutputDrive::Standard) };
        Parts { port, models: mote_embassy::store::<_, 0>(Nvmc::new(peripherals.NVMC)), board }
    }

    /// Sets the light.
    pub fn light(&mut self, on: bool) {
        self.light.set_level((!on).into());
    }
}
