//! Links only if nothing that Mote does on a chip can panic: the panic handler calls a function that does not exist, so the
//! linker fails unless the compiler has proved every call of the handler away. It is not run.
//!
//! To find a panic, link all the same and look who calls `core::panicking`:
//! `RUSTFLAGS=-Clink-arg=--unresolved-symbols=ignore-all cargo build --release --package panic-free --target TARGET`.
#![no_std]
#![no_main]

use core::pin::Pin;
use core::slice;
use core::task::{Context, Waker};
use mote_core::anomaly::{Normal, standardized};
use mote_core::{Generator, Known, Model, Pace, Progress, Request, Start, Values};

unsafe extern "C" {
    fn mote_core_can_panic() -> !;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // SAFETY: never runs, the program does not link with it.
    unsafe { mote_core_can_panic() }
}

/// Everything from the file's bytes to the pixels, of which the compiler knows nothing.
///
/// # Safety
/// Each pointer stands for as many bytes as the length after it, disjoint from the others.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _start(
    file: *const u8,
    file_len: usize,
    arena: *mut u8,
    arena_len: usize,
    pixels: *mut u8,
    pixels_len: usize,
    request: &Request<'_>,
) -> bool {
    // SAFETY: the caller vouches for it.
    let (file, arena, pixels) = unsafe {
        (
            slice::from_raw_parts(file, file_len),
            slice::from_raw_parts_mut(arena, arena_len),
            slice::from_raw_parts_mut(pixels, pixels_len),
        )
    };
    draw(file, arena, *request, pixels).is_some()
}

/// Draws a picture and, as far as it fits, another one from it, layer by layer, row by row and in turns; gives it in every form.
fn draw(file: &[u8], arena: &mut [u8], request: Request<'_>, pixels: &mut [u8]) -> Option<()> {
    let model = Model::parse(file).ok()?;
    let mut generator = Generator::new(&model, mote_core::aligned(arena)).ok()?;
    generator.start(request).ok()?;
    while generator.step_layer() != Progress::Done {}
    copy(generator.pixels(), pixels);
    let mut generator = Generator::new(&model, mote_core::aligned(arena)).ok()?;
    let start = Start::Noised(Values::Pixels(pixels));
    generator.start(Request { start, first_row: model.row_for_noise(request.first_row), ..request }).ok()?;
    while generator.step() != Progress::Done {}
    let score = generator.score(Values::Pixels(pixels));
    let deviations = standardized(&[score], &[Normal::of(&[score, request.seed])]);
    let known = Known { values: Values::Pixels(pixels), mask: pixels, resampling: request.known?.resampling };
    generator.start(Request { known: Some(known), ..request }).ok()?;
    let mut context = Context::from_waker(Waker::noop());
    let mut turns = generator.in_turns(Pace::Layer);
    while Future::poll(Pin::new(&mut turns), &mut context).is_pending() {}
    let passes = generator.passes().checked_sub(generator.passes_done())?;
    let natural = generator.natural()?.map(|value| value as u8).fold(passes as u8, u8::wrapping_add);
    let rgb565 = generator.pixels_rgb565().map(|pixel| pixel as u8).fold(natural, u8::wrapping_add);
    let signed = generator.pixels_i8().map(|pixel| pixel as u8).fold(deviations as u8, u8::wrapping_add);
    copy([rgb565, signed].into_iter(), pixels);
    if cfg!(feature = "panic") && pixels.is_empty() {
        panic!();
    }
    Some(())
}

fn copy(from: impl Iterator<Item = u8>, pixels: &mut [u8]) {
    pixels.iter_mut().zip(from).for_each(|(to, from)| *to = from);
}
