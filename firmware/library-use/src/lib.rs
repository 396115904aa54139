//! `mote-core` alone in someone's own firmware: the model in flash, the caller's memory, no allocation. `draw` is all that it
//! takes; the others are its forms for firmware that has something else to do. `cargo xtask test "library use"` compiles this for
//! every target.
#![no_std]
#![forbid(unsafe_code)]

use embedded_graphics::image::Image;
use embedded_graphics::prelude::*;
use mote_core::{Arena, ArenaError, Generator, Known, Model, Pace, ParseError, Progress, Request, RequestError};
use mote_core::{Resampling, Start, Values};

/// The model, in flash.
static MODEL: &[u8] = include_bytes!("../../models/demo.mote");
/// What it needs to work, as `cargo xtask inspect` says. A `static_cell::StaticCell` gives out one that lives for ever.
pub type Memory = Arena<22_528>;

/// What can go wrong, all of it before anything is drawn.
#[derive(Debug)]
pub enum Error {
    /// The file is damaged, or no model.
    Model(ParseError),
    /// The memory is too small.
    Memory(ArenaError),
    /// The model cannot do what is asked.
    Request(RequestError),
}

/// Draws a garment of this class; the same seed draws the same one on every target.
///
/// # Errors
/// [`Error`]
pub fn draw(class: u16, seed: u64, memory: &mut Memory, pixels: &mut [u8]) -> Result<(), Error> {
    let model = Model::parse(MODEL).map_err(Error::Model)?;
    let mut generator = Generator::new(&model, &mut memory.0).map_err(Error::Memory)?;
    generator.start(Request { class, seed, ..Request::default() }).map_err(Error::Request)?;
    generator.finish();
    for (to, pixel) in pixels.iter_mut().zip(generator.pixels()) {
        *to = pixel;
    }
    Ok(())
}

/// Step by step, one pass of the network each; `each` looks at the sample in between.
pub fn draw_in_steps(generator: &mut Generator<'_, '_>, mut each: impl FnMut(&Generator<'_, '_>)) {
    while generator.step() != Progress::Done {
        each(generator);
    }
}

/// Layer by layer, for a main loop that serves other things too: one call is one operation of the network. Whether it is done.
pub fn draw_a_bit(generator: &mut Generator<'_, '_>) -> bool {
    generator.step_layer() == Progress::Done
}

/// What shows a finished sample.
pub type Show = fn(&Generator<'_, '_>);

/// As a task of embassy's executor, or, without the attribute, of any other: other tasks run between layers.
#[embassy_executor::task]
pub async fn draw_beside_others(memory: &'static mut Memory, show: Show) {
    let Ok(model) = Model::parse(MODEL) else { return };
    let Ok(mut generator) = Generator::new(&model, &mut memory.0) else { return };
    for seed in 0.. {
        if generator.start(Request { class: 9, seed, ..Request::default() }).is_ok() {
            generator.in_turns(Pace::Layer).await;
            show(&generator);
        }
    }
}

/// Draws what the mask hides of a picture anew so that it fits the rest, beginning at what was there. The mask has a byte a
/// pixel, 0 where the picture is hidden.
///
/// # Errors
/// [`RequestError`]
pub fn redraw<'a>(generator: &mut Generator<'_, 'a>, picture: &'a [u8], mask: &'a [u8]) -> Result<(), RequestError> {
    let resampling = Resampling { jump: 1, resamples: 4 };
    let known = Known { values: Values::Pixels(picture), mask, resampling };
    let start = Start::Noised(Values::Pixels(picture));
    generator.start(Request { first_row: 1, start, known: Some(known), ..Request::default() })?;
    generator.finish();
    Ok(())
}

/// Shows the sample on any display of embedded-graphics.
///
/// # Errors
/// The display's.
pub fn show<D>(generator: &Generator<'_, '_>, display: &mut D) -> Result<(), D::Error>
where
    D: DrawTarget<Color = embedded_graphics::pixelcolor::Rgb565>,
{
    Image::new(&generator.picture(), Point::new(8, 8)).draw(display)
}
