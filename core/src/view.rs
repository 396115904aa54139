//! Little-endian numbers inside a byte slice, read in place: a file may start at any address. Parts of slices, taken
//! without a panic: nothing after [`crate::Model::parse`] may fail, so what a kernel takes that is not there is empty.

use bytemuck::Pod;
use core::ops::Range;

/// `len` elements of `values` from `start` on; none if they reach past the end.
#[inline(always)]
pub fn part<T>(values: &[T], start: usize, len: usize) -> &[T] {
    debug_assert!(start + len <= values.len(), "{len} elements from {start} of {}", values.len());
    values.get(start..).and_then(|rest| rest.get(..len)).unwrap_or_default()
}

/// [`part`] to write.
#[inline(always)]
pub fn part_mut<T>(values: &mut [T], start: usize, len: usize) -> &mut [T] {
    debug_assert!(start + len <= values.len(), "{len} elements from {start} of {}", values.len());
    values.get_mut(start..).and_then(|rest| rest.get_mut(..len)).unwrap_or_default()
}

/// The first `len` elements and the rest; all of them and none if there are not so many.
#[inline(always)]
pub fn split_mut<T>(values: &mut [T], len: usize) -> (&mut [T], &mut [T]) {
    debug_assert!(len <= values.len(), "{len} elements of {}", values.len());
    values.split_at_mut(len.min(values.len()))
}

/// The parts at ranges that do not overlap; none of them if they do, or reach past the end.
#[inline(always)]
pub fn parts<const N: usize>(bytes: &mut [u8], ranges: [Range<usize>; N]) -> [&mut [u8]; N]
where
    for<'t> [&'t mut [u8]; N]: Default,
{
    let parts = bytes.get_disjoint_mut(ranges);
    debug_assert!(parts.is_ok(), "{parts:?}");
    parts.unwrap_or_default()
}

/// Bytes as elements; none if they do not lie at a multiple of the element's alignment.
#[inline(always)]
pub fn elements<T: Pod>(bytes: &[u8]) -> &[T] {
    let elements = bytemuck::try_cast_slice(bytes);
    debug_assert!(elements.is_ok(), "misaligned, or not whole elements");
    elements.unwrap_or_default()
}

/// [`elements`] to write.
#[inline(always)]
pub fn elements_mut<T: Pod>(bytes: &mut [u8]) -> &mut [T] {
    let elements = bytemuck::try_cast_slice_mut(bytes);
    debug_assert!(elements.is_ok(), "misaligned, or not whole elements");
    elements.unwrap_or_default()
}

/// `i32` values, little-endian.
#[derive(Clone, Copy, Debug)]
pub struct I32s<'a>(&'a [[u8; 4]]);

impl<'a> I32s<'a> {
    /// A view of `bytes`; a last partial value is left out.
    pub fn new(bytes: &'a [u8]) -> Self {
        I32s(bytes.as_chunks().0)
    }

    /// Value `index`, zero past the end.
    #[inline(always)]
    pub fn get(self, index: usize) -> i32 {
        i32::from_le_bytes(self.0.get(index).copied().unwrap_or_default())
    }

    /// The bytes that the values are read from.
    pub fn bytes(self) -> &'a [u8] {
        self.0.as_flattened()
    }

    /// The values as the processor loads them, where they lie at a multiple of 4.
    #[cfg(target_endian = "little")]
    pub fn aligned(self) -> Option<&'a [i32]> {
        bytemuck::try_cast_slice(self.0).ok()
    }

    /// Every value in order.
    pub fn iter(self) -> impl Iterator<Item = i32> + 'a {
        self.0.iter().map(|&bytes| i32::from_le_bytes(bytes))
    }
}

/// Pairs of `i16` values, little-endian: gain and bias of a channel.
#[derive(Clone, Copy, Debug)]
pub struct I16Pairs<'a>(&'a [[u8; 4]]);

impl<'a> I16Pairs<'a> {
    /// A view of `bytes`; a last partial pair is left out.
    pub fn new(bytes: &'a [u8]) -> Self {
        I16Pairs(bytes.as_chunks().0)
    }

    /// Pair `index`, zeros past the end.
    #[inline(always)]
    pub fn get(self, index: usize) -> [i16; 2] {
        let [a, b, c, d] = self.0.get(index).copied().unwrap_or_default();
        [i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])]
    }

    /// The `count` pairs from `start`; none if they reach past the end.
    pub fn part(self, start: usize, count: usize) -> Self {
        I16Pairs(part(self.0, start, count))
    }
}
