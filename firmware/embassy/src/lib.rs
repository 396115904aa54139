//! What the boards with embassy share: the USB serial port, the server and the self-test on it, the clock, the log.
//!
//! A board's package brings pins and clocks, and calls [`serve_usb`] or, with another transport, [`mote_device::serve`].
#![no_std]

mod usb;

use core::panic::PanicInfo;
use defmt_rtt as _;
use embassy_futures::join::join;
use embassy_time::{Instant, TICK_HZ, Timer};
use embassy_usb::driver::Driver;
use embedded_io_async::Write;
use embedded_storage::nor_flash::NorFlash;
use mote_cores::Wait;
use mote_device::{Board, FlashStore, Memory, SELFTEST_LINE, Store, selftest_line};
use mote_slots::{Found, Layout};

/// Ticks of [`ticks`] in a second.
pub const CLOCK_HZ: u32 = TICK_HZ as u32;

/// Time between two lines of the self-test, and between the flashes of a light that tells of a failure.
const AGAIN_MS: u64 = 500;

/// embassy's clock, wrapped.
pub fn ticks() -> u32 {
    Instant::now().as_ticks() as u32
}

/// Answers a host on the USB serial port, for ever.
///
/// One task does everything: while a layer is computed, USB waits. A host gives a device seconds to answer, but 50 ms for an
/// address (USB 2.0, 9.2.6.3), which it gives before anything is drawn.
pub async fn serve_usb<D, B, S>(driver: D, board: B, store: S, memory: Memory<'_>) -> !
where
    D: Driver<'static>,
    B: Board,
    S: Store,
{
    let (mut device, receive, send) = usb::serial(driver, B::NAME);
    join(device.run(), mote_device::serve(board, store, memory, receive, send)).await.0
}

/// Runs the self-test once, then tells its result on the USB serial port and by a light, for ever.
pub async fn selftest_usb<D: Driver<'static>>(driver: D, name: &'static str, light: impl FnMut(bool)) -> ! {
    let (mut device, _, send) = usb::serial(driver, name);
    join(device.run(), selftest(send, light)).await.0
}

/// Runs the self-test once, then tells its result as a line of text, again and again, for whoever comes to look; the light is on
/// if it passed and flashes if not.
pub async fn selftest(mut send: impl Write, mut light: impl FnMut(bool)) {
    let line: [u8; SELFTEST_LINE] = selftest_line();
    let passed = line.starts_with(b"PASS");
    let mut on = true;
    loop {
        light(on);
        on = passed || !on;
        if send.write_all(&line).await.is_err() || send.flush().await.is_err() {
            return;
        }
        Timer::after_millis(AGAIN_MS).await;
    }
}

/// How the two cores of a Raspberry Pi chip wait for each other.
#[derive(Debug)]
pub struct Events;

impl Wait for Events {
    fn wait() {
        cortex_m::asm::wfe();
    }

    fn wake() {
        cortex_m::asm::sev();
    }
}

unsafe extern "C" {
    /// First byte of the model's flash region; `memory.x` defines it.
    static mote_model_start: u8;
    /// One past the last byte of the model's flash region.
    static mote_model_end: u8;
}

/// The models in the flash region that `memory.x` gives them, two slots. `BASE` is the address of the driver's offset 0.
pub fn store<F: NorFlash, const BASE: usize>(flash: F) -> FlashStore<F> {
    let (start, end) = ((&raw const mote_model_start).addr(), (&raw const mote_model_end).addr());
    let layout = Layout::new::<F>((start - BASE) as u32, (end - start) as u32);
    FlashStore::new(flash, layout.expect("memory.x gives the models whole erase blocks"), mapped::<BASE>)
}

/// A slot's file as the processor sees it.
fn mapped<const BASE: usize>(found: &Found) -> &'static [u8] {
    // SAFETY: the chip maps its flash there, `memory.x` keeps sections out of the slots, and the slot in use is not written.
    unsafe { found.mapped(core::ptr::with_exposed_provenance(BASE)) }
}

/// Logs where, and the message if it is fixed text; then halts, for a debugger to look.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    cortex_m::interrupt::disable();
    let (file, line) = info.location().map_or(("", 0), |location| (location.file(), location.line()));
    defmt::error!("panic at {=str}:{=u32}: {=str}", file, line, info.message().as_str().unwrap_or_default());
    loop {
        cortex_m::asm::wfi();
    }
}
