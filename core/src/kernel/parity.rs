//! Whether kernels equal the reference, on random cases with extreme values. The self-test asks on every target, the tests
//! ask for every implementation that the host can run.

use super::{
    ConvShape, ConvWeights, Destination, GroupScale, Kernel, Line, Moments, ROW_KERNEL, Reference, TABLE_LEN, convolve,
};
use crate::noise::Philox;
use crate::quant::Activation;
use crate::view::I32s;
use rand_core::Rng;

/// Largest sides of an input, channels in and out, and output pixels a pass.
const SIDE: usize = 5;
const CHANNELS_IN: usize = 36;
const CHANNELS_OUT: usize = 9;
const PIXELS: usize = 9;
const TAPS: usize = 9 * CHANNELS_IN;

/// Random numbers of one case.
struct Random(Philox);

impl Random {
    fn below(&mut self, bound: u32) -> usize {
        (self.0.next_u32() >> 8) as usize % bound as usize
    }

    /// An extreme value or any byte.
    fn value<T: Activation>(&mut self) -> T {
        T::saturate([i32::MIN, i32::MAX, self.below(256) as i32 - 128, self.0.next_u32() as i16 as i32][self.below(4)])
    }
}

/// Compares `K` with [`Reference`] in random case `case`: the same numbers on every target.
///
/// # Errors
/// The kernel that differs.
pub fn check<K: Kernel>(case: u32) -> Result<(), &'static str> {
    let conv = convolutions_agree::<K, i8, i8>(case)
        && convolutions_agree::<K, i8, i16>(case)
        && convolutions_agree::<K, i16, i8>(case)
        && convolutions_agree::<K, i16, i16>(case);
    if !conv {
        return Err("convolution");
    }
    if !norms_agree::<K, i8>(case) || !norms_agree::<K, i16>(case) {
        return Err("normalization");
    }
    if !softmaxes_agree::<K>(case) {
        return Err("softmax");
    }
    Ok(())
}

fn convolutions_agree<K: Kernel, I: Activation, O: Activation + PartialEq>(case: u32) -> bool {
    let mut random = Random(Philox::new(case.into()));
    let kernel = [[1; 2], [3; 2], ROW_KERNEL][random.below(3)];
    let [stride, upsample] = [[1, 1], [2, 1], [1, 2]][random.below(3)].map(|by| ConvShape::down_and_right(kernel, by));
    let input = [1 + random.below(SIDE as u32), 1 + random.below(SIDE as u32)];
    let channels_in = match random.below(3) {
        0 => 1 + random.below(8),
        1 => 4 * (1 + random.below(CHANNELS_IN as u32 / 4)),
        _ => 1 + random.below(CHANNELS_IN as u32),
    };
    let shape = ConvShape {
        input,
        channels_in,
        output: ConvShape::output_of(input, stride, upsample),
        channels_out: 1 + random.below(CHANNELS_OUT as u32),
        kernel,
        stride,
        upsample,
    };
    let destination = [Destination::Overwrite, Destination::Accumulate][random.below(2)];
    let mut values = [I::saturate(0); SIDE * SIDE * CHANNELS_IN];
    values.fill_with(|| random.value());
    // Sums of 324 products of an i16 fit the accumulator only with small weights.
    let largest = if size_of::<I>() == 1 { 127 } else { 127 / (1 + shape.taps() as i32 / 8).min(60) };
    let mut weights = [0i8; CHANNELS_OUT.next_multiple_of(4) * TAPS + 3];
    weights.fill_with(|| {
        [-largest, largest, random.below(2 * largest as u32 + 1) as i32 - largest][random.below(3)] as i8
    });
    // Of any magnitude, so that in many cases the outputs are neither all saturated nor all the zero point.
    let (mut bias, mut multipliers) = ([[0; 4]; CHANNELS_OUT], [[0; 4]; CHANNELS_OUT]);
    let shifts = [2 + random.below(28), 2 + random.below(20)];
    bias.fill_with(|| (random.0.next_u32() as i32 >> shifts[0]).to_le_bytes());
    multipliers.fill_with(|| (random.0.next_u32() >> shifts[1]).max(1).to_le_bytes());
    let (bias, multipliers) = (bias.as_flattened(), multipliers.as_flattened());
    // Some files lie at odd addresses.
    let address = case as usize % 4;
    let constants = ConvWeights {
        weights: &weights[address..][..shape.packed_len()],
        bias: I32s::new(&bias[..4 * shape.channels_out]),
        multipliers: I32s::new(&multipliers[..4 * shape.channels_out]),
    };
    let zero_in = if size_of::<I>() == 1 { -3 } else { 0 };
    let pixels = 1 + random.below(PIXELS as u32);
    let mut work = [0u32; TAPS * (4 + PIXELS) / 2];
    let work = &mut bytemuck::cast_slice_mut(&mut work)[..shape.work_len(pixels) / 2];
    let mut outputs = [[O::saturate(77); 4 * SIDE * SIDE * CHANNELS_OUT]; 2];
    for (output, kernel) in outputs.iter_mut().zip([convolve::<K, I, O>, convolve::<Reference, I, O>]) {
        let input = &values[..shape.input[0] * shape.input[1] * shape.channels_in];
        let output = &mut output[..shape.pixels() * shape.channels_out];
        kernel(&shape, &constants, input, zero_in, output, 5, destination, pixels, work);
    }
    outputs[0] == outputs[1]
}

fn norms_agree<K: Kernel, I: Activation>(case: u32) -> bool {
    let mut random = Random(Philox::new(1 << 32 | u64::from(case)));
    let pixels = 1 + random.below(12);
    let (groups, size) = [(1 + random.below(4), 1 + random.below(9)), (1, 1 + random.below(4 * 9))][random.below(2)];
    let channels = groups * size;
    // Of every magnitude: the lines' shift depends on it.
    let small = random.below(16);
    let mut values = [I::saturate(0); 12 * 4 * 9];
    values.fill_with(|| I::saturate(random.value::<I>().widen() >> small));
    let values = &values[..pixels * channels];
    let mut lines = [Line::default(); 4 * 9];
    for (group, lines) in lines[..channels].chunks_mut(size).enumerate() {
        let [found, expected]: [Moments; 2] =
            [K::moments, Reference::moments].map(|moments| moments(values, channels, group * size, size));
        if found != expected {
            return false;
        }
        let scale = GroupScale::new(&expected, pixels * size, random.below(1 << 16) as u32, 3);
        lines.fill_with(|| scale.line([random.value(), random.value()], 2));
    }
    let mut table = [0; TABLE_LEN];
    table.fill_with(|| random.value());
    let first = random.below(3);
    let channels_out = first + channels + random.below(3);
    let mut outputs = [[77i8; 12 * (4 * 9 + 4)]; 2];
    for (output, normalize) in outputs.iter_mut().zip([K::normalize::<I>, Reference::normalize::<I>]) {
        let output = &mut output[..pixels * channels_out];
        normalize(values, &lines[..channels], &table, output, channels_out, first);
    }
    outputs[0] == outputs[1]
}

fn softmaxes_agree<K: Kernel>(case: u32) -> bool {
    let mut random = Random(Philox::new(2 << 32 | u64::from(case)));
    let mut row = [0i16; 70];
    let spread = [1 << 15, 3000, 500][random.below(3)];
    row.fill_with(|| random.value::<i16>() / (32768 / spread).max(1) as i16);
    let len = 1 + random.below(70);
    let mut rows = [row; 2];
    K::softmax(&mut rows[0][..len]);
    Reference::softmax(&mut rows[1][..len]);
    rows[0] == rows[1]
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::kernel::Chosen;

    fn agree<K: Kernel>() {
        for case in 0..1000 {
            assert_eq!(check::<K>(case), Ok(()), "case {case} of {}", core::any::type_name::<K>());
        }
    }

    #[test]
    fn the_chosen_kernels_equal_the_reference() {
        agree::<Chosen>();
    }

    #[cfg(mote_x86)]
    #[test]
    fn every_level_of_x86_that_can_run_equals_the_reference() {
        use crate::kernel::x86::{Level, X86};
        for level in Level::ALL {
            match level {
                _ if !level.can_run() => std::println!("SKIPPED: this processor lacks {level:?}"),
                Level::Definition => agree::<X86<{ Level::Definition as u8 }>>(),
                Level::Avx2 => agree::<X86<{ Level::Avx2 as u8 }>>(),
                Level::AvxVnni => agree::<X86<{ Level::AvxVnni as u8 }>>(),
                Level::Avx512Vnni => agree::<X86<{ Level::Avx512Vnni as u8 }>>(),
            }
        }
    }
}
