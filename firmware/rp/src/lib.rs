//! What the RP2040 and the RP2350 share: both cores, the light, the USB port. Their boards are packages of their own.
#![no_std]

use embassy_rp::flash::{Blocking, Flash};
use embassy_rp::gpio::{Level, Output};
use embassy_rp::multicore::{Stack, spawn_core1};
use embassy_rp::peripherals::{FLASH, USB};
use embassy_rp::usb::{Driver, InterruptHandler};
use embassy_rp::{Peri, Peripherals, bind_interrupts};
use mote_core::{Arena, Generator, Progress, SecondCore};
use mote_cores::{FirstCore, Pair, WORK_LEN};
use mote_device::FlashStore;
use mote_embassy::Events;
use static_cell::StaticCell;

bind_interrupts!(struct Interrupts {
    USBCTRL_IRQ => InterruptHandler<USB>;
});

/// Stack of the second core: convolutions take less than 2 kB.
const SECOND_STACK: usize = 4 * 1024;

/// Bytes of flash that the driver reaches: of the largest Pico; `memory.x` has fewer.
const FLASH_LEN: usize = 4 * 1024 * 1024;
/// Where flash is mapped (XIP).
const FLASH_BASE: usize = 0x1000_0000;

/// The models in flash. While it is written the second core stands still.
pub type Models = FlashStore<Flash<'static, FLASH, Blocking, FLASH_LEN>>;

/// What is on the board besides its light.
pub struct Parts {
    /// The USB port.
    pub usb: Driver<'static, USB>,
    /// The models.
    pub models: Models,
    /// The rest.
    pub pico: Pico,
}

/// A Raspberry Pi Pico of either kind.
pub struct Pico {
    light: Output<'static>,
    cores: FirstCore<Events>,
    second: SecondCore<'static>,
}

impl Pico {
    /// Starts the second core. To be called once; the clocks are the HAL's defaults, from the board's crystal of 12 MHz.
    pub fn start() -> Parts {
        static PAIR: Pair<Events> = Pair::new();
        static STACK: StaticCell<Stack<SECOND_STACK>> = StaticCell::new();
        static WORK: StaticCell<Arena<WORK_LEN>> = StaticCell::new();
        let Peripherals { USB: usb, CORE1: second_core, FLASH: flash, PIN_25: light, .. } =
            embassy_rp::init(Default::default());
        spawn_core1(second_core, STACK.init_with(Stack::new), || PAIR.serve());
        let pico = Pico {
            light: Output::new(light, Level::Low),
            cores: PAIR.first().expect("start is called once"),
            second: SecondCore::with_memory(&mut WORK.init_with(Arena::new).0).expect("an arena is aligned"),
        };
        Parts { usb: Driver::new(usb, Interrupts), models: models(flash), pico }
    }

    /// Sets the light.
    pub fn light(&mut self, on: bool) {
        self.light.set_level(on.into());
    }

    /// Runs a row of the network on both cores; the light is on meanwhile.
    pub fn step(&mut self, generator: &mut Generator<'_, '_>) -> Progress {
        self.light(true);
        let progress = generator.step_on(&mut self.cores, &mut self.second);
        self.light(false);
        progress
    }
}

/// The models in flash.
pub fn models(flash: Peri<'static, FLASH>) -> Models {
    mote_embassy::store::<_, FLASH_BASE>(Flash::new_blocking(flash))
}
