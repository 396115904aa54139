//! Between the state's Q12 and 8-bit pixels.

use crate::quant::STATE_ONE;

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
    }
}
