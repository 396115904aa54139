//! Draws one picture with `model.mote`, shows it in the terminal and writes it to the file `picture.pgm`.
#![no_std]
#![no_main]

use core::fmt::Display;
use mote_core::{Arena, Generator, Model, Request};
use semihosting::fs::File;
use semihosting::io::Write;
use semihosting::{print, println, process};

#[cfg(target_arch = "arm")]
use cortex_m_rt::entry;
#[cfg(target_arch = "riscv32")]
use riscv_rt::entry;

/// The model, in flash with the program.
static MODEL: &[u8] = include_bytes!("../model.mote");

/// Bytes of working memory: what `cargo xtask inspect` says that the model needs, or more.
const ARENA_LEN: usize = 128 * 1024;

/// What to draw.
const CLASS: u16 = 0;
const SEED: u64 = 1;

/// From black to white.
const SHADES: &[u8] = b" .:-=+*#%@";

#[entry]
fn main() -> ! {
    let model = Model::parse(MODEL).unwrap_or_else(|error| fail(&error));
    let mut arena = Arena::<ARENA_LEN>::new();
    let mut generator = Generator::new(&model, &mut arena.0).unwrap_or_else(|error| fail(&error));
    let request = Request { class: CLASS, seed: SEED, ..Request::default() };
    generator.start(request).unwrap_or_else(|error| fail(&error));
    generator.finish();
    show(&model, &generator);
    if write(&model, &generator).is_err() {
        fail(&"picture.pgm cannot be written");
    }
    process::exit(0)
}

/// Two characters for each pixel.
fn show(model: &Model<'_>, generator: &Generator<'_, '_>) {
    for (index, pixel) in generator.pixels().step_by(model.channels()).enumerate() {
        let shade = char::from(SHADES[usize::from(pixel) * (SHADES.len() - 1) / 255]);
        print!("{shade}{shade}");
        if (index + 1) % model.width() == 0 {
            println!();
        }
    }
}

/// A portable graymap or, of three channels, pixmap.
fn write(model: &Model<'_>, generator: &Generator<'_, '_>) -> semihosting::io::Result<()> {
    let mut file = File::create(c"picture.pgm")?;
    let kind = if model.channels() == 3 { 6 } else { 5 };
    write!(file, "P{kind}\n{} {}\n255\n", model.width(), model.height())?;
    let mut pixels = generator.pixels();
    loop {
        let mut chunk = [0; 256];
        let len = chunk.iter_mut().zip(pixels.by_ref()).map(|(to, pixel)| *to = pixel).count();
        if len == 0 {
            return Ok(());
        }
        file.write_all(&chunk[..len])?;
    }
}

fn fail(error: &dyn Display) -> ! {
    println!("error: {error}");
    process::exit(1)
}
