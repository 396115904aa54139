//! Pins and clocks of the Adafruit Feather STM32F405 Express: a crystal of 12 MHz, the light on PC1, USB on PA11 and PA12.
#![no_std]

use embassy_stm32::flash::{Blocking, Flash};
use embassy_stm32::gpio::{Level, Output, Speed};
use embassy_stm32::peripherals::USB_OTG_FS;
use embassy_stm32::rcc::{
    AHBPrescaler, APBPrescaler, Hse, HseMode, Pll, PllMul, PllPDiv, PllPreDiv, PllQDiv, PllSource, Sysclk,
};
use embassy_stm32::time::Hertz;
use embassy_stm32::usb::{self, Driver, InterruptHandler};
use embassy_stm32::{Config, bind_interrupts};
use mote_device::FlashStore;
use static_cell::StaticCell;

bind_interrupts!(struct Interrupts {
    OTG_FS => InterruptHandler<USB_OTG_FS>;
});

/// Bytes for packets from the host: as many as the endpoints' largest together.
const RECEIVED: usize = 256;

/// Where flash is mapped.
const FLASH_BASE: usize = 0x0800_0000;

/// The models in flash. While it is erased, a second or two for each 128 KiB, the processor stands still.
pub type Models = FlashStore<Flash<'static, Blocking>>;

/// What is on the board besides its light.
pub struct Parts {
    /// The USB port.
    pub port: Driver<'static, USB_OTG_FS>,
    /// The models.
    pub models: Models,
    /// The rest.
    pub board: Feather,
}

/// The board.
pub struct Feather {
    light: Output<'static>,
}

impl Feather {
    /// Sets the clocks: 168 MHz, and 48 MHz for USB. To be called once.
    pub fn start() -> Parts {
        static BUFFER: StaticCell<[u8; RECEIVED]> = StaticCell::new();
        let peripherals = embassy_stm32::init(clocks());
        let mut config = usb::Config::default();
        // The board is powered by the port that would be detected.
        config.vbus_detection = false;
        let buffer = BUFFER.init([0; RECEIVED]);
        let port =
            Driver::new_fs(peripherals.USB_OTG_FS, Interrupts, peripherals.PA12, peripherals.PA11, buffer, config);
        let models = mote_embassy::store::<_, FLASH_BASE>(Flash::new_blocking(peripherals.FLASH));
        let board = Feather { light: Output::new(peripherals.PC1, Level::Low, Speed::Low) };
        Parts { port, models, board }
    }

    /// Sets the light.
    pub fn light(&mut self, on: bool) {
        self.light.set_level(on.into());
    }
}

/// 12 MHz / 6 * 168 = 336 MHz, of which 2 make the processor's 168 MHz and 7 the 48 MHz of USB (RM0090, 7.3.2).
fn clocks() -> Config {
    let mut config = Config::default();
    config.rcc.hse = Some(Hse { freq: Hertz(12_000_000), mode: HseMode::Oscillator });
    config.rcc.pll_src = PllSource::HSE;
    config.rcc.pll = Some(Pll {
        prediv: PllPreDiv::DIV6,
        mul: PllMul::MUL168,
        divp: Some(PllPDiv::DIV2),
        divq: Some(PllQDiv::DIV7),
        divr: None,
    });
    config.rcc.ahb_pre = AHBPrescaler::DIV1;
    config.rcc.apb1_pre = APBPrescaler::DIV4;
    config.rcc.apb2_pre = APBPrescaler::DIV2;
    config.rcc.sys = Sysclk::PLL1_P;
    config
}
