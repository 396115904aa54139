//! A picture to draw text, lines and images on. The fonts are embedded-graphics' bitmap fonts: no system font is used.

use std::convert::Infallible;

use anyhow::Context;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::{MonoFont, MonoTextStyle};
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::primitives::{Line, Polyline, Primitive, PrimitiveStyle, PrimitiveStyleBuilder, Rectangle};
use embedded_graphics::text::{Alignment, Baseline, Text, TextStyleBuilder};
use embedded_graphics::{Drawable, Pixel};

/// Body text, 7x13 pixels a letter.
pub const TEXT: &MonoFont<'static> = &embedded_graphics::mono_font::iso_8859_1::FONT_7X13;
/// Headings, 7x13 pixels a letter.
pub const BOLD: &MonoFont<'static> = &embedded_graphics::mono_font::iso_8859_1::FONT_7X13_BOLD;

/// Off-white, the ground of every picture.
pub const GROUND: Rgb888 = Rgb888::new(250, 250, 247);
/// Text and axes.
pub const INK: Rgb888 = Rgb888::new(35, 38, 44);
/// Secondary text and grid lines.
pub const FAINT: Rgb888 = Rgb888::new(120, 124, 132);

/// A picture, [`GROUND`] all over to begin with. Coordinates are pixels from the top left; what falls outside is cut.
#[derive(Debug, Clone)]
pub struct Canvas {
    picture: image::RgbImage,
}

impl Canvas {
    /// An empty picture, width and height in pixels.
    pub fn new(width: u32, height: u32) -> Self {
        let ground = image::Rgb([GROUND.r(), GROUND.g(), GROUND.b()]);
        Self { picture: image::RgbImage::from_pixel(width, height, ground) }
    }

    /// One line of text; `at` is the top of its line: left end, middle or right end by `alignment`.
    pub fn text(&mut self, text: &str, at: (i32, i32), font: &MonoFont<'_>, color: Rgb888, alignment: Alignment) {
        let style = TextStyleBuilder::new().alignment(alignment).baseline(Baseline::Top).build();
        let text = Text::with_text_style(text, at.into(), MonoTextStyle::new(font, color), style);
        never(text.draw(self));
    }

    /// A straight line, one pixel wide.
    pub fn line(&mut self, from: (i32, i32), to: (i32, i32), color: Rgb888) {
        let style = PrimitiveStyle::with_stroke(color, 1);
        never(Line::new(from.into(), to.into()).into_styled(style).draw(self));
    }

    /// Connected lines, `width` pixels wide.
    pub fn polyline(&mut self, points: &[(i32, i32)], color: Rgb888, width: u32) {
        let points: Vec<Point> = points.iter().copied().map(Point::from).collect();
        never(Polyline::new(&points).into_styled(PrimitiveStyle::with_stroke(color, width)).draw(self));
    }

    /// A filled rectangle with its top left corner at `at`.
    pub fn fill(&mut self, at: (i32, i32), size: (u32, u32), color: Rgb888) {
        let style = PrimitiveStyleBuilder::new().fill_color(color).build();
        never(Rectangle::new(at.into(), size.into()).into_styled(style).draw(self));
    }

    /// An image, `[height, width, 1 or 3]`, each pixel a square of `scale` pixels.
    pub fn image(&mut self, pixels: &[u8], [height, width, channels]: [usize; 3], at: (i32, i32), scale: u32) {
        for (index, pixel) in pixels.chunks_exact(channels).take(height * width).enumerate() {
            let color = Rgb888::new(pixel[0], pixel[channels / 2], pixel[channels - 1]);
            let (x, y) = ((index % width) as i32 * scale as i32, (index / width) as i32 * scale as i32);
            self.fill((at.0 + x, at.1 + y), (scale, scale), color);
        }
    }

    /// The picture as a PNG file.
    pub fn to_png(&self) -> anyhow::Result<Vec<u8>> {
        let mut file = std::io::Cursor::new(Vec::new());
        self.picture.write_to(&mut file, image::ImageFormat::Png).context("cannot encode the picture")?;
        Ok(file.into_inner())
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        for Pixel(at, color) in pixels {
            let (Ok(x), Ok(y)) = (u32::try_from(at.x), u32::try_from(at.y)) else {
                continue;
            };
            if let Some(pixel) = self.picture.get_pixel_mut_checked(x, y) {
                *pixel = image::Rgb([color.r(), color.g(), color.b()]);
            }
        }
        Ok(())
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.picture.width(), self.picture.height())
    }
}

fn never<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
    }
}
