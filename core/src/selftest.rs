//! A check that this target computes the same bits as every other: published generator answers, then a small model that
//! uses every operation, written, parsed and sampled here.

use crate::format::{OpSpec, Spec, checksum, emit};
use crate::kernel::{ConvShape, ConvWeights, Destination, SILU_TABLE_LEN, conv, conv_reference};
use crate::model::{Element, NormPart, Row, Tensor};
use crate::noise::{NoiseUse, Philox, normals, philox4x32_10};
use crate::quant::{Activation, COEFFICIENT_BITS};
use crate::view::I32s;
use crate::{Arena, Generator, Model, Request, plan};
use rand_core::Rng;

/// What [`run`] returns everywhere: CRC-32 of the samples of the small model, both classes, seeds 0 to 3.
pub const EXPECTED: u32 = 0x13e2_bab0;

/// Why a self-test fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SelftestError {
    /// Philox4x32-10 does not give its published answer.
    Philox,
    /// The normal noise differs.
    Normals {
        /// CRC-32 of the first 1000 values of seed 1, sample 2.
        found: u32,
    },
    /// The chosen convolution differs from the reference.
    Convolution {
        /// Number of the random shape.
        shape: u32,
    },
    /// The small model could not be written or started.
    Model,
    /// The samples differ.
    Samples {
        /// Their CRC-32.
        found: u32,
    },
}

/// CRC-32 of the first 1000 normals of seed 1, sample 2, little-endian.
const NORMALS: u32 = 0x4b62_5f9c;

/// Runs everything; about 32 kB of stack.
///
/// # Errors
/// [`SelftestError`] names the first part that differs.
pub fn run() -> Result<u32, SelftestError> {
    if philox4x32_10([!0; 4], [!0; 2]) != [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd] {
        return Err(SelftestError::Philox);
    }
    let mut noise = [0; 2000];
    for (bytes, z) in noise.chunks_exact_mut(2).zip(normals(1, 2, NoiseUse::Start)) {
        bytes.copy_from_slice(&z.to_le_bytes());
    }
    match checksum(&noise) {
        NORMALS => {}
        found => return Err(SelftestError::Normals { found }),
    }
    for shape in 0..SHAPES {
        if !convolutions_agree::<i8, i16>(shape) || !convolutions_agree::<i16, i8>(shape) {
            return Err(SelftestError::Convolution { shape });
        }
    }
    match samples().ok_or(SelftestError::Model)? {
        EXPECTED => Ok(EXPECTED),
        found => Err(SelftestError::Samples { found }),
    }
}

/// Random shapes on which the chosen convolution is compared with the reference.
const SHAPES: u32 = 40;

/// Draws a legal shape, extreme values among its inputs, and compares the two kernels.
fn convolutions_agree<I: Activation, O: Activation + PartialEq>(number: u32) -> bool {
    let mut random = Philox::new(number.into());
    let mut below = |bound: u32| (random.next_u32() >> 8) as usize % bound as usize;
    let (stride, upsample) = [(1, 1), (2, 1), (1, 2)][below(3)];
    let input = [1 + below(5), 1 + below(5)];
    let shape = ConvShape {
        input,
        channels_in: 1 + below(12),
        output: ConvShape::output_of(input, stride, upsample),
        channels_out: 1 + below(9),
        kernel: 1 + 2 * below(2),
        stride,
        upsample,
    };
    let destination = [Destination::Overwrite, Destination::Accumulate][below(2)];
    let mut values = [I::saturate(0); 5 * 5 * 12];
    values.fill_with(|| I::saturate([i32::MIN, i32::MAX, below(256) as i32 - 128][below(3)]));
    let mut weights = [0i8; 12 * 108 + 3];
    weights.fill_with(|| [-127, 127, below(255) as i8][below(3)]);
    let mut constants = [0; 2 * 4 * 9];
    constants.fill_with(|| below(256) as u8 & 0x3F);
    let (bias, multipliers) = constants.split_at(4 * 9);
    // Some files lie at odd addresses.
    let address = number as usize % 4;
    let constants = ConvWeights {
        weights: &weights[address..][..shape.packed_len()],
        bias: I32s::new(&bias[..4 * shape.channels_out]),
        multipliers: I32s::new(&multipliers[..4 * shape.channels_out]),
    };
    let mut scratch = [0; 108 * (4 + 76)];
    let mut outputs = [[O::saturate(77); 10 * 10 * 9]; 2];
    for (output, kernel) in outputs.iter_mut().zip([conv::<I, O>, conv_reference::<I, O>]) {
        let input = &values[..shape.input[0] * shape.input[1] * shape.channels_in];
        let output = &mut output[..shape.output[0] * shape.output[1] * shape.channels_out];
        let scratch = &mut scratch[..shape.scratch_len() / 2];
        kernel(&shape, &constants, input, -3, output, 5, destination, scratch);
    }
    outputs[0] == outputs[1]
}

/// Channels inside the small model.
const CHANNELS: usize = 4;
/// Side of its samples.
const SIDE: u16 = 6;

fn samples() -> Option<u32> {
    let mut file = [0; 4096];
    let model = write_model(&mut file)?;
    let mut arena = Arena::<8192>::new();
    let mut generator = Generator::new(&model, &mut arena.0).ok()?;
    let mut pixels = [0; 8 * (SIDE * SIDE) as usize];
    for (index, sample) in pixels.chunks_exact_mut((SIDE * SIDE) as usize).enumerate() {
        let request = Request { class: index as u16 % 2, seed: index as u64 / 2, ..Request::default() };
        generator.start(request).ok()?;
        generator.finish();
        for (byte, pixel) in sample.iter_mut().zip(generator.pixels()) {
            *byte = pixel;
        }
    }
    Some(checksum(&pixels))
}

/// A model that uses every operation and every sampler term: convolutions in, down, up and out, an accumulation, a
/// normalization of two inputs and a conditioned one, noise and history. It draws nothing in particular.
///
/// Returns `None` if `file` is shorter than the model's 3 kB.
pub fn write_model(file: &mut [u8]) -> Option<Model<'_>> {
    let mut random = Philox::new(7);
    let mut weights = [0i8; 2 * CHANNELS * 9 * CHANNELS];
    weights.fill_with(|| (random.next_u32() >> 24) as i8);
    let table: [i8; SILU_TABLE_LEN] = core::array::from_fn(|i| (i as i32 / 2 - 128).max(-90) as i8);
    let bias = [100, -200, 300, -400];
    let multipliers = [1 << 22, 1 << 23, 3 << 21, 1 << 22];
    let wide = [1 << 16; CHANNELS];
    let affine: [[i16; 2]; 8 * CHANNELS] = core::array::from_fn(|i| [60 + 7 * i as i16, 9 * i as i16 - 40]);

    let (full, half) = (SIDE as usize, SIDE as usize / 2);
    let tensor = |side, channels, element, zero| Tensor {
        offset: 0,
        height: side,
        width: side,
        channels,
        element,
        zero,
        scale: 1.0,
    };
    let mut tensors = [
        tensor(full, 1, Element::I16, 0),
        tensor(full, 1, Element::I16, 0),
        tensor(full, CHANNELS, Element::I16, 0),
        tensor(full, CHANNELS, Element::I8, -90),
        tensor(half, CHANNELS, Element::I16, 0),
        tensor(full, CHANNELS, Element::I16, 0),
        tensor(full, 2 * CHANNELS, Element::I8, -90),
        tensor(full, 1, Element::I16, 0),
    ];
    let conv = |input, output, kernel: u8, stride, upsample, channels: [usize; 2], multipliers| OpSpec::Conv {
        input,
        output,
        kernel,
        stride,
        upsample,
        destination: if output == 2 && input != 0 { Destination::Accumulate } else { Destination::Overwrite },
        weights: &weights[..channels[0] * channels[1] * kernel as usize * kernel as usize],
        bias: &bias[..channels[1]],
        multipliers,
    };
    let part = |tensor, groups| NormPart { tensor, groups, epsilon_q8: 300 };
    let norm = |input, second, output, conditioned, affine| OpSpec::GroupNormSilu {
        input,
        second,
        output,
        gain_bits: 1,
        bias_bits: 0,
        conditioned,
        affine,
        table: &table,
    };
    let ops = [
        conv(0, 2, 3, 1, 1, [1, CHANNELS], &wide[..]),
        norm(part(2, 2), None, 3, true, &affine[..4 * CHANNELS]),
        conv(3, 2, 1, 1, 1, [CHANNELS, CHANNELS], &multipliers[..]),
        conv(2, 4, 3, 2, 1, [CHANNELS, CHANNELS], &wide[..]),
        conv(4, 5, 3, 1, 2, [CHANNELS, CHANNELS], &wide[..]),
        norm(part(5, 1), Some(part(2, 4)), 6, false, &affine[..2 * CHANNELS]),
        conv(6, 1, 3, 1, 1, [2 * CHANNELS, 1], &multipliers[..1]),
    ];
    plan::place(&mut tensors, &ops, Some(7));
    let one = 1 << COEFFICIENT_BITS;
    let row = |a, c| Row { p: one / 2, q: -one, a, b: one / 4, b_prev: one / 8, c, signal: one, noise: 0, timestep: 0 };
    let spec = Spec {
        name: "selftest",
        sample: [SIDE, SIDE, 1],
        classes: 2,
        clamp: [-4096, 4096],
        history: Some(7),
        rows: &[row(one / 2, one / 3), row(one / 3, 0)],
        tensors: &tensors,
        ops: &ops,
    };
    emit(&spec, file).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_passes() {
        assert_eq!(run(), Ok(EXPECTED));
    }

    /// The pixels must depend on every operation, or the self-test could not fail.
    #[test]
    fn the_samples_are_not_flat() {
        let mut file = [0; 4096];
        let model = write_model(&mut file).unwrap();
        let mut arena = Arena::<8192>::new();
        let mut generator = Generator::new(&model, &mut arena.0).unwrap();
        generator.start(Request::default()).unwrap();
        generator.finish();
        let mut seen = [false; 256];
        generator.pixels().for_each(|pixel| seen[pixel as usize] = true);
        assert!(seen.iter().filter(|&&value| value).count() > 10);
    }
}
