//! Where a board's models lie.

use mote_protocol::{Error, SlotState};

/// A model's file as it lies in flash.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    /// The file.
    pub file: &'static [u8],
    /// Its slot, if there are slots.
    pub slot: Option<u8>,
}

/// A new model that is announced.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// Bytes of its file.
    pub len: u32,
    /// CRC-32 of the whole file.
    pub checksum: u32,
    /// Its ed25519 signature of 64 bytes, or nothing.
    pub signature: &'a [u8],
    /// The slot that must stay as it is: the model in use lies in it.
    pub in_use: Option<u8>,
}

/// Where a board's models lie, and how a new one is written. What is not implemented is refused.
///
/// The errors are those that the board answers with: a slot that does not exist is [`Error::Slot`], a flash that fails
/// [`Error::Flash`].
pub trait Store {
    /// The newest whole model, its signature checked where the firmware has a key. It stays readable and unchanged as long as
    /// it is named in [`Update::in_use`].
    fn newest(&mut self) -> Option<Stored>;

    /// Number of slots.
    fn slots(&self) -> u8 {
        0
    }

    /// Most bytes of a model in a slot.
    fn slot_len(&self) -> u32 {
        0
    }

    /// What a slot holds.
    ///
    /// # Errors
    /// If there is no such slot or the flash fails.
    fn slot(&mut self, _slot: u8) -> Result<SlotState, Error> {
        Err(Error::Slot)
    }

    /// Reads a part of a slot's model and returns how many bytes it read: fewer than asked for at the model's end.
    ///
    /// # Errors
    /// If there is no such slot, it holds no whole model, or the flash fails.
    fn read(&mut self, _slot: u8, _offset: u32, _into: &mut [u8]) -> Result<usize, Error> {
        Err(Error::Slot)
    }

    /// Begins to write a new model where none is in use; forgets an update that was begun before.
    ///
    /// # Errors
    /// If the model is too long, has no signature where one is needed, or the flash fails.
    fn begin(&mut self, _update: Update<'_>) -> Result<(), Error> {
        Err(Error::Unsupported)
    }

    /// Writes the next part of the new model.
    ///
    /// # Errors
    /// If no update was begun, the part does not begin where the last one ended or goes past the announced length, or the
    /// flash fails.
    fn write(&mut self, _offset: u32, _data: &[u8]) -> Result<(), Error> {
        Err(Error::NoUpdate)
    }

    /// Checks the length, the checksum and the signature of what was written, and returns the file.
    ///
    /// # Errors
    /// If no update was begun, bytes are missing, the checksum or the signature is not good, or the flash fails.
    fn check(&mut self) -> Result<&[u8], Error> {
        Err(Error::NoUpdate)
    }

    /// Makes the checked model the newest: in one write, so that a power cut leaves the old one or the new one.
    ///
    /// # Errors
    /// If nothing was checked or the flash fails.
    fn commit(&mut self) -> Result<(), Error> {
        Err(Error::NoUpdate)
    }

    /// Forgets an update that was begun.
    fn abort(&mut self) {}
}

/// One model at a place that the firmware knows; nothing can be written.
#[derive(Clone, Copy, Debug)]
pub struct FixedModel(
    /// The flash region, from the model's first byte on; it may be longer than the model, or erased.
    pub &'static [u8],
);

impl Store for FixedModel {
    fn newest(&mut self) -> Option<Stored> {
        let len = mote_core::format::stated_len(self.0)?;
        Some(Stored { file: self.0.get(..len).unwrap_or(self.0), slot: None })
    }
}
