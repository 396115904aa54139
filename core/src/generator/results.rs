//! The finished sample, in the forms that displays and programs want.

use super::Generator;
use crate::request::Values;
use crate::{anomaly, pixels};

impl Generator<'_, '_> {
    /// The state as pixels, height x width x channels: -1 is 0 and +1 is 255.
    pub fn pixels(&self) -> impl Iterator<Item = u8> + '_ {
        self.state().iter().map(|&x| pixels::to_u8(x))
    }

    /// The pixels around zero, height x width x channels: -1 is -128 and +1 is 127.
    pub fn pixels_i8(&self) -> impl Iterator<Item = i8> + '_ {
        self.state().iter().map(|&x| pixels::to_i8(x))
    }

    /// Red, green and blue of each pixel, height x width. Fewer than three channels: the first one is gray; more: the rest is left
    /// out.
    pub fn pixels_rgb(&self) -> impl ExactSizeIterator<Item = [u8; 3]> + '_ {
        self.state().chunks_exact(self.model.channels().max(1)).map(pixels::to_rgb)
    }

    /// The pixels as a display of 16 bits takes them, height x width: red in the upper 5 bits, green in 6, blue in the lower 5.
    /// Channels as in [`Generator::pixels_rgb`].
    pub fn pixels_rgb565(&self) -> impl ExactSizeIterator<Item = u16> + '_ {
        self.pixels_rgb().map(pixels::to_rgb565)
    }

    /// The values in the units of the data, height x width x channels; none if the model has no units, as that of pictures has not.
    pub fn natural(&self) -> Option<impl Iterator<Item = f32> + '_> {
        self.model.unit(0)?;
        let channels = (0..self.model.channels() as u16).cycle();
        let units = channels.map(|channel| self.model.unit(channel).unwrap_or_default());
        Some(self.state().iter().zip(units).map(|(&x, unit)| pixels::to_natural(x, unit)))
    }

    /// How far the sample is from these values: [`anomaly::score`].
    pub fn score(&self, values: Values<'_>) -> u64 {
        anomaly::score(self.state(), values)
    }
}
