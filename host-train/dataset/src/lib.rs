//! Labelled samples in memory: images, windows of signals, rows of tables.

mod augment;
mod config;
mod error;
pub mod fetch;
mod folder;
mod idx;
mod images;
mod packed;
mod scale;
mod shape;
mod source;
mod split;
pub mod synthetic;
mod table;

use std::path::Path;

use image::RgbaImage;

use serde::{Deserialize, Serialize};
use sha2::Digest;

pub use augment::{Augment, AugmentError, Augmentation, Variation};
pub use config::DataConfig;
pub use error::DatasetError;
pub use images::{Channels, Filter, ImageOptions, Resize, Size};
pub use packed::parse_packed;
pub use scale::Scaling;
pub use shape::SampleShape;
pub use source::{DataOptions, DataSource};
pub use split::HELD_OUT_EVERY;
pub use table::TableOptions;

use split::every_fifth;

/// The embedded set's file; `data/fashion14.md` describes every byte and where it came from.
pub const EMBEDDED_FILE: &[u8] = include_bytes!("../../data/fashion14.bin");

/// Labelled samples of one shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// The sides of every sample.
    pub shape: SampleShape,
    /// The samples, `[n, height, width, channels]`.
    pub values: Values,
    /// One class a sample, each `< class_names.len()`.
    pub labels: Vec<u16>,
    /// One name a class.
    pub class_names: Vec<String>,
    /// How each channel of [`Values::Floats`] is brought to about [-1, 1]; empty for [`Values::Bytes`].
    pub channels_scale: Vec<ChannelScale>,
    /// Whether a sample is only measured against; one a sample.
    pub held_out: Vec<bool>,
    /// SHA-256 of the content ([`Dataset::new`] says of which bytes), lower-case hexadecimal.
    pub sha256: String,
    /// Where the samples come from, where that is known.
    pub provenance: Option<Provenance>,
    /// One name a channel for tables and signals that have them; else empty.
    pub channel_names: Vec<String>,
    /// What loading left out or changed, to be shown to whoever trains on it; one line each.
    pub notes: Vec<String>,
}

/// The numbers of all samples.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Pixels, 0..=255.
    Bytes(Vec<u8>),
    /// Natural values (meters a second squared, euros), all finite; [`Dataset::channels_scale`] has their scale.
    Floats(Vec<f32>),
}

/// One channel's scale: `natural = offset + scale * network`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ChannelScale {
    /// The natural value that a network sees as 0.
    pub offset: f32,
    /// Natural units of 1.0 of a network's value; greater than 0.
    pub scale: f32,
}

/// Where a data set comes from and what its licence asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// What people call it.
    pub name: String,
    /// SPDX name of the licence, or a short sentence.
    pub licence: String,
    /// Who must be named where the data, or what is made of it, is shown.
    pub attribution: String,
    /// Where it is described.
    pub url: String,
}

/// Some of a data set's samples, by index.
#[derive(Debug, Clone)]
pub struct Split<'a> {
    /// The set the indices point into.
    pub dataset: &'a Dataset,
    /// Sample numbers in the set, ascending.
    pub indices: Vec<usize>,
}

/// The embedded default set: 4,000 Fashion-MNIST images, 14x14x1, 10 classes; image i has label `i % 10`.
pub fn embedded() -> Dataset {
    parse_packed(EMBEDDED_FILE).expect("the embedded file is under a hash test")
}

impl Dataset {
    /// A set whose every fifth sample of a class is held out.
    ///
    /// [`Self::sha256`] is that of: the labels, a byte each where there are at most 256 classes and else two; the values,
    /// a byte or four each; the channel scales, offset and scale of each; and where the split is another than this one,
    /// a byte 0 or 1 a sample. All little-endian.
    ///
    /// # Panics
    /// If the lengths of `values` and `labels` do not fit, or a label has no name.
    pub fn new(shape: SampleShape, values: Values, labels: Vec<u16>, class_names: Vec<String>) -> Self {
        let length = match &values {
            Values::Bytes(bytes) => bytes.len(),
            Values::Floats(floats) => floats.len(),
        };
        assert_eq!(length, labels.len() * shape.len(), "{} labels for {length} values of {shape} each", labels.len());
        assert!(labels.iter().all(|&label| usize::from(label) < class_names.len()), "a label has no class name");
        let held_out = every_fifth(&labels);
        let set = Self {
            shape,
            values,
            labels,
            class_names,
            channels_scale: Vec::new(),
            held_out,
            sha256: String::new(),
            provenance: None,
            channel_names: Vec::new(),
            notes: Vec::new(),
        };
        Self { sha256: set.hash(), ..set }
    }

    /// The same with another split: `held_out` says it of each sample.
    #[must_use]
    pub fn with_held_out(mut self, held_out: Vec<bool>) -> Self {
        assert_eq!(held_out.len(), self.len(), "one flag a sample");
        self.held_out = held_out;
        Self { sha256: self.hash(), ..self }
    }

    /// The same with the scale of each channel.
    #[must_use]
    pub fn with_scale(mut self, channels_scale: Vec<ChannelScale>) -> Self {
        assert_eq!(channels_scale.len(), self.shape.channels, "one scale a channel");
        self.channels_scale = channels_scale;
        Self { sha256: self.hash(), ..self }
    }

    /// The same, with where it comes from.
    #[must_use]
    pub fn with_provenance(self, provenance: Provenance) -> Self {
        Self { provenance: Some(provenance), ..self }
    }

    /// The same without the classes of these names; the others keep their order. Each sample stays on its side of the split, and
    /// each channel its scale, which was measured on all classes.
    ///
    /// # Errors
    /// A name that no class has, or where no sample is left to train on.
    pub fn without(&self, names: &[String]) -> Result<Self, DatasetError> {
        let named = self.named(names)?;
        let left = self.of_classes(|class| !named.contains(&class));
        if left.train().is_empty() {
            return Err(DatasetError::Option(
                "data.leave_out leaves no training sample; name fewer classes".to_owned(),
            ));
        }
        Ok(left)
    }

    /// The samples of the classes of these names alone: the rest of [`Dataset::without`].
    ///
    /// # Errors
    /// A name that no class has, or no name.
    pub fn only(&self, names: &[String]) -> Result<Self, DatasetError> {
        let named = self.named(names)?;
        if named.is_empty() {
            return Err(DatasetError::Option("data.leave_out leaves nothing out; name a class".to_owned()));
        }
        Ok(self.of_classes(|class| named.contains(&class)))
    }

    /// The same with all samples in one class.
    #[must_use]
    pub fn unlabelled(self) -> Self {
        let set = Self { labels: vec![0; self.len()], class_names: vec!["all".to_owned()], ..self };
        Self { sha256: set.hash(), ..set }
    }

    /// The numbers of classes.
    fn named(&self, names: &[String]) -> Result<Vec<usize>, DatasetError> {
        let number = |name: &String| {
            self.class_names.iter().position(|class| class == name).ok_or_else(|| {
                let known = self.class_names.join(", ");
                DatasetError::Option(format!("data.leave_out: there is no class {name}; the classes are {known}"))
            })
        };
        names.iter().map(number).collect()
    }

    /// The samples of the classes of these numbers, the classes numbered anew.
    fn of_classes(&self, is_kept: impl Fn(usize) -> bool) -> Self {
        let kept: Vec<usize> = (0..self.classes()).filter(|&class| is_kept(class)).collect();
        let number = |index: usize| kept.iter().position(|&class| class == usize::from(self.labels[index]));
        let (samples, labels): (Vec<usize>, Vec<u16>) =
            (0..self.len()).filter_map(|index| Some((index, number(index)? as u16))).unzip();
        let values = match &self.values {
            Values::Bytes(all) => {
                Values::Bytes(samples.iter().flat_map(|&index| &all[self.range(index)]).copied().collect())
            }
            Values::Floats(all) => {
                Values::Floats(samples.iter().flat_map(|&index| &all[self.range(index)]).copied().collect())
            }
        };
        let set = Self {
            values,
            labels,
            class_names: kept.iter().map(|&class| self.class_names[class].clone()).collect(),
            held_out: samples.iter().map(|&index| self.held_out[index]).collect(),
            channels_scale: self.channels_scale.clone(),
            provenance: self.provenance.clone(),
            channel_names: self.channel_names.clone(),
            notes: self.notes.clone(),
            sha256: String::new(),
            shape: self.shape,
        };
        Self { sha256: set.hash(), ..set }
    }

    fn hash(&self) -> String {
        let mut hash = sha2::Sha256::new();
        for &label in &self.labels {
            let bytes = label.to_le_bytes();
            hash.update(if self.classes() <= 256 { &bytes[..1] } else { &bytes });
        }
        match &self.values {
            Values::Bytes(bytes) => hash.update(bytes),
            Values::Floats(floats) => floats.iter().for_each(|value| hash.update(value.to_le_bytes())),
        }
        for ChannelScale { offset, scale } in &self.channels_scale {
            hash.update(offset.to_le_bytes());
            hash.update(scale.to_le_bytes());
        }
        if self.held_out != every_fifth(&self.labels) {
            self.held_out.iter().for_each(|&held_out| hash.update([u8::from(held_out)]));
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no samples; never so for a loaded set.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// What a network sees of sample `index`: [`SampleShape::len`] numbers of about [-1, 1], `[height, width, channels]`.
    pub fn units(&self, index: usize) -> impl Iterator<Item = f32> + '_ {
        let range = self.range(index);
        range.map(|at| match &self.values {
            Values::Bytes(bytes) => to_unit(bytes[at]),
            Values::Floats(floats) => match self.channels_scale.get(at % self.shape.channels) {
                Some(scale) => scale.to_unit(floats[at]),
                None => floats[at],
            },
        })
    }

    /// Pixels of image `index`, `[height, width, channels]`; `None` where the values are not bytes.
    pub fn image(&self, index: usize) -> Option<&[u8]> {
        match &self.values {
            Values::Bytes(bytes) => Some(&bytes[self.range(index)]),
            Values::Floats(_) => None,
        }
    }

    /// Natural values of sample `index`, `[height, width, channels]`; `None` where the values are bytes.
    pub fn natural(&self, index: usize) -> Option<&[f32]> {
        match &self.values {
            Values::Bytes(_) => None,
            Values::Floats(floats) => Some(&floats[self.range(index)]),
        }
    }

    fn range(&self, index: usize) -> std::ops::Range<usize> {
        index * self.shape.len()..(index + 1) * self.shape.len()
    }

    /// The samples that train.
    pub fn train(&self) -> Split<'_> {
        self.split(false)
    }

    /// The samples that are only measured against.
    pub fn held_out(&self) -> Split<'_> {
        self.split(true)
    }

    fn split(&self, held_out: bool) -> Split<'_> {
        Split { dataset: self, indices: (0..self.len()).filter(|&index| self.held_out[index] == held_out).collect() }
    }
}

impl<'a> Split<'a> {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.indices.len()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.indices.is_empty()
    }

    /// What a network sees of the split's sample `index`, `[height, width, channels]`, about [-1, 1].
    pub fn units(&self, index: usize) -> impl Iterator<Item = f32> + 'a {
        self.dataset.units(self.indices[index])
    }

    /// Pixels of the split's image `index`, `[height, width, channels]`; `None` where the values are not bytes.
    pub fn image(&self, index: usize) -> Option<&'a [u8]> {
        self.dataset.image(self.indices[index])
    }

    /// Class of the split's sample `index`.
    pub fn label(&self, index: usize) -> u16 {
        self.dataset.labels[self.indices[index]]
    }

    /// What a network sees of all samples, `[len, height, width, channels]`, about [-1, 1].
    pub fn all_units(&self) -> Vec<f32> {
        self.indices.iter().flat_map(|&index| self.dataset.units(index)).collect()
    }

    /// All pixels, `[len, height, width, channels]`.
    ///
    /// # Errors
    /// [`DatasetError::NotImages`] where the values are not bytes.
    pub fn pixels(&self) -> Result<Vec<u8>, DatasetError> {
        let images = self.indices.iter().map(|&index| self.dataset.image(index));
        let images: Option<Vec<&[u8]>> = images.collect();
        Ok(images.ok_or(DatasetError::NotImages(self.dataset.shape))?.concat())
    }

    /// All classes, one a sample.
    pub fn labels(&self) -> Vec<u16> {
        self.indices.iter().map(|&index| self.dataset.labels[index]).collect()
    }
}

impl ChannelScale {
    /// The network's value for a natural one.
    pub fn to_unit(self, natural: f32) -> f32 {
        (natural - self.offset) / self.scale
    }

    /// The natural value for a network's.
    pub fn to_natural(self, unit: f32) -> f32 {
        self.offset + self.scale * unit
    }
}

impl Provenance {
    /// The file that keeps it beside data.
    pub const FILE: &str = "provenance.json";

    /// What [`Self::FILE`] in `dir` says, if there is one.
    fn beside(dir: &Path) -> Result<Option<Self>, DatasetError> {
        let path = dir.join(Self::FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(DatasetError::read(&path))?;
        let fix = "it is an object of name, licence, attribution and url; correct or remove it";
        serde_json::from_str(&text).map(Some).map_err(|cause| DatasetError::refused(&path, cause.to_string(), fix))
    }
}

/// Images that come as one array `[n, height, width, channels]`, brought to the size and channels that are asked for.
fn array_images(
    path: &Path,
    [height, width, channels]: [usize; 3],
    pixels: Vec<u8>,
    options: &ImageOptions,
) -> Result<(SampleShape, Vec<u8>, Vec<String>), DatasetError> {
    if *options == ImageOptions::default() {
        return Ok((SampleShape::image(height, width, channels), pixels, Vec::new()));
    }
    let to_rgba = |pixel: &[u8]| match *pixel {
        [gray] => [gray, gray, gray, 255],
        [red, green, blue] => [red, green, blue, 255],
        _ => [pixel[0], pixel[1], pixel[2], pixel[3]],
    };
    let picture = |image: &[u8]| {
        let pixels: Vec<u8> = image.chunks_exact(channels).flat_map(to_rgba).collect();
        RgbaImage::from_raw(width as u32, height as u32, pixels).expect("four bytes a pixel")
    };
    let pictures = pixels.chunks_exact(height * width * channels).map(|image| (path, picture(image))).collect();
    let samples = options.assemble(pictures)?;
    Ok((samples.shape, samples.pixels, samples.notes))
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
        assert_eq!((set.len(), set.shape, set.classes()), (4000, SampleShape::image(14, 14, 1), 10));
        assert!(set.labels.iter().enumerate().all(|(index, &label)| usize::from(label) == index % 10));
        assert!(set.train().pixels().unwrap().iter().all(|pixel| pixel % 17 == 0));
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
    fn a_given_split_is_kept_and_changes_the_hash() {
        let set = |labels| {
            let names = vec!["a".to_owned(), "b".to_owned()];
            Dataset::new(SampleShape::image(2, 1, 1), Values::Bytes((0..12).collect()), labels, names)
        };
        let plain = set(vec![0, 0, 0, 0, 0, 1]);
        assert_eq!(plain.held_out().indices, [4]);
        let given = plain.clone().with_held_out(vec![true, false, false, false, false, true]);
        assert_eq!((given.held_out().indices, given.train().labels()), (vec![0, 5], vec![0; 4]));
        assert_ne!(given.sha256, plain.sha256);
        assert_ne!(set(vec![0, 0, 0, 0, 1, 1]).sha256, plain.sha256);
        assert_eq!(given.with_held_out(plain.held_out.clone()), plain);
    }

    #[test]
    fn floats_are_scaled_by_channel_and_have_no_pixels() {
        let floats = vec![10.0, 1.0, 20.0, 2.0, 30.0, 3.0, 40.0, 4.0];
        let set = Dataset::new(SampleShape::signal(2, 2), Values::Floats(floats), vec![0; 2], vec!["all".to_owned()]);
        let unscaled = set.sha256.clone();
        let set =
            set.with_scale([(20.0, 10.0), (0.0, 2.0)].map(|(offset, scale)| ChannelScale { offset, scale }).to_vec());
        assert_eq!(set.units(1).collect::<Vec<_>>(), [1.0, 1.5, 2.0, 2.0]);
        assert_eq!(set.natural(1), Some(&[30.0, 3.0, 40.0, 4.0][..]));
        assert_eq!(set.channels_scale[0].to_natural(2.0), 40.0);
        assert_eq!(set.image(0), None);
        let error = set.train().pixels().unwrap_err().to_string();
        assert!(error.contains("needs images") && error.contains("1x2x2"), "{error}");
        assert_ne!(set.sha256, unscaled);
    }

    #[test]
    fn pixel_scaling_round_trips() {
        assert_eq!((to_unit(0), to_unit(255)), (-1.0, 1.0));
        assert!((0..=255).all(|pixel| to_pixel(to_unit(pixel)) == pixel));
        assert_eq!((to_pixel(-3.0), to_pixel(3.0)), (0, 255));
    }
}
