//! A check that this target computes the same bits as every other: published generator answers, then a small model that
//! uses every operation, written, parsed and sampled here.

use crate::format::{AttentionSpec, ConvSpec, NormSpec, OpMemory, OpSpec, Spec, checksum, emit};
use crate::kernel::{Chosen, Destination, TABLE_LEN, WeightBits, parity};
use crate::model::{Element, NormPart, Row, Tensor};
use crate::noise::{NoiseUse, Philox, normals, philox4x32_10};
use crate::quant::COEFFICIENT_BITS;
use crate::{Arena, Generator, Model, Request, plan};
use rand_core::Rng;

/// What [`run`] returns everywhere: CRC-32 of the samples of the small model, both classes, seeds 0 to 3.
pub const EXPECTED: u32 = 0x0e2c_634a;

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
    /// A chosen kernel differs from the reference.
    Kernel {
        /// Which.
        kernel: &'static str,
        /// Number of the random case: see [`parity::check`].
        case: u32,
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
    for case in 0..CASES {
        parity::check::<Chosen>(case).map_err(|kernel| SelftestError::Kernel { kernel, case })?;
    }
    match samples().ok_or(SelftestError::Model)? {
        EXPECTED => Ok(EXPECTED),
        found => Err(SelftestError::Samples { found }),
    }
}

/// Random cases on which the chosen kernels are compared with the reference.
const CASES: u32 = 40;

/// Channels inside the small model.
const CHANNELS: usize = 4;
/// Side of its samples.
const SIDE: u16 = 6;

fn samples() -> Option<u32> {
    let mut file = [0; 8192];
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
/// normalization of two inputs and a conditioned one, an output in its input's place, attention, noise and history. It
/// draws nothing in particular.
///
/// Returns `None` if `file` is shorter than the model's 4 kB.
pub fn write_model(file: &mut [u8]) -> Option<Model<'_>> {
    let mut random = Philox::new(7);
    let mut weights = [0i8; 2 * CHANNELS * 9 * CHANNELS];
    weights.fill_with(|| ((random.next_u32() >> 24) as i8).max(-127));
    let table: [i8; TABLE_LEN] = core::array::from_fn(|i| (i as i32 / 2 - 128).max(-90) as i8);
    let bias = [100, -200, 300, -400, 500, -600, 700, -800, 900, -1000, 1100, -1200];
    let multipliers = [1 << 24, 1 << 25, 3 << 23, 1 << 24];
    let wide = [1 << 20; CHANNELS];
    let narrow = [1 << 25; 3 * CHANNELS];
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
    let [state, output, stream, hidden, low, qkv, mixed, up, joined, history] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    let mut tensors = [
        tensor(full, 1, Element::I16, 0),
        tensor(full, 1, Element::I16, 0),
        tensor(full, CHANNELS, Element::I16, 0),
        tensor(full, CHANNELS, Element::I8, 3),
        tensor(half, CHANNELS, Element::I16, 0),
        tensor(half, 3 * CHANNELS, Element::I8, 0),
        tensor(half, CHANNELS, Element::I8, -7),
        tensor(full, CHANNELS, Element::I16, 0),
        tensor(full, CHANNELS, Element::I8, 3),
        tensor(full, 1, Element::I16, 0),
    ];
    let conv = |input, norm, output, kernel: u8, [stride, upsample]: [u8; 2], multipliers| {
        OpSpec::Conv(ConvSpec {
            input,
            norm,
            output,
            kernel: [kernel; 2],
            stride,
            upsample,
            destination: Destination::Overwrite,
            weights: &weights,
            weight_bits: WeightBits::Eight,
            bias: &bias,
            multipliers,
            memory: OpMemory::default(),
        })
    };
    let add = |op| match op {
        OpSpec::Conv(conv) => OpSpec::Conv(ConvSpec { destination: Destination::Accumulate, ..conv }),
        other => other,
    };
    let norm = |groups, second, affine, conditioned| {
        let (zero, gain_bits, bias_bits) = (-90, 1, 0);
        Some(NormSpec {
            groups,
            epsilon_q8: 300,
            second,
            zero,
            gain_bits,
            bias_bits,
            conditioned,
            affine,
            table: &table,
        })
    };
    let skip = NormPart { tensor: stream, groups: 4, epsilon_q8: 300 };
    let attention = AttentionSpec {
        input: qkv,
        output: mixed,
        heads: 2,
        score_multiplier: 1 << 27,
        value_multiplier: 1 << 17,
        memory: OpMemory::default(),
    };
    let mut ops = [
        conv(state, None, stream, 3, [1, 1], &wide[..]),
        conv(stream, norm(2, None, &affine[..4 * CHANNELS], true), hidden, 3, [1, 1], &multipliers[..]),
        add(conv(hidden, None, stream, 1, [1, 1], &multipliers[..])),
        conv(stream, None, low, 3, [2, 1], &wide[..]),
        conv(low, norm(1, None, &affine[..CHANNELS], false), qkv, 1, [1, 1], &narrow[..]),
        OpSpec::Attention(attention),
        add(conv(mixed, None, low, 1, [1, 1], &multipliers[..])),
        conv(low, None, up, 3, [1, 2], &wide[..]),
        conv(up, norm(1, Some(skip), &affine[..2 * CHANNELS], false), joined, 3, [1, 1], &multipliers[..]),
        add(conv(joined, norm(4, None, &affine[..4 * CHANNELS], true), up, 3, [1, 1], &multipliers[..])),
        conv(up, norm(2, None, &affine[..CHANNELS], false), output, 3, [1, 1], &multipliers[..1]),
    ];
    plan::place(&mut tensors, &mut ops, Some(history), plan::Room::Usual);
    let one = 1 << COEFFICIENT_BITS;
    let row = |a, c| Row { p: one / 2, q: -one, a, b: one / 4, b_prev: one / 8, c, signal: one, noise: 0, timestep: 0 };
    let spec = Spec {
        name: "selftest",
        sample: [SIDE, SIDE, 1],
        classes: 2,
        clamp: [-4096, 4096],
        units: &[],
        history: Some(history),
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
        let mut file = [0; 8192];
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
