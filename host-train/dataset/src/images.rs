//! Decoded pictures brought to one size and one number of channels.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use image::imageops::{self, FilterType};
use image::{Rgba, RgbaImage};
use serde::{Deserialize, Serialize};

use super::{DatasetError, SampleShape};

/// How images become samples.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
pub struct ImageOptions {
    /// Channels of the samples [default: auto]
    #[arg(long = "data-channels", value_name = "WHICH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<Channels>,
    /// Size of the samples, such as 32x48 (height x width) or 32 for a square [default: the images' own]
    #[arg(long = "data-size", value_name = "HxW")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// What to do with images of another size than --data-size [default: refuse]
    #[arg(long = "data-resize", value_name = "HOW")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// How pixels are made when resizing [default: smooth]
    #[arg(long = "data-filter", value_name = "WHICH")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Filter>,
    /// Images whose file names are equal before this text are variants of one and never divided between training and
    /// held-out images
    #[arg(long = "data-group-before", value_name = "TEXT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_before: Option<String>,
    /// Refuse data with a damaged image, instead of leaving the image out and saying so
    #[arg(long = "data-strict")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
}

/// The channels of a set of images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// Gray where all images are gray, else RGB
    #[default]
    Auto,
    /// 1 channel: the luma of ITU-R BT.709, over white where transparent
    #[value(alias = "grey")]
    #[serde(alias = "grey")]
    Gray,
    /// 3 channels, over white where transparent
    Rgb,
    /// 4 channels; what is wholly transparent has color 0
    Rgba,
}

/// What to do with images of another size than the one wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Refuse the data
    #[default]
    Refuse,
    /// Scale until all of the image fits; fill the rest with the color of its top left pixel
    Fit,
    /// Scale until the image covers all; cut what is left over, evenly on both sides
    Fill,
    /// Scale each side on its own
    Stretch,
}

/// How pixels are made when resizing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// Cubic (Catmull-Rom), averaging where the image shrinks: for photographs
    #[default]
    Smooth,
    /// The nearest pixel: for pixel art
    Nearest,
}

/// Height and width in pixels; written `32x48`, or `32` for a square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size {
    /// Pixels down, at least 1.
    pub height: u32,
    /// Pixels across, at least 1.
    pub width: u32,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| text.parse().ok().filter(|side| (1..=4096).contains(side));
        let (height, width) = text.split_once('x').unwrap_or((text, text));
        match (side(height), side(width)) {
            (Some(height), Some(width)) => Ok(Self { height, width }),
            _ => Err(format!("{text:?} is no size; give HEIGHTxWIDTH such as 32x48, each side 1 to 4096")),
        }
    }
}

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Size> for String {
    fn from(size: Size) -> Self {
        size.to_string()
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

/// Pictures of one size and number of channels.
pub(crate) struct Samples {
    pub(crate) shape: SampleShape,
    /// `[n, height, width, channels]`.
    pub(crate) pixels: Vec<u8>,
    /// What the reader should know.
    pub(crate) notes: Vec<String>,
}

impl ImageOptions {
    /// Brings pictures to one size and one number of channels. Each comes with the file to name in an error.
    ///
    /// # Errors
    /// If there are none, or a size differs and [`Resize::Refuse`] forbids to change it.
    pub(crate) fn assemble(&self, pictures: Vec<(&Path, RgbaImage)>) -> Result<Samples, DatasetError> {
        let resize = self.resize.unwrap_or_default();
        if resize != Resize::Refuse && self.size.is_none() {
            return Err(DatasetError::Option("resizing needs a size: give --data-size too".to_owned()));
        }
        let size_of = |picture: &RgbaImage| Size { height: picture.height(), width: picture.width() };
        let (first, size) = match pictures.first() {
            Some((path, picture)) => (*path, size_of(picture)),
            None => return Err(DatasetError::Missing("there are no images".to_owned())),
        };
        let wanted = self.size.unwrap_or(size);
        let mut resized = Vec::with_capacity(pictures.len());
        for (path, picture) in pictures {
            let found = size_of(&picture);
            if found == wanted {
                resized.push(picture);
            } else if resize != Resize::Refuse {
                resized.push(resized_to(&picture, wanted, resize, self.filter.unwrap_or_default()));
            } else {
                let other = match self.size {
                    Some(_) => format!("{wanted} were asked for"),
                    None => format!("{} is {wanted}", first.display()),
                };
                let what = format!("it is {found} pixels (height x width), but {other}");
                let fix = format!("make all images one size, or add --data-size {wanted} --data-resize fill");
                return Err(DatasetError::refused(path, what, fix));
            }
        }
        Ok(self.samples(&resized, wanted))
    }

    fn samples(&self, pictures: &[RgbaImage], size: Size) -> Samples {
        let gray = pictures.iter().filter(|picture| picture.pixels().all(is_gray)).count();
        let all_gray = gray == pictures.len();
        let mut notes = Vec::new();
        let channels = match self.channels.unwrap_or_default() {
            Channels::Auto if all_gray => 1,
            Channels::Auto => {
                if gray > 0 {
                    notes.push(format!("{gray} of {} images are gray; all are kept as RGB", pictures.len()));
                }
                3
            }
            Channels::Gray => 1,
            Channels::Rgb => 3,
            Channels::Rgba => 4,
        };
        let mut pixels = Vec::with_capacity(pictures.len() * size.height as usize * size.width as usize * channels);
        for pixel in pictures.iter().flat_map(RgbaImage::pixels) {
            match channels {
                1 => pixels.push(luma(over_white(pixel))),
                3 => pixels.extend(over_white(pixel)),
                _ => pixels.extend(if pixel[3] == 0 { [0; 4] } else { pixel.0 }),
            }
        }
        Samples { shape: SampleShape::image(size.height as usize, size.width as usize, channels), pixels, notes }
    }
}

fn is_gray(pixel: &Rgba<u8>) -> bool {
    pixel[0] == pixel[1] && pixel[1] == pixel[2]
}

/// The color over a white ground, rounded to nearest.
fn over_white(pixel: &Rgba<u8>) -> [u8; 3] {
    let alpha = u32::from(pixel[3]);
    [0, 1, 2].map(|channel| ((u32::from(pixel[channel]) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
}

/// ITU-R BT.709, of the values as they are stored (gamma and all), rounded to nearest.
fn luma(color: [u8; 3]) -> u8 {
    let [red, green, blue] = color.map(u32::from);
    ((2126 * red + 7152 * green + 722 * blue + 5000) / 10_000) as u8
}

fn resized_to(picture: &RgbaImage, size: Size, resize: Resize, filter: Filter) -> RgbaImage {
    let scale = |picture: &RgbaImage, width, height| scaled(picture, width, height, filter);
    let (width, height) = picture.dimensions();
    let ratios = [f64::from(size.width) / f64::from(width), f64::from(size.height) / f64::from(height)];
    let part = |side: u32, ratio: f64, most: u32| ((f64::from(side) * ratio).round() as u32).clamp(1, most);
    match resize {
        Resize::Refuse | Resize::Stretch => scale(picture, size.width, size.height),
        Resize::Fill => {
            let ratio = ratios[0].max(ratios[1]);
            let (across, down) = (part(size.width, 1.0 / ratio, width), part(size.height, 1.0 / ratio, height));
            let (x, y) = ((width - across) / 2, (height - down) / 2);
            scale(&imageops::crop_imm(picture, x, y, across, down).to_image(), size.width, size.height)
        }
        Resize::Fit => {
            let ratio = ratios[0].min(ratios[1]);
            let inner = scale(picture, part(width, ratio, size.width), part(height, ratio, size.height));
            let mut ground = RgbaImage::from_pixel(size.width, size.height, *picture.get_pixel(0, 0));
            let (x, y) = ((size.width - inner.width()) / 2, (size.height - inner.height()) / 2);
            imageops::replace(&mut ground, &inner, x.into(), y.into());
            ground
        }
    }
}

/// Colors are weighted by their opacity, so that nothing shines through from transparent pixels.
fn scaled(picture: &RgbaImage, width: u32, height: u32, filter: Filter) -> RgbaImage {
    if filter == Filter::Nearest {
        return imageops::resize(picture, width, height, FilterType::Nearest);
    }
    let premultiplied = image::Rgba32FImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [red, green, blue, alpha] = picture.get_pixel(x, y).0.map(|value| f32::from(value) / 255.0);
        Rgba([red * alpha, green * alpha, blue * alpha, alpha])
    });
    let scaled = imageops::resize(&premultiplied, width, height, FilterType::CatmullRom);
    RgbaImage::from_fn(width, height, |x, y| {
        let [red, green, blue, alpha] = scaled.get_pixel(x, y).0;
        let opacity = alpha.max(1e-6);
        let byte = |value: f32| (255.0 * value.clamp(0.0, 1.0)).round() as u8;
        Rgba([byte(red / opacity), byte(green / opacity), byte(blue / opacity), byte(alpha)])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assemble(pictures: &[RgbaImage], options: ImageOptions) -> Result<Samples, DatasetError> {
        options.assemble(pictures.iter().map(|picture| (Path::new("some.png"), picture.clone())).collect())
    }

    fn plain(width: u32, height: u32, color: [u8; 4]) -> RgbaImage {
        RgbaImage::from_pixel(width, height, Rgba(color))
    }

    fn to(size: &str, resize: Resize, filter: Filter) -> ImageOptions {
        let (size, resize, filter) = (Some(size.parse().unwrap()), Some(resize), Some(filter));
        ImageOptions { size, resize, filter, ..ImageOptions::default() }
    }

    #[test]
    fn channels_are_those_asked_for_or_those_the_images_need() {
        let with = |channels, pictures: &[RgbaImage]| {
            let samples = assemble(pictures, ImageOptions { channels, ..ImageOptions::default() }).unwrap();
            (samples.pixels, samples.notes.len())
        };
        let (gray, red) = (plain(1, 1, [9, 9, 9, 255]), plain(1, 1, [255, 0, 0, 255]));
        let (half, clear) = (plain(1, 1, [0, 0, 0, 128]), plain(1, 1, [5, 6, 7, 0]));
        assert_eq!(with(None, std::slice::from_ref(&gray)), (vec![9], 0));
        assert_eq!(with(None, &[gray.clone(), red.clone()]), (vec![9, 9, 9, 255, 0, 0], 1));
        assert_eq!(with(Some(Channels::Gray), std::slice::from_ref(&red)), (vec![54], 0));
        assert_eq!(with(Some(Channels::Gray), &[half.clone(), clear.clone()]), (vec![127, 255], 0));
        assert_eq!(with(Some(Channels::Rgb), &[gray, clear.clone()]), (vec![9, 9, 9, 255, 255, 255], 0));
        assert_eq!(
            with(Some(Channels::Rgba), &[red, half, clear]),
            (vec![255, 0, 0, 255, 0, 0, 0, 128, 0, 0, 0, 0], 0)
        );
    }

    #[test]
    fn another_size_is_refused_with_the_options_that_would_help() {
        let error = assemble(&[plain(4, 4, [0; 4]), plain(6, 4, [0; 4])], ImageOptions::default()).err().unwrap();
        let message = error.to_string();
        assert!(
            message.contains("some.png: it is 4x6") && message.contains("--data-size 4x4 --data-resize fill"),
            "{message}"
        );
        let asked = ImageOptions { size: "4x5".parse().ok(), ..ImageOptions::default() };
        assert!(assemble(&[plain(4, 4, [0; 4])], asked).err().unwrap().to_string().contains("4x5 were asked for"));
        let without_size = ImageOptions { resize: Some(Resize::Fit), ..ImageOptions::default() };
        assert!(assemble(&[plain(4, 4, [0; 4])], without_size).err().unwrap().to_string().contains("--data-size"));
    }

    #[test]
    fn sizes_are_read_or_refused() {
        assert_eq!("32x48".parse(), Ok(Size { height: 32, width: 48 }));
        assert_eq!("7".parse(), Ok(Size { height: 7, width: 7 }));
        for bad in ["", "0x4", "4x", "axb", "5000", "-1"] {
            assert!(bad.parse::<Size>().unwrap_err().contains("HEIGHTxWIDTH"), "{bad}");
        }
    }

    /// 4 across, 2 down: the left half black, the right half white.
    fn wide() -> RgbaImage {
        RgbaImage::from_fn(4, 2, |x, _| if x < 2 { Rgba([0, 0, 0, 255]) } else { Rgba([255; 4]) })
    }

    #[test]
    fn fit_keeps_all_fill_cuts_and_stretch_distorts() {
        let pixels = |resize| assemble(&[wide()], to("4", resize, Filter::Nearest)).unwrap().pixels;
        let row = [0, 0, 255, 255];
        assert_eq!(pixels(Resize::Fit), [[0; 4], row, row, [0; 4]].concat());
        assert_eq!(pixels(Resize::Stretch), [row; 4].concat());
        // The middle 2x2 of the image.
        assert_eq!(pixels(Resize::Fill), [row; 4].concat());
        let tall = imageops::rotate90(&wide());
        assert_eq!(assemble(&[tall], to("2", Resize::Fill, Filter::Smooth)).unwrap().pixels, [0, 0, 255, 255]);
    }

    #[test]
    fn shrinking_averages_unless_the_nearest_pixel_is_asked_for() {
        let checks = RgbaImage::from_fn(8, 8, |x, y| Rgba([255 * ((x + y) % 2) as u8, 0, 0, 255].map(|v| v)));
        let shrunk = |filter| {
            let options = ImageOptions { channels: Some(Channels::Rgb), ..to("2", Resize::Stretch, filter) };
            assemble(std::slice::from_ref(&checks), options).unwrap().pixels
        };
        assert!(shrunk(Filter::Smooth).iter().step_by(3).all(|red| (120..136).contains(red)));
        assert!(shrunk(Filter::Nearest).iter().all(|&red| red == 0 || red == 255));
    }

    #[test]
    fn transparent_pixels_do_not_shine_through() {
        let half = RgbaImage::from_fn(2, 1, |x, _| if x == 0 { Rgba([200, 0, 0, 255]) } else { Rgba([0, 255, 0, 0]) });
        let options = ImageOptions { channels: Some(Channels::Rgba), ..to("1x1", Resize::Stretch, Filter::Smooth) };
        let pixels = assemble(&[half], options).unwrap().pixels;
        assert!(pixels[0] >= 199 && pixels[1] == 0 && (126..130).contains(&pixels[3]), "{pixels:?}");
    }
}
