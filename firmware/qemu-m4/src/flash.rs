//! The board's model region as a flash: erased to ones by the block, written once by the word, and kept in a file of the host,
//! so that what is written lasts from one run to the next and a run that is killed is a power cut.

use crate::host::File;
use core::ffi::CStr;
use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashErrorKind, ReadNorFlash, check_erase, check_read, check_write,
};
use mote_slots::Found;

/// Bytes of a word, and of what is erased together.
const WRITE: usize = 4;
const ERASE: usize = 4096;

unsafe extern "C" {
    /// First byte of the region; the memory layout defines it.
    static mut mote_model_start: u8;
    /// One past its last byte.
    static mote_model_end: u8;
}

/// The model region. Offsets begin with it.
#[derive(Debug)]
pub struct Flash {
    len: usize,
    file: Option<File>,
}

/// A slot's file, where the processor sees it.
pub fn mapped(found: &Found) -> &'static [u8] {
    // SAFETY: the region is readable memory for good, and slots in use are not overwritten: mote-slots sees to it.
    unsafe { found.mapped(&raw const mote_model_start) }
}

impl Flash {
    /// The region, whose bytes the emulator has loaded. With a file of the host, which holds the same bytes, each change is made
    /// there too. `None` if there is no such file.
    ///
    /// # Safety
    /// To be called once, and nothing else may write the region.
    pub unsafe fn new(file: Option<&CStr>) -> Option<Flash> {
        let file = match file {
            Some(path) => Some(File::change(path)?),
            None => None,
        };
        let len = (&raw const mote_model_end).addr() - (&raw const mote_model_start).addr();
        Some(Flash { len, file })
    }

    /// Bytes of the region.
    #[allow(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> u32 {
        self.len as u32
    }

    fn at(&self, offset: usize) -> *mut u8 {
        (&raw mut mote_model_start).wrapping_add(offset)
    }

    /// Changes `len` bytes from `offset` on, in memory and in the file.
    fn change(&mut self, offset: usize, len: usize, value: impl Fn(usize, u8) -> u8) -> Result<(), NorFlashErrorKind> {
        for index in 0..len {
            let byte = self.at(offset + index);
            // SAFETY: inside the region, as the caller has checked; only this flash writes there.
            unsafe { byte.write_volatile(value(index, byte.read_volatile())) };
        }
        let Some(file) = &self.file else { return Ok(()) };
        // SAFETY: inside the region, and nothing writes it while the slice lives.
        let bytes = unsafe { core::slice::from_raw_parts(self.at(offset), len) };
        if file.write_at(offset, bytes) { Ok(()) } else { Err(NorFlashErrorKind::Other) }
    }
}

impl ErrorType for Flash {
    type Error = NorFlashErrorKind;
}

impl ReadNorFlash for Flash {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), NorFlashErrorKind> {
        check_read(self, offset, bytes.len())?;
        for (index, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: inside the region.
            *byte = unsafe { self.at(offset as usize + index).read_volatile() };
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.len
    }
}

impl NorFlash for Flash {
    const WRITE_SIZE: usize = WRITE;
    const ERASE_SIZE: usize = ERASE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), NorFlashErrorKind> {
        check_erase(self, from, to)?;
        self.change(from as usize, (to - from) as usize, |_, _| 0xFF)
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), NorFlashErrorKind> {
        check_write(self, offset, bytes.len())?;
        let offset = offset as usize;
        // SAFETY: inside the region.
        let is_erased = (0..bytes.len()).all(|index| unsafe { self.at(offset + index).read_volatile() } == 0xFF);
        if !is_erased {
            return Err(NorFlashErrorKind::Other);
        }
        self.change(offset, bytes.len(), |index, old| old & bytes.get(index).copied().unwrap_or(0xFF))
    }
}
