//! Pins and clocks of the NUCLEO-H743ZI: the light LD1 on PB0, the serial port of the board's debugger on PD8 and PD9.
#![no_std]

mod flash;

use embassy_stm32::gpio::{Level, Output, Speed};
use embassy_stm32::peripherals::USART3;
use embassy_stm32::rcc::{
    AHBPrescaler, APBPrescaler, HSIPrescaler, Pll, PllDiv, PllMul, PllPreDiv, PllSource, Sysclk, VoltageScale,
};
use embassy_stm32::usart::{self, BufferedInterruptHandler, BufferedUart};
use embassy_stm32::{Config, bind_interrupts};
use flash::CachedFlash;
use mote_device::FlashStore;
use static_cell::StaticCell;

bind_interrupts!(struct Interrupts {
    USART3 => BufferedInterruptHandler<USART3>;
});

/// Bits a second of the serial port: 8 bits, no parity, 1 stop bit.
pub const BAUD: u32 = 115_200;

/// Bytes of the serial port that wait in each direction: those that come while a layer of 40 ms is computed.
const WAITING: usize = 512;

/// The models in flash.
pub type Models = FlashStore<CachedFlash>;

/// What is on the board besides its light.
pub struct Parts {
    /// The serial port of the debugger.
    pub port: BufferedUart<'static>,
    /// The models.
    pub models: Models,
    /// The rest.
    pub board: Nucleo,
}

/// The board.
pub struct Nucleo {
    light: Output<'static>,
}

impl Nucleo {
    /// Sets the clocks, 400 MHz, and turns the caches on. To be called once.
    pub fn start() -> Parts {
        static BUFFERS: StaticCell<[[u8; WAITING]; 2]> = StaticCell::new();
        let peripherals = embassy_stm32::init(clocks());
        let mut processor = cortex_m::Peripherals::take().expect("start is called once");
        processor.SCB.enable_icache();
        processor.SCB.enable_dcache(&mut processor.CPUID);
        let mut config = usart::Config::default();
        config.baudrate = BAUD;
        let [sent, received] = BUFFERS.init([[0; WAITING]; 2]);
        let (receive, send) = (peripherals.PD9, peripherals.PD8);
        let port = BufferedUart::new(peripherals.USART3, receive, send, sent, received, Interrupts, config)
            .expect("the baud rate can be had");
        let models = CachedFlash::store(peripherals.FLASH, processor.SCB, processor.CPUID);
        let board = Nucleo { light: Output::new(peripherals.PB0, Level::Low, Speed::Low) };
        Parts { port, models, board }
    }

    /// Sets the light.
    pub fn light(&mut self, on: bool) {
        self.light.set_level(on.into());
    }
}

/// 64 MHz / 4 * 50 = 800 MHz, half of which every revision of the chip runs at (RM0433, 8.5; 480 MHz takes revision V).
fn clocks() -> Config {
    let mut config = Config::default();
    config.rcc.hsi = Some(HSIPrescaler::DIV1);
    config.rcc.pll1 = Some(Pll {
        source: PllSource::HSI,
        prediv: PllPreDiv::DIV4,
        mul: PllMul::MUL50,
        fracn: None,
        divp: Some(PllDiv::DIV2),
        divq: None,
        divr: None,
    });
    config.rcc.sys = Sysclk::PLL1_P;
    config.rcc.ahb_pre = AHBPrescaler::DIV2;
    config.rcc.apb1_pre = APBPrescaler::DIV2;
    config.rcc.apb2_pre = APBPrescaler::DIV2;
    config.rcc.apb3_pre = APBPrescaler::DIV2;
    config.rcc.apb4_pre = APBPrescaler::DIV2;
    config.rcc.voltage_scale = VoltageScale::Scale1;
    config
}
