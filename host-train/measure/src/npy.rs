//! `.npy` files of samples: version 1.0, C order, shape `[n, height, width, channels]`; images as u8 pixels, everything
//! else as f32, the values a network draws (about [-1, 1]; a data set's channel scale gives natural ones). And of labels.
//!
//! Source: NumPy Enhancement Proposal 1, "A Simple File Format for NumPy Arrays".

use std::path::Path;

use anyhow::{Context, bail, ensure};
use mote_dataset::{SampleShape, Values, to_pixel, to_unit};

const MAGIC: &[u8] = b"\x93NUMPY";

/// Samples of one shape, as they are drawn and measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Samples {
    /// `[n, height, width, channels]`: pixels, or what a network draws.
    pub values: Values,
    /// The sides of every sample.
    pub shape: SampleShape,
}

impl Samples {
    /// What a network has drawn, `[n, height, width, channels]`, about [-1, 1]: rounded to pixels where it is images.
    pub fn from_units(units: Vec<f32>, shape: SampleShape) -> Self {
        let values = match shape.is_image() {
            true => Values::Bytes(units.into_iter().map(to_pixel).collect()),
            false => Values::Floats(units),
        };
        Self { values, shape }
    }

    /// Images, 0..=255, `[n, height, width, channels]`.
    pub fn from_pixels(pixels: Vec<u8>, shape: SampleShape) -> Self {
        Self { values: Values::Bytes(pixels), shape }
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        let values = match &self.values {
            Values::Bytes(bytes) => bytes.len(),
            Values::Floats(floats) => floats.len(),
        };
        values / self.shape.len()
    }

    /// Whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Values of sample `index`, `[height, width, channels]`, about [-1, 1].
    pub fn units(&self, index: usize) -> Vec<f32> {
        let range = index * self.shape.len()..(index + 1) * self.shape.len();
        match &self.values {
            Values::Bytes(bytes) => bytes[range].iter().copied().map(to_unit).collect(),
            Values::Floats(floats) => floats[range].to_vec(),
        }
    }

    /// Values of all samples, `[n, height, width, channels]`, about [-1, 1].
    pub fn all_units(&self) -> Vec<f32> {
        match &self.values {
            Values::Bytes(bytes) => bytes.iter().copied().map(to_unit).collect(),
            Values::Floats(floats) => floats.clone(),
        }
    }

    /// The first `n` samples; all where there are no more.
    #[must_use]
    pub fn first(&self, n: usize) -> Self {
        let end = n.min(self.len()) * self.shape.len();
        let values = match &self.values {
            Values::Bytes(bytes) => Values::Bytes(bytes[..end].to_vec()),
            Values::Floats(floats) => Values::Floats(floats[..end].to_vec()),
        };
        Self { values, shape: self.shape }
    }

    /// Sample `index` as the file holds it: a byte a pixel, or four bytes a float.
    pub fn bytes(&self, index: usize) -> Vec<u8> {
        let range = index * self.shape.len()..(index + 1) * self.shape.len();
        match &self.values {
            Values::Bytes(bytes) => bytes[range].to_vec(),
            Values::Floats(floats) => floats[range].iter().flat_map(|value| value.to_le_bytes()).collect(),
        }
    }

    /// Reads a file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        Self::parse(&mote_train_support::files::read(path)?)
            .with_context(|| format!("{} is not a file of samples", path.display()))
    }

    /// Writes a file; it is whole or absent.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        mote_train_support::files::write_atomically(path, &self.to_bytes())
    }

    fn parse(file: &[u8]) -> anyhow::Result<Self> {
        let Some((MAGIC, rest)) = file.split_at_checked(6) else { bail!("it does not begin as an .npy file") };
        let (header, content) = match rest {
            [1, _, low, high, rest @ ..] => rest.split_at_checked(usize::from(u16::from_le_bytes([*low, *high]))),
            _ => bail!("its .npy version is not 1"),
        }
        .context("it ends inside its header")?;
        let header = std::str::from_utf8(header).context("its header is not text")?;
        let is = |kinds: &[&str]| kinds.iter().any(|kind| header.contains(kind));
        let (bytes, floats) = (is(&["'|u1'", "'u1'", "'<u1'"]), is(&["'<f4'"]));
        let fits = (bytes || floats) && header.contains("'fortran_order': False");
        ensure!(fits, "it is not u8 or little-endian f32 in C order: {}", header.trim());
        let sides = header.split_once("'shape': (").and_then(|(_, rest)| rest.split_once(')')).context("no shape")?.0;
        let sides: Result<Vec<usize>, _> =
            sides.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::parse).collect();
        let Ok(sides) = <[usize; 4]>::try_from(sides.context("its shape is not numbers")?) else {
            bail!("its shape is not [n, height, width, channels]")
        };
        let [_, height, width, channels] = sides;
        ensure!(height >= 1 && width >= 1 && channels >= 1, "its samples are {height}x{width}x{channels}: nothing");
        let size = if bytes { 1 } else { 4 };
        let length = sides.iter().try_fold(size, |product: usize, &side| product.checked_mul(side));
        ensure!(length == Some(content.len()), "it has {} bytes of values for shape {sides:?}", content.len());
        let values = if bytes {
            Values::Bytes(content.to_vec())
        } else {
            let float = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("four bytes"));
            let floats: Vec<f32> = content.chunks_exact(4).map(float).collect();
            let bad = floats.iter().position(|value| !value.is_finite());
            ensure!(bad.is_none(), "value {} is not finite", bad.unwrap_or(0));
            Values::Floats(floats)
        };
        Ok(Self { values, shape: SampleShape { height, width, channels } })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let (n, SampleShape { height, width, channels }) = (self.len(), self.shape);
        let (kind, content) = match &self.values {
            Values::Bytes(bytes) => ("|u1", bytes.clone()),
            Values::Floats(floats) => ("<f4", floats.iter().flat_map(|value| value.to_le_bytes()).collect()),
        };
        file(kind, &format!("({n}, {height}, {width}, {channels})"), &content)
    }
}

/// Writes one class a sample, u16 `[n]`; the file is whole or absent.
pub fn write_labels(path: &Path, labels: &[u16]) -> anyhow::Result<()> {
    let content: Vec<u8> = labels.iter().flat_map(|label| label.to_le_bytes()).collect();
    mote_train_support::files::write_atomically(path, &file("<u2", &format!("({},)", labels.len()), &content))
}

/// A file of values of a NumPy type, `content`, of a shape as Python writes it.
fn file(kind: &str, shape: &str, content: &[u8]) -> Vec<u8> {
    let mut header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}");
    // Magic, version and length are 10 bytes; the whole header is a multiple of 64 and ends in a newline.
    let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
    header.extend(std::iter::repeat_n(' ', padded - 1 - header.len()));
    header.push('\n');
    let length = (header.len() as u16).to_le_bytes();
    [MAGIC, &[1, 0], &length, header.as_bytes(), content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels() -> Samples {
        Samples::from_pixels((0..24).collect(), SampleShape::image(3, 4, 1))
    }

    #[test]
    fn samples_round_trip_and_the_header_is_numpys() {
        let bytes = pixels().to_bytes();
        assert_eq!(bytes.len(), 128 + 24);
        // What numpy 1.24 writes for the same array.
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00v\x00");
        assert!(bytes[10..].starts_with(b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 4, 1), }   "));
        assert_eq!(Samples::parse(&bytes).unwrap(), pixels());
    }

    #[test]
    fn windows_round_trip_as_floats_and_images_as_pixels() {
        let units = vec![-1.5, 0.25, 0.5, 1.0, -0.0, 3e-9];
        let windows = Samples::from_units(units.clone(), SampleShape::signal(3, 1));
        let bytes = windows.to_bytes();
        assert!(bytes[10..].starts_with(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1, 3, 1), }   "));
        assert_eq!(Samples::parse(&bytes).unwrap(), windows);
        assert_eq!((windows.all_units(), windows.units(1)), (units, vec![1.0, -0.0, 3e-9]));
        let images = Samples::from_units(vec![-1.0, 1.0, 0.0, 2.0], SampleShape::image(2, 2, 1));
        assert_eq!(images.values, Values::Bytes(vec![0, 255, 128, 255]));
    }

    #[test]
    fn a_damaged_file_says_what_is_wrong() {
        let bytes = pixels().to_bytes();
        for length in 0..bytes.len() {
            assert!(Samples::parse(&bytes[..length]).is_err(), "length {length}");
        }
        let says = |from: &str, to: &str, message: &str| {
            let text = String::from_utf8_lossy(&bytes[10..]).replace(from, to);
            let error = Samples::parse(&[&bytes[..10], text.as_bytes()].concat()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        };
        says("|u1", "<f8", "not u8 or little-endian f32");
        says("|u1", "<f4", "24 bytes of values for shape [2, 3, 4, 1]");
        says("(2, 3", "(0, 0", "nothing");
        let infinite = Samples::from_units(vec![0.0, f32::NAN], SampleShape::vector(2)).to_bytes();
        assert!(Samples::parse(&infinite).unwrap_err().to_string().contains("value 1 is not finite"));
    }
}
