//! Draws a sample of each class, again and again, on a display of 240 x 240 pixels: an ST7789 on SPI 0, wired as on the Pimoroni
//! Pico Explorer (clock 18, data 19, select 17, command 16). Each row of the step table is shown as it is done.
#![no_std]
#![no_main]

use embassy_executor::Spawner;
use embassy_rp::gpio::{Level, Output};
use embassy_rp::spi::{self, Spi};
use embassy_time::{Delay, Timer};
use embedded_hal_bus::spi::ExclusiveDevice;
use mipidsi::Builder;
use mipidsi::interface::SpiInterface;
use mipidsi::models::ST7789;
use mipidsi::options::ColorInversion;
use mote_core::{Arena, Generator, Model, Progress, Request};
use mote_device::Store;
use mote_display::Screen;

/// Bytes of working memory for the model.
const ARENA_LEN: usize = 384 * 1024;
/// Bytes of pixels that are sent at once.
const SENT_AT_ONCE: usize = 2 * 240;
/// The display's fastest clock for writing is 62.5 MHz (ST7789V, 7.4.5: a cycle of 16 ns).
const SPI_HZ: u32 = 62_500_000;
/// How long a finished sample is shown.
const SHOWN_MS: u64 = 1000;

static mut ARENA: Arena<ARENA_LEN> = Arena::new();

#[embassy_executor::main]
async fn main(_spawner: Spawner) -> ! {
    let pico = embassy_rp::init(Default::default());
    let mut config = spi::Config::default();
    config.frequency = SPI_HZ;
    let bus = Spi::new_blocking_txonly(pico.SPI0, pico.PIN_18, pico.PIN_19, config);
    let (select, command) = (Output::new(pico.PIN_17, Level::High), Output::new(pico.PIN_16, Level::Low));
    let Ok(device) = ExclusiveDevice::new_no_delay(bus, select);
    let mut buffer = [0; SENT_AT_ONCE];
    let mut display = Builder::new(ST7789, SpiInterface::new(device, command, &mut buffer))
        .display_size(240, 240)
        .invert_colors(ColorInversion::Inverted)
        .init(&mut Delay)
        .expect("a display that only listens cannot refuse");
    let mut models = mote_rp::models(pico.FLASH);
    let stored = models.newest().expect("no model in flash: flash one");
    let model = Model::parse(stored.file).expect("the model in flash is damaged: flash it again");
    // SAFETY: `main` runs once and nothing else names it.
    let arena = unsafe { (&raw mut ARENA).as_mut_unchecked() };
    let mut generator = Generator::new(&model, &mut arena.0).expect("the model needs more memory: use a smaller one");
    let screen = Screen::new(&model);
    let _ = screen.clear(&mut display);
    for sample in 0.. {
        let class = (sample % u64::from(model.classes())) as u16;
        let request = Request { class, seed: 1, sample, ..Request::default() };
        generator.start(request).expect("the model has this class");
        loop {
            let progress = generator.step();
            let done = match progress {
                Progress::Row(row) => row,
                Progress::Done => model.rows(),
            };
            let _ = screen.picture(&mut display, &generator);
            let _ = screen.progress(&mut display, done);
            if progress == Progress::Done {
                break;
            }
        }
        Timer::after_millis(SHOWN_MS).await;
    }
    unreachable!("there are more samples than time")
}
