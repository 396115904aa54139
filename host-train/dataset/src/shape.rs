//! The shape of one sample.

use serde::{Deserialize, Serialize};

/// The sides of a sample. Everything is an image to the networks: a one-dimensional window of samples in time is one
/// pixel high, and a vector (a row of a table) is one pixel whose channels are its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleShape {
    /// Pixels down; 1 for signals and vectors.
    pub height: usize,
    /// Pixels across; the samples of a signal's window; 1 for vectors.
    pub width: usize,
    /// Values a pixel: 1 (gray), 3 (RGB), 4 (RGBA), the columns of a signal or a table.
    pub channels: usize,
}

impl SampleShape {
    /// An image's shape.
    pub const fn image(height: usize, width: usize, channels: usize) -> Self {
        Self { height, width, channels }
    }

    /// The shape of a window of `length` samples in time.
    pub const fn signal(length: usize, channels: usize) -> Self {
        Self { height: 1, width: length, channels }
    }

    /// The shape of a vector.
    pub const fn vector(channels: usize) -> Self {
        Self { height: 1, width: 1, channels }
    }

    /// Values a sample: height x width x channels.
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// More than one pixel down.
    pub const fn is_image(&self) -> bool {
        self.height > 1
    }

    /// A row of pixels: samples in time.
    pub const fn is_signal(&self) -> bool {
        self.height == 1 && self.width > 1
    }

    /// A single pixel.
    pub const fn is_vector(&self) -> bool {
        self.height == 1 && self.width == 1
    }
}

/// `28x28x1`: height, width, channels.
impl std::fmt::Display for SampleShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.height, self.width, self.channels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_is_exactly_one_of_image_signal_and_vector() {
        let kinds = |shape: SampleShape| (shape.is_image(), shape.is_signal(), shape.is_vector());
        assert_eq!(kinds(SampleShape::image(14, 20, 3)), (true, false, false));
        assert_eq!(kinds(SampleShape::signal(64, 6)), (false, true, false));
        assert_eq!(kinds(SampleShape::vector(2)), (false, false, true));
        assert_eq!(
            (SampleShape::image(14, 20, 3).len(), SampleShape::signal(64, 6).to_string()),
            (840, "1x64x6".into())
        );
    }
}
