//! A flash in memory whose power can be cut: for tests on the host.
//!
//! It keeps what real flashes ask of their drivers: erasing sets whole blocks of `ERASE` bytes to ones, writing clears bits
//! in whole words of `WRITE` bytes, and no word is written twice between erasures. Anything else is an error.

use crate::BLOCK;
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};
use std::vec;
use std::vec::Vec;

/// What the simulated flash does not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The power was cut: nothing works until [`Simulator::power_on`].
    NoPower,
    /// Not whole words or blocks, or outside.
    Arguments(NorFlashErrorKind),
    /// A word was to be written that was not erased since it was last written.
    WrittenTwice {
        /// The word's offset.
        offset: u32,
    },
    /// The check code of a word is wrong: its writing or erasing was cut.
    CheckCode {
        /// The word's offset.
        offset: u32,
    },
}

impl NorFlashError for Error {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Error::Arguments(kind) => *kind,
            _ => NorFlashErrorKind::Other,
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::NoPower => f.write_str("the power was cut"),
            Error::Arguments(kind) => kind.fmt(f),
            Error::WrittenTwice { offset } => write!(f, "the word at {offset} was written before: erase it first"),
            Error::CheckCode { offset } => write!(f, "the word at {offset} has a wrong check code"),
        }
    }
}

impl std::error::Error for Error {}

/// A write or an erasure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// So many words were written.
    Write {
        /// How many.
        words: usize,
    },
    /// One or more blocks were erased.
    Erase {
        /// Words in them.
        words: usize,
    },
}

/// What a cut leaves of the operation it comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tear {
    /// The first words are done, the others as before.
    Words(usize),
    /// Each bit on its own is done or as before, as this seed decides.
    Bits(u64),
    /// All is done, but the caller never hears of it.
    Nothing,
}

/// When the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// In which operation, the first being 0.
    pub operation: usize,
    /// What is left of it.
    pub tear: Tear,
}

/// A simulated flash with words of `WRITE` and blocks of `ERASE` bytes.
#[derive(Clone, Debug)]
pub struct Simulator<const WRITE: usize, const ERASE: usize> {
    bytes: Vec<u8>,
    /// For each word, whether it was written since it was erased.
    written: Vec<bool>,
    /// For each word, whether its check code is wrong.
    torn: Vec<bool>,
    has_check_codes: bool,
    operations: Vec<Operation>,
    cut: Option<Cut>,
    powered: bool,
}

impl<const WRITE: usize, const ERASE: usize> Simulator<WRITE, ERASE> {
    /// An erased flash of so many blocks.
    pub fn new(blocks: usize) -> Self {
        let (bytes, words) = (blocks * ERASE, blocks * ERASE / WRITE);
        Simulator {
            bytes: vec![0xFF; bytes],
            written: vec![false; words],
            torn: vec![false; words],
            has_check_codes: false,
            operations: Vec::new(),
            cut: None,
            powered: true,
        }
    }

    /// The same flash, each of whose words has a check code: one whose writing was cut cannot be read.
    pub fn with_check_codes(self) -> Self {
        Simulator { has_check_codes: true, ..self }
    }

    /// Cuts the power in one of the operations to come, counted from now.
    pub fn cut(&mut self, cut: Cut) {
        self.operations.clear();
        self.cut = Some(cut);
    }

    /// Whether there is power.
    pub fn is_powered(&self) -> bool {
        self.powered
    }

    /// Switches the power on again, and counts operations anew.
    pub fn power_on(&mut self) {
        self.powered = true;
        self.cut = None;
        self.operations.clear();
    }

    /// The operations since power was switched on or a cut was ordered.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// `len` bytes from `offset` on, as the processor would see them.
    pub fn bytes(&self, offset: u32, len: u32) -> &[u8] {
        &self.bytes[offset as usize..][..len as usize]
    }

    /// Flips bits, as a worn cell does.
    pub fn damage(&mut self, offset: u32, bits: u8) {
        self.bytes[offset as usize] ^= bits;
    }

    /// Does the words in which `change` gives each byte's new value, or what a cut leaves of that.
    fn operate(
        &mut self,
        operation: Operation,
        first: usize,
        words: usize,
        change: impl Fn(usize, u8) -> u8,
    ) -> Result<(), Error> {
        if !self.powered {
            return Err(Error::NoPower);
        }
        let cut = self.cut.filter(|cut| cut.operation == self.operations.len()).map(|cut| cut.tear);
        self.operations.push(operation);
        let erases = matches!(operation, Operation::Erase { .. });
        for word in 0..words {
            if cut.is_some_and(|tear| matches!(tear, Tear::Words(done) if word >= done)) {
                break;
            }
            let torn = matches!(cut, Some(Tear::Bits(_)));
            for byte in word * WRITE..(word + 1) * WRITE {
                let at = first * WRITE + byte;
                let (old, new) = (self.bytes[at], change(byte, self.bytes[at]));
                let mask = if let Some(Tear::Bits(seed)) = cut { random(seed, at) } else { 0xFF };
                self.bytes[at] = old & !mask | new & mask;
            }
            self.written[first + word] = !erases || torn;
            self.torn[first + word] = torn;
        }
        if cut.is_some() {
            self.powered = false;
            return Err(Error::NoPower);
        }
        Ok(())
    }
}

/// A byte that depends on nothing but these (SplitMix64).
fn random(seed: u64, at: usize) -> u8 {
    let mut z = seed.wrapping_add((at as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (z ^ (z >> 31)) as u8
}

impl<const WRITE: usize, const ERASE: usize> ErrorType for Simulator<WRITE, ERASE> {
    type Error = Error;
}

impl<const WRITE: usize, const ERASE: usize> ReadNorFlash for Simulator<WRITE, ERASE> {
    const READ_SIZE: usize = if WRITE < BLOCK { WRITE } else { 1 };

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), Error> {
        if !self.powered {
            return Err(Error::NoPower);
        }
        check_read(self, offset, bytes.len()).map_err(Error::Arguments)?;
        let at = offset as usize;
        let words = at / WRITE..(at + bytes.len()).div_ceil(WRITE);
        if let Some(word) = words.clone().find(|&word| self.has_check_codes && self.torn[word]) {
            return Err(Error::CheckCode { offset: (word * WRITE) as u32 });
        }
        bytes.copy_from_slice(&self.bytes[at..at + bytes.len()]);
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.bytes.len()
    }
}

impl<const WRITE: usize, const ERASE: usize> NorFlash for Simulator<WRITE, ERASE> {
    const WRITE_SIZE: usize = WRITE;
    const ERASE_SIZE: usize = ERASE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), Error> {
        check_erase(self, from, to).map_err(Error::Arguments)?;
        let (first, words) = (from as usize / WRITE, (to - from) as usize / WRITE);
        self.operate(Operation::Erase { words }, first, words, |_, _| 0xFF)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), Error> {
        check_write(self, offset, bytes.len()).map_err(Error::Arguments)?;
        let (first, words) = (offset as usize / WRITE, bytes.len() / WRITE);
        if let Some(word) = (first..first + words).find(|&word| self.written[word]) {
            return Err(Error::WrittenTwice { offset: (word * WRITE) as u32 });
        }
        self.operate(Operation::Write { words }, first, words, |byte, old| old & bytes[byte])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_written_once_and_erasing_frees_it() {
        let mut flash = Simulator::<4, 64>::new(2);
        flash.write(8, &[1, 2, 3, 4]).unwrap();
        assert_eq!(flash.write(8, &[0; 4]), Err(Error::WrittenTwice { offset: 8 }));
        assert_eq!(flash.write(6, &[0; 4]), Err(Error::Arguments(NorFlashErrorKind::NotAligned)));
        assert_eq!(flash.erase(0, 32), Err(Error::Arguments(NorFlashErrorKind::NotAligned)));
        assert_eq!(flash.erase(64, 192), Err(Error::Arguments(NorFlashErrorKind::OutOfBounds)));
        flash.erase(0, 64).unwrap();
        flash.write(8, &[5; 4]).unwrap();
        assert_eq!(flash.bytes(4, 8), [0xFF, 0xFF, 0xFF, 0xFF, 5, 5, 5, 5]);
    }

    #[test]
    fn a_cut_leaves_what_was_ordered_and_nothing_works_before_power_is_back() {
        let mut flash = Simulator::<2, 8>::new(1);
        flash.cut(Cut { operation: 1, tear: Tear::Words(1) });
        flash.write(0, &[1, 1]).unwrap();
        assert_eq!(flash.write(2, &[2, 2, 3, 3]), Err(Error::NoPower));
        assert_eq!(flash.read(0, &mut [0; 2]), Err(Error::NoPower));
        flash.power_on();
        assert_eq!(flash.bytes(0, 8), [1, 1, 2, 2, 0xFF, 0xFF, 0xFF, 0xFF]);
        flash.cut(Cut { operation: 0, tear: Tear::Bits(7) });
        assert_eq!(flash.erase(0, 8), Err(Error::NoPower));
        flash.power_on();
        assert!(flash.bytes(0, 2).iter().all(|byte| byte & 1 == 1), "erasing only sets bits");
        assert_eq!(flash.write(0, &[0; 2]), Err(Error::WrittenTwice { offset: 0 }), "half erased is not erased");
    }

    #[test]
    fn with_check_codes_a_torn_word_cannot_be_read() {
        let mut flash = Simulator::<4, 16>::new(1).with_check_codes();
        flash.cut(Cut { operation: 0, tear: Tear::Bits(1) });
        assert_eq!(flash.write(4, &[0; 4]), Err(Error::NoPower));
        flash.power_on();
        assert_eq!(flash.read(0, &mut [0; 4]), Ok(()));
        assert_eq!(flash.read(0, &mut [0; 8]), Err(Error::CheckCode { offset: 4 }));
        flash.erase(0, 16).unwrap();
        assert_eq!(flash.read(0, &mut [0; 16]), Ok(()));
    }
}
