//! Between the state's Q12 and pixels, or the units of the data.

use crate::quant::STATE_ONE;
use libm::floorf;

/// `round(127.5 (x + 1))`, ties up, clamped to `0..=255`.
pub fn to_u8(x: i16) -> u8 {
    let doubled = (x as i32 + STATE_ONE as i32) * 255;
    ((doubled + STATE_ONE as i32) >> 13).clamp(0, 255) as u8
}

/// `round(4096 (pixel / 127.5 - 1))`, ties up.
pub fn from_u8(pixel: u8) -> i16 {
    // 4096 (2 p - 255) / 255, rounded: add half the divisor and floor.
    let numerator = 2 * (2 * pixel as i32 - 255) * STATE_ONE as i32 + 255;
    numerator.div_euclid(510) as i16
}

/// The pixel of 8 bits around zero: [`to_u8`] less 128.
pub fn to_i8(x: i16) -> i8 {
    (to_u8(x) ^ 0x80) as i8
}

/// Red, green and blue of a pixel's channels: the first three, or the first one as gray if there are fewer.
pub fn to_rgb(channels: &[i16]) -> [u8; 3] {
    match *channels {
        [red, green, blue, ..] => [red, green, blue].map(to_u8),
        [gray, ..] => [to_u8(gray); 3],
        [] => [0; 3],
    }
}

/// Red in the upper 5 bits, green in 6, blue in the lower 5, each `round(channel / 255 (2^bits - 1))`; no ties occur.
pub fn to_rgb565([red, green, blue]: [u8; 3]) -> u16 {
    let reduced = |channel: u8, most: u16| (channel as u16 * most + 127) / 255;
    reduced(red, 31) << 11 | reduced(green, 63) << 5 | reduced(blue, 31)
}

/// `offset + scale x`, in the unit of the data ([`Model::unit`](crate::Model::unit)): `f32`, one rounding an operation, as on any
/// target.
pub fn to_natural(x: i16, [offset, scale]: [f32; 2]) -> f32 {
    offset + scale * (x as f32 / STATE_ONE as f32)
}

/// The state that stands for a value in the unit of the data: `floor((value - offset) / scale * 4096 + 1/2)` in `f32`, saturated;
/// 0 for no number.
pub fn from_natural(value: f32, [offset, scale]: [f32; 2]) -> i16 {
    floorf((value - offset) / scale * STATE_ONE as f32 + 0.5) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pixel_survives_the_round_trip() {
        assert!((0..=255).all(|pixel| to_u8(from_u8(pixel)) == pixel));
    }

    #[test]
    fn the_ends_are_black_and_white() {
        assert_eq!([i16::MIN, -4096, 0, 4096, i16::MAX].map(to_u8), [0, 0, 128, 255, 255]);
        assert_eq!([0, 255].map(from_u8), [-4096, 4096]);
        assert_eq!([i16::MIN, 0, i16::MAX].map(to_i8), [-128, 0, 127]);
    }

    #[test]
    fn rgb565_has_each_channel_in_its_place() {
        assert_eq!(to_rgb565([255, 0, 0]), 0xF800);
        assert_eq!(to_rgb565([0, 255, 0]), 0x07E0);
        assert_eq!(to_rgb565([0, 0, 255]), 0x001F);
        for channel in 0..=255u8 {
            let exact = libm::round(channel as f64 * 31.0 / 255.0) as u16;
            assert_eq!(to_rgb565([channel, 0, 0]) >> 11, exact, "{channel}");
        }
    }

    #[test]
    fn natural_values_survive_the_round_trip() {
        let unit = [21.5, 3.25];
        assert_eq!(to_natural(4096, unit), 24.75);
        assert!((-8192..8192).all(|x| from_natural(to_natural(x, unit), unit) == x));
        assert_eq!(
            [f32::INFINITY, f32::NEG_INFINITY, f32::NAN].map(|value| from_natural(value, unit)),
            [i16::MAX, i16::MIN, 0]
        );
    }
}
