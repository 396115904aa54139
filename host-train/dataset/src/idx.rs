//! The idx files of MNIST and its relatives, gzipped or not.
//!
//! Source: LeCun, Cortes, Burges, *The MNIST database of handwritten digits*: two bytes 0, the type of a value (8: u8), the
//! number of dimensions, each dimension as a big-endian u32, then the values, the last dimension fastest.

use std::borrow::Cow;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::images::ImageOptions;
use super::{Dataset, DatasetError, Values, folder};

/// What a file of one byte a value begins with.
const BYTES: [u8; 3] = [0, 0, 8];
/// More than any file has that this is made for; a damaged one must not ask for more memory.
const MAX_LEN: u64 = 1 << 33;

/// A file's dimensions and values.
#[derive(Debug, PartialEq)]
struct Array {
    dimensions: Vec<usize>,
    values: Vec<u8>,
}

/// Reads a folder of idx files, or one file of images and its labels beside it.
///
/// Images are `*images-idx3-ubyte` (gray) or `*images-idx4-ubyte` (`[n, height, width, channels]`), their labels
/// `*labels-idx1-ubyte`; `.gz` may follow, and a dot may stand for the second hyphen. Files that begin with `t10k` or
/// `test` are held out; where there are none, every fifth of a class is. Class names are the lines of `classes.txt`
/// beside them, or the labels' numbers.
pub(crate) fn load(path: &Path, options: &ImageOptions) -> Result<Dataset, DatasetError> {
    let whole = path.is_dir();
    let images: Vec<PathBuf> = if whole {
        folder::list(path)?.into_iter().filter(|file| is_images(file)).collect()
    } else {
        vec![path.into()]
    };
    let dir = if whole { path } else { path.parent().unwrap_or(Path::new("")) };
    if images.is_empty() {
        let fix = "give a folder with train-images-idx3-ubyte and train-labels-idx1-ubyte, .gz or not";
        return Err(DatasetError::refused(path, "it has no idx file of images", fix));
    }
    let mut sets = images.iter().map(|file| part(file)).collect::<Result<Vec<Part<'_>>, _>>()?;
    // Training images first, whatever the files are called.
    sets.sort_by_key(|part| part.is_test);
    let shape = sets[0].shape;
    if let Some(other) = sets.iter().find(|part| part.shape != shape) {
        let what = format!("its images are {:?}, those of {} {shape:?}", other.shape, sets[0].file.display());
        return Err(DatasetError::refused(other.file, what, "keep sets of different sizes in different folders"));
    }
    let held_out: Vec<bool> = sets.iter().flat_map(|part| part.labels.iter().map(|_| part.is_test)).collect();
    let labels: Vec<u16> = sets.iter().flat_map(|part| part.labels.iter().copied().map(u16::from)).collect();
    let pixels = sets.into_iter().flat_map(|part| part.pixels).collect();
    let (shape, pixels, notes) = super::array_images(path, shape, pixels, options)?;
    let names = class_names(dir, labels.iter().max().map_or(0, |&most| usize::from(most) + 1))?;
    let mut set = Dataset::new(shape, Values::Bytes(pixels), labels, names);
    if held_out.contains(&true) && held_out.contains(&false) {
        set = set.with_held_out(held_out);
    }
    set.notes = notes;
    Ok(set)
}

/// Whether this is an idx file of images, by its name.
pub(crate) fn is_images(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().replace('.', "-");
    ["images-idx3-ubyte", "images-idx4-ubyte"].iter().any(|end| name.trim_end_matches("-gz").ends_with(end))
}

/// Images and labels of one pair of files.
struct Part<'a> {
    file: &'a Path,
    is_test: bool,
    /// Height, width, channels.
    shape: [usize; 3],
    pixels: Vec<u8>,
    labels: Vec<u8>,
}

fn part(file: &Path) -> Result<Part<'_>, DatasetError> {
    let Array { dimensions, values: pixels } = read(file)?;
    let (n, shape) = match dimensions[..] {
        [n, height, width] if pixels.len() >= n && !pixels.is_empty() => (n, [height, width, 1]),
        [n, height, width, channels @ (1 | 3 | 4)] if !pixels.is_empty() => (n, [height, width, channels]),
        _ => {
            let what = format!("its dimensions are {dimensions:?}");
            return Err(DatasetError::refused(
                file,
                what,
                "images are [n, height, width] or [n, height, width, 1, 3 or 4]",
            ));
        }
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let labels_file =
        ["idx3", "idx4"].iter().fold(name.replace("images", "labels"), |name, idx| name.replace(idx, "idx1"));
    let candidates = match labels_file.strip_suffix(".gz") {
        Some(plain) => [labels_file.clone(), plain.to_owned()],
        None => [labels_file.clone(), format!("{labels_file}.gz")],
    };
    let labels_file = candidates.iter().map(|name| file.with_file_name(name)).find(|path| path.exists());
    let labels = match labels_file {
        None => vec![0; n],
        Some(labels_file) => {
            let Array { dimensions, values } = read(&labels_file)?;
            if dimensions != [n] {
                let what = format!("its dimensions are {dimensions:?}, and {} has {n} images", file.display());
                return Err(DatasetError::refused(&labels_file, what, "take labels and images of one set"));
            }
            values
        }
    };
    let is_test = ["t10k", "test"].iter().any(|begin| name.starts_with(begin));
    Ok(Part { file, is_test, shape, pixels, labels })
}

/// The lines of `classes.txt` in `dir`, or numbers.
pub(crate) fn class_names(dir: &Path, classes: usize) -> Result<Vec<String>, DatasetError> {
    let path = dir.join("classes.txt");
    if !path.exists() {
        return Ok((0..classes).map(|class| class.to_string()).collect());
    }
    let text = std::fs::read_to_string(&path).map_err(DatasetError::read(&path))?;
    let names: Vec<String> = text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    if names.len() < classes {
        let what = format!("it names {} classes, and the labels go up to {}", names.len(), classes - 1);
        return Err(DatasetError::refused(&path, what, "give one line a class, from class 0 on"));
    }
    Ok(names)
}

fn read(path: &Path) -> Result<Array, DatasetError> {
    let file = std::fs::read(path).map_err(DatasetError::read(path))?;
    let refused = |what: &str| DatasetError::refused(path, what, "fetch the file again");
    let plain = if file.starts_with(&[0x1f, 0x8b]) {
        let mut plain = Vec::new();
        let mut decoder = flate2::read::MultiGzDecoder::new(&file[..]).take(MAX_LEN);
        decoder.read_to_end(&mut plain).map_err(|_| refused("its gzip stream is damaged or ends early"))?;
        Cow::Owned(plain)
    } else {
        Cow::Borrowed(&file[..])
    };
    parse(&plain).map_err(refused)
}

fn parse(file: &[u8]) -> Result<Array, &'static str> {
    let (head, rest) = file.split_at_checked(4).ok_or("it ends inside its header")?;
    if head[..3] != BYTES {
        return Err("it is not an idx file of bytes");
    }
    let (sides, values) = rest.split_at_checked(4 * usize::from(head[3])).ok_or("it ends inside its header")?;
    let side = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("4 bytes")) as usize;
    let dimensions: Vec<usize> = sides.chunks_exact(4).map(side).collect();
    let length = dimensions.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
    if length != Some(values.len()) {
        return Err("its length is not that of its header's dimensions");
    }
    Ok(Array { dimensions, values: values.to_vec() })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::SampleShape;

    fn idx(dimensions: &[u32], values: &[u8]) -> Vec<u8> {
        let sides = dimensions.iter().flat_map(|side| side.to_be_bytes());
        [&BYTES[..], &[dimensions.len() as u8]]
            .concat()
            .into_iter()
            .chain(sides)
            .chain(values.iter().copied())
            .collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// Six training images in plain files and two test images in gzipped ones, 2x3, all pixels of image i equal to i.
    fn toy() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let images = |numbers: std::ops::Range<u8>| numbers.flat_map(|number| [number; 6]).collect::<Vec<u8>>();
        let write = |name: &str, bytes: Vec<u8>| std::fs::write(dir.path().join(name), bytes).unwrap();
        write("train-images-idx3-ubyte", idx(&[6, 2, 3], &images(0..6)));
        write("train-labels-idx1-ubyte", idx(&[6], &[0, 1, 2, 0, 1, 2]));
        write("t10k-images-idx3-ubyte.gz", gzip(&idx(&[2, 2, 3], &images(6..8))));
        write("t10k-labels-idx1-ubyte.gz", gzip(&idx(&[2], &[2, 1])));
        dir
    }

    #[test]
    fn train_files_train_and_t10k_files_are_held_out() {
        let dir = toy();
        std::fs::write(dir.path().join("classes.txt"), "ant\nbee\ncat\n").unwrap();
        let set = load(dir.path(), &ImageOptions::default()).unwrap();
        assert_eq!((set.shape, set.len()), (SampleShape::image(2, 3, 1), 8));
        assert_eq!((set.train().indices, set.held_out().labels()), ((0..6).collect(), vec![2, 1]));
        assert_eq!((set.image(7), &set.class_names[2][..]), (Some(&[7; 6][..]), "cat"));
    }

    #[test]
    fn one_file_takes_its_labels_and_options_apply() {
        let dir = toy();
        let options = ImageOptions {
            size: "1x1".parse().ok(),
            resize: Some(crate::Resize::Stretch),
            channels: Some(crate::Channels::Rgb),
            ..ImageOptions::default()
        };
        let set = load(&dir.path().join("train-images-idx3-ubyte"), &options).unwrap();
        assert_eq!(
            (set.shape, &set.labels[..], &set.class_names[1][..]),
            (SampleShape::image(1, 1, 3), &[0, 1, 2, 0, 1, 2][..], "1")
        );
        assert_eq!(set.image(5), Some(&[5; 3][..]));
        std::fs::remove_file(dir.path().join("train-labels-idx1-ubyte")).unwrap();
        let set = load(&dir.path().join("train-images-idx3-ubyte"), &ImageOptions::default()).unwrap();
        assert_eq!((set.classes(), set.held_out().indices), (1, vec![4]));
    }

    #[test]
    fn bad_files_are_named_with_what_is_wrong() {
        let dir = toy();
        let message = || load(dir.path(), &ImageOptions::default()).unwrap_err().to_string();
        let write = |name: &str, bytes: &[u8]| std::fs::write(dir.path().join(name), bytes).unwrap();
        std::fs::write(dir.path().join("classes.txt"), "ant\n").unwrap();
        assert!(message().contains("classes.txt: it names 1 classes, and the labels go up to 2"), "{}", message());
        write("train-labels-idx1-ubyte", &idx(&[5], &[0; 5]));
        assert!(message().contains("train-labels-idx1-ubyte: its dimensions are [5]"), "{}", message());
        write("train-images-idx3-ubyte", &idx(&[6, 2, 3], &[0; 35]));
        assert!(message().contains("its length is not"), "{}", message());
        write("train-images-idx3-ubyte", &idx(&[6, 3], &[0; 18]));
        assert!(message().contains("its dimensions are [6, 3]"), "{}", message());
        write("train-images-idx3-ubyte", &idx(&[9, 1, 4], &[0; 36]));
        std::fs::remove_file(dir.path().join("train-labels-idx1-ubyte")).unwrap();
        assert!(message().contains("different sizes"), "{}", message());
        let whole = gzip(&idx(&[6, 2, 3], &[0; 36]));
        write("train-images-idx3-ubyte", &whole[..whole.len() / 2]);
        assert!(message().contains("gzip stream is damaged"), "{}", message());
        let empty = tempfile::tempdir().unwrap();
        assert!(
            load(empty.path(), &ImageOptions::default()).unwrap_err().to_string().contains("no idx file of images")
        );
    }

    #[test]
    fn every_truncation_is_refused() {
        let file = idx(&[2, 2, 3], &[7; 12]);
        assert!(parse(&file).is_ok());
        assert!((0..file.len()).all(|length| parse(&file[..length]).is_err()));
    }
}
