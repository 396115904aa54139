//! A data set from a folder of images: a class for each sub-folder, or one class.

use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbaImage};

use super::images::ImageOptions;
use super::split::{HELD_OUT_EVERY, by_group};
use super::{Dataset, DatasetError, Values};

/// Files named when some are left out; of more, the number is given.
const NAMED: usize = 10;

/// Reads every image below `path`, of any format that the `image` package was built for (PNG, JPEG, BMP, GIF, WebP,
/// TIFF, QOI, PNM; of an animation the first frame; of 16 bits the upper 8).
///
/// A sub-folder is a class, its name the class's, and images in deeper folders belong to it too; a folder of images
/// alone is one class. Classes and files are taken in byte order of their names, so one folder is one data set on every
/// machine. Names that begin with a dot and files that are no images by their extension are passed over.
pub(crate) fn load(path: &Path, options: &ImageOptions) -> Result<Dataset, DatasetError> {
    let (class_names, files) = classes(path)?;
    let mut damaged = Vec::new();
    let mut pictures = Vec::new();
    let mut labels = Vec::new();
    for (label, (class, files)) in class_names.iter().zip(&files).enumerate() {
        let before = pictures.len();
        for file in files {
            match decode(file) {
                Ok(picture) => {
                    pictures.push((file.as_path(), picture));
                    labels.push(label as u16);
                }
                Err(cause) if options.strict => {
                    let what = format!("it cannot be decoded ({cause})");
                    return Err(DatasetError::refused(file, what, "replace or remove it"));
                }
                Err(cause) => damaged.push(format!("{}: {cause}", file.display())),
            }
        }
        let found = pictures.len() - before;
        if found < HELD_OUT_EVERY && options.group_before.is_none() {
            let damaged = if damaged.is_empty() { String::new() } else { format!(" ({})", damaged.join("; ")) };
            let what = format!("class {class} has {found} usable images{damaged}");
            let fix = format!("a class needs at least {HELD_OUT_EVERY}, so that one can be held out");
            return Err(DatasetError::refused(path, what, fix));
        }
    }
    let groups: Option<Vec<String>> = options.group_before.as_ref().map(|text| {
        let name = |file: &Path| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let base = |file: &Path| name(file).split_once(text.as_str()).map(|(base, _)| base.to_owned());
        pictures.iter().map(|(file, _)| base(file).unwrap_or_else(|| name(file))).collect()
    });
    let samples = options.assemble(pictures)?;
    let mut set = Dataset::new(samples.shape, Values::Bytes(samples.pixels), labels, class_names);
    if let Some(groups) = groups {
        let fix = "give another --data-group-before, or none";
        let held_out =
            by_group(&groups).ok_or_else(|| DatasetError::refused(path, "all images are variants of one", fix))?;
        set = set.with_held_out(held_out);
    }
    set.notes = samples.notes;
    if !damaged.is_empty() {
        set.notes.push(format!("{} damaged images were left out:", damaged.len()));
        set.notes.extend(damaged.iter().take(NAMED).map(|line| format!("  {line}")));
        if damaged.len() > NAMED {
            set.notes.push(format!("  and {} more", damaged.len() - NAMED));
        }
    }
    Ok(set)
}

/// Class names and the image files of each.
fn classes(path: &Path) -> Result<(Vec<String>, Vec<Vec<PathBuf>>), DatasetError> {
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) = list(path)?.into_iter().partition(|entry| entry.is_dir());
    let loose: Vec<PathBuf> = files.iter().filter(|file| is_image(file)).cloned().collect();
    let deep = folders.iter().map(|folder| images_below(folder)).collect::<Result<Vec<_>, _>>()?;
    let fix = "give a folder of images, or a folder with a sub-folder of images for each class";
    match (loose.first(), deep.iter().any(|files| !files.is_empty())) {
        (None, false) => {
            let what = match files.first() {
                Some(file) => format!("it has no images (its first file is {})", name(file)),
                None => "it has no images".to_owned(),
            };
            Err(DatasetError::refused(path, what, fix))
        }
        (Some(_), false) => {
            let own = std::fs::canonicalize(path).map_err(DatasetError::read(path))?;
            Ok((vec![name(&own)], vec![loose]))
        }
        (Some(file), true) => {
            let what = format!("it has images of no class, such as {}, beside its class folders", name(file));
            Err(DatasetError::refused(path, what, "move them into a class folder, or away"))
        }
        (None, true) => {
            if let Some(empty) = deep.iter().position(Vec::is_empty) {
                let fix = "put images into it, or remove it";
                return Err(DatasetError::refused(&folders[empty], "this class folder has no images", fix));
            }
            if folders.len() > usize::from(u16::MAX) {
                let what = format!("it has {} class folders", folders.len());
                return Err(DatasetError::refused(path, what, format!("at most {} are possible", u16::MAX)));
            }
            Ok((folders.iter().map(|folder| name(folder)).collect(), deep))
        }
    }
}

fn images_below(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let mut images = Vec::new();
    for entry in list(folder)? {
        if entry.is_dir() {
            images.extend(images_below(&entry)?);
        } else if is_image(&entry) {
            images.push(entry);
        }
    }
    Ok(images)
}

/// The entries of a folder whose names do not begin with a dot, sorted by name.
pub(crate) fn list(path: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(DatasetError::read(path))? {
        let entry = entry.map_err(DatasetError::read(path))?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            entries.push(entry.path());
        }
    }
    entries.sort_unstable();
    Ok(entries)
}

/// Whether the extension is that of a format that can be read.
pub(crate) fn is_image(path: &Path) -> bool {
    path.extension().and_then(ImageFormat::from_extension).is_some_and(|format| format.reading_enabled())
}

fn decode(path: &Path) -> image::ImageResult<RgbaImage> {
    Ok(image::ImageReader::open(path)?.with_guessed_format()?.decode()?.into_rgba8())
}

#[cfg(test)]
mod tests {
    use super::super::SampleShape;
    use super::super::images::{Channels, Resize};
    use super::*;

    /// Two classes of five 4x4 images; class a black, class b white.
    fn toy() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (class, value) in [("a", 0), ("b", 255)] {
            std::fs::create_dir(dir.path().join(class)).unwrap();
            for number in 0..5 {
                gray(4, 4, value).save(dir.path().join(format!("{class}/{number}.png"))).unwrap();
            }
        }
        dir
    }

    fn gray(width: u32, height: u32, value: u8) -> image::GrayImage {
        image::GrayImage::from_pixel(width, height, image::Luma([value]))
    }

    fn message(path: &Path, options: &ImageOptions) -> String {
        load(path, options).unwrap_err().to_string()
    }

    #[test]
    fn sub_folders_are_classes_with_all_that_is_below_them() {
        let dir = toy();
        std::fs::write(dir.path().join("a/notes.txt"), "not an image").unwrap();
        std::fs::write(dir.path().join("a/._0.png"), "not an image").unwrap();
        std::fs::create_dir(dir.path().join("b/deep")).unwrap();
        gray(4, 4, 255).save(dir.path().join("b/deep/5.png")).unwrap();
        let set = load(dir.path(), &ImageOptions::default()).unwrap();
        assert_eq!((set.len(), set.shape), (11, SampleShape::image(4, 4, 1)));
        assert_eq!(set.class_names, ["a", "b"]);
        assert_eq!(set.labels, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1]);
        assert!(set.image(0) == Some(&[0; 16]) && set.image(10) == Some(&[255; 16]));
        assert_eq!((set.train().len(), set.held_out().len()), (9, 2));
    }

    #[test]
    fn a_flat_folder_of_any_format_is_one_class() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("things");
        std::fs::create_dir(&folder).unwrap();
        let picture = image::RgbImage::from_pixel(5, 3, image::Rgb([200, 10, 10]));
        for extension in ["png", "jpg", "bmp", "gif", "webp", "tiff", "qoi", "ppm"] {
            picture.save(folder.join(format!("x.{extension}"))).unwrap();
        }
        let set = load(&folder, &ImageOptions::default()).unwrap();
        assert_eq!(
            (set.len(), set.shape, &set.class_names[..]),
            (8, SampleShape::image(3, 5, 3), &["things".into()][..])
        );
        for index in 0..8 {
            let image = set.image(index).unwrap();
            assert!(image[0].abs_diff(200) < 6 && image[1].abs_diff(10) < 6, "{index}: {image:?}");
        }
    }

    #[test]
    fn alpha_is_kept_when_asked_for_and_else_laid_over_white() {
        let dir = toy();
        RgbaImage::from_pixel(4, 4, image::Rgba([200, 0, 0, 0])).save(dir.path().join("b/5.png")).unwrap();
        let set = load(dir.path(), &ImageOptions::default()).unwrap();
        assert_eq!((set.shape.channels, set.image(10)), (3, Some(&[255; 48][..])));
        assert!(set.notes[0].contains("10 of 11 images are gray"), "{:?}", set.notes);
        let rgba = ImageOptions { channels: Some(Channels::Rgba), ..ImageOptions::default() };
        assert_eq!(load(dir.path(), &rgba).unwrap().image(10), Some(&[0; 64][..]));
    }

    #[test]
    fn damaged_images_are_left_out_with_a_list_or_refused() {
        let dir = toy();
        std::fs::write(dir.path().join("b/7.png"), b"\x89PNG\r\n\x1a\n truncated").unwrap();
        let set = load(dir.path(), &ImageOptions::default()).unwrap();
        assert_eq!(set.len(), 10);
        assert!(set.notes[0].starts_with("1 damaged") && set.notes[1].contains("7.png"), "{:?}", set.notes);
        let strict = message(dir.path(), &ImageOptions { strict: true, ..ImageOptions::default() });
        assert!(strict.contains("7.png: it cannot be decoded") && strict.contains("replace or remove"), "{strict}");
        std::fs::remove_file(dir.path().join("b/0.png")).unwrap();
        let few = message(dir.path(), &ImageOptions::default());
        assert!(few.contains("class b has 4 usable images") && few.contains("7.png"), "{few}");
    }

    #[test]
    fn every_bad_folder_is_named_with_what_to_do() {
        let dir = toy();
        let plain = ImageOptions::default();
        assert!(message(&dir.path().join("none"), &plain).contains("cannot read"), "a missing folder");

        let odd = dir.path().join("b/7.png");
        gray(6, 4, 0).save(&odd).unwrap();
        assert!(message(dir.path(), &plain).contains("7.png: it is 4x6"), "{}", message(dir.path(), &plain));
        let fill = ImageOptions { size: "8x4".parse().ok(), resize: Some(Resize::Fill), ..ImageOptions::default() };
        assert_eq!(load(dir.path(), &fill).unwrap().shape, SampleShape::image(8, 4, 1));
        std::fs::remove_file(&odd).unwrap();

        std::fs::create_dir(dir.path().join("c")).unwrap();
        std::fs::write(dir.path().join("c/notes.txt"), "").unwrap();
        let empty = message(dir.path(), &plain);
        assert!(empty.contains("c: this class folder has no images"), "{empty}");
        assert!(message(&dir.path().join("c"), &plain).contains("it has no images (its first file is notes.txt)"));
        std::fs::remove_dir_all(dir.path().join("c")).unwrap();

        gray(4, 4, 0).save(dir.path().join("loose.png")).unwrap();
        assert!(message(dir.path(), &plain).contains("no class, such as loose.png"), "{}", message(dir.path(), &plain));
    }

    #[test]
    fn variants_of_one_image_are_on_one_side() {
        let dir = tempfile::tempdir().unwrap();
        for base in 0..10 {
            for variant in 0..3 {
                gray(2, 2, base).save(dir.path().join(format!("icon{base}__{variant}.png"))).unwrap();
            }
        }
        let group_before = Some("__".to_owned());
        let set = load(dir.path(), &ImageOptions { group_before, ..ImageOptions::default() }).unwrap();
        let bases = |split: super::super::Split<'_>| -> std::collections::BTreeSet<u8> {
            (0..split.len()).map(|index| split.image(index).unwrap()[0]).collect()
        };
        assert_eq!(bases(set.held_out()), [4, 9].into());
        assert!(bases(set.train()).is_disjoint(&bases(set.held_out())));
        let all = ImageOptions { group_before: Some("icon".to_owned()), ..ImageOptions::default() };
        assert!(message(dir.path(), &all).contains("variants of one"));
    }
}
