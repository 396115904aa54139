//! Two model slots in flash: choose the newest intact one, replace the other, survive a power cut at any moment.
//!
//! A slot holds one `.mote` file behind a header and a commit record ([`header`] says where each byte is). One slot is in
//! use while the other is written: chunk by chunk, then the header, then the commit record, which alone makes the slot
//! count. So at every moment one slot is whole, and what a cut leaves of the other is never taken for a model.
//!
//! - At boot, [`Slots::boot`] checks both slots (header, commit record, length, CRC-32, the signature where a key is set) and
//!   picks the newest one that the caller accepts: usually one that [`mote_core::Model::parse`] takes and whose arena fits.
//! - [`Slots::begin`] starts an update of the other slot; [`Update::write`] takes the file in pieces of any length;
//!   [`Update::check`] reads everything back and checks it as boot does; [`Checked::commit`] makes it count. The model in use
//!   stays readable all the while, so that generation goes on. The new one is used after the next boot.
//!
//! The flash is anything that implements [`NorFlash`]: it is lent to each call, so that one driver serves others too.
//!
//! ```
//! use mote_slots::simulator::Simulator;
//! use mote_slots::{Layout, Manifest, Slots};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut flash = Simulator::<4, 4096>::new(8);            // words of 4 bytes, 8 blocks of 4 KiB
//! let layout = Layout::new::<Simulator<4, 4096>>(0, 8 * 4096)?;
//! let (slots, found) = Slots::new(layout).boot(&mut flash, |_, _| true);
//! assert!(found.is_none());                                // nothing was ever written
//!
//! let model = [7; 1000];
//! let mut update = slots.begin(&Manifest::of(&model))?;
//! for chunk in model.chunks(60) {
//!     update.write(&mut flash, chunk)?;
//! }
//! update.check(&mut flash)?.commit(&mut flash)?;
//!
//! let (_, found) = Slots::new(layout).boot(&mut flash, |_, _| true);
//! let found = found.expect("the model just written");
//! assert_eq!(flash.bytes(found.offset, found.len), model);
//! # Ok(())
//! # }
//! ```
//!
//! What it does not protect from: a word whose writing was cut can read differently from one time to the next (its cells
//! are half charged). The header's CRC and the commit record are each written whole after what they vouch for, so this
//! concerns the commit record only: it can make a boot see the new model and the next boot the old one. A flash with a
//! check code for each word (STM32H7) may raise a fault when such a word is read as memory: its driver must report an error
//! from `read` instead.
#![no_std]
#![deny(unsafe_code)]

#[cfg(feature = "simulator")]
extern crate std;

pub mod header;
#[cfg(feature = "ed25519")]
mod key;
#[cfg(feature = "simulator")]
pub mod simulator;
mod update;

use embedded_storage::nor_flash::{NorFlash, ReadNorFlash};
use mote_core::format::Checksum;

pub use header::{Header, Manifest, PREFIX_LEN};
#[cfg(feature = "ed25519")]
pub use key::{PublicKey, SIGNING_REQUIRED_BY_BUILD};
pub use update::{Checked, Update, UpdateError};

#[cfg(not(feature = "ed25519"))]
const _: () = assert!(
    option_env!("MOTE_PUBLIC_KEY").is_none(),
    "MOTE_PUBLIC_KEY is set, but this build cannot check signatures: turn on the feature `ed25519` of mote-slots"
);

/// Bytes that are read, and gathered before they are written, at a time: every flash's word divides it.
pub(crate) const BLOCK: usize = 256;

/// One of the two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The first half of the region.
    A,
    /// The second half.
    B,
}

impl Slot {
    /// Both.
    pub const ALL: [Slot; 2] = [Slot::A, Slot::B];

    /// The one that this is not.
    pub fn other(self) -> Slot {
        match self {
            Slot::A => Slot::B,
            Slot::B => Slot::A,
        }
    }
}

impl core::fmt::Display for Slot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Slot::A => "A",
            Slot::B => "B",
        })
    }
}

/// Where the slots lie: a region of flash, halved. Offsets are those of the flash driver, not the processor's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    start: u32,
    slot_len: u32,
}

/// Why a region cannot hold two slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutError {
    /// A slot's start or length is no multiple of the flash's erase size.
    NotAligned {
        /// Bytes that the flash erases at a time.
        erase: usize,
    },
    /// A slot has no room for a model after its header.
    TooSmall,
    /// The region's end lies beyond the largest offset.
    OutOfBounds,
}

impl core::fmt::Display for LayoutError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            LayoutError::NotAligned { erase } => {
                write!(f, "half of the slots' region must begin and end at a multiple of {erase} bytes: move it")
            }
            LayoutError::TooSmall => write!(f, "half of the slots' region must be longer than {PREFIX_LEN} bytes"),
            LayoutError::OutOfBounds => {
                f.write_str("the slots' region ends beyond the flash's largest offset: move it")
            }
        }
    }
}

impl core::error::Error for LayoutError {}

impl Layout {
    /// Slots in the `len` bytes from offset `start` on.
    ///
    /// # Errors
    /// If a half does not consist of whole erase blocks of the flash `F`, or has no room for a model.
    pub fn new<F: NorFlash>(start: u32, len: u32) -> Result<Layout, LayoutError> {
        const {
            assert!(BLOCK.is_multiple_of(F::WRITE_SIZE), "mote-slots: words of flash longer than 256 bytes");
            assert!(BLOCK.is_multiple_of(F::READ_SIZE), "mote-slots: reads of flash longer than 256 bytes");
            assert!(F::ERASE_SIZE.is_multiple_of(F::WRITE_SIZE), "mote-slots: words across erase blocks");
        }
        let slot_len = len / 2;
        let aligned = |value: u32| (value as usize).is_multiple_of(F::ERASE_SIZE);
        if !aligned(start) || !aligned(slot_len) {
            return Err(LayoutError::NotAligned { erase: F::ERASE_SIZE });
        }
        if slot_len <= PREFIX_LEN as u32 || !(slot_len as usize).is_multiple_of(BLOCK) {
            return Err(LayoutError::TooSmall);
        }
        start.checked_add(len).ok_or(LayoutError::OutOfBounds)?;
        Ok(Layout { start, slot_len })
    }

    /// Longest model that a slot holds, in bytes.
    pub fn capacity(&self) -> u32 {
        self.slot_len - PREFIX_LEN as u32
    }

    /// Offset of a slot's header.
    pub fn offset(&self, slot: Slot) -> u32 {
        match slot {
            Slot::A => self.start,
            Slot::B => self.start + self.slot_len,
        }
    }
}

/// An intact model in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which slot.
    pub slot: Slot,
    /// Its place in the order of updates: the newer of two slots has the larger one, in 32 bits that wrap.
    pub sequence: u32,
    /// The flash driver's offset of the file's first byte.
    pub offset: u32,
    /// The file's length in bytes.
    pub len: u32,
    /// The file's CRC-32, as [`mote_core::format::checksum`] gives it.
    pub checksum: u32,
    /// Whether a signature came with it; it is known to be right where a key is set.
    pub signed: bool,
}

impl Found {
    /// The file, where flash is mapped into memory: `base` is where the driver's offset 0 lies.
    ///
    /// # Safety
    /// The flash must be mapped there, readable for good, and this file must not be overwritten while the slice lives.
    /// [`Slots`] never overwrites the slot that it found at boot.
    #[allow(unsafe_code, reason = "the flash's mapping is the board's promise")]
    pub unsafe fn mapped(&self, base: *const u8) -> &'static [u8] {
        // SAFETY: the caller promises that these bytes are mapped and do not change.
        unsafe { core::slice::from_raw_parts(base.wrapping_add(self.offset as usize), self.len as usize) }
    }
}

/// Why a slot is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing was written since it was erased.
    Erased,
    /// The header is no header, or damaged.
    Header,
    /// The header's version is another than this build reads.
    Version {
        /// The version found.
        found: u16,
    },
    /// The update was not completed: the commit record is missing.
    NotCommitted,
    /// The header's length does not fit the slot.
    Length {
        /// The length found.
        found: u32,
    },
    /// The model's CRC-32 is not the header's.
    Checksum {
        /// That of what lies there.
        found: u32,
    },
    /// It is not signed, but a key is set.
    Unsigned,
    /// The signature is not the key's for this model.
    Signature,
    /// The flash driver could not read it.
    Unreadable,
    /// The caller does not accept it.
    Refused,
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Fault::Erased => f.write_str("empty"),
            Fault::Header => f.write_str("the header is damaged"),
            Fault::Version { found } => write!(f, "slot version {found}: this firmware reads {}", header::VERSION),
            Fault::NotCommitted => f.write_str("an update was begun and not finished"),
            Fault::Length { found } => write!(f, "a model of {found} bytes does not fit the slot"),
            Fault::Checksum { found } => write!(f, "the model is damaged: its CRC-32 is {found:08x}"),
            Fault::Unsigned => {
                f.write_str("the model is not signed, and this firmware has a key: use `cargo xtask sign`")
            }
            Fault::Signature => f.write_str("the signature is not that of this firmware's key"),
            Fault::Unreadable => f.write_str("the flash cannot be read"),
            Fault::Refused => f.write_str("this firmware cannot use the model"),
        }
    }
}

impl core::error::Error for Fault {}

/// The two slots of a device, and which is in use.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    layout: Layout,
    #[cfg(feature = "ed25519")]
    key: Option<PublicKey>,
    in_use: Option<Slot>,
    /// The largest sequence number that a slot's header has.
    newest: Option<u32>,
    states: [Result<Found, Fault>; 2],
}

impl Slots {
    /// Slots that were not looked at yet: [`Slots::boot`] them. Their key is the one that the build was given, if any: see
    /// `SIGNING_REQUIRED_BY_BUILD`, with the feature `ed25519`.
    pub fn new(layout: Layout) -> Slots {
        Slots {
            layout,
            #[cfg(feature = "ed25519")]
            key: SIGNING_REQUIRED_BY_BUILD,
            in_use: None,
            newest: None,
            states: [Err(Fault::Erased); 2],
        }
    }

    /// The same slots, which from now on hold only models signed with this key.
    #[cfg(feature = "ed25519")]
    pub fn with_key(self, key: PublicKey) -> Slots {
        Slots { key: Some(key), ..self }
    }

    /// Finds the newest model that is intact and that `accept` takes, and holds its slot from now on.
    ///
    /// `accept` gets the flash too, for one that is not mapped into memory. It is asked about the newer slot first, and only
    /// about models whose signature is right where a key is set.
    pub fn boot<F: ReadNorFlash>(
        mut self,
        flash: &mut F,
        mut accept: impl FnMut(&mut F, &Found) -> bool,
    ) -> (Slots, Option<Found>) {
        let headers = Slot::ALL.map(|slot| (slot, header::read(flash, self.layout.offset(slot))));
        let sequence = |slot: Slot| headers[slot as usize].1.map(|header| header.sequence).ok();
        let (a, b) = (sequence(Slot::A), sequence(Slot::B));
        let first = match (a, b) {
            (Some(a), Some(b)) if is_newer(b, a) => Slot::B,
            (None, Some(_)) => Slot::B,
            _ => Slot::A,
        };
        self.newest = sequence(first);
        let mut chosen = None;
        for slot in [first, first.other()] {
            let checked = headers[slot as usize].1.and_then(|header| self.check(flash, slot, &header));
            let accepted =
                checked.and_then(|found| if accept(flash, &found) { Ok(found) } else { Err(Fault::Refused) });
            self.states[slot as usize] = accepted;
            if chosen.is_none() {
                chosen = accepted.ok();
            }
        }
        self.in_use = chosen.map(|found| found.slot);
        (self, chosen)
    }

    /// The slot whose model is in use: updates go to the other.
    pub fn in_use(&self) -> Option<Slot> {
        self.in_use
    }

    /// What boot found in a slot.
    ///
    /// # Errors
    /// What boot found wrong with it.
    pub fn state(&self, slot: Slot) -> Result<Found, Fault> {
        self.states[slot as usize]
    }

    /// Where the slots lie.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Starts an update of the slot that is not in use. Nothing is erased before the first [`Update::write`].
    ///
    /// # Errors
    /// If the manifest's length does not fit, or it has no signature and a key is set.
    pub fn begin(&self, manifest: &Manifest) -> Result<Update, Fault> {
        if manifest.len == 0 || manifest.len > self.layout.capacity() {
            return Err(Fault::Length { found: manifest.len });
        }
        #[cfg(feature = "ed25519")]
        if self.key.is_some() && manifest.signature.is_none() {
            return Err(Fault::Unsigned);
        }
        let slot = self.in_use.map_or(Slot::A, Slot::other);
        let sequence = self.newest.map_or(1, |newest| newest.wrapping_add(1));
        Ok(Update::new(*self, slot, Header { manifest: *manifest, sequence }))
    }

    /// Whether the model behind a sound header is whole, and signed where it must be.
    fn check<F: ReadNorFlash>(&self, flash: &mut F, slot: Slot, header: &Header) -> Result<Found, Fault> {
        let Header { manifest, sequence } = *header;
        if manifest.len == 0 || manifest.len > self.layout.capacity() {
            return Err(Fault::Length { found: manifest.len });
        }
        let offset = self.layout.offset(slot) + PREFIX_LEN as u32;
        let mut checksum = Checksum::new();
        read_all(flash, offset, manifest.len, |part| checksum.update(part))?;
        let checksum = checksum.value();
        if checksum != manifest.checksum {
            return Err(Fault::Checksum { found: checksum });
        }
        #[cfg(feature = "ed25519")]
        if let Some(key) = self.key {
            key.check(flash, offset, &manifest)?;
        }
        let signed = manifest.signature.is_some();
        Ok(Found { slot, sequence, offset, len: manifest.len, checksum, signed })
    }
}

/// Whether `one` follows `other` in the order of updates: numbers wrap, as RFC 1982 orders them.
fn is_newer(one: u32, other: u32) -> bool {
    (one.wrapping_sub(other) as i32) > 0
}

/// Hands over `len` bytes from `offset` on, piece by piece.
fn read_all<F: ReadNorFlash>(
    flash: &mut F,
    mut offset: u32,
    len: u32,
    mut take: impl FnMut(&[u8]),
) -> Result<(), Fault> {
    let mut block = [0; BLOCK];
    let mut left = len as usize;
    while left > 0 {
        // A whole block even at the end: a slot consists of blocks, and a flash may read words only.
        flash.read(offset, &mut block).map_err(|_| Fault::Unreadable)?;
        let part = left.min(BLOCK);
        take(block.get(..part).unwrap_or_default());
        offset += BLOCK as u32;
        left -= part;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_updates_wraps() {
        assert!(is_newer(6, 5) && !is_newer(5, 6) && !is_newer(5, 5));
        assert!(is_newer(0, u32::MAX) && !is_newer(u32::MAX, 0));
    }
}
