//! A data set from a folder: one sub-folder a class, PNG or JPEG images in each.

use std::path::{Path, PathBuf};

use super::{Dataset, DatasetError, HELD_OUT_EVERY, SampleShape, Values};

/// Reads every PNG and JPEG file of every sub-folder of `path`; a sub-folder is a class and its name the class's.
///
/// Classes and files are taken in byte order of their names, so one folder is one data set on every machine. All
/// images must have the first one's size, and both sides must be multiples of `multiple` (2 to the power of the
/// network's halvings). The set is gray where every file is gray, else RGB; transparent pixels are laid over white.
/// Files with other extensions and names that begin with a dot are passed over.
pub fn folder(path: &Path, multiple: u32) -> Result<Dataset, DatasetError> {
    let classes: Vec<PathBuf> = list(path)?.into_iter().filter(|entry| entry.is_dir()).collect();
    if !(1..=256).contains(&classes.len()) {
        return Err(DatasetError::Classes { path: path.to_owned(), found: classes.len() });
    }
    let mut first: Option<(PathBuf, (u32, u32))> = None;
    let mut pictures = Vec::new();
    let mut labels = Vec::new();
    for (label, class) in classes.iter().enumerate() {
        let files: Vec<PathBuf> = list(class)?.into_iter().filter(|file| is_image(file)).collect();
        if files.len() < HELD_OUT_EVERY {
            return Err(DatasetError::TooFew { path: class.clone(), found: files.len() });
        }
        for file in files {
            let picture = decode(&file)?;
            let size = (picture.width(), picture.height());
            match &first {
                None if size.0 % multiple != 0 || size.1 % multiple != 0 => {
                    return Err(DatasetError::Indivisible { path: file, size, multiple });
                }
                None => first = Some((file, size)),
                Some((first, first_size)) if *first_size != size => {
                    let (first, first_size) = (first.clone(), *first_size);
                    return Err(DatasetError::OddSize { path: file, size, first, first_size });
                }
                Some(_) => {}
            }
            pictures.push(picture);
            labels.push(label as u16);
        }
    }
    let (_, (width, height)) = first.expect("every class has images");
    let gray = pictures.iter().all(|picture| !picture.color().has_color());
    let images = pictures.iter().flat_map(|picture| pixels(picture, gray)).collect();
    let channels = if gray { 1 } else { 3 };
    let names = classes.iter().map(|class| class.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let shape = SampleShape::image(height as usize, width as usize, channels);
    Ok(Dataset::new(shape, Values::Bytes(images), labels, names.collect()))
}

/// The entries of a folder whose names do not begin with a dot, sorted by name.
fn list(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let error = |cause| DatasetError::Folder { path: path.to_owned(), cause };
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(error)? {
        let entry = entry.map_err(error)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            entries.push(entry.path());
        }
    }
    entries.sort_unstable();
    Ok(entries)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default();
    path.is_file() && ["png", "jpg", "jpeg"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

fn decode(path: &Path) -> Result<image::DynamicImage, DatasetError> {
    let error = |cause| DatasetError::Unreadable { path: path.to_owned(), cause };
    let reader = image::ImageReader::open(path).and_then(|reader| reader.with_guessed_format());
    reader.map_err(|cause| error(cause.into()))?.decode().map_err(error)
}

/// Bytes `[height, width, 1 or 3]` over a white ground.
fn pixels(picture: &image::DynamicImage, gray: bool) -> Vec<u8> {
    if gray {
        let over_white = |pixel: &image::LumaA<u8>| [blend(pixel.0[0], pixel.0[1])];
        picture.to_luma_alpha8().pixels().flat_map(over_white).collect()
    } else {
        let over_white = |pixel: &image::Rgba<u8>| [0, 1, 2].map(|channel| blend(pixel.0[channel], pixel.0[3]));
        picture.to_rgba8().pixels().flat_map(over_white).collect()
    }
}

/// `value` at opacity `alpha / 255` over white, rounded to nearest.
fn blend(value: u8, alpha: u8) -> u8 {
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two classes of five 4x4 images; class a black, class b white.
    fn toy() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (class, value) in [("a", 0), ("b", 255)] {
            std::fs::create_dir(dir.path().join(class)).unwrap();
            for number in 0..5 {
                let picture = image::GrayImage::from_pixel(4, 4, image::Luma([value]));
                picture.save(dir.path().join(format!("{class}/{number}.png"))).unwrap();
            }
        }
        dir
    }

    #[test]
    fn a_gray_folder_loads_with_its_sub_folders_as_classes() {
        let dir = toy();
        std::fs::write(dir.path().join("a/notes.txt"), "not an image").unwrap();
        let set = folder(dir.path(), 2).unwrap();
        assert_eq!((set.len(), set.shape), (10, SampleShape::image(4, 4, 1)));
        assert_eq!(set.class_names, ["a", "b"]);
        assert_eq!(set.labels, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
        assert!(set.image(0) == Some(&[0; 16]) && set.image(9) == Some(&[255; 16]));
        assert_eq!((set.train().len(), set.held_out().len()), (8, 2));
    }

    #[test]
    fn one_colored_file_makes_the_set_rgb_and_transparency_is_white() {
        let dir = toy();
        image::RgbaImage::from_pixel(4, 4, image::Rgba([200, 0, 0, 0])).save(dir.path().join("b/5.png")).unwrap();
        let set = folder(dir.path(), 2).unwrap();
        assert_eq!((set.shape.channels, set.image(10)), (3, Some(&[255; 48][..])));
    }

    #[test]
    fn every_bad_folder_is_named_with_what_to_do() {
        let dir = toy();
        let message = |path: &Path| folder(path, 2).unwrap_err().to_string();
        assert!(message(&dir.path().join("none")).contains("none: "), "a missing folder");
        assert!(message(&dir.path().join("a")).contains("0 sub-folders"), "no classes");

        let odd = dir.path().join("b/7.png");
        image::GrayImage::new(6, 4).save(&odd).unwrap();
        assert!(message(dir.path()).contains("7.png is 6x4 pixels, but"), "{}", message(dir.path()));
        std::fs::write(&odd, b"\x89PNG\r\n\x1a\n truncated").unwrap();
        assert!(message(dir.path()).contains("cannot decode") && message(dir.path()).contains("7.png"));
        std::fs::remove_file(&odd).unwrap();

        let error = folder(dir.path(), 8).unwrap_err().to_string();
        assert!(error.contains("multiples of 8 (say 8x8)"), "{error}");
        std::fs::remove_file(dir.path().join("a/0.png")).unwrap();
        assert!(message(dir.path()).contains("has 4 PNG or JPEG images"));
    }
}
