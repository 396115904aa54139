//! `.npy` files of samples: version 1.0, u8, C order, shape `[n, height, width, channels]`.
//!
//! Source: NumPy Enhancement Proposal 1, "A Simple File Format for NumPy Arrays".

use std::path::Path;

use anyhow::{Context, bail, ensure};

const MAGIC: &[u8] = b"\x93NUMPY";

/// Images of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Samples {
    /// `[n, height, width, channels]`.
    pub pixels: Vec<u8>,
    /// n, height, width, channels.
    pub shape: [usize; 4],
}

impl Samples {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.shape[0]
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.shape[0] == 0
    }

    /// Pixels of image `index`, `[height, width, channels]`.
    pub fn image(&self, index: usize) -> &[u8] {
        let length = self.shape[1] * self.shape[2] * self.shape[3];
        &self.pixels[index * length..][..length]
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
        let (header, pixels) = match rest {
            [1, _, low, high, rest @ ..] => rest.split_at_checked(usize::from(u16::from_le_bytes([*low, *high]))),
            _ => bail!("its .npy version is not 1"),
        }
        .context("it ends inside its header")?;
        let header = std::str::from_utf8(header).context("its header is not text")?;
        let u8s = ["'|u1'", "'u1'", "'<u1'"].iter().any(|kind| header.contains(kind));
        ensure!(u8s && header.contains("'fortran_order': False"), "it is not u8 in C order: {}", header.trim());
        let shape = header.split_once("'shape': (").and_then(|(_, rest)| rest.split_once(')')).context("no shape")?.0;
        let shape: Result<Vec<usize>, _> =
            shape.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::parse).collect();
        let Ok(shape) = <[usize; 4]>::try_from(shape.context("its shape is not numbers")?) else {
            bail!("its shape is not [n, height, width, channels]")
        };
        let length = shape.iter().try_fold(1usize, |product, &side| product.checked_mul(side));
        ensure!(length == Some(pixels.len()), "it has {} bytes of pixels for shape {shape:?}", pixels.len());
        Ok(Self { pixels: pixels.to_vec(), shape })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let [n, height, width, channels] = self.shape;
        let mut header =
            format!("{{'descr': '|u1', 'fortran_order': False, 'shape': ({n}, {height}, {width}, {channels}), }}");
        // Magic, version and length are 10 bytes; the whole header is a multiple of 64 and ends in a newline.
        let padded = (10 + header.len() + 1).next_multiple_of(64) - 10;
        header.extend(std::iter::repeat_n(' ', padded - 1 - header.len()));
        header.push('\n');
        let length = (header.len() as u16).to_le_bytes();
        [MAGIC, &[1, 0], &length, header.as_bytes(), &self.pixels].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_round_trip_and_the_header_is_numpys() {
        let samples = Samples { pixels: (0..24).collect(), shape: [2, 3, 4, 1] };
        let bytes = samples.to_bytes();
        assert_eq!(bytes.len(), 128 + 24);
        // What numpy 1.24 writes for the same array.
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00v\x00");
        assert!(bytes[10..].starts_with(b"{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 4, 1), }   "));
        assert_eq!(Samples::parse(&bytes).unwrap(), samples);
    }

    #[test]
    fn a_damaged_file_says_what_is_wrong() {
        let bytes = Samples { pixels: vec![7; 24], shape: [2, 3, 4, 1] }.to_bytes();
        for length in 0..bytes.len() {
            assert!(Samples::parse(&bytes[..length]).is_err(), "length {length}");
        }
        let floats = String::from_utf8_lossy(&bytes[10..]).replace("|u1", "<f4");
        let error = Samples::parse(&[&bytes[..10], floats.as_bytes()].concat()).unwrap_err().to_string();
        assert!(error.contains("not u8"), "{error}");
    }
}
