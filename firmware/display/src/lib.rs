//! A sample as it is drawn, on any display of embedded-graphics: a title, the picture, how far it is.
//!
//! ![A title, a bag that is nearly drawn, and a bar at three quarters](../docs/screen.png)
//!
//! The picture is enlarged by a whole number, as far as it fits between the title and the bar; it is drawn in one go, from left
//! to right and from the top, as displays on SPI take it fastest. A display of 240 x 240 pixels at 16 bits takes 115,200 bytes:
//! 15 ms at 62.5 MHz.
//!
//! ```
//! use embedded_graphics::{framebuffer, framebuffer::Framebuffer, pixelcolor::Rgb565, pixelcolor::raw::{LittleEndian, RawU16}};
//! use mote_core::{Arena, Generator, Progress, Request, selftest};
//! use mote_display::Screen;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let mut file = [0; 8192];
//! # let model = selftest::write_model(&mut file).ok_or("no room")?;
//! # let mut arena = Arena::<8192>::new();
//! # let mut generator = Generator::new(&model, &mut arena.0)?;
//! // let mut display = mipidsi::Builder::new(...), or for this example:
//! let mut display =
//!     Framebuffer::<Rgb565, RawU16, LittleEndian, 240, 240, { framebuffer::buffer_size::<Rgb565>(240, 240) }>::new();
//! let screen = Screen::new(&model);
//! screen.clear(&mut display)?;
//! generator.start(Request { class: 1, seed: 1, ..Request::default() })?;
//! while let Progress::Row(row) = generator.step() {
//!     screen.picture(&mut display, &generator)?;
//!     screen.progress(&mut display, row)?;
//! }
//! screen.picture(&mut display, &generator)?;
//! screen.progress(&mut display, model.rows())?;
//! # Ok(())
//! # }
//! ```
#![no_std]
#![forbid(unsafe_code)]

use embedded_graphics::mono_font::MonoTextStyle;
use embedded_graphics::mono_font::ascii::FONT_10X20;
use embedded_graphics::pixelcolor::Rgb565;
use embedded_graphics::prelude::*;
use embedded_graphics::primitives::{PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Alignment, Baseline, Text};
use mote_core::{Generator, Model, pixels};

/// Behind everything.
const BACKGROUND: Rgb565 = Rgb565::new(2, 6, 6);
/// Letters and the full part of the bar.
const FOREGROUND: Rgb565 = Rgb565::new(31, 50, 12);
/// The empty part of the bar.
const EMPTY: Rgb565 = Rgb565::new(7, 16, 9);

/// Height of the strip with the title, in pixels.
const TITLE: u32 = 32;
/// Height of the strip with the bar.
const FOOT: u32 = 24;
/// Height of the bar.
const BAR: u32 = 8;
/// Free pixels left and right of the bar.
const MARGIN: u32 = 16;

/// What is shown of one model.
#[derive(Clone, Copy, Debug)]
pub struct Screen<'m> {
    title: &'m str,
    width: u32,
    height: u32,
    channels: usize,
    rows: u16,
}

impl<'m> Screen<'m> {
    /// For pictures of this model.
    pub fn new(model: &'m Model<'_>) -> Self {
        Screen {
            title: model.name(),
            width: model.width() as u32,
            height: model.height() as u32,
            channels: model.channels(),
            rows: model.rows(),
        }
    }

    /// Clears the display and writes the model's name.
    ///
    /// # Errors
    /// The display's.
    pub fn clear<D: DrawTarget<Color = Rgb565>>(&self, display: &mut D) -> Result<(), D::Error> {
        display.clear(BACKGROUND)?;
        let area = display.bounding_box();
        let place = Point::new(area.center().x, area.top_left.y + TITLE as i32 / 2);
        let mut text =
            Text::with_alignment(self.title, place, MonoTextStyle::new(&FONT_10X20, FOREGROUND), Alignment::Center);
        text.text_style.baseline = Baseline::Middle;
        text.draw(display).map(drop)
    }

    /// Shows the sample as it is: noise at first. Of three channels the first is red; of any other number the first is gray.
    ///
    /// # Errors
    /// The display's.
    pub fn picture<D: DrawTarget<Color = Rgb565>>(
        &self,
        display: &mut D,
        generator: &Generator<'_, '_>,
    ) -> Result<(), D::Error> {
        let (area, zoom) = self.place(display.bounding_box());
        let state = generator.state();
        let value = |index: usize| state.get(index).map_or(0, |&x| pixels::to_u8(x));
        let color = |x: u32, y: u32| {
            let first = (y * self.width + x) as usize * self.channels;
            match self.channels {
                3 => rgb565(value(first), value(first + 1), value(first + 2)),
                _ => rgb565(value(first), value(first), value(first)),
            }
        };
        let lines = (0..area.size.height).map(|y| y / zoom);
        let colors = lines.flat_map(|y| (0..area.size.width).map(move |x| (x / zoom, y)));
        display.fill_contiguous(&area, colors.map(|(x, y)| color(x, y)))
    }

    /// Shows how many rows of the step table are done.
    ///
    /// # Errors
    /// The display's.
    pub fn progress<D: DrawTarget<Color = Rgb565>>(&self, display: &mut D, done: u16) -> Result<(), D::Error> {
        let area = display.bounding_box();
        let len = area.size.width.saturating_sub(2 * MARGIN);
        let full = len * u32::from(done.min(self.rows)) / u32::from(self.rows.max(1));
        let top = area.size.height.saturating_sub((FOOT + BAR) / 2);
        let left = area.top_left + Point::new(MARGIN as i32, top as i32);
        let part = |from: u32, len: u32, color| {
            let part = Rectangle::new(left + Point::new(from as i32, 0), Size::new(len, BAR));
            part.into_styled(PrimitiveStyle::with_fill(color))
        };
        part(0, full, FOREGROUND).draw(display)?;
        part(full, len - full, EMPTY).draw(display)
    }

    /// Where the picture is, and how many pixels of the display one of its pixels is wide.
    fn place(&self, display: Rectangle) -> (Rectangle, u32) {
        let room = Size::new(display.size.width, display.size.height.saturating_sub(TITLE + FOOT));
        let zoom = (room.width / self.width.max(1)).min(room.height / self.height.max(1)).max(1);
        let size = Size::new(self.width * zoom, self.height * zoom);
        let free = room.saturating_sub(size);
        let corner = Point::new(free.width as i32 / 2, (TITLE + free.height / 2) as i32);
        (Rectangle::new(display.top_left + corner, size), zoom)
    }
}

/// The nearest color of 5, 6 and 5 bits.
fn rgb565(red: u8, green: u8, blue: u8) -> Rgb565 {
    let scaled = |value: u8, most: u32| ((u32::from(value) * most + 127) / 255) as u8;
    Rgb565::new(scaled(red, 31), scaled(green, 63), scaled(blue, 31))
}
