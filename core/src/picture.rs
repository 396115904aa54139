//! A sample as an image of `embedded-graphics`.

use core::marker::PhantomData;

use embedded_graphics_core::draw_target::DrawTarget;
use embedded_graphics_core::geometry::{OriginDimensions, Point, Size};
use embedded_graphics_core::image::{GetPixel, ImageDrawable};
use embedded_graphics_core::pixelcolor::{PixelColor, Rgb888};
use embedded_graphics_core::primitives::{PointsIter, Rectangle};

use crate::generator::Generator;
use crate::pixels;

/// A sampler's state as an image in any colour of `embedded-graphics`: wrap it in its `Image` and draw it. The pixels
/// are read as they are drawn; there is no frame buffer. See [`Generator::picture`].
#[derive(Debug)]
pub struct Picture<'g, C> {
    state: &'g [i16],
    size: [usize; 2],
    channels: usize,
    color: PhantomData<C>,
}

impl Generator<'_, '_> {
    /// The state as an image: gray or colour as [`Generator::pixels_rgb`], which `embedded-graphics` brings to the display's colours.
    ///
    /// ```
    /// use embedded_graphics_core::draw_target::DrawTarget;
    /// use embedded_graphics_core::image::ImageDrawable;
    /// use embedded_graphics_core::pixelcolor::Rgb565;
    /// use mote_core::Generator;
    ///
    /// fn show<D: DrawTarget<Color = Rgb565>>(generator: &Generator<'_, '_>, display: &mut D) -> Result<(), D::Error> {
    ///     // With the whole of embedded-graphics: Image::new(&generator.picture(), position).draw(display)
    ///     generator.picture().draw(display)
    /// }
    /// ```
    pub fn picture<C: PixelColor + From<Rgb888>>(&self) -> Picture<'_, C> {
        let (size, channels) = ([self.model().width(), self.model().height()], self.model().channels());
        Picture { state: self.state(), size, channels, color: PhantomData }
    }
}

impl<C> OriginDimensions for Picture<'_, C> {
    fn size(&self) -> Size {
        let [width, height] = self.size;
        Size::new(width as u32, height as u32)
    }
}

impl<C: PixelColor + From<Rgb888>> GetPixel for Picture<'_, C> {
    type Color = C;

    fn pixel(&self, point: Point) -> Option<C> {
        let [width, height] = self.size;
        let (x, y) = (usize::try_from(point.x).ok()?, usize::try_from(point.y).ok()?);
        if x >= width || y >= height {
            return None;
        }
        let values = self.state.get((y * width + x) * self.channels..)?.get(..self.channels)?;
        let [red, green, blue] = pixels::to_rgb(values);
        Some(Rgb888::new(red, green, blue).into())
    }
}

impl<C: PixelColor + From<Rgb888>> ImageDrawable for Picture<'_, C> {
    type Color = C;

    fn draw<D: DrawTarget<Color = C>>(&self, target: &mut D) -> Result<(), D::Error> {
        self.draw_sub_image(target, &Rectangle::new(Point::zero(), self.size()))
    }

    fn draw_sub_image<D: DrawTarget<Color = C>>(&self, target: &mut D, area: &Rectangle) -> Result<(), D::Error> {
        let area = area.intersection(&Rectangle::new(Point::zero(), self.size()));
        let colors = area.points().filter_map(|point| self.pixel(point));
        target.fill_contiguous(&Rectangle::new(Point::zero(), area.size), colors)
    }
}
