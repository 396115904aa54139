//! Writing a model into the slot that is not in use.

use crate::header::{COMMIT_LEN, HEADER_LEN};
use crate::{BLOCK, Fault, Found, Header, PREFIX_LEN, Slot, Slots};
use embedded_storage::nor_flash::NorFlash;

/// Why an update cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UpdateError<E> {
    /// The flash driver failed.
    Flash(E),
    /// More bytes came than the manifest says.
    TooMany {
        /// The manifest's length.
        len: u32,
    },
    /// The update was to be finished before all bytes came.
    TooFew {
        /// Bytes that came.
        received: u32,
        /// The manifest's length.
        len: u32,
    },
    /// What was written is no model for this device.
    Fault(Fault),
    /// The header or the commit record does not read back as it was written: the flash is worn or another writes to it.
    NotKept,
}

impl<E: core::fmt::Debug> core::fmt::Display for UpdateError<E> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            UpdateError::Flash(error) => write!(f, "the flash driver failed: {error:?}"),
            UpdateError::TooMany { len } => write!(f, "more than the {len} bytes that were announced: begin again"),
            UpdateError::TooFew { received, len } => write!(f, "only {received} of {len} bytes came: send the rest"),
            UpdateError::Fault(fault) => fault.fmt(f),
            UpdateError::NotKept => f.write_str("the flash does not keep what is written: it may be worn out"),
        }
    }
}

impl<E: core::fmt::Debug> core::error::Error for UpdateError<E> {}

/// An update under way. Dropped, it leaves the slot unused; the model in use is never touched.
#[derive(Clone, Debug)]
pub struct Update {
    slots: Slots,
    slot: Slot,
    header: Header,
    /// Bytes of the slot that are erased, from its beginning.
    erased: u32,
    /// Bytes of the model that came.
    received: u32,
    /// The last of them, not written yet: `received % BLOCK` bytes.
    block: [u8; BLOCK],
}

impl Update {
    pub(crate) fn new(slots: Slots, slot: Slot, header: Header) -> Update {
        Update { slots, slot, header, erased: 0, received: 0, block: [0xFF; BLOCK] }
    }

    /// The slot that is written.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// Bytes of the model that came so far.
    pub fn received(&self) -> u32 {
        self.received
    }

    /// Bytes of the model that there will be.
    pub fn len(&self) -> u32 {
        self.header.manifest.len
    }

    /// Whether no byte came yet.
    pub fn is_empty(&self) -> bool {
        self.received == 0
    }

    /// Takes the model's next bytes. Erases each block of flash just before it is first written, one at a time: up to 256
    /// bytes a call cost one erasure at most.
    ///
    /// # Errors
    /// If more bytes come than were announced, or the flash driver fails; then begin again.
    pub fn write<F: NorFlash>(&mut self, flash: &mut F, bytes: &[u8]) -> Result<(), UpdateError<F::Error>> {
        let len = self.len();
        if bytes.len() > (len - self.received) as usize {
            return Err(UpdateError::TooMany { len });
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let filled = self.received as usize % BLOCK;
            let (part, after) = rest.split_at(rest.len().min(BLOCK - filled));
            self.block[filled..filled + part.len()].copy_from_slice(part);
            self.received += part.len() as u32;
            rest = after;
            if (self.received as usize).is_multiple_of(BLOCK) {
                self.put_block(flash, BLOCK)?;
            }
        }
        Ok(())
    }

    /// Writes what is left, reads the model back and checks it as a boot does, the signature included.
    ///
    /// # Errors
    /// If bytes are missing, what was written is not what the manifest says, or the flash fails; then begin again.
    pub fn check<F: NorFlash>(mut self, flash: &mut F) -> Result<Checked, UpdateError<F::Error>> {
        let (received, len) = (self.received, self.len());
        if received < len {
            return Err(UpdateError::TooFew { received, len });
        }
        let filled = received as usize % BLOCK;
        if filled > 0 {
            self.block[filled..].fill(0xFF);
            self.received = received.next_multiple_of(BLOCK as u32);
            self.put_block(flash, filled.next_multiple_of(F::WRITE_SIZE))?;
        }
        let found = self.slots.check(flash, self.slot, &self.header).map_err(UpdateError::Fault)?;
        Ok(Checked { found, header: self.header })
    }

    /// Writes the gathered block, its first `len` bytes, to where the last full `BLOCK` of `received` lies.
    fn put_block<F: NorFlash>(&mut self, flash: &mut F, len: usize) -> Result<(), UpdateError<F::Error>> {
        let in_slot = PREFIX_LEN as u32 + self.received - BLOCK as u32;
        let slot = self.slots.layout().offset(self.slot);
        while self.erased < in_slot + len as u32 {
            let from = slot + self.erased;
            flash.erase(from, from + F::ERASE_SIZE as u32).map_err(UpdateError::Flash)?;
            self.erased += F::ERASE_SIZE as u32;
        }
        flash.write(slot + in_slot, &self.block[..len]).map_err(UpdateError::Flash)
    }
}

/// A model that is written and whole, but does not count yet: time for the caller to see whether it can be used.
#[derive(Clone, Debug)]
pub struct Checked {
    found: Found,
    header: Header,
}

impl Checked {
    /// Where it is.
    pub fn found(&self) -> Found {
        self.found
    }

    /// Makes the model count: from now on, a boot finds it. Dropped instead, the slot stays unused.
    ///
    /// # Errors
    /// If the flash fails. The model in use stays in use; a boot may find either.
    pub fn commit<F: NorFlash>(self, flash: &mut F) -> Result<Found, UpdateError<F::Error>> {
        let offset = self.found.offset - PREFIX_LEN as u32;
        put_record(flash, offset, &self.header.block(), HEADER_LEN)?;
        put_record(flash, offset + BLOCK as u32, &self.header.commit_block(), COMMIT_LEN)?;
        Ok(self.found)
    }
}

/// Writes a block's first `len` bytes, rounded up to the flash's words, and reads them back.
fn put_record<F: NorFlash>(
    flash: &mut F,
    offset: u32,
    block: &[u8; BLOCK],
    len: usize,
) -> Result<(), UpdateError<F::Error>> {
    flash.write(offset, &block[..len.next_multiple_of(F::WRITE_SIZE)]).map_err(UpdateError::Flash)?;
    let mut kept = [0; BLOCK];
    flash.read(offset, &mut kept).map_err(UpdateError::Flash)?;
    if kept == *block { Ok(()) } else { Err(UpdateError::NotKept) }
}
