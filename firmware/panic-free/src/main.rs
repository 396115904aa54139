//! Links only if nothing that Mote does on a chip can panic: the panic handler calls a function that does not exist, so the
//! linker fails unless the compiler has proved every call of the handler away. It is not run.
//!
//! To find a panic, link all the same and look who calls `core::panicking`:
//! `RUSTFLAGS=-Clink-arg=--unresolved-symbols=ignore-all cargo build --release --package panic-free --target TARGET`.
#![no_std]
#![no_main]

use core::slice;
use mote_core::{Generator, Model, Progress, Request};

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
    request: &Request,
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

/// Draws a picture and, as far as it fits, another one from it.
fn draw(file: &[u8], arena: &mut [u8], request: Request, pixels: &mut [u8]) -> Option<()> {
    let model = Model::parse(file).ok()?;
    let mut generator = Generator::new(&model, mote_core::aligned(arena)).ok()?;
    generator.start(request).ok()?;
    while generator.step_layer() != Progress::Done {}
    copy(&generator, pixels);
    generator.start_from(request, pixels).ok()?;
    while generator.step() != Progress::Done {}
    copy(&generator, pixels);
    if cfg!(feature = "panic") && pixels.is_empty() {
        panic!();
    }
    Some(())
}

fn copy(generator: &Generator<'_, '_>, pixels: &mut [u8]) {
    pixels.iter_mut().zip(generator.pixels()).for_each(|(to, from)| *to = from);
}
