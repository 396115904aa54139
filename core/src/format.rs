//! The `.mote` file: where every byte is. `docs/model-format.md` is this module in prose.
//!
//! Little-endian throughout. A header of [`HEADER_LEN`] bytes, then tensor, operation and row records, the name, and the
//! constants that operations point to. This module knows positions; [`crate::model`] knows what is valid.

mod emit;

pub use emit::{AttentionSpec, ConvSpec, EmitError, NormSpec, OpMemory, OpSpec, Spec, emit, emitted_len};

/// The first four bytes of every file.
pub const MAGIC: [u8; 4] = *b"MOTE";
/// The version that this crate reads and writes. Any change of layout or rounding raises it.
pub const VERSION: u16 = 2;
/// Bytes of the header.
pub const HEADER_LEN: usize = 64;
/// Bytes of a tensor record.
pub const TENSOR_LEN: usize = 20;
/// Bytes of an operation record.
pub const OP_LEN: usize = 52;
/// Bytes of a step-table row.
pub const ROW_LEN: usize = 36;
/// Bytes of a channel's unit: `f32` offset, `f32` scale.
pub const UNIT_LEN: usize = 8;
/// In a tensor field: no tensor.
pub const NO_TENSOR: u16 = 0xFFFF;
/// The tensor that holds the state `x`.
pub const STATE: u16 = 0;
/// The tensor that holds the network's output.
pub const OUTPUT: u16 = 1;
/// Bytes before this offset are not covered by the checksum: magic, version, length and the checksum itself.
pub const CHECKED_FROM: usize = 16;

/// Byte offsets in the header.
pub mod header {
    /// `u8[4]` magic.
    pub const MAGIC: usize = 0;
    /// `u16` format version.
    pub const VERSION: usize = 4;
    /// `u16` zero.
    pub const RESERVED: usize = 6;
    /// `u32` length of the whole file.
    pub const FILE_LEN: usize = 8;
    /// `u32` CRC-32 (ISO-HDLC) of everything from byte 16.
    pub const CHECKSUM: usize = 12;
    /// `u16` height of the sample.
    pub const HEIGHT: usize = 16;
    /// `u16` width of the sample.
    pub const WIDTH: usize = 18;
    /// `u16` channels of the sample.
    pub const CHANNELS: usize = 20;
    /// `u16` number of classes, at least 1.
    pub const CLASSES: usize = 22;
    /// `u16` number of step-table rows, at least 1.
    pub const ROWS: usize = 24;
    /// `u16` number of tensor records.
    pub const TENSORS: usize = 26;
    /// `u16` number of operation records.
    pub const OPS: usize = 28;
    /// `u16` tensor that keeps the previous row's `x0`, or 0xFFFF.
    pub const HISTORY: usize = 30;
    /// `i16` smallest `x0`, Q12.
    pub const CLAMP_LOW: usize = 32;
    /// `i16` largest `x0`, Q12.
    pub const CLAMP_HIGH: usize = 34;
    /// `u32` bytes of arena, exact.
    pub const ARENA_LEN: usize = 36;
    /// `u32` offset of the tensor records.
    pub const TENSORS_AT: usize = 40;
    /// `u32` offset of the operation records.
    pub const OPS_AT: usize = 44;
    /// `u32` offset of the rows.
    pub const ROWS_AT: usize = 48;
    /// `u32` offset of the name, UTF-8.
    pub const NAME_AT: usize = 52;
    /// `u16` bytes of the name.
    pub const NAME_LEN: usize = 56;
    /// `u16` zero.
    pub const RESERVED_END: usize = 58;
    /// `u32` offset of the channels' units, [`UNIT_LEN`](super::UNIT_LEN) bytes each, or 0; for tools.
    pub const UNITS_AT: usize = 60;
}

/// Byte offsets in a tensor record.
pub mod tensor {
    /// `u32` offset in the arena, a multiple of 4.
    pub const OFFSET: usize = 0;
    /// `u16` height.
    pub const HEIGHT: usize = 4;
    /// `u16` width.
    pub const WIDTH: usize = 6;
    /// `u16` channels.
    pub const CHANNELS: usize = 8;
    /// `u8` element: 0 for `i8`, 1 for `i16`.
    pub const ELEMENT: usize = 10;
    /// `u8` zero.
    pub const RESERVED: usize = 11;
    /// `i16` zero point: 0 for `i16` tensors, within `i8` for the others.
    pub const ZERO: usize = 12;
    /// `u16` zero.
    pub const RESERVED_END: usize = 14;
    /// `f32` real value of one step; for tools, the device never reads it.
    pub const SCALE: usize = 16;
}

/// Byte offsets in an operation record. What an operation does not use is zero, or 0xFFFF for a tensor.
pub mod op {
    /// `u8` kind: 0 convolution, 1 attention.
    pub const KIND: usize = 0;
    /// Convolution: `u8` kernel, 1 for 1x1, 3 for 3x3 or [`ROW`].
    pub const KERNEL: usize = 1;
    /// Attention: `u8` number of heads.
    pub const HEADS: usize = 1;
    /// Convolution: `u8` stride, 1 or 2.
    pub const STRIDE: usize = 2;
    /// Convolution: `u8` enlargement of the input, 1 or 2.
    pub const UPSAMPLE: usize = 3;
    /// `u16` input tensor.
    pub const INPUT: usize = 4;
    /// Normalizing convolution: `u16` second input tensor, or 0xFFFF.
    pub const SECOND: usize = 6;
    /// `u16` output tensor.
    pub const OUTPUT: usize = 8;
    /// `u16` output pixels computed at a time.
    pub const PIXELS: usize = 10;
    /// Convolution: `u8` sum of [`ACCUMULATE`], [`NORMALIZE`], [`CONDITIONED`] and [`NIBBLES`].
    pub const FLAGS: usize = 12;
    /// Normalizing convolution: `i8`, the normalized value that stands for 0.0.
    pub const ZERO: usize = 13;
    /// Normalizing convolution: `u8` fractional bits of the gains, 0..=15.
    pub const GAIN_BITS: usize = 14;
    /// Normalizing convolution: `u8` fractional bits of the biases, 0..=15.
    pub const BIAS_BITS: usize = 15;
    /// `u32` offset of the scratch in the arena, a multiple of 4.
    pub const SCRATCH: usize = 16;
    /// Convolution: `u32` offset of the packed weights, `i8` or, with [`NIBBLES`], two to a byte.
    pub const WEIGHTS_AT: usize = 20;
    /// Attention: `i32` multiplier from a sum of products of query and key to 1/256 of an octave.
    pub const SCORE_MULTIPLIER: usize = 20;
    /// Convolution: `u32` offset of the biases, `i32`.
    pub const BIAS_AT: usize = 24;
    /// Attention: `i32` multiplier from a sum of probabilities (Q15) times values to the output.
    pub const VALUE_MULTIPLIER: usize = 24;
    /// Convolution: `u32` offset of the multipliers, `i32`.
    pub const MULTIPLIERS_AT: usize = 28;
    /// Normalizing convolution: `u16` groups of the input.
    pub const GROUPS: usize = 32;
    /// Normalizing convolution: `u16` groups of the second input, 0 without one.
    pub const SECOND_GROUPS: usize = 34;
    /// Normalizing convolution: `u32` epsilon in squared steps of the input, Q8.
    pub const EPSILON: usize = 36;
    /// Normalizing convolution: `u32` the same for the second input, 0 without one.
    pub const SECOND_EPSILON: usize = 40;
    /// Normalizing convolution: `u32` offset of the activation table, 512 `i8`.
    pub const TABLE_AT: usize = 44;
    /// Normalizing convolution: `u32` offset of gain and bias, `i16` pairs.
    pub const PAIRS_AT: usize = 48;

    /// In [`KERNEL`]: 1x3, a row of three; stride and enlargement are of the width alone.
    pub const ROW: u8 = 0x13;

    /// In [`FLAGS`]: the result is added to the output's content.
    pub const ACCUMULATE: u8 = 1;
    /// In [`FLAGS`]: the input is normalized while it is read.
    pub const NORMALIZE: u8 = 2;
    /// In [`FLAGS`]: gain and bias have a part for each (row, class).
    pub const CONDITIONED: u8 = 4;
    /// In [`FLAGS`]: weights have 4 bits.
    pub const NIBBLES: u8 = 8;
}

/// Byte offsets in a step-table row.
pub mod row {
    /// `i32[8]` Q20 coefficients `p, q, a, b, b_prev, c, signal, noise` in this order.
    pub const COEFFICIENTS: usize = 0;
    /// `u32` the network's conditioning timestep; for tools.
    pub const TIMESTEP: usize = 32;
}

#[inline(always)]
pub(crate) fn read_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(field(bytes, at))
}

#[inline(always)]
pub(crate) fn read_i16(bytes: &[u8], at: usize) -> i16 {
    i16::from_le_bytes(field(bytes, at))
}

#[inline(always)]
pub(crate) fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(field(bytes, at))
}

/// The `N` bytes of a field. Zeros where `bytes` ends too early, which in a record, an array, costs no instruction to know.
#[inline(always)]
fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

/// The length that the header states, if `bytes` begin with the magic: what a loader needs before it can take a slice.
pub fn stated_len(bytes: &[u8]) -> Option<usize> {
    (bytes.len() >= CHECKED_FROM && bytes.starts_with(&MAGIC)).then(|| read_u32(bytes, header::FILE_LEN) as usize)
}

/// CRC-32 (ISO-HDLC: polynomial 0x04C11DB7 reflected, as in zlib) of `bytes`.
pub fn checksum(bytes: &[u8]) -> u32 {
    let mut checksum = Checksum::new();
    checksum.update(bytes);
    checksum.value()
}

/// [`checksum`] of bytes that come in parts; four bits at a time.
#[derive(Clone, Copy, Debug)]
pub struct Checksum(u32);

impl Checksum {
    /// Of no bytes yet.
    pub const fn new() -> Self {
        Checksum(!0)
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        const TABLE: [u32; 16] = {
            let mut table = [0; 16];
            let mut i = 0;
            while i < 16 {
                let mut value = i as u32;
                let mut bit = 0;
                while bit < 4 {
                    value = if value & 1 == 1 { value >> 1 ^ 0xEDB8_8320 } else { value >> 1 };
                    bit += 1;
                }
                table[i] = value;
                i += 1;
            }
            table
        };
        self.0 = bytes.iter().fold(self.0, |crc, &byte| {
            let low = crc >> 4 ^ TABLE[((crc ^ byte as u32) & 15) as usize];
            low >> 4 ^ TABLE[((low ^ (byte as u32 >> 4)) & 15) as usize]
        });
    }

    /// The checksum of the bytes so far.
    pub fn value(&self) -> u32 {
        !self.0
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_gives_the_published_check_value() {
        assert_eq!(checksum(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn a_checksum_of_parts_is_that_of_the_whole() {
        let mut parts = Checksum::new();
        [&b"1234"[..], b"", b"56789"].iter().for_each(|part| parts.update(part));
        assert_eq!(parts.value(), 0xCBF4_3926);
    }

    #[test]
    fn the_stated_length_needs_the_magic() {
        let mut bytes = *b"MOTE\x01\0\0\0\x2A\0\0\0\0\0\0\0";
        assert_eq!(stated_len(&bytes), Some(42));
        assert_eq!(stated_len(&bytes[..15]), None);
        bytes[0] = b'm';
        assert_eq!(stated_len(&bytes), None);
    }
}
