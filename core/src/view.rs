//! Little-endian numbers inside a byte slice, read in place: a file may start at any address.

/// `i32` values, little-endian.
#[derive(Clone, Copy, Debug)]
pub struct I32s<'a>(&'a [[u8; 4]]);

impl<'a> I32s<'a> {
    /// A view of `bytes`; a last partial value is left out.
    pub fn new(bytes: &'a [u8]) -> Self {
        I32s(bytes.as_chunks().0)
    }

    /// Value `index`.
    #[inline(always)]
    pub fn get(self, index: usize) -> i32 {
        i32::from_le_bytes(self.0[index])
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

    /// Pair `index`.
    #[inline(always)]
    pub fn get(self, index: usize) -> [i16; 2] {
        let [a, b, c, d] = self.0[index];
        [i16::from_le_bytes([a, b]), i16::from_le_bytes([c, d])]
    }

    /// The `count` pairs from `start`.
    pub fn part(self, start: usize, count: usize) -> Self {
        I16Pairs(&self.0[start..][..count])
    }
}
