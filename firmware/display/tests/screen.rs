//! The screen on a display in memory: where everything is, and the picture of the documentation.

use embedded_graphics::framebuffer::{Framebuffer, buffer_size};
use embedded_graphics::image::GetPixel;
use embedded_graphics::pixelcolor::raw::{LittleEndian, RawU16};
use embedded_graphics::pixelcolor::{Rgb565, Rgb888};
use embedded_graphics::prelude::*;
use mote_core::{Arena, Generator, Model, Request, selftest};
use mote_display::Screen;
use std::path::Path;

const WIDTH: usize = 240;
const HEIGHT: usize = 240;

type Display = Framebuffer<Rgb565, RawU16, LittleEndian, WIDTH, HEIGHT, { buffer_size::<Rgb565>(WIDTH, HEIGHT) }>;

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Red, green and blue, a byte each, of all pixels.
fn bytes(display: &Display) -> Vec<u8> {
    let points = (0..HEIGHT as i32).flat_map(|y| (0..WIDTH as i32).map(move |x| Point::new(x, y)));
    let colors = points.map(|point| Rgb888::from(display.pixel(point).expect("within the display")));
    colors.flat_map(|color| [color.r(), color.g(), color.b()]).collect()
}

fn read_png(path: &Path) -> Option<Vec<u8>> {
    let file = std::io::BufReader::new(std::fs::File::open(path).ok()?);
    let mut reader = png::Decoder::new(file).read_info().ok()?;
    let mut pixels = vec![0; reader.output_buffer_size()?];
    reader.next_frame(&mut pixels).ok()?;
    Some(pixels)
}

fn write_png(path: &Path, pixels: &[u8]) {
    let file = std::fs::File::create(path).expect("the file can be made");
    let mut encoder = png::Encoder::new(file, WIDTH as u32, HEIGHT as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().expect("a header").write_image_data(pixels).expect("pixels");
}

/// The released model's bag, three of four rows done. Where it differs, what was drawn is left beside the test's other output.
#[test]
fn the_screen_is_the_picture_of_the_documentation() {
    let file = std::fs::read(folder().join("../models/demo.mote")).unwrap();
    let model = Model::parse(&file).unwrap();
    let mut arena = Arena::<{ 64 * 1024 }>::new();
    let mut generator = Generator::new(&model, &mut arena.0).unwrap();
    generator.start(Request { class: 8, seed: 1, ..Request::default() }).unwrap();
    let mut display = Display::new();
    let screen = Screen::new(&model);
    screen.clear(&mut display).unwrap();
    let done = model.rows() - 1;
    for _ in 0..done {
        generator.step();
    }
    screen.picture(&mut display, &generator).unwrap();
    screen.progress(&mut display, done).unwrap();
    let drawn = bytes(&display);
    let golden = folder().join("docs/screen.png");
    if read_png(&golden).as_ref() != Some(&drawn) {
        let found = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screen.png");
        write_png(&found, &drawn);
        panic!("{} differs from {}: if the change is meant, copy it there", found.display(), golden.display());
    }
}

/// A picture of 8 x 8 pixels, enlarged 23 times, and what is around it.
#[test]
fn each_pixel_is_a_square_of_its_color() {
    let mut file = [0; 8192];
    let model = selftest::write_model(&mut file).unwrap();
    let (width, height, channels) = (model.width(), model.height(), model.channels());
    let mut arena = Arena::<8192>::new();
    let mut generator = Generator::new(&model, &mut arena.0).unwrap();
    generator.start(Request::default()).unwrap();
    generator.finish();
    let pixels: Vec<u8> = generator.pixels().collect();
    let mut display = Display::new();
    Screen::new(&model).picture(&mut display, &generator).unwrap();
    let zoom = ((HEIGHT - 32 - 24) / height).min(WIDTH / width);
    let (left, top) = ((WIDTH - zoom * width) / 2, 32 + (HEIGHT - 32 - 24 - zoom * height) / 2);
    let mut touched = 0;
    for y in 0..HEIGHT {
        for x in 0..WIDTH {
            let found = display.pixel(Point::new(x as i32, y as i32)).unwrap();
            let inside = x >= left && y >= top && x < left + zoom * width && y < top + zoom * height;
            if !inside {
                assert_eq!(found, Rgb565::BLACK, "{x}, {y}");
                continue;
            }
            let first = ((y - top) / zoom * width + (x - left) / zoom) * channels;
            let value = |channel: usize| f64::from(pixels[first + if channels == 3 { channel } else { 0 }]) / 255.0;
            let found = [f64::from(found.r()) / 31.0, f64::from(found.g()) / 63.0, f64::from(found.b()) / 31.0];
            for (channel, found) in found.into_iter().enumerate() {
                let bound = if channel == 1 { 0.5 / 63.0 } else { 0.5 / 31.0 };
                assert!((found - value(channel)).abs() <= bound + 1e-9, "{x}, {y}: {found}, {}", value(channel));
            }
            touched += 1;
        }
    }
    assert_eq!(touched, zoom * zoom * width * height);
}

#[test]
fn the_bar_is_as_full_as_rows_are_done() {
    let mut file = [0; 8192];
    let model = selftest::write_model(&mut file).unwrap();
    let mut display = Display::new();
    let screen = Screen::new(&model);
    let color_at = |display: &Display, x: usize| display.pixel(Point::new(x as i32, HEIGHT as i32 - 12)).unwrap();
    screen.progress(&mut display, model.rows()).unwrap();
    let full = color_at(&display, 16);
    assert!((16..WIDTH - 16).all(|x| color_at(&display, x) == full));
    assert_ne!(color_at(&display, 15), full);
    screen.progress(&mut display, 0).unwrap();
    assert!((16..WIDTH - 16).all(|x| color_at(&display, x) != full));
    screen.progress(&mut display, 1).unwrap();
    let count = (0..WIDTH).filter(|&x| color_at(&display, x) == full).count();
    assert_eq!(count, (WIDTH - 32) / usize::from(model.rows()));
}
