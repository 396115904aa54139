//! Labelled images in memory: the embedded default set, or a folder of pictures.

mod folder;
mod packed;

use std::path::PathBuf;

use sha2::Digest;

pub use folder::folder;
pub use packed::parse_packed;

/// The embedded set's file; `data/fashion14.md` describes every byte and where it came from.
pub const EMBEDDED_FILE: &[u8] = include_bytes!("../../data/fashion14.bin");

/// A class's images are numbered in order; number k is held out where `k % HELD_OUT_EVERY == HELD_OUT_EVERY - 1`.
pub const HELD_OUT_EVERY: usize = 5;

/// Labelled images of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Pixels, 0..=255, `[n, height, width, channels]`.
    pub images: Vec<u8>,
    /// One class an image, each `< class_names.len()`.
    pub labels: Vec<u8>,
    /// Pixels down.
    pub height: usize,
    /// Pixels across.
    pub width: usize,
    /// 1 (gray) or 3 (RGB).
    pub channels: usize,
    /// One name a class, at most 256.
    pub class_names: Vec<String>,
    /// SHA-256 of the labels followed by the pixels, lower-case hexadecimal.
    pub sha256: String,
}

/// Some of a data set's images, by index.
#[derive(Debug, Clone)]
pub struct Split<'a> {
    /// The set the indices point into.
    pub dataset: &'a Dataset,
    /// Image numbers in the set, ascending.
    pub indices: Vec<usize>,
}

/// Why a data set cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// The folder is missing or cannot be listed.
    #[error("cannot read the data folder {}: {cause}; give a folder with one sub-folder of PNG or JPEG images a class", path.display())]
    Folder {
        /// The folder asked for.
        path: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// The folder has no sub-folders, or more than 256.
    #[error("{} has {found} sub-folders; a data folder has one sub-folder a class, 1 to 256 of them", path.display())]
    Classes {
        /// The folder asked for.
        path: PathBuf,
        /// Sub-folders found.
        found: usize,
    },
    /// A class has too few images to hold any out.
    #[error("{} has {found} PNG or JPEG images; a class needs at least {HELD_OUT_EVERY}, so that one can be held out", path.display())]
    TooFew {
        /// The class's folder.
        path: PathBuf,
        /// Images found.
        found: usize,
    },
    /// A file cannot be decoded.
    #[error("cannot decode {}: {cause}; replace or remove this file", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the decoder said.
        cause: image::ImageError,
    },
    /// A file's size differs from the first file's.
    #[error("{} is {}x{} pixels, but {} is {}x{}; make all images one size", path.display(), size.0, size.1, first.display(), first_size.0, first_size.1)]
    OddSize {
        /// The file.
        path: PathBuf,
        /// Its width and height.
        size: (u32, u32),
        /// The first file of the folder.
        first: PathBuf,
        /// Its width and height.
        first_size: (u32, u32),
    },
    /// The network's levels cannot halve this size.
    #[error("{} is {}x{} pixels; the network halves both sides evenly, so make them multiples of {multiple} (say {}x{})", path.display(), size.0, size.1, size.0.next_multiple_of(*multiple), size.1.next_multiple_of(*multiple))]
    Indivisible {
        /// The file.
        path: PathBuf,
        /// Its width and height.
        size: (u32, u32),
        /// What both must be multiples of.
        multiple: u32,
    },
    /// A packed file (`data/fashion14.md`) is damaged.
    #[error("damaged data set file: {0}")]
    Packed(&'static str),
}

/// The embedded default set: 4,000 Fashion-MNIST images, 14x14x1, 10 classes; image i has label `i % 10`.
pub fn embedded() -> Dataset {
    parse_packed(EMBEDDED_FILE).expect("the embedded file is under a hash test")
}

impl Dataset {
    fn new(images: Vec<u8>, labels: Vec<u8>, [height, width, channels]: [usize; 3], class_names: Vec<String>) -> Self {
        let hash = sha2::Sha256::new().chain_update(&labels).chain_update(&images).finalize();
        let sha256 = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { images, labels, height, width, channels, class_names, sha256 }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images; never so for a loaded set.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// Bytes an image: height x width x channels.
    pub fn image_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Pixels of image `index`, `[height, width, channels]`.
    pub fn image(&self, index: usize) -> &[u8] {
        &self.images[index * self.image_len()..][..self.image_len()]
    }

    /// The four fifths of each class that train.
    pub fn train(&self) -> Split<'_> {
        self.split(|number| number % HELD_OUT_EVERY != HELD_OUT_EVERY - 1)
    }

    /// The fifth of each class that is only measured against.
    pub fn held_out(&self) -> Split<'_> {
        self.split(|number| number % HELD_OUT_EVERY == HELD_OUT_EVERY - 1)
    }

    /// The images whose number within their class `keep` accepts.
    fn split(&self, keep: impl Fn(usize) -> bool) -> Split<'_> {
        let mut seen = vec![0; self.classes()];
        let mut indices = Vec::new();
        for (index, &label) in self.labels.iter().enumerate() {
            if keep(seen[usize::from(label)]) {
                indices.push(index);
            }
            seen[usize::from(label)] += 1;
        }
        Split { dataset: self, indices }
    }
}

impl<'a> Split<'a> {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// Pixels of the split's image `index`, `[height, width, channels]`.
    pub fn image(&self, index: usize) -> &'a [u8] {
        self.dataset.image(self.indices[index])
    }

    /// Class of the split's image `index`.
    pub fn label(&self, index: usize) -> u8 {
        self.dataset.labels[self.indices[index]]
    }

    /// All pixels, `[len, height, width, channels]`.
    pub fn pixels(&self) -> Vec<u8> {
        self.indices.iter().flat_map(|&index| self.dataset.image(index)).copied().collect()
    }

    /// All classes, one an image.
    pub fn labels(&self) -> Vec<u8> {
        self.indices.iter().map(|&index| self.dataset.labels[index]).collect()
    }
}

/// The value a network sees for a pixel: `v / 127.5 - 1`, in [-1, 1].
pub fn to_unit(pixel: u8) -> f32 {
    f32::from(pixel) / 127.5 - 1.0
}

/// The pixel for a network's value: `round((x + 1) * 127.5)` clamped to 0..=255; the inverse of [`to_unit`].
pub fn to_pixel(x: f32) -> u8 {
    ((x + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_set_is_the_documented_one() {
        let page = include_str!("../../data/fashion14.md");
        let set = embedded();
        assert!(
            page.contains(&mote_train_support::files::sha256(EMBEDDED_FILE)),
            "hash of fashion14.bin is not in fashion14.md"
        );
        assert!(page.contains(&set.sha256), "hash of the content is not in fashion14.md");
        assert_eq!((set.len(), set.height, set.width, set.channels, set.classes()), (4000, 14, 14, 1, 10));
        assert!(set.labels.iter().enumerate().all(|(index, &label)| usize::from(label) == index % 10));
        assert!(set.images.iter().all(|pixel| pixel % 17 == 0));
    }

    #[test]
    fn splits_are_balanced_disjoint_and_complete() {
        let set = embedded();
        let (train, held_out) = (set.train(), set.held_out());
        assert_eq!((train.len(), held_out.len()), (3200, 800));
        for (split, each) in [(&train, 320), (&held_out, 80)] {
            let mut count = [0; 10];
            (0..split.len()).for_each(|index| count[usize::from(split.label(index))] += 1);
            assert_eq!(count, [each; 10]);
        }
        let mut all = [train.indices, held_out.indices].concat();
        all.sort_unstable();
        assert_eq!(all, (0..4000).collect::<Vec<_>>());
    }

    #[test]
    fn pixel_scaling_round_trips() {
        assert_eq!((to_unit(0), to_unit(255)), (-1.0, 1.0));
        assert!((0..=255).all(|pixel| to_pixel(to_unit(pixel)) == pixel));
        assert_eq!((to_pixel(-3.0), to_pixel(3.0)), (0, 255));
    }
}
