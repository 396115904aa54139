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
use mote_dataset::SampleShape;

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

/// Colours that are told apart, for channels, classes and sets; after the last comes the first again.
pub const PALETTE: [Rgb888; 10] = [
    Rgb888::new(31, 95, 166),
    Rgb888::new(200, 88, 24),
    Rgb888::new(58, 138, 62),
    Rgb888::new(176, 42, 62),
    Rgb888::new(122, 84, 168),
    Rgb888::new(132, 92, 60),
    Rgb888::new(206, 98, 168),
    Rgb888::new(96, 100, 108),
    Rgb888::new(164, 156, 30),
    Rgb888::new(30, 152, 168),
];

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

    /// Width and height in pixels.
    pub fn dimensions(&self) -> (u32, u32) {
        self.picture.dimensions()
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

    /// The outline of a rectangle with its top left corner at `at`, one pixel wide.
    pub fn outline(&mut self, at: (i32, i32), size: (u32, u32), color: Rgb888) {
        let style = PrimitiveStyle::with_stroke(color, 1);
        never(Rectangle::new(at.into(), size.into()).into_styled(style).draw(self));
    }

    /// An image, `[height, width, channels]`, each pixel a square of `scale` pixels: gray (1 channel, or 2 with opacity) or
    /// RGB (3, or 4 with opacity); opacity is over [`GROUND`].
    pub fn image(&mut self, pixels: &[u8], shape: SampleShape, at: (i32, i32), scale: u32) {
        let SampleShape { width, channels, .. } = shape;
        for (index, pixel) in pixels.chunks_exact(channels).take(shape.height * width).enumerate() {
            let [r, g, b] = match *pixel {
                [r, g, b] => [r, g, b],
                [r, g, b, opacity, ..] => over([r, g, b], opacity),
                [gray, opacity] => over([gray; 3], opacity),
                [gray] => [gray; 3],
                [] => continue,
            };
            let (x, y) = ((index % width) as i32 * scale as i32, (index / width) as i32 * scale as i32);
            self.fill((at.0 + x, at.1 + y), (scale, scale), Rgb888::new(r, g, b));
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

/// A colour of some opacity over [`GROUND`].
fn over(color: [u8; 3], opacity: u8) -> [u8; 3] {
    let mix = |top: u8, bottom: u8| {
        let (top, bottom, opacity) = (u32::from(top), u32::from(bottom), u32::from(opacity));
        ((top * opacity + bottom * (255 - opacity) + 127) / 255) as u8
    };
    [mix(color[0], GROUND.r()), mix(color[1], GROUND.g()), mix(color[2], GROUND.b())]
}

fn never<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
    }
}
