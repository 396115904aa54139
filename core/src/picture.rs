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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Arena, Request, selftest};
    use core::convert::Infallible;
    use embedded_graphics_core::Pixel;
    use embedded_graphics_core::pixelcolor::{Gray8, GrayColor};

    /// A display of 8 x 8 on which a pixel may be drawn once.
    struct Display([[Option<u8>; 8]; 8]);

    impl OriginDimensions for Display {
        fn size(&self) -> Size {
            Size::new(8, 8)
        }
    }

    impl DrawTarget for Display {
        type Color = Gray8;
        type Error = Infallible;

        fn draw_iter<I: IntoIterator<Item = Pixel<Gray8>>>(&mut self, pixels: I) -> Result<(), Infallible> {
            for Pixel(point, color) in pixels {
                let pixel = &mut self.0[point.y as usize][point.x as usize];
                assert_eq!(pixel.replace(color.luma()), None, "drawn twice at {point}");
            }
            Ok(())
        }
    }

    #[test]
    fn an_image_has_the_sample_s_pixels_and_a_part_of_it_the_part_s() {
        let mut file = [0; 8192];
        let model = selftest::write_model(&mut file).unwrap();
        let mut arena = Arena::<8192>::new();
        let mut generator = Generator::new(&model, &mut arena.0).unwrap();
        generator.start(Request::default()).unwrap();
        generator.finish();
        let picture = generator.picture::<Gray8>();
        assert_eq!(picture.size(), Size::new(6, 6));
        let (mut whole, mut part) = (Display([[None; 8]; 8]), Display([[None; 8]; 8]));
        picture.draw(&mut whole).unwrap();
        picture.draw_sub_image(&mut part, &Rectangle::new(Point::new(2, 3), Size::new(3, 9))).unwrap();
        let pixel = |x: usize, y: usize| generator.pixels().nth(y * 6 + x);
        for (x, y) in (0..8).flat_map(|y| (0..8).map(move |x| (x, y))) {
            assert_eq!(whole.0[y][x], pixel(x, y).filter(|_| x < 6 && y < 6), "{x} {y}");
            assert_eq!(part.0[y][x], pixel(x + 2, y + 3).filter(|_| x < 3 && y < 3), "part, {x} {y}");
        }
        assert_eq!(picture.pixel(Point::new(-1, 0)), None);
        assert_eq!(picture.pixel(Point::new(6, 0)), None);
    }

    /// Both round to the nearest, without ties.
    #[test]
    fn colours_of_16_bits_are_those_of_embedded_graphics() {
        use embedded_graphics_core::pixelcolor::Rgb565;
        use embedded_graphics_core::pixelcolor::raw::{RawData, RawU16};
        for channel in 0..=255u8 {
            let color = [channel, 255 - channel, channel ^ 85];
            let theirs: RawU16 = Rgb565::from(Rgb888::new(color[0], color[1], color[2])).into();
            assert_eq!(pixels::to_rgb565(color), theirs.into_inner());
        }
    }
}
