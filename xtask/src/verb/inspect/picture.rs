//! The arena over time as a picture: an SVG, or a PNG with bitmap letters.

use super::layers;
use super::memory::{Timeline, letter};
use crate::UsageError;
use crate::images::{Samples, write_whole};
use anyhow::Result;
use embedded_graphics::draw_target::DrawTarget;
use embedded_graphics::geometry::{OriginDimensions, Point, Size};
use embedded_graphics::mono_font::{MonoTextStyle, iso_8859_1::FONT_7X13};
use embedded_graphics::pixelcolor::{Rgb888, RgbColor};
use embedded_graphics::primitives::{Primitive, PrimitiveStyle, Rectangle};
use embedded_graphics::text::{Alignment, Baseline, Text, TextStyleBuilder};
use embedded_graphics::{Drawable, Pixel};
use mote_core::Model;
use std::convert::Infallible;
use std::fmt::Write;
use std::path::Path;

const GROUND: Rgb888 = Rgb888::new(250, 250, 247);
const INK: Rgb888 = Rgb888::new(35, 38, 44);
const SCRATCH: Rgb888 = Rgb888::new(206, 206, 200);
/// Of tensors, in turn.
const FILLS: [Rgb888; 13] = [
    Rgb888::new(141, 160, 203),
    Rgb888::new(252, 176, 130),
    Rgb888::new(127, 205, 178),
    Rgb888::new(240, 170, 205),
    Rgb888::new(186, 222, 110),
    Rgb888::new(255, 220, 90),
    Rgb888::new(215, 190, 150),
    Rgb888::new(160, 212, 232),
    Rgb888::new(190, 174, 212),
    Rgb888::new(232, 140, 140),
    Rgb888::new(190, 210, 160),
    Rgb888::new(110, 185, 200),
    Rgb888::new(225, 205, 225),
];
/// Size of a letter, in pixels.
const LETTER: [i32; 2] = [7, 13];
/// Height of the arena, in pixels.
const HEIGHT: i32 = 420;
/// Left, above and below the arena.
const MARGIN: [i32; 3] = [70, 40, 44];
/// Right of the arena: the list of tensors.
const LIST: i32 = 250;

/// One thing on the picture.
enum Shape {
    /// Left, top, width, height.
    Box([i32; 4], Rgb888),
    /// The middle of its left end, its middle or its right end, by the alignment.
    Words([i32; 2], Alignment, String),
}

/// Writes the picture of a model's arena to an .svg or a .png file.
pub(super) fn write(model: &Model<'_>, path: &Path) -> Result<()> {
    let (size, shapes) = draw(model);
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("svg") => write_whole(path, svg(size, &shapes).as_bytes()),
        Some("png") => Canvas::of(size, &shapes).pixels.write_png(path),
        _ => Err(UsageError(format!("{} is neither an .svg nor a .png file", path.display())).into()),
    }
}

fn draw(model: &Model<'_>) -> ([i32; 2], Vec<Shape>) {
    let timeline = Timeline::new(model);
    let (ops, arena) = (timeline.ops as i32, model.arena_len());
    let half = (450 / ops.max(1)).clamp(5, 30);
    let [left, top, bottom] = MARGIN;
    let right = left + 2 * half * ops;
    let y = |bytes: usize| top + HEIGHT - (bytes as f64 / arena.max(1) as f64 * f64::from(HEIGHT)).round() as i32;
    let title = format!("{}: {arena} bytes of arena over the {ops} operations of a pass", model.name());
    let mut shapes = vec![Shape::Words([left, 18], Alignment::Left, title)];
    shapes.push(Shape::Box([left, top, right - left, HEIGHT], Rgb888::new(238, 238, 234)));
    // Scratch first, tensors over it.
    for block in timeline.blocks.iter().rev() {
        let (x, end) = (left + half * block.halves.start as i32, left + half * block.halves.end as i32);
        let (above, below) = (y(block.bytes.end), y(block.bytes.start));
        let fill = block.tensor.map_or(SCRATCH, fill);
        let (width, height) = (end - x - 1, below - above - 1);
        shapes.push(Shape::Box([x, above, width.max(1), height.max(1)], fill));
        if let Some(tensor) = block.tensor.filter(|_| height >= LETTER[1] - 4 && width >= LETTER[0]) {
            let middle = [(x + end) / 2, (above + below) / 2];
            shapes.push(Shape::Words(middle, Alignment::Center, letter(tensor.into()).to_string()));
        }
    }
    let step = tick(arena);
    for bytes in (0..=arena).step_by(step) {
        shapes.push(Shape::Box([left - 5, y(bytes), 5, 1], INK));
        shapes.push(Shape::Words([left - 9, y(bytes)], Alignment::Right, bytes.to_string()));
    }
    for op in (0..ops).filter(|op| half >= 10 || op % 5 == 0) {
        let middle = left + half * (2 * op + 1);
        shapes.push(Shape::Words([middle, top + HEIGHT + 12], Alignment::Center, op.to_string()));
    }
    let below = "operations: left half while it reads, right half while it writes; gray: scratch";
    shapes.push(Shape::Words([left, top + HEIGHT + 32], Alignment::Left, below.to_owned()));
    for tensor in 0..model.tensors() {
        let line = top + 8 + 16 * i32::from(tensor);
        let words = layers::named(model, tensor);
        shapes.push(Shape::Box([right + 20, line - 5, 10, 10], fill(tensor)));
        shapes.push(Shape::Words([right + 38, line], Alignment::Left, words));
    }
    let list = top + 16 * i32::from(model.tensors());
    ([right + LIST, (top + HEIGHT).max(list) + bottom], shapes)
}

fn fill(tensor: u16) -> Rgb888 {
    FILLS[usize::from(tensor) % FILLS.len()]
}

/// A round number of bytes, so that the axis has at most ten.
fn tick(arena: usize) -> usize {
    let mut step = 100;
    while arena / step > 10 {
        // 100, 200, 1000, 2000, 10000
        step *= if step.to_string().starts_with('2') { 5 } else { 2 };
    }
    step
}

fn svg([width, height]: [i32; 2], shapes: &[Shape]) -> String {
    let hex = |c: Rgb888| format!("#{:02x}{:02x}{:02x}", c.r(), c.g(), c.b());
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"{}\"/>\n",
        hex(GROUND)
    );
    for shape in shapes {
        let line = match shape {
            Shape::Box([x, y, width, height], fill) => {
                let fill = hex(*fill);
                format!("<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{fill}\"/>")
            }
            Shape::Words([x, y], alignment, words) => {
                let anchor = match alignment {
                    Alignment::Left => "start",
                    Alignment::Center => "middle",
                    Alignment::Right => "end",
                };
                let words = words.replace('&', "&amp;").replace('<', "&lt;");
                format!(
                    "<text x=\"{x}\" y=\"{y}\" dy=\"0.35em\" text-anchor=\"{anchor}\" fill=\"{}\">{words}</text>",
                    hex(INK)
                )
            }
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{line}");
    }
    out + "</svg>\n"
}

/// Pixels to draw on.
struct Canvas {
    pixels: Samples,
}

impl Canvas {
    fn of([width, height]: [i32; 2], shapes: &[Shape]) -> Self {
        let (width, height) = (width as usize, height as usize);
        let ground = [GROUND.r(), GROUND.g(), GROUND.b()].repeat(width * height);
        let mut canvas = Canvas { pixels: Samples { height, width, channels: 3, pixels: ground } };
        for shape in shapes {
            let Ok(()) = canvas.shape(shape);
        }
        canvas
    }

    fn shape(&mut self, shape: &Shape) -> Result<(), Infallible> {
        match shape {
            Shape::Box([x, y, width, height], fill) => {
                let size = Size::new(*width as u32, *height as u32);
                Rectangle::new(Point::new(*x, *y), size).into_styled(PrimitiveStyle::with_fill(*fill)).draw(self)
            }
            Shape::Words([x, y], alignment, words) => {
                let style = TextStyleBuilder::new().alignment(*alignment).baseline(Baseline::Middle).build();
                let letters = MonoTextStyle::new(&FONT_7X13, INK);
                Text::with_text_style(words, Point::new(*x, *y), letters, style).draw(self).map(|_| ())
            }
        }
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I: IntoIterator<Item = Pixel<Rgb888>>>(&mut self, pixels: I) -> Result<(), Infallible> {
        let Samples { width, height, .. } = self.pixels;
        for Pixel(at, color) in pixels {
            let (Ok(x), Ok(y)) = (usize::try_from(at.x), usize::try_from(at.y)) else { continue };
            if x < width && y < height {
                self.pixels.pixels[3 * (y * width + x)..][..3].copy_from_slice(&[color.r(), color.g(), color.b()]);
            }
        }
        Ok(())
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        Size::new(self.pixels.width as u32, self.pixels.height as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mote_core::selftest;

    #[test]
    fn both_kinds_of_picture_are_written_and_others_refused() {
        let mut file = [0; 8192];
        let model = selftest::write_model(&mut file).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(&model, &at("arena.svg")).unwrap();
        write(&model, &at("arena.png")).unwrap();
        let svg = std::fs::read_to_string(at("arena.svg")).unwrap();
        assert_eq!(svg.matches("<svg").count(), svg.matches("</svg>").count());
        assert!(svg.contains(">selftest: "), "{svg}");
        assert!(std::fs::read(at("arena.png")).unwrap().starts_with(b"\x89PNG"));
        assert!(write(&model, &at("arena.bmp")).is_err());
    }

    #[test]
    fn axes_have_up_to_ten_round_ticks() {
        for (arena, step) in [(900, 100), (1792, 200), (62_496, 10_000), (250_000, 100_000)] {
            assert_eq!(tick(arena), step, "{arena}");
        }
    }
}
